"""Masked diffusion of tokens (MDLM, arXiv 2406.07524): the discrete baseline at CDCD's size.

At time ``t`` each token is hidden, independently, with probability ``t`` (the linear schedule). A network that sees the
visible tokens predicts the hidden ones. The bound on the negative log-likelihood of a sequence ``w`` is

    L(w) = integral over t in (0, 1] of (1/t) E[ sum over hidden l of -log p(w_l | visible) ] dt,

which training estimates with one ``t`` a sequence. Given how many of ``L`` tokens are hidden, the time integrates out:
``L(w)`` is ``L`` times the mean cross-entropy of hidden tokens whose number is uniform in ``1 ... L``. :func:`bound`
uses this form, because the weight ``1/t`` has no finite variance.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from byol_ext.bootstrap import Ctx, Out
from byol_ext.diffusion.categorical import cross_entropy, draw, probabilities
from byol_ext.diffusion.draws import Stream
from byol_ext.diffusion.transformer import Transformer, TransformerConfig
from byol_ext.losses.pair import as_float
from byol_ext.rng import keyed_uniform
from byol_ext.training.trainable import Views

HiddenLogits = Callable[[Tensor, Tensor], Tensor]
"""``(tokens_BL, hidden_BL) -> logits_BLV`` of the tokens where ``hidden_BL`` (bool) is true; it never reads these."""


@dataclass(frozen=True)
class MDLMConfig:
    """What an :class:`MDLM` is."""

    vocab_size: int
    """Tokens ``V``, without the mask symbol."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Size of the network."""
    t_min: float = 1e-3
    """Smallest training time, which bounds the weight ``1/t`` (MDLM's code; second-hand)."""

    def __post_init__(self) -> None:
        if self.vocab_size < 1 or not 0.0 < self.t_min < 1.0:
            raise ValueError(f"vocab_size must be positive and t_min lie in (0, 1), got {self}")


class MDLM(nn.Module):
    """A bidirectional Transformer that predicts hidden tokens, a :data:`HiddenLogits`.

    It has no time input: the share of mask symbols shows the time. :class:`byol_ext.diffusion.averaged.Averaged` makes
    it trainable.

    Args:
        config: Vocabulary and size.

    Example:
        >>> model = MDLM(MDLMConfig(5, TransformerConfig(width=8, depth=1, heads=2)))
        >>> model(torch.tensor([[0, 3, 4]]), torch.tensor([[False, True, False]])).shape
        torch.Size([1, 3, 5])
    """

    def __init__(self, config: MDLMConfig) -> None:
        super().__init__()
        self.config = config
        # The mask symbol is the last input; no output can name it.
        self.embedding = nn.Embedding(config.vocab_size + 1, config.transformer.width)
        self.transformer = Transformer(config.transformer)
        self.output = nn.Linear(config.transformer.width, config.vocab_size)
        # Near the uniform distribution at first, as CDCD's denoiser.
        nn.init.normal_(self.output.weight, std=0.1 / math.sqrt(config.transformer.width))
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens_BL: Tensor, hidden_BL: Tensor) -> Tensor:
        """Logits ``[B, L, V]``.

        Args:
            tokens_BL: Token ids; anything at hidden positions.
            hidden_BL: Bool, true where the network sees the mask symbol.
        """
        canvas_BL = tokens_BL.masked_fill(hidden_BL, self.config.vocab_size)
        return self.output(self.transformer(self.embedding(canvas_BL)))

    def objective(self, views: Views, ctx: Ctx) -> Out:
        """The bound at one time a sequence, in nats per token.

        Args:
            views: ``tokens``, ``[B, L]`` int64.
            ctx: ``data["u"]``, ``[B]`` in [0, 1), places the times; best stratified over the global batch
                (:mod:`byol_ext.diffusion.times`). ``data["keys"]``, ``[B]`` of :func:`byol_ext.rng.sample_keys`, says
                which tokens are hidden.

        Returns:
            The loss; its terms are ``bound`` and the share of tokens that were ``hidden``.
        """
        tokens_BL = views["tokens"]
        t_B = self.config.t_min + (1.0 - self.config.t_min) * as_float(ctx.data["u"])
        uniform_BL = keyed_uniform(ctx.data["keys"], tokens_BL.shape[1], stream=Stream.HIDING)
        hidden_BL = uniform_BL < t_B[:, None]
        loss = (hidden_cross_entropy(self, tokens_BL, hidden_BL).mean(1) / t_B).mean()
        return Out(loss=loss, terms={"bound": loss.detach(), "hidden": hidden_BL.float().mean()})


def hidden_cross_entropy(predict: HiddenLogits, tokens_BL: Tensor, hidden_BL: Tensor) -> Tensor:
    """Cross-entropy ``[B, L]`` of the hidden tokens given the visible ones, in nats; zero at visible positions.

    Args:
        predict: The network.
        tokens_BL: Token ids ``[B, L]``.
        hidden_BL: Bool ``[B, L]``.
    """
    return cross_entropy(predict(tokens_BL, hidden_BL), tokens_BL).masked_fill(~hidden_BL, 0.0)


@torch.no_grad()
def bound(
    predict: HiddenLogits,
    tokens_BL: Tensor,
    *,
    draws: int,
    generator: torch.Generator,
    noised_BL: Tensor | None = None,
) -> Tensor:
    """Unbiased estimate of the bound of each sequence, in nats per noised token.

    Each draw hides a random subset of the noised tokens; its size is uniform, stratified over the draws of a sequence.
    With exact conditionals the expectation is the negative log-likelihood itself, for every sequence.

    Args:
        predict: The network.
        tokens_BL: Token ids ``[B, L]``.
        draws: Network evaluations; a multiple of ``L`` visits every size equally often.
        generator: Source of sizes and subsets, on the device of the tokens.
        noised_BL: Bool, the tokens to bound given the others (infilling); default: all.

    Returns:
        ``[B]`` float64. Times ``noised_BL.sum(1)`` it bounds the nats of a sequence.

    Raises:
        ValueError: If ``draws`` is not positive, or a sequence has no noised token.
    """
    if draws < 1:
        raise ValueError(f"draws={draws} must be positive")
    noised_BL = torch.ones_like(tokens_BL, dtype=torch.bool) if noised_BL is None else noised_BL
    count_B = noised_BL.sum(1)
    if not bool(count_B.all()):
        raise ValueError("a sequence has no noised token; there is nothing to bound")
    device, length = tokens_BL.device, tokens_BL.shape[1]
    u_B = torch.rand(len(tokens_BL), dtype=torch.float64, device=device, generator=generator)
    total_B = torch.zeros_like(u_B)
    for k in range(draws):
        # The minimum guards against a product that rounds up to the count.
        size_B = (count_B * ((u_B + k / draws) % 1.0)).long().clamp_max(count_B - 1) + 1
        order_BL = torch.rand(len(tokens_BL), length, dtype=torch.float64, device=device, generator=generator)
        rank_BL = order_BL.masked_fill(~noised_BL, 2.0).argsort(1).argsort(1)
        ce_BL = hidden_cross_entropy(predict, tokens_BL, rank_BL < size_B[:, None])
        total_B = total_B + ce_BL.sum(1) / size_B
    return total_B / draws


@torch.no_grad()
def sample(
    predict: HiddenLogits,
    tokens_BL: Tensor,
    noised_BL: Tensor,
    *,
    steps: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Tensor:
    """Fill in the noised tokens by ``steps`` ancestral steps of the reverse process; given tokens stay.

    A token that is hidden at ``t`` is revealed on the way to ``s < t`` with probability ``(t - s)/t``, whatever its
    value, so its step is uniform in ``0 ... steps - 1`` and is drawn beforehand; the network runs on a sequence only at
    steps that reveal some of it, at most ``L`` times.

    Args:
        predict: The network.
        tokens_BL: Token ids ``[B, L]``; anything at noised positions.
        noised_BL: Bool ``[B, L]``, true where to sample; all true without a prompt.
        steps: Steps of equal length from ``t = 1`` to 0. Tokens revealed in the same step are drawn independently.
        generator: Source of steps and tokens, on the device of the tokens.
        temperature: See :func:`byol_ext.diffusion.categorical.probabilities`; draws are float64.
        top_p: Likewise.

    Returns:
        Tokens ``[B, L]``.

    Raises:
        ValueError: If ``steps`` is not positive, or temperature or ``top_p`` is out of range.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be positive")
    u_BL = torch.rand(tokens_BL.shape, dtype=torch.float64, device=tokens_BL.device, generator=generator)
    step_BL = (u_BL * steps).long().clamp_max(steps - 1).masked_fill(~noised_BL, -1)
    tokens_BL = tokens_BL.clone()
    for step in step_BL.unique().tolist():
        if step < 0:
            continue
        reveal_BL = step_BL == step
        rows = reveal_BL.any(1).nonzero()[:, 0]
        logits = predict(tokens_BL[rows], step_BL[rows] >= step)
        revealed = reveal_BL[rows]
        drawn = draw(probabilities(logits[revealed], temperature=temperature, top_p=top_p), generator)
        tokens_BL[rows] = tokens_BL[rows].masked_scatter(revealed, drawn)
    return tokens_BL
