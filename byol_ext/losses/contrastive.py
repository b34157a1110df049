"""Contrastive set losses, with negatives gathered across ranks.

Legend: ``B`` local rows, ``G`` global rows (all ranks), ``D`` width. All compute in float32.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from byol_ext.losses.gather import gather_rows, world
from byol_ext.losses.pair import full_precision, unit

Parts = dict[str, Tensor]


@full_precision
def infonce_cross(
    *,
    a: Tensor,
    b: Tensor,
    scale: Tensor | float,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    directions: Literal["mean", "sum"] = "mean",
    gather: bool = True,
) -> tuple[Tensor, Parts]:
    """CLIP/CLAP loss: each row picks its partner among all rows of the other view, both ways.

    ``L = (CE(scale a b^T) + CE(scale b a^T)) / 2`` on unit vectors (spec slap 11). ViDiDi's SimCLR is this loss with
    ``scale=10``, ``directions="sum"`` and ``gather=False`` (spec vididi 3).

    Args:
        a: First view ``[B, D]``.
        b: Second view ``[B, D]``; row i belongs to row i of ``a``.
        scale: Inverse temperature, for example ``exp(s)`` of :class:`byol_ext.heads.LogitScale`.
        mask: Rows that have both views ``[B]``; others are neither anchors nor negatives. Default: all.
        groups: Caption ids ``[B]``, int64: rows with an equal id are not each other's negatives. Default: none.
        directions: ``mean`` halves the sum over the two ways, ``sum`` does not.
        gather: Whether negatives come from all ranks, or each rank has its own.

    Returns:
        Scalar and parts ``a_to_b``, ``b_to_a``, ``accuracy``. The mean is over all local rows, masked ones
        counting zero, so that it adds up over ranks.
    """
    a_BD, b_BD = unit(a), unit(b)
    a_GD, b_GD = (gather_rows(a_BD), gather_rows(b_BD)) if gather else (a_BD, b_BD)
    label_B = _own_columns(a_BD, gather=gather)
    blocked_BG = _blocked(label_B, len(a_GD), mask, groups, gather=gather)
    row_weight_B = torch.ones_like(a_BD[:, 0]) if mask is None else mask.to(a_BD.dtype)

    def one_way(x_BD: Tensor, y_GD: Tensor) -> tuple[Tensor, Tensor]:
        logits_BG = scale * x_BD @ y_GD.T
        if blocked_BG is not None:
            logits_BG = logits_BG.masked_fill(blocked_BG, float("-inf"))
        loss_B = F.cross_entropy(logits_BG, label_B, reduction="none")
        correct_B = (logits_BG.detach().argmax(1) == label_B).to(loss_B.dtype)
        # An own column is never blocked, so a masked row has a finite loss, which its weight zeroes.
        return (loss_B * row_weight_B).mean(), (correct_B * row_weight_B).mean()

    a_to_b, hit_ab = one_way(a_BD, b_GD)
    b_to_a, hit_ba = one_way(b_BD, a_GD)
    parts = {"a_to_b": a_to_b.detach(), "b_to_a": b_to_a.detach(), "accuracy": (hit_ab + hit_ba) / 2}
    loss = a_to_b + b_to_a
    return (loss / 2 if directions == "mean" else loss), parts


@full_precision
def sigmoid_pairs(
    *,
    a: Tensor,
    b: Tensor,
    scale: Tensor | float,
    bias: Tensor | float = 0.0,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    chunk: int = 1024,
) -> tuple[Tensor, Parts]:
    """SigLIP loss: every pair of rows is a yes/no question (arXiv 2303.15343).

    ``L = mean_i sum_j softplus(-y_ij (scale cos_ij + bias))`` with ``y = +1`` on the diagonal, -1 elsewhere.

    Args:
        a: First view ``[B, D]``.
        b: Second view ``[B, D]``.
        scale: Inverse temperature.
        bias: Added to the logits.
        mask: Rows that have both views ``[B]``. Default: all.
        groups: Caption ids ``[B]``: rows with an equal id are left out as negatives. Default: none.
        chunk: Columns computed at a time; bounds the ``[B, chunk]`` logits.

    Returns:
        Scalar and parts ``positive``, ``negative``.
    """
    a_BD, b_GD = unit(a), gather_rows(unit(b))
    label_B = _own_columns(a_BD)
    row_weight_B = torch.ones_like(a_BD[:, 0]) if mask is None else mask.to(a_BD.dtype)
    blocked_BG = _blocked(label_B, len(b_GD), mask, groups)
    own_B = scale * (a_BD * b_GD[label_B]).sum(-1) + bias
    positive = (F.softplus(-own_B) * row_weight_B).mean()
    negative = own_B.new_zeros(())
    for start in range(0, len(b_GD), chunk):
        logits_BC = scale * a_BD @ b_GD[start : start + chunk].T + bias
        column_C = torch.arange(start, start + logits_BC.shape[1], device=a.device)
        keep_BC = column_C[None] != label_B[:, None]
        if blocked_BG is not None:
            keep_BC &= ~blocked_BG[:, start : start + chunk]
        negative = negative + ((F.softplus(logits_BC) * keep_BC).sum(1) * row_weight_B).mean()
    return positive + negative, {"positive": positive.detach(), "negative": negative.detach()}


@full_precision
def nt_xent(z: Tensor, *, temperature: float = 0.1, gather: bool = True) -> tuple[Tensor, Parts]:
    """SimCLR's loss over two views (arXiv 2002.05709, eq. 1; temperature .1 of its ImageNet runs).

    Mean over the 2B anchors of ``-s_ip / t + log sum_{k != i} exp(s_ik / t)``.

    Args:
        z: Projections ``[2, B, D]``.
        temperature: Softmax temperature.
        gather: Whether negatives come from all ranks, or each rank has its own.

    Returns:
        Scalar and part ``accuracy``.

    Raises:
        ValueError: If ``z`` does not hold two views.

    Example:
        >>> z = torch.eye(2).expand(2, 2, 2)
        >>> loss, _ = nt_xent(z, temperature=1.0)
        >>> torch.allclose(loss, -1 + torch.log(torch.e + torch.tensor(2.0)))
        True
    """
    if z.ndim != 3 or z.shape[0] != 2:
        raise ValueError(f"nt_xent takes two views [2, B, D], got {tuple(z.shape)}")
    a_BD, b_BD = unit(z[0]), unit(z[1])
    a_GD, b_GD = (gather_rows(a_BD), gather_rows(b_BD)) if gather else (a_BD, b_BD)
    label_B, total = _own_columns(a_BD, gather=gather), len(a_GD)
    bank_D = torch.cat([a_GD, b_GD])

    def anchors(x_BD: Tensor, own_offset: int, partner_offset: int) -> tuple[Tensor, Tensor]:
        logits = x_BD @ bank_D.T / temperature
        logits = logits.scatter(1, (label_B + own_offset)[:, None], float("-inf"))
        target = label_B + partner_offset
        return F.cross_entropy(logits, target), (logits.detach().argmax(1) == target).to(logits.dtype).mean()

    loss_a, hit_a = anchors(a_BD, 0, total)
    loss_b, hit_b = anchors(b_BD, total, 0)
    return (loss_a + loss_b) / 2, {"accuracy": (hit_a + hit_b) / 2}


def _own_columns(x_BD: Tensor, *, gather: bool = True) -> Tensor:
    """Column of each local row ``[B]`` among the gathered ones."""
    rank = world()[0] if gather else 0
    return torch.arange(len(x_BD), device=x_BD.device) + rank * len(x_BD)


def _blocked(
    label_B: Tensor, total: int, mask: Tensor | None, groups: Tensor | None, *, gather: bool = True
) -> Tensor | None:
    """Columns ``[B, G]`` that must not count as negatives; never an anchor's own column."""
    if mask is None and groups is None:
        return None
    blocked_BG = torch.zeros(len(label_B), total, dtype=torch.bool, device=label_B.device)
    if mask is not None:
        kept_B = mask.to(torch.bool)
        blocked_BG |= ~(gather_rows(kept_B) if gather else kept_B)[None]
    if groups is not None:
        blocked_BG |= groups[:, None] == (gather_rows(groups) if gather else groups)[None]
    return blocked_BG.scatter(1, label_B[:, None], False)
