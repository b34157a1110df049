import logging
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from byol_ext.metrics.spectrum import (
    CollapseMonitor,
    effective_rank,
    ema_distance,
    linear_predictor_stats,
    off_diagonal_correlation,
    rankme,
    std_sqrt_d,
    uniformity,
)


class Latent(NamedTuple):
    y: Tensor
    z: Tensor


def orthonormal(rows: int, columns: int) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64))[0]


def test_rankme_numbers_of_the_spec():
    assert rankme(orthonormal(256, 32)) == pytest.approx(32.0003, abs=5e-5)
    assert rankme(torch.diag(torch.tensor([2.0, 1.0, 1.0]))) == pytest.approx(2.8284, abs=5e-5)
    assert rankme(torch.randn(256, 1) @ torch.randn(1, 32)) == pytest.approx(1.00005, abs=5e-6)
    assert rankme(torch.ones(256, 32), eps=1e-5) == pytest.approx(1.0036, abs=5e-5)


def test_rankme_is_invariant_to_rotation_scale_and_row_order():
    z = torch.randn(100, 16, dtype=torch.float64)
    expected = rankme(z)
    assert rankme(z @ orthonormal(16, 16)) == pytest.approx(expected, rel=1e-9)
    assert rankme(1e-6 * z) == pytest.approx(expected, rel=1e-9)
    assert rankme(z[torch.randperm(100)]) == pytest.approx(expected, rel=1e-9)


def test_rankme_with_fewer_rows_than_columns():
    assert rankme(orthonormal(64, 8).T) == pytest.approx(8, abs=1e-3)
    assert effective_rank(orthonormal(64, 8).T) == pytest.approx(8)


def test_normalized_rankme_is_the_entropy_over_log_d():
    z = torch.randn(50, 12)
    assert rankme(z, normalized=True) == pytest.approx(math.log(rankme(z)) / math.log(12))
    assert rankme(torch.ones(3, 1), normalized=True) == 0.0


def test_rankme_does_not_lose_small_values_to_float32():
    sigma = torch.cat([torch.ones(1), torch.full((31,), 1e-5)]).double()
    z = orthonormal(100, 32) * sigma
    p = sigma / sigma.sum() + 1e-7
    assert rankme(z) == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-9)


def test_zero_matrix_has_rank_one():
    assert rankme(torch.zeros(4, 4)) == pytest.approx(1.0, abs=1e-4)
    assert effective_rank(torch.zeros(4, 4)) == 1.0


def test_effective_rank_centring_shows_the_noise_of_a_collapsed_cloud():
    z = torch.ones(200, 16) + 1e-3 * torch.randn(200, 16)
    assert effective_rank(z) < 1.2
    assert effective_rank(z, center=True) > 14


def test_std_sqrt_d():
    assert std_sqrt_d(torch.randn(5000, 64)) == pytest.approx(1.0, abs=0.02)
    assert std_sqrt_d(torch.randn(1, 64).expand(50, 64)) == pytest.approx(0.0, abs=1e-6)


def test_off_diagonal_correlation():
    assert off_diagonal_correlation(torch.randn(20_000, 6)) < 0.02
    column = torch.randn(100, 1)
    assert off_diagonal_correlation(column * torch.tensor([1.0, -2.0, 3.0])) == pytest.approx(1.0)
    assert off_diagonal_correlation(torch.ones(100, 8)) == 1.0
    z = torch.randn(40, 5, dtype=torch.float64)
    reference = torch.corrcoef(z.T).abs()
    expected = (reference.sum() - 5) / 20
    assert off_diagonal_correlation(z) == pytest.approx(float(expected))
    with_constant = torch.cat([z, torch.full((40, 1), 3.0, dtype=torch.float64)], dim=1)
    assert off_diagonal_correlation(with_constant) == pytest.approx(float(expected))


def test_uniformity_equals_a_double_loop():
    z = torch.randn(30, 8, dtype=torch.float64)
    unit = z / z.norm(dim=1, keepdim=True)
    terms = [math.exp(-2 * float((unit[i] - unit[j]).square().sum())) for i in range(30) for j in range(30) if i != j]
    assert uniformity(z, chunk=7) == pytest.approx(math.log(sum(terms) / len(terms)))
    assert uniformity(torch.ones(10, 4)) == pytest.approx(0.0, abs=1e-9)
    assert uniformity(torch.eye(10)) == pytest.approx(-4.0)
    with pytest.raises(ValueError, match="at least 2"):
        uniformity(torch.ones(1, 4))


def test_ema_distance():
    online, target = nn.Linear(3, 2), nn.Linear(3, 2)
    target.load_state_dict(online.state_dict())
    assert ema_distance(online=online, target=target) == 0.0
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(0.9)
    assert ema_distance(online=online, target=target) == pytest.approx(0.1, rel=1e-5)
    with pytest.raises(ValueError, match="differ in parameters"):
        ema_distance(online=online, target=nn.Linear(3, 2, bias=False))


def test_linear_predictor_stats():
    q = orthonormal(10, 3)
    projection = linear_predictor_stats(q @ q.T)
    assert projection["asymmetry"] == pytest.approx(0.0, abs=1e-12)
    assert projection["idempotence_error"] == pytest.approx(0.0, abs=1e-12)
    assert projection["stable_rank"] == pytest.approx(3.0)
    skew = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert linear_predictor_stats(skew)["asymmetry"] == pytest.approx(2.0)
    assert linear_predictor_stats(torch.diag(torch.tensor([2.0, 1.0])))["stable_rank"] == pytest.approx(5 / 4)
    assert linear_predictor_stats(torch.zeros(2, 2))["stable_rank"] == 0.0
    with pytest.raises(ValueError, match="square"):
        linear_predictor_stats(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("z", "message"),
    [(torch.zeros(3), "matrix"), (torch.zeros(0, 3), "matrix"), (torch.full((2, 2), float("inf")), "NaN or Inf")],
)
def test_bad_matrices(z, message):
    with pytest.raises(ValueError, match=message):
        rankme(z)


def test_monitor_is_silent_on_healthy_latents(caplog):
    monitor = CollapseMonitor()
    latents = {"audio": Latent(torch.randn(64, 48), torch.randn(64, 32)), "text": torch.randn(8, 8, 32)}
    with caplog.at_level(logging.WARNING):
        out = monitor(latents, step=10)
    assert not caplog.records
    assert out["collapse/collapsed"] == 0.0
    assert out["collapse/audio/z/rankme"] > 20
    assert out["collapse/audio/y/rankme"] > 20
    assert out["collapse/text/z/effective_rank"] > 20  # leading dimensions are rows
    assert all(isinstance(value, float) for value in out.values())


@pytest.mark.parametrize(
    "z",
    [
        torch.ones(64, 32) + 1e-3 * torch.randn(64, 32),  # a point
        torch.randn(64, 1) @ torch.randn(1, 32),  # a line
        torch.full((64, 32), float("nan")),
    ],
)
def test_monitor_fires_on_collapsed_embeddings(z, caplog):
    monitor = CollapseMonitor()
    with caplog.at_level(logging.WARNING):
        out = monitor({"audio": torch.randn(64, 32), "text": z}, step=3)
    assert out["collapse/collapsed"] == 1.0
    assert "text" in caplog.text
    assert "audio" not in caplog.text
    assert "step 3" in caplog.text


def test_monitor_counts_waits_and_recovers(caplog):
    monitor = CollapseMonitor(patience=2, warmup_steps=5)
    flat, good = {"z": torch.ones(16, 16)}, {"z": torch.randn(16, 16)}
    with caplog.at_level(logging.WARNING):
        assert monitor(flat, step=4)["collapse/collapsed"] == 0.0
        assert monitor(flat, step=5)["collapse/in_a_row"] == 1.0
        assert not caplog.records
        assert monitor(flat, step=6)["collapse/in_a_row"] == 2.0
        assert len(caplog.records) == 1
        monitor(flat, step=7)
        assert len(caplog.records) == 1
        assert monitor(good, step=8)["collapse/in_a_row"] == 0.0
    assert monitor.checks == 5


def test_monitor_does_not_judge_the_rank_of_a_few_rows():
    assert CollapseMonitor()({"z": torch.eye(2)}, step=0)["collapse/collapsed"] == 0.0
    assert CollapseMonitor()({"z": torch.randn(1, 8)}, step=0) == {"collapse/collapsed": 0.0, "collapse/in_a_row": 0.0}


def test_monitor_leaves_gradients_and_inputs_alone():
    z = torch.randn(16, 8, requires_grad=True)
    before = z.detach().clone()
    CollapseMonitor()({"z": z}, step=0)
    assert z.grad is None
    assert torch.equal(z, before)


@pytest.mark.parametrize(("width", "least"), [(16, 2.0), (64, 4.0), (128, 8.0), (512, 8.0)])
def test_dimensional_collapse_is_judged_by_the_width(width, least):
    generator = torch.Generator().manual_seed(0)

    def with_rank(k: int) -> torch.Tensor:
        basis = torch.linalg.qr(torch.randn(width, k, generator=generator, dtype=torch.float64))[0]
        return torch.linalg.qr(torch.randn(600, k, generator=generator, dtype=torch.float64))[0] @ basis.T

    few, enough = with_rank(int(least) - 1), with_rank(int(least) + 1)
    assert CollapseMonitor(std_threshold=0.0)({"z": few}, step=0)["collapse/collapsed"] == 1.0
    assert CollapseMonitor(std_threshold=0.0)({"z": enough}, step=0)["collapse/collapsed"] == 0.0
