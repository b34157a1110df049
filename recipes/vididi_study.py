"""``byol-ext vididi study``: methods with and without ViDiDi on MotionSprites-8, one table and one figure.

Spec vididi 10: equal steps, at least three seeds, a fixed and a moving camera, and the controls that make the numbers
readable: untrained encoder, single frames, shuffled frames, appearance, a supervised encoder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from recipes.study import markdown_table, run_missing, spread, spread_text
from recipes.vididi_config import VididiConfig, motion, motion_byol, motion_simclr
from recipes.vididi_study_figures import MOTION_COLUMNS, study_dots

METHODS: dict[str, Callable[[], VididiConfig]] = {"vicreg": motion, "simclr": motion_simclr, "byol": motion_byol}
CAMERAS = ("fixed", "moving")
SUPERVISED = "supervised"
SHOWN = ("R@1", "linear", "linear + D1", "shuffled", "appearance")
"""Columns of the figure; the table has all."""
Change = Callable[[VididiConfig], VididiConfig]


def _method(**changes: Any) -> Change:
    return lambda config: replace(config, method=replace(config.method, **changes))


def _schedule(**changes: Any) -> Change:
    return lambda config: replace(config, schedule=replace(config.schedule, **changes))


def _bn(kind: str) -> Change:
    return lambda config: replace(config, encoder=replace(config.encoder, bn=kind))  # type: ignore[arg-type]


def _augment(**changes: Any) -> Change:
    return lambda config: replace(config, augment=replace(config.augment, **changes))


def _learning_rate(value: float) -> Change:
    return lambda config: replace(config, train=replace(config.train, lr=value))


def _unshared(config: VididiConfig) -> VididiConfig:
    return _method(share=False)(_bn("per_view")(config))


ABLATIONS: dict[str, dict[str, Change]] = {
    "schedule": {
        "phase per epoch": _schedule(period="epoch"),
        "order 0 and 1": _schedule(p_double=0.0),
        "fixed pair (0, 1)": _schedule(phases=(1,)),
        "random pairs": _schedule(pairs="random"),
    },
    "bn": {"joint": _bn("joint"), "per view": _bn("per_view"), "per order": _bn("per_order")},
    "ema": {
        "constant .99": _method(ema_schedule="constant"),
        "cosine from .95": _method(tau=0.95),
        "cosine from .996": _method(tau=0.996),
    },
    "lr": {"1e-3": _learning_rate(1e-3), "4e-3": _learning_rate(4e-3)},
    "photometric": {"per frame": _augment(photometric="per_frame")},
    "sharing": {"an encoder for each order": _unshared},
}
"""Changes of the preset by the name of the ablation; the study's own run is beside them."""


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    method: str
    vididi: bool
    camera: str
    seed: int
    ablation: str = ""
    change: str = ""

    @property
    def name(self) -> str:
        """Name of its run."""
        kind = "" if self.method == SUPERVISED else "-vididi" if self.vididi else "-base"
        change = f"-{self.ablation}-{_slug(self.change)}" if self.change else ""
        return f"{self.method}{kind}{change}-{self.camera}-{self.seed}"

    @property
    def arm(self) -> str:
        """What a table calls it."""
        kind = "" if self.method == SUPERVISED else " ViDiDi" if self.vididi else " base"
        return f"{self.method}{kind}" + (f", {self.change}" if self.change else "")


def study_command(args: Sequence[str]) -> int:
    """``byol-ext vididi study``: run what is missing, then tabulate."""
    parser = argparse.ArgumentParser(
        prog="byol-ext vididi study",
        description="Methods with and without ViDiDi on MotionSprites-8: one table, one figure. Finished runs "
        "are kept: call it again after an interrupt, or with more seeds.",
    )
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    parser.add_argument("--cameras", nargs="+", choices=CAMERAS, default=list(CAMERAS), help="default: both")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each (default: 3)")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: 320, and 640 for BYOL)")
    parser.add_argument("--ablate", choices=list(ABLATIONS), help="vary one setting of the ViDiDi runs instead")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/study/motion"), help="default: runs/study/motion")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args(list(args))
    cells = study_cells(chosen.methods, chosen.cameras, seeds=chosen.seeds, ablate=chosen.ablate or "")
    tasks = {cell.name: partial(run_cell, chosen.out, cell, chosen.steps) for cell in cells}
    finished = [cell.name for cell in cells if (_folder(chosen.out, cell) / "results.json").exists()]
    run_missing(tasks, finished=finished, jobs=chosen.jobs, logs=chosen.out / "logs")
    table = tabulate(chosen.out, cells)
    name = f"ablation-{chosen.ablate}" if chosen.ablate else "study"
    (chosen.out / f"{name}.json").write_text(json.dumps(table, indent=1) + "\n")
    for camera in chosen.cameras:
        dots(chosen.out, [cell for cell in cells if cell.camera == camera], chosen.out / f"{name}-{camera}.png")
    print(json.dumps(table, indent=1) if chosen.json else markdown(table))
    print(f"study: {chosen.out}", file=sys.stderr)
    return 0


def study_cells(methods: Sequence[str], cameras: Sequence[str], *, seeds: int, ablate: str = "") -> list[Cell]:
    """The runs of a study, or of an ablation: the ViDiDi runs and those with one change."""
    cells = []
    for seed in range(seeds):
        for camera in cameras:
            for method in methods:
                arms = [("", True)] + ([(change, True) for change in ABLATIONS[ablate]] if ablate else [("", False)])
                cells += [Cell(method, on, camera, seed, ablate if change else "", change) for change, on in arms]
            if not ablate:
                cells.append(Cell(SUPERVISED, False, camera, seed))
    return cells


def cell_config(out: Path, cell: Cell, steps: int | None) -> VididiConfig:
    """The configuration of a run."""
    config = METHODS.get(cell.method, motion)()
    if cell.change:
        config = ABLATIONS[cell.ablation][cell.change](config)
    steps = steps or config.train.steps
    assert steps is not None
    return replace(
        config,
        name=cell.name,
        root=str(out),
        seed=cell.seed,
        data=replace(config.data, camera=cell.camera),  # type: ignore[arg-type]
        method=replace(config.method, vididi=cell.vididi),
        train=replace(config.train, seed=cell.seed, steps=steps, warmup=20 / max(steps, 20)),
    )


def run_cell(out: Path, cell: Cell, steps: int | None) -> int:
    """One run; goes on from its checkpoint where there is one."""
    from recipes.vididi_commands import train_and_evaluate
    from recipes.vididi_finetune_command import supervised

    config = cell_config(out, cell, steps)
    if cell.method == SUPERVISED:
        return supervised(config)
    return train_and_evaluate(config, resume=True)


def tabulate(out: Path, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row for each camera and arm, the untrained encoder among them: mean over seeds, least and greatest seed."""
    rows = []
    for camera in dict.fromkeys(cell.camera for cell in cells):
        of_camera = [cell for cell in cells if cell.camera == camera]
        arms = _arms(out, of_camera)
        for arm, seeds in arms.items():
            row: dict[str, Any] = {"camera": camera, "run": arm, "seeds": len(seeds)}
            for column in MOTION_COLUMNS:
                values = [column.scale * metrics[column.metric] for metrics in seeds if column.metric in metrics]
                if values:
                    row[column.title] = spread(values)
            rows.append(row)
    return rows


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table for people."""
    titles = [column.title for column in MOTION_COLUMNS]
    rows = [
        [row["camera"], row["run"], str(row["seeds"]), *(spread_text(row.get(title), 1) for title in titles)]
        for row in table
    ]
    return markdown_table(["camera", "run", "seeds", *titles], rows)


def dots(out: Path, cells: Sequence[Cell], path: Path) -> Path:
    """The figure of a camera's runs."""
    seeds = len({cell.seed for cell in cells})
    return study_dots(
        _arms(out, cells),
        columns=[column for column in MOTION_COLUMNS if column.title in SHOWN],
        title=f"Which of eight motions: MotionSprites-8, {cells[0].camera} camera",
        note=f"500 test videos, mean of {seeds} seeds" if seeds > 1 else "500 test videos, one seed",
        path=path,
        bold="ViDiDi",
    )


def _arms(out: Path, cells: Sequence[Cell]) -> dict[str, list[dict[str, float]]]:
    """Metrics of each seed by arm; the untrained encoder from the controls of the first arm."""
    arms: dict[str, list[dict[str, float]]] = {}
    for cell in cells:
        results = json.loads((_folder(out, cell) / "results.json").read_text())
        arms.setdefault(cell.arm, []).append(results["metrics"])
    first = next(iter(arms.values()))
    untrained = [_untrained(metrics) for metrics in first]
    return ({"untrained": untrained} if all(untrained) else {}) | arms


def _untrained(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of the untrained encoder under the names of a trained one."""
    names = {
        "retrieval/R@1": "retrieval/random_init/R@1",
        "retrieval/R@5": "retrieval/random_init/R@5",
        "probe/linear_accuracy": "probe/random_init_accuracy",
        "probe/linear_d1_accuracy": "probe/random_init_linear_d1_accuracy",
        "probe/appearance_accuracy": "probe/random_init_appearance_accuracy",
    }
    chance = {name: value for name, value in metrics.items() if "chance" in name or "majority" in name}
    found = {name: metrics[own] for name, own in names.items() if own in metrics}
    return found | chance if found else {}


def _folder(out: Path, cell: Cell) -> Path:
    return out / "vididi" / cell.name


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text)
