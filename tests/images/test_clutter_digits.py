"""ClutterDigits against a double loop, and what its draws promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from byol_ext.images import clutter_digits
from byol_ext.images.clutter_digits import ClutterDigits
from byol_ext.images.packaged import digits_split
from byol_ext.rng import keyed_uniform, sample_keys
from byol_ext.training.source import LoaderSource, ResumableSampler


def test_splits_are_1297_and_500_digits_and_disjoint() -> None:
    train, test = digits_split("train"), digits_split("test")
    assert (len(train), len(test)) == (1297, 500)
    assert sorted([*train, *test]) == list(range(1797))
    assert ClutterDigits("test").labels.tolist() == load_digits().target[test].tolist()
    with pytest.raises(ValueError, match="valid"):
        ClutterDigits("valid")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_picture_is_what_the_spec_says(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clutter_digits, "NOISE", 0.0)
    data = ClutterDigits(split)
    pictures = load_digits().images / 16
    train, own = digits_split("train"), digits_split(split)
    ids = torch.arange(40)
    keys = sample_keys(3, 0, ids)
    got = data.draw(ids, keys, view=1)[:, 0].numpy()
    u = keyed_uniform(keys, 9, stream=0x40000 + 1).numpy()
    for b in range(40):
        other = train[int(u[b, 3] * (1296 if split == "train" else 1297))]
        if split == "train" and other == own[b]:
            other = train[-1]
        want = np.zeros((16, 16))
        row, column = int(u[b, 1] * 9), int(u[b, 2] * 9)
        want[row : row + 8, column : column + 8] = pictures[own[b]] * (0.5 + 0.5 * u[b, 0])
        piece_row, piece_column = int(u[b, 4] * 5), int(u[b, 5] * 5)
        piece = pictures[other][piece_row : piece_row + 4, piece_column : piece_column + 4] * (0.4 + 0.6 * u[b, 6])
        row, column = int(u[b, 7] * 13), int(u[b, 8] * 13)
        canvas = want[row : row + 4, column : column + 4]
        np.maximum(canvas, piece, out=canvas)
        np.testing.assert_allclose(got[b], want, atol=1e-6)


def test_noise_is_standard_normal_times_a_tenth() -> None:
    data, ids = ClutterDigits("train"), torch.arange(400)
    keys = sample_keys(0, 0, ids)
    noisy = data.draw(ids, keys)
    corner = noisy.flatten()
    noise = clutter_digits._normal(keys, 0x50000)
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert noise.pow(4).mean() == pytest.approx(3, abs=0.1)
    assert float(torch.corrcoef(noise.T[:64]).fill_diagonal_(0).abs().max()) < 0.25
    assert float(corner.min()) < -0.2


def test_views_epochs_and_seeds_draw_anew_and_keys_repeat() -> None:
    data, ids = ClutterDigits("train"), torch.tensor([5, 9, 700])
    first = data.views(ids, torch.zeros(3, dtype=torch.int64))
    again = data.views(ids[1:], torch.zeros(2, dtype=torch.int64))
    assert torch.equal(first["a"][1:], again["a"])
    assert not torch.allclose(first["a"], first["b"], atol=0.3)
    assert not torch.allclose(first["a"], data.views(ids, torch.ones(3, dtype=torch.int64))["a"], atol=0.3)
    assert not torch.allclose(first["a"], ClutterDigits("train", seed=1).views(ids, torch.zeros(3).long())["a"])


def test_evaluation_is_four_draws_a_digit_and_fixed() -> None:
    data = ClutterDigits("test")
    pictures, labels = data.evaluation()
    assert pictures.shape == (2000, 1, 16, 16)
    assert labels[:8].tolist() == np.repeat(data.labels[:2], 4).tolist()
    assert torch.equal(pictures, ClutterDigits("test").evaluation()[0])
    assert not torch.allclose(pictures[0], pictures[1], atol=0.3)
    assert torch.equal(data.evaluation(draws=2)[0][2], pictures[4])


def test_raw_pixels_are_near_chance_as_the_spec_measured() -> None:
    train, labels = ClutterDigits("train").evaluation(draws=1)
    test, test_labels = ClutterDigits("test").evaluation(draws=2)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    score = probe.fit(train.flatten(1).numpy(), labels.numpy()).score(test.flatten(1).numpy(), test_labels.numpy())
    assert 0.08 < score < 0.20


def test_it_is_a_resumable_source() -> None:
    data = ClutterDigits("train")

    def source() -> LoaderSource:
        return LoaderSource(data, ResumableSampler(len(data), 64, seed=1, rank=0, world_size=1))

    one, batches = source(), []
    for batch, _ in zip(one, range(25), strict=False):
        batches.append(batch)
    other = source()
    other.load_state_dict({**one.state_dict(), "position": 22})
    batch = next(iter(other))
    assert torch.equal(batch["ids"], batches[22]["ids"])
    assert torch.equal(batch["epochs"], torch.full((64,), 1))
    assert batch["labels"].tolist() == data.labels[batch["ids"]].tolist()
    assert one.fingerprint == "clutter-digits-train-0"
    with pytest.raises(IndexError, match="1297"):
        data[1297]
