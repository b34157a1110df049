"""Mean average precision of boxes in frames, by the PASCAL VOC rule that AVA is scored with.

The rule (Everingham et al. 2010; the ActivityNet evaluation of AVA): of the true boxes with the detection's label in
its frame, a detection looks only at the one that it overlaps most. It is right if that overlap (IoU) reaches the
threshold and no better-scored detection was right about the same box; another one is wrong. The average precision of a
label is the area under its precision-recall curve after precision has been made non-increasing. Labels without a true
box are left out of the mean.

One addition: detections of equal score enter the curve together, so that the order of a file changes nothing.

Legend: `N` detections, `M` true boxes, `P` (detection, true box) pairs of one frame and label. A box is
(x1, y1, x2, y2) in any unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelledBoxes:
    """Boxes of many frames, one row a box and label; a person who does two things has two rows.

    Attributes:
        frame_N: Number of the frame; the same number means the same frame in truth and detections.
        box_N4: (x1, y1, x2, y2).
        label_N: Class.
        score_N: Confidence of a detection; None for the truth.

    Raises:
        ValueError: For lengths that differ, a box that ends before it begins, or values that are not finite.
    """

    frame_N: Integers
    box_N4: Floats
    label_N: Integers
    score_N: Floats | None = None

    def __post_init__(self) -> None:
        n = len(self.frame_N)
        lengths = [len(self.box_N4), len(self.label_N), n if self.score_N is None else len(self.score_N)]
        if self.box_N4.shape != (n, 4) or lengths != [n] * 3:
            raise ValueError(
                f"{n} frames, boxes {self.box_N4.shape}, {len(self.label_N)} labels, {lengths[2]} scores: expected one "
                "of each and boxes [N, 4]"
            )
        if not np.isfinite(self.box_N4).all() or (self.score_N is not None and not np.isfinite(self.score_N).all()):
            raise ValueError("a box or a score is NaN or Inf")
        if n and (self.box_N4[:, 2:] < self.box_N4[:, :2]).any():
            row = int((self.box_N4[:, 2:] < self.box_N4[:, :2]).any(axis=1).argmax())
            raise ValueError(f"box {row} is {self.box_N4[row].tolist()}: expected x1 <= x2 and y1 <= y2")

    def __len__(self) -> int:
        return len(self.frame_N)

    def rows(self, keep: npt.NDArray[np.bool_] | Integers) -> LabelledBoxes:
        """These rows, by mask or by number."""
        score_N = None if self.score_N is None else self.score_N[keep]
        return LabelledBoxes(self.frame_N[keep], self.box_N4[keep], self.label_N[keep], score_N)


def average_precisions(
    *, truth: LabelledBoxes, detections: LabelledBoxes, iou: float = 0.5, max_per_frame: int | None = None
) -> dict[int, float]:
    """Average precision of each label that has a true box, as fractions.

    Args:
        truth: True boxes.
        detections: Detections with scores; those in frames without truth are wrong.
        iou: Least overlap (AVA: 0.5).
        max_per_frame: Keep the best-scored rows of each frame only (the ActivityNet evaluation of AVA reads 50).

    Returns:
        ``{label: average precision}``, labels ascending; empty without truth.

    Raises:
        ValueError: If the detections have no scores, or for a threshold outside (0, 1].

    Example:
        >>> box = np.array([[0.0, 0.0, 1.0, 1.0]])
        >>> truth = LabelledBoxes(np.array([7]), box, np.array([3]))
        >>> found = LabelledBoxes(np.array([7]), box * 0.8, np.array([3]), np.array([0.9]))
        >>> average_precisions(truth=truth, detections=found)
        {3: 1.0}
    """
    if detections.score_N is None:
        raise ValueError("the detections have no scores: average precision ranks them by score")
    if not 0.0 < iou <= 1.0:
        raise ValueError(f"iou={iou}: expected an overlap in (0, 1]")
    score_N = detections.score_N
    order_N = np.argsort(-score_N, kind="stable")
    if max_per_frame is not None:
        order_N = order_N[_among_first(detections.frame_N[order_N], max_per_frame)]
    detections, score_N = detections.rows(order_N), score_N[order_N]
    right_N = _right(truth, detections, iou)
    labels, positives = np.unique(truth.label_N, return_counts=True)
    out = {}
    for label, count in zip(labels.tolist(), positives.tolist(), strict=True):
        of_label = detections.label_N == label
        out[label] = _area(right_N[of_label], score_N[of_label], count)
    return out


def detection_metrics(
    *,
    truth: LabelledBoxes,
    detections: LabelledBoxes,
    names: Mapping[int, str],
    iou: float = 0.5,
    max_per_frame: int | None = None,
) -> dict[str, float]:
    """Mean average precision over the labels that occur, and that of each, as flat names under `detection/`.

    Args:
        truth: True boxes.
        detections: Detections with scores.
        names: Label to name. Rows with other labels are ignored in truth and detections (AVA scores 60 of 80).
        iou: As in `average_precisions`.
        max_per_frame: As in `average_precisions`.

    Returns:
        `detection/mAP`, `detection/AP/{name}`, and the counts `detection/labels`, `detection/frames`,
        `detection/boxes`, `detection/detections`. Fractions.

    Raises:
        ValueError: If no true box carries one of these labels, and the causes of `average_precisions`.
    """
    truth = truth.rows(np.isin(truth.label_N, list(names)))
    detections = detections.rows(np.isin(detections.label_N, list(names)))
    if not len(truth):
        raise ValueError(f"no true box carries one of the {len(names)} labels: mAP is undefined")
    precision = average_precisions(truth=truth, detections=detections, iou=iou, max_per_frame=max_per_frame)
    return {
        "detection/mAP": float(np.mean(list(precision.values()))),
        "detection/labels": float(len(precision)),
        "detection/frames": float(len(np.unique(truth.frame_N))),
        "detection/boxes": float(len(truth)),
        "detection/detections": float(len(detections)),
    } | {f"detection/AP/{names[label]}": value for label, value in precision.items()}


def paired_iou(a_P4: Floats, b_P4: Floats) -> Floats:
    """Intersection over union of box i with box i; 0 where both are empty.

    >>> paired_iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2]])).tolist() == [2 / 6]
    True
    """
    side_P2 = np.clip(np.minimum(a_P4[:, 2:], b_P4[:, 2:]) - np.maximum(a_P4[:, :2], b_P4[:, :2]), 0, None)
    shared_P = side_P2.prod(axis=1)
    union_P = (a_P4[:, 2:] - a_P4[:, :2]).prod(axis=1) + (b_P4[:, 2:] - b_P4[:, :2]).prod(axis=1) - shared_P
    return np.divide(shared_P, union_P, out=np.zeros_like(shared_P), where=union_P > 0)


def _right(truth: LabelledBoxes, detections: LabelledBoxes, iou: float) -> npt.NDArray[np.bool_]:
    """Whether each detection is right; detections are ordered by descending score."""
    right_N = np.zeros(len(detections), dtype=bool)
    if not len(truth) or not len(detections):
        return right_N
    frame = np.unique(np.concatenate([truth.frame_N, detections.frame_N]), return_inverse=True)[1]
    label = np.unique(np.concatenate([truth.label_N, detections.label_N]), return_inverse=True)[1]
    group = frame * (label.max() + 1) + label
    group_M, group_N = group[: len(truth)], group[len(truth) :]
    order_M = np.argsort(group_M, kind="stable")
    first_N = np.searchsorted(group_M[order_M], group_N, side="left")
    count_N = np.searchsorted(group_M[order_M], group_N, side="right") - first_N
    detection_P = np.repeat(np.arange(len(detections)), count_N)
    offset_P = np.arange(len(detection_P)) - np.repeat(np.cumsum(count_N) - count_N, count_N)
    truth_P = order_M[np.repeat(first_N, count_N) + offset_P]
    overlap_P = paired_iou(detections.box_N4[detection_P], truth.box_N4[truth_P])
    # One pair a detection: the greatest overlap, the first true box in a tie.
    by_overlap_P = np.lexsort((offset_P, -overlap_P, detection_P))
    best_P = by_overlap_P[np.unique(detection_P[by_overlap_P], return_index=True)[1]]
    best_P = best_P[overlap_P[best_P] >= iou]
    # One detection a true box: the first, which has the best score.
    winner_P = best_P[np.unique(truth_P[best_P], return_index=True)[1]]
    right_N[detection_P[winner_P]] = True
    return right_N


def _area(right_N: npt.NDArray[np.bool_], score_N: Floats, positives: int) -> float:
    """Area under precision over recall; rows by descending score."""
    if not len(right_N):
        return 0.0
    last_of_score = np.append(score_N[1:] != score_N[:-1], True)
    found = np.cumsum(right_N)[last_of_score]
    precision = found / (np.flatnonzero(last_of_score) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(found, prepend=0) / positives * envelope).sum())


def _among_first(frame_N: Integers, keep: int) -> npt.NDArray[np.bool_]:
    """Whether a row is one of the first `keep` of its frame."""
    if keep < 1:
        raise ValueError(f"max_per_frame={keep}: expected at least 1, or None for all")
    order_N = np.argsort(frame_N, kind="stable")
    sorted_N = frame_N[order_N]
    among_N = np.zeros(len(frame_N), dtype=bool)
    among_N[order_N] = np.arange(len(order_N)) - np.searchsorted(sorted_N, sorted_N, side="left") < keep
    return among_N
