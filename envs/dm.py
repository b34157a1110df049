"""The dm_env view of a Gymnasium environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gymnasium
from gymnasium.error import DependencyNotInstalled

if TYPE_CHECKING:
    import dm_env


def to_dm_env(env: gymnasium.Env, *, seed: int | None = None) -> dm_env.Environment:
    """Shows a single Gymnasium environment as a `dm_env.Environment`.

    `step` begins an episode (FIRST, no reward, no discount) at the first call and after a LAST one. A terminated
    episode ends with discount 0, a truncated one with discount 1. The info of the last call is in ``.info``, the
    environment in ``.env``.

    Args:
        env: Spaces are ``Box``, ``Discrete``, ``MultiBinary`` or ``MultiDiscrete``, or ``Dict`` and ``Tuple`` of them.
        seed: Of the first episode; None leaves it to the environment.

    Raises:
        gymnasium.error.DependencyNotInstalled: dm_env is missing.
        ValueError: A space of another kind.

    Example:
        >>> import envs
        >>> view = to_dm_env(gymnasium.make("CartPole-v1"), seed=0)
        >>> view.reset().step_type.name, view.step(1).step_type.name
        ('FIRST', 'MID')
    """
    try:
        from envs._dm_view import DmEnv
    except ModuleNotFoundError as error:
        if error.name not in ("dm_env", "tree"):
            raise
        raise DependencyNotInstalled("to_dm_env needs dm_env: pip install dm-env") from error
    return DmEnv(env, seed=seed)
