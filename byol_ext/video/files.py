"""Videos on disk: finding them by the names that lists use, and making sources of them.

File names are compared with what is there and never handed to a glob or a shell: HMDB51's hold brackets, ``!``, ``&``
and ``#``. A video is a file with one of :data:`VIDEO_SUFFIXES`, an ``.npy`` array, or a folder of numbered pictures.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from byol_ext.video.samples import Reader, VideoList, VideoSample

_log = logging.getLogger(__name__)

Missing = Literal["error", "skip"]
VIDEO_SUFFIXES: frozenset[str] = frozenset(
    f".{name}" for name in ["mp4", "avi", "webm", "mkv", "mov", "m4v", "mpg", "mpeg", "wmv", "flv", "3gp", "ogv", "ts"]
)
"""What names of video files end in."""
_ARRAY_SUFFIX = ".npy"
_PICTURE = re.compile(r".*\d\.(jpe?g|png|webp)", re.IGNORECASE)


class Opener(Protocol):
    """Opens a path or bytes, as :func:`byol_ext.video.decode.open_video` does; picklable."""

    def __call__(self, source: Path | bytes, /, *, name: str | None = None) -> Reader:
        """Open it; ``name`` is for messages.

        Raises:
            VideoReadError: If it cannot be used.
        """
        ...


class VideoFiles:
    """The videos below a folder, found by name whatever their case and suffix.

    Lists name ``v_X.avi`` where a cache holds ``v_x.mp4`` or a folder of frames ``v_X``.

    Args:
        root: The folder; files whose names begin with a dot are passed over, links are followed.

    Attributes:
        root: The folder.
        names: Paths below it with ``/``, in order.

    Raises:
        FileNotFoundError: If there is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder of videos")
        self.names = sorted(_walk(self.root, "", {self.root.resolve()}))
        self._by_path: dict[str, list[str]] = defaultdict(list)
        self._by_base: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self._by_path[stem(name).lower()].append(name)
            self._by_base[stem(name).rpartition("/")[2].lower()].append(name)

    def find(self, name: str, *, match_case: bool = False) -> str | None:
        """The video of this name.

        Args:
            name: Path below the root; if nothing is there, its last part is sought anywhere below.
            match_case: Whether another case is another video.

        Returns:
            One of ``names``, or None.

        Raises:
            ValueError: If several fit and none is exactly that.
        """
        wanted = name.replace("\\", "/").removeprefix("./")
        for found in (self._by_path.get(stem(wanted).lower(), []), self._by_base.get(_base(wanted).lower(), [])):
            if match_case:
                found = [other for other in found if _base(other) == _base(wanted)]
            found = [other for other in found if stem(other) == stem(wanted)] or found
            found = [other for other in found if other == wanted] or found
            if len(found) > 1:
                raise ValueError(f"{self.root}: {name!r} may be any of {found[:3]}; keep one of them")
            if found:
                return found[0]
        return None


def listed_videos(
    rows: Sequence[tuple[str, int | None, str | None]],
    files: VideoFiles,
    classes: Sequence[str],
    *,
    missing: Missing,
    where: str | Path,
    opener: Opener,
    match_case: bool = False,
) -> VideoList:
    """A source of the videos that a list names.

    Args:
        rows: Name, label and group of each.
        files: What is there.
        classes: Names of the labels.
        missing: Whether a video that is not there is an error or left out.
        where: The list, for messages.
        opener: Opens a path.
        match_case: As in :meth:`VideoFiles.find`.

    Raises:
        FileNotFoundError: If videos are missing, or all are.
        ValueError: If a name may mean several videos.
    """
    samples, absent = [], []
    for name, label, group in rows:
        found = files.find(name, match_case=match_case)
        if found is None:
            absent.append(name)
        else:
            samples.append(VideoSample(name, functools.partial(opener, files.root / found), label, group))
    report_missing(absent, len(rows), missing=missing, where=where, root=files.root)
    return VideoList(samples, classes, name=f"{files.root.name}-{Path(where).stem}")


def report_missing(absent: Sequence[str], total: int, *, missing: Missing, where: str | Path, root: str | Path) -> None:
    """Log how many videos of a list are not there, or refuse to go on.

    Raises:
        FileNotFoundError: If some are missing and that is an error, or if all are, or the list is empty.
    """
    if total == 0:
        raise FileNotFoundError(f"{where}: the list names no video")
    if not absent:
        return
    text = f"{where}: {len(absent)} of {total} videos are not in {root}, e.g. {list(absent[:3])}"
    if len(absent) == total:
        raise FileNotFoundError(f"{text}; check the folder")
    if missing == "error":
        raise FileNotFoundError(f"{text}; set missing='skip' to go on without them")
    _log.warning("%s; going on without them", text)


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines of a list with their place ``file:number``, stripped, without blank ones; any line ending.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines(), 1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def last_word(line: str, separator: str | None = None) -> tuple[str, str]:
    """What stands before and after the last separator (white space); the line and nothing if there is none.

    Example:
        >>> last_word("my clip.avi 3"), last_word("clip.avi")
        (('my clip.avi', '3'), ('clip.avi', ''))
    """
    before, *after = (part.strip() for part in line.rsplit(separator, 1))
    return before, after[0] if after else ""


def stem(name: str) -> str:
    """A path without the suffix of a video, if it has one.

    Example:
        >>> stem("a/b.c.avi"), stem("a/Mr. Smith")
        ('a/b.c', 'a/Mr. Smith')
    """
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in VIDEO_SUFFIXES | {_ARRAY_SUFFIX} else name


def _base(name: str) -> str:
    return stem(name).rpartition("/")[2]


def _walk(folder: Path, prefix: str, seen: set[Path]) -> Iterator[str]:
    """Names of the videos below a folder."""
    with os.scandir(folder) as scan:
        entries = [entry for entry in scan if not entry.name.startswith(".")]
    pictures = any(_PICTURE.fullmatch(entry.name) for entry in entries)
    if prefix and pictures and not any(entry.is_dir() or stem(entry.name) != entry.name for entry in entries):
        yield prefix.removesuffix("/")
        return
    for entry in entries:
        if entry.is_dir():
            resolved = Path(entry.path).resolve()
            if resolved not in seen:
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", seen | {resolved})
        elif stem(entry.name) != entry.name:
            yield prefix + entry.name
