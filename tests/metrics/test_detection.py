"""Average precision of boxes against hand-made cases and a loop that follows the rule word by word."""

import numpy as np
import pytest

from byol_ext.metrics.detection import LabelledBoxes, average_precisions, detection_metrics, paired_iou


def boxes(rows: list[tuple[int, tuple[float, float, float, float], int]], scores: list[float] | None = None):
    return LabelledBoxes(
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 4),
        np.array([row[2] for row in rows], dtype=np.int64),
        None if scores is None else np.array(scores, dtype=np.float64),
    )


LEFT, RIGHT, FAR = (0.0, 0.0, 0.4, 1.0), (0.5, 0.0, 0.9, 1.0), (2.0, 2.0, 3.0, 3.0)


def overlap(a, b) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height) if areas > 0 else 0.0


def brute_force(truth: LabelledBoxes, found: LabelledBoxes, iou: float) -> dict[int, float]:
    out = {}
    for label in sorted(set(truth.label_N.tolist())):
        mine = [i for i in range(len(truth)) if truth.label_N[i] == label]
        ranked = sorted((i for i in range(len(found)) if found.label_N[i] == label), key=lambda i: -found.score_N[i])
        taken: set[int] = set()
        points = []
        hits = 0
        for place, i in enumerate(ranked, 1):
            rivals = [m for m in mine if truth.frame_N[m] == found.frame_N[i]]
            best = max(rivals, key=lambda m: overlap(found.box_N4[i], truth.box_N4[m]), default=None)
            if best is not None and best not in taken and overlap(found.box_N4[i], truth.box_N4[best]) >= iou:
                taken.add(best)
                hits += 1
            points.append((hits / len(mine), hits / place))
        recalls = [0.0, *(recall for recall, _ in points)]
        out[label] = sum(
            (recalls[k + 1] - recalls[k]) * max(precision for _, precision in points[k:]) for k in range(len(points))
        )
    return out


def test_hand_made_curve():
    truth = boxes([(0, LEFT, 1), (0, RIGHT, 1), (1, LEFT, 1), (1, LEFT, 2)])
    # Right, wrong (duplicate), right, wrong (no such box), right: precision 1, -, 2/3, -, 3/5.
    found = boxes([(0, LEFT, 1), (0, LEFT, 1), (0, RIGHT, 1), (9, LEFT, 1), (1, LEFT, 1)], [0.9, 0.8, 0.7, 0.6, 0.5])
    assert average_precisions(truth=truth, detections=found) == pytest.approx({1: (1 + 2 / 3 + 3 / 5) / 3, 2: 0.0})


def test_precision_is_made_non_increasing():
    truth = boxes([(0, LEFT, 1), (1, LEFT, 1)])
    found = boxes([(0, FAR, 1), (0, LEFT, 1), (1, LEFT, 1)], [0.9, 0.8, 0.7])
    assert average_precisions(truth=truth, detections=found)[1] == pytest.approx(2 / 3)


def test_a_detection_looks_only_at_the_box_that_it_overlaps_most():
    truth = boxes([(0, (0.0, 0.0, 1.0, 1.0), 1), (0, (0.1, 0.0, 1.1, 1.0), 1)])
    found = boxes([(0, (0.0, 0.0, 1.0, 1.0), 1), (0, (0.02, 0.0, 1.02, 1.0), 1)], [0.9, 0.8])
    # The second also covers the other true box by more than one half, but the first is nearer and taken.
    assert average_precisions(truth=truth, detections=found)[1] == pytest.approx(0.5)


def test_the_threshold_itself_counts():
    truth = boxes([(0, (0.0, 0.0, 1.0, 1.0), 1)])
    found = boxes([(0, (0.0, 0.0, 0.5, 1.0), 1)], [1.0])
    assert average_precisions(truth=truth, detections=found, iou=0.5) == {1: 1.0}
    assert average_precisions(truth=truth, detections=found, iou=0.51) == {1: 0.0}


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("seed", range(3))
def test_equals_brute_force(seed: int, iou: float):
    rng = np.random.default_rng(seed)

    def draw(n: int, *, scored: bool) -> LabelledBoxes:
        corner, size = rng.uniform(0, 0.5, (n, 2)), rng.uniform(0.3, 0.7, (n, 2))
        score = rng.permutation(n) / n if scored else None
        return LabelledBoxes(
            rng.integers(0, 12, n), np.concatenate([corner, corner + size], 1), rng.integers(0, 4, n), score
        )

    truth, found = draw(90, scored=False), draw(240, scored=True)
    ours = average_precisions(truth=truth, detections=found, iou=iou)
    assert ours == pytest.approx(brute_force(truth, found, iou), abs=1e-12)
    assert iou > 0.5 or max(ours.values()) > 0.1


def test_equal_scores_do_not_depend_on_the_order_of_the_file():
    rng = np.random.default_rng(0)
    truth = boxes([(frame, LEFT, 1) for frame in range(20)])
    rows = [(int(frame), LEFT if rng.random() < 0.5 else FAR, 1) for frame in rng.permutation(20)]
    found = boxes(rows, rng.integers(0, 3, 20).tolist())
    expected = average_precisions(truth=truth, detections=found)
    for _ in range(5):
        assert average_precisions(truth=truth, detections=found.rows(rng.permutation(20))) == pytest.approx(expected)
    level = boxes(rows, [0.5] * 20)
    share = np.mean([box == LEFT for _, box, _ in rows])
    assert average_precisions(truth=truth, detections=level)[1] == pytest.approx(share**2)


def test_best_scored_rows_of_a_frame():
    truth = boxes([(0, LEFT, 1), (0, RIGHT, 2)])
    found = boxes([(0, RIGHT, 2), (0, LEFT, 1), (1, LEFT, 1)], [0.2, 0.9, 0.1])
    assert average_precisions(truth=truth, detections=found, max_per_frame=1) == {1: 1.0, 2: 0.0}
    assert average_precisions(truth=truth, detections=found, max_per_frame=2) == {1: 1.0, 2: 1.0}


def test_metrics_ignore_labels_that_are_not_named():
    truth = boxes([(0, LEFT, 1), (0, RIGHT, 2), (0, RIGHT, 5)])
    found = boxes([(0, LEFT, 1), (0, LEFT, 2), (0, RIGHT, 5), (0, RIGHT, 7)], [0.9] * 4)
    metrics = detection_metrics(truth=truth, detections=found, names={1: "stand", 2: "sit", 7: "run"})
    assert metrics["detection/mAP"] == 0.5
    assert (metrics["detection/AP/stand"], metrics["detection/AP/sit"]) == (1.0, 0.0)
    assert "detection/AP/run" not in metrics
    assert (metrics["detection/labels"], metrics["detection/boxes"], metrics["detection/detections"]) == (2, 2, 3)
    with pytest.raises(ValueError, match="no true box"):
        detection_metrics(truth=truth, detections=found, names={9: "swim"})


def test_nothing_detected():
    truth = boxes([(0, LEFT, 1)])
    assert average_precisions(truth=truth, detections=boxes([], [])) == {1: 0.0}


def test_paired_iou_of_disjoint_and_empty_boxes():
    a = np.array([[0.0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1]])
    b = np.array([[0.0, 0, 1, 1], [0, 0, 0, 0], [3, 3, 4, 4]])
    assert paired_iou(a, b).tolist() == [1.0, 0.0, 0.0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="x1 <= x2"):
        boxes([(0, (0.5, 0.0, 0.1, 1.0), 1)])
    with pytest.raises(ValueError, match="NaN"):
        boxes([(0, LEFT, 1)], [float("nan")])
    with pytest.raises(ValueError, match="no scores"):
        average_precisions(truth=boxes([(0, LEFT, 1)]), detections=boxes([(0, LEFT, 1)]))
    with pytest.raises(ValueError, match="iou"):
        average_precisions(truth=boxes([(0, LEFT, 1)]), detections=boxes([(0, LEFT, 1)], [1.0]), iou=0.0)
    with pytest.raises(ValueError, match="expected one of each"):
        LabelledBoxes(np.zeros(2, np.int64), np.zeros((1, 4)), np.zeros(2, np.int64))
