"""How an episode of the playroom begins: furniture, agent and objects, from the episode's own random numbers.

Legend: see `envs.zipf.playroom.state`.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import numpy as np
from numba import njit

from envs._rng import bounded, draw, moment, uniform
from envs.raycast import NOTHING
from envs.zipf.playroom.state import (
    BED,
    BED_SIZE,
    FIND,
    FLOOR,
    HEADINGS,
    MAP,
    OBJECT_SIZE,
    PILLOW,
    PUT_NEAR,
    PUT_ON,
    ROOM,
    SLOTS,
    TRAY,
    TURN,
    WALL,
)

_TASK, _FURNITURE, _LAYOUT, _AGENT, _DISTRACTOR, _PLACE = (np.uint64(n) for n in range(6))
_APART = 3
"""Columns or rows from furniture to furniture, so that nothing is near both."""
_NOT_AT_HAND = 1.5
_IN_SIGHT = 4.5
_APART_IN_SIGHT = math.cos(math.radians(20))
"""Where tasks ask to point: how far and at what angle from one another the objects are."""
_LEVELS_OF_CARE = 3


@njit(nogil=True, cache=True)
def begin_episode(rules, law, state, streams, e, allowed):
    """Begins an episode of sub-environment ``e``; ``allowed`` is memory, ``[Y, X]`` bool."""
    here = moment(streams.key[e], streams.episode[e], streams.step[e])
    agent, things, pieces, cells = state.agents[e], state.things[e], state.pieces[e], state.cells[e]
    split, kind = state.split[0], state.forced[e]
    if kind < 0:
        u, kind = uniform(draw(here, _TASK, 0)), 0
        while u >= law.cumulative[split, kind]:
            kind += 1
    state.forced[e] = -1
    agent.kind, agent.held, agent.overlay, agent.furniture = kind, -1, NOTHING, -1
    if rules.task == PUT_ON or rules.task == PUT_NEAR:
        agent.furniture = bounded(draw(here, _FURNITURE, 0), 2)
    _furnish(here, pieces, cells, allowed)
    _place_agent(here, rules, agent, cells, allowed)
    _choose_objects(here, rules, law.probability, split, kind, things)
    for s in range(rules.objects):
        _place_object(here, rules, agent, things, cells, allowed, s)


@njit(nogil=True, cache=True)
def _furnish(here, pieces, cells, allowed):
    """Walls, a bed with its pillows at one of its short sides, and a tray."""
    cells[:, :] = WALL
    cells[1:-1, 1:-1] = FLOOR
    bed, tray = pieces[0], pieces[1]
    along_x, pillow_last = bounded(draw(here, _LAYOUT, 0), 2) == 1, bounded(draw(here, _LAYOUT, 1), 2) == 1
    bed.rows, bed.columns = (BED_SIZE[0], BED_SIZE[1]) if along_x else (BED_SIZE[1], BED_SIZE[0])
    bed.row = 1 + bounded(draw(here, _LAYOUT, 2), ROOM - bed.rows + 1)
    bed.column = 1 + bounded(draw(here, _LAYOUT, 3), ROOM - bed.columns + 1)
    for row in range(bed.row, bed.row + bed.rows):
        for column in range(bed.column, bed.column + bed.columns):
            place = column - bed.column if along_x else row - bed.row
            cells[row, column] = PILLOW if place == (BED_SIZE[1] - 1 if pillow_last else 0) else BED
    for row in range(MAP):
        for column in range(MAP):
            down = max(bed.row - row, row - (bed.row + bed.rows - 1))
            across = max(bed.column - column, column - (bed.column + bed.columns - 1))
            allowed[row, column] = cells[row, column] == FLOOR and max(down, across) >= _APART
    place = _pick(allowed, draw(here, _LAYOUT, 4))
    tray.row, tray.column, tray.rows, tray.columns = place // MAP, place % MAP, 1, 1
    cells[tray.row, tray.column] = TRAY


@njit(nogil=True, cache=True)
def _place_agent(here, rules, agent, cells, allowed):
    """On any floor; near the middle where the task is to point, so that there is room for objects around."""
    margin = 3 if rules.task == FIND else 1
    for row in range(MAP):
        for column in range(MAP):
            inner = margin <= row < MAP - margin and margin <= column < MAP - margin
            allowed[row, column] = inner and cells[row, column] == FLOOR
    place = _pick(allowed, draw(here, _AGENT, 0))
    agent.x, agent.y = place % MAP + 0.5, place // MAP + 0.5
    agent.heading = bounded(draw(here, _AGENT, 1), HEADINGS // rules.turn) * rules.turn
    agent.angle = agent.heading * TURN


@njit(nogil=True, cache=True)
def _choose_objects(here, rules, probability, split, kind, things):
    """The object asked for, then distractors without replacement; by chance alone once their law has none left."""
    for s in range(SLOTS):
        things[s].kind, things[s].texture, things[s].size, things[s].z = -1, NOTHING, OBJECT_SIZE, 0.0
    things[0].kind, things[0].texture = kind, kind
    for s in range(1, rules.objects):
        same = rules.same_law
        total = _left(probability, split, things, same)
        if total <= 0:
            same = False
            total = _left(probability, split, things, same)
        u = uniform(draw(here, _DISTRACTOR, s)) * total
        chosen = -1
        for k in range(probability.shape[1]):
            weight = probability[split, k] if same else 1.0
            if weight <= 0 or _there(things, k):
                continue
            chosen = k
            u -= weight
            if u < 0:
                break
        things[s].kind, things[s].texture = chosen, chosen


@njit(nogil=True, cache=True)
def _left(probability, split, things, same):
    """Probability of the objects that are not there yet."""
    total = 0.0
    for k in range(probability.shape[1]):
        if not _there(things, k):
            total += probability[split, k] if same else 1.0
    return total


@njit(nogil=True, cache=True)
def _there(things, kind):
    found = False
    for s in range(SLOTS):
        found |= things[s].kind == kind
    return found


@njit(nogil=True, cache=True)
def _place_object(here, rules, agent, things, cells, allowed, s):
    """Apart from furniture, from the agent and from other objects, with less care if there is no such place."""
    place = -1
    for carelessness in range(_LEVELS_OF_CARE):
        for row in range(MAP):
            for column in range(MAP):
                allowed[row, column] = _suits(rules, agent, things, cells, s, row, column, carelessness)
        place = _pick(allowed, draw(here, _PLACE, s * _LEVELS_OF_CARE + carelessness))
        if place >= 0:
            break
    things[s].x, things[s].y = place % MAP + 0.5, place // MAP + 0.5


@njit(nogil=True, cache=True)
def _suits(rules, agent, things, cells, s, row, column, carelessness):
    if cells[row, column] != FLOOR:
        return False
    dx, dy = column + 0.5 - agent.x, row + 0.5 - agent.y
    distance = math.sqrt(dx * dx + dy * dy)
    in_sight = rules.task == FIND and carelessness == 0
    if distance < _NOT_AT_HAND or (in_sight and distance > _IN_SIGHT):
        return False
    for y in range(row - 1, row + 2):
        for x in range(column - 1, column + 2):
            if cells[y, x] != FLOOR and cells[y, x] != WALL:
                return False
    for other in range(s):
        other_x, other_y = things[other].x - agent.x, things[other].y - agent.y
        gap = max(abs(dx - other_x), abs(dy - other_y))
        if gap < 0.5 or (gap < 1.5 and carelessness < _LEVELS_OF_CARE - 1):
            return False
        alike = dx * other_x + dy * other_y
        if in_sight and alike > _APART_IN_SIGHT * distance * math.sqrt(other_x * other_x + other_y * other_y):
            return False
    return True


@njit(nogil=True, cache=True)
def _pick(allowed, bits):
    """One of the allowed cells, as ``row * MAP + column``; -1 if there is none."""
    count = 0
    for row in range(MAP):
        for column in range(MAP):
            count += allowed[row, column]
    if count == 0:
        return -1
    nth = bounded(bits, count)
    for row in range(MAP):
        for column in range(MAP):
            if allowed[row, column]:
                if nth == 0:
                    return row * MAP + column
                nth -= 1
    return -1
