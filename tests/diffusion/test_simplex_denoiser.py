"""The network of simplex diffusion: what reaches what, the exact evidence, the posterior for samplers."""

import dataclasses
import math

import pytest
import torch

from byol_ext.diffusion.cir import CIR
from byol_ext.diffusion.hf import from_pretrained, save_pretrained
from byol_ext.diffusion.simplex import SimplexDiffusion
from byol_ext.diffusion.simplex_denoiser import SimplexDenoiser, SimplexDenoiserConfig
from byol_ext.diffusion.simplex_samplers import bridge_step, generate, log_times
from byol_ext.diffusion.transformer import TransformerConfig

B, L, V = 3, 6, 5
SIZE = TransformerConfig(width=16, depth=2, heads=2)
SMALL = SimplexDenoiserConfig(V, SIZE, time_units=8, time_frequencies=5)
SIMPLEX = SimplexDiffusion(V)


def random_net(config=SMALL):
    """All parameters away from zero, so that every input has an effect."""
    torch.manual_seed(0)
    net = SimplexDenoiser(config).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return net


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    noised = torch.rand(B, L) < 0.5
    noised[:, 0], noised[:, 1] = True, False
    return {
        "y_BLV": torch.rand(B, L, V, dtype=torch.float64) + 0.1,
        "t_B": torch.tensor([0.2, 1.0, 6.0], dtype=torch.float64),
        "simplex": SIMPLEX,
        "noised_BL": noised,
        "given_BL": torch.randint(V, (B, L)),
        "previous_BLV": torch.rand(B, L, V, dtype=torch.float64).softmax(-1),
    }


@pytest.mark.parametrize("name", ["y_BLV", "previous_BLV"])
def test_states_and_predictions_are_read_at_noised_positions_alone(name, inputs):
    net, noised = random_net(), inputs["noised_BL"]
    logits = net(**inputs)
    for where, same in ((~noised, True), (noised, False)):
        changed = inputs | {name: torch.where(where[..., None], inputs[name] + 0.5, inputs[name])}
        assert torch.equal(net(**changed), logits) is same
    junk = inputs | {name: inputs[name].masked_fill(~noised[..., None], math.nan)}
    assert torch.equal(net(**junk), logits)


def test_tokens_are_read_at_given_positions_alone(inputs):
    net, noised = random_net(), inputs["noised_BL"]
    logits, moved = net(**inputs), (inputs["given_BL"] + 1) % V
    assert torch.equal(net(**inputs | {"given_BL": torch.where(noised, moved, inputs["given_BL"])}), logits)
    assert not torch.allclose(net(**inputs | {"given_BL": torch.where(noised, inputs["given_BL"], moved)}), logits)
    assert torch.equal(net(**inputs | {"given_BL": inputs["given_BL"].masked_fill(noised, -1)}), logits)


def test_dropped_conditions_and_absent_inputs_are_zeros(inputs):
    net = random_net()
    logits, absent = net(**inputs), net(**inputs | {"given_BL": None})
    dropped = net(**inputs | {"dropped_B": torch.tensor([False, True, False])})
    torch.testing.assert_close(dropped, torch.stack([logits[0], absent[1], logits[2]]), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(absent, logits)
    zeros = inputs | {"previous_BLV": torch.zeros_like(inputs["previous_BLV"])}
    assert torch.equal(net(**inputs | {"previous_BLV": None}), net(**zeros))


def test_time_and_mask_matter(inputs):
    net = random_net()
    logits = net(**inputs)
    flipped = inputs["noised_BL"].clone()
    flipped[0, 0] = False
    assert not torch.allclose(net(**inputs | {"noised_BL": flipped})[0], logits[0])
    # The same standardised states at another time.
    r = SIMPLEX.process.spread(inputs["t_B"])
    later = {"t_B": 1.5 * inputs["t_B"]}
    scaled = inputs["y_BLV"] * (SIMPLEX.process.spread(later["t_B"]) / r)[:, None, None]
    assert not torch.allclose(net(**inputs | later | {"y_BLV": scaled}), logits)


@pytest.mark.parametrize("output_prior", [False, True])
def test_logits_of_the_noised_positions_alone(output_prior, inputs):
    net = random_net(dataclasses.replace(SMALL, output_prior=output_prior))
    if output_prior:
        net.prior_weight.fill_(0.7)
    alone_NV = net(**inputs, only_noised=True)
    torch.testing.assert_close(alone_NV, net(**inputs)[inputs["noised_BL"]], rtol=1e-12, atol=1e-12)


def exact_net(simplex, log_prior):
    """The exact posterior of independent tokens."""
    net = SimplexDenoiser(SimplexDenoiserConfig(simplex.vocab, SIZE, output_prior=True)).eval()
    with torch.no_grad():
        net.output.weight.zero_()
        net.output.bias.copy_(log_prior)
        net.prior_weight.fill_(1.0)
    return net


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_output_prior_is_the_exact_evidence_of_a_position(alpha):
    simplex, generator = SimplexDiffusion(V, CIR(alpha)), torch.Generator().manual_seed(0)
    log_prior = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]).log()
    tokens, t = torch.randint(V, (B, L), generator=generator), torch.tensor([0.2, 1.0, 4.0])
    y = simplex.noise(tokens, t, generator=generator)
    posterior = exact_net(simplex, log_prior).posterior(simplex, noised_BL=torch.ones(B, L, dtype=torch.bool))
    torch.testing.assert_close(posterior(y, t, torch.zeros_like(y)), simplex.posterior(y, t, log_prior))


def test_given_tokens_are_certain_and_come_out_of_the_sampler():
    net = random_net().float()
    noised = torch.tensor([[False, True, True, False]]).expand(8, 4)
    tokens = torch.randint(V, (8, 4), generator=torch.Generator().manual_seed(2))
    posterior = net.posterior(SIMPLEX, noised_BL=noised, tokens_BL=tokens)
    generator = torch.Generator().manual_seed(3)
    sample = generate(
        SIMPLEX, posterior, log_times(SIMPLEX, 4), like_BLV=torch.zeros(8, 4, V), step=bridge_step, generator=generator
    )
    assert torch.equal(sample.tokens_BL[~noised], tokens[~noised])
    assert (sample.p_BLV[~noised].max(-1).values == 1.0).all()
    assert (sample.p_BLV[noised].max(-1).values < 1.0).all()
    torch.testing.assert_close(sample.p_BLV.sum(-1), torch.ones(8, 4))


def test_posterior_shows_the_last_prediction_only_if_asked(inputs):
    net = random_net()
    y, t, previous = inputs["y_BLV"], inputs["t_B"], inputs["previous_BLV"]
    shown, hidden = (
        net.posterior(SIMPLEX, noised_BL=inputs["noised_BL"], tokens_BL=inputs["given_BL"], self_conditioning=on)
        for on in (True, False)
    )
    assert not torch.allclose(shown(y, t, previous), shown(y, t, 0 * previous))
    assert torch.equal(hidden(y, t, previous), shown(y, t, 0 * previous))


def test_dropped_posterior_knows_no_token(inputs):
    net, noised = random_net(), inputs["noised_BL"]
    y, t, previous = inputs["y_BLV"], inputs["t_B"], inputs["previous_BLV"]
    dropped = net.posterior(SIMPLEX, noised_BL=noised, tokens_BL=inputs["given_BL"], dropped=True)
    assert torch.equal(dropped(y, t, previous), net.posterior(SIMPLEX, noised_BL=noised, dropped=True)(y, t, previous))
    with pytest.raises(ValueError, match="tokens_BL is None"):
        net.posterior(SIMPLEX, noised_BL=noised)


def test_starts_near_the_uniform_distribution_and_is_saved(tmp_path, inputs):
    torch.manual_seed(0)
    net = SimplexDenoiser(SimplexDenoiserConfig(V, SIZE)).eval()
    single = inputs | {name: inputs[name].float() for name in ("y_BLV", "t_B", "previous_BLV")}
    assert (net(**single).softmax(-1) - 1 / V).abs().max() < 0.1
    assert torch.equal(from_pretrained(SimplexDenoiser, save_pretrained(net, tmp_path))(**single), net(**single))


def test_bad_settings():
    with pytest.raises(ValueError, match="positive"):
        SimplexDenoiserConfig(0)
    with pytest.raises(ValueError, match="fourier_std"):
        SimplexDenoiserConfig(5, fourier_std=0.0)
