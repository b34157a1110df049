"""Compiled inner loops of Zipf's Gridworld over a range of sub-environments; un-jitted they give the same numbers.

Legend: ``B`` sub-environments, ``V`` width of the view in tiles, ``M`` maps, ``O`` objects.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs._rng import draw, moment, uniform
from envs.zipf.pictures import AGENT, COVERED, FIRST_OBJECT

_TASK = np.uint64(0)
# Eight letters are four words.
OUTCOMES = np.array(["", "goal", "wrong", "timeout"], dtype="<U8")
_OUTCOME_WORDS = OUTCOMES.view(np.uint64).reshape(4, 4)
GOING_ON, GOAL, WRONG, TIMEOUT = range(4)


class Tables(NamedTuple):
    """What never changes.

    Attributes:
        tiles, next, start, goal, look: See `envs.zipf.world.World`.
        picture: Bytes of the pictures by tile code, then of the cues by look, overlapping words; see `words`.
        picture_row: Bytes of one row of one picture.
        tile: Rows of one picture.
        window: ``V``.
        stride: Columns of the padded board.
        max_steps: Steps after which an episode is cut.
        first_cue: Number of the first cue picture.
    """

    tiles: NDArray[np.uint8]
    next: NDArray[np.int32]
    start: NDArray[np.int32]
    goal: NDArray[np.int32]
    look: NDArray[np.uint8]
    picture: NDArray[np.uint64]
    picture_row: int
    tile: int
    window: int
    stride: int
    max_steps: int
    first_cue: int


class Law(NamedTuple):
    """The three splits (rows, in the order of `envs.zipf.law.SPLITS`) over items, and the items' ranks.

    Attributes:
        map_cumulative, object_cumulative: ``[3, M]`` and ``[3, O]``, for inverse sampling.
        map_probability, object_probability: ``[3, M]`` and ``[3, O]``.
        map_rank, object_rank: ``[M]`` and ``[O]``, from 0.
        map_rare, object_rare: ``[M]`` and ``[O]`` bool.
    """

    map_cumulative: NDArray[np.float64]
    object_cumulative: NDArray[np.float64]
    map_probability: NDArray[np.float64]
    object_probability: NDArray[np.float64]
    map_rank: NDArray[np.int64]
    object_rank: NDArray[np.int64]
    map_rare: NDArray[np.bool_]
    object_rare: NDArray[np.bool_]


class State(NamedTuple):
    """What changes.

    Attributes:
        split: ``[1]``: row of `Law` in use.
        map, object, position: ``[B]``: the task and where the agent is.
        outcome: ``[B]``: index of `OUTCOMES`.
        forced: ``[B, 2]``: task of the next reset, -1 where it is drawn.
    """

    split: NDArray[np.int64]
    map: NDArray[np.int32]
    object: NDArray[np.int32]
    position: NDArray[np.int32]
    outcome: NDArray[np.uint8]
    forced: NDArray[np.int32]


class Canvas(NamedTuple):
    """Where observations go; an array that the observation does not have is empty.

    Attributes:
        image: The pictures' bytes as overlapping words; see `words`.
        tiles: ``[B, V, V]`` uint8.
        cue: ``[B]`` uint8.
    """

    image: NDArray[np.uint64]
    tiles: NDArray[np.uint8]
    cue: NDArray[np.uint8]


class Infos(NamedTuple):
    """Where infos go, ``[B]`` each but ``ranks [B, 2]`` and ``outcome [B, 4]``, the words of a ``<U8``."""

    task_id: NDArray[np.int64]
    ranks: NDArray[np.int64]
    task_prob: NDArray[np.float64]
    is_rare: NDArray[np.bool_]
    cell: NDArray[np.int64]
    success: NDArray[np.bool_]
    outcome: NDArray[np.uint64]


def words(array: np.ndarray) -> NDArray[np.uint64]:
    """An array's memory as 8-byte words, one *at every byte*: word ``i`` is bytes ``i..i+7``.

    So a row of any 8 bytes or more is copied in a few words, the last of which overlaps the one before it.
    """
    return np.ndarray((max(array.nbytes - 7, 0),), np.uint64, buffer=array, strides=(1,))


@njit(nogil=True, cache=True)
def sample(cumulative, u):
    """First index whose entry is above ``u``, by halving."""
    low, high = 0, len(cumulative) - 1
    while low < high:
        middle = (low + high) // 2
        if u < cumulative[middle]:
            high = middle
        else:
            low = middle + 1
    return low


@njit(nogil=True, cache=True)
def reset_rows(tables, law, state, streams, canvas, infos, mask, lo, hi):
    """Begin an episode in the rows of ``mask``: draw the map, then the goal."""
    split = state.split[0]
    for e in range(lo, hi):
        if not mask[e]:
            continue
        m, o = state.forced[e, 0], state.forced[e, 1]
        if m < 0:
            here = moment(streams.key[e], streams.episode[e], streams.step[e])
            m = sample(law.map_cumulative[split], uniform(draw(here, _TASK, 0)))
            o = sample(law.object_cumulative[split], uniform(draw(here, _TASK, 1)))
        state.forced[e, :] = -1
        state.map[e], state.object[e], state.position[e] = m, o, tables.start[m]
        state.outcome[e] = GOING_ON
    _write_rows(tables, law, state, canvas, infos, mask, True, lo, hi)


@njit(nogil=True, cache=True)
def step_rows(tables, law, state, streams, canvas, infos, reward, terminated, truncated, actions, skip, lo, hi):
    """Move the agents of the rows not in ``skip``."""
    _move_rows(tables, state, streams.step, reward, terminated, truncated, actions, skip, lo, hi)
    _write_rows(tables, law, state, canvas, infos, skip, False, lo, hi)


# Arrays are taken out of their tuples before the loops, and loops over rows call nothing: inside them, looking up an
# array or handing it on would count references, atomically, which costs more than the work itself.
@njit(nogil=True, cache=True)
def _move_rows(tables, state, step, reward, terminated, truncated, actions, skip, lo, hi):
    following, tiles, goal = tables.next, tables.tiles, tables.goal
    maps, objects, positions, outcomes = state.map, state.object, state.position, state.outcome
    centre, max_steps = tables.window // 2 * (tables.stride + 1), tables.max_steps
    for e in range(lo, hi):
        if skip[e]:
            continue
        m = maps[e]
        position = following[m, positions[e], actions[e]]
        positions[e] = position
        outcome = GOING_ON
        if tiles[m, position + centre] >= FIRST_OBJECT:
            outcome = GOAL if position == goal[m, objects[e]] else WRONG
        elif step[e] >= max_steps:
            outcome = TIMEOUT
        outcomes[e] = outcome
        reward[e] = 1.0 if outcome == GOAL else 0.0
        terminated[e] = outcome in (GOAL, WRONG)
        truncated[e] = outcome == TIMEOUT


@njit(nogil=True, cache=True)
def _write_rows(tables, law, state, canvas, infos, mask, chosen, lo, hi):
    """Write observations and infos of the rows where ``mask == chosen``."""
    if len(canvas.cue) > 0:
        _write_tiles(tables, state, canvas.tiles, canvas.cue, mask, chosen, lo, hi)
    if len(canvas.image) > 0:
        _write_images(tables, state, canvas.image, mask, chosen, lo, hi)
    _write_infos(law, state, infos, tables.next.shape[1], mask, chosen, lo, hi)


@njit(nogil=True, cache=True)
def _write_tiles(tables, state, tiles, cue, mask, chosen, lo, hi):
    boards, looks = tables.tiles, tables.look
    maps, objects, positions, outcomes = state.map, state.object, state.position, state.outcome
    window, stride = tables.window, tables.stride
    for e in range(lo, hi):
        if mask[e] != chosen:
            continue
        m, position = maps[e], positions[e]
        cue[e] = looks[m, objects[e]]
        for i in range(window):
            for j in range(window):
                tiles[e, i, j] = boards[m, position + i * stride + j]
        if outcomes[e] not in (GOAL, WRONG):
            tiles[e, window // 2, window // 2] = AGENT
        tiles[e, 0, 0] = COVERED


@njit(nogil=True, cache=True)
def _write_images(tables, state, image, mask, chosen, lo, hi):
    """Copy the tiles' rows word by word, the last two words overlapping.

    Unsigned offsets spare a test for negative ones at every word.
    """
    boards, looks, picture = tables.tiles, tables.look, tables.picture
    maps, objects, positions, outcomes = state.map, state.object, state.position, state.outcome
    window, stride, middle, first_cue = tables.window, tables.stride, tables.window // 2, tables.first_cue
    tile, row = tables.tile, tables.picture_row
    zero, word, last = np.uint64(0), np.uint64(8), np.uint64(row - 8)
    next_row, next_line = np.uint64(row), np.uint64(window * row)
    for e in range(lo, hi):
        if mask[e] != chosen:
            continue
        m, position = maps[e], positions[e]
        alive = outcomes[e] not in (GOAL, WRONG)
        for place in range(window * window):
            i, j = place // window, place % window
            code = np.int64(boards[m, position + i * stride + j])
            if place == 0:
                code = first_cue + np.int64(looks[m, objects[e]])
            elif i == middle and j == middle and alive:
                code = AGENT
            source = np.uint64(code * tile * row)
            target = np.uint64(((e * window + i) * tile * window + j) * row)
            for _ in range(tile):
                k = zero
                while k < last:
                    image[target + k] = picture[source + k]
                    k += word
                image[target + last] = picture[source + last]
                source += next_row
                target += next_line


@njit(nogil=True, cache=True)
def _write_infos(law, state, infos, cells, mask, chosen, lo, hi):
    task_id, ranks, task_prob, is_rare, cell, success, outcome = infos
    maps, objects, positions, outcomes, split = state.map, state.object, state.position, state.outcome, state.split[0]
    map_probability, object_probability = law.map_probability[split], law.object_probability[split]
    map_rank, object_rank, map_rare, object_rare = law.map_rank, law.object_rank, law.map_rare, law.object_rare
    for e in range(lo, hi):
        if mask[e] != chosen:
            continue
        m, o, ending = maps[e], objects[e], outcomes[e]
        task_id[e] = m * len(object_rank) + o
        ranks[e, 0], ranks[e, 1] = map_rank[m], object_rank[o]
        task_prob[e] = map_probability[m] * object_probability[o]
        is_rare[e] = map_rare[m] and object_rare[o]
        cell[e] = m * cells + positions[e]
        success[e] = ending == GOAL
        for k in range(4):
            outcome[e, k] = _OUTCOME_WORDS[ending, k]
