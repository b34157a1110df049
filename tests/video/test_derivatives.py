"""Differences against their definition, Newton's formula and what is known of noise."""

import math

import numpy as np
import pytest
import torch

from byol_ext.video.derivatives import align_lengths, difference_pair, finite_difference


def test_orders_are_differences_of_consecutive_frames():
    x = torch.randn(2, 3, 8, 4, 5)
    d1, d2 = finite_difference(x, 1), finite_difference(x, 2)
    assert (d1.shape[2], d2.shape[2]) == (7, 6)
    for t in range(7):
        assert torch.equal(d1[:, :, t], x[:, :, t + 1] - x[:, :, t])
    for t in range(6):
        torch.testing.assert_close(d2[:, :, t], x[:, :, t + 2] - 2 * x[:, :, t + 1] + x[:, :, t])


def test_newton_forward_formula_holds():
    x = torch.randn(2, 3, 9, 2, 2, dtype=torch.float64)
    derivatives = [finite_difference(x, k)[:, :, 0] for k in range(9)]
    for n in range(9):
        series = sum(math.comb(n, k) * derivatives[k] for k in range(n + 1))
        torch.testing.assert_close(series, x[:, :, n], rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_the_mean_cancels_and_the_std_divides(order):
    x = torch.rand(2, 3, 8, 4, 4, dtype=torch.float64)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1, 1) for v in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    torch.testing.assert_close(finite_difference((x - mean) / std, order), finite_difference(x, order) / std)


def test_independent_noise_is_amplified_by_the_central_binomial():
    noise = torch.randn(400_000)
    for order in (1, 2):
        expected = math.sqrt(math.comb(2 * order, order))
        assert finite_difference(noise, order, dim=0).std().item() == pytest.approx(expected, rel=0.01)


def test_order_zero_is_the_clip_itself():
    x = torch.randn(1, 3, 8, 2, 2)
    assert finite_difference(x, 0) is x


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_any_dim(dim):
    x = torch.randn(4, 5, 6)
    expected = torch.from_numpy(np.diff(x.numpy(), n=2, axis=dim))
    torch.testing.assert_close(finite_difference(x, 2, dim=dim), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16])
def test_computes_in_float32(dtype):
    x = torch.tensor([250, 3, 200, 7]).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first, zeroth = finite_difference(x, 1, dim=0), finite_difference(x, 0, dim=0)
    assert (first.dtype, zeroth.dtype) == (torch.float32, torch.float32)
    assert first.tolist() == [-247.0, 197.0, -193.0]


@pytest.mark.parametrize(("frames", "order"), [(2, 2), (1, 1), (0, 0), (3, -1)])
def test_impossible_orders_are_refused(frames, order):
    with pytest.raises(ValueError, match="order"):
        finite_difference(torch.zeros(1, 3, frames, 2, 2), order)


def test_alignment_cuts_tails():
    a, b = torch.arange(8.0).view(1, 1, 8, 1, 1), torch.arange(10.0, 16.0).view(1, 1, 6, 1, 1)
    for x, y in (align_lengths(a, b), align_lengths(b, a)[::-1]):
        assert x.flatten().tolist() == [0, 1, 2, 3, 4, 5]
        assert y.flatten().tolist() == [10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize("orders", [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (0, 2)])
def test_pairs_start_at_the_same_time(orders):
    clips = torch.randn(2, 1, 3, 8, 4, 4)
    pair = difference_pair(clips[0], clips[1], orders)
    for derivative, clip, order in zip(pair, clips, orders, strict=True):
        assert derivative.shape == (1, 3, 8 - max(orders), 4, 4)
        torch.testing.assert_close(derivative, torch.diff(clip, n=order, dim=2)[:, :, : 8 - max(orders)])


def test_static_clips_have_zero_derivatives_and_finite_gradients():
    clip = torch.ones(1, 3, 8, 4, 4, requires_grad=True)
    first, second = difference_pair(clip, clip, (1, 2))
    assert first.abs().max() == second.abs().max() == 0
    (first.sum() + second.sum()).backward()
    assert torch.isfinite(clip.grad).all()
