"""Contrastive set losses, with negatives gathered across ranks.

Legend: ``B`` local rows, ``G`` global rows (all ranks), ``D`` width, ``A`` anchors. All compute in float32.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from byol_ext.losses.gather import gather_rows, own_columns
from byol_ext.losses.pair import full_precision, unit

Parts = dict[str, Tensor]
Similarity = Literal["cosine", "square", "absolute"]


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
    label_B = own_columns(a_BD, gather=gather)
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
    label_B = own_columns(a_BD)
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
def nt_xent(
    z: Tensor, *, temperature: float = 0.1, similarity: Similarity = "cosine", gather: bool = True
) -> tuple[Tensor, Parts]:
    """SimCLR's loss over two views (arXiv 2002.05709, eq. 1; temperature .1 of its ImageNet runs).

    Mean over the 2B anchors of ``-s_ip / t + log sum_{k != i} exp(s_ik / t)``.

    Args:
        z: Projections ``[2, B, D]``.
        temperature: Softmax temperature.
        similarity: What the cosine of a *negative* pair becomes: ``square`` gives SimCLR-sq, ``absolute`` SimCLR-abs
            (arXiv 2206.02574, 3); the positive pair keeps its cosine.
        gather: Whether negatives come from all ranks, or each rank has its own.

    Returns:
        Scalar and part ``accuracy``.

    Raises:
        ValueError: If ``z`` does not hold two views, or ``similarity`` is unknown.

    Example:
        >>> z = torch.eye(2).expand(2, 2, 2)
        >>> loss, _ = nt_xent(z, temperature=1.0)
        >>> torch.allclose(loss, -1 + torch.log(torch.e + torch.tensor(2.0)))
        True
    """
    logits_AG, partner_A = anchor_logits(z, temperature=temperature, similarity=similarity, gather=gather)
    correct_A = logits_AG.detach().argmax(1) == partner_A
    return F.cross_entropy(logits_AG, partner_A), {"accuracy": correct_A.to(logits_AG.dtype).mean()}


@full_precision
def directclr(
    y: Tensor, *, coordinates: int = 360, temperature: float = 0.1, gather: bool = True
) -> tuple[Tensor, Parts]:
    """DirectCLR: InfoNCE on the first coordinates of the *representation*, without a projector (arXiv 2110.09348).

    The other coordinates learn through the residual connections of the backbone. Use it as
    ``SetTerm(..., on="y")`` with branches that have no projector.

    Args:
        y: Representations ``[2, B, D]``.
        coordinates: How many coordinates the loss sees (official code: 360 of 2048).
        temperature: Softmax temperature (official code: .1).
        gather: Whether negatives come from all ranks, or each rank has its own.

    Returns:
        Scalar and the parts of :func:`infonce_cross`.

    Raises:
        ValueError: If ``y`` does not hold two views, or fewer coordinates than asked for.
    """
    _check_two_views(y, "directclr")
    if not 1 <= coordinates <= y.shape[-1]:
        raise ValueError(f"coordinates={coordinates} must lie between 1 and the width {y.shape[-1]}")
    return infonce_cross(a=y[0, :, :coordinates], b=y[1, :, :coordinates], scale=1.0 / temperature, gather=gather)


def anchor_logits(
    z: Tensor, *, temperature: float, similarity: Similarity = "cosine", gather: bool = True
) -> tuple[Tensor, Tensor]:
    """Similarities of all anchors of two views with all rows of both: what NT-Xent and its relatives reduce.

    Args:
        z: Projections ``[2, B, D]``; call it with autocast off.
        temperature: What cosines are divided by.
        similarity: Transform of the cosine of negative pairs.
        gather: Whether the columns come from all ranks.

    Returns:
        Logits ``[A, 2G]`` of the ``A = 2B`` local anchors (view 0, then view 1), ``-inf`` where an anchor meets itself,
        and the column ``[A]`` of each anchor's partner.

    Raises:
        ValueError: If ``z`` does not hold two views, or ``similarity`` is unknown.
    """
    _check_two_views(z, "a contrastive loss")
    if similarity not in ("cosine", "square", "absolute"):
        raise ValueError(f"similarity={similarity!r} is not one of 'cosine', 'square', 'absolute'")
    unit_VBD = unit(z)
    views_GD = [gather_rows(view_BD) if gather else view_BD for view_BD in unit_VBD]
    row_B, total = own_columns(unit_VBD[0], gather=gather), len(views_GD[0])
    own_A, partner_A = torch.cat([row_B, row_B + total]), torch.cat([row_B + total, row_B])
    cosine_AG = unit_VBD.flatten(0, 1) @ torch.cat(views_GD).T
    if similarity == "cosine":
        kept_AG = cosine_AG
    else:
        changed_AG = cosine_AG.square() if similarity == "square" else cosine_AG.abs()
        kept_AG = changed_AG.scatter(1, partner_A[:, None], cosine_AG.gather(1, partner_A[:, None]))
    return (kept_AG / temperature).scatter(1, own_A[:, None], float("-inf")), partner_A


def _check_two_views(z: Tensor, what: str) -> None:
    if z.ndim != 3 or z.shape[0] != 2:
        raise ValueError(f"{what} takes two views [2, B, D], got {tuple(z.shape)}")


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
