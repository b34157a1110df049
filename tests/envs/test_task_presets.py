"""Ready-made families: they open, agree in their spaces, and say what is missing."""

import importlib.util

import gymnasium
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Discrete

from envs.families.grid_levels import INSTRUCTION_BYTES, decode_instruction
from envs.task_presets import (
    ATARI_57,
    BABYAI_LEVELS,
    MINIGRID_LEVELS,
    atari_games,
    atari_modes,
    babyai_levels,
    gridworld_tasks,
    labyrinth_levels,
    minigrid_levels,
    minigrid_seeds,
    vizdoom_scenarios,
)
from envs.tasks import ZipfTasks, ZipfTasksVector

needs_envpool = pytest.mark.skipif(importlib.util.find_spec("envpool") is None, reason="EnvPool is not installed")
needs_minigrid = pytest.mark.skipif(importlib.util.find_spec("minigrid") is None, reason="minigrid is not installed")


@pytest.fixture
def missing(monkeypatch):
    """Makes a package look as if it were not installed."""
    found = importlib.util.find_spec

    def hide(name):
        monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == name else found(wanted))

    return hide


@needs_minigrid
def test_minigrid_levels_in_python_and_in_cpp_look_alike():
    levels = MINIGRID_LEVELS[:3]
    single = ZipfTasks(minigrid_levels(levels), rare=1)
    assert single.observation_space.shape == (7, 7, 3)
    assert single.action_space == Discrete(7)
    assert single.observation_space.contains(single.reset(seed=0)[0])
    family = minigrid_levels(levels, instructions=True)
    if family.tasks[0].make_many is None:
        pytest.skip("EnvPool is not installed")
    batch = ZipfTasksVector(family, 6, allocation="static", rare=1)
    obs, infos = batch.reset(seed=0)
    assert batch.observation_space.contains(obs)
    python = ZipfTasks(family, rare=1)
    assert python.observation_space == batch.single_observation_space
    for k in range(3):
        mission = decode_instruction(python.reset(seed=k, options={"task": k})[0]["instruction"])
        assert mission == decode_instruction(obs["instruction"][infos["task_id"] == k][0])
    batch.close()


@needs_minigrid
@needs_envpool
def test_a_level_plays_alike_in_python_and_in_cpp():
    """An empty room has no randomness: both engines give the same views and rewards."""
    family = minigrid_levels(["MiniGrid-Empty-8x8-v0"])
    python = ZipfTasksVector(family, 1, rare=1)
    cpp = ZipfTasksVector(family, 1, rare=1, allocation="static")
    for env in (python, cpp):
        env.reset(seed=0)
    actions = [2, 2, 1, 2, 0, 2, 3, 4, 5, 6, 2, 1, 2, 2, 0, 2, 2, 1, 2, 2]
    for action in actions:
        results = [env.step([action]) for env in (python, cpp)]
        np.testing.assert_array_equal(results[0][0], results[1][0])
        for ours, theirs in zip(results[0][1:4], results[1][1:4], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert results[0][2].item() is True


@needs_envpool
def test_babyai_in_cpp_repeats_itself_and_speaks():
    runs = []
    for _ in range(2):
        env = ZipfTasksVector(babyai_levels(), 16, allocation="static")
        obs, _ = env.reset(seed=3)
        runs.append(obs["instruction"])
        env.close()
    np.testing.assert_array_equal(*runs)
    texts = [decode_instruction(codes) for codes in runs[0]]
    assert all(text.split()[0] in ("go", "pick", "open", "put") for text in texts)
    assert len(set(texts)) > 3
    assert runs[0].shape == (16, INSTRUCTION_BYTES)


@needs_minigrid
def test_minigrid_seeds_are_fixed_worlds():
    env = ZipfTasks(minigrid_seeds("MiniGrid-SimpleCrossingS9N3-v0", range(8)))
    worlds = [[wall_cells(env, run, k) for k in range(8)] for run in (1, 2)]
    assert worlds[0] == worlds[1]
    assert len(set(worlds[0])) > 4
    assert env.num_open == 1


def wall_cells(env, seed, task):
    env.reset(seed=seed, options={"task": task})
    return env._env.unwrapped.grid.encode().tobytes()


def test_gridworld_tasks_are_its_pairs():
    family = gridworld_tasks(num_maps=3, num_objects=6, settings={"obs": "tiles", "rare": 1})
    assert (len(family), family.factors, family.exponent) == (18, (3, 6), 2.0)
    env = ZipfTasks(family, rare=(1, 1))
    for k in (0, 7, 17):
        _, info = env.reset(options={"task": k})
        assert (info["task_id"], info["ranks"].tolist()) == (k, list(divmod(k, 6)))
        assert env._env.unwrapped.batch._state.map[0] == k // 6
        assert env._env.unwrapped.batch._state.object[0] == k % 6


def test_families_without_their_packages_say_what_to_install(missing):
    missing("minigrid")
    with pytest.raises(DependencyNotInstalled, match="pip install minigrid"):
        ZipfTasks(minigrid_levels())
    missing("envpool")
    assert babyai_levels().tasks[0].make_many is None
    with pytest.raises(DependencyNotInstalled, match=r"byol_ext\[explore\]"):
        ZipfTasksVector(vizdoom_scenarios(), 9, allocation="static")


@needs_envpool
def test_vizdoom_is_for_batches_only():
    with pytest.raises(ValueError, match="'Basic' has no single environment, only batches: use allocation='static'"):
        ZipfTasks(vizdoom_scenarios())
    with pytest.raises(ValueError, match="no environment 'Nowhere-v1'"):
        ZipfTasksVector(vizdoom_scenarios(["Basic", "Nowhere"]), 2, allocation="static", rare=1)


@pytest.mark.slow
@needs_envpool
def test_vizdoom_scenarios_step_and_repeat_themselves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # ViZDoom leaves _vizdoom.ini behind
    runs = []
    for _ in range(2):
        env = ZipfTasksVector(vizdoom_scenarios(), 9, allocation="static", num_threads=2)
        assert env.single_action_space == Discrete(54)
        obs, _ = env.reset(seed=1)
        assert env.observation_space.contains(obs)
        actions = np.random.default_rng(0).integers(54, size=(30, 9))
        rewards = np.array([env.step(action)[1] for action in actions])
        runs.append(rewards)
        env.close()
    np.testing.assert_array_equal(*runs)
    assert np.abs(runs[0]).sum(axis=0).astype(bool).sum() >= 3


@pytest.mark.slow
def test_atari_games_share_spaces():
    env = ZipfTasksVector(atari_games(["pong", "Breakout", "ALE/Qbert-v5"]), 2, rare=1)
    obs, infos = env.reset(seed=0, options={"task": [0, 2]})
    assert env.family.names == ("pong", "breakout", "qbert")
    assert obs.shape == (2, 4, 84, 84)
    assert env.single_action_space == Discrete(18)
    assert infos["lives"].tolist() == [0, 4]
    with pytest.raises(ValueError, match="pong"):
        atari_games(["pongg"])
    env.close()


def test_all_57_games_are_known():
    assert len(atari_games()) == len(set(ATARI_57)) == 57


@pytest.mark.slow
def test_atari_modes_are_other_games():
    family = atari_modes("Breakout")
    assert (family.factors, family.rare) == ((12, 2), (2, 1))
    env = ZipfTasks(family)
    views = []
    for task in ((0, 0), (8, 0), (0, 1), (0, 0)):
        games = []
        for seed in range(3):  # the modes differ once the ball is at the bricks
            env.reset(seed=seed, options={"task": task})
            games.append([env.step(1 if t % 7 == 0 else 3 + t // 20 % 2)[0] for t in range(120)])
        views.append(np.array(games))
    assert [bool((view != views[0]).any()) for view in views] == [False, True, True, False]
    env.close()


def test_babyai_preset_has_levels_of_babyai():
    assert all(level.startswith("BabyAI-") for level in BABYAI_LEVELS)
    assert len(set(BABYAI_LEVELS)) == len(BABYAI_LEVELS) == 12


@pytest.mark.skipif("byol_ext/ZipfLabyrinth-v0" not in gymnasium.registry, reason="the labyrinth is not registered")
def test_labyrinth_levels_are_its_tasks():
    from envs.zipf.labyrinth import LAB12

    family = labyrinth_levels("lab12")
    assert family.names == tuple(level.name for level in LAB12)
    env = ZipfTasks(family)
    for task in (0, 11):
        obs, info = env.reset(seed=0, options={"task": task})
        assert env.observation_space.contains(obs)
        assert info["task_id"] == task
        assert env._env.unwrapped.batch._state.agents[0].level == task
    with pytest.raises(ValueError, match="unknown levels 'lab13'; known: lab30, lab12"):
        labyrinth_levels("lab13")
