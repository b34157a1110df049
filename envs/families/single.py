"""The single environment of `envs.tasks`.

Legend: ``F`` factors of a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded

from envs.families.draws import EpisodeDraws
from envs.families.family import TaskFamily, TaskLike, adapted, task_family
from envs.families.law import Rare, checked_options
from envs.families.pools import Engines
from envs.zipf.law import SPLITS, Split, check_choice, cumulative

IDLE_ENGINES = 16


class ZipfTasks(gymnasium.Env):
    """A different task each episode, drawn by a Zipf law.

    Every episode resets its engine with a seed of its own, so ``reset(seed=s)`` repeats a whole run: tasks and episodes
    are those of sub-environment 0 of a `ZipfTasksVector` seeded with ``s``.

    Infos are the engine's and, at every reset and step, ``task_id`` (position in ``family.tasks``), ``ranks`` ``[F]``
    (0 the most frequent), ``task_prob`` under the split in use, ``is_rare`` and ``importance_weight`` (1 here).

    Options of `reset`: ``task`` (a number, or one a factor) for this episode, which then draws nothing; ``split``, from
    now on.

    Args:
        tasks: Ids, (id, keyword arguments), functions that open an environment, `Task`, or a `TaskFamily`; the first
            has rank 1.
        split: ``zipf``, ``uniform`` or ``rare``.
        exponent: Of the Zipf law; None is the family's, 1 unless it says otherwise.
        rare: Share or count of rare tasks, or one a factor; None is the family's, 0.2 unless it says otherwise.
        rank_seed: Permutes which task has which rank; None keeps the order given.
        factors: Where the tasks are all combinations of several factors: their sizes, the last one fastest. The law is
            then a product, and a task is rare if all its parts are.
        max_open: Most engines open at once; the one used least recently is closed.
        pad_actions: Extend all action spaces to the largest; see `TaskFamily`.
        resize: Height and width of all pictures; see `TaskFamily`.
        grayscale: Turn pictures to luminance; see `TaskFamily`.

    Raises:
        ValueError: Any value out of range or unknown name; spaces of two tasks that differ.
    """

    def __init__(
        self,
        tasks: TaskFamily | Sequence[TaskLike],
        *,
        split: Split = "zipf",
        exponent: float | None = None,
        rare: Rare | None = None,
        rank_seed: int | None = None,
        factors: Sequence[int] = (),
        max_open: int = IDLE_ENGINES,
        pad_actions: bool = False,
        resize: tuple[int, int] | None = None,
        grayscale: bool = False,
    ) -> None:
        check_choice("split", split, SPLITS)
        if max_open < 1:
            raise ValueError(f"max_open must be at least 1, got {max_open}")
        family = task_family(tasks, factors=factors)
        self.family = adapted(family, pad_actions=pad_actions, resize=resize, grayscale=grayscale)
        self.law = self.family.law(exponent=exponent, rare=rare, rank_seed=rank_seed)
        self._set_split(split)
        self._engines = Engines(self.family.tasks, max_open)
        self._spaces = self._engines.common_spaces(self.family)
        self.observation_space, self.action_space = self._spaces.observation_space, self._spaces.action_space
        self._draws = EpisodeDraws(1)
        self._task = 0
        self._env: gymnasium.Env | None = None
        self._ended = True
        self._closed = False

    @property
    def num_open(self) -> int:
        """Engines open now."""
        return self._engines.num_open

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draws a task and begins an episode of it.

        Args:
            seed: Starts the random stream anew; None goes on with the next episode.
            options: See the class.

        Raises:
            gymnasium.error.ClosedEnvironmentError: After `close`.
            ValueError: An unknown option or split, or a task out of range.
        """
        self._check_open()
        split, forced = checked_options(options, self.split, self.law, num_envs=None)
        if split != self.split:
            self._set_split(split)
        super().reset(seed=seed)
        if seed is not None or not self._draws.seeded:
            self._draws.seed(int(self.np_random_seed or 0))
        tasks, seeds = self._draws.draw(np.ones(1, np.bool_), self._table)
        if self._env is not None:
            self._engines.give(self._task, self._env)
            self._env = None
        self._task = int(tasks[0] if forced is None else forced[0])
        task = self.family.tasks[self._task]
        self._env = self._engines.take(self._task)
        options = None if task.options is None else dict(task.options)
        obs, info = self._env.reset(seed=int(seeds[0]) if task.seed is None else task.seed, options=options)
        self._ended = False
        return self._spaces.observation(self._task, obs), {**info, **self._info()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of the engine.

        Raises:
            gymnasium.error.ClosedEnvironmentError: After `close`.
            gymnasium.error.ResetNeeded: Before the first reset and after the end of an episode.
            gymnasium.error.InvalidAction: Outside the action space.
        """
        self._check_open()
        if self._env is None or self._ended:
            raise ResetNeeded("no episode is running: call reset()")
        if not self.action_space.contains(action):
            raise InvalidAction(f"action must be in {self.action_space}, got {action!r}")
        obs, reward, terminated, truncated, info = self._env.step(self._spaces.action(self._task, action))
        self._ended = bool(terminated or truncated)
        common = self._spaces.observation(self._task, obs)
        return common, float(reward), bool(terminated), bool(truncated), {**info, **self._info()}

    def render(self) -> Any:
        """What the engine renders: give its id's keyword arguments a ``render_mode``."""
        self._check_open()
        if self._env is None:
            raise ResetNeeded("no episode is running: call reset()")
        return self._env.render()

    def close(self) -> None:
        """Closes all engines; further calls raise ClosedEnvironmentError, closing twice is fine."""
        if self._env is not None:
            self._engines.give(self._task, self._env)
            self._env = None
        self._engines.close()
        self._closed = True

    def _info(self) -> dict[str, Any]:
        return {
            "task_id": self._task,
            "ranks": self.law.ranks[self._task].copy(),
            "task_prob": float(self._probability[self._task]),
            "is_rare": bool(self.law.is_rare[self._task]),
            "importance_weight": 1.0,
        }

    def _set_split(self, split: Split) -> None:
        self.split: Split = split
        self._probability = self.law.probabilities(split)
        self._table = cumulative(self._probability)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedEnvironmentError("ZipfTasks was closed; make a new one")
