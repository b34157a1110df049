"""``byol-ext image spectrum RUN``: spectra, filters, hulls and augmentation of a run, as numbers and a page."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from byol_ext.training import Run
from recipes.image_spectrum import RunSpectrum, inspect, second_moment
from recipes.image_spectrum_page import write_page


def spectrum_command(args: Sequence[str]) -> int:
    """``byol-ext image spectrum RUN [RUN ...]``: numbers and a page of figures, in the first run's directory."""
    parser = argparse.ArgumentParser(
        prog="byol-ext image spectrum",
        description="Spectra of latents and predictor, filters against theory, hulls, augmentation: spectrum.json and "
        "spectrum.html in the first run's directory. Eigenvalues over time need checkpoints: train with "
        "--train.checkpoint-every 50 --train.keep 100. Further runs are drawn beside the first where a predictor's "
        "distance from an orthogonal matrix is shown, such as runs of other decays.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    parser.add_argument("--label", default="method.target.tau", help="setting that tells the runs apart (default: tau)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(list(args))
    run = Run.open(chosen.runs[0])
    labels = {_label(Run.open(path), chosen.label): path for path in chosen.runs}
    if len(labels) < len(chosen.runs):
        raise ValueError(f"runs have equal {chosen.label}: {list(labels)}; tell them apart by another --label")
    found = inspect(chosen.runs[0])
    (run.path / "spectrum.json").write_text(json.dumps(_json(found), indent=1) + "\n")
    page = write_page(run, found, labels)
    if chosen.json:
        print(json.dumps(_json(found), indent=1))
        return 0
    for name, value in found.metrics.items():
        print(f"{name:44} {value:.4g}")
    print(f"page: {page}")
    return 0


def _label(run: Run, name: str) -> str:
    value: Any = run.config
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise ValueError(f"--label {name}: {run.path} has no such setting")
        value = value[part]
    return f"{name.split('.')[-1]} {value}"


def _json(found: RunSpectrum) -> dict[str, Any]:
    """Everything that the page draws, for programs."""
    moment = second_moment(found.trained.z_ND)
    return {
        "metrics": {name: None if math.isnan(value) else value for name, value in found.metrics.items()},
        "s": torch.linalg.eigvalsh(moment).flip(0).tolist(),
        "predictor": {
            str(step): {"gain": p.gain_D.tolist(), "s": p.s_D.tolist(), "eigenvalue": p.eigenvalue_D.tolist()}
            for step, p in found.predictors.items()
        },
        "filters": {f.name: {"gain": f.gain_D.tolist(), "theory": f.theory_D.tolist()} for f in found.filters},
    }
