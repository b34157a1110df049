"""The playroom from above, centred on the agent: tile codes and their pictures.

Legend: ``B`` sub-environments, ``V`` tiles along an edge of the view, ``s`` pixels along an edge of a tile; see also
`envs.zipf.playroom.state`.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.zipf.playroom.looks import AGENT_CODE, COVERED, FIRST_OBJECT
from envs.zipf.playroom.state import MAP, RIGHT_ANGLE, SLOTS, WALL


class Pictures(NamedTuple):
    """Pictures of tiles, their pixels as rows of bytes.

    Attributes:
        tile: ``[codes, s, 3 * s]`` uint8.
        held: ``[1 + N, s, 3 * s]`` uint8: what the hand holds; the first is nothing.
    """

    tile: NDArray[np.uint8]
    held: NDArray[np.uint8]


class Canvas(NamedTuple):
    """Where the observations go.

    Attributes:
        tiles: ``[B, V, V]`` uint8.
        held: ``[B]`` uint8.
        image: ``[B, V * s, V * s * 3]`` uint8; ``[0, 0, 0]`` if pictures are not observed.
    """

    tiles: NDArray[np.uint8]
    held: NDArray[np.uint8]
    image: NDArray[np.uint8]


@njit(nogil=True, cache=True)
def show_rows(pictures, state, canvas, rows, wanted, lo, hi):
    """Draws every ``lo <= e < hi`` with ``rows[e] == wanted``."""
    for e in range(lo, hi):
        if rows[e] == wanted:
            agent, tiles = state.agents[e], canvas.tiles[e]
            _show_tiles(agent, state.things[e], state.cells[e], tiles)
            held = 1 + state.things[e, agent.held].kind if agent.held >= 0 else 0
            canvas.held[e] = held
            if len(canvas.image) > 0:
                _show_image(pictures, tiles, held, canvas.image[e])


@njit(nogil=True, cache=True)
def _show_tiles(agent, things, cells, tiles):
    view = len(tiles)
    top, left = int(agent.y) - view // 2, int(agent.x) - view // 2
    for i in range(view):
        for j in range(view):
            inside = 0 <= top + i < MAP and 0 <= left + j < MAP
            tiles[i, j] = cells[top + i, left + j] if inside else WALL
    for s in range(SLOTS):
        if things[s].texture >= 0:
            i, j = int(things[s].y) - top, int(things[s].x) - left
            if 0 <= i < view and 0 <= j < view:
                tiles[i, j] = FIRST_OBJECT + things[s].kind
    tiles[view // 2, view // 2] = AGENT_CODE + agent.heading // RIGHT_ANGLE
    tiles[view - 1, view - 1] = COVERED


@njit(nogil=True, cache=True)
def _show_image(pictures, tiles, held, image):
    view, size, row_bytes = len(tiles), pictures.tile.shape[1], pictures.tile.shape[2]
    tile, hand = pictures.tile, pictures.held
    for i in range(view):
        for j in range(view):
            code = np.int64(tiles[i, j])
            for r in range(size):
                for k in range(row_bytes):
                    value = hand[held, r, k] if code == COVERED else tile[code, r, k]
                    image[i * size + r, j * row_bytes + k] = value
