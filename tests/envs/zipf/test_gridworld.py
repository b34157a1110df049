import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env

import envs  # noqa: F401 (registers the ids)
from envs.zipf.game import Settings
from envs.zipf.gridworld import ZipfGridworld
from envs.zipf.law import zipf
from envs.zipf.world import ACTIONS

SEQUENCES = {
    "zipf": [(11, 0), (5, 0), (0, 0), (0, 0), (8, 0), (0, 0), (3, 3), (1, 1)],
    "uniform": [(19, 7), (18, 5), (6, 2), (4, 6), (19, 5), (8, 12), (17, 17), (13, 13)],
    "rare": [(19, 17), (19, 17), (17, 16), (16, 17), (19, 17), (17, 18), (19, 19), (18, 18)],
}
NOTHING_NEAR = ACTIONS.index("N")


def tasks(env, seed, count):
    return [divmod(env.reset(seed=s)[1]["task_id"], 20) for s in [seed] + [None] * (count - 1)]


@pytest.mark.parametrize("split", SEQUENCES)
def test_the_published_sequences(split):
    assert tasks(ZipfGridworld(split=split), 1234, 8) == SEQUENCES[split]


@pytest.mark.parametrize(("level", "split"), [("zipf_2", "zipf"), ("uniform", "uniform"), ("uniform_rare", "rare")])
def test_levels_of_the_original(level, split):
    assert tasks(ZipfGridworld(level=level), 1234, 8) == SEQUENCES[split]
    assert Settings(level="zipf_1.5").exponent == 1.5


def test_the_split_can_change_and_a_task_can_be_forced():
    env = ZipfGridworld()
    _, info = env.reset(seed=1234, options={"split": "rare"})
    assert [divmod(info["task_id"], 20), *tasks(env, None, 3)] == SEQUENCES["rare"][:4]
    _, info = env.reset(options={"task": (0, 19)})
    assert info["task_id"] == 19
    assert not info["is_rare"]
    assert info["task_prob"] == 0
    # A forced task draws nothing: the sequence goes on.
    assert tasks(env, None, 4) == SEQUENCES["rare"][4:]


@pytest.mark.parametrize(("view", "tile", "max_steps"), [(7, 9, 100), (3, 3, 12), (9, 12, 7)])
def test_everything_matches_an_independent_game(reference, view, tile, max_steps):
    env = ZipfGridworld(split="uniform", obs="both", view=view, tile=tile, max_steps=max_steps)
    game = reference(env.world.maps, view=view, max_steps=max_steps, tile=tile)
    rng = np.random.default_rng(0)
    seen = set()
    for episode in range(25):
        obs, info = env.reset(seed=0 if episode == 0 else None)
        game.reset(*divmod(info["task_id"], 20))
        over = False
        while True:
            codes, cue = game.tiles()
            np.testing.assert_array_equal(obs["tiles"], codes)
            assert obs["cue"] == cue
            np.testing.assert_array_equal(obs["image"], game.image())
            if over:
                break
            action = int(rng.integers(8))
            obs, *rest, info = env.step(action)
            *expected, outcome = game.step(action)
            assert rest == expected
            over = outcome is not None
            assert (info.get("outcome"), info.get("success")) == (outcome, rest[0] == 1 if over else None)
            seen.add(outcome)
    assert seen >= ({None, "wrong"} if max_steps == 100 else {None, "wrong", "timeout"})


def path_to_goal(env, m, o):
    """Actions of a shortest path that touches nothing else, found on the transition table."""
    world = env.world
    objects, start = set(world.goal[m].tolist()), int(world.start[m])
    came = {start: (start, 0)}
    frontier = [start]
    for position in frontier:
        if position not in objects:
            for action, after in enumerate(world.next[m, position].tolist()):
                if after not in came:
                    came[after] = (position, action)
                    frontier.append(after)
    position, actions = int(world.goal[m, o]), []
    while position != start:
        position, action = came[position]
        actions.append(action)
    return actions[::-1]


@pytest.mark.parametrize("task", [(0, 0), (3, 19), (19, 7)])
def test_an_oracle_wins_and_sees_the_object_at_last(task):
    env = ZipfGridworld(obs="both")
    obs, info = env.reset(seed=0, options={"task": task})
    for action in path_to_goal(env, *task):
        assert obs["tiles"][3, 3] == 2
        obs, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated) == (1, True, False)
    assert (info["success"], info["outcome"]) == (True, "goal")
    assert obs["tiles"][3, 3] == 3 + obs["cue"]
    lit = obs["image"][27:36, 27:36].any(axis=-1)
    np.testing.assert_array_equal(obs["image"][:9, :9][lit], obs["image"][27:36, 27:36][lit])
    assert (obs["image"][:9, :9][~lit] == 180).all()


def test_a_wrong_object_ends_with_nothing():
    env = ZipfGridworld()
    env.reset(seed=0, options={"task": (0, 1)})
    for action in path_to_goal(env, 0, 0):
        _, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated) == (0, True, False)
    assert (info["success"], info["outcome"]) == (False, "wrong")


def still_action(env, m):
    """An action that a wall refuses at the start of a map."""
    start = env.world.start[m]
    return env.world.next[m, start].tolist().index(start)


@pytest.mark.parametrize("max_steps", [1, 100])
def test_time_is_out_at_exactly_the_limit(max_steps):
    env = ZipfGridworld(max_steps=max_steps)
    env.reset(seed=0, options={"task": (0, 0)})
    for step in range(1, max_steps + 1):
        _, reward, terminated, truncated, info = env.step(still_action(env, 0))
        assert (reward, terminated, truncated) == (0, False, step == max_steps)
    assert (info["success"], info["outcome"]) == (False, "timeout")


def test_touching_an_object_on_the_last_step_terminates():
    actions = path_to_goal(ZipfGridworld(), 0, 0)
    env = ZipfGridworld(max_steps=len(actions))
    env.reset(seed=0, options={"task": (0, 0)})
    for action in actions:
        *_, terminated, truncated, info = env.step(action)
    assert (terminated, truncated, info["outcome"]) == (True, False, "goal")


def test_infos():
    env = ZipfGridworld()
    _, info = env.reset(seed=0, options={"task": (17, 18)})
    assert info.keys() == {"task_id", "ranks", "task_prob", "is_rare", "cell"}
    assert info["task_id"] == 17 * 20 + 18
    assert info["ranks"].tolist() == [17, 18]
    assert info["task_prob"] == pytest.approx(zipf(20, 2)[17] * zipf(20, 2)[18])
    assert info["is_rare"] is True
    *_, after = env.step(still_action(env, 17))
    assert after["cell"] == info["cell"]
    assert after.keys() == info.keys()


def test_rank_seed_moves_ranks_but_no_map():
    plain, other = ZipfGridworld(obs="tiles"), ZipfGridworld(obs="tiles", rank_seed=1)
    first, info = plain.reset(seed=0, options={"task": (4, 9)})
    second, other_info = other.reset(seed=0, options={"task": (4, 9)})
    np.testing.assert_array_equal(first["tiles"], second["tiles"])
    assert first["cue"] == second["cue"]
    assert info["ranks"].tolist() == [4, 9]
    assert other_info["ranks"].tolist() == [rank[i] for rank, i in zip(ranks(1), (4, 9), strict=True)]
    frequent = [divmod(other.reset()[1]["task_id"], 20)[0] for _ in range(300)]
    assert np.bincount(frequent).argmax() == ranks(1)[0].tolist().index(0) != 0


def ranks(seed):
    return [factor.rank for factor in Settings(rank_seed=seed).factors]


def test_a_law_of_ones_own():
    env = ZipfGridworld(law=lambda n: np.eye(n)[5], num_objects=8, rare=1)
    assert {env.reset(seed=s)[1]["task_id"] for s in range(10)} == {5 * 8 + 5}


def test_the_originals_array():
    env, ours = ZipfGridworld(obs="pixels", dtype="float32", flat=True), ZipfGridworld()
    obs, _ = env.reset(seed=3)
    assert (obs.shape, obs.dtype) == ((63, 63, 3), np.float32)
    image = ours.reset(seed=3)[0]["image"]
    np.testing.assert_array_equal(obs, image.astype(np.float32) / np.float32(255))
    assert env.observation_space.contains(obs)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"obs": "tiles"}, {"obs": "both", "split": "rare"}, {"dtype": "float32"}, {"flat": True}],
    ids=lambda given: str(given).split(" at 0x")[0],  # without addresses, which differ between processes
)
def test_gymnasiums_own_checker(arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("byol_ext/ZipfGridworld-v0", render_mode="rgb_array", **arguments)
        check_env(env.unwrapped)
        env.reset(seed=0)
        env.step(0)
        env.close()


def test_snapshots():
    env = ZipfGridworld(obs="tiles", split="uniform")
    env.reset(seed=0)
    env.step(2)
    snapshot = env.state()

    def run():
        trace = []
        for action in (0, 2, 4, 6):
            trace.append(env.step(action)[0]["tiles"].tolist())
        return trace, tasks(env, None, 4)

    first = run()
    env.set_state(snapshot)
    assert run() == first
    with pytest.raises(ValueError, match="np_random"):
        env.set_state({})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exponent": -1}, "exponent"),
        ({"exponent": float("nan")}, "exponent"),
        ({"exponent": float("inf")}, "exponent"),
        ({"num_maps": 0}, "num_maps"),
        ({"num_objects": 0}, "num_objects"),
        ({"num_objects": 226}, "226"),
        ({"num_objects": 60}, r"need 61 cells, but only \d+"),
        ({"num_rooms": (0, 3)}, "num_rooms"),
        ({"room_size": (3, 0)}, "room_size"),
        ({"view": 6}, "view must be odd"),
        ({"view": 1}, "view must be at least 3"),
        ({"tile": 2}, "tile must be at least 3"),
        ({"max_steps": 0}, "max_steps"),
        ({"map_seed": -1}, "map_seed"),
        ({"rank_seed": -1}, "rank_seed"),
        ({"rare": 0.0}, "rare"),
        ({"rare": 1.5}, "rare"),
        ({"rare": 0}, "rare"),
        ({"rare": 21}, "rare"),
        ({"num_maps": 4}, "no item at all"),
        ({"split": "common"}, "zipf, uniform, rare"),
        ({"level": "zipf2"}, "zipf_2, uniform, uniform_rare"),
        ({"level": "zipf_-1"}, "exponent"),
        ({"obs": "image"}, "pixels, tiles, both"),
        ({"dtype": "float64"}, "uint8, float32"),
        ({"flat": True, "obs": "tiles"}, "flat=True"),
        ({"law": lambda n: [1.0]}, "20 probabilities"),
        ({"law": lambda n: np.full(n, 0.1)}, "sum to 1"),
        ({"law": lambda n: np.full(n, np.nan)}, "finite"),
        ({"render_mode": "human"}, "rgb_array"),
    ],
    ids=lambda given: str(given).split(" at 0x")[0],  # without addresses, which differ between processes
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ZipfGridworld(**arguments)


@pytest.mark.parametrize("action", [-1, 8, 1.0, "N", None, np.zeros(1, np.int64), np.float32(2)], ids=str)
def test_bad_actions(action):
    env = ZipfGridworld()
    env.reset(seed=0)
    with pytest.raises(InvalidAction):
        env.step(action)


@pytest.mark.parametrize(
    "options",
    [{"task": (20, 0)}, {"task": (0, -1)}, {"task": (0.0, 1.0)}, {"task": 3}, {"task": (1, 2, 3)}, {"split": "easy"},
     {"tasks": (0, 0)}],
    ids=lambda given: str(given).split(" at 0x")[0],  # without addresses, which differ between processes
)  # fmt: skip
def test_bad_options(options):
    env = ZipfGridworld()
    with pytest.raises(ValueError, match=r"options|split"):
        env.reset(seed=0, options=options)


def test_wrong_order_of_calls():
    env = ZipfGridworld(max_steps=1, render_mode="ansi")
    with pytest.raises(ResetNeeded):
        env.step(0)
    with pytest.raises(ResetNeeded):
        env.render()
    env.reset(seed=0)
    env.step(NOTHING_NEAR)
    assert env.render()
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.close()
    env.close()
    for call in (env.reset, env.render, lambda: env.step(0)):
        with pytest.raises(ClosedEnvironmentError):
            call()
