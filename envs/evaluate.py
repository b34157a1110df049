"""`evaluate_matched`: every task equally often, once; all splits from that one table.

>>> from envs.task_presets import gridworld_tasks
>>> family = gridworld_tasks(num_maps=5, num_objects=5, settings={"obs": "tiles"})
>>> best = gridworld_oracle(num_maps=5, num_objects=5)
>>> scores = evaluate_matched(best, family, episodes_per_task=2, seed=0)
>>> {split: round(estimate.mean, 6) for split, estimate in scores.splits().items()}
{'zipf': 1.0, 'uniform': 1.0, 'rare': 1.0}

Legend: ``B`` slots, ``K`` tasks, ``E`` episodes a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from envs.families.family import TaskFamily, TaskLike, task_family
from envs.families.gridworld_oracle import gridworld_oracle, gridworld_random_returns
from envs.families.play import MatchedPlay, Policy
from envs.families.scores import Estimate, MatchedScores, Measure
from envs.zipf.law import Floats

__all__ = [
    "Estimate",
    "MatchedScores",
    "Measure",
    "Policy",
    "evaluate_matched",
    "gridworld_oracle",
    "gridworld_random_returns",
]


def evaluate_matched(
    policy: Policy,
    family: TaskFamily | Sequence[TaskLike],
    episodes_per_task: int,
    seed: int,
    *,
    random: Policy | ArrayLike | None = None,
    oracle: Policy | ArrayLike | None = None,
    num_envs: int = 64,
    num_threads: int = 1,
    max_steps: int | None = None,
) -> MatchedScores:
    """Plays every task equally often and returns the table of scores.

    Episode ``j`` of task ``k`` has the same seed for every policy and every ``num_envs``, so that two policies meet the
    same episodes (engines that only exist in batches excepted).

    Args:
        policy: What is evaluated; see `Policy`.
        family: The tasks, as in `ZipfTasks`; ``ZipfTasks(...).family`` brings its padding and resizing along.
        episodes_per_task: ``E``.
        seed: Of the episodes.
        random: The baseline that scores are measured above: a policy, or its expected return ``[K]`` where it is known;
            None plays uniformly random actions.
        oracle: The best known policy, or its expected return ``[K]``; without one there are no normalised scores.
        num_envs: Most slots ``B`` that play at once.
        num_threads: Threads that step single engines, or that step batches.
        max_steps: Longer episodes are cut, with what they have earned; for tasks that may never end.

    Raises:
        ValueError: A count below 1, or baselines of another length than ``K``.
        gymnasium.error.InvalidAction: The policy's actions are not integers ``[B]`` of the action space.
    """
    for name, value in (("episodes_per_task", episodes_per_task), ("num_envs", num_envs), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    family = task_family(family)
    match = MatchedPlay(family, episodes_per_task, seed, num_envs, num_threads, max_steps)
    returns, lengths = match.play(policy)
    random_returns = match.play(None)[0] if random is None else _baseline(random, "random", match)
    oracle_returns = None if oracle is None else _baseline(oracle, "oracle", match)
    return MatchedScores(family, returns, lengths, random_returns, oracle_returns)


def _baseline(given: Any, name: str, match: MatchedPlay) -> Floats:
    """Returns ``[K, E]`` of a policy, or expected returns as ``[K, 1]``."""
    if callable(given):
        return match.play(given)[0]
    values = np.asarray(given, dtype=np.float64)
    if values.shape != (len(match.family),):
        raise ValueError(f"{name} must be a policy or {len(match.family)} expected returns, got shape {values.shape}")
    return values[:, None]
