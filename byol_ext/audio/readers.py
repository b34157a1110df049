"""Sources of audio-text pairs that users have at hand: manifests and Hugging Face data sets."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from byol_ext._extras import require
from byol_ext.audio.decode import BadAudio
from byol_ext.audio.samples import AudioTextSample, BadCaption, caption_list

_OPTIONAL = ("split", "start", "duration", "id")


class ManifestDataset:
    """Samples listed in a CSV, TSV or JSONL file.

    Columns (slap spec §10): ``audio`` and one of ``caption`` (one text) or ``captions`` (JSONL: a list; CSV: a JSON
    list, or texts separated by ``|``), then optionally ``split``, ``start`` and ``duration`` in seconds, ``id``.
    Other columns become tags. Rows of one recording and segment are merged into one sample with several captions, so
    that retrieval counts each of them as correct. Rows without a usable caption are left out and counted.

    Args:
        path: The manifest; its suffix (``.csv``, ``.tsv``, ``.jsonl``) says how to read it.
        audio_root: Folder that relative audio paths start from; the folder of the manifest by default.
        split: Keep the rows of this split only.

    Attributes:
        samples: The samples in file order.
        dropped: Rows without a usable caption, by cause.

    Raises:
        FileNotFoundError: If the manifest does not exist.
        ValueError: For a malformed file; names file, row and field.
    """

    def __init__(self, path: str | Path, *, audio_root: str | Path | None = None, split: str | None = None) -> None:
        self.path = Path(path)
        root = Path(audio_root) if audio_root is not None else self.path.parent
        rows = [(where, _parse_row(row, where, root, split is not None)) for where, row in read_rows(self.path)]
        wanted = [(where, sample) for where, sample in rows if split is None or sample.split == split]
        if rows and not wanted:
            found = sorted({sample.split for _, sample in rows})
            raise ValueError(f"{self.path}: no row has split {split!r}; the splits are {found}")
        self.samples, self.dropped = merge_rows(wanted)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> AudioTextSample:
        return self.samples[index]

    def captions(self, index: int) -> Sequence[str]:
        """Captions of one sample."""
        return self.samples[index].captions


class HFAudioText:
    """A Hugging Face ``datasets.Dataset``, decoded by `byol_ext.audio.decode` and not by torchcodec.

    For a streaming data set use `hf_samples`, and pack what it yields with `byol_ext.audio.shards.write_shards`.

    Args:
        dataset: A map-style ``datasets.Dataset``. The audio column may be an ``Audio`` feature, a struct with
            ``bytes`` and ``path``, a struct with ``array`` and ``sampling_rate``, or a string path.
        audio: Column of the audio.
        caption: Column of the caption, or of a list of captions.
        key: Column that names a sample; its position by default.
        split: Split name to record in the samples.

    Raises:
        ValueError: If a column is missing.
    """

    def __init__(
        self, dataset: Any, *, audio: str = "audio", caption: str = "caption", key: str | None = None, split: str = ""
    ) -> None:
        self._columns = (audio, caption, key)
        self._split = split
        self._dataset = _undecoded(dataset, self._columns)
        self._texts = self._dataset.select_columns([caption])

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> AudioTextSample:
        sample = _hf_sample(self._dataset[index], self._columns, self._split, index)
        if not sample.captions:
            raise BadCaption(caption_list(self._texts[index][self._columns[1]])[1] or "", sample.key)
        return sample

    def captions(self, index: int) -> Sequence[str]:
        """Captions of one sample."""
        return caption_list(self._texts[index][self._columns[1]])[0]


def hf_samples(
    dataset: Any, *, audio: str = "audio", caption: str = "caption", key: str | None = None, split: str = ""
) -> Iterator[AudioTextSample]:
    """Samples of a streaming Hugging Face data set in its order.

    Args:
        dataset: A ``datasets.IterableDataset`` (or a map-style one).
        audio: Column of the audio.
        caption: Column of the caption or captions.
        key: Column that names a sample; its position by default.
        split: Split name to record in the samples.

    Yields:
        Samples that hold the undecoded bytes; a broken row gives a sample without captions or audio.

    Raises:
        ValueError: If a column is missing.
    """
    columns = (audio, caption, key)
    for index, row in enumerate(_undecoded(dataset, columns)):
        try:
            yield _hf_sample(row, columns, split, index)
        except BadAudio as error:
            yield AudioTextSample(error.source, caption_list(row[caption])[0], split=split)


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a CSV, TSV or JSONL file with where they stand (``"file:line"``).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For another suffix, a row that does not match the header, broken JSON or text that is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    if path.suffix == ".jsonl":
        return _json_rows(path, text)
    if path.suffix not in (".csv", ".tsv"):
        raise ValueError(f"{path}: the suffix is {path.suffix!r}; a manifest is .csv, .tsv or .jsonl")
    return _table_rows(path, text, "\t" if path.suffix == ".tsv" else ",")


def split_captions(cell: str) -> list[str]:
    """Several captions in one table cell: a JSON list, ``!!a|b|c`` (SLAP CSV) or ``a|b|c``.

    Example:
        >>> split_captions("!!a hum|a buzz"), split_captions('["one, two"]')
        (['a hum', 'a buzz'], ['one, two'])
    """
    cell = cell.strip()
    if cell.startswith("["):
        try:
            value = json.loads(cell)
        except json.JSONDecodeError:
            value = None
        if isinstance(value, list):
            return value
    return cell.removeprefix("!!").split("|")


def merge_rows(
    rows: Iterable[tuple[str, AudioTextSample]],
) -> tuple[tuple[AudioTextSample, ...], dict[str, int]]:
    """Join rows of the same recording and segment; leave out samples without a caption.

    Args:
        rows: Where each row stands, and its sample.

    Returns:
        The samples in order of first appearance, and the rows left out, by cause.

    Raises:
        ValueError: If one id names two recordings.
    """
    merged: dict[tuple[Any, ...], AudioTextSample] = {}
    owner: dict[str, tuple[tuple[Any, ...], str]] = {}
    dropped: Counter[str] = Counter()
    for where, sample in rows:
        captions, cause = caption_list(list(sample.captions))
        if cause:
            dropped[cause] += 1
            continue
        identity = (sample.path, sample.start, sample.duration, sample.split)
        first_identity, first_where = owner.setdefault(sample.key, (identity, where))
        if first_identity != identity:
            raise ValueError(
                f"{where}: field 'id': {sample.key!r} names another recording, segment or split in {first_where}"
            )
        known = merged.get(identity)
        if known is None:
            merged[identity] = replace(sample, captions=captions)
        else:
            merged[identity] = replace(known, captions=tuple(dict.fromkeys(known.captions + captions)))
    return tuple(merged.values()), dict(dropped)


def number(row: Mapping[str, Any], name: str, where: str, *, positive: bool, default: float | None) -> float | None:
    """Seconds in a field, at least 0 or ``positive``; ``default`` if it is absent or blank.

    Raises:
        ValueError: Naming row and field.
    """
    value = row.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return default
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result) or result < 0 or (positive and result == 0):
        bound = "greater than 0" if positive else "at least 0"
        raise ValueError(f"{where}: field {name!r}: got {value!r}, expected seconds {bound}")
    return result


def present(row: Mapping[str, Any], name: str, where: str) -> Any:
    """The value of a field that must exist, whatever it holds.

    Raises:
        ValueError: Naming row and field, and the nearest field that exists.
    """
    if name not in row:
        near = difflib.get_close_matches(name, [str(key) for key in row], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{where}: field {name!r} is missing; the fields are {sorted(map(str, row))}{hint}")
    return row[name]


def text_field(row: Mapping[str, Any], name: str, where: str) -> str:
    """A non-blank text in a field that must exist.

    Raises:
        ValueError: Naming row and field.
    """
    value = present(row, name, where)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: field {name!r}: got {value!r}, expected a non-empty text")
    return value.strip()


def _parse_row(row: dict[str, Any], where: str, root: Path, need_split: bool) -> AudioTextSample:
    """One manifest row; captions stay unchecked here (`merge_rows` drops the unusable)."""
    audio = text_field(row, "audio", where)
    if ("caption" in row) == ("captions" in row):
        raise ValueError(f"{where}: expected one of the fields 'caption' and 'captions', got {sorted(map(str, row))}")
    captions: Any = row["caption"] if "caption" in row else row["captions"]
    if "captions" in row and isinstance(captions, str):
        captions = split_captions(captions)
    split = text_field(row, "split", where) if need_split else str(row.get("split") or "").strip()
    start = number(row, "start", where, positive=False, default=0.0)
    duration = number(row, "duration", where, positive=True, default=None)
    known = {"audio", "caption", "captions", *_OPTIONAL}
    segment = "" if not start and duration is None else f"@{start:g}" + (f"+{duration:g}" if duration else "")
    return AudioTextSample(
        key=str(row.get("id") or "").strip() or audio + segment,
        captions=tuple(captions) if isinstance(captions, list) else (captions,),
        path=root / audio,
        tags={name: value for name, value in row.items() if name not in known and value not in (None, "")},
        split=split,
        start=start or 0.0,
        duration=duration,
    )


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number_, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number_}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number_}: got {type(row).__name__}, expected one JSON object a line")
        yield f"{path}:{number_}", row


def _table_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header):
                    raise ValueError(f"{where}: the header {header} names a field twice")
                continue
            if len(cells) != len(header):
                raise ValueError(f"{where}: {len(cells)} fields, the header {header} has {len(header)}; quote commas")
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: {error}") from error
    if header is None:
        raise ValueError(f"{path}: empty file; expected a header with 'audio' and 'caption' or 'captions'")


def _undecoded(dataset: Any, columns: tuple[str, str, str | None]) -> Any:
    """Check the columns and switch off decoding in `datasets`, which would need torchcodec."""
    datasets = require("datasets", extra="slap")
    features = dataset.features or {}
    for column in columns:
        if features and column is not None and column not in features:
            raise ValueError(f"the data set has no column {column!r}; its columns are {sorted(features)}")
    if isinstance(features.get(columns[0]), datasets.Audio):
        return dataset.cast_column(columns[0], datasets.Audio(decode=False))
    return dataset


def _hf_sample(row: Mapping[str, Any], columns: tuple[str, str, str | None], split: str, index: int) -> AudioTextSample:
    audio_column, caption_column, key_column = columns
    key = str(row[key_column]) if key_column else str(index)
    named = (audio_column, caption_column, key_column)
    sample = AudioTextSample(
        key=key,
        captions=caption_list(row[caption_column])[0],
        tags={name: value for name, value in row.items() if name not in named and value is not None},
        split=split,
    )
    value = row[audio_column]
    if isinstance(value, str):
        return replace(sample, path=Path(value))
    if not isinstance(value, Mapping):
        raise BadAudio("missing", f"column {audio_column!r} holds {type(value).__name__}", source=key)
    if value.get("bytes"):
        name = Path(value["path"]).name if value.get("path") else None
        return replace(sample, blob=value["bytes"], filename=name)
    if value.get("path"):
        return replace(sample, path=Path(value["path"]))
    if value.get("array") is not None:
        array = np.asarray(value["array"], dtype=np.float32)
        if not value.get("sampling_rate"):
            raise BadAudio("no_rate", f"column {audio_column!r} has no 'sampling_rate'", source=key)
        return replace(sample, audio=array, sr=int(value["sampling_rate"]))
    raise BadAudio("missing", f"column {audio_column!r} is empty", source=key)
