"""CDCD's network: noisy and given embeddings in, logits of the tokens out (CDCD 4.1 to 4.3, Fig. 3).

Each position has four inputs, side by side: the scaled noisy embedding ``x / sqrt(t^2 + 1)``, the clean embedding of a
given token, the last prediction ``x0_hat`` (self-conditioning), and whether it is noised. What does not apply to a
position is zero there, so that nothing else leaks in.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``d`` embedding width, ``W`` model width, ``C`` units of the
time condition, ``F`` frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from byol_ext.diffusion.embeddings import TokenEmbedding
from byol_ext.diffusion.score_interpolation import SelfConditionedPosterior, lone_token_logits, per_sequence
from byol_ext.diffusion.transformer import Transformer, TransformerConfig
from byol_ext.losses.pair import as_float, full_precision


@dataclass(frozen=True)
class DenoiserConfig:
    """What a :class:`Denoiser` is."""

    vocab_size: int
    """Tokens ``V``."""
    embedding_width: int = 256
    """Width ``d`` of the token embeddings (CDCD 6.1; results are flat from 64 on)."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Size of the network."""
    embedding_init_std: float = 1e-3
    """Standard deviation of the embeddings' free parameters at initialisation (CDCD 6.3, for a learning rate of 1e-4:
    under Adam a row turns by about ``lr / std`` radians in each early step, so a higher rate wants a higher one)."""
    time_units: int = 128
    """Units of both layers of the time condition (CDCD 6.1)."""
    time_frequencies: int = 64
    """Random Fourier features of ``log(t) / 4``, half of them sines (ours: not stated)."""
    fourier_std: float = 1.0
    """Standard deviation of their frequencies (ours: not stated)."""
    output_prior: bool = False
    """Add the logits of a lone token, ``x . e_i / t^2``, to the network's (Plaid 3.3)."""

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.embedding_width, self.time_units, self.time_frequencies) < 1:
            raise ValueError(f"vocab_size, embedding_width, time_units and time_frequencies must be positive: {self}")
        if self.fourier_std <= 0.0:
            raise ValueError(f"fourier_std={self.fourier_std} must be positive")


class Denoiser(nn.Module):
    """Bidirectional Transformer over noisy embeddings, with its token table.

    Autocast reaches the input layer and the blocks; time features and logits are float32 or wider.

    Args:
        config: Vocabulary and size.

    Example:
        >>> net = Denoiser(DenoiserConfig(5, 4, TransformerConfig(width=8, depth=1, heads=2)))
        >>> noised_BL = torch.tensor([[False, True, True]])
        >>> posterior = net.posterior(noised_BL=noised_BL, tokens_BL=torch.tensor([[3, 0, 0]]))
        >>> posterior(torch.randn(1, 3, 4), torch.ones(1), torch.zeros(1, 3, 4)).shape
        torch.Size([1, 3, 5])
    """

    prior_weight: Tensor | None

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        width = config.transformer.width
        self.embedding = TokenEmbedding(config.vocab_size, config.embedding_width, init_std=config.embedding_init_std)
        self.time = TimeCondition(config.time_units, config.time_frequencies, std=config.fourier_std)
        self.input = nn.Linear(3 * config.embedding_width + 1, width)
        self.transformer = Transformer(config.transformer, condition_width=config.time_units)
        self.output = nn.Linear(width, config.vocab_size)
        nn.init.normal_(self.output.weight, std=0.1 / math.sqrt(width))  # near the uniform distribution at first
        nn.init.zeros_(self.output.bias)
        self.register_buffer("prior_weight", torch.zeros(()) if config.output_prior else None)

    def forward(
        self,
        x_BLd: Tensor,
        t_B: Tensor,
        *,
        noised_BL: Tensor,
        given_BLd: Tensor | None = None,
        previous_BLd: Tensor | None = None,
        only_noised: bool = False,
    ) -> Tensor:
        """Logits ``[B, L, V]`` in float32 or wider; those at given positions mean nothing.

        Args:
            x_BLd: Noisy embeddings, read where noised.
            t_B: Noise standard deviation of each sequence.
            noised_BL: Bool, true where noised.
            given_BLd: Clean embeddings, read where given; None drops the condition (zeros), the mask stays.
            previous_BLd: Last ``x0_hat``, read where noised; None for none yet (zeros).
            only_noised: Whether to return the logits of the noised positions alone, row by row, as ``[N, V]``: with a
                large vocabulary they are a good part of a step's cost, and the last MLP is spared too.
        """
        noised_BL1 = noised_BL[..., None]
        zeros_BLd = torch.zeros_like(x_BLd)
        scaled_BLd = as_float(x_BLd) * per_sequence(as_float(t_B).square() + 1.0).rsqrt()
        features = [
            torch.where(noised_BL1, scaled_BLd, 0.0),
            torch.where(noised_BL1, 0.0, zeros_BLd if given_BLd is None else given_BLd),
            torch.where(noised_BL1, zeros_BLd if previous_BLd is None else previous_BLd, 0.0),
            noised_BL1.to(scaled_BLd.dtype),
        ]
        inputs_BLW, condition_BC = self.input(torch.cat(features, dim=-1)), self.time(t_B)
        if not only_noised:
            return self._logits(self.transformer(inputs_BLW, condition_BC), x_BLd, t_B)
        hidden_NW = self.transformer(inputs_BLW, condition_BC, wanted_BL=noised_BL)
        # Each of them as a sequence of length 1.
        x_N1d, t_N = x_BLd[noised_BL][:, None], t_B[noised_BL.nonzero()[:, 0]]
        return self._logits(hidden_NW[:, None], x_N1d, t_N)[:, 0]

    @full_precision
    def _logits(self, hidden_BLW: Tensor, x_BLd: Tensor, t_B: Tensor) -> Tensor:
        logits_BLV = self.output(as_float(hidden_BLW))
        if self.prior_weight is None:
            return logits_BLV
        return logits_BLV + self.prior_weight * lone_token_logits(x_BLd, t_B, self.embedding.table())

    def posterior(
        self, *, noised_BL: Tensor, tokens_BL: Tensor | None = None, dropped: bool = False
    ) -> SelfConditionedPosterior:
        """What samplers and the bound call: the token probabilities of these sequences.

        Args:
            noised_BL: Bool, true where a token is wanted.
            tokens_BL: Tokens, read where given.
            dropped: Whether to drop the condition, for the unconditional branch of guidance.

        Returns:
            ``(x_BLd, t_B, previous_BLd) -> p_BLV``, for sequences in this order.

        Raises:
            ValueError: If some positions are given, but no tokens are.
        """
        if tokens_BL is None and not dropped and not noised_BL.all():
            raise ValueError("some positions are given (noised_BL is False there), but tokens_BL is None")
        known = tokens_BL is not None and not dropped

        def probabilities(x_BLd: Tensor, t_B: Tensor, previous_BLd: Tensor) -> Tensor:
            given_BLd = self.embedding(tokens_BL) if known else None
            logits_BLV = self(x_BLd, t_B, noised_BL=noised_BL, given_BLd=given_BLd, previous_BLd=previous_BLd)
            return logits_BLV.softmax(-1)

        return probabilities


class TimeCondition(nn.Module):
    """Random Fourier features of ``log(t) / 4``, then two layers (CDCD 4.2).

    Args:
        units: Units ``C`` of both layers.
        frequencies: ``F``; there are ``2 F`` features.
        std: Standard deviation of the frequencies.
    """

    frequencies_F: Tensor

    def __init__(self, units: int = 128, frequencies: int = 64, *, std: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("frequencies_F", torch.randn(frequencies) * std)
        self.layers = nn.Sequential(nn.Linear(2 * frequencies, units), nn.SiLU(), nn.Linear(units, units), nn.SiLU())

    @full_precision
    def forward(self, t_B: Tensor) -> Tensor:
        """Condition ``[B, C]`` of noise standard deviations ``[B]``."""
        t_B = as_float(t_B).to(self.frequencies_F.dtype)
        angles_BF = 2.0 * math.pi * (t_B.log() / 4.0)[:, None] * self.frequencies_F
        return self.layers(torch.cat([angles_BF.cos(), angles_BF.sin()], dim=-1))
