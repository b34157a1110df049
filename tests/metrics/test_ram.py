"""The RAM probe against ridge regression by hand, and what it must not be fooled by."""

import numpy as np
import pytest

from byol_ext.metrics.ram import ram_probe, varying_bytes


def game(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and RAM: a position the features know, one they do not, a flag, a copy, a constant."""
    rng = np.random.default_rng(seed)
    known, hidden = rng.integers(0, 200, (2, n))
    features = np.stack([0.01 * known + rng.normal(0, 0.05, n), rng.normal(size=n), rng.normal(size=n)], 1)
    ram = np.stack([known, hidden, known % 2, known, np.full(n, 7)], 1).astype(np.uint8)
    return features, ram


def test_it_tells_what_is_known_from_what_is_not():
    (train_ND, train_NR), (test_ND, test_NR) = game(400, 0), game(200, 1)
    assert varying_bytes(train_NR, test_NR, least_values=8) == [0, 1]
    found = ram_probe(train_ND=train_ND, train_NR=train_NR, test_ND=test_ND, test_NR=test_NR)
    assert found["ram/bytes"] == 2
    assert found["ram/share_above_half"] == 0.5
    design = np.c_[train_ND, np.ones(len(train_ND))]
    weights, *_ = np.linalg.lstsq(design, train_NR[:, 0].astype(float), rcond=None)
    residual = test_NR[:, 0] - np.c_[test_ND, np.ones(len(test_ND))] @ weights
    r2 = 1 - np.square(residual).sum() / np.square(test_NR[:, 0] - test_NR[:, 0].mean()).sum()
    assert found["ram/r2_mean"] == pytest.approx((r2 + 0.0) / 2, abs=0.03)


def test_a_useless_byte_counts_minus_one_at_most():
    rng = np.random.default_rng(0)
    x, shifted = rng.normal(size=(60, 2)), rng.normal(size=(60, 2)) * 50
    ram = np.round(10 * x[:, :1] + 100)
    found = ram_probe(train_ND=x, train_NR=ram, test_ND=shifted, test_NR=rng.integers(0, 9, (60, 1)))
    assert found["ram/r2_mean"] == -1.0


def test_nothing_varies_or_nothing_fits():
    x = np.zeros((5, 2))
    assert ram_probe(train_ND=x, train_NR=np.zeros((5, 128)), test_ND=x, test_NR=np.zeros((5, 128))) == {}
    with pytest.raises(ValueError, match="do not fit"):
        ram_probe(train_ND=x, train_NR=np.zeros((4, 128)), test_ND=x, test_NR=np.zeros((5, 128)))
