"""The adapter to DeepMind Lab, against a stand-in for the engine."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, DependencyNotInstalled, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env

from envs.zipf.dmlab import LENGTH, ZipfDMLab, hashed
from envs.zipf.labyrinth import LEVELS

NAMES = [
    "LOOK_LEFT_RIGHT_PIXELS_PER_FRAME",
    "LOOK_DOWN_UP_PIXELS_PER_FRAME",
    "STRAFE_LEFT_RIGHT",
    "MOVE_BACK_FORWARD",
    "FIRE",
    "JUMP",
    "CROUCH",
]


class Engine:
    """Ten steps of reward 1; counts what is open."""

    opened, closed, last = 0, 0, None

    def __init__(self, level, observations, config, renderer):
        assert observations == ["RGB_INTERLEAVED", "INSTR"]
        self.level, self.shape, self.renderer = level, (int(config["height"]), int(config["width"]), 3), renderer
        self.left, self.commands, self.length = 0, [], 10
        Engine.opened += 1
        Engine.last = self

    def action_spec(self):
        return [{"name": name, "min": -512, "max": 512} for name in NAMES]

    def reset(self, seed):
        self.left, self.rng = self.length, np.random.default_rng(seed)

    def is_running(self):
        return self.left > 0

    def observations(self):
        assert self.left > 0, "the engine shows nothing after the end"
        return {"RGB_INTERLEAVED": self.rng.integers(256, size=self.shape, dtype=np.uint8), "INSTR": "pick it"}

    def step(self, action, num_steps):
        assert action.dtype == np.intc
        assert num_steps == 4
        self.commands.append(dict(zip(NAMES, action.tolist(), strict=True)))
        self.left -= 1
        return 1.0

    def close(self):
        Engine.closed += 1


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepmind_lab", SimpleNamespace(Lab=Engine))
    Engine.opened = Engine.closed = 0


def test_without_the_engine_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepmind_lab", None)
    with pytest.raises(DependencyNotInstalled, match="google-deepmind/lab"):
        ZipfDMLab()


@pytest.mark.usefixtures("engine")
def test_gymnasium_finds_no_fault(recwarn):
    check_env(ZipfDMLab(), skip_render_check=True)
    env = ZipfDMLab(render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), obs["image"])
    assert [str(w.message) for w in recwarn] == []


@pytest.mark.usefixtures("engine")
def test_an_episode():
    env = ZipfDMLab(size=(12, 16))
    obs, info = env.reset(seed=0, options={"task": 4})
    assert Engine.last.level == "contributed/dmlab30/rooms_keys_doors_puzzle"
    assert obs["image"].shape == (12, 16, 3)
    assert info["instruction"] == "pick it"
    assert info["task_id"] == 4
    assert info["task_prob"] == pytest.approx(1 / 5 / 3.994987130920391)
    for action in range(9):
        _, reward, terminated, truncated, info = env.step(action)
        assert (reward, terminated, truncated) == (1.0, False, False)
    *_, terminated, truncated, info = env.step(0)
    assert terminated
    assert not truncated
    assert info["score"] == 10
    moves = [{k: v for k, v in c.items() if v} for c in Engine.last.commands[:9]]
    assert moves[0] == {"MOVE_BACK_FORWARD": 1}
    assert moves[6] == {"MOVE_BACK_FORWARD": 1, "LOOK_LEFT_RIGHT_PIXELS_PER_FRAME": -20}
    assert moves[8] == {"FIRE": 1}
    with pytest.raises(ResetNeeded):
        env.step(0)


@pytest.mark.usefixtures("engine")
def test_the_end_at_the_published_length_is_a_truncation():
    env = ZipfDMLab(levels=["rooms_select_nonmatching_object"], rare=1)
    env.reset(seed=0)
    Engine.last.left = 180
    ends = [env.step(0)[2:4] for _ in range(180)]
    assert ends[-1] == (False, True)
    assert not any(terminated or truncated for terminated, truncated in ends[:-1])


@pytest.mark.usefixtures("engine")
def test_engines_open_when_needed_and_the_oldest_closes():
    env = ZipfDMLab(max_open=2)
    for task in (0, 1, 0, 2, 0):
        env.reset(seed=0, options={"task": task})
    assert (Engine.opened, Engine.closed) == (3, 1)
    env.close()
    env.close()
    assert Engine.closed == 3
    with pytest.raises(ClosedEnvironmentError):
        env.reset()


@pytest.mark.usefixtures("engine")
def test_levels_are_drawn_by_the_law():
    env = ZipfDMLab(max_open=30, split="rare", order="reversed")
    tasks = {env.reset(seed=seed)[1]["task_id"] for seed in range(60)}
    assert {LEVELS[task].name for task in tasks} == {level.name for level in LEVELS[:6]}
    env.reset(options={"split": "uniform"})
    assert {env.reset()[1]["task_id"] for _ in range(300)} > tasks


@pytest.mark.usefixtures("engine")
def test_bad_input():
    with pytest.raises(ValueError, match="max_open"):
        ZipfDMLab(max_open=0)
    with pytest.raises(ValueError, match="renderer"):
        ZipfDMLab(renderer="vulkan")
    env = ZipfDMLab()
    with pytest.raises(ValueError, match="tusk"):
        env.reset(options={"tusk": 1})
    env.reset(seed=0)
    with pytest.raises(InvalidAction):
        env.step(9)


def test_words_are_hashed_alike_everywhere():
    tokens = hashed("pick the red hat")
    assert tokens.shape == (LENGTH,)
    assert (tokens[:4] > 0).all()
    assert tokens[1] == hashed("the")[0]
    assert not tokens[4:].any()
