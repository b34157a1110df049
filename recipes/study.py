"""Studies: many runs of a recipe, several at a time, resumable, and their table of means and ranges."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from byol_ext.processes import end_with_parent


def run_missing(tasks: Mapping[str, Callable[[], int]], *, finished: Sequence[str], jobs: int, logs: Path) -> None:
    """Run what is not finished, each in a process of its own and with one thread.

    Args:
        tasks: By name of the run; each returns an exit code. They must be picklable.
        finished: Names of runs that need not run.
        jobs: Runs at a time.
        logs: Folder for the messages of each run.

    Raises:
        RuntimeError: If runs failed, after all others are done; the message names them and their logs.
    """
    todo = [name for name in tasks if name not in set(finished)]
    failed = []
    logs.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(max(jobs, 1), mp_context=get_context("spawn"), initializer=_worker) as pool,
        Progress(console=Console(stderr=True)) as progress,
    ):
        bar = progress.add_task("runs", total=len(tasks), completed=len(tasks) - len(todo))
        futures = {pool.submit(_logged, tasks[name], logs / f"{name}.log"): name for name in todo}
        for future in as_completed(futures):
            if future.exception() is not None or future.result() != 0:
                failed.append((futures[future], future.exception()))
            progress.advance(bar)
    if failed:
        error = failed[0][1]
        names = ", ".join(name for name, _ in failed)
        raise RuntimeError(f"{len(failed)} runs failed: {names}; the first with {error}; see {logs}") from error


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, least and greatest of the seeds' values."""
    return {"mean": float(np.mean(values)), "low": float(min(values)), "high": float(max(values))}


def spread_text(value: Mapping[str, float] | None, digits: int = 2) -> str:
    """``mean [least, greatest]``; a dash where there is nothing.

    Example:
        >>> spread_text({"mean": 0.5, "low": 0.25, "high": 0.75})
        '0.50 [0.25, 0.75]'
    """
    if value is None:
        return "-"
    mean, low, high = (f"{value[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for people.

    Example:
        >>> print(markdown_table(["a", "b"], [["1", "2"]]))
        | a | b |
        |---|---|
        | 1 | 2 |
    """
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _worker() -> None:
    """One thread a run, since small networks gain nothing from more; a run ends with the study."""
    end_with_parent()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)


def _logged(task: Callable[[], int], path: Path) -> int:
    """The task's exit code; its messages go into the file."""
    with path.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        return task()
