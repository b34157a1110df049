"""A single Gymnasium environment over a batch of one, so that dynamics are written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import InvalidAction

from envs._vector import BatchVectorEnv

_ROW = 0


class SingleEnv(gymnasium.Env):
    """Row 0 of a batch environment as a `gymnasium.Env`; subclasses choose the batch environment.

    ``reset(seed=s)`` starts the stream of sub-environment 0 of the batch environment seeded with ``s``. Observations
    and infos are copies; infos are numbers where the batch has arrays ``[B]``.

    Args:
        batch: One sub-environment, in DISABLED autoreset mode, with ``copy=False``.
    """

    def __init__(self, batch: BatchVectorEnv) -> None:
        self.batch = batch
        self.observation_space = batch.single_observation_space
        self.action_space = batch.single_action_space
        self.metadata = {k: v for k, v in batch.metadata.items() if k != "autoreset_mode"}
        self.render_mode = batch.render_mode
        self._actions, self._actions_n = np.zeros(1, np.int64), int(batch.single_action_space.n)
        self._begun = False
        self._keys: list[tuple[str, str, bool]] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode.

        Args:
            seed: Starts the random stream anew; None goes on with the stream's next episode.
            options: Those of the batch environment.

        Raises:
            gymnasium.error.ClosedEnvironmentError: After `close`.
            ValueError: Unknown options.
        """
        super().reset(seed=seed)
        if seed is None and not self._begun:
            seed = self.np_random_seed
        _, infos = self.batch.reset(seed=seed, options=options)
        self._begun = True
        return self.batch.frame.row(_ROW), self._info(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step.

        Raises:
            gymnasium.error.ClosedEnvironmentError: After `close`.
            gymnasium.error.ResetNeeded: Before the first reset and after the end of an episode.
            gymnasium.error.InvalidAction: No integer, or outside the action space.
        """
        if not isinstance(action, int | np.integer) and (np.shape(action) or np.asarray(action).dtype.kind not in "iu"):
            raise InvalidAction(f"action must be an integer, got {action!r}")
        if not 0 <= action < self._actions_n:
            raise InvalidAction(f"action must be in 0..{self._actions_n - 1}, got {action}")
        self._actions[_ROW] = action
        _, reward, terminated, truncated, infos = self.batch.step(self._actions)
        observation = self.batch.frame.row(_ROW)
        return observation, float(reward[_ROW]), bool(terminated[_ROW]), bool(truncated[_ROW]), self._info(infos)

    def render(self) -> Any:
        """The current state as ``render_mode`` asks, or None without one."""
        frames = self.batch.render()
        return None if frames is None else frames[_ROW]

    def state(self) -> dict[str, Any]:
        """An exact snapshot, random stream included."""
        return self.batch.state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to a snapshot; raises ValueError if it is not one of this environment."""
        self.batch.set_state(state)
        self._begun = True

    def close(self) -> None:
        """Further calls raise ClosedEnvironmentError; closing twice is fine."""
        self.batch.close()

    def _info(self, infos: dict[str, Any]) -> dict[str, Any]:
        """The infos of the one row, but for those whose mask is false."""
        if self._keys is None:
            pairs = [(key, f"_{key}") for key in infos if f"_{key}" in infos]
            self._keys = [(key, mask, infos[key].ndim == 1) for key, mask in pairs]
        info = {}
        for key, mask, scalar in self._keys:
            if infos[mask].item(_ROW):
                value = infos[key]
                info[key] = value.item(_ROW) if scalar else value[_ROW].copy()
        return info
