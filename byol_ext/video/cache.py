"""A copy of a video data set that is quick to read: small H.264 files with short groups of pictures, or raw frames.

A cache folder holds ``cache.json`` (settings and, once it is complete, one row a video), ``videos/`` or ``arrays/`` and
``errors.jsonl``. Work is done in chunks of consecutive videos; a chunk counts when its row file is there, so a run that
was killed goes on with the chunks that are missing and leaves the same files as one that was not.

Legend: ``N`` frames of a video, ``T`` frames of a batch, ``H, W`` height and width.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress

from byol_ext.ledger import BadSampleLedger, replace_file
from byol_ext.processes import end_with_parent
from byol_ext.video.cache_chunks import CacheSettings, write_chunk
from byol_ext.video.decode import open_video
from byol_ext.video.frames import open_stored_frames
from byol_ext.video.samples import Reader, VideoList, VideoSample, VideoSource

_FILE = "cache.json"
_CHUNKS = "chunks"
_VERSION = 1
_State = dict[str, Any]


@dataclass(frozen=True)
class CacheReport:
    """What a cache holds.

    Attributes:
        videos: Videos in it.
        frames: Their frames.
        bytes: Bytes of their files.
        left_out: Videos that could not be used, by cause; ``errors.jsonl`` names them.
        truncated: Videos that held less than they promise, or damaged packets.
        damaged: Those of them of which only the longest part without a hole was kept.
        cpu_seconds: Processor seconds spent on decoding and encoding, all workers together.
    """

    videos: int
    frames: int
    bytes: int
    left_out: Mapping[str, int]
    truncated: int
    damaged: int
    cpu_seconds: float

    @property
    def bytes_per_video(self) -> float:
        """Mean bytes of a video; 0 without videos."""
        return self.bytes / self.videos if self.videos else 0.0

    @property
    def seconds_per_video(self) -> float:
        """Mean processor seconds that making a video took; 0 without videos."""
        return self.cpu_seconds / self.videos if self.videos else 0.0

    def break_even(self, source_seconds: float, cache_seconds: float) -> float:
        """How often each video must be read until the cache has paid for itself.

        Args:
            source_seconds: Processor seconds to read a sample from the source
                (:func:`byol_ext.video.timing.seconds_per_read`).
            cache_seconds: The same from the cache.

        Returns:
            Reads a video; infinite if the cache is no faster.

        Example:
            >>> CacheReport(100, 1000, 10**6, {}, 0, 0, cpu_seconds=20.0).break_even(0.5, 0.25)
            0.8
        """
        saved = source_seconds - cache_seconds
        return self.seconds_per_video / saved if saved > 0 else float("inf")


def cache_videos(
    source: VideoSource,
    destination: str | Path,
    *,
    settings: CacheSettings | None = None,
    workers: int = 1,
    max_bad_fraction: float = 0.05,
    progress: bool = False,
) -> CacheReport:
    """Decode, scale and store all videos of a source; run it again to go on with one that was stopped.

    Segments (``start``, ``end``) are cut out. Of a damaged video the longest part without a hole is kept.

    Args:
        source: The videos. With several workers its samples must be picklable.
        destination: Folder of the cache.
        settings: Format and size; :class:`CacheSettings` by default.
        workers: Processes; 1 works in this one.
        max_bad_fraction: Largest share of videos that may be unusable.
        progress: Show a progress bar on the error stream.

    Returns:
        What the cache holds.

    Raises:
        ValueError: If the folder was begun with another source or other settings, or ``workers`` is below 1.
        TooManyBadSamples: If too many videos cannot be used; what was made stays, and ``errors.jsonl`` lists them.
    """
    settings = CacheSettings() if settings is None else settings
    if workers < 1:
        raise ValueError(f"workers={workers}: expected at least 1")
    root = Path(destination)
    (root / _CHUNKS).mkdir(parents=True, exist_ok=True)
    head = _head(source, settings)
    if _begun(root / _FILE, head):
        shutil.rmtree(root / _CHUNKS)
        return cache_report(root)
    states: dict[int, _State] = {}
    ledger = BadSampleLedger(max_bad_fraction=max_bad_fraction)
    try:
        with Progress(console=Console(stderr=True), disable=not progress) as bar:
            task = bar.add_task("caching videos", total=len(source))
            for number, state in _chunks(source, root, settings, workers):
                states[number] = state
                ledger.update(state)
                bar.advance(task, state["seen"])
        ledger.check()
    finally:
        ledger.write(root / "errors.jsonl")
    ordered = [states[number] for number in sorted(states)]
    rows = [row for state in ordered for row in state["rows"]]
    report = CacheReport(
        videos=len(rows),
        frames=sum(row["frames"] for row in rows),
        bytes=sum(row["bytes"] for row in rows),
        left_out=dict(ledger.bad),
        truncated=sum(row["truncated"] for row in rows),
        damaged=sum(row["damaged"] for row in rows),
        cpu_seconds=sum(state["cpu_seconds"] for state in ordered),
    )
    replace_file(root / _FILE, json.dumps({**head, "report": asdict(report), "rows": rows}).encode())
    shutil.rmtree(root / _CHUNKS)
    return report


def is_cache(path: str | Path) -> bool:
    """Whether a folder is a cache of videos, complete or not."""
    return (Path(path) / _FILE).is_file()


def open_cache(path: str | Path) -> VideoList:
    """The videos of a cache as a source, with keys, labels, groups and facts of the original.

    Args:
        path: Folder of the cache.

    Returns:
        The source; videos that could not be used are not in it.

    Raises:
        FileNotFoundError: If the folder is not a cache.
        ValueError: If the cache is not complete, or was written by another version.
    """
    root = Path(path)
    if not is_cache(root):
        raise FileNotFoundError(f"{root} is not a cache of videos: it has no {_FILE}")
    head = json.loads((root / _FILE).read_bytes())
    if head.get("version") != _VERSION:
        raise ValueError(f"{root / _FILE}: version {head.get('version')}, this is version {_VERSION}; make it again")
    if "rows" not in head:
        raise ValueError(f"{root}: the cache is not complete; run the command that makes it again, it goes on")
    samples = [_sample(root, row, head["settings"]["format"]) for row in head["rows"]]
    return VideoList(samples, tuple(head["classes"]), frozenset(head["invariances"]), name=head["name"])


def cache_report(path: str | Path) -> CacheReport:
    """What a complete cache holds, as :func:`cache_videos` said.

    Raises:
        FileNotFoundError: If the folder is not a cache.
        KeyError: If the cache is not complete.
    """
    return CacheReport(**json.loads((Path(path) / _FILE).read_bytes())["report"])


def _sample(root: Path, row: Mapping[str, Any], kind: Literal["h264", "array"]) -> VideoSample:
    file = root / row["file"]
    opener: Callable[[], Reader]
    if kind == "h264":
        opener = partial(open_video, file, name=row["key"], backend="pyav")
    else:
        shape = (row["frames"], row["height"], row["width"], 3)
        times = row["times"] if "times" in row else np.arange(row["frames"]) / row["fps"]
        opener = partial(open_stored_frames, file, offset=row["offset"], shape=shape, times=times)
    return VideoSample(row["key"], opener, label=row["label"], group=row["group"], facts=row["facts"])


def _head(source: VideoSource, settings: CacheSettings) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "settings": asdict(settings),
        "source": source.fingerprint,
        "videos": len(source),
        "name": f"{source.fingerprint}-{settings.format}-{settings.short_side}",
        "classes": list(source.classes),
        "invariances": sorted(source.invariances),
    }


def _begun(file: Path, head: Mapping[str, Any]) -> bool:
    """Begin a cache, or check that this one was begun alike; whether it is complete already."""
    if not file.exists():
        replace_file(file, json.dumps(head).encode())
        return False
    begun = json.loads(file.read_bytes())
    other = [name for name in ("version", "settings", "source", "videos") if begun.get(name) != head[name]]
    if other:
        name = other[0]
        raise ValueError(
            f"{file.parent} was begun with {name}={begun.get(name)}, now it is {head[name]}; "
            "use another folder or delete this one"
        )
    return "rows" in begun


def _chunks(source: VideoSource, root: Path, settings: CacheSettings, workers: int) -> Iterator[tuple[int, _State]]:
    """States of all chunks; those that are missing are made."""
    todo = []
    for number in range(-(-len(source) // settings.chunk)):
        file = root / _CHUNKS / f"{number:06d}.json"
        if file.exists():
            yield number, json.loads(file.read_bytes())
        else:
            todo.append(number)
    made = _in_processes(source, root, settings, todo, workers) if workers > 1 else _here(source, root, settings, todo)
    for number, state in made:
        replace_file(root / _CHUNKS / f"{number:06d}.json", json.dumps(state).encode())
        yield number, state


def _samples_of(source: VideoSource, number: int, chunk: int) -> list[VideoSample]:
    positions = range(number * chunk, min((number + 1) * chunk, len(source)))
    samples = (source[position] for position in positions)
    return [replace(sample, facts=_plain(sample.facts)) for sample in samples]


def _here(
    source: VideoSource, root: Path, settings: CacheSettings, todo: Sequence[int]
) -> Iterator[tuple[int, _State]]:
    for number in todo:
        yield number, write_chunk(_samples_of(source, number, settings.chunk), root, number, settings)


def _in_processes(
    source: VideoSource, root: Path, settings: CacheSettings, todo: Sequence[int], workers: int
) -> Iterator[tuple[int, _State]]:
    """Chunks as they get ready. Only as many as are being worked on lie in memory."""
    context = multiprocessing.get_context("spawn")
    queue = iter(todo)
    running: dict[Future[_State], int] = {}
    with ProcessPoolExecutor(min(workers, max(len(todo), 1)), context, initializer=end_with_parent) as pool:
        while True:
            while len(running) < 2 * workers and (number := next(queue, None)) is not None:
                samples = _samples_of(source, number, settings.chunk)
                running[pool.submit(write_chunk, samples, root, number, settings)] = number
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), done.result()


def _plain(value: Any) -> Any:
    """Facts without numpy, so that they can be written as JSON."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
