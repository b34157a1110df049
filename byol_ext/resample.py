"""Crop, flip and resize of clips and images as weights over source pixels, one set an axis.

Bilinear resizing is separable and linear, so a clip is two weighted sums: over columns, then over rows. On the CPU they
are matrix products of one clip's crop; elsewhere, gathers over the whole batch in elementwise arithmetic, which neither
TF32 nor the choice of a matrix kernel can change. Both use the same weights.

Legend: ``N`` clips, ``T`` frames (1 of an image), ``H, W`` source height and width, ``C`` channels, ``M`` output pixels
of an axis, ``K`` taps: source pixels that an output pixel reads, ``L`` pixels of the crop along an axis.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """Where the output pixels of one axis lie on the source, for each clip; tensors on the host.

    Attributes:
        begin_N: First source pixel that may be read, int64.
        length_N: Number of source pixels that may be read, int64: nothing outside, such as padding, is.
        scale_N: Source pixels an output pixel, float64.
        offset_N: Output pixels skipped at the start, float64 (a centre crop after a resize).
        mirror_N: Whether the axis is flipped.
    """

    begin_N: Tensor
    length_N: Tensor
    scale_N: Tensor
    offset_N: Tensor
    mirror_N: Tensor


@dataclass(frozen=True)
class Taps:
    """Source pixels and weights of each output pixel of one axis.

    Attributes:
        index_NMK: Source pixel, int64; taps outside the crop repeat a pixel of it at weight 0.
        weight_NMK: Weights, float32; they sum to one.
        axis: What they were made from.
    """

    index_NMK: Tensor
    weight_NMK: Tensor
    axis: Axis


def bilinear_taps(axis: Axis, *, size: int, resized: int | None = None, antialias: bool = True) -> Taps:
    """Taps of a bilinear resize, half-pixel centres.

    Args:
        axis: Geometry.
        size: Output pixels.
        resized: Pixels of the bilinear resize when a nearest-neighbour one to ``size`` follows it.
        antialias: Widen the triangle when shrinking, as PIL does: what moves does not flicker.

    Example:
        >>> one, zero = torch.ones(1), torch.zeros(1)
        >>> axis = Axis(zero.long(), 4 * one.long(), 2.0 * one.double(), zero.double(), zero.bool())
        >>> bilinear_taps(axis, size=2, antialias=False).weight_NMK[0]
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    step_M = torch.arange(size)
    if resized is not None:
        step_M = step_M * resized // size
    centre_NM = (step_M + axis.offset_N[:, None] + 0.5) * axis.scale_N[:, None]
    centre_NM = torch.where(axis.mirror_N[:, None], centre_NM.flip(1), centre_NM)
    support_N11 = axis.scale_N.clamp_min(1.0)[:, None, None] if antialias else torch.ones(1, 1, 1, dtype=torch.float64)
    taps = math.ceil(2.0 * max(support_N11.flatten().tolist(), default=1.0))
    first_NM = (centre_NM - support_N11[..., 0] - 0.5).ceil()
    place_NMK = first_NM[..., None] + torch.arange(taps)
    last_N11 = (axis.length_N - 1)[:, None, None]
    inside = (place_NMK >= 0) & (place_NMK <= last_N11)
    weight_NMK = (1.0 - (place_NMK + 0.5 - centre_NM[..., None]).abs() / support_N11).clamp_min(0.0) * inside
    # Summed in a fixed order: a clip's weights do not depend on how many taps the others need.
    weight_NMK = weight_NMK / functools.reduce(torch.add, weight_NMK.unbind(-1))[..., None]
    index_NMK = place_NMK.long().clamp_min(0).minimum(last_N11) + axis.begin_N[:, None, None]
    return Taps(index_NMK, weight_NMK.float(), axis)


def dense_weights(taps: Taps) -> Tensor:
    """The weights as matrices over each crop, ``[N, M, L]`` with zeros beyond a clip's own ``L``."""
    index_NMK = taps.index_NMK - taps.axis.begin_N[:, None, None]
    n, size, _ = index_NMK.shape
    matrix_NML = torch.zeros(n, size, int(taps.axis.length_N.max()))
    return matrix_NML.scatter_add_(2, index_NMK, taps.weight_NMK)


def blur_rows(x: Tensor, centre: Tensor, side: Tensor, *, dim: int) -> Tensor:
    """Three-tap filter ``side, centre, side`` along an axis with reflected borders.

    Args:
        x: Any shape with at least two entries along ``dim``.
        centre: Weight of a pixel itself; broadcasts against ``x``.
        side: Weight of each neighbour.
        dim: Axis.
    """
    n = x.shape[dim]
    before = torch.cat([x.narrow(dim, 1, 1), x.narrow(dim, 0, n - 1)], dim)
    after = torch.cat([x.narrow(dim, 1, n - 1), x.narrow(dim, n - 2, 1)], dim)
    return x * centre + (before + after) * side


def resample_taps(clips_NTHWC: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Resample a batch by gathers.

    Args:
        clips_NTHWC: ``uint8``, padded as it may be.
        rows: Taps over rows.
        columns: Taps over columns.

    Returns:
        ``[N, C, T, M, M]`` float32, a view in another memory order.
    """
    x_NTHWC = clips_NTHWC.permute(0, 2, 1, 3, 4)
    x_NMTWC = _gather_first(x_NTHWC, rows)
    x_NMMTC = _gather_first(x_NMTWC.permute(0, 3, 1, 2, 4), columns)
    return x_NMMTC.permute(0, 4, 3, 2, 1)


def _gather_first(x: Tensor, taps: Taps) -> Tensor:
    """Weighted sums over axis 1 of ``[N, L, ...]``: ``[N, M, ...]`` float32."""
    index_NMK, weight_NMK = (part.to(x.device) for part in (taps.index_NMK, taps.weight_NMK))
    clip_N1 = torch.arange(len(x), device=x.device)[:, None]
    total: Tensor | None = None
    for k in range(index_NMK.shape[2]):
        part = x[clip_N1, index_NMK[..., k]].float()
        weight = weight_NMK[..., k].reshape(*part.shape[:2], *[1] * (part.dim() - 2))
        total = part * weight if total is None else total.addcmul_(part, weight)
    assert total is not None
    return total
