"""What the loop asks of a model besides being an ``nn.Module``; :class:`byol_ext.bootstrap.Bootstrap` has all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from byol_ext.bootstrap import Ctx, Encoded, Out

Views = dict[str, Any]


@runtime_checkable
class Trainable(Protocol):
    """A model that :func:`byol_ext.training.fit` trains with naive accumulation.

    The optional attribute ``forward_moves_buffers = False`` says that ``forward`` leaves all buffers as they are, so
    that there is nothing to take back after a skipped step.
    """

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


def process_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong to one process, by their full names: a module lists them in an attribute ``process_local``.

    They are those of one process's environments; checkpoints of the model leave them out, so their owner saves them,
    and processes do not share them.
    """
    return {
        f"{prefix}.{name}".lstrip("."): getattr(module, name)
        for prefix, module in model.named_modules()
        for name in getattr(module, "process_local", ())
    }
