"""Pictures of the video recipe: derivatives, neighbours and saliency.

Legend: ``R`` videos (rows), ``Q`` queries, ``N`` gallery, ``K`` neighbours, ``D`` width, ``T`` frames, ``H, W`` their
size, ``C`` channels (1 or 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from byol_ext.training.figure_style import INK, MUTED, PALETTE, colour_bar, new_figure, save_figure, shorten
from byol_ext.video.derivatives import finite_difference
from byol_ext.video.saliency import frame_difference_mask, share_inside

SIGNED = LinearSegmentedColormap.from_list("byol_signed", [PALETTE[0], "#f7f7f5", PALETTE[1]])
TIME = LinearSegmentedColormap.from_list("byol_time", ["#fde725", "#f98e3c", "#c63a73", "#5b1a8b"])
HEAT = LinearSegmentedColormap.from_list("byol_heat", ["#000000", "#7a1f6d", "#e0533d", "#fca50a", "#fcffa4"])
RIGHT, WRONG = PALETTE[2], PALETTE[1]
MAX_FRAMES = 8
SAME = 2 / 255
"""Greatest change of a pixel that counts as none."""
_GAP = 0.06


def derivative_strips(clips_RTHWC: npt.NDArray[np.uint8], names: Sequence[str], *, path: str | Path, note: str) -> Path:
    """Consecutive frames of videos above their first and second differences.

    Args:
        clips_RTHWC: Pictures; at most 8 frames of each are drawn.
        names: A name a video.
        path: PNG to write.
        note: Line below the title.
    """
    clips = _checked(clips_RTHWC, names)[:, :MAX_FRAMES]
    grey = torch.from_numpy(clips).float().mean(-1) / 255.0
    labels = ("frames", "order 1", "order 2")
    differences = [grey, finite_difference(grey, 1, dim=1), finite_difference(grey, 2, dim=1)]
    empty = 100 * float((differences[1].abs() <= SAME).float().mean())
    title = f"One difference empties {empty:.0f} % of the picture; what changes stays"
    figure, axes = _strips(len(clips), clips.shape[1], clips.shape[2:4], group=3, title=title, note=note)
    top = max(float(np.quantile(difference.abs(), 0.999)) for difference in differences[1:]) or 1.0
    for row, name in enumerate(names):
        for order in range(3):
            ax = axes[3 * row + order]
            frames = SIGNED(differences[order][row].numpy() / (2 * top) + 0.5)[..., :3] if order else _rgb(clips[row])
            _draw_strip(ax, frames, columns=clips.shape[1], label=labels[order], heading=name if order == 0 else None)
    colour_bar(figure, axes, ScalarMappable(Normalize(-top, top), SIGNED), "difference (white = 1)")
    return save_figure(figure, path)


@dataclass(frozen=True)
class Neighbours:
    """A query and the videos nearest to it.

    Attributes:
        query_THWC: Frames of the query.
        name: Its class.
        found_KTHWC: Frames of the neighbours, the nearest first.
        found_names: Their classes.
        cosines: Their similarity.
    """

    query_THWC: npt.NDArray[np.uint8]
    name: str
    found_KTHWC: npt.NDArray[np.uint8]
    found_names: Sequence[str]
    cosines: Sequence[float]


def nearest_neighbours(
    queries: Sequence[int],
    *,
    query_QD: Tensor,
    gallery_ND: Tensor,
    query_frames: Callable[[int], npt.NDArray[np.uint8]],
    gallery_frames: Callable[[int], npt.NDArray[np.uint8]],
    query_names: Sequence[str],
    gallery_names: Sequence[str],
    neighbours: int = 5,
) -> list[Neighbours]:
    """Rows of a retrieval sheet from features; only the videos that are shown are read.

    Args:
        queries: Numbers of the queries to show.
        query_QD: Features of all queries.
        gallery_ND: Features of the gallery.
        query_frames: Number of a query to its frames ``[T, H, W, C]``.
        gallery_frames: The same for the gallery.
        query_names: Class of each query.
        gallery_names: Class of each video of the gallery.
        neighbours: How many to show.
    """
    cosine = F.normalize(query_QD[list(queries)].float(), dim=1) @ F.normalize(gallery_ND.float(), dim=1).T
    best, found = cosine.topk(min(neighbours, len(gallery_ND)), dim=1)
    return [
        Neighbours(
            query_frames(query),
            query_names[query],
            np.stack([gallery_frames(i) for i in rows]),
            [gallery_names[i] for i in rows],
            values,
        )
        for query, rows, values in zip(queries, found.tolist(), best.tolist(), strict=True)
    ]


def retrieval_sheet(rows: Sequence[Neighbours], *, path: str | Path, note: str) -> Path:
    """Queries and their nearest neighbours; a frame's colour says whether the class is right.

    A still picture hides motion, so each shows what moved, coloured by when (:func:`motion_picture`).

    Args:
        rows: A query each, with equally many neighbours.
        path: PNG to write.
        note: Line below the title.
    """
    if not rows or any(len(row.found_names) != len(rows[0].found_names) for row in rows):
        raise ValueError("a retrieval sheet needs at least one query, and as many neighbours for each")
    columns = 1 + len(rows[0].found_names)
    hits = [name == row.name for row in rows for name in row.found_names]
    first = sum(row.found_names[0] == row.name for row in rows)
    title = f"{first} of {len(rows)} nearest videos are of the query's class; {sum(hits)} of all {len(hits)} shown"
    legend = [
        Patch(color=INK, label="query"),
        Patch(color=RIGHT, label="same class"),
        Patch(color=WRONG, label="other"),
    ]
    aspect = rows[0].query_THWC.shape[1] / rows[0].query_THWC.shape[2]
    width = max(1.45 * columns + 0.8, 6.4)
    figure = new_figure(width, len(rows) * (1.3 * aspect + 0.33), title=title, note=note, legend=legend)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        _picture(line[0], row.query_THWC, row.name, INK)
        for ax, clip, name, cosine in zip(line[1:], row.found_KTHWC, row.found_names, row.cosines, strict=True):
            _picture(ax, clip, f"{cosine:.2f}  {name}", RIGHT if name == row.name else WRONG)
    bar = ScalarMappable(Normalize(0, 1), TIME)
    colour_bar(figure, axes, bar, "where it moved: first to last frame")
    figure.axes[-1].set_yticks([0, 1], ["first", "last"])
    return save_figure(figure, path)


def motion_picture(clip_THWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """A clip in one picture: its background in grey, what moved coloured by time (yellow first, violet last).

    Where more than half of the picture moves at some time, as with a moving camera, it is the middle frame.

    Returns:
        ``[H, W, 3]`` in [0, 1].
    """
    step = np.quantile(np.abs(np.diff(clip_THWC.astype(np.float64), axis=0)), 0.995)
    threshold = float(np.clip(0.5 * step, 3, 20))
    moving_THW = frame_difference_mask(torch.from_numpy(clip_THWC)[None], threshold=threshold, grow=0)[0].numpy()
    if moving_THW.any(axis=0).mean() > 0.5:
        return _rgb(clip_THWC)[len(clip_THWC) // 2]
    background_HW = np.median(clip_THWC.astype(np.float64).mean(-1), axis=0) / 255.0
    picture = np.repeat(0.35 + 0.6 * background_HW[..., None], 3, axis=-1)
    for t, moving_HW in enumerate(moving_THW):
        colour = np.array(TIME(t / max(len(moving_THW) - 1, 1))[:3])
        picture[moving_HW] = 0.25 * picture[moving_HW] + 0.75 * colour
    return picture


def saliency_figure(
    clips_RTHWC: npt.NDArray[np.uint8],
    names: Sequence[str],
    *,
    saliency_RTHW: Mapping[str, npt.ArrayLike],
    mask_RTHW: npt.NDArray[np.bool_],
    path: str | Path,
    note: str,
) -> Path:
    """Where encoders look, frame by frame, and the share of it inside the mask of what moves.

    Args:
        clips_RTHWC: Pictures.
        names: A name a video.
        saliency_RTHW: Maps by encoder.
        mask_RTHW: What moves; drawn as an outline.
        path: PNG to write.
        note: Line below the title.
    """
    clips = _checked(clips_RTHWC, names)
    chosen = np.unique(np.linspace(0, clips.shape[1] - 1, min(clips.shape[1], MAX_FRAMES)).round().astype(int))
    maps = {encoder: np.asarray(saliency, dtype=np.float64) for encoder, saliency in saliency_RTHW.items()}
    shares = {
        encoder: share_inside(torch.from_numpy(saliency), torch.from_numpy(mask_RTHW)).numpy()
        for encoder, saliency in maps.items()
    }
    area_R = mask_RTHW.mean((1, 2, 3))
    means = ", ".join(f"{encoder} {100 * np.nanmean(share):.0f} %" for encoder, share in shares.items())
    title = f"Saliency on what moves in these {len(clips)} videos: {means}; its area: {100 * area_R.mean():.0f} %"
    legend = [Line2D([], [], color=PALETTE[5], linewidth=1.6, label="what moves")]
    group = 1 + len(maps)
    figure, axes = _strips(
        len(clips), len(chosen), clips.shape[2:4], group=group, title=title, note=note, legend=legend
    )
    for row, name in enumerate(names):
        _draw_strip(axes[group * row], _rgb(clips[row, chosen]), columns=len(chosen), label="frames", heading=name)
        for line, (encoder, saliency) in enumerate(maps.items(), 1):
            ax = axes[group * row + line]
            heat = saliency[row] / (np.quantile(saliency[row], 0.995) or 1.0)
            label = f"{encoder}\n{100 * shares[encoder][row]:.0f} % inside"
            pictures = HEAT(heat[chosen].clip(0, 1))[..., :3]
            _draw_strip(ax, pictures, columns=len(chosen), label=label, outline_THW=mask_RTHW[row, chosen])
    return save_figure(figure, path)


def _checked(clips_RTHWC: npt.NDArray[np.uint8], names: Sequence[str]) -> npt.NDArray[np.uint8]:
    if clips_RTHWC.ndim != 5 or clips_RTHWC.shape[-1] not in (1, 3) or len(clips_RTHWC) != len(names) or not len(names):
        raise ValueError(f"clips {clips_RTHWC.shape} and {len(names)} names: expected [R, T, H, W, 1 or 3] and R names")
    return clips_RTHWC


def _rgb(clip_THWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return np.broadcast_to(clip_THWC / 255.0, (*clip_THWC.shape[:3], 3))


def _strips(
    videos: int,
    frames: int,
    size: tuple[int, int],
    *,
    group: int,
    title: str,
    note: str,
    legend: Sequence[Line2D | Patch] = (),
) -> tuple[Figure, list[Axes]]:
    """A figure with ``group`` rows of frames for each video, the videos a little apart."""
    strip = (9.6 - 2.3) / frames * size[0] / size[1]
    figure = new_figure(9.6, videos * (group * strip + 0.42), title=title, note=note, legend=legend)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(h_pad=0.02, hspace=0.0)  # type: ignore[call-arg]
    heights = ([1.0] * group + [0.1]) * videos
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    return figure, [figure.add_subplot(grid[i]) for i, height in enumerate(heights) if height == 1.0]


def _draw_strip(
    ax: Axes,
    frames_THW3: npt.NDArray[np.float64],
    *,
    columns: int,
    label: str,
    heading: str | None = None,
    outline_THW: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Frames side by side, with room for ``columns``: frame t fills [t, t + 1 - gap] of the axis."""
    for t, frame in enumerate(frames_THW3):
        box = (t, t + 1 - _GAP, frame.shape[0] / frame.shape[1] * (1 - _GAP), 0)
        ax.imshow(frame, extent=box, interpolation="nearest")
        if outline_THW is not None and outline_THW[t].any():
            ax.contour(outline_THW[t], levels=[0.5], extent=box, origin="upper", colors=PALETTE[5], linewidths=1.1)
    ax.set_xlim(0, columns)
    ax.set_ylim(frames_THW3.shape[1] / frames_THW3.shape[2] * (1 - _GAP), 0)
    ax.set_anchor("W")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8.5, color=MUTED)
    if heading is not None:
        ax.set_title(heading, loc="left", fontsize=9.5, color=INK, pad=3)


def _picture(ax: Axes, clip_THWC: npt.NDArray[np.uint8], caption: str, colour: str) -> None:
    ax.imshow(motion_picture(clip_THWC), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set(color=colour, linewidth=2.2)
    ax.set_title(shorten(caption, 30), fontsize=6.8, color=colour, pad=3)
