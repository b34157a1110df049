"""SIE: one embedding of an invariant and an equivariant part, without collapse of either (arXiv 2302.10283).

The embedding is ``[invariant | equivariant]``. The first part agrees between two views, the second moves by the
transformation between them, which a hypernetwork applies; variance and covariance act on both together, so that they
cannot say the same thing twice.

Legend: ``B`` local rows, ``G`` global rows (all ranks), ``D`` width, ``I`` width of the invariant part. Computes in
float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from byol_ext.losses.gather import gather_rows
from byol_ext.losses.pair import as_float, full_precision
from byol_ext.losses.sets import Parts, off_diagonal_covariance, variance_hinge


@full_precision
def sie(
    *,
    a: Tensor,
    b: Tensor,
    moved: Tensor,
    invariant: int,
    similarity_weight: float = 10.0,
    equivariant_factor: float = 0.45,
    variance_weight: float = 10.0,
    covariance_weight: float = 1.0,
    moved_variance: bool = True,
    gather: bool = True,
) -> tuple[Tensor, Parts]:
    """``10 mse(a_i, b_i) + w 10 mse(r(a_e), b_e) + 10 (v(a) + v(b)) / 2 + 10 v(r(a_e)) / 2 + c(a) + c(b)``.

    ``v`` is VICReg's hinge of the standard deviation at 1, ``c`` its squared off-diagonal covariance over the width,
    both on the whole embedding; ``r(a_e)`` is the equivariant part of ``a`` moved by the transformation from ``a``
    to ``b``.

    As a set term of :class:`byol_ext.bootstrap.Bootstrap`, with a
    :class:`~byol_ext.hypernetwork.GroupPredictor` named ``group``::

        SetTerm("sie", ["a", "b", "a"], partial(sie, invariant=256), keys=["a", "b", "moved"],
                on=["z", "z", "q"], predictor=[None, None, "group"])

    Args:
        a: Projections ``[B, D]`` of the first view.
        b: Projections of the second.
        moved: Predictions for the second view from the first, ``[B, D]``; only the equivariant part is read.
        invariant: ``I``, leading coordinates that are invariant.
        similarity_weight: Weight of both squared errors (official code).
        equivariant_factor: ``w``, .45 in the documented command; the code's default is 4.5.
        variance_weight: Weight of ``v`` (official code).
        covariance_weight: Weight of ``c`` (official code).
        moved_variance: Whether predictions have a variance term; without it this is the code's ``SIENoVar``.
        gather: Whether ``v`` and ``c`` use the rows of all ranks, or each rank its own.

    Returns:
        Scalar and parts ``invariance``, ``equivariance``, ``variance``, ``moved_variance``, ``covariance``, unweighted.

    Raises:
        ValueError: If the shapes differ, a part is empty, or there are fewer than two rows for a variance.

    Example:
        >>> z = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
        >>> loss, _ = sie(a=z, b=z, moved=z, invariant=1)
        >>> loss.item()
        0.0
    """
    width = a.shape[-1]
    if a.ndim != 2 or a.shape != b.shape or a.shape != moved.shape:
        raise ValueError(f"sie takes [B, D] three times, got {tuple(a.shape)}, {tuple(b.shape)}, {tuple(moved.shape)}")
    if not 0 < invariant < width:
        raise ValueError(f"invariant={invariant} of width {width} leaves a part empty; expected 1 to {width - 1}")
    a_BD, b_BD, moved_BE = as_float(a), as_float(b), as_float(moved)[:, invariant:]
    invariance = (a_BD[:, :invariant] - b_BD[:, :invariant]).square().mean()
    equivariance = (moved_BE - b_BD[:, invariant:]).square().mean()
    a_GD, b_GD, moved_GE = (gather_rows(x) if gather else x for x in (a_BD, b_BD, moved_BE))
    if len(a_GD) < 2:
        raise ValueError("sie needs at least two rows for a variance; set drop_last=True or a larger batch")
    variance = (variance_hinge(a_GD) + variance_hinge(b_GD)) / 2
    covariance = off_diagonal_covariance(a_GD) + off_diagonal_covariance(b_GD)
    spread = variance_hinge(moved_GE) / 2
    loss = similarity_weight * (invariance + equivariant_factor * equivariance)
    loss = loss + variance_weight * variance + covariance_weight * covariance
    if moved_variance:
        loss = loss + variance_weight * spread
    parts = {
        "invariance": invariance,
        "equivariance": equivariance,
        "variance": variance,
        "moved_variance": spread,
        "covariance": covariance,
    }
    return loss, {name: value.detach() for name, value in parts.items()}


class SplitProjector(nn.Module):
    """Two projectors for two halves of a representation: the first ``split`` coordinates, and the rest.

    Args:
        split: Coordinates of ``y`` that the first projector reads (SIE: 256 of 512).
        first: Projector of the invariant part.
        second: Projector of the equivariant part.

    Example:
        >>> SplitProjector(3, nn.Linear(3, 8), nn.Linear(5, 4))(torch.randn(2, 8)).shape
        torch.Size([2, 12])
    """

    def __init__(self, split: int, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.split, self.first, self.second = split, first, second

    def forward(self, y: Tensor) -> Tensor:
        """``[..., Y] -> [..., I + E]``."""
        return torch.cat([self.first(y[..., : self.split]), self.second(y[..., self.split :])], -1)
