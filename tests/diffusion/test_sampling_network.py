"""The denoiser in samplers and bounds: precision, infilling with guidance, and both bounds of one model."""

import math

import pytest
import torch

from byol_ext.diffusion.denoiser import Denoiser, DenoiserConfig
from byol_ext.diffusion.guidance import Guidance
from byol_ext.diffusion.likelihood import likelihood_bound
from byol_ext.diffusion.ode_likelihood import ode_likelihood
from byol_ext.diffusion.samplers import VESampler
from byol_ext.diffusion.score_interpolation import ScoreInterpolator
from byol_ext.diffusion.transformer import TransformerConfig
from byol_ext.diffusion.warp import LogUniformWarp

WARP = LogUniformWarp(0.2, 30.0)


@pytest.fixture(scope="module")
def network() -> Denoiser:
    """Not trained, but with the lone token's logits in full and a transformer that speaks up beside them."""
    torch.manual_seed(0)
    net = Denoiser(DenoiserConfig(9, 8, TransformerConfig(width=16, depth=1, heads=2), output_prior=True))
    with torch.no_grad():
        net.prior_weight.fill_(1.0)
        net.output.weight.mul_(10.0)
    return net.eval().requires_grad_(False)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


# Each of the 20 draws of ``ancestral_token`` flips where a probability moves across its uniform number.
@pytest.mark.parametrize(
    ("method", "share"), [("euler", 0.02), ("heun", 0.02), ("ancestral", 0.02), ("ancestral_token", 0.05)]
)
def test_bfloat16_blocks_give_the_same_tokens(network, method, share):
    noised = torch.ones(64, 12, dtype=torch.bool)
    posterior = network.posterior(noised_BL=noised)

    def in_bfloat16(x, t, previous):
        with torch.autocast("cpu", torch.bfloat16):
            return posterior(x, t, previous)

    interpolator = ScoreInterpolator(network.embedding.table())
    made = [
        VESampler(WARP, steps=20, method=method).sample(
            p, interpolator=interpolator, noised_BL=noised, generator=generator()
        )
        for p in (posterior, in_bfloat16)
    ]
    assert not torch.equal(made[0].x_BLd, made[1].x_BLd)
    assert made[0].tokens_BL.unique().numel() == 9
    assert (made[0].tokens_BL != made[1].tokens_BL).double().mean() < share


def test_guided_infilling(network):
    tokens = torch.randint(9, (3, 6), generator=generator())
    noised = torch.tensor([False, True, True, False, True, True]).expand(3, 6)
    made = VESampler(WARP, steps=5, guidance=Guidance(scale=2.0)).sample(
        network.posterior(noised_BL=noised, tokens_BL=tokens),
        unconditional=network.posterior(noised_BL=noised, dropped=True),
        interpolator=ScoreInterpolator(network.embedding.table()),
        noised_BL=noised,
        tokens_BL=tokens,
        generator=generator(),
    )
    assert torch.equal(made.tokens_BL[~noised], tokens[~noised])
    assert (made.x_BLd[~noised] == 0).all()
    assert (made.evaluations_B == 12).all()


def test_bounds_of_a_network(network):
    tokens = torch.randint(9, (128, 6), generator=generator())
    posterior = network.posterior(noised_BL=torch.ones_like(tokens, dtype=torch.bool))
    shared = {"tokens_BL": tokens, "interpolator": ScoreInterpolator(network.embedding.table()), "warp": WARP}
    for passes in (0, 1):
        bound = likelihood_bound(posterior, generator=generator(), passes=passes, **shared)
        # Uniform random tokens cost log V, and no model can code them in less.
        assert bound.nats_per_token > math.log(9) - 3 * bound.standard_error
        assert bound.nats_per_token < 2 * math.log(9)
    flow = ode_likelihood(posterior, generator=generator(), steps=30, **shared)
    assert math.log(9) - 3 * flow.standard_error < flow.nats_per_token < 2 * math.log(9)
