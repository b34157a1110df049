"""Decoupled contrastive learning: InfoNCE without the positive pair in the denominator (arXiv 2110.06848).

InfoNCE's gradient is ``1 - p`` times this loss's, with ``p`` the probability that the softmax gives the positive: it
vanishes when the batch is easy, as small batches are.

Legend: ``B`` local rows, ``G`` global rows (all ranks), ``D`` width, ``A`` anchors (``2B``). All compute in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from byol_ext.losses.contrastive import Parts, Similarity, anchor_logits
from byol_ext.losses.gather import gather_rows, own_columns
from byol_ext.losses.pair import full_precision, unit


@full_precision
def dcl(
    z: Tensor,
    *,
    temperature: float = 0.1,
    similarity: Similarity = "cosine",
    weight_sigma: float | None = None,
    detach_weights: bool = True,
    gather: bool = True,
) -> tuple[Tensor, Parts]:
    """DCL, and DCLW with ``weight_sigma``, over two views.

    Mean over the 2B anchors of ``-w_i s_ip / t + log sum_{k != i, p} exp(s_ik / t)``, ``w = 1`` for DCL.

    Args:
        z: Projections ``[2, B, D]``.
        temperature: Softmax temperature (.1 in the public code; spec: second-hand).
        similarity: What the cosine of a negative pair becomes: ``square`` gives DCL-sq, ``absolute`` DCL-abs.
        weight_sigma: DCLW's temperature of :func:`positive_weights` (.5 in the public code); ``None`` for DCL.
        detach_weights: Whether the weights are constants; the public code lets the gradient through them.
        gather: Whether negatives come from all ranks, or each rank has its own.

    Returns:
        Scalar and parts ``positive`` (mean of ``-w s_ip / t``), ``negative`` (mean of the log-sum) and ``accuracy``.

    Raises:
        ValueError: If ``z`` does not hold two views, or there is one row only and so no negative.

    Example:
        >>> loss, _ = dcl(torch.eye(4).expand(2, 4, 4), temperature=0.5)
        >>> round(loss.item(), 6)
        -0.208241
    """
    logits_AG, partner_A = anchor_logits(z, temperature=temperature, similarity=similarity, gather=gather)
    if logits_AG.shape[1] < 4:
        raise ValueError("dcl needs at least two rows, since a lone row has no negative; use a larger batch")
    positive_A = logits_AG.gather(1, partner_A[:, None])[:, 0]
    negatives_AG = logits_AG.scatter(1, partner_A[:, None], float("-inf"))
    accuracy = (positive_A.detach() > negatives_AG.detach().amax(1)).to(positive_A.dtype).mean()
    if weight_sigma is not None:
        weight_B = positive_weights(z, sigma=weight_sigma, gather=gather)
        positive_A = positive_A * (weight_B.detach() if detach_weights else weight_B).repeat(2)
    positive, negative = -positive_A.mean(), torch.logsumexp(negatives_AG, 1).mean()
    parts = {"positive": positive.detach(), "negative": negative.detach(), "accuracy": accuracy}
    return positive + negative, parts


def positive_weights(z: Tensor, *, sigma: float = 0.5, gather: bool = True) -> Tensor:
    """DCLW's weights ``w_i = 2 - G softmax_i(cos(z_i, z'_i) / sigma)`` of the positive pairs; their mean is one.

    Pairs that agree less than the batch's others weigh more.

    Args:
        z: Projections ``[2, B, D]``.
        sigma: Temperature of the softmax over the batch (.5 in the public code).
        gather: Whether the softmax is over the rows of all ranks.

    Returns:
        ``[B]``, with gradient.
    """
    cosine_B = (unit(z[0]) * unit(z[1])).sum(-1)
    cosine_G = gather_rows(cosine_B) if gather else cosine_B
    share_G = torch.softmax(cosine_G / sigma, 0)
    return 2.0 - len(share_G) * share_G[own_columns(cosine_B, gather=gather)]
