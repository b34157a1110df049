import math

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from scipy.spatial import Delaunay
from torch import nn

from byol_ext.bootstrap import Latent, Out
from byol_ext.metrics import hull
from byol_ext.metrics.hull import HullMonitor, hull_fraction, hull_membership


def test_square():
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    query = torch.tensor([[0.5, 0.5], [0.0, 0.5], [1.0, 1.0], [1.001, 0.5], [-0.1, -0.1], [0.999, 0.001]])
    assert hull_membership(square, query).tolist() == [True, True, True, False, False, True]


@pytest.mark.parametrize("width", [2, 3, 4])
def test_agrees_with_a_triangulation(width):
    cloud, query = torch.randn(30, width), 1.3 * torch.randn(200, width)
    expected = Delaunay(cloud.double().numpy()).find_simplex(query.double().numpy()) >= 0
    found = hull_membership(cloud, query).numpy()
    assert (found == expected).all()
    assert 10 < found.sum() < 190


def test_agrees_with_non_negative_least_squares_in_ten_dimensions():
    cloud = torch.randn(60, 10, dtype=torch.float64)
    query = 0.5 * torch.randn(40, 10, dtype=torch.float64)
    system = np.vstack([cloud.numpy().T, np.ones(60)])
    expected = [nnls(system, np.append(x, 1.0))[1] < 1e-8 for x in query.numpy()]
    assert hull_membership(cloud, query).tolist() == expected
    assert 0 < sum(expected) < 40


def test_without_the_shortcuts_the_answer_is_the_same(monkeypatch):
    cloud, query = torch.randn(40, 6), torch.randn(60, 6)
    expected = hull_membership(cloud, query)
    monkeypatch.setattr(hull, "_SEPARATION_STEPS", 0)
    assert torch.equal(hull_membership(cloud, query), expected)
    # And most of what is outside needs no linear program.
    monkeypatch.setattr(hull, "_SEPARATION_STEPS", 30)
    solved = []
    original = hull._feasible
    monkeypatch.setattr(hull, "_feasible", lambda rows, x: solved.append(1) or original(rows, x))
    hull_membership(cloud, query)
    assert len(solved) < int(expected.sum()) + 10


def test_in_one_dimension_two_in_n_plus_one_are_outside():
    generator = torch.Generator().manual_seed(1)
    n, trials = 5, 4000
    inside = sum(
        bool(hull_membership(x[:n], x[n:])) for x in torch.rand(trials, n + 1, 1, generator=generator).unbind()
    )
    expected = 1 - 2 / (n + 1)
    assert abs(inside / trials - expected) < 4 * math.sqrt(expected * (1 - expected) / trials)


def test_a_fifth_point_in_the_square_of_four_is_inside_as_often_as_sylvester_says():
    # Four uniform points in a square are convex with probability 25/36, so one lies in the triangle of the others with
    # 11/36, each with 11/144.
    x = torch.rand(1500, 4, 2, generator=torch.Generator().manual_seed(0))
    inside = np.mean([bool(hull_membership(points[:3], points[3:])) for points in x])
    assert abs(inside - 11 / 144) < 4 * math.sqrt(11 / 144 / 1500)


def test_vertices_of_a_cube_are_outside_the_hull_of_the_others():
    vertices = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 5)
    for k in range(0, 32, 7):
        others = torch.cat([vertices[:k], vertices[k + 1 :]])
        assert not hull_membership(others, vertices[k : k + 1]).any()


def test_convex_combinations_and_copies_are_inside_also_in_a_flat_cloud():
    flat = torch.randn(30, 3, dtype=torch.float64) @ torch.randn(3, 12, dtype=torch.float64) + 5.0
    weights = torch.distributions.Dirichlet(torch.ones(30).double()).sample((40,))
    assert hull_membership(flat, weights @ flat).all()
    assert hull_membership(flat, flat[:10]).all()
    assert not hull_membership(flat, weights[:5] @ flat + 1e-3 * torch.randn(5, 12)).any()


def test_affine_maps_change_nothing():
    cloud, query = torch.randn(40, 4, dtype=torch.float64), torch.randn(80, 4, dtype=torch.float64)
    squeeze = torch.randn(4, 4, dtype=torch.float64) * torch.tensor([1.0, 10.0, 100.0, 1e3])
    assert torch.equal(hull_membership(cloud @ squeeze + 7.0, query @ squeeze + 7.0), hull_membership(cloud, query))


def test_gaussians_of_2_and_50_dimensions():
    low = hull_fraction(torch.randn(500, 2), torch.randn(100, 2))[2]
    assert low.inside > 0.9
    assert low.low < low.inside <= low.high <= 1.0
    high = hull_fraction(torch.randn(500, 50), torch.randn(100, 50))[50]
    assert high.inside == 0.0
    # Clopper-Pearson of 0 among n: 1 - (.025)^(1/n).
    assert high.high == pytest.approx(1 - 0.025 ** (1 / 100))
    assert (high.queries, high.dimension) == (100, 50)


def test_fraction_falls_with_the_number_of_components():
    found = hull_fraction(torch.randn(300, 12), torch.randn(100, 12), dims=(1, 3, 6, 12))
    shares = [found[k].inside for k in (1, 3, 6, 12)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9 > 0.3 > shares[-1]


def test_components_are_those_of_the_training_rows():
    cloud = torch.randn(100, 3, dtype=torch.float64) * torch.tensor([10.0, 3.0, 1.0])
    query = 2 * torch.randn(50, 3, dtype=torch.float64) * torch.tensor([10.0, 3.0, 1.0])
    axes = torch.linalg.svd(cloud - cloud.mean(0), full_matrices=False)[2][:2]
    expected = hull_membership(cloud @ axes.T, query @ axes.T).double().mean().item()
    assert hull_fraction(cloud, query, dims=[2])[2].inside == expected


def test_equal_rows_are_a_point():
    point = torch.full((4, 3), 2.0)
    assert hull_membership(point, torch.tensor([[2.0, 2.0, 2.0], [2.0, 2.0, 2.1]])).tolist() == [True, False]


def test_monitor_asks_the_second_half_of_the_rows():
    z = torch.randn(64, 3)
    out = Out(torch.zeros(()), online={"a": Latent(z, z), "b": Latent(z[:2], z[:2]), "c": Latent(z, z * math.nan)})
    found = HullMonitor(dims=(2, 3))(nn.Identity(), out, 1)
    expected = {f"hull/a/z/{k}": hull_fraction(z[:32], z[32:], dims=[k])[k].inside for k in (2, 3)}
    assert found == expected


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="equal width"):
        hull_membership(torch.randn(4, 2), torch.randn(4, 3))
    with pytest.raises(ValueError, match="NaN"):
        hull_membership(torch.randn(4, 2), torch.full((1, 2), math.nan))
    with pytest.raises(ValueError, match="dims"):
        hull_fraction(torch.randn(4, 2), torch.randn(4, 2), dims=[0])
    with pytest.raises(ValueError, match="on = 'q'"):
        HullMonitor(on="q")
