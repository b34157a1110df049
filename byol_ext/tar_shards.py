"""Tar shards of any modality: their names, and the stored index of their members.

Members of a tar file lie at fixed offsets, so a shard is scanned once and any sample is then a read or two away.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
_INDEX_FOLDER = ".byol_ext_index"
_MAX_RANGE = 1_000_000


def shard_paths(patterns: Iterable[str | Path]) -> list[Path]:
    """Existing files named by paths, folders (their ``.tar`` files), brace ranges and globs, in order.

    Args:
        patterns: Such as ``"data/{000000..000099}.tar"``. A name that exists is taken as it stands, whatever
            characters are in it.

    Raises:
        FileNotFoundError: Naming the first files that are missing, or the pattern without a match.
        ValueError: If a brace is malformed.
    """
    paths: list[Path] = []
    for pattern in patterns:
        for name in [str(pattern)] if Path(pattern).exists() else expand_braces(str(pattern)):
            paths.extend(_existing(name))
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileNotFoundError(f"{len(missing)} of {len(paths)} shards do not exist: {missing[:3]}{more}")
    return paths


def _existing(name: str) -> list[Path]:
    """The shards of a folder, the matches of a glob, or the path itself."""
    path = Path(name)
    if path.is_dir():
        found = sorted(path.glob("*.tar"))
    elif not path.exists() and any(character in name for character in "*?["):
        found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    else:
        return [path]
    if not found:
        raise FileNotFoundError(f"no file matches {name if not path.is_dir() else str(path / '*.tar')!r}")
    return found


def expand_braces(pattern: str) -> list[str]:
    """All names of a pattern with ranges ``{a..b}`` (zero-padded as written) and lists ``{x,y}``.

    Args:
        pattern: The pattern.

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


def stored_index(
    path: Path, scan: Callable[[Path], dict[str, Any]], *, version: str, cache_dir: Path | None = None
) -> dict[str, Any]:
    """Index of a shard: read back if it was made for the present size and time of the file, else made and stored.

    Args:
        path: The shard.
        scan: Makes the index, which must be what JSON can hold.
        version: Name of what ``scan`` makes; an index of another version is made anew.
        cache_dir: Folder of the index files; ``.byol_ext_index/`` beside the shard by default. If it cannot be
            written, the index is made at each call.

    Returns:
        What ``scan`` returned.
    """
    status = path.stat()
    stamp = {"version": version, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    folder, name = path.parent / _INDEX_FOLDER, f"{path.name}.json"
    if cache_dir is not None:
        digest = hashlib.sha256(str(path.parent.resolve()).encode()).hexdigest()[:16]
        folder, name = cache_dir, f"{digest}-{name}"
    try:
        stored: dict[str, Any] = json.loads((folder / name).read_bytes())
        if stored["stamp"] == stamp:
            index: dict[str, Any] = stored["index"]
            return index
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError, KeyError, TypeError):
        _log.debug("indexing %s", path)
    index = scan(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{name}.{os.getpid()}"
        temporary.write_text(json.dumps({"stamp": stamp, "index": index}))
        temporary.replace(folder / name)
    except OSError as error:
        _log.warning("cannot store the index of %s in %s (%s); it will be rebuilt each time", path, folder, error)
    return index
