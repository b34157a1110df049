"""Compiled passes of the noise wrappers.

Legend: ``B`` sub-environments; pictures are views ``[B, F, H, W, L]`` with channels first (``F``) or last (``L``).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs._frame import BoolArray
from envs._rng import Streams, draw, moment, uniform

_TOSS, _PIXELS, _WALK, _REPEAT = (np.uint64(n) for n in range(4))


@njit(nogil=True, cache=True)
def toss(streams: Streams, p: float, rows: BoolArray, on: BoolArray) -> None:
    """Sets ``on[e]`` with probability ``p`` in the rows."""
    for e in range(len(rows)):
        if rows[e]:
            on[e] = uniform(draw(moment(streams.key[e], streams.episode[e], streams.step[e]), _TOSS, 0)) < p


@njit(nogil=True, cache=True)
def repeat(
    streams: Streams, p: float, rows: BoolArray, actions: NDArray[np.int64], last: NDArray[np.int64], on: BoolArray
) -> None:
    """Replaces actions by the row's last one with probability ``p``; ``last`` holds it plus one, 0 is none yet."""
    for e in range(len(rows)):
        if rows[e]:
            here = moment(streams.key[e], streams.episode[e], streams.step[e])
            if last[e] and uniform(draw(here, _REPEAT, 0)) < p:
                on[e] = actions[e] != last[e] - 1
                actions[e] = last[e] - 1
            last[e] = actions[e] + 1


@njit(nogil=True, cache=True)
def random_pixels(
    pictures: NDArray[np.uint8],
    box: tuple[int, int, int, int],
    streams: Streams,
    steps: NDArray[np.int64],
    rows: BoolArray,
    on: BoolArray,
) -> None:
    """Fills the box with uniform bytes in the rows that are on: those drawn at ``steps[e]`` of the episode."""
    top, left, height, width = box
    for e in range(len(rows)):
        if rows[e] and on[e]:
            here = moment(streams.key[e], streams.episode[e], steps[e])
            n, bits = 0, np.uint64(0)
            for f in range(pictures.shape[1]):
                for y in range(top, top + height):
                    for x in range(left, left + width):
                        for c in range(pictures.shape[4]):
                            if n % 8 == 0:
                                bits = draw(here, _PIXELS, n // 8)
                            pictures[e, f, y, x, c] = bits & np.uint64(255)
                            bits >>= np.uint64(8)
                            n += 1


@njit(nogil=True, cache=True)
def walk(
    pictures: NDArray[np.uint8],
    layer: NDArray[np.int16],
    stride: NDArray[np.int64],
    modulo: int,
    streams: Streams,
    rows: BoolArray,
) -> None:
    """Moves each pixel of the layer ``[B, H, W]`` by ``stride[e]`` up or down, modulo, and adds it to the picture."""
    height, width = pictures.shape[2], pictures.shape[3]
    for e in range(len(rows)):
        if not rows[e]:
            continue
        here = moment(streams.key[e], streams.episode[e], streams.step[e])
        up, down = np.int16(stride[e]), np.int16(modulo - stride[e])
        for y in range(height):
            for first in range(0, width, 64):
                bits = draw(here, _WALK, y * width + first)
                for x in range(first, min(first + 64, width)):
                    value = layer[e, y, x] + (up if (bits >> np.uint64(x - first)) & np.uint64(1) else down)
                    layer[e, y, x] = value - (modulo if value >= modulo else 0)
            for f in range(pictures.shape[1]):
                for x in range(width):
                    for c in range(pictures.shape[4]):
                        pictures[e, f, y, x, c] = min(255, np.int64(pictures[e, f, y, x, c]) + layer[e, y, x])
