"""Samplers of nonsense: rows that every table of generated text needs beside the models.

Each passes some metric as well as real text and fails another, so a model is only as good as what tells it from them
(spec cdcd section 10.3: samplers without parameters reach excellent generative perplexity at normal entropy).

==============  ==================================================  =====================================
sampler         passes                                              fails
==============  ==================================================  =====================================
``unigram``     pooled and sequence entropy, js1, rep-n             likelihood, js2 and up, words
``shuffled``    the same, exactly                                   the same
``fragments``   entropies, js2, copy rate, mostly likelihood        coherence, js of long n-grams
``loop``        pooled entropy, mostly likelihood                   sequence entropy, rep-n
``parrot``      everything but one                                  copy rate
==============  ==================================================  =====================================

Legend: ``N`` sequences, ``L`` positions, ``T`` tokens of the training stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Tokens = npt.NDArray[Any]


def unigram(training_T: Tokens, count: int, length: int, *, seed: int) -> Ids:
    """Tokens drawn one by one from the training text's histogram, ``[count, length]``."""
    at = np.random.default_rng(seed).integers(len(training_T), size=(count, length))
    return _take(training_T, at)


def shuffled(real_NL: npt.ArrayLike, *, seed: int) -> Ids:
    """Real sequences with the tokens of each in random order, ``[N, L]``."""
    return np.random.default_rng(seed).permuted(np.asarray(real_NL, dtype=np.int64), axis=1)


def fragments(training_T: Tokens, count: int, length: int, *, span: int = 16, seed: int) -> Ids:
    """Stretches of ``span`` training tokens from random places, put together, ``[count, length]``.

    With a span below the copy rate's length, none of it counts as copied.
    """
    pieces = -(-length // span)
    starts = _starts(training_T, (count, pieces), span, seed)
    at = starts[:, :, None] + np.arange(span)
    return _take(training_T, at.reshape(count, pieces * span)[:, :length])


def loop(training_T: Tokens, count: int, length: int, *, span: int = 16, seed: int) -> Ids:
    """One stretch of training text after itself again and again, ``[count, length]``."""
    starts = _starts(training_T, (count, 1), span, seed)
    return _take(training_T, starts + np.arange(length) % span)


def parrot(training_T: Tokens, count: int, length: int, *, seed: int) -> Ids:
    """Whole sequences of the training text, ``[count, length]``."""
    return _take(training_T, _starts(training_T, (count, 1), length, seed) + np.arange(length))


def nonsense_samples(training_T: Tokens, held_out_ML: npt.ArrayLike, *, count: int, seed: int = 0) -> dict[str, Ids]:
    """One set of sequences from each sampler, as long as the held-out ones.

    Args:
        training_T: Training tokens, one stream.
        held_out_ML: Held-out sequences, at least ``count``, which ``shuffled`` draws from.
        count: Sequences of each sampler.
        seed: Of the draws.

    Returns:
        ``unigram``, ``shuffled``, ``fragments``, ``loop``, ``parrot``, each ``[count, L]``.

    Raises:
        ValueError: For too few held-out sequences, or a training text shorter than one of them.
    """
    real = np.asarray(held_out_ML)
    if real.ndim != 2 or len(real) < count:
        raise ValueError(f"held-out {real.shape}: expected [sequences, positions], at least {count} of them")
    length = real.shape[1]
    chosen = real[np.random.default_rng(seed).permutation(len(real))[:count]]
    return {
        "unigram": unigram(training_T, count, length, seed=seed),
        "shuffled": shuffled(chosen, seed=seed),
        "fragments": fragments(training_T, count, length, seed=seed),
        "loop": loop(training_T, count, length, seed=seed),
        "parrot": parrot(training_T, count, length, seed=seed),
    }


def _starts(training_T: Tokens, shape: tuple[int, int], span: int, seed: int) -> Ids:
    if span < 1 or len(training_T) < span:
        raise ValueError(f"{len(training_T)} training tokens hold no stretch of {span}")
    return np.random.default_rng(seed).integers(len(training_T) - span + 1, size=shape)


def _take(training_T: Tokens, at: Ids) -> Ids:
    return np.asarray(training_T[at], dtype=np.int64)
