"""CDCD's network: what reaches what, the time condition, the output prior, guidance (spec 12.5 to 12.7)."""

import dataclasses
import math

import pytest
import torch

from byol_ext.diffusion.denoiser import Denoiser, DenoiserConfig, TimeCondition
from byol_ext.diffusion.guidance import Guidance
from byol_ext.diffusion.hf import from_pretrained, save_pretrained
from byol_ext.diffusion.samplers import VESampler
from byol_ext.diffusion.score_interpolation import ScoreInterpolator, lone_token_logits
from byol_ext.diffusion.transformer import TransformerConfig
from byol_ext.diffusion.warp import LogUniformWarp

B, L, V, D = 3, 6, 7, 4
SMALL = DenoiserConfig(V, D, TransformerConfig(width=16, depth=2, heads=2), time_units=8, time_frequencies=5)


def random_net(config=SMALL):
    """All parameters away from zero, so that every input has an effect."""
    net = Denoiser(config).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return net


@pytest.fixture
def inputs():
    def normal():
        return torch.randn(B, L, D, dtype=torch.float64)

    noised = torch.rand(B, L) < 0.5
    noised[:, 0], noised[:, 1] = True, False
    t = torch.tensor([0.4, 2.0, 30.0], dtype=torch.float64)
    return {"x_BLd": normal(), "t_B": t, "noised_BL": noised, "given_BLd": normal(), "previous_BLd": normal()}


@pytest.mark.parametrize("name", ["x_BLd", "given_BLd", "previous_BLd"])
def test_inputs_are_read_where_they_belong_and_nowhere_else(name, inputs):
    net, noised = random_net(), inputs["noised_BL"]
    logits = net(**inputs)
    read = ~noised if name == "given_BLd" else noised
    for where, same in ((~read, True), (read, False)):
        changed = inputs | {name: torch.where(where[..., None], inputs[name] + 3.0, inputs[name])}
        assert torch.equal(net(**changed), logits) is same
    junk = inputs | {name: inputs[name].masked_fill(~read[..., None], math.nan)}
    assert torch.equal(net(**junk), logits)


def test_time_and_mask_matter_and_absent_inputs_are_zeros(inputs):
    net = random_net()
    logits = net(**inputs)
    assert not torch.allclose(net(**inputs | {"t_B": inputs["t_B"] * 1.5}), logits)
    flipped = inputs["noised_BL"].clone()
    flipped[0, 0] = False
    assert not torch.allclose(net(**inputs | {"noised_BL": flipped})[0], logits[0])
    for name in ("given_BLd", "previous_BLd"):
        zeros = inputs | {name: torch.zeros_like(inputs[name])}
        assert torch.equal(net(**inputs | {name: None}), net(**zeros))


def test_noisy_inputs_are_scaled_to_unit_variance(inputs):
    net = random_net()
    seen = []
    net.input.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(**inputs)
    x = torch.where(inputs["noised_BL"][..., None], inputs["x_BLd"], 0.0)
    torch.testing.assert_close(seen[0][..., :D], x / (inputs["t_B"].square() + 1).sqrt()[:, None, None])
    assert torch.equal(seen[0][..., -1], inputs["noised_BL"].double())


def test_time_features_are_those_of_a_quarter_of_the_logarithm():
    time = TimeCondition(6, 5).double()
    t = torch.tensor([0.5, 300.0], dtype=torch.float64)
    angles = 2 * math.pi * torch.log(t)[:, None] / 4 * time.frequencies_F
    torch.testing.assert_close(time(t), time.layers(torch.cat([angles.cos(), angles.sin()], -1)))


def test_scaling_the_table_leaves_logits(inputs):
    tokens = torch.randint(V, (B, L))
    net = random_net(DenoiserConfig(V, D, SMALL.transformer, output_prior=True))
    net.prior_weight.fill_(1.0)

    def logits():
        return net(**inputs | {"given_BLd": net.embedding(tokens)})

    before = logits()
    with torch.no_grad():
        net.embedding.weight *= torch.rand(V, 1, dtype=torch.float64) * 50
    torch.testing.assert_close(logits(), before)


def test_output_prior_adds_the_lone_token_logits_by_weight(inputs):
    net = random_net(DenoiserConfig(V, D, SMALL.transformer, output_prior=True))
    plain = net(**inputs)
    net.prior_weight.fill_(0.25)
    expected = lone_token_logits(inputs["x_BLd"], inputs["t_B"], net.embedding.table())
    torch.testing.assert_close(net(**inputs) - plain, 0.25 * expected)
    assert "prior_weight" not in Denoiser(SMALL).state_dict()


@pytest.mark.parametrize("output_prior", [False, True])
def test_logits_of_the_noised_positions_alone(output_prior, inputs):
    net = random_net(dataclasses.replace(SMALL, output_prior=output_prior))
    if output_prior:
        net.prior_weight.fill_(0.7)
    alone_NV = net(**inputs, only_noised=True)
    torch.testing.assert_close(alone_NV, net(**inputs)[inputs["noised_BL"]], rtol=1e-12, atol=1e-12)


def test_autocast_reaches_the_blocks_only(inputs):
    net = random_net().float()
    single = {name: value if value.dtype == torch.bool else value.float() for name, value in inputs.items()}
    dtypes = {}
    for name in ("time.layers", "output", "transformer.blocks.0.mlp_in"):
        net.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: dtypes.update({name: out.dtype}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(**single)
    assert logits.dtype == torch.float32
    assert list(dtypes.values()) == [torch.float32, torch.bfloat16, torch.float32]


def test_posterior_is_the_softmax_with_the_given_tokens(inputs):
    net, tokens = random_net(), torch.randint(V, (B, L))
    x, t, noised, previous = (inputs[name] for name in ("x_BLd", "t_B", "noised_BL", "previous_BLd"))
    given = net(**inputs | {"given_BLd": net.embedding(tokens)}).softmax(-1)
    torch.testing.assert_close(net.posterior(noised_BL=noised, tokens_BL=tokens)(x, t, previous), given)
    dropped = net.posterior(noised_BL=noised, tokens_BL=tokens, dropped=True)(x, t, previous)
    torch.testing.assert_close(dropped, net(**inputs | {"given_BLd": None}).softmax(-1))
    assert not torch.allclose(dropped, given)
    with pytest.raises(ValueError, match="tokens_BL is None"):
        net.posterior(noised_BL=noised)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_guidance_of_one_is_the_conditional_and_of_zero_the_dropped_branch(scale, inputs):
    net, tokens, noised = random_net(), torch.randint(V, (B, L)), inputs["noised_BL"]
    conditional = net.posterior(noised_BL=noised, tokens_BL=tokens)
    dropped = net.posterior(noised_BL=noised, tokens_BL=tokens, dropped=True)
    warp = LogUniformWarp(0.1, 20.0)

    def sample(guidance, posterior, unconditional=None):
        return VESampler(warp, steps=4, guidance=guidance).sample(
            posterior,
            interpolator=ScoreInterpolator(net.embedding.table().detach()),
            noised_BL=noised,
            tokens_BL=tokens,
            unconditional=unconditional,
            generator=torch.Generator().manual_seed(0),
        )

    guided = sample(Guidance(scale=scale), conditional, dropped)
    alone = sample(Guidance(), conditional if scale else dropped)
    torch.testing.assert_close(guided.x_BLd, alone.x_BLd)
    assert torch.equal(guided.tokens_BL[~noised], tokens[~noised])


def test_saved_and_loaded(tmp_path, inputs):
    net = random_net(DenoiserConfig(V, D, SMALL.transformer, output_prior=True)).float()
    net.prior_weight.fill_(0.5)
    single = {name: value if value.dtype == torch.bool else value.float() for name, value in inputs.items()}
    loaded = from_pretrained(Denoiser, save_pretrained(net, tmp_path))
    assert torch.equal(loaded(**single), net(**single))


@pytest.mark.parametrize("settings", [{"vocab_size": 0}, {"embedding_width": 0}, {"fourier_std": 0.0}], ids=str)
def test_bad_settings(settings):
    with pytest.raises(ValueError):
        DenoiserConfig(**{"vocab_size": 3} | settings)
