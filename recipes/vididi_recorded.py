"""Videos kept as raw frames: ``.npy`` shards, and an index that says which frames, in which order, are a video.

A folder holds ``NAME.npy`` (uint8 ``[F, H, W]`` grey or ``[F, H, W, 3]``), for emulators ``NAME.ram.npy`` (uint8
``[F, 128]``), ``videos.jsonl`` (one :class:`RecordedVideo` a line) and ``index.json`` (classes, invariances, report),
which is written last: a folder without it is unfinished. Several videos may show the same frames, in other orders.

Legend: ``N`` videos, ``F`` frames of a shard, ``T`` of a video, ``H, W`` height and width, ``C`` channels.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from byol_ext.ledger import replace_file
from byol_ext.video.samples import ArrayReader, Invariance, VideoReadError, VideoSample

INDEX, VIDEOS, SETTINGS = "index.json", "videos.jsonl", "settings.json"


@dataclass(frozen=True)
class RecordedVideo:
    """Which frames are a video.

    Attributes:
        key: Name that identifies it.
        split: ``train`` or ``test``.
        shard: Name of the shard, without ``.npy``.
        start: Position of the first frame in the shard.
        step: From one frame to the next; negative plays backwards.
        length: Number of frames.
        label: Class.
        group: Videos of one group show the same; never split them.
        facts: What else is known of it.
    """

    key: str
    split: str
    shard: str
    start: int
    step: int
    length: int
    label: int
    group: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> np.ndarray:
        """Positions of its frames in the shard, ``int64 [T]``."""
        return self.start + self.step * np.arange(self.length)


class RecordedVideos:
    """A split of a recorded set as a source of videos (:class:`byol_ext.video.samples.VideoSource`).

    Facts of a sample are those of the index and, where the shard has it, ``"ram"``: uint8 ``[T, 128]``.

    Args:
        folder: The set.
        split: ``train`` or ``test``.

    Attributes:
        classes: Names of the labels.
        invariances: What the labels survive.
        fingerprint: Names the set and the split.
        rows: What each video is.
        report: What the recording measured, such as the accuracy of a probe of single frames.

    Raises:
        FileNotFoundError: If there is no finished set in the folder.
        ValueError: If the set has no video of this split.
    """

    classes: Sequence[str]
    invariances: frozenset[Invariance]
    fingerprint: str

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        if not (self.folder / INDEX).is_file():
            raise FileNotFoundError(f"{self.folder} holds no finished recording: {INDEX} is missing; record it again")
        index = json.loads((self.folder / INDEX).read_text())
        lines = (self.folder / VIDEOS).read_text().splitlines()
        self.rows = [row for row in (RecordedVideo(**json.loads(line)) for line in lines) if row.split == split]
        if not self.rows:
            raise ValueError(f"{self.folder}: no video has split {split!r}; expected train or test")
        self.classes = tuple(index["classes"])
        self.invariances = frozenset(index["invariances"])
        self.fingerprint = f"{index['fingerprint']}-{split}"
        self.report: Mapping[str, Any] = index["report"]
        self._fps = float(index["fps"])
        self._ram = {
            shard: np.load(path)
            for shard in sorted({row.shard for row in self.rows})
            if (path := self.folder / f"{shard}.ram.npy").is_file()
        }

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> VideoSample:
        row = self.rows[index]
        ram = {"ram": self._ram[row.shard][row.frames]} if row.shard in self._ram else {}
        return VideoSample(
            key=row.key,
            open=partial(_open, self.folder, row, self._fps),
            label=row.label,
            group=row.group,
            facts={**row.facts, **ram},
        )

    @property
    def labels(self) -> np.ndarray:
        """Label of each video, ``int64 [N]``."""
        return np.array([row.label for row in self.rows])

    def videos(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Frames of these videos, which must be equally long.

        Args:
            ids: Their positions.

        Returns:
            ``uint8 [N, T, H, W, C]``, one channel for grey.
        """
        stacked = read_videos(self.folder, [self.rows[i] for i in np.asarray(ids).reshape(-1).tolist()])
        return stacked[..., None] if stacked.ndim == 4 else stacked


def read_videos(folder: Path, rows: Sequence[RecordedVideo]) -> np.ndarray:
    """Frames of equally long videos, as the shards hold them: ``uint8 [N, T, H, W]`` grey, or ``[N, T, H, W, 3]``.

    Args:
        folder: The set.
        rows: The videos.

    Raises:
        VideoReadError: If a shard is missing or damaged.
    """
    return np.stack([_frames(folder, row) for row in rows])


def _frames(folder: Path, row: RecordedVideo) -> np.ndarray:
    """``uint8 [T, H, W]`` or ``[T, H, W, 3]``, read from the disk."""
    path = folder / f"{row.shard}.npy"
    try:
        return np.load(path, mmap_mode="r")[row.frames]
    except FileNotFoundError as error:
        raise VideoReadError("missing", f"{path} is not there", source=row.key) from error
    except (OSError, ValueError, EOFError, IndexError) as error:
        raise VideoReadError("unreadable", f"{path}: {error}", source=row.key) from error


def _open(folder: Path, row: RecordedVideo, fps: float) -> ArrayReader:
    frames = _frames(folder, row)
    return ArrayReader(np.broadcast_to(frames[..., None], (*frames.shape, 3)) if frames.ndim == 3 else frames, fps=fps)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an ``.npy`` file that appears whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    replace_file(path, buffer.getvalue())


def save_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file that appears whole or not at all."""
    replace_file(path, (json.dumps(value, indent=1) + "\n").encode())


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder, or go on with an unfinished one of the same settings.

    Args:
        folder: Where the set goes.
        settings: All that decides what is recorded.

    Raises:
        ValueError: If the folder holds a set of other settings, or other files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    wanted = json.loads(json.dumps(settings))
    if path.is_file():
        found = json.loads(path.read_text())
        differing = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        if differing:
            raise ValueError(f"{folder} holds a set with another {', '.join(differing)}: choose another folder")
    elif any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no recording: choose another folder")
    else:
        save_json(path, wanted)


def finish(
    folder: Path,
    rows: Sequence[RecordedVideo],
    *,
    classes: Sequence[str],
    invariances: frozenset[Invariance],
    fingerprint: str,
    fps: float,
    report: Mapping[str, Any],
) -> None:
    """Write the index: from now on the folder is a set.

    Args:
        folder: The set.
        rows: Its videos.
        classes: Names of the labels.
        invariances: What the labels survive.
        fingerprint: Names the set.
        fps: Frames a second of all videos.
        report: What the recording measured.

    Raises:
        ValueError: For an unknown invariance.
    """
    unknown = invariances - set(get_args(Invariance))
    if unknown:
        raise ValueError(f"unknown invariances {sorted(unknown)}; expected some of {get_args(Invariance)}")
    replace_file(folder / VIDEOS, "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode())
    index = {
        "classes": list(classes),
        "invariances": sorted(invariances),
        "fingerprint": fingerprint,
        "fps": fps,
        "report": report,
    }
    save_json(folder / INDEX, index)
