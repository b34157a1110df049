"""An autoregressive Transformer: the exact-likelihood baseline at CDCD's size, and the scorer of generated text.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``K`` candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from byol_ext.bootstrap import Ctx, Out
from byol_ext.diffusion.categorical import cross_entropy, draw, probabilities
from byol_ext.diffusion.transformer import KeyValueCache, Transformer, TransformerConfig
from byol_ext.training.trainable import Views


@dataclass(frozen=True)
class AutoregressiveConfig:
    """What an :class:`Autoregressive` model is."""

    vocab_size: int
    """Tokens ``V``, without the start symbol."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Size of the network."""

    def __post_init__(self) -> None:
        if self.vocab_size < 1:
            raise ValueError(f"vocab_size={self.vocab_size} must be positive")


class Autoregressive(nn.Module):
    """``p(w) = product over l of p(w_l | start, w_1 ... w_{l-1})`` with a causal Transformer.

    :class:`byol_ext.diffusion.averaged.Averaged` makes it trainable.

    Args:
        config: Vocabulary and size.

    Example:
        >>> model = Autoregressive(AutoregressiveConfig(5, TransformerConfig(width=8, depth=1, heads=2)))
        >>> token_nll(model, torch.tensor([[0, 3, 4]])).shape
        torch.Size([1, 3])
    """

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__()
        self.config = config
        # The start symbol is the last input; no output can name it.
        self.embedding = nn.Embedding(config.vocab_size + 1, config.transformer.width)
        self.transformer = Transformer(config.transformer, causal=True)
        self.output = nn.Linear(config.transformer.width, config.vocab_size)
        # Near the uniform distribution at first, as CDCD's denoiser.
        nn.init.normal_(self.output.weight, std=0.1 / math.sqrt(config.transformer.width))
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Logits ``[B, L, V]`` of each token given the start symbol and the tokens before it."""
        return self.following(torch.cat([self.start(len(tokens_BL)), tokens_BL[:, :-1]], dim=1))

    def following(self, inputs_BL: Tensor, *, cache: KeyValueCache | None = None) -> Tensor:
        """Logits ``[B, L, V]`` of the token that follows each input.

        Args:
            inputs_BL: Token ids, or the start symbol ``V``.
            cache: Earlier inputs; it is extended by these.
        """
        return self.output(self.transformer(self.embedding(inputs_BL), cache=cache))

    def start(self, batch: int) -> Tensor:
        """The start symbol of each sequence, ``[B, 1]``."""
        return torch.full((batch, 1), self.config.vocab_size, device=self.embedding.weight.device)

    def objective(self, views: Views, ctx: Ctx) -> Out:
        """Mean negative log-likelihood, in nats per token.

        Args:
            views: ``tokens``, ``[B, L]`` int64.
            ctx: Not read: nothing here is random.
        """
        loss = token_nll(self, views["tokens"]).mean()
        return Out(loss=loss, terms={"nll": loss.detach()})


def token_nll(model: Autoregressive, tokens_BL: Tensor) -> Tensor:
    """``-log p(w_l | w_<l)`` of each token, ``[B, L]``, in nats and in float32 or wider.

    The sum over ``L`` is the exact negative log-likelihood. The mean over generated positions is AR-NLL (CDCD 6.2). The
    mean over noised positions is the model's infilling cross-entropy: it sees what stands to the left of a token,
    including the true content of earlier blanks, and nothing to the right.

    Args:
        model: The model.
        tokens_BL: Token ids ``[B, L]``.
    """
    return cross_entropy(model(tokens_BL), tokens_BL)


@torch.no_grad()
def sample(
    model: Autoregressive,
    tokens_BL: Tensor,
    noised_BL: Tensor,
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Tensor:
    """Draw the noised tokens from left to right; given ones stay, and only what stands before a token is seen.

    Args:
        model: The model.
        tokens_BL: Token ids ``[B, L]``; anything at noised positions.
        noised_BL: Bool ``[B, L]``, true where to sample; all true without a prompt.
        generator: Source of the draws, on the device of the tokens.
        temperature: See :func:`byol_ext.diffusion.categorical.probabilities`; draws are float64.
        top_p: Likewise.

    Returns:
        Tokens ``[B, L]``.

    Raises:
        ValueError: If temperature or ``top_p`` is out of range.
    """
    tokens_BL, cache = tokens_BL.clone(), KeyValueCache()
    columns = noised_BL.any(0).nonzero()[:, 0].tolist()
    inputs_BL, done = torch.cat([model.start(len(tokens_BL)), tokens_BL], dim=1), 0
    for column in columns:
        logits_BV = model.following(inputs_BL[:, done : column + 1], cache=cache)[:, -1]
        drawn_B = draw(probabilities(logits_BV, temperature=temperature, top_p=top_p), generator)
        tokens_BL[:, column] = torch.where(noised_BL[:, column], drawn_B, tokens_BL[:, column])
        inputs_BL[:, column + 1] = tokens_BL[:, column]
        done = column + 1
    return tokens_BL


@torch.no_grad()
def infill(
    model: Autoregressive,
    tokens_BL: Tensor,
    noised_BL: Tensor,
    *,
    candidates: int,
    generator: torch.Generator,
) -> Tensor:
    """Infilling that also heeds what follows a blank, by sampling and importance resampling.

    Each of ``K`` candidates is drawn by :func:`sample`, and one is chosen with weight ``p(candidate) / q(candidate)``,
    the product of the probabilities of the given tokens. One candidate is :func:`sample` itself; with many, the law
    tends to the exact ``p(noised | given)``.

    Args:
        model: The model.
        tokens_BL: Token ids ``[B, L]``; anything at noised positions.
        noised_BL: Bool ``[B, L]``, true where to fill in.
        candidates: Candidates ``K`` of each sequence; memory and time grow with it.
        generator: Source of the draws, on the device of the tokens.

    Returns:
        Tokens ``[B, L]``.

    Raises:
        ValueError: If ``candidates`` is not positive.
    """
    if candidates < 1:
        raise ValueError(f"candidates={candidates} must be positive")
    noised = repeat(noised_BL, "b l -> (b k) l", k=candidates)
    drawn = sample(model, repeat(tokens_BL, "b l -> (b k) l", k=candidates), noised, generator=generator)
    given_nll = token_nll(model, drawn).double().masked_fill(noised, 0.0).sum(1)
    weight_BK = rearrange(-given_nll, "(b k) -> b k", k=candidates).softmax(1)
    chosen_B = draw(weight_BK, generator)
    drawn_BKL = rearrange(drawn, "(b k) l -> b k l", k=candidates)
    return drawn_BKL[torch.arange(len(chosen_B), device=chosen_B.device), chosen_B]
