"""Tile pictures of Zipf's Gridworld: floor, wall, agent, every look of an object, and every goal cue.

A *look* is ``15 * shape + colour``; a tile code is 0 floor, 1 wall, 2 agent, ``3 + look`` an object, and 255 the tile
that the cue covers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.zipf.generator import COLOURS, MAX_OBJECTS, SHAPES

FLOOR, WALL, AGENT, FIRST_OBJECT, COVERED = 0, 1, 2, 3, 255
WALL_GREY, CUE_GREY = 40, 180
PUBLISHED_TILE = 9
_RGB = (
    *((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 0, 128), (255, 165, 0), (255, 255, 0), (128, 64, 0), (255, 64, 255)),
    *((0, 255, 255), (0, 100, 0), (100, 0, 0), (0, 0, 100), (0, 100, 100), (215, 200, 255), (255, 205, 230)),
)
Bytes = NDArray[np.uint8]


def look_of(colour: str, shape: str) -> int:
    """The look's number, ``15 * shape + colour``."""
    return SHAPES.index(shape) * len(COLOURS) + COLOURS.index(colour)


def look_name(look: int) -> str:
    """The look in words.

    Example:
        >>> look_name(look_of("dark_red", "tee"))
        'dark_red tee'
    """
    return f"{COLOURS[look % len(COLOURS)]} {SHAPES[look // len(COLOURS)]}"


def colour_rgb(look: int) -> tuple[int, int, int]:
    """Red, green and blue of a look, 0..255."""
    return _RGB[look % len(COLOURS)]


def shape_masks() -> NDArray[np.bool_]:
    """Lit pixels ``[15, 9, 9]`` of the shapes, in the order of ``SHAPES``."""
    r, c = np.indices((PUBLISHED_TILE, PUBLISHED_TILE))
    radius = (r - 4) ** 2 + (c - 4) ** 2
    plus = ((r >= 3) & (r <= 5)) | ((c >= 3) & (c <= 5))
    ex = (abs(r - c) <= 1) | (abs(8 - r - c) <= 1)
    stem, legs = (c >= 3) & (c <= 5), (c <= 2) | (c >= 6)
    top, bottom = r <= 2, r >= 6
    masks = {
        "triangle": r >= 2 * abs(c - 4),
        "empty_square": (np.minimum(r, c) < 2) | (np.maximum(r, c) > 6),
        "plus": plus,
        "inverse_plus": ~plus,
        "ex": ex,
        "inverse_ex": ~ex,
        "circle": radius <= 16,
        "empty_circle": abs(radius - 16) < 6,
        "tee": stem | top,
        "upside_down_tee": stem | bottom,
        "h": legs | ((r >= 3) & (r <= 5)),
        "u": legs | bottom,
        "upside_down_u": legs | top,
        "vertical_stripes": c % 2 == 0,
        "horizontal_stripes": r % 2 == 0,
    }
    return np.stack([masks[name] for name in SHAPES])


def tile_pictures(tile: int = PUBLISHED_TILE) -> Bytes:
    """Pictures ``[228, tile, tile, 3]`` by tile code; sizes other than 9 are the nearest pixels of the 9 x 9 ones."""
    pictures = np.zeros((FIRST_OBJECT + MAX_OBJECTS, PUBLISHED_TILE, PUBLISHED_TILE, 3), dtype=np.uint8)
    pictures[WALL] = WALL_GREY
    pictures[AGENT] = 255
    pictures[FIRST_OBJECT:] = _object_pictures(background=0)
    return _resized(pictures, tile)


def cue_pictures(tile: int = PUBLISHED_TILE) -> Bytes:
    """Pictures ``[225, tile, tile, 3]`` of the goal cue by look: the object's own with black turned to grey 180."""
    return _resized(_object_pictures(background=CUE_GREY), tile)


def _object_pictures(*, background: int) -> Bytes:
    lit = shape_masks()[:, None, :, :, None]
    colours = np.array(_RGB, dtype=np.uint8)[None, :, None, None, :]
    return np.where(lit, colours, np.uint8(background)).reshape(MAX_OBJECTS, PUBLISHED_TILE, PUBLISHED_TILE, 3)


def _resized(pictures: Bytes, tile: int) -> Bytes:
    nearest = (2 * np.arange(tile) + 1) * PUBLISHED_TILE // (2 * tile)
    return np.ascontiguousarray(pictures[:, nearest[:, None], nearest])
