"""Figures of a text diffusion run: warp, cross-entropy along it, frontier, training on a fixed grid.

All are at most 4.3 inches wide, so that two stand side by side on a page and one stays readable on a telephone.

Legend: ``G`` grid of noise levels, ``B`` bins of quantiles, ``N`` logged steps, ``K`` noise levels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from byol_ext.training.figure_style import (
    BLUES,
    INK,
    MUTED,
    PALETTE,
    colours,
    end_labels,
    new_figure,
    save_figure,
    shorten,
    style,
)
from byol_ext.training.figures import read_metrics

Array = npt.NDArray[np.floating]
Kind = Literal["model", "nonsense", "real"]
SCORE_NAMES = {"ar_nll": "AR-NLL", "ngram_nll": "n-gram NLL"}
"""What scores generated text, by flat name."""
_WIDTH, _HEIGHT = 4.3, 2.9
_CURVE = re.compile(r"(?:.*/)?curve/(?:t=(?P<t>.+)|nats)")


@dataclass(frozen=True)
class TextRow:
    """One source of text: the model, a sampler of nonsense, or real text.

    Attributes:
        name: What it is called.
        kind: Which of the three.
        metrics: What :func:`byol_ext.metrics.text.text_metrics` and ``word_shares`` return, ``ar_nll``, ``ngram_nll``.
    """

    name: str
    kind: Kind
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class WarpView:
    """The law of noise levels, and what the model makes of it on held-out text.

    Attributes:
        t_G: Noise levels, rising.
        cdf_G: ``F`` there.
        u_B: Middles of the bins of ``u`` (spec: 20).
        ce_B: Held-out cross-entropy at ``F^-1(u)``, nats a noised token.
        plateau: The H of the wanted curve ``H S(u)``.
        deviation: ``max |CE - H S(u)| / H``.
        ce_se_B: Standard errors of ``ce_B``.
        shape_B: ``S(u_B)``; default: ``u``, a straight line.
        note: N and split.
    """

    t_G: Array
    cdf_G: Array
    u_B: Array
    ce_B: Array
    plateau: float
    deviation: float
    ce_se_B: Array | None = None
    shape_B: Array | None = None
    note: str = ""


@dataclass(frozen=True)
class TrainingView:
    """Held-out loss while the model trained: at fixed noise levels, or the likelihood of a model that has none.

    Attributes:
        step_N: Updates.
        t_K: Noise levels, rising; a single nan for the likelihood.
        ce_NK: Nats a noised token.
        note: N and split.
    """

    step_N: npt.NDArray[np.int64]
    t_K: Array
    ce_NK: Array
    note: str = ""


@dataclass(frozen=True)
class FrontierPoint:
    """Samples at one setting of the sampler.

    Attributes:
        series: What was varied, such as ``score temperature`` or ``steps``; points of a series are joined in order.
        label: The setting, such as ``0.9``.
        metrics: ``ar_nll`` and/or ``ngram_nll``, ``entropy_pooled``, ``entropy_sequence``.
    """

    series: str
    label: str
    metrics: Mapping[str, float]


def training_view(metrics_path: str | Path, *, note: str = "") -> TrainingView | None:
    """The curves ``curve/t=...`` or ``curve/nats`` of a run's ``metrics.jsonl``; None if it has neither.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    curves: dict[float, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = {}
    for name, series in read_metrics(metrics_path).items():
        match = _CURVE.fullmatch(name)
        if match is not None:
            curves[float(match["t"] or "nan")] = series
    if not curves:
        return None
    t_K = np.array(sorted(curves))
    step_N = np.unique(np.concatenate([steps for steps, _ in curves.values()]))
    ce_NK = np.full((len(step_N), len(t_K)), np.nan)
    for k, t in enumerate(sorted(curves)):
        steps, values = curves[t]
        ce_NK[np.searchsorted(step_N, steps), k] = values
    return TrainingView(step_N, t_K, ce_NK, note)


def warp_figure(view: WarpView, *, path: str | Path) -> Path:
    """The CDF of the noise levels over log t; the middle half of them is shaded."""
    low, high = np.interp([0.25, 0.75], view.cdf_G, view.t_G)
    figure = new_figure(
        _WIDTH, _HEIGHT, title=f"Half of the noise levels lie in {low:.3g} to {high:.3g}", note="shaded: that half",
        legend=[
            Line2D([], [], color=PALETTE[0], linewidth=2, label="the warp F"),
            Line2D([], [], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="uniform in log t"),
        ],
    )  # fmt: skip
    ax = style(figure.add_subplot())
    ax.axvspan(low, high, color=PALETTE[0], alpha=0.1, linewidth=0)
    ax.plot([view.t_G[0], view.t_G[-1]], [0, 1], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    ax.plot(view.t_G, view.cdf_G, color=PALETTE[0], linewidth=2)
    ax.set_xscale("log")
    ax.set_xlim(view.t_G[0], view.t_G[-1])
    ax.set_ylim(0, 1.02)
    _log_ticks(ax)
    ax.set_xlabel("noise level t")
    ax.set_ylabel("share of levels below")
    return save_figure(figure, path)


def cross_entropy_figure(view: WarpView, *, path: str | Path) -> Path:
    """Held-out cross-entropy over the quantiles of the warp, beside the curve that the warp is fitted to."""
    wanted, symbol = ("straight line", "H u") if view.shape_B is None else ("wanted curve", "H S(u)")
    bars = "; bars: 2 standard errors" if view.ce_se_B is not None else ""
    figure = new_figure(
        _WIDTH, _HEIGHT, title=f"Off the {wanted} by {100 * view.deviation:.0f} % of H at most",
        note=f"H = {view.plateau:.2f} nats{bars}",
        legend=[
            Line2D([], [], color=PALETTE[0], marker="o", markersize=4, linewidth=1.5, label="held-out text"),
            Line2D([], [], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label=f"{wanted} {symbol}"),
        ],
    )  # fmt: skip
    ax = style(figure.add_subplot())
    u, shape = (np.array([0.0, 1.0]),) * 2 if view.shape_B is None else (view.u_B, view.shape_B)
    ax.plot(u, view.plateau * shape, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    ax.errorbar(
        view.u_B, view.ce_B, yerr=None if view.ce_se_B is None else 2 * view.ce_se_B, color=PALETTE[0], marker="o",
        markersize=4, linewidth=1.5, elinewidth=1,
    )  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("quantile u of the noise level")
    ax.set_ylabel("cross-entropy, nats a noised token")
    return save_figure(figure, path)


def training_figure(view: TrainingView, *, path: str | Path) -> Path:
    """Held-out loss over updates, a line for each noise level, dark for much noise."""
    levels = np.isfinite(view.t_K)
    first_K, last_K = view.ce_NK[0], view.ce_NK[-1]
    # The level at which half is known tells most about the model: far below it all is, far above it nothing.
    half = int(np.argmin(np.abs(np.nan_to_num(last_K, nan=np.inf) - 0.5 * np.nanmax(last_K))))
    if levels.all():
        title = f"At t = {view.t_K[half]:.3g} from {first_K[half]:.2f} to {last_K[half]:.2f} nats"
        note = "held-out cross-entropy at fixed noise levels"
        shades = [to_hex(BLUES(0.35 + 0.65 * k / max(len(view.t_K) - 1, 1))) for k in range(len(view.t_K))]
    else:
        title = f"Held-out loss: from {first_K[0]:.2f} to {last_K[0]:.2f} nats"
        note = "averaged weights, nats a token"
        shades = [PALETTE[0]]
    figure = new_figure(_WIDTH, _HEIGHT + 0.4, title=title, note=note)
    ax = style(figure.add_subplot())
    ends: list[tuple[float, float, str, str]] = []
    for t, ce_N, shade in zip(view.t_K, view.ce_NK.T, shades, strict=True):
        seen = np.isfinite(ce_N)
        if not seen.any():
            continue
        ax.plot(view.step_N[seen], ce_N[seen], color=shade, linewidth=1.8, marker="o" if seen.sum() == 1 else None)
        name = f"t = {t:.3g}" if math.isfinite(t) else f"{ce_N[seen][-1]:.2f}"
        ends.append((float(view.step_N[seen][-1]), float(ce_N[seen][-1]), name, INK))
    ax.set_ylim(bottom=min(0.0, float(np.nanmin(view.ce_NK))))
    ax.margins(x=0.02)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel("update")
    ax.set_ylabel("nats a noised token" if levels.all() else "nats a token")
    end_labels(ax, ends, height=_HEIGHT - 0.1)
    return save_figure(figure, path)


def frontier_figure(
    points: Sequence[FrontierPoint], texts: Sequence[TextRow], *, score: str, entropy: str, path: str | Path
) -> Path:
    """Score of samples against their entropy: sweeps as lines, nonsense as crosses, real text as a star.

    Args:
        points: The sweeps.
        texts: Nonsense and real text; the model's own rows are left to the sweeps.
        score: ``ar_nll`` or ``ngram_nll``.
        entropy: ``entropy_pooled`` or ``entropy_sequence``.
        path: PNG to write.

    Raises:
        ValueError: If no point of a sweep has both.
    """
    drawn = [point for point in points if has(point.metrics, score, entropy)]
    marks = [row for row in texts if row.kind != "model" and has(row.metrics, score, entropy)]
    if not drawn:
        raise ValueError(f"no point of a sweep has {score} and {entropy}")
    series = list(dict.fromkeys(point.series for point in drawn))
    legend = [
        Line2D([], [], color=colour, marker="o", markersize=4, linewidth=1.5, label=shorten(name, 18))
        for name, colour in zip(series, colours(len(series)), strict=True)
    ]
    real = next((row for row in marks if row.kind == "real"), None)
    title, note = "Score against entropy", f"{len(drawn)} settings"
    if real is not None:
        nearest = min(drawn, key=lambda point: abs(point.metrics[entropy] - real.metrics[entropy]))
        title = f"At like entropy: {nearest.metrics[score]:.2f} nats, real text {real.metrics[score]:.2f}"
        note = f"nearest to real text of {len(drawn)} settings: {nearest.series} {nearest.label}"
    figure = new_figure(_WIDTH, _HEIGHT + 0.6, title=title, note=note, legend=legend)
    ax = style(figure.add_subplot())
    labels: list[tuple[float, float, str, str]] = []
    for name, colour in zip(series, colours(len(series)), strict=True):
        x, y, settings = zip(
            *((p.metrics[entropy], p.metrics[score], p.label) for p in drawn if p.series == name), strict=True
        )
        ax.plot(x, y, color=colour, marker="o", markersize=4, linewidth=1.5)
        labels += [(x[i], y[i], settings[i], colour) for i in sorted({0, len(x) - 1})]
    for row in marks:
        marker, size, colour = ("*", 11, INK) if row.kind == "real" else ("x", 6, MUTED)
        ax.plot([row.metrics[entropy]], [row.metrics[score]], marker=marker, markersize=size, color=colour)
        labels.append((row.metrics[entropy], row.metrics[score], row.name, colour))
    ax.margins(x=0.06, y=0.14)
    low, high = ax.get_xlim()
    ax.set_xlim(low, high + 0.2 * (high - low))
    end_labels(ax, [(x, y, f" {text}", colour) for x, y, text, colour in labels], height=_HEIGHT)
    ax.set_xlabel({"entropy_pooled": "pooled", "entropy_sequence": "sequence"}.get(entropy, entropy) + " entropy, nats")
    ax.set_ylabel(SCORE_NAMES.get(score, score) + ", nats a token")
    return save_figure(figure, path)


def has(metrics: Mapping[str, float], *names: str) -> bool:
    """Whether all of these metrics are there and finite."""
    return all(math.isfinite(metrics.get(name, math.nan)) for name in names)


def _log_ticks(ax: Axes) -> None:
    """Plain numbers at the decades, and at their thirds where there are few."""
    low, high = ax.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**d for d in decades for factor in (1, 3)]
    ax.set_xticks([tick for tick in ticks if low <= tick <= high])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
