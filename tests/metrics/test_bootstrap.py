import numpy as np
import pytest

from byol_ext.metrics.bootstrap import bootstrap_interval, paired_difference


def test_interval_of_a_mean_matches_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    interval = bootstrap_interval(values, resamples=4000, seed=1)
    half = 1.96 * values.std() / np.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)
    assert (interval.items, interval.resamples, interval.confidence) == (400, 4000, 0.95)


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_coverage_is_near_nominal():
    generator = np.random.default_rng(5)
    inside = 0
    for trial in range(200):
        interval = bootstrap_interval(generator.normal(size=80), resamples=400, confidence=0.9, seed=trial)
        inside += interval.low <= 0.0 <= interval.high
    assert 0.82 <= inside / 200 <= 0.96


def test_median_statistic_and_seeds():
    values = np.random.default_rng(0).normal(size=(3, 101))
    interval = bootstrap_interval(values, statistic=lambda x_RN: np.median(x_RN, axis=1), resamples=500)
    assert interval.per_seed == pytest.approx(np.median(values, axis=1))
    assert interval.value == pytest.approx(np.median(values, axis=1).mean())
    assert interval.low < interval.value < interval.high


def test_stacked_seeds_resample_items_jointly():
    values = np.random.default_rng(0).random(200)
    single = bootstrap_interval(values, seed=2)
    stacked = bootstrap_interval(np.stack([values] * 5), seed=2)
    assert (stacked.low, stacked.high) == pytest.approx((single.low, single.high))  # copies add no information


def test_groups_widen_the_interval_of_dependent_items():
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 5)
    values = generator.normal(size=60)[group]
    naive = bootstrap_interval(values, resamples=2000)
    grouped = bootstrap_interval(values, groups=group, resamples=2000)
    assert grouped.items == 60
    assert grouped.value == pytest.approx(values.mean())
    assert (grouped.high - grouped.low) / (naive.high - naive.low) == pytest.approx(np.sqrt(5), rel=0.15)


def test_unequal_groups_weigh_by_their_items():
    interval = bootstrap_interval([1.0, 1.0, 1.0, 0.0], groups=["a", "a", "a", "b"], resamples=2000)
    assert interval.value == 0.75
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_paired_difference_is_narrower_than_unpaired_and_finds_a_small_effect():
    generator = np.random.default_rng(0)
    difficulty = generator.normal(size=300)
    a = difficulty + 0.1 + 0.2 * generator.normal(size=300)
    b = difficulty + 0.2 * generator.normal(size=300)
    paired = paired_difference(a=a, b=b, resamples=2000)
    assert paired.interval.low > 0
    assert paired.p_value < 0.01
    alone = bootstrap_interval(a, resamples=2000)
    assert paired.interval.high - paired.interval.low < 0.5 * (alone.high - alone.low)
    reverse = paired_difference(a=b, b=a, resamples=2000)
    assert reverse.interval.value == pytest.approx(-paired.interval.value)


def test_paired_p_value_without_a_difference():
    values = np.random.default_rng(0).normal(size=(3, 100))
    assert paired_difference(a=values, b=values, resamples=200).p_value == 1.0


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "not empty"),
        ([1.0, float("nan")], {}, "NaN"),
        ([1.0, 2.0], {"confidence": 95}, "share"),
        ([1.0, 2.0], {"resamples": 0}, "at least 1"),
        ([1.0, 2.0], {"groups": [1]}, "one id an item"),
        ([1.0, 2.0], {"groups": [1, 1], "statistic": lambda x: x.max(axis=1)}, "mean only"),
    ],
)
def test_bad_inputs(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, **options)


def test_paired_shapes_must_agree():
    with pytest.raises(ValueError, match="same items"):
        paired_difference(a=[1.0, 2.0], b=[1.0])
