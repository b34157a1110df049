"""A trained simplex diffusion in a folder: the averaged denoiser in Hugging Face's shape, and ``simplex.json``.

``simplex.json`` holds the process, the warp and how the model was trained.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from byol_ext.diffusion.cir import CIR
from byol_ext.diffusion.hf import from_pretrained, save_pretrained
from byol_ext.diffusion.hf_cdcd import warp_of_values, warp_values
from byol_ext.diffusion.objective import CDCDConfig
from byol_ext.diffusion.simplex import SimplexDiffusion
from byol_ext.diffusion.simplex_denoiser import SimplexDenoiser
from byol_ext.diffusion.simplex_objective import SimplexModel
from byol_ext.diffusion.warp import Warp

FILE = "simplex.json"


class SavedSimplex(NamedTuple):
    """What :func:`load_simplex` reads.

    Attributes:
        denoiser: The averaged network, in evaluation mode.
        simplex: The process.
        warp: The warp that times were drawn from; it is no longer fitted.
        config: How the model was trained.
    """

    denoiser: SimplexDenoiser
    simplex: SimplexDiffusion
    warp: Warp
    config: CDCDConfig


def save_simplex(model: SimplexModel, folder: str | Path) -> Path:
    """Write the averaged denoiser, the process, the warp and the configuration.

    Args:
        model: The model.
        folder: Made if need be; files of the same name are replaced.

    Returns:
        The folder.

    Raises:
        TypeError: If the warp is none of this package's.
    """
    values = {
        "training": dataclasses.asdict(model.config),
        "process": _process_values(model.simplex),
        "warp": warp_values(model.warp),
    }
    folder = save_pretrained(model.average, folder)
    (folder / FILE).write_text(json.dumps(values, indent=2) + "\n")
    return folder


def load_simplex(folder: str | Path, *, device: torch.device | str = "cpu") -> SavedSimplex:
    """Read what :func:`save_simplex` wrote.

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
        raise FileNotFoundError(f"{folder} has no {FILE}; give a folder that save_simplex wrote")
    denoiser = from_pretrained(SimplexDenoiser, folder, device=device)
    try:
        values = json.loads(path.read_text())
        config = CDCDConfig(**values["training"])
        process = values["process"]
        simplex = SimplexDiffusion(
            denoiser.config.vocab_size,
            CIR(process["alpha"], process["speed"]),
            kappa=process["kappa"],
            t_min=process["t_min"],
            t_max=process["t_max"],
        )
        warp = warp_of_values(values["warp"], device=device)
    except (json.JSONDecodeError, KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"{path} does not fit this version: {error!r}") from error
    return SavedSimplex(denoiser, simplex, warp, config)


def _process_values(simplex: SimplexDiffusion) -> dict[str, Any]:
    alpha = simplex.process.shape
    assert not isinstance(alpha, Tensor), "a SimplexModel trains with one alpha for all coordinates"
    return {
        "alpha": alpha,
        "speed": simplex.process.speed,
        "kappa": simplex.kappa,
        "t_min": simplex.t_min,
        "t_max": simplex.t_max,
    }
