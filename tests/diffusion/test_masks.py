"""The laws of the training masks (spec 12.10)."""

import math
from collections import Counter
from itertools import combinations

import pytest
import torch
from scipy import stats

from byol_ext.diffusion.masks import all_noised, mixed_mask, prefix_mask, random_mask, span_mask
from byol_ext.rng import sample_keys

N = 6000


def keys(n=N):
    return sample_keys(3, 1, torch.arange(n))


def is_prefix(noised_BL):
    return (noised_BL.int().diff(dim=1) >= 0).all(1)


@pytest.mark.parametrize("mask", [all_noised, prefix_mask, random_mask, mixed_mask, span_mask])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_some_position_is_noised_and_a_mask_belongs_to_its_sample(mask, length):
    noised = mask(keys(500), length)
    assert noised.dtype == torch.bool
    assert noised.shape == (500, length)
    assert noised.any(1).all()
    assert torch.equal(noised[[7, 3]], mask(keys(500)[[7, 3]], length))


def test_all_noised():
    assert all_noised(keys(3), 4).all()


def test_prefix_lengths_are_uniform():
    noised = prefix_mask(keys(), 8)
    assert is_prefix(noised).all()
    given = torch.bincount((~noised).sum(1), minlength=8)
    assert len(given) == 8
    assert stats.chisquare(given.numpy()).pvalue > 1e-3


def test_random_subsets_are_uniform_in_size_and_of_each_size():
    noised = random_mask(keys(), 6)
    given = torch.bincount((~noised).sum(1), minlength=6)
    assert len(given) == 6
    assert stats.chisquare(given.numpy()).pvalue > 1e-3
    pairs = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in ~noised[(~noised).sum(1) == 2])
    assert set(pairs) == set(combinations(range(6), 2))
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_mixed_masks_are_prefixes_in_their_share(share):
    length = 24
    noised = mixed_mask(keys(), length, prefix_share=share)
    # A random subset of n of L is a prefix by chance with probability 1 / C(L, n).
    by_chance = sum(1 / math.comb(length, n) for n in range(length)) / length
    expected = share + (1 - share) * by_chance
    assert is_prefix(noised).double().mean().item() == pytest.approx(expected, abs=0.025)
    if share == 1.0:
        assert torch.equal(noised, prefix_mask(keys(), length))
    if share == 0.0:
        assert torch.equal(noised, random_mask(keys(), length))


def test_spans_alternate_between_uniform_cuts():
    length = 7
    noised = span_mask(keys(30_000), length, max_spans=5)
    cuts = noised[:, 1:] != noised[:, :-1]
    counts = torch.bincount(cuts.sum(1), minlength=5)
    assert len(counts) == 5
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert noised[cuts.sum(1) == 0].all()
    for n in (1, 2):
        places = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in cuts[cuts.sum(1) == n])
        assert set(places) == set(combinations(range(length - 1), n))
        assert stats.chisquare(list(places.values())).pvalue > 1e-3
    begins_noised = noised[cuts.sum(1) > 0, 0].double().mean().item()
    assert begins_noised == pytest.approx(0.5, abs=0.015)


def test_spans_are_no_more_than_positions():
    noised = span_mask(keys(2000), 3, max_spans=10)
    counts = torch.bincount((noised[:, 1:] != noised[:, :-1]).sum(1))
    assert len(counts) == 3
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    with pytest.raises(ValueError, match="max_spans=0"):
        span_mask(keys(2), 4, max_spans=0)
