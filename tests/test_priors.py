"""SWAG and the Gaussian prior over weights (core-ssl 12, extensions 7)."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from byol_ext.priors import GaussianPrior, Swag, SwagMonitor, flatten


class Weights(nn.Module):
    """20 parameters in two tensors."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(values[:12].reshape(3, 4).clone())
        self.b = nn.Parameter(values[12:].clone())


def vector(module: nn.Module) -> Tensor:
    return flatten(dict(module.named_parameters()), {"a": 0, "b": 0}).detach()


def random_prior(scale: float = 1.0, eps: float = 0.0, rank: int = 3) -> GaussianPrior:
    return GaussianPrior(
        {"a": (3, 4), "b": (8,)},
        mean_P=torch.randn(20, dtype=torch.float64),
        factor_PR=torch.randn(20, rank, dtype=torch.float64),
        variance_P=torch.rand(20, dtype=torch.float64) + 0.1,
        scale=scale,
        eps=eps,
    )


def dense(prior: GaussianPrior) -> Tensor:
    low_rank = prior.factor_PR @ prior.factor_PR.T + torch.diag(prior.variance_P)
    return prior.scale * low_rank + prior.eps * torch.eye(20)


@pytest.mark.parametrize(("scale", "eps", "rank"), [(1.0, 0.0, 3), (50.0, 0.1, 3), (2.0, 0.0, 0)])
def test_log_density_is_that_of_the_dense_normal(scale, eps, rank):
    factor = torch.randn(20, rank, dtype=torch.float64)
    mean, variance = torch.randn(20, dtype=torch.float64), torch.rand(20, dtype=torch.float64) + 0.1
    shapes = {"a": (3, 4), "b": (8,)}
    prior = GaussianPrior(shapes, mean_P=mean, factor_PR=factor, variance_P=variance, scale=scale, eps=eps)
    module = Weights(torch.randn(20, dtype=torch.float64))
    covariance = scale * (factor @ factor.T + torch.diag(variance)) + eps * torch.eye(20)
    expected = MultivariateNormal(mean, covariance).log_prob(vector(module))
    torch.testing.assert_close(prior.log_density(module), expected, rtol=0, atol=1e-8)
    if rank:
        theirs = LowRankMultivariateNormal(mean, math.sqrt(scale) * factor, scale * variance + eps)
        torch.testing.assert_close(prior.log_density(module), theirs.log_prob(vector(module)), rtol=0, atol=1e-8)
    torch.testing.assert_close(dense(prior), covariance)


def test_penalty_is_the_log_density_up_to_a_constant_with_its_gradient():
    prior = random_prior(scale=3.0, eps=0.2)
    one, other = (Weights(torch.randn(20, dtype=torch.float64)) for _ in range(2))
    difference = prior.penalty(one, data=7) - prior.penalty(other, data=7)
    torch.testing.assert_close(7 * difference, prior.log_density(other) - prior.log_density(one))
    prior.penalty(one, data=7).backward()
    expected = torch.linalg.solve(dense(prior), vector(one) - prior.mean_P) / 7
    torch.testing.assert_close(torch.cat([one.a.grad.flatten(), one.b.grad]), expected)


def test_scaling_multiplies_the_covariance():
    prior = random_prior()
    torch.testing.assert_close(dense(prior.scaled(40.0)), 40.0 * dense(prior))
    torch.testing.assert_close(dense(prior.scaled(40.0, eps=0.5)), 40.0 * dense(prior) + 0.5 * torch.eye(20))
    torch.testing.assert_close(dense(prior.scaled(40.0).scaled(2.0)), 2.0 * dense(prior))


def fine_tuned(prior: GaussianPrior, target: Tensor) -> Tensor:
    """MAP under a quadratic loss around a target, mean over one sample."""
    module = Weights(prior.mean_P + 0.1)
    optimizer = torch.optim.LBFGS(
        module.parameters(), max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        weights = torch.cat([module.a.flatten(), module.b])
        loss = 0.5 * (weights - target).square().sum() + prior.penalty(module, data=1)
        loss.backward()
        return loss

    optimizer.step(closure)
    return vector(module)


def test_map_is_the_product_of_the_gaussians_and_its_limits():
    prior, target = random_prior(), torch.randn(20, dtype=torch.float64)
    precision = torch.linalg.inv(dense(prior))
    expected = torch.linalg.solve(torch.eye(20) + precision, target + precision @ prior.mean_P)
    torch.testing.assert_close(fine_tuned(prior, target), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(fine_tuned(prior.scaled(1e10), target), target, atol=1e-6, rtol=0)
    torch.testing.assert_close(fine_tuned(prior.scaled(1e-7), target), prior.mean_P, atol=1e-4, rtol=0)


def test_float32_keeps_the_distance_along_a_direction_of_many_weights():
    count = 1_000_000
    factor = torch.ones(count, 1)
    shapes = {"a": (count,)}
    prior = GaussianPrior(shapes, mean_P=torch.zeros(count), factor_PR=factor, variance_P=torch.ones(count))
    module = nn.ParameterDict({"a": nn.Parameter(torch.full((count,), 2.0))})
    # 4 n / (1 + n): the terms of Woodbury's formula, 4e6 each, would cancel to their rounding.
    assert 2 * prior.penalty(module, data=1).item() == pytest.approx(4.0, rel=1e-3)


def test_samples_have_the_covariance():
    prior = random_prior(scale=2.0, eps=0.1)
    module, generator = Weights(torch.zeros(20, dtype=torch.float64)), torch.Generator().manual_seed(0)
    draws = []
    for _ in range(6000):
        prior.sample_(module, generator=generator)
        draws.append(vector(module))
    draws = torch.stack(draws)
    expected = dense(prior)
    error = (torch.cov(draws.T) - expected).abs().max() / expected.abs().max()
    assert error < 0.08
    assert ((draws.mean(0) - prior.mean_P) / expected.diagonal().sqrt()).abs().max() < 0.06


def test_isotropic_is_l2_sp_and_weight_decay():
    module = Weights(torch.randn(20))
    prior = GaussianPrior.isotropic(module, variance=0.5)
    assert prior.penalty(module, data=3).item() == 0.0
    zeros = {"a": torch.zeros(3, 4), "b": torch.zeros(8)}
    decay = GaussianPrior.isotropic(module, variance=0.5, around=zeros)
    assert decay.penalty(module, data=3).item() == pytest.approx(vector(module).square().sum().item() / 3, rel=1e-5)


def test_a_new_head_has_no_prior():
    encoder = nn.Linear(3, 2)
    prior = GaussianPrior.isotropic(encoder, variance=1.0)
    model = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(2, 5)})
    prior.penalty(model["encoder"], data=1).backward()
    assert model["head"].weight.grad is None
    with pytest.raises(ValueError, match="lacks"):
        prior.penalty(nn.Linear(3, 4), data=1)
    with pytest.raises(ValueError, match="data=0"):
        prior.penalty(encoder, data=0)


def test_swag_by_brute_force():
    module = Weights(torch.zeros(20))
    swag, seen, deviations = Swag(module, rank=3), [], []
    for _ in range(7):
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(5.0 + 1e-3 * torch.randn_like(p))
        swag.collect(module)
        seen.append(vector(module).double())
        deviations.append(seen[-1] - torch.stack(seen).mean(0))
    prior = swag.prior(scale=4.0, eps=0.5, least_variance=1e-12)
    every = torch.stack(seen)
    torch.testing.assert_close(prior.mean_P.double(), every.mean(0), rtol=1e-6, atol=0)
    # A variance of 1e-6 around weights of 5 is below float32's mean of squares less the squared mean.
    torch.testing.assert_close(prior.variance_P.double(), every.var(0, correction=0) / 2, rtol=2e-3, atol=0)
    last = torch.stack(deviations[-3:], 1)
    expected = last @ last.T / (2 * (3 - 1))
    torch.testing.assert_close(
        (prior.factor_PR @ prior.factor_PR.T).double(), expected, rtol=0, atol=5e-3 * expected.abs().max().item()
    )
    floor = swag.prior(least_variance=1.0)
    torch.testing.assert_close(floor.variance_P, torch.full((20,), 0.5))


def test_swag_goes_through_a_state_dict():
    module = Weights(torch.randn(20))
    swag = Swag(module, rank=2)
    for _ in range(3):
        swag.collect(Weights(torch.randn(20)))
    again = Swag(module, rank=2)
    again.load_state_dict(swag.state_dict())
    last = Weights(torch.randn(20))
    for one in (swag, again):
        one.collect(last)
    torch.testing.assert_close(again.prior().factor_PR, swag.prior().factor_PR)
    assert int(again.count) == 4


def test_monitor_collects_from_a_step_on():
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 3)})
    monitor = SwagMonitor(Swag(model["encoder"], rank=0), lambda m: m["encoder"], start=3)
    assert [monitor(model, None, step)["swag/collected"] for step in (2, 3, 4)] == [0.0, 1.0, 2.0]
    torch.testing.assert_close(monitor.swag.prior().mean_P[:4], model["encoder"].weight.detach().flatten())


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="rank=1"):
        Swag(nn.Linear(2, 2), rank=1)
    with pytest.raises(ValueError, match="needs 5"):
        Swag(nn.Linear(2, 2)).prior()
    for change in ({"scale": 0.0}, {"variance_P": torch.zeros(4)}, {"mean_P": torch.zeros(5)}):
        arguments = {"mean_P": torch.zeros(4), "factor_PR": torch.zeros(4, 0), "variance_P": torch.ones(4)} | change
        with pytest.raises(ValueError):
            GaussianPrior({"a": (4,)}, **arguments)
