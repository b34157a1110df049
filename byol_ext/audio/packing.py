"""Pack any source of audio-text pairs into tar shards in the LAION layout; a stopped run goes on where it was."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from rich.progress import Progress

from byol_ext._extras import require
from byol_ext.audio.decode import BadAudio
from byol_ext.audio.samples import AudioTextSample, BadCaption, SampleSource

Format = Literal["flac", "wav", "ogg", "mp3"]
_SUBTYPES = {"flac": "PCM_16", "wav": "FLOAT", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
_STATE = ".progress"
_BLOCK = 1 << 16
_Job = tuple[int, Callable[[], AudioTextSample]]


@dataclass(frozen=True)
class ShardReport:
    """What `write_shards` did.

    Attributes:
        shards: The shards, in order.
        written: Samples in them.
        errors: Samples left out: ``{"index", "key", "cause", "message"}``, as in ``errors.jsonl``.
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


def write_shards(
    samples: SampleSource | Iterable[AudioTextSample],
    dst: str | Path,
    *,
    sr: int = 48_000,
    format: Format = "flac",  # noqa: A002
    shard_size: int = 512,
    workers: int = 1,
    progress: bool = False,
) -> ShardReport:
    """Decode, resample and pack samples as ``NNNNNN.tar``, with ``sizes.json`` and ``errors.jsonl`` beside them.

    Shard ``k`` holds the usable samples at positions ``k * shard_size …`` of the source. A shard appears under its
    name only when it is complete; a run that was killed starts again at the first incomplete shard and leaves the
    same files as one that was not. Samples that cannot be used are left out and listed.

    Args:
        samples: A source, or an iterable of samples in a fixed order (skipped over on resume).
        dst: Folder to write to.
        sr: Sample rate in Hz of the packed audio (48 kHz, LAION layout).
        format: ``flac`` (16 bit, clips beyond full scale), ``wav`` (float, exact), ``ogg`` or ``mp3``.
        shard_size: Positions of the source a shard.
        workers: Threads that decode and encode.
        progress: Show a progress bar.

    Returns:
        The shards and what was left out.

    Raises:
        ValueError: If ``dst`` holds shards that were begun with other settings, or an argument is out of range.
    """
    if format not in _SUBTYPES or min(shard_size, workers, sr) < 1:
        raise ValueError(
            f"need sr, shard_size, workers >= 1 and format in {sorted(_SUBTYPES)}; "
            f"got {sr=}, {shard_size=}, {workers=}, {format=}"
        )
    root = Path(dst)
    (root / _STATE).mkdir(parents=True, exist_ok=True)
    settings = _Settings(sr, format, shard_size, len(samples) if _is_source(samples) else None)
    _check_settings(root, settings)
    states = list(_finished(root))
    position = sum(state["positions"] for state in states)
    jobs = _jobs(samples, position)
    with Progress(disable=not progress) as bar, ThreadPoolExecutor(workers) as pool:
        task = bar.add_task("packing", total=settings.samples, completed=position)
        for number in itertools.count(len(states)):
            batch = itertools.islice(jobs, shard_size)
            first = next(batch, None)
            if first is None:
                break
            state = _write_shard(root, number, settings, itertools.chain([first], batch), pool, 4 * workers)
            states.append(state)
            bar.advance(task, state["positions"])
    return _summarise(root, states)


def read_errors_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Entries of an ``errors.jsonl``: ``{"key", "cause", "message", …}``; empty if the file does not exist.

    Args:
        path: The file, or the folder that holds it.

    Returns:
        One dictionary a line.

    Raises:
        ValueError: For a line that is not a JSON object; names file and line.
    """
    file = Path(path)
    file = file / "errors.jsonl" if file.is_dir() else file
    if not file.exists():
        return []
    entries = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}:{number}: not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{file}:{number}: got {type(entry).__name__}, expected an object")
        entries.append(entry)
    return entries


def write_errors_jsonl(path: str | Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write entries one JSON object a line; the file appears at once or not at all."""
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    _replace(Path(path), text.encode())


def _is_source(samples: SampleSource | Iterable[AudioTextSample]) -> TypeGuard[SampleSource]:
    return hasattr(samples, "__getitem__") and hasattr(samples, "__len__")


def _jobs(samples: SampleSource | Iterable[AudioTextSample], start: int) -> Iterator[_Job]:
    """Positions from ``start`` on with a call that gives the sample there."""
    if _is_source(samples):
        for index in range(start, len(samples)):
            yield index, partial(samples.__getitem__, index)
    else:
        for index, sample in enumerate(itertools.islice(iter(samples), start, None), start):
            yield index, partial(_itself, sample)


def _itself(sample: AudioTextSample) -> AudioTextSample:
    return sample


def _pack(settings: _Settings, job: _Job) -> tuple[str, bytes, bytes] | dict[str, Any]:
    """Name, audio and metadata of the tar members of one sample, or its entry for ``errors.jsonl``."""
    index, load = job
    key = str(index)
    try:
        sample = load()
        key = sample.key
        if not sample.captions:
            raise BadCaption("caption_missing", key)
        clip = sample.clip(sr=settings.sr, n=None)
    except (BadAudio, BadCaption) as error:
        return {"index": index, "key": key, "cause": error.reason, "message": str(error)}
    facts = {"key": key, "split": sample.split, "tags": dict(sample.tags), "duration": clip.duration}
    tag = [str(value) for value in sample.tags.values()]
    metadata = {"text": list(sample.captions), "tag": tag, "original_data": facts}
    text = json.dumps(metadata, ensure_ascii=False, default=str)
    return f"{index:09d}", _encode(clip.wave_S, settings), text.encode()


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


def _write_shard(
    root: Path, number: int, settings: _Settings, jobs: Iterator[_Job], pool: ThreadPoolExecutor, block: int
) -> dict[str, Any]:
    """One shard and its state file, in this order; the state file is what makes the shard count as finished."""
    path = root / f"{number:06d}.tar"
    partial_path = path.with_suffix(".tar.part")
    errors: list[dict[str, Any]] = []
    written = 0
    with tarfile.open(partial_path, "w", format=tarfile.PAX_FORMAT) as tar:
        while chunk := list(itertools.islice(jobs, block)):
            for packed in pool.map(partial(_pack, settings), chunk):
                if isinstance(packed, dict):
                    errors.append(packed)
                    continue
                name, audio, metadata = packed
                _add(tar, f"{name}.{settings.format}", audio)
                _add(tar, f"{name}.json", metadata)
                written += 1
    partial_path.replace(path)
    positions = written + len(errors)
    state = {"positions": positions, "written": written, "size": path.stat().st_size, "errors": errors}
    _replace(root / _STATE / f"{number:06d}.json", json.dumps(state).encode())
    return state


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _finished(root: Path) -> Iterator[dict[str, Any]]:
    """States of the complete shards from the first on, up to the first that is not."""
    for number in itertools.count():
        shard, file = root / f"{number:06d}.tar", root / _STATE / f"{number:06d}.json"
        if not shard.exists() or not file.exists():
            return
        state: dict[str, Any] = json.loads(file.read_text())
        if shard.stat().st_size != state["size"]:
            return
        yield state


def _check_settings(root: Path, settings: _Settings) -> None:
    file = root / _STATE / "settings.json"
    wanted = asdict(settings)
    if not file.exists():
        _replace(file, json.dumps(wanted).encode())
        return
    stored = json.loads(file.read_text())
    if stored != wanted:
        raise ValueError(f"{root} holds shards begun with {stored}, now {wanted}; use another folder or delete it")


def _summarise(root: Path, states: list[dict[str, Any]]) -> ShardReport:
    shards = tuple(root / f"{number:06d}.tar" for number in range(len(states)))
    errors = tuple(error for state in states for error in state["errors"])
    sizes = {shard.name: state["written"] for shard, state in zip(shards, states, strict=True)}
    _replace(root / "sizes.json", json.dumps(sizes).encode())
    write_errors_jsonl(root / "errors.jsonl", errors)
    return ShardReport(shards, sum(sizes.values()), errors)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)
