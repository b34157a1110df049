"""Data of the SLAP recipe: names of sets to sources, rows without a partner, batches.

Legend: ``B`` batch, ``S`` samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import Dataset

from byol_ext.audio.data import AudioTextDataset, AudioTextSample, SampleSource, collate
from byol_ext.audio.tonecaps import WORDS, class_prompts
from byol_ext.text import FrozenTextFeatures, normalize_caption, usable_captions
from byol_ext.training import rank_and_world
from recipes.slap_config import SlapConfig
from recipes.slap_sources import open_named, open_source, own_split, tag_prompts, tags_of


@dataclass(frozen=True)
class Splits:
    """Sources by split, and how their tags are asked for in words.

    Attributes:
        train: Training pairs; ``None`` in an evaluation without probes.
        val: Validation pairs, if any.
        test: Test pairs, if any.
        domains: Further test pairs by name.
        prompts: For each tag, each class' descriptions.
    """

    train: SampleSource | None
    val: SampleSource | None
    test: SampleSource | None
    domains: Mapping[str, SampleSource] = field(default_factory=dict)
    prompts: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)


def open_splits(config: SlapConfig, *, training: bool = True) -> Splits:
    """The sets that a configuration names.

    Args:
        config: The recipe's configuration.
        training: Whether the training pairs are needed.

    Raises:
        ValueError: If a name is empty or not understood, or two of the sets are the same pairs.
        FileNotFoundError: If a file is missing.
    """
    data = config.data

    def opened(name: str, split: str) -> tuple[SampleSource, str] | None:
        if name:
            return open_named(name, split=split, audio_root=data.audio_root)
        return own_split(data.train, split=split, audio_root=data.audio_root) if data.train else None

    train = open_named(data.train, split="train", audio_root=data.audio_root) if training else None
    # An evaluation on named test pairs reads nothing else.
    val = opened(data.val, "val") if training or not data.test else None
    test = opened(data.test, "test") or val
    for name, other in (("val", val), ("test", test)):
        if train is not None and other is not None and train[1] == other[1]:
            raise ValueError(
                f"data.train and data.{name} are the same pairs ({train[1].rstrip('#')}); name another set, or a "
                "split of it with #SPLIT"
            )
    source = train[0] if train is not None else None
    if source is not None and data.shuffle_captions:
        source = ShuffledCaptions(source, seed=config.seed)
    domains = {
        name: open_source(spec, split="test", audio_root=data.audio_root)
        for name, spec in map(split_domain, config.eval.domains)
    }
    tested = test[0] if test is not None else None
    return Splits(source, val[0] if val else None, tested, domains, _prompts(tested, test[1] if test else "", config))


def _prompts(test: SampleSource | None, identity: str, config: SlapConfig) -> Mapping[str, Mapping[str, Sequence[str]]]:
    if test is None:
        return {}
    if identity.startswith("tonecaps:"):
        return {tag: class_prompts(tag) for tag in config.eval.tags or WORDS}
    return tag_prompts(tags_of(test), names=config.eval.tags)


def split_domain(text: str) -> tuple[str, str]:
    """``NAME=SOURCE`` of ``--eval.domains``.

    Raises:
        ValueError: If there is no name or no source.
    """
    name, separator, spec = text.partition("=")
    if not separator or not name or not spec:
        raise ValueError(f"eval.domains {text!r}: expected NAME=SOURCE, such as soundfont=wds:music/test_fluidr3-*.tar")
    return name, spec


def warm_captions(features: FrozenTextFeatures, splits: Splits, *, cache: str) -> None:
    """Run a frozen text encoder over all captions of a data set, once.

    Args:
        features: The encoder and its cache in memory.
        splits: The sets.
        cache: File to write to if anything was new, or empty.
    """
    sources = [source for source in (splits.train, splits.val, splits.test) if source is not None]
    captions = [
        caption
        for source in sources
        for index in range(len(source))
        for caption in usable_captions(source.captions(index))
    ]
    with Progress(*Progress.get_default_columns(), transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("encoding captions", total=None)
        added = features.add(captions, progress=lambda done, total: bar.update(task, completed=done, total=total))
    if cache and added and rank_and_world()[0] == 0:
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
        features.save(cache)


class ShuffledCaptions:
    """The control whose captions belong to other recordings: position ``i`` gets those of a fixed random other one.

    Args:
        source: The pairs.
        seed: Seed of the permutation.
    """

    def __init__(self, source: SampleSource, *, seed: int) -> None:
        self.source = source
        order = np.random.default_rng(seed).permutation(len(source))
        # Along one cycle through all positions no caption stays where it was.
        self.other = np.empty(len(order), dtype=np.int64)
        self.other[order] = np.roll(order, 1)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> AudioTextSample:
        return replace(self.source[index], captions=tuple(self.source.captions(int(self.other[index]))))

    def captions(self, index: int) -> Sequence[str]:
        """Captions of the other recording."""
        return self.source.captions(int(self.other[index]))


class _Uncaptioned:
    """Recordings with a stand-in caption that no loss sees."""

    def __init__(self, source: SampleSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> AudioTextSample:
        return replace(self.source[index], captions=("audio",))

    def captions(self, index: int) -> Sequence[str]:
        return ("audio",)


class TrainingRows(Dataset[dict[str, Any]]):
    """Pairs, then recordings without captions, then captions without recordings.

    Args:
        pairs: The pairs.
        audio: Recordings whose caption is a stand-in.
        texts: Captions alone.
        two_views: Whether the items hold a second crop and caption.
    """

    def __init__(
        self, pairs: AudioTextDataset, audio: AudioTextDataset | None, texts: Sequence[str], *, two_views: bool = False
    ) -> None:
        self.pairs, self.audio, self.texts, self.two_views = pairs, audio, tuple(texts), two_views

    def __len__(self) -> int:
        return len(self.pairs) + (len(self.audio) if self.audio is not None else 0) + len(self.texts)

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        """The item, with ``has_audio`` and ``has_text``."""
        row, epoch = index
        recordings = len(self.pairs) + (len(self.audio) if self.audio is not None else 0)
        if row < len(self.pairs):
            item = self.pairs[row, epoch]
            return item | {"has_audio": True, "has_text": True}
        if self.audio is not None and row < recordings:
            item = self.audio[row - len(self.pairs), epoch]
            return item | {"id": len(self.pairs) + item["id"], "has_audio": True, "has_text": False}
        caption = self.texts[row - recordings]
        assert self.pairs.clip_samples is not None
        silence = np.zeros(self.pairs.clip_samples, dtype=np.float32)
        alone = {"captions": [caption], "caption": caption, "tags": {}, "duration": 0.0, "silent": False}
        alone |= {"audio_2": silence, "caption_2": caption} if self.two_views else {}
        account = {"bad": {}, "errors": [], "has_audio": False, "has_text": True}
        return {"id": row, "epoch": epoch, "key": f"text-{row}", "audio": silence} | alone | account


def training_rows(train: SampleSource, config: SlapConfig, *, sample_rate: int) -> TrainingRows:
    """The training set of a configuration.

    Args:
        train: Training pairs.
        config: Clip length, fill policy, rows without a partner, seed of crops and captions.
        sample_rate: Rate of the front-end in Hz.
    """
    data = config.data

    def dataset(source: SampleSource) -> AudioTextDataset:
        return AudioTextDataset(
            source,
            sr=sample_rate,
            clip_seconds=data.clip_seconds,
            train=True,
            seed=config.seed,
            fill=data.fill,
            normalize=normalize_caption,
            drop_silent_dbfs=data.drop_silent,
            two_views=config.loss.views == "two",
        )

    audio = None
    if data.audio_only:
        audio = dataset(_Uncaptioned(open_source(data.audio_only, split="train", audio_root=data.audio_root)))
    texts: list[str] = []
    if data.text_only:
        lines = Path(data.text_only).read_text(encoding="utf-8").splitlines()
        texts = [normalize_caption(line, row=row) for row, line in enumerate(lines) if line.strip()]
    return TrainingRows(dataset(train), audio, texts, two_views=config.loss.views == "two")


def collate_rows(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch with masks; missing sides are filled from other rows, so that no norm sees stand-ins.

    Args:
        items: Items of :class:`TrainingRows`.

    Returns:
        The batch of :func:`byol_ext.audio.data.collate` with ``has_audio`` and ``has_text`` ``[B]`` float32.
    """
    batch = collate(items)
    has_audio = np.array([item["has_audio"] for item in items])
    has_text = np.array([item["has_text"] for item in items])
    if not has_audio.all() and has_audio.any():
        rows = torch.from_numpy(_borrow(has_audio))
        batch |= {name: batch[name][rows] for name in ("audio", "audio_2") if name in batch}
    if not has_text.all() and has_text.any():
        borrowed = _borrow(has_text)
        batch |= {name: [batch[name][i] for i in borrowed] for name in ("caption", "caption_2") if name in batch}
    batch["has_audio"] = torch.from_numpy(has_audio.astype(np.float32))
    batch["has_text"] = torch.from_numpy(has_text.astype(np.float32))
    return batch


def _borrow(has: np.ndarray) -> np.ndarray:
    """Row to read for each row: itself where it has one, else the rows that do, in turn."""
    rows = np.arange(len(has))
    rows[~has] = np.resize(np.flatnonzero(has), int((~has).sum()))
    return rows
