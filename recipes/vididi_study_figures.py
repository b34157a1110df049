"""The study of the video recipe as dots and as a table: arms over seeds, beside chance and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from byol_ext.training.figure_style import INK, MUTED, PALETTE, new_figure, save_figure, shorten, style


@dataclass(frozen=True)
class Column:
    """A metric of a study.

    Attributes:
        metric: Flat name.
        title: What it is called in the figure.
        scale: Factor to the printed unit: 100 for a fraction in percent, 1 for what is in percent already.
        chance: Flat name of its chance level, if it has one.
        control: Whether it is a control: no arm is the best in it.
    """

    metric: str
    title: str
    scale: float = 100.0
    chance: str | None = None
    control: bool = False


MOTION_COLUMNS = (
    Column("retrieval/R@1", "R@1", 1.0, "retrieval/chance/R@1"),
    Column("retrieval/R@5", "R@5", 1.0, "retrieval/chance/R@5"),
    Column("probe/linear_accuracy", "linear", chance="probe/chance"),
    Column("probe/linear_d1_accuracy", "linear + D1", chance="probe/chance"),
    Column("probe/single_frame_accuracy", "one frame", chance="probe/chance", control=True),
    Column("probe/shuffled_accuracy", "shuffled", chance="probe/chance", control=True),
    Column("probe/appearance_accuracy", "appearance", chance="probe/appearance_majority_accuracy", control=True),
)
"""What spec section 10 asks to see side by side."""

Study = Mapping[str, Sequence[Mapping[str, float]]]
"""Arm -> metrics of each seed."""


def study_dots(
    study: Study, *, columns: Sequence[Column], title: str, note: str, path: str | Path, bold: str = ""
) -> Path:
    """Arms in rows, a panel for each metric: mean and, with several seeds, the range; chance as a dashed line.

    Args:
        study: Arms with the metrics of each seed; a metric that an arm lacks has no dot.
        columns: Metrics to draw, a panel each.
        title: What is seen.
        note: N and method; ", whiskers from the least to the greatest seed" is added where there are several.
        path: PNG to write.
        bold: Arms with this in their name are drawn in the second colour.

    Raises:
        ValueError: If no arm has any of the metrics.
    """
    found = {arm: [_values(seeds, column) for column in columns] for arm, seeds in study.items()}
    if not any(len(values) for row in found.values() for values in row):
        raise ValueError("no arm has any of the metrics to draw")
    several = any(len(seeds) > 1 for seeds in study.values())
    note += ", whiskers from the least to the greatest seed" if several else ""
    figure = new_figure(2.2 + 1.9 * len(columns), 0.32 * len(study) + 0.5, title=title, note=note)
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for x, (ax, column) in enumerate(zip(axes, columns, strict=True)):
        style(ax)
        ax.set_title(column.title, fontsize=9.5, color=INK)
        for y, (arm, row) in enumerate(found.items()):
            if len(row[x]):
                _dot(ax, y, row[x], PALETTE[1] if bold and bold in arm else PALETTE[0])
        chances = [chance for seeds in study.values() if (chance := _chance(seeds, column)) is not None]
        if chances:
            ax.axvline(float(np.mean(chances)), color=INK, linewidth=1, linestyle=(0, (3, 2)), zorder=1)
        ax.margins(x=0.22)
    axes[0].set_yticks(range(len(found)), [shorten(arm, 28) for arm in found], fontsize=9, color=INK)
    axes[0].set_ylim(len(found) - 0.4, -0.6)
    figure.supxlabel("percent; dashed: chance", fontsize=9, color=MUTED)
    return save_figure(figure, path)


def _dot(ax: Axes, y: float, values: npt.NDArray[np.float64], colour: str) -> None:
    mean = float(values.mean())
    ax.plot([values.min(), values.max()], [y, y], color=colour, linewidth=2, alpha=0.45, solid_capstyle="round")
    ax.plot([mean], [y], "o", color=colour, markersize=5.5)
    ax.annotate(
        f"{mean:.1f}", (values.max(), y), (6, 0), textcoords="offset points", fontsize=8, color=INK, va="center"
    )


def study_table(study: Study, *, columns: Sequence[Column], title: str, note: str, path: str | Path) -> Path:
    """Arms in rows, metrics in columns: mean and, with several seeds, the range; the best arm in bold.

    Args:
        study: Arms with the metrics of each seed; a metric that an arm lacks is a dash.
        columns: Metrics.
        title: What is seen.
        note: N and method.
        path: PNG to write.
    """
    if not study:
        raise ValueError("no arms to tabulate")
    means = {arm: [_values(seeds, column) for column in columns] for arm, seeds in study.items()}
    height = 0.38 * (len(study) + 1.6)
    figure = new_figure(2.6 + 1.1 * len(columns), height, title=title, note=note)
    ax = figure.add_subplot()
    ax.set_axis_off()
    ax.set_xlim(-2.3, len(columns) - 0.5)
    ax.set_ylim(len(study) + 0.4, -1.2)
    for x, column in enumerate(columns):
        ax.text(x, -0.85, column.title, ha="center", va="center", fontsize=9, color=MUTED)
        best = max((v[x].mean() for v in means.values() if len(v[x]) and not column.control), default=None)
        for y, values in enumerate(means.values()):
            _cell(ax, x, y, values[x], best)
        chances = [chance for seeds in study.values() if (chance := _chance(seeds, column)) is not None]
        ax.text(
            x, len(study), f"{chances[0]:.1f}" if chances else "", ha="center", va="center", fontsize=9, color=MUTED
        )
    for y, (arm, seeds) in enumerate(study.items()):
        count = f" ({len(seeds)} seeds)" if len(seeds) > 1 else ""
        ax.text(-2.3, y, shorten(arm, 24) + count, va="center", fontsize=9.5, color=INK)
    ax.text(-2.3, len(study), "chance", va="center", fontsize=9, color=MUTED)
    for y in (0, len(study)):
        ax.axhline(y - 0.5, color="#b8c0c8", linewidth=0.8)
    return save_figure(figure, path)


def _cell(ax: Axes, x: float, y: float, values: npt.NDArray[np.float64], best: float | None) -> None:
    if not len(values):
        ax.text(x, y, "–", ha="center", va="center", fontsize=9.5, color=MUTED)
        return
    weight = "bold" if values.mean() == best else "normal"
    spread = len(values) > 1
    ax.text(
        x, y - 0.12 * spread, f"{values.mean():.1f}", ha="center", va="center", fontsize=9.5, color=INK, weight=weight
    )
    if spread:
        text = f"{values.min():.1f} – {values.max():.1f}"
        ax.text(x, y + 0.24, text, ha="center", va="center", fontsize=6.5, color=MUTED)


def _values(seeds: Sequence[Mapping[str, float]], column: Column) -> npt.NDArray[np.float64]:
    return column.scale * np.array([seed[column.metric] for seed in seeds if column.metric in seed], dtype=np.float64)


def _chance(seeds: Sequence[Mapping[str, float]], column: Column) -> float | None:
    found = [seed[column.chance] for seed in seeds if column.chance is not None and column.chance in seed]
    return column.scale * float(np.mean(found)) if found else None
