"""What a video is, before anything is decoded: samples, sources, readers, and the one error that means "unusable".

Legend: ``N`` frames of a video, ``T`` of a clip, ``H, W`` height and width; frames are ``uint8 [T, H, W, 3]``, RGB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F

Invariance = Literal["hflip", "reverse", "crop", "colour", "grey", "blur"]
"""A change of a clip that a data set's labels may survive."""
PHOTOGRAPHED: frozenset[Invariance] = frozenset({"hflip", "crop", "colour", "grey", "blur"})
"""What the labels of action data sets survive: everything but playing backwards."""


class VideoReadError(ValueError):
    """A video that cannot be used.

    Attributes:
        reason: One word for counting: ``missing``, ``unreadable``, ``no_video_stream``, ``no_frames``, ``damaged``,
            ``short``, ``variable_frame_rate``, ``static``.
        detail: What happened.
        source: File or key.
    """

    def __init__(self, reason: str, detail: str, *, source: str) -> None:
        super().__init__(f"{source}: {reason}: {detail}")
        self.reason, self.detail, self.source = reason, detail, source

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_error, (self.reason, self.detail, self.source)


def _rebuild_error(reason: str, detail: str, source: str) -> VideoReadError:
    return VideoReadError(reason, detail, source=source)


@dataclass(frozen=True)
class VideoInfo:
    """What a reader knows of a video after looking at its packets.

    Attributes:
        times_N: Presentation time of each frame in seconds, ascending from 0. What a header promises and the file does
            not hold is not among them.
        height: Height of the upright picture in pixels.
        width: Its width.
        truncated: Whether the file holds less than it promises, or some of its packets are damaged.
    """

    times_N: np.ndarray
    height: int
    width: int
    truncated: bool = False

    @property
    def fps(self) -> float:
        """Mean frames a second; 0 for a single frame."""
        span = float(self.times_N[-1] - self.times_N[0]) if len(self.times_N) > 1 else 0.0
        return (len(self.times_N) - 1) / span if span > 0 else 0.0

    @property
    def variable_rate(self) -> bool:
        """Whether some frame lasts more than one and a half times as long as the median one, or less than half."""
        steps = np.diff(self.times_N)
        return bool(len(steps)) and bool(
            (steps.max() > 1.5 * np.median(steps)) | (steps.min() < 0.5 * np.median(steps))
        )


class Reader(Protocol):
    """An open video; a context manager."""

    @property
    def info(self) -> VideoInfo:
        """What is known of it."""
        ...

    def frames(self, indices: Sequence[int], *, short_side: int | None = None) -> np.ndarray:
        """Frames at these indices, in their order; an index may occur more than once.

        Args:
            indices: Positions in ``info.times_N``.
            short_side: Scale frames so that the short side has this many pixels; None keeps them.

        Returns:
            ``uint8 [T, H, W, 3]``.

        Raises:
            VideoReadError: If one of these frames cannot be decoded (``damaged``).
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class VideoSample:
    """One video, or a segment of one.

    Attributes:
        key: Name that identifies it.
        open: Opens it; raises :class:`VideoReadError`. Picklable.
        label: Class, or None.
        group: What must not be split between training and validation (UCF101's ``gXX``: one source video).
        start: Seconds where the segment begins.
        end: Seconds where it ends; None for the end of the video.
        facts: Whatever else is known of it, such as ``{"photograph": 1}``.
    """

    key: str
    open: Callable[[], Reader] = field(compare=False)
    label: int | None = None
    group: str | None = None
    start: float = 0.0
    end: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class VideoSource(Protocol):
    """Map-style: ``len``, and one sample at a position that never changes."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the labels; empty without labels."""
        ...

    @property
    def invariances(self) -> frozenset[Invariance]:
        """What the labels survive; augmentation that breaks them is refused."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names the data: another list of videos has another one."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> VideoSample: ...


@dataclass(frozen=True)
class VideoList:
    """A source from a sequence of samples.

    Attributes:
        samples: The samples.
        classes: Names of the labels.
        invariances: What the labels survive.
        name: Name of the data set, for the fingerprint.
    """

    samples: Sequence[VideoSample]
    classes: Sequence[str] = ()
    invariances: frozenset[Invariance] = PHOTOGRAPHED
    name: str = "videos"

    @property
    def fingerprint(self) -> str:
        """Name and a digest of all keys and labels."""
        digest = hashlib.blake2b(digest_size=8)
        for sample in self.samples:
            digest.update(
                f"{sample.key}\t{sample.label}\t{sample.start}\t{sample.end}\n".encode(errors="backslashreplace")
            )
        return f"{self.name}-{len(self.samples)}-{digest.hexdigest()}"

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> VideoSample:
        return self.samples[index]


@dataclass(frozen=True)
class ArrayReader:
    """Frames in memory as a reader.

    Args:
        frames_NHWC: ``uint8 [N, H, W, 3]``.
        fps: Frames a second.

    Example:
        >>> with ArrayReader(np.zeros((4, 6, 8, 3), np.uint8), fps=10.0) as reader:
        ...     reader.frames([0, 3]).shape, float(reader.info.times_N[-1])
        ((2, 6, 8, 3), 0.3)
    """

    frames_NHWC: np.ndarray
    fps: float = 25.0

    @property
    def info(self) -> VideoInfo:
        """Times at an even rate."""
        n, height, width = self.frames_NHWC.shape[:3]
        return VideoInfo(np.arange(n) / self.fps, height, width)

    def frames(self, indices: Sequence[int], *, short_side: int | None = None) -> np.ndarray:
        """See :class:`Reader`."""
        frames = self.frames_NHWC[np.asarray(indices, dtype=np.int64)]
        return frames if short_side is None else resize_short_side(frames, short_side)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width with this short side and the same aspect.

    Example:
        >>> short_side_size(240, 320, 120)
        (120, 160)
    """
    scale = short_side / min(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def resize_short_side(frames_THWC: np.ndarray, short_side: int) -> np.ndarray:
    """Frames scaled (bilinear, antialiased) so that the short side has so many pixels.

    Args:
        frames_THWC: ``uint8 [T, H, W, C]``.
        short_side: Pixels.
    """
    height, width = short_side_size(frames_THWC.shape[1], frames_THWC.shape[2], short_side)
    if (height, width) == frames_THWC.shape[1:3]:
        return frames_THWC
    frames_TCHW = torch.from_numpy(np.ascontiguousarray(frames_THWC)).permute(0, 3, 1, 2)
    scaled = F.interpolate(frames_TCHW, size=(height, width), mode="bilinear", antialias=True)
    return scaled.permute(0, 2, 3, 1).contiguous().numpy()
