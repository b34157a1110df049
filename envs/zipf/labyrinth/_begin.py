"""How an episode of each mechanic begins, and a new round of it."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from envs.raycast import NOTHING
from envs.raycast._jit import inner
from envs.zipf.labyrinth import looks
from envs.zipf.labyrinth._bots import begin_tag
from envs.zipf.labyrinth._gates import redraw_gates, site_gates
from envs.zipf.labyrinth._language import ask
from envs.zipf.labyrinth._layouts import (
    PLATFORM_EDGE,
    PLATFORMS,
    lay_field,
    lay_maze,
    lay_platforms,
    lay_rooms,
    room_corner,
)
from envs.zipf.labyrinth._placing import (
    ANY_FLOOR,
    place_agent,
    put_somewhere,
    stand,
    take_around,
    take_things,
)
from envs.zipf.labyrinth._puzzle import begin_deferred, begin_puzzle
from envs.zipf.labyrinth._random import begin_fixed, below, between, chance, shuffle
from envs.zipf.labyrinth._trials import begin_trials
from envs.zipf.labyrinth.levels import Layout, Looks, Mechanic
from envs.zipf.labyrinth.state import HEADINGS, LENGTH, THINGS, Role, put, show

_GOAL = 0
_SAMPLE, _PAD, _MATCHING, _OTHER = 0, 1, 2, 3
_PAD_VALUE = 1.0


@inner
def begin_level(level, agent, things, cells, tokens, work):
    """Makes an episode's map, things and instruction, and places the agent."""
    _wipe(agent, things, tokens)
    work.taken[:, :] = False
    agent.sky = below(work.rng, 3) if level.outdoors else looks.INDOORS
    if level.mechanic == Mechanic.PICKUPS:
        _begin_pickups(level, agent, things, cells, work)
    elif level.mechanic == Mechanic.GOAL:
        _begin_goal(level, agent, things, cells, work)
    elif level.mechanic == Mechanic.PUZZLE:
        begin_puzzle(level, agent, things, cells, work)
    elif level.mechanic == Mechanic.DEFERRED:
        begin_deferred(level, agent, things, cells, work)
    elif level.mechanic == Mechanic.CHOICE:
        things[_SAMPLE].look = looks.OBJECT + below(work.rng, looks.OBJECTS)
        _choose(level, agent, things, cells, work)
    elif level.mechanic == Mechanic.LANGUAGE:
        ask(level, agent, things, cells, tokens, work)
    elif level.mechanic == Mechanic.TAG:
        begin_tag(level, agent, things, cells, work)
    else:
        begin_trials(level, agent, things, cells, work)


@inner
def begin_round(level, agent, things, cells, tokens, work):
    """What happens in the middle of an episode when a round is over."""
    if level.mechanic == Mechanic.CHOICE:
        _choose(level, agent, things, cells, work)
    elif level.mechanic == Mechanic.LANGUAGE:
        for s in range(THINGS):
            _wipe_thing(things[s])
        ask(level, agent, things, cells, tokens, work)
    else:
        take_things(things, work)
        place_agent(agent, cells, work, ANY_FLOOR)
        if level.mechanic == Mechanic.PICKUPS:
            _restock(agent, things)
        elif level.doors > 0:
            goal = things[_GOAL]
            redraw_gates(cells, work, int(agent.x), int(agent.y), int(goal.x), int(goal.y))


@inner
def _wipe(agent, things, tokens):
    agent.score, agent.held, agent.overlay = 0.0, -1, NOTHING
    agent.left, agent.right, agent.wrong = 0, 0, 0
    agent.phase, agent.timer, agent.answer, agent.count, agent.items, agent.seen = 0, 0, 0, 0, 0, 0
    agent.cooldown, agent.health = 0, 0
    for k in range(LENGTH):
        tokens[k] = 0
    for s in range(THINGS):
        _wipe_thing(things[s])


@inner
def _wipe_thing(thing):
    put(thing, 0.5, 0.5, NOTHING, Role.NONE, 0.0, 0.0, 0)
    thing.present = 0
    thing.aim_x, thing.aim_y = 0.0, 0.0


@inner
def _begin_pickups(level, agent, things, cells, work):
    rng = work.rng
    look, pair = below(rng, 2), below(rng, 2)
    moment, drawn = rng[0], rng[1]
    if level.maps > 0:
        begin_fixed(rng, level.number, below(rng, level.maps))
    if level.layout == Layout.FIELD:
        lay_field(cells, work, level.edge)
    elif level.layout == Layout.MAZE:
        lay_maze(cells, work, level.edge, level.fewest_rooms, level.loops)
    else:
        lay_rooms(cells, work, level.edge, 1, False, 2 * look if level.looks == Looks.PAIRS else -1)
    if level.maps == 1:
        _scatter(level, things, cells, work, 0)
    if level.maps > 0:
        rng[0], rng[1] = moment, drawn
    if level.maps != 1:
        place_agent(agent, cells, work, ANY_FLOOR)
        take_around(work, int(agent.x), int(agent.y), 1)
        _scatter(level, things, cells, work, pair * (1 - look))
    else:
        place_agent(agent, cells, work, ANY_FLOOR)
    agent.left = level.good


@inner
def _scatter(level, things, cells, work, pair):
    """Places the pickups: good ones first."""
    rng = work.rng
    kinds = (
        looks.OBJECT + below(rng, 8),
        looks.OBJECT + below(rng, 8),
        looks.OBJECT + below(rng, 8),
        looks.OBJECT + below(rng, 8),
    )
    shuffle(work.order, looks.SHAPES, rng)
    for s in range(level.good + level.bad):
        good = s < level.good
        kind = (s & 1) + (0 if good else 2)
        look = kinds[kind] + looks.SHAPES * work.order[kind]
        if level.looks == Looks.APPLES:
            look = looks.APPLE
        elif level.looks == Looks.MUSHROOMS:
            look = looks.MUSHROOM
        elif level.looks == Looks.PAIRS:
            look = _PAIR_LOOK[pair][0 if good else 1]
        value, order = (level.good_value, 1) if good else (level.bad_value, 0)
        put_somewhere(cells, work, things[s], ANY_FLOOR, look, Role.PICKUP, value, 0.5, order)


_PAIR_LOOK = ((3 * looks.SHAPES + 6, 2 * looks.SHAPES + 7), (7 * looks.SHAPES + 5, 1 * looks.SHAPES + 4))
"""Good and bad: orange star and white cone; cyan cup and purple box."""


@inner
def _restock(agent, things):
    agent.left = 0
    for s in range(THINGS):
        if things[s].role == Role.PICKUP:
            show(things[s])
            agent.left += things[s].value > 0


@inner
def _begin_goal(level, agent, things, cells, work):
    goal = things[_GOAL]
    look = NOTHING if level.hidden else looks.TROPHY
    if level.layout == Layout.PLATFORMS:
        decoys = level.decoys if level.decoys >= 0 else below(work.rng, 101) / 100
        first, last = lay_platforms(cells, work, decoys)
        x, y = _platform_centre(first)
        stand(agent, cells, x, y, below(work.rng, HEADINGS))
        x, y = _platform_centre(last)
        put(goal, x, y, look, Role.ROUND, level.good_value, 0.8, 1)
        return
    if level.layout == Layout.MAZE:
        lay_maze(cells, work, level.edge, level.fewest_rooms, level.loops)
        site_gates(cells, work, level.doors)
    else:
        lay_rooms(cells, work, level.edge, 1, False, -1)
        _mark_walls(cells, work, level.edge + 2)
    place_agent(agent, cells, work, ANY_FLOOR)
    take_around(work, int(agent.x), int(agent.y), 3)
    put_somewhere(cells, work, goal, ANY_FLOOR, look, Role.ROUND, level.good_value, 0.7, 1)
    if level.doors > 0:
        redraw_gates(cells, work, int(agent.x), int(agent.y), int(goal.x), int(goal.y))


@inner
def _platform_centre(platform):
    x, y = platform % PLATFORMS * PLATFORM_EDGE, platform // PLATFORMS * PLATFORM_EDGE
    return 1 + x + PLATFORM_EDGE / 2, 1 + y + PLATFORM_EDGE / 2


@inner
def _mark_walls(cells, work, edge):
    """Landmarks: a differently coloured stretch in the middle of each wall of a single room."""
    for k in range(edge // 3, edge - edge // 3):
        cells[0, k], cells[edge - 1, k] = looks.DECAL + work.order[1], looks.DECAL + work.order[2]
        cells[k, 0], cells[k, edge - 1] = looks.ROOM_WALL + work.order[3], looks.ROOM_WALL + work.order[4]


@inner
def _choose(level, agent, things, cells, work):
    """The first room with the sample and the pad; the second with an object like the sample and another one."""
    side, sample = level.edge, things[_SAMPLE].look
    lay_rooms(cells, work, side, 2, False, -1)
    left, top = room_corner(0, 2, side)
    stand(agent, cells, left + 1.5, top + between(work.rng, 1, side - 1) * 1.0, 0)
    put(things[_SAMPLE], left + side - 0.4, top + side / 2, sample, Role.NONE, 0.0, 0.7, 0)
    pad_x, pad_y = left + side - 1, top + (0 if chance(work.rng, 0.5) else side - 1)
    cells[pad_y, pad_x] = looks.PAD
    put(things[_PAD], pad_x + 0.5, pad_y + 0.5, NOTHING, Role.PAD, _PAD_VALUE, 0.5, 1)
    left, top = room_corner(1, 2, side)
    things[_PAD].aim_x, things[_PAD].aim_y = left + 0.5, top + side / 2
    other = (sample + between(work.rng, 1, looks.OBJECTS - 1)) % looks.OBJECTS
    upper, lower = top + 0.5, top + side - 0.5
    swap = chance(work.rng, 0.5)
    x = left + side - 0.5
    put(things[_MATCHING], x, lower if swap else upper, sample, Role.ROUND, level.bad_value, 0.6, 0)
    put(things[_OTHER], x, upper if swap else lower, other, Role.ROUND, level.good_value, 0.6, 1)
