"""Expectations over the order of equal scores: the arithmetic under `retrieval`.

Legend: `Q` queries, `C` candidates, `P` correct candidates of a query (padded with -inf), `J` places in a tie. Of a
query, `a` candidates score above a reference, `e` are level with it, and `p` of those are correct.
"""

import torch
from torch import Tensor

DEPTH = 10
"""Ranks that average precision looks at."""
TIE_TOLERANCE = 1e-6
"""Scores closer than this are equal: the rounding of a float32 product differs between columns, and would otherwise
order identical vectors."""


def above_and_tied(score_QC: Tensor, reference_Q1: Tensor) -> tuple[Tensor, Tensor]:
    """How many scores of a row lie above its reference, and how many are level with it; int64 [Q] each.

    >>> [count.tolist() for count in above_and_tied(torch.tensor([[0.9, 0.5, 0.5]]), torch.tensor([[0.5]]))]
    [[1], [2]]
    """
    above_Q = (score_QC > reference_Q1 + TIE_TOLERANCE).sum(dim=1)
    return above_Q, (score_QC >= reference_Q1 - TIE_TOLERANCE).sum(dim=1) - above_Q


def hit_probability(pool: Tensor, correct: Tensor, drawn: Tensor) -> Tensor:
    """P(at least one correct) when `drawn` of `pool` items, `correct` of them right, are drawn; float64, broadcast.

    The miss probability is the product over j < correct of (pool - drawn - j) / (pool - j).

    >>> hit_probability(torch.tensor(4), torch.tensor(1), torch.tensor([1, 4])).tolist()
    [0.25, 1.0]
    """
    pool, correct, drawn = torch.broadcast_tensors(pool.double(), correct.double(), drawn.double())
    miss = torch.ones_like(pool)
    for j in range(int(correct.max()) if correct.numel() else 0):
        factor = ((pool - drawn - j).clamp(min=0) / (pool - j).clamp(min=1)).clamp(max=1)
        miss = torch.where(correct > j, miss * factor, miss)
    return 1.0 - miss


def expected_reciprocal(above_Q: Tensor, tied_Q: Tensor, correct_Q: Tensor) -> Tensor:
    """Expected 1 / rank of the best correct item, float64 [Q].

    Args:
        above_Q: `a` of the best correct item.
        tied_Q: `e`, itself included.
        correct_Q: `p`, at least 1.

    >>> expected_reciprocal(torch.tensor([1]), torch.tensor([2]), torch.tensor([1])).tolist() == [(1 / 2 + 1 / 3) / 2]
    True
    """
    out_Q = 1.0 / (above_Q + 1).double()
    open_Q = tied_Q > correct_Q
    triples, which = torch.stack([above_Q, tied_Q, correct_Q], dim=1)[open_Q].unique(dim=0, return_inverse=True)
    values = out_Q.new_zeros(len(triples))
    for i, (above, tied, correct) in enumerate(triples.tolist()):
        place_J = torch.arange(1, tied - correct + 2, device=out_Q.device)
        reached_J = hit_probability(torch.tensor(tied), torch.tensor(correct), place_J)
        share_J = torch.diff(reached_J, prepend=reached_J.new_zeros(1))
        values[i] = (share_J / (above + place_J)).sum()
    out_Q[open_Q] = values[which]
    return out_Q


def average_precision(similarity_QC: Tensor, score_QP: Tensor, valid_QP: Tensor) -> Tensor:
    """AP@10: precision at the rank of each correct item of the first 10, summed, over min(m, 10); float64 [Q].

    LAION's rule for several captions (spec slap section 12.1). A correct item is equally likely at every place of its
    tie, and the other correct ones of the tie are spread evenly over the places that are left.

    Args:
        similarity_QC: scores of all candidates.
        score_QP: scores of the correct ones, -inf where there are fewer than P.
        valid_QP: where `score_QP` holds a candidate.
    """
    sorted_QP = score_QP.sort(dim=1, descending=True).values
    total_Q = torch.zeros(len(score_QP), dtype=torch.float64, device=score_QP.device)
    place_J = torch.arange(1, DEPTH + 1, device=score_QP.device)
    for slot in range(sorted_QP.shape[1]):
        reference_Q1 = sorted_QP[:, slot : slot + 1]
        above_Q, tied_Q = above_and_tied(similarity_QC, reference_Q1)
        in_reach_Q = torch.isfinite(reference_Q1[:, 0]) & (above_Q < DEPTH)
        if not bool(in_reach_Q.any()):
            break
        found_Q, right_Q = above_and_tied(score_QP, reference_Q1)
        rank_QJ = above_Q[:, None] + place_J
        share_Q = (right_Q - 1).double() / (tied_Q - 1).clamp(min=1)
        precision_QJ = (found_Q[:, None] + 1 + share_Q[:, None] * (place_J - 1)) / rank_QJ
        counts_QJ = in_reach_Q[:, None] & (place_J <= tied_Q[:, None]) & (rank_QJ <= DEPTH)
        total_Q += torch.where(counts_QJ, precision_QJ, 0.0).sum(dim=1) / tied_Q.clamp(min=1)
    return total_Q / valid_QP.sum(dim=1).clamp(max=DEPTH)
