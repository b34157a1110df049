"""The playroom's step and reset over a range of sub-environments.

Legend: see `envs.zipf.playroom.state`.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import njit

from envs.zipf.playroom._act import act
from envs.zipf.playroom._begin import begin_episode
from envs.zipf.playroom.state import GOAL, GOING_ON, MAP, OUTCOME_LETTERS, TIMEOUT, WRONG


@njit(nogil=True, cache=True)
def reset_rows(rules, law, state, streams, out, mask, lo, hi):
    """Begins an episode in the rows of ``mask``."""
    allowed = np.zeros((MAP, MAP), np.bool_)
    for e in range(lo, hi):
        if mask[e]:
            begin_episode(rules, law, state, streams, e, allowed)
            _tell(rules, law, state, out, e, GOING_ON)


@njit(nogil=True, cache=True)
def step_rows(rules, law, state, streams, out, actions, skip, lo, hi):
    """Steps the rows not in ``skip``."""
    for e in range(lo, hi):
        if skip[e]:
            continue
        outcome = act(rules, state.agents[e], state.things[e], state.pieces[e], state.cells[e], actions[e])
        if outcome == GOING_ON and streams.step[e] >= rules.max_steps:
            outcome = TIMEOUT
        out.reward[e] = 1.0 if outcome == GOAL else 0.0
        out.terminated[e] = outcome in (GOAL, WRONG)
        out.truncated[e] = outcome == TIMEOUT
        _tell(rules, law, state, out, e, outcome)


@njit(nogil=True, cache=True)
def _tell(rules, law, state, out, e, outcome):
    agent = state.agents[e]
    kind, furniture = agent.kind, max(agent.furniture, 0)
    for k in range(rules.tokens.shape[2]):
        out.tokens[e, k] = rules.tokens[furniture, kind, k]
    for k in range(rules.letters.shape[2]):
        out.instruction[e, k] = rules.letters[furniture, kind, k]
    out.task_id[e] = kind
    out.ranks[e, 0] = law.rank[kind]
    out.task_prob[e] = law.probability[state.split[0], kind]
    out.is_rare[e] = law.rare[kind]
    out.furniture[e] = agent.furniture
    out.held[e] = state.things[e, agent.held].kind if agent.held >= 0 else -1
    out.cell[e] = int(agent.y) * MAP + int(agent.x)
    out.success[e] = outcome == GOAL
    for k in range(OUTCOME_LETTERS.shape[1]):
        out.outcome[e, k] = OUTCOME_LETTERS[outcome, k]
