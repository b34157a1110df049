"""What an agent can be trained on: pictures or vectors in, discrete actions out."""

from __future__ import annotations

from typing import Any

import numpy as np


def observation_shape(space: Any) -> tuple[tuple[int, ...], bool]:
    """Channel-first shape of a space's observations, and whether they come channel-last.

    Raises:
        ValueError: If the space is no box of pictures or vectors.
    """
    shape = getattr(space, "shape", None)
    if shape is None or len(shape) not in (1, 2, 3) or not hasattr(space, "low"):
        raise ValueError(f"the agent reads pictures or vectors (a Box of 1 to 3 dims), got {space}")
    if len(shape) == 3 and shape[-1] in (1, 3, 4) and shape[0] not in (1, 3, 4):
        return (shape[2], shape[0], shape[1]), True
    return tuple(shape), False


def channels_first(obs: np.ndarray, *, last: bool) -> np.ndarray:
    """A batch of observations as :func:`observation_shape` has them, contiguous.

    Args:
        obs: ``[B, ...]``.
        last: Whether its channels come last.
    """
    return np.ascontiguousarray(np.moveaxis(obs, -1, 1) if last else obs)


def discrete_actions(space: Any) -> int:
    """Number of actions.

    Raises:
        ValueError: If the space is not ``Discrete`` from 0.
    """
    if not hasattr(space, "n") or int(getattr(space, "start", 0)) != 0:
        raise ValueError(f"the agent chooses among discrete actions 0 .. A-1, got {space}")
    return int(space.n)
