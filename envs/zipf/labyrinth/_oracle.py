"""Scripted players that read the true state: how well each level can be played.

They walk along shortest ways to what the level's generator marked as the next thing to touch, around what should not be
touched; they aim and shoot, and answer trials.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

from envs.raycast._jit import entry, inner
from envs.zipf.labyrinth import looks
from envs.zipf.labyrinth._bots import aimed_at, sees
from envs.zipf.labyrinth._layouts import step_of
from envs.zipf.labyrinth._motion import ACT, BACK, FORWARD, FORWARD_LEFT, FORWARD_RIGHT, TURN_LEFT, TURN_RIGHT
from envs.zipf.labyrinth._trials import FIXATE, TEST, turned
from envs.zipf.labyrinth.levels import Mechanic
from envs.zipf.labyrinth.looks import CAN_STAND, HEIGHT
from envs.zipf.labyrinth.state import HEADINGS, MAP_EDGE, THINGS, TURN, Role

_NEVER = 1 << 30
_SHARP = 3
"""Turns beyond which the oracle turns on the spot."""


@entry
def oracle_actions(levels, state, work, actions):
    """Writes an action for every sub-environment."""
    for e in range(len(actions)):
        agent, things, cells = state.agents[e], state.things[e], state.cells[e]
        mechanic = levels[agent.level].mechanic
        if mechanic == Mechanic.TRIALS:
            actions[e] = _answer(agent)
            continue
        if mechanic == Mechanic.TAG:
            target = _nearest_in_sight(agent, things, cells)
            if target >= 0:
                actions[e] = _aim(agent, cells, things[target])
                continue
        actions[e] = _walk(agent, things, cells, work)


@inner
def _answer(agent):
    """Turns to the middle, or to the right mark while the pictures ask for it."""
    wanted = 0
    if agent.phase == TEST:
        wanted = 2 if agent.answer > 0 else -2
    elif agent.phase != FIXATE:
        return BACK
    now = turned(agent)
    if now == wanted:
        return BACK
    return TURN_RIGHT if now < wanted else TURN_LEFT


@inner
def _nearest_in_sight(agent, things, cells):
    found, nearest = -1, 1e9
    for s in range(THINGS):
        if things[s].role != Role.BOT:
            continue
        dx, dy = things[s].x - agent.x, things[s].y - agent.y
        distance = math.sqrt(dx * dx + dy * dy)
        if distance < nearest and sees(cells, agent.x, agent.y, things[s].x, things[s].y):
            found, nearest = s, distance
    return found


@inner
def _aim(agent, cells, thing):
    if aimed_at(agent, cells, thing) >= 0:
        return ACT if agent.cooldown <= 1 else FORWARD
    return _steer(agent, thing.x, thing.y)


@inner
def _walk(agent, things, cells, work):
    """A step along the shortest way to what comes next; straight to it once it is in the same or the next cell."""
    if not _seek(agent, things, cells, work, True):
        _seek(agent, things, cells, work, False)
    x, y = int(agent.x), int(agent.y)
    here = work.distance[y, x]
    if here == 0:
        s = _wanted_in(things, x, y)
        return _steer(agent, things[s].x, things[s].y) if s >= 0 else FORWARD
    best, goal_x, goal_y = _NEVER, x + 0.5, y + 0.5
    for direction in range(4):
        dx, dy = step_of(direction)
        if not (0 <= x + dx < MAP_EDGE and 0 <= y + dy < MAP_EDGE):
            continue
        there = work.distance[y + dy, x + dx]
        if 0 <= there < best and _enters(agent, cells[y, x], cells[y + dy, x + dx]):
            best, goal_x, goal_y = there, x + dx + 0.5, y + dy + 0.5
    return _steer(agent, goal_x, goal_y)


@inner
def _steer(agent, x, y):
    angle = math.atan2(y - agent.y, x - agent.x)
    turn = round(angle / TURN) - agent.heading
    turn = (turn + HEADINGS // 2) % HEADINGS - HEADINGS // 2
    if turn == 0:
        return FORWARD
    if abs(turn) > _SHARP:
        return TURN_RIGHT if turn > 0 else TURN_LEFT
    return FORWARD_RIGHT if turn > 0 else FORWARD_LEFT


@inner
def _next_order(things):
    lowest = _NEVER
    for s in range(THINGS):
        if things[s].present == 1 and things[s].role != Role.NONE and things[s].order > 0:
            lowest = min(lowest, things[s].order)
    return lowest


@inner
def _wanted_in(things, x, y):
    order = _next_order(things)
    for s in range(THINGS):
        if things[s].present == 1 and things[s].order == order and int(things[s].x) == x and int(things[s].y) == y:
            return s
    return -1


@inner
def _seek(agent, things, cells, work, careful):
    """Writes each cell's distance from the nearest thing wanted; returns whether the agent can get there.

    If a key is held, its door is wanted. Cells with things that should not be touched are avoided if ``careful``.
    """
    work.distance[:, :] = -1
    head, tail = 0, 0
    if agent.held >= 0:
        for y in range(MAP_EDGE):
            for x in range(MAP_EDGE):
                if cells[y, x] == looks.DOOR + agent.held:
                    work.distance[y, x] = 0
                    work.queue[tail] = y * MAP_EDGE + x
                    tail += 1
    if tail == 0:
        order = _next_order(things)
        for s in range(THINGS):
            if things[s].present == 1 and things[s].order == order and things[s].role != Role.NONE:
                x, y = int(things[s].x), int(things[s].y)
                if work.distance[y, x] < 0:
                    work.distance[y, x] = 0
                    work.queue[tail] = y * MAP_EDGE + x
                    tail += 1
    if careful:
        _forbid(agent, things, work)
    while head < tail:
        x, y = work.queue[head] % MAP_EDGE, work.queue[head] // MAP_EDGE
        head += 1
        for direction in range(4):
            dx, dy = step_of(direction)
            if not (0 <= x + dx < MAP_EDGE and 0 <= y + dy < MAP_EDGE) or work.distance[y + dy, x + dx] != -1:
                continue
            if _enters(agent, cells[y + dy, x + dx], cells[y, x]):
                work.distance[y + dy, x + dx] = work.distance[y, x] + 1
                work.queue[tail] = (y + dy) * MAP_EDGE + x + dx
                tail += 1
    return work.distance[int(agent.y), int(agent.x)] >= 0


@inner
def _forbid(agent, things, work):
    for s in range(THINGS):
        thing = things[s]
        if thing.present == 0 or thing.role == Role.NONE or thing.role == Role.BOT:
            continue
        unwanted = thing.value < 0 or thing.order == 0 or (thing.role == Role.KEY and agent.held < 0)
        x, y = int(thing.x), int(thing.y)
        if unwanted and work.distance[y, x] != 0 and not (int(agent.x) == x and int(agent.y) == y):
            work.distance[y, x] = -2


@inner
def _enters(agent, source, target):
    """Whether the agent can walk from a cell of one code into a neighbour of another; the door of its key is open."""
    if agent.held >= 0:
        door = looks.DOOR + agent.held
        source = looks.ROOM_FLOOR if source == door else source
        target = looks.ROOM_FLOOR if target == door else target
    return CAN_STAND[source] and CAN_STAND[target] and HEIGHT[target] <= HEIGHT[source]
