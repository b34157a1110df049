"""``compare``: SLAP and CLAP with shared seeds, equal towers and samples seen, in one table with paired intervals.

Each run is a process of its own, so that its peak memory is its own. Legend: ``S`` seeds, ``Q`` queries.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from byol_ext.metrics.bootstrap import bootstrap_interval, paired_difference
from byol_ext.training import plain
from byol_ext.training.figures import Bar, bars_with_intervals
from byol_ext.training.report import Report
from byol_ext.training.run import flatten
from recipes.config import load
from recipes.slap_commands import draw_training
from recipes.slap_config import SlapConfig

logger = logging.getLogger(__name__)


def _loss(**changes: Any) -> Callable[[SlapConfig], SlapConfig]:
    return lambda config: replace(config, loss=replace(config.loss, **changes))


ARMS: dict[str, Callable[[SlapConfig], SlapConfig]] = {
    "slap": _loss(name="slap"),
    "clap-infonce": _loss(name="clap-infonce"),
    "clap-sigmoid": _loss(name="clap-sigmoid"),
    "slap-shuffled": lambda config: replace(
        _loss(name="slap")(config), data=replace(config.data, shuffle_captions=True)
    ),
    "clap-shuffled": lambda config: replace(
        _loss(name="clap-infonce")(config), data=replace(config.data, shuffle_captions=True)
    ),
    "slap-no-predictor": _loss(name="slap", predictor=False),
    "slap-no-stop-gradient": _loss(name="slap", predictor=False, stop_gradient=False),
}
RECALLS = tuple(f"retrieval/{d}/R@{k}" for d in ("text_to_audio", "audio_to_text") for k in (1, 5, 10))


@dataclass(frozen=True)
class ArmResult:
    """Results of one arm over its seeds.

    Attributes:
        name: The arm, or ``random-init``.
        metrics: One flat mapping a seed.
        ranks: Hits a query ``[S, Q]`` and clips of the captions, by name of the array in ``ranks.npz``.
    """

    name: str
    metrics: list[dict[str, float]]
    ranks: dict[str, np.ndarray]

    def values(self, name: str) -> np.ndarray:
        """A metric over seeds; NaN where a seed lacks it."""
        return np.array([np.nan if m.get(name) is None else m[name] for m in self.metrics], dtype=np.float64)

    def hits(self, name: str) -> np.ndarray:
        """Percent hits a query ``[S, Q]`` of a recall such as ``retrieval/text_to_audio/R@5``."""
        hits_SQ: np.ndarray = 100.0 * self.ranks[name.removeprefix("retrieval/")]
        return hits_SQ


def compare(config: SlapConfig, *, arms: Sequence[str], seeds: Sequence[int], jobs: int, out: Path) -> int:
    """Train what is missing, then print and write the table.

    Args:
        config: What the arms share.
        arms: Names of :data:`ARMS`; the first is the one that the others are compared with.
        seeds: Seeds of each arm.
        jobs: Runs at a time; each gets its share of the processor cores.
        out: Folder of the runs, of ``compare.json`` and of ``compare.html``.

    Returns:
        Exit code: 0, or 1 if a run failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    todo = [(arm, seed) for seed in seeds for arm in arms]
    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(lambda one: _run(config, *one, out=out, jobs=jobs), todo))
    failed = [f"{arm}-seed{seed}" for (arm, seed), code in zip(todo, codes, strict=True) if code]
    if failed:
        print(f"byol-ext slap compare: failed: {', '.join(failed)}; see {out}/slap/NAME.log", file=sys.stderr)
        return 1
    results = read_results(out, arms, seeds)
    rows = table_rows(results)
    _write(out, rows, results, seeds, config)
    print_table(rows)
    print(f"table, figures and runs: {out / 'compare.html'}")
    return 0


def _run(config: SlapConfig, arm: str, seed: int, *, out: Path, jobs: int) -> int:
    """One run in its own process; a finished one is kept, an interrupted one goes on."""
    name = f"{arm}-seed{seed}"
    folder = out / "slap" / name
    ours = replace(ARMS[arm](config), name=name, root=str(out), seed=seed, train=replace(config.train, seed=seed))
    if (folder / "config.yaml").exists():
        _check_same(load(SlapConfig, folder / "config.yaml"), ours, folder)
    if (folder / "ranks.npz").exists() and (folder / "results.json").exists():
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{name}.yaml"
    file.write_text(yaml.safe_dump(plain(ours), sort_keys=False))
    threads = max((os.cpu_count() or 1) // jobs, 1)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "recipes.cli", "slap", "train", "--config", str(file)]
    if (folder / "checkpoints").exists():
        command.append("--resume")
    began = time.monotonic()
    with (folder.parent / f"{name}.log").open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    logger.info("%s: %s after %.0f s", name, "done" if code == 0 else f"exit code {code}", time.monotonic() - began)
    return code


def _check_same(found: SlapConfig, wanted: SlapConfig, folder: Path) -> None:
    """Refuse to mix results of two configurations in one table."""
    old, new = (flatten(plain(without_reporting(config))) for config in (found, wanted))
    differing = [f"{key} was {old[key]}, now {new[key]}" for key in new if old.get(key) != new[key]]
    if differing:
        raise ValueError(
            f"{folder} was trained with another configuration: {'; '.join(differing)}; choose another --out"
        )


def without_reporting(config: SlapConfig) -> SlapConfig:
    """The configuration without what leaves the weights and the test scores as they are."""
    train = replace(config.train, log_every=1, monitor_every=1, evaluate_every=1, checkpoint_every=1, keep=1)
    return replace(
        config,
        root="",
        train=replace(train, trackers=()),
        data=replace(config.data, workers=0),
        text=replace(config.text, cache=""),
        eval=replace(config.eval, domains=()),
    )


def read_results(out: Path, arms: Sequence[str], seeds: Sequence[int]) -> list[ArmResult]:
    """Results of the arms, and of the first arm's untrained towers as ``random-init``."""
    results = []
    for arm in arms:
        folders = [out / "slap" / f"{arm}-seed{seed}" for seed in seeds]
        written = [json.loads((folder / "results.json").read_text()) for folder in folders]
        ranks = [np.load(folder / "ranks.npz") for folder in folders]
        results.append(ArmResult(arm, [w["metrics"] for w in written], _stack(ranks, "")))
        if arm == arms[0]:
            controls = [w["controls"]["random_init"] for w in written]
            untrained = ArmResult("random-init", controls, _stack(ranks, "random_init/"))
    return [*results, untrained]


def _stack(files: Sequence[Any], prefix: str) -> dict[str, np.ndarray]:
    names = (*(name.removeprefix("retrieval/") for name in RECALLS), "owner")
    return {name: np.stack([file[f"{prefix}{name}"] for file in files]) for name in names}


def table_rows(results: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """One row a metric: mean and standard deviation over seeds, and for recalls the interval of the paired difference.

    Args:
        results: The arms; the first is the reference.
    """
    reference = results[0]
    chance = reference.metrics[0]
    rows: list[dict[str, Any]] = []
    for name in RECALLS:
        groups = _groups(reference, name)
        row: dict[str, Any] = {"metric": name.removeprefix("retrieval/")}
        for arm in results:
            interval = bootstrap_interval(arm.hits(name), groups=groups, resamples=2000)
            row[arm.name] = f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"
        for arm in results[1:-1]:
            paired = paired_difference(a=reference.hits(name), b=arm.hits(name), groups=groups, resamples=2000).interval
            row[f"{reference.name} - {arm.name}"] = f"{paired.value:+.1f} [{paired.low:+.1f}, {paired.high:+.1f}]"
        direction, recall = name.split("/")[1:]
        row["chance"] = f"{chance[f'retrieval/{direction}/chance/{recall}']:.1f}"
        rows.append(row)
    for name, label, factor, digits in _other_metrics(reference):
        row = {"metric": label}
        for arm in results:
            values = arm.values(name) * factor
            if not np.isnan(values).all():
                spread = f" ± {np.nanstd(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
                row[arm.name] = f"{np.nanmean(values):.{digits}f}{spread}"
        level = chance.get(name.replace("/ensemble/", "/majority/")) if "zero_shot" in name else None
        if level is not None:
            row["chance"] = f"{level * factor:.{digits}f} (most frequent)"
        rows.append(row)
    return rows


def _groups(arm: ArmResult, name: str) -> np.ndarray | None:
    """Clip of each query where the queries are captions: those of a clip are drawn together."""
    return arm.ranks["owner"][0] if "text_to_audio" in name else None


def _other_metrics(reference: ArmResult) -> list[tuple[str, str, float, int]]:
    """(name, label, factor, digits) of what is averaged over seeds."""
    names: list[tuple[str, str, float, int]] = [
        ("gap/delta", "gap: distance of means", 1, 3),
        ("gap/pairwise_separability", "gap: separability of pairs", 1, 3),
        ("gap/audio/effective_rank", "effective rank, audio", 1, 1),
        ("gap/text/effective_rank", "effective rank, text", 1, 1),
    ]
    for name in reference.metrics[0]:
        if name.endswith("ensemble/accuracy"):
            names.append((name, f"{name.removesuffix('/ensemble/accuracy').replace('_', '-')} %", 100, 1))
        elif name.endswith("/linear_accuracy"):
            names.append((name, f"{name.removesuffix('_accuracy')} %", 100, 1))
        elif name.startswith("domain/") and re.search(r"/retrieval/\w+/R@10$", name):
            names.append((name, name.replace("retrieval/", ""), 1, 1))
    return [
        *names,
        ("train/samples_per_second", "samples/s", 1, 0),
        ("train/peak_memory_mib", "peak memory, MiB", 1, 0),
    ]


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table on the terminal."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns)
    for row in rows:
        table.add_row(*[str(row.get(column, "")) for column in columns])
    width = None if sys.stdout.isatty() else 40 + 24 * len(columns)
    Console(width=width).print(table)


def _write(
    out: Path, rows: Sequence[Mapping[str, Any]], results: Sequence[ArmResult], seeds: Sequence[int], config: SlapConfig
) -> None:
    """``compare.json``, ``compare.html`` and their figures."""
    document = {
        "rows": rows,
        "metrics": {arm.name: arm.metrics for arm in results},
        "seeds": list(seeds),
        "config": plain(config),
    }
    (out / "compare.json").write_text(json.dumps(document, indent=1))
    bars = []
    for name in RECALLS:
        for arm in results:
            interval = bootstrap_interval(arm.hits(name), groups=_groups(arm, name), resamples=2000)
            label = name.removeprefix("retrieval/").replace("_", " ")
            direction, recall = name.split("/")[1:]
            level = results[0].metrics[0][f"retrieval/{direction}/chance/{recall}"]
            bars.append(Bar(label, interval.value, interval.low, interval.high, series=arm.name, chance=level))
    clips = int(results[0].ranks["audio_to_text/R@1"].shape[1])
    note = f"{clips} test clips, {len(seeds)} seeds; bars: 95 % bootstrap over queries; ticks: chance"
    bars_with_intervals(bars, path=out / "recall.png", title="Retrieval by method", note=note, unit="percent")
    logs = {arm.name: out / "slap" / f"{arm.name}-seed{seeds[0]}" / "metrics.jsonl" for arm in results[:-1]}
    draw_training(logs, out / "training.png")
    report = Report("SLAP and CLAP compared", subtitle=note)
    report.table(
        rows,
        caption=(
            f"Recalls: percent, mean over seeds {list(seeds)} with 95 % bootstrap intervals over queries (captions of "
            "a clip drawn together); differences are paired by query. Others: mean ± standard deviation over seeds."
        ),
    )
    report.figure(out / "recall.png", caption="Recall both ways").figure(out / "training.png", caption="Training")
    report.save(out / "compare.html")
