"""Pictures of objects, made by code: ``[U, U, 4]`` float64 by (down, across): colour in 0..255 and coverage 0 or 1.

A shape is a region of the square [-1, 1]^2, x to the right and y up, so that it stands on its lower edge.

Legend: ``U`` texels along an edge, ``F`` finer texels that are averaged.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from envs.raycast._tables import TEXELS
from envs.raycast.colours import Colour, mixed

Billboard = NDArray[np.float64]
Region = NDArray[np.bool_]

_FINE = 4
_LINE = 0.13
_grid = (np.arange(TEXELS * _FINE) + 0.5) / (TEXELS * _FINE / 2) - 1
_Y, _X = np.meshgrid(-_grid, _grid, indexing="ij")
_BLACK, _WHITE = (12, 12, 14), (255, 255, 255)


def ball() -> Region:
    """A disc."""
    return _disc(0, -0.1, 0.84)


def box() -> Region:
    """A square."""
    return (np.abs(_X) < 0.78) & (_Y < 0.6) & (_Y > -0.94)


def cone() -> Region:
    """A triangle on its base."""
    return (np.abs(_X) < 0.46 * (0.95 - _Y)) & (_Y > -0.92)


def star() -> Region:
    """Five points."""
    angle, radius = np.arctan2(_X, _Y + 0.02), np.hypot(_X, _Y + 0.02)
    turn = np.abs((angle / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * 2
    return radius * (np.cos(turn * np.pi / 5) + 1.35 * np.sin(turn * np.pi / 5)) < 0.98


def ring() -> Region:
    """A disc with a hole."""
    return ball() & ~_disc(0, -0.1, 0.42)


def gem() -> Region:
    """A square on its corner, tall."""
    return np.abs(_X) / 0.68 + np.abs(_Y) / 0.96 < 1


def cross() -> Region:
    """A plus."""
    return ((np.abs(_X) < 0.3) | (np.abs(_Y + 0.05) < 0.3)) & (np.abs(_X) < 0.88) & (np.abs(_Y + 0.05) < 0.88)


def cup() -> Region:
    """A goblet: bowl, stem and foot."""
    bowl = (np.abs(_X) < 0.66) & (_Y < 0.9) & (_Y > 0.2) | (_disc(0, 0.25, 0.66) & (_Y <= 0.25))
    return bowl | ((np.abs(_X) < 0.14) & (_Y < 0) & (_Y > -0.9)) | ((np.abs(_X) < 0.56) & (np.abs(_Y + 0.8) < 0.13))


def moon() -> Region:
    """A crescent."""
    return _disc(0, 0, 0.92) & ~_disc(0.45, 0.18, 0.72)


def tower() -> Region:
    """A thin upright block with a wide top."""
    return ((np.abs(_X) < 0.34) | (np.abs(_X) < 0.68) & (_Y > 0.4)) & (_Y < 0.92) & (_Y > -0.94)


SHAPES: dict[str, Callable[[], Region]] = {
    "ball": ball,
    "box": box,
    "cone": cone,
    "star": star,
    "ring": ring,
    "gem": gem,
    "cross": cross,
    "cup": cup,
    "moon": moon,
    "tower": tower,
}

PATTERNS: dict[str, Region] = {
    "plain": np.zeros_like(_X, np.bool_),
    "stripes": (_Y * 2.5) % 1 < 0.4,
    "dots": np.hypot((_X * 1.8 + 0.5) % 1 - 0.5, (_Y * 1.8 + 0.7) % 1 - 0.5) < 0.27,
    "checks": ((np.floor(_X * 2) + np.floor(_Y * 2)) % 2) == 0,
}


def shaped(shape: Region, colour: Colour, pattern: Region | None = None, other: Colour = (250, 250, 245)) -> Billboard:
    """A shape with an outline, light from the upper left, and a second colour where the pattern is."""
    inner = shape & _eroded(shape)
    light = np.clip(0.5 + 0.45 * (_Y - _X * 0.8) / 1.6, 0, 1)
    body = mixed(mixed(colour, _BLACK, 0.42), mixed(colour, _WHITE, 0.16), light)
    if pattern is not None:
        body = mixed(body, mixed(mixed(other, _BLACK, 0.4), other, light), pattern)
    return _averaged(mixed(mixed(colour, _BLACK, 0.82), body, inner), shape)


def apple() -> Billboard:
    """A red apple with stalk and leaf."""
    fruit = _disc(-0.3, -0.3, 0.58) | _disc(0.3, -0.3, 0.58)
    stalk = (np.abs(_X - 0.1 * _Y) < 0.09) & (_Y > 0.1) & (_Y < 0.75)
    leaf = (np.hypot((_X - 0.4) / 1.7, _Y - 0.6 - 0.2 * _X) < 0.2) & (_X > 0.05)
    return _stacked(
        (fruit, (222, 26, 30)), (stalk, (96, 60, 30)), (leaf, (60, 180, 60)), shine=_disc(-0.35, -0.05, 0.14)
    )


def mushroom() -> Billboard:
    """A toadstool: red cap with white dots."""
    stem = (np.abs(_X) < 0.27 + 0.12 * (_Y < -0.6)) & (_Y < 0.1) & (_Y > -0.95)
    cap = (np.hypot(_X / 1.08, (_Y - 0.02) / 0.9) < 0.88) & (_Y > -0.02)
    dots = _disc(-0.4, 0.36, 0.16) | _disc(0.08, 0.56, 0.17) | _disc(0.5, 0.26, 0.15)
    return _stacked((stem, (236, 226, 196)), (cap, (214, 40, 34)), (dots & cap, (252, 250, 244)))


def key(colour: Colour) -> Billboard:
    """A key, ring up."""
    bow = _disc(0, 0.46, 0.5) & ~_disc(0, 0.46, 0.2)
    shank = (np.abs(_X) < 0.18) & (_Y < 0.1) & (_Y > -0.94)
    bits = (_X > 0) & (_X < 0.6) & ((np.abs(_Y + 0.78) < 0.15) | (np.abs(_Y + 0.36) < 0.15))
    return shaped(bow | shank | bits, colour)


def trophy() -> Billboard:
    """The goal: a golden cup on a dark base."""
    ears = (_disc(-0.62, 0.5, 0.3) & ~_disc(-0.62, 0.5, 0.15)) | (_disc(0.62, 0.5, 0.3) & ~_disc(0.62, 0.5, 0.15))
    base = (np.abs(_X) < 0.5) & (_Y < -0.66) & (_Y > -0.95)
    return _stacked(
        (ears, (214, 150, 20)), (cup(), (255, 206, 44)), (base, (70, 44, 30)), shine=_disc(-0.3, 0.55, 0.16)
    )


def robot(colour: Colour) -> Billboard:
    """An opponent: head with two eyes, body, arms and legs."""
    head = (np.abs(_X) < 0.34) & (_Y < 0.92) & (_Y > 0.42)
    body = (np.abs(_X) < 0.46) & (_Y < 0.38) & (_Y > -0.38)
    arms = (np.abs(np.abs(_X) - 0.66) < 0.14) & (_Y < 0.34) & (_Y > -0.24)
    legs = (np.abs(np.abs(_X) - 0.24) < 0.16) & (_Y <= -0.38) & (_Y > -0.95)
    eyes = _disc(-0.16, 0.68, 0.1) | _disc(0.16, 0.68, 0.1)
    light = _disc(0, 0.05, 0.16)
    steel = (118, 122, 132)
    return _stacked((arms | legs, steel), (body | head, colour), (eyes, (255, 250, 140)), (light, (255, 250, 240)))


def tick() -> Billboard:
    """Yes: a green plate with a white tick."""
    plate = np.maximum(np.abs(_X), np.abs(_Y)) < 0.9
    mark = _stroke(-0.55, 0.0, -0.15, -0.45) | _stroke(-0.15, -0.45, 0.58, 0.5)
    return _stacked((plate, (34, 140, 52)), (mark, (250, 250, 250)))


def saltire() -> Billboard:
    """No: a red plate with a white X."""
    plate = np.maximum(np.abs(_X), np.abs(_Y)) < 0.9
    mark = _stroke(-0.5, -0.5, 0.5, 0.5) | _stroke(-0.5, 0.5, 0.5, -0.5)
    return _stacked((plate, (176, 34, 34)), (mark, (250, 250, 250)))


def arrow(*, left: bool) -> Billboard:
    """A blue plate with a white arrow to one side."""
    plate, sign = np.maximum(np.abs(_X), np.abs(_Y)) < 0.9, -1 if left else 1
    head = (np.abs(_Y) < 0.62 * (0.72 - sign * _X)) & (sign * _X > 0)
    mark = head | ((np.abs(_Y) < 0.2) & (np.abs(_X) < 0.6))
    return _stacked((plate, (36, 70, 176)), (mark, (250, 250, 250)))


def target() -> Billboard:
    """Where to look: a white cross on nothing."""
    thin = ((np.abs(_X) < 0.16) | (np.abs(_Y) < 0.16)) & (np.hypot(_X, _Y) < 0.9)
    return shaped(thin, (244, 244, 244))


def _disc(x: float, y: float, radius: float) -> Region:
    return np.hypot(_X - x, _Y - y) < radius


def _stroke(x0: float, y0: float, x1: float, y1: float) -> Region:
    along = np.clip(((_X - x0) * (x1 - x0) + (_Y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 0, 1)
    return np.hypot(_X - x0 - along * (x1 - x0), _Y - y0 - along * (y1 - y0)) < 0.16


def _stacked(*parts: tuple[Region, Colour], shine: Region | None = None) -> Billboard:
    """Regions over one another, each shaded and outlined."""
    picture, covered = np.zeros((*_X.shape, 3)), np.zeros_like(_X, np.bool_)
    for region, colour in parts:
        light = np.clip(0.55 + 0.4 * (_Y - 0.8 * _X) / 1.6, 0, 1)
        body = mixed(mixed(colour, _BLACK, 0.35), mixed(colour, _WHITE, 0.12), light)
        body = mixed(mixed(colour, _BLACK, 0.75), body, _eroded(region, 0.06))
        picture, covered = mixed(picture, body, region), covered | region
    if shine is not None:
        picture = mixed(picture, _WHITE, 0.6 * shine)
    return _averaged(picture, covered)


def _eroded(region: Region, width: float = _LINE) -> Region:
    """The region without its rim."""
    inner, reach = region.copy(), max(round(width * TEXELS * _FINE / 2), 1)
    for shift in range(1, reach + 1):
        for axis in (0, 1):
            for sign in (-shift, shift):
                moved = np.roll(region, sign, axis)
                inner &= moved
    return inner


def _averaged(picture: NDArray[np.float64], covered: Region) -> Billboard:
    """To ``[U, U, 4]``: a texel is opaque where at least half of it is covered, with the mean colour of that part."""
    weight = _pooled(covered.astype(np.float64)[..., None])
    colour = _pooled(picture * covered[..., None]) / np.maximum(weight, 1e-9)
    return np.concatenate([colour, weight >= 0.5], axis=-1)


def _pooled(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    return picture.reshape(TEXELS, _FINE, TEXELS, _FINE, -1).mean((1, 3))
