"""The class behind `envs.to_dm_env`; needs dm_env."""

from __future__ import annotations

from typing import Any

import dm_env
import gymnasium
import numpy as np
from dm_env import specs
from gymnasium import spaces


class DmEnv(dm_env.Environment):
    """See `envs.dm.to_dm_env`."""

    def __init__(self, env: gymnasium.Env, *, seed: int | None) -> None:
        self.env, self.info = env, dict[str, Any]()
        self._seed = seed
        self._over = True
        self._observation_spec = _spec(env.observation_space, "observation")
        self._action_spec = _spec(env.action_space, "action")

    def reset(self) -> dm_env.TimeStep:
        """Begins an episode."""
        observation, self.info = self.env.reset(seed=self._seed)
        self._seed, self._over = None, False
        return dm_env.restart(observation)

    def step(self, action: Any) -> dm_env.TimeStep:
        """One step; begins an episode, without looking at the action, if none is under way."""
        if self._over:
            return self.reset()
        observation, reward, terminated, truncated, self.info = self.env.step(action)
        self._over = terminated or truncated
        if terminated:
            return dm_env.termination(float(reward), observation)
        if truncated:
            return dm_env.truncation(float(reward), observation, discount=1.0)
        return dm_env.transition(float(reward), observation)

    def observation_spec(self) -> Any:
        """What the environment's observations are like."""
        return self._observation_spec

    def action_spec(self) -> Any:
        """What its actions are like."""
        return self._action_spec

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()


def _spec(space: gymnasium.Space, name: str) -> Any:
    match space:
        case spaces.Dict():
            return {key: _spec(inner, key) for key, inner in space.spaces.items()}
        case spaces.Tuple():
            return tuple(_spec(inner, f"{name}_{i}") for i, inner in enumerate(space.spaces))
        case spaces.Box():
            return specs.BoundedArray(space.shape, space.dtype, space.low, space.high, name)
        case spaces.Discrete(start=0):
            return specs.DiscreteArray(int(space.n), dtype=np.int64, name=name)
        case spaces.Discrete():
            return specs.BoundedArray((), np.int64, int(space.start), int(space.start + space.n - 1), name)
        case spaces.MultiBinary():
            return specs.BoundedArray(space.shape, space.dtype, 0, 1, name)
        case spaces.MultiDiscrete():
            return specs.BoundedArray(space.shape, space.dtype, space.start, space.start + space.nvec - 1, name)
    raise ValueError(f"no dm_env spec for the {name} space {space}")
