"""One Atari game in Python, with all that a vectoriser hides: raw picture, RAM, exact state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs._atari_engines import SIDE, Engine, Frames, quiet_ale
from envs._resize import AreaResize
from envs.protocols import Protocol


class Emulator(Engine):
    """One game in Python, whose raw picture, RAM and exact state can be had (``B`` is 1).

    Sticky actions are drawn here and not in the emulator: their last action, which belongs to the state, would
    otherwise be hidden (spec exploration §8.5 saw 7 of 10 restored states diverge).

    Args:
        rom: Name of the game in snake_case.
        protocol: How it is played.

    Raises:
        ValueError: There is no such game.
    """

    shows_ram = True

    def __init__(self, rom: str, protocol: Protocol) -> None:
        import ale_py

        quiet_ale()
        path = ale_py.roms.get_rom_path(rom)
        if path is None:
            raise ValueError(f"unknown Atari game {rom!r}")
        self._rom, self._protocol = path, protocol
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._load(0)
        ale = self._ale
        self._action_set = ale.getLegalActionSet() if protocol.full_actions else ale.getMinimalActionSet()
        self.actions = len(self._action_set)
        self._noop = ale_py.Action.NOOP
        self._fire = ale_py.Action.FIRE if ale_py.Action.FIRE in self._action_set else None
        self._shrink = AreaResize(ale.getScreenDims(), (SIDE, SIDE))
        self._rgb = ale.getScreenRGB()

    def reset(self, seeds: Sequence[int] | None) -> Frames:
        """A seed reloads the game."""
        if seeds is not None:
            (seed,) = seeds
            self._load(seed)
        self._begin()
        return self._frames([self._ale.getScreenGrayscale()], 0.0)

    def step(self, actions: NDArray[np.int64]) -> Frames:
        """Stops early if the game ends; the frame is the maximum of the last two that were played."""
        if self._over:
            return self.reset(None)
        action, reward, shown = self._action_set[int(actions[0])], 0.0, []
        for left in range(self._protocol.skip, 0, -1):
            reward += self._act(action)
            over = self._ale.game_over()
            if left <= 2 or over:
                shown.append(self._ale.getScreenGrayscale())
            if over:
                break
        self._steps += 1
        return self._frames(shown, reward)

    def close(self) -> None:
        """Nothing to free."""

    def rgb(self) -> NDArray[np.uint8]:
        """The newest raw frame, ``[210, 160, 3]`` (some games have 250 rows)."""
        return self._rgb.copy()

    def ram(self) -> NDArray[np.uint8]:
        """``[128]`` uint8."""
        return self._ale.getRAM().copy()

    def state(self) -> dict[str, Any]:
        """All that decides what follows, random numbers included; picklable."""
        return {
            "ale": self._ale.cloneState(include_rng=True),
            "sticky_action": self._action.value,
            "random": self._random.bit_generator.state,
            "steps": self._steps,
            "over": self._over,
            "rgb": self._rgb.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` gave, in this or another process."""
        # A frame must have been played since the game was reset: ale-py up to 0.12.1 does not save whether the picture
        # is complete, and after a bare reset Q*bert and Tetris go on differently.
        self._ale.reset_game()
        self._ale.act(self._noop)
        self._ale.restoreState(state["ale"])
        self._action = type(self._noop)(state["sticky_action"])
        self._random.bit_generator.state = state["random"]
        self._steps, self._over, self._rgb = state["steps"], state["over"], state["rgb"].copy()

    def _load(self, seed: int) -> None:
        self._ale.setInt("random_seed", seed)
        self._ale.loadROM(self._rom)
        self._random = np.random.default_rng(seed)

    def _begin(self) -> None:
        self._ale.reset_game()
        self._steps, self._over, self._action = 0, False, self._noop
        if self._protocol.fire_reset and self._fire is not None:
            self._act(self._fire)
        for _ in range(self._random.integers(self._protocol.noop_max + 1)):
            self._act(self._noop)
            if self._ale.game_over():
                self._ale.reset_game()

    def _act(self, action: Any) -> float:
        """One emulator frame."""
        if self._random.random() >= self._protocol.sticky:
            self._action = action
        return self._ale.act(self._action)

    def _frames(self, shown: list[NDArray[np.uint8]], reward: float) -> Frames:
        terminated = self._ale.game_over()
        truncated = not terminated and self._steps * self._protocol.skip >= self._protocol.frame_limit
        self._over = terminated or truncated
        self._rgb = self._ale.getScreenRGB()
        return Frames(
            self._shrink(np.max(shown, axis=0))[None, None],
            np.array([reward], np.float32),
            np.array([terminated]),
            np.array([truncated]),
            np.array([self._ale.lives()], np.int32),
            self._ale.getRAM()[None].copy(),
        )
