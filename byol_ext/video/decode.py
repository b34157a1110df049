"""Open a video, whatever holds it, and choose what decodes it."""

from __future__ import annotations

import functools
import importlib
import io
import logging
from pathlib import Path
from typing import Literal

import numpy as np

from byol_ext._extras import require
from byol_ext.video.frames import FrameFolderReader, open_array
from byol_ext.video.pyav_reader import PyAVReader
from byol_ext.video.samples import Reader
from byol_ext.video.torchcodec_reader import TorchcodecReader

_log = logging.getLogger(__name__)
Backend = Literal["auto", "pyav", "torchcodec"]
"""What decodes video files."""


def open_video(source: Path | bytes, *, name: str | None = None, backend: Backend = "auto") -> Reader:
    """Open a video: a file, the bytes of one, a folder of frames or a ``.npy`` array.

    Args:
        source: What holds the video. A folder holds one picture a frame (:class:`byol_ext.video.frames.
            FrameFolderReader`), a ``.npy`` file an array ``uint8 [N, H, W, 3]`` or ``[N, H, W]``; both at 25 frames a
            second. Use these readers directly for another rate.
        name: Name for messages; the path by default.
        backend: What decodes a video file; see :func:`choose_backend`.

    Returns:
        The reader; use it as a context manager.

    Raises:
        VideoReadError: ``missing``, ``unreadable``, ``no_video_stream`` or ``no_frames``.
        ImportError: If the back end is not installed.

    Example:
        >>> with open_video(two_frame_clip(), backend="pyav") as reader:
        ...     reader.info.fps, reader.frames([1, 0, 1], short_side=16).shape
        (25.0, (3, 16, 16, 3))
    """
    if isinstance(source, Path) and source.is_dir():
        return FrameFolderReader(source, name=name)
    if isinstance(source, Path) and source.suffix == ".npy":
        return open_array(source, name=name)
    if choose_backend(backend) == "torchcodec":
        return TorchcodecReader(source, name=name)
    return PyAVReader(source, name=name)


def choose_backend(backend: Backend = "auto") -> Literal["pyav", "torchcodec"]:
    """What will decode video files.

    Args:
        backend: ``"auto"`` is torchcodec if it decodes a two-frame clip in this process, else PyAV; the log says once
            why torchcodec was not taken. Neither is faster in general (spec 8).

    Returns:
        ``"pyav"`` or ``"torchcodec"``.

    Raises:
        ValueError: For another name.
        ImportError: If torchcodec is asked for by name and cannot decode.
    """
    if backend == "auto":
        return _automatic_backend()
    if backend not in ("pyav", "torchcodec"):
        raise ValueError(f"backend={backend!r}: expected 'auto', 'pyav' or 'torchcodec'")
    if backend == "torchcodec" and (fault := torchcodec_fault()) is not None:
        raise ImportError(f"backend='torchcodec' does not decode here, use 'pyav': {fault}")
    return backend


@functools.cache
def _automatic_backend() -> Literal["pyav", "torchcodec"]:
    fault = torchcodec_fault()
    if fault is None:
        _log.info("videos are decoded by torchcodec")
        return "torchcodec"
    _log.info("videos are decoded by PyAV; torchcodec: %s", fault)
    return "pyav"


@functools.cache
def torchcodec_fault() -> str | None:
    """Why torchcodec cannot be used here, in one line; None if it decoded a clip. Tried once a process.

    It imports where it cannot decode (no FFmpeg libraries on the system), and beside another PyTorch the import itself
    fails with an :class:`OSError`.
    """
    try:
        decoders = importlib.import_module("torchcodec.decoders")
        decoded = decoders.VideoDecoder(two_frame_clip(), num_ffmpeg_threads=1).get_frames_at([0, 1]).data
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {' '.join(lines[:2])}"
    return None if len(decoded) == 2 else f"decoded {len(decoded)} frames of 2"


def two_frame_clip() -> bytes:
    """A video file of two frames of 32 by 32 pixels at 25 frames a second: first black, then white."""
    av = require("av", extra="vididi")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for level in (0, 255):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()
