"""Guidance and sharpening against their definitions; what each branch remembers."""

import pytest
import torch

from byol_ext.diffusion.guidance import Guidance, Memory, memoryless, sharpened
from byol_ext.diffusion.samplers import VESampler
from byol_ext.diffusion.score_interpolation import ScoreInterpolator
from byol_ext.diffusion.warp import LogUniformWarp

V, D = 6, 4
TABLE = torch.nn.functional.normalize(torch.randn(V, D, generator=torch.Generator().manual_seed(0)), dim=1) * D**0.5
WEIGHT = torch.randn(2, D, V, generator=torch.Generator().manual_seed(1))


def branch(index, seen=None):
    """A self-conditioned network with weights of its own."""

    def posterior(x_BLd, t_B, previous_BLd):
        if seen is not None:
            seen.append(previous_BLd)
        return ((x_BLd / t_B[:, None, None] + previous_BLd) @ WEIGHT[index]).softmax(-1)

    return posterior


def sampled(guidance, *, conditional=0, unconditional=1, method="euler"):
    sampler = VESampler(LogUniformWarp(0.1, 20.0), steps=6, method=method, guidance=guidance)
    return sampler.sample(
        branch(conditional),
        unconditional=branch(unconditional),
        interpolator=ScoreInterpolator(TABLE),
        noised_BL=torch.ones(3, 5, dtype=torch.bool),
        generator=torch.Generator().manual_seed(2),
    )


@pytest.mark.parametrize("method", ["euler", "heun", "ancestral", "ancestral_token"])
def test_scales_one_and_zero_are_the_branches(method):
    conditional = sampled(Guidance(), method=method)
    swapped = sampled(Guidance(), conditional=1, method=method)
    dropped = sampled(Guidance(scale=0.0), method=method)
    assert torch.equal(dropped.x_BLd, swapped.x_BLd)
    assert torch.equal(dropped.tokens_BL, swapped.tokens_BL)
    assert (dropped.evaluations_B == 2 * swapped.evaluations_B).all()
    assert not torch.equal(conditional.x_BLd, dropped.x_BLd)


@pytest.mark.parametrize("method", ["euler", "heun", "ancestral"])
def test_scale_near_one_is_near_the_conditional_branch(method):
    near = sampled(Guidance(scale=1.0 + 1e-6), method=method)
    torch.testing.assert_close(near.x_BLd, sampled(Guidance(), method=method).x_BLd, atol=1e-3, rtol=1e-3)


def test_guided_estimate_is_linear_in_scores():
    x = torch.randn(3, 5, D, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0.5, 1.0, 2.0])
    memory = Memory(torch.ones_like(x), 2 * torch.ones_like(x))
    made = Guidance(scale=3.0).estimate(
        branch(0), branch(1), x_BLd=x, t_B=t, memory=memory, interpolator=ScoreInterpolator(TABLE)
    )
    p, free = branch(0)(x, t, memory.conditional_BLd), branch(1)(x, t, memory.unconditional_BLd)
    torch.testing.assert_close(made.x0_BLd, 3.0 * p @ TABLE - 2.0 * free @ TABLE)
    assert (made.p_BLV >= 0).all()
    torch.testing.assert_close(made.p_BLV.sum(-1), torch.ones(3, 5))
    assert (made.p_BLV[(3.0 * p - 2.0 * free) < 0] == 0).all()


@pytest.mark.parametrize("memory", ["own", "zero", "shared"])
def test_memory_of_the_unconditional_branch(memory):
    seen, free_seen = [], []
    x, t = torch.randn(2, 3, D, generator=torch.Generator().manual_seed(4)), torch.ones(2)
    guidance, carried = Guidance(scale=2.0, memory=memory), Memory.empty(x)
    for _ in range(2):
        carried = guidance.estimate(
            branch(0, seen),
            branch(1, free_seen),
            x_BLd=x,
            t_B=t,
            memory=carried,
            interpolator=ScoreInterpolator(TABLE),
        ).memory
    zero = torch.zeros_like(x)
    assert torch.equal(seen[0], zero)
    assert torch.equal(free_seen[0], zero)
    first, free = (branch(i)(x, t, zero) @ TABLE for i in (0, 1))
    torch.testing.assert_close(seen[1], first)
    torch.testing.assert_close(free_seen[1], {"own": free, "zero": zero, "shared": first}[memory])


def test_post_processing_of_the_interpolator_applies():
    x, t = torch.randn(2, 3, D, generator=torch.Generator().manual_seed(5)), torch.ones(2)
    interpolator = ScoreInterpolator(TABLE, post="clamp")
    made = Guidance().estimate(branch(0), None, x_BLd=x, t_B=t, memory=Memory.empty(x), interpolator=interpolator)
    assert (torch.cdist(made.x0_BLd, TABLE[None]).min(-1).values < 1e-5).all()


def test_sharpened():
    logits = torch.randn(4, V, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    torch.testing.assert_close(sharpened(logits.softmax(-1), temperature=0.7), (logits / 0.7).softmax(-1))
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    assert sharpened(p) is p
    torch.testing.assert_close(sharpened(p, top_p=0.6), torch.tensor([0.625, 0.375, 0.0, 0.0]))
    zeros = torch.tensor([0.0, 1.0])
    assert torch.equal(sharpened(zeros, temperature=0.5), zeros)


def test_memoryless_ignores_previous():
    posterior = memoryless(lambda x, t: (x @ WEIGHT[0]).softmax(-1))
    x = torch.randn(1, 2, D)
    assert torch.equal(posterior(x, torch.ones(1), x), posterior(x, torch.ones(1), 0 * x))


def test_bad_arguments():
    for options in ({"scale": -1.0}, {"memory": "both"}, {"softmax_temperature": 0.0}, {"top_p": 0.0}):
        with pytest.raises(ValueError, match="|".join(options)):
            Guidance(**options)
    x = torch.zeros(1, 1, D)
    with pytest.raises(ValueError, match="needs the unconditional"):
        Guidance(scale=2.0).estimate(
            branch(0), None, x_BLd=x, t_B=torch.ones(1), memory=Memory.empty(x), interpolator=ScoreInterpolator(TABLE)
        )
