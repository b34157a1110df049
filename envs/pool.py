"""Other people's environments as a vector environment that checks what they return.

Legend: ``B`` environments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from envs._coverage import picture_cells
from envs._rng import row_seeds

Infos = dict[str, NDArray]


class CheckedPool(VectorEnv):
    """Steps single environments one after another, with NEXT_STEP autoreset.

    Their own infos are dropped, since their keys come and go. Where observations are pictures, the infos are ``cell``
    ``[B]`` int64 (`envs._coverage.picture_cells`) and its mask ``_cell``; otherwise there are none.

    Args:
        envs: ``B`` environments with ``Box`` observations and ``Discrete`` actions from 0, spaces alike.
        name: What errors call them.

    Raises:
        ValueError: No environments, or spaces that differ.

    Example:
        >>> pool = CheckedPool([gymnasium.make("CartPole-v1") for _ in range(2)], name="CartPole-v1")
        >>> obs, infos = pool.reset(seed=0)
        >>> obs, reward, terminated, truncated, infos = pool.step([0, 1])
        >>> obs.shape, reward.tolist()
        ((2, 4), [1.0, 1.0])
        >>> pool.close()
    """

    single_action_space: gymnasium.spaces.Discrete
    single_observation_space: gymnasium.spaces.Box

    def __init__(self, envs: Sequence[gymnasium.Env], *, name: str) -> None:
        if not envs:
            raise ValueError("a pool needs at least one environment")
        first = envs[0]
        for env in envs:
            if (env.observation_space, env.action_space) != (first.observation_space, first.action_space):
                raise ValueError(f"{name}: the spaces of the environments differ")
        if not isinstance(first.observation_space, gymnasium.spaces.Box):
            raise ValueError(f"{name}: observations must be arrays (Box), got {first.observation_space}")
        if not isinstance(first.action_space, gymnasium.spaces.Discrete):
            raise ValueError(f"{name}: actions must be Discrete, got {first.action_space}")
        self.envs, self.name, self.num_envs = list(envs), name, len(envs)
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        self.observation_space = batch_space(first.observation_space, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = first.render_mode
        self._pictures = len(first.observation_space.shape) == 3 and first.observation_space.dtype == np.uint8
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._steps, self._begun = 0, False

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray, Infos]:
        """Begins an episode everywhere.

        Args:
            seed: Keys environment ``e`` with ``(seed, e)``, or with ``(seed[e], 0)`` of one seed each; None goes on
                with the random numbers.
            options: Handed to every environment.

        Raises:
            RuntimeError: An environment crashed.
            ClosedEnvironmentError: Use after `close`.
        """
        self._check_open()
        seeds = [None] * self.num_envs if seed is None else row_seeds(seed, self.num_envs)
        super().reset(seed=seeds[0])
        obs = self._empty()
        for e in range(self.num_envs):
            self._begin(obs, e, seeds[e], options)
        self._ended = np.zeros_like(self._ended)
        self._steps, self._begun = 0, True
        return obs, self._infos(obs)

    def step(self, actions: ArrayLike) -> tuple[NDArray, NDArray, NDArray, NDArray, Infos]:
        """One step of every environment; where the last one ended an episode, the next one begins.

        Args:
            actions: ``[B]`` integers; not looked at where an episode begins.

        Returns:
            Observations, rewards ``[B]`` float64, ``terminated``, ``truncated`` and infos.

        Raises:
            InvalidAction: Actions of another shape or type.
            RuntimeError: An environment crashed, or its reward is NaN or infinite: names it, its index and the step.
            ResetNeeded: Step before reset.
            ClosedEnvironmentError: Use after `close`.
        """
        self._check_open()
        if not self._begun:
            raise ResetNeeded("call reset() before step()")
        given = np.asarray(actions)
        if given.dtype.kind not in "iu" or given.shape != (self.num_envs,):
            raise InvalidAction(
                f"actions must be integers of shape ({self.num_envs},), got {given.dtype} of shape {given.shape}"
            )
        self._steps += 1
        obs, reward = self._empty(), np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        for e in range(self.num_envs):
            if self._ended[e]:
                self._begin(obs, e, None, None)
                continue
            try:
                obs[e], reward[e], terminated[e], truncated[e], _ = self.envs[e].step(given[e])
            except Exception as error:
                raise self._crash(e, "step") from error
            if not math.isfinite(reward[e]):
                raise RuntimeError(
                    f"{self.name}: environment {e} gave the reward {reward[e]} at step {self._steps} of the pool; "
                    "rewards must be finite"
                )
        self._ended = terminated | truncated
        return obs, reward, terminated, truncated, self._infos(obs)

    def render(self) -> tuple[Any, ...]:
        """What each environment draws, by the ``render_mode`` that it was made with."""
        return tuple(env.render() for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments; `close` calls it once."""
        for env in self.envs:
            env.close()

    def _begin(self, obs: NDArray, e: int, seed: int | None, options: dict[str, Any] | None) -> None:
        try:
            obs[e], _ = self.envs[e].reset(seed=seed, options=options)
        except Exception as error:
            raise self._crash(e, "reset") from error

    def _crash(self, e: int, call: str) -> RuntimeError:
        return RuntimeError(f"{self.name}: environment {e} crashed in {call}() at step {self._steps} of the pool")

    def _empty(self) -> NDArray:
        return np.empty((self.num_envs, *self.single_observation_space.shape), self.single_observation_space.dtype)

    def _infos(self, obs: NDArray) -> Infos:
        if not self._pictures:
            return {}
        return {"cell": picture_cells(obs), "_cell": np.ones(self.num_envs, np.bool_)}

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"this pool of {self.name} was closed; make a new one")
