"""How Atari games are played: the published protocols, and the names of the games.

Never compare figures of two protocols (spec exploration §6.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Protocol:
    """How a game is played; see `PROTOCOLS` for the published ones.

    Rewards are the game's own and an episode ends with the game, not with a life: clipping is the learner's.

    Attributes:
        sticky: Probability that an emulator frame repeats the action of the frame before.
        skip: Emulator frames an action is held for (an agent step).
        stack: Frames in an observation; an episode's first frame fills the stack.
        frame_limit: Emulator frames after which an episode is truncated, a multiple of ``skip``.
        full_actions: All 18 actions instead of those the game uses.
        noop_max: Up to so many frames without action begin an episode; their number is drawn uniformly. EnvPool
            plays at least one.
        fire_reset: Begin an episode by pressing fire, where the game knows it.

    Raises:
        ValueError: A value out of range.
    """

    sticky: float = 0.25
    skip: int = 4
    stack: int = 4
    frame_limit: int = 108_000
    full_actions: bool = True
    noop_max: int = 0
    fire_reset: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.sticky < 1:
            raise ValueError(f"sticky must be a probability below 1, got {self.sticky}")
        for name, value, least in (("skip", self.skip, 1), ("stack", self.stack, 1), ("noop_max", self.noop_max, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.frame_limit < self.skip or self.frame_limit % self.skip:
            raise ValueError(f"frame_limit must be a multiple of skip={self.skip}, got {self.frame_limit}")


RND2018 = Protocol(sticky=0.25, stack=4, frame_limit=18_000, full_actions=False)
"""Random network distillation (Burda et al. 2018): verified in its released code."""

BYOL_EXPLORE = Protocol(sticky=0.0, stack=1, noop_max=30)
"""BYOL-Explore (Guo et al. 2022): second-hand; the no-ops, without which nothing is random, are our assumption."""

BYOL_HINDSIGHT = Protocol(sticky=0.1, stack=1, noop_max=30)
"""BYOL-Hindsight (Jarrett et al. 2023) on Montezuma's Revenge: second-hand, no-ops as in `BYOL_EXPLORE`."""

MACHADO = Protocol(sticky=0.25, stack=4)
"""Machado et al. 2018, section 5."""

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {"rnd2018": RND2018, "byol_explore": BYOL_EXPLORE, "byol_hindsight": BYOL_HINDSIGHT, "machado": MACHADO}
)
"""The protocols by the names that the command line takes."""

_NEEDS_ALE = "Atari games need ale-py: pip install 'byol_ext[explore]'"


def games() -> tuple[str, ...]:
    """Names of all games, in snake_case, sorted.

    Raises:
        ImportError: ale-py, which brings the games, is missing.
    """
    try:
        from ale_py.roms import get_all_rom_ids
    except ImportError as error:
        raise ImportError(_NEEDS_ALE, name="ale_py") from error
    return tuple(sorted(get_all_rom_ids()))


def rom_name(game: str) -> str | None:
    """The snake_case name of a game, or None if there is none of that name.

    Args:
        game: ``"MontezumaRevenge"``, ``"montezuma_revenge"`` or ``"ALE/MontezumaRevenge-v5"``.

    Raises:
        ImportError: ale-py is missing.
    """
    wanted = squash(game.removeprefix("ALE/").removesuffix("-v5"))
    return next((rom for rom in games() if squash(rom) == wanted), None)


def squash(name: str) -> str:
    """A name without case and punctuation, for comparing.

    >>> squash("Ms_Pacman-v5")
    'mspacmanv5'
    """
    return re.sub("[^a-z0-9]", "", name.lower())
