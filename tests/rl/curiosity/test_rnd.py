"""Random network distillation against the definition (exploration spec 5.1)."""

from __future__ import annotations

from dataclasses import replace

import curiosity_rollouts as rollouts
import pytest
import torch
from torch import nn

from byol_ext.rl.curiosity.rewards import ForwardFilter, RewardNormaliser
from byol_ext.rl.curiosity.rnd import RND, Distillation, conv_networks, environment_ids, mlp_networks

FRAME = (1, 3, 3)


def distillation(**changes) -> Distillation:
    return Distillation(mlp_networks(FRAME, (8,), 6), **{"newest": 1, "fraction": 0.5, **changes})


def rnd(batch: int, **changes) -> RND:
    return RND(distillation(**changes), scale=ForwardFilter(batch))


def test_bonus_is_the_mean_square_on_the_newest_frame_of_the_next_observation() -> None:
    segment, model = rollouts.rollout(10, 3), rnd(3)
    reward = model.reward(segment)
    frames = segment.obs[1:, :, -1:]
    seen = frames[segment.real].double()
    x = ((frames.double() - seen.mean(0)) / seen.std(0, correction=0)).clamp(-5, 5).float().flatten(0, 1)
    difference = model.distillation.predictor(x) - model.distillation.target(x)
    expected = torch.where(segment.real, difference.square().mean(-1).view(10, 3), 0.0)
    torch.testing.assert_close(reward.raw, expected.detach())
    assert (~segment.real).any()
    torch.testing.assert_close(reward.scaled, ForwardFilter(3)(reward.raw, segment.real))


def test_only_the_newest_frame_of_next_observations_matters() -> None:
    segment = rollouts.rollout(10, 3)
    older = segment.obs.clone()
    older[:, :, 0] = 3
    older[0] = 9
    model, same = _same_weights(lambda: rnd(3)), _same_weights(lambda: rnd(3))
    assert torch.equal(model.reward(replace(segment, obs=older)).raw, same.reward(segment).raw)
    newest = segment.obs.clone()
    newest[5, 1, 1] = 255 - newest[5, 1, 1]
    moved = model.reward(replace(segment, obs=newest), update=False).raw != model.reward(segment, update=False).raw
    assert moved.nonzero().tolist() == [[4, 1]]


def _same_weights(make):
    torch.manual_seed(5)
    return make()


def test_context_rows_earn_and_teach_nothing() -> None:
    segment = rollouts.rollout(16, 3)
    with_context, without = rollouts.cut(segment, 8, 16, context=5), rollouts.cut(segment, 8, 16)
    results = []
    for part in (with_context, without):
        model = _same_weights(lambda: rnd(3))
        results.append((model.reward(part).scaled, model.loss(part, step=2).total))
    torch.testing.assert_close(results[0], results[1])


def test_networks_are_those_of_the_paper() -> None:
    networks = conv_networks()
    for network, linears in (
        (networks.target, [(3136, 512)]),
        (networks.predictor, [(3136, 512), (512, 512), (512, 512)]),
    ):
        convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
        assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions] == [
            (32, 8, 4),
            (64, 4, 2),
            (64, 3, 1),
        ]
        found = [(layer.in_features, layer.out_features) for layer in network if isinstance(layer, nn.Linear)]
        assert found == linears
        assert not isinstance(network[-1], nn.ReLU)
        for layer in network:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                rows = layer.weight.detach().flatten(1)
                torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(len(rows)), rtol=0, atol=1e-4)
    model = Distillation(networks, newest=1)
    assert not any(parameter.requires_grad for parameter in model.target.parameters())
    assert all(parameter.requires_grad for parameter in model.predictor.parameters())


def test_loss_leaves_the_target_alone_and_learns() -> None:
    segment, model = rollouts.rollout(12, 4), rnd(4)
    before = [parameter.clone() for parameter in model.distillation.target.parameters()]
    optimiser = torch.optim.Adam(model.distillation.predictor.parameters(), lr=3e-3)
    first = model.reward(segment).raw.sum()
    for step in range(60):
        optimiser.zero_grad()
        model.loss(segment, step=step).total.backward()
        optimiser.step()
    assert model.reward(segment, update=False).raw.sum() < 0.5 * first
    assert all(torch.equal(a, b) for a, b in zip(before, model.distillation.target.parameters(), strict=True))


def test_loss_is_the_mean_error_of_the_drawn_rows() -> None:
    segment, model = rollouts.rollout(10, 4, ends=0.4), rnd(4, fraction=0.3)
    raw = model.reward(segment).raw
    drawn = model.distillation._draw(segment, 7)
    assert drawn is not None
    assert drawn.shape == (3, 4)
    assert all(len(set(column)) == 3 for column in drawn.T.tolist())
    expected = raw.gather(0, drawn).mean()
    torch.testing.assert_close(model.loss(segment, step=7).total.detach(), expected)
    everything = rnd(4, fraction=1.0)
    raw = everything.reward(segment).raw
    torch.testing.assert_close(everything.loss(segment).total.detach(), raw.mean())


def test_draws_differ_between_steps_and_environments_and_average_to_all_rows() -> None:
    segment, model = rollouts.rollout(10, 4), rnd(4, fraction=0.2)
    model.reward(segment)
    draws = torch.stack([model.distillation._draw(segment, step) for step in range(2000)])
    assert len({tuple(draw.flatten().tolist()) for draw in draws[:50]}) == 50
    assert not torch.equal(draws[:, :, 0], draws[:, :, 1])
    frequency = torch.stack([(draws == t).any(1).float().mean(0) for t in range(10)])
    torch.testing.assert_close(frequency, torch.full((10, 4), 0.2), rtol=0, atol=0.04)  # 4.5 standard errors
    assert torch.equal(model.loss(segment, step=3).total, model.loss(segment, step=3).total)


def test_minibatches_of_environments_add_up() -> None:
    segment, model = rollouts.rollout(10, 4), rnd(4)
    segment = replace(segment, memory=model.initial_memory(4))
    model.reward(segment)
    parts = [model.loss(segment.select(torch.tensor(chosen)), step=2).total for chosen in ([2, 0], [3, 1])]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, model.loss(segment, step=2).total)


def test_rows_that_are_no_transitions_change_nothing() -> None:
    """T4, for the part of this room."""
    segment = rollouts.rollout(36, 3, ends=0.4)
    assert (~segment.real).sum() > 10
    for name in rollouts.NAMES:
        expected, found = rollouts.run(name, segment), rollouts.run(name, rollouts.corrupt(segment))
        for key, value in expected.items():
            assert torch.equal(value, found[key]), (name, key)
        pays = expected["reward 0"]
        assert (pays[~segment.real[: len(pays)]] == 0).all(), name
        assert (pays > 0).any(), name


def test_reset_observations_do_not_reach_the_bonus() -> None:
    segment = rollouts.rollout(12, 4, ends=0.4)
    obs = segment.obs.clone()
    obs[1:][~segment.real] = 77
    models = [_same_weights(lambda: rnd(4)) for _ in range(2)]
    rewards = [model.reward(s).scaled for model, s in zip(models, (segment, replace(segment, obs=obs)), strict=True)]
    assert torch.equal(*rewards)
    losses = [model.loss(s).total for model, s in zip(models, (segment, replace(segment, obs=obs)), strict=True)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", rollouts.NAMES)
def test_a_saved_bonus_goes_on_bit_by_bit(name: str) -> None:
    segment = rollouts.rollout(30, 3)
    straight, saved, resumed = (rollouts.bonus(name, 3) for _ in range(3))
    for model in (straight, saved):
        model.reward(rollouts.cut(segment, 0, 10))
        model.loss(rollouts.cut(segment, 0, 10)).total.backward()
        rollouts.descend(model)
    resumed.load_state_dict(saved.state_dict())
    for rows in ((10, 20), (20, 30)):
        part = rollouts.cut(segment, *rows)
        rewards = [model.reward(part) for model in (straight, resumed)]
        assert torch.equal(rewards[0].scaled, rewards[1].scaled)
        assert torch.equal(rewards[0].raw, rewards[1].raw)
        assert torch.equal(straight.loss(part, step=4).total, resumed.loss(part, step=4).total)


@pytest.mark.parametrize("name", rollouts.NAMES)
def test_other_environments_move_nothing(name: str) -> None:
    model = rollouts.bonus(name, 3)
    model.reward(rollouts.rollout(10, 3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    reward = model.reward(rollouts.rollout(7, 5, seed=1), update=False)
    assert reward.scaled.shape == (7, 5)
    assert reward.scaled.isfinite().all()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_random_agent_seeds_the_statistics() -> None:
    model = rnd(3)
    seen = torch.randint(0, 256, (50, 6, 2, 3, 3), dtype=torch.uint8)
    model.observe_random(seen)
    torch.testing.assert_close(model.distillation.stats.mean, seen[:, :, -1:].double().mean((0, 1)))
    assert float(model.distillation.stats.count) == 300


def test_autocast_does_not_coarsen_the_bonus() -> None:
    segment, model = rollouts.rollout(10, 3), rnd(3)
    model.reward(segment)
    expected = model.reward(segment, update=False).raw
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.reward(segment, update=False).raw, expected)
        assert model.loss(segment).total.dtype == torch.float32


def test_pictures_pass_through_the_convolutions() -> None:
    segment = rollouts.rollout(3, 2, shape=(4, 84, 84))
    model = RND(Distillation(conv_networks(width=16), newest=1), scale=RewardNormaliser())
    assert model.reward(segment).scaled.shape == (3, 2)
    model.loss(segment).total.backward()
    assert all(parameter.grad is not None for parameter in model.distillation.predictor.parameters())


def test_wrong_frames_are_named() -> None:
    with pytest.raises(ValueError, match="newest=None"):
        rnd(3, newest=None).reward(rollouts.rollout(4, 3))
    with pytest.raises(ValueError, match="fraction=0"):
        distillation(fraction=0)


def test_environments_are_numbered_over_processes() -> None:
    assert environment_ids(3).tolist() == [0, 1, 2]
