"""``byol-ext explore study``: agents x distractions x seeds in the maze, one table and one page of curves.

The agents explore for the intrinsic reward alone and what counts is where they go while they learn, as in the maze
experiments of Jarrett et al. (ICML 2023, 5.1), whose maze and sizes are not public: these are ours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from byol_ext.rl.figures import agent_curves
from byol_ext.training.curves import read_metrics
from recipes.config import load
from recipes.explore_config import ExploreConfig, maze

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
class Cell:
    """One run of a study."""

    agent: str
    noise: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its run."""
        return f"{self.agent}-{self.noise}-{self.seed}"


def study_command(args: Sequence[str]) -> int:
    """``byol-ext explore study``: run what is missing, then tabulate."""
    parser = argparse.ArgumentParser(
        prog="byol-ext explore study",
        description="Agents under distractions in the maze: one table, one page of curves. Finished runs are kept: "
        "call it again after an interrupt, or with more seeds.",
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
    cells = [Cell(a, n, s) for s in range(seeds) for n in chosen.noise for a in chosen.agents]
    run_cells(base, cells, jobs=chosen.jobs)
    table = tabulate(chosen.out, cells)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "study.json").write_text(json.dumps(table, indent=1) + "\n")
    curves(chosen.out, cells, path=chosen.out / "coverage.png", steps=steps)
    print(json.dumps(table, indent=1) if chosen.json else markdown(table))
    print(f"study: {chosen.out}", file=sys.stderr)
    return 0


def run_cells(base: ExploreConfig, cells: Sequence[Cell], *, jobs: int) -> None:
    """Run what has no results yet.

    Raises:
        RuntimeError: If runs failed, after all others are done; the message names them and their logs.
    """
    todo = [cell for cell in cells if not (_folder(base.root, cell) / "results.json").exists()]
    failed = []
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(max(jobs, 1), mp_context=context, initializer=_worker) as pool,
        Progress(console=Console(stderr=True)) as progress,
    ):
        bar = progress.add_task("runs", total=len(cells), completed=len(cells) - len(todo))
        futures = {pool.submit(run_cell, base, cell): cell for cell in todo}
        for future in as_completed(futures):
            if future.exception() is not None or future.result() != 0:
                failed.append((futures[future], future.exception()))
            progress.advance(bar)
    if failed:
        error = failed[0][1]
        names = ", ".join(cell.name for cell, _ in failed)
        raise RuntimeError(
            f"{len(failed)} runs failed: {names}; the first with {error}; see {base.root}/logs"
        ) from error


def run_cell(base: ExploreConfig, cell: Cell) -> int:
    """One run, its messages into ``logs/``; goes on from its checkpoint where there is one."""
    from recipes.explore_commands import train_and_evaluate

    config = replace(
        base,
        name=cell.name,
        agent=cell.agent,  # type: ignore[arg-type]
        seed=cell.seed,
        envs=replace(base.envs, noise=cell.noise),
        train=replace(base.train, seed=cell.seed),
    )
    with _log(Path(base.root) / "logs" / f"{cell.name}.log"):
        return train_and_evaluate(config, resume=True)


def tabulate(out: Path, cells: Sequence[Cell]) -> list[dict[str, object]]:
    """A row for each agent and distraction: mean over seeds, least and greatest seed."""
    rows: list[dict[str, object]] = []
    for agent, noise in dict.fromkeys((cell.agent, cell.noise) for cell in cells):
        own = [cell for cell in cells if (cell.agent, cell.noise) == (agent, noise)]
        results = [json.loads((_folder(out, c) / "results.json").read_text())["metrics"] for c in own]
        row: dict[str, object] = {"noise": noise, "agent": agent, "seeds": len(own)}
        for metric, column in COLUMNS.items():
            values = [r[metric] for r in results if r.get(metric) is not None]
            if values:
                row[column] = {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
        rows.append(row)
    return sorted(rows, key=lambda row: list(dict.fromkeys(c.noise for c in cells)).index(str(row["noise"])))


def markdown(table: Sequence[dict[str, object]]) -> str:
    """The table for people: mean [least, greatest seed]."""
    columns = [c for c in COLUMNS.values() if any(c in row for row in table)]
    lines = [f"| noise | agent | seeds | {' | '.join(columns)} |", "|---" * (3 + len(columns)) + "|"]
    for row in table:
        values = []
        for column in columns:
            value = row.get(column)
            values.append(
                f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]" if isinstance(value, dict) else "-"
            )
        lines.append(f"| {row['noise']} | {row['agent']} | {row['seeds']} | {' | '.join(values)} |")
    return "\n".join(lines)


def curves(out: Path, cells: Sequence[Cell], *, path: Path, steps: int) -> Path:
    """Coverage of the last episodes over environment steps, a panel each distraction."""
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
        panels.setdefault(cell.noise, {}).setdefault(cell.agent, []).append((grid, np.interp(grid, xs, ys)))
    seeds = len({cell.seed for cell in cells})
    return agent_curves(
        panels,
        title="How much of the maze an episode covers",
        note=f"mean over {seeds} seeds, shaded from the least to the greatest; last 100 episodes",
        xlabel="environment steps",
        ylabel="share of cells",
        path=path,
        columns=2,
        limits=(0, 1),
    )


def _folder(root: str | Path, cell: Cell) -> Path:
    return Path(root) / "explore" / cell.name


def _worker() -> None:
    """One thread a run: small networks gain nothing from more, and two runs share two cores."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)


@contextlib.contextmanager
def _log(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield
