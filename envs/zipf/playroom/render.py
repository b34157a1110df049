"""The playroom for people: a larger first-person view, the room from above, and the task in words.

Legend: ``H`` rows and ``W`` columns of a picture, ``s`` pixels a cell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs._frame import Frame
from envs._text import GLYPH_HEIGHT, write_text
from envs.raycast import TEXELS, Atlas, RaycastRenderer
from envs.zipf.law import SPLITS
from envs.zipf.playroom.game import Game
from envs.zipf.playroom.lexicon import LEXICON, Item
from envs.zipf.playroom.looks import SKY, tile_pictures
from envs.zipf.playroom.state import BED, MAP, PILLOW, SLOTS, TRAY, WALL, row_of, scene_of

VIEW = (324, 432)
"""Rows and columns of the first-person part."""
_CELL = 27
_TEXT, _MARGIN = 2, 8
_LINE = GLYPH_HEIGHT * _TEXT + 6
_INK, _DIM, _PANEL = (240, 240, 234), (160, 164, 172), (26, 26, 30)
_TARGET = (255, 236, 60)
_LETTERS = {WALL: "#", PILLOW: "B", BED: "B", TRAY: "T"}
_ARROWS = "→↘↓↙←↖↑↗"


class Painter:
    """Draws sub-environments as ``[H, W, 3]`` uint8.

    Args:
        atlas: The playroom's, for `draw_view`.
    """

    def __init__(self, atlas: Atlas | None = None) -> None:
        self._renderer = None if atlas is None else RaycastRenderer(atlas, [SKY], size=VIEW)
        self._tiles = tile_pictures(_CELL)
        texel = np.arange(_CELL) * TEXELS // _CELL
        self._sprites = np.stack([item.picture()[np.ix_(texel, texel)] for item in LEXICON])

    def draw_view(self, game: Game, frame: Frame, e: int) -> NDArray[np.uint8]:
        """First-person view on the left, the room from above on the right, the task below."""
        assert self._renderer is not None, "made with an atlas"
        view = np.zeros((1, *VIEW, 3), np.uint8)
        self._renderer.render(scene_of(row_of(game.state, e)), view)
        return _with_text(np.concatenate([view[0], self._board(game, e)], axis=1), describe(game, frame, e))

    def draw_board(self, game: Game, frame: Frame, e: int) -> NDArray[np.uint8]:
        """The room from above, the task below."""
        return _with_text(self._board(game, e), describe(game, frame, e))

    def _board(self, game: Game, e: int) -> NDArray[np.uint8]:
        """All cells, objects and the agent; the object asked for in a yellow frame."""
        agent, things = game.state.agents[e], game.state.things[e]
        picture = self._tiles[game.state.cells[e]].swapaxes(1, 2).reshape(MAP * _CELL, MAP * _CELL, 3)
        for s in range(SLOTS - 1, -1, -1):
            if things[s].texture >= 0:
                self._stamp(picture, things[s].kind, things[s].x, things[s].y, framed=s == 0)
        _point(picture, agent.x * _CELL, agent.y * _CELL, float(agent.angle))
        if agent.held >= 0:
            self._stamp(picture, things[agent.held].kind, MAP - 0.5, MAP - 0.5, framed=agent.held == 0)
        return picture

    def _stamp(self, picture: NDArray[np.uint8], kind: int, x: float, y: float, *, framed: bool) -> None:
        top, left = int((y - 0.5) * _CELL), int((x - 0.5) * _CELL)
        window = picture[top : top + _CELL, left : left + _CELL]
        sprite = self._sprites[kind]
        window[sprite[..., 3] > 0] = sprite[..., :3][sprite[..., 3] > 0].astype(np.uint8)
        if framed:
            window[:2] = window[-2:] = window[:, :2] = window[:, -2:] = _TARGET


def describe(game: Game, frame: Frame, e: int) -> list[str]:
    """The task in words: instruction, look and rank of the object, law, how it goes."""
    info, settings = frame.info, game.settings
    item, kind = LEXICON[info["task_id"][e]], int(info["task_id"][e])
    law = game.split if game.split != "zipf" else f"zipf, exponent {settings.exponent:g}"
    law = "own law" if settings.law is not None else law
    probability = 100 * game.law.probability[SPLITS.index(game.split), kind]
    ended = f", {info['outcome'][e]}" if info["outcome"][e] else ""
    return [
        str(info["instruction"][e]),
        _look(item),
        f"rank {info['ranks'][e, 0] + 1}/{settings.num_objects}{', rare' if info['is_rare'][e] else ''}",
        f"{law}: {probability:.3g} %{ended}",
    ]


def write_room(game: Game, frame: Frame, e: int) -> str:
    """The room as text: ``#`` walls, ``B`` bed, ``T`` tray, an arrow for the agent, letters for objects; then the task.

    ``a`` is the object asked for. What is in the hand is not on the map.
    """
    agent, things = game.state.agents[e], game.state.things[e]
    board = [[_LETTERS.get(code, ".") for code in row] for row in game.state.cells[e].tolist()]
    legend = []
    for s in range(SLOTS):
        if things[s].kind >= 0:
            item, letter = LEXICON[things[s].kind], chr(ord("a") + s)
            legend.append(f"{letter} {item.name}: {_look(item)}{' (held)' if agent.held == s else ''}")
            if things[s].texture >= 0:
                board[int(things[s].y)][int(things[s].x)] = letter
    board[int(agent.y)][int(agent.x)] = _ARROWS[round(agent.heading / 3) % 8]
    return "\n".join(["".join(row) for row in board] + legend + describe(game, frame, e))


def _look(item: Item) -> str:
    return f"{item.colour} {item.shape}, {item.pattern}"


def _point(picture: NDArray[np.uint8], x: float, y: float, angle: float) -> None:
    """A white arrowhead with a dark rim."""
    rows, columns = np.mgrid[: len(picture), : picture.shape[1]]
    ahead = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    aside = np.abs((rows - y) * np.cos(angle) - (columns - x) * np.sin(angle))
    for reach, colour in ((0.5, (20, 20, 20)), (0.36, (255, 255, 255))):
        length = reach * _CELL
        picture[(ahead > -0.7 * length) & (ahead < length) & (aside < 0.45 * (length - ahead))] = colour


def _with_text(picture: NDArray[np.uint8], lines: list[str]) -> NDArray[np.uint8]:
    """Lines below a picture."""
    strip = np.full((len(lines) * _LINE + 2 * _MARGIN, picture.shape[1], 3), _PANEL, np.uint8)
    for k, line in enumerate(lines):
        colour = _DIM if k else _INK
        write_text(strip, line, row=_MARGIN + k * _LINE + 3, column=_MARGIN, scale=_TEXT, colour=colour)
    return np.concatenate([picture, strip])
