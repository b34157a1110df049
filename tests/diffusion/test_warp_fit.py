"""The fit recovers known curves from times that it chose itself; resuming and processes change nothing."""

import io

import pytest
import torch

from byol_ext.diffusion.warp import PiecewiseLinearWarp, Warp
from byol_ext.diffusion.warp_fit import FittedWarp, beta_shape, linear_shape, warp_health
from byol_ext.diffusion.warp_parametric import GumbelWarp, LogisticWarp

T_MIN, T_MAX, PLATEAU = 0.3, 40.0, 2.8


def sigmoid_curve(t: torch.Tensor) -> torch.Tensor:
    """A cross-entropy like that of the spec's prototype."""
    return PLATEAU * torch.sigmoid(4.0 * (t.double().log() - 1.1))


def trained(warp, *, steps: int, noise: float = 0.0, curve=sigmoid_curve, batch: int = 64, **options) -> FittedWarp:
    fitted = FittedWarp(warp, **options)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        offset = torch.rand(1, generator=generator)
        t = fitted.times(torch.remainder(offset + torch.arange(batch) / batch, 1.0))
        ce = curve(t) + noise * torch.randn(batch, generator=generator)
        fitted.fit(step, t_B=t, cross_entropy_B=ce)
    return fitted


@pytest.fixture(scope="module")
def fitted() -> FittedWarp:
    return trained(PiecewiseLinearWarp(T_MIN, T_MAX), steps=1500, noise=0.1)


def test_recovers_a_sigmoid_from_biased_times(fitted):
    assert isinstance(fitted, Warp)
    t = torch.logspace(torch.tensor(T_MIN).log10(), torch.tensor(T_MAX).log10(), 400, dtype=torch.float64)
    error = (fitted.cross_entropy(t) - sigmoid_curve(t)).abs().max() / PLATEAU
    assert error < 0.02


def test_cross_entropy_is_linear_in_quantiles(fitted):
    u = (torch.arange(400) + 0.5) / 400
    assert warp_health(u_B=u, cross_entropy_B=sigmoid_curve(fitted.times(u))) < 0.02
    unwarped = T_MIN + (T_MAX - T_MIN) * u
    assert warp_health(u_B=u, cross_entropy_B=sigmoid_curve(unwarped)) > 0.3
    assert fitted.cross_entropy(fitted.times(torch.tensor([0.5]))).item() == pytest.approx(PLATEAU / 2, rel=0.02)


def test_beta_shape_is_reached():
    shape = beta_shape(0.5, 1.0)
    fitted = trained(PiecewiseLinearWarp(T_MIN, T_MAX), steps=800, shape=shape)
    u = (torch.arange(400) + 0.5) / 400
    ce = sigmoid_curve(fitted.times(u))
    assert warp_health(u_B=u, cross_entropy_B=ce, shape=shape) < 0.03
    assert warp_health(u_B=u, cross_entropy_B=ce) > 0.1


@pytest.mark.parametrize("family", ["logistic", "gumbel"])
def test_parametric_families_recover_their_own_curve(family):
    def make(location: float):
        if family == "logistic":
            return LogisticWarp(T_MIN, T_MAX, median=location, steepness=1.5, plateau=2.0)
        return GumbelWarp(T_MIN, T_MAX, location=location, scale=0.8, plateau=2.0)

    truth = make(2.0)

    def curve(t):
        cdf, plateau = truth.curve(t)
        return (1.5 * plateau * cdf).detach()

    fitted = trained(make(4.0), steps=500, curve=curve)
    t = torch.linspace(T_MIN, T_MAX, 500, dtype=torch.float64)
    assert ((fitted.cross_entropy(t) - curve(t)).abs().max() / 3.0).item() < 0.02


def test_weights_undo_the_choice_of_times():
    """The logged loss is the mean over uniform t', whatever the warp draws."""
    warp = PiecewiseLinearWarp(T_MIN, T_MAX)
    with torch.no_grad():
        warp.logits_u.add_(torch.randn(100, generator=torch.Generator().manual_seed(0)))
    t = torch.linspace(T_MIN, T_MAX, 200_001, dtype=torch.float64)
    cdf, plateau = warp.curve(t)
    expected = (plateau * cdf - sigmoid_curve(t)).square().mean().item()
    fitted = FittedWarp(warp)
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    drawn = fitted.times(u)
    seen = fitted.fit(0, t_B=drawn, cross_entropy_B=sigmoid_curve(drawn))["warp/loss"]
    assert seen == pytest.approx(expected, rel=1e-3)


def test_weights_are_held_down():
    warp = PiecewiseLinearWarp(1.0, 2.0, bins=2)
    with torch.no_grad():
        warp.logits_u.copy_(torch.tensor([0.0, -20.0]))
    fitted = FittedWarp(warp, max_weight=3.0)
    t = torch.tensor([1.75])
    cdf, plateau = (value.item() for value in warp.curve(t))
    seen = fitted.fit(0, t_B=t, cross_entropy_B=torch.zeros(1))["warp/loss"]
    assert seen == pytest.approx(3.0 * (cdf * plateau) ** 2, rel=1e-6)


def test_draws_follow_the_average_and_gradients_do_not_leak():
    fitted = FittedWarp(PiecewiseLinearWarp(T_MIN, T_MAX), decay=0.99)
    assert not any(p.requires_grad for p in fitted.parameters())
    t = fitted.times(torch.linspace(0, 1, 64))
    ce = sigmoid_curve(t).requires_grad_()
    fitted.fit(0, t_B=t, cross_entropy_B=ce)
    assert ce.grad is None
    assert all(p.grad is None and not p.requires_grad for p in fitted.parameters())
    # Step 0 of the warmed-up average: decay 1/10.
    start = -torch.tensor(100.0).log()
    torch.testing.assert_close(fitted.drawn.logits_u, 0.1 * start + 0.9 * fitted.live.logits_u)


def test_state_survives_a_resume():
    def step(warp: FittedWarp, k: int) -> None:
        t = warp.times(torch.linspace(0, 1, 16))
        warp.fit(k, t_B=t, cross_entropy_B=sigmoid_curve(t))

    one = FittedWarp(PiecewiseLinearWarp(T_MIN, T_MAX))
    for k in range(10):
        step(one, k)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two = FittedWarp(PiecewiseLinearWarp(T_MIN, T_MAX))
    two.load_state_dict(torch.load(file, weights_only=True))
    for k in range(10, 20):
        step(one, k)
        step(two, k)
    states = one.state_dict(), two.state_dict()
    assert states[0].keys() == states[1].keys()
    tensors = [k for k, v in states[0].items() if isinstance(v, torch.Tensor)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in tensors)
    fresh = FittedWarp(PiecewiseLinearWarp(T_MIN, T_MAX))
    fresh.load_state_dict({**fresh.state_dict(), **{k: states[0][k] for k in tensors}})
    step(one, 20)
    step(fresh, 20)
    assert not torch.equal(one.live.logits_u, fresh.live.logits_u), "the optimiser's state matters"


def test_processes_fit_what_one_process_would(monkeypatch):
    """Each of two ranks with half of the rows; the collective is played by a recording of the other's sums."""
    t = FittedWarp(PiecewiseLinearWarp(T_MIN, T_MAX)).times(torch.linspace(0, 1, 12))
    ce = sigmoid_curve(t)
    whole = FittedWarp(PiecewiseLinearWarp(T_MIN, T_MAX))
    expected = whole.fit(0, t_B=t, cross_entropy_B=ce)
    recorded = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: recorded.append(flat.clone()))
    FittedWarp(PiecewiseLinearWarp(T_MIN, T_MAX)).fit(0, t_B=t[8:], cross_entropy_B=ce[8:])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.add_(recorded[0]))
    rank = FittedWarp(PiecewiseLinearWarp(T_MIN, T_MAX))
    assert rank.fit(0, t_B=t[:8], cross_entropy_B=ce[:8]) == pytest.approx(expected)
    torch.testing.assert_close(rank.live.logits_u, whole.live.logits_u)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 1.0), (2.0, 2.0), (1.0, 1.0)])
def test_beta_gradient(alpha, beta):
    u = torch.linspace(0.05, 0.95, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(beta_shape(alpha, beta), (u,))
    if alpha == beta == 1.0:
        torch.testing.assert_close(beta_shape(alpha, beta)(u), linear_shape(u))


def test_bad_arguments():
    with pytest.raises(ValueError, match="max_weight"):
        FittedWarp(PiecewiseLinearWarp(1.0, 2.0), max_weight=0.0)
    with pytest.raises(ValueError, match="alpha"):
        beta_shape(0.0, 1.0)
    with pytest.raises(ValueError, match="19 of 20 bins"):
        warp_health(u_B=torch.zeros(4), cross_entropy_B=torch.ones(4))
