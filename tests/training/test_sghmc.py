"""SGHMC (core-ssl 12, extensions 7)."""

import math

import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor, nn

from byol_ext.training.sghmc import SGHMC, cyclic_cosine, sampling_steps

PRECISION = torch.tensor([[2.0, 0.6], [0.6, 0.5]])
MEAN = torch.tensor([1.0, -2.0])


def chains(lr: float, friction: float, temperature: float, *, steps: int, count: int, seed: int = 0) -> Tensor:
    """Many independent chains in the potential of a Gaussian, as one parameter."""
    w = nn.Parameter(torch.zeros(count, 2))
    optimizer = SGHMC([w], lr=lr, friction=friction, temperature=temperature, seed=seed)
    for _ in range(steps):
        w.grad = (w.detach() - MEAN) @ PRECISION
        optimizer.step()
    return w.detach()


def test_recovers_mean_and_covariance_of_a_gaussian():
    w = chains(0.02, 0.2, 1.0, steps=500, count=20_000)
    covariance = torch.linalg.inv(PRECISION)
    assert (torch.cov(w.T) - covariance).norm() < 0.05 * covariance.norm()
    assert (w.mean(0) - MEAN).abs().max() < 0.05


def test_covariance_at_a_large_step_is_that_of_the_linear_recursion():
    lr, friction, temperature = 0.3, 0.3, 0.5
    eye = torch.eye(2)
    # (w, m) of the next step as a linear map of (w, m), plus noise that enters both.
    step = torch.cat(
        [
            torch.cat([eye - lr * PRECISION, (1 - friction) * eye], 1),
            torch.cat([-lr * PRECISION, (1 - friction) * eye], 1),
        ]
    ).double()
    noise = 2 * friction * temperature * lr * torch.ones(2, 2).kron(eye).double()
    expected = torch.from_numpy(solve_discrete_lyapunov(step.numpy(), noise.numpy()))[:2, :2]
    found = torch.cov(chains(lr, friction, temperature, steps=300, count=40_000).T).double()
    assert (found - expected).norm() < 0.03 * expected.norm()
    assert (expected / temperature - torch.linalg.inv(PRECISION)).norm() > 0.05 * expected.norm()


def test_without_temperature_it_is_momentum_descent():
    ours, theirs = (nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    one, other = SGHMC([ours], lr=0.01, friction=0.2, temperature=0.0), torch.optim.SGD([theirs], lr=0.01, momentum=0.8)
    for _ in range(5):
        for w, optimizer in ((ours, one), (theirs, other)):
            optimizer.zero_grad()
            (w**4).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_noise_depends_on_seed_and_step_and_goes_on_after_loading():
    first = chains(0.1, 0.1, 1.0, steps=3, count=4)
    assert torch.equal(first, chains(0.1, 0.1, 1.0, steps=3, count=4))
    assert not torch.equal(first, chains(0.1, 0.1, 1.0, steps=3, count=4, seed=1))

    w = nn.Parameter(torch.zeros(4, 2))
    optimizer = SGHMC([w], lr=0.1, friction=0.1, temperature=1.0)
    for step in range(3):
        if step == 2:
            fresh = SGHMC([w], lr=0.5, friction=0.9, temperature=2.0, seed=9)
            fresh.load_state_dict(optimizer.state_dict())
            optimizer = fresh
        w.grad = (w.detach() - MEAN) @ PRECISION
        optimizer.step()
    assert torch.equal(w.detach(), first)


def test_groups_and_parameters_have_noise_of_their_own():
    a, b, c = (nn.Parameter(torch.zeros(1000)) for _ in range(3))
    optimizer = SGHMC([{"params": [a, b]}, {"params": [c]}], lr=1.0, friction=0.5, temperature=1.0)
    for w in (a, b, c):
        w.grad = torch.zeros(1000)
    optimizer.step()
    correlation = torch.corrcoef(torch.stack([a, b, c]).detach())
    assert (correlation - torch.eye(3)).abs().max() < 0.15
    assert a.std().item() == pytest.approx(1.0, abs=0.1)


def test_parameters_without_gradient_stay():
    w = nn.Parameter(torch.ones(2))
    SGHMC([w], temperature=1.0).step()
    assert w.tolist() == [1.0, 1.0]


def test_schedule_and_samples():
    rate = cyclic_cosine(0.1, steps=40, cycles=4)
    assert [rate(k) for k in range(10)] == [rate(10 + k) for k in range(10)]
    assert rate(3) == pytest.approx(0.05 * (1 + math.cos(0.3 * math.pi)))
    assert 0 < rate(9) < rate(1) < rate(0) == 0.1
    steps = sampling_steps(400, cycles=4, samples=12)
    assert len(steps) == 12
    assert all(25 <= (s - 1) % 100 + 1 <= 100 for s in steps)
    assert [s for s in steps if s % 100 == 0] == [100, 200, 300, 400]


def test_bad_input_is_refused():
    w = nn.Parameter(torch.zeros(1))
    for change in ({"lr": -1.0}, {"friction": 0.0}, {"friction": 1.5}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match="friction"):
            SGHMC([w], **change)
    with pytest.raises(ValueError, match="multiple"):
        cyclic_cosine(0.1, steps=10, cycles=3)
    with pytest.raises(ValueError, match="multiple"):
        sampling_steps(40, cycles=4, samples=6)
    with pytest.raises(ValueError, match="too short"):
        sampling_steps(8, cycles=4, samples=12)
