"""What the loop asks of a model besides being an ``nn.Module``; :class:`byol_ext.bootstrap.Bootstrap` has all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from byol_ext.bootstrap import Ctx, Encoded, Out

Views = dict[str, Any]


@runtime_checkable
class Trainable(Protocol):
    """A model that :func:`byol_ext.training.fit` trains with naive accumulation."""

    @property
    def couples_samples(self) -> bool:
        """Whether a sample's loss depends on the other samples of its batch."""
        ...

    @property
    def encoder_couples_samples(self) -> bool:
        """Whether an encoder couples samples."""
        ...

    def coupling_reasons(self) -> list[str]:
        """Names of what couples samples."""
        ...

    def forward(self, views: Views, ctx: Ctx, step: int) -> Out:
        """Loss and terms of a micro-batch, means over its rows."""
        ...

    def after_step(self, step: int) -> dict[str, float]:
        """Called after each optimiser step that was taken; values to log."""
        ...


@runtime_checkable
class TwoStage(Trainable, Protocol):
    """One whose encoders run apart from the rest, for cached accumulation and windowed input norms."""

    def encode(self, views: Views, step: int, *, target: bool = True) -> Encoded:
        """Representations; of the online network alone unless ``target``."""
        ...

    def objective(self, encoded: Encoded, ctx: Ctx, step: int) -> Out:
        """Heads and loss on representations, such that ``forward`` is ``objective`` of ``encode``."""
        ...

    def begin_window(self, micro_views: Sequence[Views], step: int) -> None:
        """Give windowed input norms the statistics of all micro-batches."""
        ...

    def end_window(self) -> None:
        """Forget them."""
        ...
