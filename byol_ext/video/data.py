"""Clips of videos for training and evaluation: items keyed by (id, epoch), and batches.

An item depends on (seed, epoch, id) alone, so results depend neither on the number of workers nor on the batch. Sources
are made in ``readers.py``, ``kinetics.py``, ``webdataset.py``, and ``sources.py`` for whatever a path holds.

Legend: ``B`` videos, ``V`` clips of each, ``T`` frames of a clip, ``H, W`` height and width.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from byol_ext.ledger import BadSampleLedger, TooManyBadSamples, account_of, candidates
from byol_ext.rng import sample_generator
from byol_ext.video.samples import Reader, VideoReadError, VideoSource
from byol_ext.video.sampling import ClipPlan, ClipSampler

OnBad = Literal["replace", "report", "raise"]

NOTE_HINTS: dict[str, str] = {
    "truncated": "its file holds less than it promises or is damaged in places; clips avoid the gaps",
    "variable_rate": "it is sampled by time; set target_fps to do so everywhere",
    "short": "its clips do not fit at the wanted stride; see the option `short`",
    "reflected": "it is played to and fro, which turns its motion round",
    "padded": "its last frame is repeated, so derivatives are zero there",
    "repeated_frames": "target_fps is above its frame rate, so frames occur twice and derivatives are zero there",
    "static": "nothing moves in one of its clips, so derivatives are zero; min_motion draws another",
    "redrawn": "a clip was damaged or too still, and another was drawn",
}
"""What to say of each note; for :class:`~byol_ext.ledger.BadSampleLedger`."""


class VideoClips(Dataset[dict[str, Any]]):
    """Clips of videos, indexed by ``id`` or ``(id, epoch)``.

    An item is ``{"id", "epoch", "key", "clips": V arrays uint8 [T, H, W, 3], "label" (-1 without one), "group",
    "facts", "read_seconds", "notes" {name: count}, "bad" {cause: count}, "errors" [{"key", "cause", "message"}]}``. The
    item of a bad video has ``id``, ``epoch``, ``key``, ``bad`` and ``errors`` only (``on_bad="report"``). Notes are
    explained in :data:`NOTE_HINTS`.

    Args:
        source: The videos.
        sampler: How clips lie in them; an even layout gives the same clips in each epoch.
        seed: Seed of the run.
        short_side: Scale frames so that the short side has so many pixels; None keeps them.
        min_motion: Draw another clip where consecutive frames differ by less than this on average, in grey levels of
            255 (0: never). A video without a better clip is bad (``static``).
        on_bad: ``replace`` a bad video by another, drawn by (seed, epoch, id) (default in training); ``report`` an item
            without clips, which :func:`collate` leaves out; or ``raise`` (default with an even layout).
        max_tries: Videos to try in a row, all of them if there are fewer, before the run stops.
        max_draws: Clips to try in a damaged or still video.

    Raises:
        ValueError: For an empty source, or ``max_tries`` or ``max_draws`` below 1.

    Example:
        >>> from byol_ext.video.samples import ArrayReader, VideoList, VideoSample
        >>> frames = np.random.default_rng(0).integers(256, size=(60, 6, 8, 3), dtype=np.uint8)
        >>> source = VideoList([VideoSample("a", open=lambda: ArrayReader(frames), label=3)])
        >>> item = VideoClips(source, ClipSampler(clips=2, frames=8, stride=3))[0, 1]
        >>> [clip.shape for clip in item["clips"]], item["label"]
        ([(8, 6, 8, 3), (8, 6, 8, 3)], 3)
    """

    def __init__(
        self,
        source: VideoSource,
        sampler: ClipSampler,
        *,
        seed: int = 0,
        short_side: int | None = None,
        min_motion: float = 0.0,
        on_bad: OnBad | None = None,
        max_tries: int = 50,
        max_draws: int = 10,
    ) -> None:
        if len(source) == 0:
            raise ValueError("the source holds no videos; check its path and split")
        if max_tries < 1 or max_draws < 1:
            raise ValueError(f"max_tries={max_tries}, max_draws={max_draws}: expected 1 or more")
        self.source = source
        self.sampler = sampler
        self.fingerprint = source.fingerprint
        self.on_bad: OnBad = on_bad or ("replace" if sampler.random else "raise")
        self._seed = seed
        self._short_side = short_side
        self._min_motion = min_motion
        self._max_tries = max_tries
        self._max_draws = max_draws

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an id (epoch 0) or of ``(id, epoch)``.

        Raises:
            IndexError: If there is no such id.
            TooManyBadSamples: If ``max_tries`` videos in a row cannot be used; names the first five.
            VideoReadError: With ``on_bad="raise"``.
        """
        first, epoch = (int(index[0]), int(index[1])) if isinstance(index, tuple) else (int(index), 0)
        if not 0 <= first < len(self):
            raise IndexError(f"video {first} of {len(self)}")
        errors: list[dict[str, str]] = []
        for candidate in self._candidates(first, epoch):
            try:
                item = self._load(candidate, epoch)
            except VideoReadError as error:
                if self.on_bad == "raise":
                    raise
                errors.append({"key": error.source, "cause": error.reason, "message": str(error)})
            else:
                return item | account_of(errors)
        if self.on_bad == "report":
            return {"id": first, "epoch": epoch, "key": errors[0]["key"]} | account_of(errors)
        named = "; ".join(error["message"] for error in errors[:5])
        raise TooManyBadSamples(f"{len(errors)} of {len(self)} videos tried, none can be used. The first: {named}")

    def _candidates(self, first: int, epoch: int) -> Iterator[int]:
        tries = self._max_tries if self.on_bad == "replace" else 1
        return candidates(first, len(self), seed=self._seed, epoch=epoch, tries=tries)

    def _load(self, index: int, epoch: int) -> dict[str, Any]:
        began = time.perf_counter()
        sample = self.source[index]
        rng = sample_generator(self._seed, epoch if self.sampler.random else 0, index)
        with sample.open() as reader:
            plan = self.sampler.plan(reader.info, start=sample.start, end=sample.end, source=sample.key)
            clips, redrawn = self._read(reader, plan, rng)
        notes = Counter(plan.notes)
        notes["static"] = sum(is_static(clip) for clip in clips)
        notes["redrawn"] = redrawn
        return {
            "id": index,
            "epoch": epoch,
            "key": sample.key,
            "clips": clips,
            "label": -1 if sample.label is None else sample.label,
            "group": sample.group,
            "facts": dict(sample.facts),
            "read_seconds": time.perf_counter() - began,
            "notes": {name: count for name, count in notes.items() if count},
        }

    def _read(self, reader: Reader, plan: ClipPlan, rng: np.random.Generator) -> tuple[list[np.ndarray], int]:
        """The clips, and how many blocks had to be drawn again because they were damaged or too still."""
        blocks_GK = plan.draw(rng).reshape(plan.blocks, -1)
        redrawn = 0
        clips: list[np.ndarray] = []
        for first_try in self._decode(reader, blocks_GK):
            frames, draws = self._settle(reader, plan, rng, first_try)
            redrawn += draws
            clips.extend(np.split(frames, len(frames) // self.sampler.frames))
        return clips, redrawn

    def _settle(
        self, reader: Reader, plan: ClipPlan, rng: np.random.Generator, frames: np.ndarray | VideoReadError
    ) -> tuple[np.ndarray, int]:
        """A block that is neither damaged nor too still, and how often it was drawn anew."""
        for draws in range(self._max_draws):
            if draws:
                (frames,) = self._decode(reader, plan.redraw(rng)[None])
            if isinstance(frames, VideoReadError):
                problem = frames
                continue
            still = self._too_still(frames, plan.source)
            if still is None:
                return frames, draws
            problem = still
        raise problem

    def _decode(self, reader: Reader, blocks_GK: np.ndarray) -> list[np.ndarray | VideoReadError]:
        """Frames of each block, or why they cannot be had; in one sweep unless something is damaged."""
        try:
            frames = reader.frames(blocks_GK.ravel().tolist(), short_side=self._short_side)
        except VideoReadError as error:
            if error.reason != "damaged":
                raise
            if len(blocks_GK) == 1:
                return [error]
        else:
            return list(np.split(frames, len(blocks_GK)))
        return [self._decode(reader, block_K[None])[0] for block_K in blocks_GK]

    def _too_still(self, frames: np.ndarray, source: str) -> VideoReadError | None:
        if self._min_motion <= 0.0:
            return None
        least = min(motion(clip) for clip in np.split(frames, len(frames) // self.sampler.frames))
        if least >= self._min_motion:
            return None
        return VideoReadError("static", f"motion {least:.2f} is below min_motion={self._min_motion:g}", source=source)


def motion(clip_THWC: np.ndarray) -> float:
    """Mean absolute difference of consecutive frames in grey levels; 0 for a single frame.

    Example:
        >>> motion(np.array([[[[0]]], [[[3]]], [[[2]]]], np.uint8))
        2.0
    """
    if len(clip_THWC) < 2:
        return 0.0
    return float(np.abs(np.diff(clip_THWC.astype(np.int16), axis=0)).mean())


def is_static(clip_THWC: np.ndarray) -> bool:
    """Whether all frames of a clip are equal, so that its differences are exactly zero."""
    return bool((clip_THWC[1:] == clip_THWC[:1]).all())


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of items; bad ones (``on_bad="report"``) are left out and listed.

    Args:
        items: Items of :class:`VideoClips`.

    Returns:
        ``clips`` uint8 ``[B, V, T, H, W, 3]``, smaller frames padded with zeros at the bottom and the right; ``sizes``
        int64 ``[B, 2]`` true heights and widths; ``labels`` (-1 without), ``ids``, ``epochs`` int64 ``[B]``;
        ``read_seconds`` float32 ``[B]``; lists ``keys``, ``groups``, ``facts``; ``seen``, ``bad``, ``errors`` and
        ``notes`` for :class:`~byol_ext.ledger.BadSampleLedger`. ``B`` is 0 if no item can be used.
    """
    usable = [item for item in items if "clips" in item]
    bad: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for item in items:
        bad.update(item["bad"])
        notes.update(item.get("notes", {}))
    clips, sizes = _padded([item["clips"] for item in usable])
    return {
        "clips": clips,
        "sizes": sizes,
        "labels": torch.tensor([item["label"] for item in usable], dtype=torch.int64),
        "ids": torch.tensor([item["id"] for item in usable], dtype=torch.int64),
        "epochs": torch.tensor([item["epoch"] for item in usable], dtype=torch.int64),
        "read_seconds": torch.tensor([item["read_seconds"] for item in usable], dtype=torch.float32),
        "keys": [item["key"] for item in usable],
        "groups": [item["group"] for item in usable],
        "facts": [item["facts"] for item in usable],
        "seen": len(usable) + bad.total(),
        "bad": dict(bad),
        "errors": [error for item in items for error in item["errors"]],
        "notes": dict(notes),
    }


def data_report(ledger: BadSampleLedger) -> dict[str, int]:
    """Counts for the end of a run: ``seen``, ``ok`` (usable), ``bad`` (replaced or left out), and each note and cause.

    Args:
        ledger: Updated with every batch.

    Returns:
        For example ``{"seen": 10, "ok": 9, "bad": 1, "bad/short": 1, "truncated": 0, …}``.
    """
    counts = {"seen": ledger.seen, "ok": ledger.seen - ledger.bad.total(), "bad": ledger.bad.total()}
    return counts | {f"bad/{cause}": n for cause, n in ledger.bad.items()} | {k: ledger.notes[k] for k in NOTE_HINTS}


def _padded(videos: Sequence[Sequence[np.ndarray]]) -> tuple[Tensor, Tensor]:
    """All clips in one tensor, and the true sizes ``[B, 2]``."""
    sizes = torch.tensor([clips[0].shape[1:3] for clips in videos], dtype=torch.int64).reshape(-1, 2)
    if not videos:
        return torch.zeros(0, 1, 1, 1, 1, 3, dtype=torch.uint8), sizes
    frames, _, _, channels = videos[0][0].shape
    height, width = sizes.amax(0).tolist()
    make = torch.empty if bool((sizes == sizes[0]).all()) else torch.zeros
    batch = make(len(videos), len(videos[0]), frames, height, width, channels, dtype=torch.uint8)
    for b, clips in enumerate(videos):
        for v, clip_THWC in enumerate(clips):
            batch[b, v, :, : clip_THWC.shape[1], : clip_THWC.shape[2]] = torch.from_numpy(clip_THWC)
    return batch, sizes
