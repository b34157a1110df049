"""ZipfTasks on toy environments: law, allocation, engines, seeds, spaces, errors."""

import math
import warnings
from fractions import Fraction
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs._resize import AreaResize
from envs.families.draws import EpisodeDraws
from envs.tasks import (
    Task,
    TaskFamily,
    TaskLaw,
    ZipfTasks,
    ZipfTasksVector,
    allocate_slots,
    option_tasks,
    task_family,
)
from envs.zipf.law import cumulative, zipf


class Toy(gymnasium.Env):
    """Says which task it is; lengths, rewards and observations are drawn from its own stream."""

    open_now = 0
    events: list[str] = []  # noqa: RUF012

    def __init__(self, name=0, *, actions=3, observation_space=None):
        self.name, self.taken = name, []
        self.observation_space = observation_space or Box(0, 255, (2,), np.uint8)
        self.action_space = Discrete(actions)
        Toy.open_now += 1
        Toy.events.append(f"open {name}")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.asked = options
        self.left = int(self.np_random.integers(1, 6))
        return self._obs(), {"left": self.left}

    def step(self, action):
        self.taken.append(int(action))
        self.left -= 1
        return self._obs(), float(self.np_random.random()), self.left == 0, False, {"left": self.left}

    def close(self):
        Toy.open_now -= 1
        Toy.events.append(f"close {self.name}")

    def _obs(self):
        if self.observation_space.shape == (2,):
            return np.array([self.name, self.np_random.integers(256)], np.uint8)
        return self.np_random.integers(256, size=self.observation_space.shape).astype(np.uint8)


@pytest.fixture(autouse=True)
def _fresh_counts():
    Toy.open_now, Toy.events = 0, []


def toys(n, **kwargs):
    return [Task(f"toy {k}", partial(Toy, k, **kwargs), engine=k) for k in range(n)]


def play(env, seed, steps=40, row=None):
    """Rewards, first observations and task ids of one row."""
    rng = np.random.default_rng(0)
    actions = rng.integers(3, size=(steps, 64))
    obs, infos = env.reset(seed=seed)
    seen = [(obs[row].tolist(), 0.0, int(infos["task_id"][row]))]
    for t in range(steps):
        obs, reward, terminated, _, infos = env.step(actions[t, : env.num_envs])
        seen.append((obs[row].tolist(), float(reward[row]), int(infos["task_id"][row]), bool(terminated[row])))
    return seen


# The law.


def test_product_law_multiplies_and_rare_is_rare_in_every_factor():
    law = TaskLaw((20, 20), exponent=2.0)
    joint = law.probabilities("zipf").reshape(20, 20)
    np.testing.assert_allclose(joint, np.outer(zipf(20, 2.0), zipf(20, 2.0)), rtol=1e-12)
    assert math.isclose(joint[0, 0], 0.3925051762686, rel_tol=1e-9)
    rare = law.is_rare.reshape(20, 20)
    assert rare.sum() == 16
    assert rare[16:, 16:].all()
    assert math.isclose(joint[rare].sum(), 5.480732145e-05, rel_tol=1e-9)
    assert law.probabilities("rare")[law.is_rare].sum() == pytest.approx(1)
    assert law.ranks[20 * 3 + 5].tolist() == [3, 5]


def test_ranks_are_those_of_the_gridworld_with_the_same_rank_seed():
    world = gymnasium.make("byol_ext/ZipfGridworld-v0", num_maps=6, num_objects=6, rank_seed=7, obs="tiles")
    law = TaskLaw((6, 6), exponent=2.0, rank_seed=7)
    for task in ((0, 0), (2, 5), (4, 1)):
        _, info = world.reset(seed=0, options={"task": task})
        assert law.ranks[info["task_id"]].tolist() == info["ranks"].tolist()
        assert law.probabilities("zipf")[info["task_id"]] == pytest.approx(info["task_prob"])
        assert law.is_rare[info["task_id"]] == info["is_rare"]


def test_each_factor_can_have_its_own_rare_share():
    law = TaskLaw((12, 2), exponent=1.0, rare=(0.25, 1))
    assert law.is_rare.reshape(12, 2).tolist() == [[False, i >= 9] for i in range(12)]


def test_rank_seed_permutes_frequencies_only():
    plain, permuted = TaskLaw((7, 3), exponent=1.0, rare=1), TaskLaw((7, 3), exponent=1.0, rare=1, rank_seed=4)
    assert sorted(plain.probabilities("zipf")) == pytest.approx(sorted(permuted.probabilities("zipf")))
    assert plain.probabilities("zipf").tolist() != permuted.probabilities("zipf").tolist()
    np.testing.assert_allclose(permuted.probabilities("zipf")[permuted.order], plain.probabilities("zipf")[plain.order])


@pytest.mark.parametrize("split", ["zipf", "uniform", "rare"])
def test_tasks_are_drawn_by_the_law(split):
    probability = TaskLaw((10,), exponent=1.0).probabilities(split)
    draws, episodes, slots = EpisodeDraws(20), 300, 20
    draws.seed(3)
    tasks = np.concatenate([draws.draw(np.ones(slots, bool), cumulative(probability))[0] for _ in range(episodes)])
    seen, expected = np.bincount(tasks, minlength=10), probability * episodes * slots
    assert (seen[expected == 0] == 0).all()
    kept = expected > 0
    chi2, freedom = ((seen - expected)[kept] ** 2 / expected[kept]).sum(), kept.sum() - 1
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)


# Static allocation.


def hamilton(probability, n):
    """Largest remainder in exact arithmetic."""
    quota = [Fraction(p).limit_denominator(10**12) * n for p in probability]
    slots = [math.floor(q) for q in quota]
    by_remainder = sorted(range(len(quota)), key=lambda k: (-(quota[k] - slots[k]), k))
    for k in by_remainder[: n - sum(slots)]:
        slots[k] += 1
    return slots


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("num_envs", [20, 21, 64, 257])
def test_allocation_sums_and_is_largest_remainder(exponent, num_envs):
    law = zipf(20, exponent)
    for least in (0, 1):
        slots = allocate_slots(law, num_envs, least)
        assert slots.sum() == num_envs
        assert (slots >= least).all()
        assert (np.diff(slots) <= 0).all()
    if exponent:  # equal remainders, where rounding decides, are left out
        assert allocate_slots(law, num_envs, 0).tolist() == hamilton(law.tolist(), num_envs)


def test_tasks_outside_the_split_get_no_slot():
    law = TaskLaw((10,), exponent=1.0).probabilities("rare")
    assert allocate_slots(law, 7).tolist() == [0] * 8 + [4, 3]


def test_too_few_slots_says_how_many_are_needed():
    with pytest.raises(ValueError, match=r"3 slots are too few for 5 tasks with at least 1 each.*num_envs of 5"):
        ZipfTasksVector(toys(5), 3, allocation="static")
    with pytest.raises(ValueError, match="min_slots must be at least 0, got -1"):
        allocate_slots(zipf(5, 1.0), 8, -1)


@pytest.mark.parametrize("batched", [False, True])
def test_importance_weights_make_the_slots_unbiased(batched):
    tasks = toys(5)
    if batched:
        tasks = [Task(task.name, make_many=lambda n, task=task: SyncVectorEnv([task.make] * n)) for task in tasks]
    env = ZipfTasksVector(tasks, 13, allocation="static", exponent=1.5)
    _, infos = env.reset(seed=0)
    for _ in range(30):
        assert infos["task_id"].tolist() == np.repeat(np.arange(5), env.slots).tolist()
        assert infos["importance_weight"].mean() == pytest.approx(1)
        values = np.array([3.0, -1.0, 4.0, 1.0, -5.0])
        weighted = (infos["importance_weight"] * values[infos["task_id"]]).mean()
        assert weighted == pytest.approx(values @ env.law.probabilities("zipf"))
        obs, _, _, _, infos = env.step(np.zeros(13, int))
        assert obs[:, 0].tolist() == infos["task_id"].tolist()
    env.close()
    assert Toy.open_now == 0


def test_static_allocation_over_batches_takes_one_seed_and_repeats_itself():
    tasks = [Task(f"{k}", make_many=lambda n, k=k: SyncVectorEnv([partial(Toy, k)] * n)) for k in range(3)]
    runs = []
    for _ in range(2):
        env = ZipfTasksVector(tasks, 6, allocation="static", rare=1)
        runs.append(play(env, 5, row=4))
        with pytest.raises(ValueError, match="one seed for all"):
            env.reset(seed=[1] * 6)
        env.close()
    assert runs[0] == runs[1]


def test_batches_must_reset_on_the_next_step():
    wrong = partial(SyncVectorEnv, autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match="'same': its vector environment must auto-reset by NEXT_STEP"):
        ZipfTasksVector([Task("same", make_many=lambda n: wrong([Toy] * n))], 2, allocation="static", rare=1)


# Engines.


def test_open_engines_are_bounded_and_the_least_recently_used_closes():
    env = ZipfTasks(toys(6), max_open=2, rare=1)
    env.reset(seed=0)
    Toy.events.clear()
    for k in (0, 1, 0, 2, 0, 1):
        env.reset(options={"task": k})
        assert Toy.open_now == env.num_open <= 2
    assert [event for event in Toy.events if event[-1] in "012"][-4:] == ["close 1", "open 2", "close 2", "open 1"]
    env.close()
    env.close()
    assert Toy.open_now == 0


def test_vector_keeps_max_open_and_shares_engines():
    env = ZipfTasksVector(toys(8), 4, max_open=5, split="uniform", rare=1)
    env.reset(seed=0)
    for _ in range(60):
        env.step(np.zeros(4, int))
        assert Toy.open_now == env.num_open <= 5
    env.close()
    assert Toy.open_now == 0
    with pytest.raises(ValueError, match="max_open must be at least the 4 slots that play at once, got 3"):
        ZipfTasksVector(toys(8), 4, max_open=3, rare=1)


def test_one_engine_plays_all_reset_options():
    family = option_tasks(partial(Toy, 9), [{"level": k} for k in range(3)])
    env = ZipfTasks(family, rare=1)
    for k in range(3):
        env.reset(seed=k, options={"task": k})
        assert env._env.asked == {"level": k}
    assert Toy.events == ["open 9"]


def test_a_task_that_is_a_seed_is_always_the_same_world():
    family = TaskFamily(tuple(Task(f"seed {s}", Toy, engine="toy", seed=s) for s in (5, 6)), rare=1)
    env = ZipfTasks(family, split="uniform")
    worlds = {0: set(), 1: set()}
    for episode in range(20):
        obs, info = env.reset(seed=episode)
        worlds[info["task_id"]].add(tuple(obs.tolist()))
    assert [len(seen) for seen in worlds.values()] == [1, 1]
    assert worlds[0] != worlds[1]
    assert Toy.events == ["open 0"]


# Streams and steps.


def test_trajectories_do_not_depend_on_the_number_of_sub_environments():
    for row in (0, 2):
        runs = [play(ZipfTasksVector(toys(6), n, rare=1), 11, row=row) for n in (3, 7, 20)]
        assert runs[0] == runs[1] == runs[2]
    others = [play(ZipfTasksVector(toys(6), 3, rare=1), 11, row=row) for row in (0, 1)]
    assert others[0] != others[1]


def test_threads_do_not_matter():
    runs = [play(ZipfTasksVector(toys(6), 5, rare=1, num_threads=t), 2, row=4) for t in (1, 2)]
    assert runs[0] == runs[1]


def test_single_is_sub_environment_0_and_seed_lists_are_single_seeds():
    batch = ZipfTasksVector(toys(6), 2, rare=1)
    batch_obs, batch_infos = batch.reset(seed=[7, 8])
    for row, seed in enumerate((7, 8)):
        single = ZipfTasks(toys(6), rare=1)
        obs, info = single.reset(seed=seed)
        assert obs.tolist() == batch_obs[row].tolist()
        assert info["task_id"] == batch_infos["task_id"][row]
        single.close()
    batch_obs, _ = batch.reset(seed=7)
    assert batch_obs[0].tolist() == ZipfTasks(toys(6), rare=1).reset(seed=7)[0].tolist()


def test_seeded_runs_repeat_and_later_resets_go_on():
    env = ZipfTasks(toys(6), rare=1)
    run = [env.reset(seed=3)[1]["task_id"], *(env.reset()[1]["task_id"] for _ in range(20))]
    again = [env.reset(seed=3)[1]["task_id"], *(env.reset()[1]["task_id"] for _ in range(20))]
    assert run == again
    assert len(set(run)) > 2


def test_ended_rows_reset_on_the_next_step_and_ignore_the_action():
    env = ZipfTasksVector(toys(4), 6, rare=1)
    env.reset(seed=1)
    ended = np.zeros(6, bool)
    for _ in range(50):
        actions = np.where(ended, 99, 1)
        obs, reward, terminated, truncated, infos = env.step(actions)
        assert (reward[ended] == 0).all()
        assert not (terminated | truncated)[ended].any()
        assert (reward[~ended] > 0).all()
        assert obs[:, 0].tolist() == infos["task_id"].tolist()
        assert (infos["left"] == 0).tolist() == terminated.tolist()
        ended = terminated | truncated
    assert set(infos) >= {"task_id", "_task_id", "ranks", "task_prob", "is_rare", "importance_weight", "_left"}


def test_infos_of_a_task():
    env = ZipfTasks(toys(6), factors=(3, 2), exponent=2.0, rare=(1, 1))
    _, info = env.reset(seed=0, options={"task": (2, 1)})
    assert (info["task_id"], info["ranks"].tolist(), info["is_rare"], info["importance_weight"]) == (5, [2, 1], True, 1)
    assert info["task_prob"] == pytest.approx(zipf(3, 2.0)[2] * zipf(2, 2.0)[1])
    _, info = env.reset(options={"split": "rare"})
    assert info["task_id"] == 5
    assert env.reset()[1]["task_prob"] == 1.0


def test_vector_options():
    env = ZipfTasksVector(toys(6), 2, factors=(3, 2), rare=(1, 1))
    assert env.reset(seed=0, options={"task": (1, 1)})[1]["task_id"].tolist() == [3, 3]
    assert env.reset(options={"task": [(0, 1), (2, 0)]})[1]["task_id"].tolist() == [1, 4]
    assert env.reset(options={"task": 4})[1]["task_id"].tolist() == [4, 4]
    assert env.reset(options={"split": "rare"})[1]["task_id"].tolist() == [5, 5]
    flat = ZipfTasksVector(toys(6), 2, rare=1)
    assert flat.reset(options={"task": [3, 2]})[1]["task_id"].tolist() == [3, 2]


def test_single_passes_gymnasiums_checker():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(ZipfTasks(toys(5)), skip_render_check=True)


# Spaces.


def test_padded_actions_do_nothing():
    tasks = [
        Task("few", partial(Toy, 0, actions=2), engine=0, noop=1),
        Task("many", partial(Toy, 1, actions=5), engine=1),
    ]
    env = ZipfTasks(tasks, pad_actions=True, rare=1)
    assert env.action_space == Discrete(5)
    for task, expected in ((0, [0, 1, 1]), (1, [0, 1, 4])):
        taken = []
        for action in (0, 1, 4):
            env.reset(seed=2, options={"task": task})
            env.step(action)
            taken.append(env._env.taken[-1])
        assert taken == expected
    with pytest.raises(InvalidAction):
        env.step(5)


def test_padded_actions_do_nothing_in_batches_either():
    made = {}

    def make_many(n, actions):
        made[actions] = SyncVectorEnv([partial(Toy, 0, actions=actions)] * n)
        return made[actions]

    tasks = [Task(f"{n}", noop=1, make_many=partial(make_many, actions=n)) for n in (2, 5)]
    env = ZipfTasksVector(tasks, 4, allocation="static", min_slots=2, pad_actions=True, rare=1)
    env.reset(seed=0)
    env.step([0, 4, 0, 4])
    assert [engine.taken for n in (2, 5) for engine in made[n].envs] == [[0], [1], [0], [4]]


PICTURES = {
    "hwc": Box(0, 255, (21, 16, 3), np.uint8),
    "chw": Box(0, 255, (3, 21, 16), np.uint8),
    "hw": Box(0, 255, (21, 16), np.uint8),
}


def engine_seed(seed):
    """Of the first episode of a single environment."""
    draws = EpisodeDraws(1)
    draws.seed(seed)
    return int(draws.draw(np.ones(1, bool), np.ones(1))[1][0])


@pytest.mark.parametrize("layout", PICTURES)
def test_pictures_are_shrunk_and_grey(layout):
    space = PICTURES[layout]
    make = partial(Toy, 0, observation_space=space)
    env = ZipfTasks([make], resize=(7, 8), grayscale=True, rare=1)
    expected_shape = {"hwc": (7, 8, 1), "chw": (1, 7, 8), "hw": (7, 8)}[layout]
    assert env.observation_space == Box(0, 255, expected_shape, np.uint8)
    obs, _ = env.reset(seed=0)
    original, _ = env._env.reset(seed=engine_seed(0))
    last = original if layout == "hwc" else np.moveaxis(original, 0, -1) if layout == "chw" else original[..., None]
    grey = (
        np.rint(last.astype(np.float32) @ np.float32([0.2125, 0.7154, 0.0721])) if last.shape[-1] == 3 else last[..., 0]
    )
    np.testing.assert_array_equal(obs.reshape(7, 8), AreaResize((21, 16), (7, 8))(grey.astype(np.uint8)))


def test_batches_are_adapted_as_single_pictures_are():
    make = partial(Toy, 0, observation_space=PICTURES["hwc"])
    single = ZipfTasks([make], resize=(7, 8), grayscale=True, rare=1)
    batch = single._spaces
    pictures = np.random.default_rng(0).integers(256, size=(4, 21, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        batch.observation(0, pictures), np.stack([batch.observation(0, one) for one in pictures])
    )


def test_only_pictures_of_a_dictionary_are_adapted():
    space = Dict({"image": PICTURES["hwc"], "vector": Box(0, 1, (3,), np.float32)})
    family = task_family([partial(Toy, 0, observation_space=space)])
    env = ZipfTasks(family, resize=(7, 8), rare=1)
    assert env.observation_space["image"].shape == (7, 8, 3)
    assert env.observation_space["vector"] == space["vector"]


@pytest.mark.parametrize(
    ("second", "settings", "message"),
    [
        (
            {"actions": 5},
            {},
            "tasks 'a' and 'b' have different action spaces: Discrete(3) and Discrete(5); pad_actions",
        ),
        (
            {"observation_space": Box(0, 255, (3,), np.uint8)},
            {},
            "tasks 'a' and 'b' have different observation spaces: Box(0, 255, (2,), uint8) and Box(0, 255, (3,)",
        ),
        ({}, {"resize": (2, 2)}, "resize and grayscale need uint8 pictures"),
        ({}, {"grayscale": True}, "but task 'a' has Box(0, 255, (2,), uint8)"),
        ({}, {"resize": (0, 2)}, "resize must be a positive height and width, got (0, 2)"),
    ],
)
def test_spaces_that_differ_name_both_tasks(second, settings, message):
    tasks = [Task("a", Toy, engine="a"), Task("b", partial(Toy, **second), engine="b")]
    with pytest.raises(ValueError) as error:
        ZipfTasks(tasks, rare=1, **settings)
    assert message in str(error.value)
    assert Toy.open_now == 0


def test_dictionaries_that_differ_name_the_key():
    spaces = [Dict({"image": PICTURES["hw"], "code": Discrete(n)}) for n in (3, 4)]
    tasks = [Task(f"{k}", partial(Toy, observation_space=space), engine=k) for k, space in enumerate(spaces)]
    with pytest.raises(ValueError, match=r"'code' is Discrete\(3\) and Discrete\(4\)"):
        ZipfTasks(tasks, rare=1)


def test_pictures_are_not_enlarged():
    with pytest.raises(ValueError, match=r"resize=\(84, 84\) can only shrink pictures, but task 'small'"):
        ZipfTasks([Task("small", partial(Toy, observation_space=PICTURES["hwc"]))], resize=(84, 84), rare=1)


# Bad input.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exponent": -1.0}, "exponent must be finite and >= 0"),
        ({"exponent": math.nan}, "exponent must be finite"),
        ({"rare": 0.1}, "rare=0.1 of 5 items is no item"),
        ({"rare": 6}, "must lie in 1..5, got 6"),
        ({"rare": (1, 1)}, "rare must be one value or 1"),
        ({"split": "zipfian"}, "unknown split 'zipfian'; known: zipf, uniform, rare"),
        ({"factors": (2, 3)}, r"factors (2, 3) make 6 tasks, got 5 tasks"),
        ({"max_open": 0}, "max_open must be at least"),
    ],
)
@pytest.mark.parametrize("make", [ZipfTasks, lambda tasks, **kw: ZipfTasksVector(tasks, 2, **kw)])
def test_bad_settings(make, settings, message):
    with pytest.raises(ValueError) as error:
        make(toys(5), **settings)
    assert message in str(error.value)


def test_bad_families():
    with pytest.raises(ValueError, match="at least one task"):
        ZipfTasks([])
    with pytest.raises(TypeError, match="task 1 must be an id"):
        ZipfTasks(["CartPole-v1", 3])
    with pytest.raises(TypeError, match="sequence of ids"):
        ZipfTasks("CartPole-v1")
    with pytest.raises(ValueError, match="unknown allocation 'dynamic'; known: per_episode, static"):
        ZipfTasksVector(toys(5), 2, allocation="dynamic")
    with pytest.raises(ValueError, match="num_envs must be at least 1"):
        ZipfTasksVector(toys(5), 0)
    with pytest.raises(ValueError, match=r"'batch' has no single environment.*static"):
        ZipfTasks([Task("batch", make_many=lambda n: SyncVectorEnv([Toy] * n))], rare=1)
    with pytest.raises(ValueError, match="batched=True needs the id"):
        option_tasks(Toy, [{}], batched=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": 5}, "at least 0 and below 5, got 5"),
        ({"task": -1}, "at least 0 and below 5"),
        ({"task": 1.0}, "must be integers"),
        ({"task": (1, 2, 3)}, "must be integers of one of the shapes"),
        ({"level": 3}, "unknown reset options ['level']; known: task, split"),
        ({"split": "all"}, "unknown split 'all'"),
    ],
)
def test_bad_options(options, message):
    for env in (ZipfTasks(toys(5)), ZipfTasksVector(toys(5), 2)):
        with pytest.raises(ValueError) as error:
            env.reset(seed=0, options=options)
        assert message in str(error.value)
    with pytest.raises(ValueError, match="static allocation fixes tasks and split"):
        ZipfTasksVector(toys(5), 5, allocation="static").reset(options=options)


def test_bad_actions_and_life_cycle():
    env = ZipfTasksVector(toys(5), 3)
    with pytest.raises(ResetNeeded):
        env.step([0, 0, 0])
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"actions\[1\] must be in 0..2, got 3"):
        env.step([0, 3, -1])
    with pytest.raises(InvalidAction, match="must be integers, got dtype float64"):
        env.step([0.0, 1.0, 2.0])
    with pytest.raises(InvalidAction, match=r"must have shape \(3,\), got \(2,\)"):
        env.step([0, 1])
    with pytest.raises(ValueError, match="one seed for each of 3"):
        env.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="at least 0, got -1"):
        env.reset(seed=[1, 2, -1])
    env.close()
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        env.reset()
    single = ZipfTasks(toys(5))
    with pytest.raises(ResetNeeded):
        single.step(0)
    single.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"action must be in Discrete\(3\), got 7"):
        single.step(7)
    while not single.step(0)[2]:
        pass
    with pytest.raises(ResetNeeded):
        single.step(0)
    single.close()
    with pytest.raises(ClosedEnvironmentError):
        single.reset()


def test_gymnasium_ids_and_arguments():
    env = ZipfTasksVector(["CartPole-v1", ("CartPole-v1", {"max_episode_steps": 5})], 2, rare=1)
    assert env.family.names == ("CartPole-v1", "CartPole-v1(max_episode_steps=5)")
    env.reset(seed=0, options={"task": 1})
    for t in range(5):
        _, _, _, truncated, _ = env.step([t % 2] * 2)
    assert truncated.all()
    env.close()
