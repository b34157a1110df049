"""Writing the rendered-music set: one job a shard, run in several processes, resumable.

A shard is written under a temporary name and renamed, so an existing ``.tar`` is whole.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from byol_ext._extras import require
from byol_ext.audio.abc_tunes import Tune
from byol_ext.audio.decode import BadAudio
from byol_ext.audio.music_render import MIN_RMS, Renderer, render_clip
from byol_ext.audio.wesnoth import Track, wesnoth_windows


@dataclass(frozen=True)
class Item:
    """One clip to render: a tune and which rendering of it."""

    tune: Tune
    variant: int


@dataclass(frozen=True)
class Settings:
    """What the clips of a set have in common; see :func:`byol_ext.audio.music.build_music_set`."""

    seed: int
    seconds: float
    sample_rate: int
    n_captions: int
    soundfont: Path
    windows: int


@dataclass(frozen=True)
class Job:
    """One shard to write; picklable, so that any process can write it.

    Attributes:
        path: The shard.
        split: Name of the split.
        first: Position of the first item in the split.
        items: Tunes to render, or tracks to cut.
        settings: Settings of the set.
    """

    path: Path
    split: str
    first: int
    items: tuple[Item | Track, ...]
    settings: Settings


@dataclass(frozen=True)
class _Sample:
    key: str
    audio: np.ndarray
    captions: tuple[str, ...]
    tags: dict[str, Any]


Errors = list[dict[str, str]]


def jobs_of(folder: Path, split: str, items: Sequence[Item | Track], settings: Settings, shard_size: int) -> list[Job]:
    """Cut a split into shards ``split-000000.tar``, ``split-000001.tar`` ….

    Args:
        folder: Where the shards go.
        split: Name of the split.
        items: What it holds, in order.
        settings: Settings of the set.
        shard_size: Items a shard.
    """
    return [
        Job(folder / f"{split}-{n:06d}.tar", split, first, tuple(items[first : first + shard_size]), settings)
        for n, first in enumerate(range(0, len(items), shard_size))
    ]


def run_jobs(
    jobs: Sequence[Job], folder: Path, *, workers: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, int]:
    """Write the shards that are missing; keep ``sizes.json`` and ``errors.jsonl`` up to date after each.

    Args:
        jobs: All shards of the set.
        folder: Where the two files go.
        workers: Processes; 1 writes in this one.
        progress: Called with (items done, items in all) after each shard.

    Returns:
        Clips written, by split.
    """
    sizes_path = folder / "sizes.json"
    sizes: dict[str, int] = json.loads(sizes_path.read_text()) if sizes_path.exists() else {}
    todo = [job for job in jobs if not (job.path.exists() and job.path.name in sizes)]
    total = sum(len(job.items) for job in jobs)
    done = total - sum(len(job.items) for job in todo)
    with contextlib.ExitStack() as stack:
        for job, (count, errors) in zip(todo, _results(todo, workers, stack), strict=True):
            with (folder / "errors.jsonl").open("a") as file:
                file.writelines(json.dumps(error) + "\n" for error in errors)
            sizes[job.path.name] = count
            temporary = sizes_path.with_suffix(".tmp")
            temporary.write_text(json.dumps(dict(sorted(sizes.items())), indent=1))
            temporary.replace(sizes_path)
            done += len(job.items)
            if progress is not None:
                progress(done, total)
    counts = dict.fromkeys((job.split for job in jobs), 0)
    for job in jobs:
        counts[job.split] += sizes[job.path.name]
    return counts


def _results(jobs: Sequence[Job], workers: int, stack: contextlib.ExitStack) -> Iterator[tuple[int, Errors]]:
    if workers <= 1 or len(jobs) <= 1:
        return map(write_shard, jobs)
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_end_with_parent)
    return stack.enter_context(executor).map(write_shard, jobs)


def _end_with_parent() -> None:
    """Make a worker end when the process that started it was killed, instead of waiting for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def write_shard(job: Job) -> tuple[int, Errors]:
    """Render or cut the items of a shard and write it.

    Args:
        job: The shard.

    Returns:
        Samples written, and ``{"shard", "item", "reason"}`` of each item left out.
    """
    temporary = job.path.with_suffix(".tar.tmp")
    errors: Errors = []
    count = 0
    with contextlib.ExitStack() as stack:
        tar = stack.enter_context(tarfile.open(temporary, "w"))
        renderer: Renderer | None = None
        for position, item in enumerate(job.items, job.first):
            try:
                if isinstance(item, Track):
                    samples = list(_track_samples(item, job))
                else:
                    renderer = renderer or stack.enter_context(
                        Renderer(job.settings.soundfont, sample_rate=job.settings.sample_rate)
                    )
                    samples = [_tune_sample(item, position, job, renderer)]
            except (ValueError, BadAudio) as error:
                name = item.path.name if isinstance(item, Track) else item.tune.name
                errors.append({"shard": job.path.name, "item": name, "reason": str(error)})
                continue
            for sample in samples:
                _add(tar, sample, job)
            count += len(samples)
    temporary.replace(job.path)
    return count, errors


def _tune_sample(item: Item, position: int, job: Job, renderer: Renderer) -> _Sample:
    s = job.settings
    clip = render_clip(
        item.tune, variant=item.variant, seed=s.seed, seconds=s.seconds, renderer=renderer, n_captions=s.n_captions
    )
    facts = {name: value for name, value in clip.facts.as_dict().items() if value is not None}
    return _Sample(f"{job.split}-{position:06d}", clip.audio, clip.captions, facts)


def _track_samples(track: Track, job: Job) -> Iterator[_Sample]:
    s = job.settings
    windows = wesnoth_windows(track, seconds=s.seconds, sample_rate=s.sample_rate, windows=s.windows)
    for number, (start, audio_S) in enumerate(windows):
        if np.sqrt(np.mean(np.square(audio_S, dtype=np.float64))) >= MIN_RMS:
            tags = {**track.tags, "track": track.path.stem, "start": round(start, 3)}
            yield _Sample(f"{track.path.stem}-{number}", audio_S, track.captions, tags)


def _add(tar: tarfile.TarFile, sample: _Sample, job: Job) -> None:
    """Add ``key.flac`` (16 bit) and ``key.json``; the same sample gives the same bytes."""
    soundfile = require("soundfile", extra="slap")
    audio = io.BytesIO()
    wave_S = np.clip(sample.audio, -1.0, 1.0)
    soundfile.write(audio, wave_S, job.settings.sample_rate, format="FLAC", subtype="PCM_16")
    shown = ("instrument", "tempo", "meter", "kind", "origin", "genre")
    metadata = {
        "text": list(sample.captions),
        "tag": [str(sample.tags[name]) for name in shown if name in sample.tags],
        "original_data": {"key": sample.key, "split": job.split, "tags": sample.tags},
    }
    text = json.dumps(metadata, ensure_ascii=False).encode()
    for extension, data in (("flac", audio.getvalue()), ("json", text)):
        member = tarfile.TarInfo(f"{sample.key}.{extension}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
