"""MiniGrid and BabyAI levels with plain observations, the same from the Python engine and from EnvPool's C++ one.

Legend: ``L`` bytes of an instruction.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from envs.families.envpool_batch import EnvPoolBatch

INSTRUCTION_BYTES = 192
"""``L``: the longest of BabyAI's instructions that we met has 148."""


def open_level(env_id: str, instructions: bool) -> gymnasium.Env:
    """A level of the ``minigrid`` package.

    Args:
        env_id: ``"MiniGrid-..."`` or ``"BabyAI-..."``.
        instructions: Observe a dictionary of ``image`` and ``instruction`` instead of the image alone.

    Raises:
        gymnasium.error.DependencyNotInstalled: ``minigrid`` is missing.
    """
    if importlib.util.find_spec("minigrid") is None:
        raise DependencyNotInstalled(f"{env_id} needs MiniGrid: pip install minigrid")
    import minigrid  # noqa: F401  (registers its ids)

    return PlainLevel(gymnasium.make(env_id, disable_env_checker=True), instructions)


def open_levels(env_id: str, instructions: bool, num_envs: int) -> EnvPoolBatch:
    """As many environments of a level as one C++ pool, with the observations of `open_level`."""
    return EnvPoolBatch(
        env_id,
        num_envs,
        settings={"mission_bytes": INSTRUCTION_BYTES},
        observation_space=level_space(instructions),
        change=_read_texts if instructions else _read_images,
    )


def level_space(instructions: bool) -> Box | Dict:
    """``image`` (7, 7, 3) uint8: kind, colour and state of the cells in view; ``instruction`` ``[L]`` int32: bytes."""
    image = Box(0, 255, (7, 7, 3), np.uint8)
    return Dict({"image": image, "instruction": Box(0, 255, (INSTRUCTION_BYTES,), np.int32)}) if instructions else image


def encode_instruction(text: str) -> NDArray[np.int32]:
    """The UTF-8 bytes ``[L]`` of a text, cut or filled with zeros.

    Example:
        >>> encode_instruction("go")[:3].tolist()
        [103, 111, 0]
    """
    codes = np.zeros(INSTRUCTION_BYTES, np.int32)
    letters = np.frombuffer(text.encode()[:INSTRUCTION_BYTES], np.uint8)
    codes[: len(letters)] = letters
    return codes


def decode_instruction(codes: NDArray[np.int32]) -> str:
    """The text of ``[L]`` bytes.

    Example:
        >>> decode_instruction(encode_instruction("go to the red ball"))
        'go to the red ball'
    """
    return bytes(codes.astype(np.uint8)).rstrip(b"\0").decode(errors="replace")


class PlainLevel(gymnasium.Wrapper):
    """Arrays instead of MiniGrid's own space of texts, which vector environments cannot share."""

    def __init__(self, env: gymnasium.Env, instructions: bool) -> None:
        super().__init__(env)
        self._instructions = instructions
        self.observation_space = level_space(instructions)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new level; BabyAI prints the samples that it rejects."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._plain(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the level's."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._plain(obs), reward, terminated, truncated, info

    def _plain(self, obs: dict[str, Any]) -> Any:
        if not self._instructions:
            return obs["image"]
        return {"image": obs["image"], "instruction": encode_instruction(obs["mission"])}


def _read_images(obs: dict[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return obs["image"]


def _read_texts(obs: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
    return {"image": obs["image"], "instruction": obs["mission"].astype(np.int32)}
