"""The Markov source against enumeration: entropy, likelihood and posterior are exact."""

import itertools

import numpy as np
import pytest

from byol_ext.text.markov import MarkovSource

V, L = 3, 5
SEQUENCES = np.array(list(itertools.product(range(V), repeat=L)))


@pytest.fixture(scope="module")
def source() -> MarkovSource:
    return MarkovSource(V, concentration=0.5, seed=4)


@pytest.fixture(scope="module")
def letters() -> MarkovSource:
    return MarkovSource()


def test_the_pair_law_is_stationary(source, letters):
    for law in (source, letters):
        assert np.einsum("ab,abc->bc", law.pair_VV, law.p_VVV) == pytest.approx(law.pair_VV, abs=1e-12)
        assert law.pair_VV.sum(axis=1) == pytest.approx(law.unigram, abs=1e-12)


def test_probabilities_sum_to_one_and_give_the_entropy(source):
    log_p = source.log_prob(SEQUENCES).sum(axis=1)
    p = np.exp(log_p)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert -(p * log_p).sum() == pytest.approx(source.entropy(L), abs=1e-10)
    assert source.entropy(1) == pytest.approx(-(source.unigram * np.log(source.unigram)).sum())
    for length in (1, 2, 3):
        prefix = SEQUENCES[:: V ** (L - length), :length]
        assert np.exp(source.log_prob(prefix).sum(axis=1)).sum() == pytest.approx(1.0, abs=1e-12)


def test_samples_have_the_source_s_law(source, letters):
    ids = source.sample(20_000, L, seed=0)
    keys = ids @ (V ** np.arange(L - 1, -1, -1))
    seen = np.bincount(keys, minlength=V**L) / 20_000
    assert 0.5 * np.abs(seen - np.exp(source.log_prob(SEQUENCES).sum(axis=1))).sum() < 0.06
    drawn = letters.sample(200, 200, seed=1)
    nll = -letters.log_prob(drawn)[:, 2:].mean(axis=1)
    assert nll.mean() == pytest.approx(letters.entropy_rate, abs=4 * nll.std() / np.sqrt(200))
    assert 0.5 < letters.entropy_rate < 2.0
    assert np.array_equal(drawn, letters.sample(200, 200, seed=1))


def test_the_posterior_equals_enumeration(source):
    rng = np.random.default_rng(0)
    evidence = 2.0 * rng.normal(size=(4, L, V))
    evidence[0] = 0.0
    evidence[1, 2] = [-np.inf, 0.0, -np.inf]
    joint = source.log_prob(SEQUENCES).sum(axis=1)
    marginals = source.posterior(evidence)
    for row in range(4):
        weight = np.exp(joint + evidence[row, np.arange(L), SEQUENCES].sum(axis=1))
        weight /= weight.sum()
        expected = np.array([[weight[SEQUENCES[:, t] == v].sum() for v in range(V)] for t in range(L)])
        assert marginals[row] == pytest.approx(expected, abs=1e-10)
    assert marginals[0] == pytest.approx(np.tile(source.unigram, (L, 1)), abs=1e-10)
    assert marginals[1, 2].tolist() == pytest.approx([0, 1, 0])


def test_impossible_evidence_is_refused(source):
    with pytest.raises(ValueError, match="excludes"):
        source.posterior(np.full((1, L, V), -np.inf))
    with pytest.raises(ValueError, match=r"expected \[N, L >= 2, 3\]"):
        source.posterior(np.zeros((1, L, V + 1)))


def test_as_a_corpus(letters):
    data = letters.language_data(3000, 1000)
    assert data.tokenizer.vocab_size == 27
    assert data.train.facts.characters == data.train.facts.tokens == 3000
    assert len(data.sequences("validation", 64)) == 15
    assert data.facts() == MarkovSource().language_data(3000, 1000).facts()
    assert data.train.facts.sha256 != letters.language_data(3000, 1000, seed=1).train.facts.sha256
    nll = -letters.log_prob(data.train.tokens_N[None].astype(np.int64)).mean()
    assert nll == pytest.approx(letters.entropy_rate, abs=0.1)
    with pytest.raises(ValueError, match="at most 27"):
        MarkovSource(40).language_data(10, 10)
