"""Stacks of the newest frames.

Legend: ``B`` environments, ``S`` frames of the stack, ``H, W`` pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray


class FrameHistory:
    """The last ``S`` frames of a batch, in memory of its own.

    >>> history = FrameHistory(2)
    >>> history.begin(np.array([1, 2]).reshape(2, 1, 1, 1)).squeeze().tolist()
    [[1, 1], [2, 2]]
    >>> history.push(np.array([3, 4]).reshape(2, 1, 1, 1), np.array([False, True])).squeeze().tolist()
    [[1, 3], [4, 4]]

    Args:
        size: ``S``, at least 1.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._frames: list[NDArray] = []

    def begin(self, frame: NDArray) -> NDArray:
        """Fills the stack with the frames ``[B, 1, H, W]`` that begin an episode; returns it, ``[B, S, H, W]``."""
        self._frames = [frame.copy() for _ in range(self.size)]
        return self.stacked()

    def push(self, frame: NDArray, begins: NDArray[np.bool_]) -> NDArray:
        """Adds frames.

        Args:
            frame: ``[B, 1, H, W]``; it is kept.
            begins: ``[B]``: this frame begins an episode, so it fills the stack.

        Returns:
            The stack ``[B, S, H, W]``, the newest frame last.
        """
        self._frames = [*self._frames[1:], frame]
        if begins.any():
            for older in self._frames[:-1]:
                older[begins] = frame[begins]
        return self.stacked()

    def stacked(self) -> NDArray:
        """The stack ``[B, S, H, W]``, a copy."""
        return np.concatenate(self._frames, axis=1)

    def restore(self, stacked: NDArray) -> None:
        """Goes on from what `stacked` gave."""
        self._frames = np.split(stacked.copy(), self.size, axis=1)


class FrameStack(VectorWrapper):
    """Stacks the frames of an environment that shows one at a time, ``[B, 1, H, W]``, and autoresets at NEXT_STEP.

    Args:
        env: The environment.
        size: ``S``, at least 1.

    Raises:
        ValueError: Observations that are no single frames, or no frames to stack.
    """

    def __init__(self, env: VectorEnv, size: int) -> None:
        super().__init__(env)
        space = env.single_observation_space
        if not isinstance(space, Box) or len(space.shape) != 3 or space.shape[0] != 1 or size < 1:
            raise ValueError(f"cannot stack {size} observations of {space}; they must be frames [1, H, W]")
        self.single_observation_space = Box(
            low=np.repeat(space.low, size, axis=0), high=np.repeat(space.high, size, axis=0), dtype=space.dtype.type
        )
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._history = FrameHistory(size)
        self._ended = np.zeros(env.num_envs, np.bool_)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray, Any]:
        """Begins an episode everywhere; the arguments are the environment's."""
        frame, infos = self.env.reset(seed=seed, options=options)
        self._ended = np.zeros_like(self._ended)
        return self._history.begin(frame), infos

    def step(self, actions: Any) -> tuple[NDArray, NDArray, NDArray, NDArray, Any]:
        """Steps the environment."""
        frame, reward, terminated, truncated, infos = self.env.step(actions)
        obs = self._history.push(frame, self._ended)
        self._ended = terminated | truncated
        return obs, reward, terminated, truncated, infos
