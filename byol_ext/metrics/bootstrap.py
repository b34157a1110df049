"""Percentile bootstrap: how far would a score move on another test set of the same kind?

Legend: `S` seeds (training runs), `N` test items, `R` resamples, `G` groups of items.

Items are resampled, seeds are not: an interval here says what the *test set* leaves open. What the training seed
leaves open is the spread over seeds, returned beside it (`per_seed`); three seeds are too few to resample.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Statistic = Callable[[Array], Array]
RESAMPLES = 10_000
_CHUNK = 2**22


@dataclass(frozen=True)
class Interval:
    """A point estimate with a percentile interval.

    Attributes:
        value: the statistic on all items, averaged over seeds.
        low: lower end of the interval.
        high: upper end of the interval.
        confidence: covered share, such as 0.95.
        items: number of items (or groups, when items were grouped) that were resampled.
        resamples: number of bootstrap resamples.
        per_seed: the statistic of every seed on all items.
    """

    value: float
    low: float
    high: float
    confidence: float
    items: int
    resamples: int
    per_seed: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class PairedDifference:
    """The interval of `a - b` on the same items, and a two-sided bootstrap p value against "no difference"."""

    interval: Interval
    p_value: float


def bootstrap_interval(
    values: npt.ArrayLike,
    *,
    statistic: Statistic | None = None,
    groups: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic over items.

    Args:
        values: per-item scores, [N], or [S, N] for S seeds on the same items (an item is drawn in all seeds at once).
        statistic: maps [R, N] to [R]; default the mean. The value for several seeds is the mean of theirs.
        groups: [N] ids of items that must be drawn together, such as the audio of every caption. Mean only.
        resamples: number of resamples; 10 000 puts the ends within about 0.02 standard errors.
        confidence: covered share.
        seed: seed of the resampling; the same call gives the same interval.

    Raises:
        ValueError: no items, NaN, a confidence outside (0, 1), groups together with another statistic.

    >>> bootstrap_interval([0.0, 1.0, 1.0, 1.0] * 25, seed=1).value
    0.75
    """
    return _interval(
        _as_seeds_by_items("values", values),
        statistic=statistic, groups=groups, resamples=resamples, confidence=confidence, seed=seed,
    )[0]  # fmt: skip


def paired_difference(
    *,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Interval of mean(a) - mean(b), resampling the items that both were scored on.

    Pairing removes the difficulty of the items from the comparison, so it is far narrower than two single intervals.

    Args:
        a: scores of the first system, [N] or [S, N].
        b: scores of the second system, the same shape, items (and seeds) in the same order.
        groups: as in `bootstrap_interval`.
        resamples: as in `bootstrap_interval`.
        confidence: as in `bootstrap_interval`.
        seed: as in `bootstrap_interval`.

    Raises:
        ValueError: shapes that differ, and the causes of `bootstrap_interval`.

    >>> paired_difference(a=[1.0, 2.0, 3.0], b=[0.5, 1.5, 2.5]).interval.low
    0.5
    """
    a_SN, b_SN = _as_seeds_by_items("a", a), _as_seeds_by_items("b", b)
    if a_SN.shape != b_SN.shape:
        raise ValueError(f"a is {a_SN.shape}, b is {b_SN.shape} (seeds, items): paired scores need the same items")
    interval, draws_R = _interval(
        a_SN - b_SN, statistic=None, groups=groups, resamples=resamples, confidence=confidence, seed=seed
    )
    below, above = int((draws_R <= 0).sum()), int((draws_R >= 0).sum())
    return PairedDifference(interval=interval, p_value=min(1.0, 2 * (min(below, above) + 1) / (resamples + 1)))


def _interval(
    values_SN: Array,
    *,
    statistic: Statistic | None,
    groups: npt.ArrayLike | None,
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[Interval, Array]:
    """The interval and the statistic of every resample, [R]."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence = {confidence}, expected a share between 0 and 1, such as 0.95")
    if resamples < 1:
        raise ValueError(f"resamples = {resamples}, expected at least 1")
    draws_R, per_seed, items = _draws(values_SN, statistic, groups, resamples, np.random.default_rng(seed))
    low, high = np.quantile(draws_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    interval = Interval(
        value=float(np.mean(per_seed)),
        low=float(low),
        high=float(high),
        confidence=confidence,
        items=items,
        resamples=resamples,
        per_seed=tuple(float(value) for value in per_seed),
    )
    return interval, draws_R


def _as_seeds_by_items(name: str, values: npt.ArrayLike) -> Array:
    array = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} has shape {np.shape(values)}, expected [items] or [seeds, items], not empty")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or Inf at {np.argwhere(~np.isfinite(array))[:3].tolist()} (seed, item)")
    return array


def _draws(
    values_SN: Array,
    statistic: Statistic | None,
    groups: npt.ArrayLike | None,
    resamples: int,
    generator: np.random.Generator,
) -> tuple[Array, Array, int]:
    """The statistic of every resample [R], of every seed [S], and how many units were resampled."""
    if statistic is not None:
        if groups is not None:
            raise ValueError("groups work with the mean only: leave statistic out, or give one value a group")
        draws_R = np.concatenate(
            [
                np.mean([statistic(row_N[index_RN]) for row_N in values_SN], axis=0)
                for index_RN in _indices(values_SN.shape[1], resamples, generator)
            ]
        )
        per_seed = np.array([float(statistic(row_N[None])[0]) for row_N in values_SN])
        return draws_R, per_seed, values_SN.shape[1]
    total_G, count_G = _group_sums(values_SN.mean(axis=0), groups)
    draws_R = np.concatenate(
        [
            total_G[index_RG].sum(axis=1) / count_G[index_RG].sum(axis=1)
            for index_RG in _indices(len(total_G), resamples, generator)
        ]
    )
    return draws_R, values_SN.mean(axis=1), len(total_G)


def _group_sums(values_N: Array, groups: npt.ArrayLike | None) -> tuple[Array, Array]:
    """Sum and size of every group; without groups every item is its own."""
    if groups is None:
        return values_N, np.ones_like(values_N)
    groups_N = np.asarray(groups)
    if groups_N.shape != values_N.shape:
        raise ValueError(f"groups has shape {groups_N.shape}, expected {values_N.shape}, one id an item")
    inverse_N = np.unique(groups_N, return_inverse=True)[1]
    total_G: Array = np.bincount(inverse_N, weights=values_N).astype(np.float64)
    return total_G, np.bincount(inverse_N).astype(np.float64)


def _indices(items: int, resamples: int, generator: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Blocks of resampled row numbers, [block, items], so that memory stays flat."""
    block = max(1, _CHUNK // items)
    for start in range(0, resamples, block):
        yield generator.integers(items, size=(min(block, resamples - start), items))
