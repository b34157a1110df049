"""LARS against a loop in float64 and the worked example of core-ssl 14."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from byol_ext.training.lars import LARS


def reference(weights, grads, *, lr, momentum, wd, eta, steps):
    weights = [w.double().clone() for w in weights]
    momenta = [torch.zeros_like(w) for w in weights]
    for _ in range(steps):
        for w, g, m in zip(weights, grads, momenta, strict=True):
            step = g.double()
            if w.ndim > 1:
                step = step + wd * w
                if w.norm() > 0 and step.norm() > 0:
                    step = step * eta * w.norm() / step.norm()
            m.mul_(momentum).add_(step)
            w.sub_(lr * m)
    return weights


def test_steps_equal_the_formula():
    torch.manual_seed(0)
    weights = [torch.randn(4, 3), torch.randn(3), torch.zeros(2, 2), torch.randn(2, 3, 3, 3)]
    grads = [torch.randn_like(w) for w in weights]
    parameters = [nn.Parameter(w.clone()) for w in weights]
    optimiser = LARS(parameters, 0.3, momentum=0.9, weight_decay=0.01, eta=0.02)
    for _ in range(5):
        for p, g in zip(parameters, grads, strict=True):
            p.grad = g.clone()
        optimiser.step()
    for p, expected in zip(
        parameters, reference(weights, grads, lr=0.3, momentum=0.9, wd=0.01, eta=0.02, steps=5), strict=True
    ):
        torch.testing.assert_close(p.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("variant", "trust"), [("lars", 0.003676), ("larc_clip", 0.003333)])
def test_worked_example(variant, trust):
    w = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    w.grad = torch.tensor([[1.0, 0.0]])
    LARS([w], 1.0, weight_decay=0.1, variant=variant).step()
    moved = torch.tensor([[3.0, 4.0]]) - w.detach()
    torch.testing.assert_close(moved, trust * torch.tensor([[1.3, 0.4]]), rtol=2e-4, atol=0)


def test_the_clip_bounds_the_rate():
    w = nn.Parameter(torch.full((1, 2), 100.0))
    w.grad = torch.full((1, 2), 1e-6)
    LARS([w], 0.5, momentum=0.0, eta=1.0, variant="larc_clip").step()
    torch.testing.assert_close(w.detach(), torch.full((1, 2), 100.0) - 0.5 * 2.0 * 1e-6)


def test_gradients_stay_and_a_bias_gets_plain_momentum():
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    weight.grad, bias.grad = torch.ones(2, 2), torch.ones(2)
    LARS([weight, bias], 0.1, weight_decay=0.5).step()
    assert torch.equal(weight.grad, torch.ones(2, 2))
    torch.testing.assert_close(bias.detach(), torch.full((2,), 0.9))


def test_bad_arguments():
    with pytest.raises(ValueError, match="lr=-1"):
        LARS([nn.Parameter(torch.ones(1))], -1.0)
    with pytest.raises(ValueError, match="'lars', 'larc_clip'"):
        LARS([nn.Parameter(torch.ones(1))], 1.0, variant="x")  # type: ignore[arg-type]
