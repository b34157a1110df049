"""What the ray-caster's kernels read and write.

Legend: ``B`` sub-environments, ``S`` sprites of each, ``H`` rows and ``W`` columns of a picture, ``Y, X`` cells of a
map, ``C`` cell codes, ``U`` texels along an edge of a texture.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TEXELS = 32
"""``U``: texels along an edge of every texture; a wall one high and a cell's floor show one texture each."""
NO_FLOOR = -1e9
"""Height of a cell without a floor: a hole through which the sky shows."""
NOTHING = -1
"""Texture of an absent sprite or overlay."""
MAX_STEPS = 8
"""Changes of height that a column remembers for hiding what stands behind them."""


class Atlas(NamedTuple):
    """Textures, and what the codes of a map's cells look like. Pixels are ``red + 256 * green + 65536 * blue``.

    Attributes:
        surface: ``[surfaces, U, U]`` uint32 by (across, down).
        sprite: ``[sprites, U, U]`` uint32 by (across, down); 0 is transparent.
        height: ``[C]`` float64: of the top of a cell: 0 is the ground, walls are usually 1; `NO_FLOOR` is a hole.
        side: ``[C]`` int64: surface of the sides.
        top: ``[C]`` int64: surface of the top: of the floor, where the height is 0.
        opaque: ``[C]`` bool: Rays end here; nothing behind is seen, however tall.
    """

    surface: NDArray[np.uint32]
    sprite: NDArray[np.uint32]
    height: NDArray[np.float64]
    side: NDArray[np.int64]
    top: NDArray[np.int64]
    opaque: NDArray[np.bool_]


class Lens(NamedTuple):
    """Projection and sky of one size of picture.

    Attributes:
        height: ``H``.
        width: ``W``.
        focal: Pixels that a length of 1 covers at distance 1.
        slope: ``[W]`` float64: sideways part of a column's ray whose forward part is 1.
        reach: ``[H]`` float64: distance at which a row below the horizon meets a floor 1 below the eye; 0 above it.
        sky: ``[skies, H]`` uint32: colours from the top row down.
        light: ``[skies]`` float64: brightness of the world under that sky, up to 1.
    """

    height: int
    width: int
    focal: float
    slope: NDArray[np.float64]
    reach: NDArray[np.float64]
    sky: NDArray[np.uint32]
    light: NDArray[np.float64]


class Scene(NamedTuple):
    """What is to be drawn; views of the environment's state. Lengths are in cells, x grows with columns, y with rows.

    Attributes:
        cells: ``[B, Y, X]`` uint8: codes, see `Atlas`.
        x, y: ``[B]``: where the camera is.
        eye: ``[B]``: its height above the ground.
        angle: ``[B]``: its heading in radians, from +x towards +y.
        sky: ``[B]``: row of `Lens.sky`.
        overlay: ``[B]``: sprite drawn in the lower right corner, or `NOTHING`.
        sprite_x, sprite_y: ``[B, S]``: where the sprites are.
        sprite_z: ``[B, S]``: height of their lower edges.
        sprite_size: ``[B, S]``: width and height.
        sprite_texture: ``[B, S]``: sprite of the atlas, or `NOTHING`.
    """

    cells: NDArray[np.uint8]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    eye: NDArray[np.float64]
    angle: NDArray[np.float64]
    sky: NDArray[np.int64]
    overlay: NDArray[np.int64]
    sprite_x: NDArray[np.float64]
    sprite_y: NDArray[np.float64]
    sprite_z: NDArray[np.float64]
    sprite_size: NDArray[np.float64]
    sprite_texture: NDArray[np.int64]


class Scratch(NamedTuple):
    """Memory that one thread draws in; reused from frame to frame.

    Attributes:
        canvas: ``[W, H]`` uint32: the picture by columns.
        depth: ``[W]``: distance at which the column's ray ended.
        steps: ``[W]``: changes of height along the ray, at most `MAX_STEPS`.
        step_depth: ``[W, MAX_STEPS]``: where they are.
        step_row: ``[W, MAX_STEPS]``: what lies behind is hidden from this row down.
        order: ``[S]``: sprites in view, the farthest first.
        distance: ``[S]``: how far each sprite is.
    """

    canvas: NDArray[np.uint32]
    depth: NDArray[np.float64]
    steps: NDArray[np.int64]
    step_depth: NDArray[np.float64]
    step_row: NDArray[np.int64]
    order: NDArray[np.int64]
    distance: NDArray[np.float64]

    @classmethod
    def empty(cls, lens: Lens, sprites: int) -> Scratch:
        """Memory for pictures of a size with up to so many sprites."""
        return cls(
            canvas=np.zeros((lens.width, lens.height), np.uint32),
            depth=np.zeros(lens.width),
            steps=np.zeros(lens.width, np.int64),
            step_depth=np.zeros((lens.width, MAX_STEPS)),
            step_row=np.zeros((lens.width, MAX_STEPS), np.int64),
            order=np.zeros(sprites, np.int64),
            distance=np.zeros(sprites),
        )
