"""Scaled Bessel functions: SciPy, the limits at zero and infinity, and their derivative."""

import numpy as np
import pytest
import scipy.special
import torch

from byol_ext.diffusion.bessel import bessel_ratio_by_argument, log_bessel

Z = np.concatenate([np.logspace(-8, 8, 120), [39.9, 40.0, 40.1, 575.9, 576.1]])


@pytest.mark.parametrize("order", [-0.97, -0.5, 0.0, 0.5, 1.3, 2.0, 7.0, 24.0])
def test_against_scipy(order):
    scaled = scipy.special.ive(order, Z)
    z = torch.tensor(Z)[scaled > 1e-290]
    scaled, next_scaled = scaled[scaled > 1e-290], scipy.special.ive(order + 1.0, z.numpy())
    log = scipy.special.gammaln(order + 1.0) - order * np.log(0.5 * z.numpy()) + np.log(scaled)
    np.testing.assert_allclose(log_bessel(order, z), log, rtol=1e-12, atol=1e-12)
    normal = next_scaled > 1e-290
    ratio = (next_scaled / scaled / z.numpy())[normal]
    np.testing.assert_allclose(bessel_ratio_by_argument(order, z)[normal], ratio, rtol=1e-12)


def test_orders_by_coordinate_equal_orders_one_by_one():
    orders, z = torch.tensor([-0.7, 0.0, 2.0, 20.0]), torch.tensor([[0.0], [1.0], [60.0], [1e6]])
    for function in (log_bessel, bessel_ratio_by_argument):
        together = function(orders, z)
        alone = torch.stack([function(float(order), z[:, 0]) for order in orders], dim=1)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", [-0.5, 0.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_is_a_limit_and_not_a_special_case(order, dtype):
    z = torch.tensor([0.0, 1e-30], dtype=dtype)
    torch.testing.assert_close(log_bessel(order, z), torch.zeros(2, dtype=dtype))
    torch.testing.assert_close(bessel_ratio_by_argument(order, z), torch.full((2,), 0.5 / (order + 1.0), dtype=dtype))


@pytest.mark.parametrize("order", [-0.5, 0.0, 3.0])
def test_derivative_of_one_is_the_other(order):
    z = torch.tensor([0.01, 3.0, 39.0, 41.0, 1e5], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((z + log_bessel(order, z)).sum(), z)
    torch.testing.assert_close(slope, (z * bessel_ratio_by_argument(order, z)).detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [-1.0, 24.5, float("nan")])
def test_orders_out_of_range(order):
    with pytest.raises(ValueError, match="must lie in"):
        log_bessel(order, torch.ones(2))
