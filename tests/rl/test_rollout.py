"""The source of minibatches: what they hold, their order, half-learned rollouts in a checkpoint, reward mixing."""

import copy

import pytest
import torch

from byol_ext.metrics.exploration import ExplorationTracker
from byol_ext.rl.encoders import InputStatistics
from byol_ext.rl.returns import gae
from byol_ext.rl.rollout import RewardMix, RolloutSource, prepare
from byol_ext.rl.segment import Segment


def source(agent, collector, *, mix=None, **options):
    made = collector(agent, **{k: options.pop(k) for k in ("groups", "steps", "context", "seed") if k in options})
    tracker = ExplorationTracker(4)
    return RolloutSource(made, agent, mix=mix or RewardMix(clip_sign=False), tracker=tracker, **options)


def test_minibatches_are_the_environments_cut_apart(agent, collector):
    made = source(agent(), collector, epochs=2, minibatches=2, steps=6)
    batches = [batch for _, batch in zip(range(4), made, strict=False)]
    assert [b["learn_bonus"] for b in batches] == [True, True, False, False]
    for epoch in (batches[:2], batches[2:]):
        together = torch.cat([b["rollout"]["obs"] for b in epoch])
        assert together.shape == (4, 7, 1, 1, 5)
        whole = made.collector.obs.transpose(0, 1)
        found = [next(i for i in range(4) if torch.equal(row, whole[i])) for row in together]
        assert sorted(found) == [0, 1, 2, 3]
    views, ctx = prepare(batches[0], 0)
    segment = Segment.from_batch(views["rollout"], context=ctx.data["context"])
    assert segment.obs.shape == (7, 2, 1, 1, 5)
    assert segment.memory["belief"].shape == (2, 8)


def test_advantages_are_those_of_the_mixed_rewards(agent, collector):
    learner = agent(heads=("extrinsic", "intrinsic"))
    made = source(learner, collector, epochs=1, minibatches=1, steps=20, mix=RewardMix(0.5, 2.0, True))
    batch = next(iter(made))["rollout"]
    segment = Segment.from_batch(batch, context=0)
    rewards = {k: v.transpose(0, 1) for k, v in batch["rewards"].items()}
    torch.testing.assert_close(rewards["extrinsic"], 2.0 * segment.reward.sign())
    values = {k: v.transpose(0, 1) - 0 for k, v in batch["returns"].items()}
    flags = {
        "terminated_TB": segment.terminated,
        "truncated_TB": segment.truncated,
        "real_TB": segment.real,
        "discount": 0.99,
    }
    state = batch["policy_state"]
    with torch.no_grad():
        out = learner.policy(segment.obs, segment.prev_action, segment.first, state)
    total = 0
    for head, episodic in (("extrinsic", True), ("intrinsic", False)):
        advantage = gae(rewards[head], out.values[head], episodic=episodic, **flags)
        torch.testing.assert_close(values[head], advantage + out.values[head][:-1], atol=1e-5, rtol=1e-5)
        total = total + advantage
    torch.testing.assert_close(batch["advantage"].transpose(0, 1), total, atol=1e-5, rtol=1e-5)


def test_one_head_takes_the_sum():
    mix = RewardMix(intrinsic_coef=0.5, extrinsic_coef=1.0, clip_sign=True)
    streams = mix.streams(torch.tensor([[5.0, -2.0]]), torch.tensor([[1.0, 3.0]]), ("value",))
    assert streams["value"].tolist() == [[1.5, 0.5]]
    pure = RewardMix(extrinsic_coef=0.0).streams(torch.tensor([[5.0]]), torch.tensor([[1.0]]), ("value",))
    assert pure["value"].item() == 1.0


@pytest.mark.parametrize("taken", [3, 4])
def test_half_learned_rollouts_are_saved(tmp_path, agent, collector, taken):
    made = source(agent(), collector, epochs=2, minibatches=2, steps=6, context=2, seed=5)
    stream = iter(made)
    for _ in range(taken):
        next(stream)
    torch.save(made.state_dict(), tmp_path / "state.pt")
    learner = copy.deepcopy(made.agent)
    expected = [copy.deepcopy(next(stream)) for _ in range(4)]
    other = source(learner, collector, epochs=2, minibatches=2, steps=6, context=2, seed=5)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for want, got in zip(expected, other, strict=False):
        assert want["learn_bonus"] == got["learn_bonus"]
        assert want["context"] == got["context"]
        for name in ("obs", "action", "advantage", "policy_state", "log_prob", "state"):
            torch.testing.assert_close(got["rollout"][name], want["rollout"][name], rtol=0, atol=0)
    assert other.tracker.metrics() == made.tracker.metrics()


def test_restarted_environments_forget_episodes_in_flight(agent, collector, corridor):
    learner = agent()
    made = RolloutSource(
        collector(learner, kind=corridor), learner, mix=RewardMix(), minibatches=2, tracker=ExplorationTracker(4)
    )
    next(iter(made))
    other = RolloutSource(
        collector(learner, kind=corridor), learner, mix=RewardMix(), minibatches=2, tracker=ExplorationTracker(4)
    )
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    assert other.tracker.state_dict()["running"] == {}
    for _ in range(9):
        next(iter(other))


def test_the_account(agent, collector):
    made = source(agent(), collector, epochs=1, minibatches=1, steps=30)
    next(iter(made))
    metrics = made.metrics()
    shares = [metrics[f"share/{part}"] for part in ("environments", "inference", "reward", "learning")]
    assert sum(shares) == pytest.approx(1.0, abs=0.05)
    assert metrics["env_steps"] == 120
    assert metrics["lifetime/cells"] == 5
    assert 0 < metrics["noise/time"] < 0.5


def test_minibatches_must_divide(agent, collector):
    with pytest.raises(ValueError, match="4 environments cannot be cut into 3"):
        source(agent(), collector, minibatches=3)


@pytest.mark.parametrize("algorithm", ["ppo", "vmpo"])
def test_input_statistics_stand_still_while_a_rollout_is_learned(agent, collector, algorithm):
    """Learner and actor, encoder and target see the same ones; what a rollout showed counts from the next one on."""
    learner = agent(standardise=True, algorithm=algorithm)
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=1e-3)
    made = source(learner, collector, epochs=2, minibatches=1, steps=8)
    seen, previous = [], None
    for step, batch in zip(range(8), made, strict=False):
        modules = [m for m in learner.modules() if isinstance(m, InputStatistics)]
        assert len(modules) == 3 + (algorithm == "vmpo")  # policy, world model, its target; the acting policy
        assert all(torch.equal(m.mean, modules[0].mean) and torch.equal(m.std, modules[0].std) for m in modules)
        if step % 2 == 0:
            if previous is not None:
                assert not torch.equal(previous, modules[0].mean)
                torch.testing.assert_close(modules[0].mean, torch.cat(seen).mean(0))
            previous = modules[0].mean.clone()
            seen.append(batch["rollout"]["obs"][:, 1::4].flatten(0, 1).float())
            segment = Segment.from_batch(batch["rollout"], context=0)
            with torch.no_grad():
                row = segment.obs, segment.prev_action, segment.first, batch["rollout"]["policy_state"]
                logits = learner.acting_policy(*row).logits_RBA[:-1].log_softmax(-1)
            again = logits.gather(-1, segment.action[..., None]).squeeze(-1)
            torch.testing.assert_close(again, segment.log_prob, atol=1e-5, rtol=1e-5)
        assert torch.equal(modules[0].mean, previous)
        views, ctx = prepare(batch, step)
        learner(views, ctx, step).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        learner.after_step(step)
