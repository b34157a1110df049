from dataclasses import astuple

import numpy as np
import pytest
from sklearn.metrics import recall_score

from byol_ext.metrics.per_class import PerClassSweep, class_accuracies, holm, per_class_metrics


def planted(seeds: int = 10) -> np.ndarray:
    """Three strengths, five classes: all rise with the strength but class 3, which falls."""
    rng = np.random.default_rng(0)
    base = np.array([[0.70] * 5, [0.75] * 5, [0.85] * 5])
    base[:, 3] = [0.9, 0.85, 0.6]
    return np.clip(base[:, None] + 0.02 * rng.standard_normal((3, seeds, 5)), 0, 1)


def test_planted_victim_is_found_and_nobody_else():
    sweep = PerClassSweep((0.0, 0.5, 1.0), planted(), ("a", "b", "c", "spider", "e"))
    assert sweep.best_strength == 1.0
    regrets = sweep.regrets()
    assert all(entry.regret >= 0 for entry in regrets)
    victims = [entry for entry in regrets if entry.p_value < 0.05]
    assert [entry.name for entry in victims] == ["spider"]
    assert victims[0].best_strength == 0.0
    assert victims[0].regret == pytest.approx(0.3, abs=0.03)
    # 2^-10 for each of 5 x 2 comparisons.
    assert victims[0].p_value == pytest.approx(10 / 1024)
    summary = sweep.summary()
    assert summary["per_class/worst_regret"] == pytest.approx(victims[0].regret)
    assert summary["per_class/accuracy"] == pytest.approx(planted()[2].mean())


def test_few_seeds_prove_nothing():
    assert min(e.p_value for e in PerClassSweep((0, 1, 2), planted(3)).regrets()) > 0.5
    assert {e.p_value for e in PerClassSweep((0, 1, 2), planted(1)).regrets()} == {1.0}


def test_order_of_classes_does_not_matter():
    accuracy, order = planted(), np.array([4, 2, 0, 3, 1])
    names = list("abcde")
    one = {e.name: e for e in PerClassSweep((0, 1, 2), accuracy, names).regrets()}
    other = {e.name: e for e in PerClassSweep((0, 1, 2), accuracy[:, :, order], [names[i] for i in order]).regrets()}
    for name, entry in one.items():
        assert astuple(entry)[1:] == pytest.approx(astuple(other[name])[1:])


def test_absent_classes_have_no_part():
    accuracy = planted()
    without = np.concatenate([accuracy, np.full((3, 10, 1), np.nan)], axis=2)
    one, other = PerClassSweep((0, 1, 2), accuracy), PerClassSweep((0, 1, 2), without)
    assert other.regrets() == one.regrets()
    np.testing.assert_allclose(other.mean_T, one.mean_T)


def test_class_accuracies_are_recalls_and_average_to_the_overall_accuracy():
    rng = np.random.default_rng(0)
    label, predicted = np.repeat(np.arange(4), 25), rng.integers(0, 4, 100)
    found = class_accuracies(label, predicted, classes=4)
    np.testing.assert_allclose(found, recall_score(label, predicted, average=None))
    assert found.mean() == pytest.approx((label == predicted).mean())
    flat = per_class_metrics(label, predicted, names=[*"abcd", "none"])
    assert flat["per_class/worst"] == found.min()
    assert "per_class/accuracy/none" not in flat


def test_holm_by_the_definition():
    p = np.random.default_rng(0).random(20) ** 3
    order = np.sort(p)
    expected = [min(1.0, max((20 - j) * order[j] for j in range(20) if order[j] <= value)) for value in p]
    np.testing.assert_allclose(holm(p), expected)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="two strengths"):
        PerClassSweep((0,), planted()[:1])
    with pytest.raises(ValueError, match="names"):
        PerClassSweep((0, 1, 2), planted(), ("a",))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        PerClassSweep((0, 1, 2), 100 * planted())
    with pytest.raises(ValueError, match="outside"):
        class_accuracies([0, 5], [0, 0], classes=3)
