"""Clips from ``uint8`` frames to normalised float32, given the plan of what to do with each.

On the CPU a clip is two matrix products over its crop, with the blur inside their weights. Elsewhere the batch goes
through gathers and elementwise arithmetic.

Legend: ``N`` clips, ``T`` frames, ``H, W, C`` source, ``c, M, M`` result; ``P`` parameter sets a clip: 1, or ``T``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor

from byol_ext.resample import Taps, blur_rows, dense_weights, resample_taps
from byol_ext.video.colour import ColourMap, mean_luma

Method = Literal["auto", "dense", "taps"]
"""Matrix products a clip, gathers over the batch, or the first on the CPU and the second elsewhere."""
Blur = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Plan:
    """What to do with each clip; tensors on the host.

    Attributes:
        rows: Resampling of the height.
        columns: Resampling of the width.
        colours: Colour map.
        blur: Weights of a pixel and of each neighbour, ``[N, P]`` each; None for no blur.
        reverse_N: Which are played backwards; None for none.
    """

    rows: Taps
    columns: Taps
    colours: ColourMap
    blur: Blur | None = None
    reverse_N: Tensor | None = None


def blur_weights(sigma_NP: Tensor) -> Blur:
    """Weights of a pixel and of each neighbour of the three-tap Gaussian, float32; 1 and 0 where sigma is 0."""
    side_NP = torch.where(sigma_NP > 0, (-0.5 / sigma_NP.clamp_min(1e-3).square()).exp(), 0.0)
    total_NP = 1.0 + 2.0 * side_NP
    return (1.0 / total_NP).float(), (side_NP / total_NP).float()


def render(clips_NTHWC: Tensor, plan: Plan, method: Method = "auto") -> Tensor:
    """Carry out a plan.

    Args:
        clips_NTHWC: ``uint8``, padded as it may be.
        plan: The plan.
        method: How.

    Returns:
        ``[N, c, T, M, M]`` float32.
    """
    if len(clips_NTHWC) == 0:
        size = plan.rows.index_NMK.shape[1]
        shape = (0, len(plan.colours.bounds), clips_NTHWC.shape[1], size, size)
        return torch.empty(shape, device=clips_NTHWC.device)
    if method == "auto":
        method = "dense" if clips_NTHWC.device.type == "cpu" else "taps"
    with torch.autocast(clips_NTHWC.device.type, enabled=False):
        return _render_dense(clips_NTHWC, plan) if method == "dense" else _render_taps(clips_NTHWC, plan)


def _render_dense(clips_NTHWC: Tensor, plan: Plan) -> Tensor:
    """One clip after another, through buffers that stay in cache."""
    n, frames, _, _, channels = clips_NTHWC.shape
    size, colours, device = plan.rows.index_NMK.shape[1], plan.colours, clips_NTHWC.device
    axes = plan.rows.axis, plan.columns.axis
    boxes = [ends_N.tolist() for axis in axes for ends_N in (axis.begin_N, axis.length_N)]
    largest = max(boxes[1]) * max(max(boxes[3]), size)
    source, between = (torch.empty(channels * frames * largest, device=device) for _ in range(2))
    # A last plane of ones lets one matrix product add the constant of the colour map.
    small = torch.ones(channels + 1, frames, size, size, device=device)
    out = torch.empty(n, len(colours.bounds), frames, size, size, device=device)
    rows_NML, columns_NML = (dense_weights(taps).to(device) for taps in (plan.rows, plan.columns))
    matrix_NPcC = colours.matrix.to(device)
    blurred = [False] * n if plan.blur is None else (plan.blur[1] > 0).any(1).tolist()
    reverse = [False] * n if plan.reverse_N is None else plan.reverse_N.tolist()
    for i, (top, height, left, width) in enumerate(zip(*boxes, strict=True)):
        crop_THWC = clips_NTHWC[i, :, top : top + height, left : left + width]
        crop_CTHW = rearrange(crop_THWC.flip(0) if reverse[i] else crop_THWC, "t h w c -> c t h w")
        planes_CTHW = source[: crop_CTHW.numel()].view(crop_CTHW.shape).copy_(crop_CTHW)
        weights = [rows_NML[i, :, :height], columns_NML[i, :, :width]]
        if plan.blur is not None and blurred[i]:
            weights = [_blurred(matrix_ML, plan.blur[0][i], plan.blur[1][i]) for matrix_ML in weights]
        _resample(planes_CTHW, *weights, between=between, out=small[:-1])
        _map_colours(small, _with_constant(matrix_NPcC[i], colours, planes_CTHW, i), out=out[i])
        for plane, (black, white) in zip(out[i], colours.bounds, strict=True):
            plane.clamp_(black, white)
    return out


def _blurred(matrix_ML: Tensor, centre_P: Tensor, side_P: Tensor) -> Tensor:
    """Weights with the blur of the result in them: ``[M, L]``, or one a frame ``[T, M, L]``."""
    centre, side = (part.to(matrix_ML.device)[:, None, None] for part in (centre_P, side_P))
    blurred_PML = blur_rows(matrix_ML[None], centre, side, dim=1)
    return blurred_PML[0] if len(blurred_PML) == 1 else blurred_PML


def _with_constant(matrix_PcC: Tensor, colours: ColourMap, planes_CTHW: Tensor, i: int) -> Tensor:
    """The colour matrix of clip ``i`` with the constant part as its last column, ``[P, c, C + 1]``."""
    gain_Pc, pivot_P = None, None
    if colours.gain_NPc is not None:
        gain_Pc = colours.gain_NPc[i]
        pivot_P = _pivot(planes_CTHW, len(gain_Pc))
    constant = colours.constant(pivot_P, gain_Pc).to(matrix_PcC.device)
    return torch.cat([matrix_PcC, constant.expand(matrix_PcC.shape[:2])[..., None]], -1)


def _resample(planes_CTHW: Tensor, rows: Tensor, columns: Tensor, *, between: Tensor, out: Tensor) -> None:
    """``rows @ planes @ columns.T`` into ``out [C, T, M, M]``; weights are ``[M, L]``, or one a frame ``[T, M, L]``."""
    if rows.dim() == 3:
        torch.matmul(rows, torch.matmul(planes_CTHW, columns.mT), out=out)
        return
    channels, frames, height, width = planes_CTHW.shape
    size = out.shape[-1]
    narrow = between[: channels * frames * height * size].view(-1, size)
    torch.mm(planes_CTHW.view(-1, width), columns.mT, out=narrow)
    planes = channels * frames
    torch.bmm(rows.expand(planes, -1, -1), narrow.view(planes, height, size), out=out.view(planes, size, size))


def _pivot(planes_CTHW: Tensor, sets: int) -> Tensor:
    """Mean luma of the crop or of each frame, ``[P]``; sums are exact: in float32 along a row, in float64 over rows."""
    _, frames, height, width = planes_CTHW.shape
    sums_TC = planes_CTHW.sum(-1).sum(-1, dtype=torch.float64).T
    sums_PC = sums_TC if sets > 1 else sums_TC.sum(0, keepdim=True)
    return mean_luma(sums_PC, frames // sets * height * width)


def _map_colours(planes: Tensor, matrix: Tensor, *, out: Tensor) -> None:
    """``matrix @ (colour, 1)`` of one clip: ``[C + 1, T, M, M]`` to ``out [c, T, M, M]``."""
    if len(matrix) == 1:
        torch.mm(matrix[0], planes.flatten(1), out=out.view(len(out), -1))
        return
    mapped = torch.matmul(matrix, rearrange(planes, "c t h w -> t c (h w)"))
    out.copy_(rearrange(mapped, "t c (h w) -> c t h w", h=out.shape[2]))


def _render_taps(clips_NTHWC: Tensor, plan: Plan) -> Tensor:
    """All clips at once."""
    device, frames = clips_NTHWC.device, clips_NTHWC.shape[1]
    if plan.reverse_N is not None:
        reverse_N = plan.reverse_N.to(device)
        clips_NTHWC = torch.where(reverse_N[:, None, None, None, None], clips_NTHWC.flip(1), clips_NTHWC)
    x_NCTMM = resample_taps(clips_NTHWC, plan.rows, plan.columns)
    if plan.blur is not None:
        centre, side = (rearrange(part.to(device), "n p -> n 1 p 1 1") for part in plan.blur)
        for dim in (3, 4):
            x_NCTMM = blur_rows(x_NCTMM, centre, side, dim=dim)
    colours = plan.colours
    pivot_NP = None
    if colours.gain_NPc is not None:
        pivot_NP = _batch_pivot(clips_NTHWC, plan, colours.gain_NPc.shape[1])
    constant = colours.constant(pivot_NP, colours.gain_NPc).to(device)
    matrix = colours.matrix.to(device)
    out = torch.empty(len(clips_NTHWC), matrix.shape[2], frames, *x_NCTMM.shape[3:], device=device)
    for c, (black, white) in enumerate(colours.bounds):
        total = constant[..., c] if constant.dim() == 1 else rearrange(constant[..., c], "n p -> n p 1 1")
        for channel in range(matrix.shape[3]):
            weight = rearrange(matrix[:, :, c, channel], "n p -> n p 1 1")
            total = torch.addcmul(total, x_NCTMM[:, channel], weight)
        torch.clamp(total, black, white, out=out[:, c])
    return out


def _batch_pivot(clips_NTHWC: Tensor, plan: Plan, sets: int) -> Tensor:
    """Mean luma of the crops, or of each frame of them: ``[N, P]``. Sums are exact, so no order of them shows."""
    frames, height, width = clips_NTHWC.shape[1:4]
    inside_NHW = _inside(plan.rows, height)[:, :, None] & _inside(plan.columns, width)[:, None]
    inside = rearrange(inside_NHW.to(clips_NTHWC.device), "n h w -> n 1 h w 1")
    sums_NTC = (clips_NTHWC * inside).sum((2, 3), dtype=torch.int64)
    sums_NPC = sums_NTC if sets > 1 else sums_NTC.sum(1, keepdim=True)
    pixels_N = plan.rows.axis.length_N * plan.columns.axis.length_N * (frames // sets)
    return mean_luma(sums_NPC, repeat(pixels_N, "n -> n 1").to(clips_NTHWC.device))


def _inside(taps: Taps, length: int) -> Tensor:
    place = torch.arange(length)
    begin_N1, length_N1 = taps.axis.begin_N[:, None], taps.axis.length_N[:, None]
    return (place >= begin_N1) & (place < begin_N1 + length_N1)
