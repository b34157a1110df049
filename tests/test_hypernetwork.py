"""SIE's conditional predictor (core-ssl 10)."""

import pytest
import torch
from torch import nn

from byol_ext import Bootstrap, Branch, Ctx, Edge, Target
from byol_ext.hypernetwork import GroupPredictor, Hypernetwork, canonical_quaternion
from byol_ext.losses.sets import off_diagonal_covariance


def test_matrix_is_linear_in_the_element_and_zero_at_zero():
    hyper = Hypernetwork(4, 6).double()
    g, h = torch.randn(2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(hyper.matrix(2 * g - 3 * h), 2 * hyper.matrix(g) - 3 * hyper.matrix(h))
    assert hyper.matrix(torch.zeros(4, dtype=torch.float64)).abs().max() == 0
    assert [name for name, _ in hyper.named_parameters()] == ["linear.weight"]


def test_forward_equals_the_matrix_on_the_latent():
    hyper = Hypernetwork(4, 6).double()
    z, g = torch.randn(5, 3, 6, dtype=torch.float64), torch.randn(5, 3, 4, dtype=torch.float64)
    expected = torch.stack([hyper.matrix(g[i, j]) @ z[i, j] for i in range(5) for j in range(3)]).reshape(5, 3, 6)
    torch.testing.assert_close(hyper(z, g=g), expected)


def test_fit_recovers_rotations():
    angle = 2 * torch.pi * torch.rand(64, dtype=torch.float64)
    g = torch.stack([angle.cos(), angle.sin()], -1)
    rotation = torch.stack([torch.stack([g[:, 0], -g[:, 1]], -1), torch.stack([g[:, 1], g[:, 0]], -1)], -2)
    z = torch.randn(64, 2, dtype=torch.float64)
    target = (rotation @ z[..., None])[..., 0]
    hyper = Hypernetwork(2, 2).double()
    optimizer = torch.optim.LBFGS(hyper.parameters(), max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16)

    def closure():
        optimizer.zero_grad()
        loss = (hyper(z, g=g) - target).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (hyper.matrix(g) - rotation).abs().max() < 1e-6


def test_sign_of_a_quaternion_does_not_matter_after_canonicalisation():
    hyper, z = Hypernetwork(4, 6), torch.randn(32, 6)
    q = nn.functional.normalize(torch.randn(32, 4), dim=-1)
    for scalar in ("first", "last"):
        one, other = canonical_quaternion(q, scalar=scalar), canonical_quaternion(-q, scalar=scalar)
        assert torch.equal(one, other)
        assert (one[:, 0 if scalar == "first" else 3] >= 0).all()
        assert torch.equal(hyper(z, g=one), hyper(z, g=other))
    assert (hyper(z, g=q) - hyper(z, g=-q)).abs().max() > 0.1


def test_half_turns_have_one_sign_too():
    q = torch.tensor([[0.0, -0.6, 0.8, 0.0], [0.0, 0.0, -1.0, -0.0], [-1.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[0.0, 0.6, -0.8, 0.0], [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    for sign in (1, -1):
        assert torch.equal(canonical_quaternion(sign * q), expected)
    assert torch.equal(canonical_quaternion(torch.zeros(4)), torch.zeros(4))


def test_redundancy_between_the_halves_shows_only_in_the_concatenation():
    z = torch.randn(256, 8)
    invariant, equivariant = z[:, :4], z[:, 4:]
    redundant = torch.cat([invariant[:, :1], equivariant[:, 1:]], -1)
    apart = [off_diagonal_covariance(half) for half in (equivariant, redundant)]
    whole = [off_diagonal_covariance(torch.cat([invariant, half], -1)) for half in (equivariant, redundant)]
    assert apart[1] < 2 * apart[0]
    assert whole[1] > whole[0] + 0.15


def test_predictor_passes_the_invariant_half_and_reads_the_step():
    predictor = GroupPredictor(Hypernetwork(4, 6), data="rotation", invariant=2)
    z, g = torch.randn(5, 8), torch.randn(5, 4)
    q = predictor(z, Ctx(data={"rotation": g})).q
    assert torch.equal(q[:, :2], z[:, :2])
    torch.testing.assert_close(q[:, 2:], predictor.hyper(z[:, 2:], g=g))
    assert not predictor.couples_samples
    with pytest.raises(KeyError, match="rotation"):
        predictor(z, Ctx())


def test_two_directions_share_one_hypernetwork():
    hyper = Hypernetwork(4, 8)
    online = {"net": Branch(nn.Linear(6, 8))}
    model = Bootstrap(
        online,
        {"a": "net", "b": "net"},
        target=Target(online, tau=0.9),
        predictors={"there": GroupPredictor(hyper, data="g"), "back": GroupPredictor(hyper, data="inverse")},
        plan=[Edge("a", "b", "there"), Edge("b", "a", "back")],
    )
    g = canonical_quaternion(torch.randn(5, 4))
    inverse = g * torch.tensor([-1.0, -1.0, -1.0, 1.0])
    out = model({"a": torch.randn(5, 6), "b": torch.randn(5, 6)}, Ctx(data={"g": g, "inverse": inverse}))
    out.loss.backward()
    assert hyper.linear.weight.grad.abs().max() > 0
    assert len(list(model.predictors.parameters())) == 1


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="equal leading dims"):
        Hypernetwork(4, 6)(torch.randn(5, 6), g=torch.randn(4))
    with pytest.raises(ValueError, match=r"\[\.\.\., 4\]"):
        canonical_quaternion(torch.randn(5, 3))
    with pytest.raises(ValueError, match="scalar='middle'"):
        canonical_quaternion(torch.randn(5, 4), scalar="middle")
