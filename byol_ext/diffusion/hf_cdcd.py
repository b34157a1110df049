"""A trained CDCD in a folder: the averaged denoiser in Hugging Face's shape, and ``cdcd.json`` for the rest.

``cdcd.json`` holds what samplers and bounds need besides the network: the warp, with its few parameters in full, and
how the model was trained (self-conditioning and post-processing must be the same when it samples).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from byol_ext.diffusion.denoiser import Denoiser
from byol_ext.diffusion.hf import from_pretrained, save_pretrained
from byol_ext.diffusion.objective import CDCD, CDCDConfig
from byol_ext.diffusion.warp import LogUniformWarp, PiecewiseLinearWarp, UniformWarp, Warp
from byol_ext.diffusion.warp_fit import FittedWarp
from byol_ext.diffusion.warp_parametric import GumbelWarp, LogisticWarp

FILE = "cdcd.json"
_WARPS: tuple[type, ...] = (UniformWarp, LogUniformWarp, PiecewiseLinearWarp, LogisticWarp, GumbelWarp)


class SavedCDCD(NamedTuple):
    """What :func:`load_cdcd` reads.

    Attributes:
        denoiser: The averaged network, in evaluation mode.
        warp: The warp that noise levels were drawn from; it is no longer fitted.
        config: How the model was trained.
    """

    denoiser: Denoiser
    warp: Warp
    config: CDCDConfig


def save_cdcd(model: CDCD, folder: str | Path) -> Path:
    """Write the averaged denoiser, the warp and the configuration.

    The optimiser of the warp and the weights that were not averaged stay in the run's checkpoints.

    Args:
        model: The model.
        folder: Made if need be; files of the same name are replaced.

    Returns:
        The folder.

    Raises:
        TypeError: If the warp is none of this package's.
    """
    values = {"training": dataclasses.asdict(model.config), "warp": warp_values(model.warp)}
    folder = save_pretrained(model.average, folder)
    (folder / FILE).write_text(json.dumps(values, indent=2) + "\n")
    return folder


def load_cdcd(folder: str | Path, *, device: torch.device | str = "cpu") -> SavedCDCD:
    """Read what :func:`save_cdcd` wrote.

    Args:
        folder: The folder.
        device: Where to put denoiser and warp.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file does not fit this version; see also :func:`byol_ext.diffusion.hf.from_pretrained`.
        RuntimeError: If weights are missing, unknown or of another shape.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {FILE}; give a folder that save_cdcd wrote")
    denoiser = from_pretrained(Denoiser, folder, device=device)
    try:
        values = json.loads(path.read_text())
        config = CDCDConfig(**values["training"])
        warp = warp_of_values(values["warp"], device=device)
    except (json.JSONDecodeError, KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"{path} does not fit this version: {error!r}") from error
    return SavedCDCD(denoiser, warp, config)


def warp_values(warp: Warp) -> dict[str, Any]:
    """A warp as JSON values; of one that learns, what it draws from.

    Args:
        warp: The warp.

    Raises:
        TypeError: If it is none of this package's.
    """
    warp = warp.drawn if isinstance(warp, FittedWarp) else warp
    if type(warp) not in _WARPS:
        known = ", ".join(kind.__name__ for kind in _WARPS)
        raise TypeError(f"a {type(warp).__name__} cannot be saved; known are {known}")
    parameters = warp.state_dict() if isinstance(warp, nn.Module) else {}
    return {
        "kind": type(warp).__name__,
        "arguments": _arguments(warp),
        "parameters": {name: value.tolist() for name, value in parameters.items()},
    }


def warp_of_values(values: dict[str, Any], *, device: torch.device | str = "cpu") -> Warp:
    """The warp that :func:`warp_values` described; it is no longer fitted.

    Args:
        values: The values.
        device: Where to put it.

    Raises:
        KeyError, TypeError, StopIteration: If the values do not describe one.
    """
    warp: Warp = next(kind for kind in _WARPS if kind.__name__ == values["kind"])(**values["arguments"])
    if not isinstance(warp, nn.Module):
        return warp
    warp.load_state_dict({name: torch.tensor(value) for name, value in values["parameters"].items()})
    return warp.requires_grad_(False).to(device)


def _arguments(warp: Warp) -> dict[str, Any]:
    """Arguments that build a warp of the same shape; its parameters are loaded over what they say at the start."""
    arguments: dict[str, Any] = {"t_min": warp.t_min, "t_max": warp.t_max}
    if isinstance(warp, PiecewiseLinearWarp):
        return arguments | {
            "bins": warp.logits_t.numel(),
            "temperature": warp.temperature,
            "uniform_mix": warp.uniform_mix,
            "floor": warp.floor,
        }
    if isinstance(warp, LogisticWarp):
        return arguments | {"median": (warp.t_min + warp.t_max) / 2.0}
    return arguments
