"""ViDiDi's VICReg, SimCLR and BYOL against float64 formulas with plain loops (spec vididi 3, 12)."""

import math

import pytest
import torch
from torch import Tensor, nn

from byol_ext.bootstrap import Bootstrap, Branch, Target
from byol_ext.losses import contrastive, gather, sets
from byol_ext.losses.contrastive import infonce_cross, nt_xent
from byol_ext.losses.pair import normalized_mse
from byol_ext.losses.sets import vicreg
from byol_ext.predictors import Prediction
from byol_ext.schedules import ema_cosine
from byol_ext.video.schedule import DerivativeSchedule

AUTHORS = {"invariance_weight": 1.0, "variance_weight": 1.0, "covariance_weight": 0.04}


def vicreg_formula(a: Tensor, b: Tensor) -> float:
    n, d = a.shape
    total = sum((a[i, j].item() - b[i, j].item()) ** 2 for i in range(n) for j in range(d)) / (n * d)
    for z in (a, b):
        centred = (z - z.mean(0)).tolist()
        covariance = [[sum(row[i] * row[j] for row in centred) / (n - 1) for j in range(d)] for i in range(d)]
        total += sum(max(0.0, 1 - math.sqrt(covariance[j][j] + 1e-4)) for j in range(d)) / d / 2
        total += 0.04 * sum(covariance[i][j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    return total


def simclr_formula(a: Tensor, b: Tensor, tau: float = 0.1) -> float:
    """Summed over both directions; the only negatives are the other view's."""
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(len(x)):
            logits = [torch.cosine_similarity(x[i], y[j], dim=0).item() / tau for j in range(len(y))]
            total += (math.log(sum(math.exp(v) for v in logits)) - logits[i]) / len(x)
    return total


def byol_formula(q1: Tensor, q2: Tensor, t1: Tensor, t2: Tensor) -> float:
    return sum((2 - 2 * torch.cosine_similarity(q, t)).mean().item() for q, t in ((q1, t2), (q2, t1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vicreg_with_the_authors_weights(dtype):
    z = 0.7 * torch.randn(2, 9, 5, dtype=torch.float64)
    expected = vicreg_formula(z[0], z[1])
    one_way = vicreg(z.to(dtype), **AUTHORS)[0]
    both_ways = vicreg(z.to(dtype), **AUTHORS, directions="sum", gather=False)[0]
    assert one_way.item() == pytest.approx(expected, rel=1e-6)
    assert both_ways.item() == pytest.approx(2 * expected, rel=1e-6)
    torch.testing.assert_close(vicreg(z)[0], 25 * vicreg(z, **AUTHORS)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_simclr_with_negatives_of_the_other_view(dtype):
    a, b = torch.randn(2, 7, 6, dtype=torch.float64)
    expected = simclr_formula(a, b)
    loss, parts = infonce_cross(a=a.to(dtype), b=b.to(dtype), scale=10.0, directions="sum", gather=False)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(loss, parts["a_to_b"] + parts["b_to_a"])
    assert infonce_cross(a=a, b=b, scale=10.0)[0].item() == pytest.approx(expected / 2)


def byol(decay) -> Bootstrap:
    branches = {"video": Branch(nn.Linear(6, 5), nn.Linear(5, 4))}
    predictor = Predictor()
    model = Bootstrap(
        branches,
        {"first": "video", "second": "video"},
        target=Target(branches, tau=decay),
        predictors={"video": predictor},
        plan=DerivativeSchedule(period="step").plan("video"),
        pair=normalized_mse,
    )
    return model.double()


class Predictor(nn.Module):
    couples_samples = False

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, z, ctx):
        return Prediction(self.linear(z), {})

    def commit(self) -> None:
        pass


def test_byol_sums_both_directions():
    model = byol(0.99)
    views = {name: torch.randn(8, 6, dtype=torch.float64) for name in ("first", "second")}
    out = model(views)
    online, target = model.branches["video"], model.target.branch("video")
    q = [model.predictors["video"].linear(online(views[name]).z) for name in ("first", "second")]
    t = [target(views[name]).z for name in ("first", "second")]
    assert out.loss.item() == pytest.approx(byol_formula(q[0], q[1], t[0], t[1]), rel=1e-6)
    assert not any(p.requires_grad for p in target.parameters())


@pytest.mark.parametrize("cosine", [False, True], ids=["constant", "cosine"])
def test_the_targets_trace_is_the_formula(cosine):
    base, steps = 0.99, 12
    model = byol(ema_cosine(base, steps) if cosine else base)
    weight = model.branches["video"].encoder.weight
    expected = weight.detach().clone()
    for k in range(steps):
        with torch.no_grad():
            weight.add_(torch.randn_like(weight))
        tau = 1 - (1 - base) * (math.cos(math.pi * k / steps) + 1) / 2 if cosine else base
        assert model.after_step(k)["ema/tau"] == pytest.approx(tau, abs=1e-12)
        expected = tau * expected + (1 - tau) * weight.detach()
        torch.testing.assert_close(model.target.branch("video").encoder.weight, expected)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, gather: infonce_cross(
            a=z[0], b=z[1], scale=5.0, mask=torch.tensor([1, 1, 0, 1]), groups=torch.arange(4), gather=gather
        ),
        lambda z, gather: nt_xent(z, gather=gather),
        lambda z, gather: vicreg(z, gather=gather),
    ],
    ids=["infonce", "nt_xent", "vicreg"],
)
def test_without_gathering_a_rank_sees_its_own_rows_only(loss, monkeypatch):
    z = torch.randn(2, 4, 6)
    alone = loss(z, True)[0]
    others = torch.randn(4, 6)

    def gathered(x: Tensor) -> Tensor:
        """As on the second of two ranks."""
        return torch.cat([others if x.is_floating_point() and x.ndim == 2 else x, x])

    for module in (contrastive, sets):
        monkeypatch.setattr(module, "gather_rows", gathered)
    monkeypatch.setattr(gather, "world", lambda: (1, 2))
    assert torch.equal(loss(z, False)[0], alone)
    assert not torch.allclose(loss(z, True)[0], alone)
