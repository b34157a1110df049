"""What steps many Atari games: EnvPool or ale-py's vectoriser, behind one small interface.

An engine hands out 84x84 grey frames (maximum of an agent step's last two emulator frames), raw rewards, and ends by
Gymnasium's NEXT_STEP rule; infos are `envs.atari`'s, and so are stacks of frames where the engine has none.

Legend: ``B`` environments, ``S`` frames of the stack, or 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.protocols import Protocol

SIDE = 84
"""Height and width of an observation."""


class Frames(NamedTuple):
    """What one step or reset of an engine gives.

    Attributes:
        frame: ``[B, S, 84, 84]`` uint8, the newest last, in memory of its own.
        reward: ``[B]`` float32; 0 on a reset.
        terminated: ``[B]`` bool.
        truncated: ``[B]`` bool, false where ``terminated``.
        lives: ``[B]`` int32.
        ram: ``[B, 128]`` uint8, or None if the engine does not show it.
    """

    frame: NDArray[np.uint8]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    lives: NDArray[np.int32]
    ram: NDArray[np.uint8] | None


class Engine(ABC):
    """``B`` games stepped together.

    Attributes:
        actions: Number of actions.
        shows_ram: Whether `Frames.ram` is given.
        stacks: Whether `Frames.frame` is the protocol's whole stack, filled with the frame that begins an episode.
    """

    actions: int
    shows_ram: bool
    stacks: bool = False

    @abstractmethod
    def reset(self, seeds: Sequence[int] | None) -> Frames:
        """Begins an episode everywhere.

        Args:
            seeds: ``B`` numbers in [0, 2**31); None goes on with the random numbers (needs an earlier seeded reset).
        """

    @abstractmethod
    def step(self, actions: NDArray[np.int64]) -> Frames:
        """One agent step; where the step before ended an episode, the next one begins instead.

        Args:
            actions: ``[B]``, each in ``[0, actions)``.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees what the engine holds; it is not used any more."""


class EnvPoolEngine(Engine):
    """EnvPool: C++ threads, shows RAM.

    Args:
        rom: Name of the game in snake_case.
        num_envs: ``B``.
        protocol: How it is played.
        num_threads: 0 means one a core.
    """

    shows_ram = True
    stacks = True  # its threads do it beside each other, while the caller's is idle

    def __init__(self, rom: str, num_envs: int, protocol: Protocol, num_threads: int) -> None:
        import envpool

        self._id = "".join(word.capitalize() for word in rom.split("_")) + "-v5"
        # EnvPool plays 1..noop_max no-ops, or 0..noop_max - 1 and then fire.
        noop_max = protocol.noop_max + 1 if protocol.fire_reset else max(protocol.noop_max, 1)
        self._settings: dict[str, Any] = {
            "num_envs": num_envs,
            "num_threads": num_threads,
            "stack_num": protocol.stack,
            "frame_skip": protocol.skip,
            "repeat_action_probability": protocol.sticky,
            "max_episode_steps": protocol.frame_limit // protocol.skip,
            "full_action_space": protocol.full_actions,
            "noop_max": noop_max,
            "use_fire_reset": protocol.fire_reset,
            "reward_clip": False,
            "episodic_life": False,
            "img_height": SIDE,
            "img_width": SIDE,
            "gray_scale": True,
        }
        self._pool: Any = None
        self.actions = int(envpool.make_spec(self._id, **self._settings).gymnasium_action_space.n)

    def reset(self, seeds: Sequence[int] | None) -> Frames:
        """Seeds are fixed when a pool is made, so a seeded reset makes a new one."""
        import envpool

        if seeds is not None:
            self.close()
            self._pool = envpool.make_gymnasium(self._id, seed=list(seeds), **self._settings)
        frame, info = self._pool.reset()
        none = np.zeros(len(frame), np.bool_)
        return Frames(frame, np.zeros(len(frame), np.float32), none, none.copy(), info["lives"], info["ram"])

    def step(self, actions: NDArray[np.int64]) -> Frames:
        """A game that is over on the very frame of the limit is terminated, which EnvPool calls truncated."""
        frame, reward, terminated, truncated, info = self._pool.step(actions)
        over = info["terminated"].astype(np.bool_)
        return Frames(frame, reward, terminated | (truncated & over), truncated & ~over, info["lives"], info["ram"])

    def close(self) -> None:
        """Ends the pool's threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class AleEngine(Engine):
    """ale-py's ``AtariVectorEnv``: C++ threads, hides RAM.

    The last observation of an episode is not exact here: the vectoriser leaves a step's loop before it takes the frame
    in which the episode ended.

    Args:
        rom: Name of the game in snake_case.
        num_envs: ``B``.
        protocol: How it is played.
        num_threads: 0 means one a core.
    """

    shows_ram = False

    def __init__(self, rom: str, num_envs: int, protocol: Protocol, num_threads: int) -> None:
        from ale_py.vector_env import AtariVectorEnv

        quiet_ale()
        self._pool = AtariVectorEnv(
            rom,
            num_envs,
            num_threads=num_threads,
            stack_num=1,
            frameskip=protocol.skip,
            repeat_action_probability=protocol.sticky,
            max_num_frames_per_episode=protocol.frame_limit,
            full_action_space=protocol.full_actions,
            noop_max=protocol.noop_max + 1,  # it plays 0..noop_max - 1
            use_fire_reset=protocol.fire_reset,
            reward_clipping=False,
            episodic_life=False,
            img_height=SIDE,
            img_width=SIDE,
            grayscale=True,
            autoreset_mode="NextStep",
        )
        self.actions = len(self._pool.ale.get_action_set())

    def reset(self, seeds: Sequence[int] | None) -> Frames:
        """Seeds reload the games, so that nothing of earlier episodes remains."""
        frame, info = self._pool.reset(seed=None if seeds is None else np.array(seeds, np.int64))
        none = np.zeros(len(frame), np.bool_)
        return Frames(frame, np.zeros(len(frame), np.float32), none, none.copy(), info["lives"], None)

    def step(self, actions: NDArray[np.int64]) -> Frames:
        """One step of the vectoriser."""
        frame, reward, terminated, truncated, info = self._pool.step(actions)
        return Frames(frame, reward.astype(np.float32), terminated, truncated, info["lives"], None)

    def close(self) -> None:
        """Ends the pool's threads."""
        self._pool.close()


def quiet_ale() -> None:
    """Keeps ale-py from printing a banner for every game."""
    from ale_py import ALEInterface, LoggerMode

    ALEInterface.setLoggerMode(LoggerMode.Error)
