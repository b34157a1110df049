"""Gates in a maze, open or shut at random, so that the goal can be reached."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from envs.raycast._jit import inner
from envs.zipf.labyrinth import looks
from envs.zipf.labyrinth._layouts import step_of
from envs.zipf.labyrinth._random import below, chance
from envs.zipf.labyrinth.looks import IS_FLOOR
from envs.zipf.labyrinth.state import MAP_EDGE


@inner
def site_gates(cells, work, count):
    """Makes up to ``count`` corridor cells between two nodes of a maze into gates."""
    found = 0
    for y in range(1, MAP_EDGE - 1):
        for x in range(1, MAP_EDGE - 1):
            if _is_corridor(cells, x, y):
                work.queue[found] = y * MAP_EDGE + x
                found += 1
    for k in range(min(count, found)):
        j = k + below(work.rng, found - k)
        work.queue[k], work.queue[j] = work.queue[j], work.queue[k]
        cells[work.queue[k] // MAP_EDGE, work.queue[k] % MAP_EDGE] = looks.OPEN_GATE


@inner
def _is_corridor(cells, x, y):
    if (x + y) % 2 == 0 or not IS_FLOOR[cells[y, x]]:
        return False
    across = not IS_FLOOR[cells[y, x - 1]] and not IS_FLOOR[cells[y, x + 1]]
    return across or (not IS_FLOOR[cells[y - 1, x]] and not IS_FLOOR[cells[y + 1, x]])


@inner
def redraw_gates(cells, work, start_x, start_y, goal_x, goal_y):
    """Opens or shuts each gate by the toss of a coin; if that cuts off the goal, opens those on a shortest way."""
    for y in range(MAP_EDGE):
        for x in range(MAP_EDGE):
            if cells[y, x] == looks.GATE or cells[y, x] == looks.OPEN_GATE:
                cells[y, x] = looks.GATE if chance(work.rng, 0.5) else looks.OPEN_GATE
    if _spread(cells, work, start_x, start_y, goal_x, goal_y, False):
        return
    if not _spread(cells, work, start_x, start_y, goal_x, goal_y, True):
        return
    x, y = start_x, start_y
    while work.distance[y, x] > 0:
        for direction in range(4):
            dx, dy = step_of(direction)
            if work.distance[y + dy, x + dx] == work.distance[y, x] - 1:
                x, y = x + dx, y + dy
                break
        if cells[y, x] == looks.GATE:
            cells[y, x] = looks.OPEN_GATE


@inner
def _spread(cells, work, start_x, start_y, goal_x, goal_y, through):
    """Writes the distance from the goal into ``work.distance`` until the start is met; returns whether it was."""
    work.distance[:, :] = -1
    work.distance[goal_y, goal_x] = 0
    work.queue[0], head, tail = goal_y * MAP_EDGE + goal_x, 0, 1
    while head < tail and work.distance[start_y, start_x] < 0:
        x, y = work.queue[head] % MAP_EDGE, work.queue[head] // MAP_EDGE
        head += 1
        for direction in range(4):
            dx, dy = step_of(direction)
            code = cells[y + dy, x + dx]
            if work.distance[y + dy, x + dx] < 0 and (IS_FLOOR[code] or (through and code == looks.GATE)):
                work.distance[y + dy, x + dx] = work.distance[y, x] + 1
                work.queue[tail] = (y + dy) * MAP_EDGE + x + dx
                tail += 1
    return work.distance[start_y, start_x] >= 0
