"""Rewards that need no network: visit counts, the oracle of grid worlds, and none.

Legend: ``T`` transitions, ``B`` environments, ``V`` visited cells; time-major.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from byol_ext.rl.curiosity.bonus import Bonus, BonusLoss, Reward
from byol_ext.rl.segment import Segment


class CountBonus(Bonus):
    """``1 / sqrt(n)`` of the cell that a transition ends in, ``info["cell"]``.

    ``n`` counts all visits of all environments and processes, this rollout's included, so the reward depends on
    neither the order of environments nor their split over processes. There is nothing to learn.

    Example:
        >>> CountBonus().visits_of(torch.tensor([7])).tolist()
        [0]
    """

    cells: Tensor
    visits: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cells", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.register_buffer("visits", torch.zeros(0, dtype=torch.int64), persistent=False)

    def visits_of(self, cells: Tensor) -> Tensor:
        """Number of visits so far of cells of any shape, int64."""
        if not len(self.cells):
            return torch.zeros_like(cells)
        at = torch.searchsorted(self.cells, cells).clamp_max(len(self.cells) - 1)
        return torch.where(self.cells[at] == cells, self.visits[at], 0)

    @torch.no_grad()
    def reward(self, segment: Segment, *, update: bool = True) -> Reward:
        """``1 / sqrt(n)`` after the rollout is counted; without ``update`` an unknown cell pays 1.

        Raises:
            KeyError: If the environment does not say where the agent is.
        """
        if "cell" not in segment.info:
            raise KeyError(
                f"counts need info['cell'], the id of the agent's place, from the environment; it gives "
                f"{sorted(segment.info)}"
            )
        cell_TB, real_TB = segment.tail(segment.info["cell"]).long(), segment.tail(segment.real)
        if update:
            self._count(cell_TB[real_TB])
        reward_TB = torch.where(real_TB, self.visits_of(cell_TB).clamp_min(1).float().rsqrt(), 0.0)
        return Reward(reward_TB, reward_TB, terms={"cells": reward_TB.new_tensor(len(self.cells))})

    def loss(self, segment: Segment, *, step: int = 0) -> BonusLoss:
        """Zero, on which ``backward`` may be called."""
        return no_loss(segment)

    def get_extra_state(self) -> Tensor:
        """Cells and their visits ``[2, V]``, in the checkpoint under the name that PyTorch gives extra state."""
        return torch.stack([self.cells, self.visits])

    def set_extra_state(self, state: Any) -> None:
        """The inverse of :meth:`get_extra_state`."""
        self.cells, self.visits = state.to(self.cells.device, torch.int64, copy=True).unbind()

    def _count(self, cells: Tensor) -> None:
        found, visits = cells.unique(return_counts=True)
        parts = [(self.cells, self.visits), *_from_all_processes(found, visits)]
        every, where = torch.cat([part[0] for part in parts]).unique(return_inverse=True)
        self.visits = torch.zeros_like(every).index_add_(0, where, torch.cat([part[1] for part in parts]))
        self.cells = every


class NoBonus(Bonus):
    """No intrinsic reward: the control of every comparison."""

    def reward(self, segment: Segment, *, update: bool = True) -> Reward:
        """Zeros."""
        zeros_TB = torch.zeros_like(segment.tail(segment.reward), dtype=torch.float32)
        return Reward(zeros_TB, zeros_TB)

    def loss(self, segment: Segment, *, step: int = 0) -> BonusLoss:
        """Zero, on which ``backward`` may be called."""
        return no_loss(segment)


def no_loss(segment: Segment) -> BonusLoss:
    """A zero on the segment's device on which ``backward`` may be called."""
    return BonusLoss(torch.zeros((), device=segment.reward.device, requires_grad=True), {})


def _from_all_processes(cells: Tensor, visits: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The pairs of every process, whose lengths differ."""
    if not (dist.is_available() and dist.is_initialized()):
        return [(cells, visits)]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, (cells.cpu(), visits.cpu()))
    return [(found.to(cells.device), count.to(cells.device)) for found, count in parts]
