"""Diversity, distance, repetition, copying and words against brute force; every nonsense sampler fails its metric."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from byol_ext.metrics import nonsense
from byol_ext.metrics.text import (
    copied_tokens,
    jensen_shannon,
    ngram_distances,
    ngram_js,
    pooled_entropy,
    repetition,
    self_bleu,
    sequence_entropies,
    text_metrics,
    word_shares,
    word_vocabulary,
)


def random_rows(seed: int, shape: tuple[int, int], vocabulary: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(vocabulary, size=shape)


def grams(row: np.ndarray, n: int) -> list[tuple[int, ...]]:
    return [tuple(row[i : i + n].tolist()) for i in range(len(row) - n + 1)]


def entropy(items: list) -> float:
    counts = Counter(items)
    return -sum(c / len(items) * math.log(c / len(items)) for c in counts.values())


def test_entropies_equal_counting():
    ids = random_rows(0, (7, 30))
    assert pooled_entropy(ids) == pytest.approx(entropy(ids.ravel().tolist()), abs=1e-12)
    assert sequence_entropies(ids) == pytest.approx([entropy(row.tolist()) for row in ids], abs=1e-12)


def test_the_pooled_entropy_may_exceed_what_a_sequence_can_have():
    ids = np.arange(64).reshape(16, 4)
    assert pooled_entropy(ids) == pytest.approx(math.log(64))
    assert sequence_entropies(ids) == pytest.approx([math.log(4)] * 16)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_repetition_equals_counting(n):
    ids = random_rows(1, (6, 25), 3)
    expected = [1 - len(set(grams(row, n))) / (25 - n + 1) for row in ids]
    assert repetition(ids, n) == pytest.approx(expected, abs=1e-12)


def bleu(candidate: np.ndarray, references: list[np.ndarray], order: int) -> float:
    logs = 0.0
    for n in range(1, order + 1):
        counts = Counter(grams(candidate, n))
        most: Counter = Counter()
        for reference in references:
            most |= Counter(grams(reference, n))
        hits = sum(min(count, most[gram]) for gram, count in counts.items())
        if hits == 0:
            return 0.0
        logs += math.log(hits / sum(counts.values()))
    return math.exp(logs / order)


def test_self_bleu_equals_brute_force():
    ids = random_rows(2, (8, 20), 4)
    ids[3] = ids[5]
    expected = [bleu(ids[i], [ids[j] for j in range(8) if j != i], 4) for i in range(8)]
    assert self_bleu(ids) == pytest.approx(expected, abs=1e-12)
    assert expected[3] == 1.0
    assert min(expected) < 0.9
    assert self_bleu(np.arange(20).reshape(2, 10)).tolist() == [0.0, 0.0]


def test_divergence_equals_scipy():
    rng = np.random.default_rng(3)
    a, b = rng.integers(4, size=30), rng.integers(4, size=30)
    assert jensen_shannon(a, b) == pytest.approx(jensenshannon(a, b) ** 2, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ngram_divergence_equals_counting(n):
    a, b = random_rows(4, (9, 12)), random_rows(5, (6, 14), 7)
    counts = [Counter(gram for row in ids for gram in grams(row, n)) for ids in (a, b)]
    bins = sorted(counts[0] | counts[1])
    expected = jensenshannon([counts[0][k] for k in bins], [counts[1][k] for k in bins]) ** 2
    assert ngram_js(a, b, n) == pytest.approx(expected, abs=1e-12)


def test_the_floor_is_what_real_text_reaches():
    rng = np.random.default_rng(6)
    real = rng.choice(6, size=(400, 20), p=[0.4, 0.2, 0.15, 0.1, 0.1, 0.05])
    as_good = ngram_distances(real[:100], real[100:], seed=1)
    assert as_good["js2"] == pytest.approx(as_good["js2_floor"], rel=0.5)
    worse = ngram_distances(rng.integers(6, size=(100, 20)), real, seed=1)
    assert worse["js2"] > 5 * worse["js2_floor"]
    with pytest.raises(ValueError, match="twice as many"):
        ngram_distances(real[:300], real)


@pytest.mark.parametrize("pieces", [2**21, 13])
def test_copied_spans_equal_a_search(pieces, monkeypatch):
    monkeypatch.setattr("byol_ext.metrics.text._AT_ONCE", pieces)
    training = random_rows(7, (1, 200), 3)[0]
    ids = random_rows(8, (12, 30), 3)
    ids[0, 4:24] = training[50:70]
    ids[1] = training[:30]
    for length in (4, 7, 20):
        expected = np.zeros(ids.shape, dtype=bool)
        known = set(grams(training, length))
        for i, row in enumerate(ids):
            for j, gram in enumerate(grams(row, length)):
                expected[i, j : j + length] |= gram in known
        copied = copied_tokens(ids, training.astype(np.uint16), length=length)
        assert np.array_equal(copied, expected)
    assert copied.any(axis=1).tolist() == [True, True] + [False] * 10
    assert copied[0].nonzero()[0][[0, -1]].tolist() == [4, 23]


def test_sequences_shorter_than_a_span_copy_nothing():
    assert not copied_tokens([[1, 2]], np.arange(9), length=3).any()


def test_words():
    vocabulary = word_vocabulary(["The cat sat. The CAT ran", "sat on"])
    assert vocabulary == {"the", "cat", "sat"}
    found = word_shares(["xthe cat zzzz. sat o", "cat"], vocabulary)
    assert found["words/count"] == 3
    assert found["words/found"] == pytest.approx(2 / 3)
    assert found["words/found_long"] == 0.0
    assert word_shares([], vocabulary)["words/found"] == 0.0


def test_bad_ids_are_refused():
    for bad in ([1, 2], [[0.5]], [[-1]], np.zeros((0, 4), dtype=int)):
        with pytest.raises(ValueError, match="token ids"):
            pooled_entropy(bad)


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, float]]:
    """Metrics of all nonsense samplers on a periodic-ish text with local structure."""
    rng = np.random.default_rng(9)
    step = rng.choice([1, 2], p=[0.9, 0.1], size=40_000)
    stream = np.cumsum(step) % 40
    training, held_out = stream[:20_000], stream[20_000:].reshape(-1, 40)
    samples = nonsense.nonsense_samples(training, held_out, count=100, seed=3)
    rows = samples | {"real": held_out[:100]}
    return {name: text_metrics(ids, held_out_ML=held_out, training_T=training) for name, ids in rows.items()}


def test_each_nonsense_sampler_is_caught_by_some_metric(table):
    real = table["real"]
    for name in ("unigram", "shuffled", "fragments", "parrot"):
        assert table[name]["entropy_pooled"] == pytest.approx(real["entropy_pooled"], abs=0.05)
    assert table["shuffled"]["entropy_sequence"] == pytest.approx(real["entropy_sequence"], abs=0.05)
    assert table["unigram"]["js2"] > 5 * real["js2"]
    assert table["shuffled"]["js2"] > 5 * real["js2"]
    assert table["fragments"]["js2"] < 0.5 * table["shuffled"]["js2"]
    assert table["fragments"]["js4"] > 1.5 * real["js4"]
    assert table["loop"]["rep4"] > real["rep4"] + 0.5
    assert table["loop"]["entropy_sequence"] < real["entropy_sequence"] - 0.7
    assert table["parrot"]["copy_rate"] == 1.0
    assert table["unigram"]["copy_rate"] == 0.0
    assert real["copy_rate_floor"] == pytest.approx(real["copy_rate"], abs=0.15)
    assert table["parrot"]["js3"] < 2 * table["parrot"]["js3_floor"]


def test_intervals_hold_their_values(table):
    for row in table.values():
        for name in ("entropy_sequence", "rep4", "self_bleu", "copy_rate"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert 0 < row["entropy_pooled_high"] - row["entropy_pooled_low"] < 0.2
