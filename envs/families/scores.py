"""The table of a matched evaluation, and everything that is read from it by reweighting.

Legend: ``K`` tasks, ``E`` episodes a task, ``R`` bootstrap samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from envs.families.family import TaskFamily
from envs.families.law import Rare, TaskLaw
from envs.zipf.law import SPLITS, Floats, Split, check_choice

Measure = Literal["return", "above_random", "normalised"]
_BLOCK = 2_000_000


class Estimate(NamedTuple):
    """A mean and its bootstrap interval; the bounds are NaN if there is one episode a task."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class MatchedScores:
    """``S[task]``: what a policy earned where every task was played equally often.

    The scores of the three splits are averages of one table, ``zipf = sum P S``, ``uniform = mean S``, ``rare`` = mean
    over rare tasks, so that no sampling noise lies between them, and any exponent or rank permutation can be read from
    it. Tasks are not equally hard, so compare splits ``above_random`` or ``normalised``, never by raw returns: a random
    policy does 2.6 times better on the rare tasks of Zipf's Gridworld than on its frequent ones.

    Attributes:
        family: The tasks.
        returns: ``[K, E]`` float64: undiscounted return of each episode.
        lengths: ``[K, E]`` int64: its steps.
        random: ``[K, E']``: returns of the uniformly random policy; one column where they are known exactly.
        oracle: ``[K, E'']``: returns of the best known policy, or None.
    """

    family: TaskFamily
    returns: Floats
    lengths: NDArray[np.int64]
    random: Floats
    oracle: Floats | None = None

    @property
    def counts(self) -> NDArray[np.int64]:
        """Episodes ``[K]`` of each task."""
        return np.full(len(self.returns), self.returns.shape[1])

    def table(self, measure: Measure = "return") -> Floats:
        """``S`` ``[K]``.

        Args:
            measure: ``return``; ``above_random``, the return minus the random policy's; or ``normalised``, the share of
                the way from random to oracle, NaN where the oracle is no better, which averages leave out.

        Raises:
            ValueError: An unknown measure, or ``normalised`` without an oracle.
        """
        oracle = None if self.oracle is None else self.oracle.mean(axis=1)
        return _measured(measure, self.returns.mean(axis=1), self.random.mean(axis=1), oracle)

    def splits(
        self,
        measure: Measure = "return",
        *,
        exponent: float | None = None,
        rare: Rare | None = None,
        rank_seed: int | None = None,
        confidence: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> dict[Split, Estimate]:
        """The score on each split with its interval, from drawing episodes again within each task, baselines' too.

        Args:
            measure: See `table`.
            exponent: Of the Zipf law; None is the family's.
            rare: Share or count of rare tasks; None is the family's.
            rank_seed: Permutes the ranks as in `ZipfTasks`.
            confidence: Of the interval, between its percentiles.
            resamples: ``R``.
            seed: Of the bootstrap.

        Raises:
            ValueError: As `table`, or a law out of range.
        """
        law = self.family.law(exponent=exponent, rare=rare, rank_seed=rank_seed)
        table, tables = self.table(measure), self._resampled(measure, resamples, np.random.default_rng(seed))
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        estimates: dict[Split, Estimate] = {}
        for split in SPLITS:
            weights = law.probabilities(split)
            low, high = np.nanquantile(_average(tables, weights), tails)
            mean = float(_average(table, weights))
            estimates[split] = Estimate(
                mean, *((float(low), float(high)) if self.returns.shape[1] > 1 else [np.nan] * 2)
            )
        return estimates

    def by_rank(
        self, measure: Measure = "above_random", *, exponent: float | None = None, rank_seed: int | None = None
    ) -> Floats:
        """``S`` ``[K]`` from the most to the least frequent task."""
        return self.table(measure)[self._law(exponent, rank_seed).order]

    def gap_curve(
        self, measure: Measure = "above_random", *, exponent: float | None = None, rank_seed: int | None = None
    ) -> Floats:
        """How much better the frequent tasks are played, by where the line is drawn.

        Entry ``k`` of ``[K - 1]`` is the mean over the ``k + 1`` most frequent tasks minus the mean over all others; 0
        everywhere is a policy that frequency does not matter to. Compare one ``rank_seed`` with another to see whether
        frequency or difficulty makes the gap.
        """
        scores = self.by_rank(measure, exponent=exponent, rank_seed=rank_seed)
        head = np.arange(1, len(scores))
        splits = head[:, None] > np.arange(len(scores))
        return _average(scores, splits.astype(float)) - _average(scores, (~splits).astype(float))

    def rows(self, *, exponent: float | None = None, rank_seed: int | None = None) -> list[dict[str, Any]]:
        """One row a task, the most frequent first, to print or to write as JSON."""
        law = self._law(exponent, rank_seed)
        probability = law.probabilities("zipf")
        columns: dict[str, Floats] = {"return": self.table(), "above_random": self.table("above_random")}
        if self.oracle is not None:
            columns |= {"oracle": self.oracle.mean(axis=1), "normalised": self.table("normalised")}
        columns |= {"random": self.random.mean(axis=1), "length": self.lengths.mean(axis=1), "probability": probability}
        return [
            {
                "task": self.family.names[k],
                "ranks": law.ranks[k].tolist(),
                "rare": bool(law.is_rare[k]),
                "episodes": int(self.counts[k]),
                **{name: float(column[k]) for name, column in columns.items()},
            }
            for k in law.order
        ]

    def _law(self, exponent: float | None, rank_seed: int | None) -> TaskLaw:
        return self.family.law(exponent=exponent, rank_seed=rank_seed)

    def _resampled(self, measure: Measure, resamples: int, rng: np.random.Generator) -> Floats:
        """``[R, K]``: the table of bootstrap samples."""
        parts = [self.returns, self.random, *([] if self.oracle is None else [self.oracle])]
        means = [_bootstrap_means(part, resamples, rng) for part in parts]
        return _measured(measure, means[0], means[1], means[2] if len(means) > 2 else None)


def _measured(measure: Measure, scores: Floats, random: Floats, oracle: Floats | None) -> Floats:
    check_choice("measure", measure, get_args(Measure))
    if measure == "return":
        return scores
    if measure == "above_random":
        return scores - random
    if oracle is None:
        raise ValueError("measure='normalised' needs an oracle: give evaluate_matched one")
    span = oracle - random
    return np.divide(scores - random, span, out=np.full_like(scores, np.nan), where=span > 0)


def _average(tables: Floats, weights: Floats) -> Floats:
    """Weighted means over the last axis, of the tasks that have a score; NaN if none has."""
    known = ~np.isnan(tables)
    total = (known * weights).sum(axis=-1)
    return np.divide(
        (np.where(known, tables, 0.0) * weights).sum(axis=-1), total, out=np.full(total.shape, np.nan), where=total > 0
    )


def _bootstrap_means(values: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """``[R, K]`` means over episodes drawn with replacement within each task."""
    tasks, episodes = values.shape
    if episodes == 1:
        return np.broadcast_to(values[:, 0], (resamples, tasks))
    means = np.empty((resamples, tasks))
    for start in range(0, resamples, max(1, _BLOCK // values.size)):
        block = means[start : start + max(1, _BLOCK // values.size)]
        drawn = rng.integers(episodes, size=(len(block), tasks, episodes))
        block[:] = np.take_along_axis(values[None], drawn, axis=2).mean(axis=2)
    return means
