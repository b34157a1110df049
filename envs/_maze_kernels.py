"""Compiled dynamics of the stochastic maze.

Legend: ``B`` sub-environments, ``D`` doorways, ``R`` trackers, ``F`` reachable cells.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs._maze_board import BLOCK, BLOCK_PLANE, NOISE_PLANE, PLANES, RADIUS, VIEW, Board
from envs._rng import Streams, bounded, draw, moment, uniform

NONE, BROWNIAN, PIXEL, ON_DEMAND, TV, WIND, SLIP, SWAP = range(8)
NOOP, NORTH, EAST, SOUTH, WEST = range(5)
ACTIONS = 5
SIZE = len(PLANES) * VIEW * VIEW

# What a draw is for.
_PHASE, _MOVE, _PIXEL, _LAYER, _WIND, _SLIP, _SLIP_ACTION, _SWAP, _STICKY = (np.uint64(n) for n in range(9))


class Rules(NamedTuple):
    """What the episodes are like; see `envs.mazes.StochasticMaze`."""

    noise: int
    pixel_p: float
    wind_p: float
    slip_p: float
    sticky: float
    max_steps: int


class Maze(NamedTuple):
    """State of the sub-environments.

    Attributes:
        cell: ``[B]`` int32: where the agent is.
        phase: ``[B, D]`` int32: of each block on its way down and up again, in [0, 2 * span); see `position`.
        action: ``[B]`` int64: the action carried out last.
        visited: ``[B, F]`` bool.
        visits: ``[B]`` int32: distinct cells this episode.
        hits: ``[B, R]`` int32: arrivals at each tracker this episode.
        first: ``[B, R]`` int32: step of the first arrival, or -1.
        noise_events: ``[B]`` int32: steps with noise this episode.
        sticky_events: ``[B]`` int32: actions repeated this episode.
    """

    cell: NDArray[np.int32]
    phase: NDArray[np.int32]
    action: NDArray[np.int64]
    visited: NDArray[np.bool_]
    visits: NDArray[np.int32]
    hits: NDArray[np.int32]
    first: NDArray[np.int32]
    noise_events: NDArray[np.int32]
    sticky_events: NDArray[np.int32]


class Out(NamedTuple):
    """Where a row is written; names as in the environment's infos, ``obs`` flattened to ``[B, 125]``."""

    obs: NDArray[np.uint8]
    truncated: NDArray[np.bool_]
    noise_on: NDArray[np.bool_]
    noise_asked: NDArray[np.bool_]
    noise_events: NDArray[np.int32]
    sticky_events: NDArray[np.int32]
    cell: NDArray[np.int64]
    coverage: NDArray[np.float64]
    tracker_hits: NDArray[np.int32]
    tracker_first_step: NDArray[np.int32]


# Python hands tuples over as plain ones and the two entries name them: Numba reads a named tuple four times slower.


@njit(nogil=True, cache=True)
def reset_rows(
    maze: tuple, board: tuple, rules: tuple, streams: tuple, mask: NDArray[np.bool_], out: tuple, lo: int, hi: int
) -> None:
    """Begins an episode in the rows ``lo <= e < hi`` with ``mask[e]``.

    Args:
        maze: The fields of a `Maze`, as a plain tuple; likewise `Board`, `Rules`, `Streams` and `Out` below.
        board: Tables.
        rules: Settings.
        streams: Random streams.
        mask: ``[B]``.
        out: Where to write.
        lo: First row.
        hi: Row after the last.
    """
    _reset_rows(Maze(*maze), Board(*board), Rules(*rules), Streams(*streams), mask, Out(*out), lo, hi)


@njit(nogil=True, cache=True)
def step_rows(
    maze: tuple,
    board: tuple,
    rules: tuple,
    streams: tuple,
    actions: NDArray[np.int64],
    skip: NDArray[np.bool_],
    out: tuple,
    lo: int,
    hi: int,
) -> None:
    """Steps the rows ``lo <= e < hi`` without ``skip[e]``; arguments as for `reset_rows`."""
    _step_rows(Maze(*maze), Board(*board), Rules(*rules), Streams(*streams), actions, skip, Out(*out), lo, hi)


@njit(nogil=True, cache=True)
def _reset_rows(
    maze: Maze, board: Board, rules: Rules, streams: Streams, mask: NDArray[np.bool_], out: Out, lo: int, hi: int
) -> None:
    """Begins an episode in the rows ``lo <= e < hi`` with ``mask[e]``."""
    for e in range(lo, hi):
        if mask[e]:
            here = moment(streams.key[e], streams.episode[e], 0)
            for d in range(len(board.door_span)):
                maze.phase[e, d] = bounded(draw(here, _PHASE, d), 2 * board.door_span[d])
            maze.cell[e] = board.start
            maze.action[e] = NOOP
            maze.visited[e] = False
            maze.visited[e, board.rank[board.start]] = True
            maze.visits[e] = 1
            maze.noise_events[e] = 0
            maze.sticky_events[e] = 0
            maze.hits[e] = 0
            maze.first[e] = -1
            out.noise_on[e] = False
    _show_rows(maze, board, rules, streams, mask, True, out, lo, hi)


@njit(nogil=True, cache=True)
def _step_rows(
    maze: Maze,
    board: Board,
    rules: Rules,
    streams: Streams,
    actions: NDArray[np.int64],
    skip: NDArray[np.bool_],
    out: Out,
    lo: int,
    hi: int,
) -> None:
    """Steps the rows ``lo <= e < hi`` without ``skip[e]``, in passes over them: a pass needs few arrays."""
    _act_rows(maze, rules, streams, actions, skip, out, lo, hi)
    _move_rows(maze, board, rules, streams, skip, out, lo, hi)
    _block_rows(maze, board, rules, streams, skip, out, lo, hi)
    for e in range(lo, hi):
        if not skip[e]:
            out.truncated[e] = streams.step[e] >= rules.max_steps
    _show_rows(maze, board, rules, streams, skip, False, out, lo, hi)


@njit(nogil=True, cache=True)
def wind_strength(column: int) -> float:
    """How strongly a column pushes, 0 to 1: neighbours differ, every fifth column is calm."""
    return (2 * column % 5) / 4.0


@njit(nogil=True, cache=True)
def position(phase: int, span: int) -> int:
    """Rows of a block below the top of its doorway: down while ``phase < span``, then up."""
    return span - abs(span - phase)


# Arrays are taken out of their tuples before each loop: taking them out inside costs reference counts at each use.


@njit(nogil=True, cache=True)
def _act_rows(
    maze: Maze,
    rules: Rules,
    streams: Streams,
    actions: NDArray[np.int64],
    skip: NDArray[np.bool_],
    out: Out,
    lo: int,
    hi: int,
) -> None:
    """Chooses the action carried out: the one asked for, the last one (sticky), or a random one (slip)."""
    carried, repeats, noise_on = maze.action, maze.sticky_events, out.noise_on
    keys, episodes, steps = streams.key, streams.episode, streams.step
    for e in range(lo, hi):
        if skip[e]:
            continue
        noise_on[e] = False
        action = actions[e]
        if rules.sticky > 0 or rules.noise == SLIP:
            here = moment(keys[e], episodes[e], steps[e])
            if steps[e] > 1 and uniform(draw(here, _STICKY, 0)) < rules.sticky:
                noise_on[e] = action != carried[e]
                action = carried[e]
                repeats[e] += 1
            if rules.noise == SLIP and uniform(draw(here, _SLIP, 0)) < rules.slip_p:
                noise_on[e] = True
                action = bounded(draw(here, _SLIP_ACTION, 0), ACTIONS)
        carried[e] = action


@njit(nogil=True, cache=True)
def _move_rows(
    maze: Maze, board: Board, rules: Rules, streams: Streams, skip: NDArray[np.bool_], out: Out, lo: int, hi: int
) -> None:
    """Moves the agents where no wall and no block is, lets the wind push, and counts where they arrive."""
    cells, phases, actions = maze.cell, maze.phase, maze.action
    visited, visits, hits, first = maze.visited, maze.visits, maze.hits, maze.first
    to, row, column, tracker, rank = board.to, board.row, board.column, board.tracker, board.rank
    door, top, span, noise_on = board.door, board.door_top, board.door_span, out.noise_on
    for e in range(lo, hi):
        if skip[e]:
            continue
        before = cells[e]
        cell = to[before, actions[e]]
        if _blocked(cell, e, phases, row, door, top, span):
            cell = before
        if rules.noise == WIND:
            here = moment(streams.key[e], streams.episode[e], streams.step[e])
            north = to[cell, NORTH]
            push = uniform(draw(here, _WIND, 0)) < rules.wind_p * wind_strength(column[cell])
            if push and north != cell and not _blocked(north, e, phases, row, door, top, span):
                cell = north
                noise_on[e] = True
        if cell == before:
            continue
        cells[e] = cell
        visits[e] += not visited[e, rank[cell]]
        visited[e, rank[cell]] = True
        n = tracker[cell]
        if n >= 0:
            if hits[e, n] == 0:
                first[e, n] = streams.step[e]
            hits[e, n] += 1


@njit(nogil=True, cache=True)
def _blocked(
    cell: int,
    e: int,
    phases: NDArray[np.int32],
    row: NDArray[np.int32],
    door: NDArray[np.int32],
    top: NDArray[np.int32],
    span: NDArray[np.int32],
) -> bool:
    """Whether the block of row ``e``'s doorway there fills the cell."""
    d = door[cell]
    if d < 0:
        return False
    return 0 <= row[cell] - top[d] - position(phases[e, d], span[d]) < BLOCK


@njit(nogil=True, cache=True)
def _block_rows(
    maze: Maze, board: Board, rules: Rules, streams: Streams, skip: NDArray[np.bool_], out: Out, lo: int, hi: int
) -> None:
    """Moves every block by a cell unless onto the agent.

    A walk that reflects at both ends is a free walk over the phases; where the block is at an end, both neighbours of
    its phase are the same position. Noise acts if a block in view had two positions to go to.
    """
    cells, phases, noise_on = maze.cell, maze.phase, out.noise_on
    cell_row, cell_column = board.row, board.column
    top, column, span = board.door_top, board.door_column, board.door_span
    for e in range(lo, hi):
        if skip[e]:
            continue
        agent_row, agent_column = cell_row[cells[e]], cell_column[cells[e]]
        here = moment(streams.key[e], streams.episode[e], streams.step[e])
        for d in range(len(span)):
            phase, period = phases[e, d], 2 * span[d]
            turn = 1
            if rules.noise == BROWNIAN and draw(here, _MOVE, d) & np.uint64(1):
                turn = period - 1
            after = phase + turn
            after -= period if after >= period else 0
            near = abs(column[d] - agent_column)
            if near <= RADIUS:
                old, new = position(phase, span[d]), position(after, span[d])
                upper = top[d] + min(old, new)
                if rules.noise == BROWNIAN and 0 < old < span[d]:
                    noise_on[e] |= upper - RADIUS <= agent_row <= upper + BLOCK + RADIUS
                if near == 0 and 0 <= agent_row - top[d] - new < BLOCK:
                    continue
            phases[e, d] = after


@njit(nogil=True, cache=True)
def _show_rows(
    maze: Maze,
    board: Board,
    rules: Rules,
    streams: Streams,
    mask: NDArray[np.bool_],
    begin: bool,
    out: Out,
    lo: int,
    hi: int,
) -> None:
    """Writes observations and infos of the rows with ``mask[e] == begin``; ``begin`` says that they were just reset."""
    cells, phases, actions, events = maze.cell, maze.phase, maze.action, maze.noise_events
    row, column, seen = board.row, board.column, board.seen
    top, door_column, span = board.door_top, board.door_column, board.door_span
    obs, noise_on, noise_asked = out.obs, out.noise_on, out.noise_asked
    for e in range(lo, hi):
        if mask[e] != begin:
            continue
        here = moment(streams.key[e], streams.episode[e], streams.step[e])
        cell = cells[e]
        noop = actions[e] == NOOP and not begin
        layer = noop and rules.noise == ON_DEMAND
        if rules.noise == PIXEL:
            layer = uniform(draw(here, _PIXEL, 0)) < rules.pixel_p
        elif rules.noise == TV:
            layer = max(abs(row[board.tv] - row[cell]), abs(column[board.tv] - column[cell])) <= RADIUS
        swap = noop and rules.noise == SWAP
        noise_on[e] |= layer or swap
        noise_asked[e] = swap or (layer and rules.noise != PIXEL and not begin)
        events[e] += noise_on[e]
        if swap:
            cell = _elsewhere(draw(here, _SWAP, 0), board.reachable, board.rank[cell])

        for k in range(SIZE):
            obs[e, k] = seen[cell, k]
        for d in range(len(span)):
            x = door_column[d] - column[cell] + RADIUS
            if 0 <= x < VIEW:
                y = top[d] + position(phases[e, d], span[d]) - row[cell] + RADIUS
                for yy in range(max(y, 0), min(y + BLOCK, VIEW)):
                    obs[e, BLOCK_PLANE * VIEW * VIEW + yy * VIEW + x] = 255
        if layer:
            bits = draw(here, _LAYER, 0)
            for k in range(VIEW * VIEW):
                on = (bits >> np.uint64(k)) & np.uint64(1)
                obs[e, NOISE_PLANE * VIEW * VIEW + k] = np.uint8(255) if on else np.uint8(0)
    _inform_rows(maze, len(board.reachable), mask, begin, out, lo, hi)


@njit(nogil=True, cache=True)
def _elsewhere(bits: np.uint64, reachable: NDArray[np.int32], rank: int) -> int:
    """A uniformly random reachable cell other than the one of this rank."""
    other = bounded(bits, len(reachable) - 1)
    return reachable[other + 1 if other >= rank else other]


@njit(nogil=True, cache=True)
def _inform_rows(maze: Maze, reachable: int, mask: NDArray[np.bool_], begin: bool, out: Out, lo: int, hi: int) -> None:
    """Copies the counters into the infos."""
    cells, visits, hits, first = maze.cell, maze.visits, maze.hits, maze.first
    cell, coverage, tracker_hits, tracker_first_step = out.cell, out.coverage, out.tracker_hits, out.tracker_first_step
    for e in range(lo, hi):
        if mask[e] == begin:
            cell[e] = cells[e]
            coverage[e] = visits[e] / reachable
            out.noise_events[e] = maze.noise_events[e]
            out.sticky_events[e] = maze.sticky_events[e]
            for n in range(hits.shape[1]):
                tracker_hits[e, n] = hits[e, n]
                tracker_first_step[e, n] = first[e, n]
