import numpy as np
import pytest
from scipy import stats

from envs.zipf.law import (
    SPLITS,
    RankedItems,
    check_choice,
    check_law,
    cumulative,
    effective_number,
    harmonic,
    rare_count,
    split_law,
    zipf,
)


def test_published_constants():
    approx = lambda value: pytest.approx(value, rel=1e-9)  # noqa: E731
    assert harmonic(20, 2) == approx(1.5961632439130233)
    assert harmonic(30, 1) == approx(3.994987130920391)
    assert zipf(20, 2)[0] == pytest.approx(0.62650234, abs=5e-9)
    assert zipf(20, 2)[-4:].sum() == approx(0.007403196705)
    assert zipf(30, 1)[-6:].sum() == approx(0.054825947115)
    assert zipf(30, 1)[0] == approx(0.2503136974)
    pairs = np.outer(zipf(20, 2), zipf(20, 2))
    assert pairs[0, 0] == approx(0.3925051762686)
    assert pairs[-4:, -4:].sum() == approx(5.480732145e-05)


@pytest.mark.parametrize(("exponent", "number"), [(1, 12.53), (2, 4.04), (3, 1.95), (4, 1.40)])
def test_effective_number_of_items(exponent, number):
    assert effective_number(zipf(20, exponent)) == pytest.approx(number, abs=0.005)
    assert effective_number(split_law("rare", 20, exponent=exponent)) == pytest.approx(4)


def test_splits():
    np.testing.assert_array_equal(split_law("zipf", 20, exponent=1.5), zipf(20, 1.5))
    np.testing.assert_allclose(split_law("uniform", 20, exponent=1.5), 1 / 20)
    rare = split_law("rare", 30, exponent=1.0)
    np.testing.assert_allclose(rare, [0] * 24 + [1 / 6] * 6)
    for split in SPLITS:
        assert split_law(split, 17, exponent=2.5).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("n", "rare", "count"),
    [(20, 0.2, 4), (30, 0.2, 6), (12, 0.2, 2), (100, 0.29, 29), (20, 20, 20), (3, 1, 1), (3, 1.0, 3)],
)
def test_rare_count(n, rare, count):
    assert rare_count(n, rare) == count


@pytest.mark.parametrize(
    ("n", "rare"), [(20, 0.0), (20, 1.1), (20, -0.2), (20, float("nan")), (20, 0), (20, 21), (4, 0.2)]
)
def test_rare_count_refuses(n, rare):
    with pytest.raises(ValueError, match="rare"):
        rare_count(n, rare)


@pytest.mark.parametrize("exponent", [-1, -1.0, float("nan"), float("inf")])
def test_bad_exponents(exponent):
    with pytest.raises(ValueError, match="exponent"):
        zipf(20, exponent)


def test_bad_counts_and_names():
    with pytest.raises(ValueError, match="at least one item"):
        zipf(0, 1.0)
    with pytest.raises(ValueError, match="zipf, uniform, rare"):
        check_choice("split", "zpif", SPLITS)


@pytest.mark.parametrize(
    "law", [np.ones(3) / 3, [0.5, 0.6, -0.1, 0], [0.5, 0.5, np.nan, 0], [0.5, 0.5, 0.1, 0], [[0.25] * 4]]
)
def test_bad_laws(law):
    with pytest.raises(ValueError, match="law"):
        check_law(law, 4)
    with pytest.raises(ValueError, match="law"):
        RankedItems(4, rare=1, law=lambda n: law)


@pytest.mark.parametrize("split", SPLITS)
def test_the_table_draws_what_numpy_draws(split):
    law = split_law(split, 20, exponent=2.0)
    ours, numpys = np.random.default_rng(5), np.random.default_rng(5)
    table = cumulative(law)
    mine = [int(table.searchsorted(ours.random(), side="right")) for _ in range(2000)]
    assert mine == [int(numpys.choice(20, p=law)) for _ in range(2000)]


@pytest.mark.parametrize("split", SPLITS)
def test_a_million_draws_follow_the_law(split):
    law = split_law(split, 20, exponent=2.0)
    u = np.random.default_rng(0).random(1_000_000)
    counts = np.bincount(cumulative(law).searchsorted(u, side="right"), minlength=20)
    assert (counts[law == 0] == 0).all()
    assert stats.chisquare(counts[law > 0], 1e6 * law[law > 0]).pvalue > 1e-3


def test_rank_seed_permutes_the_law():
    plain, other = RankedItems(20), RankedItems(20, rank_seed=3)
    assert plain.rank.tolist() == list(range(20))
    assert sorted(other.rank) == list(range(20))
    assert other.rank.tolist() != plain.rank.tolist()
    np.testing.assert_array_equal(other.probabilities("zipf"), plain.probabilities("zipf")[other.rank])
    assert (other.probabilities("rare")[other.is_rare] == 0.25).all()
    assert other.is_rare.sum() == 4


def test_a_law_of_ones_own_wins_over_the_split():
    items = RankedItems(4, rare=1, law=lambda n: np.arange(1, n + 1) / 10)
    for split in SPLITS:
        np.testing.assert_allclose(items.probabilities(split), [0.1, 0.2, 0.3, 0.4])
