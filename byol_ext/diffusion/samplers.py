r"""Samplers of the variance-exploding process ``x_t = e_w + t eps`` (CDCD 2.1 and 6.4; spec 6).

All follow the grid ``t_k = F^-1((1 - k/N)^rho)`` of a warp from ``x ~ N(0, (sigma_init t_max)^2 I)`` down to ``t_min``:
training with a warp and stepping without is as bad as no warp (Table 1). With ``x0 = sum_i p_i e_i``, for a step from
``t`` to ``s``:

================= =====================================================================================
euler             ``x + (s - t)(x - x0)/t``: the probability-flow ODE (the paper's default)
heun              the slope averaged with that at ``s``; two evaluations a step
ancestral         ``y + (x - y)(s/t)^2 + s sqrt(1 - (s/t)^2) z`` with ``y = x0``
ancestral_token   the same with ``y = e_k``, ``k ~ p``: exact at any number of steps if positions are independent
================= =====================================================================================

A score temperature ``T`` replaces ``y - x`` by ``(y - x)/T`` (Plaid's definition). Given positions are the posterior's
affair, which holds their clean embeddings; here their ``x`` is zero throughout and their tokens are handed back.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``d`` embedding width, ``N`` steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from byol_ext.diffusion.categorical import draw
from byol_ext.diffusion.guidance import Estimate, Guidance, Memory
from byol_ext.diffusion.score_interpolation import ScoreInterpolator, SelfConditionedPosterior, lone_token_logits
from byol_ext.diffusion.warp import Warp
from byol_ext.losses.pair import as_float

Method = Literal["euler", "heun", "ancestral", "ancestral_token"]
Observer = Callable[[int, float, Estimate], None]


class Samples(NamedTuple):
    """Generated sequences.

    Attributes:
        tokens_BL: Tokens, the given ones included.
        x_BLd: Noisy embeddings at the end, zero at given positions.
        evaluations_B: Network evaluations that each sequence needed.
    """

    tokens_BL: Tensor
    x_BLd: Tensor
    evaluations_B: Tensor


@dataclass(frozen=True)
class Halting:
    """When a sequence is done before the last step (arXiv 2305.10818); each condition is off at ``None``.

    A sequence that is done stands still; the call ends when all of the batch are.

    Args:
        patience: Steps in a row that changed no token.
        entropy: Mean entropy of the noised positions below this, in nats.
        from_quantile: Unchanged tokens count from this ``u`` of the grid on (1/2, ours): at high noise they are the
            most frequent token, step after step.

    Raises:
        ValueError: If an argument lies outside its range.
    """

    patience: int | None = None
    entropy: float | None = None
    from_quantile: float = 0.5

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience={self.patience} must be positive, or None")
        if self.entropy is not None and self.entropy <= 0.0:
            raise ValueError(f"entropy={self.entropy} must be positive, or None")
        if not 0.0 <= self.from_quantile <= 1.0:
            raise ValueError(f"from_quantile={self.from_quantile} must lie in [0, 1]")

    @property
    def active(self) -> bool:
        """Whether there is a condition."""
        return self.patience is not None or self.entropy is not None


@dataclass(frozen=True)
class VESampler:
    """Draws sequences with a posterior over tokens.

    Args:
        warp: Gives the grid of noise levels.
        steps: ``N`` (200; 50 are acceptable).
        method: See the module.
        guidance: Guidance scale, softmax temperature and nucleus.
        score_temperature: ``T``; below 1 sharpens (1).
        sigma_init: Scale of the initial noise (1); below 1 sharpens too.
        rho: Power of the grid's quantiles (1); larger puts more steps at low noise. Worse than 1 with a fitted warp.
        final: Tokens at the end: ``argmax`` of one more evaluation at ``t_min``, or the embedding ``nearest`` to ``x``,
            equally good and free (6.4).
        halting: When to stop early; never by default.

    Raises:
        ValueError: If an argument lies outside its range.

    Example:
        >>> from byol_ext.diffusion.warp import LogUniformWarp
        >>> from byol_ext.diffusion.guidance import memoryless
        >>> table = 2.0 * torch.eye(4)
        >>> bayes = memoryless(lambda x, t: (x @ table / t[:, None, None] ** 2).softmax(-1))
        >>> sampler = VESampler(LogUniformWarp(0.1, 20.0), steps=8)
        >>> noised, generator = torch.ones(2, 5, dtype=torch.bool), torch.Generator().manual_seed(0)
        >>> made = sampler.sample(bayes, interpolator=ScoreInterpolator(table), noised_BL=noised, generator=generator)
        >>> made.tokens_BL.shape
        torch.Size([2, 5])
    """

    warp: Warp
    steps: int = 200
    method: Method = "euler"
    guidance: Guidance = field(default_factory=Guidance)
    score_temperature: float = 1.0
    sigma_init: float = 1.0
    rho: float = 1.0
    final: Literal["argmax", "nearest"] = "argmax"
    halting: Halting = field(default_factory=Halting)

    def __post_init__(self) -> None:
        if self.method not in ("euler", "heun", "ancestral", "ancestral_token"):
            raise ValueError(f"method={self.method!r} is not one of 'euler', 'heun', 'ancestral', 'ancestral_token'")
        if self.final not in ("argmax", "nearest"):
            raise ValueError(f"final={self.final!r} is not one of 'argmax', 'nearest'")
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be positive")
        for name in ("score_temperature", "sigma_init", "rho"):
            if getattr(self, name) <= 0.0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")

    def quantiles(self) -> Tensor:
        """``(1 - k/N)^rho`` for ``k = 0 ... N``, ``[N + 1]`` float64."""
        return torch.linspace(1.0, 0.0, self.steps + 1, dtype=torch.float64) ** self.rho

    def grid(self, device: torch.device | None = None) -> Tensor:
        """Noise levels from ``t_max`` to ``t_min``, ``[N + 1]`` float64.

        Args:
            device: Where the warp is; the CPU by default.
        """
        return self.warp.times(self.quantiles().to(device))

    @torch.no_grad()
    def sample(
        self,
        posterior: SelfConditionedPosterior,
        *,
        interpolator: ScoreInterpolator,
        noised_BL: Tensor,
        generator: torch.Generator,
        tokens_BL: Tensor | None = None,
        unconditional: SelfConditionedPosterior | None = None,
        observe: Observer | None = None,
    ) -> Samples:
        """Fill the noised positions.

        Args:
            posterior: Posterior given the condition; wrap one without self-conditioning in
                :func:`~byol_ext.diffusion.guidance.memoryless`.
            interpolator: Embeddings, and how ``x0`` is made; the sampler computes in their dtype, at least float32.
            noised_BL: True where a token is wanted; all True generates from nothing.
            generator: Source of noise, on the device of the embeddings, where the warp must be too.
            tokens_BL: Tokens, read where given; needed if any position is given.
            unconditional: Posterior with the condition dropped, for guidance.
            observe: Called with (step, t, estimate) at each evaluation that begins a step and at the final one.

        Raises:
            ValueError: If tokens or a posterior are missing or shapes do not agree.
        """
        tokens_BL = self._given(tokens_BL, noised_BL, unconditional)
        run = _Run(self, posterior, unconditional, interpolator, noised_BL, generator)
        levels, quantiles = self.grid(run.table_Vd.device).tolist(), self.quantiles().tolist()
        run.start(levels[0])
        for step, (t, s) in enumerate(pairwise(levels)):
            estimate = run.evaluate(t)
            if observe is not None:
                observe(step, t, estimate)
            if self.halting.active and run.halt(estimate, quantiles[step]):
                break
            run.advance(estimate, t, s)
        else:
            if self.final == "argmax":
                estimate = run.evaluate(levels[-1])
                if observe is not None:
                    observe(self.steps, levels[-1], estimate)
                run.finish(estimate.p_BLV)
            else:
                run.finish(run.nearness())
        return Samples(torch.where(noised_BL, run.tokens_BL, tokens_BL), run.x_BLd, run.evaluations_B)

    def _given(self, tokens_BL: Tensor | None, noised_BL: Tensor, free: SelfConditionedPosterior | None) -> Tensor:
        if noised_BL.dtype != torch.bool or noised_BL.ndim != 2:
            raise ValueError(f"noised_BL must be bool [B, L], got {noised_BL.dtype} {list(noised_BL.shape)}")
        if self.guidance.branches == 2 and free is None:
            raise ValueError(f"a guidance scale of {self.guidance.scale} needs the unconditional posterior")
        if tokens_BL is None:
            if not noised_BL.all():
                raise ValueError("some positions are given (noised_BL is False there), but tokens_BL is None")
            return torch.zeros_like(noised_BL, dtype=torch.int64)
        if tokens_BL.shape != noised_BL.shape:
            raise ValueError(f"tokens_BL {list(tokens_BL.shape)} and noised_BL {list(noised_BL.shape)} differ in shape")
        return tokens_BL


class _Run:
    """State of one call of :meth:`VESampler.sample`."""

    def __init__(
        self,
        sampler: VESampler,
        posterior: SelfConditionedPosterior,
        unconditional: SelfConditionedPosterior | None,
        interpolator: ScoreInterpolator,
        noised_BL: Tensor,
        generator: torch.Generator,
    ) -> None:
        self.sampler, self.posterior, self.unconditional = sampler, posterior, unconditional
        self.interpolator, self.noised_BL, self.generator = interpolator, noised_BL, generator
        self.table_Vd = as_float(interpolator.table_Vd)
        self.x_BLd = self.table_Vd.new_zeros(*noised_BL.shape, self.table_Vd.shape[1])
        self.memory = Memory.empty(self.x_BLd)
        self.tokens_BL = torch.full_like(noised_BL, -1, dtype=torch.int64)
        batch = noised_BL.shape[0]
        self.unchanged_B = torch.zeros(batch, dtype=torch.int64, device=noised_BL.device)
        self.evaluations_B = torch.zeros_like(self.unchanged_B)
        self.done_B = ~noised_BL.any(1)

    def start(self, t_max: float) -> None:
        self._move(self._noise() * (self.sampler.sigma_init * t_max))

    def evaluate(self, t: float, x_BLd: Tensor | None = None) -> Estimate:
        x_BLd = self.x_BLd if x_BLd is None else x_BLd
        estimate = self.sampler.guidance.estimate(
            self.posterior,
            self.unconditional,
            x_BLd=x_BLd,
            t_B=x_BLd.new_full((len(x_BLd),), t),
            memory=self.memory,
            interpolator=self.interpolator,
        )
        self.memory = estimate.memory
        self.evaluations_B += self.sampler.guidance.branches * ~self.done_B
        return estimate

    def halt(self, estimate: Estimate, quantile: float) -> bool:
        """Take the newest tokens of sequences that go on, end those that meet a condition; whether all have ended."""
        halting = self.sampler.halting
        before_BL = self.tokens_BL
        self.finish(estimate.p_BLV)
        same_B = ((self.tokens_BL == before_BL) | ~self.noised_BL).all(1) & (quantile <= halting.from_quantile)
        self.unchanged_B = torch.where(same_B, self.unchanged_B + 1, 0)
        if halting.patience is not None:
            self.done_B = self.done_B | (self.unchanged_B >= halting.patience)
        if halting.entropy is not None:
            entropy_BL = torch.special.entr(estimate.p_BLV).sum(-1) * self.noised_BL
            mean_B = entropy_BL.sum(1) / self.noised_BL.sum(1).clamp(min=1)
            self.done_B = self.done_B | (mean_B < halting.entropy)
        return bool(self.done_B.all())

    def advance(self, estimate: Estimate, t: float, s: float) -> None:
        method = self.sampler.method
        if method == "euler":
            self._move(self.x_BLd + (s - t) * self._slope(self.x_BLd, estimate.x0_BLd, t))
        elif method == "heun":
            first_BLd = self._slope(self.x_BLd, estimate.x0_BLd, t)
            ahead_BLd = self._at_noised(self.x_BLd + (s - t) * first_BLd)
            second_BLd = self._slope(ahead_BLd, self.evaluate(s, ahead_BLd).x0_BLd, s)
            self._move(self.x_BLd + (s - t) * 0.5 * (first_BLd + second_BLd))
        else:
            clean_BLd = estimate.x0_BLd
            if method == "ancestral_token":
                clean_BLd = self.table_Vd[draw(estimate.p_BLV, self.generator)]
            clean_BLd = self.x_BLd + (clean_BLd - self.x_BLd) / self.sampler.score_temperature
            kept = (s / t) ** 2
            mean_BLd = clean_BLd + (self.x_BLd - clean_BLd) * kept
            self._move(mean_BLd + s * (1.0 - kept) ** 0.5 * self._noise())

    def nearness(self) -> Tensor:
        """Products with the embeddings: of points with one norm, the nearest is the one with the largest."""
        return lone_token_logits(self.x_BLd, self.x_BLd.new_ones(len(self.x_BLd)), self.table_Vd)

    def finish(self, weight_BLV: Tensor) -> None:
        """Tokens of largest weight, for the sequences that are not done."""
        self.tokens_BL = torch.where(self.done_B[:, None], self.tokens_BL, weight_BLV.argmax(-1))

    def _slope(self, x_BLd: Tensor, x0_BLd: Tensor, t: float) -> Tensor:
        return (x_BLd - x0_BLd) / (t * self.sampler.score_temperature)

    def _noise(self) -> Tensor:
        shape, table = self.x_BLd.shape, self.table_Vd
        return torch.randn(shape, dtype=table.dtype, device=table.device, generator=self.generator)

    def _at_noised(self, x_BLd: Tensor) -> Tensor:
        return x_BLd * self.noised_BL[:, :, None]

    def _move(self, x_BLd: Tensor) -> None:
        self.x_BLd = torch.where(self.done_B[:, None, None], self.x_BLd, self._at_noised(x_BLd))
