"""Random numbers keyed by (seed, epoch, sample id), so results depend on neither workers nor batch split.

Device code uses a counter-based generator written in integer tensor operations: the numbers of a sample depend on
its key alone and are the same on CPU and CUDA. Worker code uses a NumPy generator seeded by the same triple.

Legend: ``B`` batch, ``N`` numbers a sample.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_STREAM = 0x9E3779B9


def _mix(x: Tensor) -> Tensor:
    """Hash 32-bit values held in int64 (the `lowbias32` finaliser: each input bit flips about half the output)."""
    x = (x ^ (x >> 16)) & _MASK32
    x = _multiply(x, 0x7FEB352D)
    x = x ^ (x >> 15)
    x = _multiply(x, 0x846CA68B)
    return x ^ (x >> 16)


def _multiply(x: Tensor, constant: int) -> Tensor:
    """``x * constant`` modulo 2**32 without overflowing int64: of constants that are equal there, the smallest."""
    return (x * (constant - (constant >> 31 << 32))) & _MASK32


def sample_keys(seed: int, epoch: Tensor | int, ids_B: Tensor) -> Tensor:
    """One 32-bit key a sample from (seed, epoch, sample id).

    Args:
        seed: Seed of the run.
        epoch: Epoch of each sample ``[B]``, or one epoch for all.
        ids_B: Sample ids ``[B]``, int64.

    Returns:
        Keys ``[B]``, int64 in ``[0, 2**32)``, on the device of ``ids_B``.

    Example:
        >>> sample_keys(0, 1, torch.tensor([5, 6])).shape
        torch.Size([2])
    """
    ids = ids_B.to(torch.int64)
    epochs = torch.as_tensor(epoch, dtype=torch.int64, device=ids.device).expand_as(ids)
    key = _mix(torch.full_like(ids, seed & _MASK32))
    key = _mix(key ^ ((seed >> 32) & _MASK32))
    for part in (epochs, ids, ids >> 32):
        key = _mix((key + _STREAM + (part & _MASK32)) & _MASK32)
    return key


def keyed_uniform(keys_B: Tensor, n: int, *, stream: int = 0) -> Tensor:
    """Uniform numbers in [0, 1) that depend on each sample's key alone.

    Args:
        keys_B: Keys ``[B]`` of :func:`sample_keys`.
        n: Numbers a sample.
        stream: Independent stream; give each use of randomness in a pipeline its own.

    Returns:
        ``[B, n]`` float32 with 24 random bits each.

    Example:
        >>> keys = sample_keys(0, 0, torch.arange(4))
        >>> torch.equal(keyed_uniform(keys, 3)[2:], keyed_uniform(keys[2:], 3))
        True
    """
    counter_N = torch.arange(n, dtype=torch.int64, device=keys_B.device)
    keys = _mix((keys_B + ((stream + 1) * _STREAM & _MASK32)) & _MASK32)
    bits_BN = _mix((keys[:, None] ^ _mix((counter_N * 2 + 1) & _MASK32)[None]) & _MASK32)
    return (bits_BN >> 8).to(torch.float32) * 2.0**-24


def sample_generator(seed: int, epoch: int, sample_id: int) -> np.random.Generator:
    """NumPy generator of one sample in one epoch, for code that runs in loader workers.

    Args:
        seed: Seed of the run.
        epoch: Epoch, from 0.
        sample_id: Position of the sample in its split.

    Returns:
        A generator; equal arguments give equal streams on every machine.

    Example:
        >>> float(sample_generator(0, 0, 3).random()) == float(sample_generator(0, 0, 3).random())
        True
    """
    return np.random.default_rng([seed & 0xFFFFFFFFFFFFFFFF, epoch, sample_id])
