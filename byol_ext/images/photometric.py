"""Colour jitter, grey, blur and solarisation of a batch, each image with its own parameters, as torchvision does them.

Every function takes float32 images in [0, 1] and returns the same; each sample's result depends on that sample alone.

Legend: ``N`` images, ``C`` channels (1 or 3), ``M, M`` height and width, ``K`` taps of the blur, ``P = N * C`` planes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue (core spec 3, and torchvision)."""


def luma(x_NCMM: Tensor) -> Tensor:
    """Brightness of each pixel, ``[N, 1, M, M]``; one channel is its own."""
    if x_NCMM.shape[1] == 1:
        return x_NCMM
    red, green, blue = x_NCMM.split(1, dim=1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def scale_brightness(x_NCMM: Tensor, factor_N: Tensor) -> Tensor:
    """Multiplicative brightness (torchvision): ``factor * x``, clipped."""
    return (x_NCMM * _each(factor_N)).clamp_(0.0, 1.0)


def shift_brightness(x_NCMM: Tensor, delta_N: Tensor) -> Tensor:
    """Additive brightness (BYOL's reference): ``x + delta``, clipped."""
    return (x_NCMM + _each(delta_N)).clamp_(0.0, 1.0)


def scale_contrast(x_NCMM: Tensor, factor_N: Tensor) -> Tensor:
    """Distance from the image's mean luma, scaled and clipped."""
    mean_N111 = luma(x_NCMM).mean((2, 3), keepdim=True)
    return _blend(x_NCMM, mean_N111, factor_N)


def scale_saturation(x_NCMM: Tensor, factor_N: Tensor) -> Tensor:
    """Distance from each pixel's luma, scaled and clipped; nothing to do with one channel."""
    return x_NCMM if x_NCMM.shape[1] == 1 else _blend(x_NCMM, luma(x_NCMM), factor_N)


def shift_hue(x_NCMM: Tensor, turns_N: Tensor) -> Tensor:
    """HSV's hue turned, value and saturation kept; nothing to do with one channel.

    Args:
        x_NCMM: Images.
        turns_N: Turns of the colour circle, in [-.5, .5].

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None]
        >>> shift_hue(red, torch.tensor([1 / 3])).flatten().round(decimals=3).tolist()
        [0.0, 1.0, 0.0]
    """
    if x_NCMM.shape[1] == 1:
        return x_NCMM
    red, green, blue = x_NCMM.unbind(1)
    value, least = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = value - least
    # Position on the colour circle in sixths; a grey pixel has none, and none is used as its chroma is zero. Masks are
    # numbers, as a product is several times faster than torch.where on the CPU.
    is_red = (red == value).to(value.dtype)
    is_green = (green == value).to(value.dtype) * (1.0 - is_red)
    offset = is_red * (green - blue) + is_green * (blue - red) + (1.0 - is_red - is_green) * (red - green)
    sixths = 4.0 - 4.0 * is_red - 2.0 * is_green + offset / chroma.clamp_min(torch.finfo(chroma.dtype).tiny)
    sixths = torch.remainder(sixths.add_(6.0 * turns_N[:, None, None]), 6.0)
    shares = ((sixths - 3.0).abs_().sub_(1.0), 2.0 - (sixths - 2.0).abs_(), 2.0 - (sixths - 4.0).abs_())
    return torch.stack([torch.addcmul(least, chroma, share.clamp_(0.0, 1.0)) for share in shares], 1)


def to_grey(x_NCMM: Tensor) -> Tensor:
    """Luma in all channels."""
    return luma(x_NCMM).expand_as(x_NCMM)


def solarise(x_NCMM: Tensor, threshold: float) -> Tensor:
    """Pixels at or above the threshold inverted."""
    # |m - x| with the mask m as a number: exactly 1 - x or x, several times faster than torch.where on the CPU.
    return (x_NCMM >= threshold).to(x_NCMM.dtype).sub_(x_NCMM).abs_()


def blur(x_NCMM: Tensor, sigma_N: Tensor, kernel: int) -> Tensor:
    """Gaussian blur with reflected borders, as two convolutions in which each plane has its own kernel.

    Args:
        x_NCMM: Images, ``M > kernel // 2``.
        sigma_N: Standard deviations in pixels, positive.
        kernel: Taps, odd.
    """
    step_K = torch.arange(kernel, device=sigma_N.device) - kernel // 2
    weight_NK = torch.softmax(-0.5 * (step_K / sigma_N[:, None]).square(), dim=1)
    weight_PK = weight_NK.repeat_interleave(x_NCMM.shape[1], 0)
    planes_1PMM = F.pad(x_NCMM, [kernel // 2] * 4, mode="reflect").flatten(0, 1)[None]
    rows_1PMM = F.conv2d(planes_1PMM, weight_PK[:, None, :, None], groups=len(weight_PK))
    return F.conv2d(rows_1PMM, weight_PK[:, None, None, :], groups=len(weight_PK))[0].view_as(x_NCMM)


def _blend(x_NCMM: Tensor, other: Tensor, factor_N: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(x_NCMM), x_NCMM, _each(factor_N)).clamp_(0.0, 1.0)


def _each(values_N: Tensor) -> Tensor:
    return values_N[:, None, None, None]
