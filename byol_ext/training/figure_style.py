"""The look of every figure: palette, header, axes, labels, and an atomic save.

Object-oriented matplotlib on the Agg canvas: no pyplot, no global state, no display. Colours are Okabe and Ito's, which
people with any colour vision can tell apart.
"""

import os
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
AUDIO, TEXT = PALETTE[0], PALETTE[1]
INK, MUTED, GRID = "#1f2933", "#66727f", "#e4e7eb"
BLUES = LinearSegmentedColormap.from_list("byol_blues", ["#f7fafc", "#9ecae1", "#2b7bba", "#08306b"])
DPI = 200
HEADER_INCHES = 0.66
LEGEND_INCHES = 0.26


def new_figure(width: float, height: float, *, title: str, note: str, legend: Sequence[Line2D | Patch] = ()) -> Figure:
    """An empty white figure with a title that says what is seen, and a line below it with N and method.

    Args:
        width: inches.
        height: inches below the header, which is added on top.
        title: shortened to the width.
        note: second line, smaller, shortened to the width.
        legend: labelled handles, one row below the note, left-aligned with it.
    """
    header = HEADER_INCHES + (LEGEND_INCHES if legend else 0.0)
    height += header
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0.01, 0.01, 0.98, 1 - header / height - 0.01), h_pad=0.07, w_pad=0.07)  # type: ignore[call-arg]
    left = 0.14 / width
    title, note = shorten(title, int(11.5 * width)), shorten(note, int(15.5 * width))
    figure.text(left, 1 - 0.13 / height, title, fontsize=12, fontweight="bold", color=INK, va="top")
    figure.text(left, 1 - 0.42 / height, note, fontsize=9, color=MUTED, va="top")
    if legend:
        row = figure.legend(
            handles=list(legend), loc="upper left", bbox_to_anchor=(left, 1 - 0.6 / height), ncols=len(legend),
            frameon=False, fontsize=9, labelcolor=INK, handlelength=1.3, handleheight=0.8, handletextpad=0.5,
            columnspacing=1.6, borderpad=0, borderaxespad=0.3,
        )  # fmt: skip
        row.set_in_layout(False)
    return figure


def style(ax: Axes, *, grid: bool = True) -> Axes:
    """Quiet axes: no box, light grid behind the data, small muted ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#b8c0c8")
    ax.tick_params(labelsize=8, colors=MUTED, length=3, color="#b8c0c8")
    ax.tick_params(which="minor", length=0)
    ax.xaxis.label.set(color=MUTED, fontsize=9)
    ax.yaxis.label.set(color=MUTED, fontsize=9)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(color=GRID, linewidth=0.7)
    return ax


def colours(count: int) -> list[str]:
    """The first colours of the palette, repeated beyond six."""
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def end_labels(ax: Axes, labels: Sequence[tuple[float, float, str, str]], *, height: float) -> None:
    """Write a name at the right end of every line, in its colour, moved apart where they would overlap.

    Args:
        ax: axes with their final limits and scale.
        labels: (x, y, text, colour) of every line.
        height: approximate height of the axes in inches.
    """
    points = 72 * height
    to_axes = ax.transScale + ax.transLimits
    want = {i: float(to_axes.transform((x, y))[1]) * points for i, (x, y, _, _) in enumerate(labels)}
    placed = dict(want)
    order = sorted(want, key=lambda i: want[i])
    for _ in range(50):
        for lower, upper in pairwise(order):
            overlap = 10.5 - (placed[upper] - placed[lower])
            if overlap > 0:
                placed[lower] -= overlap / 2
                placed[upper] += overlap / 2
    for i, (x, y, text, colour) in enumerate(labels):
        ax.annotate(
            text, (x, y), (5, placed[i] - want[i]), textcoords="offset points", fontsize=8.5, color=colour,
            va="center", annotation_clip=False,
        )  # fmt: skip


def swatches(names: Sequence[str], *, lines: bool = False) -> list[Line2D | Patch]:
    """Legend handles of series in palette order."""
    return [
        Line2D([], [], color=colour, linewidth=2.5, label=name) if lines else Patch(color=colour, label=name)
        for name, colour in zip(names, colours(len(names)), strict=True)
    ]


def colour_bar(figure: Figure, ax: Axes, image: ScalarMappable, label: str) -> None:
    """A slim colour bar to the right."""
    bar = figure.colorbar(image, ax=ax, shrink=0.6, aspect=26, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=MUTED, length=0)
    bar.set_label(label, fontsize=8.5, color=MUTED)


def shorten(text: str, width: int) -> str:
    """Cut a string to `width` characters with an ellipsis.

    >>> shorten("a long name", 7)
    'a long…'
    """
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG under a temporary name in the same folder, then rename it: a reader never sees half a file."""
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"figures are PNG files: give a name that ends in .png, not {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".png", dir=path.parent)
    os.close(handle)
    try:
        figure.savefig(temporary, dpi=DPI, facecolor="white")
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path
