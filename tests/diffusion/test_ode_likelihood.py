"""The flow's likelihood is the code length for exact posteriors, token by token."""

import pytest
import torch

from byol_ext.diffusion.likelihood import likelihood_bound
from byol_ext.diffusion.ode_likelihood import ode_likelihood
from byol_ext.diffusion.warp import LogUniformWarp


def by_flow(source, tokens, *, posterior=None, **options):
    return ode_likelihood(
        posterior or source.posterior,
        tokens_BL=tokens,
        interpolator=source.interpolator,
        warp=LogUniformWarp(0.2, 40.0),
        generator=torch.Generator().manual_seed(0),
        **options,
    )


def test_code_length_of_pairs_and_of_seconds_given_firsts(pairs):
    tokens = pairs.draw(1500, torch.Generator().manual_seed(4))
    joint_B = -pairs.joint_VV[tokens[:, 0], tokens[:, 1]].log()
    bound = by_flow(pairs, tokens)
    excess_B = bound.nats_B - joint_B
    assert abs(excess_B.mean()) < 3 * excess_B.std() / 1500**0.5
    assert excess_B.std() / 1500**0.5 < 0.03
    noised = torch.tensor([False, True]).expand_as(tokens)
    given = by_flow(pairs, tokens, posterior=pairs.given_first(tokens[:, 0]), noised_BL=noised)
    given_B = joint_B + pairs.joint_VV.sum(1)[tokens[:, 0]].log()
    excess_B = given.nats_B - given_B
    assert abs(excess_B.mean()) < 3 * excess_B.std() / 1500**0.5
    assert (given.tokens_B == 1).all()


def test_agrees_with_the_variational_bound(independent):
    tokens = independent.draw((300, 4), torch.Generator().manual_seed(5))
    flow = by_flow(independent, tokens, steps=60)
    other = likelihood_bound(
        independent.posterior,
        tokens_BL=tokens,
        interpolator=independent.interpolator,
        warp=LogUniformWarp(0.2, 40.0),
        generator=torch.Generator().manual_seed(1),
        draws=16,
    )
    difference_B = flow.nats_B - other.nats_B
    assert abs(difference_B.mean()) < 3 * difference_B.std() / 300**0.5
    assert difference_B.std() / 300**0.5 / 4 < 0.06


def test_divergence_goes_through_self_conditioning(independent):
    """A posterior that reads only ``previous`` has no divergence without a pass, and one with."""

    def posterior(x, t, previous):
        # At a first pass previous is zero and the posterior is that of x; later it leans on previous alone.
        first = (previous == 0).all()
        return independent.posterior(x if first else previous, t)

    tokens = independent.draw((50, 2), torch.Generator().manual_seed(6))
    bound = by_flow(independent, tokens, posterior=posterior, steps=10, passes=1)
    assert bound.passes == 1
    assert (bound.diffusion_B != 0).all()


def test_bad_arguments(independent):
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="steps=0"):
        by_flow(independent, tokens, steps=0)
    with pytest.raises(ValueError, match="one shape"):
        by_flow(independent, tokens, noised_BL=torch.ones(2, 2, dtype=torch.bool))
