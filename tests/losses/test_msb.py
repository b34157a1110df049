"""MSBReg's three terms, alone and as set terms of a bootstrapped graph (core-ssl 8.8)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from byol_ext.bootstrap import Bootstrap, Branch, Target
from byol_ext.graph import SetTerm
from byol_ext.losses.msb import brownian, centroid_distance, noise_directions, singular_value_spread
from byol_ext.predictors import Ctx, linear_predictor
from byol_ext.rng import sample_keys


def test_centroid_distance_is_its_formula():
    z = torch.randn(6, 5, 4, dtype=torch.float64)
    loss, parts = centroid_distance(z)
    centroid = F.normalize(z[3:], dim=-1).mean(0)
    expected = (2 - 2 * F.cosine_similarity(z[:3], centroid[None], dim=-1)).mean()
    torch.testing.assert_close(loss, expected)
    assert parts["target_spread"].item() > 0.1
    with pytest.raises(ValueError, match="as many targets"):
        centroid_distance(z[:5])


def test_centroid_distance_is_zero_when_all_views_are_equal():
    z = torch.randn(1, 5, 4).expand(4, 5, 4)
    loss, parts = centroid_distance(z)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert parts["target_spread"].item() == pytest.approx(0.0, abs=1e-6)


def test_singular_value_spread_between_its_ends():
    assert singular_value_spread(torch.eye(4).expand(2, 4, 4))[0].item() == pytest.approx(0.0, abs=1e-6)
    collapsed, parts = singular_value_spread(torch.ones(2, 6, 4))
    assert collapsed.item() == pytest.approx(0.75, abs=1e-6)
    assert parts["participation"].item() == pytest.approx(1.0, abs=1e-5)
    for rows in (2, 9):
        z = torch.randn(2, rows, 6, dtype=torch.float64)
        flat = F.normalize(z.flatten(0, 1), dim=1)
        distance = (flat.T @ flat / len(flat) - torch.eye(6) / 6).square().sum()
        torch.testing.assert_close(singular_value_spread(z)[0], distance)


def test_the_mean_kick_is_zero():
    """The mean over 10^5 draws, and the deviation 1 / sqrt(D) of one draw."""
    z = torch.randn(1, 1, 16).expand(1, 100_000, 16)
    noise = noise_directions(sample_keys(0, 0, torch.arange(100_000)), width=16)
    assert abs(brownian(z, noise=noise)[0].item()) < 5e-3
    each = torch.stack([brownian(z[:, :1], noise=n[None])[0] for n in noise[:2000]])
    assert each.std().item() == pytest.approx(0.25, rel=0.06)


def test_noise_is_isotropic_and_keyed():
    keys = sample_keys(3, 7, torch.arange(4096))
    noise = noise_directions(keys, width=6)
    torch.testing.assert_close(noise.norm(dim=1), torch.ones(4096))
    torch.testing.assert_close(noise.T @ noise / 4096, torch.eye(6) / 6, atol=0.02, rtol=0)
    assert torch.equal(noise[5:9], noise_directions(keys[5:9], width=6))
    assert not torch.allclose(noise, noise_directions(sample_keys(3, 8, torch.arange(4096)), width=6))


def test_views_of_an_image_share_the_kick():
    z, noise = torch.randn(3, 5, 4), torch.randn(5, 4)
    expected = sum(F.cosine_similarity(view, noise, dim=1).mean() for view in z) / 3
    torch.testing.assert_close(brownian(z, noise=noise)[0], expected)
    torch.testing.assert_close(brownian(z, noise=noise[:1])[0], brownian(z, noise=noise[:1].expand(5, 4))[0])
    with pytest.raises(ValueError, match="noise"):
        brownian(z, noise=noise[:4])


def test_as_a_configuration_of_the_graph():
    branches = {"image": Branch(nn.Linear(6, 5), nn.Linear(5, 4))}
    terms = [
        SetTerm(
            "centroid",
            ["a", "b", "a", "b"],
            centroid_distance,
            on=["q", "q", "target", "target"],
            predictor=["p", "p", None, None],
            couples=False,
        ),
        SetTerm("singular", ["a", "b"], singular_value_spread, weight=2.0),
        SetTerm("brownian", ["a", "b"], brownian, weight=0.1, data=["noise"], couples=False),
    ]
    model = Bootstrap(
        branches,
        {"a": "image", "b": "image"},
        target=Target(branches, tau=0.9),
        predictors={"p": linear_predictor(4)},
        set_terms=terms,
    )
    views = {"a": torch.randn(8, 6), "b": torch.randn(8, 6)}
    ctx = Ctx(data={"noise": noise_directions(sample_keys(0, 0, torch.arange(8)), width=4)})
    out = model(views, ctx)
    expected = out.terms["centroid"] + 2 * out.terms["singular"] + 0.1 * out.terms["brownian"]
    torch.testing.assert_close(out.loss.detach(), expected)
    out.loss.backward()
    assert all(p.grad is not None for p in model.branches.parameters())
    assert all(p.grad is None for p in model.target.parameters())
    assert model.coupling_reasons() == ["set_terms.singular"]
