"""EnvPool's C++ environments as vector environments that take seeds and give plain infos.

Legend: ``B`` environments.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ClosedEnvironmentError, DependencyNotInstalled, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.families.draws import derived_seed

Change = Callable[[Any], Any]


def has_envpool(env_id: str) -> bool:
    """EnvPool is installed and has the environment."""
    if importlib.util.find_spec("envpool") is None:
        return False
    import envpool

    return env_id in envpool.list_all_envs()


class EnvPoolBatch(VectorEnv):
    """``B`` environments of one EnvPool id, with NEXT_STEP autoreset.

    EnvPool fixes seeds when a pool is made, so ``reset(seed=)`` makes a new one.

    Args:
        env_id: EnvPool's name.
        num_envs: ``B``.
        settings: EnvPool's own settings.
        observation_space: Of one environment after `change`.
        change: Turns EnvPool's batch of observations into this space's; None leaves them.

    Raises:
        gymnasium.error.DependencyNotInstalled: EnvPool is missing.
        ValueError: EnvPool has no such environment.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        *,
        settings: Mapping[str, Any],
        observation_space: gymnasium.Space | None = None,
        change: Change | None = None,
    ) -> None:
        if importlib.util.find_spec("envpool") is None:
            raise DependencyNotInstalled(f"{env_id} needs EnvPool: pip install 'byol_ext[explore]' (Linux only)")
        if not has_envpool(env_id):
            raise ValueError(f"the installed EnvPool has no environment {env_id!r}")
        import envpool

        spec = envpool.make_spec(env_id, **settings)
        self.num_envs, self._id, self._settings = num_envs, env_id, dict(settings)
        self.single_observation_space = observation_space or spec.gymnasium_observation_space
        self.single_action_space = spec.gymnasium_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self._change = change
        self._pool: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode everywhere.

        Args:
            seed: Seeds all environments, each differently; None goes on, or at first takes a seed from the system.
            options: None or empty.

        Raises:
            gymnasium.error.ClosedEnvironmentError: After `close`.
            ValueError: Options.
        """
        import envpool

        if self.closed:
            raise ClosedEnvironmentError(f"this pool of {self._id} was closed; make a new one")
        if options:
            raise ValueError(f"EnvPool has no reset options, got {sorted(options)}")
        if self._pool is None or seed is not None:
            super().reset(seed=seed)
            seeds = [derived_seed(int(self.np_random_seed or 0), e) for e in range(self.num_envs)]
            self._end_pool()
            self._pool = envpool.make_gymnasium(self._id, num_envs=self.num_envs, seed=seeds, **self._settings)
        obs, infos = self._pool.reset()
        return self._observation(obs), _plain(infos, self.num_envs)

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Steps all environments; where the last step ended an episode, the next one begins.

        Raises:
            gymnasium.error.ResetNeeded: Before the first reset and after `close`.
        """
        if self._pool is None:
            raise ResetNeeded("call reset() before step()")
        obs, reward, terminated, truncated, infos = self._pool.step(np.asarray(actions))
        return self._observation(obs), reward.astype(np.float64), terminated, truncated, _plain(infos, self.num_envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the pool's threads."""
        self._end_pool()

    def _observation(self, obs: Any) -> Any:
        return obs if self._change is None else self._change(obs)

    def _end_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def _plain(infos: Mapping[str, Any], num_envs: int) -> dict[str, Any]:
    """The infos that have one row an environment."""
    return {key: value for key, value in infos.items() if isinstance(value, np.ndarray) and len(value) == num_envs}
