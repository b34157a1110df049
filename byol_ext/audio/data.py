"""Audio-text pairs for training and evaluation: items keyed by (id, epoch), and batches.

Sources are in ``readers.py``, ``importers.py``, ``shards.py`` and ``tonecaps.py``. An item depends on (seed, epoch, id)
alone, so results depend neither on the number of workers nor on the batch. Legend: ``B`` batch, ``S`` samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from byol_ext.audio.decode import BadAudio, Clip, Crop, int16_normalize, level_dbfs
from byol_ext.audio.packing import ShardReport, write_shards
from byol_ext.audio.readers import HFAudioText, ManifestDataset, hf_samples
from byol_ext.audio.samples import (
    AudioTextSample,
    BadCaption,
    SampleList,
    SampleSource,
    caption_duplicate_rate,
    caption_list,
    position_and_epoch,
    usable_texts,
)
from byol_ext.audio.shards import WebDatasetShards
from byol_ext.audio.waves import Fill, fill_clip
from byol_ext.ledger import TooManyBadSamples
from byol_ext.rng import sample_generator

__all__ = [
    "AudioTextDataset",
    "AudioTextSample",
    "BadAudio",
    "BadCaption",
    "HFAudioText",
    "ManifestDataset",
    "SampleList",
    "SampleSource",
    "ShardReport",
    "WebDatasetShards",
    "caption_duplicate_rate",
    "caption_list",
    "collate",
    "hf_samples",
    "write_shards",
]

OnBad = Literal["replace", "report", "raise"]
SILENCE_DBFS = -90.0
"""Level below which a clip is reported as silent (one step of 16-bit audio is at about -90 dBFS)."""


class AudioTextDataset(Dataset[dict[str, Any]]):
    """Items for a network: fixed-length clips with captions.

    Index it with ``id`` or with ``(id, epoch)``, as the sampler does. In training the crop and the caption are drawn
    from a generator keyed by (seed, epoch, id); in evaluation the crop is fixed and the caption is the first.

    An item is ``{"id", "epoch", "key", "audio" [S] float32, "captions", "caption", "tags", "duration" (true seconds),
    "silent", "bad" {cause: count}, "errors"}``, with ``audio_2`` and ``caption_2`` if ``two_views``.

    Args:
        source: Where samples come from.
        sr: Sample rate of the items in Hz.
        clip_seconds: Length of the items; None gives whole recordings (then collate with batch size 1).
        train: Random crop and caption, bad samples replaced; else deterministic.
        seed: Seed of the run.
        fill: What to do with recordings shorter than the clip (``repeatpad``, slap spec §10).
        crop: Crop of longer ones in evaluation.
        normalize: Applied to each caption; captions that it empties, or refuses with ValueError, are dropped. A sample
            that has none left is bad (``caption_empty``).
        drop_silent_dbfs: In training, treat clips below this level (mean removed) as bad; None keeps them.
        int16: Clip to [-1, 1] and round to 16 bits, as LAION-CLAP does.
        two_views: Draw a second crop and a second caption.
        on_bad: ``replace`` by the next usable sample (the default in training); ``report`` an item without audio
            that `collate` lists under ``errors`` (the default in evaluation); or ``raise``.
        max_tries: Samples to try in a row.
        check_extension: Reject files whose content is not what their suffix says.

    Raises:
        ValueError: For an empty source, or a clip that is not longer than 0 s.

    Example:
        >>> hum = AudioTextSample("a", ("a hum",), audio=np.ones(800, np.float32), sr=8000)
        >>> item = AudioTextDataset(SampleList([hum]), sr=8000, clip_seconds=0.2, train=True)[0, 3]
        >>> item["audio"].shape, item["caption"], item["duration"]
        ((1600,), 'a hum', 0.1)
    """

    def __init__(
        self,
        source: SampleSource,
        *,
        sr: int,
        clip_seconds: float | None,
        train: bool,
        seed: int = 0,
        fill: Fill = "repeatpad",
        crop: Crop = "center",
        normalize: Callable[[str], str] | None = None,
        drop_silent_dbfs: float | None = None,
        int16: bool = False,
        two_views: bool = False,
        on_bad: OnBad | None = None,
        max_tries: int = 50,
        check_extension: bool = True,
    ) -> None:
        if len(source) == 0:
            raise ValueError("the source holds no samples; check the split and the captions of the manifest")
        if clip_seconds is not None and round(clip_seconds * sr) < 1:
            raise ValueError(f"clip_seconds={clip_seconds} at {sr} Hz: expected at least one sample")
        self.source = source
        self.sr = sr
        self.clip_samples = round(clip_seconds * sr) if clip_seconds is not None else None
        self.train = train
        self.on_bad: OnBad = on_bad or ("replace" if train else "report")
        self._seed = seed
        self._fill: Fill = fill
        self._crop: Crop = crop
        self._normalize = normalize
        self._drop_silent = drop_silent_dbfs if train else None
        self._int16 = int16
        self._two_views = two_views
        self._max_tries = max_tries
        self._check_extension = check_extension

    def __len__(self) -> int:
        return len(self.source)

    def captions(self, index: int) -> list[str]:
        """Normalised usable captions of one sample, without touching audio; empty if there are none."""
        return usable_texts(self.source.captions(index), self._normalize)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an id (epoch 0) or of ``(id, epoch)``.

        Raises:
            IndexError: If there is no such id.
            TooManyBadSamples: If ``max_tries`` samples in a row cannot be used.
            BadAudio: With ``on_bad="raise"``; likewise `BadCaption`.
        """
        first, epoch = position_and_epoch(index, size=len(self))
        errors: list[dict[str, str]] = []
        tries = min(self._max_tries, len(self)) if self.on_bad == "replace" else 1
        for step in range(tries):
            try:
                item = self._load((first + step) % len(self), epoch)
            except (BadAudio, BadCaption) as error:
                if self.on_bad == "raise":
                    raise
                errors.append({"key": error.source, "cause": error.reason, "message": str(error)})
            else:
                return item | _account(errors)
        if self.on_bad == "replace":
            last = errors[-1]["message"] if errors else "none tried"
            raise TooManyBadSamples(f"{tries} samples in a row from id {first} cannot be used; the last: {last}")
        return {"id": first, "epoch": epoch, "key": errors[0]["key"]} | _account(errors)

    def _load(self, index: int, epoch: int) -> dict[str, Any]:
        """One usable item; the draws come in a fixed order: caption, crop, second caption, second crop."""
        sample = self.source[index]
        captions = usable_texts(sample.captions, self._normalize)
        if not captions:
            raise BadCaption("caption_empty" if sample.captions else "caption_missing", sample.key)
        rng = sample_generator(self._seed, epoch, index) if self.train else None
        caption = _choose(captions, rng)
        wave_S, duration = self._clip(sample, rng)
        item = {
            "id": index,
            "epoch": epoch,
            "key": sample.key,
            "audio": wave_S,
            "captions": captions,
            "caption": caption,
            "tags": dict(sample.tags),
            "duration": duration,
            "silent": level_dbfs(wave_S) < SILENCE_DBFS,
        }
        if self._two_views:
            item["caption_2"] = _choose(captions, rng)
            item["audio_2"] = self._clip(sample, rng)[0]
        return item

    def _clip(self, sample: AudioTextSample, rng: np.random.Generator | None) -> tuple[np.ndarray, float]:
        """A clip of the full length and the true duration of the recording."""
        clip: Clip = sample.clip(
            sr=self.sr, n=self.clip_samples, rng=rng, crop=self._crop, check_extension=self._check_extension
        )
        wave_S = clip.wave_S
        if self._drop_silent is not None and level_dbfs(wave_S) < self._drop_silent:
            detail = f"{level_dbfs(wave_S):.1f} dBFS is below drop_silent_dbfs={self._drop_silent:g}"
            raise BadAudio("silent", detail, source=sample.key)
        if self._int16:
            wave_S = int16_normalize(wave_S)
        if self.clip_samples is not None and len(wave_S) < self.clip_samples:
            wave_S = fill_clip(wave_S, length=self.clip_samples, sample_rate=self.sr, fill=self._fill)
        return wave_S, clip.duration


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of items; items without audio (reported as bad in evaluation) are left out and listed.

    Args:
        items: Items of `AudioTextDataset`, ``ToneCaps`` or ``FeatureTextDataset``.

    Returns:
        ``audio`` (or ``features``) ``[B, S]`` float32, ``ids``, ``epochs`` ``[B]`` int64, ``duration`` ``[B]``
        float32, lists ``keys``, ``captions`` (a list each), ``caption``, ``tags``; ``audio_2`` and ``caption_2`` if
        the items have them; ``bad`` {cause: count}, ``errors``, ``seen`` and ``notes`` for `BadSampleLedger`.

    Raises:
        ValueError: If no item has audio, since a network must not get an empty tensor; or if lengths differ.
    """
    errors = [error for item in items for error in item["errors"]]
    usable = [item for item in items if "caption" in item]
    if not usable:
        raise ValueError(f"none of the {len(items)} items of this batch can be used: {errors[:3]}")
    bad: Counter[str] = Counter()
    for item in items:
        bad.update(item["bad"])
    batch: dict[str, Any] = {
        "ids": torch.tensor([item["id"] for item in usable], dtype=torch.int64),
        "epochs": torch.tensor([item["epoch"] for item in usable], dtype=torch.int64),
        "duration": torch.tensor([item["duration"] for item in usable], dtype=torch.float32),
        "keys": [item["key"] for item in usable],
        "captions": [item["captions"] for item in usable],
        "caption": [item["caption"] for item in usable],
        "tags": [item["tags"] for item in usable],
        "bad": dict(bad),
        "errors": errors,
        "seen": len(usable) + bad.total(),
        "notes": {"silent": sum(bool(item["silent"]) for item in usable)},
    }
    if "caption_2" in usable[0]:
        batch["caption_2"] = [item["caption_2"] for item in usable]
    for name in ("audio", "audio_2", "features"):
        if name in usable[0]:
            batch[name] = _stack([item[name] for item in usable], name)
    return batch


def _stack(arrays: Sequence[np.ndarray], name: str) -> torch.Tensor:
    shapes = {np.shape(array) for array in arrays}
    if len(shapes) > 1:
        raise ValueError(f"{name} has shapes {sorted(shapes)}; set clip_seconds, or use batch size 1 for whole files")
    return torch.from_numpy(np.stack([np.asarray(array, dtype=np.float32) for array in arrays]))


def _account(errors: list[dict[str, str]]) -> dict[str, Any]:
    return {"bad": dict(Counter(error["cause"] for error in errors)), "errors": errors}


def _choose(captions: Sequence[str], rng: np.random.Generator | None) -> str:
    return captions[int(rng.integers(len(captions)))] if rng is not None else captions[0]
