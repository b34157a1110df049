"""The maps of Zipf's Gridworld: with the default sizes and ``seed = 1234 + i``, map ``i`` is the published one.

Written from a description of the original's random draws, not from its code. What is drawn, in what order and with
which call is part of the definition; so is the order of CPython's sets of small integers (rooms, row-major), which
decides the order of some draws.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLOURS = (
    *("red", "green", "blue", "purple", "orange", "yellow", "brown", "pink"),
    *("cyan", "dark_green", "dark_red", "dark_blue", "teal", "lavender", "rose"),
)
SHAPES = (
    *("triangle", "empty_square", "plus", "inverse_plus", "ex", "inverse_ex", "circle", "empty_circle"),
    *("tee", "upside_down_tee", "h", "u", "upside_down_u", "vertical_stripes", "horizontal_stripes"),
)
MAX_OBJECTS = len(COLOURS) * len(SHAPES)
Cell = tuple[int, int]
Links = dict[Cell, list[Cell]]
# The original draws 10 pairs more than it needs, again and again until enough differ, which for more than about 70
# objects would never end: after this many misses we draw more pairs each time.
_PUBLISHED_ATTEMPTS = 100


@dataclass(frozen=True)
class Sizes:
    """Layout of one map: a grid of equal rooms inside one-cell walls.

    Attributes:
        rooms: Rows and columns of rooms.
        room: Height and width of a room in cells.
        objects: Objects in the map, each of another look.

    Raises:
        ValueError: If a size is below 1, there are more objects than looks, or objects and agent cannot all stand on
            the walls' inner rim.
    """

    rooms: Cell = (3, 3)
    room: Cell = (3, 3)
    objects: int = 20

    def __post_init__(self) -> None:
        for what, sizes in (("num_rooms", self.rooms), ("room_size", self.room), ("num_objects", (self.objects,))):
            if min(sizes) < 1:
                raise ValueError(f"{what} must be at least 1, got {sizes if len(sizes) > 1 else sizes[0]}")
        if self.objects > MAX_OBJECTS:
            raise ValueError(f"there are {MAX_OBJECTS} looks for num_objects={self.objects} objects")

    @property
    def shape(self) -> Cell:
        """Rows and columns of the board, outer walls included."""
        return self.rooms[0] * (self.room[0] + 1) + 1, self.rooms[1] * (self.room[1] + 1) + 1


@dataclass(frozen=True)
class Map:
    """One map.

    Attributes:
        walls: ``[rows, columns]`` bool.
        agent: Cell where every episode starts.
        objects: Cells in rank order.
        looks: (colour, shape) of each object, in rank order.
    """

    walls: NDArray[np.bool_]
    agent: Cell
    objects: tuple[Cell, ...]
    looks: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """The board, a line per row: ``#`` wall, ``A`` agent, ``B C D ...`` objects in rank order.

        Objects past ``Z`` go on through the alphabets that follow in Unicode order.
        """
        board = np.where(self.walls, "#", " ")
        board[self.agent] = "A"
        for k, cell in enumerate(self.objects):
            board[cell] = chr(ord("B") + k)
        return "\n".join("".join(row) for row in board)


def generate(sizes: Sizes, seed: int) -> Map:
    """Draw one map.

    Args:
        sizes: The layout.
        seed: Of the map; the original uses 1234 + index.

    Raises:
        ValueError: If objects and agent need more cells than the map has (cells at a room's rim, not beside a door).

    Example:
        >>> print(generate(Sizes(rooms=(1, 2), objects=3), seed=0).text())
        #########
        #D C#B A#
        #   #   #
        #       #
        #########
    """
    rng = np.random.default_rng(seed)
    links = _link_each_room(rng, sizes.rooms)
    _connect(rng, links, sizes.rooms)
    walls, doors = _open_doors(rng, links, sizes)
    cells = _free_cells(sizes, doors)
    if len(cells) < sizes.objects + 1:
        raise ValueError(
            f"{sizes.objects} objects and the agent need {sizes.objects + 1} cells, but only {len(cells)} lie at a "
            f"room's rim and not beside a door (num_rooms={sizes.rooms}, room_size={sizes.room}, seed {seed})"
        )
    rng.shuffle(cells)
    looks = _draw_looks(rng, sizes.objects)
    return Map(walls, cells[sizes.objects], tuple(cells[: sizes.objects]), looks)


def _neighbours(room: Cell, rooms: Cell) -> list[Cell]:
    """Rooms beside a room, row-major."""
    row, column = room
    beside = ((row - 1, column), (row, column - 1), (row, column + 1), (row + 1, column))
    return [(r, c) for r, c in beside if 0 <= r < rooms[0] and 0 <= c < rooms[1]]


def _link_each_room(rng: np.random.Generator, rooms: Cell) -> Links:
    """Partners of each room after every room without a door drew one neighbour."""
    links: Links = {(r, c): [] for r in range(rooms[0]) for c in range(rooms[1])}
    for room, partners in links.items():
        beside = _neighbours(room, rooms)
        if not partners and beside:
            other = beside[rng.integers(len(beside))]
            partners.append(other)
            links[other].append(room)
    return links


def _connect(rng: np.random.Generator, links: Links, rooms: Cell) -> None:
    """Join the components into one tree, in place."""
    first, *uncertain = links
    connected = [first]
    while uncertain:
        joined: set[Cell] = set()
        for room in uncertain:
            if any(room in links[other] for other in connected):
                connected.append(room)
                joined.add(room)
        if joined:
            uncertain = list(set(uncertain) - joined)
            continue
        rng.shuffle(uncertain)
        room = next(r for r in uncertain if set(_neighbours(r, rooms)) & set(connected))
        reachable = [other for other in connected if other in _neighbours(room, rooms)]
        rng.shuffle(reachable)
        links[room].append(reachable[0])
        links[reachable[0]].append(room)
        connected.append(room)
        uncertain = list(set(uncertain) - {room})


def _open_doors(rng: np.random.Generator, links: Links, sizes: Sizes) -> tuple[NDArray[np.bool_], list[Cell]]:
    """Walls ``[rows, columns]`` with one cell opened for each link, and those cells."""
    height, width = sizes.room
    walls = np.zeros(sizes.shape, dtype=bool)
    walls[:: height + 1] = walls[:, :: width + 1] = True
    doors: list[Cell] = []
    for (row, column), partners in links.items():
        top, left = row * (height + 1), column * (width + 1)
        for other in set(partners):
            if other == (row - 1, column):
                doors.append((top, left + int(rng.integers(1, width + 1))))
            elif other == (row, column - 1):
                doors.append((top + int(rng.integers(1, height + 1)), left))
    for door in doors:
        walls[door] = False
    return walls, doors


def _free_cells(sizes: Sizes, doors: list[Cell]) -> list[Cell]:
    """Cells at their room's rim and not beside a door, row-major."""
    height, width = sizes.room
    blocked = {(r + dr, c + dc) for r, c in doors for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1))}
    return [
        (r, c)
        for r in range(sizes.shape[0])
        for c in range(sizes.shape[1])
        if r % (height + 1) and c % (width + 1)
        if r % (height + 1) in (1, height) or c % (width + 1) in (1, width)
        if (r, c) not in blocked
    ]


def _draw_looks(rng: np.random.Generator, objects: int) -> tuple[tuple[str, str], ...]:
    """Distinct (colour, shape) pairs in rank order."""
    for attempt in itertools.count():
        draws = objects + 10 + objects * max(0, attempt - _PUBLISHED_ATTEMPTS)
        colours, shapes = (rng.choice(names, draws) for names in (COLOURS, SHAPES))
        looks = sorted({(str(c), str(s)) for c, s in zip(colours, shapes, strict=True)})
        rng.shuffle(looks)
        if len(looks) >= objects:
            return tuple(looks[:objects])
    raise AssertionError("unreachable")
