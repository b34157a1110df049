"""Pictures for training and evaluation: items keyed by (id, epoch), batches, and small sets brought into memory.

Nothing here is random but the replacement of bad pictures, which is keyed by (seed, epoch, id): augmentation happens on
the device (``augment.py``).

Legend: ``B`` pictures of a batch, ``N`` of a source, ``H, W, C`` height, width, channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from byol_ext.images.samples import ArrayImages, ImageReadError, ImageSource
from byol_ext.ledger import BadSampleLedger, TooManyBadSamples, account_of, candidates

OnBad = Literal["replace", "report", "raise"]


class Images(Dataset[dict[str, Any]]):
    """Pictures of a source, indexed by ``id`` or ``(id, epoch)``.

    An item is ``{"id", "epoch", "key", "image": uint8 [H, W, C], "label" (-1 without one), "bad" {cause: count},
    "errors" [{"key", "cause", "message"}]}``; that of a bad picture has no ``image`` and ``label``
    (``on_bad="report"``). The id of a replaced item is that of its replacement.

    Args:
        source: The pictures.
        seed: Seed of the run.
        on_bad: ``replace`` a bad picture by another, drawn by (seed, epoch, id), as in training; ``report`` an item
            without a picture, which :func:`collate` leaves out, as in evaluation; or ``raise``.
        max_tries: Pictures to try in a row, all of them if there are fewer, before the run stops.

    Raises:
        ValueError: For an empty source, ``max_tries`` below 1 or an unknown ``on_bad``.

    Example:
        >>> source = ArrayImages(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4))
        >>> batch = collate([Images(source)[i, 0] for i in (2, 3)])
        >>> batch["images"].shape, batch["labels"]
        (torch.Size([2, 8, 8, 1]), tensor([2, 3]))
    """

    def __init__(self, source: ImageSource, *, seed: int = 0, on_bad: OnBad = "replace", max_tries: int = 50) -> None:
        if len(source) == 0:
            raise ValueError("the source holds no pictures; check its path and split")
        if max_tries < 1:
            raise ValueError(f"max_tries={max_tries}: expected 1 or more")
        if on_bad not in ("replace", "report", "raise"):
            raise ValueError(f"on_bad={on_bad!r}: expected 'replace', 'report' or 'raise'")
        self.source = source
        self.fingerprint = source.fingerprint
        self.on_bad = on_bad
        self._labels = source.labels
        self._seed = seed
        self._max_tries = max_tries

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an id (epoch 0) or of ``(id, epoch)``.

        Raises:
            IndexError: If there is no such id.
            TooManyBadSamples: If ``max_tries`` pictures in a row cannot be used; names the first five.
            ImageReadError: With ``on_bad="raise"``.
        """
        first, epoch = (int(index[0]), int(index[1])) if isinstance(index, tuple) else (int(index), 0)
        if not 0 <= first < len(self):
            raise IndexError(f"picture {first} of {len(self)}")
        errors: list[dict[str, str]] = []
        for candidate in self._candidates(first, epoch):
            try:
                image_HWC = self.source.read(candidate)
            except ImageReadError as error:
                if self.on_bad == "raise":
                    raise
                errors.append({"key": error.source, "cause": error.reason, "message": str(error)})
            else:
                item = {"id": candidate, "epoch": epoch, "key": self.source.key(candidate), "image": image_HWC}
                return item | {"label": int(self._labels[candidate])} | account_of(errors)
        if self.on_bad == "report":
            return {"id": first, "epoch": epoch, "key": errors[0]["key"]} | account_of(errors)
        named = "; ".join(error["message"] for error in errors[:5])
        raise TooManyBadSamples(f"{len(errors)} of {len(self)} pictures tried, none can be used. The first: {named}")

    def _candidates(self, first: int, epoch: int) -> Iterator[int]:
        tries = self._max_tries if self.on_bad == "replace" else 1
        return candidates(first, len(self), seed=self._seed, epoch=epoch, tries=tries)


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of items; bad ones (``on_bad="report"``) are left out and listed.

    Args:
        items: Items of :class:`Images`.

    Returns:
        ``images`` uint8 ``[B, H, W, C]``, smaller ones padded with zeros at the bottom and the right; ``sizes`` int64
        ``[B, 2]`` true heights and widths; ``labels`` (-1 without), ``ids``, ``epochs`` int64 ``[B]``; list ``keys``;
        ``seen``, ``bad`` and ``errors`` for :class:`~byol_ext.ledger.BadSampleLedger`. ``B`` is 0 if no item can be
        used.

    Raises:
        ValueError: If grey and colour pictures meet.
    """
    usable = [item for item in items if "image" in item]
    bad: Counter[str] = Counter()
    for item in items:
        bad.update(item["bad"])
    images, sizes = _padded([item["image"] for item in usable])
    return {
        "images": images,
        "sizes": sizes,
        "labels": torch.tensor([item["label"] for item in usable], dtype=torch.int64),
        "ids": torch.tensor([item["id"] for item in usable], dtype=torch.int64),
        "epochs": torch.tensor([item["epoch"] for item in usable], dtype=torch.int64),
        "keys": [item["key"] for item in usable],
        "seen": len(usable) + bad.total(),
        "bad": dict(bad),
        "errors": [error for item in items for error in item["errors"]],
    }


def squares(source: ImageSource, side: int, *, ground: int = 255, ledger: BadSampleLedger | None = None) -> ArrayImages:
    """All pictures as squares of one size in memory: padded to a square, then scaled (bilinear, antialiased).

    For small sets whose files are slow to decode, such as OpenClipart.

    Args:
        source: The pictures, all grey or all RGB.
        side: Pixels of a side.
        ground: Value of the padding; white.
        ledger: The account of bad pictures, which are left out; default: a new one.

    Raises:
        TooManyBadSamples: If too many pictures are bad.
        ValueError: If grey and colour pictures meet.

    Example:
        >>> source = ArrayImages(np.zeros((3, 4, 8, 1), np.uint8), np.arange(3))
        >>> squares(source, 8).images_NHWC[0, :, 0, 0]
        array([255, 255,   0,   0,   0,   0, 255, 255], dtype=uint8)
    """
    ledger = ledger if ledger is not None else BadSampleLedger()
    dataset = Images(source, on_bad="report")
    pictures, labels = [], []
    for index in range(len(dataset)):
        item = dataset[index]
        ledger.update({"seen": 1, "bad": item["bad"], "errors": item["errors"]})
        if "image" in item:
            pictures.append(_square(item["image"], side, ground))
            labels.append(item["label"])
    ledger.check()
    if len({picture.shape[-1] for picture in pictures}) > 1:
        raise ValueError("grey and colour pictures in one source; set the decoder's channels")
    name = f"{source.fingerprint}-squares-{side}-{ground}"
    return ArrayImages(np.stack(pictures), np.array(labels, dtype=np.int64), source.classes, name)


def _square(image_HWC: np.ndarray, side: int, ground: int) -> np.ndarray:
    height, width, channels = image_HWC.shape
    longer = max(height, width)
    top, left = (longer - height) // 2, (longer - width) // 2
    canvas = np.full((longer, longer, channels), ground, np.uint8)
    canvas[top : top + height, left : left + width] = image_HWC
    picture = Image.fromarray(canvas if channels == 3 else canvas[..., 0])
    return np.array(picture.resize((side, side), Image.Resampling.BILINEAR)).reshape(side, side, channels)


def _padded(pictures: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """All pictures in one tensor, and the true sizes ``[B, 2]``."""
    sizes = torch.tensor([picture.shape[:2] for picture in pictures], dtype=torch.int64).reshape(-1, 2)
    if not pictures:
        return torch.zeros(0, 1, 1, 3, dtype=torch.uint8), sizes
    channels = {picture.shape[2] for picture in pictures}
    if len(channels) > 1:
        raise ValueError(f"pictures of {sorted(channels)} channels in one batch; set the decoder's channels")
    if bool((sizes == sizes[0]).all()):
        return torch.from_numpy(np.stack(pictures)), sizes
    batch = torch.zeros(len(pictures), *sizes.amax(0).tolist(), channels.pop(), dtype=torch.uint8)
    for target, picture in zip(batch, pictures, strict=True):
        target[: picture.shape[0], : picture.shape[1]] = torch.from_numpy(picture)
    return batch, sizes
