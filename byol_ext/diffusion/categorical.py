"""Categorical distributions of tokens: cross-entropy, and draws in float64.

With float32 noise, draws from a large vocabulary are sharper than their distribution, and generated text scores better
than it is (spec: found in public code of discrete diffusion); here probabilities, their sums and the uniform number of
a draw are float64.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from byol_ext.losses.pair import as_float, full_precision


def nucleus(p_V: Tensor, top_p: float) -> Tensor:
    """Keep the most probable categories whose mass reaches ``top_p``, and renormalise.

    Args:
        p_V: Probabilities ``[..., V]``.
        top_p: Mass to keep, in (0, 1]; the most probable category always stays.

    Returns:
        Probabilities ``[..., V]`` of the dtype of ``p_V``.

    Raises:
        ValueError: If ``top_p`` lies outside (0, 1].

    Example:
        >>> nucleus(torch.tensor([0.25, 0.375, 0.375]), 0.7).tolist()
        [0.0, 0.5, 0.5]
    """
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p={top_p} must lie in (0, 1]; 1 keeps every category")
    if top_p == 1.0:
        return p_V
    sorted_V, order_V = p_V.sort(dim=-1, descending=True, stable=True)
    kept_V = sorted_V.cumsum(-1) - sorted_V < top_p
    kept_V[..., 0] = True
    kept = torch.zeros_like(p_V).scatter(-1, order_V, sorted_V * kept_V)
    return kept / kept.sum(-1, keepdim=True)


def probabilities(logits_V: Tensor, *, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Softmax of ``logits / temperature`` in float64, cut to its nucleus.

    Args:
        logits_V: Logits or log-probabilities ``[..., V]``; ``-inf`` forbids a category.
        temperature: Below 1 sharpens; 0 puts all mass on the first largest logit.
        top_p: See :func:`nucleus`, applied after the temperature.

    Returns:
        ``[..., V]`` float64.

    Raises:
        ValueError: If the temperature is negative or ``top_p`` lies outside (0, 1].
    """
    if temperature < 0.0:
        raise ValueError(f"temperature={temperature} must not be negative")
    if temperature == 0.0:
        best = logits_V.argmax(-1, keepdim=True)
        return torch.zeros_like(logits_V, dtype=torch.float64).scatter(-1, best, 1.0)
    return nucleus((logits_V.double() / temperature).softmax(-1), top_p)


def draw(p_V: Tensor, generator: torch.Generator) -> Tensor:
    """One category from each distribution, by inverting its distribution function at one float64 uniform.

    Args:
        p_V: Non-negative weights ``[..., V]``; their sum need not be 1 but must be positive.
        generator: Source of the uniforms, on the device of ``p_V``.

    Returns:
        Categories ``[...]``, int64; one of weight 0 is never drawn.

    Example:
        >>> draw(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.Generator().manual_seed(0)).tolist()
        [1, 0]
    """
    cumulative_V = p_V.double().cumsum(-1)
    total = cumulative_V[..., -1:]
    u = torch.rand(total.shape, dtype=torch.float64, device=p_V.device, generator=generator)
    # Rounding must not lift the point to the total, past the last category.
    point = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative_V, point, right=True).squeeze(-1)


@full_precision
def cross_entropy(logits_BLV: Tensor, tokens_BL: Tensor) -> Tensor:
    """Cross-entropy ``[B, L]`` of each token, in nats, in float32 or wider.

    Args:
        logits_BLV: Logits ``[B, L, V]``.
        tokens_BL: Token ids ``[B, L]``.
    """
    ce = F.cross_entropy(as_float(logits_BLV).flatten(0, 1), tokens_BL.flatten(), reduction="none")
    return ce.view_as(tokens_BL)
