r"""Samplers of simplex diffusion: steps from ``t`` to an earlier ``s`` that keep every state positive without a clamp.

All three treat what does not depend on the token exactly, whatever the step:

* :func:`ode_step`: probability flow. With ``W = Y / r`` and ``v = sqrt(k / r)`` the ODE of ``log Y`` reads
  :math:`d\sqrt{W} / dv = p \sqrt{\kappa}\, I_\alpha(z) / I_{\alpha-1}(z)`, whose right side is bounded; Euler's step in
  these variables is exact for certain tokens at small times and for impossible ones always.
* :func:`sde_step`: reverse SDE (section 2.2, eq. 12-13). The token's part of the drift, :math:`2 b Y \hat s`, is an
  inflow :math:`2 b c p \sqrt{\kappa k Y} I_\alpha / I_{\alpha-1}`; frozen for a step it adds to the shape of the Gamma
  variable that the rest of the equation draws exactly.
* :func:`bridge_step`: a token is drawn from the probabilities, then the state from the exact bridge between that token
  and the present state: exact at any step where positions are independent. CDCD's ``ancestral_token`` on the simplex.

Steps and reformulations are ours.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``N`` times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from byol_ext.diffusion.categorical import draw
from byol_ext.diffusion.cir import gamma
from byol_ext.diffusion.simplex import SimplexDiffusion

Posterior = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(y_BLV, t_B, previous_BLV) -> p_BLV``; ``previous`` is the last step's result, zeros at first."""
Step = Callable[[SimplexDiffusion, Tensor, Tensor, float, float, torch.Generator], Tensor]
"""``(simplex, y_BLV, p_BLV, t, s, generator) -> y_BLV`` at ``s < t``."""


@dataclass(frozen=True)
class SimplexSample:
    """Result of :func:`generate`: the most probable tokens, their probabilities and the last state."""

    tokens_BL: Tensor
    p_BLV: Tensor
    y_BLV: Tensor


def log_times(simplex: SimplexDiffusion, steps: int) -> Tensor:
    """``steps + 1`` times from ``t_max`` down to ``t_min``, evenly spaced in the logarithm, float64.

    Raises:
        ValueError: If ``steps`` is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be positive")
    ends = math.log(simplex.t_max), math.log(simplex.t_min)
    return torch.linspace(*ends, steps + 1, dtype=torch.float64).exp()


def generate(
    simplex: SimplexDiffusion,
    posterior: Posterior,
    times_N: Tensor,
    *,
    like_BLV: Tensor,
    step: Step,
    generator: torch.Generator,
) -> SimplexSample:
    """Sample token sequences from noise.

    Given positions of an infilling model are the posterior's business, as in CDCD: what happens to the state there
    is without effect on a network that does not read it.

    Args:
        simplex: The process.
        posterior: Token probabilities, for instance a network's on :meth:`SimplexDiffusion.features`.
        times_N: Decreasing times ``[N]``, at least two: :func:`log_times`, or a warp's at even quantiles. The
            posterior is evaluated once at each.
        like_BLV: Its shape, dtype and device are those of the states.
        step: One of this module's steps.
        generator: Source of randomness, on the device of ``like_BLV``.

    Raises:
        ValueError: If the times are not positive and decreasing.

    Example:
        >>> simplex = SimplexDiffusion(5)
        >>> exact = lambda y_BLV, t_B, previous_BLV: simplex.posterior(y_BLV, t_B)
        >>> like, generator = torch.zeros(4, 3, 5), torch.Generator().manual_seed(0)
        >>> times = log_times(simplex, 10)
        >>> generate(simplex, exact, times, like_BLV=like, step=bridge_step, generator=generator).tokens_BL.shape
        torch.Size([4, 3])
    """
    times = times_N.tolist()
    if len(times) < 2 or times[-1] <= 0.0 or any(t <= s for t, s in pairwise(times)):
        raise ValueError(f"times must be at least two, positive and decreasing; got {times}")
    y = simplex.prior(like_BLV, generator=generator)
    p = torch.zeros_like(y)
    for t, s in pairwise(times):
        p = posterior(y, y.new_full((len(y),), t), p)
        y = step(simplex, y, p, t, s, generator)
    p = posterior(y, y.new_full((len(y),), times[-1]), p)
    return SimplexSample(p.argmax(-1), p, y)


def ode_step(
    simplex: SimplexDiffusion, y_BLV: Tensor, p_BLV: Tensor, t: float, s: float, generator: torch.Generator
) -> Tensor:
    """One step of the probability-flow ODE; draws nothing.

    Args:
        simplex: The process.
        y_BLV: States at ``t``.
        p_BLV: Token probabilities at ``t``.
        t: Present time.
        s: Time in (0, ``t``).
        generator: Not used; every step takes one.
    """
    process = simplex.process
    r_t, r_s = process.spread(t), process.spread(s)
    v_t, v_s = (process.decay(t) / r_t).sqrt(), (process.decay(s) / r_s).sqrt()
    root = (y_BLV / r_t).sqrt() + (v_s - v_t) * math.sqrt(simplex.kappa) * p_BLV * _ratio(simplex, y_BLV, t)
    return r_s * root.square()


def sde_step(
    simplex: SimplexDiffusion, y_BLV: Tensor, p_BLV: Tensor, t: float, s: float, generator: torch.Generator
) -> Tensor:
    """One step of the reverse SDE.

    Args:
        simplex: The process.
        y_BLV: States at ``t``.
        p_BLV: Token probabilities at ``t``.
        t: Present time.
        s: Time in (0, ``t``).
        generator: Source of randomness.
    """
    process = simplex.process
    rate, _, weight_t = process.bridge_weights(s, t)
    # The inflow's factor c grows fast: its mean over the step, weighted by what survives until s, is (c_s + c_t) / 2.
    both = 1.0 / process.spread(s) + 1.0 / process.spread(t)
    inflow = both * (simplex.kappa * process.decay(t) * y_BLV).sqrt() * p_BLV * _ratio(simplex, y_BLV, t)
    count = torch.poisson(y_BLV * weight_t, generator=generator)
    return gamma(process.shape + inflow + count, generator) / rate


def bridge_step(
    simplex: SimplexDiffusion, y_BLV: Tensor, p_BLV: Tensor, t: float, s: float, generator: torch.Generator
) -> Tensor:
    """Draw tokens, then the states at ``s`` between them and the present states.

    Args:
        simplex: The process.
        y_BLV: States at ``t``.
        p_BLV: Token probabilities at ``t``.
        t: Present time.
        s: Time in (0, ``t``).
        generator: Source of randomness.
    """
    start = simplex.start(draw(p_BLV, generator), y_BLV.dtype)
    return simplex.process.bridge(theta_0=start, theta_t=y_BLV, s=s, t=t, generator=generator)


def _ratio(simplex: SimplexDiffusion, y_BLV: Tensor, t: float) -> Tensor:
    """``I_alpha(z) / I_(alpha-1)(z)``, in [0, 1) for ``alpha >= 1/2``."""
    k, r = simplex.process.decay(t), simplex.process.spread(t)
    pull = simplex.pull(y_BLV, y_BLV.new_full((len(y_BLV),), t))
    return pull * r * (y_BLV / (simplex.kappa * k)).sqrt()
