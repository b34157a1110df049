"""Named views of a batch, each with its own augmentation, and the settings of the papers.

A set of views is a mapping from a view's name to its :class:`~byol_ext.images.augment.ImageAugment`; its result is what
:class:`byol_ext.bootstrap.Bootstrap` takes.

Legend: ``B`` images; ``H, W, C`` source, ``c, M, M`` result.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from byol_ext.images.augment import ImageAugment


def make_views(
    augments: Mapping[str, ImageAugment], images_BHWC: Tensor, sizes_B2: Tensor, keys_B: Tensor
) -> dict[str, Tensor]:
    """All views of a batch; neighbours with equal settings are made in one go.

    Args:
        augments: Augmentation of each view, in order; the n-th view draws its own parameters whatever its settings.
        images_BHWC: See :meth:`ImageAugment.__call__ <byol_ext.images.augment.ImageAugment.__call__>`.
        sizes_B2: See there.
        keys_B: See there.

    Returns:
        By view, ``[B, c, M, M]``; views may differ in size.

    Example:
        >>> import torch
        >>> from byol_ext.rng import sample_keys
        >>> images = torch.zeros(2, 40, 40, 3, dtype=torch.uint8)
        >>> keys = sample_keys(0, 0, torch.arange(2))
        >>> views = make_views(byol_views(32), images, torch.tensor([[40, 40]] * 2), keys)
        >>> {name: tuple(x.shape) for name, x in views.items()}
        {'a': (2, 3, 32, 32), 'b': (2, 3, 32, 32)}
    """
    result: dict[str, Tensor] = {}
    for augment, group in itertools.groupby(augments, key=lambda name: augments[name]):
        names = list(group)
        x_BVCMM = augment(images_BHWC, sizes_B2, keys_B, views=len(names), first_view=len(result))
        result.update(zip(names, x_BVCMM.unbind(1), strict=True))
    return result


def byol_views(size: int = 224, *, base: ImageAugment | None = None) -> dict[str, ImageAugment]:
    """BYOL's two views ``a`` and ``b`` (core spec 3): blur 1 and .1, solarisation 0 and .2.

    Args:
        size: Pixels of a side.
        base: All other settings; default: BYOL's.
    """
    first = replace(base or ImageAugment(), size=size, p_blur=1.0, p_solarise=0.0)
    return {"a": first, "b": replace(first, p_blur=0.1, p_solarise=0.2)}


def simclr_views(size: int = 224, *, strength: float = 1.0) -> dict[str, ImageAugment]:
    """SimCLR's two equal views (arXiv 2002.05709, appendix A, recalled): jitter .8, .8, .8, .2 times the strength.

    Args:
        size: Pixels of a side.
        strength: Of the colour jitter: 1 for ImageNet, .5 for CIFAR, where the paper has no blur either.
    """
    augment = ImageAugment(
        size=size,
        brightness=0.8 * strength,
        brightness_mode="multiplicative",
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
        p_blur=0.5,
    )
    return {"a": augment, "b": augment}


def multi_crop(
    base: ImageAugment,
    *,
    small_size: int,
    small: int = 6,
    area: tuple[float, float] = (0.14, 1.0),
    small_area: tuple[float, float] = (0.05, 0.14),
) -> dict[str, ImageAugment]:
    """Two large views ``a`` and ``b`` and small ones ``s0``, ``s1``, … (SwAV, arXiv 2006.09882; areas recalled).

    Args:
        base: All other settings; its size is that of the large views.
        small_size: Pixels of a small view's side (96 beside 224).
        small: How many.
        area: Share of the image of the large crops.
        small_area: Share of the small ones.
    """
    large = replace(base, area=area)
    little = replace(base, size=small_size, area=small_area)
    return {"a": large, "b": large} | {f"s{i}": little for i in range(small)}


def patches(n: int, base: ImageAugment, *, area: float = 0.25) -> dict[str, ImageAugment]:
    """EMP-SSL's views ``p0``, ``p1``, …: crops of a fixed share of the image (core spec 8.7).

    Args:
        n: How many (20 to 200).
        base: All other settings.
        area: Share of the image.
    """
    patch = replace(base, area=(area, area))
    return {f"p{i}": patch for i in range(n)}
