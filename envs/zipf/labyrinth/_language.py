"""Rounds of instructions and questions: rooms, objects, a sentence, and which thing is the answer."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from envs.raycast._jit import inner
from envs.zipf.labyrinth import looks
from envs.zipf.labyrinth._layouts import lay_rooms, room_corner
from envs.zipf.labyrinth._placing import ANY_FLOOR, place_agent, put_somewhere, stand, take_around
from envs.zipf.labyrinth._random import below, between, chance
from envs.zipf.labyrinth.state import NORTH, Role, put
from envs.zipf.labyrinth.text import COLOUR, LENGTH, ROOM, SHAPE, SIZE, TEMPLATE_SLOT, TEMPLATE_TOKEN, Template

_COLOURS, _SHAPES, _SIZES = 8, looks.SHAPES, 2
_SMALL, _BIG = 0.4, 0.75
_TEMPLATES = TEMPLATE_TOKEN.shape[0]


@inner
def ask(level, agent, things, cells, tokens, work):
    """Begins a round with a template of the level."""
    count = 0
    for template in range(_TEMPLATES):
        count += level.templates >> template & 1
    nth, chosen = below(work.rng, count), 0
    for template in range(_TEMPLATES):
        if level.templates >> template & 1:
            if nth == 0:
                chosen = template
            nth -= 1
    work.taken[:, :] = False
    if chosen >= Template.ALL:
        _ask_question(level, agent, things, cells, tokens, work, chosen)
    else:
        _ask_task(level, agent, things, cells, tokens, work, chosen)


@inner
def _ask_task(level, agent, things, cells, tokens, work, template):
    """Objects of which the first is meant, the second is unlike it in every way, and the others are like it in part."""
    rng, rooms = work.rng, between(work.rng, level.fewest_rooms, level.most_rooms)
    lay_rooms(cells, work, level.edge, rooms, True, -1)
    place_agent(agent, cells, work, ANY_FLOOR)
    take_around(work, int(agent.x), int(agent.y), 1)
    colour, shape = below(rng, _COLOURS), below(rng, _SHAPES)
    room, size = below(rng, rooms), below(rng, _SIZES)
    _write(tokens, template, colour, shape, work.order[room], size)
    for s in range(level.good + level.bad):
        like = 1.0 if s == 0 else 0.0 if s == 1 else 0.5
        its_colour = colour if chance(rng, like) else (colour + between(rng, 1, _COLOURS - 1)) % _COLOURS
        its_shape = shape if chance(rng, like) else (shape + between(rng, 1, _SHAPES - 1)) % _SHAPES
        its_room = room if rooms == 1 or chance(rng, like) else (room + between(rng, 1, rooms - 1)) % rooms
        its_size = size if chance(rng, like) else 1 - size
        right = _fits(template, its_colour == colour, its_shape == shape, its_room == room, its_size == size)
        if template == Template.NOT_COLOUR:
            right = s != 0 and its_colour != colour
        value = level.good_value if right else level.bad_value
        floor, look = looks.ROOM_FLOOR + work.order[its_room], looks.OBJECT + looks.SHAPES * its_shape + its_colour
        width = _BIG if its_size == 1 else _SMALL
        if template != Template.SIZE:
            width = 0.55
        put_somewhere(cells, work, things[s], floor, look, Role.ROUND, value, width, 1 if right else 0)


@inner
def _fits(template, colour, shape, room, size):
    """Whether an object that has these things in common with the one meant is meant too."""
    if template == Template.COLOUR:
        return colour
    if template == Template.SHAPE:
        return shape
    if template == Template.BOTH:
        return colour and shape
    if template == Template.COLOUR_IN_ROOM:
        return colour and room
    if template == Template.SHAPE_IN_ROOM:
        return shape and room
    return shape and size


@inner
def _write(tokens, template, colour, shape, room, size):
    for k in range(LENGTH):
        token, slot = TEMPLATE_TOKEN[template, k], TEMPLATE_SLOT[template, k]
        if slot == COLOUR:
            token += colour
        elif slot == SHAPE:
            token += shape
        elif slot == ROOM:
            token += room
        elif slot == SIZE:
            token += size
        tokens[k] = token


@inner
def _ask_question(level, agent, things, cells, tokens, work, template):
    """Objects at the far side of a room, and the answers in its near corners: yes to the left, no to the right."""
    rng, side, total = work.rng, level.edge, level.good + level.bad
    lay_rooms(cells, work, side, 1, False, -1)
    left, top = room_corner(0, 1, side)
    stand(agent, cells, left + side / 2, top + side - 1.0, NORTH)
    for y in range(top + side - 4, top + side):
        for x in range(left, left + side):
            work.taken[y, x] = True
    colour, shape, yes = below(rng, _COLOURS), below(rng, _SHAPES), chance(rng, 0.5)
    _write(tokens, template, colour, shape, 0, 0)
    alike, coloured = _counts(rng, template, yes, total)
    for s in range(total):
        its_shape, its_colour = below(rng, _SHAPES), below(rng, _COLOURS)
        if template != Template.ANYTHING:
            its_shape = shape if s < alike else (shape + between(rng, 1, _SHAPES - 1)) % _SHAPES
        if s < alike:
            its_colour = colour if s < coloured else (colour + between(rng, 1, _COLOURS - 1)) % _COLOURS
        look = looks.OBJECT + looks.SHAPES * its_shape + its_colour
        put_somewhere(cells, work, things[s], ANY_FLOOR, look, Role.NONE, 0.0, 0.6, 0)
    for k in range(2):
        right = yes == (k == 0)
        x, value = left + (0.5 if k == 0 else side - 0.5), level.good_value if right else level.bad_value
        look = looks.YES if k == 0 else looks.NO
        put(things[total + k], x, top + side - 0.5, look, Role.ROUND, value, 0.6, 1 if right else 0)


@inner
def _counts(rng, template, yes, total):
    """How many objects the question is about, and how many of them have its colour."""
    alike = between(rng, 2, 4)
    if template == Template.ANYTHING:
        alike = total
    if template == Template.MOST:
        return 3, between(rng, 2, 3) if yes else below(rng, 2)
    if template == Template.ALL:
        return alike, alike if yes else below(rng, alike)
    return alike, between(rng, 1, alike) if yes else 0
