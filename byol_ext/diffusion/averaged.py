"""What a model of tokens needs besides its objective to be trained: weights averaged over the steps."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar, cast

from torch import nn

from byol_ext.bootstrap import Ctx, Out
from byol_ext.ema import EMA
from byol_ext.schedules import ema_warmup
from byol_ext.training.trainable import Views


class Objective(Protocol):
    """An ``nn.Module`` with a loss whose rows do not depend on each other."""

    def objective(self, views: Views, ctx: Ctx) -> Out:
        """Loss and terms, means over the rows."""
        ...


M = TypeVar("M", bound=Objective)


class Averaged(nn.Module, Generic[M]):
    """A :class:`byol_ext.training.Trainable` of a model and the exponential moving average of its weights.

    Args:
        model: The model, an ``nn.Module`` with an objective, such as :class:`byol_ext.diffusion.mdlm.MDLM`. Its
            buffers must not change in a forward.
        ema: Decay of the average, reached by :func:`byol_ext.schedules.ema_warmup`, so that short runs do not evaluate
            their initialisation (spec: ours).

    Raises:
        TypeError: If the model is no ``nn.Module``.
        ValueError: If ``ema`` lies outside [0, 1].
    """

    model: M
    ema: EMA
    forward_moves_buffers = False
    couples_samples = False
    encoder_couples_samples = False

    def __init__(self, model: M, *, ema: float = 0.9999) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"Averaged needs an nn.Module, got a {type(model).__name__}")
        self.model = model
        self.ema = EMA(model, ema_warmup(ema))

    @property
    def average(self) -> M:
        """The model with averaged weights: the one to evaluate and to save."""
        return cast(M, self.ema.module)

    def coupling_reasons(self) -> list[str]:
        """Nothing couples samples."""
        return []

    def forward(self, views: Views, ctx: Ctx, step: int = 0) -> Out:
        """The model's objective."""
        return self.model.objective(views, ctx)

    def after_step(self, step: int) -> dict[str, float]:
        """Move the average; returns its decay as ``ema/decay``."""
        return {"ema/decay": self.ema.update(step)}
