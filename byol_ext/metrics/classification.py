"""Scores of a classifier, single-label and multi-label, with unknown labels masked out. All are fractions.

Legend: `N` items, `C` classes (or tags). Higher score = more likely.
"""

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

Floats = npt.NDArray[np.float64]


def accuracy(label_N: npt.ArrayLike, predicted_N: npt.ArrayLike) -> float:
    """Share of equal entries.

    >>> accuracy([0, 1, 1, 2], [0, 1, 2, 2])
    0.75
    """
    label, predicted = _single_label(label_N, predicted_N)
    return float((label == predicted).mean())


def balanced_accuracy(label_N: npt.ArrayLike, predicted_N: npt.ArrayLike) -> float:
    """Mean recall over the classes that occur among the labels: every class weighs the same, however rare.

    >>> balanced_accuracy([0, 0, 0, 1], [0, 0, 0, 0])
    0.5
    """
    label, predicted = _single_label(label_N, predicted_N)
    return float(np.mean([(predicted[label == c] == c).mean() for c in np.unique(label)]))


def confusion(label_N: npt.ArrayLike, predicted_N: npt.ArrayLike, *, classes: int) -> npt.NDArray[np.int64]:
    """Counts [classes, classes]: row = true class, column = prediction.

    >>> confusion([0, 0, 1], [0, 1, 1], classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    label, predicted = np.asarray(label_N), np.asarray(predicted_N)
    for name, values in (("label", label), ("prediction", predicted)):
        if len(values) and (values.min() < 0 or values.max() >= classes):
            raise ValueError(f"a {name} lies outside 0..{classes - 1}")
    return np.bincount(label * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def macro_auroc(label_NC: npt.ArrayLike, score_NC: npt.ArrayLike, *, known_NC: npt.ArrayLike | None = None) -> float:
    """Area under the ROC curve of every tag, averaged over the tags that have both a positive and a negative.

    Args:
        label_NC: 0/1.
        score_NC: any monotone score.
        known_NC: True where the label is known (OpenMIC labels a part only); default all.

    Raises:
        ValueError: shapes that differ, or no tag with both a positive and a negative.
    """
    label, score, known = _multi_label(label_NC, score_NC, known_NC)
    values = [roc_auc_score(y, s) for y, s in _tags(label, score, known) if 0 < y.sum() < len(y)]
    if not values:
        raise ValueError("no tag has both a known positive and a known negative: AUROC is undefined")
    return float(np.mean(values))


def macro_average_precision(
    label_NC: npt.ArrayLike, score_NC: npt.ArrayLike, *, known_NC: npt.ArrayLike | None = None
) -> float:
    """Average precision of every tag (mAP, also called PR-AUC), averaged over the tags with a positive.

    Arguments and errors as in `macro_auroc`. Chance is the mean share of positives.
    """
    label, score, known = _multi_label(label_NC, score_NC, known_NC)
    values = [average_precision_score(y, s) for y, s in _tags(label, score, known) if y.sum() > 0]
    if not values:
        raise ValueError("no tag has a known positive: average precision is undefined")
    return float(np.mean(values))


def mean_average_recall(
    label_NC: npt.ArrayLike, score_NC: npt.ArrayLike, *, known_NC: npt.ArrayLike | None = None
) -> float:
    """mAR: a clip ranks its N tags; recall@n averaged over n = 1..N, then over clips.

    Our reading of the paper's term (spec slap section 12.2). Chance is about (N + 1) / 2N: 52.5 % with 20 tags, so
    read it as a secondary number. Unknown tags leave the clip's list; clips without a known positive are skipped; ties
    take their mid-rank.

    >>> mean_average_recall([[1, 0, 0, 0]], [[0.9, 0.1, 0.2, 0.3]])
    1.0
    """
    label, score, known = _multi_label(label_NC, score_NC, known_NC)
    values = []
    for y, s, k in zip(label, score, known, strict=True):
        positive = y[k] > 0
        if positive.any():
            known_score, right = s[k], s[k][positive][:, None]
            rank = (known_score > right).sum(axis=1) + ((known_score == right).sum(axis=1) + 1) / 2
            values.append(float(np.mean((k.sum() - rank + 1) / k.sum())))
    if not values:
        raise ValueError("no clip has a known positive tag: mAR is undefined")
    return float(np.mean(values))


def multi_label_metrics(
    label_NC: npt.ArrayLike, score_NC: npt.ArrayLike, *, known_NC: npt.ArrayLike | None = None
) -> dict[str, float]:
    """`auroc`, `mAP`, `mAR` together."""
    return {
        "auroc": macro_auroc(label_NC, score_NC, known_NC=known_NC),
        "mAP": macro_average_precision(label_NC, score_NC, known_NC=known_NC),
        "mAR": mean_average_recall(label_NC, score_NC, known_NC=known_NC),
    }


def _single_label(
    label_N: npt.ArrayLike, predicted_N: npt.ArrayLike
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    label, predicted = np.asarray(label_N), np.asarray(predicted_N)
    if label.shape != predicted.shape or label.ndim != 1 or len(label) == 0:
        raise ValueError(f"labels {label.shape} and predictions {predicted.shape}: expected two equal lists, not empty")
    return label, predicted


def _multi_label(
    label_NC: npt.ArrayLike, score_NC: npt.ArrayLike, known_NC: npt.ArrayLike | None
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    label = np.asarray(label_NC, dtype=np.float64)
    score = np.asarray(score_NC, dtype=np.float64)
    known = np.ones(label.shape, dtype=bool) if known_NC is None else np.asarray(known_NC, dtype=bool)
    if label.ndim != 2 or label.shape != score.shape or label.shape != known.shape:
        raise ValueError(
            f"labels {label.shape}, scores {score.shape}, known {known.shape}: expected three equal [items, tags]"
        )
    if not np.isin(label[known], (0.0, 1.0)).all():
        raise ValueError("multi-label targets must be 0 or 1 wherever they are known")
    if not np.isfinite(score[known]).all():
        raise ValueError("scores hold NaN or Inf")
    return label, score, known


def _tags(label: Floats, score: Floats, known: npt.NDArray[np.bool_]) -> list[tuple[Floats, Floats]]:
    """Known labels and scores of every tag."""
    return [(label[known[:, c], c], score[known[:, c], c]) for c in range(label.shape[1])]
