"""ViDiDi's claim in small (spec vididi 10): derivatives add motion to what a linear probe reads, over three seeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recipes.vididi_study import Cell, run_cell

pytestmark = pytest.mark.slow


def linear(root: Path, method: str, *, vididi: bool) -> tuple[np.ndarray, np.ndarray]:
    """Linear and single-frame accuracy in percent of three seeds, fixed camera."""
    probes = []
    for seed in range(3):
        cell = Cell(method, vididi, "fixed", seed)
        assert run_cell(root, cell, None) == 0
        metrics = json.loads((root / "vididi" / cell.name / "results.json").read_text())["metrics"]
        probes.append((metrics["probe/linear_accuracy"], metrics["probe/single_frame_accuracy"]))
    found = 100 * np.array(probes)
    return found[:, 0], found[:, 1]


@pytest.mark.parametrize(("method", "gap"), [("vicreg", 8), ("simclr", 8), ("byol", 6)])
def test_derivatives_add_motion(tmp_path: Path, method: str, gap: float) -> None:
    with_derivatives, still = linear(tmp_path, method, vididi=True)
    without, still_without = linear(tmp_path, method, vididi=False)
    assert sum(with_derivatives - without >= gap) >= 2, (with_derivatives, without)
    # A single frame says nothing of the motion: 12.5 by construction.
    assert np.abs(np.concatenate([still, still_without]).mean() - 12.5) < 4
