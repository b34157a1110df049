"""Keyed random numbers: uniform, independent, and a function of the sample alone."""

import numpy as np
import torch

from byol_ext.rng import keyed_uniform, sample_generator, sample_keys


def test_independent_of_the_batch_split():
    ids = torch.arange(100)
    whole = keyed_uniform(sample_keys(7, 3, ids), 5)
    parts = torch.cat([keyed_uniform(sample_keys(7, 3, part), 5) for part in ids.split(13)])
    assert torch.equal(whole, parts)
    order = torch.randperm(100)
    assert torch.equal(keyed_uniform(sample_keys(7, 3, ids[order]), 5), whole[order])


def test_every_part_of_the_key_matters():
    ids = torch.arange(50)
    base = keyed_uniform(sample_keys(1, 0, ids), 4)
    others = [
        keyed_uniform(sample_keys(2, 0, ids), 4),
        keyed_uniform(sample_keys(1, 1, ids), 4),
        keyed_uniform(sample_keys(1, 0, ids + 1), 4),
        keyed_uniform(sample_keys(1, 0, ids), 4, stream=1),
        keyed_uniform(sample_keys(1 + 2**32, 0, ids), 4),
        keyed_uniform(sample_keys(1, 0, ids + 2**32), 4),
    ]
    for other in others:
        assert not torch.equal(base, other)
        assert abs(np.corrcoef(base.flatten(), other.flatten())[0, 1]) < 0.25


def test_uniform_and_uncorrelated():
    u = keyed_uniform(sample_keys(0, 0, torch.arange(20_000)), 8)
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    assert (u.mean(0) - 0.5).abs().max() < 0.01
    assert (u.var(0) - 1 / 12).abs().max() < 0.002
    counts = torch.histc(u, bins=64, min=0, max=1)
    expected = u.numel() / 64
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 120
    correlation = torch.corrcoef(u.T) - torch.eye(8)
    assert correlation.abs().max() < 0.03
    neighbours = torch.corrcoef(torch.stack([u[:-1, 0], u[1:, 0]]))[0, 1]
    assert neighbours.abs() < 0.03


def test_epochs_can_differ_by_row():
    ids, epochs = torch.tensor([4, 4]), torch.tensor([0, 1])
    keys = sample_keys(0, epochs, ids)
    assert keys[0] == sample_keys(0, 0, ids[:1])[0]
    assert keys[1] == sample_keys(0, 1, ids[:1])[0]


def test_worker_generator_is_keyed():
    draws = {(s, e, i): sample_generator(s, e, i).random() for s in (0, 1) for e in (0, 1) for i in (0, 1)}
    assert len(set(draws.values())) == 8
    assert sample_generator(1, 1, 0).random() == draws[(1, 1, 0)]
