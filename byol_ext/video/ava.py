"""AVA action detection: its tables, its label map, clips around key frames, and the score.

AVA v2.2 (Gu et al., arXiv 1705.08421) labels persons in one frame a second of 15 minutes of a film with 80 actions, of
which 60 are scored. Its files:

- boxes: ``video,second,x1,y1,x2,y2,action,person`` (truth) or ``…,action,score`` (detections); coordinates are shares
  of width and height; a person with two actions has two rows; a row of two fields is a key frame without a box.
- ``ava_action_list_*.pbtxt``: ``item { name: "…" id: 1 }`` (the 60 scored actions) or
  ``label { name: "…" label_id: 1 … }`` (all 80).
- ``*_excluded_timestamps_*.csv``: ``video,second`` of key frames that are not scored.

Legend: ``R`` boxes (regions) of a batch, ``C`` actions, ``B`` clips, ``T, H, W`` frames and their size.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byol_ext.ledger import replace_file
from byol_ext.metrics.detection import LabelledBoxes, detection_metrics
from byol_ext.video.decode import open_video
from byol_ext.video.samples import Reader, VideoReadError

KeyFrame = tuple[str, float]
"""Video and second."""
NO_ACTION = 0
"""Label of a box without an action, such as a person detector's."""
MAX_ROWS = 50
"""Best-scored rows of a key frame that the ActivityNet evaluation of AVA reads."""

_ENTRY = re.compile(r"\{(.*?)\}", re.DOTALL)
_NAME = re.compile(r'name:\s*"((?:[^"\\]|\\.)*)"')
_ID = re.compile(r"\b(?:label_)?id:\s*(\d+)")


@dataclass(frozen=True)
class AvaTable:
    """A file of boxes.

    Attributes:
        frames: Key frames in order of appearance; ``boxes.frame_N`` counts in this list.
        boxes: The rows.
        person_N: Person ids of a file of truth; -1 without.
    """

    frames: Sequence[KeyFrame]
    boxes: LabelledBoxes
    person_N: npt.NDArray[np.int64]


def read_label_map(path: str | Path) -> dict[int, str]:
    """Action id to name from a ``.pbtxt`` of either kind.

    Raises:
        ValueError: If there is no entry, an entry lacks name or id, or an id occurs twice.
    """
    labels: dict[int, str] = {}
    for entry in _ENTRY.findall(Path(path).read_text(encoding="utf-8")):
        name, number = _NAME.search(entry), _ID.search(entry)
        if name is None or number is None:
            raise ValueError(f"{path}: the entry {entry.strip()!r} lacks a name or an id")
        if int(number[1]) in labels:
            raise ValueError(f"{path}: id {number[1]} occurs twice")
        labels[int(number[1])] = re.sub(r"\\(.)", r"\1", name[1])
    if not labels:
        raise ValueError(f'{path}: no entry like item {{ name: "stand" id: 12 }}')
    return dict(sorted(labels.items()))


def read_boxes(path: str | Path, *, scores: bool = False) -> AvaTable:
    """A csv of boxes; CRLF, blank lines and a missing last field are fine.

    Args:
        path: The file.
        scores: Whether the eighth field is a score (detections; required then) instead of a person id (truth).

    Raises:
        ValueError: For a row that cannot be read; names file and line.
    """
    numbers: dict[KeyFrame, int] = {}
    rows: list[tuple[int, list[float], int, float]] = []
    for line, fields in _csv_rows(path):
        try:
            frame = numbers.setdefault((fields[0], float(fields[1])), len(numbers))
            if len(fields) == 2:
                continue
            box = [float(value) for value in fields[2:6]]
            last = fields[7] if len(fields) == 8 else ""
            rows.append((frame, box, int(fields[6] or NO_ACTION), float(last) if scores or last else -1.0))
            if len(fields) not in (7, 8) or not (box[0] <= box[2] and box[1] <= box[3]):
                raise ValueError("fields")
        except (ValueError, IndexError) as error:
            expected = "video,second,x1,y1,x2,y2,action," + ("score" if scores else "person")
            raise ValueError(f"{path}:{line}: {','.join(fields)!r}, expected {expected} with x1 <= x2") from error
    last_N = np.array([row[3] for row in rows], dtype=np.float64)
    boxes = LabelledBoxes(
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 4),
        np.array([row[2] for row in rows], dtype=np.int64),
        last_N if scores else None,
    )
    person_N = np.full(len(rows), -1, dtype=np.int64) if scores else last_N.astype(np.int64)
    return AvaTable(list(numbers), boxes, person_N)


def read_excluded(path: str | Path) -> set[KeyFrame]:
    """Key frames that are not scored.

    Raises:
        ValueError: For a row that is not ``video,second``; names file and line.
    """
    excluded = set()
    for line, fields in _csv_rows(path):
        try:
            video, second = fields
            excluded.add((video, float(second)))
        except ValueError as error:
            raise ValueError(f"{path}:{line}: {','.join(fields)!r}, expected video,second") from error
    return excluded


def write_detections(path: str | Path, *, frames: Sequence[KeyFrame], boxes: LabelledBoxes) -> None:
    """Detections as a csv that `read_boxes` and the public evaluation read; the file appears at once or not at all.

    Raises:
        ValueError: If the boxes have no scores.
    """
    if boxes.score_N is None:
        raise ValueError("the boxes have no scores: only detections are written")
    lines = [
        f"{frames[frame][0]},{frames[frame][1]:04g},{','.join(f'{x:.6g}' for x in box)},{label},{score:.6g}\n"
        for frame, box, label, score in zip(
            boxes.frame_N.tolist(), boxes.box_N4.tolist(), boxes.label_N.tolist(), boxes.score_N.tolist(), strict=True
        )
    ]
    replace_file(Path(path), "".join(lines).encode())


def ava_metrics(
    *,
    truth: AvaTable,
    detections: AvaTable,
    labels: Mapping[int, str],
    excluded: Iterable[KeyFrame] = (),
    iou: float = 0.5,
    max_per_frame: int | None = MAX_ROWS,
) -> dict[str, float]:
    """AVA's frame mAP.

    Args:
        truth: True boxes.
        detections: Detections with scores.
        labels: The actions that are scored, from `read_label_map`.
        excluded: Key frames to leave out, from `read_excluded`.
        iou: Least overlap.
        max_per_frame: Rows of a key frame that count; None for all (PySlowFast).

    Returns:
        See `byol_ext.metrics.detection.detection_metrics`.

    Raises:
        ValueError: If no true box is left, or the detections have no scores.
    """
    left_out = set(excluded)
    number = {frame: i for i, frame in enumerate(dict.fromkeys([*truth.frames, *detections.frames]))}

    def aligned(table: AvaTable) -> LabelledBoxes:
        renumber = np.array([-1 if frame in left_out else number[frame] for frame in table.frames], dtype=np.int64)
        frame_N = renumber[table.boxes.frame_N] if len(table.boxes) else table.boxes.frame_N
        moved = LabelledBoxes(frame_N, table.boxes.box_N4, table.boxes.label_N, table.boxes.score_N)
        return moved.rows(frame_N >= 0)

    return detection_metrics(
        truth=aligned(truth), detections=aligned(detections), names=labels, iou=iou, max_per_frame=max_per_frame
    )


def labelled_rows(*, frame_R: Tensor, box_R4: Tensor, probability_RC: Tensor, labels: Sequence[int]) -> LabelledBoxes:
    """A detection a box and action, from the head's probabilities.

    Args:
        frame_R: Number of each box's key frame.
        box_R4: Boxes as shares of the frame (``share_R4`` of `collate_ava`).
        probability_RC: Sigmoid of the logits.
        labels: Action id of each column.

    Example:
        >>> frame_R, probability_RC = torch.tensor([4]), torch.tensor([[0.1, 0.9]])
        >>> rows = labelled_rows(
        ...     frame_R=frame_R, box_R4=torch.zeros(1, 4), probability_RC=probability_RC, labels=[1, 12]
        ... )
        >>> rows.frame_N.tolist(), rows.label_N.tolist()
        ([4, 4], [1, 12])
    """
    boxes, actions = probability_RC.shape
    return LabelledBoxes(
        np.repeat(frame_R.cpu().numpy().astype(np.int64), actions),
        np.repeat(box_R4.double().cpu().numpy(), actions, axis=0),
        np.tile(np.asarray(labels, dtype=np.int64), boxes),
        probability_RC.detach().double().cpu().numpy().reshape(-1),
    )


class AvaFolder:
    """Opens videos of a folder by their AVA name, whatever their suffix.

    Args:
        root: Folder with ``NAME.mp4``, ``.mkv``, ``.webm``, …

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If two files bear one name.
    """

    def __init__(self, root: str | Path) -> None:
        self._root, self._files = Path(root), dict[str, Path]()
        for file in sorted(self._root.iterdir()):
            if file.stem in self._files:
                raise ValueError(f"{self._files[file.stem]} and {file} bear the same name: leave one of them")
            self._files[file.stem] = file

    def __call__(self, video: str) -> Reader:
        """Open a video.

        Raises:
            VideoReadError: If it is missing (some films have left the internet) or unreadable.
        """
        if video not in self._files:
            raise VideoReadError("missing", f"no file {video}.* in {self._root}", source=video)
        return open_video(self._files[video], name=video)


class AvaClips(torch.utils.data.Dataset[dict[str, Any]]):
    """Map-style: the clip around each key frame that has a box, with its boxes and their actions.

    The middle frame (``frames // 2``) is the key frame; frames before the beginning or after the end of the video
    repeat its first or last one. A video that cannot be used makes an item that `collate_ava` leaves out and lists.

    Args:
        table: Truth for training; for testing also a person detector's boxes.
        labels: Actions to learn; their order is that of the columns.
        open_named: Opens a video by its AVA name, such as an :class:`AvaFolder`; raises :class:`VideoReadError`.
            Picklable for worker processes.
        frames: Frames of a clip (16; spec section 6).
        spacing: Seconds between them (4 frames at 30 a second).
        short_side: Scale frames to this short side; None keeps them.
        file_starts_at: Second of the film at which the files begin: 0 for whole films, 900 for the usual cut.
    """

    def __init__(
        self,
        *,
        table: AvaTable,
        labels: Mapping[int, str],
        open_named: Callable[[str], Reader],
        frames: int = 16,
        spacing: float = 4 / 30,
        short_side: int | None = 128,
        file_starts_at: float = 0.0,
    ) -> None:
        self._frames = table.frames
        self._open, self._short_side = open_named, short_side
        self._offset_T = (np.arange(frames) - frames // 2) * spacing - file_starts_at
        self._regions = _regions(table, list(labels))

    def __len__(self) -> int:
        return len(self._regions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        frame, box_R4, action_RC = self._regions[index]
        video, second = self._frames[frame]
        try:
            with self._open(video) as reader:
                times_N = reader.info.times_N
                clip_THWC = reader.frames(_nearest(times_N, second + self._offset_T), short_side=self._short_side)
        except VideoReadError as error:
            cause = {"key": f"{video},{second:04g}", "cause": error.reason, "message": str(error)}
            return {"frame": frame, "clip": None, "error": cause}
        return {"frame": frame, "clip": clip_THWC, "box_R4": box_R4, "action_RC": action_RC}


def collate_ava(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Clips padded with zeros at the bottom and right, and all their boxes in a row.

    Args:
        items: From :class:`AvaClips`.

    Returns:
        ``clips`` uint8 ``[B, T, H, W, 3]``, ``sizes`` int64 ``[B, 2]`` (true height and width), ``box_R4`` float32 as
        shares of the *padded* frame (what a feature map covers), ``share_R4`` as shares of the true frame (what is
        scored), ``clip_R`` int64 (the clip of each box), ``frame_R`` int64 (its key frame's number), ``action_RC``
        float32 of 0 and 1; and ``seen``, ``bad``, ``errors`` for a `BadSampleLedger`. Without a usable item ``clips``
        is empty.
    """
    errors = [item["error"] for item in items if item["clip"] is None]
    kept = [item for item in items if item["clip"] is not None]
    bad: dict[str, int] = {}
    for error in errors:
        bad[error["cause"]] = bad.get(error["cause"], 0) + 1
    account = {"seen": len(items), "bad": bad, "errors": errors}
    if not kept:
        return account | {"clips": torch.zeros(0, 0, 0, 0, 3, dtype=torch.uint8)}
    sizes_B2 = np.array([item["clip"].shape[1:3] for item in kept], dtype=np.int64)
    height, width = sizes_B2.max(axis=0).tolist()
    clips = np.zeros((len(kept), len(kept[0]["clip"]), height, width, 3), dtype=np.uint8)
    for position, item in enumerate(kept):
        h, w = item["clip"].shape[1:3]
        clips[position, :, :h, :w] = item["clip"]
    count_B = [len(item["box_R4"]) for item in kept]
    share_R4 = np.concatenate([item["box_R4"] for item in kept]).astype(np.float32)
    scale_B4 = (sizes_B2[:, [1, 0, 1, 0]] / np.array([width, height, width, height])).astype(np.float32)
    clip_R = np.repeat(np.arange(len(kept)), count_B)
    return account | {
        "clips": torch.from_numpy(clips),
        "sizes": torch.from_numpy(sizes_B2),
        "box_R4": torch.from_numpy(share_R4 * scale_B4[clip_R]),
        "share_R4": torch.from_numpy(share_R4),
        "clip_R": torch.from_numpy(clip_R),
        "frame_R": torch.from_numpy(np.repeat([item["frame"] for item in kept], count_B)),
        "action_RC": torch.from_numpy(np.concatenate([item["action_RC"] for item in kept])),
    }


def _regions(
    table: AvaTable, labels: Sequence[int]
) -> list[tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float32]]]:
    """Of each key frame with a box: its number, its distinct boxes, and their actions as 0 and 1.

    Rows of one person, or of equal boxes without a person, are one box.
    """
    column = {label: i for i, label in enumerate(labels)}
    found: dict[int, dict[tuple[Any, ...], list[int]]] = {}
    for row, (frame, box, person) in enumerate(
        zip(table.boxes.frame_N.tolist(), table.boxes.box_N4.tolist(), table.person_N.tolist(), strict=True)
    ):
        found.setdefault(frame, {}).setdefault((person, *box), []).append(row)
    out = []
    for frame, boxes in sorted(found.items()):
        action_RC = np.zeros((len(boxes), len(labels)), dtype=np.float32)
        for position, rows in enumerate(boxes.values()):
            for label in table.boxes.label_N[rows].tolist():
                if label in column:
                    action_RC[position, column[label]] = 1.0
        out.append((frame, np.array([key[1:] for key in boxes]), action_RC))
    return out


def _nearest(times_N: np.ndarray, wanted_T: np.ndarray) -> list[int]:
    """Index of the frame nearest in time to each wanted one."""
    right = np.searchsorted(times_N, wanted_T).clip(1, max(len(times_N) - 1, 1))
    left_is_nearer = wanted_T - times_N[right - 1] <= times_N[right.clip(max=len(times_N) - 1)] - wanted_T
    nearest: list[int] = np.where(left_is_nearer, right - 1, right).clip(0, len(times_N) - 1).tolist()
    return nearest


def _csv_rows(path: str | Path) -> Iterable[tuple[int, list[str]]]:
    """Line number and stripped fields of each line that is not blank."""
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        for fields in reader:
            if any(field.strip() for field in fields):
                yield reader.line_num, [field.strip() for field in fields]
