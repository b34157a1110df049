"""Zipf's Labyrinth as an environment: interfaces, law, streams, errors."""

import tracemalloc
import warnings
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import register, registry
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import envs
from envs.zipf.labyrinth import LEVELS, ZipfLabyrinth, ZipfLabyrinthVector
from envs.zipf.labyrinth.baselines import oracle

ID = "byol_ext/ZipfLabyrinth-v0"
if ID not in registry:
    register(
        ID,
        entry_point="envs.zipf.labyrinth:ZipfLabyrinth",
        vector_entry_point="envs.zipf.labyrinth:ZipfLabyrinthVector",
    )
TINY = (6, 8)


def arrays(obs, infos):
    parts = {**(obs if isinstance(obs, dict) else {"image": obs}), **infos}
    return {key: value for key, value in parts.items() if isinstance(value, np.ndarray) and value.dtype != object}


def record(env, actions, rows):
    """What the first ``rows`` sub-environments saw, step by step, and how often one of them ended."""
    seen, ends = [arrays(*env.reset(seed=5))], 0
    for action in actions:
        obs, reward, terminated, truncated, infos = env.step(action[: env.num_envs])
        seen.append(arrays(obs, infos) | {"reward": reward, "end": terminated | truncated})
        ends += int((terminated | truncated)[:rows].sum())
    return [{key: value[:rows].copy() for key, value in one.items()} for one in seen], ends


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.parametrize("flat", [False, True])
def test_gymnasium_finds_no_fault(flat):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(ID, flat=flat, disable_env_checker=True).unwrapped
        check_env(env, skip_render_check=True)


def test_gymnasium_makes_both_forms():
    single = gymnasium.make(ID, size=TINY)
    assert isinstance(single.unwrapped, ZipfLabyrinth)
    many = gymnasium.make_vec(ID, num_envs=3, vectorization_mode="vector_entry_point", size=TINY)
    assert isinstance(many.unwrapped, ZipfLabyrinthVector)
    obs, _ = many.reset(seed=0)
    assert obs in many.observation_space
    assert many.single_observation_space == single.observation_space
    assert many.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_observation_is_72_by_96_and_an_instruction():
    env = ZipfLabyrinth()
    obs, info = env.reset(seed=0, options={"task": 5})
    assert obs["image"].shape == (72, 96, 3)
    assert obs["instruction"].dtype == np.int32
    assert env.detokenize(obs["instruction"]) == info["instruction"] != ""
    _, info = env.reset(options={"task": 0})
    assert info["instruction"] == ""


def test_a_single_environment_is_row_0_of_a_batch():
    rng = np.random.default_rng(0)
    single, many = ZipfLabyrinth(size=TINY, levels="lab12"), ZipfLabyrinthVector(3, size=TINY, levels="lab12")
    obs, _ = single.reset(seed=7)
    batch, _ = many.reset(seed=7)
    for _ in range(60):
        np.testing.assert_array_equal(obs["image"], batch["image"][0])
        action = int(rng.integers(9))
        obs, reward, *_ = single.step(action)
        batch, rewards, *_ = many.step(np.full(3, action))
        assert reward == rewards[0]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_trajectories_depend_neither_on_the_batch_nor_on_threads(mode):
    rng, rows, short = np.random.default_rng(1), 2, ["rooms_select_nonmatching_object", "explore_goal_locations_small"]
    actions = rng.integers(9, size=(400, 17))
    runs = []
    for num_envs, threads in ((2, 1), (7, 1), (17, 2)):
        env = ZipfLabyrinthVector(
            num_envs, size=TINY, levels=short, rare=1, num_threads=threads, autoreset_mode=mode, exponent=0.0
        )
        runs.append(record(env, actions, rows))
        env.close()
    assert runs[0][1] > 0
    for one, other in pairwise(runs):
        assert_same(one[0], other[0])


def test_disabled_mode_resets_by_mask_and_refuses_ended_rows():
    env = ZipfLabyrinthVector(3, size=TINY, levels=[LEVELS[2].name], rare=1, autoreset_mode="Disabled")
    env.reset(seed=0)
    for _ in range(LEVELS[2].steps):
        *_, truncated, infos = env.step(np.full(3, 4))
    assert truncated.all()
    assert infos["outcome"].tolist() == ["timeout"] * 3
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(3, int))
    env.reset(options={"reset_mask": np.array([True, True, True])})
    env.step(np.zeros(3, int))


def test_the_same_seed_gives_the_same_episodes_and_another_seed_others():
    runs = []
    for seed in (3, 3, 4):
        env = ZipfLabyrinthVector(16, size=TINY)
        obs, infos = env.reset(seed=seed)
        runs.append((infos["task_id"].tolist(), obs["image"].tobytes()))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_snapshot_goes_on_exactly():
    env = ZipfLabyrinthVector(8, size=TINY, split="uniform")
    env.reset(seed=2)
    actions = np.random.default_rng(0).integers(9, size=(80, 8))
    for action in actions[:30]:
        env.step(action)
    state = env.state()
    first = [arrays(*(x := env.step(action))[::4]) | {"reward": x[1]} for action in actions[30:]]
    env.set_state(state)
    second = [arrays(*(x := env.step(action))[::4]) | {"reward": x[1]} for action in actions[30:]]
    assert_same(first, second)


def draws(**settings):
    env = ZipfLabyrinthVector(4096, size=(1, 1), **settings)
    _, infos = env.reset(seed=0)
    return env, infos


@pytest.mark.parametrize("split", ["zipf", "uniform", "rare"])
def test_levels_are_drawn_by_the_law(split):
    _, infos = draws(split=split)
    by_hand = {
        "zipf": np.arange(1, 31) ** -1.0 / (1 / np.arange(1, 31)).sum(),
        "uniform": np.full(30, 1 / 30),
        "rare": np.where(np.arange(30) >= 24, 1 / 6, 0),
    }[split]
    count = np.bincount(infos["task_id"], minlength=30)
    assert count[by_hand == 0].sum() == 0
    expected = 4096 * by_hand[by_hand > 0]
    chi2 = ((count[by_hand > 0] - expected) ** 2 / expected).sum()
    assert chi2 < len(expected) + 5 * np.sqrt(2 * len(expected))
    np.testing.assert_allclose(infos["task_prob"], by_hand[infos["task_id"]])
    np.testing.assert_array_equal(infos["is_rare"], infos["task_id"] >= 24)


def test_orders_move_the_ranks_and_not_the_levels():
    ranks = {}
    for order, seed in (("forward", None), ("reversed", None), ("permuted", 1), ("permuted", 2)):
        env, infos = draws(order=order, rank_seed=seed)
        assert env.levels == LEVELS
        by_level = np.full(30, -1)
        by_level[infos["level"]] = infos["ranks"][:, 0]
        assert np.bincount(infos["task_id"], minlength=30).argmax() == np.flatnonzero(by_level == 0)[0]
        ranks[order, seed] = by_level[by_level >= 0].tolist()
    assert ranks["forward", None] == list(range(30))
    assert ranks["reversed", None] == list(range(29, -1, -1))
    assert ranks["permuted", 1] != ranks["permuted", 2]


def test_reversed_rare_levels_are_the_rooms_and_the_described_object():
    _, infos = draws(order="reversed", split="rare")
    names = {LEVELS[level].name for level in np.unique(infos["level"])}
    assert names == {level.name for level in LEVELS[:5]} | {"language_select_described_object"}


def test_options_force_the_task_and_switch_the_split():
    env = ZipfLabyrinthVector(4, size=TINY, levels="lab12")
    _, infos = env.reset(seed=0, options={"task": np.array([3, 1, 11, 0])})
    assert infos["task_id"].tolist() == [3, 1, 11, 0]
    assert infos["level"].tolist() == [4, 1, 26, 0]
    _, infos = env.reset(options={"split": "rare"})
    assert (infos["task_id"] >= 10).all()
    _, infos = env.reset()
    assert (infos["task_id"] >= 10).all()
    _, infos = env.reset(options={"task": 2})
    assert (infos["task_id"] == 2).all()


def test_score_sums_the_rewards_and_the_end_tells_the_outcome():
    env = ZipfLabyrinthVector(4, size=TINY, levels=["skymaze_irreversible_path_varied"], rare=1)
    env.reset(seed=0)
    total = np.zeros(4)
    for _ in range(400):
        _, reward, terminated, truncated, infos = env.step(oracle(env))
        total += reward
        if (terminated | truncated).any():
            break
    assert not truncated.any()
    np.testing.assert_array_equal(infos["_outcome"], terminated)
    assert (infos["outcome"][terminated] == "goal").all()
    assert infos["success"][terminated].all()
    np.testing.assert_allclose(infos["score"], total)
    assert (total[terminated] == 100).all()


def test_stepping_allocates_no_array():
    num_envs = 8192
    env = ZipfLabyrinthVector(num_envs, size=(1, 1), copy=False, split="uniform")
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(9, size=(4, num_envs))
    env.step(actions[0])
    most = 0
    tracemalloc.start()
    try:
        for t in range(40):
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            env.step(actions[t % 4])
            most = max(most, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert most < num_envs, "the smallest array, one bool a row, has so many bytes"
    assert env.bytes_per_env < 12_000


def test_render_is_a_larger_view_beside_a_map():
    env = ZipfLabyrinth(render_mode="rgb_array")
    env.reset(seed=0, options={"task": 4})
    first = env.render()
    env.step(5)
    second = env.render()
    assert first.dtype == np.uint8
    assert first.ndim == 3
    assert first.shape[0] >= 288
    assert (first[:288, :384] != second[:288, :384]).any()
    assert (first[:288, 384:] != second[:288, 384:]).any()


def test_to_dm_env_runs_an_episode():
    pytest.importorskip("dm_env")
    view = envs.to_dm_env(ZipfLabyrinth(size=TINY, levels=[LEVELS[2].name], rare=1))
    step, count = view.reset(), 0
    while not step.last():
        step, count = view.step(np.int64(4)), count + 1
    assert count == 180
    assert step.discount == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "rarest"}, "zipf, uniform, rare"),
        ({"exponent": -1.0}, "exponent"),
        ({"exponent": float("nan")}, "exponent"),
        ({"rare": 31}, "1..30"),
        ({"rare": 0.01}, "no item"),
        ({"levels": "lab31"}, "lab30, lab12"),
        ({"levels": ["rooms_of_gold"]}, "rooms_watermaze"),
        ({"levels": ["rooms_watermaze"] * 2}, "different"),
        ({"levels": []}, "at least one"),
        ({"order": "backwards"}, "forward, reversed, permuted"),
        ({"order": "permuted"}, "rank_seed"),
        ({"rank_seed": 3}, "permuted"),
        ({"order": "permuted", "rank_seed": -3}, "rank_seed"),
        ({"law": lambda n: np.ones(n)}, "sum to 1"),
        ({"size": (0, 96)}, "size"),
        ({"render_mode": "ascii"}, "render_mode"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        ZipfLabyrinthVector(2, **settings)


def test_a_law_of_ones_own_wins_over_the_split():
    _, infos = draws(law=lambda n: np.eye(n)[3], split="rare")
    assert (infos["task_id"] == 3).all()


def test_bad_calls():
    env = ZipfLabyrinthVector(2, size=TINY)
    with pytest.raises(ResetNeeded):
        env.step([0, 0])
    for options, message in (
        ({"task": 30}, r"0\.\.29"),
        ({"task": -1}, r"0\.\.29"),
        ({"task": [1, 2, 3]}, "2 of them"),
        ({"task": 1.5}, "integer"),
        ({"split": "x"}, "zipf"),
        ({"tusk": 1}, "tusk"),
    ):
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"actions\[1\]"):
        env.step([0, 9])
    with pytest.raises(ValueError, match="tokens"):
        env.detokenize([10_000])
    env.close()
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        env.reset()
