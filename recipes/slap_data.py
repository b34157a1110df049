"""Data of the SLAP recipe: names of sets to sources, rows without a partner, batches.

Legend: ``B`` batch, ``S`` samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import Dataset

from byol_ext.audio import importers
from byol_ext.audio.data import (
    AudioTextDataset,
    AudioTextSample,
    HFAudioText,
    ManifestDataset,
    SampleList,
    SampleSource,
    WebDatasetShards,
    collate,
)
from byol_ext.audio.tonecaps import WORDS, ToneCaps, class_prompts
from byol_ext.metrics.zero_shot import SLAP_TEMPLATES, fill_templates
from byol_ext.text import FrozenTextFeatures
from byol_ext.text.transforms import normalize_caption
from byol_ext.training import rank_and_world
from recipes.slap_config import DataConfig

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif")
IMPORTERS: dict[str, Callable[..., SampleSource]] = {
    "slap-csv": importers.slap_csv,
    "muscall": importers.muscall_json,
    "musiccaps": importers.musiccaps_csv,
    "song-describer": importers.song_describer_csv,
    "clotho": importers.clotho_csv,
}
SEVERAL_SPLITS = ("slap-csv", "musiccaps", "clotho")
MANIFESTS = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True)
class Splits:
    """Sources by split, and how their tags are asked for in words.

    Attributes:
        train: Training pairs.
        val: Validation pairs, if any.
        test: Test pairs, if any.
        prompts: For each tag, each class' descriptions.
    """

    train: SampleSource
    val: SampleSource | None
    test: SampleSource | None
    prompts: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)


def open_splits(config: DataConfig, *, tags: Sequence[str] = (), seed: int = 0) -> Splits:
    """The sets that a configuration names.

    Args:
        config: Where pairs come from.
        tags: Tags to classify; empty means every tag of the test set with 2 to 64 classes of at least 5 clips.
        seed: Seed of the control that shuffles captions.

    Raises:
        ValueError: If a name is empty or not understood.
        FileNotFoundError: If a file is missing.
    """
    train = open_source(config.train, split="train", audio_root=config.audio_root)
    if config.shuffle_captions:
        train = ShuffledCaptions(train, seed=seed)
    own = {"val": "tonecaps", "test": "tonecaps"} if config.train == "tonecaps" else {}
    val_name = config.val or own.get("val", "")
    test_name = config.test or own.get("test", "") or val_name
    val = open_source(val_name, split="val", audio_root=config.audio_root) if val_name else None
    test = val if test_name == val_name and not own else None
    if test is None and test_name:
        test = open_source(test_name, split="test", audio_root=config.audio_root)
    if test_name == "tonecaps":
        return Splits(train, val, test, {tag: class_prompts(tag) for tag in tags or WORDS})
    return Splits(train, val, test, tag_prompts(test, tags=tags) if test is not None else {})


def open_source(name: str, *, split: str, audio_root: str = "") -> SampleSource:
    """A source by name; the forms are those of :class:`recipes.slap_config.DataConfig`.

    Args:
        name: Such as ``tonecaps``, ``wds:shards/train-*.tar`` or ``manifest:pairs.csv``.
        split: Split of sets and manifests that hold several.
        audio_root: Folder that relative paths start from.

    Raises:
        ValueError: If the name is empty or its kind unknown.
    """
    if not name:
        raise ValueError(
            "no data set is named: give --data.train tonecaps, wds:PATTERN, manifest:FILE, hf:NAME "
            f"or one of {', '.join(f'{kind}:' for kind in IMPORTERS)}"
        )
    if name == "tonecaps":
        return ToneCaps(split).source  # type: ignore[arg-type]
    name, _, explicit = name.partition("#")
    kind, _, path = name.partition(":")
    if not path:
        kind, path = _kind_of(name), name
    split = explicit or split
    root = audio_root or (Path(path).parent if kind in (*IMPORTERS, "manifest") else "")
    if kind == "wds":
        return WebDatasetShards(path)
    if kind == "manifest":
        if explicit:
            return ManifestDataset(path, audio_root=Path(root), split=explicit)
        return _manifest(Path(path), split=split, root=Path(root))
    if kind == "hf":
        return HFAudioText(_load_hf(path, split), split=split)
    if kind == "folder":
        return recordings(Path(path))
    if kind in IMPORTERS:
        if kind in SEVERAL_SPLITS and explicit:
            return IMPORTERS[kind](path, audio_root=root, split=explicit)
        return IMPORTERS[kind](path, audio_root=root)
    known = ", ".join(["tonecaps", "wds:", "manifest:", "hf:", "folder:", *(f"{k}:" for k in IMPORTERS)])
    raise ValueError(f"data {name!r}: kind {kind!r} is unknown; expected one of {known}")


def _kind_of(path: str) -> str:
    if path.endswith(".tar"):
        return "wds"
    if path.endswith(MANIFESTS):
        return "manifest"
    if Path(path).is_dir():
        return "wds" if any(Path(path).glob("*.tar")) else "folder"
    return path


def _manifest(path: Path, *, split: str, root: Path) -> SampleSource:
    """A manifest's split, or all of it when it names none of the three splits."""
    whole = ManifestDataset(path, audio_root=root)
    splits = {whole[i].split for i in range(len(whole))}
    return ManifestDataset(path, audio_root=root, split=split) if splits & {"train", "val", "test"} else whole


def _load_hf(name: str, split: str) -> Any:
    from byol_ext._extras import require

    datasets = require("datasets", extra="slap")
    if Path(name).is_dir():
        loaded = datasets.load_from_disk(name)
        return loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
    return datasets.load_dataset(name, split=split)


def recordings(folder: Path) -> SampleList:
    """All recordings below a folder, without captions.

    Raises:
        FileNotFoundError: If there are none.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no recordings ({', '.join(AUDIO_SUFFIXES)})")
    return SampleList([AudioTextSample(str(p.relative_to(folder)), (), path=p) for p in paths])


def tag_prompts(source: SampleSource, *, tags: Sequence[str], least: int = 5) -> dict[str, dict[str, list[str]]]:
    """Descriptions of the classes of a source's tags, by SLAP's four templates (paper 5.3).

    Args:
        source: The test set.
        tags: Tags to use; empty means all with 2 to 64 classes of at least ``least`` clips each.
        least: Classes with fewer clips are left out.

    Raises:
        ValueError: If a named tag has fewer than two classes.
    """
    counts: dict[str, dict[str, int]] = {}
    for index in range(len(source)):
        for tag, value in source[index].tags.items():
            if isinstance(value, str) and value:
                of_tag = counts.setdefault(tag, {})
                of_tag[value] = of_tag.get(value, 0) + 1
    prompts: dict[str, dict[str, list[str]]] = {}
    for tag in tags or counts:
        classes = sorted(value for value, count in counts.get(tag, {}).items() if count >= least)
        if 2 <= len(classes) <= 64:
            filled = fill_templates(classes, SLAP_TEMPLATES)
            prompts[tag] = {name: [row[i] for row in filled] for i, name in enumerate(classes)}
        elif tags:
            raise ValueError(f"tag {tag!r} has {len(classes)} classes of at least {least} clips; a probe needs 2 to 64")
    return prompts


def warm_captions(features: FrozenTextFeatures, splits: Splits, *, cache: str) -> None:
    """Run a frozen text encoder over all captions of a data set, once.

    Args:
        features: The encoder and its cache in memory.
        splits: The sets.
        cache: File to write to if anything was new, or empty.
    """
    sources = [source for source in (splits.train, splits.val, splits.test) if source is not None]
    captions = [
        normalize_caption(caption)
        for source in sources
        for index in range(len(source))
        for caption in source.captions(index)
        if caption.strip()
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
    """

    def __init__(self, pairs: AudioTextDataset, audio: AudioTextDataset | None, texts: Sequence[str]) -> None:
        self.pairs, self.audio, self.texts = pairs, audio, tuple(texts)

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
        account = {"bad": {}, "errors": [], "has_audio": False, "has_text": True}
        return {"id": row, "epoch": epoch, "key": f"text-{row}", "audio": silence} | alone | account


def training_rows(splits: Splits, config: DataConfig, *, sample_rate: int, seed: int) -> TrainingRows:
    """The training set of a configuration.

    Args:
        splits: The sets.
        config: Clip length, fill policy, rows without a partner.
        sample_rate: Rate of the front-end in Hz.
        seed: Seed of crops and captions.
    """

    def dataset(source: SampleSource) -> AudioTextDataset:
        return AudioTextDataset(
            source,
            sr=sample_rate,
            clip_seconds=config.clip_seconds,
            train=True,
            seed=seed,
            fill=config.fill,
            normalize=normalize_caption,
            drop_silent_dbfs=config.drop_silent,
        )

    audio = None
    if config.audio_only:
        audio = dataset(_Uncaptioned(open_source(config.audio_only, split="train", audio_root=config.audio_root)))
    texts: list[str] = []
    if config.text_only:
        lines = Path(config.text_only).read_text(encoding="utf-8").splitlines()
        texts = [normalize_caption(line, row=row) for row, line in enumerate(lines) if line.strip()]
    return TrainingRows(dataset(splits.train), audio, texts)


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
        batch["audio"] = batch["audio"][torch.from_numpy(_borrow(has_audio))]
    if not has_text.all() and has_text.any():
        batch["caption"] = [batch["caption"][i] for i in _borrow(has_text)]
    batch["has_audio"] = torch.from_numpy(has_audio.astype(np.float32))
    batch["has_text"] = torch.from_numpy(has_text.astype(np.float32))
    return batch


def _borrow(has: np.ndarray) -> np.ndarray:
    """Row to read for each row: itself where it has one, else the rows that do, in turn."""
    rows = np.arange(len(has))
    rows[~has] = np.resize(np.flatnonzero(has), int((~has).sum()))
    return rows
