"""ICM: where its gradients flow, and its numbers against the definition (exploration spec 5.2)."""

from __future__ import annotations

from dataclasses import replace

import curiosity_rollouts as rollouts
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from byol_ext.rl.curiosity.icm import ICM, InverseModel
from byol_ext.rl.curiosity.rewards import ForwardFilter, RewardNormaliser
from byol_ext.rl.encoders import mlp_encoder
from byol_ext.rl.segment import Segment


def icm(beta: float = 0.2, **changes) -> ICM:
    inverse = InverseModel(mlp_encoder(rollouts.SHAPE, (8, 4)), rollouts.ACTIONS, hidden=8)
    return ICM(inverse, beta=beta, hidden=8, **{"scale": RewardNormaliser(), **changes})


def one_transition() -> Segment:
    segment = rollouts.rollout(1, 4)
    return replace(segment, obs=(segment.obs.float() / 10).requires_grad_())


def gradient_of_obs(model: ICM, segment: Segment) -> Tensor:
    return torch.autograd.grad(model.loss(segment).total, segment.obs)[0]


def test_forward_loss_stops_at_the_next_embedding() -> None:
    gradient = gradient_of_obs(icm(beta=1.0), one_transition())
    assert (gradient[1] == 0).all()
    assert gradient[0].abs().sum() > 0


def test_inverse_loss_shapes_both_embeddings() -> None:
    gradient = gradient_of_obs(icm(beta=0.0), one_transition())
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() > 0


@pytest.mark.parametrize(("beta", "idle"), [(0.0, "dynamics"), (1.0, "inverse.head")])
def test_each_loss_trains_its_own_head(beta: float, idle: str) -> None:
    model = icm(beta=beta)
    model.loss(rollouts.rollout(6, 3)).total.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert not any(name.startswith(idle) for name in moved)
    assert any(name.startswith("inverse.encoder") for name in moved)


def test_numbers_equal_the_definition() -> None:
    segment, model = rollouts.rollout(9, 3, ends=0.4), icm(eta=0.5)
    phi = model.inverse.encoder(segment.obs)
    inverse = forward = 0.0
    raw = torch.zeros(9, 3)
    for t, b in segment.real.nonzero().tolist():
        action = segment.action[t, b]
        logits = model.inverse.head(torch.cat([phi[t, b], phi[t + 1, b]]))
        predicted = model.dynamics(torch.cat([phi[t, b], F.one_hot(action, rollouts.ACTIONS).float()]))
        error = (predicted - phi[t + 1, b]).square().sum() / 2
        inverse += F.cross_entropy(logits, action) / 27
        forward += error / 27
        raw[t, b] = 0.5 * error.detach()
    torch.testing.assert_close(model.loss(segment).total, 0.8 * inverse + 0.2 * forward)
    reward = model.reward(segment)
    torch.testing.assert_close(reward.raw, raw)
    assert torch.equal(reward.scaled, RewardNormaliser()(reward.raw, segment.real))


def test_the_scale_is_chosen() -> None:
    segment, model = rollouts.rollout(9, 3), icm(scale=ForwardFilter(3))
    reward = model.reward(segment)
    assert torch.equal(reward.scaled, ForwardFilter(3)(reward.raw, segment.real))


def test_it_learns_actions_that_show_and_loses_interest_in_what_it_knows() -> None:
    segment = rollouts.rollout(16, 4, ends=0.0)
    obs = torch.zeros_like(segment.obs)
    obs[1:] = (segment.action * 80)[:, :, None, None, None].to(torch.uint8)
    segment, model = replace(segment, obs=obs), icm()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        loss = model.loss(segment)
        loss.total.backward()
        optimiser.step()
    assert loss.terms["accuracy"] > 0.95
    known = model.reward(segment).raw.mean()
    strange = replace(segment, obs=segment.obs.roll(1, dims=1))
    assert model.reward(strange, update=False).raw.mean() > 3 * known


def test_chunks_of_observations_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    segment, model = rollouts.rollout(9, 3), icm()
    expected = model.inverse.embed(segment)
    monkeypatch.setattr("byol_ext.rl.curiosity.icm._CHUNK", 7)
    torch.testing.assert_close(model.inverse.embed(segment), expected)
