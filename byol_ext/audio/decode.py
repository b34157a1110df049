"""Audio files and bytes to mono float32 at one rate, with a named reason for whatever cannot be used.

Only the part of a file that is needed is read: a random ten-second crop of an hour-long track seeks there.
The rate always comes from the file. Legend: ``S`` samples, ``C`` channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, gcd
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from byol_ext._extras import require
from byol_ext.audio.containers import missing_bytes
from byol_ext.audio.waves import MIN_CLIP_SECONDS, resample, to_mono

Crop = Literal["center", "first"]
Source = str | Path | bytes

_SUFFIXES = {
    "WAV": {".wav", ".wave", ".bwf"},
    "WAVEX": {".wav", ".wave", ".bwf"},
    "RF64": {".wav", ".wave", ".rf64", ".bwf"},
    "W64": {".w64"},
    "FLAC": {".flac"},
    "OGG": {".ogg", ".oga", ".opus"},
    "MP3": {".mp3", ".mp2", ".mpga"},
    "AIFF": {".aif", ".aiff", ".aifc"},
    "AU": {".au", ".snd"},
    "CAF": {".caf"},
}
_KNOWN_SUFFIXES = set().union(*_SUFFIXES.values())
_FULL_SCALE = {"int16": 2.0**15, "int32": 2.0**31}
_MARGIN_SECONDS = 0.05


class BadAudio(ValueError):
    """Audio that must not reach a network.

    Attributes:
        reason: Short stable cause to count by: ``missing``, ``empty_file``, ``unreadable``, ``truncated``,
            ``wrong_extension``, ``no_samples``, ``too_short``, ``non_finite``, ``silent``, ``no_rate`` or
            ``bad_shape``.
        detail: What was found and what to do.
        source: The file or key.

    Example:
        >>> str(BadAudio("too_short", "3 ms", source="a.wav"))
        'a.wav: too_short: 3 ms'
    """

    def __init__(self, reason: str, detail: str, *, source: str) -> None:
        super().__init__(f"{source}: {reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.reason, self.detail, self.source)


def _rebuild(reason: str, detail: str, source: str) -> BadAudio:
    return BadAudio(reason, detail, source=source)


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a file says.

    Attributes:
        sr: Sample rate in Hz.
        frames: Samples per channel.
        channels: Channels.
        format: Container as libsndfile names it, such as ``"FLAC"``.
    """

    sr: int
    frames: int
    channels: int
    format: str

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.sr


class Clip(NamedTuple):
    """A crop of a longer recording.

    Attributes:
        wave_S: Mono float32 at the target rate, at most the length asked for.
        duration: Seconds of the whole segment that the crop was taken from.
        offset: Seconds from the start of the segment to the start of the crop.
    """

    wave_S: np.ndarray
    duration: float
    offset: float


@dataclass(frozen=True)
class _Frames:
    """Something to read frames from: an open file, or an array ``[C, S]``."""

    handle: Any
    sr: int
    total: int
    name: str
    exact: bool

    def read(self, first: int, count: int) -> np.ndarray:
        """Frames ``first .. first + count`` as float32 ``[C, S]``; `BadAudio` if they are not there."""
        if isinstance(self.handle, np.ndarray):
            return self.handle[:, first : first + count]
        sf = require("soundfile", extra="slap")
        try:
            self.handle.seek(first)
            wave_CS = self.handle.read(count, dtype="float32", always_2d=True).T
        except (sf.SoundFileError, OSError) as error:
            detail = f"cannot read frames {first} to {first + count}: {error}"
            raise BadAudio("truncated", detail, source=self.name) from error
        if wave_CS.shape[1] < count and (self.exact or wave_CS.shape[1] == 0):
            got = first + wave_CS.shape[1]
            raise BadAudio("truncated", f"the header says {self.total} frames, {got} are there", source=self.name)
        return wave_CS


def probe(source: Source, *, name: str | None = None, check_extension: bool = True) -> AudioInfo:
    """Read the header of an audio file and check that the file is whole.

    Args:
        source: Path, or the bytes of a file.
        name: Name for messages and for the extension check; the path itself by default.
        check_extension: Reject a file whose content is not what its suffix says (slap spec §10).

    Returns:
        Rate, length, channels and format.

    Raises:
        BadAudio: For anything that is not a complete audio file.
    """
    with _open(source, name, check_extension) as (file, _):
        return AudioInfo(file.samplerate, file.frames, file.channels, file.format)


def decode(
    source: Source, *, sr: int, start: float = 0.0, duration: float | None = None, name: str | None = None
) -> np.ndarray:
    """A whole file, or the segment ``start .. start + duration`` of it, as mono float32.

    Args:
        source: Path, or the bytes of a file.
        sr: Target rate in Hz; the file is resampled from its own rate.
        start: Seconds to skip.
        duration: Seconds to read; to the end by default, and never past it.
        name: Name for messages and for the extension check; the path itself by default.

    Returns:
        ``[S]`` float32. The peak is left as it is, so values may exceed 1.

    Raises:
        BadAudio: With the reason, for every audio row of the bad-input table of slap spec §10.
    """
    return decode_clip(source, sr=sr, n=None, start=start, duration=duration, name=name).wave_S


def decode_clip(
    source: Source,
    *,
    sr: int,
    n: int | None,
    rng: np.random.Generator | None = None,
    crop: Crop = "center",
    start: float = 0.0,
    duration: float | None = None,
    name: str | None = None,
    min_duration: float = MIN_CLIP_SECONDS,
    check_extension: bool = True,
) -> Clip:
    """At most ``n`` samples of a file; only that part of a long file is read.

    Args:
        source: Path, or the bytes of a file.
        sr: Target rate in Hz.
        n: Samples wanted at the target rate, or None for the whole segment. A shorter recording comes back
            short: fill it with `byol_ext.audio.waves.fill_clip`.
        rng: Generator that draws the crop; None takes the deterministic ``crop``.
        crop: Deterministic crop: the middle of the segment or its start.
        start: Seconds to skip in the file.
        duration: Length of the segment in seconds; to the end of the file by default.
        name: Name for messages and for the extension check.
        min_duration: Shorter segments are rejected.
        check_extension: Reject a file whose content is not what its suffix says.

    Returns:
        The crop with the true duration of the segment.

    Raises:
        BadAudio: As `decode`.
    """
    with _open(source, name, check_extension) as (file, label):
        frames = _Frames(file, file.samplerate, file.frames, label, file.format != "MP3")
        return _clip(frames, sr, n, rng, crop, _segment(frames, sr, start, duration, min_duration))


def array_clip(
    wave: np.ndarray,
    *,
    sr_in: int | None,
    sr: int,
    n: int | None,
    rng: np.random.Generator | None = None,
    crop: Crop = "center",
    start: float = 0.0,
    duration: float | None = None,
    name: str = "array",
    min_duration: float = MIN_CLIP_SECONDS,
) -> Clip:
    """`decode_clip` for audio that is already in memory.

    Args:
        wave: ``[S]`` or ``[C, S]``, floating point, int16 or int32 (scaled to [-1, 1)).
        sr_in: Its rate in Hz. A missing rate is an error, never assumed (slap spec §10).
        sr: Target rate in Hz.
        n: Samples wanted at the target rate, or None for all.
        rng: Generator that draws the crop; None takes the deterministic ``crop``.
        crop: The middle or the start.
        start: Seconds to skip.
        duration: Length of the segment in seconds.
        name: Name for messages.
        min_duration: Shorter segments are rejected.

    Returns:
        The crop with the true duration of the segment.

    Raises:
        BadAudio: For an unknown rate, a wrong shape, NaN, too few samples.

    Example:
        >>> array_clip(np.ones(100, np.float32), sr_in=1000, sr=1000, n=40).wave_S.shape
        (40,)
    """
    if not sr_in:
        raise BadAudio("no_rate", "an array carries no sample rate; pass sr= of the recording", source=name)
    wave_CS = np.atleast_2d(_as_float(np.asarray(wave), name))
    if wave_CS.ndim != 2 or (wave_CS.shape[0] > wave_CS.shape[1] > 0):
        raise BadAudio("bad_shape", f"got {np.shape(wave)}, expected [S] or [C, S]; transpose it", source=name)
    frames = _Frames(wave_CS, int(sr_in), wave_CS.shape[1], name, True)
    return _clip(frames, sr, n, rng, crop, _segment(frames, sr, start, duration, min_duration))


def level_dbfs(wave_S: np.ndarray) -> float:
    """RMS level in dB relative to full scale with the mean removed: silence and plain DC give -inf.

    Example:
        >>> level_dbfs(np.full(100, 0.5, np.float32))
        -inf
    """
    power = float(np.var(wave_S, dtype=np.float64))
    return 10.0 * float(np.log10(power)) if power > 1e-20 else float("-inf")


def int16_normalize(wave_S: np.ndarray) -> np.ndarray:
    """Clip to [-1, 1] and round to 16 bits, as LAION-CLAP prepares its input (slap spec §10, an option).

    Example:
        >>> float(int16_normalize(np.array([2.0], np.float32))[0])
        1.0
    """
    return (np.clip(wave_S, -1.0, 1.0) * 32767.0).astype(np.int16).astype(np.float32) / np.float32(32767.0)


@contextmanager
def _open(source: Source, name: str | None, check_extension: bool) -> Iterator[tuple[Any, str]]:
    """An open `soundfile.SoundFile` and its label, after the checks that need no decoding."""
    sf = require("soundfile", extra="slap")
    label = name or ("<bytes>" if isinstance(source, bytes) else str(source))
    _check_container(source, label)
    try:
        file = sf.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source))
    except (sf.SoundFileError, OSError) as error:
        raise BadAudio("unreadable", f"no audio decoder takes it ({error})", source=label) from error
    with file:
        suffix = Path(label).suffix.lower()
        if check_extension and suffix in _KNOWN_SUFFIXES - _SUFFIXES.get(file.format, _KNOWN_SUFFIXES):
            detail = f"holds {file.format}; rename it, or pass check_extension=False"
            raise BadAudio("wrong_extension", detail, source=label)
        if file.samplerate <= 0:
            raise BadAudio("no_rate", f"the header says {file.samplerate} Hz", source=label)
        if file.frames > 0 and file.format == "FLAC":
            _Frames(file, file.samplerate, file.frames, label, True).read(file.frames - 1, 1)
        yield file, label


def _check_container(source: Source, label: str) -> None:
    if isinstance(source, bytes):
        _check_stream(io.BytesIO(source), label)
        return
    if Path(source).suffix.lower() == ".raw":
        raise BadAudio("unreadable", "raw samples carry neither rate nor format; convert to WAV", source=label)
    try:
        with Path(source).open("rb") as stream:
            _check_stream(stream, label)
    except FileNotFoundError as error:
        raise BadAudio("missing", "no such file", source=label) from error
    except OSError as error:
        raise BadAudio("unreadable", str(error), source=label) from error


def _check_stream(stream: BinaryIO, label: str) -> None:
    if stream.seek(0, 2) == 0:
        raise BadAudio("empty_file", "0 bytes", source=label)
    missing = missing_bytes(stream)
    if missing:
        raise BadAudio("truncated", f"at least {missing} bytes are missing at its end", source=label)


def _segment(frames: _Frames, sr: int, start: float, duration: float | None, min_duration: float) -> tuple[int, int]:
    """First frame and length of the segment, clipped to the recording; checked to be long enough."""
    first = round(start * frames.sr)
    count = frames.total - first
    if duration is not None:
        count = min(count, round(duration * frames.sr))
    if count <= 0:
        held = f"{frames.total / frames.sr:.3f} s of audio, segment starts at {start:g} s"
        raise BadAudio("no_samples", held, source=frames.name)
    if count * sr // frames.sr < max(1, ceil(min_duration * sr)):
        found = f"{1000 * count / frames.sr:.2f} ms, at least {1000 * min_duration:g} ms are needed"
        raise BadAudio("too_short", found, source=frames.name)
    return first, count


def _clip(
    frames: _Frames,
    sr: int,
    n: int | None,
    rng: np.random.Generator | None,
    crop: Crop,
    segment: tuple[int, int],
) -> Clip:
    """Draw the crop in target samples, read the source frames under it, resample, cut to length.

    With resampling, a margin keeps the edges of the filter out of the crop, and the window starts at a multiple
    of the rate ratio's denominator, so that its output samples lie on the grid of the whole file.
    """
    first, count = segment
    seconds = count / frames.sr
    total = count * sr // frames.sr
    if n is None or total <= n:
        wave_S = _finish(frames.read(first, count), frames, sr)
        return Clip(wave_S if n is None else wave_S[:n], seconds, 0.0)
    slack = total - n
    offset = int(rng.integers(slack + 1)) if rng is not None else (slack // 2 if crop == "center" else 0)
    step_in, step_out = frames.sr // gcd(frames.sr, sr), sr // gcd(frames.sr, sr)
    margin = 0 if frames.sr == sr else int(_MARGIN_SECONDS * max(sr, frames.sr) * frames.sr / sr) + 1
    left = max(0, offset * step_in // step_out - margin) // step_in * step_in
    right = min(count, -(-(offset + n) * step_in // step_out) + margin)
    skip = offset - left * step_out // step_in
    wave_S = _finish(frames.read(first + left, right - left), frames, sr)[skip : skip + n]
    return Clip(np.ascontiguousarray(wave_S), seconds, offset / sr)


def _finish(wave_CS: np.ndarray, frames: _Frames, sr: int) -> np.ndarray:
    """Reject NaN and Inf, average the channels, resample."""
    if not np.isfinite(wave_CS).all():
        bad = int((~np.isfinite(wave_CS)).sum())
        raise BadAudio("non_finite", f"{bad} samples are NaN or infinite", source=frames.name)
    wave_S = to_mono(wave_CS, channel_axis=0)
    wave_S = resample(wave_S, rate_in=frames.sr, rate_out=sr)
    return np.ascontiguousarray(wave_S, dtype=np.float32)


def _as_float(wave: np.ndarray, name: str) -> np.ndarray:
    if np.issubdtype(wave.dtype, np.floating):
        return wave.astype(np.float32, copy=False)
    scale = _FULL_SCALE.get(wave.dtype.name)
    if scale is None:
        raise BadAudio("bad_shape", f"dtype {wave.dtype}; expected float, int16 or int32", source=name)
    return wave.astype(np.float32) / np.float32(scale)
