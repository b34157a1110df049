"""The playroom without pictures: what the first-person and the grid environment have in common.

Legend: ``B`` sub-environments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs._compile import announce
from envs._frame import BoolArray, Frame
from envs._rng import Streams
from envs.zipf.law import SPLITS, Split
from envs.zipf.playroom import _oracle, _sim
from envs.zipf.playroom.settings import Body, Settings, checked_tasks, out_of
from envs.zipf.playroom.state import Out, empty_state


class Game:
    """A batch of rooms.

    Args:
        settings: Checked arguments.
        body: How the agent moves.
        num_envs: ``B``.
    """

    def __init__(self, settings: Settings, body: Body, num_envs: int) -> None:
        self.settings, self.num_envs = settings, num_envs
        self.rules, self.law = settings.make_rules(body), settings.make_law()
        self.state = empty_state(num_envs)
        self.state.split[0] = SPLITS.index(settings.split)
        self._outs: dict[int, Out] = {}
        announce("ZipfPlayroom", _sim.reset_rows, _sim.step_rows)

    def take_frames(self, frames: Sequence[Frame]) -> None:
        """Prepares to write to these frames."""
        self._outs = {id(frame): out_of(frame) for frame in frames}

    @property
    def split(self) -> Split:
        """The split in use."""
        return SPLITS[self.state.split[0]]

    def reset_rows(self, frame: Frame, streams: Streams, mask: BoolArray, lo: int, hi: int) -> None:
        """Begins an episode in the rows of ``mask``; writes all but pictures."""
        _sim.reset_rows(self.rules, self.law, self.state, streams, self._outs[id(frame)], mask, lo, hi)

    def step_rows(
        self, frame: Frame, streams: Streams, actions: NDArray[np.int64], skip: BoolArray, lo: int, hi: int
    ) -> None:
        """Steps the rows not in ``skip``; writes all but pictures."""
        _sim.step_rows(self.rules, self.law, self.state, streams, self._outs[id(frame)], actions, skip, lo, hi)

    def set_options(self, options: Mapping[str, Any], mask: BoolArray) -> None:
        """Takes ``task`` for the episodes that begin in ``mask`` and ``split`` from now on.

        Raises:
            ValueError: On an unknown option or split, a task out of range, or a split without objects in the subset.
        """
        if unknown := set(options) - {"task", "split"}:
            raise ValueError(f"unknown reset options {sorted(unknown)}; known: ['reset_mask', 'split', 'task']")
        split = options.get("split", self.split)
        if split != self.split:
            self.settings.check_split(split)
        tasks = np.int64(-1)
        if "task" in options:
            tasks = checked_tasks(options["task"], self.settings.num_objects, self.num_envs)  # type: ignore[assignment]
        np.copyto(self.state.forced, tasks, where=mask)
        self.state.split[0] = SPLITS.index(split)

    def oracle_actions(self) -> NDArray[np.int64]:
        """What a player who reads the true state does: ``[B]`` actions."""
        actions = np.zeros(self.num_envs, np.int64)
        _oracle.oracle_rows(self.rules, self.state, actions, 0, self.num_envs)
        return actions
