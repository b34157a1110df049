"""What an image source is: labels without decoding, one picture at a time, and the one error that means "unusable".

Legend: ``N`` images of a source; ``H, W, C`` of a picture, ``uint8 [H, W, C]``, ``C`` 1 (grey) or 3 (RGB).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class ImageReadError(ValueError):
    """A picture that cannot be used.

    Attributes:
        reason: One word for counting: ``missing``, ``unreadable``, ``too_large``.
        detail: What happened.
        source: File or key.
    """

    def __init__(self, reason: str, detail: str, *, source: str) -> None:
        super().__init__(f"{source}: {reason}: {detail}")
        self.reason, self.detail, self.source = reason, detail, source

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_error, (self.reason, self.detail, self.source)


def _rebuild_error(reason: str, detail: str, source: str) -> ImageReadError:
    return ImageReadError(reason, detail, source=source)


class ImageSource(Protocol):
    """Map-style: ``len``, and one picture at a position that never changes."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the labels; empty without names."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """Label of each picture, ``int64 [N]``, -1 without one; known without decoding anything."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names the data: other pictures or labels have another one."""
        ...

    def __len__(self) -> int: ...

    def key(self, index: int, /) -> str:
        """Name of a picture."""
        ...

    def read(self, index: int, /) -> np.ndarray:
        """The picture, ``uint8 [H, W, C]``.

        Raises:
            ImageReadError: If it cannot be used.
        """
        ...


@dataclass(frozen=True)
class ArrayImages:
    """Pictures of one size in memory.

    Attributes:
        images_NHWC: ``uint8``, ``C`` 1 or 3.
        labels: ``int64 [N]``.
        classes: Names of the labels.
        name: Name of the data set, for keys and the fingerprint.

    Raises:
        TypeError: If the pictures are not ``uint8``.
        ValueError: If the shapes do not fit.

    Example:
        >>> source = ArrayImages(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]), name="toy")
        >>> source.read(1).shape, source.key(1)
        ((8, 8, 1), 'toy-000001')
    """

    images_NHWC: np.ndarray
    labels: np.ndarray
    classes: Sequence[str] = ()
    name: str = "images"

    def __post_init__(self) -> None:
        if self.images_NHWC.dtype != np.uint8:
            raise TypeError(f"images are {self.images_NHWC.dtype}; expected uint8")
        if self.images_NHWC.ndim != 4 or self.images_NHWC.shape[-1] not in (1, 3):
            raise ValueError(f"images have shape {self.images_NHWC.shape}; expected [N, H, W, 1 or 3]")
        if self.labels.shape != (len(self.images_NHWC),):
            raise ValueError(f"labels have shape {self.labels.shape}; expected one an image, ({len(self)},)")

    @property
    def fingerprint(self) -> str:
        """Name, shape and a digest of pixels and labels."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.images_NHWC).data, digest_size=8)
        digest.update(np.ascontiguousarray(self.labels, dtype=np.int64).data)
        return f"{self.name}-{'x'.join(map(str, self.images_NHWC.shape))}-{digest.hexdigest()}"

    def __len__(self) -> int:
        return len(self.images_NHWC)

    def key(self, index: int) -> str:
        """``name-index``."""
        return f"{self.name}-{index:06d}"

    def read(self, index: int) -> np.ndarray:
        """See :class:`ImageSource`."""
        return self.images_NHWC[index]


@dataclass(frozen=True)
class ImageSubset:
    """Some pictures of a source: a split, or those that have labels.

    Attributes:
        source: The whole.
        ids: Positions in it, ``int64 [N]``.

    Example:
        >>> whole = ArrayImages(np.zeros((3, 2, 2, 1), np.uint8), np.arange(3))
        >>> ImageSubset(whole, np.array([2, 0])).labels
        array([2, 0])
    """

    source: ImageSource
    ids: np.ndarray

    @property
    def classes(self) -> Sequence[str]:
        """Those of the whole."""
        return self.source.classes

    @property
    def labels(self) -> np.ndarray:
        """See :class:`ImageSource`."""
        return self.source.labels[self.ids]

    @property
    def fingerprint(self) -> str:
        """That of the whole and a digest of the positions."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.ids, dtype=np.int64).data, digest_size=8)
        return f"{self.source.fingerprint}-{len(self)}-{digest.hexdigest()}"

    def __len__(self) -> int:
        return len(self.ids)

    def key(self, index: int) -> str:
        """Its key in the whole."""
        return self.source.key(int(self.ids[index]))

    def read(self, index: int) -> np.ndarray:
        """See :class:`ImageSource`."""
        return self.source.read(int(self.ids[index]))


def digest_of(name: str, keys: Sequence[str], labels: np.ndarray) -> str:
    """Fingerprint of a list of pictures: its name, length, and a digest of keys and labels.

    Args:
        name: Name of the data set.
        keys: Key of each picture.
        labels: Label of each, ``int64 [N]``.
    """
    digest = hashlib.blake2b(digest_size=8)
    for key, label in zip(keys, labels.tolist(), strict=True):
        digest.update(f"{key}\t{label}\n".encode(errors="backslashreplace"))
    return f"{name}-{len(keys)}-{digest.hexdigest()}"
