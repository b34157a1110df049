"""Laser tag: opponents that roam a maze, see and shoot; the agent's own shots.

Weapons are hit-scan. A tag gives the agent +1 and puts the opponent elsewhere; an agent that has been hit three times
is put elsewhere itself.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

from envs.raycast._jit import inner
from envs.zipf.labyrinth import looks
from envs.zipf.labyrinth._layouts import lay_maze, step_of
from envs.zipf.labyrinth._placing import ANY_FLOOR, place_agent, put_somewhere, take_around, take_things
from envs.zipf.labyrinth._random import below, chance
from envs.zipf.labyrinth.looks import IS_FLOOR, OPAQUE
from envs.zipf.labyrinth.state import Role

_SIZE, _HALF_WIDTH = 0.85, 0.36
_RANGE = 12.0
_SPEED = 0.13
_RELOAD, _BOT_RELOAD = 5, 18
_HIT_NEAR, _HIT_FAR = 0.7, 0.25
"""Chance that an opponent's shot hits from nothing and from the end of its range."""
HEALTH = 3
_SIGHT_STEP = 0.1


@inner
def begin_tag(level, agent, things, cells, work):
    """A maze with many loops, the opponents, and the agent away from them."""
    agent.health = HEALTH
    lay_maze(cells, work, level.edge, 1, level.loops)
    place_agent(agent, cells, work, ANY_FLOOR)
    take_around(work, int(agent.x), int(agent.y), 2)
    for s in range(level.bots):
        _place_bot(cells, work, things[s], s)


@inner
def _place_bot(cells, work, bot, s):
    put_somewhere(cells, work, bot, ANY_FLOOR, looks.ROBOT + s % looks.ROBOTS, Role.BOT, 1.0, _SIZE, 1)
    bot.aim_x, bot.aim_y = bot.x, bot.y
    bot.timer = _BOT_RELOAD


@inner
def sees(cells, x, y, other_x, other_y):
    """Whether no opaque cell lies between two points."""
    dx, dy = other_x - x, other_y - y
    steps = int(math.sqrt(dx * dx + dy * dy) / _SIGHT_STEP) + 1
    for k in range(1, steps):
        share = k / steps
        if OPAQUE[cells[int(y + dy * share), int(x + dx * share)]]:
            return False
    return True


@inner
def aimed_at(agent, cells, thing):
    """Distance along the agent's line of fire if the thing is on it, else -1."""
    dx, dy = thing.x - agent.x, thing.y - agent.y
    heading_x, heading_y = math.cos(agent.angle), math.sin(agent.angle)
    ahead, aside = dx * heading_x + dy * heading_y, abs(dy * heading_x - dx * heading_y)
    if ahead <= 0 or ahead > _RANGE or aside > _HALF_WIDTH or not sees(cells, agent.x, agent.y, thing.x, thing.y):
        return -1.0
    return ahead


@inner
def fire(level, agent, things, cells, work):
    """The agent shoots, if its weapon is ready; returns the reward."""
    if agent.cooldown > 0:
        return 0.0
    agent.cooldown = _RELOAD
    hit, nearest = -1, _RANGE
    for s in range(level.bots):
        distance = aimed_at(agent, cells, things[s])
        if 0 <= distance < nearest:
            hit, nearest = s, distance
    if hit < 0:
        return 0.0
    agent.right += 1
    value = things[hit].value
    take_things(things, work)
    take_around(work, int(agent.x), int(agent.y), 2)
    _place_bot(cells, work, things[hit], hit)
    return value


@inner
def step_bots(level, agent, things, cells, work):
    """Opponents walk from cell to cell, towards the agent when they see it, and shoot."""
    for s in range(level.bots):
        bot = things[s]
        seen = sees(cells, bot.x, bot.y, agent.x, agent.y)
        _walk(cells, work, bot, agent, seen)
        bot.timer -= 1
        distance = math.sqrt((bot.x - agent.x) ** 2 + (bot.y - agent.y) ** 2)
        if seen and bot.timer <= 0 and distance < _RANGE:
            bot.timer = _BOT_RELOAD
            agent.health -= chance(work.rng, _HIT_NEAR + (_HIT_FAR - _HIT_NEAR) * distance / _RANGE)
    if agent.health <= 0:
        agent.health = HEALTH
        agent.wrong += 1
        take_things(things, work)
        for s in range(level.bots):
            take_around(work, int(things[s].x), int(things[s].y), 2)
        place_agent(agent, cells, work, ANY_FLOOR)


@inner
def _walk(cells, work, bot, agent, seen):
    dx, dy = bot.aim_x - bot.x, bot.aim_y - bot.y
    distance = math.sqrt(dx * dx + dy * dy)
    if distance > _SPEED:
        bot.x += _SPEED * dx / distance
        bot.y += _SPEED * dy / distance
        return
    bot.x, bot.y = bot.aim_x, bot.aim_y
    x, y = int(bot.x), int(bot.y)
    found, best = 0, 0.0
    for direction in range(4):
        step_x, step_y = step_of(direction)
        if not IS_FLOOR[cells[y + step_y, x + step_x]]:
            continue
        towards = step_x * (agent.x - bot.x) + step_y * (agent.y - bot.y)
        found += 1
        if found == 1 or (towards > best if seen else below(work.rng, found) == 0):
            best = towards
            bot.aim_x, bot.aim_y = x + step_x + 0.5, y + step_y + 0.5
