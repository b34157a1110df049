"""Memory that a batch-stepped environment writes its observations, rewards and infos to.

Legend: ``B`` sub-environments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.vector.utils import create_empty_array
from numpy.typing import DTypeLike, NDArray

Observation = np.ndarray | dict[str, np.ndarray]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class InfoSpec:
    """One entry of the info dictionary.

    Attributes:
        dtype: Type of the array.
        shape: Shape of one sub-environment's value.
        last_only: The value means something on the last step of an episode only: elsewhere its mask ``_key`` is false.
    """

    dtype: DTypeLike
    shape: tuple[int, ...] = ()
    last_only: bool = False


@dataclass(frozen=True)
class Frame:
    """What one call of `step` or `reset` returns; row ``e`` of every array belongs to sub-environment ``e``.

    Attributes:
        obs: ``[B, ...]``, or a dictionary of such arrays where the observation space is a ``Dict``.
        reward: ``[B]`` float64.
        terminated: ``[B]`` bool.
        truncated: ``[B]`` bool.
        info: ``[B, ...]`` for each key of the environment's `InfoSpec` table.
        last: ``[B]`` bool: the mask of the infos that are ``last_only``.
        infos: `info` together with the masks ``_key``, as Gymnasium hands them out.
    """

    obs: Observation
    reward: NDArray[np.float64]
    terminated: BoolArray
    truncated: BoolArray
    info: dict[str, np.ndarray]
    last: BoolArray
    infos: dict[str, Any] = field(repr=False)

    @classmethod
    def empty(cls, space: gymnasium.Space, specs: Mapping[str, InfoSpec], num_envs: int) -> Frame:
        """A frame of zeros for ``num_envs`` sub-environments with this observation space each."""
        info = {key: np.zeros((num_envs, *spec.shape), spec.dtype) for key, spec in specs.items()}
        last, always = np.zeros(num_envs, np.bool_), np.ones(num_envs, np.bool_)
        masks = {f"_{key}": last if spec.last_only else always for key, spec in specs.items()}
        return cls(
            obs=cast("Observation", create_empty_array(space, n=num_envs, fn=np.zeros)),
            reward=np.zeros(num_envs, np.float64),
            terminated=np.zeros(num_envs, np.bool_),
            truncated=np.zeros(num_envs, np.bool_),
            info=info,
            last=last,
            infos={**info, **masks},
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All its arrays by name, not copied."""
        obs = self.obs if isinstance(self.obs, dict) else {"": self.obs}
        return {
            **{f"obs/{key}".rstrip("/"): array for key, array in obs.items()},
            **{name: getattr(self, name) for name in ("reward", "terminated", "truncated", "last")},
            **{f"info/{key}": array for key, array in self.info.items()},
        }

    def copy_from(self, other: Frame) -> None:
        """Overwrites every array with the other frame's."""
        for mine, theirs in zip(self.arrays().values(), other.arrays().values(), strict=True):
            np.copyto(mine, theirs)

    def final_infos(self, ended: BoolArray) -> dict[str, Any]:
        """The ``final_obs`` and ``final_info`` entries of Gymnasium's SAME_STEP mode, copied.

        Args:
            ended: ``[B]``: the sub-environments whose rows are the last of an episode.
        """
        final_obs = np.full(len(ended), None, dtype=object)
        for e in np.flatnonzero(ended):
            final_obs[e] = self.row(int(e))
        final_info: dict[str, Any] = {key: array.copy() for key, array in self.info.items()}
        final_info |= {f"_{key}": ended.copy() for key in self.info}
        return {
            "final_obs": final_obs,
            "_final_obs": ended.copy(),
            "final_info": final_info,
            "_final_info": ended.copy(),
        }

    def row(self, e: int) -> Any:
        """The observation of one sub-environment, copied."""
        if isinstance(self.obs, dict):
            return {key: np.array(array[e]) for key, array in self.obs.items()}
        return np.array(self.obs[e])
