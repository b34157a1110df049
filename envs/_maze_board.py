"""Boards of the stochastic maze: from lines of text to the tables its kernels read.

Legend: ``H`` rows, ``W`` columns of the board, ``C = H * W`` cells (row-major), ``D`` doorways, ``R`` trackers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BOARD = (
    "#############################",
    "#.....o..T..o.....o.....o...#",
    "#.....o.....o.....o.....o...#",
    "#..S..o..1..o..2..o..3..o.4.#",
    "#.....o.....o.....o.....o...#",
    "#.....o.....o.....o.....o...#",
    "#############################",
)

VIEW = 5
RADIUS = VIEW // 2
BLOCK = 3
"""Cells that the block of a doorway fills."""
PLANES = ("wall", "block", "tracker", "start", "noise")
WALL_PLANE, BLOCK_PLANE, TRACKER_PLANE, START_PLANE, NOISE_PLANE = range(5)


class Board(NamedTuple):
    """The tables of a board.

    Attributes:
        to: ``[C, 5]`` int32: where noop, north, east, south and west lead if no block is there: walls keep the agent.
        row: ``[C]`` int32.
        column: ``[C]`` int32.
        tracker: ``[C]`` int32: index of the tracker there, or -1.
        door: ``[C]`` int32: index of the doorway that the cell belongs to, or -1.
        door_top: ``[D]`` int32: row of the doorway's first cell.
        door_column: ``[D]`` int32.
        door_span: ``[D]`` int32: the block's positions less one: it stands 0..span rows below `door_top`.
        seen: ``[C, 125]`` uint8: the five planes of 5 by 5 cells that an agent there sees, but for blocks and noise.
        reachable: Cells that can be reached, int32, ascending.
        rank: ``[C]`` int32: index into `reachable`, or -1.
        start: Cell of the start.
        tv: The marked cell, or -1.
    """

    to: NDArray[np.int32]
    row: NDArray[np.int32]
    column: NDArray[np.int32]
    tracker: NDArray[np.int32]
    door: NDArray[np.int32]
    door_top: NDArray[np.int32]
    door_column: NDArray[np.int32]
    door_span: NDArray[np.int32]
    seen: NDArray[np.uint8]
    reachable: NDArray[np.int32]
    rank: NDArray[np.int32]
    start: int
    tv: int


def read_board(layout: Sequence[str]) -> Board:
    """Reads a board.

    ``#`` wall, ``.`` or space floor, ``S`` start, ``1`` to ``9`` trackers, ``o`` doorway (a vertical run of at least
    four, in which a block of three oscillates), ``T`` a floor cell marked for ``noise="tv"``. Cells on the rim may be
    open: beyond the board is wall.

    Args:
        layout: Lines of equal length.

    Raises:
        ValueError: Lines of different lengths, other characters, no start or several, several ``T``, trackers that do
            not count up from 1, a doorway that is too short, or a tracker that no path reaches.
    """
    text = _characters(layout)
    width = text.shape[1]
    start = _only(text, "S")
    tv = _only(text, "T") if (text == "T").any() else -1
    tracker = _trackers(text)
    door, tops, columns, spans = _doorways(text)
    to = _transitions(text != "#")
    reachable = _reachable(to, start)
    for cell in np.flatnonzero(tracker.ravel() >= 0):
        if cell not in reachable:
            row, column = divmod(int(cell), width)
            raise ValueError(
                f"tracker {text.flat[cell]} at row {row}, column {column} cannot be reached from the start"
            )
    rank = np.full(text.size, -1, np.int32)
    rank[reachable] = np.arange(len(reachable), dtype=np.int32)
    rows_HW, columns_HW = np.indices(text.shape, dtype=np.int32)
    return Board(
        to=to,
        row=rows_HW.ravel(),
        column=columns_HW.ravel(),
        tracker=tracker.ravel(),
        door=door.ravel(),
        door_top=tops,
        door_column=columns,
        door_span=spans,
        seen=_views(text, tracker),
        reachable=reachable,
        rank=rank,
        start=start,
        tv=tv,
    )


def _characters(layout: Sequence[str]) -> NDArray[np.str_]:
    if isinstance(layout, str) or not layout:
        raise ValueError(f"layout must be a list of lines, got {layout!r}")
    for r, line in enumerate(layout):
        if len(line) != len(layout[0]) or not line:
            raise ValueError(f"layout line {r} has {len(line)} characters, line 0 has {len(layout[0])}")
        for c, character in enumerate(line):
            if character not in "#. So123456789T":
                raise ValueError(f"layout row {r}, column {c}: unknown character {character!r}; use # . S o T 1..9")
    return np.array([list(line) for line in layout])


def _only(text: NDArray[np.str_], character: str) -> int:
    found = np.flatnonzero(text == character)
    if len(found) != 1:
        raise ValueError(f"layout must have exactly one {character!r}, found {len(found)}")
    return int(found[0])


def _trackers(text: NDArray[np.str_]) -> NDArray[np.int32]:
    digits = sorted(c for c in text.ravel() if c.isdigit())
    if digits != [str(n + 1) for n in range(len(digits))]:
        raise ValueError(f"trackers must be 1, 2, .. each once, found {''.join(digits)!r}")
    tracker = np.full(text.shape, -1, np.int32)
    for n in range(len(digits)):
        tracker[text == str(n + 1)] = n
    return tracker


def _doorways(text: NDArray[np.str_]) -> tuple[NDArray[np.int32], ...]:
    door = np.full(text.shape, -1, np.int32)
    runs: list[tuple[int, int, int]] = []
    for c in range(text.shape[1]):
        for r in np.flatnonzero(text[:, c] == "o"):
            if r and text[r - 1, c] == "o":
                door[r, c] = door[r - 1, c]
                continue
            height = 1
            while r + height < len(text) and text[r + height, c] == "o":
                height += 1
            if height <= BLOCK:
                raise ValueError(
                    f"the doorway at row {r}, column {c} is {height} cells tall; "
                    f"its block of {BLOCK} needs at least {BLOCK + 1} to move"
                )
            door[r, c] = len(runs)
            runs.append((int(r), c, height - BLOCK))
    tops, columns, spans = np.array(runs, np.int32).reshape(-1, 3).T.copy()
    return door, tops, columns, spans


def _transitions(free: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Where each action leads from each cell; the rim is walled."""
    height, width = free.shape
    cell = np.arange(free.size, dtype=np.int32).reshape(free.shape)
    to = np.repeat(cell[..., None], 5, axis=-1)
    for action, (down, right) in enumerate(((-1, 0), (0, 1), (1, 0), (0, -1)), start=1):
        padded = np.pad(free, 1)[1 + down :, 1 + right :][:height, :width]
        to[padded, action] += down * width + right
    return to.reshape(-1, 5)


def _reachable(to: NDArray[np.int32], start: int) -> NDArray[np.int32]:
    """Cells that the agent can come to; doorways count as open."""
    reached, edge = {start}, [start]
    while edge:
        new = {int(cell) for cell in to[edge.pop()]} - reached
        reached |= new
        edge += new
    return np.array(sorted(reached), np.int32)


def _views(text: NDArray[np.str_], tracker: NDArray[np.int32]) -> NDArray[np.uint8]:
    planes = np.zeros((len(PLANES), *text.shape), np.uint8)
    planes[WALL_PLANE] = 255 * (text == "#")
    planes[TRACKER_PLANE] = 255 * (tracker >= 0)
    planes[START_PLANE] = 255 * (text == "S")
    padded = np.pad(planes, ((0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS)))
    padded[WALL_PLANE] = np.pad(planes[WALL_PLANE], RADIUS, constant_values=255)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (VIEW, VIEW), axis=(1, 2))
    return np.moveaxis(windows, 0, 2).reshape(text.size, -1)
