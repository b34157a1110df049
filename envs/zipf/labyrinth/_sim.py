"""The labyrinth's step and reset over a range of sub-environments.

Legend: ``B`` sub-environments, ``N`` levels in use, ``L`` tokens.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs._rng import draw, moment, uniform
from envs.raycast._jit import entry, inner
from envs.zipf.labyrinth._begin import begin_level, begin_round
from envs.zipf.labyrinth._bots import fire, step_bots
from envs.zipf.labyrinth._motion import ACT, move, take_key, touched, turn
from envs.zipf.labyrinth._placing import stand
from envs.zipf.labyrinth._random import begin
from envs.zipf.labyrinth._trials import MOST_TRIALS, step_trials
from envs.zipf.labyrinth.levels import STEPS_PER_SECOND, Mechanic
from envs.zipf.labyrinth.state import LENGTH, MAP_EDGE, THINGS, Role, hide, show

_TASK = np.uint64(0)
OUTCOMES = np.array(["", "goal", "timeout"])
_OUTCOME_CODES = OUTCOMES.view(np.uint32).reshape(3, 7)
_GOING_ON, _GOAL, _TIMEOUT = range(3)


class Law(NamedTuple):
    """Law of the levels: rows by split, in the order of `envs.zipf.law.SPLITS`.

    Attributes:
        cumulative: ``[3, N]``, for inverse sampling.
        probability: ``[3, N]``.
        rank: ``[N]`` int64, from 0.
        rare: ``[N]`` bool.
    """

    cumulative: NDArray[np.float64]
    probability: NDArray[np.float64]
    rank: NDArray[np.int64]
    rare: NDArray[np.bool_]


class Out(NamedTuple):
    """Where a call's results go, but for the pictures: ``[B]`` each.

    Attributes:
        tokens: ``[B, L]`` int32; ``[0, L]`` if instructions are not observed.
        outcome: ``[B, 7]`` uint32, the letters of a ``<U7``.
        ranks: ``[B, 1]``.
        reward, terminated, truncated, task_id, level, task_prob, is_rare, cell, score, success: See the environment.
    """

    tokens: NDArray[np.int32]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    task_id: NDArray[np.int64]
    level: NDArray[np.int64]
    ranks: NDArray[np.int64]
    task_prob: NDArray[np.float64]
    is_rare: NDArray[np.bool_]
    cell: NDArray[np.int64]
    score: NDArray[np.float64]
    success: NDArray[np.bool_]
    outcome: NDArray[np.uint32]


@entry
def reset_rows(levels, law, state, streams, work, out, mask, lo, hi):
    """Begins an episode in the rows of ``mask``: draws the level, then makes it."""
    for e in range(lo, hi):
        if not mask[e]:
            continue
        agent, task = state.agents[e], state.forced[e]
        if task < 0:
            here = moment(streams.key[e], streams.episode[e], streams.step[e])
            u = uniform(draw(here, _TASK, 0))
            task = 0
            while u >= law.cumulative[state.split[0], task]:
                task += 1
        state.forced[e] = -1
        agent.level = task
        begin(work.rng, streams, e)
        begin_level(levels[task], agent, state.things[e], state.cells[e], state.tokens[e], work)
        _tell(levels, law, state, out, e, _GOING_ON)


@entry
def step_rows(levels, law, state, streams, work, out, actions, skip, lo, hi):
    """Steps the rows not in ``skip``."""
    for e in range(lo, hi):
        if skip[e]:
            continue
        agent, things, cells, tokens = state.agents[e], state.things[e], state.cells[e], state.tokens[e]
        level = levels[agent.level]
        begin(work.rng, streams, e)
        outcome = _GOING_ON
        if level.mechanic == Mechanic.TRIALS:
            turn(agent, actions[e])
            reward = step_trials(level, agent, things, work)
            if agent.count >= MOST_TRIALS:
                outcome = _GOAL
        else:
            move(agent, cells, actions[e])
            reward = 0.0
            if level.mechanic == Mechanic.TAG:
                agent.cooldown -= 1
                if actions[e] == ACT:
                    reward += fire(level, agent, things, cells, work)
                step_bots(level, agent, things, cells, work)
            elif level.regrow > 0:
                _regrow(things)
            s = touched(agent, things)
            if s >= 0:
                reward += things[s].value
                if _touch(level, agent, things, s, cells, tokens, work):
                    outcome = _GOAL
        if outcome == _GOING_ON and streams.step[e] >= level.steps:
            outcome = _TIMEOUT
        agent.score += reward
        out.reward[e] = reward
        out.terminated[e] = outcome == _GOAL
        out.truncated[e] = outcome == _TIMEOUT
        _tell(levels, law, state, out, e, outcome)


@inner
def _regrow(things):
    for s in range(THINGS):
        if things[s].role == Role.PICKUP and things[s].present == 0:
            things[s].timer -= 1
            if things[s].timer <= 0:
                show(things[s])


@inner
def _touch(level, agent, things, s, cells, tokens, work):
    """What touching a thing does, but for its value; returns whether the episode ends."""
    thing = things[s]
    if thing.role == Role.PICKUP:
        hide(thing)
        thing.timer = level.regrow * STEPS_PER_SECOND
        if thing.value > 0:
            agent.left -= 1
            if agent.left == 0:
                agent.right += 1
                if level.restock:
                    begin_round(level, agent, things, cells, tokens, work)
    elif thing.role == Role.KEY:
        take_key(agent, thing)
    elif thing.role == Role.PAD:
        stand(agent, cells, thing.aim_x, thing.aim_y, 0)
    else:
        agent.right += thing.value > 0
        agent.wrong += thing.value < 0
        if level.ends:
            return True
        begin_round(level, agent, things, cells, tokens, work)
    return False


@inner
def _tell(levels, law, state, out, e, outcome):
    agent = state.agents[e]
    task, split = agent.level, state.split[0]
    if len(out.tokens) > 0:
        for k in range(LENGTH):
            out.tokens[e, k] = state.tokens[e, k]
    out.task_id[e] = task
    out.level[e] = levels[task].number
    out.ranks[e, 0] = law.rank[task]
    out.task_prob[e] = law.probability[split, task]
    out.is_rare[e] = law.rare[task]
    out.cell[e] = (out.level[e] * MAP_EDGE + int(agent.y)) * MAP_EDGE + int(agent.x)
    out.score[e] = agent.score
    out.success[e] = agent.right > agent.wrong
    for k in range(_OUTCOME_CODES.shape[1]):
        out.outcome[e, k] = _OUTCOME_CODES[outcome, k]
