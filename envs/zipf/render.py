"""A person's view of Zipf's Gridworld: the whole board with the agent's view outlined, and the task with its rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs._text import GLYPH_HEIGHT, write_text
from envs.zipf._kernels import Law
from envs.zipf.game import Settings
from envs.zipf.law import SPLITS, Split
from envs.zipf.pictures import AGENT, FIRST_OBJECT, WALL, colour_rgb, cue_pictures, look_name, tile_pictures
from envs.zipf.world import World

_CELL = 27
_MIN_WIDTH = 464
_TEXT = 3
_LINE = GLYPH_HEIGHT * _TEXT + 4
_FLOOR_RGB, _WALL_RGB, _OUTSIDE_RGB, _PANEL_RGB = (0, 0, 0), (70, 70, 70), (24, 26, 34), (24, 26, 34)
_VIEW_RGB, _GOAL_RGB, _TEXT_RGB, _DIM_RGB = (255, 210, 60), (255, 255, 255), (235, 235, 235), (150, 155, 165)


@dataclass(frozen=True)
class Scene:
    """What there is to draw.

    Attributes:
        world: The maps.
        settings: The environment's settings.
        law: Ranks and probabilities.
        split: The split in use.
        map: The task's map.
        object: The task's object.
        position: The agent's; see `World`.
        step: Steps taken.
    """

    world: World
    settings: Settings
    law: Law
    split: Split
    map: int
    object: int
    position: int
    step: int

    @property
    def touched(self) -> bool:
        """The agent stands on an object: the episode is over."""
        return bool(self.world.tiles[self.map, self.position + self.world.centre] >= FIRST_OBJECT)

    @property
    def look(self) -> int:
        """Look of the goal."""
        return int(self.world.look[self.map, self.object])

    @property
    def outcome(self) -> str:
        """How the episode has ended, or nothing."""
        if self.touched:
            return "goal" if self.position == self.world.goal[self.map, self.object] else "wrong"
        return "timeout" if self.step >= self.settings.max_steps else ""

    def lines(self) -> list[str]:
        """The task in words: goal, ranks (from 1) and probability, step."""
        row, law = SPLITS.index(self.split), self.law
        probability = law.map_probability[row, self.map] * law.object_probability[row, self.object]
        rare = " RARE" if law.map_rare[self.map] and law.object_rare[self.object] else ""
        exponent = self.split == "zipf" and self.settings.law is None
        law_name = f"zipf, exponent {self.settings.exponent:g}" if exponent else self.split
        maps, objects = len(law.map_rank), len(law.object_rank)
        return [
            look_name(self.look).replace("_", " "),
            f"rank: map {law.map_rank[self.map] + 1}/{maps}, goal {law.object_rank[self.object] + 1}/{objects}",
            f"{law_name}: {100 * probability:.3g} %{rare}",
            f"step {self.step}/{self.settings.max_steps} {self.outcome}".rstrip(),
        ]


def draw_scene(scene: Scene) -> NDArray[np.uint8]:
    """The scene as a picture ``[H, W, 3]``: the board, and below it the goal's cue and the task in words."""
    board = _draw_board(scene)
    lines = scene.lines()
    height, width = len(lines) * _LINE + 16, max(board.shape[1], _MIN_WIDTH)
    picture = np.empty((board.shape[0] + height, width, 3), dtype=np.uint8)
    picture[:] = _PANEL_RGB
    left = (width - board.shape[1]) // 2
    picture[: board.shape[0], left : left + board.shape[1]] = board
    cue = _enlarged(cue_pictures()[scene.look], (height - 16) // 9)
    top = board.shape[0] + 8
    picture[top : top + len(cue), 8 : 8 + len(cue)] = cue
    for k, line in enumerate(lines):
        colour = _DIM_RGB if k else _TEXT_RGB
        write_text(picture, line, row=top + k * _LINE + 3, column=24 + len(cue), scale=_TEXT, colour=colour)
    return picture


def _draw_board(scene: Scene) -> NDArray[np.uint8]:
    """The board in its margin of floor that the view can reach."""
    world = scene.world
    pad, stride = world.view // 2, world.stride
    tiles = world.tiles[scene.map].copy()
    if not scene.touched:
        tiles[scene.position + world.centre] = AGENT
    pictures = tile_pictures()
    pictures[WALL] = _WALL_RGB
    cells = _enlarged(pictures, _CELL // 9)[tiles.reshape(-1, stride)]
    rows, columns = cells.shape[:2]
    inside = np.zeros((rows, columns), dtype=bool)
    inside[pad : rows - pad, pad : columns - pad] = True
    cells[~inside] = _OUTSIDE_RGB
    board = cells.swapaxes(1, 2).reshape(rows * _CELL, columns * _CELL, 3)
    goal_row, goal_column = divmod(int(world.goal[scene.map, scene.object]) + world.centre, stride)
    _outline(board, goal_row, goal_column, 1, thickness=2, colour=_GOAL_RGB)
    _outline(board, *world.cell(scene.position), world.view, thickness=3, colour=_VIEW_RGB)
    cut = (pad - 1) * _CELL
    return board[cut : len(board) - cut, cut : board.shape[1] - cut] if cut else board


def _outline(
    board: NDArray[np.uint8], row: int, column: int, cells: int, *, thickness: int, colour: tuple[int, int, int]
) -> None:
    square = board[row * _CELL : (row + cells) * _CELL, column * _CELL : (column + cells) * _CELL]
    square[:thickness] = square[-thickness:] = square[:, :thickness] = square[:, -thickness:] = colour


def _enlarged(pictures: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    return pictures.repeat(scale, axis=-3).repeat(scale, axis=-2)


def write_scene(scene: Scene) -> str:
    """The scene as text with terminal colours: ``A`` agent, letters objects, a lit background the agent's view.

    The goal is underlined. Without the colours' escape sequences the board is that of `Map.text`, the agent moved.
    """
    world, m = scene.world, scene.world.maps[scene.map]
    row, column = world.cell(scene.position)
    letters = [list(line) for line in m.text().replace("A", " ").splitlines()]
    looks = dict(zip(m.objects, world.look[scene.map].tolist(), strict=True))
    if not scene.touched:
        letters[row][column] = "A"
    reach = world.view // 2
    text = []
    for r, line in enumerate(letters):
        for c, letter in enumerate(line):
            codes = ["48;5;238"] if max(abs(r - row), abs(c - column)) <= reach else []
            if (r, c) in looks:
                codes.append("38;2;{};{};{}".format(*colour_rgb(looks[r, c])))
            if (r, c) == m.objects[scene.object]:
                codes.append("1;4")
            text.append(f"\x1b[{';'.join(codes)}m{letter}\x1b[0m" if codes else letter)
        text.append("\n")
    return "".join(text) + "\n".join(scene.lines())
