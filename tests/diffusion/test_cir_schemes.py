"""Simulation schemes: positivity, and bias of the mean and variance."""

import math

import pytest
import torch

from byol_ext.diffusion.cir import CIR
from byol_ext.diffusion.cir_schemes import exact_step, full_truncation_step, implicit_step, ou_step, qe_step, simulate

N = 50_000


def end(shape, step, *, theta_0=1.0, t=1.0, steps=8, seed=0):
    start = torch.full((N,), theta_0, dtype=torch.float64)
    return simulate(CIR(shape), start, t=t, steps=steps, step=step, generator=torch.Generator().manual_seed(seed))


CASES = [
    *[(shape, exact_step) for shape in (0.1, 0.5, 1.0, 3.0)],
    *[(shape, qe_step) for shape in (0.1, 0.5, 1.0, 3.0)],
    *[(shape, full_truncation_step) for shape in (0.1, 0.5, 1.0, 3.0)],
    *[(shape, step) for shape in (0.5, 1.0, 3.0) for step in (implicit_step, ou_step)],
]


@pytest.mark.parametrize(("shape", "step"), CASES)
def test_never_negative(shape, step):
    theta = end(shape, step)
    assert torch.isfinite(theta).all()
    assert theta.min() >= 0.0
    if step is exact_step:
        single = CIR(shape).sample(torch.zeros(N), 1e-3, generator=torch.Generator().manual_seed(1))
        assert theta.min() > 0.0
        assert single.min() > 0.0


@pytest.mark.parametrize(("shape", "step"), [case for case in CASES if case[1] in (exact_step, ou_step, qe_step)])
def test_moment_exact_schemes(shape, step):
    theta, start = end(shape, step, seed=2), torch.ones(1, dtype=torch.float64)
    mean, variance = CIR(shape).mean(start, 1.0).item(), CIR(shape).variance(start, 1.0).item()
    squares = (theta - mean).square()
    assert abs(theta.mean() - mean) < 4 * math.sqrt(variance / N)
    assert abs(squares.mean() - variance) < 4 * squares.std() / math.sqrt(N)


@pytest.mark.parametrize("step", [full_truncation_step, implicit_step])
def test_bias_of_the_others_falls_with_the_step(step):
    mean = CIR(1.0).mean(torch.ones(1, dtype=torch.float64), 1.0).item()
    variance = CIR(1.0).variance(torch.ones(1, dtype=torch.float64), 1.0).item()
    coarse, fine = (end(1.0, step, steps=steps, seed=3) for steps in (2, 64))
    errors = [abs(x.mean() - mean) + abs(x.var() - variance) for x in (coarse, fine)]
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.06


def test_schemes_say_what_they_cannot_do():
    with pytest.raises(ValueError, match="shape >= 1/2"):
        end(0.1, implicit_step)
    with pytest.raises(ValueError, match="one shape of 1/2"):
        end(0.1, ou_step)
    with pytest.raises(ValueError, match="must be positive"):
        end(1.0, exact_step, steps=0)
