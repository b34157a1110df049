"""Video files read with PyAV: times from a scan of the packets, then only the frames that are asked for are decoded.

What a header promises is not believed: the packets say which frames there are, and a packet or frame that is damaged
is a hole in the video and not its end.

Legend: ``N`` frames of a video, ``T`` frames asked for, ``H, W`` height and width.
"""

from __future__ import annotations

import gc
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from byol_ext._extras import require
from byol_ext.video.samples import VideoInfo, VideoReadError, short_side_size

_COLLECT_EVERY = 64
_MAX_ERRORS = 100
_FIRST_PACKETS = 32
_TEXT_DEMUXERS = {"tty"}
_closed = itertools.count(1)


@dataclass(frozen=True)
class Packets:
    """What the packets of a video stream say.

    Attributes:
        pts_N: Presentation times in units of ``tick`` seconds, ascending.
        keys: Those of key frames, ascending.
        tick: Seconds.
        ordered: Whether the decoder's frames carry these times. If not (raw H.264, H.264 with B-frames in AVI or in an
            MP4 with the times of decoding), frames are told apart by counting from the first one.
        damaged: Whether a packet could not be read or is marked as damaged.
    """

    pts_N: np.ndarray
    keys: np.ndarray
    tick: float
    ordered: bool
    damaged: bool


class PyAVReader:
    """A video file, or the bytes of one, read with PyAV on one thread.

    Pictures are upright (rotation by multiples of 90 degrees in the metadata is applied), 8 bit RGB whatever the pixel
    format, and all of one size. Pixels are taken as square.

    Args:
        source: The file, or its bytes.
        name: Name for messages; the path by default.

    Attributes:
        info: Times and size.

    Raises:
        VideoReadError: ``missing``, ``unreadable``, ``no_video_stream`` or ``no_frames``.
        ImportError: If PyAV is not installed.
    """

    info: VideoInfo

    def __init__(self, source: Path | bytes, *, name: str | None = None) -> None:
        self._av = require("av", extra="vididi")
        self._source = source
        self._name = name if name is not None else "bytes" if isinstance(source, bytes) else str(source)
        self._worth_a_second_look = True
        self._reformatter = require("av.video.reformatter", extra="vididi").VideoReformatter()
        self._container, self._stream = self._open()
        try:
            self._packets, first = scan(self._container, self._stream)
            self._quarter_turns, self.info = self._look(first)
        except BaseException:
            self.close()
            raise

    def frames(self, indices: Sequence[int], *, short_side: int | None = None) -> np.ndarray:
        """See :class:`byol_ext.video.samples.Reader`.

        Raises:
            VideoReadError: ``damaged`` if one of the frames cannot be decoded.
            IndexError: For an index that is not in ``info.times_N``.
        """
        total = len(self.info.times_N)
        outside = [index for index in indices if not 0 <= index < total]
        if outside:
            raise IndexError(f"{self._name}: frame {outside[0]} of {total}")
        height, width = self.info.height, self.info.width
        if short_side is not None:
            height, width = short_side_size(height, width, short_side)
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(index, []).append(place)
        frames_THWC = np.empty((len(indices), height, width, 3), np.uint8)
        missing = set(places)
        try:
            for index, frame in itertools.chain(self._seek_and_decode(sorted(missing)), self._look_again(missing)):
                frames_THWC[places[index]] = self._picture(frame, height, width)
                missing.discard(index)
        except self._av.error.FFmpegError as error:
            raise VideoReadError("damaged", str(error), source=self._name) from error
        if missing:
            detail = f"{len(missing)} of {len(places)} frames cannot be decoded, first of them {min(missing)}"
            raise VideoReadError("damaged", detail, source=self._name)
        return frames_THWC

    @property
    def ordered(self) -> bool:
        """Whether frames carry their times; if not, they are counted from the first one."""
        return self._packets.ordered

    @property
    def container(self) -> str:
        """FFmpeg's name of the container format."""
        return str(self._container.format.name)

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        # PyAV's frames and packets have held each other in cycles, which grow until Python happens to look.
        if next(_closed) % _COLLECT_EVERY == 0:
            gc.collect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> tuple[Any, Any]:
        """Container and its video stream, decoding on one thread: loader workers are the parallelism."""
        # "file:" keeps FFmpeg from reading a colon in the name as a protocol.
        file = io.BytesIO(self._source) if isinstance(self._source, bytes) else f"file:{self._source}"
        try:
            container = self._av.open(file, metadata_errors="replace")
        except FileNotFoundError as error:
            raise VideoReadError("missing", "no such file", source=self._name) from error
        except (self._av.error.FFmpegError, OSError) as error:
            raise VideoReadError("unreadable", str(error), source=self._name) from error
        pictures = self._av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
        if container.format.name in _TEXT_DEMUXERS:
            container.close()
            raise VideoReadError("unreadable", "this is text", source=self._name)
        if not streams:
            container.close()
            raise VideoReadError("no_video_stream", "the file has no video stream", source=self._name)
        if streams[0].codec_context is None:
            container.close()
            raise VideoReadError("unreadable", "FFmpeg has no decoder for its video", source=self._name)
        streams[0].codec_context.thread_count = 1
        return container, streams[0]

    def _look(self, first: Any) -> tuple[int, VideoInfo]:
        """Rotation and size from the first frame that decodes, times from the packets."""
        packets = self._packets
        if not len(packets.pts_N):
            raise VideoReadError("no_frames", "the file holds no packet of video", source=self._name)
        if first is None:
            raise VideoReadError("no_frames", "no frame can be decoded", source=self._name)
        # PyAV gives the rotation counter-clockwise in degrees, as numpy.rot90 turns.
        turns = round(first.rotation / 90) % 4
        height, width = (first.width, first.height) if turns % 2 else (first.height, first.width)
        times_N = (packets.pts_N - packets.pts_N[0]) * packets.tick
        truncated = packets.damaged or self._promises_more(times_N)
        return turns, VideoInfo(times_N, height, width, truncated)

    def _promises_more(self, times_N: np.ndarray) -> bool:
        """Whether frame count or duration in the header go beyond the packets."""
        if self._stream.frames:
            return bool(self._stream.frames > len(times_N))
        tags = self._stream.metadata
        stated = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", tags.get("DURATION") or tags.get("DURATION-eng") or "")
        if stated is None or len(times_N) < 2:
            return False
        hours, minutes, seconds = (float(part) for part in stated.groups())
        step = float(np.median(np.diff(times_N)))
        return 3600 * hours + 60 * minutes + seconds > (times_N[-1] + step) * 1.02 + 2 * step

    def _seek_and_decode(self, wanted: list[int]) -> Iterator[tuple[int, Any]]:
        """Index and frame of those of the (ascending) wanted frames that decode; nothing if frames must be counted."""
        if not (wanted and self._packets.ordered):
            return
        keys = self._packets.keys
        start_of = np.searchsorted(keys, self._packets.pts_N[wanted], side="right") - 1
        # One run for wanted frames in neighbouring groups of pictures: decoding on is cheaper than seeking.
        breaks = np.flatnonzero(np.diff(start_of) > 1) + 1
        for run in np.split(np.arange(len(wanted)), breaks):
            if self._seek(int(start_of[run[0]])):
                yield from self._pick([wanted[i] for i in run], self._decoded())

    def _look_again(self, missing: set[int]) -> Iterator[tuple[int, Any]]:
        """What a first look missed because the container does not seek exactly (MPEG-PS), unless that helps nothing."""
        if missing and self._worth_a_second_look:
            yield from self._decode_from_start(sorted(missing))
            self._worth_a_second_look = not (missing and self._packets.ordered)

    def _decode_from_start(self, wanted: list[int]) -> Iterator[tuple[int, Any]]:
        """The same without a seek. Frames that carry no usable time are counted, up to the first damage."""
        self._container.close()
        self._container, self._stream = self._open()
        if self._packets.ordered:
            yield from self._pick(wanted, self._decoded())
            return
        chosen = set(wanted)
        for index, frame in enumerate(self._decoded(skip_damaged=False)):
            if frame.is_corrupt:
                return
            if index in chosen:
                yield index, frame
            if index >= wanted[-1]:
                return

    def _pick(self, wanted: list[int], frames: Iterator[Any]) -> Iterator[tuple[int, Any]]:
        index_of = {int(self._packets.pts_N[index]): index for index in wanted}
        for frame in frames:
            if frame.pts is None or frame.is_corrupt:
                continue
            if frame.pts in index_of:
                yield index_of[frame.pts], frame
            if frame.pts >= self._packets.pts_N[wanted[-1]]:
                return

    def _seek(self, number: int) -> bool:
        """Go to a key frame or somewhat before it; False if the container does not get there."""
        keys = self._packets.keys
        for target in keys[max(number - 1, 0) : number + 1][::-1]:
            try:
                self._container.seek(int(target), stream=self._stream)
                packets = demux(self._container, self._stream)
                first = next((packet for packet in packets if packet is not None and packet.is_keyframe), None)
                if first is not None and first.pts is not None and first.pts <= keys[number]:
                    self._container.seek(int(target), stream=self._stream)
                    return True
            except self._av.error.FFmpegError:
                return False
        return False

    def _decoded(self, *, skip_damaged: bool = True) -> Iterator[Any]:
        for packet in demux(self._container, self._stream):
            try:
                damaged = packet is None
                if not damaged:
                    yield from self._stream.decode(packet)
            except self._av.error.FFmpegError:
                damaged = True
            if damaged and not skip_damaged:
                return

    def _picture(self, frame: Any, height: int, width: int) -> np.ndarray:
        if self._quarter_turns % 2:
            height, width = width, height
        upright = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="BILINEAR", threads=1
        )
        return np.rot90(upright.to_ndarray(), self._quarter_turns)


def demux(container: Any, stream: Any) -> Iterator[Any]:
    """Packets of a stream, None for a place that cannot be read; an empty packet marks the end."""
    error_type = require("av", extra="vididi").error.FFmpegError
    for _ in range(_MAX_ERRORS):
        try:
            yield from container.demux(stream)
            return
        except error_type:
            yield None


def _times_go_back(container: Any, stream: Any) -> bool:
    """Whether the first frames leave the decoder with times that do not ascend."""
    error_type = require("av", extra="vididi").error.FFmpegError
    last: int | None = None
    try:
        container.seek(0, stream=stream)
        packets = itertools.islice(
            (packet for packet in demux(container, stream) if packet is not None), _FIRST_PACKETS
        )
        for frame in itertools.chain.from_iterable(map(stream.decode, packets)):
            if frame.pts is not None and last is not None and frame.pts <= last:
                return True
            last = frame.pts
    except error_type:
        return False
    return False


def scan(container: Any, stream: Any) -> tuple[Packets, Any]:
    """Read all packets of a stream once; decode only until there is a picture.

    Args:
        container: An open PyAV container at its start; it is at its end afterwards.
        stream: Its video stream.

    Returns:
        Times and key frames, and the first frame that decodes (None without one).
    """
    error_type = require("av", extra="vididi").error.FFmpegError
    times, keys, damaged, first = [], [], False, None
    for packet in demux(container, stream):
        if packet is None:
            damaged = True
            continue
        if packet.is_corrupt:
            damaged = True
        elif packet.size and not packet.is_discard:
            times.append(packet.pts)
            keys.append(packet.is_keyframe)
        if first is None:
            try:
                first = next(iter(stream.decode(packet)), None)
            except error_type:
                damaged = True
    if None in times or (first is not None and first.pts is None):
        tick = 1.0 / float(stream.guessed_rate or 25)
        return Packets(np.arange(len(times)), np.zeros(1, np.int64), tick, ordered=False, damaged=damaged), first
    pts_N = np.array(times, dtype=np.int64)
    # With B-frames, packets in the order of their presentation have the times of decoding instead: AVI stores no
    # others, and some writers of MP4 leave them out.
    suspicious = bool(stream.codec_context.has_b_frames) and bool(np.all(np.diff(pts_N) > 0))
    ordered = not (suspicious and (container.format.name == "avi" or _times_go_back(container, stream)))
    key_pts = np.unique(np.concatenate([pts_N[:1], pts_N[np.array(keys, dtype=bool)]]))
    return Packets(np.unique(pts_N), key_pts, float(stream.time_base), ordered, damaged), first
