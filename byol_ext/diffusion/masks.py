"""Which positions of a training sequence carry noise and which are given (CDCD 4.1; spans: SED, arXiv 2211.04236).

A mask is bool ``[B, L]``, true where noised; every sequence has at least one such position. Masks depend on each
sample's key alone (:func:`byol_ext.rng.sample_keys`).

Legend: ``B`` sequences, ``L`` positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from byol_ext.diffusion.draws import Stream, keyed_coin, keyed_integers
from byol_ext.rng import keyed_uniform

Mask = Callable[[Tensor, int], Tensor]
"""``(keys_B, length) -> noised_BL``."""


def all_noised(keys_B: Tensor, length: int) -> Tensor:
    """Nothing is given: unconditional generation.

    Args:
        keys_B: Keys of the samples.
        length: Positions ``L``.
    """
    return torch.ones(len(keys_B), length, dtype=torch.bool, device=keys_B.device)


def prefix_mask(keys_B: Tensor, length: int) -> Tensor:
    """The first ``n`` tokens are given, ``n`` uniform in ``0 ... L - 1``.

    Args:
        keys_B: Keys of the samples.
        length: Positions ``L``.

    Example:
        >>> from byol_ext.rng import sample_keys
        >>> prefix_mask(sample_keys(0, 0, torch.arange(2)), 5).int().tolist()
        [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]
    """
    positions_L = torch.arange(length, device=keys_B.device)
    return positions_L >= _given(keys_B, length)[:, None]


def random_mask(keys_B: Tensor, length: int) -> Tensor:
    """``n`` tokens at random places are given, ``n`` uniform in ``0 ... L - 1``.

    Args:
        keys_B: Keys of the samples.
        length: Positions ``L``.
    """
    return _ranks(keyed_uniform(keys_B, length, stream=Stream.SUBSET)) >= _given(keys_B, length)[:, None]


def mixed_mask(keys_B: Tensor, length: int, *, prefix_share: float = 0.5) -> Tensor:
    """A prefix for some sequences, random places for the others (the paper's default, best at 50/50).

    Args:
        keys_B: Keys of the samples.
        length: Positions ``L``.
        prefix_share: Probability of a prefix.
    """
    is_prefix_B = keyed_coin(keys_B, prefix_share, stream=Stream.KIND)
    return torch.where(is_prefix_B[:, None], prefix_mask(keys_B, length), random_mask(keys_B, length))


def span_mask(keys_B: Tensor, length: int, *, max_spans: int = 5) -> Tensor:
    """The sequence is cut into spans that are given and noised in turn (SED 3.2).

    The number of spans is uniform in ``1 ... max_spans``, cut points are drawn without replacement, and which kind
    comes first is a fair coin. A single span is all noise.

    Args:
        keys_B: Keys of the samples.
        length: Positions ``L``; more spans than positions are not made.
        max_spans: Most spans (5).

    Raises:
        ValueError: If ``max_spans`` is not positive.
    """
    if max_spans < 1:
        raise ValueError(f"max_spans={max_spans} must be at least 1")
    spans_B = 1 + keyed_integers(keys_B, min(max_spans, length), stream=Stream.SPANS)
    # Position 0 begins the first span, so cuts fall before one of the others.
    rank_BL = _ranks(keyed_uniform(keys_B, length - 1, stream=Stream.CUTS))
    cut_BL = torch.nn.functional.pad(rank_BL < spans_B[:, None] - 1, (1, 0))
    first_B = keyed_coin(keys_B, 0.5, stream=Stream.FLIP)
    noised_BL = (cut_BL.cumsum(1) + first_B[:, None]) % 2 == 1
    return noised_BL | (spans_B == 1)[:, None]


def _given(keys_B: Tensor, length: int) -> Tensor:
    """How many tokens are given, ``[B]``."""
    return keyed_integers(keys_B, length, stream=Stream.GIVEN)


def _ranks(values_BL: Tensor) -> Tensor:
    """Place of each value in its row's ascending order: a random permutation of uniform values."""
    return values_BL.argsort(dim=1, stable=True).argsort(dim=1)
