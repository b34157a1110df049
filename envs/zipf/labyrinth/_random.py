"""Random choices for generators of maps and rounds: one stream a moment, drawn in order."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np

from envs._rng import bounded, draw, moment, uniform
from envs.raycast._jit import inner

_PURPOSE = np.uint64(1)
_1 = np.uint64(1)


@inner
def begin(rng, streams, e):
    """Begins the stream of sub-environment ``e`` at its present step."""
    rng[0] = moment(streams.key[e], streams.episode[e], streams.step[e])
    rng[1] = 0


@inner
def begin_fixed(rng, level, index):
    """Begins the stream of a fixed map, the same in every episode and for every seed."""
    rng[0] = moment(np.uint64(level), index, 0)
    rng[1] = 0


@inner
def below(rng, n):
    """An integer in [0, n)."""
    rng[1] += _1
    return bounded(draw(rng[0], _PURPOSE, np.int64(rng[1])), n)


@inner
def chance(rng, p):
    """True with probability ``p``."""
    rng[1] += _1
    return uniform(draw(rng[0], _PURPOSE, np.int64(rng[1]))) < p


@inner
def between(rng, low, high):
    """An integer in [low, high]."""
    return low + below(rng, high - low + 1)


@inner
def shuffle(order, n, rng):
    """Makes ``order[:n]`` a random permutation of 0..n-1."""
    for k in range(n):
        order[k] = k
    for k in range(n - 1, 0, -1):
        j = below(rng, k + 1)
        order[k], order[j] = order[j], order[k]
