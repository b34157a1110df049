"""Matrix roots by products (core-ssl 5, tests T5a-T5g), against eigendecompositions and scalar recursions."""

import math

import pytest
import torch

from byol_ext.matrix_roots import newton_schulz, spectral_norm, visser


def second_moment(width=16, rows=512, low=1.0, high=3.0, dtype=torch.float64):
    z = torch.randn(rows, width, dtype=dtype) * torch.linspace(low, high, width, dtype=dtype)
    return z.T @ z / rows


def power_of(a, exponent):
    s, u = torch.linalg.eigh(a)
    return u @ torch.diag(s**exponent) @ u.T


@pytest.mark.parametrize(("steps", "error"), [(2, 5e-1), (4, 4e-3), (6, 1e-11)])
def test_t5a_identity_at_the_rate_of_the_spec(steps, error):
    roots = newton_schulz(torch.eye(16, dtype=torch.float64), steps=steps)
    for matrix in roots:
        assert (matrix - torch.eye(16)).norm().item() == pytest.approx(error, rel=0.1)
    assert (newton_schulz(torch.eye(16, dtype=torch.float64)).root - torch.eye(16)).abs().max() < 1e-12
    assert (visser(torch.eye(16, dtype=torch.float64)) - torch.eye(16)).abs().max() < 1e-8


def test_t5c_converges_to_the_root_of_eigh_at_the_rate_of_the_spec():
    a = second_moment()
    exact = power_of(a, 0.5)
    errors = [((newton_schulz(a, steps=n).root - exact).norm() / exact.norm()).item() for n in (3, 5, 7, 9)]
    for found, spec in zip(errors[:3], (8.6e-2, 5.8e-3, 1.2e-6), strict=True):
        assert found == pytest.approx(spec, rel=0.05)
    assert errors[3] < 2e-14
    inverse = newton_schulz(a, steps=12).inverse
    assert ((inverse - power_of(a, -0.5)).norm() / inverse.norm()) < 1e-13
    torch.testing.assert_close(visser(a / 12, steps=400), power_of(a / 12, 0.5), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("share", "converged"), [(1e-2, 0.1000), (1e-3, 0.0275), (1e-4, 0.0037)])
def test_t5d_weak_directions_are_suppressed_below_the_knee(share, converged):
    a = torch.diag(torch.tensor([math.sqrt(1 - share**2), share], dtype=torch.float64))
    assert newton_schulz(a).root[1, 1].item() == pytest.approx(converged, abs=6e-5)


def test_t5g_visser_refuses_a_step_that_diverges_and_converges_below():
    a = second_moment()
    largest = torch.linalg.eigvalsh(a)[-1]
    with pytest.raises(ValueError, match=r"diverges.*1\.2"):
        visser(1.2 / 0.25 * a / largest, step_size=0.5)
    scaled = 0.9 / 0.25 * a / largest
    torch.testing.assert_close(visser(scaled, steps=3000, step_size=0.5), power_of(scaled, 0.5), rtol=0, atol=1e-6)


def test_visser_leaves_a_ridge_on_null_directions():
    a = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    for steps in (40, 400):
        assert visser(a, steps=steps)[1, 1].item() == pytest.approx(1 / (0.5 * steps), rel=0.15)


def test_float32_is_stable_on_rank_deficient_input():
    z = torch.randn(64, 16) @ torch.randn(16, 5) @ torch.randn(5, 16)
    a = z.T @ z / 64
    s, u = torch.linalg.eigh(a.double())
    exact = u @ torch.diag(s.clamp_min(0).sqrt()) @ u.T
    for steps in (9, 15):
        root = newton_schulz(a, steps=steps).root.double()
        assert torch.isfinite(root).all()
        assert (root - exact).norm() / exact.norm() < 5e-2


def test_stacks_and_half_precision():
    a = torch.stack([second_moment(8), 7 * second_moment(8)])
    roots = newton_schulz(a)
    for i in range(2):
        torch.testing.assert_close(roots.root[i], newton_schulz(a[i]).root)
        torch.testing.assert_close(roots.inverse[i], newton_schulz(a[i]).inverse)
        torch.testing.assert_close(spectral_norm(a)[i], spectral_norm(a[i]))
        torch.testing.assert_close(visser(a / 100)[i], visser(a[i] / 100))
    with torch.autocast("cpu", torch.bfloat16):
        assert newton_schulz(a.bfloat16()).root.dtype == torch.float32
        torch.testing.assert_close(newton_schulz(a.float()).root.double(), roots.root, rtol=1e-4, atol=1e-5)
    assert newton_schulz(torch.zeros(3, 3)).root.abs().max() == 0


@pytest.mark.parametrize("function", [newton_schulz, visser])
def test_gradients_are_right_and_finite_for_equal_eigenvalues(function):
    a = second_moment(4)[None].div(20).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function((x + x.mT) / 2, steps=5), a)
    identity = torch.eye(6, requires_grad=True)
    out = function(identity, steps=9)
    (out.inverse if function is newton_schulz else out).square().sum().backward()
    assert torch.isfinite(identity.grad).all()


def test_bad_input_is_refused():
    for function in (newton_schulz, visser):
        with pytest.raises(ValueError, match="square"):
            function(torch.ones(3, 4))
        with pytest.raises(ValueError, match="steps=-1"):
            function(torch.eye(3), steps=-1)
    with pytest.raises(ValueError, match="step_size=0"):
        visser(torch.eye(3), step_size=0.0)


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_spectral_norm_against_svd(scale):
    for a in (torch.randn(40, 24), second_moment(24, dtype=torch.float32), torch.eye(5), torch.randn(1, 3)):
        exact = torch.linalg.matrix_norm(a.double(), ord=2)
        assert spectral_norm(scale * a).double() / scale == pytest.approx(exact.item(), rel=1e-4)
    assert spectral_norm(torch.zeros(3, 2)) == 0


def test_spectral_norm_keeps_its_bound_on_crowded_spectra():
    for gap in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2):
        s = torch.full((256,), 1 - gap, dtype=torch.float64)
        s[0] = 1.0
        found = spectral_norm(torch.diag(s)).item()
        assert 1 - math.log(256) / 2**12 < found <= 1 + 1e-12


def test_spectral_norm_differentiates_like_the_largest_singular_value():
    a = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(spectral_norm(a), a)
    (exact,) = torch.autograd.grad(torch.linalg.matrix_norm(a, ord=2), a)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-6)
