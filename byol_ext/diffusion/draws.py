"""What is random in a training step, keyed by sample; each use has a stream of its own.

Legend: ``B`` sequences, ``N`` numbers a sequence.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

from byol_ext.rng import keyed_uniform


class Stream(IntEnum):
    """Independent streams of :func:`byol_ext.rng.keyed_uniform`, one for each use in this package."""

    GIVEN = 0x4344_0000
    SUBSET = 0x4344_0001
    KIND = 0x4344_0002
    SPANS = 0x4344_0003
    CUTS = 0x4344_0004
    FLIP = 0x4344_0005
    NOISE_RADIUS = 0x4344_0010
    NOISE_ANGLE = 0x4344_0011
    SELF_CONDITIONING = 0x4344_0012
    CONDITION_DROPOUT = 0x4344_0013
    RECONSTRUCTION = 0x4344_0014
    HIDING = 0x4344_0020
    CHI_SQUARE = 0x4344_0030
    CHI_SQUARE_ANGLE = 0x4344_0031


def keyed_normal(keys_B: Tensor, n: int) -> Tensor:
    """Standard normal numbers that depend on each sample's key alone (Box-Muller).

    With 24 random bits behind each radius, none is larger than 5.8 in magnitude.

    Args:
        keys_B: Keys ``[B]`` of :func:`byol_ext.rng.sample_keys`.
        n: Numbers a sample.

    Returns:
        ``[B, n]`` float32.

    Example:
        >>> from byol_ext.rng import sample_keys
        >>> keys = sample_keys(0, 0, torch.arange(3))
        >>> torch.equal(keyed_normal(keys, 5)[1:], keyed_normal(keys[1:], 5))
        True
    """
    half = (n + 1) // 2
    radius_BN = torch.sqrt(-2.0 * torch.log(1.0 - keyed_uniform(keys_B, half, stream=Stream.NOISE_RADIUS)))
    angle_BN = 2.0 * math.pi * keyed_uniform(keys_B, half, stream=Stream.NOISE_ANGLE)
    return torch.cat([radius_BN * angle_BN.cos(), radius_BN * angle_BN.sin()], dim=1)[:, :n]


def keyed_integers(keys_B: Tensor, high: int | Tensor, *, stream: int) -> Tensor:
    """One integer a sample, uniform in ``0 ... high - 1``; ``high`` far below 2**24.

    Args:
        keys_B: Keys ``[B]``.
        high: Bound, one for all or ``[B]``.
        stream: A :class:`Stream`.

    Returns:
        ``[B]`` int64.
    """
    return (keyed_uniform(keys_B, 1, stream=stream)[:, 0].double() * high).long()


def keyed_coin(keys_B: Tensor, probability: float, *, stream: int) -> Tensor:
    """One Bernoulli draw a sample, ``[B]`` bool.

    Args:
        keys_B: Keys ``[B]``.
        probability: Of true.
        stream: A :class:`Stream`.
    """
    return keyed_uniform(keys_B, 1, stream=stream)[:, 0] < probability
