"""Video files decoded by torchcodec, where it is installed and finds FFmpeg libraries on the system.

PyAV reads the times, so both readers say the same of a file. It also decodes what torchcodec 0.17 cannot: requests that
touch damaged packets, and containers in which torchcodec fails to seek (MPEG-PS, raw H.264) or comes back with another
frame without saying so (MPEG-TS, AVI with B-frames).
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from byol_ext.video.pyav_reader import PyAVReader
from byol_ext.video.samples import VideoInfo, resize_short_side

_SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}


class TorchcodecReader:
    """A video file, or the bytes of one, decoded by torchcodec on one thread.

    Args:
        source: The file, or its bytes.
        name: Name for messages; the path by default.

    Attributes:
        info: Times and size.

    Raises:
        VideoReadError: ``missing``, ``unreadable``, ``no_video_stream`` or ``no_frames``.
        ImportError: If torchcodec is not installed.
    """

    info: VideoInfo

    def __init__(self, source: Path | bytes, *, name: str | None = None) -> None:
        decoders = importlib.import_module("torchcodec.decoders")
        self._pyav = PyAVReader(source, name=name)
        self.info = self._pyav.info
        self._decoder: Any = None
        if self._pyav.ordered and self._pyav.container in _SEEKABLE:
            # torchcodec reports whatever FFmpeg did not like as a RuntimeError, or a ValueError.
            with contextlib.suppress(RuntimeError, ValueError):
                self._decoder = decoders.VideoDecoder(source, dimension_order="NHWC", num_ffmpeg_threads=1)

    @property
    def in_use(self) -> bool:
        """Whether torchcodec decodes this file; if not, PyAV does."""
        return self._decoder is not None

    def frames(self, indices: Sequence[int], *, short_side: int | None = None) -> np.ndarray:
        """See :class:`byol_ext.video.samples.Reader`."""
        frames_THWC = self._decode(indices)
        return frames_THWC if short_side is None else resize_short_side(frames_THWC, short_side)

    def _decode(self, indices: Sequence[int]) -> np.ndarray:
        inside = all(0 <= index < len(self.info.times_N) for index in indices)
        if self._decoder is not None and inside and len(indices):
            try:
                frames_THWC: np.ndarray = self._decoder.get_frames_played_at(self._moments(indices)).data.numpy()
                return frames_THWC
            except (RuntimeError, ValueError):
                self._decoder = None
        return self._pyav.frames(indices)

    def _moments(self, indices: Sequence[int]) -> list[float]:
        """Seconds at which these frames are on screen: torchcodec counts damaged packets as frames, times do not."""
        times_N = self.info.times_N
        inside = 0.25 * float(np.diff(times_N).min()) if len(times_N) > 1 else 0.0
        begin = float(self._decoder.metadata.begin_stream_seconds)
        return [begin + float(times_N[index]) + inside for index in indices]

    def close(self) -> None:
        """Close the file."""
        self._decoder = None
        self._pyav.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
