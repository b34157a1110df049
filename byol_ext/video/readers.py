"""Sources from folders of videos, and from UCF101 and HMDB51 as they are published (spec section 8)."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from byol_ext.video.decode import open_video
from byol_ext.video.files import VIDEO_SUFFIXES, Missing, Opener, VideoFiles, last_word, listed_videos, stem, text_lines
from byol_ext.video.samples import PHOTOGRAPHED, Invariance, VideoList, VideoSample

_log = logging.getLogger(__name__)
_UCF_GROUP = re.compile(r"_(g\d+)_c\d+$", re.IGNORECASE)
_UCF_COUNTS = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}
"""Train and test videos of each split (1: spec section 8; 2 and 3: second-hand)."""
_HMDB_COUNTS = (3570, 1530)


def video_folder(
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    invariances: frozenset[Invariance] = PHOTOGRAPHED,
    opener: Opener = open_video,
) -> VideoList:
    """Videos below a folder: sub-folders are classes; without sub-folders the videos are unlabelled.

    Args:
        root: The folder.
        classes: Names of the sub-folders in the order of the labels; alphabetical by default.
        invariances: What the labels survive.
        opener: Opens a path.

    Returns:
        The videos in alphabetical order; ``key`` is the path below the root.

    Raises:
        FileNotFoundError: If there is no such folder, or no video in it.
        ValueError: If some videos lie in sub-folders and some do not, or a sub-folder is not among ``classes``.
    """
    files = VideoFiles(root)
    if not files.names:
        raise FileNotFoundError(
            f"{root}: no video found ({', '.join(sorted(VIDEO_SUFFIXES))}, .npy, folders of frames)"
        )
    flat = [name for name in files.names if "/" not in name]
    if flat and len(flat) < len(files.names):
        raise ValueError(
            f"{root}: {len(flat)} of {len(files.names)} videos lie in the folder itself (e.g. {flat[0]!r}), the "
            "others in sub-folders; expected one sub-folder a class, or none"
        )
    found = [] if flat else sorted({name.partition("/")[0] for name in files.names})
    names = list(classes) if classes is not None and not flat else found
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise ValueError(f"{root}: sub-folders {unknown[:3]} are not among the {len(names)} classes given")
    label = {name: i for i, name in enumerate(names)}
    samples = [
        VideoSample(name, functools.partial(opener, files.root / name), label.get(name.partition("/")[0]))
        for name in files.names
    ]
    return VideoList(samples, names, invariances, name=files.root.name)


def ucf101(
    videos: str | Path,
    annotations: str | Path,
    *,
    train: bool,
    split: int = 1,
    missing: Missing = "error",
    opener: Opener = open_video,
) -> VideoList:
    """UCF101 by its official lists.

    Classes come from folders and labels, never from file names: the files of ``HandstandPushups`` are called
    ``v_HandStandPushups_*``. The group is class and ``gXX``: clips of one group come from one video.

    Args:
        videos: Folder of ``Class/v_Class_gXX_cYY.avi``, of re-encoded files, or of folders of frames.
        annotations: Folder of ``classInd.txt``, ``trainlist01.txt`` and ``testlist01.txt``.
        train: Train list or test list.
        split: 1, 2 or 3.
        missing: Whether a video that is not there is an error or left out.
        opener: Opens a path.

    Returns:
        The videos in the order of the list.

    Raises:
        FileNotFoundError: If a list is not there, or videos are missing.
        ValueError: For a malformed line; names file, line and what was expected.
    """
    classes = _class_index(Path(annotations) / "classInd.txt")
    label_of = {name.lower(): i for i, name in enumerate(classes)}
    path = Path(annotations) / f"{'train' if train else 'test'}list{split:02d}.txt"
    rows = []
    for where, line in text_lines(path):
        name, number = last_word(line)
        if not number.isdecimal():
            name, number = line, ""
        name = name.replace("\\", "/")
        label = label_of.get(name.rpartition("/")[0].rpartition("/")[2].lower())
        listed = int(number) - 1 if number else label
        if listed is None or not 0 <= listed < len(classes) or label not in (None, listed):
            raise ValueError(
                f"{where}: {line!r}: expected 'Class/video.avi' with a class of classInd.txt and its number"
            )
        group = _UCF_GROUP.search(stem(name))
        rows.append((name, listed, f"{classes[listed]}_{group[1]}" if group else None))
    _check_count(path, len(rows), _UCF_COUNTS.get(split, (0, 0))[0 if train else 1])
    return listed_videos(rows, VideoFiles(videos), classes, missing=missing, where=path, opener=opener)


def hmdb51(
    videos: str | Path,
    annotations: str | Path,
    *,
    train: bool,
    split: int = 1,
    missing: Missing = "error",
    opener: Opener = open_video,
) -> VideoList:
    """HMDB51 by its official lists.

    The group is what a file name says before its class: the film or video that the clip was cut from.

    Args:
        videos: Folder of ``class/name.avi``, of re-encoded files, or of folders of frames.
        annotations: Folder of ``<class>_test_split<1|2|3>.txt``.
        train: Train videos (marked 1; 70 a class) or test videos (2; 30 a class). Those marked 0 are not used.
        split: 1, 2 or 3.
        missing: Whether a video that is not there is an error or left out.
        opener: Opens a path.

    Returns:
        The videos by class, in the order of the lists.

    Raises:
        FileNotFoundError: If there is no list of this split, or videos are missing.
        ValueError: For a malformed line; names file, line and what was expected.
    """
    ending = f"_test_split{split}.txt"
    lists = sorted(path for path in Path(annotations).iterdir() if path.name.endswith(ending))
    if not lists:
        raise FileNotFoundError(f"{annotations}: no file named <class>{ending}")
    classes = [path.name.removesuffix(ending) for path in lists]
    rows = []
    for label, path in enumerate(lists):
        for where, line in text_lines(path):
            name, use = last_word(line)
            if use not in {"0", "1", "2"}:
                raise ValueError(f"{where}: {line!r}: expected 'name.avi' and 0, 1 (train) or 2 (test)")
            if use == ("1" if train else "2"):
                group = name.rpartition(f"_{classes[label]}_")[0] or None
                rows.append((f"{classes[label]}/{name}", label, group))
    _check_count(Path(annotations), len(rows), _HMDB_COUNTS[0 if train else 1])
    return listed_videos(rows, VideoFiles(videos), classes, missing=missing, where=annotations, opener=opener)


def _class_index(path: Path) -> list[str]:
    """Class names of ``classInd.txt`` in order."""
    names: dict[int, str] = {}
    for where, line in text_lines(path):
        number, *name = line.split(None, 1)
        if not number.isdecimal() or not name or int(number) in names:
            raise ValueError(f"{where}: {line!r}: expected a number of its own and a class name")
        names[int(number)] = name[0]
    if sorted(names) != list(range(1, len(names) + 1)):
        raise ValueError(f"{path}: classes are numbered {sorted(names)[:5]}…, expected 1 to {len(names)}")
    return [names[i] for i in sorted(names)]


def _check_count(where: Path, found: int, expected: int) -> None:
    if expected and found != expected:
        _log.warning("%s names %d videos; the published list has %d", where, found, expected)
