"""Cross-modal retrieval: where does the right item rank?

Source: `specs/slap.md` section 12.1.

Legend: `Q` queries, `C` candidates, `N` audio items, `M` captions, `P` correct candidates of a query (padded),
`D` embedding width.

Protocol `multi` (several captions an audio): text to audio, every caption is a query and one audio is correct;
audio to text, all captions of all items are the pool and the best-ranked of an item's own captions counts.

Ties. Equal scores count as if they were put in random order, and every metric is taken over all such orders: so a
collapsed model scores exactly `chance_metrics`, and duplicate captions of the *same* item cost nothing. With `a`
candidates above the best correct one, `e` equal ones (itself included) and `p` of those correct, the expected rank
is `a + (e + 1) / (p + 1)`; for p = 1 that is the mid-rank `1 + a + (e - 1) / 2`. Metrics of that one rank, such as
`rank <= k`, are the option `ties="mid"`: a collapsed model then has R@k = 0. What is equal: `ties.TIE_TOLERANCE`.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from byol_ext.metrics.ties import DEPTH, above_and_tied, average_precision, expected_reciprocal, hit_probability

KS = (1, 5, 10)
Ties = Literal["mid", "expected"]


@dataclass(frozen=True)
class Ranking:
    """Where the correct candidates of every query stand; one direction of retrieval. All tensors on the CPU.

    Attributes:
        above_Q: candidates that score better than the best correct one, int64.
        tied_Q: candidates that score as well as the best correct one, itself included, int64.
        tied_correct_Q: how many of `tied_Q` are correct, int64, at least 1.
        correct_Q: correct candidates of the query, int64.
        average_precision_Q: average precision at depth 10, divided by min(correct, 10), expected over the order of
            ties, float64 in [0, 1].
        candidates: size of the pool that every query ranks.
    """

    above_Q: Tensor
    tied_Q: Tensor
    tied_correct_Q: Tensor
    correct_Q: Tensor
    average_precision_Q: Tensor
    candidates: int

    @property
    def ranks_Q(self) -> Tensor:
        """Rank of the best correct candidate, 1-based, expected over the order of ties, float64 [Q]."""
        return self.above_Q.double() + (self.tied_Q + 1) / (self.tied_correct_Q + 1).double()

    def hits_Q(self, k: int, *, ties: Ties = "expected") -> Tensor:
        """Is a correct candidate among the first `k`? float64 [Q] in [0, 1], one value a query, for bootstraps.

        Args:
            k: list length, at least 1.
            ties: "expected" is the probability over a random order of the tied candidates; "mid" asks `rank <= k` of
                the mid-rank (spec section 12.1). The two agree unless a tie straddles position k.
        """
        if k < 1:
            raise ValueError(f"k = {k}, expected at least 1")
        if ties == "mid":
            return (self.ranks_Q <= k).double()
        drawn_Q = (k - self.above_Q).clamp(min=0).minimum(self.tied_Q)
        return hit_probability(self.tied_Q, self.tied_correct_Q, drawn_Q)

    def metrics(self, *, ks: Sequence[int] = KS, ties: Ties = "expected") -> dict[str, float]:
        """R@k, MRR, mAP@10, MdNR, MNR in percent, MedR in ranks, `tied` = percent of queries with a tie.

        `tied` counts the queries whose best correct candidate is level with a wrong one; more than a few percent
        means a collapsed model or duplicated items, and then the two readings of `ties` differ (in R@k, MRR, MedR and
        MdNR; the others are expectations in both).
        """
        ranks_Q = self.ranks_Q
        if ties == "mid":
            median, reciprocal = float(np.median(ranks_Q.numpy())), float((1.0 / ranks_Q).mean())
        else:
            median = self._median_rank()
            reciprocal = float(expected_reciprocal(self.above_Q, self.tied_Q, self.tied_correct_Q).mean())
        out = {f"R@{k}": 100.0 * float(self.hits_Q(k, ties=ties).mean()) for k in ks}
        out["MRR"] = 100.0 * reciprocal
        out[f"mAP@{DEPTH}"] = 100.0 * float(self.average_precision_Q.mean())
        out["MedR"] = median
        out["MdNR"] = 100.0 * median / self.candidates
        out["MNR"] = 100.0 * float(ranks_Q.mean()) / self.candidates
        out["tied"] = 100.0 * float((self.tied_Q > self.tied_correct_Q).double().mean())
        return out

    def chance(self, *, ks: Sequence[int] = KS) -> dict[str, float]:
        """The same metrics for a blind guess on the same pool (`chance_metrics`)."""
        return chance_metrics(candidates=self.candidates, correct_Q=self.correct_Q, ks=ks)

    def _median_rank(self) -> float:
        """Median over queries and orders of ties; midway where exactly half lies below."""
        ranks = range(1, self.candidates + 1)
        lower, upper = (
            bisect.bisect_left(ranks, True, key=lambda k: float(self.hits_Q(k).mean()) > half)
            for half in (0.5 - 1e-12, 0.5 + 1e-12)
        )
        return (ranks[lower] + ranks[upper]) / 2


@dataclass(frozen=True)
class Retrieval:
    """Both directions. `text_to_audio`: a caption ranks audio. `audio_to_text`: an audio ranks captions."""

    text_to_audio: Ranking
    audio_to_text: Ranking

    def metrics(
        self, *, prefix: str = "retrieval", ks: Sequence[int] = KS, ties: Ties = "expected"
    ) -> dict[str, float]:
        """Flat names such as `retrieval/text_to_audio/R@1`, each with its chance and the size of its pool.

        `retrieval/chance/...` is the chance of text to audio (the two directions differ with several captions;
        `retrieval/audio_to_text/chance/...` is the other).
        """
        out: dict[str, float] = {}
        for name, ranking in (("text_to_audio", self.text_to_audio), ("audio_to_text", self.audio_to_text)):
            out |= {f"{prefix}/{name}/{key}": value for key, value in ranking.metrics(ks=ks, ties=ties).items()}
            out |= {f"{prefix}/{name}/chance/{key}": value for key, value in ranking.chance(ks=ks).items()}
            out[f"{prefix}/{name}/queries"] = float(len(ranking.above_Q))
            out[f"{prefix}/{name}/candidates"] = float(ranking.candidates)
        chance = self.text_to_audio.chance(ks=ks)
        return out | {f"{prefix}/chance/{key}": value for key, value in chance.items()}


def retrieve(
    *,
    audio_ND: Tensor,
    text_MD: Tensor,
    audio_of_text_M: Tensor | None = None,
    chunk_elements: int = 2**24,
) -> Retrieval:
    """Rank both directions by cosine.

    SLAP compares predictions with predictions (`q` against `q`); CLAP compares projections. [spec section 12.1]

    Args:
        audio_ND: audio embeddings, any float dtype; need not be normalised.
        text_MD: caption embeddings.
        audio_of_text_M: for every caption the row of its audio. Default: caption i belongs to audio i (M = N).
        chunk_elements: similarities held at once (2^24 float32 = 64 MiB); N = 20 000 never fits as a whole.

    Raises:
        ValueError: shapes that do not match, values that are not finite, an audio without a caption.

    >>> eye = torch.eye(4)
    >>> retrieve(audio_ND=eye, text_MD=eye).metrics()["retrieval/text_to_audio/R@1"]
    100.0
    >>> retrieve(audio_ND=eye, text_MD=eye[[0, 0, 1, 2, 3]], audio_of_text_M=torch.tensor([0, 0, 1, 2, 3])
    ...     ).audio_to_text.ranks_Q.tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    if audio_of_text_M is None:
        if len(audio_ND) != len(text_MD):
            raise ValueError(
                f"{len(audio_ND)} audio items and {len(text_MD)} captions: give audio_of_text_M, which says for "
                "every caption the row of its audio"
            )
        audio_of_text_M = torch.arange(len(text_MD))
    owner_M = audio_of_text_M.to(device=audio_ND.device, dtype=torch.int64)
    if owner_M.shape != (len(text_MD),):
        raise ValueError(f"audio_of_text_M has shape {tuple(owner_M.shape)}, expected ({len(text_MD)},)")
    item_N = torch.arange(len(audio_ND), device=audio_ND.device)
    if len(owner_M) and (int(owner_M.min()) < 0 or int(owner_M.max()) >= len(item_N)):
        raise ValueError(f"audio_of_text_M names a row outside 0..{len(item_N) - 1}")
    text_to_audio = rank_candidates(
        query_QD=text_MD, candidate_CD=audio_ND, query_ids_Q=owner_M, candidate_ids_C=item_N,
        chunk_elements=chunk_elements,
    )  # fmt: skip
    audio_to_text = rank_candidates(
        query_QD=audio_ND, candidate_CD=text_MD, query_ids_Q=item_N, candidate_ids_C=owner_M,
        chunk_elements=chunk_elements,
    )  # fmt: skip
    return Retrieval(text_to_audio=text_to_audio, audio_to_text=audio_to_text)


def rank_candidates(
    *,
    query_QD: Tensor,
    candidate_CD: Tensor,
    query_ids_Q: Tensor,
    candidate_ids_C: Tensor,
    chunk_elements: int = 2**24,
) -> Ranking:
    """Rank all candidates for every query by float32 cosine, in chunks of queries.

    A candidate is correct for a query when their ids are equal.

    Raises:
        ValueError: shapes that do not match, values that are not finite, a query without a correct candidate.
    """
    query_QD = _unit("queries", query_QD)
    candidate_CD = _unit("candidates", candidate_CD)
    if query_QD.shape[1] != candidate_CD.shape[1]:
        raise ValueError(f"queries are {query_QD.shape[1]} wide, candidates {candidate_CD.shape[1]}")
    rows = max(1, chunk_elements // max(1, len(candidate_CD)))
    parts = []
    with torch.autocast(query_QD.device.type, enabled=False):
        for start in range(0, len(query_QD), rows):
            similarity_QC = query_QD[start : start + rows] @ candidate_CD.T
            parts.append(
                rank_similarity(
                    similarity_QC,
                    query_ids_Q=query_ids_Q[start : start + rows],
                    candidate_ids_C=candidate_ids_C,
                    first_query=start,
                )
            )
    return Ranking(
        above_Q=torch.cat([part.above_Q for part in parts]),
        tied_Q=torch.cat([part.tied_Q for part in parts]),
        tied_correct_Q=torch.cat([part.tied_correct_Q for part in parts]),
        correct_Q=torch.cat([part.correct_Q for part in parts]),
        average_precision_Q=torch.cat([part.average_precision_Q for part in parts]),
        candidates=len(candidate_CD),
    )


def rank_similarity(
    similarity_QC: Tensor, *, query_ids_Q: Tensor, candidate_ids_C: Tensor, first_query: int = 0
) -> Ranking:
    """Rank from a similarity matrix; rows are queries, columns candidates, equal ids are correct.

    Args:
        similarity_QC: scores, larger is closer.
        query_ids_Q: integer ids of the rows.
        candidate_ids_C: integer ids of the columns.
        first_query: number of the first row, used in error messages only.

    Raises:
        ValueError: ids that do not match the matrix, or a query without any correct candidate.

    >>> scores = torch.tensor([[0.9, 0.1, 0.9], [0.2, 0.8, 0.1]])
    >>> rank_similarity(scores, query_ids_Q=torch.tensor([0, 1]), candidate_ids_C=torch.tensor([0, 1, 2])
    ...     ).ranks_Q.tolist()
    [1.5, 1.0]
    """
    if similarity_QC.shape != (len(query_ids_Q), len(candidate_ids_C)):
        raise ValueError(
            f"similarity is {tuple(similarity_QC.shape)}, ids say {len(query_ids_Q)} queries and "
            f"{len(candidate_ids_C)} candidates"
        )
    column_QP, valid_QP = _correct_columns(query_ids_Q, candidate_ids_C, first_query=first_query)
    score_QP = similarity_QC.gather(1, column_QP).masked_fill(~valid_QP, -torch.inf)
    best_Q1 = score_QP.max(dim=1, keepdim=True).values
    above_Q, tied_Q = above_and_tied(similarity_QC, best_Q1)
    return Ranking(
        above_Q=above_Q.cpu(),
        tied_Q=tied_Q.cpu(),
        tied_correct_Q=above_and_tied(score_QP, best_Q1)[1].cpu(),
        correct_Q=valid_QP.sum(dim=1).cpu(),
        average_precision_Q=average_precision(similarity_QC, score_QP, valid_QP).cpu(),
        candidates=similarity_QC.shape[1],
    )


def chance_metrics(*, candidates: int, correct_Q: Tensor, ks: Sequence[int] = KS) -> dict[str, float]:
    """Exact expectation of the metrics when every query ranks the pool in random order.

    With m correct among C candidates, P(best rank <= r) = 1 - binom(C - m, r) / binom(C, r); MedR is the median of
    that distribution over all queries. Percent, except MedR.

    Args:
        candidates: size of the pool, C.
        correct_Q: number of correct candidates of every query, m.
        ks: list lengths.

    >>> chance = chance_metrics(candidates=10, correct_Q=torch.tensor([1]))
    >>> round(chance["R@1"], 6), chance["MedR"], chance["MNR"]
    (10.0, 5.5, 55.0)
    """
    if len(correct_Q) == 0:
        raise ValueError("no queries: chance needs at least one")
    if int(correct_Q.min()) < 1 or int(correct_Q.max()) > candidates:
        raise ValueError(f"correct_Q must lie in 1..{candidates} (the pool), got {correct_Q.unique().tolist()}")
    counts_U, queries_U = correct_Q.cpu().unique(return_counts=True)
    weight_U = queries_U.double() / queries_U.sum()
    rank_C = torch.arange(1, candidates + 1)
    reached_UC = torch.stack([hit_probability(torch.tensor(candidates), m, rank_C) for m in counts_U])
    reached_C = weight_U @ reached_UC
    share_C = torch.diff(reached_C, prepend=reached_C.new_zeros(1))
    half = int((reached_C < 0.5 - 1e-12).sum()) + 1
    median = half + 0.5 if abs(float(reached_C[half - 1]) - 0.5) <= 1e-12 else float(half)
    depth_K = torch.arange(1, min(DEPTH, candidates) + 1).double()
    other_UK = (depth_K - 1) * (counts_U[:, None] - 1) / max(1, candidates - 1)
    precision_U = (counts_U[:, None] / candidates * (1 + other_UK) / depth_K).sum(dim=1)
    precision_U = precision_U / counts_U.clamp(max=DEPTH)
    out = {f"R@{k}": 100.0 * float(reached_C[min(k, candidates) - 1]) for k in ks}
    out["MRR"] = 100.0 * float((share_C / rank_C).sum())
    out[f"mAP@{DEPTH}"] = 100.0 * float(weight_U @ precision_U)
    out["MedR"] = median
    out["MdNR"] = 100.0 * median / candidates
    out["MNR"] = 100.0 * float(weight_U @ ((candidates + 1) / (counts_U + 1).double())) / candidates
    return out


def slap_compat_metrics(
    *,
    audio_ND: Tensor,
    text_MD: Tensor,
    audio_of_text_M: Tensor | None = None,
    ks: Sequence[int] = KS,
    prefix: str = "retrieval/compat_slap",
) -> dict[str, float]:
    """The numbers as SLAP's public code makes them, for reading its table beside ours, never for claims.

    Three differences (spec sections 7 and 12.1): one caption an audio (its first); ranks are 0-based and divided by the
    *largest observed* rank, not by the pool; and the names are transposed: `audio_to_text` there ranks audio for
    each text. Ties are counted as ours, since the original leaves them to the sorting routine.
    """
    if audio_of_text_M is not None:
        owner_M = audio_of_text_M.cpu()
        first_N = torch.full((len(audio_ND),), len(owner_M)).scatter_reduce(
            0, owner_M, torch.arange(len(owner_M)), reduce="amin"
        )
        if int(first_N.max()) >= len(owner_M):
            raise ValueError(f"audio {int(first_N.argmax())} has no caption")
        text_MD = text_MD[first_N.to(text_MD.device)]
    both = retrieve(audio_ND=audio_ND, text_MD=text_MD)
    out: dict[str, float] = {}
    for name, ranking in (("audio_to_text", both.text_to_audio), ("text_to_audio", both.audio_to_text)):
        rank_Q = ranking.ranks_Q - 1.0
        share_Q = rank_Q / rank_Q.max().clamp(min=1e-12)
        out |= {f"{prefix}/{name}/R@{k}": 100.0 * float(ranking.hits_Q(k).mean()) for k in ks}
        out[f"{prefix}/{name}/MdNR"] = 100.0 * float(np.median(share_Q.numpy()))
        out[f"{prefix}/{name}/MNR"] = 100.0 * float(share_Q.mean())
    return out


def _unit(name: str, x_ND: Tensor) -> Tensor:
    """Rows as float32 unit vectors; a zero row stays zero."""
    if x_ND.ndim != 2 or len(x_ND) == 0:
        raise ValueError(f"{name} have shape {tuple(x_ND.shape)}, expected [rows, width] with at least one row")
    bad_N = ~torch.isfinite(x_ND).all(dim=1)
    if bool(bad_N.any()):
        raise ValueError(f"{name} rows {bad_N.nonzero().flatten()[:5].tolist()} hold NaN or Inf")
    return F.normalize(x_ND.detach().float(), dim=1)


def _correct_columns(ids_Q: Tensor, ids_C: Tensor, *, first_query: int) -> tuple[Tensor, Tensor]:
    """For every query the columns that share its id: index [Q, P] and whether the slot is used [Q, P]."""
    sorted_C, order_C = ids_C.sort(stable=True)
    start_Q = torch.searchsorted(sorted_C, ids_Q.contiguous())
    count_Q = torch.searchsorted(sorted_C, ids_Q.contiguous(), right=True) - start_Q
    if bool((count_Q == 0).any()):
        rows = ((count_Q == 0).nonzero().flatten()[:5] + first_query).tolist()
        raise ValueError(f"queries {rows} have no correct candidate: drop them, or add their candidates to the pool")
    slot_P = torch.arange(int(count_Q.max()), device=ids_Q.device)
    valid_QP = slot_P < count_Q[:, None]
    return order_C[(start_Q[:, None] + slot_P).clamp(max=len(ids_C) - 1)], valid_QP
