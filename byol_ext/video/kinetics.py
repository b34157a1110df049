"""Kinetics by its official csv, and lists of videos as PySlowFast and VideoMAE have them (spec section 8).

Videos of Kinetics vanish, so missing files are normal: they are counted and logged, and left out unless told otherwise.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from byol_ext.video.decode import open_video
from byol_ext.video.files import Missing, Opener, VideoFiles, last_word, report_missing, text_lines
from byol_ext.video.samples import PHOTOGRAPHED, Invariance, VideoList, VideoSample

_COLUMNS = ("youtube_id", "time_start", "time_end")


def kinetics_csv(
    path: str | Path,
    videos: str | Path,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    cut: bool = True,
    missing: Missing = "skip",
    opener: Opener = open_video,
) -> VideoList:
    """The official csv: ``label,youtube_id,time_start,time_end,split[,is_cc]``; the test list has no ``label``.

    Args:
        path: The csv.
        videos: Folder that holds ``{youtube_id}_{start:06d}_{end:06d}.mp4``, at any depth and with any suffix of a
            video; the names of sub-folders do not matter.
        split: Keep the rows of this split only.
        classes: Names of the labels in order; by default those of the whole csv, alphabetically.
        cut: True if each file is the clip; False if it is the whole ``{youtube_id}.mp4``, to be read between
            ``time_start`` and ``time_end``.
        missing: Whether a video that is not there is left out or an error.
        opener: Opens a path.

    Returns:
        The videos in the order of the csv.

    Raises:
        FileNotFoundError: If the csv or the folder does not exist, or videos are missing.
        ValueError: For a missing column, a malformed row (names file and line), an unknown split or label.
    """
    rows = list(_csv_rows(Path(path)))
    found = sorted({label for _, _, label, _, _ in rows if label})
    names = list(classes) if classes is not None else found
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise ValueError(f"{path}: labels {unknown[:3]} are not among the {len(names)} classes given")
    wanted = [row for row in rows if split is None or row[1] == split]
    if rows and not wanted:
        raise ValueError(f"{path}: no row has split {split!r}; the splits are {sorted({row[1] for row in rows})}")
    label_of = {name: i for i, name in enumerate(names)}
    files = VideoFiles(videos)
    samples, absent = [], []
    for youtube_id, _, label, start, end in wanted:
        key = f"{youtube_id}_{start:06d}_{end:06d}"
        name = files.find(key if cut else youtube_id, match_case=True)
        if name is None:
            absent.append(key)
            continue
        segment = (0.0, None) if cut else (float(start), float(end))
        number = label_of[label] if label else None
        samples.append(VideoSample(key, functools.partial(opener, files.root / name), number, youtube_id, *segment))
    report_missing(absent, len(wanted), missing=missing, where=path, root=videos)
    return VideoList(samples, names, name=Path(path).stem)


def path_list(
    path: str | Path,
    *,
    root: str | Path | None = None,
    separator: str | None = None,
    classes: Sequence[str] | None = None,
    invariances: frozenset[Invariance] = PHOTOGRAPHED,
    missing: Missing = "skip",
    opener: Opener = open_video,
) -> VideoList:
    """A list with a video a line: ``path label`` (PySlowFast, VideoMAE fine-tuning) or ``path 0 -1`` (VideoMAE).

    Numbers are taken from the end of a line, so a path may hold the separator. Lines that end in ``-1`` have no label.

    Args:
        path: The list.
        root: Folder that relative paths start from; the folder of the list by default.
        separator: What stands between path and numbers; white space by default.
        classes: Names of the labels in order; their numbers by default.
        invariances: What the labels survive.
        missing: Whether a video that is not there is left out or an error.
        opener: Opens a path.

    Returns:
        The videos in the order of the list; ``key`` is the path as listed.

    Raises:
        FileNotFoundError: If the list does not exist, or videos are missing.
        ValueError: For a malformed line or a label without a class; names file and line.
    """
    folder = Path(root) if root is not None else Path(path).parent
    samples, absent, highest = [], [], -1
    for where, line in text_lines(Path(path)):
        name, label = _path_and_label(where, line, separator)
        if label is not None and classes is not None and label >= len(classes):
            raise ValueError(f"{where}: label {label}, but there are {len(classes)} classes, counted from 0")
        highest = max(highest, -1 if label is None else label)
        if (folder / name).exists():
            samples.append(VideoSample(name, functools.partial(opener, folder / name), label))
        else:
            absent.append(name)
    report_missing(absent, len(samples) + len(absent), missing=missing, where=path, root=folder)
    names = list(classes) if classes is not None else [str(i) for i in range(highest + 1)]
    return VideoList(samples, names, invariances, name=Path(path).stem)


def is_kinetics_csv(path: Path) -> bool:
    """Whether a file begins with the header of an official csv."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return "youtube_id" in file.readline()


def csv_splits(path: Path) -> set[str]:
    """Splits that the rows of an official csv name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For a malformed row.
    """
    return {split for _, split, _, _, _ in _csv_rows(path)}


def _path_and_label(where: str, line: str, separator: str | None) -> tuple[str, int | None]:
    name, number = last_word(line, separator)
    if number == "-1" and last_word(name, separator)[1].isdecimal():
        return last_word(name, separator)[0], None
    if not (number.isdecimal() or number == "-1"):
        raise ValueError(
            f"{where}: {line!r}: expected 'path label' or 'path 0 -1'; is {separator or 'white space'!r} the separator?"
        )
    return name, int(number) if number != "-1" else None


def _csv_rows(path: Path) -> Iterator[tuple[str, str, str, int, int]]:
    """Id, split, label, start and end of each row."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        absent = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if absent:
            raise ValueError(f"{path}: no column {absent[0]!r}; the columns are {list(reader.fieldnames or ())}")
        for row in reader:
            try:
                start, end = int(float(row["time_start"])), int(float(row["time_end"]))
                youtube_id = row["youtube_id"].strip()
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{path}:{reader.line_num}: expected an id and two times, got {row}") from error
            if not youtube_id or end <= start:
                raise ValueError(f"{path}:{reader.line_num}: id {youtube_id!r} from {start} s to {end} s")
            yield youtube_id, (row.get("split") or "").strip(), (row.get("label") or "").strip(), start, end
