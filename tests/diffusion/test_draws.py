"""Keyed draws: laws, and independence of batch, streams and device order."""

import pytest
import torch
from scipy import stats

from byol_ext.diffusion.draws import Stream, keyed_coin, keyed_integers, keyed_normal
from byol_ext.rng import sample_keys


def keys(n, seed=0):
    return sample_keys(seed, 0, torch.arange(n))


def test_normal_numbers_follow_their_law():
    values = keyed_normal(keys(400), 51)
    assert values.shape == (400, 51)
    assert stats.kstest(values.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(values.square().sum(1).numpy(), "chi2", args=(51,)).pvalue > 1e-3
    assert abs(torch.corrcoef(values.T)[~torch.eye(51, dtype=torch.bool)]).max() < 5 / 20


def test_numbers_belong_to_their_sample():
    assert torch.equal(keyed_normal(keys(8), 6)[[5, 2]], keyed_normal(keys(8)[[5, 2]], 6))
    assert not torch.equal(keyed_normal(keys(8), 6), keyed_normal(keys(8, seed=1), 6))


def test_integers_are_uniform():
    values = keyed_integers(keys(6000), 6, stream=Stream.GIVEN)
    assert stats.chisquare(torch.bincount(values, minlength=6).numpy()).pvalue > 1e-3
    bounds = torch.tensor([1, 7]).repeat(500)
    bounded = keyed_integers(keys(1000), bounds, stream=Stream.GIVEN)
    assert (bounded[::2] == 0).all()
    assert bounded[1::2].unique().tolist() == list(range(7))


@pytest.mark.parametrize("probability", [0.0, 0.1, 1.0])
def test_coins(probability):
    share = keyed_coin(keys(10_000), probability, stream=Stream.FLIP).double().mean().item()
    assert share == pytest.approx(probability, abs=4 * (probability * (1 - probability) / 10_000) ** 0.5)


def test_streams_are_distinct_and_independent():
    assert len({int(stream) for stream in Stream}) == len(list(Stream))
    a, b = (keyed_integers(keys(5000), 2, stream=stream) for stream in (Stream.GIVEN, Stream.SPANS))
    assert abs((a == b).double().mean().item() - 0.5) < 0.03
