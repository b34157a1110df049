"""Simplex diffusion: Dirichlet limit, posterior, score, ODE, generation with the exact posterior, likelihood bound."""

import functools
import math

import pytest
import scipy.stats
import torch

from byol_ext.diffusion.cir import CIR
from byol_ext.diffusion.simplex import SimplexDiffusion, proportions
from byol_ext.diffusion.simplex_samplers import bridge_step, generate, log_times, ode_step, sde_step
from byol_ext.rng import sample_keys

ALPHAS = torch.tensor([0.4, 1.0, 2.0, 3.5], dtype=torch.float64)
PRIOR = torch.tensor([0.3, 0.2, 0.14, 0.1, 0.08, 0.06, 0.04, 0.03, 0.02, 0.015, 0.01, 0.005], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noised(simplex: SimplexDiffusion, n: int, t: float, *, token: int = 0, seed: int = 0) -> torch.Tensor:
    tokens, t_B = torch.full((n, 1), token), torch.full((n,), t, dtype=torch.float64)
    return simplex.noise(tokens, t_B, generator=seeded(seed), dtype=torch.float64)


@functools.cache
def small(dtype: torch.dtype = torch.float64) -> tuple[SimplexDiffusion, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vocabulary with unequal shapes: the process, states, times and log-prior."""
    simplex = SimplexDiffusion(4, CIR(ALPHAS.to(dtype), 1.5), kappa=6.0)
    tokens, t_B = torch.tensor([[0, 1], [2, 3], [3, 0]]), torch.tensor([0.1, 0.5, 2.0], dtype=dtype)
    y = simplex.noise(tokens, t_B, generator=seeded(1), dtype=dtype)
    return simplex, y, t_B, torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=dtype).log()


def joint_log_density(simplex, y_BLV, t_B, log_prior):
    """``log pi_i + log p(Y | token i)``, one token after the other."""
    starts = simplex.kappa * torch.eye(simplex.vocab, dtype=y_BLV.dtype)
    t = t_B[:, None, None]
    each = [simplex.process.log_prob(y_BLV, theta_0=start.expand_as(y_BLV), t=t).sum(-1) for start in starts]
    return torch.stack(each, -1) + log_prior


def test_equilibrium_is_dirichlet_and_a_short_time_is_not():
    simplex = SimplexDiffusion(4, CIR(ALPHAS, 1.0), kappa=1.0)
    for t, holds in ((8.0, True), (0.2, False)):
        x = proportions(noised(simplex, 10_000, t, seed=2))[:, 0]
        laws = [scipy.stats.beta(float(a), float(ALPHAS.sum() - a)) for a in ALPHAS]
        p_values = [scipy.stats.kstest(x[:, i].numpy(), law.cdf).pvalue for i, law in enumerate(laws)]
        assert (min(p_values) > 1e-3) if holds else (max(p_values) < 1e-3)


def test_posterior_is_bayes_rule_and_score_its_gradient():
    simplex, y, t_B, log_prior = small()
    y = y.clone().requires_grad_()
    joint = joint_log_density(simplex, y, t_B, log_prior)
    p = simplex.posterior(y, t_B, log_prior)
    torch.testing.assert_close(p, joint.softmax(-1), rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(joint.logsumexp(-1).sum(), y)
    torch.testing.assert_close(simplex.score(y, t_B, p).detach(), gradient, rtol=1e-9, atol=1e-9)


def test_drift_of_the_logarithm():
    simplex, y, t_B, log_prior = small()
    p = simplex.posterior(y, t_B, log_prior)
    alpha, b = simplex.process.shape, simplex.process.speed
    published = b * ((alpha - 1) / y - 1 - simplex.score(y, t_B, p))
    torch.testing.assert_close(simplex.log_drift(y, t_B, p), published, rtol=1e-8, atol=1e-8)
    ahead = ode_step(simplex, y[:1], p[:1], 0.1, 0.1 - 1e-7, seeded())
    torch.testing.assert_close((ahead / y[:1]).log() / -1e-7, published[:1], rtol=1e-4, atol=1e-4)


def test_single_precision_agrees_with_double():
    simplex, y, t_B, log_prior = small()
    single, _, _, _ = small(torch.float32)
    low, t_low = y.float(), t_B.float()
    p = simplex.posterior(y, t_B, log_prior)
    torch.testing.assert_close(single.posterior(low, t_low, log_prior.float()).double(), p, rtol=1e-3, atol=1e-5)
    drifts = single.log_drift(low, t_low, p.float()).double(), simplex.log_drift(y, t_B, p)
    torch.testing.assert_close(*drifts, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("t", [0.1, 1.0])
def test_keyed_noise_follows_the_exact_transition(alpha, t):
    simplex, n = SimplexDiffusion(4, CIR(alpha, 1.3), kappa=6.0), 8_000
    tokens = torch.arange(3).expand(n, 3)
    y = simplex.keyed_noise(tokens, torch.full((n,), t), keys_B=sample_keys(3, 0, torch.arange(n))).double()
    k, r = math.exp(-1.3 * t), -math.expm1(-1.3 * t)
    token = scipy.stats.ncx2(2 * alpha, 2 * simplex.kappa * k / r, scale=r / 2)
    other = scipy.stats.gamma(alpha, scale=r)
    for place in range(3):
        for i in range(4):
            assert scipy.stats.kstest(y[:, place, i].numpy(), (token if i == place else other).cdf).pvalue > 1e-3
    independent = torch.corrcoef(y.flatten(1).T) - torch.eye(12, dtype=torch.float64)
    assert independent.abs().max() < 5 / math.sqrt(n)
    assert y.min() > 0.0


def test_keyed_noise_belongs_to_its_sample_and_its_tokens():
    simplex, keys = SimplexDiffusion(4), sample_keys(0, 0, torch.arange(6))
    tokens, t = torch.randint(4, (6, 5), generator=seeded()), torch.linspace(0.1, 8.0, 6)
    y = simplex.keyed_noise(tokens, t, keys_B=keys)
    rows = [4, 1]
    assert torch.equal(simplex.keyed_noise(tokens[rows], t[rows], keys_B=keys[rows]), y[rows])
    other = simplex.keyed_noise((tokens + 1) % 4, t, keys_B=keys)
    unmoved = torch.nn.functional.one_hot(tokens, 4) + torch.nn.functional.one_hot((tokens + 1) % 4, 4) == 0
    assert torch.equal(other[unmoved], y[unmoved])


@pytest.mark.parametrize("alpha", [0.3, ALPHAS], ids=["no half", "several"])
def test_keyed_noise_needs_one_half_integer_shape(alpha):
    with pytest.raises(ValueError, match="multiple of 1/2"):
        SimplexDiffusion(4, CIR(alpha)).keyed_noise(torch.tensor([[0]]), torch.ones(1), keys_B=torch.tensor([7]))


@pytest.mark.parametrize("t", [0.1, 1.0, 8.0])
def test_features_of_other_tokens_are_standard_at_every_time(t):
    simplex = SimplexDiffusion(4, CIR(ALPHAS))
    y = noised(simplex, 20_000, t, token=2)
    features = simplex.features(y, torch.full((20_000,), t, dtype=torch.float64))[:, 0]
    others = features[:, [0, 1, 3]]
    assert others.mean(0).abs().max() < 0.05
    assert (others.std(0) - 1).abs().max() < 0.05
    assert torch.isfinite(simplex.features(torch.zeros(1, 1, 4), torch.ones(1))).all()


@pytest.mark.parametrize(
    ("step", "steps", "limit"), [(ode_step, 50, 0.03), (sde_step, 50, 0.03), (bridge_step, 10, 0.02)]
)
def test_generation_with_the_exact_posterior(step, steps, limit):
    simplex = SimplexDiffusion(12)

    def exact(y_BLV, t_B, previous_BLV):
        return simplex.posterior(y_BLV, t_B, PRIOR.log())

    like = torch.zeros(6_000, 1, 12, dtype=torch.float64)
    times = log_times(simplex, steps)
    sample = generate(simplex, exact, times, like_BLV=like, step=step, generator=seeded(7))
    frequencies = torch.bincount(sample.tokens_BL[:, 0], minlength=12) / 6_000
    assert 0.5 * (frequencies - PRIOR).abs().sum() < limit
    assert sample.y_BLV.min() > 0.0


def test_sampler_hands_back_the_previous_prediction():
    simplex, seen = SimplexDiffusion(3), []

    def posterior(y_BLV, t_B, previous_BLV):
        seen.append((t_B[0].item(), previous_BLV[0, 0].tolist()))
        return torch.full_like(y_BLV, len(seen))

    times = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    generate(simplex, posterior, times, like_BLV=torch.zeros(2, 1, 3), step=sde_step, generator=seeded())
    assert seen == [(2.0, [0.0] * 3), (1.0, [1.0] * 3), (0.5, [2.0] * 3)]
    with pytest.raises(ValueError, match="decreasing"):
        generate(simplex, posterior, times.flip(0), like_BLV=torch.zeros(2, 1, 3), step=sde_step, generator=seeded())


@pytest.mark.parametrize("step", [ode_step, sde_step, bridge_step])
def test_steps_stay_finite_when_the_network_contradicts_the_state(step):
    simplex = SimplexDiffusion(3)
    y = torch.tensor([[[1e-12, 9.0, 1e-30]]])
    for p in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]):
        moved = step(simplex, y, torch.tensor([[p]]), 0.02, 0.01, seeded())
        assert torch.isfinite(moved).all()
        assert moved.min() >= 0.0
        assert moved.max() < 1e3


def test_bound_of_the_exact_posterior_is_the_entropy():
    simplex, n = SimplexDiffusion(12, t_min=0.2), 40_000
    g = seeded(8)
    tokens = torch.multinomial(PRIOR, n, replacement=True, generator=g)[:, None]
    width = math.log(simplex.t_max / simplex.t_min)
    t_B = simplex.t_min * torch.exp(width * torch.rand(n, generator=g, dtype=torch.float64))
    y = simplex.noise(tokens, t_B, generator=g, dtype=torch.float64)
    p = simplex.posterior(y, t_B, PRIOR.log())
    rate = simplex.bound_rate(y, t_B, tokens_BL=tokens, p_BLV=p)[:, 0] * t_B * width
    first, last = (torch.full((n,), t, dtype=torch.float64) for t in (simplex.t_min, simplex.t_max))
    y_first, y_last = (simplex.noise(tokens, t, generator=g, dtype=torch.float64) for t in (first, last))
    at_start = -simplex.posterior(y_first, first, PRIOR.log()).gather(-1, tokens[..., None])[:, 0, 0].log()
    nats = at_start + rate + simplex.prior_gap(y_last, last, tokens_BL=tokens)[:, 0]
    entropy = -(PRIOR * PRIOR.log()).sum()
    assert abs(nats.mean() - entropy) < 3 * nats.std() / math.sqrt(n)
    assert nats.std() / math.sqrt(n) < 0.04


def test_a_state_is_the_prior_plus_the_gap():
    simplex, y, t_B, log_prior = small()
    tokens = torch.tensor([[0, 1], [2, 3], [3, 0]])
    joint = joint_log_density(simplex, y, t_B, torch.zeros_like(log_prior))
    at_rest = torch.distributions.Gamma(ALPHAS, torch.ones_like(ALPHAS)).log_prob(y).sum(-1)
    expected = joint.gather(-1, tokens[..., None])[..., 0] - at_rest
    torch.testing.assert_close(simplex.prior_gap(y, t_B, tokens_BL=tokens), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_a_large_vocabulary(alpha):
    simplex, t_B = SimplexDiffusion(2048, CIR(alpha)), torch.tensor([0.1, 1.0, 8.0])
    tokens = torch.tensor([[5, 2047], [0, 9], [1, 1]])
    y = simplex.noise(tokens, t_B, generator=seeded(9))
    torch.testing.assert_close(proportions(y).sum(-1), torch.ones(3, 2))
    p = simplex.posterior(y, t_B)
    for values in (y, p, simplex.features(y, t_B), simplex.log_drift(y, t_B, p)):
        assert torch.isfinite(values).all()


def test_wrong_arguments():
    with pytest.warns(UserWarning, match="3000 tokens"):
        SimplexDiffusion(3000)
    with pytest.raises(ValueError, match="at least 2"):
        SimplexDiffusion(1)
    with pytest.raises(ValueError, match="t_min"):
        SimplexDiffusion(4, t_min=2.0, t_max=1.0)
    with pytest.raises(ValueError, match="kappa"):
        SimplexDiffusion(4, kappa=0.0)
    with pytest.raises(ValueError, match=r"needs \(5,\)"):
        SimplexDiffusion(5, CIR(ALPHAS))
