"""Colour changes of clips as one affine map a clip (or a frame): ``x -> A x + gain * pivot``.

Brightness, contrast, saturation, hue and grey are linear in the pixel, given the mean luma that contrast turns about.
Luma survives saturation and hue, so the order of the changes does not matter. Hue is a rotation of the chroma plane in
YIQ; unlike a shift of HSV's hue it is smooth at grey, where HSV's hue is noise, and differences of frames commute with
it.

Legend: ``N`` clips, ``P`` sets of parameters a clip: 1, or one a frame; colours are RGB in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
"""Rec. 601 weights of red, green and blue."""


def _yiq() -> Tensor:
    """RGB to YIQ, ``[3, 3]``: ``I = .74 (R - Y) - .27 (B - Y)``, ``Q = .48 (R - Y) + .41 (B - Y)``."""
    red, blue = torch.eye(3, dtype=torch.float64)[0] - LUMA, torch.eye(3, dtype=torch.float64)[2] - LUMA
    return torch.stack([LUMA, 0.74 * red - 0.27 * blue, 0.48 * red + 0.41 * blue])


def colour_matrix(*, brightness_NP: Tensor, contrast_NP: Tensor, saturation_NP: Tensor, hue_NP: Tensor) -> Tensor:
    """Linear part of a colour jitter.

    Args:
        brightness_NP: Factor of the pixel; 1 changes nothing.
        contrast_NP: Factor of its distance from the pivot; 1 changes nothing.
        saturation_NP: Factor of its distance from its luma; 1 changes nothing, 0 is grey.
        hue_NP: Rotation of the chroma plane in turns, from red towards yellow as in HSV; 0 changes nothing.

    Returns:
        ``[N, P, 3, 3]`` float64. The constant part is ``(1 - contrast) * brightness`` times the pivot.

    Example:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> same = colour_matrix(brightness_NP=one, contrast_NP=one, saturation_NP=one, hue_NP=0 * one)
        >>> torch.allclose(same[0, 0], torch.eye(3, dtype=torch.float64))
        True
    """
    angle_NP = 2.0 * math.pi * hue_NP
    cos_NP, sin_NP = saturation_NP * angle_NP.cos(), saturation_NP * angle_NP.sin()
    turn = torch.zeros(*hue_NP.shape, 3, 3, dtype=torch.float64)
    turn[..., 0, 0] = 1.0
    turn[..., 1, 1], turn[..., 1, 2] = cos_NP, sin_NP
    turn[..., 2, 1], turn[..., 2, 2] = -sin_NP, cos_NP
    to_yiq = _yiq()
    return (brightness_NP * contrast_NP)[..., None, None] * (torch.linalg.inv(to_yiq) @ turn @ to_yiq)


def grey_matrix(grey_NP: Tensor, channel_NP: Tensor | None = None) -> Tensor:
    """Identity, or where ``grey_NP`` the map to grey.

    Args:
        grey_NP: Which become grey, bool.
        channel_NP: Channel that is copied to all three, int64; None for luma.

    Returns:
        ``[N, P, 3, 3]`` float64.
    """
    if channel_NP is None:
        row = LUMA.expand(*grey_NP.shape, 3)
    else:
        row = F.one_hot(channel_NP, 3).double()
    flat = row[..., None, :].expand(*grey_NP.shape, 3, 3)
    return torch.where(grey_NP[..., None, None], flat, torch.eye(3, dtype=torch.float64))


@dataclass(frozen=True)
class ColourMap:
    """Affine map of colours, from 0-255 to normalised values, and the values of black and white.

    Attributes:
        matrix: ``[N, P, c, C]`` float32.
        shift_c: Constant part, float32.
        gain_NPc: What each channel gets of the pivot (mean luma of the crop, 0-255), float32; None without contrast.
        bounds: Black and white of each channel of the result.
    """

    matrix: Tensor
    shift_c: Tensor
    gain_NPc: Tensor | None
    bounds: Sequence[tuple[float, float]]

    def constant(self, pivot: Tensor | None, gain: Tensor | None) -> Tensor:
        """Constant part ``[..., c]`` for pivots ``[...]`` and their share of ``gain_NPc``."""
        shift = self.shift_c if pivot is None else self.shift_c.to(pivot.device)
        return shift if pivot is None or gain is None else shift + gain.to(pivot.device) * pivot[..., None]


def colour_map(
    rgb: Tensor,
    gain_NP: Tensor | None,
    *,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> ColourMap:
    """A colour map of RGB values in [0, 1] for pictures of 0-255 and a normalised result.

    Args:
        rgb: ``[N, P, 3, 3]`` float64.
        gain_NP: Factor of the pivot in the constant part, float64.
        channels: Channels of the source, 1 or 3.
        mean: Of each channel of the result in [0, 1]; one number gives luma alone.
        std: Likewise.
    """
    mean_c, std_c = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    if channels == 1:
        rgb = rgb.sum(-1, keepdim=True)
    if len(mean) == 1:
        rgb = torch.einsum("c,...cd->...d", LUMA, rgb)[..., None, :]
    return ColourMap(
        matrix=(rgb / (255.0 * std_c[:, None])).float(),
        shift_c=(-mean_c / std_c).float(),
        gain_NPc=None if gain_NP is None else (gain_NP[..., None] / (255.0 * std_c)).float(),
        bounds=[(-m / s, (1.0 - m) / s) for m, s in zip(mean, std, strict=True)],
    )


def mean_luma(sums: Tensor, pixels: Tensor | int) -> Tensor:
    """Mean luma from exact sums of the channels ``[..., C]``; float32, the same on each device."""
    parts = sums.float().unbind(-1)
    if len(parts) == 1:
        return parts[0] / pixels
    red, green, blue = (weight * part for weight, part in zip(LUMA.tolist(), parts, strict=True))
    return (red + green + blue) / pixels
