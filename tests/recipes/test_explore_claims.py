"""Claims of docs/explore.md, in small; slow."""

from dataclasses import replace

import numpy as np
import pytest

from byol_ext.training.checkpoint import load_checkpoint
from recipes.explore import train
from recipes.explore_config import maze
from recipes.explore_study import Cell, run_cells, tabulate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Three seeds of both world models where noise comes on demand."""
    out = tmp_path_factory.mktemp("study")
    agents = ("byol-explore", "byol-hindsight")
    cells = [Cell(agent, "on_demand", seed) for agent in agents for seed in range(3)]
    run_cells(replace(maze(), root=str(out)), cells, jobs=2)
    return {row["agent"]: row for row in tabulate(out, cells)}


def test_noise_draws_explore_more_than_hindsight(noisy):
    """A random walk asks for noise at one step in five; BYOL-Explore ends above (0.45), BYOL-Hindsight there (0.20).

    Of the means: the ranges of three seeds overlap.
    """
    explore, hindsight = noisy["byol-explore"], noisy["byol-hindsight"]
    assert hindsight["asked at the end"]["mean"] < explore["asked at the end"]["mean"]
    assert hindsight["reward on noise at the end"]["mean"] < explore["reward on noise at the end"]["mean"]


@pytest.mark.parametrize("agent", ["count", "byol-explore"])
def test_all_four_trackers_are_reached_without_noise(tmp_path, agent):
    """T17: within 200 k steps some episode has been at every tracker."""
    config = replace(maze(), name=agent, agent=agent, root=str(tmp_path), env_steps=200_000)
    _, experiment, run = train(config)
    assert load_checkpoint(run.latest).step > 0
    columns = 29
    seen = {divmod(cell, columns) for cell in experiment.tracker.visits["cell"]}
    assert {(3, 9), (3, 15), (3, 21), (3, 26)} <= seen
    coverage = [r["episode/coverage"] for r in run.metrics() if "episode/coverage" in r]
    assert np.mean(coverage[-5:]) > 0.42  # a random walk's


def test_ppo_solves_a_small_gridworld(tmp_path):
    """MiniGrid's empty room: extrinsic reward alone, no curiosity."""
    pytest.importorskip("minigrid")
    config = maze()
    config = replace(
        config,
        name="empty",
        root=str(tmp_path),
        env="MiniGrid-Empty-5x5-v0",
        agent="none",
        env_steps=60_000,
        reward=replace(config.reward, extrinsic_coef=1.0, clip_sign=False),
    )
    _, experiment, _ = train(config)
    assert experiment.tracker.metrics()["episode/return"] > 0.8
