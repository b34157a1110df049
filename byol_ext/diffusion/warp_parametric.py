r"""Learnable warps of two parameters: a logistic CDF (CDTD) and a Gumbel CDF of the log signal-to-noise (LangFlow).

Their curve of the cross-entropy has a plateau as a third. They are smoother than
:class:`~byol_ext.diffusion.warp.PiecewiseLinearWarp`, fit from fewer steps, and cannot follow a curve that is not
S-shaped.

Legend: ``B`` any number of noise levels; ``t`` noise standard deviation, ``u`` quantile, ``t'`` as in
:mod:`byol_ext.diffusion.warp`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from byol_ext.diffusion.warp import Curve, check_range, denormalised, normalised

_TINY = 1e-300
_EDGE = 1e-15


class LogisticWarp(nn.Module):
    r"""``F(t') = sigmoid(nu (logit t' - m))``: a logistic CDF adapted to the domain [0, 1] (CDTD's alternative).

    Args:
        t_min: Smallest noise standard deviation.
        t_max: Largest.
        median: Noise level with ``F = 1/2`` at the start; :func:`~byol_ext.diffusion.warp.ambiguity_noise` is a guess.
        steepness: ``nu`` at the start (2, ours); above 1 the density vanishes at both ends.
        plateau: Cross-entropy at ``t_max`` at the start, in nats.

    Raises:
        ValueError: If an argument lies outside its range.

    Example:
        >>> warp = LogisticWarp(1.0, 300.0, median=3.5)
        >>> round(warp.times(torch.tensor([0.5])).item(), 4)
        3.5
    """

    def __init__(
        self, t_min: float, t_max: float, *, median: float, steepness: float = 2.0, plateau: float = 1.0
    ) -> None:
        super().__init__()
        check_range(t_min, t_max)
        _check_positive(steepness=steepness, plateau=plateau)
        if not t_min < median < t_max:
            raise ValueError(f"median={median} must lie between t_min={t_min} and t_max={t_max}")
        self.t_min, self.t_max = t_min, t_max
        unit = (median - t_min) / (t_max - t_min)
        self.location = nn.Parameter(torch.tensor(math.log(unit / (1.0 - unit))))
        self.log_steepness = nn.Parameter(torch.tensor(math.log(steepness)))
        self.log_plateau = nn.Parameter(torch.tensor(math.log(plateau)))

    def curve(self, t_B: Tensor) -> Curve:
        """Predicted cross-entropy, with gradient.

        Args:
            t_B: Noise levels.
        """
        return Curve(self._cdf(t_B), self.log_plateau.double().exp())

    @torch.no_grad()
    def times(self, u_B: Tensor) -> Tensor:
        """``F^-1``.

        Args:
            u_B: Quantiles in [0, 1].
        """
        logit_B = torch.logit(u_B.double()) / self.log_steepness.double().exp() + self.location.double()
        return denormalised(torch.sigmoid(logit_B), self.t_min, self.t_max).to(u_B.dtype)

    @torch.no_grad()
    def quantiles(self, t_B: Tensor) -> Tensor:
        """``F``.

        Args:
            t_B: Noise levels.
        """
        return self._cdf(t_B).to(t_B.dtype)

    @torch.no_grad()
    def density(self, t_B: Tensor) -> Tensor:
        """``dF/dt'``.

        Args:
            t_B: Noise levels.
        """
        cdf_B, unit_B = self._cdf(t_B), self._inside(t_B)
        steepness = self.log_steepness.double().exp()
        return (steepness * cdf_B * (1.0 - cdf_B) / (unit_B * (1.0 - unit_B))).to(t_B.dtype)

    def _inside(self, t_B: Tensor) -> Tensor:
        return normalised(t_B, self.t_min, self.t_max).clamp(_EDGE, 1.0 - _EDGE)

    def _cdf(self, t_B: Tensor) -> Tensor:
        shifted_B = torch.logit(self._inside(t_B)) - self.location.double()
        return torch.sigmoid(self.log_steepness.double().exp() * shifted_B)


class GumbelWarp(nn.Module):
    r"""Gumbel CDF of ``gamma = -log SNR = 2 log t``, cut off at ``t_min`` and ``t_max`` (LangFlow's schedule).

    Args:
        t_min: Smallest noise standard deviation.
        t_max: Largest.
        location: Mode of ``gamma`` at the start (4.72: LangFlow on OpenWebText).
        scale: Its scale (0.85, likewise).
        plateau: Cross-entropy at ``t_max`` at the start, in nats (7.02, likewise).

    Raises:
        ValueError: If an argument lies outside its range.

    Example:
        >>> warp = GumbelWarp(1.0, 300.0)
        >>> u = torch.tensor([0.1, 0.5, 0.9])
        >>> torch.allclose(warp.quantiles(warp.times(u)), u, atol=1e-6)
        True
    """

    def __init__(
        self, t_min: float, t_max: float, *, location: float = 4.72, scale: float = 0.85, plateau: float = 7.02
    ) -> None:
        super().__init__()
        check_range(t_min, t_max)
        _check_positive(scale=scale, plateau=plateau)
        self.t_min, self.t_max = t_min, t_max
        self.location = nn.Parameter(torch.tensor(location))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.log_plateau = nn.Parameter(torch.tensor(math.log(plateau)))

    def curve(self, t_B: Tensor) -> Curve:
        """Predicted cross-entropy, with gradient.

        Args:
            t_B: Noise levels.
        """
        return Curve(self._cdf(t_B), self.log_plateau.double().exp())

    @torch.no_grad()
    def times(self, u_B: Tensor) -> Tensor:
        """``F^-1``.

        Args:
            u_B: Quantiles in [0, 1].
        """
        low, high = self._ends()
        uncut_B = (low + u_B.double() * (high - low)).clamp(_TINY, 1.0 - _EDGE)
        gamma_B = self.location.double() - self.log_scale.double().exp() * torch.log(-torch.log(uncut_B))
        return torch.exp(gamma_B / 2.0).clamp(self.t_min, self.t_max).to(u_B.dtype)

    @torch.no_grad()
    def quantiles(self, t_B: Tensor) -> Tensor:
        """``F``.

        Args:
            t_B: Noise levels.
        """
        return self._cdf(t_B).to(t_B.dtype)

    @torch.no_grad()
    def density(self, t_B: Tensor) -> Tensor:
        """``dF/dt'``.

        Args:
            t_B: Noise levels.
        """
        low, high = self._ends()
        z_B = self._standard(t_B.double())
        per_gamma_B = torch.exp(-z_B - torch.exp(-z_B) - self.log_scale.double()) / (high - low)
        return (per_gamma_B * 2.0 / t_B.double() * (self.t_max - self.t_min)).to(t_B.dtype)

    def _standard(self, t_B: Tensor) -> Tensor:
        return (2.0 * torch.log(t_B) - self.location.double()) / self.log_scale.double().exp()

    def _uncut(self, t_B: Tensor) -> Tensor:
        return torch.exp(-torch.exp(-self._standard(t_B)))

    def _ends(self) -> tuple[Tensor, Tensor]:
        ends = self._uncut(torch.tensor([self.t_min, self.t_max], dtype=torch.float64, device=self.location.device))
        return ends[0], ends[1]

    def _cdf(self, t_B: Tensor) -> Tensor:
        low, high = self._ends()
        return (self._uncut(t_B.double().clamp(self.t_min, self.t_max)) - low) / (high - low)


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0.0:
            raise ValueError(f"{name}={value} must be positive")
