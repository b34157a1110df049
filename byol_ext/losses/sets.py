"""Set losses without negatives: statistics of the whole batch, gathered across ranks.

Legend: ``V`` views, ``B`` local rows, ``G`` global rows, ``D`` width. All compute in float32.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from byol_ext.losses.gather import gather_rows
from byol_ext.losses.pair import as_float, full_precision

Parts = dict[str, Tensor]


@full_precision
def vicreg(
    z: Tensor,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    variance_reduction: Literal["half", "sum"] = "half",
    invariance: Literal["mean", "sum"] = "mean",
    directions: Literal["mean", "sum"] = "mean",
    gather: bool = True,
) -> tuple[Tensor, Parts]:
    """VICReg over two views (arXiv 2105.04906; defaults of the official code).

    ``25 s + 25 (v(z) + v(z')) / 2 + (c(z) + c(z'))`` with ``s`` the mean squared difference, ``v`` the hinge of the
    per-dimension standard deviation at 1, and ``c`` the squared off-diagonal covariance over ``D``.

    ViDiDi's code has weights 1, 1, .04, ``directions="sum"`` and ``gather=False`` (spec vididi 3).

    Args:
        z: Projections ``[2, B, D]``. ``s`` uses local rows, ``v`` and ``c`` the rows of all ranks.
        invariance_weight: Weight of ``s``.
        variance_weight: Weight of ``v``.
        covariance_weight: Weight of ``c``.
        variance_reduction: ``half`` averages ``v`` over the views (official code), ``sum`` adds (solo-learn).
        invariance: ``mean`` over ``D`` (official code) or ``sum`` over ``D`` (the paper's formula).
        directions: ``sum`` adds the loss of (z, z') and that of (z', z), which doubles it; ``mean`` averages them.
        gather: Whether ``v`` and ``c`` use the rows of all ranks, or each rank its own.

    Returns:
        Scalar and parts ``invariance``, ``variance``, ``covariance`` (unweighted).

    Raises:
        ValueError: If ``z`` does not hold two views or fewer than two rows for a variance.
    """
    if z.ndim != 3 or z.shape[0] != 2:
        raise ValueError(f"vicreg takes two views [2, B, D], got {tuple(z.shape)}")
    a_BD, b_BD = as_float(z[0]), as_float(z[1])
    squared_BD = (a_BD - b_BD).square()
    s = squared_BD.mean() if invariance == "mean" else squared_BD.sum(-1).mean()
    a_GD, b_GD = (gather_rows(a_BD), gather_rows(b_BD)) if gather else (a_BD, b_BD)
    if len(a_GD) < 2:
        raise ValueError("vicreg needs at least two rows for a variance; set drop_last=True or a larger batch")
    v = variance_hinge(a_GD) + variance_hinge(b_GD)
    if variance_reduction == "half":
        v = v / 2
    c = off_diagonal_covariance(a_GD) + off_diagonal_covariance(b_GD)
    loss = invariance_weight * s + variance_weight * v + covariance_weight * c
    if directions == "sum":
        loss = 2.0 * loss
    return loss, {"invariance": s.detach(), "variance": v.detach(), "covariance": c.detach()}


def variance_hinge(z_GD: Tensor, *, target: float = 1.0, eps: float = 1e-4) -> Tensor:
    """``mean_j max(0, target - sqrt(Var_j + eps))`` with the unbiased variance.

    Args:
        z_GD: Projections ``[G, D]``.
        target: Standard deviation from which a dimension costs nothing.
        eps: Added to the variance.
    """
    return F.relu(target - torch.sqrt(z_GD.var(dim=0) + eps)).mean()


def off_diagonal_covariance(z_GD: Tensor) -> Tensor:
    """``sum_{i != j} C_ij^2 / D`` of the covariance with denominator ``G - 1``.

    Args:
        z_GD: Projections ``[G, D]``.
    """
    centred_GD = z_GD - z_GD.mean(dim=0)
    covariance_DD = centred_GD.T @ centred_GD / (len(z_GD) - 1)
    return (covariance_DD.square().sum() - covariance_DD.diagonal().square().sum()) / z_GD.shape[1]
