"""Which task each slot plays next, and its engine's seed: a function of (seed, slot, episode) alone.

Legend: ``B`` slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs._frame import BoolArray
from envs.zipf.law import Floats

_SEEDS = 2**31


class EpisodeDraws:
    """Counter-based draws for ``B`` slots, so that a slot's episodes depend neither on the others nor on their number.

    Args:
        num_slots: ``B``.

    Attributes:
        episode: ``[B]``: episodes begun since the slot was seeded.
    """

    def __init__(self, num_slots: int) -> None:
        self._key: list[tuple[int, int] | None] = [None] * num_slots
        self.episode = np.zeros(num_slots, np.int64)

    @property
    def seeded(self) -> bool:
        """Every slot has a seed."""
        return None not in self._key

    def seed(self, seed: int | Sequence[int | None]) -> None:
        """Starts streams anew: one seed for all keys slot ``e`` with ``(seed, e)``, one a slot with ``(seed[e], 0)``.

        Args:
            seed: Non-negative; None in a sequence leaves a slot's stream as it is.

        Raises:
            ValueError: A negative seed or another number than ``B``.
        """
        keys: list[tuple[int | None, int]]
        if isinstance(seed, int | np.integer):
            keys = [(int(seed), e) for e in range(len(self._key))]
        else:
            keys = [(one, 0) for one in seed]
        if len(keys) != len(self._key):
            raise ValueError(f"expected one seed for each of {len(self._key)} sub-environments, got {len(keys)}")
        for e, (given, index) in enumerate(keys):
            if given is None:
                continue
            if given < 0:
                raise ValueError(f"seeds must be at least 0, got {given}")
            self._key[e], self.episode[e] = (int(given), index), 0

    def draw(self, mask: BoolArray, table: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tasks and engine seeds of the episodes that begin in the slots of the mask.

        Args:
            mask: ``[B]``.
            table: Cumulative law of the tasks; see `envs.zipf.law.cumulative`.

        Returns:
            ``[B]`` each; slots outside the mask have 0.
        """
        tasks, seeds = np.zeros(len(mask), np.int64), np.zeros(len(mask), np.int64)
        for e in np.flatnonzero(mask).tolist():
            key = self._key[e]
            assert key is not None
            rng = np.random.default_rng((*key, int(self.episode[e])))
            tasks[e] = min(int(table.searchsorted(rng.random(), side="right")), len(table) - 1)
            seeds[e] = rng.integers(_SEEDS)
            self.episode[e] += 1
        return tasks, seeds


def derived_seed(*key: int) -> int:
    """A seed in [0, 2**31) that depends on all of ``key``, non-negative integers."""
    return int(np.random.default_rng(key).integers(_SEEDS))
