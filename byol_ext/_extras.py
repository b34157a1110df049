"""Import optional dependencies where they are used, with an error that names the extra to install."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: Dotted module name, such as ``"torchaudio"``.
        extra: The extra of ``byol_ext`` that installs it, such as ``"slap"``.

    Returns:
        The imported module.

    Raises:
        ImportError: If the module is not installed; the message is the ``pip install`` line.

    Example:
        >>> require("math", extra="slap").sqrt(9.0)
        3.0
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and not module.startswith(error.name):
            raise
        raise ImportError(
            f"{module} is not installed; it belongs to the extra '{extra}': pip install 'byol_ext[{extra}]'"
        ) from error
