"""The bound and the sampler of masked diffusion against enumeration of tiny vocabularies."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from byol_ext.bootstrap import Ctx
from byol_ext.diffusion.mdlm import MDLM, MDLMConfig, bound, hidden_cross_entropy, sample
from byol_ext.diffusion.transformer import TransformerConfig
from byol_ext.rng import sample_keys

V, L = 3, 3
SMALL = TransformerConfig(width=16, depth=1, heads=2)
WORDS = torch.tensor(list(itertools.product(range(V), repeat=L)))
SUBSETS = [torch.tensor(s) for s in itertools.product([False, True], repeat=L)]


def joint_distribution():
    return torch.rand(V**L, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) ** 2


class Exact:
    """The true conditionals of a joint distribution, by summation over all words."""

    def __init__(self):
        weight = joint_distribution()
        self.p = weight / weight.sum()
        self.evaluations = 0

    def __call__(self, tokens_BL, hidden_BL):
        self.evaluations += len(tokens_BL)
        fits_BN = ((tokens_BL[:, None] == WORDS) | hidden_BL[:, None]).all(-1)
        mass_BN = fits_BN * self.p
        one_hot_NLV = torch.nn.functional.one_hot(WORDS, V).double()
        return torch.einsum("bn,nlv->blv", mass_BN, one_hot_NLV).log()


def trained_like():
    """A network with arbitrary weights: its bound is loose, so identities do not hold by luck."""
    model = MDLM(MDLMConfig(V, SMALL)).double().eval()
    torch.nn.init.normal_(model.output.weight, std=1.0)
    torch.nn.init.normal_(model.embedding.weight, std=1.0)
    return model.requires_grad_(False)


def brute_force_bound(predict, word, given=None):
    """Sum over subsets of the times' integral of their probability over t, times their cross-entropy."""
    total = 0.0
    free = [i for i in range(L) if given is None or not given[i]]
    n = len(free)
    for subset in SUBSETS:
        size = int(subset.sum())
        if size == 0 or any(subset[i] and i not in free for i in range(L)):
            continue
        # integral of (1/t) t^size (1 - t)^(n - size) over (0, 1)
        weight = math.gamma(size) * math.gamma(n - size + 1) / math.gamma(n + 1)
        logp = predict(word[None], subset[None]).log_softmax(-1)[0]
        total += weight * sum(-float(logp[i, word[i]]) for i in range(L) if subset[i])
    return total


def test_bound_equals_enumeration():
    model = trained_like()
    expected = torch.tensor([brute_force_bound(model, word) for word in WORDS])
    repeats = 400
    words = WORDS.repeat(repeats, 1)
    got = bound(model, words, draws=3, generator=torch.Generator().manual_seed(0)).reshape(repeats, -1) * L
    error = got.std(0) / repeats**0.5
    assert ((got.mean(0) - expected).abs() < 4.5 * error).all()
    assert (error < 0.1 * expected).all()


def test_infilling_bound_equals_enumeration():
    model, word = trained_like(), WORDS[11]
    given = torch.tensor([False, True, False])
    expected = brute_force_bound(model, word, given)
    words = word.repeat(4_000, 1)
    noised = ~given.expand_as(words)
    got = bound(model, words, draws=2, generator=torch.Generator().manual_seed(0), noised_BL=noised) * 2
    assert abs(float(got.mean()) - expected) < 4.5 * float(got.std()) / len(got) ** 0.5


def test_with_exact_conditionals_the_bound_is_the_likelihood_of_every_word():
    exact = Exact()
    for word, p in zip(WORDS, exact.p, strict=True):
        assert brute_force_bound(exact, word) == pytest.approx(-math.log(p), rel=1e-12)


def test_the_time_weighted_loss_has_the_same_expectation():
    model, word = trained_like(), WORDS[5]
    n = 40_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    ctx = Ctx(data={"u": u, "keys": sample_keys(0, 0, torch.arange(n))})
    out = model.objective({"tokens": word.repeat(n, 1)}, ctx)
    # The integral starts at t_min, and the uniform density is 1 / (1 - t_min): both are below the tolerance.
    assert float(out.loss) * L == pytest.approx(brute_force_bound(model, word), rel=0.03)
    assert float(out.terms["hidden"]) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(out.loss.detach(), out.terms["bound"])


def test_hidden_tokens_are_not_read_and_visible_ones_have_no_loss():
    model = trained_like()
    hidden = torch.tensor([[True, False, True]])
    a, b = model(torch.tensor([[0, 1, 2]]), hidden), model(torch.tensor([[2, 1, 0]]), hidden)
    assert torch.equal(a, b)
    assert not torch.equal(a, model(torch.tensor([[0, 2, 2]]), hidden))
    ce = hidden_cross_entropy(model, torch.tensor([[0, 1, 2]]), hidden)
    assert ce[0, 1] == 0.0
    assert (ce[0, [0, 2]] > 0.0).all()


def sampler_law(predict, steps, word0, noised):
    """Law of the sampler over WORDS by enumeration of reveal steps and draws."""
    law: dict[tuple[int, ...], float] = {}

    def go(tokens, hidden, step_of, step, mass):
        if step == steps:
            law[tuple(tokens.tolist())] = law.get(tuple(tokens.tolist()), 0.0) + mass
            return
        reveal = [i for i in range(L) if step_of.get(i) == step]
        p = predict(tokens[None], hidden[None])[0].softmax(-1)
        for values in itertools.product(range(V), repeat=len(reveal)):
            new, still, m = tokens.clone(), hidden.clone(), mass
            for i, v in zip(reveal, values, strict=True):
                new[i], still[i] = v, False
                m *= float(p[i, v])
            go(new, still, step_of, step + 1, m)

    free = [i for i in range(L) if noised[i]]
    for choice in itertools.product(range(steps), repeat=len(free)):
        go(word0, noised, dict(zip(free, choice, strict=True)), 0, steps ** -len(free))
    return np.array([law.get(tuple(word.tolist()), 0.0) for word in WORDS])


def counts_of(tokens):
    index = (tokens * torch.tensor([V**2, V, 1])).sum(1)
    return torch.bincount(index, minlength=V**L).numpy()


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("noised", [[True, True, True], [True, False, True]])
def test_sampler_law_equals_enumeration(steps, noised):
    exact, n = Exact(), 8_000
    start, noised_L = torch.tensor([0, 2, 1]), torch.tensor(noised)
    law = sampler_law(exact, steps, start, noised_L)
    assert law.sum() == pytest.approx(1.0)
    tokens = sample(
        exact, start.repeat(n, 1), noised_L.expand(n, -1), steps=steps, generator=torch.Generator().manual_seed(1)
    )
    counts = counts_of(tokens)
    assert counts[law == 0.0].sum() == 0
    kept = law > 0.0
    assert stats.chisquare(counts[kept], n * law[kept] / law[kept].sum()).pvalue > 1e-3


def test_many_steps_sample_the_joint_distribution_and_one_step_does_not():
    exact, n = Exact(), 8_000
    blank, noised = torch.zeros(n, L, dtype=torch.long), torch.ones(n, L, dtype=torch.bool)
    pvalues = []
    for steps in (1_000, 1):
        exact.evaluations = 0
        tokens = sample(exact, blank, noised, steps=steps, generator=torch.Generator().manual_seed(2))
        assert exact.evaluations <= n * min(steps, L)
        pvalues.append(stats.chisquare(counts_of(tokens), n * exact.p.numpy()).pvalue)
    assert pvalues[0] > 1e-3
    assert pvalues[1] < 1e-6


def test_sampling_leaves_its_input_and_the_given_tokens():
    model = trained_like()
    tokens = torch.randint(0, V, (50, L))
    before, noised = tokens.clone(), torch.rand(50, L) < 0.5
    out = sample(model, tokens, noised, steps=4, generator=torch.Generator().manual_seed(0), temperature=0.0)
    assert torch.equal(tokens, before)
    assert torch.equal(out[~noised], before[~noised])
    again = sample(model, tokens, noised, steps=4, generator=torch.Generator().manual_seed(0), temperature=0.0)
    assert torch.equal(out, again)


def test_the_masks_of_a_sequence_depend_on_its_key_alone():
    model, ids = trained_like(), torch.arange(8)
    tokens = torch.randint(0, V, (8, L))
    data = {"u": torch.linspace(0.0, 0.9, 8), "keys": sample_keys(0, 0, ids)}
    whole = model.objective({"tokens": tokens}, Ctx(data=data)).loss
    parts = [
        model.objective({"tokens": tokens[s]}, Ctx(data={k: v[s] for k, v in data.items()})).loss
        for s in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_bad_arguments():
    model = trained_like()
    tokens, generator = torch.zeros(2, L, dtype=torch.long), torch.Generator()
    with pytest.raises(ValueError, match="draws=0"):
        bound(model, tokens, draws=0, generator=generator)
    with pytest.raises(ValueError, match="no noised token"):
        bound(model, tokens, draws=1, generator=generator, noised_BL=torch.zeros(2, L, dtype=torch.bool))
    with pytest.raises(ValueError, match="steps=0"):
        sample(model, tokens, tokens == 0, steps=0, generator=generator)
    with pytest.raises(ValueError, match="t_min"):
        MDLMConfig(3, t_min=0.0)
