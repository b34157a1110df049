"""PAL's active loop: ask an oracle which pairs of samples are the same, and learn from the graph of its answers.

:class:`Relations` keeps the answers and all that follows from them; :func:`propose_pairs` picks the questions;
:func:`active_round` does both. Between rounds train with ``graph=relations.matrix(ids)`` in a loss of
:mod:`byol_ext.losses.similarity_graph`. The paper's rule for questions was not seen: the scores here are ours.

Legend: ``I`` samples of the data set, ``N`` of a pool, ``B`` rows, ``G`` columns, ``Q`` questions, ``D`` width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from byol_ext.losses.pair import unit

Oracle = Callable[[Tensor], Tensor]
Score = Callable[[Tensor], Tensor]


class Relations:
    """What is known of which samples are the same, closed under what follows.

    ``a = b`` and ``b = c`` give ``a = c``; ``a = b`` and ``b != c`` give ``a != c``. An answer that contradicts earlier
    ones is not taken, but counted.

    Args:
        items: Samples of the data set; their ids are ``0 ... items - 1``.

    Attributes:
        component: Group of each sample ``[I]``, named by its smallest id.
        contradictions: Answers that were not taken.

    Example:
        >>> relations = Relations(4)
        >>> relations.answer(torch.tensor([[0, 1], [1, 2], [2, 3]]), torch.tensor([True, True, False]))
        >>> relations.matrix(torch.tensor([0, 2, 3])).tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        >>> relations.known(torch.tensor([[0, 3]])).tolist()
        [True]
    """

    def __init__(self, items: int) -> None:
        if items < 1:
            raise ValueError(f"items={items} must be positive")
        self.component = torch.arange(items)
        self.contradictions = 0
        self._different: dict[int, set[int]] = {}

    def answer(self, pairs: Tensor, same: Tensor) -> None:
        """Take answers.

        Args:
            pairs: Ids ``[Q, 2]``.
            same: Whether they are the same, bool ``[Q]``.

        Raises:
            ValueError: If the shapes do not fit, or an id is none.
        """
        pairs, same = self._checked(pairs), torch.as_tensor(same)
        if same.shape != pairs.shape[:1]:
            raise ValueError(f"{len(pairs)} pairs need as many answers, got {tuple(same.shape)}")
        for (a, b), equal in zip(pairs.tolist(), same.tolist(), strict=True):
            low, high = sorted((int(self.component[a]), int(self.component[b])))
            apart = high in self._different.get(low, ())
            if (apart and equal) or (low == high and not equal):
                self.contradictions += 1
            elif equal and low != high:
                self._merge(low, high)
            elif not equal:
                self._different.setdefault(low, set()).add(high)
                self._different.setdefault(high, set()).add(low)

    def matrix(self, rows: Tensor, columns: Tensor | None = None) -> Tensor:
        """The graph of a batch: 1 where two samples are known to be the same.

        Args:
            rows: Ids ``[B]``.
            columns: Ids ``[G]``, those of all ranks in rank order; default: the rows.

        Returns:
            ``[B, G]`` float32 on the device of ``rows``.
        """
        component = self.component.to(rows.device)
        return (component[rows][:, None] == component[rows if columns is None else columns]).float()

    def known(self, pairs: Tensor) -> Tensor:
        """Whether the answer to a pair ``[Q, 2]`` follows from what is known, bool ``[Q]`` on the CPU."""
        ends = self.component[self._checked(pairs)]
        apart = [b in self._different.get(a, ()) for a, b in ends.tolist()]
        return (ends[:, 0] == ends[:, 1]) | torch.tensor(apart, dtype=torch.bool)

    def apart(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Which pairs are known to be different, bool ``[B, G]`` on the CPU."""
        found = torch.zeros(len(rows), len(columns), dtype=torch.bool)
        column_component = self.component[columns.cpu()]
        for i, group in enumerate(self.component[rows.cpu()].tolist()):
            if group in self._different:
                found[i] = torch.isin(column_component, torch.tensor(sorted(self._different[group])))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything known, for a checkpoint."""
        pairs = sorted((a, b) for a, others in self._different.items() for b in others if a < b)
        return {
            "component": self.component.clone(),
            "different": torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
            "contradictions": self.contradictions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved state.

        Raises:
            ValueError: If it is of another number of samples.
        """
        if state["component"].shape != self.component.shape:
            raise ValueError(f"the state is of {len(state['component'])} samples, not of {len(self.component)}")
        self.component, self.contradictions = state["component"].clone(), int(state["contradictions"])
        self._different = {}
        for a, b in state["different"].tolist():
            self._different.setdefault(a, set()).add(b)
            self._different.setdefault(b, set()).add(a)

    def _merge(self, low: int, high: int) -> None:
        self.component[self.component == high] = low
        for other in self._different.pop(high, set()):
            self._different[other].remove(high)
            self._different[other].add(low)
            self._different.setdefault(low, set()).add(other)

    def _checked(self, pairs: Tensor) -> Tensor:
        pairs = pairs.cpu()
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError(f"expected pairs of ids [Q, 2], got {tuple(pairs.shape)}")
        if len(pairs) and not 0 <= int(pairs.min()) <= int(pairs.max()) < len(self.component):
            raise ValueError(f"ids lie in 0 ... {len(self.component) - 1}, got {pairs.min()} ... {pairs.max()}")
        return pairs


def disagreement(cosine: Tensor) -> Tensor:
    """Score of pairs that the graph holds apart and the embedding holds together: their cosine."""
    return cosine


def uncertainty(threshold: float = 0.5) -> Score:
    """Score of pairs of which the embedding cannot tell: minus the distance of their cosine from a threshold."""
    return lambda cosine: -(cosine - threshold).abs()


def propose_pairs(
    z: Tensor,
    ids: Tensor,
    relations: Relations,
    count: int,
    *,
    score: Score = disagreement,
    per_row: int = 16,
    chunk: int = 1024,
) -> Tensor:
    """The best-scored pairs of a pool whose answer is open, none of which another would settle.

    A pair is passed over where its answer would follow if all questions before it were answered with yes; so many
    questions with yes join as many groups.

    Args:
        z: Embeddings of the pool ``[N, D]``.
        ids: Their ids ``[N]``, all different.
        relations: What is known.
        count: Questions wanted.
        score: Of cosines ``[B, N]``, elementwise: :func:`disagreement`, :func:`uncertainty` or one's own.
        per_row: Candidates kept a sample.
        chunk: Rows compared at a time; bounds memory by ``[chunk, N]``.

    Returns:
        Ids ``[Q, 2]`` on the CPU, best first; fewer than ``count`` where the candidates run out.

    Raises:
        ValueError: If ``z`` and ``ids`` do not fit.
    """
    if z.ndim != 2 or ids.shape != z.shape[:1]:
        raise ValueError(f"expected embeddings [N, D] and ids [N], got {tuple(z.shape)} and {tuple(ids.shape)}")
    unit_ND, ids = unit(z.detach()), ids.cpu()
    values, pairs = [], []
    for start in range(0, len(ids), chunk):
        row = torch.arange(start, min(start + chunk, len(ids)))
        score_BN = score(unit_ND[start : start + chunk] @ unit_ND.T).cpu()
        open_BN = torch.arange(len(ids)) > row[:, None]
        open_BN &= (relations.matrix(ids[row], ids) == 0) & ~relations.apart(ids[row], ids)
        best = score_BN.masked_fill(~open_BN, float("-inf")).topk(min(per_row, len(ids)), dim=1)
        kept = best.values > float("-inf")
        values.append(best.values[kept])
        pairs.append(torch.stack([ids[row][:, None].expand_as(kept)[kept], ids[best.indices[kept]]], 1))
    order = torch.cat(values).argsort(descending=True, stable=True)
    return _independent(torch.cat(pairs)[order], relations, count)


def random_pairs(ids: Tensor, relations: Relations, count: int, *, generator: torch.Generator) -> Tensor:
    """The control of :func:`propose_pairs`: random pairs whose answer is open.

    Args:
        ids: Ids of the pool ``[N]``, all different.
        relations: What is known.
        count: Questions wanted.
        generator: Source of randomness (CPU).

    Returns:
        Ids ``[Q, 2]``; fewer than ``count`` where twenty times as many draws hold no more.
    """
    drawn = torch.randint(len(ids), (20 * count, 2), generator=generator)
    return _independent(ids.cpu()[drawn], relations, count)


def _independent(pairs: Tensor, relations: Relations, count: int) -> Tensor:
    hoped, chosen = copy.deepcopy(relations), list[Tensor]()
    for pair in pairs:
        if len(chosen) == count:
            break
        if not bool(hoped.known(pair[None])):
            hoped.answer(pair[None], torch.tensor([True]))
            chosen.append(pair)
    return torch.stack(chosen) if chosen else torch.zeros(0, 2, dtype=torch.int64)


def active_round(
    z: Tensor, ids: Tensor, relations: Relations, oracle: Oracle, count: int, *, score: Score = disagreement
) -> dict[str, float]:
    """One round of questions: propose, ask, take the answers.

    Args:
        z: Embeddings of a pool ``[N, D]`` by the present encoder.
        ids: Their ids ``[N]``.
        relations: What is known; changed here.
        oracle: Pairs of ids ``[Q, 2]`` to bool ``[Q]``: whether they are the same.
        count: Questions of the round.
        score: See :func:`propose_pairs`.

    Returns:
        ``questions``, ``same`` (share of yes), ``groups`` (of all samples) and ``contradictions`` so far, to log.
    """
    pairs = propose_pairs(z, ids, relations, count, score=score)
    same = oracle(pairs).cpu()
    relations.answer(pairs, same)
    return {
        "questions": float(len(pairs)),
        "same": float(same.float().mean()) if len(pairs) else 0.0,
        "groups": float(len(relations.component.unique())),
        "contradictions": float(relations.contradictions),
    }


def label_oracle(labels: Tensor) -> Oracle:
    """An oracle that knows the labels ``[I]``: the simulated annotator of an experiment."""
    labels = labels.cpu()
    return lambda pairs: labels[pairs[:, 0]] == labels[pairs[:, 1]]
