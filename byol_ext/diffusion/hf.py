"""Models in folders of Hugging Face's shape: ``config.json`` and ``model.safetensors``.

It works with any ``nn.Module`` that keeps its configuration, a dataclass of JSON values and other dataclasses, as
``config`` and is built from it alone: the autoregressive model, MDLM and CDCD. Tokenizers of ``transformers`` and
``tokenizers`` save themselves into the same folder; ``huggingface_hub`` uploads and downloads it as it is.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_ARCHITECTURES, _MODEL_TYPE = "architectures", "model_type"
_TYPE = "byol_ext"

N = TypeVar("N", bound=nn.Module)


def save_pretrained(model: nn.Module, folder: str | Path) -> Path:
    """Write a model's configuration and weights; of a trained one, save the average.

    Args:
        model: A module with ``config``.
        folder: Made if need be; files of the same name are replaced.

    Returns:
        The folder.

    Raises:
        TypeError: If ``model.config`` is no dataclass.

    Example:
        >>> import tempfile
        >>> from byol_ext.diffusion.mdlm import MDLM, MDLMConfig
        >>> from byol_ext.diffusion.transformer import TransformerConfig
        >>> model = MDLM(MDLMConfig(5, TransformerConfig(width=8, depth=1, heads=2)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     loaded = from_pretrained(MDLM, save_pretrained(model, folder))
        >>> loaded.config == model.config
        True
    """
    config = getattr(model, "config", None)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"{type(model).__name__}.config must be a dataclass, got {config!r}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = {_ARCHITECTURES: [type(model).__name__], _MODEL_TYPE: _TYPE, **dataclasses.asdict(config)}
    save_model(model, str(folder / WEIGHTS), metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n")
    return folder


def from_pretrained(kind: type[N], folder: str | Path, *, device: torch.device | str = "cpu") -> N:
    """Build a saved model and load its weights; the model is in evaluation mode.

    Args:
        kind: Class of the model, such as :class:`byol_ext.diffusion.mdlm.MDLM`; its constructor takes the
            configuration as ``config``.
        folder: Where :func:`save_pretrained` wrote it.
        device: Where to put it.

    Raises:
        FileNotFoundError: If the folder lacks one of the files.
        ValueError: If it holds another model, its configuration does not fit, or the weights cannot be read.
        RuntimeError: If weights are missing, unknown or of another shape (from ``safetensors``).
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; give a folder that save_pretrained wrote")
    config = _read_config(kind, folder / CONFIG)
    # The initialisation is overwritten; it should not move the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        model = kind(config)
    try:
        load_model(model, str(folder / WEIGHTS), strict=True)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read: {error}; save or download it again") from error
    return model.to(device).eval()


def _read_config(kind: type[nn.Module], path: Path) -> Any:
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; expected an object of fields")
    found, model_type = values.pop(_ARCHITECTURES, None), values.pop(_MODEL_TYPE, None)
    if found != [kind.__name__] or model_type != _TYPE:
        raise ValueError(
            f"{path} describes {_ARCHITECTURES}={found} of {_MODEL_TYPE}={model_type!r}, not a {_TYPE} {kind.__name__}"
        )
    return _dataclass(typing.get_type_hints(kind.__init__)["config"], values, str(path))


def _dataclass(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    """A (nested) dataclass from JSON values; missing fields take their defaults."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(values.keys() - fields.keys())
    required = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - values.keys())
    if unknown or missing:
        raise ValueError(
            f"{where} does not fit {kind.__name__}: unknown fields {unknown}, missing fields {missing}; it was saved "
            "by another version"
        )
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """What JSON cannot tell: objects that were dataclasses, lists that were tuples."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for kind in kinds:
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            return _dataclass(kind, value, where)
        if (typing.get_origin(kind) or kind) is tuple and isinstance(value, list):
            return tuple(value)
    return value
