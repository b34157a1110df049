r"""Bound on the negative log-likelihood by the probability-flow ODE (spec 10.6); slow, and a check of the other bound.

With ``x = e_w + t_min eps``, noise ``q(x | w)`` and the flow's density ``p``, tokens cost at most

    E[-log p(w | x) + log q(x | w) - log p(x)]
      = E[CE(t_min) + 1/2 (|x(t_max)|^2 / t_max^2 - |eps|^2) + int_{t_min}^{t_max} div x0(x(t), t) dt/t],

where ``x(t)`` follows ``dx/dt = (x - x0)/t`` upwards from ``x``; the terms in ``log t`` of the densities and of the
divergence cancel. The divergence is estimated with random signs (Hutchinson).

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``d`` embedding width, ``N`` steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from byol_ext.diffusion.likelihood import Bound
from byol_ext.diffusion.score_interpolation import ScoreInterpolator, SelfConditionedPosterior
from byol_ext.diffusion.warp import Warp
from byol_ext.losses.pair import as_float


def ode_likelihood(
    posterior: SelfConditionedPosterior,
    *,
    tokens_BL: Tensor,
    interpolator: ScoreInterpolator,
    warp: Warp,
    generator: torch.Generator,
    noised_BL: Tensor | None = None,
    steps: int = 100,
    passes: int = 0,
) -> Bound:
    """Estimate the bound with Heun steps; ``(2N + 1)(passes + 1)`` network evaluations, ``2N`` of them with gradient.

    Args:
        posterior: The network with its condition; differentiable in ``x``.
        tokens_BL: Clean tokens.
        interpolator: Embeddings, and how ``x0`` is made.
        warp: Gives the grid ``F^-1(k/N)``.
        generator: Source of noise and signs, on the device of the embeddings.
        noised_BL: True where a token counts; default: everywhere.
        steps: ``N``; the error falls with its square.
        passes: Extra passes that feed self-conditioning; the divergence goes through them.

    Returns:
        ``diffusion_B`` holds the integral of the divergence, ``prior_B`` the difference of squared norms.

    Raises:
        ValueError: If shapes do not agree, ``steps`` is not positive or ``passes`` is negative.
    """
    noised_BL = torch.ones_like(tokens_BL, dtype=torch.bool) if noised_BL is None else noised_BL
    if noised_BL.shape != tokens_BL.shape or tokens_BL.ndim != 2:
        raise ValueError(
            f"expected tokens_BL and noised_BL of one shape [B, L], "
            f"got {list(tokens_BL.shape)} and {list(noised_BL.shape)}"
        )
    if steps < 1 or passes < 0:
        raise ValueError(f"steps={steps} must be positive and passes={passes} not negative")
    table_Vd = as_float(interpolator.table_Vd).detach()
    flow = _Flow(posterior, interpolator, noised_BL[..., None], generator, passes)
    clean_BLd = table_Vd[tokens_BL] * flow.noised_BL1
    noise_BLd = _normal(clean_BLd, generator) * flow.noised_BL1
    u_N = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64, device=table_Vd.device)
    levels = warp.times(u_N).tolist()
    x_BLd = clean_BLd + levels[0] * noise_BLd
    with torch.no_grad():
        p_BLV, _ = flow.denoised(x_BLd, levels[0])
        log_p_BL = p_BLV.gather(-1, tokens_BL[..., None]).squeeze(-1).log().double()
    divergence_B = torch.zeros(len(tokens_BL), dtype=torch.float64, device=tokens_BL.device)
    for t, s in pairwise(levels):
        slope_BLd, rate_B = flow.slope(x_BLd, t)
        ahead_slope_BLd, ahead_rate_B = flow.slope(x_BLd + (s - t) * slope_BLd, s)
        x_BLd = x_BLd + (s - t) * 0.5 * (slope_BLd + ahead_slope_BLd)
        divergence_B += (s - t) * 0.5 * (rate_B + ahead_rate_B)
    end_B, start_B = (y.double().square().sum((1, 2)) for y in (x_BLd / levels[-1], noise_BLd))
    return Bound(
        reconstruction_B=-log_p_BL.masked_fill(~noised_BL, 0.0).sum(-1),
        diffusion_B=divergence_B,
        prior_B=0.5 * (end_B - start_B),
        tokens_B=noised_BL.sum(-1).double(),
        passes=passes,
    )


@dataclass(frozen=True)
class _Flow:
    """The probability-flow ODE of a posterior, zero at given positions."""

    posterior: SelfConditionedPosterior
    interpolator: ScoreInterpolator
    noised_BL1: Tensor
    generator: torch.Generator
    passes: int

    def denoised(self, x_BLd: Tensor, t: float) -> tuple[Tensor, Tensor]:
        t_B, x0_BLd = x_BLd.new_full((len(x_BLd),), t), torch.zeros_like(x_BLd)
        for _ in range(self.passes + 1):
            p_BLV = self.posterior(x_BLd, t_B, x0_BLd).to(x_BLd.dtype)
            x0_BLd = self.interpolator.clean(p_BLV)
        return p_BLV, x0_BLd

    def slope(self, x_BLd: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """``dx/dt``, and an estimate ``[B]`` of ``div x0 / t``, float64."""
        signs_BLd = torch.sign(_normal(x_BLd, self.generator)) * self.noised_BL1
        with torch.enable_grad():
            at_BLd = x_BLd.detach().requires_grad_()
            _, x0_BLd = self.denoised(at_BLd, t)
            (product_BLd,) = torch.autograd.grad((x0_BLd * signs_BLd).sum(), at_BLd)
        slope_BLd = (x_BLd - x0_BLd.detach()) / t * self.noised_BL1
        return slope_BLd, (product_BLd * signs_BLd).double().sum((1, 2)) / t


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
