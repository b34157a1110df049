"""BYOL-Explore against loops, closed forms and itself (exploration spec 2, tests T1-T4)."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.losses.pair import normalized_mse, unit
from byol_ext.rl.curiosity.rewards import RewardNormaliser
from byol_ext.rl.curiosity.world_model import BYOLExplore, distance_to_unit
from byol_ext.rl.encoders import mlp_encoder
from byol_ext.rl.recurrent import Trunk
from byol_ext.rl.segment import Segment

ACTIONS, SHAPE, M = 3, (4,), 8


def trunk(width: int = M) -> Trunk:
    encoder = mlp_encoder(SHAPE, (16, 6), scale=1.0)
    # ReLU features of a narrow encoder are often all zero: end in a linear layer.
    encoder.net = encoder.net[:-1]
    return Trunk(encoder, ACTIONS, width=width, action_width=5)


def bonus(**options) -> BYOLExplore:
    options.setdefault("predictor_hidden", (16,))
    made = BYOLExplore(options.pop("trunk", None) or trunk(), **options)
    with torch.no_grad():  # a target that differs from the online encoder
        for p in made.model.target.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def rollout(
    rows: int, batch: int, *, context: int = 0, ends: float = 0.2, padded: int = 0, begins: bool = True
) -> Segment:
    """Random transitions under NEXT_STEP auto-reset; the first ``padded`` rows are no transitions at all."""
    first = torch.zeros(rows + 1, batch, dtype=torch.bool)
    terminated, real = torch.zeros(rows, batch, dtype=torch.bool), torch.ones(rows, batch, dtype=torch.bool)
    first[0], real[:padded] = begins, False
    first[padded] |= bool(padded)
    for b in range(batch):
        for t in range(padded, rows):
            if t and terminated[t - 1, b]:
                real[t, b], first[t + 1, b] = False, True
            else:
                terminated[t, b] = torch.rand(()) < ends
    action = torch.randint(ACTIONS, (rows, batch))
    prev_action = torch.cat([torch.randint(ACTIONS, (1, batch)), action]).masked_fill(first, ACTIONS)
    zeros = torch.zeros(rows, batch)
    return Segment(
        obs=torch.randn(rows + 1, batch, *SHAPE),
        first=first,
        prev_action=prev_action,
        action=action,
        reward=zeros,
        terminated=terminated,
        truncated=zeros.bool(),
        real=real,
        log_prob=zeros,
        state=torch.randn(batch, M),
        context=context,
        memory={"belief": torch.randn(batch, M)},
    )


@torch.no_grad()
def losses_by_loop(explore: BYOLExplore, segment: Segment, *, stride: int = 1) -> dict[tuple[int, int, int], float]:
    """Valid losses by (start, environment, horizon), one GRU step at a time."""
    world, target = explore.world_model, explore.model.target.ema.module["encoder"].encoder
    rows, batch = segment.action.shape
    state = segment.state if explore.shares_recurrence else segment.memory["belief"]
    found = {}
    for b in range(batch):
        belief = state[b : b + 1]
        for t in range(rows):
            if segment.first[t, b]:
                belief = torch.zeros_like(belief)
            omega = world.trunk.encoder(segment.obs[t, b][None])
            x = torch.cat([omega, world.trunk.embed(segment.prev_action[t, b][None])], -1)
            belief = world.trunk.core.gru(x[None], belief[None])[1][0]
            rolled = belief
            for k in range(1, explore.horizon + 1):
                if t + k > rows or segment.first[t + k, b] or not segment.real[t + k - 1, b]:
                    break
                rolled = world.open_loop(world.trunk.embed(segment.action[t + k - 1, b][None])[None], rolled[None])[1][
                    0
                ]
                if t % stride == 0:
                    y = target(segment.obs[t + k, b][None])
                    found[t, b, k] = float(2 - 2 * F.cosine_similarity(world.head.net(rolled), y))
    return found


def reward_by_loop(found: dict[tuple[int, int, int], float], rows: int, batch: int) -> Tensor:
    u = torch.zeros(rows, batch, dtype=torch.float64)
    for (t, b, k), loss in found.items():
        u[t + k - 1, b] += loss
    return u


SIZES = [(9, 3, 4, 0, 0, 1), (5, 2, 8, 2, 0, 1), (12, 4, 3, 2, 3, 1), (11, 3, 4, 0, 0, 3), (1, 2, 1, 0, 0, 1)]


@pytest.mark.parametrize(("rows", "batch", "horizon", "context", "padded", "stride"), SIZES)
@pytest.mark.parametrize("begins", [True, False])
def test_t1_loss_and_reward_equal_the_loops(rows, batch, horizon, context, padded, stride, begins):
    explore = bonus(horizon=horizon, start_stride=stride)
    segment = rollout(rows, batch, context=context, padded=padded, begins=begins)
    assert rows < 5 or segment.terminated.any()
    found = losses_by_loop(explore, segment, stride=stride)
    starts = list(itertools.product(range(0, rows, stride), range(batch)))
    per_start = []
    for t, b in starts:
        mine = [found[t, b, k] for k in range(1, horizon + 1) if (t, b, k) in found]
        per_start.append(sum(mine) / max(1, len(mine)))
    result = explore.loss(segment)
    assert result.total.item() == pytest.approx(sum(per_start) / len(starts), abs=1e-5)
    for k in range(1, horizon + 1):
        of_k = [loss for key, loss in found.items() if key[2] == k]
        assert result.terms[f"ell/k{k}"].item() == pytest.approx(sum(of_k) / max(1, len(of_k)), abs=1e-5)

    reward = explore.reward(segment)
    expected = reward_by_loop(found, rows, batch)[context:]
    assert reward.raw.shape == (rows - context, batch)
    torch.testing.assert_close(reward.raw.double(), expected, atol=1e-5, rtol=0)
    assert not reward.raw[~segment.real[context:]].any()
    oracle = RewardNormaliser()(reward.raw, segment.real[context:], update=True)
    assert torch.equal(reward.scaled, oracle)


def test_a_first_observation_ends_windows_even_between_real_rows():
    explore, segment = bonus(horizon=4), rollout(9, 3)
    segment = replace(segment, real=torch.ones_like(segment.real))
    assert segment.first[1:].any()
    expected = reward_by_loop(losses_by_loop(explore, segment), 9, 3)
    torch.testing.assert_close(explore.reward(segment).raw.double(), expected, atol=1e-5, rtol=0)


def test_horizon_average_and_count_normalisation_are_switches():
    segment = rollout(9, 3)
    explore = bonus(horizon=4)
    found = losses_by_loop(explore, segment)
    explore.horizon_average, explore.count_normalise = False, True
    assert explore.loss(segment).total.item() == pytest.approx(sum(found.values()) / 27, abs=1e-5)
    sums, counts = reward_by_loop(found, 9, 3), reward_by_loop(dict.fromkeys(found, 1.0), 9, 3)
    torch.testing.assert_close(explore.reward(segment).raw.double(), sums * 4 / counts.clamp_min(1), atol=1e-4, rtol=0)


def test_t2_distance_is_byols_in_0_to_4():
    q, target = torch.randn(50, 6), unit(torch.randn(50, 6))
    loss = distance_to_unit(q=q, target=target)
    torch.testing.assert_close(loss, normalized_mse(q=q, target=target))
    torch.testing.assert_close(loss, 2 - 2 * F.cosine_similarity(q, target))
    assert distance_to_unit(q=target * 7, target=target).abs().max() < 1e-6
    assert (distance_to_unit(q=-target, target=target) - 4).abs().max() < 1e-6
    assert 0 <= loss.min() <= loss.max() <= 4
    assert distance_to_unit(q=torch.zeros(2, 6), target=target[:2]).isfinite().all()
    assert distance_to_unit(q=q.bfloat16(), target=target).dtype == torch.float32


def test_t3_target_follows_in_closed_form_and_learns_nothing():
    explore = bonus(tau=0.9)
    online, target = explore.model.branches, explore.model.target
    start = {name: p.clone() for name, p in target.ema.module.named_parameters()}
    explore.loss(rollout(6, 2)).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in target.parameters())
    assert all(p.grad is not None for p in explore.parameters() if p.requires_grad)
    for step in range(10):
        assert explore.after_step(step) == {"ema/tau": 0.9}
    for name, theta in online.named_parameters():
        expected = theta + 0.3486784401 * (start[name] - theta)
        torch.testing.assert_close(target.ema.module.get_parameter(name), expected)


def test_no_gradient_runs_through_the_targets():
    explore, segment = bonus(horizon=3), rollout(6, 2)
    segment.obs.requires_grad_()
    explore.loss(segment).total.backward()
    # The last observation is only ever a target.
    assert segment.obs.grad[:-1].any()
    assert not segment.obs.grad[-1].any()


def test_t4_rows_that_are_no_transition_change_nothing():
    explore, segment = bonus(horizon=4), rollout(14, 4, padded=3, context=2)
    clean_loss, clean_reward = explore.loss(segment), explore.reward(segment, update=False)
    corrupt = ~segment.real
    assert corrupt[3:].any()
    segment.action[corrupt] = (segment.action[corrupt] + 1) % ACTIONS
    for rows in (segment.reward, segment.log_prob):
        rows[corrupt] = torch.nan
    segment.terminated[corrupt] = True
    # Before its first real row, neither observations nor previous actions of the padding matter.
    segment.obs[:3], segment.prev_action[:3] = 9.0, 0
    assert torch.equal(explore.loss(segment).total, clean_loss.total)
    assert torch.equal(explore.reward(segment, update=False).raw, clean_reward.raw)


def test_two_segments_with_context_are_one_long_segment():
    horizon, steps = 4, 8
    explore = bonus(horizon=horizon)
    whole = rollout(2 * steps + horizon - 1, 3, context=horizon - 1, ends=0.1)

    def part(start: int, memory) -> Segment:
        def cut(x: Tensor) -> Tensor:
            return x[start : start + steps + horizon - 1 + (len(x) == len(whole.obs))]

        rows = {name: cut(getattr(whole, name)) for name in ("obs", "first", "prev_action", "action", "reward")}
        rows |= {name: cut(getattr(whole, name)) for name in ("terminated", "truncated", "real", "log_prob")}
        return Segment(**rows, state=whole.state, context=horizon - 1, memory=memory)

    expected = explore.reward(whole, update=False).raw
    before = explore.reward(part(0, whole.memory), update=False)
    after = explore.reward(part(steps, before.memory), update=False)
    torch.testing.assert_close(torch.cat([before.raw, after.raw]), expected, atol=1e-5, rtol=0)


def test_memory_is_carried_only_without_a_shared_recurrence():
    segment = rollout(6, 2, begins=False)
    own, shared = bonus(shares_recurrence=False), bonus(shares_recurrence=True)
    assert own.initial_memory(5)["belief"].shape == (5, M)
    assert shared.initial_memory(5) == shared.reward(segment).memory == {}
    assert own.loss(segment).beliefs is None
    moved = replace(segment, state=segment.state + 1)
    assert own.loss(moved).total == own.loss(segment).total
    assert shared.loss(moved).total != shared.loss(segment).total


def test_sharing_gives_gradients_where_it_should():
    segment, policy = rollout(6, 2), nn.Linear(M, 1)
    shared = bonus(shares_recurrence=True)
    result = shared.loss(segment)
    policy(result.beliefs).sum().backward()
    core = shared.world_model.trunk
    assert result.beliefs.shape == (7, 2, M)
    assert all(p.grad is not None for p in (*core.encoder.parameters(), *core.core.parameters()))
    assert all(p.grad is None for p in shared.world_model.open_loop.parameters())
    expected = core.forward(segment.obs, segment.prev_action, segment.first, segment.state)[0]
    torch.testing.assert_close(result.beliefs, expected)

    other = trunk()
    with_encoder = Trunk(other.encoder, ACTIONS, width=M, action_width=5)
    explore = bonus(trunk=with_encoder)
    explore.loss(segment).total.backward()
    assert all(p.grad is not None for p in other.encoder.parameters())
    assert all(p.grad is None for p in other.core.parameters())


def test_minibatches_of_environments_add_up_to_the_whole():
    explore, segment = bonus(horizon=4), rollout(9, 6)
    explore.loss(segment).total.backward()
    whole = [p.grad.clone() for p in explore.parameters() if p.requires_grad]
    explore.zero_grad()
    parts = [explore.loss(segment.select(torch.tensor(chosen))).total / 3 for chosen in ([0, 5], [1, 3], [4, 2])]
    assert sum(parts).item() == pytest.approx(explore.loss(segment).total.item(), abs=1e-6)
    sum(parts).backward()
    for one, other in zip(whole, (p.grad for p in explore.parameters() if p.requires_grad), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_recomputing_the_roll_out_changes_no_gradient():
    plain = bonus(horizon=4)
    saving, segment = copy.deepcopy(plain), rollout(9, 3)
    saving.world_model.recompute = True
    for explore in (plain, saving):
        explore.loss(segment).total.backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert one.grad is None or torch.equal(one.grad, other.grad)


def test_bf16_autocast_agrees_and_keeps_losses_in_float32():
    explore, segment = bonus(horizon=4), rollout(12, 4)
    exact, raw = explore.loss(segment).total, explore.reward(segment, update=False).raw
    with torch.autocast("cpu", torch.bfloat16):
        rough = explore.loss(segment)
        rough.total.backward()
        reward = explore.reward(segment, update=False)
    assert rough.total.dtype == reward.raw.dtype == reward.memory["belief"].dtype == torch.float32
    torch.testing.assert_close(rough.total, exact, atol=0.02, rtol=0.02)
    torch.testing.assert_close(reward.raw, raw, atol=0.1, rtol=0.05)


def test_a_trunk_without_memory_predicts_from_the_embedding():
    explore, segment = bonus(trunk=trunk(width=0)), rollout(6, 2)
    segment.memory["belief"] = explore.initial_memory(2)["belief"]
    explore.loss(segment).total.backward()
    assert explore.reward(segment).memory["belief"].shape == (2, 0)


def test_the_encoder_runs_once_a_network():
    explore, segment = bonus(shares_recurrence=True), rollout(6, 2)
    calls = []
    explore.world_model.trunk.encoder.register_forward_hook(lambda *_: calls.append("online"))
    explore.model.target.ema.module["encoder"].encoder.register_forward_hook(lambda *_: calls.append("target"))
    explore.loss(segment)
    assert sorted(calls) == ["online", "target"]


def test_statistics_move_once_a_rollout_and_survive_a_checkpoint():
    explore, segment = bonus(), rollout(9, 3)
    before = copy.deepcopy(explore.state_dict())
    explore.reward(segment, update=False)
    assert all(torch.equal(x, before[name]) for name, x in explore.state_dict().items())
    explore.reward(segment)
    other = bonus()
    other.load_state_dict(explore.state_dict())
    assert torch.equal(explore.reward(segment).scaled, other.reward(segment).scaled)


def test_reward_reports_the_health_of_the_embedding():
    explore, segment = bonus(), rollout(40, 8)
    healthy = explore.reward(segment).terms
    with torch.no_grad():
        for p in explore.model.target.ema.module.parameters():
            p.zero_()
        list(explore.model.target.ema.module.parameters())[-1].fill_(1.0)
    collapsed = explore.reward(segment).terms
    assert healthy["y/rankme"] > 2 > 1.01 > collapsed["y/rankme"]
    assert healthy["y/std_sqrt_n"] > 0.1 > 1e-3 > collapsed["y/std_sqrt_n"]
    assert collapsed["ema/distance"] > healthy["ema/distance"] > 0


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="horizon=0"):
        bonus(horizon=0)
    with pytest.raises(KeyError, match="belief"):
        bonus().loss(replace(rollout(3, 2), memory={}))


def test_learning_makes_the_known_dull_and_leaves_the_new_novel():
    # Observations walk round a ring by one or two places; the second half of the ring is never trained on.
    ring = torch.randn(12, *SHAPE)
    explore = BYOLExplore(trunk(width=16), horizon=2, predictor_hidden=(32,))
    optimizer = torch.optim.Adam([p for p in explore.parameters() if p.requires_grad], 3e-3)

    def walk(offset: int) -> Segment:
        segment = rollout(4, 32, ends=0.0)
        place = torch.randint(3, (1, 32)) + torch.cat([torch.zeros(1, 32), segment.action.cumsum(0)]).long()
        segment.memory["belief"] = torch.zeros(32, 16)
        segment.obs.copy_(ring[offset + place % 6])
        return segment

    for step in range(300):
        optimizer.zero_grad()
        explore.loss(walk(0), step=step).total.backward()
        optimizer.step()
        explore.after_step(step)
    known, new = (explore.reward(walk(offset), update=False).raw.mean() for offset in (0, 6))
    assert known < 0.25 * new
