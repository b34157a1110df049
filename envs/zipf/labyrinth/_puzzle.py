"""Rooms behind coloured doors: the keys-and-doors puzzle and the deferred effect."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from envs.raycast._jit import inner
from envs.zipf.labyrinth import looks
from envs.zipf.labyrinth._layouts import lay_rooms, open_doorway, room_columns, step_of
from envs.zipf.labyrinth._placing import place_agent, put_somewhere, take_around
from envs.zipf.labyrinth._random import below, between
from envs.zipf.labyrinth.state import Role

_KEY_VALUE = 1.0
_RICH_VALUE, _RICH = 10.0, 2
_COSTLY_LOOK, _COMMON_LOOK, _RICH_LOOK = 5 * looks.SHAPES + 4, 3, 3 * looks.SHAPES + 6
"""A purple gem, a yellow ball, an orange star."""


@inner
def begin_puzzle(level, agent, things, cells, work):
    """A chain of doors: room ``k`` opens with key ``k``, which lies in a room before it; the goal is in the last room.

    Keys are met in any order, but the hand holds one only: whoever takes one whose door is not yet reachable is stuck.
    """
    count = between(work.rng, level.fewest_rooms, level.most_rooms)
    lay_rooms(cells, work, level.edge, count, False, -1)
    room_at, opened = work.queue, 1
    room_at[0] = below(work.rng, count)
    place_agent(agent, cells, work, looks.ROOM_FLOOR + work.order[room_at[0]])
    take_around(work, int(agent.x), int(agent.y), 1)
    while opened < count:
        room, other = _frontier(work, count, opened)
        open_doorway(cells, work, level.edge, count, room, other, looks.DOOR + work.order[opened])
        room_at[opened] = other
        opened += 1
    for k in range(1, count):
        room, colour = room_at[below(work.rng, k)], work.order[k]
        floor = looks.ROOM_FLOOR + work.order[room]
        put_somewhere(cells, work, things[k], floor, looks.KEY + colour, Role.KEY, _KEY_VALUE, 0.5, k)
        things[k].kind = colour
    last = looks.ROOM_FLOOR + work.order[room_at[count - 1]]
    put_somewhere(cells, work, things[0], last, looks.TROPHY, Role.ROUND, level.good_value, 0.7, count)


@inner
def _frontier(work, count, opened):
    """A random pair of a room among the first ``opened`` of ``work.queue`` and a neighbour that is not among them."""
    columns, found, room, other = room_columns(count), 0, -1, -1
    for k in range(opened):
        here = work.queue[k]
        for direction in range(4):
            dx, dy = step_of(direction)
            x, y = here % columns + dx, here // columns + dy
            near = y * columns + x
            if x < 0 or y < 0 or x >= columns or near >= count:
                continue
            fresh = True
            for j in range(opened):
                fresh = fresh and work.queue[j] != near
            if fresh:
                found += 1
                if below(work.rng, found) == 0:
                    room, other = here, near
    return room, other


@inner
def begin_deferred(level, agent, things, cells, work):
    """A room with common objects and a costly one, which is the key of the rich second room, where there is one."""
    count = between(work.rng, level.fewest_rooms, level.most_rooms)
    lay_rooms(cells, work, level.edge, count, False, -1)
    colour = 4
    if count > 1:
        open_doorway(cells, work, level.edge, count, 0, 1, looks.DOOR + colour)
    floor = looks.ROOM_FLOOR + work.order[0]
    place_agent(agent, cells, work, floor)
    take_around(work, int(agent.x), int(agent.y), 1)
    for s in range(level.good):
        put_somewhere(cells, work, things[s], floor, _COMMON_LOOK, Role.PICKUP, level.good_value, 0.5, 1)
    agent.left = level.good
    key, order = level.good, 2 if count > 1 else 0
    put_somewhere(cells, work, things[key], floor, _COSTLY_LOOK, Role.KEY, level.bad_value, 0.6, order)
    things[key].kind = colour
    if count > 1:
        for s in range(key + 1, key + 1 + _RICH):
            beyond = looks.ROOM_FLOOR + work.order[1]
            put_somewhere(cells, work, things[s], beyond, _RICH_LOOK, Role.PICKUP, _RICH_VALUE, 0.6, 3)
            agent.left += 1
