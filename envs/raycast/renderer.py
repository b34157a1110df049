"""First-person pictures of grid worlds, a batch at a time: the ray-caster as other modules use it.

Legend: ``B`` sub-environments, ``H`` rows and ``W`` columns of a picture, ``U`` texels along an edge of a texture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs._compile import announce
from envs._frame import BoolArray
from envs.raycast import _kernels
from envs.raycast._tables import TEXELS, Atlas, Lens, Scene, Scratch
from envs.raycast.billboards import Billboard
from envs.raycast.colours import Colour, Texture, mixed, words

_CODES = 256


@dataclass(frozen=True)
class Material:
    """What a cell code looks like.

    Attributes:
        side: Name of the surface of its sides.
        top: Name of the surface of its top, which is the floor where ``height`` is 0.
        height: Of the top: 0 for floors, 1 for walls, `envs.raycast.NO_FLOOR` for holes.
        opaque: Nothing behind is seen, however tall; for walls.
    """

    side: str
    top: str
    height: float = 0.0
    opaque: bool = False


@dataclass(frozen=True)
class Sky:
    """What is behind and above everything.

    Attributes:
        zenith: Colour of the top row.
        horizon: Colour just above the horizon.
        below: Colour under the horizon, seen through holes in the floor.
        light: Brightness of everything else, up to 1.
    """

    zenith: Colour
    horizon: Colour
    below: Colour
    light: float = 1.0


def build_atlas(
    surfaces: Mapping[str, Texture], sprites: Mapping[str, Billboard], materials: Sequence[Material]
) -> Atlas:
    """The kernels' tables; sprites are numbered in the order of the mapping, cell codes in that of ``materials``.

    Args:
        surfaces: ``[U, U, 3]`` by name; see `envs.raycast.surfaces`.
        sprites: ``[U, U, 4]`` by name; see `envs.raycast.billboards`.
        materials: By cell code, at most 256.

    Raises:
        ValueError: More than 256 materials, or none.
        KeyError: A material with an unknown surface.
    """
    if not 0 < len(materials) <= _CODES:
        raise ValueError(f"expected 1 to {_CODES} materials, got {len(materials)}")
    index = {name: i for i, name in enumerate(surfaces)}
    padded = [materials[min(code, len(materials) - 1)] for code in range(_CODES)]
    pictures = np.stack(list(sprites.values())) if sprites else np.zeros((1, TEXELS, TEXELS, 4))
    opaque_pixel = np.uint32(1 << 24)
    return Atlas(
        surface=np.ascontiguousarray(words(np.stack(list(surfaces.values()))).swapaxes(1, 2)),
        sprite=np.ascontiguousarray(
            np.where(pictures[..., 3] > 0, words(pictures[..., :3]) | opaque_pixel, 0).astype(np.uint32).swapaxes(1, 2)
        ),
        height=np.array([m.height for m in padded]),
        side=np.array([index[m.side] for m in padded]),
        top=np.array([index[m.top] for m in padded]),
        opaque=np.array([m.opaque for m in padded]),
    )


def build_lens(size: tuple[int, int], field_of_view: float, skies: Sequence[Sky]) -> Lens:
    """The kernels' tables of one picture size; see `RaycastRenderer`."""
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size must be (rows, columns) of at least 1, got {size}")
    if not 0 < field_of_view < 180:
        raise ValueError(f"field_of_view must be in (0, 180) degrees, got {field_of_view}")
    focal = width / 2 / math.tan(math.radians(field_of_view / 2))
    below: NDArray[np.float64] = np.arange(height, dtype=np.float64) + 0.5 - height / 2
    return Lens(
        height=height,
        width=width,
        focal=focal,
        slope=(np.arange(width, dtype=np.float64) + 0.5 - width / 2) / focal,
        reach=np.where(below > 0, focal / np.maximum(below, 0.5), 0.0),
        sky=np.stack([words(_sky_rows(sky, below / (height / 2))) for sky in skies]),
        light=np.array([sky.light for sky in skies], np.float64),
    )


class RaycastRenderer:
    """Draws sub-environments into the caller's memory, without allocations, free of the GIL.

    Threads may draw different ranges of rows at once; the first call for a range allocates the memory it works in.

    Args:
        atlas: From `build_atlas`.
        skies: By number in `Scene.sky`.
        size: Rows and columns of a picture.
        field_of_view: Horizontal, in degrees; default 66 (spec: zipfian-envs.md, section 3.2).

    Raises:
        ValueError: A size below 1 or an angle outside (0, 180).

    Example:
        >>> from envs.raycast import one_room
        >>> atlas, scene = one_room()
        >>> renderer = RaycastRenderer(atlas, [Sky((90, 150, 230), (210, 230, 250), (40, 40, 40))], size=(72, 96))
        >>> picture = np.zeros((1, 72, 96, 3), np.uint8)
        >>> renderer.render(scene, picture)
        >>> len(np.unique(picture[0, 36], axis=0)) > 3  # bricks
        True
    """

    def __init__(
        self, atlas: Atlas, skies: Sequence[Sky], *, size: tuple[int, int] = (72, 96), field_of_view: float = 66.0
    ) -> None:
        self.atlas, self.lens = atlas, build_lens(size, field_of_view, skies)
        self._scratch: dict[tuple[int, int], Scratch] = {}
        announce("the ray-caster", _kernels.render_rows)

    def render(self, scene: Scene, picture: NDArray[np.uint8]) -> None:
        """Draws every sub-environment: ``picture`` is ``[B, H, W, 3]``."""
        everything = np.ones(len(scene.cells), np.bool_)
        self.render_rows(scene, picture, everything, True, 0, len(everything))

    def render_rows(
        self, scene: Scene, picture: NDArray[np.uint8], rows: BoolArray, wanted: bool, lo: int, hi: int
    ) -> None:
        """Draws the sub-environments ``lo <= e < hi`` with ``rows[e] == wanted`` into ``picture[e]``.

        Args:
            scene: Cameras must stand inside the map; sprite textures must be in the atlas.
            picture: ``[B, H, W, 3]``.
            rows: ``[B]``.
            wanted: So that both a mask of rows to draw and one of rows to skip can be handed on.
            lo: First row.
            hi: One past the last row.
        """
        key = lo, scene.sprite_x.shape[1]
        if key not in self._scratch:
            self._scratch[key] = Scratch.empty(self.lens, key[1])
        _kernels.render_rows(self.atlas, self.lens, scene, self._scratch[key], picture, rows, wanted, lo, hi)


def _sky_rows(sky: Sky, height_below: NDArray[np.float64]) -> NDArray[np.float64]:
    above = mixed(sky.horizon, sky.zenith, np.clip(-height_below, 0, 1))
    return np.where(height_below[:, None] > 0, mixed(sky.horizon, sky.below, np.clip(height_below * 4, 0, 1)), above)
