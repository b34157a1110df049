"""Tar shards in the LAION layout of WebDataset, read at random through an index of their members.

A shard ``NNNNNN.tar`` holds ``key.flac`` (or wav, mp3, ogg, opus) and ``key.json`` with ``text`` (a list of captions),
``tag`` and ``original_data`` for each sample; ``sizes.json`` is not needed (slap spec §10). Tar members lie at fixed
offsets, so a shard is indexed once and any sample is then two reads away: training shuffles over all shards and
resumes exactly. The ``webdataset`` package reads the same files front to back; it shuffles only in a buffer and
cannot resume at a sample, and is worth using for shards that must be streamed from object storage, which is not
read here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from byol_ext.audio.decode import BadAudio
from byol_ext.audio.samples import AudioTextSample, BadCaption, caption_list

_log = logging.getLogger(__name__)
_AUDIO = ("flac", "wav", "mp3", "ogg", "opus")
_INDEX_VERSION = 1
_INDEX_FOLDER = ".byol_ext_index"
_MAX_RANGE = 1_000_000


class WebDatasetShards:
    """A source over tar shards.

    Args:
        shards: Path, folder, brace range (``"data/{000000..000099}.tar"``) or glob, or a list of them.
        split: Split to record in samples whose metadata names none.
        text_fields: Fields of the metadata that hold captions; LAION also writes ``text_augment_t5`` and
            ``text_augment_all``.
        cache_dir: Folder of the index files; beside the shards (``.byol_ext_index/``) by default. If it cannot be
            written, the index is rebuilt at each start.

    Attributes:
        paths: The shards in order.
        dropped: Members left out when indexing, by cause: ``missing`` (no audio), ``caption_missing`` (no metadata),
            ``truncated`` (the shard ends inside the member).

    Raises:
        FileNotFoundError: If a named shard does not exist or a glob matches nothing.
        ValueError: If a shard is not an uncompressed tar file.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        split: str = "",
        text_fields: Sequence[str] = ("text",),
        cache_dir: str | Path | None = None,
    ) -> None:
        self.paths = shard_paths([shards] if isinstance(shards, str | Path) else shards)
        self._split = split
        self._text_fields = tuple(text_fields)
        dropped: Counter[str] = Counter()
        names: list[bytes] = []
        places: list[list[int]] = []
        for number, path in enumerate(self.paths):
            index = _index(path, Path(cache_dir) if cache_dir is not None else None)
            dropped.update(index["dropped"])
            names.extend(name.encode() for name, *_ in index["samples"])
            places.extend([number, *place] for _, *place in index["samples"])
        self.dropped = dict(dropped)
        self._names = np.array(names, dtype=bytes)
        self._places = np.array(places, dtype=np.int64).reshape(-1, 5)
        if dropped:
            _log.warning("shards of %s: %s members left out", self.paths[0].parent, self.dropped)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> AudioTextSample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        path, name, places = self._at(index)
        with path.open("rb") as file:
            audio = _read(file, places[0], places[1], f"{path}/{name}")
            metadata = _parse(_read(file, places[2], places[3], f"{path}/{name}"), f"{path}/{name}")
        captions, cause = self._texts(metadata)
        if cause is not None:
            raise BadCaption(cause, f"{path}/{name}")
        original = metadata.get("original_data")
        original = original if isinstance(original, Mapping) else {}
        tags = original.get("tags")
        if not isinstance(tags, Mapping):
            tags = {"tag": list(metadata["tag"])} if isinstance(metadata.get("tag"), list) else {}
        return AudioTextSample(
            key=str(original.get("key") or f"{path.stem}/{name.partition('.')[0]}"),
            captions=captions,
            blob=audio,
            tags=dict(tags),
            split=str(original.get("split") or self._split),
            filename=f"{path}/{name}",
        )

    def captions(self, index: int) -> Sequence[str]:
        """Captions of one sample; reads its metadata only."""
        path, name, places = self._at(index)
        try:
            with path.open("rb") as file:
                metadata = _parse(_read(file, places[2], places[3], name), name)
        except (BadAudio, BadCaption):
            return ()
        return self._texts(metadata)[0]

    def _at(self, index: int) -> tuple[Path, str, list[int]]:
        shard, *places = self._places[index].tolist()
        return self.paths[shard], self._names[index].decode(), places

    def _texts(self, metadata: Mapping[str, Any]) -> tuple[tuple[str, ...], str | None]:
        values: list[Any] = []
        for field in self._text_fields:
            value = metadata.get(field)
            values.extend(value if isinstance(value, list) else [value])
        return caption_list(values)


def shard_paths(patterns: Iterable[str | Path]) -> list[Path]:
    """Existing files named by paths, folders (their ``.tar`` files), brace ranges and globs, in order.

    Raises:
        FileNotFoundError: Naming the first files that are missing, or the glob without a match.
        ValueError: If a brace is malformed.
    """
    paths: list[Path] = []
    for pattern in patterns:
        for name in expand_braces(str(pattern)):
            if Path(name).is_dir():
                name = str(Path(name) / "*.tar")
            if any(character in name for character in "*?["):
                path = Path(name)
                found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
                if not found:
                    raise FileNotFoundError(f"no file matches {name!r}")
                paths.extend(found)
            else:
                paths.append(Path(name))
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileNotFoundError(f"{len(missing)} of {len(paths)} shards do not exist: {missing[:3]}{more}")
    return paths


def expand_braces(pattern: str) -> list[str]:
    """All names of a pattern with ranges ``{a..b}`` (zero-padded as written) and lists ``{x,y}``.

    Raises:
        ValueError: For an unclosed brace, or a range that is empty or names over a million files.

    Example:
        >>> expand_braces("{08..10}.tar"), expand_braces("{a,b}-1")
        (['08.tar', '09.tar', '10.tar'], ['a-1', 'b-1'])
    """
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        if "{" in pattern or "}" in pattern:
            raise ValueError(f"{pattern!r}: unbalanced brace")
        return [pattern]
    body = match[1]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", body)
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        if not 0 <= last - first < _MAX_RANGE:
            raise ValueError(f"{pattern!r}: range {body!r} must run upwards over at most {_MAX_RANGE} files")
        parts = [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]
    else:
        if ".." in body or "," not in body:
            raise ValueError(f"{pattern!r}: expected {{first..last}} or {{a,b}}, got {{{body}}}")
        parts = body.split(",")
    return [name for part in parts for name in expand_braces(pattern[: match.start()] + part + pattern[match.end() :])]


def _index(path: Path, cache_dir: Path | None) -> dict[str, Any]:
    """Index of a shard: from its file if that was made for the present size and time, else made anew and stored."""
    status = path.stat()
    stamp = {"version": _INDEX_VERSION, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    folder, name = path.parent / _INDEX_FOLDER, f"{path.name}.json"
    if cache_dir is not None:
        digest = hashlib.sha256(str(path.parent.resolve()).encode()).hexdigest()[:16]
        folder, name = cache_dir, f"{digest}-{name}"
    try:
        stored: dict[str, Any] = json.loads((folder / name).read_bytes())
        if stored["stamp"] == stamp:
            return stored
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError, KeyError, TypeError):
        _log.debug("indexing %s", path)
    index = {"stamp": stamp, **_scan(path, status.st_size)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{name}.{os.getpid()}"
        temporary.write_text(json.dumps(index))
        temporary.replace(folder / name)
    except OSError as error:
        _log.warning("cannot store the index of %s in %s (%s); it will be rebuilt each time", path, folder, error)
    return index


def _scan(path: Path, size: int) -> dict[str, Any]:
    """Pair the members of a tar by key: rows ``[audio name, audio offset, size, json offset, size]``."""
    audio: dict[str, tuple[str, int, int]] = {}
    metadata: dict[str, tuple[int, int]] = {}
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
                elif extension == "json":
                    metadata.setdefault(key, (member.offset_data, member.size))
                elif extension in _AUDIO:
                    audio.setdefault(key, (name, member.offset_data, member.size))
    except tarfile.ReadError as error:
        if not members:
            hint = "gunzip it" if path.suffix == ".gz" else "an uncompressed tar file is needed"
            raise ValueError(f"{path}: {error}; {hint}") from error
        _log.warning("%s ends early (%s); its first %d members are used", path, error, members)
    dropped["caption_missing"] += len(audio.keys() - metadata.keys())
    dropped["missing"] += len(metadata.keys() - audio.keys())
    samples = [[*audio[key], *metadata[key]] for key in audio if key in metadata]
    return {"samples": samples, "dropped": {cause: count for cause, count in dropped.items() if count}}


def _read(file: Any, offset: int, size: int, name: str) -> bytes:
    file.seek(offset)
    data: bytes = file.read(size)
    if len(data) < size:
        raise BadAudio("truncated", f"the shard ends {size - len(data)} bytes early", source=name)
    return data


def _parse(data: bytes, name: str) -> Mapping[str, Any]:
    try:
        metadata = json.loads(data)
    except ValueError as error:
        raise BadCaption("caption_missing", name) from error
    if not isinstance(metadata, Mapping):
        raise BadCaption("caption_missing", name)
    return metadata
