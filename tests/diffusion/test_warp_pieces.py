"""What only the piecewise linear warp has, bad arguments of all, and the closed forms of the parametric ones."""

import math

import pytest
import torch

from byol_ext.diffusion.warp import LogUniformWarp, PiecewiseLinearWarp, UniformWarp, ambiguity_noise
from byol_ext.diffusion.warp_parametric import GumbelWarp, LogisticWarp


def shaped(**options: float) -> PiecewiseLinearWarp:
    warp = PiecewiseLinearWarp(1.0, 9.0, bins=4, floor=1e-12, **options)
    with torch.no_grad():
        warp.logits_t.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
        warp.logits_u.copy_(torch.tensor([0.9, 0.6, 0.3, 1.2]).log())
    return warp


def test_starts_as_the_identity_with_plateau_one():
    warp = PiecewiseLinearWarp(1.0, 9.0)
    t = torch.linspace(1.0, 9.0, 33, dtype=torch.float64)
    cdf, plateau = warp.curve(t)
    torch.testing.assert_close(cdf, (t - 1.0) / 8.0)
    assert plateau.item() == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(warp.density(t), torch.ones_like(t))


def test_pieces():
    warp = shaped()
    edges = 1.0 + 8.0 * torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0], dtype=torch.float64)
    cdf, plateau = warp.curve(edges)
    torch.testing.assert_close(cdf, torch.tensor([0.0, 0.3, 0.5, 0.6, 1.0], dtype=torch.float64), rtol=0, atol=1e-6)
    assert plateau.item() == pytest.approx(3.0)
    middle = (edges[1:] + edges[:-1]) / 2
    expected = torch.tensor([3.0, 1.0, 1 / 3, 1.0], dtype=torch.float64)
    torch.testing.assert_close(warp.density(middle), expected, rtol=1e-5, atol=0)


def test_floor_bounds_the_density():
    warp = PiecewiseLinearWarp(1.0, 9.0, bins=10, floor=1e-2)
    with torch.no_grad():
        warp.logits_t[3] = -40.0
        warp.logits_u[7] = -40.0
    density = warp.density(torch.linspace(1.0, 9.0, 5000))
    assert torch.isfinite(density).all()
    assert density.min() > 0.05
    assert density.max() < 15.0


def test_temperature_and_mixture_follow_their_equations():
    t = torch.linspace(1.0, 9.0, 100, dtype=torch.float64)
    plain = shaped()
    same = shaped(temperature=1.0, uniform_mix=0.0)
    assert torch.equal(plain.quantiles(t), same.quantiles(t))
    density = plain.density(t)
    wt, wu = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.3, 0.2, 0.1, 0.4])
    for temperature in (0.5, 2.0):
        sharp = wu * (wu / wt) ** (1 / temperature - 1)
        sharp = sharp / sharp.sum()
        drawn = shaped(temperature=temperature)
        edges = 1.0 + 8.0 * wt.cumsum(0)
        torch.testing.assert_close(drawn.quantiles(edges), sharp.cumsum(0), atol=1e-6, rtol=0)
        torch.testing.assert_close(drawn.curve(t).cdf_B, plain.curve(t).cdf_B, atol=0, rtol=0)
    torch.testing.assert_close(shaped(uniform_mix=0.25).density(t), 0.75 * density + 0.25)
    torch.testing.assert_close(shaped(uniform_mix=1.0).density(t), torch.ones_like(t))


def test_curve_carries_gradient_to_both_sets_of_logits():
    warp = shaped().double()
    t = torch.tensor([1.3, 2.5, 4.0, 8.0], dtype=torch.float64)

    def unnormalised(logits_t, logits_u):
        cdf, plateau = torch.func.functional_call(
            Curved(warp), {"warp.logits_t": logits_t, "warp.logits_u": logits_u}, t
        )
        return cdf * plateau

    logits = [p.detach().clone().requires_grad_() for p in (warp.logits_t, warp.logits_u)]
    assert torch.autograd.gradcheck(unnormalised, logits)


class Curved(torch.nn.Module):
    def __init__(self, warp):
        super().__init__()
        self.warp = warp

    def forward(self, t):
        return self.warp.curve(t)


def test_logistic_is_a_logistic_of_the_logit():
    warp = LogisticWarp(1.0, 11.0, median=3.0, steepness=2.0)
    assert warp.quantiles(torch.tensor([3.0])).item() == pytest.approx(0.5)
    unit = 0.7
    odds = (unit / (1 - unit) / (0.2 / 0.8)) ** 2.0
    assert warp.quantiles(torch.tensor([8.0])).item() == pytest.approx(odds / (1 + odds), rel=1e-5)


def test_gumbel_is_a_gumbel_of_log_snr():
    wide = GumbelWarp(1e-3, 1e6, location=1.5, scale=0.9)
    t = 2.7
    expected = math.exp(-math.exp(-(2 * math.log(t) - 1.5) / 0.9))
    assert wide.quantiles(torch.tensor([t])).item() == pytest.approx(expected, rel=1e-5)


def test_gumbel_of_the_published_setting_reaches_its_low_tail():
    u = torch.tensor([0.0, 1e-4, 1.0], dtype=torch.float64)
    warp = GumbelWarp(1.0, 300.0)
    torch.testing.assert_close(warp.quantiles(warp.times(u)), u, atol=1e-9, rtol=0)


def test_ambiguity_noise_is_where_the_posterior_turns():
    generator = torch.Generator().manual_seed(0)
    vocabulary, width = 200, 64
    table = torch.nn.functional.normalize(torch.randn(vocabulary, width, generator=generator), dim=1) * width**0.5
    tokens = torch.randint(vocabulary, (2000,), generator=generator)
    share = []
    for scale in (0.3, 1.0, 3.0):
        t = scale * ambiguity_noise(width, vocabulary)
        x = table[tokens] + t * torch.randn(2000, width, generator=generator)
        share.append((x @ table.T / t**2).softmax(-1)[torch.arange(2000), tokens].mean().item())
    assert share[0] > 0.99
    assert 0.2 < share[1] < 0.9
    assert share[2] < 0.1


@pytest.mark.parametrize(
    "make",
    [
        lambda: UniformWarp(0.0, 1.0),
        lambda: LogUniformWarp(2.0, 1.0),
        lambda: PiecewiseLinearWarp(1.0, math.inf),
        lambda: PiecewiseLinearWarp(1.0, 2.0, bins=0),
        lambda: PiecewiseLinearWarp(1.0, 2.0, temperature=0.0),
        lambda: PiecewiseLinearWarp(1.0, 2.0, uniform_mix=1.1),
        lambda: PiecewiseLinearWarp(1.0, 2.0, floor=0.0),
        lambda: LogisticWarp(1.0, 2.0, median=2.5),
        lambda: LogisticWarp(1.0, 2.0, median=1.5, steepness=0.0),
        lambda: GumbelWarp(1.0, 2.0, scale=-1.0),
    ],
)
def test_bad_arguments(make):
    with pytest.raises(ValueError, match=r"must|need"):
        make()
