"""Music of the game Battle for Wesnoth: 41 orchestral tracks with tags, as audio that our renderer did not make.

Debian package ``wesnoth-1.16-music`` (GPL-2+). Captions are sentences over the files' own Vorbis comments.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from byol_ext.audio.decode import BadAudio, probe
from byol_ext.audio.samples import AudioTextSample, SampleList

WESNOTH = Path("/usr/share/games/wesnoth/1.16/data/core/music")
"""Folder where the Debian package installs the tracks."""


@dataclass(frozen=True)
class Track:
    """One track.

    Attributes:
        path: Ogg Vorbis file.
        tags: Its comments, names in lower case (``title``, ``artist``, ``genre``, ``description`` …).
        captions: True sentences about it, the most specific first.
    """

    path: Path
    tags: dict[str, str]
    captions: tuple[str, ...]


def wesnoth_tracks(root: str | Path = WESNOTH) -> list[Track]:
    """The tracks that carry a title, sorted by file name.

    Args:
        root: Folder of ``.ogg`` files.

    Returns:
        Tracks with captions; a file without a title (``silence.ogg``) is left out.

    Raises:
        FileNotFoundError: If the folder holds no ``.ogg`` file; the message is the install command.
    """
    files = sorted(Path(root).glob("*.ogg"))
    if not files:
        raise FileNotFoundError(f"no .ogg file in {root}: apt-get install -y wesnoth-1.16-music, or pass None")
    tagged = [(file, vorbis_comments(file)) for file in files]
    return [Track(file, tags, _captions(tags)) for file, tags in tagged if tags.get("title")]


def vorbis_comments(path: Path) -> dict[str, str]:
    """Comments of an Ogg Vorbis file whose comment header lies in its first 64 kB.

    Args:
        path: The file.

    Returns:
        Values by lower-case name; the first of repeated names.

    Raises:
        ValueError: If there is no readable comment header.
    """
    with path.open("rb") as file:
        data = file.read(65536)
    at = data.find(b"\x03vorbis") + 7
    tags: dict[str, str] = {}
    try:
        if at < 7:
            raise struct.error("no comment header")
        at += 4 + struct.unpack_from("<I", data, at)[0]
        (count,) = struct.unpack_from("<I", data, at)
        at += 4
        for _ in range(count):
            (length,) = struct.unpack_from("<I", data, at)
            name, _, value = data[at + 4 : at + 4 + length].partition(b"=")
            tags.setdefault(name.decode("ascii", "replace").lower(), value.decode("utf-8", "replace").strip())
            at += 4 + length
    except struct.error as error:
        raise ValueError(f"{path}: expected an Ogg Vorbis file with comments ({error})") from error
    return tags


def _captions(tags: dict[str, str]) -> tuple[str, ...]:
    title, genre = tags["title"], tags.get("genre", "")
    style = f"{genre} music".capitalize() if genre and genre != "Game" else "Orchestral game music"
    composer = tags.get("composer") or tags.get("artist") or ""
    by = f" by {composer}" if composer else ""
    captions = []
    purpose = tags.get("description", "")
    if purpose and "://" not in purpose:
        captions.append(f"{purpose.rstrip('.')}.")
        captions.append(f"{style}. {purpose.rstrip('.')}.")
    captions.append(f'{style} titled "{title}" from the soundtrack of a fantasy game.')
    captions.append(f'"{title}", orchestral music{by} for The Battle for Wesnoth.')
    return tuple(captions)


def wesnoth_windows(tracks: Iterable[Track], *, seconds: float, windows: int) -> SampleList:
    """Evenly spread windows of each track; a window is decoded when its sample's clip is asked for.

    Args:
        tracks: Tracks.
        seconds: Length of a window.
        windows: How many of a track; one shorter than that many windows gives as many as fit, at least one.

    Returns:
        A source of the split ``wesnoth``. The sample of a track that cannot be read says why when it is decoded.
    """
    samples = []
    for track in tracks:
        try:
            spare = max(probe(track.path).duration - seconds, 0.0)
        except BadAudio:
            spare = 0.0
        count = max(1, min(windows, int(spare // seconds) + 1))
        for i in range(count):
            start = spare * (i + 1) / (count + 1)
            key = f"{track.path.stem.replace('.', '_')}-{i}"
            tags = {**track.tags, "track": track.path.stem, "start": round(start, 3)}
            samples.append(
                AudioTextSample(
                    key, track.captions, path=track.path, tags=tags, split="wesnoth", start=start, duration=seconds
                )
            )
    return SampleList(samples)
