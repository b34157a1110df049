"""SemPPL: semantic positives by pseudo-labels (arXiv 2301.05158), for data of which a few rows have labels.

The target latents of labelled rows go to a queue. A row without a label takes that of its nearest queue items, by vote
of its views; beside its other views it is then pulled to a queue item of the same label. Temperature, queue length,
number of neighbours and weight are second-hand, and which latents vote is ours: the targets of all views.

Legend: ``V`` views, ``B`` local rows, ``N`` queue slots, ``M`` votes, ``D`` width. All compute in float32.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from byol_ext.losses.pair import as_float, full_precision, unit
from byol_ext.losses.soft_targets import contrast_targets
from byol_ext.queue import UNLABELLED, Queue

Parts = dict[str, Tensor]


@full_precision
def semppl(
    z: Tensor,
    *,
    label: Tensor,
    draw: Tensor,
    queue: Queue,
    semantic_weight: float = 0.2,
    temperature: float = 0.2,
    neighbours: int = 1,
    gather: bool = True,
) -> tuple[Tensor, Parts]:
    """``A + w S``: InfoNCE of each prediction with the other views' targets, and with semantic positives.

    ``A`` is the mean over ordered pairs of views, ``S`` over views; the negatives of both are the targets of other
    samples. A row without a semantic positive counts zero in ``S``, so that with an empty queue the loss is ``A``.

    As a set term: ``SetTerm("semppl", ["a", "b", "a", "b"], semppl, on=["q", "q", "target", "target"],
    predictor=["p", "p", None, None], data=["label", "draw"], scale=Queue(20 * batch, width))``.

    Args:
        z: Predictions of the views, then the target latents of the same views ``[2V, B, D]``.
        label: Class numbers ``[B]``, -1 where unknown.
        draw: Uniform numbers in [0, 1) that pick the positives ``[B, V]``, such as
            :func:`byol_ext.rng.keyed_uniform`'s.
        queue: Target latents of labelled rows; those of this batch are staged for it.
        semantic_weight: ``w``.
        temperature: Of both softmaxes.
        neighbours: Votes a view, see :func:`pseudo_labels`.
        gather: Whether negatives and staged rows come from all ranks.

    Returns:
        Scalar and parts ``augmentation``, ``semantic`` (unweighted), ``found`` (share of rows with a semantic
        positive) and ``agreement`` (mean share of the votes for the pseudo-label).

    Raises:
        ValueError: If ``z`` does not hold predictions and targets of two views at least, or ``draw`` does not fit.
    """
    views, rows = len(z) // 2, z.shape[1]
    if z.ndim != 3 or len(z) % 2 or views < 2:
        raise ValueError(
            f"semppl takes V >= 2 predictions followed by their V targets [2V, B, D], got {tuple(z.shape)}"
        )
    if draw.shape != (rows, views):
        raise ValueError(f"draw must hold a number a row and view {(rows, views)}, got {tuple(draw.shape)}")
    q_VBD, target_VBD = z[:views], z[views:]
    guess_B, agreement_B = pseudo_labels(target_VBD, queue, neighbours=neighbours)
    index_BV, found_B = draw_positives(torch.where(label >= 0, label, guess_B), queue, draw)
    zero = as_float(z.new_zeros(()))
    augmentation, semantic = zero, zero
    for u in range(views):
        for v in range(views):
            if u != v:
                pair, _ = contrast_targets(q=q_VBD[u], target=target_VBD[v], temperature=temperature, gather=gather)
                augmentation = augmentation + pair / (views * (views - 1))
        pull, _ = contrast_targets(
            q=q_VBD[u],
            target=target_VBD[(u + 1) % views],
            positive=queue.latents[index_BV[:, u]],
            rows=found_B,
            temperature=temperature,
            gather=gather,
        )
        semantic = semantic + pull / views
    queue.stage(rearrange(target_VBD, "v b d -> (v b) d"), label.repeat(views), labelled_only=True, gather=gather)
    parts = {
        "augmentation": augmentation.detach(),
        "semantic": semantic.detach(),
        "found": found_B.float().mean(),
        "agreement": agreement_B.mean(),
    }
    return augmentation + semantic_weight * semantic, parts


@torch.no_grad()
def pseudo_labels(views: Tensor, queue: Queue, *, neighbours: int = 1) -> tuple[Tensor, Tensor]:
    """The label that the nearest labelled queue items of a row's views vote for.

    Among labels with equally many votes that of the larger summed cosine wins.

    Args:
        views: Latents of each view ``[V, B, D]``.
        queue: Labelled latents.
        neighbours: Votes a view (SemPPL 1; spec: second-hand).

    Returns:
        Labels ``[B]``, -1 where the queue has no labelled item, and the share of votes for them ``[B]``.

    Raises:
        ValueError: If ``neighbours`` is not positive.

    Example:
        >>> queue = Queue(size=4, width=2)
        >>> queue.push(torch.eye(2), torch.tensor([3, 5]))
        >>> pseudo_labels(torch.tensor([[[0.1, 0.9]], [[0.2, 0.8]], [[0.9, 0.1]]]), queue)[0].tolist()
        [5]
    """
    if neighbours < 1:
        raise ValueError(f"neighbours={neighbours} must be positive")
    # Empty slots have no label either.
    usable_N = queue.labels >= 0
    views_VBD = unit(views)
    similarity_BVN = rearrange(views_VBD @ unit(queue.latents).to(views_VBD.dtype).T, "v b n -> b v n")
    similarity_BVN = similarity_BVN.masked_fill(~usable_N, float("-inf"))
    cosine_BVK, index_BVK = similarity_BVN.topk(min(neighbours, len(usable_N)), dim=2)
    cosine_BM, vote_BM = cosine_BVK.flatten(1), queue.labels[index_BVK].flatten(1)
    cast_BM = cosine_BM > float("-inf")
    same_BMM = (vote_BM[:, :, None] == vote_BM[:, None, :]) & cast_BM[:, None, :]
    count_BM = same_BMM.sum(2)
    summed_BM = (same_BMM * cosine_BM.masked_fill(~cast_BM, 0.0)[:, None, :]).sum(2)
    # Summed cosines of two labels differ by 2M at most: they decide between equal counts only.
    score_BM = (count_BM + summed_BM / (4 * vote_BM.shape[1])).masked_fill(~cast_BM, float("-inf"))
    best_B1 = score_BM.argmax(1, keepdim=True)
    any_B = cast_BM.any(1)
    label_B = torch.where(any_B, vote_BM.gather(1, best_B1)[:, 0], UNLABELLED)
    share_B = count_BM.gather(1, best_B1)[:, 0] / cast_BM.sum(1).clamp_min(1) * any_B
    return label_B, share_B


@torch.no_grad()
def draw_positives(label: Tensor, queue: Queue, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Queue items with the label of each row, all equally probable.

    Args:
        label: Labels ``[B]``, -1 where unknown.
        queue: Labelled latents.
        draw: Uniform numbers in [0, 1) ``[B, V]``.

    Returns:
        Slots ``[B, V]``, arbitrary where there is none, and whether the row found any ``[B]``.
    """
    match_BN = (label[:, None] == queue.labels) & (label >= 0)[:, None]
    reached_BN = match_BN.cumsum(1)
    count_B1 = reached_BN[:, -1:]
    nth_BV = torch.minimum((draw * count_B1).long() + 1, count_B1)
    slot_BV = torch.searchsorted(reached_BN, nth_BV)
    return slot_BV.clamp_max(len(queue.labels) - 1), count_B1[:, 0] > 0
