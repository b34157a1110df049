"""Soft targets between samples (ASCL, arXiv 2207.11163), for BYOL and for MoCo; contrast against target latents.

A row's target latent is compared with those of other samples; where few of them stand out, a part of the row's label
moves to them. Defaults are those of the public code (its ``model.py``). The paper's target sees a weak augmentation.

Legend: ``B`` local rows, ``G`` global rows (all ranks), ``N`` candidates, ``D`` width. All compute in float32.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from byol_ext.losses.gather import gather_rows, own_columns
from byol_ext.losses.pair import as_float, full_precision, unit

Parts = dict[str, Tensor]
Kind = Literal["soft", "hard", "ahcl"]


@torch.no_grad()
def neighbour_weights(
    similarity: Tensor,
    *,
    candidates: Tensor | None = None,
    temperature: float = 0.05,
    neighbours: int = 1,
    kind: Kind = "soft",
) -> tuple[Tensor, Tensor]:
    """Weights of other samples beside an own positive of weight 1.

    With ``r = softmax(s / t)`` over the ``n`` candidates of a row and the confidence ``c = 1 - H(r) / log n``:
    ``soft`` is ``min(1, k c r)``; ``hard`` gives 1 to the ``k`` nearest, ``ahcl`` gives them ``c``. Fewer than two
    candidates give no confidence.

    Args:
        similarity: Cosines ``[B, N]``.
        candidates: Which count, bool ``[B, N]`` or ``[N]``; default: all.
        temperature: The teacher's.
        neighbours: ``k``, from 1 to 5 in the paper; 0 for no neighbour at all.
        kind: Which of the three.

    Returns:
        Weights ``[B, N]`` in [0, 1] and confidences ``[B]``, without gradient.

    Raises:
        ValueError: If ``kind`` is unknown or ``neighbours`` negative.

    Example:
        >>> weight, confidence = neighbour_weights(torch.tensor([[1.0, 0.0, 0.0]]), neighbours=5)
        >>> weight.round(decimals=3).tolist(), confidence.round(decimals=3).tolist()
        ([[1.0, 0.0, 0.0]], [1.0])
    """
    if kind not in ("soft", "hard", "ahcl"):
        raise ValueError(f"kind={kind!r} is not one of 'soft', 'hard', 'ahcl'")
    if neighbours < 0:
        raise ValueError(f"neighbours={neighbours} must not be negative")
    similarity = as_float(similarity)
    allowed = torch.ones_like(similarity, dtype=torch.bool)
    if candidates is not None:
        allowed &= candidates
    logits = (similarity / temperature).masked_fill(~allowed, float("-inf"))
    relation = torch.softmax(logits, 1).masked_fill(~allowed, 0.0)
    count = allowed.sum(1).to(similarity.dtype)
    entropy = -torch.special.xlogy(relation, relation).sum(1)
    confidence = (1.0 - entropy / count.clamp_min(2).log()).clamp(0.0, 1.0) * (count > 1)
    if kind == "soft":
        return (neighbours * confidence[:, None] * relation).clamp_max(1.0), confidence
    nearest = logits.topk(min(neighbours, logits.shape[1]), dim=1).indices
    chosen = torch.zeros_like(similarity).scatter(1, nearest, 1.0) * allowed
    return (chosen if kind == "hard" else chosen * confidence[:, None]), confidence


@full_precision
def soft_byol(
    *,
    q: Tensor,
    target: Tensor,
    temperature: float = 0.05,
    neighbours: int = 1,
    kind: Kind = "soft",
    gather: bool = True,
) -> tuple[Tensor, Parts]:
    """ASCL on BYOL: ``2 - 2 sum_j w_ij <q_i, z_j>`` with the targets of the batch, ``w`` of rows summing to one.

    Where no target stands out it is BYOL's :func:`byol_ext.losses.pair.normalized_mse`. As a set term:
    ``SetTerm("ab", ["a", "b"], soft_byol, keys=["q", "target"], on=["q", "target"], predictor=["p", None])``.

    Args:
        q: Predictions ``[B, D]``.
        target: Target latents ``[B, D]`` of another view; row i belongs to row i of ``q``.
        temperature: The teacher's, see :func:`neighbour_weights`.
        neighbours: ``k``.
        kind: How neighbours are weighted.
        gather: Whether neighbours come from all ranks.

    Returns:
        Scalar and parts ``confidence`` and ``own`` (mean weight of the own target).
    """
    q_BD, target_BD = unit(q), unit(target)
    target_GD = gather_rows(target_BD) if gather else target_BD
    own_B1 = own_columns(target_BD, gather=gather)[:, None]
    cosine_BG = target_BD @ target_GD.T
    others_BG = torch.ones_like(cosine_BG, dtype=torch.bool).scatter(1, own_B1, False)
    weight_BG, confidence_B = neighbour_weights(
        cosine_BG, candidates=others_BG, temperature=temperature, neighbours=neighbours, kind=kind
    )
    label_BG = _normalised(weight_BG.scatter(1, own_B1, 1.0))
    loss = 2.0 - 2.0 * (label_BG * (q_BD @ target_GD.T)).sum(1).mean()
    return loss, {"confidence": confidence_B.mean(), "own": label_BG.gather(1, own_B1).mean()}


@full_precision
def soft_info_nce(
    *,
    q: Tensor,
    target: Tensor,
    bank: Tensor,
    candidates: Tensor | None = None,
    student_temperature: float = 0.1,
    temperature: float = 0.05,
    neighbours: int = 1,
    kind: Kind = "soft",
) -> tuple[Tensor, Parts]:
    """ASCL on MoCo: cross-entropy of the student's softmax over the own target and a bank, with soft labels.

    ``neighbours=0`` is MoCo's InfoNCE. With an empty bank the loss is zero.

    Args:
        q: Online latents (MoCo) or predictions ``[B, D]``.
        target: Target latents ``[B, D]`` of another view.
        bank: Target latents of other samples ``[N, D]``, see :class:`byol_ext.queue.Queue`.
        candidates: Which rows of the bank count, bool ``[N]``; default: all.
        student_temperature: Of the softmax that learns.
        temperature: The teacher's, see :func:`neighbour_weights`.
        neighbours: ``k``.
        kind: How neighbours are weighted.

    Returns:
        Scalar and parts ``confidence``, ``own`` (mean weight of the own target) and ``accuracy`` (how often the own
        target is the nearest).
    """
    q_BD, target_BD = unit(q), unit(target)
    bank_ND = unit(bank).to(q_BD.dtype)
    allowed_N = torch.ones(len(bank), dtype=torch.bool, device=q.device) if candidates is None else candidates
    weight_BN, confidence_B = neighbour_weights(
        target_BD @ bank_ND.T, candidates=allowed_N, temperature=temperature, neighbours=neighbours, kind=kind
    )
    label_BN = _normalised(torch.cat([torch.ones_like(weight_BN[:, :1]), weight_BN], 1))
    logits_BN = torch.cat([(q_BD * target_BD).sum(1, keepdim=True), q_BD @ bank_ND.T], 1) / student_temperature
    blocked_N = torch.cat([allowed_N.new_zeros(1), ~allowed_N])
    logits_BN = logits_BN.masked_fill(blocked_N, float("-inf"))
    log_p_BN = torch.log_softmax(logits_BN, 1).masked_fill(blocked_N, 0.0)
    correct_B = logits_BN.detach().argmax(1) == 0
    parts = {
        "confidence": confidence_B.mean(),
        "own": label_BN[:, 0].mean(),
        "accuracy": correct_B.to(q_BD.dtype).mean(),
    }
    return -(label_BN * log_p_BN).sum(1).mean(), parts


@full_precision
def contrast_targets(
    *,
    q: Tensor,
    target: Tensor,
    positive: Tensor | None = None,
    rows: Tensor | None = None,
    temperature: float = 0.2,
    gather: bool = True,
) -> tuple[Tensor, Parts]:
    """InfoNCE of predictions against target latents, one way: a positive among the targets of the other samples.

    Args:
        q: Predictions ``[B, D]``.
        target: Target latents ``[B, D]`` of a view; those of other samples are the negatives.
        positive: What each row is to pick ``[B, D]``; default: its own target. The own target is never a negative.
        rows: Rows that count, bool ``[B]``; the others count zero in the mean. Default: all.
        temperature: Of the softmax (SemPPL .2; spec: second-hand).
        gather: Whether negatives come from all ranks.

    Returns:
        Scalar and part ``accuracy`` (over the rows that count).

    Example:
        >>> loss, _ = contrast_targets(q=torch.eye(2), target=torch.eye(2), temperature=1.0)
        >>> torch.allclose(loss, torch.log1p(torch.exp(torch.tensor(-1.0))))
        True
    """
    q_BD, target_BD = unit(q), unit(target)
    positive_BD = target_BD if positive is None else unit(positive).to(q_BD.dtype)
    target_GD = gather_rows(target_BD) if gather else target_BD
    own_B1 = own_columns(target_BD, gather=gather)[:, None]
    logits_BG = (q_BD @ target_GD.T).scatter(1, own_B1, (q_BD * positive_BD).sum(1, keepdim=True)) / temperature
    counted_B = torch.ones_like(q_BD[:, 0]) if rows is None else rows.to(q_BD.dtype)
    loss_B = -torch.log_softmax(logits_BG, 1).gather(1, own_B1)[:, 0]
    correct_B = logits_BG.detach().argmax(1) == own_B1[:, 0]
    accuracy = (correct_B * counted_B).sum() / counted_B.sum().clamp_min(1.0)
    return (loss_B * counted_B).mean(), {"accuracy": accuracy}


def _normalised(label_BN: Tensor) -> Tensor:
    return label_BN / label_BN.sum(1, keepdim=True)
