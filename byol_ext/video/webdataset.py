"""Videos in tar shards of the WebDataset layout: ``key.mp4`` with ``key.cls`` or ``key.json`` (spec section 8).

A shard is scanned once and its index stored beside it; training then shuffles over all shards and resumes exactly.
A video is read from its shard into memory when it is opened.
"""

from __future__ import annotations

import functools
import json
import logging
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from byol_ext.tar_shards import shard_paths, stored_index
from byol_ext.video.decode import open_video
from byol_ext.video.files import VIDEO_SUFFIXES, Opener
from byol_ext.video.samples import PHOTOGRAPHED, Invariance, Reader, VideoList, VideoReadError, VideoSample

_log = logging.getLogger(__name__)
_LABEL_FIELDS = ("label", "cls")
_FACT = (str, int, float)
_INDEX_VERSION = "video-1"


def video_shards(
    shards: str | Path | Sequence[str | Path],
    *,
    classes: Sequence[str] | None = None,
    cache_dir: str | Path | None = None,
    invariances: frozenset[Invariance] = PHOTOGRAPHED,
    opener: Opener = open_video,
) -> VideoList:
    """Videos in tar shards.

    The label is the number or the name of a class: the text of ``key.cls``, or ``label`` (or ``cls``) of ``key.json``,
    whose other texts and numbers become facts; its ``group`` is the group. Names are numbered in alphabetical order
    unless ``classes`` is given. A video whose label cannot be read is left out, counted and logged; one without any is
    kept unlabelled.

    Args:
        shards: Path, folder, brace range (``"data/{000000..000099}.tar"``) or glob, or a list of them.
        classes: Names of the classes in the order of the labels.
        cache_dir: Folder of the index files; ``.byol_ext_index/`` beside the shards by default.
        invariances: What the labels survive.
        opener: Opens the bytes of a video.

    Returns:
        The videos in the order of the shards.

    Raises:
        FileNotFoundError: If a named shard does not exist or a pattern matches nothing.
        ValueError: If a shard is not an uncompressed tar file, no video is in it, or a label is not among ``classes``.
    """
    paths = shard_paths([shards] if isinstance(shards, str | Path) else shards)
    folder = Path(cache_dir) if cache_dir is not None else None
    rows: list[tuple[Path, dict[str, Any]]] = []
    dropped: Counter[str] = Counter()
    for path in paths:
        index = stored_index(path, _scan, version=_INDEX_VERSION, cache_dir=folder)
        dropped.update(index["dropped"])
        rows.extend((path, row) for row in index["videos"])
    if dropped:
        _log.warning("shards of %s: %s members left out", paths[0].parent, dict(dropped))
    if not rows:
        raise ValueError(
            f"{len(paths)} shards of {paths[0].parent} hold no video ({', '.join(sorted(VIDEO_SUFFIXES))})"
        )
    names = _class_names([row["label"] for _, row in rows], classes, str(paths[0].parent))
    samples = [_sample(path, row, names, opener) for path, row in rows]
    return VideoList(samples, names, invariances, name=paths[0].parent.name)


def _sample(path: Path, row: Mapping[str, Any], names: Sequence[str], opener: Opener) -> VideoSample:
    label = row["label"]
    key = f"{path.stem}/{row['name']}"
    return VideoSample(
        key=key,
        open=functools.partial(_open, path, row["offset"], row["size"], key, opener),
        label=names.index(label) if isinstance(label, str) else label,
        group=row["group"],
        facts=row["facts"],
    )


def _class_names(labels: Sequence[int | str | None], classes: Sequence[str] | None, where: str) -> list[str]:
    """Names in the order of the labels; checks that every label has one."""
    named = {label for label in labels if isinstance(label, str)}
    numbered = {label for label in labels if isinstance(label, int)}
    if named and numbered and classes is None:
        raise ValueError(
            f"{where}: some labels are names ({min(named)!r}), some numbers ({min(numbered)}); pass classes"
        )
    highest = max(numbered, default=-1)
    names = list(classes) if classes is not None else sorted(named) or [str(i) for i in range(highest + 1)]
    unknown = sorted(named - set(names))
    if unknown or highest >= len(names):
        raise ValueError(f"{where}: label {unknown[0] if unknown else highest!r} is not among {len(names)} classes")
    return names


def _open(path: Path, offset: int, size: int, key: str, opener: Opener) -> Reader:
    try:
        with path.open("rb") as file:
            data = _read(file, offset, size)
    except FileNotFoundError as error:
        raise VideoReadError("missing", f"the shard {path} is gone", source=key) from error
    if len(data) < size:
        raise VideoReadError("unreadable", f"{path} ends {size - len(data)} bytes early", source=key)
    return opener(data, name=f"{path}/{key.partition('/')[2]}")


def _read(file: IO[bytes], offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _scan(path: Path) -> dict[str, Any]:
    """The videos of a tar, each with name, offset, size, label, group and facts, and what was left out, counted."""
    size = path.stat().st_size
    videos: dict[str, tuple[str, int, int]] = {}
    texts: dict[str, dict[str, tuple[int, int]]] = {"cls": {}, "json": {}}
    dropped: Counter[str] = Counter()
    members = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                members += 1
                name = member.name.removeprefix("./")
                folder, _, base = name.rpartition("/")
                key, extension = f"{folder}/{base.partition('.')[0]}", base.rpartition(".")[2].lower()
                if not member.isfile():
                    continue
                if member.offset_data + member.size > size:
                    dropped["truncated"] += 1
                elif extension in texts:
                    texts[extension].setdefault(key, (member.offset_data, member.size))
                elif f".{extension}" in VIDEO_SUFFIXES:
                    videos.setdefault(key, (name, member.offset_data, member.size))
    except tarfile.ReadError as error:
        if not members:
            hint = "gunzip it" if path.suffix == ".gz" else "an uncompressed tar file is needed"
            raise ValueError(f"{path}: {error}; {hint}") from error
        _log.warning("%s ends early (%s); its first %d members are used", path, error, members)
    rows = []
    with path.open("rb") as file:
        for key, (name, offset, length) in videos.items():
            try:
                about = _about({kind: _read(file, *places[key]) for kind, places in texts.items() if key in places})
            except ValueError:
                dropped["label_unreadable"] += 1
                continue
            rows.append({"name": name, "offset": offset, "size": length, **about})
    dropped["missing"] += len((texts["cls"].keys() | texts["json"].keys()) - videos.keys())
    return {"videos": rows, "dropped": {cause: count for cause, count in dropped.items() if count}}


def _about(texts: Mapping[str, bytes]) -> dict[str, Any]:
    """Label, group and facts from the files beside a video; ValueError if they make no sense."""
    facts = json.loads(texts["json"]) if "json" in texts else {}
    if not isinstance(facts, dict):
        raise ValueError("expected an object")
    label: Any = next((facts[field] for field in _LABEL_FIELDS if field in facts), None)
    if "cls" in texts:
        label = texts["cls"].decode().strip()
        label = int(label) if label.isdecimal() else label
    named = isinstance(label, str) and label != ""
    numbered = isinstance(label, int) and not isinstance(label, bool) and label >= 0
    if not (label is None or named or numbered):
        raise ValueError(f"label {label!r}")
    group = facts.get("group")
    used = (*_LABEL_FIELDS, "group")
    rest = {name: value for name, value in facts.items() if name not in used and isinstance(value, _FACT)}
    return {"label": label, "group": None if group is None else str(group), "facts": rest}
