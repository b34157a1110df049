"""Pictures for people: a larger first-person view, the map from above, and what the level is.

Legend: ``H`` rows and ``W`` columns of a picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs._text import text_width, write_text
from envs.raycast import NO_FLOOR, TEXELS, Atlas, RaycastRenderer
from envs.zipf.labyrinth.levels import Level
from envs.zipf.labyrinth.looks import SKIES, VOID
from envs.zipf.labyrinth.state import State, row_of, scene_of
from envs.zipf.labyrinth.text import detokenize

VIEW = (288, 384)
"""Rows and columns of the first-person part."""
_MAP, _MARGIN, _STRIP, _TEXT = 276, 6, 42, 2
_INK, _PAPER, _HOLE = (236, 236, 230), (24, 24, 28), (46, 52, 70)
_AGENT = (255, 255, 255)


class Picture:
    """Draws sub-environments as ``[H, W, 3]`` uint8: the view on the left, the map on the right, text below.

    Args:
        atlas: The labyrinth's.
    """

    def __init__(self, atlas: Atlas) -> None:
        self._renderer = RaycastRenderer(atlas, SKIES, size=VIEW)
        self._sprites = np.stack([_bytes(sprite) for sprite in atlas.sprite])
        self._opaque = np.stack([sprite.T > 0 for sprite in atlas.sprite])
        surfaces = np.stack([_bytes(surface) for surface in atlas.surface]).reshape(len(atlas.surface), -1, 3).mean(1)
        seen = np.where(atlas.height >= 1, atlas.side, atlas.top)
        self._colour = surfaces[seen].astype(np.uint8)
        self._colour[atlas.height == NO_FLOOR] = _HOLE

    def draw(self, state: State, e: int, level: Level, *, probability: float) -> NDArray[np.uint8]:
        """One sub-environment.

        Args:
            state: Of the batch.
            e: Which one.
            level: Its level.
            probability: Of the level under the active split.
        """
        one = row_of(state, e)
        view = np.zeros((1, *VIEW, 3), np.uint8)
        self._renderer.render(scene_of(one), view)
        picture = np.full((VIEW[0] + _STRIP, VIEW[1] + _MAP + 2 * _MARGIN, 3), _PAPER, np.uint8)
        picture[: VIEW[0], : VIEW[1]] = view[0]
        above = self._map(one)
        rows, columns = above.shape[:2]
        top, left = _MARGIN + (_MAP - rows) // 2, VIEW[1] + _MARGIN + (_MAP - columns) // 2
        picture[top : top + rows, left : left + columns] = above
        self._write(picture, one, level, probability)
        return picture

    def _map(self, one: State) -> NDArray[np.uint8]:
        """The map from above with its things and the agent's heading."""
        agent, used = one.agents[0], one.cells[0] != VOID
        rows, columns = used.any(1).nonzero()[0][-1] + 1, used.any(0).nonzero()[0][-1] + 1
        scale = int(_MAP // max(rows, columns))
        picture = self._colour[one.cells[0, :rows, :columns]].repeat(scale, axis=0).repeat(scale, axis=1)
        picture[::scale] = picture[::scale] // 8 * 7
        picture[:, ::scale] = picture[:, ::scale] // 8 * 7
        for thing in one.things[0]:
            if thing.texture >= 0:
                self._stamp(picture, thing.texture, thing.x * scale, thing.y * scale, max(round(0.9 * scale), 8))
        self._point(picture, agent.x * scale, agent.y * scale, agent.angle, scale)
        return picture

    def _stamp(self, picture: NDArray[np.uint8], sprite: int, x: float, y: float, size: int) -> None:
        texel = np.arange(size) * TEXELS // size
        rows, columns = int(y - size / 2) + np.arange(size), int(x - size / 2) + np.arange(size)
        inside = np.outer(_within(rows, len(picture)), _within(columns, picture.shape[1]))
        shown = inside & self._opaque[sprite][np.ix_(texel, texel)]
        at = np.nonzero(shown)
        picture[rows[at[0]], columns[at[1]]] = self._sprites[sprite][texel[at[0]], texel[at[1]]]

    @staticmethod
    def _point(picture: NDArray[np.uint8], x: float, y: float, angle: float, scale: int) -> None:
        """A white arrowhead with a dark rim."""
        rows, columns = np.mgrid[: len(picture), : picture.shape[1]]
        ahead = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
        aside = np.abs((rows - y) * np.cos(angle) - (columns - x) * np.sin(angle))
        for reach, colour in ((1.0, (20, 20, 20)), (0.72, _AGENT)):
            length = max(0.6 * scale, 7) * reach
            picture[(ahead > -0.7 * length) & (ahead < length) & (aside < 0.42 * (length - ahead))] = colour

    def _write(self, picture: NDArray[np.uint8], one: State, level: Level, probability: float) -> None:
        agent, instruction = one.agents[0], detokenize(one.tokens[0])
        first = f"{level.name}  (p={probability:.3f})"
        lines = first, instruction if instruction else "", f"score {agent.score:g}"
        for k, (text, column) in enumerate(((lines[0], _MARGIN), (lines[1], _MARGIN))):
            write_text(picture, text, row=VIEW[0] + 8 + 16 * k, column=column, scale=_TEXT, colour=_INK)
        column = picture.shape[1] - _MARGIN - text_width(lines[2], _TEXT)
        write_text(picture, lines[2], row=VIEW[0] + 8, column=column, scale=_TEXT, colour=_INK)


def _bytes(texture: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Words ``[U, U]`` by (across, down) to ``[U, U, 3]`` uint8 by (down, across)."""
    return np.stack([texture.T >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def _within(index: NDArray[np.integer], size: int) -> NDArray[np.bool_]:
    return (index >= 0) & (index < size)
