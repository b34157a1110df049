import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.images import linear_maps
from byol_ext.metrics.augmentation_moments import (
    AugmentationSensitivity,
    Moments,
    RandomMap,
    explicit_regularizer,
    identity,
    linear_risk,
    loss_variance,
    mixture,
    moments,
    ridge,
    sampled_moments,
    samples_needed,
)

SHIFTS = RandomMap(
    torch.full((3,), 1 / 3, dtype=torch.float64), lambda x: torch.stack([x.roll(s, -1) for s in (-1, 0, 1)])
)


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def brute_covariance(views_KBN: Tensor, weight_K: Tensor) -> Tensor:
    mean = (weight_K[:, None, None] * views_KBN).sum(0)
    return sum(
        w * torch.einsum("bi,bj->bij", view - mean, view - mean) for w, view in zip(weight_K, views_KBN, strict=True)
    )


def test_mean_of_shifts_and_covariance_by_a_loop():
    x = double(2, 7)
    found = moments(SHIFTS, x)
    torch.testing.assert_close(found.mean, (x.roll(-1, -1) + x + x.roll(1, -1)) / 3)
    torch.testing.assert_close(found.covariance, brute_covariance(SHIFTS.forms(x), SHIFTS.weight_K))
    torch.testing.assert_close(found.variance, found.covariance.diagonal(dim1=1, dim2=2))
    expected = torch.linalg.eigvalsh(found.covariance).flip(-1)[:, :3]
    torch.testing.assert_close(found.spectrum(), expected.clamp_min(0), atol=1e-12, rtol=1e-9)


def test_linear_risk_is_exact():
    x, y, weight, bias = double(4, 9), double(4, 3), double(3, 9), double(3)
    exact = sum(
        w * (y - view @ weight.T - bias).square().sum(1)
        for w, view in zip(SHIFTS.weight_K, SHIFTS.forms(x), strict=True)
    )
    found = linear_risk(weight, bias_D=bias, moments=moments(SHIFTS, x), target_BD=y)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)
    error = (y - moments(SHIFTS, x).mean @ weight.T - bias).square().sum(1)
    regularizer = explicit_regularizer(lambda v: v @ weight.T + bias, moments(SHIFTS, x))
    torch.testing.assert_close(found, error + regularizer, rtol=1e-10, atol=1e-10)


def test_monte_carlo_loss_lies_within_three_standard_errors():
    x, weight, draws = double(1, 9), double(2, 9), 100_000
    choice = torch.randint(3, (draws,), generator=torch.Generator().manual_seed(0))
    losses = (1.0 - SHIFTS.forms(x)[choice, 0] @ weight.T).square().sum(1)
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    exact = linear_risk(weight, bias_D=zero, moments=moments(SHIFTS, x), target_BD=one)
    assert abs(losses.mean() - exact.item()) < 3 * losses.std() / math.sqrt(draws)


def test_ridge_is_the_minimum_and_the_limit_of_many_draws():
    x, y = double(30, 6), double(30, 2)
    of_x = moments(SHIFTS, x)
    weight, bias = ridge(of_x, y, penalty=0.1)

    def objective(w: Tensor, b: Tensor) -> float:
        risk = linear_risk(w, bias_D=b, moments=of_x, target_BD=y).mean()
        return float(risk + 0.1 * w.square().sum())

    least = objective(weight, bias)
    for _ in range(20):
        assert objective(weight + 1e-3 * double(2, 6), bias + 1e-3 * double(2)) > least
    # Every shift of every sample as its own row, with ordinary least squares.
    rows, targets = SHIFTS.forms(x).flatten(0, 1), y.repeat(3, 1)
    centred = rows - rows.mean(0)
    normal = centred.T @ centred / len(rows) + 0.1 * torch.eye(6)
    torch.testing.assert_close(weight, torch.linalg.solve(normal, centred.T @ (targets - y.mean(0)) / len(rows)).T)


def test_regularizer_is_the_jacobian_on_the_root_with_gradients():
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    of_x = moments(SHIFTS, double(4, 5))
    found = explicit_regularizer(model, of_x)
    jacobian_BDN = torch.func.vmap(torch.func.jacrev(model))(of_x.mean)
    expected = torch.einsum("bdi,bij,bdj->b", jacobian_BDN, of_x.covariance, jacobian_BDN)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    weight = model[0].weight
    step = torch.zeros_like(weight)
    step[1, 2] = 1e-6
    with torch.no_grad():
        weight += step
        after = explicit_regularizer(model, of_x).sum()
        weight -= 2 * step
        before = explicit_regularizer(model, of_x).sum()
    assert weight.grad[1, 2].item() == pytest.approx((after - before).item() / 2e-6, rel=1e-5)


def test_loss_variance_to_first_order():
    x, target, small = double(3, 6), double(3, 6), 1e-4
    nudge = RandomMap(SHIFTS.weight_K, lambda v: v + small * torch.stack([v.roll(s, -1) for s in (-1, 0, 1)]))
    of_x = moments(nudge, x)
    losses_KB = (nudge.forms(x) - target).square().sum(2)
    exact = losses_KB.var(0, correction=0)
    gradient = 2 * (of_x.mean - target)
    torch.testing.assert_close(loss_variance(gradient, of_x), exact, rtol=1e-3, atol=0)


def test_compressed_keeps_the_largest_directions():
    of_x = moments(linear_maps.uniform_translation(1), torch.randn(2, 1, 5, 5))
    whole, short = of_x.spectrum(), of_x.compressed(3)
    torch.testing.assert_close(short.spectrum(), whole[:, :3], rtol=1e-4, atol=1e-5)
    everything = of_x.compressed(9)
    torch.testing.assert_close(everything.covariance, of_x.covariance, rtol=1e-4, atol=1e-5)


def test_sampled_moments_approach_the_exact_ones_without_bias():
    x = double(1, 4)
    choice = torch.randint(3, (20_000,), generator=torch.Generator().manual_seed(0))
    found, exact = sampled_moments(SHIFTS.forms(x)[choice]), moments(SHIFTS, x)
    torch.testing.assert_close(found.covariance, exact.covariance, rtol=0.1, atol=0.05)
    three = double(3, 2, 4)
    torch.testing.assert_close(sampled_moments(three).variance, three.var(0))
    with pytest.raises(ValueError, match="at least two"):
        sampled_moments(three[:1])


def test_then_and_mixture_by_enumeration():
    x = double(2, 6)
    scale = RandomMap(torch.tensor([0.25, 0.75]), lambda v: torch.stack([v, 3 * v]))
    both = SHIFTS.then(scale)
    views = torch.stack([f * x.roll(s, -1) for f in (1, 3) for s in (-1, 0, 1)])
    torch.testing.assert_close(both.forms(x), views)
    weight = torch.tensor([0.25] * 3 + [0.75] * 3, dtype=torch.float64) / 3
    torch.testing.assert_close(moments(both, x).covariance, brute_covariance(views, weight))
    rarely = mixture(0.2, often=SHIFTS, otherwise=identity())
    torch.testing.assert_close(moments(rarely, x).mean, 0.2 * moments(SHIFTS, x).mean + 0.8 * x)
    with pytest.raises(ValueError, match="share"):
        mixture(1.2, often=SHIFTS, otherwise=identity())
    with pytest.raises(ValueError, match="sum to 1"):
        RandomMap(torch.tensor([0.5, 0.6]), lambda v: v)


def test_samples_needed():
    assert samples_needed(mean=1.0, variance=4.0, relative_error=0.01) == 40_000
    assert samples_needed(mean=1.0, variance=0.0, relative_error=0.01) == 1
    with pytest.raises(ValueError, match="relative_error"):
        samples_needed(mean=1.0, variance=1.0, relative_error=0.0)


def test_translation_is_a_convolution_with_the_density():
    x = double(2, 3, 6, 5)
    density = torch.rand(3, 5, dtype=torch.float64)
    density /= density.sum()
    found = moments(linear_maps.translation(density), x).mean
    # A true convolution: torch correlates, so the density is turned.
    kernel = density.flip(0, 1).expand(3, 1, 3, 5)
    torch.testing.assert_close(found, F.conv2d(x, kernel, padding=(1, 2), groups=3), rtol=1e-12, atol=1e-12)
    down = torch.zeros(3, 3)
    down[2, 1] = 1.0
    pixel = torch.zeros(1, 1, 3, 3)
    pixel[..., 0, 0] = 1.0
    assert moments(linear_maps.translation(down), pixel).mean[0, 0, 1, 0] == 1.0
    wrapped = moments(linear_maps.translation(density, wrap=True), x).mean
    torch.testing.assert_close(wrapped.sum((2, 3)), x.sum((2, 3)))


@pytest.mark.parametrize(
    ("random_map", "per_parameter", "low", "high"),
    [
        (linear_maps.brightness_shift(-0.4, 0.6), lambda x, t: x + t, -0.4, 0.6),
        (linear_maps.brightness_scale(0.5, 1.5), lambda x, t: t * x, 0.5, 1.5),
        (linear_maps.contrast(0.2, 1.0), lambda x, t: x.mean((2, 3), True) * (1 - t) + t * x, 0.2, 1.0),
    ],
)
def test_two_nodes_are_exact_for_maps_of_first_degree(random_map, per_parameter, low, high):
    x = double(2, 1, 4, 4)
    found = moments(random_map, x)
    middle, deviation = (low + high) / 2, (high - low) / math.sqrt(12)
    torch.testing.assert_close(found.mean, per_parameter(x, middle))
    slope = per_parameter(x, 1.0) - per_parameter(x, 0.0)
    expected = deviation**2 * torch.einsum("bi,bj->bij", slope.flatten(1), slope.flatten(1))
    torch.testing.assert_close(found.covariance, expected)


def test_blur_quadrature_has_converged_and_flip_has_two_forms():
    x = double(1, 1, 12, 12)
    found, exact = (moments(linear_maps.blur(0.1, 2.0, kernel=5, nodes=n), x) for n in (16, 100))
    assert (found.mean - exact.mean).norm() < 1e-5 * exact.mean.norm()
    assert (found.variance - exact.variance).norm() < 3e-4 * exact.variance.norm()
    flipped = moments(linear_maps.horizontal_flip(), x)
    torch.testing.assert_close(flipped.mean, (x + x.flip(-1)) / 2)
    torch.testing.assert_close(flipped.variance, ((x - x.flip(-1)) / 2).square())


def test_sensitivity_tells_an_invariant_encoder_from_one_that_is_not():
    x = torch.randn(16, 1, 4, 4)
    maps = {"shift": linear_maps.uniform_translation(1, wrap=True), "bright": linear_maps.brightness_shift(-0.5, 0.5)}
    invariant = AugmentationSensitivity(maps, x, lambda model, v: model(v.mean((2, 3))))(nn.Linear(1, 2), 0)
    assert invariant["augmentation/shift/sensitivity"] == pytest.approx(0.0, abs=1e-9)
    assert invariant["augmentation/bright/sensitivity"] > 0.1
    weight = torch.randn(3, 16)
    with torch.no_grad():
        found = AugmentationSensitivity(maps, x, lambda model, v: v.flatten(1) @ weight.T)(nn.Identity(), 0)
    of_x = moments(maps["bright"], x)
    expected = (
        explicit_regularizer(lambda v: v.flatten(1) @ weight.T, of_x).mean() / (x.flatten(1) @ weight.T).var(0).sum()
    )
    assert found["augmentation/bright/sensitivity"] == pytest.approx(expected.item(), rel=1e-4)


def test_regularizer_counts_nothing_for_the_identity():
    of_x = moments(identity(), torch.randn(2, 3))
    assert isinstance(of_x, Moments)
    assert explicit_regularizer(torch.tanh, of_x).tolist() == [0.0, 0.0]
