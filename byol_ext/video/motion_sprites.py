"""MotionSprites-8: eight motions of a digit over a photograph, made from what scikit-learn ships (spec vididi 10).

A sprite moves over a crop of a photograph; the label is how it moves. The frame is a torus and every motion starts at a
uniform place and phase, so at each time the sprite's place is uniform whatever the label: single frames have the same
law in all classes, and a model of one frame is at chance by construction.

Legend: ``N`` videos, ``S`` sprites, ``T`` frames, ``H, W`` height and width, ``C`` channels (1 grey, 3 colour). A place
is (row, column) of the upper left corner, rows counted downwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from typing import Literal, NamedTuple

import numpy as np
import torch

from byol_ext.rng import keyed_uniform, sample_keys
from byol_ext.video.samples import ArrayReader, Invariance, VideoSample

CLASSES = (
    "right",
    "left",
    "up",
    "down",
    "orbit clockwise",
    "orbit counter-clockwise",
    "oscillate horizontally",
    "oscillate vertically",
)
"""Names of the labels, in their order."""
PHOTOGRAPHS = ("china", "flower")
"""Names of the backgrounds."""
SPEED, RADIUS, DRIFT = (0.8, 2.0), (3.5, 6.0), (-1.0, 1.0)
"""Ranges of uniform laws, in pixels (a frame) of a frame of 24 x 24: along the path, of it, and of the background."""
SIDE = 24
_FULL = 16
_SPLITS = ("train", "test")
_TRAIN_DIGITS, _TRAIN_COLUMNS = 1200, 420
_CHUNK = 256


class Scenes(NamedTuple):
    """What is drawn: all that is random about some videos.

    Attributes:
        label_N: Motion, an index of :data:`CLASSES`; ``id % 8``, so that classes are as even as they can be.
        photograph_N: Background, an index of :data:`PHOTOGRAPHS`.
        glyph_NS: Position of each sprite among scikit-learn's digits.
        light_N: Whether the sprites are drawn light (True) or dark.
        ink_NC: Their colour, ``uint8``.
        place_NST2: Place of each sprite in each frame, in ``[0, side)``.
        window_NT2: Place of the frame in the photograph.
    """

    label_N: np.ndarray
    photograph_N: np.ndarray
    glyph_NS: np.ndarray
    light_N: np.ndarray
    ink_NC: np.ndarray
    place_NST2: np.ndarray
    window_NT2: np.ndarray


@dataclass(frozen=True)
class MotionSprites:
    """A source of videos (:class:`byol_ext.video.samples.VideoSource`), and the same videos as one array.

    A video depends on the seed, the split and its id alone. Train and test share neither digits nor a part of a
    photograph. What the spec leaves open: path speed is the same law in all classes, so an orbit turns by speed over
    radius a frame, and an oscillation is the projection of an orbit on one axis.

    Args:
        split: Digits 0 - 1199 and the left 420 columns of the photographs (``"train"``), or the rest (``"test"``).
        n: Number of videos (spec: 2048 for training, 500 for testing).
        seed: Another seed, other videos.
        camera: ``"fixed"`` background, or ``"moving"``: it drifts evenly, independently of the label.
        size: Side of the square frame in pixels, 24 or a multiple; sprites and motions grow with it.
        colour: Colour photographs and tinted sprites instead of grey.
        sprites: Sprites in a video. All follow its label, each with a digit, place, phase, speed and radius of its own.
        length: Frames of a video.

    Raises:
        ValueError: For a split, camera, size or number outside these.

    Example:
        >>> train = MotionSprites("train", 64)
        >>> train.videos([0, 9]).shape, train.classes[train.labels[9]], sorted(train.invariances)
        ((2, 16, 24, 24, 1), 'left', ['blur', 'colour', 'crop', 'grey'])
    """

    split: Literal["train", "test"]
    n: int
    seed: int = 0
    camera: Literal["fixed", "moving"] = "fixed"
    size: int = SIDE
    colour: bool = False
    sprites: int = 1
    length: int = 16

    def __post_init__(self) -> None:
        if self.split not in _SPLITS or self.camera not in ("fixed", "moving"):
            raise ValueError(f"got split {self.split!r}, camera {self.camera!r}: expected train|test and fixed|moving")
        if min(self.n, self.sprites, self.length) < 1:
            raise ValueError(f"n={self.n}, sprites={self.sprites}, length={self.length}: expected at least 1 of each")
        room = min(part.shape[1] for part in _photographs(self.split, self.colour))
        way = DRIFT[1] * self._scale * self.length if self.camera == "moving" else 0
        if self.size < SIDE or self.size % SIDE or self.size + way > room:
            raise ValueError(
                f"size={self.size}: expected a multiple of {SIDE} that, with the way a moving camera goes in "
                f"{self.length} frames, fits the photographs' part for {self.split}"
            )

    @property
    def classes(self) -> Sequence[str]:
        """Names of the labels."""
        return CLASSES

    @property
    def invariances(self) -> frozenset[Invariance]:
        """Neither flips nor playing backwards: they turn one class into another."""
        return frozenset({"crop", "colour", "grey", "blur"})

    @property
    def fingerprint(self) -> str:
        """All parameters."""
        return "motion-sprites-" + "-".join(str(getattr(self, field.name)) for field in fields(self))

    @property
    def labels(self) -> np.ndarray:
        """Label of each video, ``int64 [N]``."""
        return np.arange(self.n) % len(CLASSES)

    @property
    def photographs(self) -> np.ndarray:
        """Background of each video, ``int64 [N]``: the target of the appearance probe."""
        return self.scenes(range(self.n)).photograph_N

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> VideoSample:
        if not -self.n <= index < self.n:
            raise IndexError(f"video {index} of {self.n}")
        index %= self.n
        scene = self.scenes([index])
        digit, photograph = int(_digits().target[scene.glyph_NS[0, 0]]), int(scene.photograph_N[0])
        return VideoSample(
            key=f"{self.split}-{index:06d}",
            open=partial(_open, self, index),
            label=int(scene.label_N[0]),
            facts={
                "class": CLASSES[scene.label_N[0]],
                "photograph": photograph,
                "digit": digit,
                "light": int(scene.light_N[0]),
            },
        )

    def videos(self, ids: Sequence[int] | np.ndarray | torch.Tensor) -> np.ndarray:
        """Frames of these videos.

        Args:
            ids: Their positions, each in ``[0, n)``.

        Returns:
            ``uint8 [N, T, H, W, C]``.

        Raises:
            IndexError: For an id outside.
        """
        ids = self._checked(ids)
        out = np.empty((len(ids), self.length, self.size, self.size, 3 if self.colour else 1), np.uint8)
        for part in _chunks(len(ids)):
            out[part] = self._render(self.scenes(ids[part]))
        return out

    def masks(self, ids: Sequence[int] | np.ndarray | torch.Tensor) -> np.ndarray:
        """Where the sprites are: the pixels that any of them covers, if only a little.

        Args:
            ids: Positions of videos, each in ``[0, n)``.

        Returns:
            ``bool [N, T, H, W]``.
        """
        ids = self._checked(ids)
        out = np.zeros((len(ids), self.length, self.size, self.size), np.bool_)
        for part in _chunks(len(ids)):
            for cover_NTHW in self._covers(self.scenes(ids[part])):
                out[part] |= cover_NTHW > 0
        return out

    def scenes(self, ids: Sequence[int] | np.ndarray | torch.Tensor) -> Scenes:
        """What these videos show, without drawing them.

        Args:
            ids: Positions of videos, each in ``[0, n)``.
        """
        ids = self._checked(ids)
        keys_N = sample_keys(self.seed, _SPLITS.index(self.split), torch.from_numpy(ids))
        about_NK = keyed_uniform(keys_N, 9).double().numpy()
        of_sprites_NK = keyed_uniform(keys_N, 6 * self.sprites, stream=1).double().numpy()
        sprites_NSK = of_sprites_NK.reshape(len(ids), self.sprites, 6)
        label_N, photograph_N = ids % len(CLASSES), _pick(about_NK[:, 0], 0, len(PHOTOGRAPHS))
        first, last = (0, _TRAIN_DIGITS) if self.split == "train" else (_TRAIN_DIGITS, len(_digits().target))
        path_NST2 = self._paths(label_N, sprites_NSK)
        start_NS12 = sprites_NSK[:, :, None, :2] * self.size
        return Scenes(
            label_N=label_N,
            photograph_N=photograph_N,
            glyph_NS=_pick(sprites_NSK[:, :, 5], first, last),
            light_N=about_NK[:, 1] < 0.5,
            ink_NC=self._ink(about_NK[:, 1] < 0.5, about_NK[:, 6:9]),
            place_NST2=np.floor(start_NS12 + path_NST2).astype(np.int64) % self.size,
            window_NT2=self._windows(photograph_N, about_NK[:, 2:6]),
        )

    @property
    def _scale(self) -> int:
        return self.size // SIDE

    def _checked(self, ids: Sequence[int] | np.ndarray | torch.Tensor) -> np.ndarray:
        array = np.asarray(ids, dtype=np.int64).reshape(-1)
        if array.size and not (array.min() >= 0 and array.max() < self.n):
            raise IndexError(f"ids from {array.min()} to {array.max()}: expected 0 to {self.n - 1}")
        return array

    def _paths(self, label_N: np.ndarray, uniform_NSK: np.ndarray) -> np.ndarray:
        """Displacement (rows, columns) from a start, in pixels: ``[N, S, T, 2]``."""
        speed_NS1 = _between(SPEED, uniform_NSK[:, :, 2:3]) * self._scale
        radius_NS1 = _between(RADIUS, uniform_NSK[:, :, 3:4]) * self._scale
        time_T = np.arange(self.length)
        along_NST = speed_NS1 * time_T
        angle_NST = 2 * np.pi * uniform_NSK[:, :, 4:5] + along_NST / radius_NS1
        # Rows grow downwards, so an angle that grows turns clockwise on the screen.
        sine_NST, cosine_NST = radius_NS1 * np.sin(angle_NST), radius_NS1 * np.cos(angle_NST)
        none_NST = np.zeros_like(along_NST)
        motions = (
            (none_NST, along_NST),
            (none_NST, -along_NST),
            (-along_NST, none_NST),
            (along_NST, none_NST),
            (sine_NST, cosine_NST),
            (-sine_NST, cosine_NST),
            (none_NST, cosine_NST),
            (sine_NST, none_NST),
        )
        path_NST2 = np.empty((*along_NST.shape, 2))
        for label, (rows_NST, columns_NST) in enumerate(motions):
            chosen_N = label_N == label
            path_NST2[chosen_N] = np.stack([rows_NST[chosen_N], columns_NST[chosen_N]], axis=-1)
        return path_NST2

    def _windows(self, photograph_N: np.ndarray, uniform_NK: np.ndarray) -> np.ndarray:
        """Place of the frame in the photograph, ``[N, T, 2]``; uniform among those that stay inside it."""
        drift_N2 = _between(DRIFT, uniform_NK[:, 2:4]) * self._scale * (self.camera == "moving")
        way_NT2 = np.rint(drift_N2[:, None] * np.arange(self.length)[:, None]).astype(np.int64)
        limits_N2 = (
            np.array([part.shape[:2] for part in _photographs(self.split, self.colour)])[photograph_N] - self.size
        )
        low_N2, high_N2 = -way_NT2.min(axis=1), limits_N2 - way_NT2.max(axis=1)
        return _pick(uniform_NK[:, :2], low_N2, high_N2 + 1)[:, None] + way_NT2

    def _ink(self, light_N: np.ndarray, tint_NC: np.ndarray) -> np.ndarray:
        """White or black; with colour up to 96 levels off it in each channel."""
        off_NC = np.floor(97 * tint_NC) if self.colour else np.zeros((len(light_N), 1))
        return np.where(light_N[:, None], 255 - off_NC, off_NC).astype(np.uint8)

    def _covers(self, scenes: Scenes) -> Iterator[np.ndarray]:
        """How much of each pixel a sprite covers, in sixteenths: ``[N, T, H, W]``, sprite by sprite."""
        side = np.arange(self.size)
        videos_N111 = np.arange(len(scenes.label_N))[:, None, None, None]
        for glyph_N, place_NT2 in zip(scenes.glyph_NS.T, scenes.place_NST2.swapaxes(0, 1), strict=True):
            canvas_NHW = np.zeros((len(glyph_N), self.size, self.size), np.uint8)
            glyph_NHW = _digits().images[glyph_N].repeat(self._scale, 1).repeat(self._scale, 2)
            canvas_NHW[:, : glyph_NHW.shape[1], : glyph_NHW.shape[2]] = glyph_NHW
            rows_NTH = (side - place_NT2[:, :, :1]) % self.size
            columns_NTW = (side - place_NT2[:, :, 1:]) % self.size
            yield canvas_NHW[videos_N111, rows_NTH[..., None], columns_NTW[:, :, None, :]]

    def _render(self, scenes: Scenes) -> np.ndarray:
        side = np.arange(self.size)
        rows_NTH, columns_NTW = scenes.window_NT2[:, :, :1] + side, scenes.window_NT2[:, :, 1:] + side
        shape = (*rows_NTH.shape, self.size, scenes.ink_NC.shape[1])
        out_NTHWC = np.empty(shape, np.uint8)
        for index, picture_HWC in enumerate(_photographs(self.split, self.colour)):
            chosen_N = scenes.photograph_N == index
            out_NTHWC[chosen_N] = picture_HWC[rows_NTH[chosen_N][..., None], columns_NTW[chosen_N][:, :, None, :]]
        ink_N111C = scenes.ink_NC[:, None, None, None].astype(np.uint16)
        for cover_NTHW in self._covers(scenes):
            cover_NTHW1 = cover_NTHW[..., None].astype(np.uint16)
            mixed = out_NTHWC * (_FULL - cover_NTHW1) + ink_N111C * cover_NTHW1
            out_NTHWC = ((mixed + _FULL // 2) // _FULL).astype(np.uint8)
        return out_NTHWC


class _Digits(NamedTuple):
    images: np.ndarray
    target: np.ndarray


@cache
def _digits() -> _Digits:
    """Scikit-learn's digits, ``uint8 [1797, 8, 8]`` from 0 to 16, and which digit each is."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _Digits(digits.images.astype(np.uint8), digits.target)


@cache
def _photographs(split: str, colour: bool) -> tuple[np.ndarray, ...]:
    """A split's part of scikit-learn's two photographs, ``uint8 [427, columns, C]`` each."""
    from sklearn.datasets import load_sample_images

    columns = slice(0, _TRAIN_COLUMNS) if split == "train" else slice(_TRAIN_COLUMNS, None)
    parts = [picture[:, columns] for picture in load_sample_images().images]
    return tuple(np.ascontiguousarray(part) if colour else _grey(part) for part in parts)


def _grey(picture_HWC: np.ndarray) -> np.ndarray:
    """Luma (ITU-R BT.601), one channel."""
    luma_HW = picture_HWC.astype(np.uint32) @ np.array([299, 587, 114], np.uint32)
    return ((luma_HW + 500) // 1000).astype(np.uint8)[..., None]


def _between(limits: tuple[float, float], uniform: np.ndarray) -> np.ndarray:
    return limits[0] + (limits[1] - limits[0]) * uniform


def _pick(uniform: np.ndarray, low: int | np.ndarray, high: int | np.ndarray) -> np.ndarray:
    """Integers in ``[low, high)``."""
    return np.floor(low + uniform * (high - low)).astype(np.int64)


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, n, _CHUNK))


def _open(source: MotionSprites, index: int) -> ArrayReader:
    frames_THWC = source.videos([index])[0]
    return ArrayReader(frames_THWC if source.colour else frames_THWC.repeat(3, axis=-1))
