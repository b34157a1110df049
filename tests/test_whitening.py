"""Shuffled decorrelated batch norm (core-ssl 8.6)."""

import pytest
import torch
from torch import nn

from byol_ext.heads import batch_norms
from byol_ext.metrics.spectrum import off_diagonal_correlation
from byol_ext.whitening import DecorrelatedBatchNorm


def correlated(rows, width, dtype=torch.float64):
    return torch.randn(rows, width, dtype=dtype) @ torch.randn(width, width, dtype=dtype) / width**0.5 + 3


def covariance(z):
    centred = z - z.mean(0)
    return centred.T @ centred / len(z)


def test_each_group_is_white():
    x = correlated(96, 24)
    z = DecorrelatedBatchNorm(24, group_size=8, shuffle=False, steps=30, eps=0.0).double()(x)
    found = covariance(z)
    for start in range(0, 24, 8):
        block = found[start : start + 8, start : start + 8]
        torch.testing.assert_close(block, torch.eye(8, dtype=torch.float64), atol=1e-10, rtol=0)
    assert z.mean(0).abs().max() < 1e-12


def test_it_is_zca_by_eigenvectors():
    x = correlated(64, 6)
    values, vectors = torch.linalg.eigh(covariance(x))
    expected = (x - x.mean(0)) @ (vectors / values.sqrt()) @ vectors.T
    found = DecorrelatedBatchNorm(6, group_size=6, steps=30, eps=0.0).double()(x)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_features_come_out_in_their_own_order():
    """What is white already is only centred, whatever the groups."""
    columns = torch.cat([torch.ones(64, 1), torch.randn(64, 12)], 1).double()
    white = 8 * torch.linalg.qr(columns)[0][:, 1:]
    layer = DecorrelatedBatchNorm(12, group_size=3, eps=0.0).double()
    for _ in range(5):
        torch.testing.assert_close(layer(white + 2), white, atol=1e-10, rtol=0)


def test_shuffling_reaches_the_correlations_between_groups():
    x = correlated(256, 16)
    fixed = DecorrelatedBatchNorm(16, group_size=4, shuffle=False).double()
    shuffled = DecorrelatedBatchNorm(16, group_size=4).double()
    group = torch.arange(16) // 4
    across = group[:, None] != group[None]
    shuffled_mean = sum(covariance(shuffled(x)).abs()[across].mean() for _ in range(40)) / 40
    assert shuffled_mean < covariance(fixed(x)).abs()[across].mean()
    z_fixed, z_shuffled = x, x
    for _ in range(60):
        z_fixed, z_shuffled = fixed(z_fixed), shuffled(z_shuffled)
    assert off_diagonal_correlation(z_shuffled) < 0.01 < 5 * 0.01 < off_diagonal_correlation(z_fixed)


def test_the_gradient_is_right_where_eigenvalues_coincide():
    """An eigendecomposition has no derivative there."""
    x = torch.linalg.qr(torch.randn(12, 4, dtype=torch.float64))[0]
    layer = DecorrelatedBatchNorm(4, group_size=2, shuffle=False, steps=20).double()
    assert torch.autograd.gradcheck(layer, (x.requires_grad_(),))


def test_float32_stays_finite_on_collapsed_and_deficient_input():
    layer = DecorrelatedBatchNorm(8, group_size=8)
    low_rank = torch.randn(64, 3) @ torch.randn(3, 8)
    for x in (torch.ones(64, 8), low_rank, 1e3 * low_rank):
        x.requires_grad_()
        z = layer(x)
        z.square().sum().backward()
        assert z.isfinite().all()
        assert x.grad.isfinite().all()
    assert layer(torch.ones(64, 8)).abs().max() < 1e-3
    spectrum = torch.linalg.eigvalsh(covariance(layer(low_rank)))
    torch.testing.assert_close(spectrum[-3:], torch.ones(3), atol=1e-3, rtol=0)
    assert spectrum[:-3].abs().max() < 1e-3


def test_groups_are_fresh_and_come_back_with_the_state():
    x = correlated(64, 12, torch.float32)
    layer, again = DecorrelatedBatchNorm(12, group_size=4), DecorrelatedBatchNorm(12, group_size=4)
    first, second = layer(x), layer(x)
    assert not torch.allclose(first, second)
    torch.manual_seed(5)
    assert torch.equal(again(x), first)
    resumed = DecorrelatedBatchNorm(12, group_size=4)
    resumed.load_state_dict(again.state_dict())
    assert torch.equal(resumed(x), second)
    assert not torch.allclose(DecorrelatedBatchNorm(12, group_size=4, seed=1)(x), first)


def test_evaluation_uses_running_statistics_and_leaves_them_alone():
    mix = torch.randn(8, 8, dtype=torch.float64)
    layer = DecorrelatedBatchNorm(8, group_size=4, eps=0.0, steps=20).double()
    for _ in range(200):
        layer(torch.randn(512, 8, dtype=torch.float64) @ mix + 1)
    layer.eval()
    assert not layer.couples_samples
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.randn(20_000, 8, dtype=torch.float64) @ mix + 1
    found = covariance(layer(x))
    for block in (found[:4, :4], found[4:, 4:]):
        torch.testing.assert_close(block, torch.eye(4, dtype=torch.float64), atol=0.1, rtol=0)
    torch.testing.assert_close(layer(x)[:3], layer(x[:3]))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, state[name])


def test_leading_dims_and_autocast():
    x = correlated(60, 8, torch.float32)
    flat = DecorrelatedBatchNorm(8, group_size=4)(x)
    assert torch.equal(DecorrelatedBatchNorm(8, group_size=4)(x.view(6, 10, 8)).view(60, 8), flat)
    half = DecorrelatedBatchNorm(8, group_size=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(half(x), flat)
        assert half(x.bfloat16()).dtype == torch.float32


def test_bad_inputs():
    with pytest.raises(ValueError, match="does not divide"):
        DecorrelatedBatchNorm(10, group_size=4)
    layer = DecorrelatedBatchNorm(8, group_size=4)
    with pytest.raises(ValueError, match="at least 8 rows"):
        layer(torch.randn(7, 8))
    with pytest.raises(ValueError, match="width 8"):
        layer(torch.randn(16, 6))


def test_the_loop_knows_that_it_couples_samples():
    head = nn.Sequential(nn.Linear(4, 4), DecorrelatedBatchNorm(4, group_size=2))
    assert batch_norms(head) == ["1"]
    assert not batch_norms(head.eval())
