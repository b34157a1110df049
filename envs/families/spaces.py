"""Bringing tasks to one observation and one action space, and saying which two do not agree.

Legend: ``H, W`` height and width, ``C`` channels, fewer than H and W; pictures may be ``(H, W, C)``, ``(C, H, W)`` or
``(H, W)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from numpy.typing import NDArray

from envs._resize import AreaResize
from envs.families.family import TaskFamily

_LUMINANCE = np.array([0.2125, 0.7154, 0.0721], dtype=np.float32)
"""Weights of red, green and blue, those of Gymnasium's wrapper (ITU-R BT.709)."""


class CommonSpaces:
    """The observation and action space of a family, and the functions that bring a task's to them.

    Args:
        family: Says how: `resize`, `grayscale`, `pad_actions`.
        observation_spaces: Of each task, as its engine has it.
        action_spaces: Of each task, as its engine has it.

    Attributes:
        observation_space: Of all tasks.
        action_space: Of all tasks.

    Raises:
        ValueError: If spaces differ after that; names two tasks and the difference.
    """

    def __init__(
        self,
        family: TaskFamily,
        observation_spaces: Sequence[gymnasium.Space],
        action_spaces: Sequence[gymnasium.Space],
    ) -> None:
        self._family = family
        self._spaces = list(observation_spaces)
        self._identity = family.resize is None and not family.grayscale
        adapted = [_adapted_space(space, family, name) for space, name in zip(self._spaces, family.names, strict=True)]
        for k, space in enumerate(adapted):
            if difference := _difference(adapted[0], space):
                raise ValueError(
                    f"tasks {family.names[0]!r} and {family.names[k]!r} have different observation spaces: "
                    f"{difference}; resize=(height, width) and grayscale=True bring pictures to one shape"
                )
        self.observation_space = adapted[0]
        self.action_space = self._common_actions(list(action_spaces))
        self._num_actions = [int(space.n) if isinstance(space, Discrete) else None for space in action_spaces]

    def observation(self, task: int, observation: Any) -> Any:
        """An engine's observation, or a batch of them with leading dimensions, in the common space."""
        return observation if self._identity else _adapted(observation, self._spaces[task], self._family)

    def action(self, task: int, action: Any) -> Any:
        """An action, or an array of them, in the space of the task's engine."""
        n = self._num_actions[task]
        if n is None or not self._family.pad_actions:
            return action
        noop = self._family.tasks[task].noop
        if isinstance(action, np.ndarray):
            return np.where(action < n, action, noop)
        return action if action < n else noop

    def _common_actions(self, spaces: list[gymnasium.Space]) -> gymnasium.Space:
        names = self._family.names
        if not self._family.pad_actions:
            for k, space in enumerate(spaces):
                if difference := _difference(spaces[0], space):
                    raise ValueError(
                        f"tasks {names[0]!r} and {names[k]!r} have different action spaces: {difference}; "
                        "pad_actions=True extends Discrete spaces to the largest"
                    )
            return spaces[0]
        largest = 0
        for k, space in enumerate(spaces):
            if not isinstance(space, Discrete) or space.start != 0:
                raise ValueError(f"pad_actions=True needs Discrete actions from 0, but task {names[k]!r} has {space}")
            largest = max(largest, int(space.n))
        return Discrete(largest)


@lru_cache(maxsize=64)
def _shrinker(size: tuple[int, int], to: tuple[int, int]) -> AreaResize:
    return AreaResize(size, to)


def _is_picture(space: gymnasium.Space) -> bool:
    if not isinstance(space, Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) == 2 or _channels_axis(space) is not None


def _channels_axis(space: Box) -> int | None:
    """-1 or -3, the shorter end, or None if it is no picture with channels."""
    if len(space.shape) != 3:
        return None
    first, middle, last = space.shape
    if last < min(first, middle):
        return -1
    return -3 if first < min(middle, last) else None


def _adapted_space(space: gymnasium.Space, family: TaskFamily, name: str) -> gymnasium.Space:
    if family.resize is None and not family.grayscale:
        return space
    if isinstance(space, Dict):
        kept = {key: _adapted_box(entry, family, name) if _is_picture(entry) else entry for key, entry in space.items()}
        if any(_is_picture(entry) for entry in space.values()):
            return Dict(kept)
    elif _is_picture(space):
        return _adapted_box(space, family, name)
    raise ValueError(
        f"resize and grayscale need uint8 pictures (H, W, C), (C, H, W) or (H, W), but task {name!r} has {space}"
    )


def _adapted_box(space: Any, family: TaskFamily, name: str) -> Box:
    axis = _channels_axis(space)
    if family.grayscale and axis is not None and space.shape[axis] not in (1, len(_LUMINANCE)):
        raise ValueError(f"grayscale=True needs red, green and blue, but task {name!r} has {space}")
    height, width = _height_width(space)
    if family.resize is not None and (family.resize[0] > height or family.resize[1] > width):
        raise ValueError(f"resize={family.resize} can only shrink pictures, but task {name!r} has {space}")
    shape = _adapted_picture(np.zeros(space.shape, np.uint8), space, family).shape
    return Box(space.low.min(), space.high.max(), shape, np.uint8)


def _height_width(space: Box) -> tuple[int, int]:
    first = 1 if _channels_axis(space) == -3 else 0
    return space.shape[first], space.shape[first + 1]


def _adapted(observation: Any, space: gymnasium.Space, family: TaskFamily) -> Any:
    if isinstance(space, Dict):
        return {
            key: _adapted_picture(observation[key], entry, family) if _is_picture(entry) else observation[key]
            for key, entry in space.items()
        }
    return _adapted_picture(observation, space, family)


def _adapted_picture(pictures: NDArray[np.uint8], space: Any, family: TaskFamily) -> NDArray[np.uint8]:
    """Pictures ``[..., *space.shape]`` grey, then small; channels stay where they were."""
    axis = _channels_axis(space)
    last = pictures[..., None] if axis is None else np.moveaxis(pictures, axis, -1)
    if family.grayscale and last.shape[-1] == len(_LUMINANCE):
        last = np.rint(last @ _LUMINANCE).astype(np.uint8)[..., None]
    height, width = _height_width(space)
    if family.resize is not None and family.resize != (height, width):
        front = np.moveaxis(last, (-3, -2), (0, 1))
        small = _shrinker((height, width), family.resize)(np.ascontiguousarray(front))
        last = np.moveaxis(small, (0, 1), (-3, -2))
    return last[..., 0] if axis is None else np.moveaxis(last, -1, axis)


def _difference(first: gymnasium.Space, second: gymnasium.Space) -> str:
    """What differs between two spaces, in words; empty if nothing."""
    if first == second:
        return ""
    if isinstance(first, Dict) and isinstance(second, Dict):
        if missing := sorted(set(first) ^ set(second)):
            return f"only one of them has {', '.join(map(repr, missing))}"
        key = next(key for key in first if first[key] != second[key])
        return f"{key!r} is {first[key]} and {second[key]}"
    return f"{first} and {second}"
