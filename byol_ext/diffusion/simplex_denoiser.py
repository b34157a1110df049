"""The network of simplex diffusion: states and given tokens in, logits of the tokens out.

CDCD's denoiser with a token's embedding replaced by the state itself. Each position has four inputs: the standardised
logarithm of its state (:meth:`~byol_ext.diffusion.simplex.SimplexDiffusion.features`), the last prediction ``p``
(self-conditioning), whether it is noised, and the given token. What does not apply to a position is zero there.

Legend: ``B`` sequences, ``L`` positions, ``N`` noised positions of all sequences, ``V`` vocabulary, ``W`` model width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.diffusion.denoiser import TimeCondition
from byol_ext.diffusion.simplex import SimplexDiffusion
from byol_ext.diffusion.simplex_samplers import Posterior
from byol_ext.diffusion.transformer import Transformer, TransformerConfig
from byol_ext.losses.pair import as_float, full_precision


@dataclass(frozen=True)
class SimplexDenoiserConfig:
    """What a :class:`SimplexDenoiser` is."""

    vocab_size: int
    """Tokens ``V``."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Size of the network."""
    time_units: int = 128
    """Units of both layers of the time condition (as CDCD's)."""
    time_frequencies: int = 64
    """Random Fourier features of ``log(t) / 4``, half of them sines (as CDCD's, ours)."""
    fourier_std: float = 1.0
    """Standard deviation of their frequencies (as CDCD's, ours)."""
    output_prior: bool = False
    """Add the exact evidence of a lone position to the network's logits (ours, after Plaid 3.3)."""

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.time_units, self.time_frequencies) < 1:
            raise ValueError(f"vocab_size, time_units and time_frequencies must be positive: {self}")
        if self.fourier_std <= 0.0:
            raise ValueError(f"fourier_std={self.fourier_std} must be positive")


class SimplexDenoiser(nn.Module):
    """Bidirectional Transformer over states of :class:`~byol_ext.diffusion.simplex.SimplexDiffusion`.

    Autocast reaches the input layer and the blocks; time features and logits are float32 or wider.

    Args:
        config: Vocabulary and size.

    Example:
        >>> net = SimplexDenoiser(SimplexDenoiserConfig(5, TransformerConfig(width=8, depth=1, heads=2)))
        >>> noised_BL = torch.tensor([[False, True, True]])
        >>> posterior = net.posterior(SimplexDiffusion(5), noised_BL=noised_BL, tokens_BL=torch.tensor([[3, 0, 0]]))
        >>> posterior(torch.rand(1, 3, 5), torch.ones(1), torch.zeros(1, 3, 5)).shape
        torch.Size([1, 3, 5])
    """

    prior_weight: Tensor | None

    def __init__(self, config: SimplexDenoiserConfig) -> None:
        super().__init__()
        self.config = config
        vocab, width = config.vocab_size, config.transformer.width
        self.time = TimeCondition(config.time_units, config.time_frequencies, std=config.fourier_std)
        self.input = nn.Linear(2 * vocab + 1, width)
        self.given = nn.Embedding(vocab, width)
        self.transformer = Transformer(config.transformer, condition_width=config.time_units)
        self.output = nn.Linear(width, vocab)
        nn.init.normal_(self.output.weight, std=0.1 / math.sqrt(width))  # near the uniform distribution at first
        nn.init.zeros_(self.output.bias)
        self.register_buffer("prior_weight", torch.zeros(()) if config.output_prior else None)

    def forward(
        self,
        y_BLV: Tensor,
        t_B: Tensor,
        *,
        simplex: SimplexDiffusion,
        noised_BL: Tensor,
        given_BL: Tensor | None = None,
        dropped_B: Tensor | None = None,
        previous_BLV: Tensor | None = None,
        only_noised: bool = False,
    ) -> Tensor:
        """Logits ``[B, L, V]`` in float32 or wider; those at given positions mean nothing.

        Args:
            y_BLV: States, read where noised.
            t_B: Time of each sequence.
            simplex: The process that the states are of.
            noised_BL: Bool, true where noised.
            given_BL: Tokens, read where given; None drops the condition (zeros), the mask stays.
            dropped_B: Bool, true where a sequence's condition is dropped; None for nowhere.
            previous_BLV: Last prediction ``p``, read where noised; None for none yet (zeros).
            only_noised: Whether to return the logits of the noised positions alone, row by row, as ``[N, V]``.
        """
        noised_BL1 = noised_BL[..., None]
        # Zeros would be far off the states' law, and NaN in a product with zero stays NaN.
        y_BLV = torch.where(noised_BL1, y_BLV, 1.0)
        features_BLV = simplex.features(y_BLV, t_B).to(self.input.weight.dtype)
        zeros_BLV = torch.zeros_like(features_BLV)
        # A certain prediction weighs as much as all the features together.
        previous_BLV = zeros_BLV if previous_BLV is None else math.sqrt(self.config.vocab_size) * previous_BLV
        inputs = [
            torch.where(noised_BL1, features_BLV, 0.0),
            torch.where(noised_BL1, previous_BLV.to(features_BLV.dtype), 0.0),
            noised_BL1.to(features_BLV.dtype),
        ]
        x_BLW = self.input(torch.cat(inputs, dim=-1))
        if given_BL is not None:
            unseen_BL = noised_BL if dropped_B is None else noised_BL | dropped_B[:, None]
            given_BLW = self.given(given_BL.masked_fill(unseen_BL, 0))
            x_BLW = x_BLW + torch.where(unseen_BL[..., None], 0.0, given_BLW)
        if not only_noised:
            return self._logits(self.transformer(x_BLW, self.time(t_B)), y_BLV, t_B, simplex)
        hidden_NW = self.transformer(x_BLW, self.time(t_B), wanted_BL=noised_BL)
        # Each of them as a sequence of length 1.
        y_N1V, t_N = y_BLV[noised_BL][:, None], t_B[noised_BL.nonzero()[:, 0]]
        return self._logits(hidden_NW[:, None], y_N1V, t_N, simplex)[:, 0]

    @full_precision
    def _logits(self, hidden_BLW: Tensor, y_BLV: Tensor, t_B: Tensor, simplex: SimplexDiffusion) -> Tensor:
        logits_BLV = self.output(as_float(hidden_BLW))
        if self.prior_weight is None:
            return logits_BLV
        return logits_BLV + self.prior_weight * simplex.evidence(y_BLV, t_B).to(logits_BLV.dtype)

    def posterior(
        self,
        simplex: SimplexDiffusion,
        *,
        noised_BL: Tensor,
        tokens_BL: Tensor | None = None,
        dropped: bool = False,
        self_conditioning: bool = True,
    ) -> Posterior:
        """What :func:`byol_ext.diffusion.simplex_samplers.generate` and the bound call.

        Args:
            simplex: The process.
            noised_BL: Bool, true where a token is wanted.
            tokens_BL: Tokens, read where given.
            dropped: Whether to drop the condition, for the unconditional branch of guidance.
            self_conditioning: Whether to show the network its last prediction; as it was trained.

        Returns:
            ``(y_BLV, t_B, previous_BLV) -> p_BLV``, for sequences in this order. Given tokens are certain, unless
            their condition is dropped.

        Raises:
            ValueError: If some positions are given, but no tokens are.
        """
        if tokens_BL is None and not dropped and not noised_BL.all():
            raise ValueError("some positions are given (noised_BL is False there), but tokens_BL is None")
        given_BL = None if dropped else tokens_BL
        certain_BLV = None
        if given_BL is not None:
            certain_BLV = F.one_hot(given_BL.masked_fill(noised_BL, 0), self.config.vocab_size)

        def probabilities(y_BLV: Tensor, t_B: Tensor, previous_BLV: Tensor) -> Tensor:
            shown_BLV = previous_BLV if self_conditioning else None
            logits_BLV = self(
                y_BLV, t_B, simplex=simplex, noised_BL=noised_BL, given_BL=given_BL, previous_BLV=shown_BLV
            )
            p_BLV = logits_BLV.softmax(-1).to(y_BLV.dtype)
            return p_BLV if certain_BLV is None else torch.where(noised_BL[..., None], p_BLV, certain_BLV)

        return probabilities
