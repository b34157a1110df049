"""Five ways to step a CIR process forward, for comparison: the exact law needs none of the others.

Only :func:`exact_step` and :func:`ou_step` have the exact law at any step; the rest are the simulation schemes that the
literature on square-root diffusions uses. None returns a negative state except :func:`full_truncation_step`, whose
negative states are bookkeeping: :func:`simulate` reports their positive part.

Legend: states ``[...]``; ``M`` squared Ornstein-Uhlenbeck paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from byol_ext.diffusion.cir import CIR

Step = Callable[[CIR, Tensor, float, torch.Generator], Tensor]
_QE_SWITCH = 1.5


def simulate(process: CIR, theta_0: Tensor, *, t: float, steps: int, step: Step, generator: torch.Generator) -> Tensor:
    """State at ``t`` after equal steps.

    Args:
        process: The process.
        theta_0: Start ``[...]``, zero or more.
        t: End time.
        steps: Number of steps.
        step: One of this module's steps.
        generator: Source of randomness, on the device of ``theta_0``.

    Returns:
        ``[...]``, zero or more.

    Raises:
        ValueError: If ``t`` or ``steps`` is not positive, or the step does not exist for the process's shape.

    Example:
        >>> start, generator = torch.full((1000,), 2.0), torch.Generator().manual_seed(0)
        >>> end = simulate(CIR(), start, t=0.5, steps=8, step=implicit_step, generator=generator)
        >>> bool(end.min() > 0)
        True
    """
    if t <= 0.0 or steps < 1:
        raise ValueError(f"t={t} and steps={steps} must be positive")
    theta = theta_0
    for _ in range(steps):
        theta = step(process, theta, t / steps, generator)
    return theta.clamp(min=0.0)


def exact_step(process: CIR, theta: Tensor, dt: float, generator: torch.Generator) -> Tensor:
    """Exact transition (:meth:`CIR.sample`)."""
    return process.sample(theta, dt, generator=generator)


def full_truncation_step(process: CIR, theta: Tensor, dt: float, generator: torch.Generator) -> Tensor:
    """Euler's step with drift and noise at the positive part (Lord, Koekkoek and van Dijk 2010); may go below zero."""
    positive = theta.clamp(min=0.0)
    drift = process.speed * (process.shape - positive) * dt
    return theta + drift + (2.0 * process.speed * dt * positive).sqrt() * _normal(theta, generator)


def implicit_step(process: CIR, theta: Tensor, dt: float, generator: torch.Generator) -> Tensor:
    """Drift-implicit Euler in the square root of the state: the positive root of a quadratic (Alfonsi 2005).

    Raises:
        ValueError: If a shape is below 1/2: the quadratic may have no real root then.
    """
    shape = torch.as_tensor(process.shape, dtype=theta.dtype, device=theta.device)
    if bool((shape < 0.5).any()):
        raise ValueError(f"the implicit scheme needs shape >= 1/2, got {process.shape}; use exact_step or qe_step")
    b_dt = process.speed * dt
    explicit = theta.sqrt() + math.sqrt(0.5 * b_dt) * _normal(theta, generator)
    curvature = 1.0 + 0.5 * b_dt
    root = explicit.square() + curvature * b_dt * (2.0 * shape - 1.0)
    return ((explicit + root.sqrt()) / (2.0 * curvature)).square()


def qe_step(process: CIR, theta: Tensor, dt: float, generator: torch.Generator) -> Tensor:
    """Andersen's quadratic-exponential step (2008; from memory): mean and variance exact, the law approximate.

    A squared shifted normal where the variance is below 1.5 squared means, else an exponential with an atom at zero.
    """
    mean, variance = process.mean(theta, dt), process.variance(theta, dt)
    psi = variance / mean.square()
    inverse = 2.0 / psi.clamp(max=_QE_SWITCH)
    offset = inverse - 1.0 + (inverse * (inverse - 1.0)).sqrt()
    squared = mean / (1.0 + offset) * (offset.sqrt() + _normal(theta, generator)).square()
    atom = (psi - 1.0) / (psi + 1.0)
    u = torch.rand(theta.shape, dtype=theta.dtype, device=theta.device, generator=generator)
    exponential = mean / (1.0 - atom) * torch.log((1.0 - atom) / (1.0 - u)).clamp(min=0.0)
    return torch.where(psi <= _QE_SWITCH, squared, exponential)


def ou_step(process: CIR, theta: Tensor, dt: float, generator: torch.Generator) -> Tensor:
    """Exact law as the squared length of ``2 a`` Ornstein-Uhlenbeck paths (idea: arXiv 2210.14784, section 2.3).

    Raises:
        ValueError: If the shape is not one number with ``2 a`` whole.
    """
    if isinstance(process.shape, Tensor) or not float(2.0 * process.shape).is_integer():
        raise ValueError(f"the sum of squared paths needs one shape of 1/2, 1, 3/2, ...; got {process.shape}")
    noise_M = _normal(theta.expand(int(2.0 * process.shape), *theta.shape), generator)
    noise_M = noise_M * process.spread(dt).div(2.0).sqrt()
    along = (theta * process.decay(dt)).sqrt() + noise_M[0]
    return along.square() + noise_M[1:].square().sum(0)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
