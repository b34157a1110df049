r"""Score interpolation: a classifier of tokens is a score function (CDCD 3.1).

Forward process: ``x_t = e_w + t eps`` with ``eps ~ N(0, I)``; ``t`` is the standard deviation of the noise. Given
probabilities ``p`` of the tokens at a noisy position,

    x0_hat = sum_i p_i e_i,    score = sum_i p_i (e_i - x) / t^2 = (x0_hat - x) / t^2,    dx/dt = -t score

(eq. 5 to 8). Where ``p`` is the posterior this is exact. Embeddings of one norm cancel from the posterior of a lone
token, ``p_i ~ pi_i exp(x . e_i / t^2)``: a softmax of cosines (spec 1, derived).

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``d`` embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from byol_ext.losses.pair import as_float, full_precision

TokenPosterior = Callable[[Tensor, Tensor], Tensor]
"""``(x_BLd, t_B) -> p_BLV``: probabilities of the tokens, float32 or wider."""
SelfConditionedPosterior = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(x_BLd, t_B, previous_BLd) -> p_BLV``, likewise; ``previous`` is the last ``x0_hat``, zero at first."""
PostProcessing = Literal["none", "renorm", "clamp"]


@full_precision
def add_noise(*, clean_BLd: Tensor, noise_BLd: Tensor, t_B: Tensor) -> Tensor:
    """``x_t = e_w + t eps``, ``[B, L, d]`` in float32 or wider.

    Args:
        clean_BLd: Token embeddings ``e_w``.
        noise_BLd: Standard normal ``eps``.
        t_B: Noise standard deviation of each sequence.
    """
    return as_float(clean_BLd) + per_sequence(as_float(t_B)) * as_float(noise_BLd)


@full_precision
def interpolate(p_BLV: Tensor, table_Vd: Tensor, *, post: PostProcessing = "none") -> Tensor:
    """``x0_hat = sum_i p_i e_i``, ``[B, L, d]`` in float32 or wider.

    Args:
        p_BLV: Probabilities of the tokens.
        table_Vd: Embeddings ``e_i``, all of one norm.
        post: ``renorm`` brings the result to the norm of the embeddings; ``clamp`` to the nearest of them. Both lower
            the likelihood that a language model gives to samples and their entropy too, and with self-conditioning
            they are settings of the training (CDCD 6.3); off by default.

    Raises:
        ValueError: If ``post`` is unknown.

    Example:
        >>> table = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> interpolate(torch.tensor([[[0.75, 0.25]]]), table)
        tensor([[[1.0000, 0.5000]]])
    """
    table_Vd = as_float(table_Vd)
    mean_BLd = as_float(p_BLV) @ table_Vd
    if post == "none":
        return mean_BLd
    if post == "renorm":
        norm = table_Vd.norm(dim=-1).mean()
        return torch.nn.functional.normalize(mean_BLd, dim=-1) * norm
    if post == "clamp":
        # Of points with one norm, the nearest is the one with the largest product.
        return table_Vd[(mean_BLd @ table_Vd.T).argmax(-1)]
    raise ValueError(f"post={post!r} is not one of 'none', 'renorm', 'clamp'")


@full_precision
def score(*, x_BLd: Tensor, clean_BLd: Tensor, t_B: Tensor) -> Tensor:
    """``(x0_hat - x) / t^2``, ``[B, L, d]`` in float32 or wider.

    Args:
        x_BLd: Noisy embeddings.
        clean_BLd: ``x0_hat`` of :func:`interpolate`.
        t_B: Noise standard deviation of each sequence.
    """
    return (as_float(clean_BLd) - as_float(x_BLd)) / per_sequence(as_float(t_B)).square()


@full_precision
def lone_token_logits(x_BLd: Tensor, t_B: Tensor, table_Vd: Tensor, *, log_prior_V: Tensor | None = None) -> Tensor:
    """Logits ``log pi_i + x . e_i / t^2`` of a token that knows only its own position, ``[B, L, V]``.

    Args:
        x_BLd: Noisy embeddings.
        t_B: Noise standard deviation of each sequence.
        table_Vd: Embeddings of one norm, as :meth:`byol_ext.diffusion.embeddings.TokenEmbedding.table` gives.
        log_prior_V: Logarithm of the tokens' frequencies; uniform by default.

    Example:
        >>> table = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> lone_token_logits(torch.tensor([[[0.5, 3.0]]]), torch.tensor([0.5]), table)
        tensor([[[ 2., -2.]]])
    """
    logits_BLV = (as_float(x_BLd) / per_sequence(as_float(t_B)).square()) @ as_float(table_Vd).T
    return logits_BLV if log_prior_V is None else logits_BLV + as_float(log_prior_V)


@dataclass(frozen=True)
class ScoreInterpolator:
    """Scores from token probabilities over one table.

    Attributes:
        table_Vd: Embeddings ``e_i``, all of one norm.
        post: Post-processing of ``x0_hat``, see :func:`interpolate`.

    Example:
        >>> interpolator = ScoreInterpolator(torch.tensor([[2.0], [-2.0]]))
        >>> first = torch.tensor([[[1.0, 0.0]]])
        >>> interpolator.score(x_BLd=torch.tensor([[[1.0]]]), t_B=torch.tensor([2.0]), p_BLV=first)
        tensor([[[0.2500]]])
    """

    table_Vd: Tensor
    post: PostProcessing = "none"

    def clean(self, p_BLV: Tensor) -> Tensor:
        """``x0_hat`` of token probabilities."""
        return interpolate(p_BLV, self.table_Vd, post=self.post)

    def score(self, *, x_BLd: Tensor, t_B: Tensor, p_BLV: Tensor) -> Tensor:
        """Score at ``x_t`` under token probabilities ``p``."""
        return score(x_BLd=x_BLd, clean_BLd=self.clean(p_BLV), t_B=t_B)


def per_sequence(t_B: Tensor) -> Tensor:
    """``[B]`` as ``[B, 1, 1]``, to multiply ``[B, L, d]``."""
    return t_B[:, None, None]
