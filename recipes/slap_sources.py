"""Names of data sets, as ``--data.train`` takes them, to sources of audio-text pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from byol_ext._extras import require
from byol_ext.audio import importers
from byol_ext.audio.data import (
    AudioTextSample,
    BadAudio,
    BadCaption,
    HFAudioText,
    ManifestDataset,
    SampleList,
    SampleSource,
    WebDatasetShards,
)
from byol_ext.audio.tonecaps import ToneCaps
from byol_ext.audio.wesnoth import wesnoth_tracks
from byol_ext.metrics.zero_shot import SLAP_TEMPLATES, fill_templates

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif")
IMPORTERS: dict[str, Callable[..., SampleList]] = {
    "slap-csv": importers.slap_csv,
    "muscall": importers.muscall_json,
    "musiccaps": importers.musiccaps_csv,
    "song-describer": importers.song_describer_csv,
    "clotho": importers.clotho_csv,
}
KINDS = ("tonecaps", "wesnoth", "wds:", "manifest:", "hf:", "folder:", *(f"{kind}:" for kind in IMPORTERS))
ALIASES = {
    "train": ("train", "training", "development"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "eval", "evaluation"),
}
LABELLED = ("manifest", "slap-csv", "musiccaps")


def open_source(name: str, *, split: str, audio_root: str = "") -> SampleSource:
    """A source by name; the forms are those of :class:`recipes.slap_config.DataConfig`.

    Args:
        name: Such as ``tonecaps``, ``wds:shards/train-*.tar`` or ``manifest:pairs.csv#val``.
        split: Split of sets that hold several; a manifest without a split column is taken whole.
        audio_root: Folder that relative paths start from.

    Raises:
        ValueError: If the name is empty, its kind unknown, or the set lacks the split.
        FileNotFoundError: If a file is missing.
    """
    return open_named(name, split=split, audio_root=audio_root)[0]


def open_named(name: str, *, split: str, audio_root: str = "") -> tuple[SampleSource, str]:
    """A source and what identifies it: two names with equal identities are the same pairs."""
    if not name:
        raise ValueError(f"no data set is named: give --data.train one of {', '.join(KINDS)}")
    kind, path, explicit = split_name(name)
    if explicit and kind not in (*LABELLED, "hf"):
        raise ValueError(f"data {name!r}: #{explicit} picks a split of manifest:, hf:, slap-csv: or musiccaps: only")
    root = Path(audio_root) if audio_root else Path(path).parent
    chosen = ""
    source: SampleSource
    if kind == "tonecaps":
        source, chosen = ToneCaps(split).source, split  # type: ignore[arg-type]
    elif kind == "wesnoth":
        source = SampleList(
            AudioTextSample(track.path.stem, track.captions, path=track.path, tags=track.tags)
            for track in wesnoth_tracks()
        )
    elif kind == "wds":
        source = WebDatasetShards(path)
    elif kind == "hf":
        source, chosen = _open_hf(path, explicit or split)
    elif kind == "folder":
        source = recordings(Path(path))
    elif kind == "manifest":
        source, chosen = _labelled(ManifestDataset(path, audio_root=root), explicit, split, name)
    elif kind in IMPORTERS:
        whole = IMPORTERS[kind](path, audio_root=root)
        # Papers evaluate on all of MusicCaps; its split counts only where it is asked for.
        wanted = "" if kind == "musiccaps" else split
        source, chosen = _labelled(whole, explicit, wanted, name) if kind in LABELLED else (whole, "")
    else:
        raise ValueError(f"data {name!r}: kind {kind!r} is unknown; expected one of {', '.join(KINDS)}")
    return source, f"{kind}:{path}#{chosen}"


def own_split(name: str, *, split: str, audio_root: str = "") -> tuple[SampleSource, str] | None:
    """A further split of the set that a name stands for, or ``None`` if it has none of that name."""
    kind, path, explicit = split_name(name)
    if explicit or kind not in ("tonecaps", "manifest", "slap-csv", "hf"):
        return None
    try:
        found = open_named(name, split=split, audio_root=audio_root)
    except NoSuchSplit:
        return None
    return None if found[1] == f"{kind}:{path}#" else found


class NoSuchSplit(ValueError):
    """The set names its splits, and not this one."""


def split_name(name: str) -> tuple[str, str, str]:
    """Kind, path and explicit split of a name.

    Example:
        >>> split_name("manifest:pairs.csv#val"), split_name("shards/a.tar")
        (('manifest', 'pairs.csv', 'val'), ('wds', 'shards/a.tar', ''))
    """
    text, _, explicit = name.partition("#")
    kind, colon, path = text.partition(":")
    if colon:
        return kind, path, explicit
    if text in ("tonecaps", "wesnoth"):
        return text, text, explicit
    if text.endswith(".tar") or (Path(text).is_dir() and any(Path(text).glob("*.tar"))):
        return "wds", text, explicit
    if text.endswith((".csv", ".tsv", ".jsonl")):
        return "manifest", text, explicit
    return ("folder" if Path(text).is_dir() else text), text, explicit


def _labelled(source: Any, explicit: str, split: str, name: str) -> tuple[SampleSource, str]:
    """The rows of a split; all rows when none carries a label of :data:`ALIASES` and no split is asked for by name."""
    present = {sample.split for sample in source.samples}
    if explicit:
        wanted: Sequence[str] = (explicit,)
    elif not split or not present & {alias for aliases in ALIASES.values() for alias in aliases}:
        return source, ""
    else:
        wanted = ALIASES.get(split, (split,))
    kept = [sample for sample in source.samples if sample.split in wanted]
    if not kept:
        raise NoSuchSplit(f"data {name!r}: no row has split {'|'.join(wanted)}; the splits are {sorted(present)}")
    return SampleList(kept, dropped=source.dropped), wanted[0]


def _open_hf(name: str, split: str) -> tuple[SampleSource, str]:
    datasets = require("datasets", extra="slap")
    loaded = datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name)
    if not isinstance(loaded, datasets.DatasetDict):
        return HFAudioText(loaded), ""
    for alias in ALIASES.get(split, (split,)):
        if alias in loaded:
            return HFAudioText(loaded[alias], split=alias), alias
    raise NoSuchSplit(f"hf:{name} has no split {split!r}; it has {sorted(loaded)}: pick one with hf:{name}#SPLIT")


def recordings(folder: Path) -> SampleList:
    """All recordings below a folder, without captions.

    Raises:
        FileNotFoundError: If there are none.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no recordings ({', '.join(AUDIO_SUFFIXES)})")
    return SampleList([AudioTextSample(str(p.relative_to(folder)), (), path=p) for p in paths])


def tags_of(source: SampleSource) -> list[Mapping[str, Any]]:
    """Tags of each usable sample."""
    found: list[Mapping[str, Any]] = []
    for index in range(len(source)):
        try:
            found.append(source[index].tags)
        except (BadAudio, BadCaption):
            # The evaluation counts it and says why; here it merely has no tags.
            continue
    return found


def tag_prompts(
    tags: Sequence[Mapping[str, Any]], *, names: Sequence[str], least: int = 5
) -> dict[str, dict[str, list[str]]]:
    """Descriptions of the classes of tags, by SLAP's four templates (paper 5.3).

    Args:
        tags: Tags of each test clip.
        names: Tags to use; empty means all with 2 to 64 classes of at least ``least`` clips each.
        least: Classes with fewer clips are left out.

    Raises:
        ValueError: If a named tag has fewer than two classes.
    """
    counts: dict[str, dict[str, int]] = {}
    for of_clip in tags:
        for tag, value in of_clip.items():
            if isinstance(value, str) and value:
                of_tag = counts.setdefault(tag, {})
                of_tag[value] = of_tag.get(value, 0) + 1
    prompts: dict[str, dict[str, list[str]]] = {}
    for tag in names or counts:
        classes = sorted(value for value, count in counts.get(tag, {}).items() if count >= least)
        if 2 <= len(classes) <= 64:
            filled = fill_templates(classes, SLAP_TEMPLATES)
            prompts[tag] = {name: [row[i] for row in filled] for i, name in enumerate(classes)}
        elif names:
            raise ValueError(f"tag {tag!r} has {len(classes)} classes of at least {least} clips; a probe needs 2 to 64")
    return prompts
