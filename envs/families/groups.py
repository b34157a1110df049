"""One vector environment a task, side by side, for engines that cannot switch tasks.

Legend: ``B`` sub-environments of all groups, ``K`` tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs._threads import Partition
from envs.families.draws import derived_seed
from envs.families.family import Task, TaskFamily
from envs.families.pools import checked_actions
from envs.families.spaces import CommonSpaces


class EngineGroups:
    """Vector environments of the tasks that have slots, stepped together; rows are in the order of the tasks.

    Args:
        family: Tasks with `Task.make_many` wherever there are slots.
        slots: ``[K]``: sub-environments of each task.
        num_threads: Threads that step fixed ranges of groups, for engines that release the GIL.

    Attributes:
        task: ``[B]``: task of each row.
        observation_space: Of one sub-environment.
        action_space: Of one sub-environment.

    Raises:
        ValueError: Spaces that differ, or an engine that does not auto-reset on the next step.
    """

    def __init__(self, family: TaskFamily, slots: NDArray[np.int64], *, num_threads: int = 1) -> None:
        self._played = np.flatnonzero(slots).tolist()
        self._envs: list[VectorEnv] = []
        with ExitStack() as on_error:
            for k in self._played:
                self._envs.append(_opened(family.tasks[k], int(slots[k])))
                on_error.callback(self._envs[-1].close)
            self.spaces = self._common_spaces(family)
            on_error.pop_all()
        self.task = np.repeat(np.arange(len(slots)), slots)
        bounds = np.concatenate([[0], np.cumsum(slots[self._played])]).tolist()
        self._rows = [slice(lo, hi) for lo, hi in pairwise(bounds)]
        self.observation_space, self.action_space = self.spaces.observation_space, self.spaces.action_space
        self._batched_actions = batch_space(self.action_space, len(self.task))
        self._threads = Partition(len(self._envs), num_threads, name="tasks")

    def reset(self, seed: int | None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode in every row.

        Args:
            seed: Seeds the engines, each differently; None goes on with their streams.

        Returns:
            Observations, and infos of the engines, ``[B, ...]``.
        """
        seeds = [None if seed is None else derived_seed(seed, k) for k in self._played]
        results = [env.reset(seed=one) for env, one in zip(self._envs, seeds, strict=True)]
        return self._joined([obs for obs, _ in results]), self._infos([infos for _, infos in results])

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Steps every row.

        Raises:
            gymnasium.error.InvalidAction: See `checked_actions`.
        """
        each = np.asarray(checked_actions(self.action_space, self._batched_actions, actions, self.task >= 0))
        results: list[Any] = [None] * len(self._envs)

        def step_groups(lo: int, hi: int) -> None:
            for g in range(lo, hi):
                results[g] = self._envs[g].step(self.spaces.action(self._played[g], each[self._rows[g]]))

        self._threads.run(step_groups)
        obs, reward, terminated, truncated, infos = zip(*results, strict=True)
        scalars = [np.concatenate(parts) for parts in (reward, terminated, truncated)]
        rewards, ends = scalars[0].astype(np.float64), [part.astype(np.bool_) for part in scalars[1:]]
        return self._joined(list(obs)), rewards, ends[0], ends[1], self._infos(list(infos))

    def close(self) -> None:
        """Closes all engines."""
        for env in self._envs:
            env.close()
        self._threads.close()

    def _common_spaces(self, family: TaskFamily) -> CommonSpaces:
        """Of the whole family, so that they do not depend on which tasks have slots."""
        observations, actions = [], []
        playing = dict(zip(self._played, self._envs, strict=True))
        for k, task in enumerate(family.tasks):
            env = playing.get(k)
            if env is None:
                env = _opened(task, 1)
                env.close()
            observations.append(env.single_observation_space)
            actions.append(env.single_action_space)
        return CommonSpaces(family, observations, actions)

    def _joined(self, parts: list[Any]) -> Any:
        adapted = [self.spaces.observation(k, part) for k, part in zip(self._played, parts, strict=True)]
        if isinstance(adapted[0], Mapping):
            return {key: np.concatenate([part[key] for part in adapted]) for key in adapted[0]}
        return np.concatenate(adapted)

    def _infos(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """The groups' arrays side by side with masks; what is no array ``[rows, ...]`` of equal shape is left out."""
        merged: dict[str, Any] = {}
        for key in dict.fromkeys(key for part in parts for key in part if not key.startswith("_")):
            arrays = [part.get(key) for part in parts]
            shapes = {array.shape[1:] for array in arrays if isinstance(array, np.ndarray)}
            if len(shapes) != 1 or any(a is not None and not isinstance(a, np.ndarray) for a in arrays):
                continue
            dtype = np.result_type(*{array.dtype for array in arrays if array is not None})
            merged[key] = np.zeros((len(self.task), *shapes.pop()), dtype)
            merged[f"_{key}"] = np.zeros(len(self.task), np.bool_)
            for part, array, rows in zip(parts, arrays, self._rows, strict=True):
                if array is not None and len(array) == rows.stop - rows.start:
                    merged[key][rows] = array
                    merged[f"_{key}"][rows] = part.get(f"_{key}", True)
        return merged


def _opened(task: Task, num_envs: int) -> VectorEnv:
    """The task's vector environment, checked."""
    if task.make_many is None:
        raise ValueError(f"task {task.name!r} has no vector environment, but others have")
    env = task.make_many(num_envs)
    if env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP) is not AutoresetMode.NEXT_STEP:
        env.close()
        raise ValueError(f"task {task.name!r}: its vector environment must auto-reset by NEXT_STEP")
    return env
