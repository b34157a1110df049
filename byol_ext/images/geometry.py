"""Crop, resize and flip of a batch of ``uint8`` images to float32.

On the CPU each crop goes through PyTorch's antialiased interpolation; elsewhere the whole batch goes through gathers
(``byol_ext/resample.py``), without a kernel launch an image. They agree to rounding.

Legend: ``B`` images, ``V`` views of each, ``N = B * V``; ``H, W, C`` source, ``C, M, M`` result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from byol_ext.resample import Axis, bilinear_taps, resample_taps

Method = Literal["auto", "interpolate", "taps"]
"""One interpolation an image, gathers over the batch, or the first on the CPU and the second elsewhere."""
METHODS = ("auto", "interpolate", "taps")


@dataclass(frozen=True)
class Geometry:
    """What is cut out of the images; tensors on the host.

    Attributes:
        box_N4: Top, left, height, width in source pixels, int64.
        resized_N2: Height and width that the box is scaled to, int64.
        offset_N2: Pixels of the scaled box that are skipped at the top and the left, int64.
        flip_N: Flipped horizontally, bool.
        size: Height and width ``M`` of the result.
    """

    box_N4: Tensor
    resized_N2: Tensor
    offset_N2: Tensor
    flip_N: Tensor
    size: int


def cut_out(images_BHWC: Tensor, geometry: Geometry, *, views: int = 1, method: Method = "auto") -> Tensor:
    """Crop, resize (bilinear, antialiased) and flip.

    Args:
        images_BHWC: ``uint8``, padded as they may be.
        geometry: For each image its ``views`` in a row.
        views: ``V``.
        method: How.

    Returns:
        ``[N, C, M, M]`` float32 in [0, 1].
    """
    size = geometry.size
    if method == "auto":
        method = "interpolate" if images_BHWC.device.type == "cpu" else "taps"
    if len(images_BHWC) == 0:
        return torch.empty(0, images_BHWC.shape[-1], size, size, device=images_BHWC.device)
    x_NCMM = (_interpolate if method == "interpolate" else _gather)(images_BHWC, geometry, views)
    return x_NCMM.div_(255.0)


def _interpolate(images_BHWC: Tensor, geometry: Geometry, views: int) -> Tensor:
    size = geometry.size
    out_NCMM = torch.empty(len(geometry.box_N4), images_BHWC.shape[-1], size, size, device=images_BHWC.device)
    rows = zip(geometry.box_N4.tolist(), geometry.resized_N2.tolist(), geometry.offset_N2.tolist(), strict=True)
    for n, ((top, left, height, width), resized, (down, right)) in enumerate(rows):
        crop_HWC = images_BHWC[n // views, top : top + height, left : left + width]
        x_1CHW = crop_HWC.permute(2, 0, 1)[None].float()
        if resized != [height, width]:
            x_1CHW = F.interpolate(x_1CHW, size=resized, mode="bilinear", antialias=True)
        out_NCMM[n] = x_1CHW[0, :, down : down + size, right : right + size]
    flip_N = geometry.flip_N.to(images_BHWC.device)
    out_NCMM[flip_N] = out_NCMM[flip_N].flip(-1)
    return out_NCMM


def _gather(images_BHWC: Tensor, geometry: Geometry, views: int) -> Tensor:
    images_N1HWC = images_BHWC.repeat_interleave(views, 0)[:, None]
    axes = []
    for axis, flip_N in enumerate((torch.zeros_like(geometry.flip_N), geometry.flip_N)):
        length_N, resized_N = geometry.box_N4[:, 2 + axis], geometry.resized_N2[:, axis]
        axes.append(
            Axis(
                geometry.box_N4[:, axis],
                length_N,
                length_N.double() / resized_N.double(),
                geometry.offset_N2[:, axis].double(),
                flip_N,
            )
        )
    rows, columns = (bilinear_taps(axis, size=geometry.size) for axis in axes)
    return resample_taps(images_N1HWC, rows, columns)[:, :, 0].contiguous()
