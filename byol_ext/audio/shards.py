"""Tar shards in the LAION layout of WebDataset, read at random through an index of their members.

A shard ``NNNNNN.tar`` holds ``key.flac`` (or wav, mp3, ogg, opus) and ``key.json`` with ``text`` (a list of captions),
``tag`` and ``original_data`` for each sample; ``sizes.json`` is not needed (slap spec §10). Tar members lie at fixed
offsets, so a shard is indexed once and any sample is then two reads away: training shuffles over all shards and
resumes exactly. The ``webdataset`` package reads the same files front to back; it shuffles only in a buffer and
cannot resume at a sample, and is worth using for shards that must be streamed from object storage, which is not
read here.
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from byol_ext.audio.decode import BadAudio
from byol_ext.audio.samples import AudioTextSample, BadCaption, caption_list
from byol_ext.tar_shards import shard_paths, stored_index

_log = logging.getLogger(__name__)
_AUDIO = ("flac", "wav", "mp3", "ogg", "opus")
_INDEX_VERSION = "audio-1"


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
            index = stored_index(
                path, _scan, version=_INDEX_VERSION, cache_dir=Path(cache_dir) if cache_dir is not None else None
            )
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


def _scan(path: Path) -> dict[str, Any]:
    """Pair the members of a tar by key: rows ``[audio name, audio offset, size, json offset, size]``."""
    size = path.stat().st_size
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
