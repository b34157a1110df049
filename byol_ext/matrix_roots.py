"""Roots, inverse roots and norms of matrices by matrix products alone: no eigendecomposition.

Products are fast on accelerators and differentiate safely where eigenvalues coincide. Everything is computed in float32
(or the wider type given) with autocast off. TF32, where switched on, shortens float32 products: give float64 then.

Legend: ``D`` width; leading dims are free, so a stack ``[..., D, D]`` holds one matrix a group.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from byol_ext.losses.pair import as_float, full_precision


class Roots(NamedTuple):
    """Square root and inverse square root of a matrix, both ``[..., D, D]``."""

    root: Tensor
    inverse: Tensor


@full_precision
def newton_schulz(a: Tensor, *, steps: int = 9) -> Roots:
    """``A^{1/2}`` and ``A^{-1/2}`` of symmetric positive semidefinite matrices by the coupled Newton-Schulz iteration.

    ``A_0 = A / |A|_F``, ``B_0 = I``, ``T = 3 I - B A``, ``A <- A T / 2``, ``B <- T B / 2`` (arXiv 2302.04817, 4).
    After ``n`` steps a direction of eigenvalue ``l`` has converged when ``l / |A|_F`` exceeds about ``1.5^(-2n)``;
    below that knee the root is ``1.5^n l / sqrt(|A|_F)`` and the inverse ``1.5^n / sqrt(|A|_F)``, so the inverse of a
    singular matrix stays finite. With many steps float32 rounding grows on rank-deficient input: 15 are safe, 30 give
    NaN; for whitening add ``eps I`` first, and take steps until ``1.5^(-2n)`` is below ``eps / |A|_F``.

    Args:
        a: Symmetric positive semidefinite ``[..., D, D]``; a zero matrix gives the root zero.
        steps: Iterations ``n`` (paper: 9).

    Returns:
        :class:`Roots`.

    Raises:
        ValueError: If the matrices are not square or ``steps`` is negative.

    Example:
        >>> newton_schulz(torch.diag(torch.tensor([4.0, 1.0]))).root.diagonal().round(decimals=4).tolist()
        [2.0, 1.0]
    """
    x = _square(a)
    _counted(steps)
    norm = x.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    root, inverse = x / norm, identity.expand_as(x)
    for _ in range(steps):
        # This order of the factors is the stable one; in exact arithmetic all of them commute.
        t = (3.0 * identity - inverse @ root) / 2.0
        root, inverse = root @ t, t @ inverse
    return Roots(root * norm.sqrt(), inverse / norm.sqrt())


@full_precision
def visser(a: Tensor, *, steps: int = 40, step_size: float = 0.5) -> Tensor:
    """``A^{1/2}`` by Visser's iteration ``P <- P + eta (A - P^2)`` from ``I / (2 eta)`` (arXiv 2302.04817, 4).

    Fastest near ``eta^2 l_max = 1/4``: scale ``A`` to ``l_max = 1`` and keep the default. Null directions keep about
    ``1 / (eta n)`` after ``n`` steps, a ridge that is built in.

    Args:
        a: Symmetric positive semidefinite ``[..., D, D]``.
        steps: Iterations ``n`` ("several dozen").
        step_size: ``eta``.

    Raises:
        ValueError: If the matrices are not square, or ``eta^2 l_max >= 1``, where the iteration diverges.

    Example:
        >>> visser(torch.diag(torch.tensor([1.0, 0.25]))).diagonal().round(decimals=4).tolist()
        [1.0, 0.5]
    """
    x = _square(a)
    _counted(steps)
    if not step_size > 0:
        raise ValueError(f"step_size={step_size} must be positive")
    largest = float(spectral_norm(x.detach()).max())
    if 1.0 <= step_size**2 * largest < math.inf:
        raise ValueError(
            f"Visser's iteration diverges: step_size^2 * largest eigenvalue = {step_size**2 * largest:.4g} must be "
            "below 1; divide the matrix by its spectral_norm and multiply the root by that number's square root, or "
            "take a smaller step"
        )
    return visser_iteration(x, steps=steps, step_size=step_size)


@full_precision
def visser_iteration(a: Tensor, *, steps: int, step_size: float) -> Tensor:
    """:func:`visser` for matrices already scaled to ``l_max = 1``: the check, which waits for the device, is left out.

    Args:
        a: Symmetric positive semidefinite ``[..., D, D]`` with ``step_size^2 l_max < 1``.
        steps: Iterations.
        step_size: ``eta``.
    """
    x = as_float(a)
    root = (torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) / (2.0 * step_size)).expand_as(x)
    for _ in range(steps):
        root = root + step_size * (x - root @ root)
    return root


@full_precision
def spectral_norm(a: Tensor, *, squarings: int = 10) -> Tensor:
    """Largest singular value, by repeated squaring of ``A'A`` and one Rayleigh quotient.

    Never above the true value but for rounding; the relative error is below ``log(D) / 2^(squarings + 2)`` when all
    singular values crowd at the worst place (0.14 % at ``D = 256``), and rounding otherwise.

    Args:
        a: ``[..., M, D]``, not necessarily symmetric.
        squarings: Squarings of the normalised Gram matrix.

    Returns:
        ``[...]``; zero for a zero matrix.

    Example:
        >>> round(spectral_norm(torch.tensor([[3.0, 0.0], [4.0, 0.0]])).item(), 5)
        5.0
    """
    x = as_float(a)
    tiny = torch.finfo(x.dtype).tiny
    # Scaled by the largest entry first, so that the Gram matrix neither overflows nor underflows.
    scale = x.detach().abs().amax(dim=(-2, -1), keepdim=True).clamp_min(tiny)
    gram = (x / scale).mT @ (x / scale)
    power = gram
    for _ in range(squarings):
        power = power / power.norm(dim=(-2, -1), keepdim=True).clamp_min(tiny)
        power = power @ power
    power = (power / power.norm(dim=(-2, -1), keepdim=True).clamp_min(tiny)).detach()
    return scale[..., 0, 0] * ((gram @ power) * power).sum((-2, -1)).clamp_min(0).sqrt()


def _square(a: Tensor) -> Tensor:
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"expected square matrices [..., D, D], got {tuple(a.shape)}")
    return as_float(a)


def _counted(steps: int) -> None:
    if steps < 0:
        raise ValueError(f"steps={steps} must not be negative")
