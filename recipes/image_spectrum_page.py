"""The page of ``byol-ext image spectrum``: figures of latents and predictor, each with what it shows.

Legend: ``N`` pictures, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from torch import Tensor

from byol_ext.metrics.hull import HullFraction
from byol_ext.metrics.predictor_spectrum import NULL_SHARE, PredictorSpectrum, filter_fit
from byol_ext.spectral_filters import filter_response
from byol_ext.training import Run
from byol_ext.training.curves import read_metrics
from byol_ext.training.figure_style import (
    BLUES,
    INK,
    MUTED,
    PALETTE,
    colours,
    end_labels,
    new_figure,
    save_figure,
    style,
    swatches,
)
from byol_ext.training.report import Report
from recipes.image_spectrum import Filter, RunSpectrum, second_moment, theories

_WIDTH, _HEIGHT = 5.2, 3.1
_WATCHED = {
    "polar_distance": "distance from an orthogonal matrix",
    "binary_error": "distance of singular values from {0, 1}",
    "stable_rank": "stable rank",
    "asymmetry": "asymmetry",
}
_FLOOR = 1e-12


def write_page(run: Run, found: RunSpectrum, runs: Mapping[str, Path]) -> Path:
    """All figures and tables of a run.

    Args:
        run: Where to write.
        found: What was measured.
        runs: Runs to draw beside it, itself among them, by what tells them apart.

    Returns:
        Path of ``spectrum.html``.
    """
    method, folder = found.config.method.name, run.figures / "spectrum"
    report = Report(f"Spectrum of {run.name}", subtitle=f"{method} on {found.config.data.train}")
    report.section("Latents")
    report.figure(latents_figure(found, path=folder / "latents.png"), caption="How many directions are in use")
    names = ("rankme", "rankme_y", "std_sqrt_d")
    rows = [
        {"": label, **{name: found.metrics[f"{label}/{name}"] for name in names}} for label in ("trained", "untrained")
    ]
    report.table(rows, caption=f"{len(found.trained.y_ND)} training pictures; rankme of z, rankme_y of y")
    if found.predictors:
        report.section("The linear predictor")
        _predictor_part(report, found, folder)
        curves = orthogonality_figure(runs, path=folder / "orthogonality.png")
        if curves is not None:
            report.figure(curves, caption="A projection is symmetric, and its singular values are 0 and 1")
    report.section("Closed forms on this run's latents")
    report.figure(
        filters_figure(found, path=folder / "filters.png"), caption="Dots: the formula in float32; line: theory"
    )
    if found.hull:
        report.section("Interpolation")
        report.figure(hull_figure(found.hull, path=folder / "hull.png"), caption="In many dimensions nothing is inside")
    report.section("Augmentation")
    shifts = sorted(name for name in found.metrics if name.startswith("augmentation/"))
    report.table(
        [
            {"map": name.split("/")[1], "trained": found.metrics[name], "untrained": found.metrics[f"untrained/{name}"]}
            for name in shifts
        ],
        caption="mean |J A|² over the variance of y: 0 invariant, 1 as far as another picture, to first order",
    )
    return report.save(run.path / "spectrum.html")


def _predictor_part(report: Report, found: RunSpectrum, folder: Path) -> None:
    last = found.predictors[max(found.predictors)]
    report.figure(
        eigenvalues_figure(found.predictors, path=folder / "eigenvalues.png"),
        caption="Theory: they go to 0 and 1 (2302.04817)",
    )
    report.figure(gains_figure(last, found, path=folder / "gains.png"), caption="What it has learned of the spectrum")
    rows = [
        {"filter": name, "scale": fit.scale, "ridge": fit.ridge, "R²": fit.r2}
        for name, kind in theories(found.kind).items()
        for fit in [filter_fit(last, kind)]
    ]
    report.table(rows, caption="gain = scale · filter(s) + ridge, least squares over eigenvectors")
    values = {k.removeprefix("predictor/"): v for k, v in found.metrics.items() if k.startswith("predictor/")}
    report.table([{k: v for k, v in values.items() if "/" not in k}], caption="The predictor as a matrix")


def latents_figure(found: RunSpectrum, *, path: Path) -> Path:
    """Singular values of latents over their largest, trained and untrained, on a logarithmic scale."""
    trained, untrained = found.metrics["trained/rankme"], found.metrics["untrained/rankme"]
    figure = new_figure(
        _WIDTH * 1.5, _HEIGHT, title=f"RankMe of z: {trained:.1f} trained, {untrained:.1f} untrained",
        note=f"{len(found.trained.y_ND)} training pictures, not centred",
        legend=swatches(["trained", "untrained"], lines=True),
    )  # fmt: skip
    axes = figure.subplots(1, 2)
    for ax, name in zip(axes, ("y", "z"), strict=True):
        style(ax)
        for colour, latent in zip(PALETTE[:2], (found.trained, found.untrained), strict=True):
            sigma = torch.linalg.svdvals((latent.y_ND if name == "y" else latent.z_ND).double())
            ax.semilogy(_relative(sigma), color=colour, linewidth=2)
        ax.set_title("representation y" if name == "y" else "projection z", fontsize=9.5, color=INK)
        ax.set_xlabel("direction")
    axes[0].set_ylabel("singular value, of the largest")
    return save_figure(figure, path)


def eigenvalues_figure(predictors: Mapping[int, PredictorSpectrum], *, path: Path) -> Path:
    """Sorted eigenvalues of the predictor over its norm, a line for each checkpoint, later ones darker."""
    steps = sorted(predictors)
    figure = new_figure(
        _WIDTH, _HEIGHT, title="Eigenvalues of the linear predictor", note=f"divided by its norm; checkpoints at steps "
        f"{steps[0]:,} to {steps[-1]:,}, later ones darker",
    )  # fmt: skip
    ax = style(figure.add_subplot())
    for place, step in enumerate(steps):
        found = predictors[step]
        top = float(found.singular_D[0])
        values = found.eigenvalue_D / top if top > 0 else found.eigenvalue_D
        colour = BLUES(0.35 + 0.65 * (place + 1) / len(steps))
        ax.plot(range(1, len(values) + 1), values.numpy(), color=colour, linewidth=1.6)
    for level in (0, 1):
        ax.axhline(level, color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
    ax.set_xlabel("eigenvalue, largest first")
    return save_figure(figure, path)


def gains_figure(last: PredictorSpectrum, found: RunSpectrum, *, path: Path) -> Path:
    """Gain of the predictor on each eigenvector of the latents' second moment, and fitted filters of theory."""
    kinds = theories(found.kind)
    best = max(kinds, key=lambda name: filter_fit(last, kinds[name]).r2)
    figure = new_figure(
        _WIDTH, _HEIGHT, title=f"Filter of the predictor; nearest: {best}, R² {filter_fit(last, kinds[best]).r2:.2f}",
        note="darker: nearer to an eigenvector of the predictor", legend=swatches(list(kinds), lines=True),
    )  # fmt: skip
    ax = style(figure.add_subplot())
    seen_D = last.seen_D
    s_D = last.s_D[seen_D].numpy()
    for colour, kind in zip(colours(len(kinds)), kinds.values(), strict=True):
        fit = filter_fit(last, kind)
        g_D = (fit.scale * filter_response(kind, last.s_D) + fit.ridge)[seen_D].numpy()
        ax.plot(s_D, g_D, "_-", color=colour, linewidth=0.8, markersize=5, alpha=0.8)
    shade = BLUES(0.25 + 0.75 * last.alignment_D[seen_D].clamp(0, 1).numpy())
    ax.scatter(s_D, last.gain_D[seen_D].numpy(), c=shade, s=18, edgecolors=INK, linewidths=0.3, zorder=3)
    ax.set_xscale("log")
    ax.set_xlabel("eigenvalue s of the second moment of z")
    ax.set_ylabel("gain")
    return save_figure(figure, path)


def orthogonality_figure(runs: Mapping[str, Path], *, path: Path) -> Path | None:
    """How the predictors of some runs went over training; None where no run logged it."""
    logs = {label: read_metrics(folder / "metrics.jsonl") for label, folder in runs.items()}
    logs = {label: log for label, log in logs.items() if f"predictor/image/{next(iter(_WATCHED))}" in log}
    if not logs:
        return None
    names = ", ".join(logs) if len(logs) <= 3 else f"{len(logs)} runs"
    figure = new_figure(
        _WIDTH * 1.5, 2 * _HEIGHT, title="The linear predictor over training",
        note=f"singular values over the largest; {names}",
        legend=swatches(list(logs), lines=True) if 1 < len(logs) <= 6 else (),
    )  # fmt: skip
    for ax, (name, title) in zip(figure.subplots(2, 2).flat, _WATCHED.items(), strict=True):
        style(ax)
        ax.set_title(title, fontsize=9, color=INK)
        ends = []
        for colour, (label, log) in zip(colours(len(logs)), logs.items(), strict=True):
            steps, values = log[f"predictor/image/{name}"]
            ax.plot(steps, values, color=colour, linewidth=1.6)
            ends.append((float(steps[-1]), float(values[-1]), f"{label}: {values[-1]:.2f}", colour))
        end_labels(ax, ends, height=_HEIGHT - 0.8)
        ax.set_xlabel("step")
    return save_figure(figure, path)


def filters_figure(found: RunSpectrum, *, path: Path) -> Path:
    """Each closed form on the run's second moment: the matrix formula as dots on the line of scalar theory."""
    s_D = torch.linalg.eigvalsh(second_moment(found.trained.z_ND)).flip(0).clamp_min(0.0)
    worst = max(each.error for each in found.filters)
    figure = new_figure(
        _WIDTH * 1.7, 2 * 2.3, title="Spectral filters of the closed forms", note="gain over eigenvalue, each over its "
        f"largest; largest difference from theory {worst:.1e}",
    )  # fmt: skip
    for ax, each in zip(figure.subplots(2, (len(found.filters) + 1) // 2).flat, found.filters, strict=True):
        _filter_panel(style(ax), s_D, each)
    return save_figure(figure, path)


def _filter_panel(ax: Axes, s_D: Tensor, each: Filter) -> None:
    shown_D = s_D > NULL_SHARE * s_D[0]
    top = each.theory_D.abs().max()
    share_D = (s_D / s_D[0])[shown_D].numpy()
    ax.loglog(share_D, _positive(each.theory_D / top, shown_D), color=PALETTE[1], linewidth=1.6)
    ax.loglog(share_D, _positive(each.gain_D / top, shown_D), ".", color=PALETTE[0], markersize=4)
    ax.set_title(each.name, fontsize=9.5, color=INK)
    ax.set_ylim(1e-4, 2)


def hull_figure(hull: Mapping[str, Mapping[int, HullFraction]], *, path: Path) -> Path:
    """Share of test pictures inside the hull of training pictures, by number of leading principal components."""
    queries = next(iter(next(iter(hull.values())).values())).queries
    figure = new_figure(
        _WIDTH, _HEIGHT, title="Test pictures inside the hull of training pictures", note=f"{queries} test pictures; "
        "shaded: 95 % intervals",
        legend=[Line2D([], [], color=c, linewidth=2.5, label=n) for c, n in zip(PALETTE, hull, strict=False)],
    )  # fmt: skip
    ax = style(figure.add_subplot())
    for colour, shares in zip(PALETTE, hull.values(), strict=False):
        dims = sorted(shares)
        ax.fill_between(dims, [shares[k].low for k in dims], [shares[k].high for k in dims], color=colour, alpha=0.15)
        ax.plot(dims, [shares[k].inside for k in dims], ".-", color=colour, linewidth=1.8)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("leading principal components")
    ax.set_ylabel("share inside")
    return save_figure(figure, path)


def _relative(sigma: Tensor) -> np.ndarray:
    return (sigma / sigma[0].clamp_min(_FLOOR)).clamp_min(_FLOOR).numpy()


def _positive(values_D: Tensor, shown_D: Tensor) -> np.ndarray:
    return values_D[shown_D].clamp_min(_FLOOR).numpy()
