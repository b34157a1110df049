r"""Modified Bessel functions of the first kind, scaled so that neither zero nor a large argument is special.

Densities, scores and posteriors of :mod:`byol_ext.diffusion.cir` need two functions of :math:`I_\nu(z)` that stay
finite for every :math:`z \ge 0`. Order 0 is ``torch.special.i0e`` and ``i1e`` in the precision of the argument. Other
orders run in float64: the power series, all of whose terms are positive, up to :math:`\max(40, \nu^2)`, and Hankel's
asymptotic series above, where its error is below rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from byol_ext.losses.pair import as_float

MAX_ORDER = 24.0
_CROSSOVER = 40.0
_HANKEL_TERMS = 24


def log_bessel(order: float | Tensor, z: Tensor) -> Tensor:
    r"""Logarithm of :math:`\Gamma(\nu+1)\,(z/2)^{-\nu} e^{-z} I_\nu(z)`; 0 at ``z = 0``.

    Adding ``z`` gives the logarithm of the hypergeometric function :math:`{}_0F_1(\nu + 1;\, z^2/4)`.

    Args:
        order: ``nu`` in (-1, 24], one number or a tensor that broadcasts with ``z``.
        z: Non-negative arguments ``[...]``.

    Returns:
        ``[...]``, float32 or wider; differentiable in ``z``.

    Raises:
        ValueError: If an order lies outside (-1, 24].

    Example:
        >>> z = torch.tensor([0.0, 1.0, 1e6], dtype=torch.float64)  # I_1/2(z) = sqrt(2 / (pi z)) sinh(z)
        >>> torch.allclose(log_bessel(0.5, z)[1:], torch.log(-torch.expm1(-2 * z[1:]) / (2 * z[1:])))
        True
    """
    z = as_float(z)
    if _is_zero(order):
        return torch.special.i0e(z).log()
    nu, wide, split = _prepare(order, z)
    small, _ = _power_series(nu, wide.masked_fill(wide > split, 0.0))
    large = wide.clamp(min=split)
    tail = torch.lgamma(nu + 1.0) - nu * torch.log(0.5 * large) - 0.5 * torch.log(2.0 * math.pi * large)
    tail = tail + _hankel_series(nu, large).log()
    return torch.where(wide <= split, small.log(), tail).to(z.dtype)


def bessel_ratio_by_argument(order: float | Tensor, z: Tensor) -> Tensor:
    r""":math:`I_{\nu+1}(z) / (z\, I_\nu(z))`, which falls from :math:`1/(2\nu + 2)` at 0 like :math:`1/z`.

    Args:
        order: ``nu`` in (-1, 24], one number or a tensor that broadcasts with ``z``.
        z: Non-negative arguments ``[...]``.

    Returns:
        ``[...]``, float32 or wider; differentiable in ``z``.

    Raises:
        ValueError: If an order lies outside (-1, 24].

    Example:
        >>> [round(value, 6) for value in bessel_ratio_by_argument(0.0, torch.tensor([0.0, 100.0])).tolist()]
        [0.5, 0.00995]
    """
    z = as_float(z)
    if _is_zero(order):
        z = z.clamp(min=torch.finfo(z.dtype).tiny ** 0.5)
        return torch.special.i1e(z) / (torch.special.i0e(z) * z)
    nu, wide, split = _prepare(order, z)
    lower, upper = _power_series(nu, wide.masked_fill(wide > split, 0.0))
    large = wide.clamp(min=split)
    tail = _hankel_series(nu + 1.0, large) / (_hankel_series(nu, large) * large)
    return torch.where(wide <= split, upper / (lower * 2.0 * (nu + 1.0)), tail).to(z.dtype)


def _is_zero(order: float | Tensor) -> bool:
    return not isinstance(order, Tensor) and order == 0.0


def _prepare(order: float | Tensor, z: Tensor) -> tuple[Tensor, Tensor, float]:
    """Orders and arguments in float64, and where the asymptotic series takes over."""
    nu = torch.as_tensor(order, dtype=torch.float64, device=z.device)
    low, high = float(nu.min()), float(nu.max())
    if not (low > -1.0 and high <= MAX_ORDER):
        raise ValueError(f"Bessel orders from {low} to {high} must lie in (-1, {MAX_ORDER:g}]")
    return nu, z.double(), max(_CROSSOVER, high * high)


def _power_series(nu: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """``e^-z 0F1(nu + 1; z^2/4)`` and the same at ``nu + 1``; no term underflows as long as ``z`` is below 700."""
    quarter = 0.25 * z * z
    largest = float(z.detach().amax()) if z.numel() else 0.0
    term = torch.exp(-z) * torch.ones_like(nu)
    lower, upper = term, term
    # The largest term is near k = z / 2, and the sum's spread about it is sqrt(z) / 2.
    for k in range(1, int(0.5 * largest + 8.0 * math.sqrt(largest)) + 16):
        term = term * quarter / (k * (k + nu))
        lower = lower + term
        upper = upper + term * ((nu + 1.0) / (nu + 1.0 + k))
    return lower, upper


def _hankel_series(nu: Tensor, z: Tensor) -> Tensor:
    """``sqrt(2 pi z) e^-z I_nu(z)`` by Hankel's expansion."""
    square = 4.0 * nu * nu
    term = torch.ones_like(z) * torch.ones_like(nu)
    total = term
    for k in range(1, _HANKEL_TERMS):
        term = term * ((2 * k - 1) ** 2 - square) / (8.0 * k * z)
        total = total + term
    return total
