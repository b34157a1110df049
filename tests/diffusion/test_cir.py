"""CIR: moments, laws against SciPy, Chapman-Kolmogorov, density, score, bridge."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from byol_ext.diffusion.cir import CIR, bessel_number

SETTINGS = [(1.0, 1.0, 3.0, 0.5), (0.1, 2.0, 1.0, 0.3), (3.0, 1.0, 10.0, 0.01), (0.5, 1.0, 0.0, 1.0)]
"""Shape, speed, start, time."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def starts(theta_0: float, n: int) -> torch.Tensor:
    return torch.full((n,), theta_0, dtype=torch.float64)


@pytest.mark.parametrize(("shape", "speed", "theta_0", "t"), SETTINGS)
def test_mean_and_variance(shape, speed, theta_0, t):
    n, k = 400_000, math.exp(-speed * t)
    process, start = CIR(shape, speed), starts(theta_0, n)
    theta = process.sample(start, t, generator=seeded())
    mean, variance = theta_0 * k + shape * (1 - k), 2 * theta_0 * (k - k * k) + shape * (1 - k) ** 2
    assert process.mean(start, t)[0].item() == pytest.approx(mean, rel=1e-12)
    assert process.variance(start, t)[0].item() == pytest.approx(variance, rel=1e-12)
    squares = (theta - mean).square()
    assert abs(theta.mean() - mean) < 4 * math.sqrt(variance / n)
    assert abs(squares.mean() - variance) < 4 * squares.std() / math.sqrt(n)


@pytest.mark.parametrize(("shape", "speed", "theta_0", "t"), SETTINGS)
def test_law_and_density_are_scipys(shape, speed, theta_0, t):
    k, r = math.exp(-speed * t), -math.expm1(-speed * t)
    law = scipy.stats.ncx2(2 * shape, 2 * theta_0 * k / r) if theta_0 else scipy.stats.gamma(shape, scale=2.0)
    process = CIR(shape, speed)
    theta = process.sample(starts(theta_0, 20_000), t, generator=seeded(1))
    assert scipy.stats.kstest(theta.numpy(), lambda x: law.cdf(2 * x / r)).pvalue > 1e-3
    grid = torch.tensor(law.ppf(np.linspace(0.02, 0.98, 25)) * r / 2)
    log_density = law.logpdf(2 * grid.numpy() / r) + math.log(2 / r)
    ours = process.log_prob(grid, theta_0=starts(theta_0, 25), t=t)
    np.testing.assert_allclose(ours, log_density, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("shape", "theta_0", "t"), [(1.0, 3.0, 0.5), (2.5, 10.0, 0.1), (0.3, 2.0, 1.0)])
def test_density_as_published_and_score_by_differences(shape, theta_0, t):
    k, c = math.exp(-t), 1 / -math.expm1(-t)
    x = torch.linspace(0.2, 14.0, 40, dtype=torch.float64)
    z = 2 * c * np.sqrt(theta_0 * x.numpy() * k)
    bessel = np.log(scipy.special.ive(shape - 1, z)) + z
    theta = x.numpy()
    published = np.log(c) - c * (theta_0 * k + theta) + (shape - 1) / 2 * np.log(theta / (theta_0 * k)) + bessel
    process, start = CIR(shape), starts(theta_0, 40)
    np.testing.assert_allclose(process.log_prob(x, theta_0=start, t=t), published, rtol=1e-12, atol=1e-12)
    up, down = (process.log_prob(x + h, theta_0=start, t=t) for h in (1e-5, -1e-5))
    torch.testing.assert_close(process.score(x, theta_0=start, t=t), (up - down) / 2e-5, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [0.5, 1.0, 3.0])
def test_large_and_small_arguments(shape):
    process = CIR(shape)
    theta = torch.tensor([1e-30, 1e-12, 10.0 * math.exp(-2e-5)], dtype=torch.float64)  # the last has z = 1e6
    score = process.score(theta, theta_0=starts(10.0, 3), t=2e-5)
    assert torch.isfinite(score).all()
    assert torch.isfinite(process.log_prob(theta, theta_0=starts(10.0, 3), t=2e-5)).all()
    c = 1 / -math.expm1(-2e-5)
    z = 2 * c * 10.0 * math.exp(-2e-5)
    near_one = c * (-(shape - 0.5) / z - (shape - 0.5) * (1.5 - shape) / (2 * z * z))
    assert score[-1].item() == pytest.approx((shape - 1) / theta[-1].item() + near_one, rel=1e-3)
    single = process.score(theta.float(), theta_0=starts(10.0, 3).float(), t=2e-5)
    assert torch.isfinite(single).all()


def test_chapman_kolmogorov_and_mean_reversion():
    process, g = CIR(0.7, 1.5), seeded(2)
    start = starts(2.0, 40_000)
    middle = process.sample(start, 0.2, generator=g)
    twice, once = process.sample(middle, 0.3, generator=g), process.sample(start, 0.5, generator=g)
    assert scipy.stats.ks_2samp(twice.numpy(), once.numpy()).pvalue > 1e-3
    ends = [process.sample(starts(theta_0, 400_000), 0.4, generator=g).mean() for theta_0 in (0.0, 20.0)]
    assert ((ends[1] - ends[0]) / 20).item() == pytest.approx(math.exp(-0.6), rel=0.01)


@pytest.mark.parametrize("shape", [0.4, 1.0, 2.5])
def test_bridge_joins_forward_pairs(shape):
    n, s, t = 40_000, 0.25, 0.8
    process, start = CIR(shape), starts(3.0, n)
    theta_s = process.sample(start, s, generator=seeded(3))
    theta_t = process.sample(theta_s, t - s, generator=seeded(4))
    bridge = process.bridge(theta_0=start, theta_t=theta_t, s=s, t=t, generator=seeded(5))
    assert scipy.stats.ks_2samp(bridge.numpy(), theta_s.numpy()).pvalue > 1e-3
    correlations = [torch.corrcoef(torch.stack([x, theta_t]))[0, 1] for x in (bridge, theta_s)]
    assert abs(correlations[0] - correlations[1]) < 0.02
    products = torch.stack([bridge * theta_t**2, theta_s * theta_t**2])
    assert abs(products[0].mean() - products[1].mean()) < 4 * (products[0] - products[1]).std() / math.sqrt(n)


@pytest.mark.parametrize(("order", "z"), [(-0.9, 0.3), (-0.5, 5.0), (0.0, 2.0), (2.0, 40.0), (10.0, 30.0), (0.0, 2e3)])
def test_bessel_numbers(order, z):
    n = 20_000
    drawn = bessel_number(order, starts(z, n), generator=seeded(6)).long()
    k = np.arange(int(z) + 60)
    log_p = 2 * k * math.log(z / 2) - scipy.special.gammaln(k + 1) - scipy.special.gammaln(k + order + 1)
    expected = n * np.exp(log_p - scipy.special.logsumexp(log_p))
    counts = torch.bincount(drawn, minlength=len(k)).numpy()
    often = expected > 5
    chi2 = ((counts - expected)[often] ** 2 / expected[often]).sum()
    assert scipy.stats.chi2.sf(chi2, max(often.sum() - 1, 1)) > 1e-3


def test_bessel_number_of_zero_is_zero():
    assert bessel_number(0.0, torch.zeros(5), generator=seeded()).tolist() == [0.0] * 5


@pytest.mark.parametrize("arguments", [(0.0, 1.0), (26.0, 1.0), (1.0, 0.0), (torch.tensor([1.0, -1.0]), 1.0)])
def test_parameters_out_of_range(arguments):
    with pytest.raises(ValueError, match="must"):
        CIR(*arguments)
