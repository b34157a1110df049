"""What generated token sequences are like: diversity, distance to real text, repetition, copying, words.

Source: spec cdcd section 10. Entropies and divergences are nats, the rest are shares. None of these numbers says
anything alone: a sampler of nonsense (:mod:`byol_ext.metrics.nonsense`) passes each of them, but not all.

Legend: ``N`` generated sequences, ``M`` real ones, ``L`` positions, ``T`` tokens of a stream, ``W`` windows of a
sequence, ``V`` vocabulary. Where only some positions were generated, pass those columns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from byol_ext.metrics.bootstrap import Interval, bootstrap_interval
from byol_ext.metrics.ngram_model import window_keys

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Tokens = npt.NDArray[Any]
_WORD = re.compile(r"[^\W\d_]+")
_LONG_WORD = 4
_AT_ONCE = 2**21
_RESAMPLES = 1000


def pooled_entropy(ids_NL: npt.ArrayLike) -> float:
    """Entropy of the token histogram over all samples: diversity between and within them (H_pool).

    Example:
        >>> round(pooled_entropy([[0, 0], [1, 1]]), 4)
        0.6931
    """
    return _entropy(_rows(ids_NL).ravel())


def sequence_entropies(ids_NL: npt.ArrayLike) -> Array:
    """Entropy of each sample's own token histogram, ``[N]``; their mean is H_seq, at most ``log L``.

    Example:
        >>> sequence_entropies([[0, 0], [1, 1]]).tolist()
        [0.0, 0.0]
    """
    return np.array([_entropy(row) for row in _rows(ids_NL)])


def repetition(ids_NL: npt.ArrayLike, n: int) -> Array:
    """rep-n of each sample, ``[N]``: 1 - distinct / all of its n-grams.

    Raises:
        ValueError: If the sequences are shorter than ``n``.

    Example:
        >>> repetition([[0, 1, 0, 1, 0]], 2).tolist()
        [0.5]
    """
    keys_NW = np.sort(_keys(_rows(ids_NL), n), axis=1)
    distinct_N = 1 + (np.diff(keys_NW, axis=1) != 0).sum(axis=1)
    return np.asarray(1.0 - distinct_N / keys_NW.shape[1])


def self_bleu(ids_NL: npt.ArrayLike, *, order: int = 4) -> Array:
    """BLEU of each sample against all others, ``[N]``: near 1 where samples say the same.

    The geometric mean of the clipped n-gram precisions, n = 1 to ``order``, without smoothing (0 where one of them is
    0); all samples have one length, so that there is no brevity penalty. It grows with ``N``: compare equal ``N``.

    Raises:
        ValueError: For fewer than two samples or sequences shorter than ``order``.
    """
    ids = _rows(ids_NL)
    if len(ids) < 2:
        raise ValueError(f"{len(ids)} samples: self-BLEU compares at least two")
    precisions = np.stack([_clipped_precision(_keys(ids, n)) for n in range(1, order + 1)])
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(np.log(precisions).mean(axis=0)))


def _clipped_precision(keys_NW: Ids) -> Array:
    """Share of each row's n-grams that another row has, counted at most as often as in that row."""
    rows, width = keys_NW.shape
    distinct, gram_NW = np.unique(keys_NW, return_inverse=True)
    own = np.arange(rows)[:, None] * len(distinct) + gram_NW.reshape(rows, width)
    pair, count = np.unique(own, return_counts=True)
    row, gram = np.divmod(pair, len(distinct))
    # Of each n-gram: how often the row has it that has it most often, and how often the next one.
    order = np.lexsort((count, gram))
    row, gram, count = row[order], gram[order], count[order]
    last = np.flatnonzero(np.append(gram[1:] != gram[:-1], True))
    most, holder, second = count[last], row[last], np.zeros(len(last), dtype=np.int64)
    shared = (last > 0) & (gram[last - 1] == gram[last])
    second[shared] = count[last - 1][shared]
    most_elsewhere = np.where(row == holder[gram], second[gram], most[gram])
    return np.bincount(row, weights=np.minimum(count, most_elsewhere), minlength=rows) / width


def jensen_shannon(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Jensen-Shannon divergence of two histograms over the same bins, in nats: 0 to ``log 2``.

    Example:
        >>> round(jensen_shannon([1, 0], [0, 3]), 4)
        0.6931
    """
    p, q = (np.asarray(counts, dtype=np.float64) for counts in (a, b))
    p, q = p / p.sum(), q / q.sum()
    middle = 0.5 * (p + q)
    total = 0.0
    for law in (p, q):
        seen = law > 0
        total += 0.5 * float((law[seen] * np.log(law[seen] / middle[seen])).sum())
    return max(total, 0.0)


def ngram_js(a_NL: npt.ArrayLike, b_ML: npt.ArrayLike, n: int) -> float:
    """Jensen-Shannon divergence between the n-gram histograms of two sets of sequences, in nats.

    It is biased upwards in small samples: compare at equal sizes only, as :func:`ngram_distances` does.
    """
    a, b = _rows(a_NL), _rows(b_ML)
    vocabulary = int(max(a.max(), b.max())) + 1
    keys = [window_keys(ids, n, vocabulary).ravel() for ids in (a, b)]
    _, bins = np.unique(np.concatenate(keys), return_inverse=True)
    width = int(bins.max()) + 1
    return jensen_shannon(
        np.bincount(bins[: len(keys[0])], minlength=width), np.bincount(bins[len(keys[0]) :], minlength=width)
    )


def ngram_distances(
    generated_NL: npt.ArrayLike, held_out_ML: npt.ArrayLike, *, orders: Sequence[int] = (1, 2, 3, 4), seed: int = 0
) -> dict[str, float]:
    """n-gram divergence of generated from held-out text, beside that of held-out text from other held-out text.

    Both compare ``N`` sequences with the same ``N`` held-out ones, so both have the same bias of small samples.

    Args:
        generated_NL: Generated sequences.
        held_out_ML: Real sequences of the same length, at least ``2 N``.
        orders: Lengths of the n-grams.
        seed: Of the choice of real sequences.

    Returns:
        ``js{n}`` and ``js{n}_floor`` in nats.

    Raises:
        ValueError: For other lengths or too few real sequences.
    """
    generated, real = _rows(generated_NL), _rows(held_out_ML)
    count = len(generated)
    if generated.shape[1] != real.shape[1] or len(real) < 2 * count:
        raise ValueError(f"generated {generated.shape}, held-out {real.shape}: expected one length, and twice as many")
    chosen = np.random.default_rng(seed).permutation(len(real))[: 2 * count]
    reference, other = real[chosen[:count]], real[chosen[count:]]
    out: dict[str, float] = {}
    for n in orders:
        out[f"js{n}"] = ngram_js(generated, reference, n)
        out[f"js{n}_floor"] = ngram_js(other, reference, n)
    return out


def copied_tokens(ids_NL: npt.ArrayLike, training_T: Tokens, *, length: int = 20) -> npt.NDArray[np.bool_]:
    """Which tokens lie in a span of at least ``length`` tokens that the training text has verbatim, ``[N, L]``.

    ``copied_tokens(...).any(axis=1).mean()`` is the copy rate. The training text is scanned once in pieces; matches of
    64-bit hashes are confirmed token by token.

    Args:
        ids_NL: Generated sequences.
        training_T: Training tokens, one stream; a memory map is fine.
        length: Shortest span (spec: 20 tokens).

    Raises:
        ValueError: For a length below 1.

    Example:
        >>> copied_tokens([[9, 1, 2, 3, 9]], np.arange(5), length=3).astype(int).tolist()
        [[0, 1, 1, 1, 0]]
    """
    ids = _rows(ids_NL)
    if length < 1:
        raise ValueError(f"length={length}: expected at least 1")
    copied = np.zeros(ids.shape, dtype=bool)
    if ids.shape[1] < length:
        return copied
    windows_NWl = np.lib.stride_tricks.sliding_window_view(ids, length, axis=1)
    hashes, first, inverse = np.unique(_window_hashes(ids, length), return_index=True, return_inverse=True)
    known = np.zeros(len(hashes), dtype=bool)
    examples = windows_NWl.reshape(-1, length)[first]
    for start in range(0, len(training_T) - length + 1, _AT_ONCE):
        piece = np.asarray(training_T[start : start + _AT_ONCE + length - 1]).astype(np.int64)
        found = _window_hashes(piece[None], length)[0]
        at = np.minimum(np.searchsorted(hashes, found), len(hashes) - 1)
        which, position = np.unique(np.where(hashes[at] == found, at, -1), return_index=True)
        which, position = which[which >= 0], position[which >= 0]
        stretches = piece[position[:, None] + np.arange(length)]
        known[which] |= (stretches == examples[which]).all(axis=1)
    copied_NW = known[inverse].reshape(len(ids), -1)
    for offset in range(length):
        copied[:, offset : offset + copied_NW.shape[1]] |= copied_NW
    return copied


def _window_hashes(ids: Ids, length: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each window, wrapping."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    width = ids.shape[1] - length + 1
    out = np.zeros((len(ids), width), dtype=np.uint64)
    for offset in range(length):
        out *= np.uint64(0x5851F42D4C957F2D)
        out += mixed[:, offset : offset + width]
    return out


def word_vocabulary(texts: Iterable[str], *, min_count: int = 2) -> frozenset[str]:
    """Words of some texts, case-folded, that occur at least ``min_count`` times (2 leaves out most typing errors).

    Example:
        >>> sorted(word_vocabulary(["The cat, the dog."]))
        ['the']
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(text.casefold()))
    return frozenset(word for word, count in counts.items() if count >= min_count)


def word_shares(texts: Iterable[str], vocabulary: Set[str]) -> dict[str, float]:
    """Share of the words of generated texts that a vocabulary holds.

    A word that touches an end of its text may have been cut, and is left out. Short words are found by chance: random
    letters give some, which is why long words are counted apart.

    Args:
        texts: Generated texts.
        vocabulary: Known words, from :func:`word_vocabulary` of the training text.

    Returns:
        ``words/found``, ``words/found_long`` (of four letters or more), ``words/mean_length``, ``words/count``; shares
        of no words are 0.

    Example:
        >>> word_shares(["-the cta sat on-"], frozenset({"the", "sat", "on"}))["words/found"]
        0.75
    """
    words: list[str] = []
    for text in texts:
        matches = list(_WORD.finditer(text))
        words += [match[0].casefold() for match in matches if match.start() > 0 and match.end() < len(text)]
    long_words = [word for word in words if len(word) >= _LONG_WORD]
    return {
        "words/found": _share(words, vocabulary),
        "words/found_long": _share(long_words, vocabulary),
        "words/mean_length": float(np.mean([len(word) for word in words])) if words else 0.0,
        "words/count": float(len(words)),
    }


def text_metrics(
    generated_NL: npt.ArrayLike,
    *,
    held_out_ML: npt.ArrayLike,
    training_T: Tokens,
    copy_length: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """All of the above that need no model, under flat names.

    Args:
        generated_NL: Generated sequences.
        held_out_ML: Held-out text of the same length, at least twice as many.
        training_T: Training tokens.
        copy_length: Shortest span that counts as copied.
        seed: Of the choice of held-out text and of the bootstrap.

    Returns:
        ``entropy_pooled``, ``entropy_sequence``, ``rep4``, ``self_bleu``, ``copy_rate``, each with the ends of its 95 %
        bootstrap interval over samples (``…_low``, ``…_high``; self-BLEU as if its values were independent);
        ``copy_rate_floor``, that of as many held-out sequences (0.43 for 20 characters of ``stdlib27``, 0.02 for 40:
        choose a length at which it is small); the ``js`` values of :func:`ngram_distances`; ``samples`` and ``seed``.
    """
    ids = _rows(generated_NL)

    def pooled(draw_RN: Array) -> Array:
        return np.array([pooled_entropy(ids[draw_N.astype(np.int64)]) for draw_N in draw_RN])

    numbers = np.arange(len(ids), dtype=np.float64)
    intervals: dict[str, Interval] = {
        # Few resamples: each one counts all tokens again.
        "entropy_pooled": bootstrap_interval(numbers, statistic=pooled, resamples=200, seed=seed)
    }
    copied_N = copied_tokens(ids, training_T, length=copy_length).any(axis=1)
    for name, values_N in (
        ("entropy_sequence", sequence_entropies(ids)),
        ("rep4", repetition(ids, 4)),
        ("self_bleu", self_bleu(ids)),
        ("copy_rate", copied_N),
    ):
        intervals[name] = bootstrap_interval(values_N, resamples=_RESAMPLES, seed=seed)
    out: dict[str, float] = {}
    for name, interval in intervals.items():
        out |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    real = np.random.default_rng(seed).permutation(_rows(held_out_ML))[: len(ids)]
    out["copy_rate_floor"] = float(copied_tokens(real, training_T, length=copy_length).any(axis=1).mean())
    return out | ngram_distances(ids, held_out_ML, seed=seed) | {"samples": float(len(ids)), "seed": float(seed)}


def _share(words: Sequence[str], vocabulary: Set[str]) -> float:
    return sum(word in vocabulary for word in words) / len(words) if words else 0.0


def _rows(ids: npt.ArrayLike) -> Ids:
    rows = np.asarray(ids)
    if rows.ndim != 2 or rows.size == 0 or not np.issubdtype(rows.dtype, np.integer) or rows.min() < 0:
        raise ValueError(f"got {rows.dtype} {rows.shape}: expected token ids [sequences, positions], not negative")
    return rows.astype(np.int64)


def _keys(ids: Ids, n: int) -> Ids:
    if not 1 <= n <= ids.shape[1]:
        raise ValueError(f"n-grams of {n} in sequences of {ids.shape[1]} tokens: expected 1 to {ids.shape[1]}")
    return window_keys(ids, n, int(ids.max()) + 1)


def _entropy(ids: Ids) -> float:
    p = np.unique(ids, return_counts=True)[1] / ids.size
    return float((p * np.log(1.0 / p)).sum())
