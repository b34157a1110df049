"""A source for whatever a path holds: shards, lists, published data sets, folders, caches."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from byol_ext.video.cache import is_cache, open_cache
from byol_ext.video.decode import Backend, open_video
from byol_ext.video.files import Missing, Opener, VideoFiles
from byol_ext.video.kinetics import csv_splits, is_kinetics_csv, kinetics_csv, path_list
from byol_ext.video.readers import hmdb51, ucf101, video_folder
from byol_ext.video.samples import VideoList
from byol_ext.video.webdataset import video_shards

_log = logging.getLogger(__name__)
Format = Literal["auto", "folder", "frames", "ucf101", "hmdb51", "kinetics", "webdataset", "cache"]
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate"),
    "test": ("test", "testing", "val", "valid", "validation", "validate"),
}
"""What a split may be called, best first; many data sets test on what they call validation."""
_LIST_SUFFIXES = (".csv", ".txt", ".tsv", ".lst")
_ANNOTATION_FOLDERS = ("", "ucfTrainTestlist", "testTrainMulti_7030_splits", "annotations", "splits")


def open_source(
    path: str | Path,
    *,
    format: Format = "auto",  # noqa: A002
    split: str | None = None,
    fold: int = 1,
    annotations: str | Path | None = None,
    classes: Sequence[str] | None = None,
    missing: Missing = "error",
    backend: Backend = "auto",
) -> VideoList:
    """Videos of a path.

    Recognised, in this order: tar shards (a file, a brace range, a glob); a list (the official csv of Kinetics, else
    ``path label`` or ``path 0 -1``); UCF101 and HMDB51, whose lists lie in ``annotations``, in the folder, or in a
    usual sub-folder; a cache; a folder of tar shards; a folder of class folders, of videos, or of folders of frames.

    Args:
        path: Where the videos are, or the list of them (then they are looked for beside it).
        format: What the path is, if it should not be guessed; ``kinetics`` means a list of either kind, which is
            ``annotations`` or the path itself.
        split: ``train``, ``val`` or ``test``; None for all. Chooses the official list, the rows of a csv, or the
            sub-folder of that name.
        fold: Official split of UCF101 and HMDB51: 1, 2 or 3.
        annotations: Folder of official lists, or a list.
        classes: Names of the labels in order.
        missing: Whether a video that a list names and that is not there is an error or left out.
        backend: Decoder.

    Returns:
        The source.

    Raises:
        FileNotFoundError: If something does not exist.
        ValueError: If the path does not hold what ``format`` says, or has no such split.
    """
    opener = functools.partial(open_video, backend=backend)
    root, lists = Path(path), None if annotations is None else Path(annotations)
    kind = recognise(root, annotations=lists, split=split) if format == "auto" else format
    part = _split_folder(root, split) or root
    if kind == "webdataset":
        return video_shards(part, classes=classes, opener=opener)
    if kind == "cache":
        return open_cache(part)
    if kind == "kinetics":
        return _listed(root, lists, split, classes, missing, opener)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of videos")
    if kind in ("ucf101", "hmdb51"):
        return _published(root, lists, kind == "ucf101", split, fold, missing, opener)
    return _folder(root, split, classes, opener)


def recognise(path: Path, *, annotations: Path | None = None, split: str | None = None) -> Format:
    """What a path is; see :func:`open_source`.

    Args:
        path: Videos or a list.
        annotations: Folder of official lists, or a list.
        split: Its sub-folder is looked into, too.

    Raises:
        FileNotFoundError: If there is nothing, or a file that is neither shard nor list.
    """
    if path.suffix == ".tar" and not path.is_dir():
        return "webdataset"
    for place in (annotations, path):
        if place is not None and place.is_file():
            if place.suffix.lower() in _LIST_SUFFIXES:
                return "kinetics"
            raise FileNotFoundError(f"{place}: expected a list ({', '.join(_LIST_SUFFIXES)}), tar shards or a folder")
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder, list or shard")
    if _ucf_lists(annotations or path) is not None:
        return "ucf101"
    if _hmdb_lists(annotations or path) is not None:
        return "hmdb51"
    folder = _split_folder(path, split) or path
    if is_cache(folder):
        return "cache"
    return "webdataset" if any(file.suffix == ".tar" for file in folder.iterdir()) else "folder"


def _listed(
    path: Path,
    annotations: Path | None,
    split: str | None,
    classes: Sequence[str] | None,
    missing: Missing,
    opener: Opener,
) -> VideoList:
    """Videos of a list, beside it or in the folder given with it."""
    file, folder = (annotations, path) if annotations is not None else (path, path.parent)
    if not is_kinetics_csv(file):
        return path_list(file, root=folder, classes=classes, missing=missing, opener=opener)
    found = csv_splits(file)
    row_split = next((name for name in _names_of(split) if name in found), None)
    if split is not None and row_split is None and len(found) > 1:
        raise ValueError(f"{file}: no row has split {split!r}; the splits are {sorted(found)}")
    return kinetics_csv(file, folder, split=row_split, classes=classes, missing=missing, opener=opener)


def _published(
    path: Path, annotations: Path | None, ucf: bool, split: str | None, fold: int, missing: Missing, opener: Opener
) -> VideoList:
    """UCF101 or HMDB51 with the lists where they are found."""
    if split not in ("train", "test"):
        raise ValueError(
            f"split={split!r}: UCF101 and HMDB51 have 'train' and 'test'; cut validation from train by group"
        )
    lists = (_ucf_lists if ucf else _hmdb_lists)(annotations or path)
    if lists is None:
        wanted = "classInd.txt and trainlist01.txt" if ucf else "<class>_test_split1.txt"
        raise FileNotFoundError(f"{annotations or path}: no {wanted}; pass the folder of the lists as annotations")
    read = ucf101 if ucf else hmdb51
    return read(path, lists, train=split == "train", split=fold, missing=missing, opener=opener)


def _folder(path: Path, split: str | None, classes: Sequence[str] | None, opener: Opener) -> VideoList:
    """A folder, or the part of it that is named like the split, with the classes of all parts."""
    parts = [part for names in _SPLIT_NAMES.values() for name in names if (part := path / name).is_dir()]
    if split is None or not parts:
        if split not in (None, "train"):
            _log.warning("%s has no folder for split %r; all its videos are used", path, split)
        return video_folder(path, classes=classes, opener=opener)
    chosen = _split_folder(path, split)
    if chosen is None:
        raise ValueError(f"{path}: no folder for split {split!r}; there are {sorted({part.name for part in parts})}")
    if classes is None:
        classes = sorted({name.partition("/")[0] for part in parts for name in VideoFiles(part).names if "/" in name})
    return video_folder(chosen, classes=classes, opener=opener)


def _split_folder(path: Path, split: str | None) -> Path | None:
    return next((path / name for name in _names_of(split) if (path / name).is_dir()), None)


def _names_of(split: str | None) -> Sequence[str]:
    return () if split is None else _SPLIT_NAMES.get(split, (split,))


def _ucf_lists(folder: Path) -> Path | None:
    return next((place for name in _ANNOTATION_FOLDERS if ((place := folder / name) / "classInd.txt").is_file()), None)


def _hmdb_lists(folder: Path) -> Path | None:
    places = [folder / name for name in _ANNOTATION_FOLDERS if (folder / name).is_dir()]
    return next((p for p in places if any(f.name.endswith("_test_split1.txt") for f in p.iterdir())), None)
