"""How the agent moves, and what it touches."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

from envs.raycast import NOTHING
from envs.raycast._jit import inner
from envs.zipf.labyrinth import looks
from envs.zipf.labyrinth._placing import face, is_door, level_eye
from envs.zipf.labyrinth.looks import HEIGHT, IS_FLOOR
from envs.zipf.labyrinth.state import EYE, THINGS, Role, hide

FORWARD, BACK, STRAFE_LEFT, STRAFE_RIGHT, TURN_LEFT, TURN_RIGHT, FORWARD_LEFT, FORWARD_RIGHT, ACT = range(9)
SPEED = 0.22
"""Cells a step: 3.3 cells a second."""
RADIUS = 0.2
REACH = 0.5
"""Distance at which a thing is touched."""
_STEP_UP = 0.05
_NO_GROUND = -1e6


@inner
def turn(agent, action):
    """Turns, if the action asks for it."""
    if action in (TURN_LEFT, FORWARD_LEFT):
        face(agent, agent.heading - 1)
    elif action in (TURN_RIGHT, FORWARD_RIGHT):
        face(agent, agent.heading + 1)


@inner
def move(agent, cells, action):
    """Turns and walks; walls, higher floors and holes stop, and the agent slides along them."""
    turn(agent, action)
    ahead, aside = 0.0, 0.0
    if action in (FORWARD, FORWARD_LEFT, FORWARD_RIGHT):
        ahead = SPEED
    elif action == BACK:
        ahead = -SPEED
    elif action == STRAFE_RIGHT:
        aside = SPEED
    elif action == STRAFE_LEFT:
        aside = -SPEED
    if ahead == 0 and aside == 0:
        return
    heading_x, heading_y = math.cos(agent.angle), math.sin(agent.angle)
    _walk(agent, cells, ahead * heading_x - aside * heading_y, ahead * heading_y + aside * heading_x)


@inner
def _walk(agent, cells, dx, dy):
    ground = agent.eye - EYE
    edge = agent.x + dx + (RADIUS if dx > 0 else -RADIUS)
    if not (
        _blocks(agent, cells, edge, agent.y - RADIUS, ground) or _blocks(agent, cells, edge, agent.y + RADIUS, ground)
    ):
        agent.x += dx
    edge = agent.y + dy + (RADIUS if dy > 0 else -RADIUS)
    if not (
        _blocks(agent, cells, agent.x - RADIUS, edge, ground) or _blocks(agent, cells, agent.x + RADIUS, edge, ground)
    ):
        agent.y += dy
    level_eye(agent, cells)


@inner
def _blocks(agent, cells, x, y, ground):
    """Whether the cell at a point cannot be entered; a door opens for its key."""
    column, row = int(x), int(y)
    code = cells[row, column]
    if agent.held >= 0 and code == looks.DOOR + agent.held:
        cells[row, column] = _floor_beside(cells, column, row)
        agent.held, agent.overlay = -1, NOTHING
        return False
    return HEIGHT[code] > ground + _STEP_UP or HEIGHT[code] < _NO_GROUND


@inner
def _floor_beside(cells, column, row):
    """Code of a floor next to a door."""
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        code = cells[row + dy, column + dx]
        if IS_FLOOR[code] and not is_door(code):
            return code
    return looks.ROOM_FLOOR


@inner
def touched(agent, things):
    """Index of the nearest thing within reach that does something, or -1."""
    nearest, found = REACH * REACH, -1
    for s in range(THINGS):
        role = things[s].role
        if role == Role.NONE or role == Role.BOT or things[s].present == 0:
            continue
        if role == Role.KEY and agent.held >= 0:
            continue
        dx, dy = things[s].x - agent.x, things[s].y - agent.y
        if dx * dx + dy * dy < nearest:
            nearest, found = dx * dx + dy * dy, s
    return found


@inner
def take_key(agent, thing):
    """Puts a key into the hand."""
    agent.held, agent.overlay = thing.kind, thing.look
    hide(thing)
