"""Random play of an Atari game, and what is recorded of it: windows in which something moves, and actions that show.

Legend: ``S`` states, ``A`` actions, ``T`` frames, ``H, W`` height and width.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

EMULATOR_FPS = 60.0
_VISIBLE = 10
"""Grey levels from which a change counts as visible."""
_TRIES = 20
"""Windows or states that are tried for each that is wanted, before a game is given up."""


class Take(NamedTuple):
    """Frames that were played.

    Attributes:
        frames: ``uint8 [T, 84, 84]``, the maximum of the last two of the emulator where some are skipped.
        ram: Memory of the machine at each, ``uint8 [T, 128]``.
    """

    frames: np.ndarray
    ram: np.ndarray


class RandomPlayer:
    """Plays a game at random; an action is kept for a number of frames that is drawn anew.

    Args:
        game: ROM name.
        hold: Mean number of frames.
        key: Numbers that, with the game, decide all that is played.
        sticky: Probability that an emulator frame repeats the action before.
        skip: Emulator frames for one that is recorded.
    """

    def __init__(self, game: str, *, hold: float, key: Sequence[int], sticky: float, skip: int) -> None:
        from envs.atari import AtariSingle
        from envs.protocols import Protocol

        self.random = np.random.default_rng([*key, zlib.crc32(game.encode())])
        protocol = Protocol(sticky=sticky, skip=skip, stack=1, noop_max=30, fire_reset=True)
        self.game = AtariSingle(game, protocol=protocol)
        self.game.reset(seed=int(self.random.integers(2**31)))
        self._change, self._actions = 1 / hold, int(self.game.action_space.nvec[0])
        self._action = 0

    def play(self, frames: int) -> Take | None:
        """So many frames, or None if the game ended before; then the next one has begun."""
        return self._play(frames, None)

    def keep(self, action: int, frames: int) -> Take | None:
        """So many frames of one action, or None if the game ended before."""
        return self._play(frames, action)

    def new_game(self, warm_up: int) -> None:
        """Begin a game, and play so many frames of it (less if it ends)."""
        self.game.reset()
        self.play(warm_up)

    def _play(self, frames: int, action: int | None) -> Take | None:
        shown, ram = [], []
        for _ in range(frames):
            if action is None and self.random.random() < self._change:
                self._action = int(self.random.integers(self._actions))
            obs, _, terminated, truncated, _ = self.game.step([self._action if action is None else action])
            if terminated[0] or truncated[0]:
                self.game.reset()
                return None
            shown.append(obs[0, 0].copy())
            ram.append(self.game.ram())
        return Take(np.stack(shown), np.stack(ram))


def record_windows(player: RandomPlayer, windows: int, *, length: int, warm_up: int) -> Take:
    """Pieces of random play, with random gaps: games that end or stand still are left out.

    The gaps, up to the length of a window, keep pictures of regular games from telling where in its window a frame is.

    Args:
        player: Who plays.
        windows: How many.
        length: Frames of each.
        warm_up: Frames of a game that are left out at its beginning.

    Returns:
        ``[windows * length, ...]``.

    Raises:
        RuntimeError: If hardly anything moves.
    """
    takes: list[Take] = []
    player.new_game(warm_up)
    for _ in range(_TRIES * windows):
        take = player.play(int(player.random.integers(length)) + length)
        if take is None:
            player.new_game(warm_up)
        elif _moves(take.frames[-length:]) >= 0.5:
            takes.append(Take(take.frames[-length:], take.ram[-length:]))
            if len(takes) == windows:
                return _joined(takes)
    raise RuntimeError(
        f"{player.game.game}: {len(takes)} of {_TRIES * windows} windows show motion in half of their frames; choose "
        "another game"
    )


def _moves(frames_THW: np.ndarray) -> float:
    """Share of frames that differ visibly from the one before."""
    change_THW = np.abs(np.diff(frames_THW.astype(np.int16), axis=0))
    return float((change_THW.max(axis=(1, 2)) > _VISIBLE).mean())


def record_states(player: RandomPlayer, states: int, actions: Sequence[int], *, length: int, warm_up: int) -> Take:
    """What each action leads to from the same state; states in which two actions look alike are left out.

    Args:
        player: Who plays.
        states: How many.
        actions: Actions that are kept, each from each state.
        length: Frames for which an action is kept.
        warm_up: Frames of a game before the first state, and the most between two.

    Returns:
        ``[S * A * length, ...]``, state by state.

    Raises:
        RuntimeError: If too few states tell the actions apart.
    """
    takes: list[Take] = []
    player.new_game(warm_up)
    for _ in range(_TRIES * states):
        if player.play(1 + int(player.random.integers(warm_up))) is None:
            player.new_game(warm_up)
            continue
        saved = player.game.state()
        held = list(_each_action(player, saved, actions, length))
        player.game.set_state(saved)
        if len(held) == len(actions) and _all_differ([take.frames for take in held]):
            takes += held
            if len(takes) == states * len(actions):
                return _joined(takes)
    raise RuntimeError(
        f"{player.game.game}: in {len(takes) // len(actions)} of {_TRIES * states} states the actions look different; "
        "choose another game"
    )


def _each_action(player: RandomPlayer, state: dict[str, Any], actions: Sequence[int], frames: int) -> Iterator[Take]:
    """What each action leads to; ends early with the game."""
    for action in actions:
        player.game.set_state(state)
        take = player.keep(action, frames)
        if take is None:
            return
        yield take


def _all_differ(frames_ATHW: Sequence[np.ndarray]) -> bool:
    shown = [frames.astype(np.int16) for frames in frames_ATHW]
    return all(np.abs(one - other).max() > _VISIBLE for index, one in enumerate(shown) for other in shown[index + 1 :])


def _joined(takes: Sequence[Take]) -> Take:
    return Take(np.concatenate([take.frames for take in takes]), np.concatenate([take.ram for take in takes]))
