"""T11 and the collapse guards."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from byol_ext.metrics.modality_gap import (
    frechet_distance,
    gap_delta,
    gap_metrics,
    gap_shift_curve,
    modality_separability,
    pair_cosines,
    same_modality_share,
)


def pairs(noise: float, *, n: int = 1000, width: int = 512, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Gap-free pairs: a shared signal and independent noise of `noise` times its size; `shift` moves the text."""
    signal = torch.randn(n, width)
    audio, text = signal + noise * torch.randn(n, width), signal + noise * torch.randn(n, width)
    return audio, text + shift


@pytest.mark.parametrize("noise", [0.1, 1.0, 3.0])
def test_pair_split_is_unbiased_where_row_split_and_training_accuracy_are_not(noise):
    audio, text = pairs(noise)
    fair = modality_separability(audio_ND=audio, text_ND=text)
    rows = [modality_separability(audio_ND=audio, text_ND=text, protocol="rows", seed=s).mean for s in range(5)]
    fit = modality_separability(audio_ND=audio, text_ND=text, protocol="fit")
    assert fair.mean == pytest.approx(0.5, abs=0.05)
    assert len(fair.folds) == 5
    assert 0 < fair.sd < 0.05
    assert sum(rows) / 5 < {0.1: 0.25, 1.0: 0.45, 3.0: 0.53}[noise]  # the weaker the pairing, the smaller the bias
    assert fit.mean > 0.51


def test_shifted_pairs_are_separable():
    audio, text = pairs(1.0, shift=1.0)
    assert modality_separability(audio_ND=audio, text_ND=text).mean > 0.99


def test_separability_is_seeded_and_can_use_a_subset():
    audio, text = pairs(1.0, n=200, width=16)
    assert modality_separability(audio_ND=audio, text_ND=text, seed=1) == modality_separability(
        audio_ND=audio, text_ND=text, seed=1
    )
    assert modality_separability(audio_ND=audio, text_ND=text, seed=1) != modality_separability(
        audio_ND=audio, text_ND=text, seed=2
    )
    small = modality_separability(audio_ND=audio, text_ND=text, max_pairs=50)
    assert all((accuracy * 20) == pytest.approx(round(accuracy * 20)) for accuracy in small.folds)


def test_delta_of_known_sets():
    audio = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    text = torch.tensor([[0.0, 2.0], [0.0, 5.0]])
    assert gap_delta(audio_ND=audio, text_ND=text) == pytest.approx(2**0.5)
    assert gap_delta(audio_ND=audio, text_ND=-audio) == pytest.approx(2.0)
    assert gap_delta(audio_ND=audio, text_ND=audio) == 0.0


def test_pair_cosines_equal_the_matrix():
    audio, text = pairs(1.0, n=30, width=8)
    matrix = torch.nn.functional.normalize(audio, dim=1) @ torch.nn.functional.normalize(text, dim=1).T
    off = (matrix.sum() - matrix.trace()) / (30 * 29)
    assert pair_cosines(audio_ND=audio, text_ND=text) == pytest.approx(
        (float(matrix.diag().mean()), float(off)), abs=1e-6
    )


def test_same_modality_share():
    share = same_modality_share(audio_ND=torch.randn(500, 16), text_ND=torch.randn(500, 16))
    assert share == pytest.approx(499 / 999, abs=0.02)
    audio, text = pairs(1.0, n=100, width=16, shift=20.0)
    assert same_modality_share(audio_ND=audio, text_ND=text) > 0.9
    constant = torch.ones(300, 8)
    assert same_modality_share(audio_ND=constant, text_ND=constant) == pytest.approx(0.5, abs=0.05)


def test_same_modality_share_equals_brute_force():
    audio, text = pairs(1.0, n=12, width=4, shift=0.5)
    pool = torch.nn.functional.normalize(torch.cat([audio, text]).double(), dim=1)
    similarity = (pool @ pool.T).fill_diagonal_(-9)
    same = 0
    for i in range(24):
        near = sorted(range(24), key=lambda j: -float(similarity[i, j]))[:3]
        same += sum((j < 12) == (i < 12) for j in near)
    assert same_modality_share(audio_ND=audio, text_ND=text, k=3, chunk=5) == pytest.approx(same / 72)


@pytest.mark.parametrize("n", [200, 6])
def test_frechet_equals_scipy(n):
    audio, text = pairs(0.7, n=n, width=10, shift=0.3)
    a, t = (torch.nn.functional.normalize(x.double(), dim=1).numpy() for x in (audio, text))
    cov_a, cov_t = np.cov(a.T, bias=True), np.cov(t.T, bias=True)
    residual = np.trace(cov_a + cov_t - 2 * np.real(scipy.linalg.sqrtm(cov_a @ cov_t)))
    raw, centred = frechet_distance(audio_ND=audio, text_ND=text)
    assert centred == pytest.approx(residual, abs=1e-5)
    assert raw - centred == pytest.approx(gap_delta(audio_ND=audio, text_ND=text) ** 2)
    assert frechet_distance(audio_ND=audio, text_ND=audio) == pytest.approx((0.0, 0.0), abs=1e-9)


def test_gap_shift_closes_the_gap_and_restores_recall():
    audio, text = pairs(0.5, n=150, width=32)
    offset = 1.5 * torch.randn(32)
    curve = gap_shift_curve(audio_ND=audio + offset, text_ND=text - offset, shifts=(0.0, 0.5, 1.0))
    assert [point.shift for point in curve] == [0.0, 0.5, 1.0]
    assert curve[0].delta > 1.0
    assert curve[2].delta < 0.1
    assert curve[2].recall["text_to_audio/R@1"] > curve[0].recall["text_to_audio/R@1"] + 5
    assert set(curve[0].recall) == {f"{d}/R@{k}" for d in ("text_to_audio", "audio_to_text") for k in (1, 5, 10)}


def test_collapsed_embeddings_have_no_gap_and_the_guards_say_why():
    audio = torch.ones(100, 32) + 1e-4 * torch.randn(100, 32)
    text = torch.ones(100, 32) + 1e-4 * torch.randn(100, 32)
    metrics = gap_metrics(audio_ND=audio, text_ND=text)
    assert metrics["gap/delta"] < 1e-3
    for name in ("audio", "text"):
        assert metrics[f"gap/{name}/std_sqrt_d"] < 0.01
        assert metrics[f"gap/{name}/effective_rank"] < 1.1
        assert metrics[f"gap/{name}/uniformity"] > -0.01
        assert metrics[f"gap/{name}/variance"] < 1e-6
    assert metrics["gap/positive_cosine"] - metrics["gap/random_cosine"] < 1e-6


def test_gap_metrics_names_and_compat():
    audio, text = pairs(1.0, n=60, width=16)
    metrics = gap_metrics(audio_ND=audio, text_ND=text, compat=True)
    assert metrics["gap/pairs"] == 60
    assert metrics["gap/same_modality_share_chance"] == pytest.approx(59 / 119)
    assert metrics["gap/delta_over_spread"] == pytest.approx(
        metrics["gap/delta"] / ((metrics["gap/audio/variance"] + metrics["gap/text/variance"]) / 2) ** 0.5
    )
    assert {"gap/compat_row_split_biased", "gap/compat_fit_on_train_biased", "gap/pairwise_separability_sd"} <= set(
        metrics
    )
    assert all(isinstance(value, float) for value in metrics.values())


@pytest.mark.parametrize(
    ("audio", "text", "message"),
    [
        (torch.randn(6, 4), torch.randn(5, 4), "one caption an audio"),
        (torch.randn(1, 4), torch.randn(1, 4), "at least 2"),
        (torch.randn(6, 4), torch.full((6, 4), float("nan")), "text embeddings"),
        (torch.randn(4, 4), torch.randn(4, 4), "4 pairs and 5 folds"),
    ],
)
def test_bad_inputs(audio, text, message):
    with pytest.raises(ValueError, match=message):
        gap_metrics(audio_ND=audio, text_ND=text)
