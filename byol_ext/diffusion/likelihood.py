r"""Upper bound on the negative log-likelihood of tokens under the variance-exploding process (spec 10.5).

Per noised token, in nats,

    L = E CE(t_min) + int_{t_min}^{t_max} t^-3 E |e_w - x0(x_t, t)|^2 dt + d / (2 t_max^2),

which is Plaid's bound (eq. 3-5) with SNR ``1/t^2``; equal to the entropy for the exact posterior of independent tokens.
A model trained by cross-entropy alone has a loose one: say so where a figure of it is printed. The integral is an
expectation over ``t`` drawn half log-uniformly and half from the warp, divided by that density.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``d`` embedding width, ``S`` draws of ``t``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from byol_ext.diffusion.score_interpolation import (
    ScoreInterpolator,
    SelfConditionedPosterior,
    add_noise,
)
from byol_ext.diffusion.warp import LogUniformWarp, Warp
from byol_ext.losses.pair import as_float


@dataclass(frozen=True)
class Bound:
    """The bound's parts, sums over the noised positions of each sequence, in nats, float64.

    Attributes:
        reconstruction_B: Cross-entropy at ``t_min``.
        diffusion_B: The integral.
        prior_B: ``d / (2 t_max^2)`` a token.
        tokens_B: Noised positions.
        passes: Passes of self-conditioning, ``k``.
    """

    reconstruction_B: Tensor
    diffusion_B: Tensor
    prior_B: Tensor
    tokens_B: Tensor
    passes: int

    @classmethod
    def joined(cls, bounds: Sequence[Self]) -> Self:
        """The bound of several batches as one.

        Raises:
            ValueError: If there is none, or they differ in passes.
        """
        if len({bound.passes for bound in bounds}) != 1:
            raise ValueError(f"expected bounds of one number of passes, got {[bound.passes for bound in bounds]}")
        names = [item.name for item in fields(cls) if item.name != "passes"]
        return cls(**{name: torch.cat([getattr(b, name) for b in bounds]) for name in names}, passes=bounds[0].passes)

    @property
    def nats_B(self) -> Tensor:
        """Bound of each sequence."""
        return self.reconstruction_B + self.diffusion_B + self.prior_B

    @property
    def nats_per_token(self) -> float:
        """Bound a noised token."""
        return (self.nats_B.sum() / self.tokens_B.sum()).item()

    @property
    def standard_error(self) -> float:
        """Of :attr:`nats_per_token`, over sequences, as of a ratio of sums; nan for a single one."""
        count = len(self.nats_B)
        if count < 2:
            return math.nan
        residual_B = self.nats_B - self.nats_per_token * self.tokens_B
        return (residual_B.std() / self.tokens_B.mean() / math.sqrt(count)).item()

    def parts(self) -> dict[str, float]:
        """``reconstruction``, ``diffusion`` and ``prior``, nats a noised token."""
        total = self.tokens_B.sum()
        return {
            "reconstruction": (self.reconstruction_B.sum() / total).item(),
            "diffusion": (self.diffusion_B.sum() / total).item(),
            "prior": (self.prior_B.sum() / total).item(),
        }

    def bits_per_char(self, chars: int) -> float:
        """The bound in bits a character of the text that the noised tokens spell.

        Args:
            chars: Characters of that text.

        Raises:
            ValueError: If ``chars`` is not positive.

        Example:
            >>> one = torch.ones(1, dtype=torch.float64)
            >>> Bound(one, one, 0 * one, 4 * one, passes=0).bits_per_char(8) == 0.25 / math.log(2)
            True
        """
        if chars < 1:
            raise ValueError(f"chars={chars} must be positive")
        return self.nats_B.sum().item() / (chars * math.log(2.0))


@torch.no_grad()
def likelihood_bound(
    posterior: SelfConditionedPosterior,
    *,
    tokens_BL: Tensor,
    interpolator: ScoreInterpolator,
    warp: Warp,
    generator: torch.Generator,
    noised_BL: Tensor | None = None,
    draws: int = 8,
    passes: int = 0,
) -> Bound:
    """Estimate the bound of a batch; ``(draws + 1)(passes + 1)`` network evaluations.

    Args:
        posterior: The network with its condition: given positions are its affair, as in
            :meth:`byol_ext.diffusion.samplers.VESampler.sample`. It is handed zeros for ``x`` there.
        tokens_BL: Clean tokens.
        interpolator: Embeddings, and how ``x0`` is made.
        warp: Half of the draws of ``t``; a fitted one lowers the variance.
        generator: Source of noise and times, on the device of the embeddings.
        noised_BL: True where a token counts; default: everywhere. With given positions the bound is on the conditional
            likelihood.
        draws: Draws of ``t`` a sequence, ``S``.
        passes: Extra passes at the same ``x_t`` that feed self-conditioning, ``k``: a function of ``x_t`` alone, so the
            bound holds for each ``k`` as for another model. Report it.

    Raises:
        ValueError: If shapes do not agree, ``draws`` is not positive or ``passes`` is negative.
    """
    noised_BL = torch.ones_like(tokens_BL, dtype=torch.bool) if noised_BL is None else noised_BL
    if noised_BL.shape != tokens_BL.shape or tokens_BL.ndim != 2:
        raise ValueError(
            f"expected tokens_BL and noised_BL of one shape [B, L], "
            f"got {list(tokens_BL.shape)} and {list(noised_BL.shape)}"
        )
    if draws < 1 or passes < 0:
        raise ValueError(f"draws={draws} must be positive and passes={passes} not negative")
    model = _Denoising(posterior, interpolator, tokens_BL, noised_BL, generator, passes)
    t_min_B = model.clean_BLd.new_full((len(tokens_BL),), warp.t_min)
    p_BLV, _ = model.at(t_min_B)
    log_p_BL = p_BLV.gather(-1, tokens_BL[..., None]).squeeze(-1).log()
    squares_B = torch.zeros(len(tokens_BL), dtype=torch.float64, device=tokens_BL.device)
    for t_B in stratified_times(warp, draws, like_B=t_min_B, generator=generator):
        _, x0_BLd = model.at(t_B)
        error_B = (model.clean_BLd - x0_BLd).double().square().sum(-1).mul(noised_BL).sum(-1)
        squares_B += error_B / (t_B.double() ** 3 * mixture_density(warp, t_B))
    tokens_B = noised_BL.sum(-1).double()
    return Bound(
        reconstruction_B=-(log_p_BL.double().masked_fill(~noised_BL, 0.0)).sum(-1),
        diffusion_B=squares_B / draws,
        prior_B=tokens_B * model.clean_BLd.shape[-1] / (2.0 * warp.t_max**2),
        tokens_B=tokens_B,
        passes=passes,
    )


@dataclass(frozen=True)
class _Denoising:
    """A posterior on noisy versions of fixed tokens."""

    posterior: SelfConditionedPosterior
    interpolator: ScoreInterpolator
    tokens_BL: Tensor
    noised_BL: Tensor
    generator: torch.Generator
    passes: int

    @property
    def clean_BLd(self) -> Tensor:
        return as_float(self.interpolator.table_Vd)[self.tokens_BL]

    def at(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and ``x0`` at fresh noise of a level."""
        clean_BLd = self.clean_BLd
        noise_BLd = torch.randn(
            clean_BLd.shape, dtype=clean_BLd.dtype, device=clean_BLd.device, generator=self.generator
        )
        x_BLd = add_noise(clean_BLd=clean_BLd, noise_BLd=noise_BLd, t_B=t_B) * self.noised_BL[..., None]
        x0_BLd = torch.zeros_like(clean_BLd)
        for _ in range(self.passes + 1):
            p_BLV = self.posterior(x_BLd, t_B, x0_BLd).to(clean_BLd.dtype)
            x0_BLd = self.interpolator.clean(p_BLV)
        return p_BLV, x0_BLd


def stratified_times(warp: Warp, draws: int, *, like_B: Tensor, generator: torch.Generator) -> list[Tensor]:
    """``S`` times ``[B]`` of the law of :func:`mixture_density`, half log-uniform and half the warp's.

    Over all rows and draws, and over the draws of each row, there is one to a stratum of quantiles.

    Args:
        warp: The warp.
        draws: ``S``.
        like_B: Its length, dtype and device are those of the times.
        generator: Source of the offset, on the device of ``like_B``.
    """
    batch, device = len(like_B), like_B.device
    offset = torch.rand(1, dtype=torch.float64, device=device, generator=generator)
    row_B = torch.arange(batch, dtype=torch.float64, device=device)
    half_log = LogUniformWarp(warp.t_min, warp.t_max)
    times = []
    for draw in range(draws):
        u_B = torch.remainder(offset + (draw + row_B / batch) / draws, 1.0)
        t_B = torch.where(u_B < 0.5, half_log.times(2.0 * u_B), warp.times(torch.remainder(2.0 * u_B, 1.0)))
        times.append(t_B.to(like_B.dtype))
    return times


def mixture_density(warp: Warp, t_B: Tensor) -> Tensor:
    """Density along ``t`` of what :func:`stratified_times` draws, float64.

    Args:
        warp: The warp.
        t_B: Times.
    """
    t_B = t_B.double()
    half_log = LogUniformWarp(warp.t_min, warp.t_max)
    return 0.5 * (half_log.density(t_B) + warp.density(t_B)) / (warp.t_max - warp.t_min)
