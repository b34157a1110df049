"""The random crop of a random-resized-crop augmentation, from keyed uniform numbers.

Legend: ``N`` crops, ``k`` tries, ``n = 2 k`` numbers a crop.
"""

from __future__ import annotations

import torch
from torch import Tensor

CROP_TRIES = 10
"""Tries of a random crop before the centre is taken."""


def crop_boxes(
    u_nN: Tensor,
    u_top_N: Tensor,
    u_left_N: Tensor,
    sizes_N2: Tensor,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Tensor:
    """Boxes ``[N, 4]`` of torchvision's RandomResizedCrop: the first of ten tries that fits, else the centre."""
    height_N, width_N = sizes_N2.double().T.contiguous()
    pixels_kN = height_N * width_N * (area[0] + (area[1] - area[0]) * u_nN[:CROP_TRIES])
    low, high = torch.tensor(aspect, dtype=torch.float64).log()
    ratio_kN = (low + (high - low) * u_nN[CROP_TRIES:]).exp()
    h_kN, w_kN = (pixels_kN / ratio_kN).sqrt().round(), (pixels_kN * ratio_kN).sqrt().round()
    fits_kN = (h_kN >= 1) & (w_kN >= 1) & (h_kN <= height_N) & (w_kN <= width_N)
    first_1N = fits_kN.int().argmax(0, keepdim=True)
    whole_h_N = height_N.minimum((width_N / aspect[0]).round().clamp_min(1))
    whole_w_N = width_N.minimum((height_N * aspect[1]).round().clamp_min(1))
    any_N = fits_kN.any(0)
    h_N = torch.where(any_N, h_kN.gather(0, first_1N)[0], whole_h_N)
    w_N = torch.where(any_N, w_kN.gather(0, first_1N)[0], whole_w_N)
    centre = torch.full_like(u_top_N, 0.5)
    top_N = (torch.where(any_N, u_top_N, centre) * (height_N - h_N + 1)).floor()
    left_N = (torch.where(any_N, u_left_N, centre) * (width_N - w_N + 1)).floor()
    return torch.stack([top_N, left_N, h_N, w_N], 1).long()
