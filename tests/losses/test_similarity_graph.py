"""PAL's losses: their theory at the optimum, known losses as special cases, loops (core-ssl 9)."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from byol_ext.losses.contrastive import nt_xent
from byol_ext.losses.similarity_graph import graph_barlow, graph_info_nce, label_graph, spectral_contrastive, vic2

LABELS = torch.tensor([0, 1, 2]).repeat(4)


def circulant(n: int) -> torch.Tensor:
    """A ring of ``n`` with equal degrees 2, itself included: eigenvalues ``1 + cos(2 pi k / n)``."""
    step = torch.eye(n).roll(1, 0).double()
    return torch.eye(n).double() + (step + step.T) / 2


def minimise(loss, rows: int, width: int) -> torch.Tensor:
    z = torch.randn(1, rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [z], max_iter=400, tolerance_change=0, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(z)[0]
        value.backward()
        return value

    optimizer.step(closure)
    return z.detach()[0]


def top_projector(graph: torch.Tensor, width: int) -> torch.Tensor:
    vectors = torch.linalg.eigh(graph).eigenvectors[:, -width:]
    return vectors @ vectors.T


def test_vic2_spans_the_top_eigenvectors_of_the_graph():
    graph = circulant(8)
    z = minimise(partial(vic2, graph=graph), 8, 3)
    left, singular, _ = torch.linalg.svd(z, full_matrices=False)
    torch.testing.assert_close(left @ left.T, top_projector(graph, 3), atol=1e-6, rtol=0)
    second = 1 - math.cos(math.pi / 4)
    expected = 1 - torch.tensor([0, second, second], dtype=torch.float64) / 2
    torch.testing.assert_close(singular.square() / 8, expected, atol=1e-6, rtol=0)


def test_vic2_with_labels_separates_the_classes_exactly():
    z = minimise(partial(vic2, graph=label_graph(LABELS)), 12, 3)
    assert torch.linalg.matrix_rank(z, atol=1e-4) == 3
    # Rows of a class coincide, those of two classes are orthogonal, and no direction is left over.
    torch.testing.assert_close(z @ z.T, 3 * label_graph(LABELS).double(), atol=1e-5, rtol=0)
    loss, parts = vic2(z[None], graph=label_graph(LABELS))
    assert loss < 1e-9
    assert set(parts) == {"covariance", "invariance"}
    # A width above the number of classes is left unused: the Laplacian's other eigenvalues are 4.
    assert torch.linalg.matrix_rank(minimise(partial(vic2, graph=label_graph(LABELS)), 12, 5), atol=1e-3) == 3


def test_spectral_optimum_is_the_best_low_rank_graph():
    graph = circulant(8)
    z = minimise(partial(spectral_contrastive, graph=graph), 8, 3)
    best = top_projector(graph, 3) @ graph
    torch.testing.assert_close(z @ z.T, best, atol=1e-5, rtol=0)
    loss, parts = spectral_contrastive(z[None], graph=graph)
    torch.testing.assert_close(loss, (best - graph).square().sum() / 8)
    torch.testing.assert_close(parts["related"] + parts["unrelated"], loss)


def test_the_default_graph_is_simclr():
    z = torch.randn(2, 6, 5)
    for reduction in ("mean", "sum"):
        loss, parts = graph_info_nce(z, temperature=0.3, reduction=reduction)
        expected, simclr = nt_xent(z, temperature=0.3)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(parts["accuracy"], simclr["accuracy"])
    flat = z.flatten(0, 1)[None]
    views = torch.eye(6).repeat(2, 2)
    for loss in (spectral_contrastive, vic2, graph_info_nce, graph_barlow):
        torch.testing.assert_close(loss(z)[0], loss(flat, graph=views)[0])
        torch.testing.assert_close(loss(z.flip(0).roll(2, 1))[0], loss(z)[0])


def test_losses_equal_loops():
    z, graph = torch.randn(2, 4, 3).double(), label_graph(torch.tensor([0, 1, 0, -1]))
    flat, full = z.flatten(0, 1), graph.double().repeat(2, 2)
    unit = F.normalize(flat, dim=1)
    distance = nce = plain = 0.0
    for i in range(8):
        others = [j for j in range(8) if j != i]
        normaliser = math.log(sum(math.exp(float(unit[i] @ unit[j]) / 0.2) for j in others))
        terms = [(float(full[i, j]), normaliser - float(unit[i] @ unit[j]) / 0.2) for j in others]
        plain += sum(w * t for w, t in terms) / 8
        nce += sum(w * t for w, t in terms) / sum(w for w, _ in terms) / 8
        distance += sum(float(full[i, j] * (flat[i] - flat[j]).square().sum()) for j in range(8)) / 16
    covariance = float((sum(torch.outer(row, row) for row in flat) / 8 - torch.eye(3)).square().sum())
    assert graph_info_nce(z, graph=graph, temperature=0.2)[0].item() == pytest.approx(nce)
    assert graph_info_nce(z, graph=graph, temperature=0.2, reduction="sum")[0].item() == pytest.approx(plain)
    assert vic2(z, graph=graph)[0].item() == pytest.approx(covariance + distance)
    assert vic2(z, graph=graph, invariance_weight=0.5)[0].item() == pytest.approx(covariance + distance / 2)
    expected = (flat @ flat.T - full).square().sum() / 8
    assert spectral_contrastive(z, graph=graph)[0].item() == pytest.approx(float(expected))


def test_barlow_is_the_cross_correlation_of_two_views():
    z = torch.randn(2, 50, 4).double()
    z = (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, correction=0)
    cross = z[0].T @ z[1] / 50
    gap = ((cross + cross.T) / 2 - torch.eye(4)).square()
    expected = gap.diagonal().sum() + 0.005 * (gap.sum() - gap.diagonal().sum())
    torch.testing.assert_close(graph_barlow(z, off_diagonal_weight=0.005)[0], expected)
    torch.testing.assert_close(graph_barlow(3 * z + 1)[0], gap.sum())
    # White rows that equal their relatives are an optimum, whatever the sizes of the classes.
    corner = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])[[0, 0, 1, 1, 2, 2, 3, 3]]
    assert graph_barlow(corner[None], graph=label_graph(torch.arange(4).repeat_interleave(2)))[0] < 1e-10


def test_a_row_without_relatives_counts_zero_and_has_finite_gradient():
    z = torch.randn(1, 4, 3, requires_grad=True)
    graph = label_graph(torch.tensor([0, 0, -1, -1]))
    for loss in (spectral_contrastive, vic2, graph_info_nce, graph_barlow):
        value, _ = loss(z, graph=graph)
        value.backward()
        assert torch.isfinite(z.grad).all()
    half, _ = graph_info_nce(z, graph=graph)
    logits = (F.normalize(z[0], dim=1) @ F.normalize(z[0], dim=1).T / 0.1).fill_diagonal_(-math.inf)
    expected = F.cross_entropy(logits[:2], torch.tensor([1, 0]), reduction="sum") / 4
    torch.testing.assert_close(half, expected)


def test_shapes_are_checked():
    for loss in (spectral_contrastive, vic2, graph_info_nce, graph_barlow):
        with pytest.raises(ValueError, match="relate the 4 local samples"):
            loss(torch.randn(2, 4, 3), graph=torch.eye(8))
        with pytest.raises(ValueError, match="V, B, D"):
            loss(torch.randn(4, 3))
    with pytest.raises(ValueError, match="two at least"):
        graph_info_nce(torch.randn(1, 1, 3))


def test_half_precision_is_computed_in_float32():
    z = torch.randn(2, 4, 3).bfloat16()
    for loss in (spectral_contrastive, vic2, graph_info_nce, graph_barlow):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, _ = loss(z)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(z.float())[0])
