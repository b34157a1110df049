"""Pictures of exploration: rooms and cells over time, curves of several agents, frames with their intrinsic reward.

Legend: ``T`` steps, ``H, W`` picture size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image, ImageDraw, ImageFont

from byol_ext.training.figure_style import (
    BLUES,
    INK,
    MUTED,
    PALETTE,
    colour_bar,
    colours,
    new_figure,
    save_figure,
    style,
    swatches,
)

Frames = Sequence[npt.NDArray[np.uint8]]

MONTEZUMA_ROWS = ((0, 1, 2), (3, 4, 5, 6, 7), (8, 9, 10, 11, 12, 13, 14), (15, 16, 17, 18, 19, 20, 21, 22, 23))
"""The pyramid of a level's 24 rooms, row by row from the top; play begins in room 1."""


def montezuma_map(
    cells: Mapping[int, int], first_step: Mapping[int, int], *, frames_per_step: int, path: str | Path, note: str
) -> Path:
    """The pyramid of rooms: colour says how often each part of a room was seen, the text when the room was first.

    Args:
        cells: Transitions spent in each cell, by ``(level * 24 + room) << 8 | x // 16 << 4 | y // 16`` with the
            player's position in the RAM, where ``y`` grows upwards.
        first_step: Environment step of the first visit by ``level * 24 + room``.
        frames_per_step: Emulator frames of a step.
        path: PNG to write.
        note: Line below the title.
    """
    boards: dict[int, npt.NDArray[np.float64]] = {}
    for cell, count in cells.items():
        boards.setdefault(cell >> 8, np.zeros((16, 16)))[cell & 15, cell >> 4 & 15] = count
    levels = sorted({room // 24 for room in boards}) or [0]
    plural = "" if len(boards) == 1 else "s"
    title = f"Montezuma's Revenge: {len(boards)} room{plural} seen, {len(cells)} cells of 16 x 16 positions"
    figure = new_figure(9.6, 3.6 * len(levels), title=title, note=note)
    norm = LogNorm(1, max(*cells.values(), 10))
    for position, level in enumerate(levels):
        ax = figure.add_subplot(len(levels), 1, position + 1)
        for row, rooms in enumerate(MONTEZUMA_ROWS):
            for column, room in enumerate(rooms):
                x, y = column - len(rooms) / 2, -row
                _room(ax, x, y, room, boards.get(level * 24 + room), norm=norm)
                first = first_step.get(level * 24 + room)
                if first is not None:
                    text = f"first: {_short(first * frames_per_step)} frames"
                    ax.text(x + 0.5, y + 0.13, text, ha="center", va="top", fontsize=5.5, color=INK)
        ax.set_xlim(-4.6, 4.6)
        ax.set_ylim(-3.1, 1.05)
        ax.set_title(f"level {level + 1}", loc="left", fontsize=9, color=MUTED)
        ax.set_axis_off()
        image = ax.scatter([], [], c=[], cmap=BLUES, norm=norm)
        colour_bar(figure, ax, image, "steps spent in the cell")
    return save_figure(figure, path)


def _room(ax, x, y, room, board, *, norm) -> None:  # type: ignore[no-untyped-def]
    """A room's box with its number and, where it was seen, its cells: x // 16 in 0..9, y // 16 in 8..15."""
    seen = board is not None
    face = "white" if seen else "#f3f5f7"
    ax.add_patch(Rectangle((x + 0.04, y + 0.16), 0.92, 0.8, facecolor=face, edgecolor="#b8c0c8", linewidth=0.8))
    if seen:
        edges = np.linspace(x + 0.04, x + 0.96, 11), np.linspace(y + 0.16, y + 0.96, 9)
        ax.pcolormesh(*edges, np.ma.masked_equal(board[8:, :10], 0), cmap=BLUES, norm=norm)
    colour = INK if seen else MUTED
    number = ax.text(x + 0.08, y + 0.91, str(room), ha="left", va="top", fontsize=8, color=colour, fontweight="bold")
    number.set_path_effects([withStroke(linewidth=2, foreground="white")])


def board_map(
    visits: npt.ArrayLike,
    *,
    walls: npt.ArrayLike,
    marks: Mapping[tuple[int, int], str],
    title: str,
    note: str,
    path: str | Path,
    panels: Sequence[str] = (),
) -> Path:
    """Visits of a grid world's cells, logarithmic, one board or several side by side in time.

    Args:
        visits: ``[H, W]`` or ``[P, H, W]`` counts.
        walls: ``[H, W]`` bool.
        marks: Letters on cells (row, column).
        title: What is seen.
        note: N and method.
        path: PNG to write.
        panels: A title for each board.
    """
    counts = np.atleast_3d(np.asarray(visits, float).T).T if np.ndim(visits) == 2 else np.asarray(visits, float)
    wall = np.asarray(walls, bool)
    height, width = wall.shape
    figure = new_figure(9.0, (9.0 / width * height + 0.35) * len(counts), title=title, note=note)
    norm = LogNorm(1, max(float(counts.max()), 10))
    for index, board in enumerate(counts):
        ax = figure.add_subplot(len(counts), 1, index + 1)
        image = ax.imshow(np.ma.masked_less(board, 1), cmap=BLUES, norm=norm, interpolation="nearest")
        ax.imshow(np.ma.masked_where(~wall, np.full(wall.shape, 0.35)), cmap="gray", vmin=0, vmax=1)
        for (row, column), text in marks.items():
            ax.text(column, row, text, ha="center", va="center", fontsize=8, color=PALETTE[1], fontweight="bold")
        if panels:
            ax.set_title(panels[index], loc="left", fontsize=9, color=MUTED)
        ax.set_xticks([])
        ax.set_yticks([])
        colour_bar(figure, ax, image, "steps in the cell")
    return save_figure(figure, path)


def rooms_over_time(
    steps: npt.ArrayLike, rooms: npt.ArrayLike, visits: npt.ArrayLike, *, path: str | Path, note: str
) -> Path:
    """Time in each room, a row a room in the order of first visits.

    Args:
        steps: Last frame of each interval ``[n]``.
        rooms: Room ids ``[r]``.
        visits: Transitions ``[n, r]``.
        path: PNG to write.
        note: Line below the title.
    """
    at, names, counts = np.asarray(steps, float), np.asarray(rooms), np.asarray(visits, float)
    seen_at = np.array([np.flatnonzero(column)[0] for column in counts.T])
    order = np.argsort(seen_at, kind="stable")
    share = (counts / np.maximum(counts.sum(1, keepdims=True), 1)).T[order]
    figure = new_figure(9.0, 1.2 + 0.3 * len(names), title=f"{len(names)} rooms over time", note=note)
    ax = style(figure.add_subplot(), grid=False)
    edges = np.concatenate([[0], at])
    image = ax.pcolormesh(
        edges, np.arange(len(names) + 1), np.ma.masked_equal(share, 0), cmap=BLUES, norm=LogNorm(1e-4, 1)
    )
    ax.set_yticks(np.arange(len(names)) + 0.5, [f"room {name}" for name in names[order]], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("frames")
    colour_bar(figure, ax, image, "share of the time")
    return save_figure(figure, path)


def agent_curves(
    curves: Mapping[str, Mapping[str, Sequence[tuple[npt.ArrayLike, npt.ArrayLike]]]],
    *,
    title: str,
    note: str,
    xlabel: str,
    ylabel: str,
    path: str | Path,
    columns: int = 3,
    limits: tuple[float, float] | None = None,
) -> Path:
    """One panel a condition, one line an agent: mean over seeds, shaded from the least to the greatest.

    Args:
        curves: condition -> agent -> (x, y) of each seed; seeds of an agent have equal x.
        title: What is seen.
        note: N and method.
        xlabel: Label of the last row.
        ylabel: Label of the first column.
        path: PNG to write.
        columns: Panels in a row.
        limits: Range of y.
    """
    names = list(dict.fromkeys(name for panel in curves.values() for name in panel))
    palette = dict(zip(names, colours(len(names)), strict=True))
    columns = min(columns, len(curves))
    rows = -(-len(curves) // columns)
    figure = new_figure(3.4 * columns, 2.3 * rows, title=title, note=note, legend=swatches(names, lines=True))
    for position, (condition, agents) in enumerate(curves.items()):
        ax = style(figure.add_subplot(rows, columns, position + 1))
        ax.set_title(condition, loc="left", fontsize=9, color=INK)
        for name, seeds in agents.items():
            x = np.asarray(seeds[0][0], float)
            y = np.stack([np.asarray(values, float) for _, values in seeds])
            ax.plot(x, y.mean(0), color=palette[name], linewidth=1.8)
            ax.fill_between(x, y.min(0), y.max(0), color=palette[name], alpha=0.15, linewidth=0)
        ax.locator_params(axis="x", nbins=4)
        if limits is not None:
            ax.set_ylim(*limits)
        if position % columns == 0:
            ax.set_ylabel(ylabel)
        if position >= len(curves) - columns:
            ax.set_xlabel(xlabel)
    return save_figure(figure, path)


def annotated_frames(
    frames: Frames, reward_T: npt.ArrayLike, captions: Sequence[str], *, marks_T: npt.ArrayLike | None = None,
    width: int = 480
) -> list[npt.NDArray[np.uint8]]:  # fmt: skip
    """Frames with a caption line and, below, a strip chart of the intrinsic reward up to the frame.

    Args:
        frames: ``T + 1`` pictures ``[H, W, 3]``: the first observation and the one after each step.
        reward_T: Intrinsic reward of each step.
        captions: A line a frame.
        marks_T: True where a distraction was on; drawn as a band under the chart.
        width: Width of the result; the height follows.
    """
    reward = np.asarray(reward_T, float)
    top = float(reward.max()) if len(reward) and reward.max() > 0 else 1.0
    marks = None if marks_T is None else np.asarray(marks_T, bool)
    font = ImageFont.load_default(13)
    pictures = []
    for index, (frame, caption) in enumerate(zip(frames, captions, strict=True)):
        scale = width / frame.shape[1]
        height = round(frame.shape[0] * scale) // 2 * 2
        canvas = Image.new("RGB", (width, height + 84), "white")
        canvas.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (0, 0))
        draw = ImageDraw.Draw(canvas)
        draw.text((6, height + 3), caption, fill=INK, font=font)
        _strip(draw, reward, marks, index, (6, height + 24, width - 6, height + 78), top)
        pictures.append(np.asarray(canvas))
    return pictures


def _strip(
    draw: ImageDraw.ImageDraw,
    reward: npt.NDArray[np.float64],
    marks: npt.NDArray[np.bool_] | None,
    now: int,
    box: tuple[int, int, int, int],
    top: float,
) -> None:
    left, upper, right, lower = box
    draw.rectangle(box, fill="#f7f9fa", outline="#d5dae0")
    span = max(len(reward) - 1, 1)
    pixels = right - left
    for column in range(pixels):
        start, end = int(column * len(reward) / pixels), max(int((column + 1) * len(reward) / pixels), 1)
        part = reward[start : max(end, start + 1)]
        if not len(part):
            continue
        level = int((lower - upper - 20) * min(part.max() / top, 1.0))  # below the label
        colour = PALETTE[0] if start < now else "#d3dde6"
        draw.line([(left + column, lower - 4), (left + column, lower - 4 - level)], fill=colour)
        if marks is not None and marks[start : max(end, start + 1)].any():
            draw.line([(left + column, lower - 3), (left + column, lower)], fill=PALETTE[1])
    x = left + round(pixels * min(now / (span + 1), 1.0))
    draw.line([(x, upper), (x, lower)], fill=INK)
    draw.text((left + 3, upper + 1), f"intrinsic reward, top {top:.2f}", fill=MUTED, font=ImageFont.load_default(10))


def contact_sheet(
    pictures: Frames, captions: Sequence[str], *, path: str | Path, columns: int = 5, width: int = 200
) -> Path:
    """Pictures with captions in a grid.

    Args:
        pictures: ``[H, W, 3]`` of equal size.
        captions: A line each.
        path: PNG to write.
        columns: Pictures in a row.
        width: Width of a picture.
    """
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    height = round(pictures[0].shape[0] * width / pictures[0].shape[1])
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + 8) + 8, rows * (height + 28) + 8), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = 8 + index % columns * (width + 8), 8 + index // columns * (height + 28)
        sheet.paste(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST), (x, y))
        draw.text((x, y + height + 3), caption, fill=INK, font=font)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def write_video(frames: Frames, path: str | Path, *, fps: int = 15) -> Path:
    """Frames as ``.mp4`` (with PyAV, of the extra ``vididi``) or ``.gif`` (always).

    Args:
        frames: ``[H, W, 3]`` uint8, even sizes for mp4.
        path: Its suffix says which.
        fps: Frames a second.

    Raises:
        ValueError: For another suffix.
        ImportError: For mp4 without PyAV; the message names the extra.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        images = [Image.fromarray(frame).quantize(64) for frame in frames]
        images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
        return path
    if path.suffix != ".mp4":
        raise ValueError(f"a video is .mp4 or .gif, not {path.name!r}")
    from byol_ext._extras import require

    av = require("av", extra="vididi")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def _short(number: float) -> str:
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {suffix}"
    return f"{number:.0f}"
