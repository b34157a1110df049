"""Compiled passes over the rows that every batch-stepped environment needs."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs._frame import BoolArray
from envs._rng import Streams


@njit(nogil=True, cache=True)
def begin_episodes(streams: Streams, mask: BoolArray, lo: int, hi: int) -> None:
    """Moves the rows ``lo <= e < hi`` with ``mask[e]`` to step 0 of their next episode."""
    for e in range(lo, hi):
        if mask[e]:
            streams.episode[e] += 1
            streams.step[e] = 0


@njit(nogil=True, cache=True)
def take_step(actions: NDArray[np.int64], n: int, skip: BoolArray, steps: NDArray[np.int64]) -> int:
    """Counts a step; or gives the index of the first action outside [0, n) among the rows not skipped. -1 if none."""
    for e in range(len(actions)):
        if not skip[e] and not 0 <= actions[e] < n:
            return e
    for e in range(len(actions)):
        steps[e] += 1
    return -1


@njit(nogil=True, cache=True)
def mark_ended(terminated: BoolArray, truncated: BoolArray, ended: BoolArray, last: BoolArray) -> bool:
    """Marks the rows whose episode is over; says whether there are any."""
    some = False
    for e in range(len(ended)):
        ended[e] = last[e] = terminated[e] or truncated[e]
        some |= ended[e]
    return some
