"""The Zipf law, its three splits, and which item holds which rank.

Ranks run from 1 (most frequent) in formulas and from 0 in arrays. With exponent ``a``, ``P(k) = k^-a / H(n, a)`` and
``H(n, a) = sum_j j^-a`` (Zipfian Environments for RL, Chan et al. 2022, and its released code).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Split = Literal["zipf", "uniform", "rare"]
SPLITS: tuple[Split, ...] = get_args(Split)
Floats = NDArray[np.float64]


def zipf(n: int, exponent: float) -> Floats:
    """Probabilities ``[n]`` of the ranks; exponent 0 is uniform.

    Example:
        >>> zipf(20, 2.0)[0].round(8)
        np.float64(0.62650234)

    Raises:
        ValueError: If ``n < 1`` or the exponent is negative or not finite.
    """
    _check_count(n)
    if not (math.isfinite(exponent) and exponent >= 0):
        raise ValueError(f"the Zipf exponent must be finite and >= 0, got {exponent}")
    weights = np.arange(1, n + 1, dtype=np.float64) ** -float(exponent)
    return weights / weights.sum()


def harmonic(n: int, exponent: float) -> float:
    """``H(n, exponent)``, the normaliser of the law."""
    return float(1 / zipf(n, exponent)[0])


def rare_count(n: int, rare: float | int) -> int:
    """How many of ``n`` ranks, from the last, are rare.

    Args:
        n: Number of items.
        rare: A float is a fraction in (0, 1], of which ``floor(rare * n)`` items are taken (the original: 0.2); an int
            is the count itself.

    Raises:
        ValueError: If nothing, or more than everything, would be rare.
    """
    _check_count(n)
    if isinstance(rare, int | np.integer) and not isinstance(rare, bool):
        if not 1 <= rare <= n:
            raise ValueError(f"a count of rare items must lie in 1..{n}, got {rare}")
        return int(rare)
    if isinstance(rare, bool) or not 0 < rare <= 1:
        raise ValueError(f"rare must be a fraction in (0, 1] or an int count in 1..{n}, got {rare}")
    count = math.floor(rare * n + 1e-9)
    if count == 0:
        raise ValueError(
            f"rare={rare} of {n} items is no item at all (the original then divides by zero); give a count, rare=1"
        )
    return count


def split_law(split: Split, n: int, *, exponent: float, rare: float | int = 0.2) -> Floats:
    """Probabilities ``[n]`` of the ranks under a split.

    ``zipf`` is the law itself, ``uniform`` is 1/n, ``rare`` is uniform over the last ranks and 0 elsewhere.

    Raises:
        ValueError: On an unknown split or a bad exponent or rare share.
    """
    check_choice("split", split, SPLITS)
    if split == "zipf":
        return zipf(n, exponent)
    if split == "uniform":
        return zipf(n, 0.0)
    count = rare_count(n, rare)
    law = np.zeros(n)
    law[-count:] = 1 / count
    return law


def effective_number(law: Floats) -> float:
    """``exp(entropy)``: how many equally frequent items would be as varied."""
    positive = law[law > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def cumulative(law: Floats) -> Floats:
    """Table ``[n]`` for inverse sampling: item ``i`` where ``table[i-1] <= u < table[i]``, u uniform in [0, 1).

    Summed and scaled in the order of ``numpy.random.Generator.choice``, so that the same ``u`` gives the same item.
    """
    table = law.cumsum()
    return table / table[-1]


def check_law(law: object, n: int) -> Floats:
    """A user's probabilities as float64 ``[n]``.

    Raises:
        ValueError: On a wrong length, a negative or non-finite value, or a sum further than 1e-6 from 1.
    """
    values = np.asarray(law, dtype=np.float64)
    if values.shape != (n,):
        raise ValueError(f"law({n}) must return {n} probabilities, got shape {values.shape}")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f"law({n}) must return finite probabilities >= 0, got {values.tolist()}")
    if abs(values.sum() - 1) > 1e-6:
        raise ValueError(f"law({n}) must sum to 1 within 1e-6, got {values.sum()}")
    return values


def check_choice(what: str, given: object, allowed: Sequence[object]) -> None:
    """Raise ``ValueError`` naming the allowed values unless ``given`` is one."""
    if given not in allowed:
        raise ValueError(f"unknown {what} {given!r}; known: {', '.join(map(str, allowed))}")


@dataclass(frozen=True)
class RankedItems:
    """One factor of a task: ``n`` items, each with a rank, and a law over the ranks for every split.

    Args:
        n: Number of items.
        exponent: Of the ``zipf`` split.
        rare: Fraction or count of the ``rare`` split; see :func:`rare_count`.
        rank_seed: Permutes item -> rank, so that frequency and difficulty come apart; ``None`` keeps item ``k`` at
            rank ``k``, the original's assignment. Seeds may be sequences, to give each factor its own stream.
        law: ``n -> probabilities by rank``; replaces the split's law.

    Raises:
        ValueError: On any argument out of range; see the functions above.

    Example:
        >>> items = RankedItems(20, exponent=2.0)
        >>> items.probabilities("rare")[-4:].tolist(), int(items.is_rare.sum())
        ([0.25, 0.25, 0.25, 0.25], 4)
    """

    n: int
    exponent: float = 2.0
    rare: float | int = 0.2
    rank_seed: int | Sequence[int] | None = None
    law: Callable[[int], object] | None = None

    def __post_init__(self) -> None:
        rare_count(self.n, self.rare)
        self.probabilities("zipf")

    @property
    def rank(self) -> NDArray[np.int64]:
        """Rank ``[n]`` of each item, from 0."""
        if self.rank_seed is None:
            return np.arange(self.n)
        return np.random.default_rng(self.rank_seed).permutation(self.n)

    @property
    def is_rare(self) -> NDArray[np.bool_]:
        """Whether each item ``[n]`` is among the rare ranks."""
        return self.rank >= self.n - rare_count(self.n, self.rare)

    def probabilities(self, split: Split) -> Floats:
        """Probability ``[n]`` of each item (not rank) under the split."""
        by_split = split_law(split, self.n, exponent=self.exponent, rare=self.rare)
        by_rank = by_split if self.law is None else check_law(self.law(self.n), self.n)
        return by_rank[self.rank]


def _check_count(n: int) -> None:
    if n < 1:
        raise ValueError(f"a law needs at least one item, got {n}")
