"""Temporal derivatives of clips: plain forward differences of consecutive frames (arXiv 2409.02371; spec vididi 1).

Differences are taken on the device, after all augmentation and normalisation, in float32 and outside autocast: one grey
level is about 0.017 in normalised units, which is what bfloat16 resolves near 2. They are neither divided by the time
step nor rescaled, so their size grows with the stride of the frames.

Legend: ``B`` clips, ``C`` channels, ``T`` frames, ``H, W`` height and width, ``k`` order.
"""

from __future__ import annotations

import torch
from torch import Tensor


def finite_difference(x: Tensor, order: int, dim: int = 2) -> Tensor:
    """Forward difference of any order along time.

    ``D0 = x``, ``Dk[t] = D(k-1)[t+1] - D(k-1)[t]``; order ``k`` has ``k`` frames fewer.

    Args:
        x: Frames, ``[B, C, T, H, W]`` or any other shape.
        order: Order ``k``, from 0; the paper uses 0, 1 and 2.
        dim: The time dim.

    Returns:
        ``[B, C, T - k, H, W]`` in float32 (float64 for float64 input). Order 0 of such input is ``x`` itself.

    Raises:
        ValueError: If the order is negative, or there are not more frames than the order.

    Example:
        >>> finite_difference(torch.tensor([0, 1, 4, 9]), 2, dim=0).tolist()
        [2.0, 2.0]
    """
    if order < 0:
        raise ValueError(f"order={order} of a difference must not be negative")
    if x.shape[dim] <= order:
        raise ValueError(f"{x.shape[dim]} frames have no difference of order {order}: give at least {order + 1} frames")
    frames = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return torch.diff(frames, n=order, dim=dim) if order else frames


def align_lengths(a: Tensor, b: Tensor, dim: int = 2) -> tuple[Tensor, Tensor]:
    """Both tensors with as many frames as the shorter one: the longer loses its tail, so both start at the same time.

    Args:
        a: Frames, ``[B, C, T, H, W]`` or any other shape.
        b: Frames with the same dims, perhaps more or fewer along time.
        dim: The time dim.

    Example:
        >>> [x.tolist() for x in align_lengths(torch.tensor([0, 1, 2]), torch.tensor([5, 6]), dim=0)]
        [[0, 1], [5, 6]]
    """
    frames = min(a.shape[dim], b.shape[dim])
    return a.narrow(dim, 0, frames), b.narrow(dim, 0, frames)


def difference_pair(first_BCTHW: Tensor, second_BCTHW: Tensor, orders: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The two clips of each video as derivatives of these orders, with equally many frames.

    Args:
        first_BCTHW: Earlier clips, augmented and normalised.
        second_BCTHW: Later clips.
        orders: Order of each, as :meth:`byol_ext.video.schedule.DerivativeSchedule.orders` gives them.

    Returns:
        Two tensors ``[B, C, T - max(orders), H, W]`` if both clips have ``T`` frames.

    Raises:
        ValueError: If a clip is too short for its order.

    Example:
        >>> first, second = difference_pair(torch.zeros(2, 3, 8, 4, 4), torch.zeros(2, 3, 8, 4, 4), (0, 1))
        >>> first.shape == second.shape == (2, 3, 7, 4, 4)
        True
    """
    return align_lengths(finite_difference(first_BCTHW, orders[0]), finite_difference(second_BCTHW, orders[1]))
