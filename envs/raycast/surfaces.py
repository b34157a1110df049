"""Textures of walls and floors, made by code: ``[U, U, 3]`` float64 in 0..255 by (down, across), seamless.

Each function takes the main colour and gives the same picture every time.

Legend: ``U`` texels along an edge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.raycast._tables import TEXELS
from envs.raycast.colours import Colour, Texture, mixed

_DOWN, _ACROSS = np.mgrid[:TEXELS, :TEXELS]
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def plain(colour: Colour, *, grain: float = 0.06, seed: int = 0) -> Texture:
    """Plaster: the colour with a little noise."""
    return _grained(colour, grain, seed)


def bricks(colour: Colour, *, mortar: Colour = (186, 180, 170)) -> Texture:
    """Four courses of two bricks, each course shifted by half a brick."""
    course, shift = _DOWN // 8, (_DOWN // 8 % 2) * 8
    joint = (_DOWN % 8 == 7) | ((_ACROSS + shift) % 16 == 15)
    tone = _noise(3)[course, (_ACROSS + shift) // 16 % 2]
    picture = mixed(_grained(colour, 0.05, 1), _BLACK, 0.3 * tone)
    lit = (_DOWN % 8 == 0) & ~joint
    picture = mixed(picture, _WHITE, 0.18 * lit)
    return mixed(picture, mortar, joint)


def stones(colour: Colour) -> Texture:
    """Irregular stones: the cells of random points."""
    rng = np.random.default_rng(5)
    points = rng.uniform(0, TEXELS, (12, 2))
    apart = np.stack([_DOWN, _ACROSS], -1)[:, :, None] - points
    apart -= TEXELS * np.rint(apart / TEXELS)
    distance = np.sort(np.linalg.norm(apart, axis=-1), axis=-1)
    nearest = np.linalg.norm(apart, axis=-1).argmin(-1)
    picture = mixed(_grained(colour, 0.06, 2), _BLACK, 0.32 * rng.uniform(size=12)[nearest])
    return mixed(picture, (28, 26, 26), distance[..., 1] - distance[..., 0] < 1.3)


def planks(colour: Colour) -> Texture:
    """Upright boards with grain and nails."""
    board = _ACROSS // 8
    grain = _noise(7)[:, :1] * 0 + _noise(7)[_DOWN // 6, _ACROSS]
    picture = mixed(_grained(colour, 0.04, 3), _BLACK, 0.22 * grain + 0.12 * (board % 2))
    picture = mixed(picture, _BLACK, 0.6 * (_ACROSS % 8 == 7))
    return mixed(picture, (230, 220, 200), 0.7 * ((_ACROSS % 8 == 3) & ((_DOWN == 3) | (_DOWN == 28))))


def panels(colour: Colour) -> Texture:
    """One bevelled plate with rivets."""
    edge = np.minimum(np.minimum(_DOWN, TEXELS - 1 - _DOWN), np.minimum(_ACROSS, TEXELS - 1 - _ACROSS))
    picture = mixed(_grained(colour, 0.03, 4), _WHITE, 0.25 * ((edge == 1) & (_DOWN < _ACROSS)))
    picture = mixed(picture, _BLACK, 0.45 * (edge == 0) + 0.25 * ((edge == 1) & (_DOWN > _ACROSS)))
    corner = (np.minimum(_DOWN, 31 - _DOWN) // 2 == 2) & (np.minimum(_ACROSS, 31 - _ACROSS) // 2 == 2)
    return mixed(picture, _WHITE, 0.55 * corner)


def tiles(colour: Colour, *, count: int = 4) -> Texture:
    """Square tiles of two tones."""
    size = TEXELS // count
    odd = (_DOWN // size + _ACROSS // size) % 2
    picture = mixed(_grained(colour, 0.04, 6), _BLACK, 0.2 * odd)
    return mixed(picture, _BLACK, 0.35 * ((_DOWN % size == 0) | (_ACROSS % size == 0)))


def stripes(colour: Colour, other: Colour) -> Texture:
    """Diagonal bands of two colours."""
    return mixed(_grained(colour, 0.04, 8), other, (_DOWN + _ACROSS) // 8 % 2)


def leaves(colour: Colour) -> Texture:
    """A hedge: clumps of leaves, darker between them."""
    clump = _smooth(9, 3) * 0.75 + _noise(9) * 0.35
    return mixed(mixed(colour, _BLACK, 0.75), mixed(colour, (236, 240, 150), 0.15), np.clip(clump, 0, 1))


def meadow(colour: Colour) -> Texture:
    """Grass from above: soft patches with blades."""
    picture = mixed(colour, _BLACK, 0.28 * _smooth(10, 4))
    return mixed(picture, (240, 240, 160), 0.25 * (_noise(11) > 0.86))


def rock(colour: Colour) -> Texture:
    """A boulder's face: soft light and dark with cracks."""
    picture = mixed(mixed(colour, _BLACK, 0.45), mixed(colour, _WHITE, 0.2), _smooth(12, 3))
    return mixed(picture, _BLACK, 0.45 * (np.abs(_smooth(13, 4) - 0.5) < 0.05))


def door(colour: Colour, *, frame: Colour = (58, 46, 38)) -> Texture:
    """A door with a frame, two fields and a handle."""
    inside = (_ACROSS > 2) & (_ACROSS < 29) & (_DOWN > 2)
    picture = mixed(frame, _grained(colour, 0.03, 14), inside)
    across, down = np.abs(_ACROSS - 15.5), np.minimum(np.abs(_DOWN - 10), np.abs(_DOWN - 23))
    field = (across < 9) & (down < 5)
    picture = mixed(picture, _BLACK, 0.32 * (field & ~((across < 8) & (down < 4))) + 0.1 * field)
    handle = (np.abs(_ACROSS - 26) < 1.6) & (np.abs(_DOWN - 17) < 1.6)
    return mixed(picture, (255, 232, 120), handle)


def screen(colour: Colour = (18, 22, 30)) -> Texture:
    """A dark plate without seams, to show pictures on."""
    return _grained(colour, 0.02, 15)


def _grained(colour: Colour, grain: float, seed: int) -> Texture:
    return np.asarray(colour, np.float64) * (1 + grain * (2 * _noise(seed)[..., None] - 1))


def _noise(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(size=(TEXELS, TEXELS))


def _smooth(seed: int, waves: int) -> NDArray[np.float64]:
    """Seamless noise in 0..1 of up to ``waves`` waves along an edge."""
    rng = np.random.default_rng(seed)
    total = np.zeros((TEXELS, TEXELS))
    for i in range(-waves, waves + 1):
        for j in range(-waves, waves + 1):
            phase = 2 * np.pi * ((i * _DOWN + j * _ACROSS) / TEXELS + rng.uniform())
            total += np.cos(phase) * rng.uniform()
    return (total - total.min()) / np.ptp(total)
