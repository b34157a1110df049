r"""Upper bound on the negative log-likelihood of tokens under simplex diffusion (arXiv 2210.14784, section 2.3).

Per noised token, in nats,

    L = E CE(t_min) + int_{t_min}^{t_max} b E sum_j Y_j (d_j log p_t - s_j)^2 dt + KL(p_{t_max} | Gamma(alpha, 1)),

with ``p_t`` the density given the token and ``s`` the interpolated score; equal to the entropy for the exact posterior
of independent tokens. A model trained by cross-entropy has a loose one: say so where a figure of it is printed.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``S`` draws of ``t``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from byol_ext.diffusion.likelihood import Bound, mixture_density, stratified_times
from byol_ext.diffusion.simplex import SimplexDiffusion
from byol_ext.diffusion.simplex_samplers import Posterior
from byol_ext.diffusion.warp import Warp


@torch.no_grad()
def simplex_bound(
    posterior: Posterior,
    *,
    tokens_BL: Tensor,
    simplex: SimplexDiffusion,
    warp: Warp,
    generator: torch.Generator,
    noised_BL: Tensor | None = None,
    draws: int = 8,
    passes: int = 0,
) -> Bound:
    """Estimate the bound of a batch; ``(draws + 1)(passes + 1)`` network evaluations.

    Args:
        posterior: The network with its condition, such as
            :meth:`byol_ext.diffusion.simplex_objective.SimplexModel.posterior`.
        tokens_BL: Clean tokens.
        simplex: The process.
        warp: Half of the draws of ``t``, over the process' range; a fitted one lowers the variance.
        generator: Source of noise and times, on the device of the tokens.
        noised_BL: True where a token counts; default: everywhere. With given positions the bound is on the conditional
            likelihood; states there are 1, whatever the token.
        draws: Draws of ``t`` a sequence, ``S``.
        passes: Extra passes at the same state that feed self-conditioning, ``k``: the bound holds for each ``k`` as for
            another model. Report it.

    Raises:
        ValueError: If shapes or ranges do not agree, ``draws`` is not positive or ``passes`` is negative.

    Example:
        >>> from byol_ext.diffusion.warp import LogUniformWarp
        >>> simplex, generator = SimplexDiffusion(4), torch.Generator().manual_seed(0)
        >>> exact = lambda y_BLV, t_B, previous_BLV: simplex.posterior(y_BLV, t_B)
        >>> tokens, warp = torch.randint(4, (500, 8), generator=generator), LogUniformWarp(0.1, 8.0)
        >>> bound = simplex_bound(exact, tokens_BL=tokens, simplex=simplex, warp=warp, generator=generator)
        >>> abs(bound.nats_per_token - torch.tensor(4.0).log().item()) < 0.1
        True
    """
    noised_BL = torch.ones_like(tokens_BL, dtype=torch.bool) if noised_BL is None else noised_BL
    if noised_BL.shape != tokens_BL.shape or tokens_BL.ndim != 2:
        raise ValueError(
            f"expected tokens_BL and noised_BL of one shape [B, L], "
            f"got {list(tokens_BL.shape)} and {list(noised_BL.shape)}"
        )
    if (warp.t_min, warp.t_max) != (simplex.t_min, simplex.t_max):
        raise ValueError(
            f"the warp covers [{warp.t_min}, {warp.t_max}], the process [{simplex.t_min}, {simplex.t_max}]"
        )
    if draws < 1 or passes < 0:
        raise ValueError(f"draws={draws} must be positive and passes={passes} not negative")
    model = _Denoising(posterior, simplex, tokens_BL, noised_BL, generator, passes)
    first_B = torch.full((len(tokens_BL),), simplex.t_min, device=tokens_BL.device)
    _, p_BLV = model.at(first_B)
    log_p_BL = p_BLV.gather(-1, tokens_BL[..., None]).squeeze(-1).log()
    integral_B = torch.zeros(len(tokens_BL), dtype=torch.float64, device=tokens_BL.device)
    for t_B in stratified_times(warp, draws, like_B=first_B, generator=generator):
        y_BLV, p_BLV = model.at(t_B)
        rate_BL = simplex.bound_rate(y_BLV, t_B, tokens_BL=tokens_BL, p_BLV=p_BLV)
        integral_B += model.total(rate_BL) / mixture_density(warp, t_B)
    last_B = torch.full_like(first_B, simplex.t_max)
    # In double precision: a small difference of large numbers.
    y_BLV = simplex.noise(tokens_BL, last_B.double(), generator=generator, dtype=torch.float64)
    return Bound(
        reconstruction_B=-model.total(log_p_BL),
        diffusion_B=integral_B / draws,
        prior_B=model.total(simplex.prior_gap(y_BLV, last_B.double(), tokens_BL=tokens_BL)),
        tokens_B=noised_BL.sum(-1).double(),
        passes=passes,
    )


@dataclass(frozen=True)
class _Denoising:
    """A posterior on noisy versions of fixed tokens."""

    posterior: Posterior
    simplex: SimplexDiffusion
    tokens_BL: Tensor
    noised_BL: Tensor
    generator: torch.Generator
    passes: int

    def at(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """Fresh states at a time, and the probabilities there."""
        y_BLV = self.simplex.noise(self.tokens_BL, t_B, generator=self.generator)
        y_BLV = torch.where(self.noised_BL[..., None], y_BLV, 1.0)
        p_BLV = torch.zeros_like(y_BLV)
        for _ in range(self.passes + 1):
            p_BLV = self.posterior(y_BLV, t_B, p_BLV).to(y_BLV.dtype)
        return y_BLV, p_BLV

    def total(self, values_BL: Tensor) -> Tensor:
        """Sum over the noised positions ``[B]``, float64."""
        return torch.where(self.noised_BL, values_BL.double(), 0.0).sum(-1)
