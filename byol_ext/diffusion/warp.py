r"""Time warps: the law of noise levels, learned so that the cross-entropy rises linearly (CDCD 3.3 and App. A).

A warp is a distribution on ``[t_min, t_max]`` given by its CDF ``F``. Training draws ``t = F^-1(u)`` with uniform
``u``, samplers step through ``F^-1(k/N)``; weighting noise levels in any other way has a far higher variance (3.3).
Densities are taken along ``t' = (t - t_min) / (t_max - t_min)``. Everything is computed in float64, since a bin may be
thousands of times narrower than the range, and returned in the dtype of the argument.

Fitting, averaging and target shapes are in :mod:`byol_ext.diffusion.warp_fit`, two-parameter families in
:mod:`byol_ext.diffusion.warp_parametric`.

Legend: ``B`` any number of noise levels (sequences, grid points), ``N`` bins; ``t`` noise standard deviation, ``u``
quantile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Warp(Protocol):
    """A distribution of noise levels."""

    @property
    def t_min(self) -> float:
        """Smallest noise standard deviation."""
        ...

    @property
    def t_max(self) -> float:
        """Largest noise standard deviation."""
        ...

    def times(self, u_B: Tensor) -> Tensor:
        """``F^-1``: noise levels at quantiles in [0, 1]."""
        ...

    def quantiles(self, t_B: Tensor) -> Tensor:
        """``F``: quantiles of noise levels."""
        ...

    def density(self, t_B: Tensor) -> Tensor:
        """``dF/dt'``; its mean over ``t'`` in [0, 1] is 1."""
        ...


class Curve(NamedTuple):
    """A learnable warp's prediction of the cross-entropy, with gradient, float64.

    Attributes:
        cdf_B: Normalised ``F(t)``.
        plateau: Cross-entropy at ``t_max``; ``plateau * cdf_B`` is the paper's unnormalised curve.
    """

    cdf_B: Tensor
    plateau: Tensor


@dataclass(frozen=True)
class UniformWarp:
    """Noise levels uniform in ``t``: no warping, the paper's control.

    Args:
        t_min: Smallest noise standard deviation.
        t_max: Largest.

    Raises:
        ValueError: If not ``0 < t_min < t_max``.
    """

    t_min: float
    t_max: float

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max)

    def times(self, u_B: Tensor) -> Tensor:
        """``F^-1``."""
        return denormalised(u_B.double(), self.t_min, self.t_max).to(u_B.dtype)

    def quantiles(self, t_B: Tensor) -> Tensor:
        """``F``."""
        return normalised(t_B, self.t_min, self.t_max).to(t_B.dtype)

    def density(self, t_B: Tensor) -> Tensor:
        """``dF/dt'``."""
        return torch.ones_like(t_B)


@dataclass(frozen=True)
class LogUniformWarp:
    """Noise levels uniform in ``log t``.

    Args:
        t_min: Smallest noise standard deviation.
        t_max: Largest.

    Raises:
        ValueError: If not ``0 < t_min < t_max``.

    Example:
        >>> LogUniformWarp(1.0, 100.0).times(torch.tensor([0.0, 0.5, 1.0]))
        tensor([  1.,  10., 100.])
    """

    t_min: float
    t_max: float

    def __post_init__(self) -> None:
        check_range(self.t_min, self.t_max)

    def times(self, u_B: Tensor) -> Tensor:
        """``F^-1``."""
        t_B = self.t_min * torch.exp(u_B.double() * math.log(self.t_max / self.t_min))
        return t_B.clamp(self.t_min, self.t_max).to(u_B.dtype)

    def quantiles(self, t_B: Tensor) -> Tensor:
        """``F``."""
        u_B = torch.log(t_B.double() / self.t_min) / math.log(self.t_max / self.t_min)
        return u_B.clamp(0.0, 1.0).to(t_B.dtype)

    def density(self, t_B: Tensor) -> Tensor:
        """``dF/dt'``."""
        factor = (self.t_max - self.t_min) / math.log(self.t_max / self.t_min)
        return (factor / t_B.double()).to(t_B.dtype)


class PiecewiseLinearWarp(nn.Module):
    """The paper's warp: a CDF of ``N`` straight pieces whose widths and heights are learned.

    ``w^t = softmax(l^t)`` are the widths of the bins, ``w^u = softmax(l^u)`` their heights, and ``sum(exp(l^u))`` the
    plateau; all logits start at ``-log N``, where ``F`` is the identity and the plateau 1.

    Args:
        t_min: Smallest noise standard deviation (1.0 at d=256, V=32k; spec 3 for other sizes).
        t_max: Largest (300 there).
        bins: ``N`` (100, App. A).
        temperature: ``T`` of ``w^u <- w^u (w^u / w^t)^(1/T - 1)``: below 1 concentrates the density, above 1 flattens
            it (1; eq. 14). Acts on what is drawn, not on :meth:`curve`.
        uniform_mix: ``mu`` of ``w^u <- (1 - mu) w^u + mu w^t`` (0; eq. 15-16). Acts likewise, after the temperature.
        floor: Added to each width and height before they are normalised again (1e-4, ours: the paper says "a small
            constant"). Bounds the density from both sides.

    Raises:
        ValueError: If an argument lies outside its range.

    Example:
        >>> warp = PiecewiseLinearWarp(1.0, 101.0)
        >>> warp.times(torch.tensor([0.0, 0.25, 1.0])).tolist()
        [1.0, 26.0, 101.0]
    """

    def __init__(
        self,
        t_min: float,
        t_max: float,
        *,
        bins: int = 100,
        temperature: float = 1.0,
        uniform_mix: float = 0.0,
        floor: float = 1e-4,
    ) -> None:
        super().__init__()
        check_range(t_min, t_max)
        if bins < 1:
            raise ValueError(f"bins={bins} must be positive")
        if temperature <= 0.0:
            raise ValueError(f"temperature={temperature} must be positive")
        if not 0.0 <= uniform_mix <= 1.0:
            raise ValueError(f"uniform_mix={uniform_mix} must lie in [0, 1]")
        if floor <= 0.0:
            raise ValueError(f"floor={floor} must be positive, or a bin could lose its width")
        self.t_min, self.t_max = t_min, t_max
        self.temperature, self.uniform_mix, self.floor = temperature, uniform_mix, floor
        self.logits_t = nn.Parameter(torch.full((bins,), -math.log(bins)))
        self.logits_u = nn.Parameter(torch.full((bins,), -math.log(bins)))

    def curve(self, t_B: Tensor) -> Curve:
        """Predicted cross-entropy, with gradient to both sets of logits; free of temperature and mixture.

        Args:
            t_B: Noise levels.
        """
        width_N, height_N = self._bins()
        unit_B = normalised(t_B, self.t_min, self.t_max)
        return Curve(_interpolated(unit_B, _edges(width_N), _edges(height_N)), self.logits_u.double().exp().sum())

    @torch.no_grad()
    def times(self, u_B: Tensor) -> Tensor:
        """``F^-1``.

        Args:
            u_B: Quantiles in [0, 1].
        """
        width_N, height_N = self._drawn_bins()
        unit_B = _interpolated(u_B.double(), _edges(height_N), _edges(width_N))
        return denormalised(unit_B, self.t_min, self.t_max).to(u_B.dtype)

    @torch.no_grad()
    def quantiles(self, t_B: Tensor) -> Tensor:
        """``F``.

        Args:
            t_B: Noise levels.
        """
        width_N, height_N = self._drawn_bins()
        unit_B = normalised(t_B, self.t_min, self.t_max)
        return _interpolated(unit_B, _edges(width_N), _edges(height_N)).to(t_B.dtype)

    @torch.no_grad()
    def density(self, t_B: Tensor) -> Tensor:
        """``dF/dt' = w^u_n / w^t_n`` in bin ``n``.

        Args:
            t_B: Noise levels.
        """
        width_N, height_N = self._drawn_bins()
        bin_B = _bin_of(normalised(t_B, self.t_min, self.t_max), _edges(width_N))
        return (height_N / width_N)[bin_B].to(t_B.dtype)

    def _bins(self) -> tuple[Tensor, Tensor]:
        """Widths and heights, each summing to 1."""
        scale = 1.0 + self.floor * self.logits_t.numel()
        width_N = (self.logits_t.double().softmax(0) + self.floor) / scale
        height_N = (self.logits_u.double().softmax(0) + self.floor) / scale
        return width_N, height_N

    def _drawn_bins(self) -> tuple[Tensor, Tensor]:
        width_N, height_N = self._bins()
        if self.temperature != 1.0:
            height_N = height_N * (height_N / width_N) ** (1.0 / self.temperature - 1.0)
            height_N = height_N / height_N.sum()
        return width_N, (1.0 - self.uniform_mix) * height_N + self.uniform_mix * width_N


def ambiguity_noise(width: int, vocabulary: int) -> float:
    """Noise at which a lone token becomes ambiguous, about ``sqrt(d / (2 ln V))`` (spec 3, derived).

    A tenth of it serves as ``t_min``, 15 to 30 times it as ``t_max``, itself as the median of a logistic warp.

    Args:
        width: Embedding width ``d``.
        vocabulary: Tokens ``V``, at least 2.

    Example:
        >>> round(ambiguity_noise(256, 32000), 1), round(ambiguity_noise(32, 27), 1)
        (3.5, 2.2)
    """
    return math.sqrt(width / (2.0 * math.log(vocabulary)))


def check_range(t_min: float, t_max: float) -> None:
    """Refuse a range of noise levels that is not one.

    Raises:
        ValueError: If not ``0 < t_min < t_max < inf``.
    """
    if not 0.0 < t_min < t_max < math.inf:
        raise ValueError(f"noise levels need 0 < t_min < t_max, got t_min={t_min}, t_max={t_max}")


def normalised(t_B: Tensor, t_min: float, t_max: float) -> Tensor:
    """``t' = (t - t_min) / (t_max - t_min)`` in float64, held to [0, 1]."""
    return ((t_B.double() - t_min) / (t_max - t_min)).clamp(0.0, 1.0)


def denormalised(unit_B: Tensor, t_min: float, t_max: float) -> Tensor:
    """Noise levels of ``t'``, the inverse of :func:`normalised`."""
    return (t_min + (t_max - t_min) * unit_B).clamp(t_min, t_max)


def _edges(sizes_N: Tensor) -> Tensor:
    """``N + 1`` edges of bins of given sizes, from 0 to exactly 1."""
    cumulative_N = sizes_N.cumsum(0)
    return torch.cat([cumulative_N.new_zeros(1), cumulative_N / cumulative_N[-1]])


def _bin_of(x_B: Tensor, edges: Tensor) -> Tensor:
    inner = edges.detach()[1:-1].contiguous()
    return torch.searchsorted(inner, x_B.detach().contiguous(), right=True)


def _interpolated(x_B: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The piecewise linear map that takes the edges ``start`` to the edges ``end``, at ``x_B``."""
    bin_B = _bin_of(x_B, start)
    fraction_B = (x_B - start[bin_B]) / (start[bin_B + 1] - start[bin_B])
    return end[bin_B] + fraction_B * (end[bin_B + 1] - end[bin_B])
