"""Figures of the image recipe: the views of some pictures, and a comparison of methods.

Legend: ``R`` pictures shown, ``V`` views, ``c, M, M`` what the encoder sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.utils.data import default_collate

from byol_ext.images.clutter_digits import ClutterDigits
from byol_ext.images.data import Images, collate
from byol_ext.ledger import BadSampleLedger
from byol_ext.training.figure_style import INK, MUTED, PALETTE, new_figure, save_figure, shorten, style
from recipes.image_config import CLUTTER, ImageConfig
from recipes.image_data import Prepare, Splits

SHOWN, SHOWN_VIEWS = 6, 8


def views_figure(config: ImageConfig, splits: Splits, *, path: Path) -> Path:
    """Some training pictures, evenly spaced, in the views that the encoder is given.

    Args:
        config: The recipe's configuration.
        splits: The pictures.
        path: PNG to write.
    """
    train, count = splits.train, len(splits.train)
    rows = _spread(count, SHOWN)
    if isinstance(train, ClutterDigits):
        batch = default_collate([train[i] for i in rows])
    else:
        pictures = Images(train, seed=config.seed)
        batch = collate([pictures[i] for i in rows])
    views, _ = Prepare(config, splits, ledger=BadSampleLedger(max_bad_fraction=1.0))(batch, 0)
    names = list(views)[:SHOWN_VIEWS]
    figure = new_figure(
        1.1 * len(rows) + 0.6, 1.1 * len(names), title="What the encoder is given",
        note=f"views of {len(rows)} of {count:,} training pictures; {len(views)} views a picture",
    )  # fmt: skip
    axes = figure.subplots(len(names), len(rows), squeeze=False)
    for row, name in zip(axes, names, strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", color=MUTED, fontsize=9)
        for ax, x_cMM in zip(row, views[name], strict=True):
            ax.imshow(_picture(x_cMM, config), cmap="gray", vmin=0.0, vmax=1.0)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
    return save_figure(figure, path)


def _picture(x_cMM: Tensor, config: ImageConfig) -> np.ndarray:
    """Pixels in [0, 1] of a normalised picture, ``[M, M, c]`` or ``[M, M]``."""
    x_cMM = x_cMM.detach().float().cpu()
    if config.data.train != CLUTTER:
        mean_c11, std_c11 = (torch.tensor(v)[:, None, None] for v in (config.augment.mean, config.augment.std))
        x_cMM = x_cMM * std_c11 + mean_c11
    pixels = x_cMM.clamp(0.0, 1.0).permute(1, 2, 0).numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _spread(count: int, shown: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(shown, count)).astype(int)).tolist()


@dataclass(frozen=True)
class Panel:
    """A metric of a comparison.

    Attributes:
        title: What it is called.
        digits: Decimals of the printed mean.
    """

    title: str
    digits: int = 1


def comparison_figure(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    panels: Sequence[Panel],
    references: Mapping[str, float],
    title: str,
    note: str,
    path: Path,
) -> Path:
    """Arms in rows, the best on top, a panel for each metric: mean, and a bar from the least to the greatest seed.

    Args:
        values: Arm -> title of a panel -> its value for each seed; the first panel decides the order.
        panels: What is drawn.
        references: Controls by name: dashed lines in the first panel.
        title: What is seen.
        note: N and method.
        path: PNG to write.

    Raises:
        ValueError: If there is no arm.
    """
    if not values:
        raise ValueError("no arm to draw")
    first = panels[0].title
    order = sorted(values, key=lambda arm: -float(np.mean(values[arm].get(first) or [-np.inf])))
    figure = new_figure(2.4 + 2.3 * len(panels), 0.27 * len(order) + 0.8, title=title, note=note)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        style(ax)
        ax.set_title(panel.title, fontsize=9.5, color=INK)
        for y, arm in enumerate(order):
            if found := values[arm].get(panel.title):
                _dot(ax, y, found, panel.digits)
        ax.margins(x=0.2)
    for name, value in references.items():
        axes[0].axvline(value, color=MUTED, linewidth=1, linestyle=(0, (3, 2)), zorder=1)
        axes[0].annotate(
            name, (value, len(order) - 0.45), (2, 2), textcoords="offset points", fontsize=7, color=MUTED, rotation=90
        )
    axes[0].set_yticks(range(len(order)), [shorten(arm, 30) for arm in order], fontsize=8.5, color=INK)
    axes[0].set_ylim(len(order) - 0.4, -0.6)
    return save_figure(figure, path)


def _dot(ax: Axes, y: int, values: Sequence[float], digits: int) -> None:
    mean = float(np.mean(values))
    ax.plot([min(values), max(values)], [y, y], color=PALETTE[0], linewidth=2, alpha=0.45, solid_capstyle="round")
    ax.plot([mean], [y], "o", color=PALETTE[0], markersize=5)
    ax.annotate(
        f"{mean:.{digits}f}", (max(values), y), (6, 0), textcoords="offset points", fontsize=7.5, color=INK, va="center"
    )
