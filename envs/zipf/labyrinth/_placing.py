"""Where things and the agent are put: uniformly among free floor cells."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from envs.raycast._jit import inner
from envs.zipf.labyrinth import looks
from envs.zipf.labyrinth._random import below
from envs.zipf.labyrinth.looks import HEIGHT, IS_FLOOR
from envs.zipf.labyrinth.state import EYE, HEADINGS, MAP_EDGE, THINGS, TURN, put

ANY_FLOOR = -1


@inner
def free_cell(cells, work, code):
    """Column and row of a random cell of this code (or `ANY_FLOOR`) that is not taken; (-1, -1) if there is none."""
    count = 0
    for y in range(MAP_EDGE):
        for x in range(MAP_EDGE):
            count += _is_free(cells, work, x, y, code)
    if count == 0:
        return -1, -1
    wanted = below(work.rng, count)
    for y in range(MAP_EDGE):
        for x in range(MAP_EDGE):
            if _is_free(cells, work, x, y, code):
                if wanted == 0:
                    return x, y
                wanted -= 1
    return -1, -1


@inner
def _is_free(cells, work, x, y, code):
    here = cells[y, x]
    if work.taken[y, x] or here == looks.OPEN_GATE:
        return False
    return here == code if code >= 0 else IS_FLOOR[here]


@inner
def take_around(work, x, y, reach):
    """Marks the cells up to ``reach`` rows and columns away as taken."""
    for i in range(max(y - reach, 0), min(y + reach + 1, MAP_EDGE)):
        for j in range(max(x - reach, 0), min(x + reach + 1, MAP_EDGE)):
            work.taken[i, j] = True


@inner
def put_somewhere(cells, work, thing, code, look, role, value, size, order):
    """Places a thing on a free cell and takes the cell; where there is none, the thing stays away."""
    x, y = free_cell(cells, work, code)
    if x < 0:
        return
    work.taken[y, x] = True
    put(thing, x + 0.5, y + 0.5, look, role, value, size, order)


@inner
def take_things(things, work):
    """Frees all cells but those with a thing, present or to come back."""
    work.taken[:, :] = False
    for s in range(THINGS):
        if things[s].role != 0:
            work.taken[int(things[s].y), int(things[s].x)] = True


@inner
def place_agent(agent, cells, work, code):
    """Puts the agent on a free cell, facing a random way."""
    x, y = free_cell(cells, work, code)
    stand(agent, cells, max(x, 0) + 0.5, max(y, 0) + 0.5, below(work.rng, HEADINGS))


@inner
def stand(agent, cells, x, y, heading):
    """Puts the agent somewhere."""
    agent.x, agent.y = x, y
    face(agent, heading)
    level_eye(agent, cells)


@inner
def face(agent, heading):
    """Turns the agent."""
    agent.heading = heading % HEADINGS
    agent.angle = agent.heading * TURN


@inner
def level_eye(agent, cells):
    """Lifts or lowers the eye with the floor."""
    code = cells[int(agent.y), int(agent.x)]
    agent.eye = HEIGHT[code] + EYE


@inner
def is_door(code):
    """Whether a cell is a coloured door."""
    return looks.DOOR <= code < looks.DOOR + looks.ROOM_COLOURS
