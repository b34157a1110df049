"""The table and the figure of ``byol-ext image compare``, and what varied settings say of RankMe and of classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from byol_ext.metrics.per_class import PerClassSweep
from recipes.image_figures import Panel, comparison_figure
from recipes.study import markdown_table, spread, spread_text


@dataclass(frozen=True)
class Column:
    """A metric of the table.

    Attributes:
        metric: Flat name.
        title: What the table calls it.
        scale: Factor to the printed unit.
        digits: Decimals.
    """

    metric: str
    title: str
    scale: float = 1.0
    digits: int = 1


LINEAR, RANK = "linear", "RankMe z"
COLUMNS = (
    Column("probe/linear_accuracy", LINEAR, 100.0),
    Column("probe/knn_accuracy", "k-NN", 100.0),
    Column("few_labels/1%/accuracy", "1 % labels", 100.0),
    Column("few_labels/10%/accuracy", "10 % labels", 100.0),
    Column("rankme", RANK),
    Column("rankme_y", "RankMe y"),
    Column("std_sqrt_d", "std √D", digits=2),
    Column("train/step_ms", "step, ms"),
    Column("train/cpu_seconds", "CPU s", digits=0),
    Column("train/encoder_passes", "passes", digits=0),
)
"""Accuracies in percent; passes of the encoder for each picture and step, online and target."""
PANELS = (Panel(LINEAR), Panel("1 % labels"), Panel(RANK), Panel("std √D", digits=2))
FOUND = ("probe/linear_accuracy", "rankme")


def metrics_of(out: Path, name: str) -> dict[str, float]:
    """Metrics of a finished run."""
    results = json.loads((out / "image" / name / "results.json").read_text())
    return {key: value for key, value in results["metrics"].items() if value is not None}


def tabulate(out: Path, arms: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """A row for each arm: mean, least and greatest seed of each column, and the seeds' standard deviation of the first.

    Args:
        out: Folder of the study.
        arms: Arm -> names of its runs.
    """
    rows = []
    for arm, runs in arms.items():
        seeds = [metrics_of(out, run) for run in runs]
        row: dict[str, Any] = {"method": arm, "seeds": len(seeds)}
        for column in COLUMNS:
            values = [column.scale * metrics[column.metric] for metrics in seeds if column.metric in metrics]
            if values:
                row[column.title] = spread(values)
                if column.title == LINEAR and len(values) > 1:
                    row["sd"] = float(np.std(values, ddof=1))
        rows.append(row)
    return rows


def notes(
    out: Path, arms: Mapping[str, Sequence[str]], varied: Mapping[str, tuple[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """What varied settings say, for each method.

    Args:
        out: Folder of the study.
        arms: Arm -> names of its runs.
        varied: Arm -> its method, and the value of the varied setting.

    Returns:
        ``rankme``: Spearman's correlation of RankMe with accuracy over the values, and how far the value that RankMe
        would choose lies below the best. ``per_class``: see :class:`byol_ext.metrics.per_class.PerClassSweep`, where
        the values are numbers and each has equally many seeds. Both empty where nothing is varied.
    """
    found: dict[str, list[dict[str, Any]]] = {"rankme": [], "per_class": []}
    for method in dict.fromkeys(method for method, _ in varied.values()):
        own = {arm: value for arm, (name, value) in varied.items() if name == method}
        seeds = {arm: [metrics_of(out, run) for run in arms[arm]] for arm in own}
        if all(set(FOUND) <= metrics.keys() for runs in seeds.values() for metrics in runs):
            found["rankme"].append({"method": method} | _rankme_orders(seeds))
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in own.values())
        if numeric and len({len(runs) for runs in seeds.values()}) == 1:
            found["per_class"] += [{"method": method} | row for row in _per_class(seeds, own)]
    return found


def _rankme_orders(seeds: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    accuracy, rank = (np.array([np.mean([m[name] for m in runs]) for runs in seeds.values()]) for name in FOUND)
    chosen = int(rank.argmax())
    order = spearmanr(accuracy, rank).statistic if len(set(rank)) > 1 and len(set(accuracy)) > 1 else float("nan")
    return {
        "values": len(seeds),
        "spearman": float(order) if np.isfinite(order) else None,
        "chosen": list(seeds)[chosen],
        "points below the best": 100.0 * float(accuracy.max() - accuracy[chosen]),
    }


def _per_class(seeds: Mapping[str, Sequence[Mapping[str, float]]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    prefix = "per_class/accuracy/"
    runs = [metrics for each in seeds.values() for metrics in each]
    names = [key.removeprefix(prefix) for key in runs[0] if key.startswith(prefix)]
    if not names or len(seeds) < 2:
        return []
    accuracy_TSC = np.array([[[m[prefix + name] for name in names] for m in each] for each in seeds.values()])
    sweep = PerClassSweep([float(values[arm]) for arm in seeds], accuracy_TSC, names)
    return [
        {
            "class": regret.name,
            "at the best on average": 100.0 * regret.accuracy,
            "at its own best": 100.0 * regret.best_accuracy,
            "its own best value": regret.best_strength,
            "p": regret.p_value,
        }
        for regret in sweep.regrets()
    ]


def markdown(table: Sequence[Mapping[str, Any]], remarks: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The tables for people; rows of one seed have no range."""

    def text(value: Mapping[str, float] | None, digits: int) -> str:
        if value is not None and value["low"] == value["high"]:
            return f"{value['mean']:.{digits}f}"
        return spread_text(value, digits)

    rows = [
        [
            row["method"],
            str(row["seeds"]),
            *(text(row.get(column.title), column.digits) for column in COLUMNS),
            f"{row['sd']:.1f}" if "sd" in row else "-",
        ]
        for row in table
    ]
    parts = [markdown_table(["method", "seeds", *(column.title for column in COLUMNS), "sd of linear"], rows)]
    for remark in remarks.values():
        if remark:
            cells = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in remark]
            parts.append(markdown_table(list(remark[0]), cells))
    return "\n\n".join(parts)


def draw(out: Path, arms: Mapping[str, Sequence[str]], *, controls: Sequence[str], title: str, path: Path) -> Path:
    """The figure: methods by linear accuracy, controls as lines.

    Args:
        out: Folder of the study.
        arms: Arm -> names of its runs.
        controls: Arms that are lines.
        title: What is seen.
        path: PNG to write.
    """
    values: dict[str, dict[str, list[float]]] = {}
    titles = {panel.title for panel in PANELS}
    for arm, runs in arms.items():
        seeds = [metrics_of(out, run) for run in runs]
        values[arm] = {
            column.title: [column.scale * metrics[column.metric] for metrics in seeds if column.metric in metrics]
            for column in COLUMNS
            if column.title in titles
        }
    counts = [len(runs) for arm, runs in arms.items() if arm not in controls]
    seeds_text = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return comparison_figure(
        {arm: found for arm, found in values.items() if arm not in controls},
        panels=PANELS,
        references={arm: float(np.mean(values[arm][LINEAR])) for arm in controls},
        title=title,
        note=f"accuracy in percent; mean of {seeds_text} seeds, bars from the least to the greatest",
        path=path,
    )
