"""What the playroom's actions do: walk and turn, grip, release.

Legend: see `envs.zipf.playroom.state`.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

from numba import njit

from envs.raycast import NOTHING
from envs.zipf.playroom.state import (
    BACK,
    BED_HEIGHT,
    COSINE,
    FIND,
    FLOOR,
    FORWARD,
    GOAL,
    GOING_ON,
    GRIP,
    HEADINGS,
    LIFT,
    PUT_NEAR,
    RELEASE,
    SINE,
    SLOTS,
    STRAFE_LEFT,
    STRAFE_RIGHT,
    TRAY_HEIGHT,
    TURN,
    TURN_AROUND,
    TURN_LEFT,
    TURN_RIGHT,
    WALL,
    WRONG,
)

_REACH = 1.0 + 1e-9
"""Distance at which an object can be gripped, and at which it is near furniture; in metres (spec, section 4.2)."""
_CONE = math.cos(math.radians(15)) - 1e-9
"""Objects within 15 degrees of the line of sight can be gripped (spec, section 4.2)."""
_RADIUS, _GIRTH = 0.2, 0.5
"""Of the agent, from walls and furniture, and from objects."""
_PALM, _CLEAR = 0.2, 0.4
"""Room that a released object needs, from walls and from other objects."""


@njit(nogil=True, cache=True)
def act(rules, agent, things, pieces, cells, action):
    """Does an action; returns `GOING_ON`, `GOAL` or `WRONG`."""
    if action == GRIP:
        return _grip(rules, agent, things)
    if action == RELEASE:
        return _release(rules, agent, things, pieces, cells)
    if action == TURN_LEFT:
        face(agent, agent.heading - rules.turn)
    elif action == TURN_RIGHT:
        face(agent, agent.heading + rules.turn)
    elif action == TURN_AROUND:
        face(agent, agent.heading + HEADINGS // 2)
    elif action == FORWARD:
        _walk(rules, agent, things, cells, agent.heading)
    elif action == BACK:
        _walk(rules, agent, things, cells, agent.heading + HEADINGS // 2)
    elif action == STRAFE_LEFT:
        _walk(rules, agent, things, cells, agent.heading - HEADINGS // 4)
    elif action == STRAFE_RIGHT:
        _walk(rules, agent, things, cells, agent.heading + HEADINGS // 4)
    return GOING_ON


@njit(nogil=True, cache=True)
def face(agent, heading):
    """Turns the agent."""
    agent.heading = heading % HEADINGS
    agent.angle = agent.heading * TURN


@njit(nogil=True, cache=True)
def _walk(rules, agent, things, cells, direction):
    """A step that slides along what is in the way."""
    dx, dy = rules.speed * COSINE[direction % HEADINGS], rules.speed * SINE[direction % HEADINGS]
    x, y = agent.x, agent.y
    edge = x + dx + (_RADIUS if dx > 0 else -_RADIUS)
    if cells[int(y - _RADIUS), int(edge)] == FLOOR and cells[int(y + _RADIUS), int(edge)] == FLOOR:
        agent.x += dx
        if _hits(agent, things, x, y):
            agent.x = x
    x, edge = agent.x, y + dy + (_RADIUS if dy > 0 else -_RADIUS)
    if cells[int(edge), int(x - _RADIUS)] == FLOOR and cells[int(edge), int(x + _RADIUS)] == FLOOR:
        agent.y += dy
        if _hits(agent, things, x, y):
            agent.y = y


@njit(nogil=True, cache=True)
def _hits(agent, things, x, y):
    """Whether the agent, coming from a point, walks into an object."""
    for s in range(SLOTS):
        if things[s].texture >= 0:
            now = (things[s].x - agent.x) ** 2 + (things[s].y - agent.y) ** 2
            if now < _GIRTH * _GIRTH and now < (things[s].x - x) ** 2 + (things[s].y - y) ** 2:
                return True
    return False


@njit(nogil=True, cache=True)
def aimed(rules, agent, things):
    """Slot of the object that a grip would take, or -1: the nearest within reach and within 15 degrees.

    Where the task is to point, it is otherwise the one closest to the line of sight, at any distance.
    """
    heading_x, heading_y = COSINE[agent.heading], SINE[agent.heading]
    at_hand, nearest = -1, _REACH
    in_sight, straightest, its_distance = -1, 0.0, 0.0
    for s in range(SLOTS):
        if things[s].texture < 0:
            continue
        dx, dy = things[s].x - agent.x, things[s].y - agent.y
        distance = math.sqrt(dx * dx + dy * dy)
        straight = (dx * heading_x + dy * heading_y) / max(distance, 1e-9)
        if straight < _CONE:
            continue
        if distance <= nearest:
            at_hand, nearest = s, distance
        closer = straight > straightest - 1e-9 and distance < its_distance
        if straight > straightest + 1e-9 or closer:
            in_sight, straightest, its_distance = s, straight, distance
    return at_hand if at_hand >= 0 or rules.task != FIND else in_sight


@njit(nogil=True, cache=True)
def _grip(rules, agent, things):
    if agent.held >= 0:
        return GOING_ON
    s = aimed(rules, agent, things)
    if s < 0:
        return GOING_ON
    if rules.task != FIND:
        agent.held, agent.overlay = s, things[s].kind
        things[s].texture = NOTHING
    if rules.task == FIND or rules.task == LIFT:
        return GOAL if s == 0 else WRONG
    return GOING_ON


@njit(nogil=True, cache=True)
def _release(rules, agent, things, pieces, cells):
    if not can_release(rules, agent, things, cells):
        return GOING_ON
    x, y = _drop(rules, agent)
    outcome = outcome_of_release(rules, agent, pieces)
    thing = things[agent.held]
    thing.x, thing.y, thing.texture, thing.z = x, y, thing.kind, 0.0
    for f in range(2):
        if _distance(pieces[f], x, y) == 0:
            thing.z = BED_HEIGHT if f == 0 else TRAY_HEIGHT
    agent.held, agent.overlay = -1, NOTHING
    return outcome


@njit(nogil=True, cache=True)
def can_release(rules, agent, things, cells):
    """Whether something is held and there is room for it ahead."""
    if agent.held < 0:
        return False
    x, y = _drop(rules, agent)
    for across in (-_PALM, _PALM):
        for down in (-_PALM, _PALM):
            row, column = int(y + down), int(x + across)
            if cells[row, column] == WALL:
                return False
    for s in range(SLOTS):
        if things[s].texture >= 0 and (things[s].x - x) ** 2 + (things[s].y - y) ** 2 < _CLEAR * _CLEAR:
            return False
    return True


@njit(nogil=True, cache=True)
def outcome_of_release(rules, agent, pieces):
    """What putting down the held object here means: `GOING_ON` where it does not reach any furniture."""
    x, y = _drop(rules, agent)
    reach = _REACH if rules.task == PUT_NEAR else 0.0
    for f in range(2):
        if _distance(pieces[f], x, y) <= reach:
            return GOAL if agent.held == 0 and agent.furniture == f else WRONG
    return GOING_ON


@njit(nogil=True, cache=True)
def _drop(rules, agent):
    """Where a released object is put."""
    return agent.x + rules.drop * COSINE[agent.heading], agent.y + rules.drop * SINE[agent.heading]


@njit(nogil=True, cache=True)
def _distance(piece, x, y):
    """From a point to a piece of furniture; 0 on it."""
    dx = max(piece.column - x, x - (piece.column + piece.columns), 0.0)
    dy = max(piece.row - y, y - (piece.row + piece.rows), 0.0)
    return math.sqrt(dx * dx + dy * dy)
