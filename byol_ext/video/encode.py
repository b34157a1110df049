"""Write frames as a small H.264 file that is quick to seek in.

Legend: ``T`` frames of a batch, ``H, W`` height and width.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from byol_ext._extras import require

_TICKS = 90_000


def write_mp4(
    path: Path, batches: Iterable[tuple[np.ndarray, np.ndarray]], *, gop: int = 8, crf: int = 20, preset: str = "fast"
) -> None:
    """Encode frames as H.264 without B-frames, each at its own time, on one thread.

    Without B-frames and with short groups of pictures a clip costs a seek and at most ``gop - 1`` frames more than it
    holds. YUV 4:2:0 needs even sizes: an odd last row or column is left out. The file is written beside ``path`` and
    put in place at the end.

    Args:
        path: The ``.mp4`` file.
        batches: Consecutive frames ``uint8 [T, H, W, 3]`` and their times in seconds ``[T]``, ascending.
        gop: Frames from one key frame to the next.
        crf: x264's constant quality; smaller is better and larger.
        preset: x264's preset.

    Raises:
        ValueError: If there is no frame.
        ImportError: If PyAV is not installed.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        _encode(temporary, batches, gop=gop, crf=crf, preset=preset)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def _encode(path: Path, batches: Iterable[tuple[np.ndarray, np.ndarray]], *, gop: int, crf: int, preset: str) -> None:
    av = require("av", extra="vididi")
    options = {"crf": str(crf), "preset": preset, "bf": "0", "sc_threshold": "0"}
    with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = None
        for frames_THWC, times_T in batches:
            height, width = (size // 2 * 2 for size in frames_THWC.shape[1:3])
            if stream is None:
                stream = container.add_stream("libx264", options=options)
                stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
                stream.codec_context.gop_size = gop
                stream.codec_context.thread_count = 1
                stream.codec_context.time_base = Fraction(1, _TICKS)
            for picture, time in zip(frames_THWC, times_T, strict=True):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
                frame.pts, frame.time_base = round(float(time) * _TICKS), Fraction(1, _TICKS)
                container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError(f"{path}: no frame to write")
        container.mux(stream.encode(None))
