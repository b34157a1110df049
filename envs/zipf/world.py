"""Static tables of a gridworld: what the kernels, the renderers and the exact dynamic programme read.

A position is the flat index of the view's upper left corner in the padded board, ``row * stride + column`` for the
agent on cell (row, column): the board is padded by ``view // 2`` with floor, as the original draws what lies outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.zipf.generator import Cell, Map, Sizes, generate
from envs.zipf.pictures import FIRST_OBJECT, FLOOR, WALL, look_of

ACTIONS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
MOVES: tuple[Cell, ...] = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


@dataclass(frozen=True)
class World:
    """Tables of all maps.

    Attributes:
        maps: The maps themselves.
        view: Width of the square view in cells, odd.
        tiles: ``[maps, (rows + view - 1) * stride]`` uint8 tile codes of the padded boards, without the agent.
        next: ``[maps, rows * stride, 8]`` int32: position after each action.
        start: ``[maps]`` int32: the agent's first position.
        goal: ``[maps, objects]`` int32: positions of the objects.
        look: ``[maps, objects]`` uint8: ``15 * shape + colour``.
    """

    maps: tuple[Map, ...]
    view: int
    tiles: NDArray[np.uint8]
    next: NDArray[np.int32]
    start: NDArray[np.int32]
    goal: NDArray[np.int32]
    look: NDArray[np.uint8]

    @property
    def shape(self) -> Cell:
        """Rows and columns of a board, outer walls included."""
        return self.maps[0].walls.shape

    @property
    def stride(self) -> int:
        """Columns of the padded board."""
        return self.shape[1] + self.view - 1

    @property
    def centre(self) -> int:
        """Offset from a position to the agent's cell in ``tiles``."""
        return self.view // 2 * (self.stride + 1)

    def cell(self, position: int) -> Cell:
        """Row and column on the board."""
        return divmod(int(position), self.stride)


def published_maps(num_maps: int, sizes: Sizes, map_seed: int = 1234) -> tuple[Map, ...]:
    """Maps seeded ``map_seed + i``; the defaults of `Sizes` and 1234 give the 20 published ones."""
    return tuple(generate(sizes, map_seed + i) for i in range(num_maps))


def build_world(maps: Sequence[Map], view: int) -> World:
    """Tables of maps of equal size and number of objects, seen through a ``view`` x ``view`` window."""
    pad, (rows, columns) = view // 2, maps[0].walls.shape
    stride = columns + 2 * pad
    boards = np.full((len(maps), rows + 2 * pad, stride), FLOOR, dtype=np.uint8)
    look = np.array([[look_of(*look) for look in m.looks] for m in maps], dtype=np.uint8)
    for m, board, looks in zip(maps, boards, look, strict=True):
        inner = board[pad : pad + rows, pad : pad + columns]
        inner[m.walls] = WALL
        for cell, one in zip(m.objects, looks, strict=True):
            inner[cell] = FIRST_OBJECT + one
    return World(
        maps=tuple(maps),
        view=view,
        tiles=boards.reshape(len(maps), -1),
        next=np.stack([_transitions(m.walls, stride) for m in maps]),
        start=np.array([r * stride + c for r, c in (m.agent for m in maps)], dtype=np.int32),
        goal=np.array([[r * stride + c for r, c in m.objects] for m in maps], dtype=np.int32),
        look=look,
    )


def _transitions(walls: NDArray[np.bool_], stride: int) -> NDArray[np.int32]:
    """``[rows * stride, 8]``: walls block, and a diagonal is blocked between two walls (one is fine)."""
    (rows, columns), around = walls.shape, np.pad(walls, 1, constant_values=True)
    position = np.arange(rows * stride, dtype=np.int32).reshape(rows, stride)
    table = np.repeat(position[..., None], len(MOVES), axis=-1)

    def wall_at(dr: int, dc: int) -> NDArray[np.bool_]:
        return around[1 + dr : 1 + dr + rows, 1 + dc : 1 + dc + columns]

    for action, (dr, dc) in enumerate(MOVES):
        blocked = wall_at(dr, dc) | (wall_at(dr, 0) & wall_at(0, dc) if dr and dc else False)
        table[:, :columns, action] += np.where(blocked, 0, dr * stride + dc).astype(np.int32)
    return table.reshape(-1, len(MOVES))
