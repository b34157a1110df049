"""Figures of a run, as PNG: each says what it shows in its title, and how many items it shows.

Every function writes one file, atomically, at 200 dpi, and returns its path. `training_curves` is in `curves`, the look
in `figure_style`; both are importable from here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from torch import Tensor

from byol_ext.metrics.modality_gap import GapShift
from byol_ext.training.curves import read_metrics, training_curves
from byol_ext.training.figure_style import (
    AUDIO,
    BLUES,
    INK,
    MUTED,
    TEXT,
    colour_bar,
    colours,
    end_labels,
    new_figure,
    save_figure,
    shorten,
    style,
    swatches,
)

__all__ = [
    "Bar",
    "bars_with_intervals",
    "confusion_figure",
    "gap_shift_figure",
    "modality_pca",
    "read_metrics",
    "save_figure",
    "similarity_matrix",
    "training_curves",
]


@dataclass(frozen=True)
class Bar:
    """One bar: a value with an optional interval.

    Attributes:
        label: what was measured; bars with equal labels stand together.
        value: the number.
        low: lower end of the interval.
        high: upper end.
        series: which system; sets the colour.
        chance: chance level of this measure, drawn as a tick.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    series: str = ""
    chance: float | None = None


def modality_pca(
    *, audio_ND: Tensor, text_ND: Tensor, path: str | Path, max_pairs: int = 400, max_lines: int = 60
) -> Path:
    """Both modalities on the first two principal components of the pooled unit embeddings, pairs joined by lines.

    Args:
        audio_ND: audio embeddings, row i belongs with row i of the text.
        text_ND: text embeddings.
        path: PNG to write.
        max_pairs: points drawn a modality (evenly spaced rows); the components use all rows.
        max_lines: pairs joined.
    """
    if audio_ND.shape != text_ND.shape or audio_ND.ndim != 2 or len(audio_ND) < 2:
        raise ValueError(f"audio {tuple(audio_ND.shape)}, text {tuple(text_ND.shape)}: expected equal [pairs, width]")
    a_ND, t_ND = F.normalize(audio_ND.double().cpu(), dim=1), F.normalize(text_ND.double().cpu(), dim=1)
    pooled = torch.cat([a_ND, t_ND])
    pooled = pooled - pooled.mean(dim=0)
    _, sigma, basis = torch.linalg.svd(pooled, full_matrices=False)
    share = [*(sigma.square() / sigma.square().sum().clamp(min=1e-30)).tolist(), 0.0]
    points = (pooled @ basis[:2].T).numpy()
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    n = len(a_ND)
    rows = np.unique(np.linspace(0, n - 1, min(n, max_pairs)).astype(int))
    a_P2, t_P2 = points[:n][rows], points[n:][rows]
    delta = float((a_ND.mean(dim=0) - t_ND.mean(dim=0)).norm())
    spread = float(((a_ND.var(dim=0, correction=0).sum() + t_ND.var(dim=0, correction=0).sum()) / 2).sqrt())
    if spread < 0.05:
        title = "The embeddings have collapsed: every item lies in nearly one point"
    elif delta < 0.25 * spread:
        title = "Audio and text share one region"
    else:
        title = "Audio and text lie apart"
    note = f"gap Δ = {delta:.3f}, within-modality spread = {spread:.3f}; N = {n} pairs, {len(rows)} drawn"
    legend = [
        Line2D([], [], color=AUDIO, marker="o", linestyle="", markersize=5, label="audio"),
        Line2D([], [], color=TEXT, marker="^", linestyle="", markersize=5, label="text"),
        Line2D([], [], color=MUTED, marker="X", linestyle="", markersize=7, label="mean"),
        Line2D([], [], color=MUTED, linewidth=0.8, label="a pair"),
    ]
    figure = new_figure(6.4, 4.8, title=title, note=note, legend=legend)
    ax = style(figure.add_subplot(), grid=False)
    lines = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), max_lines)).astype(int))
    segments = [np.array([a_P2[i], t_P2[i]]) for i in lines]
    ax.add_collection(LineCollection(segments, colors=MUTED, linewidths=0.6, alpha=0.45, zorder=1))
    for cloud, colour, marker in ((a_P2, AUDIO, "o"), (t_P2, TEXT, "^")):
        ax.scatter(cloud[:, 0], cloud[:, 1], s=15, color=colour, marker=marker, alpha=0.7, linewidths=0, zorder=2)
    for mean_2, colour in ((points[:n].mean(axis=0), AUDIO), (points[n:].mean(axis=0), TEXT)):
        ax.scatter(mean_2[0], mean_2[1], s=150, marker="X", color=colour, edgecolors="white", linewidths=1.4, zorder=4)
    ax.set_xlabel(f"component 1 ({100 * share[0]:.0f} % of variance)")
    ax.set_ylabel(f"component 2 ({100 * share[1]:.0f} %)")
    ax.set_aspect("equal", adjustable="datalim")
    return save_figure(figure, path)


def similarity_matrix(
    *, audio_ND: Tensor, text_ND: Tensor, path: str | Path, names: Sequence[str] | None = None, max_pairs: int = 48
) -> Path:
    """Cosine of each audio (row) with each text (column); matching pairs lie on the diagonal.

    Args:
        audio_ND: audio embeddings.
        text_ND: text embeddings of the same pairs.
        path: PNG to write.
        names: one short name a pair, printed at the rows when at most 32 pairs are drawn.
        max_pairs: pairs drawn (evenly spaced rows); the means in the title use all.
    """
    if audio_ND.shape != text_ND.shape or audio_ND.ndim != 2 or len(audio_ND) < 2:
        raise ValueError(f"audio {tuple(audio_ND.shape)}, text {tuple(text_ND.shape)}: expected equal [pairs, width]")
    a_ND, t_ND = F.normalize(audio_ND.double().cpu(), dim=1), F.normalize(text_ND.double().cpu(), dim=1)
    n = len(a_ND)
    matching = float((a_ND * t_ND).sum(dim=1).mean())
    mismatched = (float(a_ND.sum(dim=0) @ t_ND.sum(dim=0)) - matching * n) / (n * (n - 1))
    rows = torch.linspace(0, n - 1, min(n, max_pairs)).long().unique()
    similarity = (a_ND[rows] @ t_ND[rows].T).numpy()
    stands_out = matching - mismatched > 0.1
    title = "Matching pairs stand out" if stands_out else "Matching pairs hardly differ from mismatched ones"
    note = f"mean cosine {matching:.2f} on the diagonal, {mismatched:.2f} off it; N = {n} pairs, {len(rows)} drawn"
    named = names is not None and len(rows) <= 32
    figure = new_figure(7.6 if named else 6.2, 5.4, title=title, note=note)
    ax = style(figure.add_subplot(), grid=False)
    image = ax.imshow(similarity, cmap=BLUES, interpolation="nearest")
    ax.spines[:].set_visible(False)
    ax.set_anchor("NW")
    ax.set_xticks([])
    ax.set_yticks([])
    if names is not None and named:
        ax.set_yticks(range(len(rows)), [shorten(names[i], 36) for i in rows.tolist()], fontsize=7)
        ax.tick_params(length=0)
    ax.set_xlabel("text")
    ax.set_ylabel("audio")
    colour_bar(figure, ax, image, "cosine")
    return save_figure(figure, path)


def gap_shift_figure(
    curve: Sequence[GapShift], *, path: str | Path, pairs: int, chance: Mapping[str, float] | None = None
) -> Path:
    """R@k as the modality gap is widened, kept, closed and overshot (`byol_ext.metrics.modality_gap.gap_shift_curve`).

    Args:
        curve: the points.
        path: PNG to write.
        pairs: number of pairs, printed.
        chance: optional `R@k` -> percent; the chance of R@1 is drawn.
    """
    if len(curve) < 2:
        raise ValueError(f"{len(curve)} points: a curve needs at least 2")
    points = sorted(curve, key=lambda point: point.shift)
    trained = min(points, key=lambda point: abs(point.shift))
    closed = min(points, key=lambda point: abs(point.shift - 1))
    before, after = (float(np.mean(list(point.recall.values()))) for point in (trained, closed))
    change = after - before
    verdict = "barely changes recall" if abs(change) < 1 else "raises recall" if change > 0 else "lowers recall"
    title = f"Closing the modality gap {verdict} ({change:+.1f} points on average)"
    note = f"gap Δ = {trained.delta:.3f} as trained, {closed.delta:.3f} after closing; N = {pairs} pairs"
    figure = new_figure(8.6, 3.3, title=title, note=note)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, direction in zip(axes, ("text_to_audio", "audio_to_text"), strict=True):
        style(ax)
        names = [name for name in points[0].recall if name.startswith(direction)]
        x = [point.shift for point in points]
        ends: list[tuple[float, float, str, str]] = []
        for name, colour in zip(names, ("#08306b", "#2b7bba", "#8fbfe0", MUTED), strict=False):
            y = [point.recall[name] for point in points]
            ax.plot(x, y, color=colour, linewidth=2, marker="o", markersize=4)
            ends.append((x[-1], y[-1], name.split("/")[-1], colour))
        for at, text in ((0.0, "as trained"), (1.0, "gap closed")):
            ax.axvline(at, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            ax.annotate(text, (at, 1), (3, -3), xycoords=("data", "axes fraction"), textcoords="offset points",
                        fontsize=8, color=MUTED, va="top")  # fmt: skip
        if chance is not None and "R@1" in chance:
            ax.axhline(chance["R@1"], color=MUTED, linewidth=1, linestyle=":")
            ax.annotate(
                "chance R@1", (x[0], chance["R@1"]), (0, 3), textcoords="offset points", fontsize=8, color=MUTED
            )
        ax.set_title(direction.replace("_", " "), loc="left", fontsize=10, color=INK)
        ax.set_xlabel("share of the gap closed")
        top = max(value for point in points for value in point.recall.values())
        ax.set_ylim(0, max(1.0, 1.18 * top))
        ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= 100])
        end_labels(ax, ends, height=2.4)
    axes[0].set_ylabel("recall (%)")
    return save_figure(figure, path)


def confusion_figure(counts_CC: npt.ArrayLike, *, names: Sequence[str], path: str | Path) -> Path:
    """Rows are true classes, columns predictions; colour is the share of the row, figures are percent of the row.

    Args:
        counts_CC: from `byol_ext.metrics.classification.confusion`.
        names: class names.
        path: PNG to write.
    """
    counts = np.asarray(counts_CC)
    classes = len(names)
    if counts.shape != (classes, classes):
        raise ValueError(f"counts are {counts.shape}, names say {classes} classes")
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = counts - np.diag(np.diag(counts))
    correct = 100 * float(np.trace(counts)) / max(1, int(counts.sum()))
    title = f"{correct:.1f} % correct"
    if wrong.sum():
        i, j = np.unravel_index(int(wrong.argmax()), wrong.shape)
        title += f"; most often “{names[int(i)]}” is taken for “{names[int(j)]}”"
    size = float(np.clip(0.42 * classes + 2.2, 4.6, 11))
    note = f"percent of each true class; N = {int(counts.sum()):,} items, {classes} classes"
    figure = new_figure(size + 1, size - 0.2, title=title, note=note)
    ax = style(figure.add_subplot(), grid=False)
    image = ax.imshow(share, cmap=BLUES, vmin=0, vmax=1)
    ax.spines[:].set_visible(False)
    font = 8 if classes <= 12 else 6.5
    short = [shorten(name, 18) for name in names]
    ax.tick_params(length=0)
    ax.set_xticks(range(classes), short, rotation=45, ha="right", rotation_mode="anchor", fontsize=font + 0.5)
    ax.set_yticks(range(classes), short, fontsize=font + 0.5)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    if classes <= 24:
        for i, j in zip(*np.nonzero(counts), strict=True):
            ink = "white" if share[i, j] > 0.55 else INK
            ax.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=font, color=ink)
    colour_bar(figure, ax, image, "share of the true class")
    return save_figure(figure, path)


def bars_with_intervals(
    bars: Sequence[Bar], *, path: str | Path, title: str, note: str, unit: str = "", decimals: int = 1
) -> Path:
    """Horizontal bars with intervals, for comparisons; the value stands at the end of each bar.

    Args:
        bars: values; equal labels stand together, one colour a series, in order of appearance.
        path: PNG to write.
        title: what is seen, such as "SLAP retrieves better than CLAP".
        note: what was measured, on how many items, what the interval is.
        unit: label of the axis.
        decimals: digits after the point.
    """
    if not bars:
        raise ValueError("no bars to draw")
    series = list(dict.fromkeys(bar.series for bar in bars))
    labels = list(dict.fromkeys(bar.label for bar in bars))
    colour_of = dict(zip(series, colours(len(series)), strict=True))
    height = 0.27 * (len(bars) + 0.7 * len(labels)) + 0.55
    legend = swatches(series) if len(series) > 1 else ()
    figure = new_figure(7.4, max(height, 1.6), title=title, note=note, legend=legend)
    ax = style(figure.add_subplot())
    ax.grid(axis="y", visible=False)
    y, ticks = 0.0, []
    for label in labels:
        members = [bar for bar in bars if bar.label == label]
        ticks.append(y + (len(members) - 1) / 2)
        for bar in members:
            _bar(ax, bar, y, colour_of[bar.series], decimals)
            y += 1.0
        y += 0.7
    ax.set_yticks(ticks, labels, fontsize=9.5, color=INK)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.axvline(0, color=MUTED, linewidth=0.8)
    ax.set_xlabel(unit)
    ax.margins(x=0.12, y=0.02)
    if min(bar.value if bar.low is None else min(bar.low, bar.value) for bar in bars) >= 0:
        ax.set_xlim(left=0)
    return save_figure(figure, path)


def _bar(ax: Axes, bar: Bar, y: float, colour: str, decimals: int) -> None:
    """The bar, its interval, its chance mark and its value."""
    ax.barh(y, bar.value, height=0.78, color=colour, linewidth=0)
    end = bar.value
    if bar.low is not None and bar.high is not None:
        ax.plot([bar.low, bar.high], [y, y], color=INK, linewidth=1.3, solid_capstyle="butt")
        ax.plot([bar.low, bar.low, bar.high, bar.high], [y] * 4, "|", color=INK, markersize=6)
        end = max(end, bar.high)
    if bar.chance is not None:
        ax.plot([bar.chance] * 2, [y - 0.46, y + 0.46], color=INK, linewidth=1.2, linestyle=(0, (2, 1.5)))
    ax.annotate(
        f"{bar.value:.{decimals}f}", (end, y), (5, 0), textcoords="offset points", fontsize=8.5, color=INK, va="center"
    )
