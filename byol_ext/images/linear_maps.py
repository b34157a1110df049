"""Augmentations of images that are linear in the image, as random maps with exact moments.

Translation, flip, brightness, contrast and blur, for :mod:`byol_ext.metrics.augmentation_moments` (arXiv 2202.08325).
Unlike ``augment.py``'s they do not clip: clipping is not linear. Crops with a resize can be sampled
(:func:`~byol_ext.metrics.augmentation_moments.sampled_moments`).

A parameter that is uniform on an interval is replaced by the nodes of a Gauss-Legendre rule. Brightness and contrast
are of first degree in it, so that two nodes give mean and covariance exactly.

Legend: ``B`` images, ``C, H, W`` their dims, ``K`` forms of a map.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from byol_ext.images import photometric
from byol_ext.metrics.augmentation_moments import RandomMap


def translation(density_YX: Tensor, *, wrap: bool = False) -> RandomMap:
    """Shift by whole pixels; the mean is the image convolved with the density of the shift.

    Args:
        density_YX: Probability of each shift, both sides odd: the middle is no shift, the entry below it one pixel
            down.
        wrap: Whether what leaves at one side enters at the other, or zeros do.

    Raises:
        ValueError: If a side is even.

    Example:
        >>> from byol_ext.metrics.augmentation_moments import moments
        >>> moments(translation(torch.full((1, 3), 1 / 3)), torch.tensor([[[[0.0, 3.0, 0.0]]]])).mean.flatten().tolist()
        [1.0, 1.0, 1.0]
    """
    if density_YX.ndim != 2 or density_YX.shape[0] % 2 == 0 or density_YX.shape[1] % 2 == 0:
        raise ValueError(
            f"density of shape {tuple(density_YX.shape)}: expected [odd, odd], with no shift in the middle"
        )
    reach = [side // 2 for side in density_YX.shape]
    places = torch.nonzero(density_YX).tolist()
    shifts = [(y - reach[0], x - reach[1]) for y, x in places]

    def forms(x_BCHW: Tensor) -> Tensor:
        if wrap:
            return torch.stack([x_BCHW.roll(shift, (-2, -1)) for shift in shifts])
        height, width = x_BCHW.shape[-2:]
        padded = F.pad(x_BCHW, (reach[1], reach[1], reach[0], reach[0]))
        corners = [(reach[0] - down, reach[1] - right) for down, right in shifts]
        return torch.stack([padded[..., top : top + height, left : left + width] for top, left in corners])

    return RandomMap(torch.stack([density_YX[y, x] for y, x in places]), forms)


def uniform_translation(reach: int, *, wrap: bool = False) -> RandomMap:
    """Each shift of up to ``reach`` pixels in both directions alike.

    Args:
        reach: Pixels.
        wrap: See :func:`translation`.
    """
    side = 2 * reach + 1
    return translation(torch.full((side, side), 1.0 / side**2), wrap=wrap)


def horizontal_flip(p: float = 0.5) -> RandomMap:
    """Mirrored with probability ``p``.

    Args:
        p: Probability, in [0, 1].
    """
    return RandomMap(torch.tensor([1.0 - p, p]), lambda x_BCHW: torch.stack([x_BCHW, x_BCHW.flip(-1)]))


def brightness_shift(low: float, high: float) -> RandomMap:
    """``x + delta``, ``delta`` uniform on an interval (BYOL's reference).

    Args:
        low: Least ``delta``.
        high: Most.
    """
    nodes_K, weight_K = _uniform_nodes(low, high, 2)
    return RandomMap(weight_K, lambda x: x + _each(nodes_K, x))


def brightness_scale(low: float, high: float) -> RandomMap:
    """``f x``, ``f`` uniform on an interval (torchvision).

    Args:
        low: Least factor.
        high: Most.
    """
    nodes_K, weight_K = _uniform_nodes(low, high, 2)
    return RandomMap(weight_K, lambda x: _each(nodes_K, x) * x)


def contrast(low: float, high: float) -> RandomMap:
    """``m + f (x - m)`` with ``m`` the image's mean luma, ``f`` uniform on an interval.

    Args:
        low: Least factor.
        high: Most.
    """
    nodes_K, weight_K = _uniform_nodes(low, high, 2)

    def forms(x_BCHW: Tensor) -> Tensor:
        middle_B111 = photometric.luma(x_BCHW).mean((2, 3), keepdim=True)
        return middle_B111 + _each(nodes_K, x_BCHW) * (x_BCHW - middle_B111)

    return RandomMap(weight_K, forms)


def blur(low: float, high: float, *, kernel: int, nodes: int = 16) -> RandomMap:
    """Gaussian blur of square images, its standard deviation uniform on an interval, borders reflected.

    Args:
        low: Least standard deviation in pixels, positive.
        high: Most.
        kernel: Taps, odd.
        nodes: Nodes of the quadrature. The blur is no polynomial in its width: on .1 to 2, 16 leave a relative error of
            3e-6 in the mean and 1e-4 in the variance, 8 of 3e-3 and 4e-3.
    """
    nodes_K, weight_K = _uniform_nodes(low, high, nodes)

    def forms(x_BCMM: Tensor) -> Tensor:
        return torch.stack(
            [photometric.blur(x_BCMM, x_BCMM.new_full((len(x_BCMM),), sigma), kernel) for sigma in nodes_K.tolist()]
        )

    return RandomMap(weight_K, forms)


def _uniform_nodes(low: float, high: float, count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights of the uniform distribution on an interval.

    Raises:
        ValueError: If the interval is empty.
    """
    if not low <= high:
        raise ValueError(f"({low}, {high}): expected least <= most")
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((low + high) / 2 + (high - low) / 2 * nodes), torch.from_numpy(weights / 2)


def _each(values_K: Tensor, x: Tensor) -> Tensor:
    return values_K.to(x).reshape(-1, *[1] * x.ndim)
