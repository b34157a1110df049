"""Training curves from a run's `metrics.jsonl`."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from byol_ext.training.figure_style import colours, end_labels, new_figure, save_figure, style, swatches

Steps = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
_NOT_TERMS = frozenset({"step", "time", "wall", "wall_time", "wall_s", "epoch"})


def training_curves(
    runs: Mapping[str, str | Path], *, path: str | Path, terms: Sequence[str] | None = None, smooth: int = 25
) -> Path:
    """Every logged number over steps, a panel each: faint as logged, bold smoothed, last value written at the end.

    A panel is logarithmic when its values are positive and span more than a factor of 30.

    Args:
        runs: name -> `metrics.jsonl`; several runs share the panels.
        path: PNG to write.
        terms: names to draw, in this order. Default: all numbers in the files, losses first.
        smooth: window of the centred moving average, in log entries; shorter runs use a fifth of their length.

    Raises:
        ValueError: nothing to draw.
    """
    logs = {name: read_metrics(file) for name, file in runs.items()}
    found = {term for log in logs.values() for term in log}
    drawn = list(terms) if terms is not None else sorted(found, key=lambda t: ("loss" not in t, t.count("/"), t))
    drawn = [term for term in drawn if term in found]
    if not drawn:
        raise ValueError(f"no numbers to draw in {[str(file) for file in runs.values()]}")
    columns = min(len(drawn), 3 if len(drawn) <= 12 else 4)
    lines = math.ceil(len(drawn) / columns)
    last = max(int(steps[-1]) for log in logs.values() for steps, _ in log.values())
    title = f"Training curves of {' and '.join(runs)}" if len(runs) <= 3 else f"Training curves of {len(runs)} runs"
    figure = new_figure(
        3.3 * max(columns, 2),
        2.0 * lines + 0.2,
        title=title,
        note=f"{len(drawn)} logged numbers over {last:,} steps; faint: as logged, bold: smoothed where noisy",
        legend=swatches(list(runs), lines=True) if len(runs) > 1 else (),
    )
    for position, term in enumerate(drawn):
        ax = style(figure.add_subplot(lines, columns, position + 1))
        ax.set_title(term, loc="left", fontsize=9, color="#1f2933", pad=4)
        values = np.concatenate([log[term][1] for log in logs.values() if term in log])
        finite = values[np.isfinite(values)]
        if len(finite) and finite.min() > 0 and finite.max() / finite.min() > 30:
            ax.set_yscale("log")
        ends: list[tuple[float, float, str, str]] = []
        for colour, log in zip(colours(len(logs)), logs.values(), strict=True):
            if term in log:
                ends.append(_curve(ax, *log[term], colour=colour, window=smooth))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.xaxis.set_major_formatter(FuncFormatter(_thousands))
        ax.margins(x=0.02)
        if len(finite) and finite.max() - finite.min() <= 1e-9 * abs(finite.max()):
            pad = 0.1 * abs(finite.max()) or 1.0
            ax.set_ylim(finite.min() - pad, finite.max() + pad)
        end_labels(ax, [end for end in ends if math.isfinite(end[1])], height=1.4)
        if position // columns == lines - 1:
            ax.set_xlabel("step", fontsize=8)
    return save_figure(figure, path)


def read_metrics(path: str | Path) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Series of a `metrics.jsonl`: name -> (steps, values), nested names joined by `/`.

    A last line that was cut off by a kill is skipped; when a resumed run logged a step twice, the later entry counts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a broken line that is not the last, or an entry without a step.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    series: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) - 1:
                break
            raise ValueError(f"{path}, line {number + 1}: not a JSON object: {error}") from error
        if not isinstance(entry, dict) or "step" not in entry:
            raise ValueError(f"{path}, line {number + 1}: expected an object with a step")
        for name, value in _flatten(entry, "").items():
            if name not in _NOT_TERMS:
                series.setdefault(name, {})[int(entry["step"])] = value
    return {
        name: (np.array(sorted(points)), np.array([points[step] for step in sorted(points)], dtype=np.float64))
        for name, points in series.items()
    }


def smoothed(values_N: Values, window: int) -> Values:
    """Centred moving average that ignores NaN; the window shrinks at both ends.

    >>> smoothed(np.array([0.0, 3.0, 6.0]), 3).tolist()
    [1.5, 3.0, 4.5]
    """
    finite = np.isfinite(values_N)
    base = float(values_N[finite][0]) if finite.any() else 0.0
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values_N - base, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    index = np.arange(len(values_N))
    low, high = np.maximum(index - window // 2, 0), np.minimum(index + window // 2 + 1, len(values_N))
    number = count[high] - count[low]
    return np.where(number > 0, base + (total[high] - total[low]) / np.maximum(number, 1), np.nan)


def _curve(ax: Axes, steps: Steps, values: Values, *, colour: str, window: int) -> tuple[float, float, str, str]:
    """Draw one series; returns where its last value stands, how it reads, and its colour."""
    bold = smoothed(values, max(1, min(window, len(values) // 5))) if _is_noisy(values) else values
    if bold is not values:
        ax.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
    ax.plot(steps, bold, color=colour, linewidth=1.8, marker="o" if len(values) == 1 else None, markersize=4)
    return float(steps[-1]), float(bold[-1]), _number(float(bold[-1])), colour


def _is_noisy(values_N: Values) -> bool:
    """Does the series run up and down more than four times its range? Schedules do not, and are drawn as they are."""
    finite = values_N[np.isfinite(values_N)]
    return len(finite) > 10 and float(np.abs(np.diff(finite)).sum()) > 4 * float(np.ptp(finite)) > 0


def _number(value: float) -> str:
    """Three significant digits, exponents only far from one."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _thousands(value: float, _position: int) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def _flatten(entry: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Numbers of a nested entry, names joined by `/`; text, lists and booleans are left out."""
    out: dict[str, float] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            out |= _flatten(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            out[f"{prefix}{key}"] = float(value)
    return out
