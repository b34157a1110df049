"""Counter-based random numbers for compiled kernels: what a sub-environment draws depends on its own key alone.

A draw is named by ``(key, episode, step, purpose, index)``; nothing is consumed and nothing is stored, so draws neither
depend on their order nor on how many sub-environments or threads there are. In a kernel::

    here = moment(streams.key[e], streams.episode[e], streams.step[e])
    wind = uniform(draw(here, WIND, 0))  # float64 in [0, 1)
    side = bounded(draw(here, BLOCK, j), 2)  # int64 in [0, 2)

``purpose`` is a small constant of the calling module (``np.uint64``), ``index`` counts draws of one purpose. The
generator is SplitMix64 (Steele, Lea and Flood 2014) addressed by position: every moment has its own stream of it.

Un-jitted (``NUMBA_DISABLE_JIT=1``) the functions give the same numbers; NumPy then warns of the intended overflow.
Numba's file cache looks at the calling file only: after an edit here, delete ``envs/**/__pycache__/*.nb*``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)
_1, _11, _27, _30, _31, _32 = (np.uint64(n) for n in (1, 11, 27, 30, 31, 32))
_TO_UNIT = 2.0**-53


class Streams(NamedTuple):
    """Where each of ``B`` sub-environments stands in its random stream; ``[B]`` each.

    Attributes:
        key: uint64, from `stream_key`.
        episode: int64, counts from 0 since the last seeding; -1 before the first reset.
        step: int64, steps taken in the episode; 0 while resetting.
    """

    key: NDArray[np.uint64]
    episode: NDArray[np.int64]
    step: NDArray[np.int64]


@njit(nogil=True, cache=True)
def mix(x: np.uint64) -> np.uint64:
    """SplitMix64's finaliser: a bijection of 64 bits in which each input bit flips about half of the output."""
    x = (x ^ (x >> _30)) * _MULTIPLY_1
    x = (x ^ (x >> _27)) * _MULTIPLY_2
    return x ^ (x >> _31)


@njit(nogil=True, cache=True)
def moment(key: np.uint64, episode: int, step: int) -> np.uint64:
    """The stream of one step of one episode: hand it to `draw`.

    Args:
        key: Key of the sub-environment, from `stream_key`.
        episode: Episodes begun before this one, at least 0.
        step: Steps taken in this episode; 0 while resetting.
    """
    return mix(mix(key + _GAMMA * (np.uint64(episode) + _1)) + _GAMMA * (np.uint64(step) + _1))


@njit(nogil=True, cache=True)
def draw(here: np.uint64, purpose: np.uint64, index: int) -> np.uint64:
    """64 random bits: draw number ``index`` (below 2**32) of a purpose (below 2**31) at a moment."""
    return mix(here + _GAMMA * (((purpose + _1) << _32) + np.uint64(index)))


@njit(nogil=True, cache=True)
def uniform(bits: np.uint64) -> float:
    """A float64 in [0, 1), multiple of 2**-53, of 64 random bits."""
    return np.float64(bits >> _11) * _TO_UNIT


@njit(nogil=True, cache=True)
def bounded(bits: np.uint64, n: int) -> np.int64:
    """An int64 in [0, n) of the upper 32 of 64 random bits; the probabilities are off 1/n by less than 2**-32."""
    return np.int64(((bits >> _32) * np.uint64(n)) >> _32)


def stream_key(seed: int, index: int) -> int:
    """The key of sub-environment ``index`` of an environment seeded with ``seed``.

    Args:
        seed: Non-negative integer of any size.
        index: Sub-environment, at least 0.

    Returns:
        The key, in [0, 2**64); store it in a ``uint64`` array.

    Raises:
        ValueError: A negative seed or index.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be at least 0, got seed={seed}, index={index}")
    seed, words = int(seed), list[int]()
    while seed or not words:
        words.append(seed & _MASK)
        seed >>= 64
    key = len(words)
    for word in (*words, int(index)):
        key = _mix_int(key + int(_GAMMA) * (word + 1))
    return key


def row_seeds(seed: int | Sequence[int], rows: int) -> list[int]:
    """Seeds of environments that take a non-negative int32: ``(seed, e)`` of one seed, ``(seed[e], 0)`` of several.

    Raises:
        ValueError: Not one seed for each row, or a negative one.
    """
    if isinstance(seed, int | np.integer):
        pairs = [(int(seed), e) for e in range(rows)]
    else:
        if len(seed) != rows:
            raise ValueError(f"expected one seed for each of {rows} environments, got {len(seed)}")
        pairs = [(int(s), 0) for s in seed]
    return [stream_key(s, e) & 0x7FFFFFFF for s, e in pairs]


def _mix_int(x: int) -> int:
    """`mix` on Python integers, which do not overflow."""
    x &= _MASK
    x = ((x ^ (x >> 30)) * int(_MULTIPLY_1)) & _MASK
    x = ((x ^ (x >> 27)) * int(_MULTIPLY_2)) & _MASK
    return x ^ (x >> 31)
