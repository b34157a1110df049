"""Training of simplex diffusion: CDCD's objective on the states of a CIR process (arXiv 2210.14784; spec 11).

Cross-entropy of noised tokens, times drawn by a warp that is fitted on the way, predictions ``p`` fed back to half of
the sequences, conditions dropped at times. States come from the exact transition, keyed by sample.

Legend: ``B`` sequences, ``L`` positions, ``N`` noised positions of all sequences, ``V`` vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from byol_ext.bootstrap import Ctx, Out
from byol_ext.diffusion.draws import Stream, keyed_coin
from byol_ext.diffusion.masks import Mask, mixed_mask
from byol_ext.diffusion.objective import CDCDConfig, cross_entropy
from byol_ext.diffusion.objective_parts import SeenLosses, self_conditioned_rows
from byol_ext.diffusion.simplex import SimplexDiffusion
from byol_ext.diffusion.simplex_denoiser import SimplexDenoiser
from byol_ext.diffusion.simplex_samplers import Posterior
from byol_ext.diffusion.warp import Warp
from byol_ext.ema import EMA
from byol_ext.schedules import ema_warmup
from byol_ext.training.trainable import Views


class NoisedStates(NamedTuple):
    """A batch as the denoiser sees it.

    Attributes:
        t_B: Time of each sequence.
        noised_BL: Bool, true where noised.
        tokens_BL: The tokens.
        dropped_B: Bool, true where the condition is dropped.
        y_BLV: States.
    """

    t_B: Tensor
    noised_BL: Tensor
    tokens_BL: Tensor
    dropped_B: Tensor
    y_BLV: Tensor


class SimplexModel(nn.Module):
    """A denoiser, its warp and its averaged weights; a :class:`byol_ext.training.Trainable`.

    Everything random in a step comes from the context (:class:`byol_ext.diffusion.times.TokenContext` makes it); the
    state of the warp, its optimiser and the average is part of ``state_dict``.

    Args:
        denoiser: The network.
        simplex: The process; its ``alpha`` is half a whole number
            (:meth:`~byol_ext.diffusion.simplex.SimplexDiffusion.keyed_noise`).
        warp: Law of the times, over the process' range: a :class:`~byol_ext.diffusion.warp_fit.FittedWarp` learns in
            :meth:`after_step`, any other stays as it is.
        config: Settings, as of CDCD; ``loss`` is ``ce`` and ``post`` is ``none``.
        mask: Which positions are noised, ``(keys_B, length) -> noised_BL``.

    Raises:
        ValueError: If vocabularies or ranges of times differ, or the configuration asks for what needs embeddings.

    Example:
        >>> from byol_ext.diffusion.simplex_denoiser import SimplexDenoiserConfig
        >>> from byol_ext.diffusion.times import TokenContext
        >>> from byol_ext.diffusion.transformer import TransformerConfig
        >>> from byol_ext.diffusion.warp import LogUniformWarp
        >>> net = SimplexDenoiser(SimplexDenoiserConfig(5, TransformerConfig(width=8, depth=1, heads=2)))
        >>> model = SimplexModel(net, SimplexDiffusion(5), LogUniformWarp(0.1, 8.0))
        >>> batch = {"tokens": torch.zeros(4, 8, dtype=torch.int64), "id": torch.arange(4), "epoch": 0}
        >>> model(*TokenContext(seed=0)(batch, 0)).loss.backward()
    """

    forward_moves_buffers = False
    couples_samples = False
    encoder_couples_samples = False

    def __init__(
        self,
        denoiser: SimplexDenoiser,
        simplex: SimplexDiffusion,
        warp: Warp,
        config: CDCDConfig | None = None,
        *,
        mask: Mask = mixed_mask,
    ) -> None:
        super().__init__()
        self.config = config if config is not None else CDCDConfig()
        if denoiser.config.vocab_size != simplex.vocab:
            raise ValueError(f"the network has {denoiser.config.vocab_size} tokens, the process {simplex.vocab}")
        if (warp.t_min, warp.t_max) != (simplex.t_min, simplex.t_max):
            raise ValueError(
                f"the warp covers [{warp.t_min}, {warp.t_max}], the process [{simplex.t_min}, {simplex.t_max}]"
            )
        if self.config.loss != "ce" or self.config.post != "none":
            raise ValueError(
                f"loss={self.config.loss!r}, post={self.config.post!r}: simplex diffusion learns by loss='ce' with "
                "post='none' (no embeddings to regress to or to project on); simplex_bound evaluates the likelihood"
            )
        self.denoiser, self.simplex, self.warp, self.mask = denoiser, simplex, warp, mask
        self.ema = EMA(denoiser, ema_warmup(self.config.ema))
        self._seen = SeenLosses()

    @property
    def average(self) -> SimplexDenoiser:
        """The denoiser with averaged weights: the one to sample from."""
        average = self.ema.module
        assert isinstance(average, SimplexDenoiser)
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
        dropped_B = keyed_coin(keys_B, self.config.condition_dropout, stream=Stream.CONDITION_DROPOUT)
        noised = self._noised(tokens_BL, keys_B, self.warp.times(ctx.data["u"]), dropped_B)
        previous_BLV = self._first_prediction(noised, keys_B) if self.config.self_conditioning else None
        logits_NV = self._predict(self.denoiser, noised, previous_BLV)
        ce_B = cross_entropy(logits_NV, tokens_BL, noised_BL=noised.noised_BL)
        if self.training:
            self._seen.add(step, t_B=noised.t_B, cross_entropy_B=ce_B)
        loss = ce_B.mean()
        return Out(loss=loss, terms={"cross_entropy": loss.detach()}, elements={"cross_entropy": ce_B})

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
        """Cross-entropy ``[B]`` under the averaged weights at given times: a curve that shows progress.

        Args:
            tokens_BL: Tokens.
            keys_B: Keys that masks and noise are drawn from.
            t_B: Times.
            passes: Predictions at the same noise that are fed back before the one that counts.
        """
        noised = self._noised(tokens_BL, keys_B, t_B, torch.zeros_like(keys_B, dtype=torch.bool))
        previous_BLV = None
        for _ in range(passes if self.config.self_conditioning else 0):
            previous_BLV = self._probabilities(self.average, noised, previous_BLV)
        logits_NV = self._predict(self.average, noised, previous_BLV)
        return cross_entropy(logits_NV, tokens_BL, noised_BL=noised.noised_BL)

    def posterior(self, *, noised_BL: Tensor, tokens_BL: Tensor | None = None, dropped: bool = False) -> Posterior:
        """:meth:`SimplexDenoiser.posterior` of the averaged weights, with self-conditioning as trained.

        Args:
            noised_BL: Bool, true where a token is wanted.
            tokens_BL: Tokens, read where given.
            dropped: Whether to drop the condition.
        """
        return self.average.posterior(
            self.simplex,
            noised_BL=noised_BL,
            tokens_BL=tokens_BL,
            dropped=dropped,
            self_conditioning=self.config.self_conditioning,
        )

    def _noised(self, tokens_BL: Tensor, keys_B: Tensor, t_B: Tensor, dropped_B: Tensor) -> NoisedStates:
        noised_BL = self.mask(keys_B, tokens_BL.shape[1])
        y_BLV = self.simplex.keyed_noise(tokens_BL, t_B, keys_B=keys_B)
        return NoisedStates(t_B, noised_BL, tokens_BL, dropped_B, y_BLV)

    def _predict(self, denoiser: SimplexDenoiser, noised: NoisedStates, previous_BLV: Tensor | None) -> Tensor:
        """Logits ``[N, V]``; the tokens are read at given positions only."""
        return denoiser(
            noised.y_BLV,
            noised.t_B,
            simplex=self.simplex,
            noised_BL=noised.noised_BL,
            given_BL=noised.tokens_BL,
            dropped_B=noised.dropped_B,
            previous_BLV=previous_BLV,
            only_noised=True,
        )

    def _probabilities(self, denoiser: SimplexDenoiser, noised: NoisedStates, previous_BLV: Tensor | None) -> Tensor:
        """``p`` at noised positions, zero at given ones."""
        p_BLV = torch.zeros_like(noised.y_BLV)
        p_BLV[noised.noised_BL] = self._predict(denoiser, noised, previous_BLV).softmax(-1).to(p_BLV.dtype)
        return p_BLV

    def _first_prediction(self, noised: NoisedStates, keys_B: Tensor) -> Tensor:
        """``p`` without gradient in half of the sequences, zero in the others."""
        rows = self_conditioned_rows(keys_B)
        previous_BLV = torch.zeros_like(noised.y_BLV)
        if len(rows):
            with torch.no_grad():
                part = NoisedStates(*(value[rows] for value in noised))
                previous_BLV[rows] = self._probabilities(self.denoiser, part, None)
        return previous_BLV
