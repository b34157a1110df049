"""PAL's annotator as a part of the graph: it answers questions about pairs of the batch while a method trains.

Legend: ``V`` views, ``B`` local rows, ``G`` rows of all ranks, ``D`` width, ``Q`` questions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from byol_ext.active_pairs import Relations, disagreement, label_oracle, propose_pairs, random_pairs, uncertainty
from byol_ext.losses.gather import gather_rows
from byol_ext.losses.pair import unit

Score = Literal["disagreement", "uncertainty", "random"]


class AskedPairs(nn.Module):
    """Questions about pairs of samples, asked between steps, and the similarity graph of the answers.

    Every ``every`` steps it picks pairs of that step's batch and asks an oracle who knows the batch's labels. Questions
    and answers are buffers, so that a resumed run knows what was asked. It is the ``scale`` of a
    :class:`~byol_ext.graph.SetTerm`.

    Args:
        samples: Samples of the data set.
        budget: Questions over the whole training.
        questions: Questions a round.
        every: Steps between rounds.
        score: Which pairs; ``random`` is the control.
        seed: Of ``random``.

    Raises:
        ValueError: If a number is not positive.
    """

    pairs: Tensor
    same: Tensor
    used: Tensor
    steps: Tensor

    def __init__(self, samples: int, *, budget: int, questions: int, every: int, score: Score, seed: int = 0) -> None:
        super().__init__()
        if min(samples, budget, questions, every) < 1:
            raise ValueError(
                f"samples={samples}, budget={budget}, questions={questions}, every={every}: expected positive numbers"
            )
        self.samples, self.questions, self.every = samples, questions, every
        self.score, self.seed = score, seed
        self.register_buffer("pairs", torch.zeros(budget, 2, dtype=torch.int64))
        self.register_buffer("same", torch.zeros(budget, dtype=torch.bool))
        self.register_buffer("used", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._known = (Relations(samples), 0)
        self._pool: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self) -> dict[str, AskedPairs]:
        """Itself as keyword argument of the loss."""
        return {"asked": self}

    @property
    def relations(self) -> Relations:
        """What follows from the answers so far."""
        relations, taken = self._known
        used = int(self.used)
        if used < taken:
            relations, taken = Relations(self.samples), 0
        if used > taken:
            relations.answer(self.pairs[taken:used], self.same[taken:used].cpu())
        self._known = relations, used
        return relations

    def graph(self, ids: Tensor) -> Tensor:
        """Relation ``[B, G]`` of the samples ``ids [B]`` to those of all ranks."""
        return self.relations.matrix(ids, gather_rows(ids))

    @torch.no_grad()
    def stage(self, z: Tensor, ids: Tensor, truth: Tensor) -> None:
        """Keep a training batch for the next round.

        Args:
            z: Projections ``[V, B, D]``.
            ids: Sample ids ``[B]``.
            truth: Labels ``[B]``, -1 where the oracle knows none.
        """
        if self.training:
            rows_BD = unit(z.detach()).mean(0)
            self._pool = gather_rows(rows_BD), gather_rows(ids), gather_rows(truth)

    def commit(self) -> None:
        """Ask, if a round is due; called after the optimiser step."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        due = int(self.steps) % self.every == 0
        self.steps += 1
        left = len(self.pairs) - int(self.used)
        if due and left:
            self._ask(*pool, count=min(self.questions, left))

    def _ask(self, z_GD: Tensor, ids_G: Tensor, truth_G: Tensor, *, count: int) -> None:
        ids, place = torch.unique(ids_G, return_inverse=True)
        first = torch.full_like(ids, len(ids_G)).scatter_reduce(
            0, place, torch.arange(len(ids_G), device=ids.device), reduce="amin"
        )
        first = first[truth_G[first] >= 0]
        pool = ids_G[first]
        if len(pool) < 2:
            return
        if self.score == "random":
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.steps))
            pairs = random_pairs(pool, self.relations, count, generator=generator)
        else:
            score = disagreement if self.score == "disagreement" else uncertainty()
            pairs = propose_pairs(z_GD[first], pool, self.relations, count, score=score)
        labels = torch.full((self.samples,), -1).scatter(0, pool.cpu(), truth_G[first].cpu())
        start = int(self.used)
        self.pairs[start : start + len(pairs)] = pairs.to(self.pairs.device)
        self.same[start : start + len(pairs)] = label_oracle(labels)(pairs).to(self.same.device)
        self.used += len(pairs)
