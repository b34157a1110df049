"""NGU against loops over environments and time (exploration spec 5.3)."""

from __future__ import annotations

import math
from itertools import pairwise

import curiosity_rollouts as rollouts
import pytest
import torch
from torch import Tensor

from byol_ext.rl.curiosity import ngu
from byol_ext.rl.curiosity.icm import InverseModel
from byol_ext.rl.curiosity.ngu import NGU, EpisodicMemory
from byol_ext.rl.curiosity.rnd import Distillation, mlp_networks
from byol_ext.rl.encoders import mlp_encoder

WIDTH = 4


class LoopMemory:
    """One list an environment, one query at a time."""

    def __init__(self, batch: int, capacity: int) -> None:
        self.seen: list[list[Tensor]] = [[] for _ in range(batch)]
        self.capacity = capacity

    def query(self, phi: Tensor, *, first: Tensor, real: Tensor, neighbours: int) -> Tensor:
        found = torch.full((len(real), len(self.seen), neighbours), math.inf)
        for b, seen in enumerate(self.seen):
            for t in range(len(real)):
                if first[t, b]:
                    seen.clear()
                if first[t, b] or not seen:
                    seen.append(phi[t, b])
                if not real[t, b]:
                    continue
                distances = sorted(float((phi[t + 1, b] - other).square().sum()) for other in seen)[:neighbours]
                found[t, b, : len(distances)] = torch.tensor(distances)
                seen.append(phi[t + 1, b])
                del seen[: -self.capacity]
        return found


@pytest.mark.parametrize("capacity", [5, 16, 200])
@pytest.mark.parametrize("budget", [1, 2**25])
def test_neighbours_equal_a_loop(capacity: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes cross segments, end at their borders, and outgrow the ring."""
    monkeypatch.setattr(ngu, "_DISTANCES", budget)
    segment, phi = rollouts.rollout(120, 5, ends=0.06, seed=capacity), torch.randn(121, 5, WIDTH)
    phi[30:60] = phi[:30]
    fast, slow = EpisodicMemory(5, WIDTH, capacity=capacity), LoopMemory(5, capacity)
    borders = [0, 7, 8, 31, 32, 70, 100, 120]
    assert any(segment.first[border].any() and border for border in borders)
    for start, stop in pairwise(borders):
        part = phi[start : stop + 1]
        flags = {"first": segment.first[start : stop + 1], "real": segment.real[start:stop]}
        expected = slow.query(part, neighbours=4, **flags)
        found = fast.query(part, neighbours=4, **flags)
        found = torch.where(flags["real"].unsqueeze(-1), found, math.inf)
        torch.testing.assert_close(found, expected)
        for b, seen in enumerate(slow.seen):
            live = not segment.first[stop, b]
            assert min(int(fast.count[b]), capacity) == (len(seen) if live else 0)


def test_memory_without_update_begins_with_the_segment_and_stays() -> None:
    segment, phi = rollouts.rollout(20, 3), torch.randn(21, 3, WIDTH)
    memory = EpisodicMemory(3, WIDTH, capacity=50)
    memory.query(phi, first=segment.first, real=segment.real, neighbours=2)
    before = memory.embedding.clone()
    other = rollouts.rollout(9, 7, seed=4)
    first = torch.zeros_like(other.first)
    phi = torch.randn(10, 7, WIDTH)
    found = memory.query(phi, first=first, real=other.real | True, neighbours=2, update=False)
    expected = LoopMemory(7, 50).query(phi, first=first, real=other.real | True, neighbours=2)
    torch.testing.assert_close(found, expected)
    assert torch.equal(memory.embedding, before)


def test_memory_is_made_for_its_environments() -> None:
    memory, other = EpisodicMemory(3, WIDTH, capacity=8), rollouts.rollout(4, 2)
    with pytest.raises(ValueError, match="num_envs=3"):
        memory.query(torch.randn(5, 2, WIDTH), first=other.first, real=other.real, neighbours=2)


def model(batch: int) -> NGU:
    torch.manual_seed(0)
    inverse = InverseModel(mlp_encoder(rollouts.SHAPE, (8, WIDTH)), rollouts.ACTIONS, hidden=8)
    lifelong = Distillation(mlp_networks(rollouts.SHAPE, (8,), 6))
    return NGU(inverse, lifelong, EpisodicMemory(batch, WIDTH, capacity=64), neighbours=3)


def test_reward_equals_the_formulas() -> None:
    bonus, segment = model(3), rollouts.rollout(40, 3)
    memory, errors, distances = LoopMemory(3, 64), [], []
    for start in (0, 20):
        part = rollouts.cut(segment, start, start + 20)
        reward = bonus.reward(part)
        phi = bonus.inverse.encoder(part.obs).detach()
        squared = memory.query(phi, first=part.first, real=part.real, neighbours=3)
        error = bonus.lifelong.errors(part)
        errors += error[part.real].tolist()
        distances += squared[squared.isfinite()].tolist()
        mean, std = torch.tensor(errors).mean(), torch.tensor(errors).std(correction=0)
        for t, b in part.real.nonzero().tolist():
            normal = [max(d / (sum(distances) / len(distances)) - 0.008, 0) for d in squared[t, b].tolist()]
            s = math.sqrt(sum(1e-4 / (d + 1e-4) for d in normal)) + 1e-3
            episodic = 0.0 if s > 8 else 1 / s
            alpha = float(1 + (error[t, b] - mean) / std)
            expected = episodic * min(max(alpha, 1), 5)
            assert float(reward.raw[t, b]) == pytest.approx(expected, rel=1e-3)
        assert torch.equal(reward.scaled, reward.raw)


def test_a_crowd_of_equals_pays_nothing_and_a_revisit_pays_little() -> None:
    bonus = model(1)
    bonus.distance_stats.update(torch.ones(10))
    near = bonus._episodic(torch.zeros(1, 1, 70))
    assert float(near) == 0.0  # sqrt(70) > 8
    revisit, new = bonus._episodic(torch.zeros(1, 1, 3)), bonus._episodic(torch.ones(1, 1, 3))
    assert float(revisit) < 1 < 10 < float(new)


def test_loss_trains_inverse_model_and_predictor_only() -> None:
    bonus, segment = model(3), rollouts.rollout(20, 3)
    bonus.reward(segment)
    bonus.loss(segment).total.backward()
    moved = {
        name.split(".")[0] for name, p in bonus.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert moved == {"inverse", "lifelong"}
    assert all(parameter.grad is None for parameter in bonus.lifelong.target.parameters())


def test_widths_must_agree() -> None:
    inverse = InverseModel(mlp_encoder(rollouts.SHAPE, (8, 5)), rollouts.ACTIONS)
    with pytest.raises(ValueError, match="4 wide, the encoder gives 5"):
        NGU(inverse, Distillation(mlp_networks(rollouts.SHAPE)), EpisodicMemory(2, 4, capacity=8))
