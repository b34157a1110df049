"""Videos made on the spot."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def write_video(tmp_path: Path) -> Callable[..., Path]:
    """A function that encodes frames and gives the file."""
    av = pytest.importorskip("av")

    def write(
        name: str,
        frames_NHWC: np.ndarray,
        *,
        codec: str = "mpeg4",
        pixels: str = "yuv420p",
        fps: int = 25,
        gop: int = 12,
        options: dict[str, str] | None = None,
        container: str | None = None,
        times: Sequence[float] | None = None,
        rotation: int = 0,
        muxing: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        with av.open(f"file:{path}", "w", format=container, options=muxing or {}) as file:
            stream: Any = file.add_stream(codec, rate=fps, options=options or {})
            stream.height, stream.width = frames_NHWC.shape[1:3]
            stream.pix_fmt = pixels
            stream.codec_context.gop_size = gop
            stream.codec_context.thread_count = 1
            tick = Fraction(1, 1000) if times is not None else Fraction(1, fps)
            stream.codec_context.time_base = tick
            if rotation:
                stream.set_display_rotation(rotation)
            for number, picture in enumerate(frames_NHWC):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts = number if times is None else round(times[number] * 1000)
                frame.time_base = tick
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        return path

    return write


@pytest.fixture
def moving() -> np.ndarray:
    """Forty frames of a moving gradient, 48 by 64 pixels; no two alike."""
    rows, columns = np.mgrid[:48, :64]
    return np.stack([np.stack([columns + 3 * i, rows + 100, np.full_like(rows, 5 * i)], -1) for i in range(40)]).astype(
        np.uint8
    )
