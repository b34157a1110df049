"""``byol-ext cdcd study``: CDCD, its ablations and its rivals at one size on one text, one table with seeds.

Spec cdcd 13: equal Transformer, sequences and steps; a larger autoregressive model, trained by the same recipe on the
same split, scores the samples of all.
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

from recipes.cdcd_config import CdcdConfig, chars
from recipes.study import markdown_table, run_missing, spread, spread_text

Change = Callable[[CdcdConfig], CdcdConfig]
REFERENCE = "reference"
REFERENCE_SEED = 1000
"""Far from the seeds of the models that the reference scores."""


def _warp(**changes: Any) -> Change:
    return lambda config: replace(config, warp=replace(config.warp, **changes))


def _objective(**changes: Any) -> Change:
    return lambda config: replace(config, objective=replace(config.objective, **changes))


def _network(**changes: Any) -> Change:
    return lambda config: replace(config, network=replace(config.network, **changes))


def _whole(**changes: Any) -> Change:
    return lambda config: replace(config, **changes)


ARMS: dict[str, Change] = {
    "AR": _whole(method="ar"),
    "MDLM": _whole(method="mdlm"),
    "CDCD": _whole(),
    "CDCD, uniform times": _warp(kind="uniform"),
    "CDCD, no self-conditioning": _objective(self_conditioning=False),
    "CDCD, prefix masks": _whole(mask="prefix"),
    "CDCD, init 1": _network(embedding_init_std=1.0),
    "CDCD, init 1e-3": _network(embedding_init_std=1e-3),
    "CDCD, output prior": _network(output_prior=True),
    "simplex": _whole(process="simplex"),
}
"""What is trained, by its name in the table."""


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "CDCD, T = 0.9": ("CDCD", {"score_temperature": 0.9}),
    "CDCD, T = 0.8": ("CDCD", {"score_temperature": 0.8}),
    "CDCD, unwarped steps": ("CDCD", {"unwarped": True}),
    "CDCD, ancestral_token": ("CDCD", {"sampler": "ancestral_token"}),
    "CDCD, 8 steps": ("CDCD", {"steps": 8}),
    "CDCD, ancestral_token, 8 steps": ("CDCD", {"sampler": "ancestral_token", "steps": 8}),
    "CDCD, half given": ("CDCD", {"prompt": 0.5}),
    "CDCD, prefix masks, half given": ("CDCD, prefix masks", {"prompt": 0.5}),
    "MDLM, 8 steps": ("MDLM", {"steps": 8}),
    "simplex, ode": ("simplex", {"simplex_sampler": "ode"}),
}
"""Other ways to sample from a trained arm."""
SWEPT = frozenset({"AR", "MDLM", "CDCD", "simplex"})
"""Arms whose sampling is swept over temperatures and steps."""
COLUMNS = {
    "AR-NLL": "ar_nll",
    "6-gram NLL": "ngram_nll",
    "H_pool": "entropy_pooled",
    "H_seq": "entropy_sequence",
    "JS2": "js2",
    "JS2 floor": "js2_floor",
    "JS3": "js3",
    "JS3 floor": "js3_floor",
    "rep-4": "rep4",
    "copied": "copy_rate",
    "long words found": "words/found_long",
    "bits/char": "bits_per_char_bound",
    "infill CE, 50 %": "infill/50/cross_entropy",
    "warp off": "warp/deviation",
}
"""Columns of the table."""
TRAINED, ROWS = "trained", "rows.json"


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its run."""
        return f"{''.join(c if c.isalnum() else '_' for c in self.arm)}-{self.seed}"


def cell_config(out: Path, cell: Cell, *, steps: int) -> CdcdConfig:
    """The configuration of a run.

    Args:
        out: Folder of the study.
        cell: Which run.
        steps: Optimiser steps.
    """
    config = chars()
    config = replace(
        config,
        name=cell.name,
        root=str(out),
        seed=cell.seed,
        objective=replace(config.objective, prior_steps=max(steps // 4, 1)),
        train=replace(config.train, steps=steps, seed=cell.seed),
        # 200 steps score .02 nats lower here, far less than the arms differ (docs), for six times the time.
        sample=replace(config.sample, steps=32),
        eval=replace(config.eval, steps=(8, 16, 32, 64)),
    )
    if cell.arm == REFERENCE:
        # Twice the width has four times the weights.
        return replace(config, method="ar", network=replace(config.network, width=2 * config.network.width))
    return ARMS[cell.arm](config)


def train_cell(out: Path, cell: Cell, *, steps: int) -> int:
    """Train one run; goes on from its checkpoint where there is one."""
    from recipes.cdcd import train

    result, _, run = train(cell_config(out, cell, steps=steps), resume=True)
    if result.interrupted is not None:
        return 130
    (run.path / TRAINED).touch()
    return 0


def measure_cell(out: Path, cell: Cell) -> int:
    """Evaluate a trained run at its own setting, then at each of :data:`VARIANTS` of its arm."""
    from recipes.cdcd import load_run
    from recipes.cdcd_bench import make_bench
    from recipes.cdcd_commands import report
    from recipes.cdcd_generate import draw_sequences, text_model
    from recipes.cdcd_reference import default_judges

    trained, run = load_run(out / "cdcd" / cell.name)
    steps = trained.config.train.steps
    plan, sweeps = cell_config(out, cell, steps=steps or 1), cell.arm in SWEPT
    trained.config = replace(
        trained.config,
        sample=plan.sample,
        eval=replace(
            plan.eval,
            reference=str(out / "cdcd" / Cell(REFERENCE, REFERENCE_SEED).name),
            frontier_count=plan.eval.frontier_count if sweeps else 0,
            cost=sweeps,
        ),
    )
    judges = default_judges(trained)
    evaluation = report(trained, run, judges=judges, extra={"train/steps": float(steps or 0)})
    rows = {cell.arm: evaluation.metrics}
    model, held_out = text_model(trained), trained.held_out()
    for name, (arm, changes) in VARIANTS.items():
        if arm == cell.arm:
            how = replace(trained.config.sample, **changes)
            bench = make_bench(trained.data, judges, held_out, how=how, config=trained.config.eval)
            drawn = draw_sequences(model, held_out, how=how, seed=bench.seed)
            rows[name] = bench.row(drawn.tokens_NL.numpy()) | {"evaluations": float(drawn.evaluations)}
    (run.path / ROWS).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def study_command(args: Sequence[str]) -> int:
    """``byol-ext cdcd study``: train and measure what is missing, then tabulate."""
    parser = argparse.ArgumentParser(
        prog="byol-ext cdcd study",
        description="CDCD, its ablations, simplex diffusion, AR and MDLM at one size on stdlib27 (spec cdcd 13): one "
        "table, one figure. Finished runs are kept: call it again after an interrupt, or with more seeds.",
    )
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each (default: 3)")
    parser.add_argument("--steps", type=int, default=1500, help="updates of each run (default: 1500)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/cdcd-study"), help="folder (default: runs/cdcd-study)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args(list(args))
    cells = [Cell(arm, seed) for seed in range(chosen.seeds) for arm in chosen.arms]
    reference = Cell(REFERENCE, REFERENCE_SEED)
    trainings = {
        # The judge has four times the weights and twice the updates of what it judges.
        cell.name: partial(train_cell, chosen.out, cell, steps=2 * chosen.steps if cell == reference else chosen.steps)
        for cell in (reference, *cells)
    }
    logs = chosen.out / "logs"
    run_missing(trainings, finished=_having(chosen.out, trainings, TRAINED), jobs=chosen.jobs, logs=logs)
    measurements = {cell.name: partial(measure_cell, chosen.out, cell) for cell in cells}
    run_missing(measurements, finished=_having(chosen.out, measurements, ROWS), jobs=chosen.jobs, logs=logs)
    table = tabulate(chosen.out, cells)
    (chosen.out / "study.json").write_text(json.dumps(table, indent=1) + "\n")
    study_figure(chosen.out, cells, path=chosen.out / "frontier.png")
    print(json.dumps(table, indent=1) if chosen.json else markdown(table))
    print(f"study: {chosen.out}", file=sys.stderr)
    return 0


def tabulate(out: Path, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row for each arm and variant, held-out text and nonsense: mean over seeds, least and greatest seed.

    Args:
        out: Folder of the study.
        cells: Measured runs.
    """
    found: dict[str, list[Mapping[str, float]]] = {}
    for cell in cells:
        for name, metrics in json.loads((out / "cdcd" / cell.name / ROWS).read_text()).items():
            found.setdefault(name, []).append(metrics)
    # Held-out text and nonsense are the same for all runs: one evaluation seed.
    controls = json.loads((out / "cdcd" / cells[0].name / "results.json").read_text())["controls"]
    found |= {name: [metrics] for name, metrics in controls.items() if "words/found" in metrics}
    order = [name for name in (*ARMS, *VARIANTS) if name in found]
    rows = []
    for name in [*order, *(name for name in found if name not in order)]:
        row: dict[str, Any] = {"run": name, "seeds": len(found[name])}
        for title, metric in COLUMNS.items():
            values = [metrics[metric] for metrics in found[name] if metric in metrics]
            if values:
                row[title] = spread(values)
        rows.append(row)
    return rows


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table for people; a row of one seed has no range."""

    def text(value: Mapping[str, float] | None) -> str:
        if value is not None and value["low"] == value["high"]:
            return f"{value['mean']:.3f}"
        return spread_text(value, 3)

    rows = [[row["run"], str(row["seeds"]), *(text(row.get(title)) for title in COLUMNS)] for row in table]
    return markdown_table(["run", "seeds", *COLUMNS], rows)


def study_figure(out: Path, cells: Sequence[Cell], *, path: Path) -> Path | None:
    """Score against entropy over the temperatures of each model, means over seeds; None without sweeps.

    Args:
        out: Folder of the study.
        cells: Measured runs.
        path: PNG to write.
    """
    from recipes.cdcd_figures import FrontierPoint, TextRow, frontier_figure

    score, entropy = "ar_nll", "entropy_pooled"
    swept: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    results: dict[str, Any] = {}
    for cell in cells:
        results = json.loads((out / "cdcd" / cell.name / "results.json").read_text())
        for name, metrics in results["controls"].items():
            if name.startswith("frontier/") and "temperature=" in name:
                swept.setdefault((cell.arm, name.split("=")[1]), []).append(metrics)
    if not swept:
        return None
    points = [
        FrontierPoint(
            arm, label, {name: spread([m[name] for m in seeds])["mean"] for name in ("ar_nll", "entropy_pooled")}
        )
        for (arm, label), seeds in swept.items()
    ]
    texts = [
        TextRow("held-out text" if name == "held_out" else name, "real" if name == "held_out" else "nonsense", metrics)
        for name, metrics in results["controls"].items()
        if "words/found" in metrics
    ]
    return frontier_figure(points, texts, score=score, entropy=entropy, path=path)


def _having(out: Path, names: Mapping[str, object], file: str) -> list[str]:
    return [name for name in names if (out / "cdcd" / name / file).exists()]
