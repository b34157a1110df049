"""Named colours that stay apart from one another in small pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Colour = tuple[int, int, int]
Texture = NDArray[np.float64]
"""Red, green and blue in 0..255, ``[U, U, 3]`` by (down, across)."""

COLOURS: dict[str, Colour] = {
    "red": (214, 44, 38),
    "green": (52, 168, 58),
    "blue": (44, 84, 222),
    "yellow": (240, 208, 48),
    "purple": (142, 56, 186),
    "cyan": (58, 200, 208),
    "orange": (242, 132, 30),
    "white": (238, 238, 236),
    "pink": (240, 130, 176),
    "brown": (126, 80, 44),
}


def mixed(a: ArrayLike, b: ArrayLike, share: ArrayLike) -> Texture:
    """``a`` and ``b`` mixed; ``share`` of ``b`` in 0..1 may be a picture ``[U, U]`` of shares."""
    weight = np.asarray(share, np.float64)[..., None]
    return np.asarray(a, np.float64) * (1 - weight) + np.asarray(b, np.float64) * weight


def words(picture: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Pixels ``[..., 3]`` in 0..255 as the words of `envs.raycast._tables.Atlas`."""
    red, green, blue = np.moveaxis(np.clip(np.rint(picture), 0, 255).astype(np.uint32), -1, 0)
    return red | green << 8 | blue << 16
