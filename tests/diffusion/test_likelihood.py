"""The bound equals the entropy where the posterior is exact, and exceeds it where it is not."""

import math

import pytest
import torch

from byol_ext.diffusion.likelihood import Bound, likelihood_bound
from byol_ext.diffusion.score_interpolation import ScoreInterpolator
from byol_ext.diffusion.warp import LogUniformWarp, UniformWarp


def bound_of(source, tokens, *, posterior=None, warp, seed=0, **options) -> Bound:
    return likelihood_bound(
        posterior or source.posterior,
        tokens_BL=tokens,
        interpolator=source.interpolator,
        warp=warp,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


@pytest.fixture(scope="module")
def tokens(independent):
    return independent.draw((500, 10), torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", ["fitted", "loguniform", "uniform"])
def test_equals_the_code_length_for_the_exact_posterior(independent, fitted_to_independent, tokens, kind):
    warp = {
        "fitted": fitted_to_independent,
        "loguniform": LogUniformWarp(0.2, 60.0),
        "uniform": UniformWarp(0.2, 60.0),
    }[kind]
    bound = bound_of(independent, tokens, warp=warp, draws=16)
    assert abs(bound.nats_per_token - independent.entropy) < 3 * bound.standard_error
    # It holds token by token, so that what is left is the noise of the estimate, without that of drawing tokens.
    excess_B = bound.nats_B + independent.prior_V[tokens].log().sum(1)
    assert abs(excess_B.mean()) < 3 * excess_B.std() / 500**0.5
    assert excess_B.std() / 500**0.5 / 10 < 0.04
    parts = bound.parts()
    assert parts["reconstruction"] < 1e-3
    assert parts["prior"] == pytest.approx(16 / (2 * 60.0**2))
    assert sum(parts.values()) == pytest.approx(bound.nats_per_token)


def test_joint_and_conditional_law(pairs):
    tokens = pairs.draw(8000, torch.Generator().manual_seed(4))
    warp = LogUniformWarp(0.2, 40.0)
    joint = bound_of(pairs, tokens, warp=warp)
    assert abs(2 * joint.nats_per_token - pairs.entropy) < 6 * joint.standard_error
    noised = torch.tensor([False, True]).expand_as(tokens)
    given = bound_of(pairs, tokens, posterior=pairs.given_first(tokens[:, 0]), noised_BL=noised, warp=warp)
    assert (given.tokens_B == 1).all()
    assert abs(given.nats_per_token - pairs.conditional_entropy) < 3 * given.standard_error
    assert given.standard_error < 0.03


def test_wrong_posterior_has_a_looser_bound(independent, tokens):
    def flat(x, t, previous):
        distance = torch.cdist(x, independent.table_Vd).square()
        return (-distance / (2 * t[:, None, None] ** 2)).softmax(-1)

    warp = LogUniformWarp(0.2, 60.0)
    exact, wrong = (bound_of(independent, tokens, posterior=p, warp=warp, draws=16) for p in (None, flat))
    # The flat prior's code length is log V.
    assert abs(wrong.nats_per_token - math.log(12)) < 3 * wrong.standard_error
    assert wrong.nats_per_token > exact.nats_per_token + 0.3


def test_integral_by_quadrature(independent):
    """For one fixed token the draws' mean is the integral on a fine grid, whatever the law of t."""
    tokens = torch.full((4000, 1), 2)
    warp = LogUniformWarp(0.2, 60.0)
    t = warp.times((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    clean = independent.table_Vd[tokens]
    total = 0.0
    for seed in range(4):
        noise = torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 10))
        x0 = independent.posterior(clean + t[:, None, None] * noise, t) @ independent.table_Vd
        # dt = t log(t_max / t_min) du
        total += ((clean - x0).square().sum((1, 2)) / t**2).mean().item() * math.log(300.0) / 4
    bound = bound_of(independent, tokens, warp=UniformWarp(0.2, 60.0), draws=8)
    assert bound.parts()["diffusion"] == pytest.approx(total, rel=0.03)


def test_passes_feed_self_conditioning_at_the_same_noise(independent):
    calls = []

    def posterior(x, t, previous):
        p = independent.posterior(x, t)
        calls.append((x, t, previous, p @ independent.table_Vd))
        return p

    tokens = torch.zeros(3, 2, dtype=torch.int64)
    bound = bound_of(independent, tokens, posterior=posterior, warp=LogUniformWarp(0.2, 60.0), draws=2, passes=2)
    assert bound.passes == 2
    assert len(calls) == 9
    for first in (0, 3, 6):
        group = calls[first : first + 3]
        assert (group[0][2] == 0).all()
        assert all(torch.equal(c[0], group[0][0]) and torch.equal(c[1], group[0][1]) for c in group)
        assert torch.equal(group[1][2], group[0][3])
        assert torch.equal(group[2][2], group[1][3])


def test_times_are_stratified(independent):
    seen = []

    def posterior(x, t, previous):
        seen.append(t)
        return independent.posterior(x, t)

    warp = LogUniformWarp(0.2, 60.0)
    bound_of(independent, torch.zeros(8, 1, dtype=torch.int64), posterior=posterior, warp=warp, draws=4)
    assert (seen[0] == 0.2).all()
    # Here both halves of the mixture are log-uniform: each has one of its 16 draws in each of 16 strata.
    u = warp.quantiles(torch.stack(seen[1:]))
    assert (torch.histc(u, bins=16, min=0.0, max=1.0) == 2).all()
    assert ((u - u[0]).abs() > 0.1).any(0).all(), "each sequence has draws far apart"


def test_float32_agrees_with_float64(independent):
    tokens = independent.draw((2000, 4), torch.Generator().manual_seed(7))
    bound = likelihood_bound(
        independent.posterior,
        tokens_BL=tokens,
        interpolator=ScoreInterpolator(independent.table_Vd.float()),
        warp=LogUniformWarp(0.2, 60.0),
        generator=torch.Generator().manual_seed(0),
    )
    assert bound.nats_B.dtype == torch.float64
    assert abs(bound.nats_per_token - independent.entropy) < 3 * bound.standard_error


def test_joined_and_ratio(independent, tokens):
    warp = LogUniformWarp(0.2, 60.0)
    halves = [bound_of(independent, part, warp=warp, seed=k) for k, part in enumerate(tokens.chunk(2))]
    whole = Bound.joined(halves)
    assert len(whole.tokens_B) == 500
    assert whole.nats_per_token == pytest.approx(sum(h.nats_per_token for h in halves) / 2)
    assert whole.standard_error == pytest.approx(halves[0].standard_error / 2**0.5, rel=0.2)
    assert whole.bits_per_char(10_000) == pytest.approx(whole.nats_per_token / 2 / math.log(2))


def test_bad_arguments(independent):
    warp = LogUniformWarp(0.2, 60.0)
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="one shape"):
        bound_of(independent, tokens, warp=warp, noised_BL=torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="draws=0"):
        bound_of(independent, tokens, warp=warp, draws=0)
    one, two = (bound_of(independent, tokens, warp=warp, draws=1, passes=k) for k in (0, 1))
    with pytest.raises(ValueError, match="one number of passes"):
        Bound.joined([one, two])
    with pytest.raises(ValueError, match="chars"):
        one.bits_per_char(0)
    assert math.isnan(bound_of(independent, tokens[:1], warp=warp).standard_error)
