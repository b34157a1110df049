"""The stochastic maze and the disco maze: boards, dynamics, noise, views, rendering, conformance."""

import subprocess
import sys
import unittest
import warnings
from pathlib import Path

import dm_env
import gymnasium
import numpy as np
import pytest
from dm_env import test_utils
from gymnasium.error import (
    ClosedEnvironmentError,
    DependencyNotInstalled,
    InvalidAction,
    InvalidProbability,
    ResetNeeded,
)
from gymnasium.utils.env_checker import check_env

import envs
from envs._maze_board import BOARD, read_board
from envs._maze_kernels import wind_strength
from envs.disco import RandomDiscoMaze, RandomDiscoMazeVector
from envs.mazes import NOISES, StochasticMaze, StochasticMazeVector

ROOT = Path(__file__).parent.parent.parent
IDS = ("byol_ext/StochasticMaze-v0", "byol_ext/RandomDiscoMaze-v0")
NOOP, NORTH, EAST, SOUTH, WEST = range(5)
DOORS = (6, 12, 18, 24)


def within(count, n, p):
    """Within four standard deviations of a binomial count."""
    return abs(count - n * p) <= 4 * np.sqrt(n * p * (1 - p))


def random_actions(steps, num_envs, *, n=5):
    return np.random.default_rng(1).integers(0, n, (steps, num_envs))


def board_of(env, e=0):
    """Lines of what `render` says of one sub-environment: an account that does not pass through the observation."""
    env.render_mode = "ansi"
    return env._render_row(e).splitlines()


def block_tops(lines):
    """The position 0, 1 or 2 of each doorway's block."""
    return [next(r for r in range(1, 6) if lines[r][c] == "B") - 1 for c in DOORS]


def agent_at(lines):
    return next((r, line.index("A")) for r, line in enumerate(lines) if "A" in line)


@pytest.mark.parametrize("id_", IDS)
@pytest.mark.parametrize("render_mode", [None, "rgb_array", "ansi"])
def test_check_env_without_a_warning(id_, render_mode):
    env = gymnasium.make(id_, render_mode=render_mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("noise", NOISES)
def test_check_env_with_every_noise(noise):
    env = gymnasium.make(IDS[0], noise=noise, sticky=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("id_", IDS)
def test_make_vec_takes_the_batch(id_):
    env = gymnasium.make_vec(id_, num_envs=3, num_threads=2, copy=False)
    assert env.unwrapped.__class__.__name__.endswith("Vector")
    assert env.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP
    obs, infos = env.reset(seed=0)
    assert obs in env.observation_space
    for key, value in infos.items():
        assert value.shape[0] == 3, key
    assert {f"_{key}" for key in infos if key[0] != "_"} == {key for key in infos if key[0] == "_"}
    _, _, _, _, later = env.step(env.action_space.sample())
    assert later.keys() == infos.keys()
    env.close()


def test_importing_envs_loads_no_numba():
    code = "import sys, envs; print('numba' in sys.modules, 'dm_env' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


class TestMazeAsDmEnv(test_utils.EnvironmentTestMixin, unittest.TestCase):
    def make_object_under_test(self):
        return envs.to_dm_env(StochasticMaze(max_steps=6, noise="pixel"), seed=0)

    def make_action_sequence(self):
        yield from np.random.default_rng(0).integers(0, 5, 20)


def test_dm_env_view_discounts_a_truncation_by_one():
    view = envs.to_dm_env(StochasticMaze(max_steps=2), seed=4)
    steps = [view.step(NOOP) for _ in range(5)]
    kinds = [step.step_type for step in steps]
    first, mid, last = dm_env.StepType.FIRST, dm_env.StepType.MID, dm_env.StepType.LAST
    assert kinds == [first, mid, last, first, mid]
    assert [step.discount for step in steps] == [None, 1.0, 1.0, None, 1.0]
    expected = StochasticMaze(max_steps=2).reset(seed=4)[0]
    assert (steps[0].observation == expected).all()
    assert view.info["noise_events"] == 0


def test_dm_env_view_of_a_termination_and_of_dictionaries():
    class Ends(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict(
            {"x": gymnasium.spaces.Box(0, 1, (2,)), "n": gymnasium.spaces.Discrete(3, start=1)}
        )
        action_space = gymnasium.spaces.MultiDiscrete([2, 3])

        def reset(self, *, seed=None, options=None):
            return {"x": np.zeros(2, np.float32), "n": np.int64(1)}, {}

        def step(self, action):
            return self.reset()[0], 1, True, False, {}

    view = envs.to_dm_env(Ends())
    view.action_spec().validate(np.array([1, 2]))
    view.observation_spec()["n"].validate(view.reset().observation["n"])
    last = view.step(np.array([0, 0]))
    assert (last.discount, last.reward) == (0.0, 1.0)
    Ends.action_space = gymnasium.spaces.Text(3)
    with pytest.raises(ValueError, match="no dm_env spec for the action space"):
        envs.to_dm_env(Ends())


def test_dm_env_view_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_env", None)
    monkeypatch.delitem(sys.modules, "envs._dm_view", raising=False)
    with pytest.raises(DependencyNotInstalled, match="pip install dm-env"):
        envs.to_dm_env(StochasticMaze())


@pytest.mark.parametrize("make", [StochasticMaze, RandomDiscoMaze])
def test_single_environment_refuses_misuse(make):
    env = make(max_steps=2, render_mode="ansi")
    for call in (lambda: env.step(0), env.render):
        with pytest.raises(ResetNeeded):
            call()
    env.reset(seed=0)
    for action in (5, -1, 1.5, "1", None, np.array([1]), np.float64(1), [0]):
        with pytest.raises(InvalidAction):
            env.step(action)
    env.step(np.int32(1))
    assert env.step(np.array(0))[3] is True
    assert env.render()
    with pytest.raises(ResetNeeded):
        env.step(0)
    with pytest.raises(ValueError, match="unknown reset options"):
        env.reset(options={"task": 1})
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step(0), env.render, env.state):
        with pytest.raises(ClosedEnvironmentError):
            call()


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"noise": "white"}, ValueError, "brownian"),
        ({"max_steps": 0}, ValueError, "max_steps"),
        ({"pixel_p": 1.5}, InvalidProbability, "pixel_p"),
        ({"sticky": -0.1}, InvalidProbability, "sticky"),
        ({"wind_p": float("nan")}, InvalidProbability, "wind_p"),
        ({"slip_p": 2}, InvalidProbability, "slip_p"),
        ({"noise": "tv", "layout": ["S."]}, ValueError, "'T'"),
        ({"noise": "swap", "layout": ["S"]}, ValueError, "two reachable"),
        ({"render_mode": "human"}, ValueError, "render_mode"),
    ],
)
def test_maze_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        StochasticMaze(**kwargs)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ([], "list of lines"),
        ("S.", "list of lines"),
        (["S.", "..."], "line 1 has 3"),
        (["S?"], r"row 0, column 1: unknown character '\?'"),
        ([".."], "exactly one 'S', found 0"),
        (["SS"], "exactly one 'S', found 2"),
        (["STT"], "exactly one 'T', found 2"),
        (["S13"], "each once, found '13'"),
        (["S11"], "each once"),
        (["S#1"], "tracker 1 at row 0, column 2 cannot be reached"),
        (["So", ".o", ".o"], "3 cells tall"),
    ],
)
def test_layouts_are_checked(layout, message):
    with pytest.raises(ValueError, match=message):
        read_board(layout)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"size": 6}, "size"), ({"size": 3}, "size"), ({"window": 4}, "window"), ({"window": 23}, "window"),
     ({"max_steps": 0}, "max_steps")],
)  # fmt: skip
def test_disco_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RandomDiscoMaze(**kwargs)


def test_state_of_the_single_environment():
    env = StochasticMaze(noise="brownian", sticky=0.5)
    env.reset(seed=0)
    state = env.state()
    actions = random_actions(20, 1)[:, 0]
    first = [env.step(a)[0] for a in actions]
    other = StochasticMaze(noise="brownian", sticky=0.5)
    other.set_state(state)
    for a, obs in zip(actions, first, strict=True):
        assert (other.step(a)[0] == obs).all()


def test_the_board_is_the_specs():
    board = read_board(BOARD)
    assert len(board.reachable) == 27 * 5
    assert board.door_column.tolist() == list(DOORS)
    assert board.door_span.tolist() == [2, 2, 2, 2]
    assert np.flatnonzero(board.tracker >= 0).tolist() == [3 * 29 + c for c in (9, 15, 21, 26)]
    assert board.start == 3 * 29 + 3


def view_of(lines, layout, r, c, plane):
    """A plane of the 5 x 5 view from a rendered board, by the definition of the observation."""
    picture = np.zeros((5, 5), np.uint8)
    for y in range(5):
        for x in range(5):
            row, column = r + y - 2, c + x - 2
            inside = 0 <= row < len(layout) and 0 <= column < len(layout[0])
            here = lines[row][column] if inside else "#"
            there = layout[row][column] if inside else "#"
            wanted = {
                "wall": there == "#",
                "block": here == "B",
                "tracker": there.isdigit(),
                "start": there == "S",
                "noise": False,
            }[plane]
            picture[y, x] = 255 * wanted
    return picture


def test_observation_is_the_window_around_the_agent():
    env = StochasticMazeVector(8, noise="none")
    obs, _ = env.reset(seed=0)
    for t, row in enumerate(random_actions(150, 8, n=4)):  # no west: all rooms get a visit
        if t % 10 == 0:
            for e in range(8):
                lines = board_of(env, e)
                for n, plane in enumerate(("wall", "block", "tracker", "start", "noise")):
                    expected = view_of(lines, BOARD, *agent_at(lines), plane)
                    assert (obs[e, n] == expected).all(), (plane, t, e)
        obs, *_ = env.step(row)


def test_beyond_an_open_rim_is_wall():
    env = StochasticMaze(layout=["S1"])
    obs, _ = env.reset(seed=0)
    assert (obs[0] == 255).sum() == 23
    assert env.step(WEST)[4]["cell"] == 0
    _, _, _, _, info = env.step(EAST)
    assert info["cell"] == 1
    assert info["tracker_hits"].tolist() == [1]
    assert info["coverage"] == 1.0


def test_blocks_sweep_with_period_four():
    env = StochasticMazeVector(64)
    env.reset(seed=0)
    tops = []
    for _ in range(13):
        tops.append([block_tops(board_of(env, e)) for e in range(64)])
        env.step([NOOP] * 64)
    tops = np.array(tops)
    assert (tops[4:] == tops[:-4]).all()
    assert (np.abs(np.diff(tops, axis=0)) == 1).all()
    assert tops.min() == 0
    assert tops.max() == 2
    phases = {tuple(tops[:4, e, d]) for e in range(64) for d in range(4)}
    assert phases == {(0, 1, 2, 1), (1, 2, 1, 0), (2, 1, 0, 1), (1, 0, 1, 2)}, "phases are drawn"


def test_brownian_blocks_are_a_reflecting_walk():
    n, steps = 64, 100
    env = StochasticMazeVector(n, noise="brownian")
    env.reset(seed=0)
    tops = np.zeros((steps, n, 4), int)
    for t in range(steps):
        tops[t] = env._maze.phase
        env.step([NOOP] * n)
        if t % 50 == 0:
            assert [block_tops(board_of(env, e)) for e in range(n)] == (2 - np.abs(2 - env._maze.phase)).tolist()
    tops = 2 - np.abs(2 - tops)
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (tops[:-1].ravel(), tops[1:].ravel()), 1)
    assert counts[0].tolist() == [0, counts[0].sum(), 0]
    assert counts[2].tolist() == [0, counts[2].sum(), 0]
    assert counts[1, 1] == 0
    assert within(counts[1, 0], counts[1].sum(), 0.5)
    # Doors are independent, and a door's tosses are independent of each other.
    tosses = np.where(tops[:-1] == 1, tops[1:] - 1, 0).astype(float)
    pairs = tosses[:-2] * tosses[2:]
    assert within((pairs > 0).sum(), (pairs != 0).sum(), 0.5)
    pairs = tosses[..., 0] * tosses[..., 1]
    assert within((pairs > 0).sum(), (pairs != 0).sum(), 0.5)


CORRIDOR = ["#####", "#.o.#", "#So1#", "#.o.#", "#.o.#", "#####"]
"""A block of three in a doorway of four: it stands above or below."""


def test_a_block_holds_the_agent_out_and_does_not_move_onto_it():
    env = StochasticMazeVector(1, layout=CORRIDOR, render_mode="ansi")
    seen = set()
    for seed in range(4):
        env.reset(seed=seed)
        for action in random_actions(400, 1)[:, 0]:
            before, (r, c) = board_of(env), agent_at(board_of(env))
            down, right = ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))[action]
            target = before[r + down][c + right]
            env.step([action])
            after = board_of(env)
            expected = (r, c) if target in "#B" else (r + down, c + right)
            assert agent_at(after) == expected
            top_before, top_after = (next(i for i in range(1, 5) if x[i][2] == "B") for x in (before, after))
            to = 3 - top_before
            agent_in_the_way = expected[1] == 2 and to <= expected[0] < to + 3
            assert top_after == (top_before if agent_in_the_way else to)
            seen.add((target == "B", agent_in_the_way))
    assert seen == {(False, False), (True, False), (False, True), (True, True)}


def test_episodes_are_truncated_and_never_rewarded():
    env = StochasticMazeVector(2, max_steps=5)
    env.reset(seed=0)
    for t in range(1, 5):
        _, reward, terminated, truncated, _ = env.step([EAST, NOOP])
        assert not np.any([reward, terminated, truncated]), t
    _, reward, terminated, truncated, _ = env.step([EAST, NOOP])
    assert truncated.all()
    assert not np.any([reward, terminated])
    long = StochasticMaze()
    long.reset(seed=0)
    assert [long.step(NOOP)[3] for _ in range(500)] == [False] * 499 + [True]


def test_trackers_and_coverage():
    layout = ["#######", "#S1.2.#", "#######"]
    env = StochasticMazeVector(1, layout=layout)
    _, infos = env.reset(seed=0)
    assert infos["coverage"].tolist() == [1 / 5]
    assert infos["tracker_first_step"].tolist() == [[-1, -1]]
    moves = [WEST, EAST, NOOP, NORTH, EAST, WEST, EAST, EAST]
    infos = [env.step([a])[4] for a in moves]
    assert [i["tracker_hits"][0].tolist() for i in infos] == [
        [0, 0], [1, 0], [1, 0], [1, 0], [1, 0], [2, 0], [2, 0], [2, 1],
    ]  # fmt: skip
    assert infos[-1]["tracker_first_step"].tolist() == [[2, 8]]
    assert [round(i["coverage"][0] * 5) for i in infos] == [1, 2, 2, 2, 3, 3, 3, 4]
    assert [i["cell"][0] - 7 for i in infos] == [1, 2, 2, 2, 3, 2, 3, 4]


def test_pixel_noise_rate_and_plane():
    n, steps = 256, 60
    env = StochasticMazeVector(n, noise="pixel")
    obs, infos = env.reset(seed=0)
    layers, on, asked = [obs[:, 4]], [infos["noise_on"]], []
    for row in random_actions(steps, n):
        obs, *_, infos = env.step(row)
        layers.append(obs[:, 4])
        on.append(infos["noise_on"])
        asked.append(infos["noise_asked"])
    layers, on = np.array(layers), np.array(on)
    assert within(on.sum(), on.size, 0.25)
    assert within(on[0].sum(), n, 0.25), "the first frame as well"
    assert not np.any(asked)
    assert (infos["noise_events"] == on.sum(0)).all()
    assert not layers[~on].any()
    lit = layers[on] > 0
    assert within(lit.sum(), lit.size, 0.5)
    assert np.abs(lit.mean(0) - 0.5).max() < 4.5 * 0.5 / np.sqrt(len(lit))
    assert set(np.unique(layers)) == {0, 255}


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_probabilities_at_the_ends(p):
    env = StochasticMazeVector(16, noise="pixel", pixel_p=p)
    assert env.reset(seed=0)[1]["noise_on"].tolist() == [bool(p)] * 16
    assert env.step([0] * 16)[4]["noise_on"].tolist() == [bool(p)] * 16


def test_on_demand_is_exactly_on_noop():
    env = StochasticMazeVector(32, noise="on_demand")
    obs, infos = env.reset(seed=0)
    assert not obs[:, 4].any()
    assert not np.any([infos["noise_on"], infos["noise_asked"]])
    for row in random_actions(40, 32):
        obs, *_, infos = env.step(row)
        assert (infos["noise_on"] == (row == NOOP)).all()
        assert (infos["noise_asked"] == (row == NOOP)).all()
        assert not obs[row != NOOP, 4].any()
        assert obs[row == NOOP, 4].any(axis=(1, 2)).all()


def test_television_is_on_where_its_cell_is_in_view():
    env = StochasticMazeVector(64, noise="tv")
    env.reset(seed=0)
    seen = []
    for row in random_actions(120, 64, n=4):
        obs, *_, infos = env.step(row)
        r, c = infos["cell"] // 29, infos["cell"] % 29
        near = (np.abs(r - 1) <= 2) & (np.abs(c - 9) <= 2)
        assert (infos["noise_on"] == near).all()
        assert (infos["noise_asked"] == near).all()
        assert (obs[:, 4].any(axis=(1, 2)) <= near).all()
        seen.append(near)
    assert 0 < np.mean(seen) < 1


def test_wind_pushes_north_by_column():
    layout = ["#" * 12] + ["#" + "." * 10 + "#"] * 9 + ["#....S.....#"] + ["#" * 12]
    env = StochasticMazeVector(512, noise="wind", layout=layout, max_steps=20)
    env.reset(seed=0)
    before = np.full(512, 10 * 12 + 5)
    pushed, stood = np.zeros(12, int), np.zeros(12, int)
    for row in random_actions(20, 512)[:, :]:
        row = np.where(np.isin(row, (EAST, WEST)), row, NOOP)
        *_, infos = env.step(row)
        column, rows_up = infos["cell"] % 12, before // 12 - infos["cell"] // 12
        assert set(np.unique(rows_up)) <= {0, 1}
        assert (infos["noise_on"] == (rows_up == 1)).all()
        free = before // 12 > 1
        np.add.at(pushed, column[free], rows_up[free])
        np.add.at(stood, column[free], 1)
        before = infos["cell"]
    for column in range(1, 11):
        p = 0.5 * wind_strength(column)
        assert within(pushed[column], stood[column], p), column
    assert {wind_strength(c) for c in range(10)} == {0, 0.25, 0.5, 0.75, 1}


def test_slip_replaces_actions():
    n, steps = 256, 60
    layout = ["#" * 43] + ["#" + "." * 41 + "#"] * 20 + ["#" + "." * 20 + "S" + "." * 20 + "#"] + ["#" * 43]
    env = StochasticMazeVector(n, noise="slip", slip_p=0.4, layout=layout, max_steps=18)
    before = env.reset(seed=0)[1]["cell"]
    carried = np.zeros(5, int)
    moves = {0: NOOP, -43: NORTH, 1: EAST, 43: SOUTH, -1: WEST}
    slips = 0
    for t in range(steps):
        *_, infos = env.step([EAST] * n)
        if t % 19 != 18:  # an automatic reset
            slips += infos["noise_on"].sum()
            inner = before // 43 < 21  # not beside the wall, where south is a noop
            np.add.at(carried, [moves[d] for d in (infos["cell"] - before)[inner & infos["noise_on"]]], 1)
            assert (infos["cell"] - before)[~infos["noise_on"]].tolist() == [1] * (~infos["noise_on"]).sum()
        before = infos["cell"]
    assert within(slips, n * (steps - steps // 19), 0.4)
    for action in range(5):
        assert within(carried[action], carried.sum(), 0.2), action


def test_swap_shows_another_cell_after_noop():
    env = StochasticMazeVector(256, noise="swap")
    env.reset(seed=0)
    walls = {tuple(view_of(BOARD, BOARD, r, c, "wall").ravel()) for r in range(1, 6) for c in range(1, 28)}
    shown = []
    for row in random_actions(20, 256):
        obs, *_, infos = env.step(row)
        assert (infos["noise_on"] == (row == NOOP)).all()
        assert (infos["noise_asked"] == (row == NOOP)).all()
        assert {tuple(x.ravel()) for x in obs[:, 0]} <= walls
        true = env.board.seen[infos["cell"]].reshape(-1, 5, 5, 5)[:, 0]
        assert (obs[row != NOOP, 0] == true[row != NOOP]).all()
        shown += [obs[row == NOOP, 2].any(axis=(1, 2))]
    shown = np.concatenate(shown)
    sees = np.mean([view_of(BOARD, BOARD, r, c, "tracker").any() for r in range(1, 6) for c in range(1, 28)])
    assert abs(shown.mean() - sees) < 4 * np.sqrt(sees * (1 - sees) / len(shown)) + 1 / 135


def test_swap_never_shows_the_agents_own_cell():
    env = StochasticMazeVector(64, noise="swap", layout=["S.1"])
    env.reset(seed=0)
    frames = np.concatenate([env.step([NOOP] * 64)[0] for _ in range(4)])
    columns = {tuple(np.flatnonzero(frame[3].any(0))) for frame in frames}
    assert columns == {(1,), (0,)}, "the start is seen from one and from two cells to its right"


def test_sticky_actions_repeat_the_last_one():
    n = 512
    layout = ["#" * 33, "#" + "S" + "." * 30 + "#", "#" * 33]
    env = StochasticMazeVector(n, sticky=0.25, layout=layout)
    before = env.reset(seed=0)[1]["cell"]
    events, opportunities, previous = 0, 0, None
    for t in range(30):
        row = np.full(n, EAST if t % 2 == 0 else NOOP)
        *_, infos = env.step(row)
        moved = infos["cell"] - before
        carried = np.where(moved == 1, EAST, NOOP)
        if previous is None:
            assert (moved == 1).all(), "the first action is carried out"
        else:
            differs = previous != row
            assert (infos["noise_on"] == (carried != row)).all()
            events += (carried != row)[differs].sum()
            opportunities += differs.sum()
        before, previous = infos["cell"], carried
    assert within(events, opportunities, 0.25)
    assert within(infos["sticky_events"].sum(), 29 * n, 0.25)


def test_brownian_noise_is_counted_for_coins_in_view_only():
    env = StochasticMazeVector(256, noise="brownian")
    env.reset(seed=0)
    rates = []
    for row in random_actions(60, 256):
        phase = env._maze.phase.copy()
        *_, infos = env.step(row)
        r, c = infos["cell"] // 29, infos["cell"] % 29
        middle = phase % 2 == 1
        near = np.abs(np.array(DOORS) - c[:, None]) <= 2  # rows: a doorway's five cells overlap any view of its room
        low, high = r[:, None] - 2, r[:, None] + 2
        to = 2 - np.abs(2 - env._maze.phase)
        stayed = env._maze.phase == phase  # skipped, since the agent was in the way: it is in the doorway, so in view
        upper = 1 + np.where(stayed, 1, np.minimum(1, to))
        seen = near & middle & (stayed | ((upper <= high) & (upper + 3 >= low)))
        assert (infos["noise_on"] == seen.any(1)).all()
        rates.append(seen.any(1).mean())
    assert 0 < np.mean(rates) < 1


def test_maze_rendering():
    env = StochasticMaze(render_mode="ansi", noise="on_demand")
    env.reset(seed=0)
    text = env.render()
    lines = text.splitlines()
    assert [len(line) for line in lines] == [29] * 7
    assert agent_at(lines) == (3, 3)
    assert text.count("B") == 12
    env = StochasticMaze(render_mode="rgb_array", noise="on_demand")
    env.reset(seed=0)
    before = env.render()
    assert before.shape == (7 * 16, 29 * 16, 3)
    assert before.dtype == np.uint8
    assert (before[3 * 16 + 8, 3 * 16 + 8] == (250, 240, 90)).all(), "the agent"
    assert (before[3 * 16 + 8, 1 * 16] == (220, 220, 220)).all(), "the rim of its view"
    env.step(NOOP)
    assert (env.render()[3 * 16 + 8, 1 * 16] == (230, 60, 60)).all(), "red while the noise acts"
    assert StochasticMaze().render_mode is None


def walls_of(env, e=0):
    return np.array([list(line) for line in board_of(env, e)]) == "#"


@pytest.fixture
def disco():
    env = RandomDiscoMazeVector(32, render_mode="ansi")
    env.reset(seed=0)
    return env


def test_disco_mazes_are_trees_and_differ(disco):
    seen = set()
    for e in range(32):
        wall = walls_of(disco, e)
        assert wall.shape == (21, 21)
        floor = {tuple(x) for x in np.argwhere(~wall).tolist()}
        assert len(floor) == 2 * 100 - 1, "a tree of 100 rooms has 99 passages"
        assert {(r, c) for r in range(1, 20, 2) for c in range(1, 20, 2)} <= floor
        edge, reached = [(1, 1)], set()
        while edge:
            r, c = edge.pop()
            if (r, c) in floor - reached:
                reached.add((r, c))
                edge += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
        assert reached == floor
        seen.add(wall.tobytes())
    assert len(seen) == 32
    starts = {agent_at(board_of(disco, e)) for e in range(32)}
    assert len(starts) > 16
    assert all(r % 2 == 1 and c % 2 == 1 for r, c in starts)


def test_disco_colours_are_uniform_and_redrawn(disco):
    palette = [(230, 60, 60), (60, 200, 80), (70, 110, 240), (240, 210, 60), (190, 80, 220)]
    walls = np.array([walls_of(disco, e) for e in range(32)])
    frames = np.array([disco.step([NOOP] * 32)[0] for _ in range(40)])
    floor = frames[:, ~walls]
    agents = (floor == 255).all(-1)
    assert (agents.sum(1) == 32).all()
    assert not floor[~agents].any()
    colors = np.full(frames.shape[:-1], -1)
    for n, color in enumerate(palette):
        colors[(frames == color).all(-1)] = n
    assert (colors[:, walls] >= 0).all()
    counts = np.bincount(colors[:, walls].ravel(), minlength=5)
    n = counts.sum()
    assert ((counts - n / 5) ** 2 / (n / 5)).sum() < 23.5  # chi square, 4 degrees of freedom, p = 1e-4
    same = (colors[1:, walls] == colors[:-1, walls]).sum()
    assert within(same, 39 * walls.sum(), 0.2)
    beside = walls[:, :, 1:] & walls[:, :, :-1]
    assert within((colors[:, :, :, 1:] == colors[:, :, :, :-1])[:, beside].sum(), 40 * beside.sum(), 0.2)


def test_disco_moves_and_coverage(disco):
    visited = [{agent_at(board_of(disco, e))} for e in range(32)]
    for row in random_actions(60, 32):
        before = [agent_at(board_of(disco, e)) for e in range(32)]
        _, reward, terminated, _, infos = disco.step(row)
        assert not np.any([reward, terminated])
        for e in range(32):
            down, right = ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))[row[e]]
            r, c = before[e][0] + down, before[e][1] + right
            expected = before[e] if walls_of(disco, e)[r, c] else (r, c)
            visited[e].add(expected)
            assert infos["cell"][e] == expected[0] * 21 + expected[1]
            assert agent_at(board_of(disco, e)) == expected
        assert np.allclose(infos["coverage"] * 199, [len(v) for v in visited])
    assert infos["noise_on"].all()
    assert infos["noise_events"].tolist() == [60] * 32


def test_disco_window_is_the_middle_of_the_board():
    env = RandomDiscoMazeVector(8, window=7)
    obs, _ = env.reset(seed=0)
    for row in random_actions(30, 8):
        for e in range(8):
            wall = np.pad(walls_of(env, e), 3)
            r, c = agent_at(board_of(env, e))
            assert ((obs[e] > 0).any(-1) == (wall[r : r + 7, c : c + 7] | (np.indices((7, 7)) == 3).all(0))).all()
            assert (obs[e, 3, 3] == 255).all()
        obs, *_ = env.step(row)


def test_disco_other_sizes_and_length():
    env = RandomDiscoMaze(size=9, max_steps=3)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (9, 9, 3)
    assert obs[0].any(-1).all(), "the rim is lit to its last tile"
    assert obs[-1].any(-1).all()
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


def test_disco_rendering():
    env = RandomDiscoMaze(render_mode="rgb_array", window=5)
    obs, _ = env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (336, 336, 3)
    assert (picture[0, 0] == (110, 110, 125)).all() or obs.any()
    r, c = divmod(env.batch.frame.info["cell"][0], 21)
    assert (picture[r * 16 + 8, c * 16 + 8] == 255).all()
    full = RandomDiscoMaze(render_mode="rgb_array")
    obs, _ = full.reset(seed=0)
    assert (full.render()[8, 8] == obs[0, 0]).all(), "walls have the colours that the agent sees"
