"""Closed-form predictors in the graph (core-ssl 5 and 6): rows, averages, moments of change, gradient, processes."""

import copy
import multiprocessing
import socket

import pytest
import torch
import torch.distributed as dist
from torch import nn

from byol_ext import Bootstrap, Branch, Ctx, Edge, Target
from byol_ext.closed_form import ClosedForm, direct_copy, direct_pred, latent_moments
from byol_ext.heads import mlp_head
from byol_ext.losses.pair import normalized_mse
from byol_ext.predictors import Fitted
from byol_ext.spectral_filters import LeastSquares, Neumann, NewtonSchulz, Power, Stiefel, Visser

WIDTH = 8


def byol(predictor, *, mask=None) -> Bootstrap:
    online = {"net": Branch(nn.Sequential(nn.Linear(6, 16), nn.ReLU()), mlp_head([16, 16, WIDTH], norm="layer"))}
    return Bootstrap(
        online,
        {"a": "net", "b": "net"},
        target=Target(online, tau=0.9),
        predictors={"p": predictor},
        plan=[Edge("a", "b", "p", mask=mask), Edge("b", "a", "p", mask=mask)],
        pair=normalized_mse,
    )


def views(batch=32):
    return {"a": torch.randn(batch, 6), "b": torch.randn(batch, 6)}


def moment(z):
    return z.T @ z / len(z)


def pair(batch=32, width=WIDTH):
    return torch.randn(batch, width), torch.randn(batch, width)


def test_symmetric_edges_share_one_matrix_of_both_views():
    model = byol(ClosedForm(WIDTH, LeastSquares(), scale="paper", dtype=torch.float64))
    out = model(views())
    z = torch.cat([out.online["a"].z, out.online["b"].z]).detach().double()
    target = torch.cat([out.target["b"].z, out.target["a"].z]).double()
    p = torch.linalg.lstsq(z, target).solution
    for view in "ab":
        expected = out.online[view].z.double() @ p
        torch.testing.assert_close(out.predictions[(view, "p")].double(), expected, rtol=1e-4, atol=1e-4)
    model.after_step(0)
    torch.testing.assert_close(model.predictors["p"].matrix, p, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.predictors["p"].moments, torch.stack([moment(z), z.T @ target / 64]))


def test_direct_pred_acts_on_the_step_after_commit():
    model = byol(direct_pred(WIDTH, ridge=0.01, decay=0.3))
    predictor, batch = model.predictors["p"], views()
    model(batch)
    model.after_step(0)
    first, moments = predictor.matrix.clone(), predictor.moments.clone()
    batch = views()
    out = model(batch)
    z = torch.cat([out.online["a"].z, out.online["b"].z]).detach()
    torch.testing.assert_close(out.predictions[("a", "p")], out.online["a"].z @ first)
    model.after_step(1)
    average = 0.3 * moments[0] + 0.7 * moment(z)
    torch.testing.assert_close(predictor.moments[0], average)
    s, u = torch.linalg.eigh(average.double())
    expected = u @ torch.diag((s / s[-1]).sqrt() + 0.01) @ u.T
    torch.testing.assert_close(predictor.matrix.double(), expected, rtol=1e-4, atol=1e-5)
    assert (predictor.matrix - first).abs().max() > 1e-3
    again = model(batch)
    torch.testing.assert_close(again.predictions[("a", "p")], again.online["a"].z @ predictor.matrix)
    assert torch.linalg.eigvalsh(predictor.matrix)[0] > 0
    torch.testing.assert_close(predictor.matrix, predictor.matrix.T)
    torch.testing.assert_close(predictor.matrix @ average, average @ predictor.matrix)


def test_direct_pred_worked_numbers_and_floor():
    z = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0]))  # second moment diag(4, 1, .25, 0)
    for ridge, smallest in ((0.01, 0.01), (0.0, 1e-4)):
        predictor = direct_pred(4, ridge=ridge)
        predictor.observe([(z, z)])
        predictor.commit()
        expected = torch.tensor([1.0 + ridge, 0.5 + ridge, 0.25 + ridge, smallest])
        torch.testing.assert_close(predictor.matrix.diagonal(), expected)


def test_direct_copy_is_the_scaled_moment():
    z, target = pair()
    for relative in (True, False):
        predictor = direct_copy(WIDTH, ridge=0.3, relative=relative)
        predictor.observe([(z, target)])
        predictor.commit()
        norm = torch.linalg.matrix_norm(moment(z), ord=2) if relative else 1.0
        expected = moment(z) / norm + 0.3 * torch.eye(WIDTH)
        torch.testing.assert_close(predictor.matrix, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("average", ["predictor", "moments"])
def test_average_over_steps(average):
    kind = NewtonSchulz()
    predictor = ClosedForm(WIDTH, kind, average=average, decay=0.9, ridge=0.2, scale="paper")
    kept = None
    for _ in range(3):
        z, target = pair()
        new = moment(z) if average == "moments" else kind.solve(moment(z), moment(z))
        kept = new if kept is None else 0.9 * kept + 0.1 * new
        expected = (kind.solve(kept, kept) if average == "moments" else kept) + 0.2 * torch.eye(WIDTH)
        predictor.observe([(z, target)])
        torch.testing.assert_close(predictor(z, Ctx()).q, z @ expected)
        predictor.commit()
        torch.testing.assert_close(predictor.matrix, expected)


def test_spectral_scale_gives_the_ridge_a_meaning():
    z, target = pair()
    for kind in (NewtonSchulz(), Stiefel(), Visser(), Neumann(), LeastSquares(), Power(0.7)):
        for units in (1.0, 100.0):
            predictor = ClosedForm(WIDTH, kind, ridge=0.5)
            predictor.observe([(units * z, units * target)])
            predictor.commit()
            p = predictor.matrix - 0.5 * torch.eye(WIDTH)
            assert torch.linalg.matrix_norm(p, ord=2).item() == pytest.approx(1.0, rel=1e-3)


def test_a_skipped_step_leaves_no_trace():
    predictor = ClosedForm(WIDTH, NewtonSchulz())
    predictor.observe([pair()])
    predictor.commit()
    before = copy.deepcopy(predictor.state_dict())
    z, target = pair()
    predictor.observe([(z * torch.nan, target)])
    assert not torch.isfinite(predictor(z, Ctx()).q).any()
    z, target = pair()
    predictor.observe([(z, target)])
    assert all(torch.equal(before[name], value) for name, value in predictor.state_dict().items())
    fresh = copy.deepcopy(predictor)
    fresh.observe([(z, target)])
    for one in (predictor, fresh):
        one.commit()
    assert torch.equal(predictor.matrix, fresh.matrix)
    predictor.commit()
    assert torch.equal(predictor.matrix, fresh.matrix)


def test_evaluation_uses_the_committed_matrix_and_observes_nothing():
    model, batch = byol(ClosedForm(WIDTH, Stiefel())), views()
    for view, latents in model.embed(batch).items():
        assert torch.equal(latents["q"], latents["z"]), view
    model(batch)
    model.after_step(0)
    model(views())
    model.eval()
    matrix = model.predictors["p"].matrix.clone()
    out = model(batch)
    torch.testing.assert_close(out.predictions[("a", "p")], out.online["a"].z @ matrix)
    model.after_step(1)
    assert torch.equal(matrix, model.predictors["p"].matrix)


def test_rows_and_centring():
    (a, s), (b, t) = pair(), pair()
    z, target = torch.cat([a, b]), torch.cat([s, t])
    found = latent_moments([(a, s), (b, t)], WIDTH, cross=True)
    torch.testing.assert_close(found, torch.stack([z.T @ z, z.T @ target]) / 64)
    both = latent_moments([(a, s), (b, t)], WIDTH, cross=True, rows="both")
    expected = torch.stack([z.T @ z + target.T @ target, z.T @ target + target.T @ z]) / 128
    torch.testing.assert_close(both, expected)
    centred = latent_moments([(a + 5, s - 3), (b + 5, t - 3)], WIDTH, cross=True, centre=True)
    plain = latent_moments([(z - z.mean(0), target - target.mean(0))], WIDTH, cross=True)
    torch.testing.assert_close(centred, plain, rtol=1e-4, atol=1e-5)
    assert latent_moments([(a.reshape(4, 8, WIDTH), s.reshape(4, 8, WIDTH))], WIDTH, cross=False).shape == (1, 8, 8)


def test_masked_rows_do_not_count():
    model, batch = byol(ClosedForm(WIDTH, NewtonSchulz()), mask="some"), views()
    mask = (torch.arange(32) < 20).float()
    reference, few = copy.deepcopy(model), {name: x[:20] for name, x in batch.items()}
    out, expected = model(batch, Ctx(masks={"some": mask})), reference(few)
    for view in "ab":
        torch.testing.assert_close(out.predictions[(view, "p")][:20], expected.predictions[(view, "p")])


def test_matrix_is_a_constant_unless_told():
    for differentiable in (False, True):
        predictor = ClosedForm(WIDTH, NewtonSchulz(), differentiable=differentiable)
        z, target = pair()
        z.requires_grad_()
        predictor.observe([(z, target)])
        (predictor(z.detach(), Ctx()).q * target).sum().backward() if differentiable else None
        assert (z.grad is not None and z.grad.abs().max() > 0) == differentiable
        assert predictor(z.detach(), Ctx()).q.requires_grad == differentiable
        predictor.commit()
        assert not predictor.matrix.requires_grad


def test_envelope_theorem_for_least_squares():
    """At its optimum the loss does not change with P, so the gradient through P vanishes (core-ssl 5)."""
    grads = []
    for differentiable in (False, True):
        torch.manual_seed(3)
        z, target = (x.double() for x in pair())
        z.requires_grad_()
        kind = LeastSquares()
        predictor = ClosedForm(WIDTH, kind, scale="paper", dtype=torch.float64, differentiable=differentiable)
        predictor.observe([(z, target)])
        (predictor(z, Ctx()).q - target).square().sum().backward()
        grads.append(z.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "kind",
    [LeastSquares(), LeastSquares(0.1), Neumann(), Visser(), NewtonSchulz(), NewtonSchulz(7, 2), Stiefel(), Power(1.0)],
    ids=str,
)
def test_gradient_through_the_matrix(kind):
    target = torch.randn(12, 4, dtype=torch.float64)

    def prediction(z):
        predictor = ClosedForm(4, kind, differentiable=True, scale="paper", ridge=0.1, dtype=torch.float64)
        predictor.observe([(z, target)])
        return predictor(z, Ctx()).q

    z = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(prediction, z, rtol=1e-2, atol=1e-5)


def test_float32_or_wider_under_autocast():
    z, target = pair()
    predictor = ClosedForm(WIDTH, NewtonSchulz())
    predictor.observe([(z.bfloat16().float(), target)])
    expected = predictor(z, Ctx()).q
    with torch.autocast("cpu", torch.bfloat16):
        predictor.observe([(z.bfloat16(), target.bfloat16())])
        found = predictor(z, Ctx()).q
        assert predictor(z.bfloat16(), Ctx()).q.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert predictor.matrix.dtype == torch.float32
    assert ClosedForm(WIDTH, NewtonSchulz(), dtype=torch.float64).matrix.dtype == torch.float64
    predictor.observe([(z.double(), target.double())])
    assert predictor(z.double(), Ctx()).q.dtype == torch.float64


def test_coupling_is_declared_and_nothing_is_trained():
    model = byol(ClosedForm(WIDTH, NewtonSchulz()))
    assert isinstance(model.predictors["p"], Fitted)
    assert model.coupling_reasons() == ["predictors.p"]
    assert not model.encoder_couples_samples
    assert list(model.predictors.parameters()) == []
    model.eval()
    assert not model.couples_samples


@pytest.mark.parametrize("make", [lambda: direct_pred(WIDTH), lambda: ClosedForm(WIDTH, Neumann())])
def test_resume_is_bitwise(make):
    model = byol(make())

    def step(model, batch, index):
        optimizer = torch.optim.SGD(model.branches.parameters(), lr=0.1)
        out = model(batch, step=index)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        model.after_step(index)

    for index in range(2):
        step(model, views(), index)
    resumed = byol(make())
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    batch = views()
    for one in (model, resumed):
        step(one, batch, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


KINDS_OF_RANKS = {"least squares": LeastSquares(0.01), "newton-schulz": NewtonSchulz(), "stiefel": Stiefel()}


def _gradients(x, y, kind):
    """Matrix, and gradient of a linear encoder, of these rows; averaged over ranks as data parallelism does."""
    weight = torch.linspace(-1, 1, 5 * 4, dtype=torch.float64).reshape(5, 4).sin().requires_grad_()
    predictor = ClosedForm(4, kind, differentiable=True, ridge=0.1, centre=True, dtype=torch.float64)
    z, target = x @ weight, y @ weight.detach()
    predictor.observe([(z, target)])
    normalized_mse(q=predictor(z, Ctx()).q, target=target).mean().backward()
    predictor.commit()
    return predictor.matrix, weight.grad


def _rows():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, 24, 5, generator=generator, dtype=torch.float64)


def _rank(rank, world, port, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    x, y = (rows.chunk(world)[rank] for rows in _rows())
    results = {}
    for name, kind in KINDS_OF_RANKS.items():
        matrix, grad = _gradients(x, y, kind)
        dist.all_reduce(grad)
        results[name] = (matrix, grad / world)
    torch.save(results, out / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_rank, args=(rank, 2, port, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for name, kind in KINDS_OF_RANKS.items():
        matrix, grad = _gradients(*_rows(), kind)
        assert torch.equal(ranks[0][name][0], ranks[1][name][0])
        torch.testing.assert_close(ranks[0][name][0], matrix, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ranks[0][name][1], grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClosedForm(4, Stiefel(), decay=1.0), "decay=1.0"),
        (lambda: ClosedForm(4, Stiefel(), ridge=-0.1), "ridge=-0.1"),
        (lambda: ClosedForm(4, Stiefel(), dtype=torch.bfloat16), "bfloat16"),
        (lambda: ClosedForm(4, Power(0.5), differentiable=True), "eigendecomposition"),
        (lambda: ClosedForm(4, Stiefel(), differentiable=True, acts="next"), "acts='now'"),
        (lambda: ClosedForm(4, Stiefel(), scale="none"), "scale='none'"),
        (lambda: ClosedForm(4, Stiefel(), rows="target"), "rows='target'"),
        (lambda: ClosedForm(4, Stiefel()).observe([(torch.ones(3, 4), torch.ones(2, 4))]), "equal shape"),
        (lambda: ClosedForm(4, Stiefel()).observe([(torch.ones(3, 5), torch.ones(3, 5))]), "width 4"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
