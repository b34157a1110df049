"""The videos of a run: MotionSprites made by code, or whatever the configuration's paths hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from byol_ext.video.motion_sprites import MotionSprites
from byol_ext.video.samples import ArrayReader, VideoList, VideoSample, VideoSource
from byol_ext.video.sources import open_source, recognise
from recipes.vididi_config import DataConfig
from recipes.vididi_recorded import INDEX, VIDEOS, RecordedVideos

SPRITES = "motion-sprites"


@dataclass(frozen=True)
class Splits:
    """Training videos, and test videos where there are any."""

    train: VideoSource
    test: VideoSource | None


def open_splits(data: DataConfig, *, seed: int = 0) -> Splits:
    """Open the training and the test videos.

    Args:
        data: Where they are.
        seed: Seed of MotionSprites: another seed, other videos.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a path does not hold what it is said to.
    """
    if data.train == SPRITES:
        sprites = MotionSprites("train", data.videos, seed=seed, camera=data.camera, size=data.size)
        test = replace(sprites, split="test", n=data.test_videos)
        return Splits(share(rendered(sprites), data.fraction), rendered(test))
    return Splits(share(_open(data, data.train, "train"), data.fraction), _test(data))


def _test(data: DataConfig) -> VideoSource | None:
    """The test videos; a data set with official lists, or with a folder for it, has some of its own."""
    if data.test:
        return _open(data, data.test, "test")
    path = Path(data.train)
    listed = data.format in ("ucf101", "hmdb51") or is_recorded(path)
    lists = Path(data.annotations) if data.annotations else None
    if not listed and data.format == "auto":
        listed = recognise(path, annotations=lists, split="train") in ("ucf101", "hmdb51")
    return _open(data, data.train, "test") if listed or (path / "test").is_dir() else None


def _open(data: DataConfig, path: str, split: str) -> VideoSource:
    if is_recorded(Path(path)):
        return RecordedVideos(path, split)
    return open_source(
        path,
        format=data.format,
        split=split,
        fold=data.split,
        annotations=data.annotations or None,
        missing=data.missing,
        backend=data.backend,
    )


def is_recorded(path: Path) -> bool:
    """Whether a folder was made by ``byol-ext vididi data``."""
    return (path / INDEX).is_file() and (path / VIDEOS).is_file()


def rendered(sprites: MotionSprites) -> VideoList:
    """MotionSprites drawn once and kept in memory (19 MB for 2048 small ones): drawing one takes milliseconds."""
    videos_NTHWC = sprites.videos(range(sprites.n))
    photographs_N, labels_N = sprites.photographs, sprites.labels
    samples = [
        VideoSample(
            key=f"{sprites.split}-{i:06d}",
            open=partial(ArrayReader, videos_NTHWC[i]),
            label=int(labels_N[i]),
            facts={"photograph": int(photographs_N[i])},
        )
        for i in range(sprites.n)
    ]
    return VideoList(samples, sprites.classes, sprites.invariances, sprites.fingerprint)


def share(source: VideoSource, fraction: float) -> VideoSource:
    """A part of a source, evenly spaced over it.

    Args:
        source: The videos.
        fraction: Share of them, in (0, 1].
    """
    if fraction == 1.0:
        return source
    rows = np.linspace(0, len(source) - 1, max(round(fraction * len(source)), 1)).round().astype(int)
    name = f"{source.fingerprint}-share-{fraction:g}"
    return VideoList([source[int(i)] for i in rows], source.classes, source.invariances, name)
