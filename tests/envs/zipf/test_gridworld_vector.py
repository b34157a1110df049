import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs  # noqa: F401 (registers the ids)
from envs.zipf.gridworld import ZipfGridworld, ZipfGridworldVector

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
ACTIONS = np.random.default_rng(0).integers(0, 8, (80, 64))


def rollout(num_envs, mode, steps=60, *, rows=7, **arguments):
    """All that is returned, for the first rows, as one list of arrays a step."""
    env = ZipfGridworldVector(num_envs, obs="tiles", max_steps=20, autoreset_mode=mode, **arguments)
    obs, infos = env.reset(seed=11)
    trace = [(obs["tiles"][:rows].copy(), infos["task_id"][:rows].copy())]
    for actions in ACTIONS[:steps, :num_envs]:
        obs, reward, terminated, truncated, infos = env.step(actions)
        trace.append((obs["tiles"][:rows].copy(), obs["cue"][:rows].copy(), reward[:rows].copy()))
        trace.append((terminated[:rows].copy(), truncated[:rows].copy(), infos["task_prob"][:rows].copy()))
        trace.append((infos["ranks"][:rows].copy(), infos["outcome"][:rows].copy(), infos["_outcome"][:rows].copy()))
        ended = terminated | truncated
        if mode is AutoresetMode.DISABLED and ended.any():
            obs, infos = env.reset(options={"reset_mask": ended})
            trace.append((obs["tiles"][:rows].copy(), infos["cell"][:rows].copy()))
    env.close()
    return trace


def assert_same(first, second, rows):
    assert len(first) >= len(second)
    for ours, theirs in zip(first, second, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one[:rows], other[:rows])


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    "arguments", [{"num_threads": 2}, {"num_threads": 5}, {"copy": False}, {"copy": False, "buffers": 3}], ids=str
)
def test_trajectories_do_not_depend_on_threads_and_buffers(mode, arguments):
    assert_same(rollout(64, mode), rollout(64, mode, **arguments), 7)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=str)
@pytest.mark.parametrize("num_envs", [1, 7])
def test_trajectories_do_not_depend_on_their_number(mode, num_envs):
    assert_same(rollout(64, mode), rollout(num_envs, mode), num_envs)


def test_partial_resets_do_not_depend_on_the_number_either():
    """Rows that go on return what they returned last, so only their steps can be compared."""
    many, few = (rollout(n, AutoresetMode.DISABLED, rows=1) for n in (64, 1))
    steps = [[item for item in trace if len(item) == 3] for trace in (many, few)]
    assert_same(*steps, 1)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("obs", ["pixels", "tiles", "both"])
def test_gymnasiums_vector_of_single_environments_agrees(mode, obs):
    """With one task there is nothing to draw, and both must return the same in every mode."""
    settings = {"num_maps": 1, "num_objects": 1, "rare": 1.0, "max_steps": 15, "obs": obs}
    ours = ZipfGridworldVector(4, autoreset_mode=mode, **settings)
    theirs = SyncVectorEnv([lambda: ZipfGridworld(**settings)] * 4, autoreset_mode=mode)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.action_space == theirs.action_space
    compare_observations(ours.reset(seed=0)[0], theirs.reset(seed=0)[0])
    for actions in ACTIONS[:60, :4]:
        (obs_1, *rest_1, infos_1), (obs_2, *rest_2, infos_2) = ours.step(actions), theirs.step(actions)
        compare_observations(obs_1, obs_2)
        for one, other in zip(rest_1, rest_2, strict=True):
            np.testing.assert_array_equal(one, other)
        compare_infos(infos_1, infos_2)
        ended = rest_1[1] | rest_1[2]
        if mode is AutoresetMode.DISABLED and ended.any():
            options = {"reset_mask": ended}
            compare_observations(ours.reset(options=options)[0], theirs.reset(options=options)[0])
    theirs.close()


def compare_observations(ours, theirs):
    for key in theirs:
        np.testing.assert_array_equal(ours[key], theirs[key])
        assert ours[key].dtype == theirs[key].dtype


def compare_infos(ours, theirs):
    for key, value in theirs.items():
        if key.startswith("_"):
            np.testing.assert_array_equal(ours[key], value)
        elif key == "final_info":
            compare_infos(ours[key], value)
        elif key == "final_obs":
            for one, other in zip(ours[key], value, strict=True):
                if other is not None:
                    compare_observations(one, other)
        else:
            mask = theirs[f"_{key}"]
            np.testing.assert_array_equal(ours[key][mask], np.stack([*value[mask]]) if mask.any() else ours[key][mask])


def test_every_row_is_the_independent_game(reference):
    env = ZipfGridworldVector(16, split="uniform", obs="both", max_steps=25)
    games = [reference(env.world.maps, max_steps=25) for _ in range(16)]
    obs, infos = env.reset(seed=4)
    over = np.ones(16, bool)
    for actions in ACTIONS[:60, :16]:
        for e, game in enumerate(games):
            if over[e]:
                game.reset(*divmod(int(infos["task_id"][e]), 20))
            codes, cue = game.tiles()
            np.testing.assert_array_equal(obs["tiles"][e], codes)
            np.testing.assert_array_equal(obs["image"][e], game.image())
            assert obs["cue"][e] == cue
        obs, reward, terminated, truncated, infos = env.step(actions)
        over[:] = False
        for e, game in enumerate(games):
            if game.ended:
                assert (reward[e], terminated[e], truncated[e]) == (0, False, False)
                game.ended, over[e] = False, True
                continue
            *expected, outcome = game.step(int(actions[e]))
            assert [reward[e], terminated[e], truncated[e]] == expected
            game.ended = outcome is not None
            assert infos["_outcome"][e] == game.ended
            assert infos["outcome"][e] == (outcome or "")


def test_make_vec_takes_the_fast_path():
    env = gymnasium.make_vec("byol_ext/ZipfGridworld-v0", num_envs=3, obs="tiles", split="rare")
    assert isinstance(env.unwrapped, ZipfGridworldVector)
    _, infos = env.reset(seed=0)
    assert infos["is_rare"].all()
    env.close()


def test_seeds():
    env = ZipfGridworldVector(4, split="uniform", obs="tiles")
    first, again, other = (env.reset(seed=seed)[1]["task_id"].tolist() for seed in (1, 1, 2))
    assert first == again != other
    # A list keys each row with its own seed, as a single environment would be.
    listed = env.reset(seed=[1, 1, 2, 2])[1]["task_id"]
    assert listed[0] == listed[1] == first[0]
    assert listed[2] == listed[3] == other[0]


def test_options():
    env = ZipfGridworldVector(3, obs="tiles")
    _, infos = env.reset(seed=0, options={"task": (2, 5)})
    assert infos["task_id"].tolist() == [45] * 3
    _, infos = env.reset(options={"task": np.array([[0, 0], [1, 1], [2, 2]]), "split": "rare"})
    assert infos["task_id"].tolist() == [0, 21, 42]
    assert infos["task_prob"].tolist() == [0, 0, 0]
    _, infos = env.reset(options={"task": (9, 9), "reset_mask": np.array([False, True, False])})
    assert infos["task_id"].tolist() == [0, 189, 42]
    _, infos = env.reset()
    assert infos["is_rare"].all()
    assert (infos["task_prob"] == 1 / 16).all()


def test_a_forced_task_holds_for_one_episode():
    env = ZipfGridworldVector(64, split="rare", obs="tiles", max_steps=1)
    env.reset(seed=0, options={"task": (0, 0)})
    env.step(ACTIONS[0])
    *_, infos = env.step(ACTIONS[1])
    assert infos["is_rare"].all()


def test_snapshots():
    env = ZipfGridworldVector(5, obs="tiles", max_steps=5)
    env.reset(seed=0, options={"split": "uniform"})
    env.step(ACTIONS[0, :5])
    snapshot = env.state()

    def run(one):
        return [[x.tolist() for x in (o["tiles"], r)] for o, r, *_ in (one.step(a[:5]) for a in ACTIONS[1:20])]

    first = run(env)
    env.set_state(snapshot)
    assert run(env) == first
    other = ZipfGridworldVector(5, obs="tiles", max_steps=5)
    other.set_state(snapshot)
    assert other.split == "uniform"
    assert run(other) == first


@pytest.mark.parametrize("obs", ["pixels", "tiles"])
def test_memory_is_what_the_docstring_says(obs):
    env = ZipfGridworldVector(64, obs=obs, copy=False)
    assert env.bytes_per_env == pytest.approx({"pixels": 24_040, "tiles": 325}[obs], abs=5)


def test_float_pixels_are_the_same_pixels():
    ints, floats = ZipfGridworldVector(8), ZipfGridworldVector(8, dtype="float32", flat=True)
    ints.reset(seed=0), floats.reset(seed=0)
    for actions in ACTIONS[:30, :8]:
        image, flat = ints.step(actions)[0]["image"], floats.step(actions)[0]
        np.testing.assert_array_equal(flat, image.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([0, 8, 9]), r"actions\[1\]"),
        (np.array([0, 0, -1]), r"actions\[2\]"),
        (np.zeros(3), "integers"),
        (np.zeros(2, np.int64), "shape"),
        (np.zeros((3, 1), np.int64), "shape"),
    ],
)
def test_bad_actions(actions, message):
    env = ZipfGridworldVector(3)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=message):
        env.step(actions)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"task": (20, 0)}, ValueError),
        ({"task": [(0, 0), (0, 0)]}, ValueError),
        ({"task": [(0, 0), (0, 0), (0, 20)]}, ValueError),
        ({"split": "easy"}, ValueError),
        ({"taks": (0, 0)}, ValueError),
        ({"reset_mask": [True, False, False]}, TypeError),
        ({"reset_mask": np.zeros(3, bool)}, ValueError),
        ({"reset_mask": np.ones(2, bool)}, ValueError),
        ({"reset_mask": np.ones(3, np.int64)}, TypeError),
    ],
    ids=str,
)
def test_bad_options(options, error):
    env = ZipfGridworldVector(3)
    env.reset(seed=0)
    before = env.state()
    with pytest.raises(error):
        env.reset(options=options)
    for key, value in env.state().items():
        np.testing.assert_array_equal(value, before[key])


def test_wrong_order_of_calls():
    env = ZipfGridworldVector(2, max_steps=1, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(2, np.int64))
    env.reset(seed=0)
    env.step(np.zeros(2, np.int64))
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(2, np.int64))
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step(np.zeros(2, np.int64))):
        with pytest.raises(ClosedEnvironmentError):
            call()


@pytest.mark.parametrize("arguments", [{"num_envs": 0}, {"copy": False, "buffers": 1}, {"autoreset_mode": "later"}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError):
        ZipfGridworldVector(**{"num_envs": 2, **arguments})
