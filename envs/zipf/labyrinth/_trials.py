"""Trials on a screen: look at it, see pictures, answer by turning to the mark on its left or right."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import numpy as np

from envs.raycast._jit import inner
from envs.zipf.labyrinth import looks
from envs.zipf.labyrinth._layouts import lay_booth
from envs.zipf.labyrinth._placing import stand
from envs.zipf.labyrinth._random import below, between, chance, shuffle
from envs.zipf.labyrinth.levels import Trial
from envs.zipf.labyrinth.state import HEADINGS, NORTH, TURN, Role, hide, put, show

MOST_TRIALS = 60
"""After which the episode ends (published)."""
FIXATE, STUDY, DELAY, TEST = range(4)
"""Phases of a trial."""
ANSWER_TURNS = 2
"""Turns from the middle that are an answer."""
_STUDY_STEPS, _SHORTEST_DELAY, _LONGEST_DELAY, _TEST_STEPS = 22, 2, 64, 75
_LEFT, _RIGHT, _CROSS, _ITEM, _BANK = 0, 1, 2, 3, 20
_ITEMS, _PICTURES = 12, 6
_COLUMNS, _ROWS = 5, 3
_MIDDLE, _NEAR = 2.5, 1.3


@inner
def begin_trials(level, agent, things, cells, work):
    """The booth, the marks, and the pictures that are bound to sides for this episode."""
    lay_booth(cells, level.edge)
    stand(agent, cells, _MIDDLE, _MIDDLE, NORTH)
    asks = level.trial != Trial.MAPPING
    aside = _NEAR * math.tan(ANSWER_TURNS * TURN)
    _hang(things[_LEFT], -aside, 0.32, looks.NO if asks else looks.LEFT, 0.34)
    _hang(things[_RIGHT], aside, 0.32, looks.YES if asks else looks.RIGHT, 0.34)
    _hang(things[_CROSS], 0.0, 0.38, looks.FIXATION, 0.24)
    shuffle(work.order, looks.OBJECTS, work.rng)
    for k in range(_PICTURES):
        _hang(things[_BANK + k], 0.0, 0.3, looks.OBJECT + work.order[k], 0.4)
        things[_BANK + k].kind = below(work.rng, 2)
        hide(things[_BANK + k])
    agent.phase = FIXATE


@inner
def _hang(thing, across, z, look, size):
    """Puts a picture before the screen, ``across`` to the right of its middle."""
    put(thing, _MIDDLE + across, _MIDDLE - _NEAR, look, Role.NONE, 0.0, size, 0)
    thing.z = z


@inner
def turned(agent):
    """Turns to the right of the screen's middle, -12..11."""
    return (agent.heading - NORTH + HEADINGS // 2) % HEADINGS - HEADINGS // 2


@inner
def step_trials(level, agent, things, work):
    """Goes on with the trial; returns the reward."""
    agent.timer -= 1
    if agent.phase == FIXATE:
        if turned(agent) == 0:
            _present(level, agent, things, work)
    elif agent.phase == STUDY:
        if agent.timer <= 0:
            agent.phase, agent.timer = DELAY, between(work.rng, _SHORTEST_DELAY, _LONGEST_DELAY)
            _hide_items(things)
    elif agent.phase == DELAY:
        if agent.timer <= 0:
            _test(level, agent, things, work)
    else:
        side = turned(agent)
        if abs(side) >= ANSWER_TURNS or agent.timer <= 0:
            return _close(agent, things, side)
    return 0.0


@inner
def _close(agent, things, side):
    """Ends a trial: tally, and back to the cross."""
    right = agent.timer > 0 and (side > 0) == (agent.answer > 0)
    agent.right += right
    agent.wrong += not right
    agent.count += 1
    agent.phase = FIXATE
    _hide_items(things)
    show(things[_CROSS])
    return 1.0 if right else 0.0


@inner
def _hide_items(things):
    for k in range(_ITEMS):
        hide(things[_ITEM + k])


@inner
def _present(level, agent, things, work):
    """Shows the first pictures of a trial."""
    hide(things[_CROSS])
    agent.phase, agent.timer = TEST, _TEST_STEPS
    agent.answer = 1 if chance(work.rng, 0.5) else -1
    if level.trial == Trial.MAPPING:
        bank = things[_BANK + below(work.rng, _PICTURES)]
        _hang(things[_ITEM], 0.0, 0.3, bank.look, 0.42)
        agent.answer = 1 if bank.kind == 1 else -1
    elif level.trial == Trial.RECOGNITION:
        _hang(things[_ITEM], 0.0, 0.3, looks.OBJECT + _next_picture(agent, work), 0.42)
    elif level.trial == Trial.COMPARISON:
        agent.phase, agent.timer, agent.items = STUDY, _STUDY_STEPS, between(work.rng, 1, 4)
        for k in range(agent.items):
            across = 0.28 * (k - (agent.items - 1) / 2)
            _hang(things[_ITEM + k], across, 0.36, looks.OBJECT + below(work.rng, looks.OBJECTS), 0.26)
    else:
        _present_search(agent, things, work)


@inner
def _next_picture(agent, work):
    """A picture of this episode again if the answer is right, else a new one; ``agent.seen`` remembers."""
    known = 0
    for picture in range(looks.OBJECTS):
        known += agent.seen >> picture & 1
    if known == 0:
        agent.answer = -1
    if known == looks.OBJECTS:
        agent.answer = 1
    again = agent.answer > 0
    nth = below(work.rng, known if again else looks.OBJECTS - known)
    for picture in range(looks.OBJECTS):
        if (agent.seen >> picture & 1 == 1) == again:
            if nth == 0:
                agent.seen |= np.int64(1) << picture
                return picture
            nth -= 1
    return 0


@inner
def _test(level, agent, things, work):
    """After the delay: the same pictures, or with one exchanged."""
    agent.phase, agent.timer = TEST, _TEST_STEPS
    if agent.answer < 0:
        thing = things[_ITEM + below(work.rng, agent.items)]
        picture = thing.look - looks.OBJECT + between(work.rng, 1, looks.OBJECTS - 1)
        thing.look = looks.OBJECT + picture % looks.OBJECTS
    for k in range(agent.items):
        show(things[_ITEM + k])


@inner
def _present_search(agent, things, work):
    """4 to 12 pictures in random places: the target, if it is there, among others of its colour or its shape."""
    agent.items = between(work.rng, 4, _ITEMS)
    shuffle(work.order, _COLUMNS * _ROWS, work.rng)
    for k in range(agent.items):
        place = work.order[k]
        look = looks.LOOKALIKE + (0 if k == 0 and agent.answer > 0 else between(work.rng, 1, 2))
        across, up = place % _COLUMNS - (_COLUMNS - 1) / 2, place // _COLUMNS
        _hang(things[_ITEM + k], 0.22 * across, 0.14 + 0.25 * up, look, 0.2)
