"""Image sources from files, class folders and Hugging Face data sets. Nothing is decoded before it is read."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from byol_ext._extras import require
from byol_ext.images.decode import Decoder
from byol_ext.images.samples import ImageReadError, digest_of

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES: frozenset[str] = frozenset(
    f".{name}" for name in ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"]
)
"""What names of picture files end in, whatever their case."""


@dataclass(frozen=True)
class ImageFiles:
    """Pictures below a folder.

    Attributes:
        root: The folder.
        names: Path of each picture below it, with ``/``.
        labels: ``int64 [N]``.
        classes: Names of the labels.
        decoder: How they are decoded.
        name: Name of the data set, for the fingerprint.

    Raises:
        ValueError: If there is not one label a picture.
    """

    root: Path
    names: Sequence[str]
    labels: np.ndarray
    classes: Sequence[str] = ()
    decoder: Decoder = field(default_factory=Decoder)
    name: str = "files"

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.names),):
            raise ValueError(f"labels have shape {self.labels.shape}; expected one a picture, ({len(self.names)},)")

    @property
    def fingerprint(self) -> str:
        """Name, and a digest of all paths and labels."""
        return digest_of(self.name, self.names, self.labels)

    def __len__(self) -> int:
        return len(self.names)

    def key(self, index: int) -> str:
        """Its path below the root."""
        return self.names[index]

    def read(self, index: int) -> np.ndarray:
        """See :class:`~byol_ext.images.samples.ImageSource`."""
        return self.decoder(self.root / self.names[index], name=self.names[index])


def class_folders(
    root: str | Path, *, classes: Sequence[str] | None = None, decoder: Decoder | None = None
) -> ImageFiles:
    """Pictures in one folder a class, as ImageNet, and CIFAR or STL written to files, come: ``root/class/**/x.png``.

    Args:
        root: The folder of a split.
        classes: Folders that are classes, in the order of the labels; default: all, by name. Give the training split's
            when reading another one, so that labels agree.
        decoder: How pictures are decoded.

    Raises:
        FileNotFoundError: If the folder, a class, or all pictures are missing.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (root / name).mkdir()
        ...     Image.new("RGB", (5, 4)).save(root / name / "0.png")
        >>> source = class_folders(root)
        >>> source.classes, source.labels.tolist(), source.read(1).shape
        (('cat', 'dog'), [0, 1], (4, 5, 3))
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of class folders")
    found = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    chosen = tuple(found if classes is None else classes)
    absent = [name for name in chosen if name not in found]
    if absent:
        raise FileNotFoundError(f"{root}: the classes {absent[:5]} have no folder; it holds {found[:5]}")
    names, labels = [], []
    for label, folder in enumerate(chosen):
        inside = [f"{folder}/{name}" for name in picture_names(root / folder)]
        if not inside:
            _log.warning("%s: no pictures in it; its class stays empty", root / folder)
        names += inside
        labels += [label] * len(inside)
    if not names:
        raise FileNotFoundError(f"{root}: no pictures in class folders; expected root/class/picture.png")
    return ImageFiles(root, names, np.array(labels, dtype=np.int64), chosen, decoder or Decoder(), root.name)


def picture_names(folder: Path) -> list[str]:
    """Paths below a folder, with ``/``, of files that are named like pictures, in order; hidden ones are left out.

    Args:
        folder: The folder; links to files are followed, those to folders are not.
    """
    names = []
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(path).relative_to(folder)
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                names.append((below / name).as_posix())
    return sorted(names)


class HFImages:
    """Pictures of a map-style Hugging Face ``datasets.Dataset``.

    Args:
        dataset: Such as ``load_dataset("uoft-cs/cifar10", split="train")``.
        image: Column of pictures.
        label: Column of integer labels; None without.
        decoder: How pictures are decoded; that of ``datasets`` is switched off, so that one damaged picture is one bad
            sample.

    Raises:
        ValueError: If a column is missing or is no column of pictures.
    """

    def __init__(
        self, dataset: Any, *, image: str = "image", label: str | None = "label", decoder: Decoder | None = None
    ) -> None:
        feature = require("datasets", extra="image").Image
        for column in [image] + ([] if label is None else [label]):
            if column not in dataset.features:
                raise ValueError(f"the data set has no column {column!r}; it has {sorted(dataset.features)}")
        if not isinstance(dataset.features[image], feature):
            raise ValueError(f"column {image!r} holds {dataset.features[image]}; expected pictures, datasets.Image()")
        self._pictures = dataset.select_columns([image]).cast_column(image, feature(decode=False))
        self._column, self._decoder = image, decoder or Decoder()
        self._name = f"{dataset.info.dataset_name or 'dataset'}-{dataset.split or 'all'}"
        values = [-1] * len(dataset) if label is None else list(dataset[label])
        self.labels = np.array([-1 if value is None else value for value in values], dtype=np.int64)
        names = None if label is None else getattr(dataset.features[label], "names", None)
        self.classes: Sequence[str] = tuple(names or ())

    @property
    def fingerprint(self) -> str:
        """Name, split, length and a digest of the labels."""
        return digest_of(self._name, [""] * len(self), self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        """``name-split-index``."""
        return f"{self._name}-{index:06d}"

    def read(self, index: int) -> np.ndarray:
        """See :class:`~byol_ext.images.samples.ImageSource`."""
        cell = self._pictures[index][self._column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise ImageReadError("missing", "the row has no picture", source=self.key(index))
        stored = Path(cell["path"]) if cell["bytes"] is None else cell["bytes"]
        return self._decoder(stored, name=self.key(index))
