"""The Witten-Bell model and the infilling floor against the formula, written out with dictionaries."""

from collections import Counter

import numpy as np
import pytest

from byol_ext.metrics.ngram_model import NGramInfiller, NGramModel, given_run

V = 4


def rows(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).choice(V, size=shape, p=[0.5, 0.3, 0.15, 0.05])


def witten_bell(training: np.ndarray, context: tuple[int, ...], word: int) -> float:
    lower = 1 / V if not context else witten_bell(training, context[1:], word)
    n = len(context) + 1
    followers = Counter(
        int(row[i + n - 1])
        for row in np.atleast_2d(training)
        for i in range(len(row) - n + 1)
        if tuple(row[i : i + n - 1].tolist()) == context
    )
    total, types = followers.total(), len(followers)
    return (followers[word] + types * lower) / (total + types) if total else lower


@pytest.mark.parametrize("shape", [(60,), (5, 12)])
def test_probabilities_equal_the_formula(shape):
    training, ids = rows(0, shape), rows(1, (3, 7))
    model = NGramModel(training, order=3, vocab_size=V)
    expected = [
        [np.log(witten_bell(training, tuple(row[max(0, j - 2) : j].tolist()), int(row[j]))) for j in range(7)]
        for row in ids
    ]
    assert model.log_prob(ids) == pytest.approx(np.array(expected), abs=1e-12)


def test_distributions_equal_the_formula_and_sum_to_one():
    training = rows(2, (50,))
    model = NGramModel(training, order=4, vocab_size=V)
    contexts = rows(3, (20, 3))
    contexts[0] = 3
    lengths = np.arange(20) % 4
    p = model.distribution(contexts, lengths)
    assert p.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-12)
    for context, length, law in zip(contexts, lengths, p, strict=True):
        used = tuple(context[3 - length :].tolist())
        assert law == pytest.approx([witten_bell(training, used, w) for w in range(V)], abs=1e-12)


def test_a_longer_order_predicts_structure_better_and_noise_no_better():
    cycle = np.arange(3000) % V
    noisy = np.where(np.random.default_rng(4).random(3000) < 0.1, (cycle + 1) % V, cycle)
    held_out = noisy[2000:].reshape(10, 100)
    nll = [-NGramModel(noisy[:2000], order=n, vocab_size=V).log_prob(held_out).mean() for n in (1, 2, 3)]
    assert nll[0] > nll[1] > 0.3
    assert nll[0] == pytest.approx(np.log(V), abs=0.02)


def test_samples_follow_the_model():
    model = NGramModel(rows(5, (4000,)), order=2, vocab_size=V)
    ids = model.sample(2000, 6, seed=0)
    start = model.distribution(np.zeros((1, 0), dtype=int), np.zeros(1, dtype=int))[0]
    assert np.bincount(ids[:, 0], minlength=V) / 2000 == pytest.approx(start, abs=0.04)
    after = model.distribution(np.array([[1]]), np.array([1]))[0]
    follows = ids[:, 1:][ids[:, :-1] == 1]
    assert np.bincount(follows, minlength=V) / len(follows) == pytest.approx(after, abs=0.04)
    cycle = NGramModel(np.arange(4000) % V, order=2, vocab_size=V)
    assert (np.diff(cycle.sample(50, 20, seed=1)) % V == 1).mean() > 0.98
    assert (np.diff(cycle.sample(50, 20, seed=1, order=1)) % V == 1).mean() < 0.4


def test_a_run_of_given_tokens_ends_at_the_first_hidden_one():
    ids = np.arange(8)[None]
    hidden = np.zeros((1, 8), dtype=bool)
    hidden[0, [2, 5]] = True
    where = np.array([[0, 0], [0, 2], [0, 5], [0, 6], [0, 7]])
    tokens, lengths = given_run(ids, hidden, where, reach=3)
    assert lengths.tolist() == [0, 2, 2, 0, 1]
    assert tokens[2].tolist()[1:] == [3, 4]
    assert tokens[4, -1] == 6


def test_the_infilling_floor_equals_its_formula_and_reads_no_hidden_token():
    training, ids = rows(6, (80,)), rows(7, (2, 9))
    hidden = np.zeros((2, 9), dtype=bool)
    hidden[0, [0, 4]] = hidden[1, [3, 4, 8]] = True
    filler = NGramInfiller(training, order=3, vocab_size=V)
    log_prob, _ = filler.score(ids, hidden)
    expected = []
    for i, j in np.argwhere(hidden):
        before: list[int] = []
        while len(before) < 2 and j - 1 - len(before) >= 0 and not hidden[i, j - 1 - len(before)]:
            before.append(int(ids[i, j - 1 - len(before)]))
        after: list[int] = []
        while len(after) < 2 and j + 1 + len(after) < 9 and not hidden[i, j + 1 + len(after)]:
            after.append(int(ids[i, j + 1 + len(after)]))
        p = np.array(
            [
                witten_bell(training, tuple(reversed(before)), w)
                * witten_bell(training[::-1], tuple(reversed(after)), w)
                / witten_bell(training, (), w)
                for w in range(V)
            ]
        )
        expected.append(np.log(p[ids[i, j]] / p.sum()))
    assert log_prob == pytest.approx(expected, abs=1e-12)
    # Whatever else is hidden, the probabilities of all tokens at a gap sum to 1.
    for gap, (i, j) in enumerate(np.argwhere(hidden)):
        total = 0.0
        for word in range(V):
            changed = np.where(hidden, rows(8, ids.shape), ids)
            changed[i, j] = word
            total += np.exp(filler.score(changed, hidden)[0][gap])
        assert total == pytest.approx(1.0, abs=1e-12)


def test_both_sides_beat_one():
    cycle = np.arange(4000) % V
    filler = NGramInfiller(cycle, order=3, vocab_size=V)
    hidden = np.zeros((5, 20), dtype=bool)
    hidden[:, [4, 10]] = True
    log_prob, found = filler.score(cycle[:100].reshape(5, 20), hidden)
    assert found.all()
    assert log_prob.min() > -0.05


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="lower the order"):
        NGramModel([0, 1], order=6, vocab_size=100_000)
    with pytest.raises(ValueError, match="training ids"):
        NGramModel([0, 9], order=2, vocab_size=4)
    model = NGramModel([0, 1], order=1, vocab_size=4)
    with pytest.raises(ValueError, match="expected \\[sequences"):
        model.log_prob([[7]])
    with pytest.raises(ValueError, match="expected 1 to 1"):
        model.sample(1, 1, seed=0, order=2)
    with pytest.raises(ValueError, match="something hidden"):
        NGramInfiller([0, 1], order=1, vocab_size=4).score([[1]], [[False]])
