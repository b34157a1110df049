"""Playing and tracing episodes."""

import numpy as np
import pytest
import torch

from byol_ext.rl.evaluate import play, summary, trace


def rightward(learner, *, push=8.0):
    """A policy that goes right, whatever it sees."""
    with torch.no_grad():
        learner.policy.output.weight.zero_()
        learner.policy.output.bias[:2] = torch.tensor([0.0, push])
    return learner.policy.eval()


def test_every_environment_plays_its_share(agent, corridor):
    rows = play(rightward(agent()), corridor(4, slip=0.0), episodes=10, greedy=True, seed=1)
    assert len(rows) == 12
    for row in rows:
        assert row == {"return": 1.0, "length": 4.0, "cut": 0.0, "cells": 4.0, "coverage": 1.0}


def test_short_episodes_do_not_crowd_out_long_ones(agent, corridor):
    """A coin-tossing walk: the episodes that finish first would be the short ones."""
    rows = play(rightward(agent(), push=0.0), corridor(8, slip=0.0, limit=12), episodes=80, seed=2)
    reached = np.array([row["return"] for row in rows])
    lengths = np.array([row["length"] for row in rows])
    assert len(rows) == 80
    assert (lengths[reached == 0] == 12).all()
    # Exact by a Markov chain: the walk stays at cell 0 when it goes left there.
    state = np.zeros(5)
    state[0] = 1.0
    for _ in range(12):
        after = np.zeros(5)
        after[4] = state[4]
        for cell in range(4):
            after[max(cell - 1, 0)] += state[cell] / 2
            after[cell + 1] += state[cell] / 2
        state = after
    assert abs(reached.mean() - state[4]) < 4 * np.sqrt(state[4] * (1 - state[4]) / 80)


def test_cut_episodes_are_marked(agent, corridor):
    rows = play(rightward(agent(), push=-8.0), corridor(2, slip=0.0, limit=50), episodes=2, greedy=True, max_steps=7)
    assert [row["cut"] for row in rows] == [1.0, 1.0]
    assert [row["length"] for row in rows] == [7.0, 7.0]


def test_sampled_play_depends_on_its_seed_alone(agent, corridor):
    policy = agent().policy.eval()
    a, b, c = (play(policy, corridor(3), episodes=6, seed=seed) for seed in (5, 5, 6))
    assert a == b
    assert a != c


def test_summary():
    rows = [{"return": value, "length": 10.0} for value in (0.0, 1.0, 2.0, 3.0, 100.0, 4.0, 5.0, 6.0)]
    found = summary(rows)
    assert found["return_median"] == 3.5
    assert found["return_iqm"] == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert found["return_max"] == 100.0
    assert found["episodes"] == 8


def test_a_trace_is_an_episode_as_a_segment(agent, corridor):
    learner = agent()
    seen = []
    episode = trace(
        rightward(learner), corridor(1, slip=0.0), greedy=True, watch=lambda step, values: seen.append(step)
    )
    segment = episode.segment
    assert seen == [0, 1, 2, 3, 4]
    assert segment.obs.shape == (5, 1, 1, 1, 5)
    assert segment.obs[:, 0, 0, 0].argmax(-1).tolist() == [0, 1, 2, 3, 4]
    assert segment.action[:, 0].tolist() == [1, 1, 1, 1]
    assert segment.prev_action[:, 0].tolist() == [2, 1, 1, 1, 1]
    assert segment.terminated[:, 0].tolist() == [False, False, False, True]
    assert segment.first[:, 0].tolist() == [True, False, False, False, False]
    assert segment.info["cell"][:, 0].tolist() == [1, 2, 3, 4]
    assert episode.value.shape == (4, 1)
    reward = learner.bonus.reward(
        type(segment)(**{**vars(segment), "memory": learner.bonus.initial_memory(1)}), update=False
    )
    assert reward.raw.shape == (4, 1)
    assert bool((reward.raw > 0).all())
