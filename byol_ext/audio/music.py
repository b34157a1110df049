"""The captioned rendered-music set: folk tunes of the ``music21`` corpus played by known instruments at known tempi.

Shards are WebDataset tars in the LAION layout: ``key.flac`` and ``key.json`` with ``text`` (captions), ``tag`` and
``original_data`` (``key``, ``split``, ``tags``: the facts). A clip depends on (seed, tune, variant) alone. Splits
share neither a normalised title nor the opening of a melody.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from byol_ext.audio.abc_tunes import Tune, notes_of, read_tunes, split_of, stable_hash
from byol_ext.audio.decode import BadAudio
from byol_ext.audio.music_render import FLUIDR3, MIN_RMS, TIMGM6MB, Renderer, describe_clip, render_clip
from byol_ext.audio.packing import write_shards
from byol_ext.audio.samples import AudioTextSample, SampleSource
from byol_ext.audio.wesnoth import WESNOTH, wesnoth_tracks, wesnoth_windows

_log = logging.getLogger(__name__)

OPENING = 12
"""Intervals that make two melodies the same tune for the split."""

_SHOWN = ("instrument", "tempo", "meter", "kind", "origin", "genre")


class Item(NamedTuple):
    """One clip to render: a tune and which rendering of it."""

    tune: Tune
    variant: int


@dataclass(frozen=True)
class MusicSource:
    r"""Tunes rendered when they are asked for: a source for `AudioTextDataset`, no shards needed, or `write_shards`.

    A sample depends on (seed, tune, variant) alone, and so neither on the others nor on the process. The source can
    be pickled; each process that renders makes its own `Renderer` on first use.

    Attributes:
        items: What to render, from :func:`plan_music_set`.
        split: Name of the split, and the start of the samples' keys.
        seed: Seed of the choice of instruments, tempi and captions.
        seconds: Length of a clip.
        sample_rate: Samples a second, mono.
        n_captions: Captions a clip, the first with most facts.
        soundfont: An ``.sf2`` file. It changes the sound and its own tag only.

    Example:
        >>> tune = Tune("folk/scale", "folk", {"T": "Scale"}, "X:1\nT:Scale\nL:1/4\nK:C\nCDEF|")
        >>> source = MusicSource((Item(tune, variant=0), Item(tune, variant=1)), split="train")
        >>> len(source)
        2
        >>> source[1].audio.shape  # doctest: +SKIP
        (80000,)
    """

    items: tuple[Item, ...]
    split: str = "train"
    seed: int = 0
    seconds: float = 5.0
    sample_rate: int = 16_000
    n_captions: int = 5
    soundfont: Path = TIMGM6MB

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> AudioTextSample:
        """Render the clip at a position.

        Raises:
            BadAudio: If its tune cannot be parsed or the clip is silent.
        """
        position = range(len(self))[index]
        tune, variant = self.items[position]
        renderer = _renderer(self.soundfont, self.sample_rate, os.getpid())
        clip = render_clip(
            tune, variant=variant, seed=self.seed, seconds=self.seconds, renderer=renderer, n_captions=self.n_captions
        )
        return AudioTextSample(
            key=f"{self.split}-{position:06d}",
            captions=clip.captions,
            audio=clip.audio,
            sr=self.sample_rate,
            tags={name: value for name, value in clip.facts.as_dict().items() if value is not None},
            split=self.split,
        )

    def captions(self, index: int) -> Sequence[str]:
        """Captions of one clip, without rendering it; empty if its tune cannot be parsed."""
        tune, variant = self.items[index]
        try:
            _, _, captions = describe_clip(
                tune, variant=variant, seed=self.seed, seconds=self.seconds, n_captions=self.n_captions
            )
        except BadAudio:
            return ()
        return captions


@functools.cache
def _renderer(soundfont: Path, sample_rate: int, process: int) -> Renderer:
    """The renderer of a process; its id is asked for because a forked process must not use that of its parent."""
    return Renderer(soundfont, sample_rate=sample_rate)


def plan_music_set(
    tunes: Sequence[Tune], *, n_train: int, n_val: int, n_test: int, seed: int = 0
) -> dict[str, list[Item]]:
    """Which tunes go where, in a random order fixed by the seed; when tunes run out, further variants follow.

    A title lies on one side only (:func:`~byol_ext.audio.abc_tunes.split_of`). Beyond that, an evaluation tune
    whose first 12 intervals also open a training tune of this plan is left out, and a test tune likewise against
    validation: variants of one melody go by many titles (8 % of test tunes with the titles alone).

    Args:
        tunes: All tunes.
        n_train: Training clips wanted.
        n_val: Validation clips wanted.
        n_test: Test clips wanted.
        seed: Seed of the order.

    Returns:
        Items of ``"train"``, ``"val"`` and ``"test"``.

    Raises:
        ValueError: If a wanted split has no tune. A tune without notes is left out with a warning in the log.
    """
    sides: dict[str, list[Tune]] = {"train": [], "val": [], "test": []}
    for tune in sorted(tunes, key=lambda t: stable_hash(f"{seed}:{t.name}")):
        sides[split_of(tune.title)].append(tune)
    wanted = {"train": n_train, "val": n_val, "test": n_test}
    seen: set[tuple[int, ...]] = set()
    plan: dict[str, list[Item]] = {}
    for split, count in wanted.items():
        taken: list[Tune] = []
        openings: set[tuple[int, ...]] = set()
        for tune in sides[split]:
            if len(taken) == count:
                break
            opening = _opening(tune)
            if opening is not None and opening not in seen:
                taken.append(tune)
                openings.add(opening)
        if count and not taken:
            raise ValueError(f"{count} {split} clips wanted, but none of {len(tunes)} tunes falls into that split")
        seen |= openings
        plan[split] = [Item(taken[i % len(taken)], i // len(taken)) for i in range(count)]
    return plan


def _opening(tune: Tune) -> tuple[int, ...] | None:
    """First intervals of a melody in semitones, or None (logged) for a tune without notes."""
    try:
        pitches_N = notes_of(tune)[: OPENING + 1, 2]
    except ValueError as error:
        _log.warning("left out: %s", error)
        return None
    return tuple(np.diff(pitches_N).astype(int).tolist())


def build_music_set(
    dst: str | Path,
    *,
    n_train: int = 10_000,
    n_val: int = 600,
    n_test: int = 1_000,
    seconds: float = 5.0,
    sample_rate: int = 16_000,
    seed: int = 0,
    n_captions: int = 5,
    workers: int = 2,
    shard_size: int = 500,
    root: str | Path | None = None,
    soundfont: str | Path = TIMGM6MB,
    held_out_soundfont: str | Path | None = FLUIDR3,
    wesnoth: str | Path | None = WESNOTH,
    wesnoth_per_track: int = 3,
    progress: bool = False,
) -> dict[str, int]:
    """Write the set as shards; a stopped build continues with the shards that are missing.

    Shards are ``train-000000.tar``, ``val-…``, ``test-…``, ``test_fluidr3-…`` (the test clips with the same facts
    from the held-out soundfont) and ``wesnoth-…`` (windows of game music), written by
    :func:`~byol_ext.audio.packing.write_shards`. Beside them: ``build.json`` (settings and versions), ``sizes.json``
    (clips a shard), ``errors.jsonl`` (clips left out).

    Args:
        dst: Folder, made if needed.
        n_train: Training clips.
        n_val: Validation clips.
        n_test: Test clips.
        seconds: Length of a clip.
        sample_rate: Samples a second, mono.
        seed: Seed of choice of tunes, instruments, tempi and captions.
        n_captions: Captions a clip, the first with most facts.
        workers: Processes; 1 renders in this one. The shards' contents do not depend on it.
        shard_size: Clips a shard.
        root: Folder of ABC files instead of the installed corpus.
        soundfont: Soundfont of all splits but the held-out one.
        held_out_soundfont: Soundfont of ``test_fluidr3``; None leaves the split out.
        wesnoth: Folder of the game's tracks; None leaves the split out.
        wesnoth_per_track: Windows of a track.
        progress: Show a progress bar for each split.

    Returns:
        Clips written, by split.

    Raises:
        FileNotFoundError: If a soundfont or the tracks are missing; names the ``apt-get`` line.
        ImportError: If a Python package or the FluidSynth library is missing; names the install line.
        ValueError: If ``dst`` was built with other settings.
    """
    folder = Path(dst)
    folder.mkdir(parents=True, exist_ok=True)
    for font in (soundfont, held_out_soundfont):
        if font is not None:
            Renderer(Path(font), sample_rate=sample_rate).close()
    tracks = wesnoth_tracks(wesnoth) if wesnoth is not None else []
    settings = {"seed": seed, "seconds": seconds, "sample_rate": sample_rate, "n_captions": n_captions}
    common = MusicSource((), "", seed, seconds, sample_rate, n_captions, Path(soundfont))
    record = {
        "format": 2,
        "n": {"train": n_train, "val": n_val, "test": n_test},
        "shard_size": shard_size,
        "root": str(root) if root is not None else None,
        "held_out_soundfont": Path(held_out_soundfont).name if held_out_soundfont is not None else None,
        "settings": {**settings, "soundfont": Path(soundfont).name, "windows": wesnoth_per_track},
        "versions": {name: _version(name) for name in ("music21", "symusic", "pyfluidsynth")},
    }
    _check_record(folder / "build.json", record)
    plan = plan_music_set(read_tunes(root), n_train=n_train, n_val=n_val, n_test=n_test, seed=seed)
    sources: dict[str, SampleSource] = {
        split: replace(common, items=tuple(items), split=split) for split, items in plan.items()
    }
    if held_out_soundfont is not None:
        font = Path(held_out_soundfont)
        sources["test_fluidr3"] = replace(common, items=tuple(plan["test"]), split="test_fluidr3", soundfont=font)
    sources["wesnoth"] = wesnoth_windows(tracks, seconds=seconds, windows=wesnoth_per_track)
    return {
        split: write_shards(
            source,
            folder,
            sr=sample_rate,
            shard_size=shard_size,
            prefix=f"{split}-",
            names="key",
            tag_fields=_SHOWN,
            drop_silent_dbfs=20 * float(np.log10(MIN_RMS)),
            processes=workers,
            progress=progress,
        ).written
        for split, source in sources.items()
        if len(source)
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _check_record(path: Path, record: dict[str, Any]) -> None:
    """Write the settings of a new build, or make sure that a continued one has the same."""
    if not path.exists():
        path.write_text(json.dumps(record, indent=2))
        return
    before = json.loads(path.read_text())
    different = [f"{k}: {before.get(k)} there, {v} asked for" for k, v in record.items() if before.get(k) != v]
    if different:
        raise ValueError(f"{path.parent} holds another set ({'; '.join(different)}); give another folder or delete it")
