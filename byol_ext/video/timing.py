"""What reading a clip costs, measured."""

from __future__ import annotations

import time

import numpy as np

from byol_ext.video.samples import VideoSource


def seconds_per_read(
    source: VideoSource, *, frames: int = 16, stride: int = 3, short_side: int = 128, samples: int = 16, seed: int = 0
) -> float:
    """Processor seconds to open a video and read frames from it, the mean over some videos.

    Args:
        source: The videos; those drawn must be readable.
        frames: Frames to read (two clips of eight).
        stride: Frames from one to the next; fewer where a video is too short.
        short_side: Scale to this many pixels, unless frames are smaller.
        samples: Videos to read.
        seed: Draws the videos and the places in them.

    Returns:
        Seconds of this process.

    Raises:
        VideoReadError: If a video cannot be read.
    """
    rng = np.random.default_rng(seed)
    begin = time.process_time()
    for position in rng.integers(0, len(source), samples):
        with source[int(position)].open() as reader:
            total = len(reader.info.times_N)
            step = max(min(stride, total // frames), 1)
            first = int(rng.integers(0, max(total - frames * step, 0) + 1))
            indices = [min(first + step * k, total - 1) for k in range(frames)]
            reader.frames(indices, short_side=min(short_side, reader.info.height, reader.info.width))
    return (time.process_time() - begin) / samples
