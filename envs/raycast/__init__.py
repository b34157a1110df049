"""A batched first-person renderer for grid worlds in Numba: textured walls and floors, steps, billboards, skies.

`RaycastRenderer` draws a `Scene`; `build_atlas` makes its textures from `surfaces` and `billboards`.
"""

from __future__ import annotations

import numpy as np

from envs.raycast import surfaces
from envs.raycast._tables import NO_FLOOR, NOTHING, TEXELS, Atlas, Scene
from envs.raycast.colours import COLOURS
from envs.raycast.renderer import Material, RaycastRenderer, Sky, build_atlas

__all__ = [
    "COLOURS",
    "NOTHING",
    "NO_FLOOR",
    "TEXELS",
    "Atlas",
    "Material",
    "RaycastRenderer",
    "Scene",
    "Sky",
    "build_atlas",
    "empty_scene",
    "one_room",
]


def empty_scene(num_envs: int, *, cells: tuple[int, int], sprites: int) -> Scene:
    """A scene of floor only, without sprites, cameras half a cell high in the middle.

    Args:
        num_envs: Sub-environments.
        cells: Rows and columns of the map.
        sprites: Places for sprites in each sub-environment.
    """
    spots = np.zeros((4, num_envs, sprites))
    return Scene(
        cells=np.zeros((num_envs, *cells), np.uint8),
        x=np.full(num_envs, cells[1] / 2),
        y=np.full(num_envs, cells[0] / 2),
        eye=np.full(num_envs, 0.5),
        angle=np.zeros(num_envs),
        sky=np.zeros(num_envs, np.int64),
        overlay=np.full(num_envs, NOTHING, np.int64),
        sprite_x=spots[0],
        sprite_y=spots[1],
        sprite_z=spots[2],
        sprite_size=spots[3],
        sprite_texture=np.full((num_envs, sprites), NOTHING, np.int64),
    )


def one_room() -> tuple[Atlas, Scene]:
    """A small world for examples: a room of 5 by 5 cells inside walls of brick."""
    textures = {"floor": surfaces.tiles(COLOURS["white"]), "brick": surfaces.bricks(COLOURS["red"])}
    atlas = build_atlas(textures, {}, [Material("floor", "floor"), Material("brick", "brick", 1.0, opaque=True)])
    scene = empty_scene(1, cells=(7, 7), sprites=1)
    scene.cells[:] = 1
    scene.cells[:, 1:-1, 1:-1] = 0
    return atlas, scene
