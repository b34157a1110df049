"""SIE's loss as a set term (core-ssl 10)."""

from functools import partial

import pytest
import torch
from torch import nn

from byol_ext import Bootstrap, Branch, Ctx, SetTerm
from byol_ext.hypernetwork import GroupPredictor, Hypernetwork, canonical_quaternion
from byol_ext.losses.sets import vicreg
from byol_ext.losses.sie import SplitProjector, sie


def by_hand(a, b, moved, i, w):
    def hinge(x):
        return sum(max(0.0, 1 - float((x[:, k].var() + 1e-4).sqrt())) for k in range(x.shape[1])) / x.shape[1]

    def cov(x):
        c = torch.cov(x.T)
        return sum(float(c[j, k]) ** 2 for j in range(len(c)) for k in range(len(c)) if j != k) / len(c)

    same, apart = (a[:, :i] - b[:, :i]).square().mean(), (moved[:, i:] - b[:, i:]).square().mean()
    spread = (hinge(a) + hinge(b)) / 2 + hinge(moved[:, i:]) / 2
    return float(10 * same + w * 10 * apart) + 10 * spread + cov(a) + cov(b)


@pytest.mark.parametrize("factor", [0.45, 4.5])
def test_value_by_hand(factor):
    a, b, moved = 0.6 * torch.randn(3, 12, 5, dtype=torch.float64)
    loss, parts = sie(a=a, b=b, moved=moved, invariant=2, equivariant_factor=factor)
    assert loss.item() == pytest.approx(by_hand(a, b, moved, 2, factor))
    without, _ = sie(a=a, b=b, moved=moved, invariant=2, equivariant_factor=factor, moved_variance=False)
    assert loss.item() - without.item() == pytest.approx(10 * parts["moved_variance"].item())


def test_variance_and_covariance_are_vicregs_on_the_concatenation():
    z = 0.6 * torch.randn(2, 12, 6)
    _, ours = sie(a=z[0], b=z[1], moved=z[0], invariant=2)
    _, theirs = vicreg(z)
    torch.testing.assert_close(ours["variance"], theirs["variance"])
    torch.testing.assert_close(ours["covariance"], theirs["covariance"])


def test_redundancy_between_the_parts_costs():
    a, b = torch.randn(2, 256, 8)
    redundant = a.clone()
    redundant[:, 4] = a[:, 0]
    apart, together = (sie(a=x, b=b, moved=x, invariant=4)[1]["covariance"] for x in (a, redundant))
    assert together > apart + 0.15


def test_invariant_half_of_the_prediction_is_not_read():
    a, b, moved = torch.randn(3, 12, 6)
    other = moved.clone()
    other[:, :2] = 9.0
    torch.testing.assert_close(sie(a=a, b=b, moved=moved, invariant=2), sie(a=a, b=b, moved=other, invariant=2))


def test_set_term_with_the_group_predictor():
    y = SplitProjector(4, nn.Linear(4, 3), nn.Linear(6, 5))
    model = Bootstrap(
        {"net": Branch(nn.Linear(7, 10), y)},
        {"a": "net", "b": "net"},
        predictors={"group": GroupPredictor(Hypernetwork(4, 5), data="g", invariant=3)},
        set_terms=[
            SetTerm(
                "sie",
                ["a", "b", "a"],
                partial(sie, invariant=3),
                keys=["a", "b", "moved"],
                on=["z", "z", "q"],
                predictor=[None, None, "group"],
            )
        ],
    )
    g = torch.randn(16, 4)
    views = {"a": torch.randn(16, 7), "b": torch.randn(16, 7)}
    out = model(views, Ctx(data={"g": canonical_quaternion(g)}))
    out.loss.backward()
    assert model.predictors["group"].hyper.linear.weight.grad.abs().max() > 0
    z_a, z_b = out.online["a"].z, out.online["b"].z
    moved = torch.cat([z_a[:, :3], model.predictors["group"].hyper(z_a[:, 3:], g=canonical_quaternion(g))], 1)
    torch.testing.assert_close(out.loss, sie(a=z_a, b=z_b, moved=moved, invariant=3)[0])
    flipped = model(views, Ctx(data={"g": canonical_quaternion(-g)}))
    torch.testing.assert_close(flipped.loss, out.loss)
    assert model.couples_samples


def test_split_projector_reads_its_own_coordinates():
    projector = SplitProjector(2, nn.Linear(2, 3), nn.Linear(4, 5))
    y = torch.randn(7, 6)
    torch.testing.assert_close(projector(y)[:, :3], projector.first(y[:, :2]))
    torch.testing.assert_close(projector(y)[:, 3:], projector.second(y[:, 2:]))


def test_bfloat16_is_computed_in_float32():
    a, b, moved = torch.randn(3, 12, 6).bfloat16()
    loss, _ = sie(a=a, b=b, moved=moved, invariant=2)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, sie(a=a.float(), b=b.float(), moved=moved.float(), invariant=2)[0])


def test_bad_shapes_are_refused():
    z = torch.randn(4, 6)
    with pytest.raises(ValueError, match="three times"):
        sie(a=z, b=z[:3], moved=z, invariant=2)
    with pytest.raises(ValueError, match="empty"):
        sie(a=z, b=z, moved=z, invariant=6)
    with pytest.raises(ValueError, match="two rows"):
        sie(a=z[:1], b=z[:1], moved=z[:1], invariant=2)
