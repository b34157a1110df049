"""Random parameters of an augmentation of clips.

Legend: ``N`` clips; ``P`` parameter sets a clip: 1, or one a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Parameters drawn for a batch of clips; tensors on the host, float64 unless said.

    Attributes:
        box_N4: Crop: top, left, height, width in source pixels, int64.
        flip_N: Flipped horizontally, bool.
        reverse_N: Played backwards, bool.
        brightness_NP: Factors; 1 where colours are left alone, likewise the next two.
        contrast_NP: Factors.
        saturation_NP: Factors.
        hue_NP: Turns of the chroma plane; 0 where colours are left alone.
        grey_NP: Turned grey, bool.
        channel_NP: Channel that grey copies with ``grey="channel"``, int64.
        sigma_NP: Blur in output pixels; 0 where there is none.
    """

    box_N4: Tensor
    flip_N: Tensor
    reverse_N: Tensor
    brightness_NP: Tensor
    contrast_NP: Tensor
    saturation_NP: Tensor
    hue_NP: Tensor
    grey_NP: Tensor
    channel_NP: Tensor
    sigma_NP: Tensor
