"""All thirty levels: published facts, a player that can play them, and frames that show it."""

import os
import subprocess
import sys

import numpy as np
import pytest

from envs.zipf.labyrinth import LAB12, LEVELS, ZipfLabyrinthVector, looks
from envs.zipf.labyrinth.baselines import baselines, measure, normalized
from envs.zipf.labyrinth.levels import Mechanic

NAMES = [level.name for level in LEVELS]
# A level of each mechanic; all of them are checked in the slow sweep.
QUICK = (
    "rooms_exploit_deferred_effects_train",
    "rooms_select_nonmatching_object",
    "rooms_keys_doors_puzzle",
    "language_select_described_object",
    "lasertag_three_opponents_small",
    "skymaze_irreversible_path_hard",
    "psychlab_visual_search",
    "explore_object_locations_small",
)


def check_oracle(name, episodes):
    """The oracle beats the random player by three standard errors of the difference."""
    both = measure(name, episodes=episodes, seed=11)
    error = np.sqrt((both.random.std**2 + both.oracle.std**2) / episodes)
    assert both.oracle.mean > both.random.mean + 3 * error
    assert both.oracle.success > 0.95
    return both


@pytest.mark.parametrize("name", QUICK)
def test_the_oracle_plays_each_mechanic_far_better_than_chance(name):
    check_oracle(name, 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_plays_every_level_far_better_than_chance_and_as_shipped(name):
    both, shipped = check_oracle(name, 64), baselines()[name]
    for now, then in ((both.random, shipped.random), (both.oracle, shipped.oracle)):
        error = np.sqrt(now.std**2 / now.episodes + then.std**2 / then.episodes)
        assert abs(now.mean - then.mean) <= 5 * error + 1e-9


def test_the_shipped_baselines_cover_all_levels_and_leave_room():
    known = baselines()
    assert list(known) == NAMES
    for both in known.values():
        error = np.sqrt(both.random.std**2 / both.random.episodes + both.oracle.std**2 / both.oracle.episodes)
        assert both.oracle.mean > both.random.mean + 3 * error
    assert normalized({NAMES[0]: known[NAMES[0]].random.mean}) == {NAMES[0]: 0.0}


def test_names_lengths_and_selections_are_the_published_ones():
    seconds = [60, 60, 12, 120, 60, 60, 120, 120, 60, *[240] * 4, *[120] * 3, 60, 60, *[150] * 4]
    seconds += [90, 120, 90, 120, 90, 120, 90, 120]
    assert [level.seconds for level in LEVELS] == seconds
    assert [level.steps for level in LEVELS] == [15 * s for s in seconds]
    assert [LEVELS.index(level) + 1 for level in LAB12] == [1, 2, 4, 5, 6, 9, 14, 17, 22, 23, 25, 27]
    assert len(set(NAMES)) == 30


def every_level(size=(36, 48), copies=1):
    env = ZipfLabyrinthVector(30 * copies, size=size)
    obs, infos = env.reset(seed=1, options={"task": np.tile(np.arange(30), copies)})
    return env, obs, infos


def test_no_level_ends_at_its_first_step():
    env, _, _ = every_level((1, 1), copies=30)
    _, _, terminated, truncated, _ = env.step(np.random.default_rng(0).integers(9, size=900))
    assert not (terminated | truncated).any()


@pytest.mark.parametrize("action", [4, 5])
def test_frames_differ_when_turning(action):
    env, before, _ = every_level()
    after, *_ = env.step(np.full(30, action))
    changed = (before["image"] != after["image"]).any(-1).mean((1, 2))
    assert (changed > 0.05).all(), [NAMES[k] for k in np.flatnonzero(changed <= 0.05)]


def test_a_full_turn_comes_back_to_the_same_frame():
    env, before, _ = every_level()
    quiet = [k for k, level in enumerate(LEVELS) if level.mechanic not in (Mechanic.TAG, Mechanic.TRIALS)]
    for _ in range(24):
        after, *_ = env.step(np.full(30, 4))
    np.testing.assert_array_equal(before["image"][quiet], after["image"][quiet])


def test_what_is_drawn_is_in_the_atlas():
    atlas = looks.labyrinth_atlas()
    assert len(looks.MATERIALS) == looks.CODES
    assert len(atlas.sprite) == looks.SPRITES
    env, _, _ = every_level((1, 1), copies=20)
    rng = np.random.default_rng(0)
    for _ in range(60):
        assert env._state.things["texture"].max() < looks.SPRITES
        assert env._state.things["texture"].min() >= -1
        assert env._state.cells.max() < looks.CODES
        env.step(rng.integers(9, size=600))


def test_the_agent_never_stands_in_a_wall_or_a_hole():
    env, _, _ = every_level((1, 1), copies=4)
    rng = np.random.default_rng(0)
    for _ in range(300):
        env.step(rng.integers(9, size=120))
        agents, e = env._state.agents, np.arange(120)
        assert looks.CAN_STAND[env._state.cells[e, agents.y.astype(int), agents.x.astype(int)]].all()


def test_compiled_and_plain_python_play_alike():
    script = (
        "import hashlib, warnings, numpy as np\n"
        "warnings.simplefilter('ignore')\n"
        "from envs.zipf.labyrinth import ZipfLabyrinthVector\n"
        "from envs.zipf.labyrinth.baselines import oracle\n"
        "env, sha = ZipfLabyrinthVector(30, size=(3, 4)), hashlib.sha256()\n"
        "rng = np.random.default_rng(0)\n"
        "obs, infos = env.reset(seed=3, options={'task': np.arange(30)})\n"
        "for _ in range(40):\n"
        "    action = np.where(rng.random(30) < 0.3, rng.integers(9, size=30), oracle(env))\n"
        "    obs, reward, *_, infos = env.step(action)\n"
        "    for array in (*obs.values(), reward, infos['cell'], infos['score']):\n"
        "        sha.update(array.tobytes())\n"
        "print(sha.hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "NUMBA_DISABLE_JIT": flag},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for flag in ("0", "1")
    ]
    assert runs[0] == runs[1] != ""
