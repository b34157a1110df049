"""A vector environment of one as a single environment, for engines that only come in batches."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv


class RowEnv(gymnasium.Env):
    """The only sub-environment of a vector environment whose `reset` takes a seed.

    Args:
        batch: A vector environment of one.
    """

    def __init__(self, batch: VectorEnv) -> None:
        self.batch = batch
        self.observation_space, self.action_space = batch.single_observation_space, batch.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; options are the vector environment's."""
        super().reset(seed=seed)
        obs, infos = self.batch.reset(seed=seed, options=options)
        return _row(obs), self._info(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step."""
        obs, reward, terminated, truncated, infos = self.batch.step(np.array([action]))
        return _row(obs), float(reward[0]), bool(terminated[0]), bool(truncated[0]), self._info(infos)

    def close(self) -> None:
        """Closes the vector environment."""
        self.batch.close()

    def _info(self, infos: dict[str, Any]) -> dict[str, Any]:
        row = {key: value[0] for key, value in infos.items() if isinstance(value, np.ndarray)}
        return {key: value for key, value in row.items() if not key.startswith("_") and row.get(f"_{key}", True)}


def _row(obs: Any) -> Any:
    return {key: value[0] for key, value in obs.items()} if isinstance(obs, dict) else obs[0]
