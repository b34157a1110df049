"""Import maps: published audio-caption manifests, read as they are published.

Each function returns a source; the audio itself is the user's. Broken rows raise `ValueError` with file, row and
field; rows without a usable caption are left out and counted in ``.dropped``.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from byol_ext.audio.readers import merge_rows, number, present, read_rows, split_captions, text_field
from byol_ext.audio.samples import AudioTextSample, SampleList

_CLOTHO_SPLITS = {"development": "train", "validation": "val", "evaluation": "test"}
_CLOTHO_CAPTIONS = 5


def slap_csv(
    path: str | Path,
    *,
    audio_root: str | Path,
    split: str | None = None,
    suffix: str | None = None,
    array_rate: int | None = None,
) -> SampleList:
    """The CSV of the public SLAP code: ``npy_path,caption,set``; several captions as ``!!a|b|c`` (slap spec §10).

    Args:
        path: The CSV.
        audio_root: Folder that the paths start from.
        split: Keep this value of ``set`` only.
        suffix: Replaces the ``.npy`` of each path, such as ``".mp3"``, where the audio lies beside the arrays.
        array_rate: Sample rate in Hz of the arrays, where ``.npy`` files hold samples.

    Returns:
        The samples.

    Raises:
        FileNotFoundError: If the manifest does not exist.
        ValueError: For a malformed row.
    """

    def rows() -> Iterator[tuple[str, AudioTextSample]]:
        for where, row in read_rows(Path(path)):
            name = text_field(row, "npy_path", where)
            text = present(row, "caption", where)
            several = isinstance(text, str) and text.strip().startswith("!!")
            audio = Path(audio_root, name)
            yield (
                where,
                AudioTextSample(
                    key=name,
                    captions=tuple(split_captions(str(text))) if several else (text,),
                    path=audio.with_suffix(suffix) if suffix else audio,
                    sr=array_rate,
                    split=text_field(row, "set", where),
                ),
            )

    return _kept(Path(path), rows(), split)


def muscall_json(path: str | Path, *, audio_root: str | Path, split: str = "") -> SampleList:
    """The JSON of MusCALL: a list of ``{"audio_id", "caption", "audio_path"}``; other fields become tags.

    Args:
        path: The JSON file; MusCALL has one a split.
        audio_root: Folder that ``audio_path`` starts from.
        split: Split name to record.

    Returns:
        The samples.

    Raises:
        FileNotFoundError: If the manifest does not exist.
        ValueError: For a malformed file.
    """
    source = Path(path)
    try:
        items = json.loads(source.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: not JSON: {error}") from error
    if not isinstance(items, list):
        raise ValueError(f"{source}: got {type(items).__name__}, expected a list of objects")

    def rows() -> Iterator[tuple[str, AudioTextSample]]:
        for index, row in enumerate(items):
            where = f"{source}[{index}]"
            if not isinstance(row, dict):
                raise ValueError(f"{where}: got {type(row).__name__}, expected an object")
            caption = present(row, "caption", where)
            yield (
                where,
                AudioTextSample(
                    key=str(row.get("audio_id") or text_field(row, "audio_path", where)),
                    captions=tuple(caption) if isinstance(caption, list) else (caption,),
                    path=Path(audio_root, text_field(row, "audio_path", where)),
                    tags=_rest(row, {"audio_id", "caption", "audio_path"}),
                    split=split,
                ),
            )

    return _kept(source, rows(), None)


def musiccaps_csv(
    path: str | Path,
    *,
    audio_root: str | Path,
    split: str | None = None,
    file_template: str = "{ytid}.wav",
    cut: bool = True,
    drop_missing: bool = False,
) -> SampleList:
    """MusicCaps: ``ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,…,is_audioset_eval``.

    Rows of the AudioSet evaluation set are split ``test``, the others ``train``; retrieval papers use all 5521.

    Args:
        path: The CSV.
        audio_root: Folder of the audio.
        split: ``"train"``, ``"test"`` or None for all.
        file_template: Name of a clip's file, from the fields of the row.
        cut: True if each file is the ten-second clip; False if it is the whole video, to be read at ``start_s``.
        drop_missing: Leave out clips whose file is not there (videos vanish) and count them as ``missing``.

    Returns:
        The samples, with ``aspects`` and ``labels`` as tags.

    Raises:
        FileNotFoundError: If the manifest does not exist.
        ValueError: For a malformed row, or a template that names an unknown field.
    """
    missing = 0

    def rows() -> Iterator[tuple[str, AudioTextSample]]:
        nonlocal missing
        for where, row in read_rows(Path(path)):
            ytid = text_field(row, "ytid", where)
            try:
                audio = Path(audio_root, file_template.format_map(row))
            except KeyError as error:
                raise ValueError(
                    f"{where}: file_template {file_template!r} names field {error}, not in the row"
                ) from error
            if drop_missing and not audio.is_file():
                missing += 1
                continue
            start = number(row, "start_s", where, positive=False, default=0.0) or 0.0
            end = number(row, "end_s", where, positive=True, default=start + 10.0) or start + 10.0
            yield (
                where,
                AudioTextSample(
                    key=ytid,
                    captions=(present(row, "caption", where),),
                    path=audio,
                    tags={
                        "aspects": _literal_list(row, "aspect_list", where),
                        "labels": row.get("audioset_positive_labels", ""),
                    },
                    split="test" if str(row.get("is_audioset_eval", "")).strip().lower() == "true" else "train",
                    start=0.0 if cut else start,
                    duration=None if cut else end - start,
                ),
            )

    kept = _kept(Path(path), rows(), split)
    return SampleList(kept.samples, dropped=kept.dropped | ({"missing": missing} if missing else {}))


def song_describer_csv(
    path: str | Path, *, audio_root: str | Path, valid_only: bool = False, suffix: str | None = ".2min.mp3"
) -> SampleList:
    """Song Describer: ``caption_id,track_id,caption,is_valid_subset,…,path,duration``; one sample a track.

    The set is for evaluation only, by its authors' wish (slap spec §10), so every sample has split ``test``.

    Args:
        path: The CSV.
        audio_root: Folder that ``path`` starts from.
        valid_only: Keep the 746 captions of the valid subset.
        suffix: Replaces the suffix of ``path``; the distributed audio is named ``53/1109753.2min.mp3``.

    Returns:
        The samples.

    Raises:
        FileNotFoundError: If the manifest does not exist.
        ValueError: For a malformed row.
    """

    def rows() -> Iterator[tuple[str, AudioTextSample]]:
        for where, row in read_rows(Path(path)):
            if valid_only and text_field(row, "is_valid_subset", where).lower() != "true":
                continue
            audio = Path(audio_root, text_field(row, "path", where))
            yield (
                where,
                AudioTextSample(
                    key=text_field(row, "track_id", where),
                    captions=(present(row, "caption", where),),
                    path=audio.with_suffix(suffix) if suffix else audio,
                    tags=_rest(row, {"caption_id", "track_id", "caption", "path", "is_valid_subset", "familiarity"}),
                    split="test",
                ),
            )

    return _kept(Path(path), rows(), None)


def clotho_csv(path: str | Path, *, audio_root: str | Path, split: str | None = None) -> SampleList:
    """Clotho: ``file_name,caption_1,…,caption_5``.

    Args:
        path: The CSV, such as ``clotho_captions_development.csv``.
        audio_root: Folder of the audio.
        split: Split name to record; by default from the file name (development, validation, evaluation).

    Returns:
        The samples, five captions each.

    Raises:
        FileNotFoundError: If the manifest does not exist.
        ValueError: For a malformed row.
    """
    source = Path(path)
    found = [ours for theirs, ours in _CLOTHO_SPLITS.items() if theirs in source.stem]
    name = split if split is not None else (found[0] if found else "")

    def rows() -> Iterator[tuple[str, AudioTextSample]]:
        for where, row in read_rows(source):
            file_name = text_field(row, "file_name", where)
            captions = tuple(present(row, f"caption_{i}", where) for i in range(1, _CLOTHO_CAPTIONS + 1))
            yield (
                where,
                AudioTextSample(
                    key=file_name,
                    captions=captions,
                    path=Path(audio_root, file_name),
                    split=name,
                ),
            )

    return _kept(source, rows(), None)


def _kept(path: Path, rows: Iterator[tuple[str, AudioTextSample]], split: str | None) -> SampleList:
    """Merge rows of one recording, keep a split, and refuse an empty result of a non-empty file."""
    pairs = list(rows)
    wanted = [(where, sample) for where, sample in pairs if split is None or sample.split == split]
    if pairs and not wanted:
        found = sorted({sample.split for _, sample in pairs})
        raise ValueError(f"{path}: no row has split {split!r}; the splits are {found}")
    samples, dropped = merge_rows(wanted)
    return SampleList(samples, dropped=dropped)


def _rest(row: Mapping[str, Any], used: set[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in used and value not in (None, "")}


def _literal_list(row: Mapping[str, Any], name: str, where: str) -> list[str]:
    """A Python list written in a cell, as MusicCaps writes its aspects."""
    cell = row.get(name)
    if not cell:
        return []
    try:
        value = ast.literal_eval(cell)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{where}: field {name!r}: got {cell!r}, expected a list such as ['slow', 'calm']") from error
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
