"""What a task is, and families of tasks with their law's defaults."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv

from envs.families.law import Rare, TaskLaw

EnvMaker = Callable[[], gymnasium.Env]


@dataclass(frozen=True)
class Task:
    """One task: an environment that plays it, and how to ask that environment for it.

    Attributes:
        name: For messages and tables.
        make: Opens an environment (engine) that can play the task; None if the engine only exists in batches.
        engine: Tasks with equal keys can be played by the same open engine; None means an engine of its own.
        options: Reset options that choose the task.
        seed: Seed of every reset, where the seed *is* the task (a generated level); None for a fresh one each episode.
        noop: The action that padded actions stand for.
        make_many: Opens a vector environment of so many sub-environments that plays nothing else, resets itself on the
            step after an end (NEXT_STEP) and takes ``reset(seed=)``. Used by static allocation; None falls back on
            `make`.
    """

    name: str
    make: EnvMaker | None = None
    engine: Hashable = None
    options: Mapping[str, Any] | None = None
    seed: int | None = None
    noop: int = 0
    make_many: Callable[[int], VectorEnv] | None = None


TaskLike = Task | str | tuple[str, Mapping[str, Any]] | EnvMaker


@dataclass(frozen=True)
class TaskFamily:
    """Tasks in the order of their ranks (first the most frequent), and how observations and actions are made equal.

    Attributes:
        tasks: The tasks.
        factors: Their factors where they are all combinations of several, the last one fastest; empty means one factor.
        exponent: Of the Zipf law, unless another is asked for.
        rare: Share or count of rare items, unless another is asked for.
        make_batch: Opens one vector environment of so many sub-environments, in DISABLED autoreset mode, that plays all
            the tasks by their reset options, stacked ``[B, ...]``; None if there is none.
        pad_actions: Extend the action spaces to the largest; the extra actions do what ``Task.noop`` does.
        resize: Height and width that uint8 pictures are shrunk to by averaging areas; None leaves them.
        grayscale: Turn colour pictures to luminance with one channel.

    Raises:
        ValueError: No tasks, or factors whose product is not their number.
    """

    tasks: tuple[Task, ...]
    factors: tuple[int, ...] = ()
    exponent: float = 1.0
    rare: Rare = 0.2
    make_batch: Callable[[int], VectorEnv] | None = None
    pad_actions: bool = False
    resize: tuple[int, int] | None = None
    grayscale: bool = False

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("a family needs at least one task, got none")
        if not self.factors:
            object.__setattr__(self, "factors", (len(self.tasks),))
        combinations = math.prod(self.factors)
        if combinations != len(self.tasks):
            raise ValueError(f"factors {self.factors} make {combinations} tasks, got {len(self.tasks)} tasks")
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise ValueError(f"resize must be a positive height and width, got {self.resize}")

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names."""
        return tuple(task.name for task in self.tasks)

    def law(self, *, exponent: float | None = None, rare: Rare | None = None, rank_seed: int | None = None) -> TaskLaw:
        """The law over the tasks; None takes the family's own value. Raises ValueError on values out of range."""
        return TaskLaw(
            self.factors,
            exponent=self.exponent if exponent is None else exponent,
            rare=self.rare if rare is None else rare,
            rank_seed=rank_seed,
        )


def task_family(tasks: TaskFamily | Sequence[TaskLike], *, factors: Sequence[int] = ()) -> TaskFamily:
    """A family of what names environments.

    Args:
        tasks: Ids, (id, keyword arguments), functions that open an environment, or `Task`; in the order of their ranks.
            A family is returned as it is.
        factors: See `TaskFamily`.

    Raises:
        TypeError: Something else.
        ValueError: No tasks, or factors that do not fit.

    Example:
        >>> task_family(["CartPole-v1", ("Acrobot-v1", {"max_episode_steps": 100})]).names
        ('CartPole-v1', 'Acrobot-v1(max_episode_steps=100)')
    """
    if isinstance(tasks, TaskFamily):
        return replace(tasks, factors=tuple(factors)) if factors else tasks
    if isinstance(tasks, str) or not isinstance(tasks, Sequence):
        raise TypeError(f"tasks must be a sequence of ids, (id, kwargs), functions or Task, got {tasks!r}")
    return TaskFamily(tuple(_task(given, k) for k, given in enumerate(tasks)), tuple(factors))


def option_tasks(
    env: str | tuple[str, Mapping[str, Any]] | EnvMaker,
    options: Sequence[Mapping[str, Any]],
    *,
    names: Sequence[str] | None = None,
    factors: Sequence[int] = (),
    batched: bool = False,
) -> TaskFamily:
    """The family of one environment's reset options: one engine plays every task.

    Args:
        env: Id, (id, keyword arguments), or a function that opens the environment.
        options: Reset options of each task.
        names: Of the tasks; by default their options.
        factors: See `TaskFamily`.
        batched: ``env`` is an id (with arguments) whose vector environment is a `BatchVectorEnv` that takes these
            options stacked ``[B, ...]``, so that `evaluate_matched` can step many tasks at once.

    Raises:
        ValueError: As `TaskFamily`; another number of names than of options; ``batched`` without an id.

    Example:
        >>> option_tasks("byol_ext/ZipfGridworld-v0", [{"task": (0, 0)}, {"task": (0, 1)}], batched=True).names
        ('task=(0, 0)', 'task=(0, 1)')
    """
    if batched and callable(env):
        raise ValueError("batched=True needs the id of a registered environment, got a function")
    one = _task(env, 0)
    named = [", ".join(f"{key}={value}" for key, value in each.items()) for each in options] if names is None else names
    tasks = tuple(replace(one, name=name, options=dict(each)) for name, each in zip(named, options, strict=True))
    make_batch = None
    if batched and not callable(env):
        env_id, kwargs = (env, {}) if isinstance(env, str) else env
        make_batch = partial(_make_batch, env_id, dict(kwargs))
    return TaskFamily(tasks, tuple(factors), make_batch=make_batch)


def adapted(family: TaskFamily, *, pad_actions: bool, resize: tuple[int, int] | None, grayscale: bool) -> TaskFamily:
    """The family with these on top of what it asks for itself."""
    return replace(
        family,
        pad_actions=pad_actions or family.pad_actions,
        resize=resize or family.resize,
        grayscale=grayscale or family.grayscale,
    )


def _task(given: Any, index: int) -> Task:
    if isinstance(given, Task):
        return given
    if isinstance(given, str):
        given = (given, {})
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], Mapping):
        env_id, kwargs = given
        settings = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        make = partial(gymnasium.make, env_id, disable_env_checker=True, **kwargs)
        return Task(f"{env_id}({settings})" if settings else env_id, make, engine=(env_id, settings))
    if callable(given):
        return Task(getattr(given, "__name__", f"task {index}"), given, engine=given)
    raise TypeError(f"task {index} must be an id, (id, kwargs), a function or a Task, got {given!r}")


def _make_batch(env_id: str, kwargs: Mapping[str, Any], num_envs: int) -> VectorEnv:
    return gymnasium.make_vec(
        env_id,
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.DISABLED,
        **kwargs,
    )
