"""An interpolated Witten-Bell n-gram model of token ids: a second scorer beside a neural one, and the infilling floor.

    p_k(w | h) = (c(h w) + T(h) p_{k-1}(w | h')) / (c(h) + T(h)),    p_0 = 1 / V,

with ``c`` counts, ``T(h)`` the number of distinct tokens seen after ``h``, and ``h'`` the context without its first
token (spec cdcd sections 10 and 13). An unseen context falls back to the shorter one. Log-probabilities are nats.

Legend: ``N`` sequences, ``L`` positions, ``M`` contexts, ``K`` context tokens, ``V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
_CELLS_AT_ONCE = 2**23


@dataclass(frozen=True)
class _Order:
    """Counts of one n-gram length, both key lists sorted; a key is the n-gram's digits in base V."""

    gram_keys: Ids
    gram_counts: Ids
    context_keys: Ids
    context_counts: Ids
    context_types: Ids


class NGramModel:
    """Counts of all n-grams up to an order.

    Args:
        tokens: Training ids, one stream ``[N]`` or sequences ``[N, L]`` (n-grams do not run from one to the next).
        order: Tokens of the longest n-gram; 6 in spec cdcd section 13.
        vocab_size: ``V``.

    Raises:
        ValueError: If ids lie outside the vocabulary, or ``V ** order`` outside 63 bits.

    Example:
        >>> model = NGramModel(np.array([0, 1, 0, 1, 0]), order=2, vocab_size=2)
        >>> model.log_prob(np.array([[0, 1]])).round(3).tolist()
        [[-0.56, -0.211]]
    """

    def __init__(self, tokens: npt.ArrayLike, *, order: int, vocab_size: int) -> None:
        rows = np.atleast_2d(np.asarray(tokens))
        if order < 1 or vocab_size < 1 or vocab_size**order >= 2**63:
            raise ValueError(f"order={order} with {vocab_size} ids: V ** order must lie below 2 ** 63; lower the order")
        if rows.size == 0 or rows.min() < 0 or rows.max() >= vocab_size:
            raise ValueError(f"training ids {rows.shape}: expected at least one, all in [0, {vocab_size})")
        self.order, self.vocab_size = order, vocab_size
        self._orders = [self._count(rows, n) for n in range(1, min(order, rows.shape[1]) + 1)]

    def _count(self, rows: npt.NDArray[np.integer], n: int) -> _Order:
        grams, counts = np.unique(window_keys(rows, n, self.vocab_size), return_counts=True)
        contexts, first = np.unique(grams // self.vocab_size, return_index=True)
        return _Order(
            gram_keys=grams,
            gram_counts=counts,
            context_keys=contexts,
            context_counts=np.add.reduceat(counts, first),
            context_types=np.diff(np.append(first, len(grams))),
        )

    def log_prob(self, ids_NL: npt.ArrayLike) -> Array:
        """Log-probability of each token given at most ``order - 1`` before it in its row, ``[N, L]``.

        Raises:
            ValueError: For ids outside the vocabulary.
        """
        ids = np.asarray(ids_NL)
        if ids.ndim != 2 or (ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size)):
            raise ValueError(f"ids {ids.shape}: expected [sequences, positions] in [0, {self.vocab_size})")
        p = np.full(ids.shape, 1.0 / self.vocab_size)
        for n, table in enumerate(self._orders, 1):
            if n > ids.shape[1]:
                break
            keys = window_keys(ids, n, self.vocab_size)
            seen, types = self._context(table, keys // self.vocab_size)
            hits = _lookup(table.gram_keys, table.gram_counts, keys)
            shorter = p[:, n - 1 :]
            p[:, n - 1 :] = np.where(seen > 0, (hits + types * shorter) / np.maximum(seen + types, 1), shorter)
        return np.asarray(np.log(p))

    def distribution(self, context_MK: Ids, lengths_M: Ids) -> Array:
        """Law of the token that follows each context, ``[M, V]``.

        Args:
            context_MK: Tokens before it, the nearest last.
            lengths_M: How many of them count, from the right: the others are ignored.
        """
        contexts, lengths = np.asarray(context_MK, dtype=np.int64), np.asarray(lengths_M)
        p = np.full((len(contexts), self.vocab_size), 1.0 / self.vocab_size)
        for n, table in enumerate(self._orders, 1):
            rows = np.flatnonzero(lengths >= n - 1)
            if n - 1 > contexts.shape[1] or not len(rows):
                break
            nearest = contexts[rows, contexts.shape[1] - (n - 1) :]
            keys = window_keys(nearest, n - 1, self.vocab_size)[:, 0] if n > 1 else np.zeros(len(rows), dtype=np.int64)
            seen, types = self._context(table, keys)
            rows, keys, seen, types = (values[seen > 0] for values in (rows, keys, seen, types))
            p[rows] *= types[:, None]
            # The n-grams of a context lie side by side in the sorted list.
            first = np.searchsorted(table.gram_keys, keys * self.vocab_size)
            entry = np.repeat(first - np.cumsum(types) + types, types) + np.arange(types.sum())
            p[np.repeat(rows, types), table.gram_keys[entry] % self.vocab_size] += table.gram_counts[entry]
            p[rows] /= (seen + types)[:, None]
        return p

    def sample(self, count: int, length: int, *, seed: int, order: int | None = None) -> Ids:
        """Sequences drawn from the model token by token, ``[count, length]``.

        Args:
            count: Sequences.
            length: Tokens of each.
            seed: Of the draws.
            order: Use shorter n-grams only; default: the model's order.

        Raises:
            ValueError: For an order above the model's.
        """
        used = self.order if order is None else order
        if not 1 <= used <= self.order:
            raise ValueError(f"order={order}: expected 1 to {self.order}")
        rng = np.random.default_rng(seed)
        ids = np.zeros((count, length), dtype=np.int64)
        for position in range(length):
            reach = min(position, used - 1)
            lengths = np.full(count, reach)
            cumulative = self.distribution(ids[:, position - reach : position], lengths).cumsum(axis=1)
            below = (cumulative <= rng.random((count, 1)) * cumulative[:, -1:]).sum(axis=1)
            ids[:, position] = np.minimum(below, self.vocab_size - 1)
        return ids

    @staticmethod
    def _context(table: _Order, keys: Ids) -> tuple[Ids, Ids]:
        return (
            _lookup(table.context_keys, table.context_counts, keys),
            _lookup(table.context_keys, table.context_types, keys),
        )


class NGramInfiller:
    """Fills gaps from the tokens on both sides: the floor that a model of infilling must beat (spec cdcd section 10.7).

    A forward model reads the unbroken run of given tokens before a gap's token, a backward model the run after it, and
    ``p(w) ~ p_forward(w) p_backward(w) / p_unigram(w)``, as if the sides were independent given the token. Inside a
    gap, where neither side is given, this is the unigram law.

    Args:
        tokens: Training ids, as for :class:`NGramModel`.
        order: Of both models.
        vocab_size: ``V``.
    """

    def __init__(self, tokens: npt.ArrayLike, *, order: int, vocab_size: int) -> None:
        rows = np.atleast_2d(np.asarray(tokens))
        self._forward = NGramModel(rows, order=order, vocab_size=vocab_size)
        self._backward = NGramModel(rows[:, ::-1], order=order, vocab_size=vocab_size)
        nothing = np.zeros((1, 0), dtype=np.int64)
        self._unigram = self._forward.distribution(nothing, np.zeros(1, dtype=np.int64))
        self._reach, self._vocab_size = order - 1, vocab_size

    def score(self, ids_NL: npt.ArrayLike, hidden_NL: npt.ArrayLike) -> tuple[Array, npt.NDArray[np.bool_]]:
        """How well the hidden tokens are found.

        Args:
            ids_NL: The true tokens.
            hidden_NL: True where a token is to be found; those are read nowhere else.

        Returns:
            Log-probability of each hidden token in nats, and whether it was the most likely one, both ``[hidden]`` in
            row-major order.

        Raises:
            ValueError: For shapes that differ, or nothing hidden.
        """
        ids, hidden = np.asarray(ids_NL, dtype=np.int64), np.asarray(hidden_NL, dtype=bool)
        if ids.shape != hidden.shape or not hidden.any():
            raise ValueError(f"ids {ids.shape}, hidden {hidden.shape}: expected the same, and something hidden")
        where = np.argwhere(hidden)
        log_probs, found = [], []
        step = max(1, _CELLS_AT_ONCE // self._vocab_size)
        for start in range(0, len(where), step):
            part = where[start : start + step]
            p = self._sides(ids, hidden, part)
            truth = ids[part[:, 0], part[:, 1]]
            log_probs.append(np.log(p[np.arange(len(part)), truth]))
            found.append(p.argmax(axis=1) == truth)
        return np.concatenate(log_probs), np.concatenate(found)

    def _sides(self, ids: Ids, hidden: npt.NDArray[np.bool_], where: Ids) -> Array:
        before = self._forward.distribution(*given_run(ids, hidden, where, reach=self._reach))
        mirrored = np.stack([where[:, 0], ids.shape[1] - 1 - where[:, 1]], axis=1)
        after = self._backward.distribution(*given_run(ids[:, ::-1], hidden[:, ::-1], mirrored, reach=self._reach))
        p = before * after / self._unigram
        return np.asarray(p / p.sum(axis=1, keepdims=True))


def given_run(ids_NL: Ids, hidden_NL: npt.NDArray[np.bool_], where_M2: Ids, *, reach: int) -> tuple[Ids, Ids]:
    """The unbroken run of given tokens that ends before each of some positions, at most ``reach`` long.

    Args:
        ids_NL: Tokens.
        hidden_NL: True where a token is not given.
        where_M2: Row and column of each position.
        reach: Longest run.

    Returns:
        Tokens ``[M, reach]``, the nearest last, and how many of them are in the run ``[M]``.

    Example:
        >>> given_run(np.array([[5, 6, 7]]), np.array([[True, False, True]]), np.array([[0, 2]]), reach=2)[1].tolist()
        [1]
    """
    columns = where_M2[:, 1:] - np.arange(reach, 0, -1)
    rows = where_M2[:, :1]
    inside = np.maximum(columns, 0)
    given = (columns >= 0) & ~hidden_NL[rows, inside]
    lengths = np.logical_and.accumulate(given[:, ::-1], axis=1).sum(axis=1)
    return ids_NL[rows, inside], lengths


def window_keys(ids: npt.NDArray[np.integer], n: int, vocab_size: int) -> Ids:
    """Each n-gram of each row as one number, its digits in base ``vocab_size``: ``[N, L]`` to ``[N, L - n + 1]``.

    Raises:
        ValueError: If the numbers leave 63 bits.

    Example:
        >>> window_keys(np.array([[1, 2, 3]]), 2, 10)
        array([[12, 23]])
    """
    if vocab_size**n >= 2**63:
        raise ValueError(f"n-grams of {n} tokens out of {vocab_size}: V ** n must lie below 2 ** 63; lower n")
    width = max(ids.shape[1] - n + 1, 0)
    keys = np.zeros((len(ids), width), dtype=np.int64)
    for offset in range(n):
        keys *= vocab_size
        keys += ids[:, offset : offset + width]
    return keys


def _lookup(keys: Ids, values: Ids, wanted: Ids) -> Ids:
    """Values of sorted keys, 0 for those that are not there."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
