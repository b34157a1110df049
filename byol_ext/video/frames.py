"""Videos that are already frames: a folder with one picture a frame, or an array in a ``.npy`` file.

Legend: ``N`` frames of a video, ``T`` frames asked for, ``H, W`` height and width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from byol_ext._extras import require
from byol_ext.video.samples import VideoInfo, VideoReadError, resize_short_side

_PICTURES = {".jpg", ".jpeg", ".png", ".webp"}


class FrameFolderReader:
    """A folder with one picture a frame (``image_00001.jpg``, …), in the order of the number that ends each name.

    Numbers need neither start at 1 nor follow each other; a hole in them is a hole in the video (frames keep the times
    that their numbers give). Pictures of other sizes than the first are scaled to its size.

    Args:
        folder: The folder.
        fps: Frames a second of the numbers; the folder does not say.
        name: Name for messages; the folder by default.

    Attributes:
        info: Times and size.

    Raises:
        VideoReadError: ``missing``, ``no_frames``, or ``unreadable`` if the first picture cannot be read.
    """

    info: VideoInfo

    def __init__(self, folder: Path, *, fps: float = 25.0, name: str | None = None) -> None:
        self._name = name if name is not None else str(folder)
        if not folder.is_dir():
            raise VideoReadError("missing", "no such folder", source=self._name)
        numbered = sorted(
            (int(digits[-1]), path)
            for path in folder.iterdir()
            if path.suffix.lower() in _PICTURES and (digits := re.findall(r"\d+", path.stem))
        )
        if not numbered:
            raise VideoReadError("no_frames", "the folder holds no numbered pictures", source=self._name)
        numbers = np.array([number for number, _ in numbered])
        if len(np.unique(numbers)) < len(numbers):
            raise VideoReadError("unreadable", "two pictures have the same number", source=self._name)
        self._paths = [path for _, path in numbered]
        try:
            height, width = self._picture(0).shape[:2]
        except VideoReadError as error:
            raise VideoReadError("unreadable", error.detail, source=self._name) from error
        holes = numbers[-1] - numbers[0] + 1 > len(numbers)
        self.info = VideoInfo((numbers - numbers[0]) / fps, height, width, truncated=bool(holes))

    def frames(self, indices: Sequence[int], *, short_side: int | None = None) -> np.ndarray:
        """See :class:`byol_ext.video.samples.Reader`."""
        pictures = {index: self._picture(index) for index in set(indices)}
        shape = (self.info.height, self.info.width, 3)
        for index, picture in pictures.items():
            if picture.shape != shape:
                pictures[index] = _scaled(picture, shape[1], shape[0])
        frames_THWC = np.stack([pictures[index] for index in indices])
        return frames_THWC if short_side is None else resize_short_side(frames_THWC, short_side)

    def _picture(self, index: int) -> np.ndarray:
        """A picture as RGB, ``uint8 [H, W, 3]``."""
        image = require("PIL.Image", extra="vididi")
        path = self._paths[index]
        try:
            with image.open(path) as picture:
                return np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise VideoReadError("damaged", f"{path.name}: {error}", source=self._name) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def _scaled(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    image = require("PIL.Image", extra="vididi")
    return np.asarray(image.fromarray(picture).resize((width, height), image.Resampling.BILINEAR))


class StoredFramesReader:
    """Frames in memory, or mapped into it, each with its own time.

    Args:
        frames_NHWC: ``uint8 [N, H, W, 3]``.
        times_N: Seconds, ascending from 0.

    Attributes:
        info: Times and size.
    """

    info: VideoInfo

    def __init__(self, frames_NHWC: np.ndarray, times_N: np.ndarray) -> None:
        self._frames_NHWC = frames_NHWC
        self.info = VideoInfo(times_N, frames_NHWC.shape[1], frames_NHWC.shape[2])

    def frames(self, indices: Sequence[int], *, short_side: int | None = None) -> np.ndarray:
        """See :class:`byol_ext.video.samples.Reader`."""
        frames_THWC = np.array(self._frames_NHWC[np.asarray(indices, dtype=np.int64)])
        return frames_THWC if short_side is None else resize_short_side(frames_THWC, short_side)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def open_stored_frames(
    path: Path, *, offset: int, shape: tuple[int, int, int, int], times: Sequence[float]
) -> StoredFramesReader:
    """Raw frames inside a larger file, mapped into memory: only the frames asked for are read.

    Args:
        path: The file.
        offset: Where the frames begin, in bytes.
        shape: ``(N, H, W, 3)``.
        times: Seconds of each frame, ascending from 0.

    Returns:
        The reader.

    Raises:
        VideoReadError: ``missing``, or ``unreadable`` if the file ends before the frames do.
    """
    try:
        frames = np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=shape)
    except FileNotFoundError as error:
        raise VideoReadError("missing", "no such file", source=str(path)) from error
    except (OSError, ValueError) as error:
        raise VideoReadError("unreadable", str(error), source=str(path)) from error
    return StoredFramesReader(frames, np.asarray(times, dtype=np.float64))


def open_array(path: Path, *, fps: float = 25.0, name: str | None = None) -> StoredFramesReader:
    """A video in a ``.npy`` file, mapped into memory: only the frames asked for are read.

    Args:
        path: File with ``uint8 [N, H, W, 3]``, or ``[N, H, W]`` (grey).
        fps: Frames a second; the file does not say.
        name: Name for messages; the path by default.

    Returns:
        The reader; its frames are even at ``fps``.

    Raises:
        VideoReadError: ``missing``, ``unreadable`` (not such an array) or ``no_frames``.
    """
    source = name if name is not None else str(path)
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise VideoReadError("missing", "no such file", source=source) from error
    except (OSError, ValueError, EOFError) as error:
        raise VideoReadError("unreadable", str(error), source=source) from error
    if frames.dtype != np.uint8 or not (frames.ndim == 3 or (frames.ndim == 4 and frames.shape[3] == 3)):
        found = f"{frames.dtype} {list(frames.shape)}"
        raise VideoReadError("unreadable", f"got {found}, expected uint8 [N, H, W, 3] or [N, H, W]", source=source)
    if not frames.size:
        raise VideoReadError("no_frames", "the array is empty", source=source)
    if frames.ndim == 3:
        frames = np.broadcast_to(frames[..., None], (*frames.shape, 3))
    return StoredFramesReader(frames, np.arange(len(frames)) / fps)
