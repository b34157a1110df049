"""Slots that play one task at a time: over single environments, or over one batch environment.

Legend: ``B`` slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.spaces import Discrete
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from envs._frame import BoolArray
from envs._threads import Partition
from envs.families.family import Task, TaskFamily
from envs.families.spaces import CommonSpaces


class Engines:
    """Open single environments, of which those not in use are kept, least recently used first to be closed.

    Args:
        tasks: The tasks that may be asked for.
        max_open: Most environments open at once, in use or not.
    """

    def __init__(self, tasks: Sequence[Task], max_open: int) -> None:
        self._tasks, self._max_open = tasks, max_open
        self._idle: list[tuple[Hashable, gymnasium.Env]] = []
        self._in_use = 0

    @property
    def num_open(self) -> int:
        """Environments open now."""
        return self._in_use + len(self._idle)

    def key(self, task: int) -> Hashable:
        """Tasks of equal keys share engines."""
        engine = self._tasks[task].engine
        return ("task", task) if engine is None else engine

    def take(self, task: int) -> gymnasium.Env:
        """An engine for the task: the idle one used last, or a new one.

        Raises:
            ValueError: If the task exists in batches only.
        """
        key, make = self.key(task), self._tasks[task].make
        for at in reversed(range(len(self._idle))):
            if self._idle[at][0] == key:
                self._in_use += 1
                return self._idle.pop(at)[1]
        if make is None:
            raise ValueError(
                f"task {self._tasks[task].name!r} has no single environment, only batches: use allocation='static'"
            )
        while self._idle and self.num_open >= self._max_open:
            self._idle.pop(0)[1].close()
        env = make()
        self._in_use += 1
        return env

    def give(self, task: int, env: gymnasium.Env) -> None:
        """Hands an engine back."""
        self._in_use -= 1
        self._idle.append((self.key(task), env))

    def common_spaces(self, family: TaskFamily) -> CommonSpaces:
        """Opens every distinct engine once, within ``max_open``, to see its spaces.

        Raises:
            ValueError: A task without a single environment; spaces that differ.
        """
        seen: dict[Hashable, tuple[gymnasium.Space, gymnasium.Space]] = {}
        with ExitStack() as on_error:
            on_error.callback(self.close)
            for k in range(len(self._tasks)):
                key = self.key(k)
                if key not in seen:
                    env = self.take(k)
                    seen[key] = (env.observation_space, env.action_space)
                    self.give(k, env)
            observations, actions = zip(*(seen[self.key(k)] for k in range(len(self._tasks))), strict=True)
            spaces = CommonSpaces(family, observations, actions)
            on_error.pop_all()
        return spaces

    def close(self) -> None:
        """Closes the idle ones."""
        while self._idle:
            self._idle.pop()[1].close()


class SlotPool(ABC):
    """``B`` slots; each plays the task it was told to begin, until its episode ends.

    What a slot got last stays until the slot is begun or stepped again.

    Attributes:
        num_slots: ``B``.
        observation_space: Of one slot.
        action_space: Of one slot.
        reward: ``[B]`` float64.
        terminated: ``[B]`` bool.
        truncated: ``[B]`` bool.
    """

    num_slots: int
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    reward: NDArray[np.float64]
    terminated: BoolArray
    truncated: BoolArray

    @property
    @abstractmethod
    def obs(self) -> Any:
        """The slots' observations, a batch of the observation space."""

    @property
    @abstractmethod
    def infos(self) -> dict[str, Any]:
        """The engines' infos, arrays ``[B, ...]`` with masks ``_key``."""

    @abstractmethod
    def begin(self, mask: BoolArray, tasks: NDArray[np.int64], seeds: NDArray[np.int64]) -> None:
        """Begins an episode of ``tasks[e]``, seeded with ``seeds[e]``, in every slot ``e`` of the mask."""

    @abstractmethod
    def step(self, actions: Any, mask: BoolArray) -> None:
        """Steps the slots of the mask; the others rest."""

    @abstractmethod
    def close(self) -> None:
        """Closes all engines."""


class EnginePool(SlotPool):
    """Slots over single environments.

    Args:
        family: The tasks. Each distinct engine is opened once to see its spaces.
        num_slots: ``B``.
        max_open: Most engines open at once, at least ``B``.
        num_threads: Threads that step fixed ranges of slots; pays for engines that release the GIL.

    Attributes:
        task: ``[B]``: task that each slot plays, -1 before the first.

    Raises:
        ValueError: ``max_open`` below ``B``; a task without a single environment; spaces of tasks that differ.
    """

    def __init__(self, family: TaskFamily, num_slots: int, *, max_open: int, num_threads: int = 1) -> None:
        if max_open < num_slots:
            raise ValueError(f"max_open must be at least the {num_slots} slots that play at once, got {max_open}")
        self.family, self.num_slots = family, num_slots
        self.engines = Engines(family.tasks, max_open)
        self.spaces = self.engines.common_spaces(family)
        self.observation_space, self.action_space = self.spaces.observation_space, self.spaces.action_space
        self.task = np.full(num_slots, -1, np.int64)
        self.reward = np.zeros(num_slots)
        self.terminated, self.truncated = np.zeros(num_slots, np.bool_), np.zeros(num_slots, np.bool_)
        self._infos: list[Mapping[str, Any]] = [{}] * num_slots
        self._env: list[gymnasium.Env | None] = [None] * num_slots
        blank = create_empty_array(self.observation_space, n=1, fn=np.zeros)
        self._observations: list[Any] = [next(iter(iterate(batch_space(self.observation_space, 1), blank)))] * num_slots
        self._threads = Partition(num_slots, num_threads, name="tasks")
        self._batched_actions = batch_space(self.action_space, num_slots)

    @property
    def obs(self) -> Any:
        """A new batch of the slots' last observations."""
        out: Any = create_empty_array(self.observation_space, n=self.num_slots, fn=np.zeros)
        return concatenate(self.observation_space, self._observations, out)

    @property
    def infos(self) -> dict[str, Any]:
        """See `SlotPool`."""
        return merged_infos(self._infos)

    def begin(self, mask: BoolArray, tasks: NDArray[np.int64], seeds: NDArray[np.int64]) -> None:
        """See `SlotPool`. Not threaded: engines open and close here."""
        rows = np.flatnonzero(mask)
        self._hand_back(rows)
        for e in rows.tolist():
            k = int(tasks[e])
            env, task = self.engines.take(k), self.family.tasks[k]
            self._env[e], self.task[e] = env, k
            self._begin_row(e, env, task, int(seeds[e]))
        self.reward[rows], self.terminated[rows], self.truncated[rows] = 0.0, False, False

    def step(self, actions: Any, mask: BoolArray) -> None:
        """See `SlotPool`."""
        each = checked_actions(self.action_space, self._batched_actions, actions, mask)
        self._threads.run(lambda lo, hi: self._step_rows(each, mask, lo, hi))

    def close(self) -> None:
        """See `SlotPool`."""
        self._hand_back(np.arange(self.num_slots))
        self.engines.close()
        self._threads.close()

    def _begin_row(self, e: int, env: gymnasium.Env, task: Task, seed: int) -> None:
        options = None if task.options is None else dict(task.options)
        observation, self._infos[e] = env.reset(seed=seed if task.seed is None else task.seed, options=options)
        self._observations[e] = self.spaces.observation(int(self.task[e]), observation)

    def _step_rows(self, actions: list[Any], mask: BoolArray, lo: int, hi: int) -> None:
        for e in range(lo, hi):
            if not mask[e]:
                continue
            env, k = self._env[e], int(self.task[e])
            if env is None:
                raise ResetNeeded(f"slot {e} has not begun an episode: call reset() first")
            observation, reward, self.terminated[e], self.truncated[e], self._infos[e] = env.step(
                self.spaces.action(k, actions[e])
            )
            self.reward[e] = float(reward)
            self._observations[e] = self.spaces.observation(k, observation)

    def _hand_back(self, rows: NDArray[np.int64]) -> None:
        for e in rows.tolist():
            env = self._env[e]
            if env is not None:
                self.engines.give(int(self.task[e]), env)
                self._env[e] = None


class BatchPool(SlotPool):
    """Slots that are the sub-environments of one batch environment, which plays every task by its reset options.

    Args:
        family: With `make_batch`.
        num_slots: ``B``.

    Raises:
        ValueError: If the family has no batch environment.
    """

    def __init__(self, family: TaskFamily, num_slots: int) -> None:
        if family.make_batch is None:
            raise ValueError("the family has no batch environment; use EnginePool")
        self.num_slots = num_slots
        self._env: Any = family.make_batch(num_slots)
        spaces = self._env.single_observation_space, self._env.single_action_space
        self.spaces = CommonSpaces(family, [spaces[0]] * len(family), [spaces[1]] * len(family))
        self.observation_space, self.action_space = self.spaces.observation_space, self.spaces.action_space
        keys = list(family.tasks[0].options or {})
        self._options = {key: np.array([(task.options or {})[key] for task in family.tasks]) for key in keys}
        self._task = np.zeros(num_slots, np.int64)
        self._ended = np.zeros(num_slots, np.bool_)
        self._obs: Any = None
        self._infos: dict[str, Any] = {}

    @property
    def obs(self) -> Any:
        """See `SlotPool`."""
        return self._obs

    @property
    def infos(self) -> dict[str, Any]:
        """See `SlotPool`."""
        return self._infos

    def begin(self, mask: BoolArray, tasks: NDArray[np.int64], seeds: NDArray[np.int64]) -> None:
        """See `SlotPool`; the first call must begin every slot."""
        self._task[mask] = tasks[mask]
        self._reset(mask, [int(seed) if chosen else None for seed, chosen in zip(seeds, mask, strict=True)])

    def step(self, actions: Any, mask: BoolArray) -> None:
        """See `SlotPool`; slots that rest are stepped too, for nothing."""
        if (stale := self._ended & ~mask).any():
            self._reset(stale, None)
        each = checked_actions(self.action_space, self._env.action_space, actions, mask)
        common = self.spaces.action(0, np.where(mask, each, 0))
        obs, self.reward, self.terminated, self.truncated, self._infos = self._env.step(common)
        self._obs = self.spaces.observation(0, obs)
        self._ended = self.terminated | self.truncated

    def close(self) -> None:
        """See `SlotPool`."""
        self._env.close()

    def _reset(self, mask: BoolArray, seed: list[int | None] | None) -> None:
        options = {key: values[self._task] for key, values in self._options.items()}
        obs, self._infos = self._env.reset(seed=seed, options={**options, "reset_mask": mask})
        self._obs = self.spaces.observation(0, obs)
        self._ended = self._ended & ~mask


def checked_actions(space: gymnasium.Space, batched: gymnasium.Space, actions: Any, mask: BoolArray) -> list[Any]:
    """The actions of a batch, one a slot; those outside the mask are not looked at.

    Args:
        space: Of one slot.
        batched: Of all.
        actions: ``[B, ...]``.
        mask: ``[B]``: slots whose action counts.

    Raises:
        gymnasium.error.InvalidAction: Not integers, another shape, or outside the space; names the first bad slot.
    """
    if not isinstance(space, Discrete):
        return list(iterate(batched, actions))
    given = np.asarray(actions)
    if given.dtype.kind not in "iu":
        raise InvalidAction(f"actions must be integers, got dtype {given.dtype}")
    if given.shape != mask.shape:
        raise InvalidAction(f"actions must have shape {mask.shape}, got {given.shape}")
    low, high = int(space.start), int(space.start + space.n) - 1
    if (bad := mask & ((given < low) | (given > high))).any():
        e = int(bad.argmax())
        raise InvalidAction(f"actions[{e}] must be in {low}..{high}, got {given[e]}")
    return given.tolist()


def merged_infos(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Infos of single environments as arrays ``[B, ...]`` with masks ``_key``; what is no number is kept as objects.

    Example:
        >>> merged_infos([{"lives": 3}, {}])
        {'lives': array([3, 0]), '_lives': array([ True, False])}
    """
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for info in infos for key in info):
        mask = np.array([key in info for info in infos])
        values = [np.asarray(info[key]) for info in infos if key in info]
        if all(value.dtype.kind in "biuf" and value.shape == values[0].shape for value in values):
            array = np.zeros((len(infos), *values[0].shape), np.result_type(*{value.dtype for value in values}))
            array[mask] = values
        else:
            array = np.full(len(infos), None, dtype=object)
            for e in np.flatnonzero(mask).tolist():
                array[e] = infos[e][key]
        merged[key], merged[f"_{key}"] = array, mask
    return merged
