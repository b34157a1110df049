"""Score interpolation against autograd of the exact mixture density, in float64 (spec 12.1)."""

import math

import pytest
import torch

from byol_ext.diffusion.score_interpolation import (
    ScoreInterpolator,
    add_noise,
    interpolate,
    lone_token_logits,
    score,
)

B, L, V, D = 3, 2, 5, 4


@pytest.fixture
def table():
    return torch.nn.functional.normalize(torch.randn(V, D, dtype=torch.float64), dim=-1) * math.sqrt(D)


def log_density(x_BLd, t_B, table, prior):
    """``log sum_i pi_i N(x; e_i, t^2)`` up to a constant."""
    squared = (x_BLd[..., None, :] - table).square().sum(-1)
    return torch.logsumexp(prior.log() - squared / (2 * t_B[:, None, None] ** 2), dim=-1)


def test_score_is_the_gradient_of_the_log_density(table):
    x = torch.randn(B, L, D, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.7, 1.5, 9.0], dtype=torch.float64)
    prior = torch.rand(V, dtype=torch.float64).softmax(0)
    (expected,) = torch.autograd.grad(log_density(x, t, table, prior).sum(), x)
    p = lone_token_logits(x, t, table, log_prior_V=prior.log()).softmax(-1)
    torch.testing.assert_close(ScoreInterpolator(table).score(x_BLd=x, t_B=t, p_BLV=p), expected, rtol=1e-9, atol=1e-12)


def test_lone_token_logits_are_the_posterior(table):
    x, t = torch.randn(B, L, D, dtype=torch.float64), torch.tensor([0.7, 1.5, 9.0], dtype=torch.float64)
    squared = (x[..., None, :] - table).square().sum(-1)
    bayes = torch.exp(-squared / (2 * t[:, None, None] ** 2))
    torch.testing.assert_close(lone_token_logits(x, t, table).softmax(-1), bayes / bayes.sum(-1, keepdim=True))


def test_noise_has_the_standard_deviation_t():
    clean, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    x = add_noise(clean_BLd=clean, noise_BLd=noise, t_B=torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(x[1], clean[1] + 2.0 * noise[1])
    torch.testing.assert_close(x[0], clean[0] + 0.5 * noise[0])


def test_post_processing(table):
    p = torch.rand(B, L, V, dtype=torch.float64).softmax(-1)
    mean = interpolate(p, table)
    assert (mean.norm(dim=-1) < math.sqrt(D)).all()
    renormed = interpolate(p, table, post="renorm")
    torch.testing.assert_close(renormed, mean / mean.norm(dim=-1, keepdim=True) * math.sqrt(D))
    nearest = torch.cdist(mean, table.expand(B, V, D)).argmin(-1)
    torch.testing.assert_close(interpolate(p, table, post="clamp"), table[nearest])
    with pytest.raises(ValueError, match="post='middle'"):
        interpolate(p, table, post="middle")


def test_precision_does_not_follow_autocast(table):
    p, x, t = torch.rand(B, L, V).softmax(-1), torch.randn(B, L, D), torch.ones(B)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = interpolate(p, table.float()), lone_token_logits(x, t, table.float())
        assert score(x_BLd=x, clean_BLd=x.bfloat16(), t_B=t).dtype == torch.float32
    assert torch.equal(inside[0], interpolate(p, table.float()))
    assert torch.equal(inside[1], lone_token_logits(x, t, table.float()))
