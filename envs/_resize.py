"""Shrinking pictures by area averaging, bit-equal to OpenCV's ``INTER_AREA`` on uint8, without OpenCV.

Legend: ``H, W`` pixels, ``C`` channels, ``K`` source pixels under one result pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class AreaResize:
    """Shrinks pictures of one size to another: a result pixel is the mean of the area that it covers.

    Args:
        size: ``(H, W)`` of the pictures that will be given.
        to: ``(H, W)`` of the results.

    Raises:
        ValueError: A result that is larger than the picture, or empty.

    >>> half = AreaResize((2, 4), (1, 2))
    >>> half(np.array([[0, 4, 1, 1], [4, 8, 1, 1]], np.uint8)).tolist()
    [[4, 1]]
    """

    def __init__(self, size: tuple[int, int], to: tuple[int, int]) -> None:
        if not (0 < to[0] <= size[0] and 0 < to[1] <= size[1]):
            raise ValueError(f"can only shrink pictures: asked for {to[0]}x{to[1]} of {size[0]}x{size[1]} pixels")
        self.size, self.to = size, to
        self._rows, self._columns = _taps(size[0], to[0]), _taps(size[1], to[1])

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The shrunk picture.

        Args:
            picture: ``[H, W]`` or ``[H, W, C]``.

        Returns:
            ``[h, w]`` or ``[h, w, C]``.
        """
        flat = picture.reshape(*self.size, -1)
        across = _weighted(flat, *self._columns, axis=1)
        down = _weighted(across, *self._rows, axis=0)
        return np.rint(down).astype(np.uint8).reshape(*self.to, *picture.shape[2:])


def _taps(size: int, to: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Source pixels and weights ``[K, to]`` of each result pixel along one axis."""
    low = np.arange(to) * size / to
    high = low + size / to
    first, end = np.floor(low + 1e-9).astype(np.int64), np.ceil(high - 1e-9).astype(np.int64)
    source = first + np.arange((end - first).max())[:, None]
    covered = np.minimum(high, source + 1) - np.maximum(low, source)
    weight = np.clip(covered, 0, None) * to / size
    return np.minimum(source, size - 1), weight.astype(np.float32)


def _weighted(
    values: NDArray, source: NDArray[np.int64], weight: NDArray[np.float32], *, axis: int
) -> NDArray[np.float32]:
    """Weighted sum of the taps in float32, in order: a dot product would round ties otherwise than OpenCV."""
    weight = np.expand_dims(weight, (2, 3) if axis == 0 else (1, 3))
    total = values.take(source[0], axis=axis) * weight[0]
    for tap in range(1, len(source)):
        total = total + values.take(source[tap], axis=axis) * weight[tap]
    return total
