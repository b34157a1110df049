"""The simplex bound equals the entropy where the posterior is exact, and exceeds it where it is not."""

import math

import pytest
import torch

from byol_ext.diffusion.cir import CIR
from byol_ext.diffusion.simplex import SimplexDiffusion
from byol_ext.diffusion.simplex_likelihood import simplex_bound
from byol_ext.diffusion.warp import LogUniformWarp, UniformWarp

PRIOR = torch.arange(1, 13) ** -1.0 / (torch.arange(1, 13) ** -1.0).sum()
ENTROPY = torch.special.entr(PRIOR).sum().item()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def exact(simplex, prior=PRIOR):
    return lambda y_BLV, t_B, previous_BLV: simplex.posterior(y_BLV, t_B, prior.log())


def draw(shape, seed=3):
    return torch.multinomial(PRIOR, math.prod(shape), True, generator=seeded(seed)).view(shape)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("kind", [LogUniformWarp, UniformWarp])
def test_equals_the_code_length_for_the_exact_posterior(alpha, kind):
    simplex = SimplexDiffusion(12, CIR(alpha), t_min=0.15, t_max=3.0)  # the last term is not small
    tokens, warp = draw((500, 10)), kind(0.15, 3.0)
    bound = simplex_bound(exact(simplex), tokens_BL=tokens, simplex=simplex, warp=warp, generator=seeded(), draws=16)
    assert abs(bound.nats_per_token - ENTROPY) < 3 * bound.standard_error
    # It holds token by token, so that what is left is the noise of the estimate, without that of drawing tokens.
    excess_B = bound.nats_B + PRIOR.double()[tokens].log().sum(1)
    assert abs(excess_B.mean()) < 3 * excess_B.std() / 500**0.5
    assert excess_B.std() / 500**0.5 / 10 < 0.05
    assert bound.nats_B.dtype == torch.float64
    assert sum(bound.parts().values()) == pytest.approx(bound.nats_per_token)


def test_prior_term_is_the_divergence_of_the_last_states():
    simplex = SimplexDiffusion(12, t_max=0.8)
    bound = simplex_bound(
        exact(simplex), tokens_BL=draw((400, 10)), simplex=simplex, warp=LogUniformWarp(0.1, 0.8), generator=seeded()
    )
    y = simplex.noise(torch.zeros(20_000, 1, dtype=torch.int64), torch.full((20_000,), 0.8), generator=seeded(1))
    y = y.double()
    token = simplex.process.log_prob(y, theta_0=simplex.start(torch.zeros(20_000, 1, dtype=torch.int64)), t=0.8)
    assert bound.parts()["prior"] == pytest.approx((token + y).sum(-1).mean().item(), rel=0.03)  # log Gamma(1, 1) = -y


def test_wrong_posterior_has_a_looser_bound():
    simplex, tokens, warp = SimplexDiffusion(12), draw((500, 10)), LogUniformWarp(0.1, 8.0)
    flat = exact(simplex, torch.full((12,), 1 / 12))
    bound = simplex_bound(flat, tokens_BL=tokens, simplex=simplex, warp=warp, generator=seeded(), draws=16)
    assert abs(bound.nats_per_token - math.log(12)) < 3 * bound.standard_error + 0.01
    assert bound.nats_per_token > ENTROPY + 0.3


def test_given_positions_cost_nothing_and_tell_nothing():
    simplex, tokens, warp = SimplexDiffusion(12), draw((300, 6)), LogUniformWarp(0.1, 8.0)
    noised = torch.tensor([True, False, True, False, False, True]).expand(300, 6)
    seen = []

    def posterior(y_BLV, t_B, previous_BLV):
        seen.append(y_BLV)
        return simplex.posterior(y_BLV, t_B, PRIOR.log())

    bound = simplex_bound(posterior, tokens_BL=tokens, simplex=simplex, warp=warp, generator=seeded(), noised_BL=noised)
    assert (bound.tokens_B == 3).all()
    assert abs(bound.nats_per_token - ENTROPY) < 3 * bound.standard_error
    assert all((y[~noised] == 1.0).all() for y in seen)


def test_passes_feed_the_last_prediction_at_one_state():
    simplex, calls = SimplexDiffusion(3), []

    def posterior(y_BLV, t_B, previous_BLV):
        calls.append((y_BLV, previous_BLV))
        return torch.full_like(y_BLV, 1 / 3)

    bound = simplex_bound(
        posterior,
        tokens_BL=torch.zeros(4, 2, dtype=torch.int64),
        simplex=simplex,
        warp=LogUniformWarp(0.1, 8.0),
        generator=seeded(),
        draws=2,
        passes=1,
    )
    assert (len(calls), bound.passes) == (6, 1)
    for first, second in zip(calls[::2], calls[1::2], strict=True):
        assert torch.equal(first[0], second[0])
        assert (first[1] == 0.0).all()
        assert torch.allclose(second[1], torch.tensor(1 / 3))


def test_wrong_arguments():
    simplex, tokens = SimplexDiffusion(12), draw((2, 3))
    base = {"tokens_BL": tokens, "simplex": simplex, "warp": LogUniformWarp(0.1, 8.0), "generator": seeded()}
    for change, message in (
        ({"noised_BL": torch.ones(2, 4, dtype=torch.bool)}, "one shape"),
        ({"warp": LogUniformWarp(0.1, 9.0)}, r"covers \[0.1, 9.0\]"),
        ({"draws": 0}, "draws=0"),
        ({"passes": -1}, "passes=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            simplex_bound(exact(simplex), **base | change)
