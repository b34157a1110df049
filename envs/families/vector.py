"""The vector environment of `envs.tasks`.

Legend: ``B`` sub-environments, ``F`` factors of a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs._frame import BoolArray
from envs.families.draws import EpisodeDraws
from envs.families.family import TaskFamily, TaskLike, adapted, task_family
from envs.families.groups import EngineGroups
from envs.families.law import Rare, allocate_slots, checked_options
from envs.families.pools import EnginePool
from envs.families.single import IDLE_ENGINES
from envs.zipf.law import SPLITS, Split, check_choice, cumulative

Allocation = Literal["per_episode", "static"]


class ZipfTasksVector(VectorEnv):
    """Many sub-environments that play a family of tasks skewed by a Zipf law; auto-reset on the step after an end.

    ``allocation="per_episode"`` draws a task for every episode, from a stream of each sub-environment's own, so that
    what it plays does not depend on ``num_envs``.

    ``allocation="static"`` gives each task a fixed number of sub-environments (largest remainder of ``num_envs * P``,
    at least ``min_slots``), for engines that cannot switch games, such as C++ batches. What the allocation gets wrong
    is in ``importance_weight``, ``P`` over the task's share of the slots, by which losses or scores can be weighted.

    Infos ``[B]``: those of `ZipfTasks` with masks ``_key``; the engines' own where they give them.

    Options of `reset`, per episode: ``task`` for the episodes that begin now (a number for all; ``[B]``; with several
    factors items ``[F]`` or ``[B, F]``); ``split``, from now on. Static allocation has neither.

    Args:
        tasks: As in `ZipfTasks`, like all arguments not listed here.
        num_envs: ``B``.
        allocation: ``per_episode`` or ``static``.
        min_slots: Fewest sub-environments of a task that can occur, static only.
        max_open: Most engines open at once, per episode only; None is ``num_envs + 16``.
        num_threads: Threads that step fixed ranges of sub-environments (of tasks, if static): for engines that release
            the GIL.

    Raises:
        ValueError: Any value out of range or unknown name; spaces of two tasks that differ; too few slots.
    """

    def __init__(
        self,
        tasks: TaskFamily | Sequence[TaskLike],
        num_envs: int,
        *,
        split: Split = "zipf",
        exponent: float | None = None,
        rare: Rare | None = None,
        rank_seed: int | None = None,
        allocation: Allocation = "per_episode",
        min_slots: int = 1,
        factors: Sequence[int] = (),
        max_open: int | None = None,
        pad_actions: bool = False,
        resize: tuple[int, int] | None = None,
        grayscale: bool = False,
        num_threads: int = 1,
    ) -> None:
        self._groups: EngineGroups | None = None
        self._pool: EnginePool | None = None
        check_choice("split", split, SPLITS)
        check_choice("allocation", allocation, get_args(Allocation))
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs, self.allocation = num_envs, allocation
        family = task_family(tasks, factors=factors)
        self.family = adapted(family, pad_actions=pad_actions, resize=resize, grayscale=grayscale)
        self.law = self.family.law(exponent=exponent, rare=rare, rank_seed=rank_seed)
        self._set_split(split)
        self._weight, self.slots = np.ones(len(self.law)), np.zeros(len(self.law), np.int64)
        if allocation == "static":
            self.slots = allocate_slots(self._probability, num_envs, min_slots)
            np.divide(self._probability * num_envs, self.slots, out=self._weight, where=self.slots > 0)
        self._fixed = np.repeat(np.arange(len(self.law)), self.slots)
        if allocation == "static" and all(task.make_many is not None for task in self.family.tasks):
            self._groups = EngineGroups(self.family, self.slots, num_threads=num_threads)
        else:
            most = num_envs + IDLE_ENGINES if max_open is None else max_open
            self._pool = EnginePool(self.family, num_envs, max_open=most, num_threads=num_threads)
        player = self._groups or self._pool
        assert player is not None
        self.single_observation_space, self.single_action_space = player.observation_space, player.action_space
        self.observation_space = batch_space(player.observation_space, num_envs)
        self.action_space = batch_space(player.action_space, num_envs)
        self._draws = EpisodeDraws(num_envs)
        self._task = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, np.bool_)
        self._begun = False

    @property
    def num_open(self) -> int:
        """Engines open now."""
        return 0 if self._pool is None else self._pool.engines.num_open

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins an episode in every sub-environment.

        Args:
            seed: One seed for all, or one a sub-environment (not with batch engines); None goes on with the streams.
            options: See the class.

        Raises:
            gymnasium.error.ClosedEnvironmentError: After `close`.
            ValueError: An unknown option or split, a task out of range, a bad seed.
        """
        self._check_open()
        if self.allocation == "static" and options:
            raise ValueError(f"static allocation fixes tasks and split: no reset options, got {sorted(options)}")
        split, forced = checked_options(options, self.split, self.law, num_envs=self.num_envs)
        if split != self.split:
            self._set_split(split)
        if self._groups is not None and not (seed is None or isinstance(seed, int | np.integer)):
            raise ValueError("batch engines take one seed for all sub-environments, not one each")
        started = self._seed(seed)
        self._begun, self._ended = True, np.zeros(self.num_envs, np.bool_)
        if self._groups is not None:
            self._task = self._groups.task
            obs, infos = self._groups.reset(started)
            return obs, {**infos, **self._infos()}
        self._begin(np.ones(self.num_envs, np.bool_), forced)
        assert self._pool is not None
        return self._pool.obs, {**self._pool.infos, **self._infos()}

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Steps every sub-environment; those whose episode has ended begin the next one instead.

        Raises:
            gymnasium.error.ClosedEnvironmentError: After `close`.
            gymnasium.error.ResetNeeded: Before the first reset.
            gymnasium.error.InvalidAction: Not integers, another shape, or an action outside the space.
        """
        self._check_open()
        if not self._begun:
            raise ResetNeeded("no episode is running: call reset()")
        if self._groups is not None:
            obs, reward, terminated, truncated, infos = self._groups.step(actions)
            return obs, reward, terminated, truncated, {**infos, **self._infos()}
        pool = self._pool
        assert pool is not None
        pool.step(actions, ~self._ended)
        if self._ended.any():
            self._begin(self._ended, None)
        self._ended = pool.terminated | pool.truncated
        ends = pool.terminated.copy(), pool.truncated.copy()
        return pool.obs, pool.reward.copy(), *ends, {**pool.infos, **self._infos()}

    def close_extras(self, **kwargs: Any) -> None:
        """Closes all engines."""
        for player in (self._groups, self._pool):
            if player is not None:
                player.close()

    def _seed(self, seed: int | Sequence[int | None] | None) -> int | None:
        """Starts streams; the first reset without a seed takes one of the system's. Returns the seed, if it is one."""
        if seed is None and self._begun:
            return None
        if seed is None or isinstance(seed, int | np.integer):
            super().reset(seed=None if seed is None else int(seed))
            seed = int(self.np_random_seed or 0)
        elif not self._draws.seeded and any(one is None for one in seed):
            self._seed(None)
        self._draws.seed(seed)
        return seed if isinstance(seed, int) else None

    def _begin(self, mask: BoolArray, forced: NDArray[np.int64] | None) -> None:
        assert self._pool is not None
        tasks, seeds = self._draws.draw(mask, self._table)
        chosen = self._fixed if self.allocation == "static" else tasks if forced is None else forced
        self._pool.begin(mask, chosen, seeds)
        self._task = self._pool.task.copy()

    def _infos(self) -> dict[str, Any]:
        infos = {
            "task_id": self._task.copy(),
            "ranks": self.law.ranks[self._task],
            "task_prob": self._probability[self._task],
            "is_rare": self.law.is_rare[self._task],
            "importance_weight": self._weight[self._task],
        }
        return {**infos, **{f"_{key}": np.ones(self.num_envs, np.bool_) for key in infos}}

    def _set_split(self, split: Split) -> None:
        self.split: Split = split
        self._probability = self.law.probabilities(split)
        self._table = cumulative(self._probability)

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("ZipfTasksVector was closed; make a new one")
