r"""The Cox-Ingersoll-Ross process with a Gamma equilibrium: exact transitions, density, score and bridge.

.. math:: d\theta = b\,(a - \theta)\,dt + \sqrt{2 b \theta}\,dW

Its equilibrium is Gamma(a, rate 1); it stays positive if ``a >= 1`` and touches zero otherwise (Richemond, Dieleman and
Doucet 2022, arXiv 2210.14784, section 2.2). Everything here is exact at any time step, without a simulation: a
transition is a Gamma variable with a Poisson number added to its shape, a bridge the same with a Bessel number besides.

With ``k = exp(-b t)``, ``r = 1 - k``, ``c = 1 / r`` and ``z = 2 c sqrt(theta_0 theta k)``, the density is written as a
Gamma density of rate ``c`` times ``exp(-c theta_0 k) 0F1(; a; z^2 / 4)``, so that no branch is needed at
``theta_0 = 0``. Float32 is enough unless stated.

Legend: states have any shape ``[...]``; times and shapes ``a`` broadcast with them. Generators are on the
states' device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from byol_ext.diffusion.bessel import MAX_ORDER, bessel_ratio_by_argument, log_bessel

Time = float | Tensor


@dataclass(frozen=True, eq=False)
class CIR:
    """A CIR process, or independent ones.

    Args:
        shape: ``a``, the mean and the Gamma shape of the equilibrium, in (0, 25]: a number, or a tensor that broadcasts
            with the states and lies on their device.
        speed: ``b``, the rate at which the mean is reached.

    Raises:
        ValueError: If an argument lies outside its range.

    Example:
        >>> process, start = CIR(), torch.full((20_000,), 4.0)
        >>> theta = process.sample(start, 0.5, generator=torch.Generator().manual_seed(0))
        >>> bool((theta.mean() - process.mean(start, 0.5)[0]).abs() < 0.05)
        True
    """

    shape: float | Tensor = 1.0
    speed: float = 1.0

    def __post_init__(self) -> None:
        bounds = torch.aminmax(torch.as_tensor(self.shape, dtype=torch.float64))
        if not (float(bounds.min) > 0.0 and float(bounds.max) <= MAX_ORDER + 1.0):
            raise ValueError(f"shape={self.shape} must lie in (0, {MAX_ORDER + 1.0:g}]")
        if not self.speed > 0.0:
            raise ValueError(f"speed={self.speed} must be positive")

    @property
    def order(self) -> float | Tensor:
        """``a - 1``, the order of the Bessel functions in density and bridge."""
        return self.shape - 1.0

    def decay(self, t: Time) -> Tensor:
        """``k = exp(-b t)``, the weight of the start at time ``t``."""
        return torch.exp(-self.speed * _tensor(t))

    def spread(self, t: Time) -> Tensor:
        """``r = 1 - exp(-b t)``, the scale of the noise at time ``t``, to full precision at small ``t``."""
        return -torch.expm1(-self.speed * _tensor(t))

    def mean(self, theta_0: Tensor, t: Time) -> Tensor:
        """Mean of the state a time ``t`` after ``theta_0``."""
        return theta_0 * self.decay(t) + self.shape * self.spread(t)

    def variance(self, theta_0: Tensor, t: Time) -> Tensor:
        """Variance of the state a time ``t`` after ``theta_0``."""
        k, r = self.decay(t), self.spread(t)
        return 2.0 * theta_0 * k * r + self.shape * r * r

    def sample(self, theta_0: Tensor, t: Time, *, generator: torch.Generator) -> Tensor:
        """Exact draw a time ``t`` after ``theta_0``: ``r Gamma(a + Poisson(theta_0 k / r))``, always positive.

        Args:
            theta_0: Start ``[...]``, zero or more.
            t: Time, positive.
            generator: Source of randomness.
        """
        r = self.spread(t)
        count = torch.poisson(theta_0 * self.decay(t) / r, generator=generator)
        return r * gamma(self.shape + count, generator)

    def equilibrium(self, like: Tensor, *, generator: torch.Generator) -> Tensor:
        """Draw from Gamma(a, 1) with the shape, dtype and device of ``like``."""
        return gamma(self.shape + torch.zeros_like(like), generator)

    def log_prob(self, theta: Tensor, *, theta_0: Tensor, t: Time) -> Tensor:
        """Logarithm of the transition density (eq. 8); differentiable in ``theta``.

        Args:
            theta: State ``[...]`` at time ``t``, positive.
            theta_0: Start ``[...]``, zero or more.
            t: Time, positive.
        """
        start, r = theta_0 * self.decay(t), self.spread(t)
        z = 2.0 * start.sqrt() * theta.sqrt() / r
        shape = torch.as_tensor(self.shape, dtype=theta.dtype, device=theta.device)
        base = torch.special.xlogy(shape - 1.0, theta / r) - torch.lgamma(shape) - torch.log(r)
        return base - (theta.sqrt() - start.sqrt()).square() / r + log_bessel(self.order, z)

    def score(self, theta: Tensor, *, theta_0: Tensor, t: Time) -> Tensor:
        """Derivative of :meth:`log_prob` with respect to ``theta``.

        Args:
            theta: State ``[...]`` at time ``t``, positive.
            theta_0: Start ``[...]``, zero or more.
            t: Time, positive.
        """
        return self.order / theta - 1.0 / self.spread(t) + self.pull(theta, theta_0=theta_0, t=t)

    def pull(self, theta: Tensor, *, theta_0: Tensor, t: Time) -> Tensor:
        r"""What the start adds to the score: :math:`\frac{z}{2\theta} I_a(z) / I_{a-1}(z)`, finite at ``theta = 0``.

        Args:
            theta: State ``[...]`` at time ``t``.
            theta_0: Start ``[...]``, zero or more.
            t: Time, positive.
        """
        start, r = theta_0 * self.decay(t), self.spread(t)
        z = 2.0 * start.sqrt() * theta.sqrt() / r
        return 2.0 * start / r.square() * bessel_ratio_by_argument(self.order, z)

    def bridge(self, *, theta_0: Tensor, theta_t: Tensor, s: Time, t: Time, generator: torch.Generator) -> Tensor:
        """Exact draw of the state at ``s`` given those at 0 and at ``t``.

        Args:
            theta_0: State ``[...]`` at time 0, zero or more.
            theta_t: State ``[...]`` at time ``t``, zero or more.
            s: Time in (0, ``t``).
            t: Time of ``theta_t``.
            generator: Source of randomness.
        """
        rate, weight_0, weight_t = self.bridge_weights(s, t)
        from_0, from_t = theta_0 * weight_0, theta_t * weight_t
        counts = torch.poisson(from_0, generator=generator) + torch.poisson(from_t, generator=generator)
        z = 2.0 * (from_0 * from_t).sqrt()
        both = bessel_number(self.order, z, generator=generator)
        return gamma(self.shape + counts + 2.0 * both, generator) / rate

    def bridge_weights(self, s: Time, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """Rate of a bridge's Gamma variable at ``s``, and what each end's state is worth in its Poisson numbers.

        Args:
            s: Time in (0, ``t``).
            t: Time of the later end.

        Returns:
            Rate, weight of the state at 0, weight of the state at ``t``.
        """
        gap = _tensor(t) - s
        before, after = self.spread(s), self.spread(gap)
        rate = 1.0 / before + self.decay(gap) / after
        weight_0 = self.decay(s) / (before.square() * rate)
        return rate, weight_0, self.decay(gap) / (after.square() * rate)


def _tensor(t: Time) -> Tensor:
    """A number in double precision; as a scalar tensor it leaves the dtype of the states as it is."""
    return t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)


def gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    """Gamma(shape, rate 1); the smallest normal number where a draw would underflow.

    ``torch.distributions.Gamma`` draws with the same function but takes no generator.
    """
    return torch._standard_gamma(shape, generator=generator)


def bessel_number(order: float | Tensor, z: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw of the Bessel distribution ``P(n) ~ (z/2)^(2n + order) / (n! Gamma(n + order + 1))``.

    Devroye's rejection for log-concave probabilities with a known mode (2002, Statistics & Probability Letters 57): at
    most ``4 + P(mode)`` trials a draw on average. Probabilities are float64.

    Args:
        order: In (-1, 24], one number or a tensor that broadcasts with ``z``.
        z: Arguments ``[...]``, zero or more; where it is zero the draw is zero.
        generator: Source of randomness.

    Returns:
        ``[...]``, whole numbers in the dtype of ``z``.
    """
    drawn = torch.zeros_like(z)
    pending = z > 0.0
    if not pending.any():
        return drawn
    nu = torch.as_tensor(order, dtype=torch.float64, device=z.device).expand_as(z)[pending]
    drawn[pending] = _bessel_rejection(nu, z[pending].double(), generator).to(z.dtype)
    return drawn


def _bessel_rejection(nu: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
    def log_weight(n: Tensor) -> Tensor:
        return 2.0 * n * torch.log(0.5 * z) - torch.lgamma(n + 1.0) - torch.lgamma(n + nu + 1.0)

    mode = torch.floor(0.5 * (torch.sqrt(z * z + nu * nu) - nu))
    at_mode = log_weight(mode)
    p = torch.exp(at_mode + torch.lgamma(nu + 1.0) - z - log_bessel(nu, z))
    plateau = 1.0 + 0.5 * p
    drawn, pending = mode, torch.ones_like(z, dtype=torch.bool)
    while pending.any():
        u, v, w, sign = torch.rand((4, *z.shape), dtype=z.dtype, device=z.device, generator=generator)
        flat = u * (1.0 + plateau) <= plateau
        y = torch.where(flat, v * plateau, plateau - torch.log1p(-v)) / p
        x = mode + torch.where(sign < 0.5, -1.0, 1.0) * torch.round(y)
        hat = w.log() + (plateau - p * y).clamp(max=0.0)
        accepted = pending & (x >= 0.0) & (hat < log_weight(x.clamp(min=0.0)) - at_mode)
        drawn, pending = torch.where(accepted, x, drawn), pending & ~accepted
    return drawn
