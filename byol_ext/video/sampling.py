"""Which frames of a video make its clips, by frame number or by time (spec sections 5, 8 and 9).

Adjacent pairs and independent clips are for training, evenly spaced ones for evaluation. Short, variable-rate and
damaged videos are dealt with by rules that have names and leave notes, never silently. A *tick* is the unit that clips
are laid out in: one frame, or ``1 / target_fps`` seconds.

Legend: ``V`` clips, ``T`` frames of a clip, ``N`` frames of a video, ``G`` blocks of clips that are drawn as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from byol_ext.video.samples import VideoInfo, VideoReadError

Layout = Literal["adjacent", "independent", "even"]
Short = Literal["shrink_stride", "reflect", "drop", "pad_last", "error"]
VariableRate = Literal["seconds", "index", "error"]

_GAP = 1.5
"""A frame of a damaged video that lasts so many median frames hides missing ones (as ``VideoInfo.variable_rate``)."""
_MAX_DRAWS = 20


@dataclass(frozen=True)
class ClipSampler:
    """Rule that lays clips into videos.

    Args:
        clips: Clips a video (2, spec section 5; 10 in evaluation, section 6).
        frames: Frames of a clip (8; 16 in evaluation).
        stride: Ticks between the frames of a clip (3; 4 in evaluation).
        layout: ``adjacent``: the clips follow each other without overlap, at a random place (default, as the authors);
            ``independent``: each at a random place, in random order; ``even``: spread evenly from the beginning of
            the video to its end, without chance.
        target_fps: Ticks a second. Give it where videos differ in frame rate, since a derivative grows with the time
            between frames. None: a tick is a frame of the video (as the authors).
        short: What to do where a video holds too few frames:

            - ``shrink_stride`` lowers the stride, down to 1; what is still too short is bad.
            - ``reflect`` lowers the stride, then plays to and fro, which turns the motion round: ``even`` only.
            - ``pad_last`` lowers the stride, then repeats the last frame, which makes derivatives of zero.
            - ``drop`` counts a video as bad unless it has *more* than ``clips * frames * stride`` ticks (``frames *
              stride`` where clips are not adjacent), the authors' rule.
            - ``error`` ends the run.
        vfr: How to sample a video of variable frame rate if ``target_fps`` is None: by time, at the rate of its median
            frame (``seconds``); by frame number (``index``); or count it as bad (``error``).

    Raises:
        ValueError: For numbers below 1, or ``reflect`` with a layout for training.

    Example:
        >>> sampler = ClipSampler(clips=3, frames=4, stride=2, layout="even")
        >>> info = VideoInfo(np.arange(20) / 25.0, height=6, width=8)
        >>> sampler.plan(info).draw(np.random.default_rng(0)).tolist()
        [[0, 2, 4, 6], [6, 8, 10, 12], [13, 15, 17, 19]]
    """

    clips: int = 2
    frames: int = 8
    stride: int = 3
    layout: Layout = "adjacent"
    target_fps: float | None = None
    short: Short = "shrink_stride"
    vfr: VariableRate = "seconds"

    def __post_init__(self) -> None:
        if min(self.clips, self.frames, self.stride) < 1:
            raise ValueError(f"clips={self.clips}, frames={self.frames}, stride={self.stride}: expected 1 or more")
        if self.target_fps is not None and not self.target_fps > 0:
            raise ValueError(f"target_fps={self.target_fps}: expected a positive rate, or None for frame numbers")
        if self.short == "reflect" and self.layout != "even":
            raise ValueError(
                f"short='reflect' turns motion round and is for evaluation (layout='even'), "
                f"got layout={self.layout!r}; use short='shrink_stride'"
            )

    @property
    def random(self) -> bool:
        """Whether each epoch gets other clips."""
        return self.layout != "even"

    def plan(self, info: VideoInfo, *, start: float = 0.0, end: float | None = None, source: str = "video") -> ClipPlan:
        """Fit the rule to a video.

        Args:
            info: What the reader knows of it.
            start: Second where the part to be used begins.
            end: Second where it ends; None for the end of the video.
            source: Name of the video for errors.

        Returns:
            A plan that clips are drawn from.

        Raises:
            VideoReadError: ``no_frames``, ``variable_frame_rate`` or ``short``.
            ValueError: If the video is short and ``short="error"``.
        """
        axis, notes = self._axis(info, start, end, source)
        stride, fill = self._stride(axis, source)
        if stride < self.stride or fill is not None:
            notes = (*notes, "short")
        if fill is not None:
            notes = (*notes, {"reflect": "reflected", "pad_last": "padded"}[fill])
        if axis.rate is not None and stride / axis.rate < 0.99 * axis.step:
            notes = (*notes, "repeated_frames")
        return ClipPlan(self, axis, stride, fill, notes, source)

    def span(self, stride: int) -> int:
        """Ticks from the first frame to the last, both counted, of what is drawn as one: all clips, or one clip."""
        return (self.frames * (self.clips if self.layout == "adjacent" else 1) - 1) * stride + 1

    def _axis(self, info: VideoInfo, start: float, end: float | None, source: str) -> tuple[_Axis, tuple[str, ...]]:
        """The frames between start and end, and how ticks fall on them."""
        first = int(np.searchsorted(info.times_N, start - 1e-6))
        last = len(info.times_N) if end is None else int(np.searchsorted(info.times_N, end - 1e-6))
        times_N = np.asarray(info.times_N[first:last], dtype=np.float64)
        if not len(times_N):
            part = "" if start == 0.0 and end is None else f" between {start:g} s and {end} s"
            raise VideoReadError("no_frames", f"no frame{part}", source=source)
        notes: tuple[str, ...] = ("truncated",) if info.truncated else ()
        rate, step = self.target_fps, _median_step(times_N)
        if rate is None and step > 0.0 and info.variable_rate and self.vfr != "index":
            # Gaps of a damaged video look like a variable rate; by time they stay where they are.
            if not info.truncated:
                if self.vfr == "error":
                    detail = "frames last differently long; set vfr='seconds' or target_fps"
                    raise VideoReadError("variable_frame_rate", detail, source=source)
                notes = (*notes, "variable_rate")
            rate = 1.0 / step
        return _Axis(first, times_N, step, rate, gaps=info.truncated), notes

    def _stride(self, axis: _Axis, source: str) -> tuple[int, Literal["reflect", "pad_last"] | None]:
        """Largest stride up to the wanted one at which the clips fit, and how to fill up where none does."""
        wanted = self.span(self.stride)
        if self.short == "drop":
            fits = axis.ticks > wanted + self.stride - 1
        else:
            fits = axis.ticks >= wanted
        if fits:
            return self.stride, None
        detail = f"{axis.ticks} frames, {wanted} needed at stride {self.stride}"
        if self.short == "error":
            raise ValueError(f"{source}: {detail}; set short to 'shrink_stride', 'drop' or 'pad_last'")
        if self.short == "drop":
            raise VideoReadError("short", f"{detail}, and short='drop' wants {self.stride} more", source=source)
        for stride in range(self.stride - 1, 0, -1):
            if axis.ticks >= self.span(stride):
                return stride, None
        if self.short == "shrink_stride":
            raise VideoReadError("short", f"{axis.ticks} frames, {self.span(1)} needed at stride 1", source=source)
        return 1, self.short


@dataclass(frozen=True)
class ClipPlan:
    """Clips of one video; made by :meth:`ClipSampler.plan`.

    Attributes:
        sampler: The rule.
        stride: Stride after shortening.
        fill: How clips are filled up beyond the end of the video, if they must be.
        notes: What is odd about the video: ``truncated``, ``variable_rate``, ``short``,
            ``reflected``, ``padded``, ``repeated_frames`` (``target_fps`` is above its own rate).
        source: Name of the video for errors.
    """

    sampler: ClipSampler
    _axis: _Axis
    stride: int
    fill: Literal["reflect", "pad_last"] | None
    notes: tuple[str, ...]
    source: str

    @property
    def blocks(self) -> int:
        """Number ``G`` of things drawn separately: 1 for adjacent clips, else one for each clip."""
        return 1 if self.sampler.layout == "adjacent" else self.sampler.clips

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Frame numbers of the clips.

        Args:
            rng: Draws the places; with ``layout="even"`` it is used only where the proper place is damaged.

        Returns:
            int64 ``[V, T]``, positions in ``VideoInfo.times_N``.

        Raises:
            VideoReadError: ``damaged``, if no place without a gap was found.
        """
        if self.sampler.layout == "even":
            room = self._room()
            ticks = np.linspace(0.0, room, self.sampler.clips) if self.sampler.clips > 1 else [room / 2]
            blocks = [self._block(self._axis.frame_at(float(tick))) for tick in ticks]
            blocks = [self.redraw(rng) if self._axis.touches_gap(block) else block for block in blocks]
        else:
            blocks = [self.redraw(rng) for _ in range(self.blocks)]
        return np.concatenate(blocks).reshape(self.sampler.clips, self.sampler.frames)

    def redraw(self, rng: np.random.Generator) -> np.ndarray:
        """Frame numbers of one block at a random place: all clips where they are adjacent, else one.

        Args:
            rng: Draws the place.

        Returns:
            int64 ``[V * T]`` or ``[T]``.

        Raises:
            VideoReadError: ``damaged``, if no place without a gap was found.
        """
        for _ in range(_MAX_DRAWS):
            block = self._block(self._axis.random_frame(rng, self._room()))
            if not self._axis.touches_gap(block):
                return block
        raise VideoReadError("damaged", f"no clip without a gap in {_MAX_DRAWS} draws", source=self.source)

    def _room(self) -> int:
        """Ticks that the beginning of a block can move."""
        return max(self._axis.ticks - self.sampler.span(self.stride), 0)

    def _block(self, start: int) -> np.ndarray:
        """Frames of a block whose first is the ``start``-th of the axis."""
        ticks = np.arange(0, self.sampler.span(self.stride), self.stride)
        last = self._axis.ticks - 1
        if self.fill == "pad_last":
            ticks = np.minimum(ticks, last)
        elif self.fill == "reflect":
            ticks = last - np.abs(last - ticks % max(2 * last, 1))
        return self._axis.frames(start, ticks)


@dataclass(frozen=True)
class _Axis:
    """Frames of (a part of) a video and the ticks on them.

    Attributes:
        first: Number of the first frame in the whole video.
        times_N: Times of the frames in seconds.
        step: Seconds that the median frame lasts.
        rate: Ticks a second; None where a tick is a frame.
        gaps: Whether a long frame means that others are missing.
    """

    first: int
    times_N: np.ndarray
    step: float
    rate: float | None
    gaps: bool

    @property
    def ticks(self) -> int:
        """How many ticks there are."""
        if self.rate is None:
            return len(self.times_N)
        # Half a frame of tolerance: containers round times, and the last frame lasts, too.
        return int((self.times_N[-1] - self.times_N[0] + self.step / 2) * self.rate + 1e-6) + 1

    def frame_at(self, tick: float) -> int:
        """The frame on the axis at a tick from its beginning."""
        return round(tick) if self.rate is None else int(self._shown(self.times_N[0] + tick / self.rate))

    def random_frame(self, rng: np.random.Generator, room: int) -> int:
        """A frame within the first ``room`` ticks, both ends included, uniform over frames or over time."""
        return self.frame_at(float(rng.integers(room + 1)) if self.rate is None else rng.uniform(0.0, room))

    def frames(self, start: int, ticks_K: np.ndarray) -> np.ndarray:
        """Frame numbers in the whole video at ticks after the ``start``-th frame of the axis."""
        # Time counts from a frame, not from where chance fell, so that rounded times repeat or skip no frame.
        on_axis = start + ticks_K if self.rate is None else self._shown(self.times_N[start] + ticks_K / self.rate)
        return self.first + np.asarray(on_axis, dtype=np.int64)

    def touches_gap(self, frames_K: np.ndarray) -> bool:
        """Whether frames are missing between the first and the last of these."""
        if not self.gaps:
            return False
        # By time, the last frame may stand for one that is missing after it.
        beyond = 1 if self.rate is None else 2
        steps = np.diff(self.times_N[frames_K.min() - self.first : frames_K.max() - self.first + beyond])
        return bool((steps > _GAP * self.step).any())

    def _shown(self, seconds: np.ndarray | float) -> np.ndarray:
        """The frame that is on show at a time: the nearest, unless a long one is still there."""
        later = np.searchsorted(self.times_N, np.asarray(seconds) + 0.49 * self.step, side="right")
        return np.clip(later - 1, 0, len(self.times_N) - 1)


def _median_step(times_N: np.ndarray) -> float:
    """Seconds that the median frame lasts; frames without duration do not count."""
    steps = np.diff(times_N)
    steps = steps[steps > 0.0]
    return float(np.median(steps)) if len(steps) else 0.0
