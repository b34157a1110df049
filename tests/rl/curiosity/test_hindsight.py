"""BYOL-Hindsight against BYOL-Explore, severed gradients and a toy with luck (exploration spec 3, tests T6 and T8)."""

import copy

import pytest
import torch
from torch import Tensor, nn

from byol_ext.rl.curiosity import invariance
from byol_ext.rl.curiosity.hindsight import BYOLHindsight
from byol_ext.rl.curiosity.world_model import BYOLExplore
from byol_ext.rl.encoders import ObservationEncoder, mlp_encoder
from byol_ext.rl.recurrent import Trunk
from byol_ext.rl.segment import Segment

ACTIONS, SHAPE, M = 3, (4,), 8
SMALL = {"horizon": 3, "hind_dim": 5, "eps_dim": 2, "hidden": (16, 12)}


def trunk() -> Trunk:
    return Trunk(mlp_encoder(SHAPE, (16, 6), scale=1.0), ACTIONS, width=M, action_width=5)


def hindsight(**options) -> BYOLHindsight:
    return BYOLHindsight(trunk(), **{**SMALL, **options})


def rollout(rows: int = 7, batch: int = 10, *, ends: float = 0.15, padded: int = 0) -> Segment:
    """Random transitions under NEXT_STEP auto-reset; the first ``padded`` rows are no transitions at all."""
    first, ended = torch.zeros(rows + 1, batch, dtype=torch.bool), torch.zeros(rows, batch, dtype=torch.bool)
    real = torch.ones(rows, batch, dtype=torch.bool)
    first[padded], real[:padded] = True, False
    for b in range(batch):
        for t in range(padded, rows):
            if t and ended[t - 1, b]:
                real[t, b], first[t + 1, b] = False, True
            else:
                ended[t, b] = torch.rand(()) < ends
    action = torch.randint(ACTIONS, (rows, batch))
    prev_action = torch.cat([torch.zeros(1, batch, dtype=torch.int64), action]).masked_fill(first, ACTIONS)
    zeros = torch.zeros(rows, batch)
    return Segment(
        obs=torch.randn(rows + 1, batch, *SHAPE),
        first=first,
        prev_action=prev_action,
        action=action,
        reward=zeros,
        terminated=ended,
        truncated=zeros.bool(),
        real=real,
        log_prob=zeros,
        state=torch.randn(batch, M),
        memory={"belief": torch.randn(batch, M)},
    )


def gradients(bonus: nn.Module, segment: Segment, step: int = 0) -> dict[str, Tensor]:
    bonus.zero_grad()
    bonus.loss(segment, step=step).total.backward()
    return {name: p.grad.clone() for name, p in bonus.named_parameters() if p.grad is not None}


def optimizer_of(bonus, lr: float, critic_lr: float) -> torch.optim.Optimizer:
    critic = bonus.critic_parameters()
    apart = {id(p) for p in critic}
    rest = [p for p in bonus.parameters() if p.requires_grad and id(p) not in apart]
    groups = [{"params": rest}] + [{"params": critic, "lr": critic_lr}] * bool(critic)
    return torch.optim.Adam(groups, lr)


def test_t6_without_hindsight_it_is_byol_explore_bit_for_bit():
    bonuses = []
    for make in (
        lambda: BYOLExplore(trunk(), horizon=3, predictor_hidden=(16, 12)),
        lambda: hindsight(hind_dim=0, critic=None),
    ):
        torch.manual_seed(1)
        bonuses.append(make())
    optimizers = [optimizer_of(bonus, 1e-2, 1e-2) for bonus in bonuses]
    for step in range(3):
        segment = rollout()
        totals, raws = [], []
        for bonus, optimizer in zip(bonuses, optimizers, strict=True):
            reward, loss = bonus.reward(segment), bonus.loss(segment, step=step)
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
            bonus.after_step(step)
            totals.append(loss.total)
            raws.append((reward.raw, reward.scaled, reward.memory["belief"]))
        assert torch.equal(*totals)
        assert all(torch.equal(one, other) for one, other in zip(*raws, strict=True))


def test_with_hindsight_ignored_it_is_byol_explore_too():
    bonus = hindsight(critic=None)
    explore = BYOLExplore(bonus.explore.world_model.trunk, horizon=3, predictor_hidden=(16, 12))
    explore.world_model.open_loop = bonus.explore.world_model.open_loop
    blind, net = bonus.explore.world_model.head.reconstructor, explore.world_model.head.net
    with torch.no_grad():
        blind[0].weight[:, M:] = 0
        net[0].weight.copy_(blind[0].weight[:, :M])
        for one, other in zip(list(net.parameters())[1:], list(blind.parameters())[1:], strict=True):
            one.copy_(other)
    segment = rollout()
    torch.testing.assert_close(bonus.loss(segment).total, explore.loss(segment).total)


@pytest.mark.parametrize("options", [{"critic_weight": 0.5}, {"critic": "joint"}, {"negatives": "batch_time"}])
def test_one_backward_lowers_the_bound_in_the_generator_and_raises_it_in_the_critic(options, monkeypatch):
    bonus, segment = hindsight(**options), rollout()
    both = gradients(bonus, segment)
    monkeypatch.setattr(invariance, "reverse_gradient", lambda x, scale=1.0: x)
    plain = gradients(bonus, segment)
    silent = copy.deepcopy(bonus)
    silent.explore.world_model.head.invariance = None
    without = gradients(silent, segment)
    assert both.keys() == plain.keys()
    moved = set()
    for name, gradient in both.items():
        sign = -options.get("critic_weight", 1.0) if ".critic." in name else 1.0
        torch.testing.assert_close(gradient, sign * plain[name], atol=1e-7, rtol=1e-4)
        if name not in without or not torch.allclose(gradient, without[name], atol=1e-7, rtol=1e-4):
            moved.add(name)
    # Everything that the invariance touches is generator or critic; all of the generator's weights are.
    assert all(".generator." in name or ".critic." in name for name in moved)
    assert {name for name in both if ".generator." in name and name.endswith("weight")} <= moved
    assert {name for name in both if ".critic." in name} == {
        name for name, p in bonus.named_parameters() if any(p is q for q in bonus.critic_parameters())
    }


def test_scoring_in_pieces_changes_no_gradient():
    whole = hindsight(critic="joint")
    pieces, segment = copy.deepcopy(whole), rollout()
    pieces.explore.world_model.head.invariance.chunk_pairs = 1
    one, other = gradients(whole, segment), gradients(pieces, segment)
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], atol=1e-6, rtol=1e-4)


def test_noise_is_keyed_so_that_runs_resume_bit_for_bit():
    bonus, segment = hindsight(critic=None), rollout()
    assert torch.equal(bonus.loss(segment, step=3).total, bonus.loss(segment, step=3).total)
    assert not torch.equal(bonus.loss(segment, step=3).total, bonus.loss(segment, step=4).total)
    first = bonus.reward(segment)
    second = bonus.reward(segment, update=False)
    assert torch.equal(second.raw, bonus.reward(segment, update=False).raw)
    assert not torch.equal(first.raw, second.raw)
    torch.randn(5)  # the global generator plays no part
    other = hindsight(critic=None)
    other.load_state_dict(bonus.state_dict())
    assert torch.equal(other.reward(segment).scaled, bonus.reward(segment).scaled)
    reseeded = hindsight(critic=None, seed=7)
    reseeded.load_state_dict(bonus.state_dict())
    assert not torch.equal(reseeded.reward(segment).raw, bonus.reward(segment).raw)


@pytest.mark.parametrize("negatives", ["batch", "batch_time"])
def test_t4_rows_that_are_no_transition_change_nothing(negatives):
    bonus, segment = hindsight(negatives=negatives), rollout(9, padded=3)
    loss, reward = bonus.loss(segment).total, bonus.reward(segment, update=False).raw
    segment.obs[:3], segment.prev_action[:3] = 9.0, 1
    segment.action[~segment.real] = 0
    torch.testing.assert_close(bonus.loss(segment).total, loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(bonus.reward(segment, update=False).raw, reward, atol=1e-6, rtol=1e-6)
    assert not reward[~segment.real].any()


def test_loss_and_reward_are_rec_over_lambda_plus_inv():
    bonus, segment = hindsight(lam=0.25, horizon=1), rollout(ends=0.0)
    terms = bonus.loss(segment).terms
    assert terms["ell/k1"].item() == pytest.approx(4 * terms["error"].item() + terms["inv"].item(), abs=1e-5)
    assert terms["loss"].item() == pytest.approx(terms["ell/k1"].item(), abs=1e-5)
    reward = bonus.reward(segment, update=False)
    assert reward.raw.mean().item() == pytest.approx(reward.terms["ell/k1"].item(), abs=1e-5)
    assert {"rec_shuffled", "critic_accuracy"} <= reward.terms.keys()


def test_rec_shuffled_tells_a_copy_from_luck():
    # A reconstructor that reads z alone loses nothing when the beliefs are shuffled.
    bonus, segment = hindsight(critic=None), rollout(ends=0.0)
    with torch.no_grad():
        bonus.explore.world_model.head.reconstructor[0].weight[:, :M] = 0
    terms = bonus.reward(segment, update=False).terms
    assert terms["rec_shuffled"].item() == pytest.approx(terms["error"].item(), abs=1e-5)


@pytest.mark.parametrize("side", ["pre", "post"])
def test_the_critic_sees_the_belief_asked_for(side):
    bonus, segment = hindsight(critic_belief=side), rollout()
    head, seen = bonus.explore.world_model.head, {}
    head.register_forward_pre_hook(lambda _, inputs: seen.update(roll=inputs[0]))
    head.invariance.register_forward_pre_hook(lambda _, __, named: seen.update(named), with_kwargs=True)
    bonus.loss(segment)
    roll = seen["roll"]
    expected = torch.cat([roll.start_SBM[None], roll.after_KSBM[:-1]]) if side == "pre" else roll.after_KSBM
    assert torch.equal(seen["belief_KSBM"], expected)


def test_options_keep_loss_and_gradient():
    plain, segment = hindsight(), rollout(12)
    saving = copy.deepcopy(plain)
    saving.explore.world_model.recompute = True
    one, other = gradients(plain, segment), gradients(saving, segment)
    assert all(torch.equal(one[name], other[name]) for name in one)
    with torch.autocast("cpu", torch.bfloat16):
        rough = plain.loss(segment)
        rough.total.backward()
    torch.testing.assert_close(rough.total, plain.loss(segment).total, atol=0.05, rtol=0.05)
    assert rough.total.dtype == plain.reward(segment).raw.dtype == torch.float32
    strided = BYOLHindsight(plain.explore.world_model.trunk, **SMALL, start_stride=3)
    strided.loss(segment).total.backward()
    assert strided.reward(segment).raw.isfinite().all()


def test_sharing_the_recurrence_hands_the_beliefs_over():
    bonus = hindsight(shares_recurrence=True)
    result = bonus.loss(rollout())
    assert result.beliefs.shape == (8, 10, M)
    assert result.beliefs.requires_grad
    assert bonus.initial_memory(4) == {}


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="at least 8 environments"):
        hindsight().loss(rollout(batch=7))
    with pytest.raises(ValueError, match="at least 2 environments"):
        hindsight(negatives="batch_time").loss(rollout(batch=1))
    hindsight(negatives="batch_time").loss(rollout(batch=2)).total.backward()
    for wrong, message in (
        ({"hind_dim": 0}, "nothing to look at"),
        ({"critic": "deep"}, "'cosine', 'joint'"),
        ({"critic": "joint", "critic_bound": "relu"}, "sigmoid"),
        ({"critic_belief": "both"}, "'pre', 'post'"),
        ({"negatives": "all"}, "batch_time"),
        ({"n_neg": 3}, "fewer than 8"),
        ({"hidden": ()}, "at least one width"),
    ):
        with pytest.raises(ValueError, match=message):
            hindsight(**wrong)


class Luck:
    """Spec 3.8: 20 states x 4 actions; ten states add one of six random vectors to what follows; two are held out."""

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.state, self.outcome, self.luck = (
            torch.randn(*shape, 8, generator=self.random) for shape in ((20,), (20, 4), (6,))
        )

    def segment(self, states: Tensor, batch: int = 64) -> Segment:
        state = states[torch.randint(len(states), (batch,), generator=self.random)]
        action, luck = (torch.randint(n, (batch,), generator=self.random) for n in (4, 6))
        after = self.outcome[state, action] + self.luck[luck] * (state >= 10)[:, None]
        none, zeros = torch.full((batch,), 4), torch.zeros(1, batch)
        first = torch.tensor([[True], [False]]).expand(2, batch)
        return Segment(
            obs=torch.stack([self.state[state], after]),
            first=first,
            prev_action=torch.stack([none, action]),
            action=action[None],
            reward=zeros,
            terminated=zeros.bool(),
            truncated=zeros.bool(),
            real=torch.ones_like(zeros, dtype=torch.bool),
            log_prob=zeros,
            state=torch.zeros(batch, 0),
            memory={"belief": torch.zeros(batch, 0)},
        )


def toy_rewards(make, seed: int, *, steps: int, lr: float) -> dict[str, float]:
    """Mean raw reward on noisy states and on held-out ones, and the shuffled-belief probe on deterministic ones."""
    torch.manual_seed(seed)
    fixed = nn.Linear(8, 8, bias=False).requires_grad_(False)
    fixed.weight.copy_(torch.eye(8))
    toy, bonus = Luck(seed), make(Trunk(ObservationEncoder(fixed, (8,), scale=1.0), 4, width=0, action_width=16))
    optimizer = optimizer_of(bonus, lr, 3 * lr)
    trained = torch.tensor([*range(8), *range(10, 20)])
    for step in range(steps):
        optimizer.zero_grad()
        bonus.loss(toy.segment(trained), step=step).total.backward()
        optimizer.step()
    states = {"noisy": torch.arange(10, 20), "held_out": torch.tensor([8, 9]), "known": torch.arange(8)}
    rewards = {name: bonus.reward(toy.segment(chosen, 256), update=False) for name, chosen in states.items()}
    return {name: reward.raw.mean().item() for name, reward in rewards.items()} | {
        "shuffled": rewards["known"].terms.get("rec_shuffled", torch.tensor(0.0)).item()
    }


def compare_on_luck(seed: int, *, steps: int, lr: float, **options) -> tuple[float, float, float]:
    """Hindsight's noise reward and held-out novelty over BYOL-Explore's; its shuffled probe."""
    byol = toy_rewards(lambda t: BYOLExplore(t, horizon=1, predictor_hidden=(64, 64)), seed, steps=steps, lr=lr)
    made = {"horizon": 1, "hind_dim": 16, "eps_dim": 8, "hidden": (64, 64), **options}
    ours = toy_rewards(lambda t: BYOLHindsight(t, **made), seed, steps=steps, lr=lr)
    assert byol["noisy"] > 0.3 > 10 * byol["known"]
    return ours["noisy"] / byol["noisy"], ours["held_out"] / byol["held_out"], ours["shuffled"]


def test_t8_luck_pays_nothing_and_novelty_does():
    noise, novelty, shuffled = compare_on_luck(0, steps=400, lr=3e-3)
    assert noise < 0.2
    assert novelty > 0.5
    assert shuffled > 0.5


@pytest.mark.slow
def test_t8_over_seeds_and_against_the_copy():
    results = [compare_on_luck(seed, steps=1500, lr=1e-3) for seed in range(3)]
    noise, novelty, shuffled = (sum(column) / 3 for column in zip(*results, strict=True))
    assert noise < 0.2
    assert novelty > 0.5
    assert shuffled > 0.5
    # Without the critic z copies the outcome: novelty dies, and the probe shows it.
    _, copied_novelty, copied = compare_on_luck(0, steps=1500, lr=1e-3, critic=None)
    assert copied_novelty < 0.6 * results[0][1]
    assert copied < 0.6 * results[0][2]
