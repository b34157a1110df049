"""A scripted player that reads the true state: how well every task can be played.

It walks from cell to cell along a shortest way to the object and then to the furniture, and grips and releases as soon
as that is right.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import numpy as np
from numba import njit

from envs.zipf.playroom._act import aimed, can_release, outcome_of_release
from envs.zipf.playroom.state import (
    FIND,
    FLOOR,
    FORWARD,
    GOAL,
    GOING_ON,
    GRIP,
    HEADINGS,
    MAP,
    RELEASE,
    RIGHT_ANGLE,
    SLOTS,
    TURN,
    TURN_AROUND,
    TURN_LEFT,
    TURN_RIGHT,
)

_UNSEEN, _BLOCKED = 1 << 20, 1 << 21


@njit(nogil=True, cache=True)
def oracle_rows(rules, state, actions, lo, hi):
    """Writes an action for every sub-environment ``lo <= e < hi``."""
    distance, queue = np.zeros((MAP, MAP), np.int64), np.zeros(MAP * MAP, np.int64)
    for e in range(lo, hi):
        agent, things, pieces, cells = state.agents[e], state.things[e], state.pieces[e], state.cells[e]
        actions[e] = _choose(rules, agent, things, pieces, cells, distance, queue)


@njit(nogil=True, cache=True)
def _choose(rules, agent, things, pieces, cells, distance, queue):
    if agent.held >= 0:
        wanted = GOAL if agent.held == 0 else GOING_ON
        if can_release(rules, agent, things, cells) and outcome_of_release(rules, agent, pieces) == wanted:
            return RELEASE
        if agent.held > 0:
            return TURN_RIGHT
        _forbid(things, cells, distance)
        piece, count = pieces[agent.furniture], 0
        for row in range(piece.row, piece.row + piece.rows):
            for column in range(piece.column, piece.column + piece.columns):
                distance[row, column], queue[count] = 0, row * MAP + column
                count += 1
        return _approach(rules, agent, distance, queue, count)
    target = things[0]
    if aimed(rules, agent, things) == 0:
        return GRIP
    if rules.task == FIND and _would_aim(rules, agent, things):
        return _turn_to(rules, agent, target.x, target.y)
    _forbid(things, cells, distance)
    row, column = int(target.y), int(target.x)
    distance[row, column], queue[0] = 0, row * MAP + column
    return _approach(rules, agent, distance, queue, 1)


@njit(nogil=True, cache=True)
def _forbid(things, cells, distance):
    """Marks what cannot be walked on, so that the search leaves it out."""
    for row in range(MAP):
        for column in range(MAP):
            distance[row, column] = _UNSEEN if cells[row, column] == FLOOR else _BLOCKED
    for s in range(SLOTS):
        if things[s].texture >= 0:
            distance[int(things[s].y), int(things[s].x)] = _BLOCKED


@njit(nogil=True, cache=True)
def _approach(rules, agent, distance, queue, count):
    """A step towards the nearest of the cells at distance 0, of which there are ``count`` in the queue."""
    here, head = int(agent.y) * MAP + int(agent.x), 0
    while head < count:
        cell, head = queue[head], head + 1
        for direction in range(4):
            row, column = _beside(cell, direction)
            if 0 <= row < MAP and 0 <= column < MAP:
                reached = distance[row, column] == _UNSEEN or row * MAP + column == here
                if reached and distance[row, column] > distance[cell // MAP, cell % MAP] + 1:
                    distance[row, column] = distance[cell // MAP, cell % MAP] + 1
                    queue[count] = row * MAP + column
                    count += 1
    best, x, y = _UNSEEN, agent.x, agent.y
    for turned in range(4):
        # Straight on first, so that the way has few corners.
        direction = (agent.heading // RIGHT_ANGLE + turned) % 4
        row, column = _beside(here, direction)
        if distance[row, column] < best:
            best, x, y = distance[row, column], column + 0.5, row + 0.5
    return _turn_to(rules, agent, x, y)


@njit(nogil=True, cache=True)
def _beside(cell, direction):
    """Row and column of the neighbour to the east, south, west or north."""
    down = 1 if direction == 1 else -1 if direction == 3 else 0
    across = 1 if direction == 0 else -1 if direction == 2 else 0
    return cell // MAP + down, cell % MAP + across


@njit(nogil=True, cache=True)
def _would_aim(rules, agent, things):
    """Whether turning on the spot is enough to point at the object asked for."""
    heading = agent.heading
    agent.heading = _heading_to(rules, agent, things[0].x, things[0].y) % HEADINGS
    found = aimed(rules, agent, things) == 0
    agent.heading = heading
    return found


@njit(nogil=True, cache=True)
def _heading_to(rules, agent, x, y):
    """The heading closest to a point's direction that turns can reach."""
    return round(math.atan2(y - agent.y, x - agent.x) / (TURN * rules.turn)) * rules.turn


@njit(nogil=True, cache=True)
def _turn_to(rules, agent, x, y):
    """Turns towards a point, or goes forward."""
    turn = (_heading_to(rules, agent, x, y) - agent.heading + HEADINGS // 2) % HEADINGS - HEADINGS // 2
    if turn == 0:
        return FORWARD
    if abs(turn) > RIGHT_ANGLE:
        return TURN_AROUND
    return TURN_RIGHT if turn > 0 else TURN_LEFT
