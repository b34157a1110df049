"""Pack any source of audio-text pairs into tar shards in the LAION layout; a stopped run goes on where it was."""

from __future__ import annotations

import collections
import contextlib
import io
import itertools
import json
import multiprocessing
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from rich.progress import Progress

from byol_ext._extras import require
from byol_ext.audio.decode import BadAudio, level_dbfs
from byol_ext.audio.samples import AudioTextSample, BadCaption, SampleSource
from byol_ext.ledger import replace_file, write_errors_jsonl
from byol_ext.processes import end_with_parent

Format = Literal["flac", "wav", "ogg", "mp3"]
Names = Literal["index", "key"]
_SUBTYPES = {"flac": "PCM_16", "wav": "FLOAT", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
_FOLDER = ".progress"
_BLOCK = 1 << 16
_Job = tuple[int, Callable[[], AudioTextSample]]
_State = dict[str, Any]
_Write = Callable[[Path, Iterator[_Job]], _State]


@dataclass(frozen=True)
class ShardReport:
    """What `write_shards` did.

    Attributes:
        shards: The shards, in order.
        written: Samples in them.
        errors: Samples left out: ``{"shard", "index", "key", "cause", "message"}``, as in ``errors.jsonl``.
    """

    shards: tuple[Path, ...]
    written: int
    errors: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class _Settings:
    sr: int
    format: Format
    shard_size: int
    samples: int | None
    prefix: str
    names: Names
    tag_fields: tuple[str, ...] | None
    drop_silent_dbfs: float | None


def write_shards(
    samples: SampleSource | Iterable[AudioTextSample],
    dst: str | Path,
    *,
    sr: int = 48_000,
    format: Format = "flac",  # noqa: A002
    shard_size: int = 512,
    prefix: str = "",
    names: Names = "index",
    tag_fields: Sequence[str] | None = None,
    drop_silent_dbfs: float | None = None,
    workers: int = 1,
    processes: int = 1,
    progress: bool = False,
) -> ShardReport:
    """Decode, resample and pack samples as ``NNNNNN.tar``, with ``sizes.json`` and ``errors.jsonl`` beside them.

    Shard ``k`` holds the usable samples at positions ``k * shard_size …`` of the source. A shard appears under its
    name only when it is complete; a run that was killed writes the shards that are missing and leaves the same files
    as one that was not. Samples that cannot be used are left out and listed. Several sets can lie in one folder
    under different prefixes; ``sizes.json`` and ``errors.jsonl`` cover them all.

    Args:
        samples: A source, or an iterable of samples in a fixed order (skipped over on resume).
        dst: Folder to write to.
        sr: Sample rate in Hz of the packed audio (48 kHz, LAION layout).
        format: ``flac`` (16 bit, clips beyond full scale), ``wav`` (float, exact), ``ogg`` or ``mp3``.
        shard_size: Positions of the source a shard.
        prefix: Start of the shards' names: ``"val-"`` gives ``val-000000.tar``.
        names: Name a sample's files by its position, or by its key (unique in a shard, without ``.`` and ``/``).
        tag_fields: Tags whose values are listed under ``tag``; by default all. ``original_data`` always has all.
        drop_silent_dbfs: Leave out samples below this level (mean removed); None keeps them.
        workers: Threads that decode and encode, in each process.
        processes: Processes that write a shard each, for a source that can be pickled; 1 writes in this one.
        progress: Show a progress bar.

    Returns:
        The shards of this prefix and what was left out of them.

    Raises:
        ValueError: If ``dst`` holds shards of this prefix that were begun with other settings, an argument is out of
            range, or a key cannot name a file.
    """
    if format not in _SUBTYPES or min(shard_size, workers, processes, sr) < 1:
        raise ValueError(
            f"need sr, shard_size, workers, processes >= 1 and format in {sorted(_SUBTYPES)}; "
            f"got {sr=}, {shard_size=}, {workers=}, {processes=}, {format=}"
        )
    if Path(prefix).name != prefix:
        raise ValueError(f"{prefix=}: expected the start of a file name; give folders in dst")
    if processes > 1 and not _is_source(samples):
        raise ValueError(f"{processes=} needs a source with positions; use workers= for an iterable")
    size, fields = len(samples) if _is_source(samples) else None, tuple(tag_fields) if tag_fields is not None else None
    settings = _Settings(sr, format, shard_size, size, prefix, names, fields, drop_silent_dbfs)
    root = Path(dst)
    (root / _FOLDER).mkdir(parents=True, exist_ok=True)
    _check_settings(root, settings)
    paths = (root / f"{prefix}{number:06d}.tar" for number in itertools.count())
    write = partial(_write_shard, settings=settings, workers=workers)
    if _is_source(samples):
        finished = _from_source(samples, paths, write, shard_size, processes)
    else:
        finished = _from_stream(iter(samples), paths, write, shard_size)
    states: dict[Path, _State] = {}
    with Progress(disable=not progress) as bar:
        task = bar.add_task(prefix.rstrip("-_") or "packing", total=size)
        for path, state in finished:
            states[path] = state
            bar.advance(task, state["positions"])
    _write_summary(root)
    errors = tuple(error for state in states.values() for error in state["errors"])
    return ShardReport(tuple(states), sum(state["written"] for state in states.values()), errors)


def _is_source(samples: SampleSource | Iterable[AudioTextSample]) -> TypeGuard[SampleSource]:
    return hasattr(samples, "__getitem__") and hasattr(samples, "__len__")


def _from_source(
    source: SampleSource, paths: Iterator[Path], write: _Write, shard_size: int, processes: int
) -> Iterator[tuple[Path, _State]]:
    """States of all shards, in order; those that are missing are written, one a process."""
    ranges = (range(first, min(first + shard_size, len(source))) for first in range(0, len(source), shard_size))
    shards = [(path, positions, _finished(path)) for positions, path in zip(ranges, paths, strict=False)]
    todo = [(path, positions) for path, positions, state in shards if state is None]
    write_range = partial(_write_range, source, write)
    with contextlib.ExitStack() as stack:
        written: Iterator[_State] = map(write_range, todo)
        if min(processes, len(todo)) > 1:
            context = multiprocessing.get_context("spawn")
            executor = ProcessPoolExecutor(min(processes, len(todo)), context, initializer=end_with_parent)
            written = stack.enter_context(executor).map(write_range, todo)
        for path, _, state in shards:
            yield path, next(written) if state is None else state


def _write_range(source: SampleSource, write: _Write, shard: tuple[Path, range]) -> _State:
    path, positions = shard
    return write(path, ((index, partial(source.__getitem__, index)) for index in positions))


def _from_stream(
    samples: Iterator[AudioTextSample], paths: Iterator[Path], write: _Write, shard_size: int
) -> Iterator[tuple[Path, _State]]:
    """States of all shards, in order; the samples of finished ones are skipped over."""
    jobs: Iterator[_Job] = ((index, partial(_itself, sample)) for index, sample in enumerate(samples))
    for path in paths:
        state = _finished(path)
        batch = itertools.islice(jobs, shard_size if state is None else state["positions"])
        first = next(batch, None)
        if first is None:
            return
        if state is None:
            state = write(path, itertools.chain([first], batch))
        collections.deque(batch, maxlen=0)
        yield path, state


def _itself(sample: AudioTextSample) -> AudioTextSample:
    return sample


def _pack(settings: _Settings, job: _Job) -> tuple[str, bytes, bytes] | dict[str, Any]:
    """Name, audio and metadata of the tar members of one sample, or its entry for ``errors.jsonl``."""
    index, load = job
    key = ""
    try:
        sample = load()
        key = sample.key
        if not sample.captions:
            raise BadCaption("caption_missing", key)
        clip = sample.clip(sr=settings.sr, n=None)
        level, floor = level_dbfs(clip.wave_S), settings.drop_silent_dbfs
        if floor is not None and level < floor:
            raise BadAudio("silent", f"{level:.1f} dBFS is below drop_silent_dbfs={floor:g}", source=key)
    except (BadAudio, BadCaption) as error:
        return {"index": index, "key": key or error.source, "cause": error.reason, "message": str(error)}
    name = key if settings.names == "key" else f"{index:09d}"
    facts = {"key": key, "split": sample.split, "tags": dict(sample.tags), "duration": clip.duration}
    shown = sample.tags if settings.tag_fields is None else settings.tag_fields
    tag = [str(sample.tags[field]) for field in shown if field in sample.tags]
    metadata = {"text": list(sample.captions), "tag": tag, "original_data": facts}
    text = json.dumps(metadata, ensure_ascii=False, default=str)
    return name, _encode(clip.wave_S, settings), text.encode()


def _encode(wave_S: np.ndarray, settings: _Settings) -> bytes:
    sf = require("soundfile", extra="slap")
    buffer = io.BytesIO()
    with sf.SoundFile(
        buffer,
        "w",
        samplerate=settings.sr,
        channels=1,
        format=settings.format.upper(),
        subtype=_SUBTYPES[settings.format],
    ) as file:
        for start in range(0, len(wave_S), _BLOCK):  # libsndfile's Vorbis encoder overflows its stack on long writes
            file.write(wave_S[start : start + _BLOCK])
    return buffer.getvalue()


def _write_shard(path: Path, jobs: Iterator[_Job], settings: _Settings, workers: int) -> _State:
    """One shard and its state file, in this order; the state file is what makes the shard count as finished."""
    partial_path = path.with_suffix(".tar.tmp")
    errors: list[dict[str, Any]] = []
    names: set[str] = set()
    with tarfile.open(partial_path, "w", format=tarfile.PAX_FORMAT) as tar, ThreadPoolExecutor(workers) as pool:
        while chunk := list(itertools.islice(jobs, 4 * workers)):
            for packed in pool.map(partial(_pack, settings), chunk):
                if isinstance(packed, dict):
                    errors.append({"shard": path.name, **packed})
                    continue
                name, audio, metadata = packed
                if name in names or not name or set(name) & set("./"):
                    raise ValueError(f"{path}: key {name!r} occurs twice or cannot name a file; use names='index'")
                names.add(name)
                _add(tar, f"{name}.{settings.format}", audio)
                _add(tar, f"{name}.json", metadata)
    partial_path.replace(path)
    size, written = path.stat().st_size, len(names)
    state = {"positions": written + len(errors), "written": written, "size": size, "errors": errors}
    replace_file(_state_file(path), json.dumps(state).encode())
    return state


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _state_file(shard: Path) -> Path:
    return shard.parent / _FOLDER / f"{shard.stem}.json"


def _finished(shard: Path) -> _State | None:
    """State of a complete shard."""
    file = _state_file(shard)
    if not shard.exists() or not file.exists():
        return None
    state: _State = json.loads(file.read_text())
    return state if shard.stat().st_size == state["size"] else None


def _check_settings(root: Path, settings: _Settings) -> None:
    file = root / _FOLDER / f"{settings.prefix}settings.json"
    wanted = json.loads(json.dumps(asdict(settings)))
    if not file.exists():
        replace_file(file, json.dumps(wanted).encode())
        return
    stored = json.loads(file.read_text())
    if stored != wanted:
        raise ValueError(f"{root} holds shards begun with {stored}, now {wanted}; use another folder or delete it")


def _write_summary(root: Path) -> None:
    """``sizes.json`` and ``errors.jsonl`` of all finished shards in the folder, whatever their prefix."""
    states = {path.name: state for path in sorted(root.glob("*.tar")) if (state := _finished(path)) is not None}
    sizes = {name: state["written"] for name, state in states.items()}
    replace_file(root / "sizes.json", json.dumps(sizes, indent=1).encode())
    write_errors_jsonl(root / "errors.jsonl", (error for state in states.values() for error in state["errors"]))
