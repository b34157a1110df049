"""CDCD's training objective: cross-entropy of noised tokens, self-conditioning, and a warp fitted on the way.

Noise levels are weighted by how often the warp draws them and never by a factor on the loss (CDCD 3.3). The loss of a
sequence is the mean over its noised positions, and that of a batch the mean over its sequences, so micro-batches and
processes add up exactly.

Legend: ``B`` sequences, ``L`` positions, ``N`` noised positions of all sequences, ``V`` vocabulary, ``d`` embedding
width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.bootstrap import Ctx, Out
from byol_ext.diffusion.denoiser import Denoiser
from byol_ext.diffusion.draws import Stream, keyed_coin, keyed_normal
from byol_ext.diffusion.masks import Mask, mixed_mask
from byol_ext.diffusion.objective_parts import SeenLosses, self_conditioned_rows
from byol_ext.diffusion.score_interpolation import PostProcessing, add_noise, interpolate
from byol_ext.diffusion.warp import Warp
from byol_ext.ema import EMA
from byol_ext.losses.pair import full_precision
from byol_ext.schedules import ema_warmup
from byol_ext.training.trainable import Views


@dataclass(frozen=True)
class CDCDConfig:
    """How a :class:`CDCD` learns."""

    loss: Literal["ce", "likelihood"] = "ce"
    """ce: cross-entropy (the paper's). likelihood: the variational bound of the noised tokens (Plaid; spec 10.5)."""
    self_conditioning: bool = True
    """Show half of the sequences a first prediction (CDCD 4.3)."""
    condition_dropout: float = 0.1
    """Share of sequences whose given tokens are not shown, for guidance (CDCD 6.1)."""
    post: PostProcessing = "none"
    """Post-processing of the predictions that self-conditioning shows; samplers must use the same (CDCD 6.3)."""
    prior_steps: int = 5000
    """Steps until a denoiser's output prior has full weight (Plaid 3.3)."""
    reconstruction_share: float = 0.125
    """Share of sequences at ``t_min``, whose cross-entropy is the bound's reconstruction term (likelihood; ours)."""
    ema: float = 0.9999
    """Decay of the averaged weights, reached from below as ``(1 + n) / (10 + n)`` (ours)."""

    def __post_init__(self) -> None:
        if self.loss not in ("ce", "likelihood"):
            raise ValueError(f"loss={self.loss!r} is not one of 'ce', 'likelihood'")
        if self.post not in ("none", "renorm", "clamp"):
            raise ValueError(f"post={self.post!r} is not one of 'none', 'renorm', 'clamp'")
        if not 0.0 <= self.condition_dropout <= 1.0:
            raise ValueError(f"condition_dropout={self.condition_dropout} must lie in [0, 1]")
        if not 0.0 < self.reconstruction_share < 1.0:
            raise ValueError(f"reconstruction_share={self.reconstruction_share} must lie between 0 and 1")
        if self.prior_steps < 1:
            raise ValueError(f"prior_steps={self.prior_steps} must be positive")


class Noised(NamedTuple):
    """A batch as the denoiser sees it.

    Attributes:
        t_B: Noise standard deviation of each sequence.
        noised_BL: Bool, true where noised.
        clean_BLd: Embeddings of the tokens, with gradient.
        x_BLd: Noisy embeddings, with gradient.
        given_BLd: The clean embeddings, zero in sequences whose condition is dropped.
    """

    t_B: Tensor
    noised_BL: Tensor
    clean_BLd: Tensor
    x_BLd: Tensor
    given_BLd: Tensor


class CDCD(nn.Module):
    """A denoiser, its warp and its averaged weights; a :class:`byol_ext.training.Trainable`.

    Everything random in a step comes from the context (:class:`byol_ext.diffusion.times.TokenContext` makes it); the
    state of the warp, its optimiser and the average is part of ``state_dict``.

    Args:
        denoiser: The network.
        warp: Law of the noise levels: a :class:`~byol_ext.diffusion.warp_fit.FittedWarp` learns in :meth:`after_step`,
            any other stays as it is.
        config: Loss and its settings.
        mask: Which positions are noised, ``(keys_B, length) -> noised_BL`` (half prefixes, half random; CDCD 4.1).

    Example:
        >>> from byol_ext.diffusion.denoiser import DenoiserConfig
        >>> from byol_ext.diffusion.times import TokenContext
        >>> from byol_ext.diffusion.transformer import TransformerConfig
        >>> from byol_ext.diffusion.warp import LogUniformWarp
        >>> net = Denoiser(DenoiserConfig(5, 4, TransformerConfig(width=8, depth=1, heads=2)))
        >>> model = CDCD(net, LogUniformWarp(0.1, 20.0))
        >>> batch = {"tokens": torch.zeros(4, 8, dtype=torch.int64), "id": torch.arange(4), "epoch": 0}
        >>> model(*TokenContext(seed=0)(batch, 0)).loss.backward()
    """

    forward_moves_buffers = False
    couples_samples = False
    encoder_couples_samples = False

    def __init__(
        self, denoiser: Denoiser, warp: Warp, config: CDCDConfig | None = None, *, mask: Mask = mixed_mask
    ) -> None:
        super().__init__()
        self.config = config if config is not None else CDCDConfig()
        self.denoiser, self.warp, self.mask = denoiser, warp, mask
        self.ema = EMA(denoiser, ema_warmup(self.config.ema))
        self._seen = SeenLosses()

    @property
    def average(self) -> Denoiser:
        """The denoiser with averaged weights: the one to sample from."""
        average = self.ema.module
        assert isinstance(average, Denoiser)
        return average

    def coupling_reasons(self) -> list[str]:
        """Nothing couples samples."""
        return []

    def forward(self, views: Views, ctx: Ctx, step: int = 0) -> Out:
        """Loss of a micro-batch.

        Args:
            views: ``tokens``, ``[B, L]`` int64.
            ctx: ``data["keys"]``, ``[B]`` of :func:`byol_ext.rng.sample_keys`, and ``data["u"]``, ``[B]`` quantiles.
            step: Index of the optimiser step.

        Returns:
            Loss; the term ``cross_entropy``, which under a fitted warp stays near half its plateau whatever is learned
            (:meth:`cross_entropy` has the curve to watch); the element ``cross_entropy`` ``[B]``.
        """
        tokens_BL, keys_B = views["tokens"], ctx.data["keys"]
        t_B = self.warp.times(ctx.data["u"])
        reconstructed_B = None
        if self.config.loss == "likelihood":
            reconstructed_B = keyed_coin(keys_B, self.config.reconstruction_share, stream=Stream.RECONSTRUCTION)
            t_B = torch.where(reconstructed_B, self.warp.t_min, t_B)
        noised = noise_tokens(
            self.denoiser,
            tokens_BL,
            keys_B=keys_B,
            t_B=t_B,
            noised_BL=self.mask(keys_B, tokens_BL.shape[1]),
            dropped_B=keyed_coin(keys_B, self.config.condition_dropout, stream=Stream.CONDITION_DROPOUT),
        )
        previous_BLd = self._first_prediction(noised, keys_B) if self.config.self_conditioning else None
        logits_NV = predict(self.denoiser, noised, previous_BLd)
        ce_B = cross_entropy(logits_NV, tokens_BL, noised_BL=noised.noised_BL)
        if self.training:
            # Sequences at t_min, of the likelihood loss, stay: every curve is zero there, so they pull at nothing.
            self._seen.add(step, t_B=t_B, cross_entropy_B=ce_B)
        terms = {"cross_entropy": ce_B.detach().mean()}
        loss_B = ce_B
        if reconstructed_B is not None:
            loss_B = self._bound(logits_NV, noised, ce_B, reconstructed_B)
            terms["bound"] = loss_B.detach().mean()
        return Out(loss=loss_B.mean(), terms=terms, elements={"cross_entropy": ce_B})

    def after_step(self, step: int) -> dict[str, float]:
        """Fit the warp to the step's cross-entropies, raise the output prior, move the average.

        Args:
            step: Index of the optimiser step that was taken.

        Returns:
            Values to log: ``ema/decay`` and those of :meth:`byol_ext.diffusion.warp_fit.FittedWarp.fit`.
        """
        values = self._seen.fit(self.warp, step)
        if self.denoiser.prior_weight is not None:
            self.denoiser.prior_weight.fill_(min(1.0, (step + 1) / self.config.prior_steps))
        return values | {"ema/decay": self.ema.update(step)}

    @torch.no_grad()
    def cross_entropy(self, tokens_BL: Tensor, *, keys_B: Tensor, t_B: Tensor, passes: int = 1) -> Tensor:
        """Cross-entropy ``[B]`` under the averaged weights at given noise levels: a curve that shows progress.

        Args:
            tokens_BL: Tokens.
            keys_B: Keys that masks and noise are drawn from.
            t_B: Noise standard deviations.
            passes: Predictions at the same noise that are fed back before the one that counts.
        """
        noised_BL = self.mask(keys_B, tokens_BL.shape[1])
        noised = noise_tokens(self.average, tokens_BL, keys_B=keys_B, t_B=t_B, noised_BL=noised_BL)
        previous_BLd = None
        for _ in range(passes if self.config.self_conditioning else 0):
            previous_BLd = self._clean(self.average, noised, previous_BLd)
        return cross_entropy(predict(self.average, noised, previous_BLd), tokens_BL, noised_BL=noised_BL)

    def _first_prediction(self, noised: Noised, keys_B: Tensor) -> Tensor:
        """``x0_hat`` without gradient in half of the sequences, zero in the others."""
        rows = self_conditioned_rows(keys_B)
        previous_BLd = torch.zeros_like(noised.x_BLd)
        if len(rows):
            with torch.no_grad():
                part = Noised(*(value[rows] for value in noised))
                previous_BLd[rows] = self._clean(self.denoiser, part, None)
        return previous_BLd

    def _clean(self, denoiser: Denoiser, noised: Noised, previous_BLd: Tensor | None) -> Tensor:
        """``x0_hat`` at noised positions, zero at given ones."""
        p_NV = predict(denoiser, noised, previous_BLd).softmax(-1)
        clean_BLd = torch.zeros_like(noised.x_BLd)
        clean_BLd[noised.noised_BL] = interpolate(p_NV, denoiser.embedding.table(), post=self.config.post)
        return clean_BLd

    @full_precision
    def _bound(self, logits_NV: Tensor, noised: Noised, ce_B: Tensor, reconstructed_B: Tensor) -> Tensor:
        """An unbiased estimate ``[B]`` of the bound in nats per noised token.

        ``CE(t_min) + int t^-3 E|e_w - x0_hat|^2 dt + d / (2 t_max^2)``, the integral by importance sampling.
        """
        predicted_Nd = interpolate(logits_NV.softmax(-1), self.denoiser.embedding.table())
        error_N = (noised.clean_BLd[noised.noised_BL] - predicted_Nd).square().sum(-1)
        density_B = self.warp.density(noised.t_B) / (self.warp.t_max - self.warp.t_min)
        diffusion_B = _sequence_means(error_N, noised.noised_BL) / (noised.t_B**3 * density_B)
        share = self.config.reconstruction_share
        estimate_B = torch.where(reconstructed_B, ce_B / share, diffusion_B / (1.0 - share))
        return estimate_B + noised.clean_BLd.shape[-1] / (2.0 * self.warp.t_max**2)


def noise_tokens(
    denoiser: Denoiser,
    tokens_BL: Tensor,
    *,
    keys_B: Tensor,
    t_B: Tensor,
    noised_BL: Tensor,
    dropped_B: Tensor | None = None,
) -> Noised:
    """Embed tokens and add noise.

    Args:
        denoiser: Owner of the embeddings.
        tokens_BL: Tokens.
        keys_B: Keys that the noise is drawn from.
        t_B: Noise standard deviation of each sequence.
        noised_BL: Bool, true where noised.
        dropped_B: Bool, true where the condition is dropped; none by default.
    """
    clean_BLd = denoiser.embedding(tokens_BL)
    noise_BLd = keyed_normal(keys_B, clean_BLd[0].numel()).view_as(clean_BLd)
    x_BLd = add_noise(clean_BLd=clean_BLd, noise_BLd=noise_BLd, t_B=t_B)
    given_BLd = clean_BLd if dropped_B is None else clean_BLd.masked_fill(dropped_B[:, None, None], 0.0)
    return Noised(t_B, noised_BL, clean_BLd, x_BLd, given_BLd)


def predict(denoiser: Denoiser, noised: Noised, previous_BLd: Tensor | None) -> Tensor:
    """Logits ``[N, V]`` of a batch's noised positions, row by row.

    Args:
        denoiser: The network.
        noised: The batch.
        previous_BLd: Last ``x0_hat``, None for none.
    """
    return denoiser(
        noised.x_BLd,
        noised.t_B,
        noised_BL=noised.noised_BL,
        given_BLd=noised.given_BLd,
        previous_BLd=previous_BLd,
        only_noised=True,
    )


@full_precision
def cross_entropy(logits_NV: Tensor, tokens_BL: Tensor, *, noised_BL: Tensor) -> Tensor:
    """Mean cross-entropy ``[B]`` over each sequence's noised positions, in nats.

    Args:
        logits_NV: Logits of these positions, row by row.
        tokens_BL: Tokens.
        noised_BL: Bool, true where noised; at least one position of each sequence.
    """
    return _sequence_means(F.cross_entropy(logits_NV, tokens_BL[noised_BL], reduction="none"), noised_BL)


def _sequence_means(values_N: Tensor, noised_BL: Tensor) -> Tensor:
    values_BL = values_N.new_zeros(noised_BL.shape).masked_scatter(noised_BL, values_N)
    return values_BL.sum(1) / noised_BL.sum(1)
