"""The views of the image recipe: each preset as named augmentations, and rotations by known angles.

Legend: ``B`` images, ``V`` views, ``c, M, M`` what the encoder sees.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from byol_ext.images.augment import CentreCrop, ImageAugment
from byol_ext.images.views import byol_views, multi_crop, patches
from byol_ext.rng import keyed_uniform
from recipes.image_config import AugmentConfig, ImageConfig

_TURNS = 0x70000
_BYOL_JITTER, _SIMCLR_JITTER = (0.4, 0.4, 0.2, 0.1), (0.8, 0.8, 0.8, 0.2)
"""Brightness, contrast, saturation, hue (core spec 3; SimCLR's recalled)."""


def view_names(augment: AugmentConfig) -> tuple[str, ...]:
    """Names of the views, in order.

    Example:
        >>> view_names(AugmentConfig("multi-crop", small_views=2)), view_names(AugmentConfig("patches", views=3))
        (('a', 'b', 's0', 's1'), ('p0', 'p1', 'p2'))
    """
    if augment.preset == "multi-crop":
        return ("a", "b", *(f"s{i}" for i in range(augment.small_views)))
    if augment.preset == "patches" or (augment.preset == "clutter" and augment.views > 2):
        return tuple(f"p{i}" for i in range(augment.views))
    return ("a", "b")


def large_views(augment: AugmentConfig) -> tuple[str, ...]:
    """Views whose target latents are predicted: all but the small ones of multi-crop."""
    return ("a", "b") if augment.preset == "multi-crop" else view_names(augment)


def augments(config: ImageConfig) -> dict[str, ImageAugment]:
    """The augmentation of each view of pictures; none for ``rotate``, whose views are turned whole.

    Args:
        config: The recipe's configuration.

    Raises:
        ValueError: For a value out of its range, naming it.
    """
    augment, size = config.augment, config.data.size
    blur = float(augment.blur)
    match augment.preset:
        case "byol":
            views = byol_views(size, base=_base(config))
            return {name: replace(view, p_blur=view.p_blur * blur) for name, view in views.items()}
        case "simclr":
            return dict.fromkeys(("a", "b"), replace(_base(config), p_blur=0.5 * blur))
        case "weak-target":
            weak = replace(_base(config), p_jitter=0.0, p_grey=0.0, p_blur=0.0)
            return {"a": replace(_base(config), p_blur=blur), "b": weak}
        case "multi-crop":
            base = replace(_base(config), p_blur=0.5 * blur)
            return multi_crop(base, small_size=augment.small_size, small=augment.small_views)
        case "patches":
            return patch_views(config, augment.views)
    return {}


def patch_views(config: ImageConfig, count: int) -> dict[str, ImageAugment]:
    """So many patches of a picture.

    Args:
        config: The recipe's configuration.
        count: How many.
    """
    base = replace(_base(config), p_blur=0.5 * float(config.augment.blur))
    return patches(count, base, area=config.augment.patch_area)


def centre_crop(config: ImageConfig) -> CentreCrop:
    """The whole picture, of small sets, or BYOL's centre of it (short side 256 for 224, recalled).

    Args:
        config: The recipe's configuration.
    """
    size, augment = config.data.size, config.augment
    short_side = size if size <= 64 else round(size * 256 / 224)
    return CentreCrop(size, short_side, mean=augment.mean, std=augment.std)


def _base(config: ImageConfig) -> ImageAugment:
    augment = config.augment
    simclr = augment.preset == "simclr"
    jitter = [augment.strength * part for part in (_SIMCLR_JITTER if simclr else _BYOL_JITTER)]
    own: Literal["additive", "multiplicative"] = "multiplicative" if simclr else "additive"
    return ImageAugment(
        size=config.data.size,
        area=(augment.least_area, 1.0),
        p_flip=augment.flip,
        brightness=jitter[0],
        brightness_mode=own if augment.brightness == "own" else augment.brightness,
        contrast=jitter[1],
        saturation=jitter[2],
        hue=jitter[3],
        p_grey=augment.grey,
        mean=augment.mean,
        std=augment.std,
    )


def turns(keys_B: Tensor, *, views: int, most: float) -> Tensor:
    """Angles of the views in radians ``[B, V]``, uniform on minus to plus ``most`` degrees, by the samples' keys."""
    return math.radians(most) * (2.0 * keyed_uniform(keys_B, views, stream=_TURNS) - 1.0)


def rotated(x_BcMM: Tensor, angle_B: Tensor) -> Tensor:
    """Pictures turned counter-clockwise about their centres, bilinear, zero outside.

    Args:
        x_BcMM: Square pictures.
        angle_B: Angles in radians.

    Example:
        >>> x = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> rotated(x, torch.tensor([math.pi / 2]))[0, 0].round().tolist()
        [[1.0, 3.0], [0.0, 2.0]]
    """
    cos_B, sin_B, zero_B = angle_B.cos(), angle_B.sin(), torch.zeros_like(angle_B)
    # Rows of the map from output to input places; the vertical axis points down.
    theta_B23 = torch.stack([cos_B, -sin_B, zero_B, sin_B, cos_B, zero_B], 1).reshape(-1, 2, 3)
    grid_BMM2 = F.affine_grid(theta_B23.to(x_BcMM.dtype), list(x_BcMM.shape), align_corners=False)
    return F.grid_sample(x_BcMM, grid_BMM2, mode="bilinear", padding_mode="zeros", align_corners=False)
