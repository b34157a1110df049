import math

import pytest
import torch
from torch import Tensor, nn

from byol_ext import Bootstrap, Branch, Ctx, Edge, Target
from byol_ext.closed_form import ClosedForm
from byol_ext.metrics.predictor_spectrum import (
    GradientNorms,
    PredictorMonitor,
    filter_fit,
    linear_matrix,
    predictor_spectrum,
)
from byol_ext.predictors import Learned, linear_predictor, mlp_predictor
from byol_ext.spectral_filters import LeastSquares, NewtonSchulz, Power, Stiefel


def latents(rows: int = 256, width: int = 8) -> Tensor:
    rotation = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))[0]
    return torch.randn(rows, width, dtype=torch.float64) * torch.logspace(0, -1.5, width).double() @ rotation


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_a_power_of_the_second_moment_is_read_back(alpha):
    z = latents()
    s = z.T @ z / len(z)
    values, basis = torch.linalg.eigh(s)
    p = basis @ torch.diag(values**alpha) @ basis.T
    found = predictor_spectrum(p, z_RD=z)
    torch.testing.assert_close(found.s_D, values.flip(0))
    torch.testing.assert_close(found.gain_D, values.flip(0) ** alpha)
    torch.testing.assert_close(found.eigenvalue_D, values.flip(0) ** alpha)
    summary = found.summary()
    assert summary["filter_exponent"] == pytest.approx(alpha, abs=1e-8)
    assert summary["alignment"] == pytest.approx(1.0, abs=1e-12)
    assert summary["commutator"] < 1e-12


def test_a_predictor_that_shares_no_eigenvectors_shows():
    s = torch.diag(torch.tensor([4.0, 1.0]))
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    found = predictor_spectrum(turn, s_DD=s)
    assert found.summary()["alignment"] == 0.0
    # |PS - SP| of a quarter turn is |4 - 1| sqrt(2); the norms are sqrt(2) and sqrt(17).
    assert found.commutator == pytest.approx(3 / math.sqrt(17))
    assert found.summary()["polar_distance"] == pytest.approx(0.0, abs=1e-12)


def test_convention_is_rows_times_matrix():
    found = predictor_spectrum(torch.tensor([[1.0, 5.0], [0.0, 2.0]]), s_DD=torch.diag(torch.tensor([4.0, 1.0])))
    torch.testing.assert_close(found.gain_D, torch.tensor([1.0, 2.0]).double())
    # The first row, (1, 5), is what the first eigenvector becomes.
    torch.testing.assert_close(found.alignment_D, torch.tensor([1 / math.sqrt(26), 1.0]).double())


def test_projection_has_binary_singular_values():
    basis = torch.linalg.qr(torch.randn(6, 2))[0]
    summary = predictor_spectrum(3.0 * basis @ basis.T, z_RD=latents(width=6)).summary()
    assert summary["binary_error"] == pytest.approx(0.0, abs=1e-6)
    assert summary["polar_distance"] == pytest.approx(math.sqrt(4 / 6), abs=1e-6)


@pytest.mark.parametrize("kind", [Power(0.5), NewtonSchulz(), Stiefel()])
def test_closed_forms_follow_their_theory_and_not_another(kind):
    z = latents()
    predictor = ClosedForm(8, kind, ridge=0.3, decay=0.0, dtype=torch.float64)
    predictor.observe([(z, z)])
    predictor.commit()
    matrix = linear_matrix(predictor)
    spectrum = predictor_spectrum(matrix, z_RD=z)
    found = filter_fit(spectrum, kind)
    assert found.ridge == pytest.approx(0.3, abs=1e-3)
    assert found.r2 > 1 - 1e-8
    assert found.scale > 0
    assert filter_fit(spectrum, Power(3.0)).r2 < 0.95


def test_constant_gains_and_filters_are_explained_by_the_ridge():
    s = torch.diag(torch.tensor([4.0, 1.0, 0.5]))
    constant = filter_fit(predictor_spectrum(2 * torch.eye(3), s_DD=s), Power(1.0))
    assert (constant.scale, constant.ridge, constant.r2) == (0.0, 2.0, 1.0)
    flat = filter_fit(predictor_spectrum(s, s_DD=s), LeastSquares())
    assert flat.r2 == pytest.approx(0.0)


def test_collapsed_latents_and_zero_predictors_give_numbers_or_nan():
    summary = predictor_spectrum(torch.zeros(3, 3), z_RD=torch.zeros(5, 3)).summary()
    assert math.isnan(summary["alignment"])
    assert math.isnan(summary["filter_exponent"])
    assert summary["commutator"] == 0.0


def test_linear_matrix_acts_like_its_predictor():
    z = torch.randn(5, 4)
    learned = linear_predictor(4)
    torch.testing.assert_close(learned(z, Ctx()).q, z @ linear_matrix(learned))
    assert linear_matrix(mlp_predictor(4, 8)) is None
    assert linear_matrix(Learned(nn.Linear(4, 3))) is None


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="either"):
        predictor_spectrum(torch.eye(2))
    with pytest.raises(ValueError, match="equal squares"):
        predictor_spectrum(torch.eye(2), z_RD=torch.randn(5, 3))
    with pytest.raises(ValueError, match="NaN"):
        predictor_spectrum(torch.eye(2) * math.nan, s_DD=torch.eye(2))


def network() -> Bootstrap:
    branches = {"net": Branch(nn.Linear(6, 4))}
    return Bootstrap(
        branches,
        {"a": "net", "b": "net"},
        target=Target(branches, tau=0.9),
        predictors={"p": linear_predictor(4), "deep": mlp_predictor(4, 8, norm="layer")},
        plan=[Edge("a", "b", "p"), Edge("b", "a", "deep")],
    )


def test_monitor_measures_each_edge_and_linear_predictor():
    model = network()
    out = model({"a": torch.randn(16, 6), "b": torch.randn(16, 6)})
    found = PredictorMonitor()(model, out, 1)
    expected = torch.cosine_similarity(out.predictions["a", "p"], out.target["b"].z, dim=1).mean().item()
    assert found["predictor/a->b/cosine"] == pytest.approx(expected, abs=1e-6)
    assert found["predictor/p/commutator"] == pytest.approx(
        predictor_spectrum(linear_matrix(model.predictors["p"]), z_RD=out.online["a"].z).commutator
    )
    assert "predictor/p/stable_rank" in found
    assert not [name for name in found if name.startswith("predictor/deep")]
    assert found["ema/distance"] == 0.0
    with pytest.raises(TypeError, match="Bootstrap"):
        PredictorMonitor()(nn.Linear(1, 1), out, 1)


def test_gradient_norms_are_those_of_the_parts_at_the_step():
    model, norms = network(), GradientNorms()
    optimizer = norms.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    out = model({"a": torch.randn(16, 6), "b": torch.randn(16, 6)})
    assert norms(model, out, 0) == {}
    out.loss.backward()
    expected = {
        name: math.sqrt(sum(float(p.grad.square().sum()) for p in part.parameters() if p.grad is not None))
        for name, part in (("online", model.branches), ("predictor", model.predictors))
    }
    optimizer.step()
    optimizer.zero_grad()
    assert norms(model, out, 1) == pytest.approx({f"grad_norm/{name}": value for name, value in expected.items()})
