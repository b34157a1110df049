"""``byol-ext explore study``: agents x distractions x seeds in the maze, or an ablation; one table, one page of curves.

The agents explore for the intrinsic reward alone and what counts is where they go while they learn, as in the maze
experiments of Jarrett et al. (ICML 2023, 5.1), whose maze and sizes are not public: these are ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from byol_ext.rl.figures import agent_curves
from byol_ext.training.curves import read_metrics
from recipes.config import load
from recipes.explore_config import ExploreConfig, maze
from recipes.study import markdown_table, run_missing, spread, spread_text

AGENTS = ("byol-explore", "byol-hindsight", "rnd", "random")
NOISES = ("none", "brownian", "pixel", "on_demand")
COLUMNS = {
    "maze/coverage": "coverage",
    "maze/trackers": "trackers",
    "maze/noise_asked": "noise asked",
    "noise/asked_recent": "asked at the end",
    "maze/noise_time": "time on noise",
    "maze/noise_share": "reward on noise",
    "noise/share_recent": "reward on noise at the end",
}
"""Metric of ``results.json`` to column of the table."""


@dataclass(frozen=True)
class Ablation:
    """One setting of the bonus varied where it should matter."""

    agent: str
    noise: str
    field: str
    """Field of ``CuriosityConfig``."""
    values: tuple[float, ...]


ABLATIONS = {
    "horizon": Ablation("byol-explore", "none", "horizon", (1, 4, 8, 16)),
    "lambda": Ablation("byol-hindsight", "on_demand", "lam", (0.1, 0.3, 1.0, 3.0)),
}
"""By the name that the command line gives: the ablations that exploration spec 2.8 and 3.2 name."""


@dataclass(frozen=True)
class Cell:
    """One run of a study or an ablation."""

    agent: str
    noise: str
    seed: int
    change: tuple[str, float] | None = None
    """Field of ``CuriosityConfig`` that an ablation varies, and its value."""
    usual: bool = False
    """Whether that value is the configuration's own, so that this is the study's run."""

    @property
    def name(self) -> str:
        """Name of its run."""
        change = "" if self.change is None or self.usual else f"-{self.change[0]}-{self.change[1]:g}"
        return f"{self.agent}-{self.noise}{change}-{self.seed}"

    @property
    def row(self) -> tuple[str, str, tuple[str, float] | None]:
        """What it has in common with the other seeds."""
        return self.agent, self.noise, self.change


def study_command(args: Sequence[str]) -> int:
    """``byol-ext explore study``: run what is missing, then tabulate."""
    parser = argparse.ArgumentParser(
        prog="byol-ext explore study",
        description="Agents under distractions in the maze, or an ablation: one table, one page of curves. Finished "
        "runs are kept: call it again after an interrupt, or with more seeds.",
    )
    parser.add_argument(
        "--ablate",
        choices=list(ABLATIONS),
        help="vary one setting instead: the horizon of byol-explore without noise, or the lambda of byol-hindsight "
        "with noise on demand; --agents and --noise do not count then",
    )
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), help=f"default: {' '.join(AGENTS)}")
    parser.add_argument("--noise", nargs="+", default=list(NOISES), help=f"default: {' '.join(NOISES)}")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each (default: 3)")
    parser.add_argument("--env-steps", type=int, default=250_000, help="steps of a run (default: 250000)")
    parser.add_argument("--quick", action="store_true", help="one seed of 60000 steps: minutes")
    parser.add_argument("--config", type=Path, help="a saved configuration instead of the preset maze")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/study/maze"), help="default: runs/study/maze")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args(list(args))
    base = load(ExploreConfig, chosen.config, base=maze()) if chosen.config else maze()
    seeds, steps = (1, 60_000) if chosen.quick else (chosen.seeds, chosen.env_steps)
    base = replace(base, env_steps=steps, root=str(chosen.out))
    if chosen.ablate is None:
        cells = [Cell(a, n, s) for s in range(seeds) for n in chosen.noise for a in chosen.agents]
    else:
        cells = ablation_cells(ABLATIONS[chosen.ablate], base, seeds=seeds)
    run_cells(base, cells, jobs=chosen.jobs)
    table = tabulate(chosen.out, cells)
    chosen.out.mkdir(parents=True, exist_ok=True)
    suffix = f"-{chosen.ablate}" if chosen.ablate else ""
    (chosen.out / f"study{suffix}.json").write_text(json.dumps(table, indent=1) + "\n")
    curves(chosen.out, cells, path=chosen.out / f"coverage{suffix}.png", steps=steps)
    print(json.dumps(table, indent=1) if chosen.json else markdown(table))
    print(f"study: {chosen.out}", file=sys.stderr)
    return 0


def ablation_cells(ablation: Ablation, base: ExploreConfig, *, seeds: int) -> list[Cell]:
    """Cells of an ablation."""
    own = getattr(base.curiosity, ablation.field)
    return [
        Cell(ablation.agent, ablation.noise, seed, (ablation.field, value), value == own)
        for seed in range(seeds)
        for value in ablation.values
    ]


def run_cells(base: ExploreConfig, cells: Sequence[Cell], *, jobs: int) -> None:
    """Run what has no results of so many steps yet.

    Raises:
        RuntimeError: If runs failed, after all others are done; the message names them and their logs.
    """
    tasks = {cell.name: partial(run_cell, base, cell) for cell in cells}
    finished = [cell.name for cell in cells if _finished(base, cell)]
    run_missing(tasks, finished=finished, jobs=jobs, logs=Path(base.root) / "logs")


def run_cell(base: ExploreConfig, cell: Cell) -> int:
    """One run; goes on from its checkpoint where there is one."""
    from recipes.explore_commands import train_and_evaluate

    changes = dict([cell.change] if cell.change else [])
    config = replace(
        base,
        name=cell.name,
        agent=cell.agent,  # type: ignore[arg-type]
        seed=cell.seed,
        envs=replace(base.envs, noise=cell.noise),
        curiosity=replace(base.curiosity, **changes),  # type: ignore[arg-type]
        train=replace(base.train, seed=cell.seed),
    )
    return train_and_evaluate(config, resume=True)


def tabulate(out: Path, cells: Sequence[Cell]) -> list[dict[str, object]]:
    """A row for each agent, distraction and change: mean over seeds, least and greatest seed."""
    rows: list[dict[str, object]] = []
    for agent, noise, change in dict.fromkeys(cell.row for cell in cells):
        own = [cell for cell in cells if cell.row == (agent, noise, change)]
        results = [json.loads((_folder(out, c) / "results.json").read_text())["metrics"] for c in own]
        row: dict[str, object] = {"noise": noise, "agent": label(own[0]), "seeds": len(own)}
        for metric, column in COLUMNS.items():
            values = [r[metric] for r in results if r.get(metric) is not None]
            if values:
                row[column] = spread(values)
        rows.append(row)
    return sorted(rows, key=lambda row: list(dict.fromkeys(c.noise for c in cells)).index(str(row["noise"])))


def label(cell: Cell) -> str:
    """What a table and a curve call the runs of a cell."""
    return cell.agent if cell.change is None else f"{cell.agent}, {cell.change[0]} {cell.change[1]:g}"


def markdown(table: Sequence[dict[str, object]]) -> str:
    """The table for people: mean [least, greatest seed]."""
    columns = [c for c in COLUMNS.values() if any(c in row for row in table)]
    rows = [
        [str(row["noise"]), str(row["agent"]), str(row["seeds"])] + [spread_text(row.get(column)) for column in columns]  # type: ignore[arg-type]
        for row in table
    ]
    return markdown_table(["noise", "agent", "seeds", *columns], rows)


def curves(out: Path, cells: Sequence[Cell], *, path: Path, steps: int) -> Path | None:
    """Coverage of the last episodes over environment steps, a panel each distraction; none before an episode ends."""
    panels: dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]] = {}
    for cell in cells:
        log = read_metrics(_folder(out, cell) / "metrics.jsonl")
        if "episode/coverage" not in log:
            continue
        at, coverage = log["episode/coverage"]
        env_steps = dict(zip(*(x.tolist() for x in log["env_steps"]), strict=True))
        pairs = [(env_steps[s], c) for s, c in zip(at.tolist(), coverage.tolist(), strict=True) if s in env_steps]
        xs, ys = (np.array(values, float) for values in zip(*pairs, strict=True))
        grid = np.linspace(steps / 50, steps, 50)
        panels.setdefault(cell.noise, {}).setdefault(label(cell), []).append((grid, np.interp(grid, xs, ys)))
    if not panels:
        return None
    seeds = len({cell.seed for cell in cells})
    return agent_curves(
        panels,
        title="How much of the maze an episode covers",
        note=f"mean over {seeds} seeds, shaded from the least to the greatest; last 100 episodes",
        xlabel="environment steps",
        ylabel="share of cells",
        path=path,
        columns=2 if len(panels) <= 4 else 4,
        limits=(0, 1),
    )


def _finished(base: ExploreConfig, cell: Cell) -> bool:
    """Whether it has results of at least as many steps."""
    path = _folder(base.root, cell) / "results.json"
    return path.exists() and json.loads(path.read_text())["metrics"]["env_steps"] >= base.env_steps


def _folder(root: str | Path, cell: Cell) -> Path:
    return Path(root) / "explore" / cell.name
