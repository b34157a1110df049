"""Closed forms as spectral filters (core-ssl 5 and 6): T5a-T5h, DirectPred's numbers, theory against matrices."""

import pytest
import torch

from byol_ext.spectral_filters import (
    LeastSquares,
    Neumann,
    NewtonSchulz,
    Power,
    Stiefel,
    Visser,
    filter_response,
)

KINDS = [
    LeastSquares(),
    LeastSquares(damping=0.1),
    Neumann(),
    Neumann(gain=0.05),
    Visser(),
    Visser(steps=30, step_size=0.1, relative=False),
    NewtonSchulz(),
    NewtonSchulz(steps=7, times=2),
    NewtonSchulz(steps=3),
    Stiefel(),
    Power(0.5),
    Power(1.0),
    Power(1.0, relative=False),
    Power(0.3, floor=0.05),
]


def latents(rows=512, width=16, low=1.0, high=3.0):
    return torch.randn(rows, width, dtype=torch.float64) * torch.linspace(low, high, width, dtype=torch.float64)


def white(rows=64, width=16):
    """Latents with second moment I."""
    return torch.linalg.qr(torch.randn(rows, width, dtype=torch.float64)).Q * rows**0.5


def moment(z):
    return z.T @ z / len(z)


def with_spectrum(eigenvalues):
    basis = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), dtype=torch.float64)).Q
    return (basis * eigenvalues) @ basis.T, basis


@pytest.mark.parametrize(
    "kind", [NewtonSchulz(), NewtonSchulz(steps=7, times=2), Visser(), Stiefel(), Power(0.5)], ids=str
)
def test_t5a_white_latents_give_the_identity(kind):
    s = moment(white())
    p = kind.solve(s, s)
    # Stiefel's division by |B|_F leaves I / sqrt(f).
    p = p * 4 if isinstance(kind, Stiefel) else p
    assert (p - torch.eye(16)).abs().max() < 1e-8


def test_t5b_neumann_of_the_paper_is_the_identity_where_the_sum_of_squares_is():
    z = white() / 8
    torch.testing.assert_close(z.T @ z, torch.eye(16, dtype=torch.float64))
    p = Neumann(gain=64).solve(moment(z), moment(z))
    torch.testing.assert_close(p, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-13)
    target = torch.randn_like(z)
    literal = 2 * z.T @ target - z.T @ z @ z.T @ target
    torch.testing.assert_close(Neumann(gain=64).solve(moment(z), z.T @ target / 64), literal)


def test_neumann_refuses_latents_that_are_too_large():
    s = moment(latents())
    with pytest.raises(ValueError, match="below 2"):
        Neumann(gain=1.0).solve(s, s)
    assert torch.isfinite(Neumann().solve(s, s)).all()
    p = Neumann(gain=1.9 / torch.linalg.eigvalsh(s)[-1].item()).solve(s, s)
    assert torch.linalg.eigvalsh(p)[0] > 0


@pytest.mark.parametrize(("share", "root"), [(1e-2, 0.1000), (1e-3, 0.0275), (1e-4, 0.0037)])
def test_t5d_scalar_filter(share, root):
    eigenvalues = torch.tensor([(1 - share**2) ** 0.5, share], dtype=torch.float64)
    assert filter_response(NewtonSchulz(), eigenvalues)[1].item() == pytest.approx(root, abs=6e-5)


def test_newton_schulz_has_the_asymptotes_of_theory():
    share = torch.logspace(-7, -5, 5, dtype=torch.float64)
    eigenvalues = 7.0 * torch.cat([share, torch.ones(1, dtype=torch.float64)])
    norm = eigenvalues.norm()
    below = filter_response(NewtonSchulz(), eigenvalues)[:-1]
    torch.testing.assert_close(below, 1.5**9 * eigenvalues[:-1] / norm.sqrt(), rtol=1e-2, atol=0)
    above = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(filter_response(NewtonSchulz(), above), above.sqrt(), rtol=1e-8, atol=0)
    torch.testing.assert_close(filter_response(NewtonSchulz(7, 2), above), above.pow(0.25), rtol=1e-2, atol=0)


def test_t5e_stiefel_is_the_projector_on_the_range_in_float32():
    s, basis = with_spectrum(torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0] + [0.0] * 11, dtype=torch.float64))
    p = Stiefel().solve(s.float(), s.float())
    p = p.double() / torch.linalg.matrix_norm(p.double(), ord=2)
    assert (p - basis[:, :5] @ basis[:, :5].T).abs().max() < 1e-5


def test_stiefel_of_full_rank_is_the_identity_when_it_converges():
    s, _ = with_spectrum(torch.linspace(1, 3, 16, dtype=torch.float64))
    p = Stiefel(steps=14).solve(s, s)
    torch.testing.assert_close(p, torch.eye(16, dtype=torch.float64) / s.inverse().norm())
    weak, _ = with_spectrum(torch.tensor([1.0] * 15 + [1e-3], dtype=torch.float64))
    truncated = torch.linalg.eigvalsh(Stiefel(steps=9).solve(weak, weak))
    assert truncated[0] / truncated[-1] < 0.1


def test_t5f_least_squares_projects():
    z, target = latents(rows=60), torch.randn(60, 16, dtype=torch.float64)
    p = LeastSquares().solve(moment(z), z.T @ target / 60)
    projection = z @ torch.linalg.solve(z.T @ z, z.T)
    assert (projection @ projection - projection).abs().max() < 1e-10
    assert abs(projection.trace() - 16) < 1e-10
    assert (z @ p - projection @ target).abs().max() < 1e-10
    residual = (torch.eye(60) - projection) @ target
    assert abs((z @ p - target).square().sum() - residual.square().sum()) < 1e-10 * target.square().sum()
    assert (LeastSquares().solve(moment(z), moment(z)) - torch.eye(16)).abs().max() < 1e-10
    few, t = z[:10], target[:10]
    torch.testing.assert_close(few @ LeastSquares().solve(moment(few), few.T @ t / 10), t, rtol=0, atol=1e-8)
    damped = torch.linalg.solve(
        moment(z) + 0.1 * torch.linalg.eigvalsh(moment(z))[-1] * torch.eye(16), z.T @ target / 60
    )
    torch.testing.assert_close(LeastSquares(0.1).solve(moment(z), z.T @ target / 60), damped, rtol=1e-5, atol=1e-8)


def test_t5g_visser_raises_instead_of_garbage_and_relative_never_has_to():
    s = moment(latents())
    step = (1.2 / torch.linalg.eigvalsh(s)[-1].item()) ** 0.5
    with pytest.raises(ValueError, match="diverges"):
        Visser(step_size=step, relative=False).solve(s, s)
    torch.testing.assert_close(Visser(steps=400).solve(1e6 * s, s), 1e3 * NewtonSchulz(12).solve(s, s))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_t5h_every_kind_commutes_with_the_moment(kind):
    s = moment(latents())
    p = kind.solve(s, s)
    assert (p @ s - s @ p).norm() < 1e-8


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("spectrum", ["spread", "knee", "rank"])
def test_matrices_have_the_spectrum_of_theory(kind, spectrum):
    eigenvalues = {
        "spread": torch.linspace(1.0, 9.0, 12, dtype=torch.float64),
        "knee": torch.logspace(-6, 0.5, 12, dtype=torch.float64),
        "rank": torch.cat([torch.zeros(6), torch.linspace(0.1, 2.0, 6)]).double(),
    }[spectrum]
    s, basis = with_spectrum(eigenvalues)
    p = kind.solve(s, s)
    theory = (basis * filter_response(kind, eigenvalues)) @ basis.T
    assert (p - theory).norm() < 1e-6 * theory.norm() + 1e-9


def test_direct_pred_worked_numbers():
    eigenvalues = torch.tensor([4.0, 1.0, 0.25, 0.0], dtype=torch.float64)
    s, basis = with_spectrum(eigenvalues)
    p = Power(0.5).solve(s, s) + 0.01 * torch.eye(4)
    expected = (basis * torch.tensor([1.01, 0.51, 0.26, 0.01], dtype=torch.float64)) @ basis.T
    torch.testing.assert_close(p, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(p, p.T)
    assert Power(0.5, floor=0.3).response(eigenvalues).tolist() == [1.0, 0.5, 0.3, 0.3]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_moments_that_are_not_finite_give_no_error(kind):
    """The training loop skips such a step; an exception here would end the run instead."""
    s = torch.full((4, 4), torch.nan)
    assert not torch.isfinite(kind.solve(s, s)).any()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_zero_moments_give_finite_predictors(kind):
    s = torch.zeros(4, 4)
    assert torch.isfinite(kind.solve(s, s)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeastSquares(-1.0), "damping"),
        (lambda: Neumann(0.0), "gain"),
        (lambda: Visser(step_size=1.0), "step_size"),
        (lambda: NewtonSchulz(times=0), "times"),
        (lambda: Stiefel(-1), "steps"),
        (lambda: Power(0.0), "alpha"),
        (lambda: filter_response(Power(), torch.tensor([-1.0])), "none negative"),
        (lambda: filter_response(Power(), torch.eye(2)), r"\[D\]"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
