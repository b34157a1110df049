"""Compiled dynamics of the random disco maze.

Legend: ``B`` sub-environments; boards are ``[S, S]``, ``S`` odd, with ``M = (S - 1) / 2`` rooms a side at odd rows and
columns; views are ``[V, V]``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs._rng import Streams, bounded, draw, moment

COLORS = np.array([(230, 60, 60), (60, 200, 80), (70, 110, 240), (240, 210, 60), (190, 80, 220)], np.uint8)
AGENT = np.array([255, 255, 255], np.uint8)
ACTIONS = 5

_START, _CARVE, _COLOR = (np.uint64(n) for n in range(3))
# A draw colours 21 tiles, three at a time: a base-125 digit is taken off a 57-bit fraction from above (57 bits times
# 125 fit into 64) and names three colours. The seventh digit's probabilities are off 1/125 by less than 0.4 percent.
_TRIPLES, _TRIPLE_BYTES = 7, 9
_7, _57, _125 = np.uint64(7), np.uint64(57), np.uint64(125)
_FRACTION = np.uint64((1 << 57) - 1)
_PALETTE = COLORS[np.stack(np.unravel_index(np.arange(125), (5, 5, 5)), axis=1)].reshape(125, _TRIPLE_BYTES)
_DOWN, _RIGHT = (0, -1, 0, 1, 0), (0, 0, 1, 0, -1)


class Disco(NamedTuple):
    """State of the sub-environments.

    Attributes:
        wall: ``[B, S, S]`` bool.
        agent: ``[B, 2]`` int32: row and column.
        visited: ``[B, S, S]`` bool.
        visits: ``[B]`` int32: distinct cells this episode.
        lit: Like ``obs`` of `Out`: 255 where a wall is in view, else 0.
    """

    wall: NDArray[np.bool_]
    agent: NDArray[np.int32]
    visited: NDArray[np.bool_]
    visits: NDArray[np.int32]
    lit: NDArray[np.uint8]


class Out(NamedTuple):
    """Where a row is written; names as in the environment's infos, ``obs`` flattened to ``[B, 3 * V * V]``."""

    obs: NDArray[np.uint8]
    truncated: NDArray[np.bool_]
    noise_on: NDArray[np.bool_]
    noise_asked: NDArray[np.bool_]
    noise_events: NDArray[np.int32]
    cell: NDArray[np.int64]
    coverage: NDArray[np.float64]


# Python hands tuples over as plain ones and the two entries name them: Numba reads a named tuple four times slower.


@njit(nogil=True, cache=True)
def reset_rows(
    disco: tuple,
    path: NDArray[np.int32],
    streams: tuple,
    mask: NDArray[np.bool_],
    view: int,
    out: tuple,
    lo: int,
    hi: int,
) -> None:
    """Begins an episode in a new maze in the rows ``lo <= e < hi`` with ``mask[e]``.

    Args:
        disco: The fields of a `Disco`, as a plain tuple; likewise `Streams` and `Out` below.
        path: ``[B, M * M]`` scratch memory.
        streams: Random streams.
        mask: ``[B]``.
        view: Cells of the view's edge; all is in view if it is ``S``.
        out: Where to write.
        lo: First row.
        hi: Row after the last.
    """
    _reset_rows(Disco(*disco), path, Streams(*streams), mask, view, Out(*out), lo, hi)


@njit(nogil=True, cache=True)
def step_rows(
    disco: tuple,
    streams: tuple,
    actions: NDArray[np.int64],
    skip: NDArray[np.bool_],
    max_steps: int,
    view: int,
    out: tuple,
    lo: int,
    hi: int,
) -> None:
    """Steps the rows ``lo <= e < hi`` without ``skip[e]``; arguments as for `reset_rows`."""
    _step_rows(Disco(*disco), Streams(*streams), actions, skip, max_steps, view, Out(*out), lo, hi)


@njit(nogil=True, cache=True)
def _reset_rows(
    disco: Disco,
    path: NDArray[np.int32],
    streams: Streams,
    mask: NDArray[np.bool_],
    view: int,
    out: Out,
    lo: int,
    hi: int,
) -> None:
    """Begins an episode in a new maze."""
    wall, agent, visited, visits, _ = disco
    rooms = (wall.shape[1] - 1) // 2
    for e in range(lo, hi):
        if mask[e]:
            here = moment(streams.key[e], streams.episode[e], 0)
            start = bounded(draw(here, _START, 0), rooms * rooms)
            _carve(wall, e, path, here, int(start))
            agent[e, 0] = 2 * (start // rooms) + 1
            agent[e, 1] = 2 * (start % rooms) + 1
            visited[e] = False
            visited[e, agent[e, 0], agent[e, 1]] = True
            visits[e] = 1
    _show_rows(disco, streams, mask, True, view, out, lo, hi)


@njit(nogil=True, cache=True)
def _step_rows(
    disco: Disco,
    streams: Streams,
    actions: NDArray[np.int64],
    skip: NDArray[np.bool_],
    max_steps: int,
    view: int,
    out: Out,
    lo: int,
    hi: int,
) -> None:
    """Steps the rows ``lo <= e < hi`` without ``skip[e]``."""
    wall, agent, visited, visits, _ = disco
    truncated, steps = out.truncated, streams.step
    for e in range(lo, hi):
        if not skip[e]:
            r = agent[e, 0] + _DOWN[actions[e]]
            c = agent[e, 1] + _RIGHT[actions[e]]
            if not wall[e, r, c]:
                agent[e, 0] = r
                agent[e, 1] = c
                visits[e] += not visited[e, r, c]
                visited[e, r, c] = True
            truncated[e] = steps[e] >= max_steps
    _show_rows(disco, streams, skip, False, view, out, lo, hi)


@njit(nogil=True, cache=True)
def _carve(wall: NDArray[np.bool_], e: int, path: NDArray[np.int32], here: np.uint64, start: int) -> None:
    """A random depth-first spanning tree over the rooms."""
    rooms = (wall.shape[1] - 1) // 2
    wall[e] = True
    wall[e, 2 * (start // rooms) + 1, 2 * (start % rooms) + 1] = False
    path[e, 0], depth, draws = start, 1, 0
    while depth:
        room = path[e, depth - 1]
        r, c = 2 * (room // rooms) + 1, 2 * (room % rooms) + 1
        choices = 0
        for a in range(1, ACTIONS):
            choices += _uncarved(wall, e, r + 2 * _DOWN[a], c + 2 * _RIGHT[a])
        if choices == 0:
            depth -= 1
            continue
        chosen = bounded(draw(here, _CARVE, draws), choices)
        draws += 1
        for a in range(1, ACTIONS):
            if _uncarved(wall, e, r + 2 * _DOWN[a], c + 2 * _RIGHT[a]):
                if chosen == 0:
                    wall[e, r + _DOWN[a], c + _RIGHT[a]] = False
                    wall[e, r + 2 * _DOWN[a], c + 2 * _RIGHT[a]] = False
                    path[e, depth] = room + _DOWN[a] * rooms + _RIGHT[a]
                    depth += 1
                    break
                chosen -= 1


@njit(nogil=True, cache=True)
def _uncarved(wall: NDArray[np.bool_], e: int, r: int, c: int) -> bool:
    return 0 < r < wall.shape[1] and 0 < c < wall.shape[2] and wall[e, r, c]


@njit(nogil=True, cache=True)
def _show_rows(
    disco: Disco, streams: Streams, mask: NDArray[np.bool_], begin: bool, view: int, out: Out, lo: int, hi: int
) -> None:
    """Writes the rows with ``mask[e] == begin``: the walls' new colours, the agent, and the infos."""
    wall, agent, _, visits, lit = disco
    keys, episodes, steps, obs = streams.key, streams.episode, streams.step, out.obs
    noise_on, asked, events, cell, coverage = out.noise_on, out.noise_asked, out.noise_events, out.cell, out.coverage
    size = wall.shape[1]
    rooms = (size - 1) // 2
    floor = 2 * rooms * rooms - 1
    for e in range(lo, hi):
        if mask[e] != begin:
            continue
        top = 0 if view == size else agent[e, 0] - view // 2
        left = 0 if view == size else agent[e, 1] - view // 2
        if begin or view < size:
            _light(lit, wall, e, top, left, view)
        _color(obs, lit, e, moment(keys[e], episodes[e], steps[e]))
        for k in range(3):
            obs[e, 3 * ((agent[e, 0] - top) * view + agent[e, 1] - left) + k] = AGENT[k]
        noise_on[e] = not begin
        asked[e] = False
        events[e] = steps[e]
        cell[e] = agent[e, 0] * size + agent[e, 1]
        coverage[e] = visits[e] / floor


@njit(nogil=True, cache=True)
def _light(lit: NDArray[np.uint8], wall: NDArray[np.bool_], e: int, top: int, left: int, view: int) -> None:
    """Marks the walls in view; beyond the board there are none."""
    size = wall.shape[1]
    for y in range(view):
        for x in range(view):
            r, c = top + y, left + x
            inside = 0 <= r < size and 0 <= c < size
            for k in range(3):
                lit[e, 3 * (y * view + x) + k] = np.uint8(255) if inside and wall[e, r, c] else np.uint8(0)


@njit(nogil=True, cache=True)
def _color(obs: NDArray[np.uint8], lit: NDArray[np.uint8], e: int, here: np.uint64) -> None:
    """Draws a colour for every tile that is lit; the others are black."""
    n = obs.shape[1]
    for first in range(0, n, _TRIPLES * _TRIPLE_BYTES):
        bits = draw(here, _COLOR, first) >> _7
        for byte in range(first, min(first + _TRIPLES * _TRIPLE_BYTES, n), _TRIPLE_BYTES):
            bits *= _125
            digit = bits >> _57
            bits &= _FRACTION
            if byte + _TRIPLE_BYTES <= n:
                for k in range(_TRIPLE_BYTES):
                    obs[e, byte + k] = _PALETTE[digit, k]
            else:
                for k in range(n - byte):
                    obs[e, byte + k] = _PALETTE[digit, k]
    for byte in range(n):
        obs[e, byte] &= lit[e, byte]
