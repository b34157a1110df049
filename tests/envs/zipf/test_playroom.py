"""What Gymnasium and callers see of both playrooms."""

import dataclasses
import hashlib
import os
import subprocess
import sys
import tracemalloc
import unittest
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from dm_env import test_utils
from gymnasium.envs.registration import register, registry
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from envs.evaluate import evaluate_matched
from envs.tasks import option_tasks
from envs.zipf.playroom import (
    LEVELS,
    LEXICON,
    ZipfPlayroom,
    ZipfPlayroom2D,
    ZipfPlayroom2DVector,
    ZipfPlayroomVector,
    detokenize,
)
from envs.zipf.playroom.baselines import load_baselines
from envs.zipf.playroom.state import FORWARD, GRIP

ROOT = Path(__file__).parents[3]
IDS = {"byol_ext/ZipfPlayroom-v0": ZipfPlayroom, "byol_ext/ZipfPlayroom2D-v0": ZipfPlayroom2D}
for _id, _class in IDS.items():
    if _id not in registry:
        path = f"{_class.__module__}:{_class.__name__}"
        register(_id, entry_point=path, vector_entry_point=f"{path}Vector")

VECTORS = [(ZipfPlayroomVector, {"size": (12, 16)}), (ZipfPlayroom2DVector, {"obs": "both"})]
SINGLES = [(ZipfPlayroom, {"size": (12, 16)}), (ZipfPlayroom2D, {"obs": "both"})]
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
# Grip and release often, so that episodes end in every way.
ACTIONS = np.random.default_rng(0).choice(10, (60, 64), p=[0.02, 0.3, 0.02, 0.02, 0.02, 0.1, 0.1, 0.3, 0.1, 0.02])
both = pytest.mark.parametrize(("make", "arguments"), VECTORS, ids=["3d", "2d"])
singly = pytest.mark.parametrize(("make", "arguments"), SINGLES, ids=["3d", "2d"])


@pytest.mark.parametrize("render_mode", ["rgb_array", "ansi"])
@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [
        ("byol_ext/ZipfPlayroom-v0", {}),
        ("byol_ext/ZipfPlayroom-v0", {"task": "put_near", "naming": "compositional"}),
        ("byol_ext/ZipfPlayroom2D-v0", {}),
        ("byol_ext/ZipfPlayroom2D-v0", {"obs": "both", "task": "put_on"}),
    ],
)
def test_gymnasium_finds_nothing_to_warn_of(env_id, arguments, render_mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(env_id, render_mode=render_mode, **arguments)
        check_env(env.unwrapped)
        env.reset(seed=0)
        env.step(FORWARD)
        env.close()


def test_make_vec_takes_the_fast_path():
    for env_id, single in IDS.items():
        env = gymnasium.make_vec(env_id, num_envs=3, split="rare")
        assert type(env.unwrapped).__name__ == f"{single.__name__}Vector"
        _, infos = env.reset(seed=0)
        assert infos["is_rare"].all()
        env.close()


def rollout(make, num_envs, mode, steps=60, *, rows=7, **arguments):
    """All that is returned for the first rows, as one list of arrays a call."""
    env = make(num_envs, task="put_near", split="uniform", max_steps=25, autoreset_mode=mode, **arguments)
    trace = [snapshot(*env.reset(seed=11), rows)]
    for actions in ACTIONS[:steps, :num_envs]:
        obs, reward, terminated, truncated, infos = env.step(actions)
        trace.append([*snapshot(obs, infos, rows), *(x[:rows].copy() for x in (reward, terminated, truncated))])
        ended = terminated | truncated
        if mode is AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": ended})
    env.close()
    return trace


def snapshot(obs, infos, rows):
    masked = [key for key in infos if f"_{key}" in infos and not key.startswith("final")]
    return [np.array(a[:rows]) for a in obs.values()] + [np.array(infos[key][:rows]) for key in masked]


def assert_same(first, second, rows):
    assert len(first) == len(second)
    for ours, theirs in zip(first, second, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one[:rows], other[:rows])


@both
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_trajectories_do_not_depend_on_numbers_threads_and_buffers(make, arguments, mode):
    many = rollout(make, 64, mode, **arguments)
    assert_same(many, rollout(make, 64, mode, num_threads=2, copy=False, buffers=3, **arguments), 7)
    assert_same(many, rollout(make, 7, mode, **arguments), 7)
    assert_same(many, rollout(make, 1, mode, rows=1, **arguments), 1)


@both
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_gymnasiums_vector_of_single_environments_agrees(make, arguments, mode):
    single = ZipfPlayroom if make is ZipfPlayroomVector else ZipfPlayroom2D
    settings = {"task": "put_on", "max_steps": 15, **arguments}
    ours = make(3, autoreset_mode=mode, **settings)
    theirs = SyncVectorEnv([lambda: single(**settings)] * 3, autoreset_mode=mode)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.action_space == theirs.action_space
    seeds = [5, 6, 7]
    compare(ours.reset(seed=seeds), theirs.reset(seed=seeds))
    for actions in ACTIONS[:40, :3]:
        (obs_1, *rest_1, infos_1), (obs_2, *rest_2, infos_2) = ours.step(actions), theirs.step(actions)
        compare((obs_1, infos_1), (obs_2, infos_2))
        for one, other in zip(rest_1, rest_2, strict=True):
            np.testing.assert_array_equal(one, other)
        ended = rest_1[1] | rest_1[2]
        if mode is AutoresetMode.DISABLED and ended.any():
            compare(*(env.reset(options={"reset_mask": ended}) for env in (ours, theirs)))
    theirs.close()


def compare(ours, theirs):
    (obs_1, infos_1), (obs_2, infos_2) = ours, theirs
    for key in obs_2:
        np.testing.assert_array_equal(obs_1[key], obs_2[key])
        assert obs_1[key].dtype == obs_2[key].dtype
    for key, mask in ((key, infos_2[f"_{key}"]) for key in infos_2 if f"_{key}" in infos_2):
        np.testing.assert_array_equal(infos_1[f"_{key}"], mask)
        if not key.startswith("final"):
            np.testing.assert_array_equal(infos_1[key][mask], np.array([*infos_2[key][mask]], infos_1[key].dtype))


@both
def test_infos_and_instructions(make, arguments):
    env = make(64, level="put/put_on_bed_tray_all", **arguments)
    obs, infos = env.reset(seed=0)
    assert set(np.unique(infos["furniture"])) == {0, 1}
    np.testing.assert_array_equal(infos["ranks"][:, 0], infos["task_id"])
    np.testing.assert_array_equal(infos["is_rare"], infos["task_id"] >= 40)
    np.testing.assert_allclose(infos["task_prob"], 1 / 50)
    assert (infos["held"] == -1).all()
    assert not infos["_outcome"].any()
    assert not infos["_success"].any()
    for e in range(64):
        words = f"put a {LEXICON[infos['task_id'][e]].name} on the {('bed', 'tray')[infos['furniture'][e]]}"
        assert infos["instruction"][e] == env.detokenize(obs["instruction"][e]) == words


@singly
def test_a_single_environments_infos(make, arguments):
    env = make(task="lift", naming="compositional", **arguments)
    obs, info = env.reset(seed=0, options={"task": 1})
    assert info["instruction"] == detokenize(obs["instruction"]) == "lift a red ball"
    assert (info["task_id"], info["ranks"].tolist(), info["furniture"]) == (1, [1], -1)
    assert "outcome" not in info
    while True:
        *_, terminated, truncated, info = env.step(env.oracle_action())
        if terminated:
            break
        assert not truncated
    assert (info["success"], info["outcome"], info["held"]) == (True, "goal", 1)


@both
def test_an_episode_is_cut_at_its_length(make, arguments):
    env = make(2, max_steps=4, **arguments)
    env.reset(seed=0)
    flags = [env.step([0, 0])[2:4] for _ in range(4)]
    assert [truncated.tolist() for _, truncated in flags] == [[False] * 2] * 3 + [[True] * 2]
    assert not any(terminated.any() for terminated, _ in flags)


@both
def test_options(make, arguments):
    env = make(3, **arguments)
    _, infos = env.reset(seed=0, options={"task": [4, 40, 49]})
    assert infos["task_id"].tolist() == [4, 40, 49]
    _, infos = env.reset(options={"split": "rare"})
    assert infos["is_rare"].all()
    np.testing.assert_allclose(infos["task_prob"], 0.1)
    _, infos = env.reset(options={"task": 7, "reset_mask": np.array([True, False, True])})
    assert infos["task_id"][[0, 2]].tolist() == [7, 7]
    for bad in ({"task": 50}, {"task": -1}, {"task": 1.5}, {"task": [1, 2]}, {"split": "often"}, {"colour": 1}):
        with pytest.raises(ValueError, match=r"task|split|unknown reset options \['colour'\]"):
            env.reset(options=bad)
    frequent = make(1, task="put_on", split="uniform", subset="frequent", **arguments)
    with pytest.raises(ValueError, match="no probability"):
        frequent.reset(options={"split": "rare"})


@both
def test_seeds(make, arguments):
    env = make(4, split="uniform", **arguments)
    first, again, other = (env.reset(seed=seed)[1]["task_id"].tolist() for seed in (1, 1, 2))
    assert first == again != other
    listed = env.reset(seed=[1, 1, 2, 2])[1]["task_id"]
    assert listed[0] == listed[1] == first[0]
    assert listed[2] == listed[3] == other[0]


@both
def test_snapshots(make, arguments):
    env = make(5, task="put_on", **arguments)
    env.reset(seed=3)
    for actions in ACTIONS[:10, :5]:
        env.step(actions)
    state = env.state()
    runs = []
    for _ in range(2):
        env.set_state(state)
        runs.append([env.step(actions)[0]["image"] for actions in ACTIONS[10:30, :5]])
    np.testing.assert_array_equal(*runs)


@both
def test_pictures_change_with_what_is_done(make, arguments):
    env = make(1, **arguments)
    image = env.reset(seed=0)[0]["image"]
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 5
    turned = env.step([5])[0]["image"]
    assert (turned != image).any()


@singly
@pytest.mark.parametrize("task", ["lift", "put_on", "find"])
def test_rendering(make, arguments, task):
    env = make(task=task, render_mode="rgb_array", **arguments)
    env.reset(seed=0, options={"task": 0})
    before = env.render()
    assert before.dtype == np.uint8
    assert before.ndim == 3
    assert min(before.shape[:2]) > 200
    env.step(9)
    assert (env.render() != before).any()
    text = make(task=task, render_mode="ansi", **arguments)
    _, info = text.reset(seed=0, options={"task": 0})
    lines = text.render().splitlines()
    assert [line[0] + line[-1] for line in lines[:12]] == ["##"] * 12
    board = "".join(lines[:12])
    assert (board.count("B"), board.count("T"), board.count("a")) == (6, 1, 1)
    assert sum(board.count(arrow) for arrow in "→↘↓↙←↖↑↗") == 1
    assert info["instruction"] in lines
    assert "a zup: orange star, stripes" in lines
    assert text.reset(seed=0)[1]["instruction"] in text.render()


SCRIPT = """
import hashlib, sys
import numpy as np
from envs.zipf.playroom import ZipfPlayroom2DVector, ZipfPlayroomVector
digest = hashlib.sha256()
actions = np.random.default_rng(0).choice(10, (40, 2), p=[.02, .3, .02, .02, .02, .1, .1, .3, .1, .02])
makers = (lambda t: ZipfPlayroomVector(2, task=t, max_steps=20, size=(9, 12)),
          lambda t: ZipfPlayroom2DVector(2, task=t, max_steps=20, obs="both", tile=3))
for make in makers:
    for task in ("lift", "put_on", "put_near", "find"):
        env = make(task)
        obs, infos = env.reset(seed=1)
        for k in range(16 if task == "find" else 24):
            obs, reward, *_, infos = env.step(actions[k] if k % 3 else env.oracle_actions())
            for array in (*obs.values(), reward, *(v for v in infos.values())):
                digest.update(np.ascontiguousarray(array).tobytes())
print(digest.hexdigest())
"""


def test_unjitted_runs_give_the_same_bytes():
    outputs = []
    for disable in "10":
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT],
            env={**os.environ, "NUMBA_DISABLE_JIT": disable, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(run.stdout.strip())
    assert len(outputs[0]) == len(hashlib.sha256().hexdigest())
    assert outputs[0] == outputs[1]


@both
def test_steps_allocate_no_arrays(make, arguments):
    n = 2048  # an array of an entry each is far larger than the calls' own small objects
    env = make(n, copy=False, **arguments)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 10, (40, n))
    for row in actions[:20]:
        env.step(row)
    tracemalloc.start()
    peaks = []
    for row in actions[20:]:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        env.step(row)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert max(peaks) < 8 * n, "less than one array of an entry a sub-environment"
    frames = 2 * sum(
        (space.shape[1:] and int(np.prod(space.shape[1:])) * space.dtype.itemsize) or 1
        for space in env.observation_space.values()
    )
    assert env.bytes_per_env < frames + 2000


@both
def test_the_scripted_player_solves_every_level(make, arguments):
    for level in LEVELS:
        env = make(24, level=level, autoreset_mode="Disabled", **arguments)
        env.reset(seed=2)
        won = np.zeros(24, bool)
        for _ in range(300):
            _, reward, terminated, truncated, _ = env.step(env.oracle_actions())
            won |= reward > 0
            ended = terminated | truncated
            if won.all():
                break
            if ended.any():
                env.reset(options={"reset_mask": ended})
        assert won.all(), level


def test_matched_evaluation():
    """One table gives all three splits; the scripted player has 1 on each, random actions their shipped baseline."""
    opened = []

    def open_batch(num_envs):
        opened.append(ZipfPlayroom2DVector(num_envs, autoreset_mode="Disabled", obs="tiles"))
        return opened[-1]

    env = "byol_ext/ZipfPlayroom2D-v0", {"obs": "tiles"}
    family = option_tasks(env, [{"task": k} for k in range(50)], batched=True)
    family = dataclasses.replace(family, make_batch=open_batch, exponent=2.0)
    scores = evaluate_matched(lambda obs, infos: opened[-1].oracle_actions(), family, 4, 0, oracle=np.ones(50))
    assert [estimate.mean for estimate in scores.splits().values()] == [1.0, 1.0, 1.0]
    known = load_baselines()["lift/lift_shape_zipf2", "2d", "random"]
    random = scores.random.mean()
    assert abs(random - known.success) < 4 * np.hypot(known.error, np.sqrt(known.success / 200))


class TestPlayroomAsDmEnv(test_utils.EnvironmentTestMixin, unittest.TestCase):
    def make_object_under_test(self):
        return envs.to_dm_env(ZipfPlayroom(max_steps=6, size=(12, 16)), seed=0)

    def make_action_sequence(self):
        yield from np.random.default_rng(0).integers(0, 10, 20)


class TestPlayroom2DAsDmEnv(test_utils.EnvironmentTestMixin, unittest.TestCase):
    def make_object_under_test(self):
        return envs.to_dm_env(ZipfPlayroom2D(max_steps=6, obs="both"), seed=0)

    def make_action_sequence(self):
        yield from np.random.default_rng(0).integers(0, 10, 20)


def test_pointing_grips_nothing():
    env = ZipfPlayroom(task="find", size=(12, 16))
    env.reset(seed=0)
    while True:
        action = env.oracle_action()
        *_, terminated, _, info = env.step(action)
        if terminated:
            break
    assert action == GRIP
    assert info["success"]
    assert info["held"] == -1
