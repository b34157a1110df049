"""The adapter to the original: what it asks for, and what it makes of a `dm_env.Environment`."""

import importlib.util

import dm_env
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, DependencyNotInstalled, InvalidAction, ResetNeeded

from envs.zipf.playroom.docker import ACTIONS, DockerPlayroom


class World:
    """Rewards the fourth step and ends with the fifth."""

    def __init__(self, seed, discount):
        self.seed, self.discount, self.actions, self.closed = seed, discount, [], False

    def seen(self):
        return {"RGB_INTERLEAVED": np.full((72, 96, 3), len(self.actions), np.uint8), "TEXT": np.array("lift a zup")}

    def reset(self):
        self.actions = []
        return dm_env.restart(self.seen())

    def step(self, action):
        self.actions.append(action)
        n = len(self.actions)
        if n == 5:
            return dm_env.TimeStep(dm_env.StepType.LAST, 0.0, self.discount, self.seen())
        return dm_env.transition(float(n == 4), self.seen())

    def close(self):
        self.closed = True


def make(discount=0.0, **arguments):
    worlds = []

    def connect(seed):
        worlds.append(World(seed, discount))
        return worlds[-1]

    return DockerPlayroom(connect=connect, **arguments), worlds


def missing(name):
    return importlib.util.find_spec(name) is None


@pytest.mark.skipif(not (missing("dm_env_rpc") or missing("docker")), reason="the original's packages are installed")
def test_what_is_missing_is_named():
    with pytest.raises(DependencyNotInstalled) as caught:
        DockerPlayroom()
    for name, package in (("dm_env_rpc", "dm-env-rpc"), ("docker", "docker")):
        if missing(name):
            assert name in str(caught.value)
            assert package in str(caught.value).split("pip install")[1]


@pytest.mark.parametrize("name", ["dm_env_rpc", "docker"])
def test_one_package_is_not_enough(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda given: None if given == name else object())
    with pytest.raises(DependencyNotInstalled, match=f"needs {name}:"):
        DockerPlayroom()


def test_steps():
    env, worlds = make()
    image, info = env.reset(seed=4)
    assert worlds[0].seed == 4
    assert info == {"instruction": "lift a zup"}
    assert env.observation_space.contains(image)
    out = [env.step(np.array([2, 1, 0, 1, 1])) for _ in range(5)]
    assert worlds[0].actions[0] == dict(zip(ACTIONS, (1, 0, -1, 0, 1), strict=True))
    assert [reward for _, reward, *_ in out] == [0, 0, 0, 1, 0]
    assert [flags[2:4] for flags in out[-2:]] == [(False, False), (True, False)]
    assert (out[2][0] == 3).all()
    with pytest.raises(ResetNeeded):
        env.step(np.array([1, 1, 1, 1, 0]))
    env.reset()
    assert len(worlds) == 1, "the same world goes on"
    env.reset(seed=5)
    assert (worlds[0].closed, worlds[1].seed, worlds[1].closed) == (True, 5, False)
    env.close()
    env.close()
    assert worlds[1].closed
    with pytest.raises(ClosedEnvironmentError):
        env.reset()


def test_a_discount_of_one_is_a_truncation_and_actions_repeat():
    env, worlds = make(discount=1.0, action_repeats=3)
    env.reset(seed=0)
    noop = np.array([1, 1, 1, 1, 0])
    assert env.step(noop)[1:4] == (0.0, False, False)
    assert env.step(noop)[1:4] == (1.0, False, True), "ends within the repeats"
    assert len(worlds[0].actions) == 5


def test_bad_arguments_and_actions():
    for bad in ({"level": "lift"}, {"size": (0, 1)}, {"episode_seconds": 0.0}, {"action_repeats": 0}):
        with pytest.raises(ValueError):
            make(**bad)
    env, _ = make()
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(5, np.int64))
    env.reset(seed=0)
    for action in (np.zeros(4, np.int64), np.full(5, 2), np.zeros(5), np.array([3, 0, 0, 0, 0])):
        with pytest.raises(InvalidAction):
            env.step(action)
    with pytest.raises(ValueError, match="options"):
        env.reset(options={"task": 1})
