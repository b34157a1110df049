"""Image sets that come inside packages: Fashion-MNIST and OpenClipart of Debian, and scikit-learn's digits.

Source: ``specs/data.md``, "Images". Nothing of them is in this repository.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Literal

import numpy as np

from byol_ext.images.decode import Decoder
from byol_ext.images.readers import ImageFiles, picture_names
from byol_ext.images.samples import ArrayImages, ImageSubset

Split = Literal["train", "test"]

FASHION_ROOT = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
OPENCLIPART_ROOT = Path("/usr/share/openclipart/png")
NEAR_DUPLICATES = ("shapes/stars/", "computer/icons/", "signs_and_symbols/flags/")
"""Folders of OpenClipart whose pictures hardly differ (spec data: leave them out of probes)."""
NO_CLASS = ("special", "unsorted")
"""Top folders of OpenClipart that say nothing about what their pictures show."""
_DIGITS_TRAIN = 1297


def digits_split(split: Split) -> np.ndarray:
    """Positions of a split of scikit-learn's 1,797 digits: 1,297 or 500 of a fixed permutation (core spec 15).

    Raises:
        ValueError: For another split.
    """
    _check(split)
    order = np.random.default_rng(0).permutation(1797)
    return order[:_DIGITS_TRAIN] if split == "train" else order[_DIGITS_TRAIN:]


def digits(split: Split) -> ImageSubset:
    """Scikit-learn's digits, 8x8 grey, 1,297 to train on and 500 to test.

    Args:
        split: Which.

    Raises:
        ValueError: For another split.

    Example:
        >>> len(digits("train")), digits("test").read(0).shape
        (1297, (8, 8, 1))
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels_NHW1 = (data.images * 255 / 16).round().astype(np.uint8)[..., None]
    whole = ArrayImages(pixels_NHW1, data.target.astype(np.int64), tuple("0123456789"), "digits")
    return ImageSubset(whole, digits_split(split))


def fashion_mnist(split: Split, *, root: str | Path = FASHION_ROOT) -> ArrayImages:
    """Fashion-MNIST, 28x28 grey, 60,000 to train on and 10,000 to test, 10 classes.

    A probe on it has no head room: a random CNN ties with a trained one (core spec 15). It serves loaders, throughput
    and few labels.

    Args:
        split: Which.
        root: Folder of the four IDX files, with or without ``.gz``.

    Raises:
        FileNotFoundError: If a file is not there; the message says how to get it.
        ValueError: For another split, or files that are no IDX files or do not fit together.
    """
    _check(split)
    part = "train" if split == "train" else "t10k"
    files = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        candidates = [Path(root) / f"{part}-{kind}{suffix}" for suffix in (".gz", "")]
        found = [path for path in candidates if path.is_file()]
        if not found:
            raise FileNotFoundError(f"{candidates[0]} is not there: apt-get install dataset-fashion-mnist, or set root")
        files.append(read_idx(found[0]))
    images_NHW, labels_N = files
    if images_NHW.ndim != 3 or labels_N.shape != images_NHW.shape[:1]:
        raise ValueError(f"{root}: images {images_NHW.shape} and labels {labels_N.shape} do not fit together")
    name = f"fashion-mnist-{split}"
    return ArrayImages(images_NHW[..., None], labels_N.astype(np.int64), FASHION_CLASSES, name)


def read_idx(path: str | Path) -> np.ndarray:
    """An IDX file of unsigned bytes, the format of MNIST.

    Args:
        path: The file; ``.gz`` is unpacked.

    Returns:
        ``uint8`` of the shape in its header.

    Raises:
        ValueError: If it is no such file, or is shorter or longer than its header says.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two-idx1-ubyte"
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
        >>> read_idx(path)
        array([7, 9], dtype=uint8)
    """
    path = Path(path)
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise ValueError(f"{path}: not a whole gzip file: {error}") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise ValueError(f"{path}: begins with {data[:4].hex(' ')}; expected an IDX file of unsigned bytes, 00 00 08 n")
    offset = 4 + 4 * data[3]
    shape = tuple(np.frombuffer(data, ">u4", data[3], 4).tolist())
    if len(data) - offset != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{path}: holds {len(data) - offset} bytes for the shape {shape} of its header")
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)


def openclipart(
    *,
    root: str | Path = OPENCLIPART_ROOT,
    least: int = 60,
    most: int | None = 220,
    decoder: Decoder | None = None,
) -> ImageFiles:
    """OpenClipart, its top folders as classes: one picture a stem (the file name without digits at its end).

    Near-duplicates, folders that are no class, and links are left out: a link is a picture of another folder, often of
    another class, so it would stand on both sides of a split. Which stems a large class keeps is decided by hash.
    Use :func:`fold` for splits.

    Args:
        root: Folder of the PNG files.
        least: A class needs so many stems (60, spec data).
        most: A class keeps so many (220, spec data); None keeps all.
        decoder: How pictures are decoded; a few have more than 50 million pixels and are bad samples.

    Raises:
        FileNotFoundError: If the package is not there; the message says how to get it.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not there: apt-get install openclipart-png, or set root")
    by_class: dict[str, dict[str, str]] = defaultdict(dict)
    for name in picture_names(root):
        top, _, rest = name.partition("/")
        if rest and top not in NO_CLASS and not name.startswith(NEAR_DUPLICATES) and not (root / name).is_symlink():
            by_class[top].setdefault(_stem(name), name)
    classes = tuple(sorted(top for top, stems in by_class.items() if len(stems) >= least))
    names: list[str] = []
    labels: list[int] = []
    for label, top in enumerate(classes):
        kept = sorted(by_class[top][stem] for stem in sorted(by_class[top], key=_hash)[:most])
        names += kept
        labels += [label] * len(kept)
    if not names:
        raise FileNotFoundError(f"{root}: no top folder holds {least} different pictures; expected OpenClipart's PNGs")
    return ImageFiles(root, names, np.array(labels, dtype=np.int64), classes, decoder or Decoder(), "openclipart")


def fold(source: ImageFiles, index: int, *, folds: int = 3) -> tuple[ImageSubset, ImageSubset]:
    """Training and test part of a cross-validation, class by class, by the hash of the stem.

    Args:
        source: The whole.
        index: Which fold is the test part.
        folds: How many there are (3, spec data).

    Raises:
        ValueError: If there is no such fold.
    """
    if not 0 <= index < folds or folds < 2:
        raise ValueError(f"fold {index} of {folds}: expected 0 to folds - 1, and at least two")
    ranks = np.empty(len(source), dtype=np.int64)
    for label in np.unique(source.labels):
        (members,) = np.nonzero(source.labels == label)
        ordered = sorted(members.tolist(), key=lambda i: _hash(_stem(source.names[i])))
        ranks[ordered] = np.arange(len(ordered))
    test = ranks % folds == index
    return ImageSubset(source, np.flatnonzero(~test)), ImageSubset(source, np.flatnonzero(test))


def _stem(name: str) -> str:
    return re.sub(r"\d+$", "", Path(name).stem)


def _hash(stem: str) -> bytes:
    return hashlib.blake2b(stem.encode(errors="surrogateescape"), digest_size=8).digest()


def _check(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}: expected 'train' or 'test'")
