"""The one interface of all intrinsic rewards.

Legend: ``T`` transitions, ``B`` environments; time-major.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from byol_ext.rl.segment import Segment


@dataclass(frozen=True)
class Reward:
    """Intrinsic reward of a segment's ``T`` transitions (context rows left out); zero where a row is not real.

    Attributes:
        scaled: ``[T, B]`` float32: what the agent maximises, normalised (and prioritised).
        raw: ``[T, B]`` float32: the novelty before normalisation.
        memory: The bonus's state for the next segment's ``memory``: as it is before that segment's row 0, which is this
            segment's row ``T``; ``[B, ...]`` each, on the segment's device.
        terms: Scalars to log.
    """

    scaled: Tensor
    raw: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class BonusLoss:
    """Loss of a bonus on a segment.

    Attributes:
        total: Scalar to differentiate; a mean over all rows, so that minibatches and ranks add up.
        terms: Detached scalars to log.
        beliefs: ``[R + 1, B, M]`` with gradient where the bonus has run a recurrence that the policy shares.
    """

    total: Tensor
    terms: dict[str, Tensor]
    beliefs: Tensor | None = None


class Bonus(nn.Module, ABC):
    """An intrinsic reward with whatever it learns.

    One rollout: ``reward(segment)`` once, with the parameters that acted; then ``loss(minibatch)`` as often as the
    agent likes; ``after_step(step)`` after each optimiser step. Running statistics are buffers, so checkpoints hold
    them, and move only in ``reward(update=True)``, once a rollout, over real transitions, synchronised over processes.
    """

    @abstractmethod
    def reward(self, segment: Segment, *, update: bool = True) -> Reward:
        """Intrinsic reward, without gradient.

        Args:
            segment: All environments of this process, in their order.
            update: Whether to move running statistics and episodic memories; false for other environments.
        """

    @abstractmethod
    def loss(self, segment: Segment, *, step: int = 0) -> BonusLoss:
        """Loss on a segment, or on some of its environments.

        Args:
            segment: A minibatch of environments; ``memory`` holds their rows.
            step: Index of the optimiser step.
        """

    def initial_memory(self, batch: int) -> dict[str, Tensor]:
        """``memory`` of the first segment ``[batch, ...]``; empty unless the bonus carries state along."""
        return {}

    def critic_parameters(self) -> list[nn.Parameter]:
        """Parameters of an adversary that the same loss trains against the rest, for an optimiser group of its own."""
        return []

    def after_step(self, step: int) -> Mapping[str, float]:
        """Called after each optimiser step that was taken; values to log."""
        return {}
