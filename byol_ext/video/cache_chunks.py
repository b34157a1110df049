"""Make one chunk of a cache: decode, scale and store the videos at consecutive positions of a source.

Legend: ``N`` frames of a video, ``T`` frames of a batch, ``H, W`` height and width.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from byol_ext.video.encode import write_mp4
from byol_ext.video.samples import Reader, VideoReadError, VideoSample

_BATCH = 128
_Row = dict[str, Any]


@dataclass(frozen=True)
class CacheSettings:
    """How a cache stores videos.

    Attributes:
        format: ``h264`` (small) or ``array`` (raw frames: no decoding, but tens of times the size).
        short_side: Pixels of the short side; smaller videos keep their size (128, spec 8). Even for ``h264``.
        gop: ``h264``: frames from one key frame to the next (8, spec 8).
        crf: ``h264``: x264's constant quality; smaller is better and larger.
        chunk: Videos that are made together; a killed run loses at most one chunk a worker.
    """

    format: Literal["h264", "array"] = "h264"
    short_side: int = 128
    gop: int = 8
    crf: int = 20
    chunk: int = 32

    def __post_init__(self) -> None:
        if self.format not in ("h264", "array"):
            raise ValueError(f"format={self.format!r}: expected 'h264' or 'array'")
        if min(self.short_side, self.gop, self.chunk) < 1 or not 0 <= self.crf <= 51:
            raise ValueError(f"expected short_side, gop, chunk of at least 1 and crf from 0 to 51; got {self}")
        if self.format == "h264" and self.short_side % 2:
            raise ValueError(f"short_side={self.short_side}: YUV 4:2:0 needs an even number")


def write_chunk(samples: Sequence[VideoSample], root: Path, number: int, settings: CacheSettings) -> dict[str, Any]:
    """Store some videos.

    Args:
        samples: The videos.
        root: Folder of the cache.
        number: Number of the chunk.
        settings: Format and size.

    Returns:
        ``rows`` (one a stored video), ``cpu_seconds``, and ``seen``, ``bad``, ``errors`` for a
        :class:`byol_ext.ledger.BadSampleLedger`.
    """
    begin = time.process_time()
    rows, errors = [], []
    kind = "videos" if settings.format == "h264" else "arrays"
    folder = root / kind / (f"{number:06d}" if settings.format == "h264" else "")
    folder.mkdir(parents=True, exist_ok=True)
    shard = folder / f"{number:06d}.u8"
    temporary = shard.with_name(f"{shard.name}.tmp")
    array = temporary.open("wb") if settings.format == "array" else None
    try:
        for place, sample in enumerate(samples):
            try:
                file = shard if array is not None else folder / f"{place:06d}.mp4"
                row = _write_video(sample, file, array, settings)
            except VideoReadError as error:
                errors.append({"key": sample.key, "cause": error.reason, "message": str(error)})
            else:
                rows.append({**row, "file": file.relative_to(root).as_posix()})
    finally:
        if array is not None:
            array.close()
    if array is not None:
        temporary.replace(shard)
    return {
        "rows": rows,
        "errors": errors,
        "seen": len(samples),
        "bad": dict(Counter(error["cause"] for error in errors)),
        "cpu_seconds": time.process_time() - begin,
    }


def _write_video(sample: VideoSample, file: Path, array: BinaryIO | None, settings: CacheSettings) -> _Row:
    with sample.open() as reader:
        times_N = reader.info.times_N
        end = np.inf if sample.end is None else sample.end
        inside = np.flatnonzero((times_N >= sample.start) & (times_N < end))
        if not len(inside):
            span = f"{sample.start:g} to {sample.end} s of {times_N[-1]:g}"
            raise VideoReadError("no_frames", f"no frame from {span}", source=sample.key)
        damaged = False
        try:
            stored = _store(reader, inside, file, array, settings)
        except VideoReadError as error:
            if error.reason != "damaged":
                raise
            damaged, inside = True, _longest_readable(reader, inside)
            stored = _store(reader, inside, file, array, settings)
    return {
        **stored,
        "key": sample.key,
        "label": sample.label,
        "group": sample.group,
        "facts": dict(sample.facts),
        "frames": len(inside),
        "truncated": reader.info.truncated or damaged,
        "damaged": damaged,
    }


def _store(reader: Reader, indices: np.ndarray, file: Path, array: BinaryIO | None, settings: CacheSettings) -> _Row:
    """Write frames; what an earlier try left at the end of an array is overwritten."""
    short_side = min(settings.short_side, reader.info.height, reader.info.width)
    if short_side < 2:
        size = f"{reader.info.height} x {reader.info.width}"
        raise VideoReadError("unreadable", f"{size} pixels are no picture", source=str(file))
    batches = _batches(reader, indices, short_side)
    if array is None:
        write_mp4(file, batches, gop=settings.gop, crf=settings.crf)
        return {"bytes": file.stat().st_size}
    offset, shape = array.tell(), (0, 0)
    try:
        for frames_THWC, _ in batches:
            array.write(np.ascontiguousarray(frames_THWC).data)
            shape = frames_THWC.shape[1:3]
    except VideoReadError:
        array.seek(offset)
        array.truncate()
        raise
    row = {"offset": offset, "height": shape[0], "width": shape[1], "bytes": array.tell() - offset}
    return {**row, **_times(reader.info.times_N[indices])}


def _times(times_N: np.ndarray) -> _Row:
    """Times of stored frames: a rate where they are even to a tenth of a millisecond, else all of them."""
    moments_N = times_N - times_N[0]
    if len(moments_N) > 1:
        fps = (len(moments_N) - 1) / float(moments_N[-1])
        if np.abs(moments_N - np.arange(len(moments_N)) / fps).max() < 1e-4:
            return {"fps": fps}
    return {"times": [round(float(moment), 6) for moment in moments_N]}


def _batches(reader: Reader, indices: np.ndarray, short_side: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    times_N = reader.info.times_N - reader.info.times_N[indices[0]]
    for first in range(0, len(indices), _BATCH):
        batch = indices[first : first + _BATCH]
        yield reader.frames(batch.tolist(), short_side=short_side), times_N[batch]


def _longest_readable(reader: Reader, indices: np.ndarray) -> np.ndarray:
    """The longest run of frames that can all be decoded; the reader's error if there is none."""
    good: list[int] = []
    for first in range(0, len(indices), _BATCH):
        good.extend(_readable(reader, indices[first : first + _BATCH].tolist()))
    runs = np.split(np.array(good, dtype=np.int64), np.flatnonzero(np.diff(good) > 1) + 1)
    longest = max(runs, key=len)
    if not len(longest):
        reader.frames(indices[:1].tolist())
    return longest


def _readable(reader: Reader, indices: list[int]) -> list[int]:
    """Those that decode, found by halving."""
    try:
        reader.frames(indices, short_side=16)
    except VideoReadError as error:
        if error.reason != "damaged":
            raise
        half = len(indices) // 2
        return _readable(reader, indices[:half]) + _readable(reader, indices[half:]) if half else []
    return indices
