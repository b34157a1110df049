"""Modes and difficulties of Atari games for both of our engines."""

from __future__ import annotations

from envs._atari_engines import EnvPoolEngine, quiet_ale
from envs._emulator import Emulator
from envs.protocols import Protocol


def modes_and_difficulties(rom: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The numbers of a game's modes and of its difficulties, the default first.

    Args:
        rom: Name of the game in snake_case.

    Raises:
        ValueError: There is no such game.
    """
    import ale_py

    quiet_ale()
    ale = ale_py.ALEInterface()
    path = ale_py.roms.get_rom_path(rom)
    if path is None:
        raise ValueError(f"unknown Atari game {rom!r}")
    ale.loadROM(path)
    return tuple(ale.getAvailableModes()), tuple(ale.getAvailableDifficulties())


class ModeEmulator(Emulator):
    """An `Emulator` that plays one mode at one difficulty."""

    def __init__(self, rom: str, protocol: Protocol, *, mode: int, difficulty: int) -> None:
        self._mode, self._difficulty = mode, difficulty
        super().__init__(rom, protocol)

    def _load(self, seed: int) -> None:
        super()._load(seed)
        self._ale.setMode(self._mode)
        self._ale.setDifficulty(self._difficulty)


class ModeEnvPool(EnvPoolEngine):
    """An `EnvPoolEngine` that plays one mode at one difficulty."""

    def __init__(
        self, rom: str, num_envs: int, protocol: Protocol, num_threads: int, *, mode: int, difficulty: int
    ) -> None:
        super().__init__(rom, num_envs, protocol, num_threads)
        self._settings |= {"mode": mode, "difficulty": difficulty}
