"""Predictors: the part of the online network that has no copy in the target.

Legend: ``B`` batch, ``D`` width of the projection; leading dims are free.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from byol_ext.heads import Norm, batch_norms, mlp_head


@dataclass(frozen=True)
class Ctx:
    """What a step knows besides the views: row masks, actions, group elements, resets, labels; never network state.

    Attributes:
        masks: Row masks by name, ``[B]`` (or the shape of the elements), 1 where an edge applies.
        data: Anything else that predictors and alignments read.
    """

    masks: Mapping[str, Tensor] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


class Prediction(NamedTuple):
    """A prediction ``q`` and auxiliary losses that are added, averaged, with weight one.

    ``inner`` holds latents on the way to ``q`` for whoever shares them: a policy reads a world model's beliefs.
    """

    q: Tensor
    aux: Mapping[str, Tensor]
    inner: Mapping[str, Tensor] = MappingProxyType({})


class Predictor(nn.Module, ABC):
    """Base of all predictors: one call signature for learned, closed-form, conditional and recurrent ones."""

    @property
    def couples_samples(self) -> bool:
        """Whether a row's prediction depends on the other rows of the batch."""
        return bool(batch_norms(self))

    @abstractmethod
    def forward(self, z: Tensor, ctx: Ctx) -> Prediction:
        """Predict target latents from online latents ``z [..., D]``."""

    def commit(self) -> None:
        """Called after the optimiser step; closed forms fold their statistics here."""


class Fitted(Predictor):
    """A predictor computed from latents instead of trained by gradient (:class:`byol_ext.closed_form.ClosedForm`)."""

    @abstractmethod
    def observe(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Shown, before the predictions of a step, what each edge of the predictor has at its ends.

        Args:
            pairs: (online latents, aligned target latents) of each edge; rows that the edge masks are zero in both.
        """


class Learned(Predictor):
    """Any module ``z -> q`` as a predictor.

    Args:
        net: The module, for example :func:`mlp_predictor`'s head or ``nn.Linear``.

    Example:
        >>> import torch
        >>> Learned(nn.Linear(4, 4))(torch.randn(2, 4), Ctx()).q.shape
        torch.Size([2, 4])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, ctx: Ctx) -> Prediction:
        """``[..., D] -> [..., D]``."""
        return Prediction(self.net(z), {})


def mlp_predictor(
    width: int, hidden: int, *, norm: Norm = "batch", out_bias: bool = True, dropout: float = 0.0
) -> Learned:
    """The usual two-layer predictor ``width - hidden - width``; it reads the un-normalised projection.

    Args:
        width: Width of projection and prediction (BYOL 256, SLAP 512).
        hidden: Hidden width (BYOL 4096, SLAP 4096, SimSiam 512).
        norm: Normalisation of the hidden layer; ``layer`` keeps accumulation exact.
        out_bias: BYOL's reference has no output bias, SimSiam's and SLAP's have.
        dropout: Dropout after the hidden ReLU (SLAP's public configuration: 0.1).
    """
    return Learned(mlp_head([width, hidden, width], norm=norm, out_bias=out_bias, dropout=dropout))


def linear_predictor(width: int) -> Learned:
    """A trained linear, bias-free predictor (arXiv 2302.04817, 3)."""
    return Learned(nn.Linear(width, width, bias=False))
