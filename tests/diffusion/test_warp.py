"""Warps against numerical derivatives, inverses, closed forms."""

import pytest
import torch

from byol_ext.diffusion.warp import LogUniformWarp, PiecewiseLinearWarp, UniformWarp, Warp
from byol_ext.diffusion.warp_parametric import GumbelWarp, LogisticWarp

T_MIN, T_MAX = 0.3, 40.0


def random_warp(seed: int = 0, **options: float) -> PiecewiseLinearWarp:
    warp = PiecewiseLinearWarp(T_MIN, T_MAX, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        warp.logits_t.add_(2.0 * torch.randn(100, generator=generator))
        warp.logits_u.add_(2.0 * torch.randn(100, generator=generator))
    return warp


WARPS = {
    "uniform": UniformWarp(T_MIN, T_MAX),
    "loguniform": LogUniformWarp(T_MIN, T_MAX),
    "pwl": random_warp(),
    "pwl_tempered": random_warp(temperature=0.8, uniform_mix=0.1),
    "logistic": LogisticWarp(T_MIN, T_MAX, median=3.0, steepness=1.7),
    "gumbel": GumbelWarp(T_MIN, T_MAX, location=1.5, scale=0.9),
}
pytestmark = pytest.mark.parametrize("warp", WARPS.values(), ids=WARPS.keys())


def test_inverse(warp):
    assert isinstance(warp, Warp)
    u = torch.linspace(0.0, 1.0, 2001)
    torch.testing.assert_close(warp.quantiles(warp.times(u.double())), u.double(), atol=1e-9, rtol=0.0)
    t = warp.times(u)
    # float32 noise levels are off by up to half a unit in the last place, which a steep piece magnifies.
    rounding = warp.density(t) * t * torch.finfo(torch.float32).eps / (T_MAX - T_MIN)
    assert ((warp.quantiles(t) - u).abs() <= 1e-6 + rounding).all()


def test_monotone_and_onto(warp):
    t = warp.times(torch.linspace(0.0, 1.0, 2001))
    assert t.dtype == torch.float32
    assert (t.diff() >= 0).all()
    assert t[0].item() == pytest.approx(T_MIN, rel=1e-6)
    assert t[-1].item() == pytest.approx(T_MAX, rel=1e-6)
    u = warp.quantiles(torch.linspace(T_MIN, T_MAX, 2001))
    assert (u.diff() >= 0).all()
    assert u[[0, -1]].tolist() == pytest.approx([0.0, 1.0], abs=1e-7)


def test_density_is_the_derivative(warp):
    t = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * (T_MAX - T_MIN - 0.02)
    t, h = t + T_MIN + 0.01, 1e-7
    slope = (warp.quantiles(t + h) - warp.quantiles(t - h)) / (2 * h) * (T_MAX - T_MIN)
    # A difference across an edge of the piecewise linear one is between the slopes of its bins.
    agrees = torch.isclose(slope, warp.density(t), rtol=1e-4, atol=1e-6)
    assert agrees.double().mean() > 0.99


def test_density_has_mean_one(warp):
    unit = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    assert warp.density(T_MIN + (T_MAX - T_MIN) * unit).mean().item() == pytest.approx(1.0, abs=2e-3)


def test_shapes_are_free(warp):
    u = torch.rand(2, 3, generator=torch.Generator().manual_seed(2))
    t = warp.times(u)
    assert t.shape == warp.quantiles(t).shape == warp.density(t).shape == (2, 3)
