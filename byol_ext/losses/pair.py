"""Pair losses: one number for each (prediction, target) element; they never mix samples.

Legend: leading dims are free (``[B]``, ``[B, T]``, ``[B, T, K]``), ``D`` is the last. All compute in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-8
P = ParamSpec("P")
R = TypeVar("R")


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """A loss with autocast switched off inside: its matrix products stay in the precision of its inputs."""

    @functools.wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device.type, enabled=False):
            return loss(*args, **kwargs)

    return wrapped


def unit(x: Tensor, *, eps: float = EPS) -> Tensor:
    """``x`` in float32 (or wider) divided by its norm over the last dim; the norm is at least ``eps``.

    Args:
        x: ``[..., D]``.
        eps: Smallest norm to divide by.
    """
    return F.normalize(as_float(x), dim=-1, eps=eps)


def as_float(x: Tensor) -> Tensor:
    """Float32 for half precision inputs, unchanged for float32 and float64."""
    return x.float() if x.element_size() < 4 else x


def cosine_distance(*, q: Tensor, target: Tensor) -> Tensor:
    """SLAP's distance ``D(q, t) = 1 - <q, t> / (|q||t|)``, in [0, 2] (arXiv 2506.17815, 3).

    Args:
        q: Predictions ``[..., D]``.
        target: Targets ``[..., D]``.

    Returns:
        ``[...]`` float32.

    Example:
        >>> import torch
        >>> round(cosine_distance(q=torch.tensor([3.0, 4.0]), target=torch.tensor([4.0, 3.0])).item(), 4)
        0.04
    """
    return 1.0 - (unit(q) * unit(target)).sum(-1)


def normalized_mse(*, q: Tensor, target: Tensor) -> Tensor:
    """BYOL's loss ``|q/|q| - t/|t||^2 = 2 - 2 cos``, in [0, 4] (arXiv 2006.07733, eq. 2).

    Args:
        q: Predictions ``[..., D]``.
        target: Targets ``[..., D]``.

    Returns:
        ``[...]`` float32.
    """
    return (unit(q) - unit(target)).square().sum(-1)


def negative_cosine(*, q: Tensor, target: Tensor) -> Tensor:
    """SimSiam's ``-cos``, in [-1, 1] (arXiv 2011.10566, eq. 1).

    Args:
        q: Predictions ``[..., D]``.
        target: Targets ``[..., D]``.

    Returns:
        ``[...]`` float32.
    """
    return -(unit(q) * unit(target)).sum(-1)
