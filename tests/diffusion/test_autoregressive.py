"""Likelihood, sampling and infilling of the autoregressive baseline against enumeration."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from byol_ext.bootstrap import Ctx
from byol_ext.diffusion.autoregressive import Autoregressive, AutoregressiveConfig, infill, sample, token_nll
from byol_ext.diffusion.transformer import TransformerConfig

V, L = 3, 3
WORDS = torch.tensor(list(itertools.product(range(V), repeat=L)))


@pytest.fixture
def model():
    model = Autoregressive(AutoregressiveConfig(V, TransformerConfig(width=8, depth=2, heads=2))).double().eval()
    torch.nn.init.normal_(model.output.weight, std=1.0)
    torch.nn.init.normal_(model.embedding.weight, std=1.0)
    return model.requires_grad_(False)


def counts_of(tokens):
    return torch.bincount((tokens * torch.tensor([V**2, V, 1])).sum(1), minlength=V**L).numpy()


def test_probabilities_of_all_words_sum_to_one(model):
    p = (-token_nll(model, WORDS).sum(1)).exp()
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-12)
    assert p.std() > 0.01


def test_a_token_sees_only_what_is_before_it(model):
    a, b = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 0]])
    torch.testing.assert_close(model(a)[:, :2], model(b)[:, :2])
    assert not torch.allclose(model(a)[:, 2], model(b)[:, 2])


def test_objective_is_the_mean_nll(model):
    out = model.objective({"tokens": WORDS}, Ctx())
    logp = model(WORDS).log_softmax(-1)
    expected = -np.mean([[float(logp[n, i, w]) for i, w in enumerate(word)] for n, word in enumerate(WORDS.tolist())])
    assert float(out.loss) == pytest.approx(expected, rel=1e-12)


def test_samples_follow_the_likelihood(model):
    n = 6_000
    blank = torch.zeros(n, L, dtype=torch.long)
    tokens = sample(model, blank, torch.ones_like(blank, dtype=torch.bool), generator=torch.Generator().manual_seed(0))
    p = (-token_nll(model, WORDS).sum(1)).exp().numpy()
    assert stats.chisquare(counts_of(tokens), n * p).pvalue > 1e-3


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_the_cache_changes_nothing(model, top_p):
    length = 12
    tokens, noised = torch.randint(0, V, (20, length)), torch.rand(20, length) < 0.5
    noised[:, :3] = False
    got = sample(model, tokens, noised, generator=torch.Generator().manual_seed(5), temperature=0.7, top_p=top_p)
    generator, expected = torch.Generator().manual_seed(5), tokens.clone()
    for i in range(length):
        if noised[:, i].any():
            u = torch.rand(20, 1, dtype=torch.float64, generator=generator)
            p = (model(expected)[:, i] / 0.7).softmax(-1)
            if top_p < 1.0:
                order = p.argsort(-1, descending=True)
                for row, o in zip(p, order, strict=True):
                    kept = int((row[o].cumsum(0) < top_p).sum()) + 1
                    row[o[kept:]] = 0.0
                p = p / p.sum(-1, keepdim=True)
            drawn = (p.cumsum(-1) <= u).sum(-1)
            expected[:, i] = torch.where(noised[:, i], drawn, expected[:, i])
    assert torch.equal(got, expected)
    assert torch.equal(got[~noised], tokens[~noised])


def conditional(p, given, values):
    """``p(word | given tokens)`` over WORDS."""
    fits = (values == WORDS)[:, given].all(1)
    return np.where(fits.numpy(), p, 0.0) / p[fits.numpy()].sum()


def test_infilling_with_two_candidates_has_the_enumerated_law_and_many_tend_to_the_posterior(model):
    values, noised_L = torch.tensor([0, 2, 1]), torch.tensor([True, False, True])
    nll = token_nll(model, WORDS)
    q = (-(nll * noised_L).sum(1)).exp().numpy() * (WORDS[:, 1] == 2).numpy()
    assert q.sum() == pytest.approx(1.0)
    weight = (-(nll * ~noised_L).sum(1)).exp().numpy()
    pairs = q[:, None] * q[None] * weight[:, None] / (weight[:, None] + weight[None])
    two = 2.0 * pairs.sum(1)
    exact = conditional((-nll.sum(1)).exp().numpy(), ~noised_L, values)
    assert abs(two - q).sum() > 0.05

    for candidates, law, n in ((1, q, 2_000), (2, two, 3_000), (40, exact, 300)):
        kept = law > 0.0
        found = counts_of(sample_infill(model, values, noised_L, candidates, n))
        assert found[~kept].sum() == 0
        assert stats.chisquare(found[kept], n * law[kept] / law[kept].sum()).pvalue > 1e-3
    kept = exact > 0.0
    left_to_right = counts_of(sample_infill(model, values, noised_L, 1, 2_000))
    assert stats.chisquare(left_to_right[kept], 2_000 * exact[kept]).pvalue < 1e-6


def sample_infill(model, values, noised_L, candidates, n):
    return infill(
        model,
        values.repeat(n, 1),
        noised_L.expand(n, -1),
        candidates=candidates,
        generator=torch.Generator().manual_seed(7),
    )


def test_nothing_to_sample_returns_the_tokens(model):
    tokens = WORDS[:4]
    assert torch.equal(
        sample(model, tokens, torch.zeros_like(tokens, dtype=torch.bool), generator=torch.Generator()), tokens
    )


def test_bad_arguments(model):
    with pytest.raises(ValueError, match="candidates=0"):
        sample_infill(model, WORDS[0], torch.ones(L, dtype=torch.bool), 0, 1)
    with pytest.raises(ValueError, match="vocab_size=0"):
        AutoregressiveConfig(0)
