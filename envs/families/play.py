"""Playing every task of a family equally often.

Legend: ``B`` slots, ``K`` tasks, ``E`` episodes a task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from envs._frame import BoolArray
from envs.families.draws import derived_seed
from envs.families.family import TaskFamily
from envs.families.groups import EngineGroups
from envs.families.pools import BatchPool, EnginePool, SlotPool
from envs.zipf.law import Floats

Policy = Callable[[Any, Mapping[str, Any]], ArrayLike]
"""``policy(observations, infos) -> actions``, for all of ``B`` slots, whose number may change with ``first`` all true.

The infos are those of the environments and always ``first`` ``[B]`` bool: an episode begins with this observation, so
what a recurrent policy remembers of that slot is to be forgotten; ``task_id`` ``[B]``, for oracles; ``live`` ``[B]``
bool: false where nothing is left to play and the action is of no consequence.
"""
_IDLE_ENGINES = 16


@dataclass(frozen=True)
class MatchedPlay:
    """What is played: ``E`` episodes of each task, each with a seed of its own.

    Attributes:
        family: The tasks.
        episodes: ``E``.
        seed: Episode ``j`` of task ``k`` is seeded with (seed, k, j).
        num_envs: Most slots.
        num_threads: Threads that step engines.
        max_steps: Longest episode, or None.
    """

    family: TaskFamily
    episodes: int
    seed: int
    num_envs: int
    num_threads: int
    max_steps: int | None

    def play(self, policy: Policy | None) -> tuple[Floats, NDArray[np.int64]]:
        """Returns and lengths ``[K, E]`` of a policy; None acts uniformly at random."""
        if self.family.make_batch is None and any(task.make is None for task in self.family.tasks):
            return self._play_groups(policy)
        slots = min(self.num_envs, len(self.family) * self.episodes)
        pool: SlotPool
        if self.family.make_batch is not None:
            pool = BatchPool(self.family, slots)
        else:
            most = slots + _IDLE_ENGINES
            pool = EnginePool(self.family, slots, max_open=most, num_threads=self.num_threads)
        try:
            return self._play_slots(pool, policy or random_actions(pool.action_space, self.seed))
        finally:
            pool.close()

    def _play_slots(self, pool: SlotPool, policy: Policy) -> tuple[Floats, NDArray[np.int64]]:
        """Slots take the next episode of the list when theirs ends, so every episode begun is finished and counted."""
        todo = deque((k, j) for k in range(len(self.family)) for j in range(self.episodes))
        returns, lengths = np.zeros((len(self.family), self.episodes)), np.zeros((len(self.family), self.episodes), int)
        task, episode, seeds = np.zeros((3, pool.num_slots), np.int64)
        first, live = np.ones((2, pool.num_slots), np.bool_)
        while True:
            begins = np.flatnonzero(first)[: len(todo)]
            live[np.flatnonzero(first)[len(todo) :]] = False
            for e in begins.tolist():
                task[e], episode[e] = todo.popleft()
                seeds[e] = derived_seed(self.seed, int(task[e]), int(episode[e]))
            if not live.any():
                return returns, lengths
            first &= live
            if first.any():
                pool.begin(first, task, seeds)
            infos = {**pool.infos, "first": first, "live": live.copy(), "task_id": task.copy()}
            pool.step(np.asarray(policy(pool.obs, infos)), live)
            returns[task[live], episode[live]] += pool.reward[live]
            lengths[task[live], episode[live]] += 1
            first = live & (pool.terminated | pool.truncated | self._too_long(lengths[task, episode]))

    def _play_groups(self, policy: Policy | None) -> tuple[Floats, NDArray[np.int64]]:
        """Task by task in a batch that plays nothing else; each row plays its share and is then ignored."""
        tables = []
        for k in range(len(self.family)):
            slots = np.zeros(len(self.family), np.int64)
            slots[k] = min(self.num_envs, self.episodes)
            groups = EngineGroups(self.family, slots, num_threads=1)
            try:
                tables.append(self._play_group(groups, k, policy or random_actions(groups.action_space, self.seed)))
            finally:
                groups.close()
        returns, lengths = (np.stack(column) for column in zip(*tables, strict=True))
        return returns, lengths

    def _play_group(self, groups: EngineGroups, k: int, policy: Policy) -> tuple[Floats, NDArray[np.int64]]:
        rows = len(groups.task)
        episode = np.arange(rows)
        returns, lengths = np.zeros(self.episodes), np.zeros(self.episodes, np.int64)
        first, ended = np.ones(rows, np.bool_), np.zeros(rows, np.bool_)
        obs, infos = groups.reset(derived_seed(self.seed, k))
        while (live := episode < self.episodes).any():
            infos = {**infos, "first": first, "live": live, "task_id": groups.task.copy()}
            obs, reward, terminated, truncated, infos = groups.step(np.asarray(policy(obs, infos)))
            acted = live & ~ended
            returns[episode[acted]] += reward[acted]
            lengths[episode[acted]] += 1
            first, ended = ended, terminated | truncated
            over = acted & (ended | self._too_long(lengths[np.minimum(episode, self.episodes - 1)]))
            episode = np.where(over, episode + rows, episode)
        return returns, lengths

    def _too_long(self, lengths: NDArray[np.int64]) -> BoolArray:
        return np.zeros(len(lengths), np.bool_) if self.max_steps is None else lengths >= self.max_steps


def random_actions(space: gymnasium.Space, seed: int) -> Policy:
    """Uniformly random actions of a space, the same for the same seed."""
    spaces: dict[int, gymnasium.Space] = {}

    def act(observations: Any, infos: Mapping[str, Any]) -> Any:
        rows = len(infos["first"])
        if rows not in spaces:
            spaces[rows] = batch_space(space, rows)
            spaces[rows].seed(seed)
        return spaces[rows].sample()

    return act
