import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from byol_ext.metrics.classification import (
    accuracy,
    confusion,
    macro_auroc,
    macro_average_precision,
    mean_average_recall,
    multi_label_metrics,
)

GENERATOR = np.random.default_rng(0)
LABEL = GENERATOR.integers(0, 2, size=(60, 5))
SCORE = GENERATOR.random((60, 5)) + 0.3 * LABEL


def test_macro_scores_equal_sklearn():
    assert macro_auroc(LABEL, SCORE) == pytest.approx(roc_auc_score(LABEL, SCORE, average="macro"))
    assert macro_average_precision(LABEL, SCORE) == pytest.approx(
        average_precision_score(LABEL, SCORE, average="macro")
    )


def test_unknown_labels_do_not_count():
    known = np.ones(LABEL.shape, dtype=bool)
    known[::3] = False
    flipped = np.where(known, LABEL, 1 - LABEL)
    for function in (macro_auroc, macro_average_precision, mean_average_recall):
        value = function(LABEL, SCORE, known_NC=known)
        assert value == pytest.approx(function(flipped, SCORE, known_NC=known))
        assert value == pytest.approx(function(LABEL[known.all(axis=1)], SCORE[known.all(axis=1)]))


def test_tags_without_both_labels_are_skipped():
    label = np.column_stack([LABEL[:, 0], np.zeros(60), np.ones(60)])
    assert macro_auroc(label, SCORE[:, :3]) == pytest.approx(roc_auc_score(LABEL[:, 0], SCORE[:, 0]))
    with pytest.raises(ValueError, match="AUROC is undefined"):
        macro_auroc(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="average precision is undefined"):
        macro_average_precision(np.zeros((3, 2)), np.zeros((3, 2)))


def test_mean_average_recall_equals_its_definition():
    values = []
    for label, score in zip(LABEL, SCORE, strict=True):
        if label.sum():
            order = np.argsort(-score)
            values.append(np.mean(np.cumsum(label[order]) / label.sum()))
    assert mean_average_recall(LABEL, SCORE) == pytest.approx(np.mean(values))


def test_mean_average_recall_chance_of_constant_scores():
    label = np.zeros((10, 20))
    label[np.arange(10), np.arange(10)] = 1
    assert mean_average_recall(label, np.zeros((10, 20))) == pytest.approx(21 / 40)  # 52.5 %
    with pytest.raises(ValueError, match="mAR is undefined"):
        mean_average_recall(np.zeros((2, 2)), np.zeros((2, 2)))


def test_confusion_rows_are_true_classes():
    label, predicted = GENERATOR.integers(0, 4, 50), GENERATOR.integers(0, 4, 50)
    np.testing.assert_array_equal(confusion(label, predicted, classes=4), confusion_matrix(label, predicted))
    with pytest.raises(ValueError, match="outside"):
        confusion([4], [0], classes=4)


def test_bad_inputs():
    with pytest.raises(ValueError, match="equal lists"):
        accuracy([1, 2], [1])
    with pytest.raises(ValueError, match="not empty"):
        accuracy([], [])
    with pytest.raises(ValueError, match="three equal"):
        macro_auroc(LABEL, SCORE[:, :2])
    with pytest.raises(ValueError, match="0 or 1"):
        macro_auroc(LABEL + 1, SCORE)
    with pytest.raises(ValueError, match="NaN"):
        multi_label_metrics(LABEL, np.full(SCORE.shape, np.nan))
