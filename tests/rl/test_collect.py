"""Collecting rollouts: rows against a step-by-step replay, groups, context, resets, saving."""

import copy

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from byol_ext.rl.packing import pack, unpack
from byol_ext.rl.spaces import discrete_actions, observation_shape


def replay(agent, env, actions_TB, seed):
    """The rows of a rollout by the plainest loop: observations, rewards, flags, as the environment gave them."""
    obs, _ = env.reset(seed=[seed + i for i in range(env.num_envs)])
    rows = {"obs": [obs], "reward": [], "terminated": [], "truncated": [], "cell": []}
    for actions in actions_TB:
        obs, reward, terminated, truncated, info = env.step(actions)
        rows["obs"].append(obs)
        for name, value in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
            rows[name].append(value)
        rows["cell"].append(info["cell"])
    return {name: np.stack(value) for name, value in rows.items()}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("context", [0, 3])
def test_rows_are_those_of_a_plain_loop(agent, collector, saved_corridor, groups, context):
    made = collector(agent(), groups=groups, context=context, steps=10, seed=3)
    seen = {
        "obs": [],
        "action": [],
        "reward": [],
        "terminated": [],
        "truncated": [],
        "real": [],
        "first": [],
        "cell": [],
    }
    for _ in range(4):
        segment = made.collect().segment
        for name in ("action", "reward", "terminated", "truncated", "real"):
            seen[name].append(segment.tail(getattr(segment, name)).numpy().copy())
        seen["cell"].append(segment.tail(segment.info["cell"]).numpy().copy())
        for name in ("obs", "first"):
            seen[name].append(getattr(segment, name)[segment.context + 1 :].numpy().copy())
    rows = {name: np.concatenate(values) for name, values in seen.items()}
    expected = replay(None, saved_corridor(4), rows["action"], 3)
    np.testing.assert_array_equal(rows["obs"], expected["obs"][1:])
    for name in ("reward", "terminated", "truncated", "cell"):
        np.testing.assert_array_equal(rows[name], expected[name])
    ended = expected["terminated"] | expected["truncated"]
    before = np.concatenate([np.zeros((1, 4), bool), ended[:-1]])
    assert before.any()
    np.testing.assert_array_equal(rows["real"], ~before)
    np.testing.assert_array_equal(rows["first"], before)


def test_groups_do_not_change_what_happens(agent, collector):
    one, two = (collector(agent(), groups=g, context=2, steps=8) for g in (1, 2))
    for _ in range(3):
        a, b = one.collect(), two.collect()
        for name in ("obs", "action", "reward", "state", "log_prob", "prev_action"):
            torch.testing.assert_close(getattr(a.segment, name), getattr(b.segment, name))


def test_context_repeats_the_end_of_the_last_segment(agent, collector):
    made = collector(agent(), context=4, steps=9)
    first = copy.deepcopy(made.collect().segment)
    assert first.context == 0
    second = made.collect().segment
    assert second.context == 4
    assert second.steps == 9
    assert len(second.action) == 13
    for name in ("action", "reward", "real", "log_prob", "terminated"):
        torch.testing.assert_close(getattr(second, name)[:4], getattr(first, name)[-4:])
    for name in ("obs", "first", "prev_action"):
        torch.testing.assert_close(getattr(second, name)[:5], getattr(first, name)[-5:])
    torch.testing.assert_close(second.info["cell"][:4], first.info["cell"][-4:])


def test_stored_log_probs_and_values_are_the_policys(agent, collector):
    made = collector(agent(), context=3, steps=9)
    made.collect()
    rollout = made.collect()
    segment, start = rollout.segment, rollout.segment.context
    policy = made.policy
    with torch.no_grad():
        rows = segment.obs[start:], segment.prev_action[start:], segment.first[start:]
        output = policy(*rows, rollout.policy_state)
    expected = output.logits_RBA[:-1].log_softmax(-1).gather(-1, segment.action[start:, :, None])[..., 0]
    torch.testing.assert_close(segment.log_prob[start:], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(rollout.values["value"], output.values["value"], atol=1e-5, rtol=0)
    with torch.no_grad():
        again = policy(segment.obs, segment.prev_action, segment.first, segment.state)
    torch.testing.assert_close(again.values["value"][start:], rollout.values["value"], atol=1e-5, rtol=0)


def test_the_first_previous_action_is_none(agent, collector):
    segment = collector(agent(), steps=30).collect().segment
    assert (segment.prev_action[segment.first] == 2).all()
    later = ~segment.first[1:]
    torch.testing.assert_close(segment.prev_action[1:][later], segment.action[later])


def test_saved_and_loaded_it_goes_on_alike(agent, collector):
    made = collector(agent(), context=3, steps=7)
    for _ in range(2):
        made.collect()
    state = copy.deepcopy(made.state_dict())
    expected = copy.deepcopy(made.collect())
    other = collector(agent(), context=3, steps=7)
    other.load_state_dict(state)
    got = other.collect()
    for name in ("obs", "action", "reward", "real", "first", "state", "log_prob", "prev_action"):
        torch.testing.assert_close(getattr(got.segment, name), getattr(expected.segment, name), rtol=0, atol=0)
    torch.testing.assert_close(got.policy_state, expected.policy_state, rtol=0, atol=0)


def test_environments_that_cannot_be_saved_begin_anew_elsewhere(agent, collector, corridor):
    made = collector(agent(), kind=corridor, context=3, steps=7)
    assert not made.exact
    made.collect()
    state = made.state_dict()
    other = collector(agent(), kind=corridor, context=3, steps=7)
    other.load_state_dict(state)
    segment = other.collect().segment
    assert segment.context == 0
    assert segment.first[0].all()
    fresh = collector(agent(), kind=corridor, context=3, steps=7).collect().segment
    assert not torch.equal(segment.action, fresh.action)


def test_a_state_survives_a_checkpoint(tmp_path, agent, collector):
    made = collector(agent(), steps=5)
    made.collect()
    torch.save(made.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    made.load_state_dict(state)
    made.collect()


def test_packing():
    value = {"a": np.arange(3, dtype=np.uint64), "b": [np.float32(2.5), {"c": np.ones(2, bool)}], "d": 2**80, "e": "x"}
    back = unpack(pack(value))
    assert back["a"].dtype == np.uint64
    assert back["a"].tolist() == [0, 1, 2]
    assert back["b"][0] == 2.5
    assert back["b"][1]["c"].tolist() == [True, True]
    assert back["d"] == 2**80


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_refused(agent, collector, saved_corridor, bad):
    class Broken(saved_corridor):
        def step(self, actions):
            obs, reward, *rest = super().step(actions)
            reward[1] = bad
            return obs, reward, *rest

    made = collector(agent(), kind=Broken)
    with pytest.raises(ValueError, match="environment 1 gave the reward"):
        made.collect()


def test_a_crash_in_an_environment_reaches_the_caller(agent, collector, saved_corridor):
    class Crashing(saved_corridor):
        def step(self, actions):
            raise RuntimeError("emulator died")

    with pytest.raises(RuntimeError, match="emulator died"):
        collector(agent(), kind=Crashing, groups=2).collect()


def test_spaces():
    assert observation_shape(Box(0, 255, (21, 21, 3), np.uint8)) == ((3, 21, 21), True)
    assert observation_shape(Box(0, 255, (4, 84, 84), np.uint8)) == ((4, 84, 84), False)
    assert observation_shape(Box(-1, 1, (4,), np.float32)) == ((4,), False)
    with pytest.raises(ValueError, match="pictures or vectors"):
        observation_shape(Discrete(3))
    with pytest.raises(ValueError, match="discrete actions"):
        discrete_actions(Box(-1, 1, (4,), np.float32))


def test_limits(agent, collector):
    with pytest.raises(ValueError, match="context=20"):
        collector(agent(), context=20, steps=10)
