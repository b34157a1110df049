"""Matched evaluation against closed forms, a brute-force loop and the gridworld's exact values."""

import math
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import SyncVectorEnv

from envs.evaluate import MatchedScores, evaluate_matched, gridworld_oracle, gridworld_random_returns
from envs.families.draws import derived_seed
from envs.families.law import TaskLaw
from envs.task_presets import gridworld_tasks
from envs.tasks import Task, TaskFamily, task_family
from envs.zipf.exact import random_walk
from envs.zipf.generator import Sizes
from envs.zipf.law import SPLITS, split_law, zipf
from envs.zipf.world import build_world, published_maps


class Guess(gymnasium.Env):
    """Task ``k``: ``k + 1`` steps; action 1 earns ``k + noise``."""

    def __init__(self, k):
        self.k = k
        self.observation_space, self.action_space = Box(0, 255, (1,), np.uint8), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.array([self.k], np.uint8), {}

    def step(self, action):
        self.steps += 1
        reward = action * (self.k + self.np_random.random())
        return np.array([self.k], np.uint8), reward, self.steps > self.k, False, {}


def guesses(n=5, **settings):
    return TaskFamily(tuple(Task(f"guess {k}", partial(Guess, k), engine=k) for k in range(n)), **settings)


def always(action):
    return lambda observations, infos: np.full(len(infos["first"]), action)


def brute_force(n, episodes, seed):
    """Action 1, one environment after another."""
    returns = np.zeros((n, episodes))
    for k in range(n):
        for j in range(episodes):
            env = Guess(k)
            env.reset(seed=derived_seed(seed, k, j))
            returns[k, j] = sum(env.step(1)[1] for _ in range(k + 1))
    return returns


@pytest.mark.parametrize("num_envs", [1, 3, 8, 200])
def test_table_is_that_of_a_plain_loop(num_envs):
    scores = evaluate_matched(always(1), guesses(), 6, 4, random=np.zeros(5), num_envs=num_envs)
    np.testing.assert_allclose(scores.returns, brute_force(5, 6, 4))
    np.testing.assert_array_equal(scores.lengths, np.repeat(np.arange(1, 6)[:, None], 6, axis=1))
    assert scores.counts.tolist() == [6] * 5


def test_splits_are_reweightings_of_one_table():
    scores = evaluate_matched(always(1), guesses(10), 3, 0, random=np.zeros(10))
    table = brute_force(10, 3, 0).mean(axis=1)
    for exponent in (0.5, 1.0, 2.0):
        splits = scores.splits(exponent=exponent)
        assert splits["zipf"].mean == pytest.approx(zipf(10, exponent) @ table)
        assert splits["uniform"].mean == pytest.approx(table.mean())
        assert splits["rare"].mean == pytest.approx(table[-2:].mean())
    assert scores.splits(rare=4)["rare"].mean == pytest.approx(table[-4:].mean())
    assert scores.splits(rank_seed=3)["uniform"].mean == pytest.approx(table.mean())
    permuted = TaskLaw((10,), exponent=1.0, rank_seed=3)
    assert scores.splits(rank_seed=3)["rare"].mean == pytest.approx(table[permuted.is_rare].mean())


def test_baselines_and_normalised_scores():
    half = lambda observations, infos: np.arange(len(infos["first"])) % 2  # noqa: E731
    scores = evaluate_matched(half, guesses(), 200, 1, oracle=always(1), num_envs=2)
    expected_best = np.array([(k + 1) * (k + 0.5) for k in range(5)])
    np.testing.assert_allclose(scores.oracle.mean(axis=1), expected_best, rtol=0.15)
    np.testing.assert_allclose(scores.random.mean(axis=1), expected_best / 2, rtol=0.25)
    np.testing.assert_allclose(scores.table("above_random"), scores.table() - scores.random.mean(axis=1))
    best = evaluate_matched(always(1), guesses(), 20, 1, oracle=always(1))
    assert all(best.splits("normalised")[split].mean == pytest.approx(1) for split in SPLITS)
    exact = evaluate_matched(always(0), guesses(), 2, 1, random=np.zeros(5), oracle=expected_best)
    assert exact.table("normalised").tolist() == [0] * 5


def test_tasks_with_nothing_to_gain_have_no_normalised_score_and_are_left_out():
    oracle = np.array([1.0, 3.0, 0.5, 2.0])
    scores = evaluate_matched(always(1), guesses(4, rare=1), 3, 0, random=np.ones(4), oracle=oracle)
    table = scores.table("normalised")
    assert np.isnan(table).tolist() == [True, False, True, False]
    law = zipf(4, 1.0)
    expected = (law[1] * table[1] + law[3] * table[3]) / (law[1] + law[3])
    assert scores.splits("normalised")["zipf"].mean == pytest.approx(expected)
    assert scores.splits("normalised")["rare"].mean == pytest.approx(table[3])
    assert np.isfinite(scores.splits("normalised")["zipf"]).all()
    curve = scores.gap_curve("normalised")
    assert math.isnan(curve[0])
    assert curve[1:].tolist() == pytest.approx([table[1] - table[3]] * 2)


def test_bootstrap_interval_is_that_of_the_mean():
    rng = np.random.default_rng(0)
    returns = rng.normal(size=(5, 400)) * np.arange(1, 6)[:, None]
    scores = MatchedScores(guesses(), returns, np.ones_like(returns, int), np.zeros((5, 1)))
    law = zipf(5, 1.0)
    for split, weights in (("zipf", law), ("uniform", np.full(5, 0.2))):
        estimate = scores.splits(resamples=4000)[split]
        deviation = math.sqrt((weights**2 * returns.var(axis=1) / 400).sum())
        assert (estimate.high - estimate.low) / (2 * 1.96 * deviation) == pytest.approx(1, abs=0.06)
        assert estimate.low < estimate.mean < estimate.high
    assert scores.splits() == scores.splits()


def test_one_episode_has_no_interval():
    estimate = evaluate_matched(always(1), guesses(), 1, 0).splits()["zipf"]
    assert math.isfinite(estimate.mean)
    assert math.isnan(estimate.low)


def test_gap_curve_is_head_minus_tail():
    scores = evaluate_matched(always(1), guesses(10), 3, 0, random=np.zeros(10))
    table = scores.table()
    expected = [table[:k].mean() - table[k:].mean() for k in range(1, 10)]
    np.testing.assert_allclose(scores.gap_curve(), expected)
    np.testing.assert_allclose(scores.by_rank(), table)
    permuted = TaskLaw((10,), exponent=1.0, rank_seed=2)
    np.testing.assert_allclose(scores.by_rank(rank_seed=2), table[np.argsort(permuted.ranks[:, 0])])
    flat = MatchedScores(guesses(4, rare=1), np.ones((4, 2)), np.ones((4, 2), int), np.zeros((4, 1)))
    np.testing.assert_allclose(flat.gap_curve(), 0)


def test_rows_are_in_the_order_of_frequency():
    scores = evaluate_matched(always(1), guesses(), 2, 0, random=np.zeros(5), oracle=np.full(5, 9.0))
    rows = scores.rows(rank_seed=1)
    assert [row["ranks"][0] for row in rows] == list(range(5))
    assert sum(row["probability"] for row in rows) == pytest.approx(1)
    row = next(row for row in rows if row["task"] == "guess 3")
    assert (row["episodes"], row["length"], row["oracle"]) == (2, 4.0, 9.0)
    assert row["normalised"] == pytest.approx(row["return"] / 9)


def test_policies_are_told_which_episodes_begin():
    """A policy that counts steps since ``first`` meets every episode from its beginning."""
    seen = []

    def policy(observations, infos):
        nonlocal counts
        counts = np.where(infos["first"], 0, counts + 1)
        live = infos["live"]
        assert not (infos["first"] & ~live).any()
        seen.extend(zip(observations[live, 0].tolist(), counts[live].tolist(), strict=True))
        assert (observations[live, 0] == infos["task_id"][live]).all()
        return np.ones(len(counts), int)

    counts = np.zeros(3, int)
    scores = evaluate_matched(policy, guesses(4, rare=1), 5, 0, random=np.zeros(4), num_envs=3)
    assert sorted(seen) == sorted((k, t) for k in range(4) for t in range(k + 1) for _ in range(5))
    assert scores.lengths.sum() == len(seen)


@pytest.mark.parametrize("episodes", [1, 4, 7])
def test_families_of_batches(episodes):
    tasks = [Task(f"{k}", make_many=lambda n, k=k: SyncVectorEnv([partial(Guess, k)] * n)) for k in range(3)]
    scores = evaluate_matched(always(1), tasks, episodes, 2, random=np.zeros(3), num_envs=4)
    assert scores.returns.shape == (3, episodes)
    np.testing.assert_array_equal(scores.lengths, np.repeat(np.arange(1, 4)[:, None], episodes, axis=1))
    fractions = scores.returns - (np.arange(3) * np.arange(1, 4))[:, None]
    assert ((fractions > 0) & (fractions < np.arange(1, 4)[:, None])).all()
    assert len(np.unique(scores.returns)) == 3 * episodes


def test_long_episodes_can_be_cut():
    scores = evaluate_matched(always(1), guesses(), 2, 0, random=np.zeros(5), max_steps=3)
    assert scores.lengths[:, 0].tolist() == [1, 2, 3, 3, 3]


def test_bad_input():
    with pytest.raises(ValueError, match="episodes_per_task must be at least 1, got 0"):
        evaluate_matched(always(1), guesses(), 0, 0)
    with pytest.raises(ValueError, match=r"random must be a policy or 5 expected returns, got shape \(4,\)"):
        evaluate_matched(always(1), guesses(), 1, 0, random=np.zeros(4))
    with pytest.raises(ValueError, match="needs an oracle"):
        evaluate_matched(always(1), guesses(), 1, 0).splits("normalised")
    with pytest.raises(ValueError, match="unknown measure 'reward'; known: return, above_random, normalised"):
        evaluate_matched(always(1), guesses(), 1, 0).table("reward")
    with pytest.raises(InvalidAction, match=r"actions\[0\] must be in 0..1, got 5"):
        evaluate_matched(always(5), guesses(), 1, 0)


# Zipf's Gridworld (spec section 2.4): batched, against exact values.


@pytest.fixture(scope="module")
def exact():
    return random_walk(build_world(published_maps(20, Sizes()), 7))


def test_the_oracle_always_succeeds_by_the_shortest_way(exact):
    family = gridworld_tasks(settings={"obs": "tiles"})
    scores = evaluate_matched(gridworld_oracle(), family, 1, 0, random=exact.success.ravel(), num_envs=400)
    for exponent in (1.0, 2.0):
        assert all(estimate.mean == pytest.approx(1) for estimate in scores.splits(exponent=exponent).values())
    np.testing.assert_array_equal(scores.lengths[:, 0], exact.shortest.ravel())


def test_the_random_baseline_is_the_exact_one(exact):
    family, episodes, success = gridworld_tasks(settings={"obs": "tiles"}), 50, exact.success.ravel()
    np.testing.assert_array_equal(gridworld_random_returns(), success)
    best = evaluate_matched(gridworld_oracle(), family, episodes, 5, oracle=np.ones(400), num_envs=400)
    assert best.random.shape == (400, episodes)
    scores = MatchedScores(family, best.random, best.lengths, success[:, None], best.oracle)
    published = {"zipf": 0.032441, "uniform": 0.047694, "rare": 0.085880}
    law = TaskLaw((20, 20), exponent=2.0)
    for split, expected in published.items():
        weights = law.probabilities(split)
        assert weights @ success == pytest.approx(expected, abs=1e-6)
        deviation = math.sqrt((weights**2 * success * (1 - success)).sum() / episodes)
        assert abs(scores.splits()[split].mean - expected) < 4 * deviation
        assert scores.splits("normalised")[split].mean == pytest.approx(0, abs=0.1)


def test_rank_seed_changes_frequencies_and_not_the_table():
    best, tables = gridworld_oracle(num_maps=6, num_objects=6), []

    def policy(observations, infos):
        return np.where(infos["task_id"] % 5 < 2, best(observations, infos), infos["cell"] % 8)

    for rank_seed in (None, 7):
        settings = {"obs": "tiles", "rank_seed": rank_seed, "rare": 1}
        family = gridworld_tasks(num_maps=6, num_objects=6, settings=settings)
        tables.append(evaluate_matched(policy, family, 3, 0, random=np.zeros(36), num_envs=36))
    np.testing.assert_array_equal(tables[0].returns, tables[1].returns)
    assert 0 < tables[0].returns.mean() < 1
    plain, permuted = (tables[0].splits(rare=1, rank_seed=seed) for seed in (None, 7))
    assert plain["uniform"].mean == pytest.approx(permuted["uniform"].mean)
    assert plain["zipf"].mean != permuted["zipf"].mean


def test_a_family_can_be_given_as_ids():
    scores = evaluate_matched(always(1), task_family(["CartPole-v1"] * 2), 1, 0)
    assert (scores.returns > 5).all()


@pytest.mark.parametrize("row", ["zipf α=2", "zipf α=1.5", "zipf α=1", "uniform", "rare"])
def test_documented_baselines_are_the_exact_ones(exact, row):
    page = (Path(__file__).parents[2] / "docs" / "envs.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith(f"| {row} |"))
    split, _, exponent = row.partition(" α=")
    law = split_law(split, 20, exponent=float(exponent or 1))
    expected = exact.average(law, law)
    for value, name in zip(line.split("|")[2:6], ("success", "length", "timeout", "shortest"), strict=True):
        assert float(value) == pytest.approx(expected[name], abs=0.6 * 10 ** -len(value.strip().partition(".")[2]))
