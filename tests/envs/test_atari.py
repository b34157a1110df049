import importlib.util
import pickle
import sys
from dataclasses import replace

import ale_py
import gymnasium
import numpy as np
import pytest

from envs._resize import AreaResize
from envs.atari import AtariSingle, AtariVector
from envs.protocols import BYOL_EXPLORE, MACHADO, PROTOCOLS, RND2018, Protocol, rom_name
from envs.rooms import MONTEZUMA, PITFALL

needs_envpool = pytest.mark.skipif(importlib.util.find_spec("envpool") is None, reason="EnvPool is not installed")
BACKENDS = ["ale", pytest.param("envpool", marks=needs_envpool)]
# Both back ends begin alike only with the fire button: see Protocol.noop_max.
ALIKE = Protocol(sticky=0.0, stack=4, frame_limit=400, fire_reset=True)


def play(pool, steps, *, seed=0, action_seed=0):
    """Observations, rewards, ends and infos of some random steps, each [steps + 1, B, ...]."""
    rng = np.random.default_rng(action_seed)
    obs, infos = pool.reset(seed=seed)
    none = np.zeros(pool.num_envs, bool)
    rows = [(obs, np.zeros(pool.num_envs, np.float32), none, none, infos)]
    rows += [pool.step(rng.integers(pool.single_action_space.n, size=pool.num_envs)) for _ in range(steps)]
    pool.close()
    obs, reward, terminated, truncated = (np.stack([row[i] for row in rows]) for i in range(4))
    return obs, reward, terminated, truncated, {key: np.stack([row[4][key] for row in rows]) for key in rows[0][4]}


def assert_same(left, right):
    for a, b in zip(left[:4], right[:4], strict=True):
        np.testing.assert_array_equal(a, b)
    assert left[4].keys() == right[4].keys()
    for key in left[4]:
        np.testing.assert_array_equal(left[4][key], right[4][key])


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_hundred_steps_keep_spaces_and_infos(backend):
    pool = AtariVector("venture", 2, protocol=replace(MACHADO, frame_limit=400), backend=backend)
    obs, infos = pool.reset(seed=0)
    keys = {"lives": np.int32, "frame_number": np.int64, "cell": np.int64}
    assert pool.single_observation_space == gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    for step in range(200):
        assert obs in pool.observation_space
        assert obs.flags.c_contiguous
        assert set(infos) == {*keys, *(f"_{key}" for key in keys)}
        for key, dtype in keys.items():
            assert infos[key].dtype == dtype
            assert infos[key].shape == (2,)
            assert infos[f"_{key}"].all()
        obs, reward, *_, infos = pool.step(np.full(2, step % 18))
        assert reward.dtype == np.float32
    pool.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_returned_arrays_are_the_callers(backend):
    rng = np.random.default_rng(0)
    pools = [AtariVector("qbert", 1, protocol=ALIKE, backend=backend) for _ in range(2)]
    for pool in pools:
        pool.reset(seed=0)
    for _ in range(30):
        actions = rng.integers(18, size=1)
        (spoilt, *ends), (kept, *_) = [pool.step(actions) for pool in pools]
        np.testing.assert_array_equal(spoilt, kept)
        spoilt[:] = 7
        for array in (*ends[:3], *ends[3].values()):
            array[:] = 1


@needs_envpool
def test_rooms_of_montezuma():
    pool = AtariVector("MontezumaRevenge", 2, backend="envpool")
    _, infos = pool.reset(seed=0)
    assert infos["room"].tolist() == [1, 1]
    assert infos["room"].dtype == np.int32
    assert infos["cell"].tolist() == [(1 << 8) | (77 // 16 << 4) | 235 // 16] * 2
    assert infos["inventory"].tolist() == [0, 0]
    pool.close()


def test_ale_says_that_it_sees_no_rooms(caplog):
    pool = AtariVector("MontezumaRevenge", 1, backend="ale")
    assert "rooms are only measured in evaluation" in caplog.text
    _, infos = pool.reset(seed=0)
    assert "room" not in infos
    assert "cell" in infos
    pool.close()


def test_ram_maps():
    ram = np.zeros((3, 128), np.uint8)
    ram[:, MONTEZUMA.room] = 23, 0, 0
    ram[:, MONTEZUMA.level] = 0, 1, 1
    ram[:, MONTEZUMA.x] = 0, 15, 16
    ram[:, MONTEZUMA.inventory] = 0, 0b11, 255
    found = MONTEZUMA.read(ram)
    assert found["room"].tolist() == [23, 24, 24]
    assert found["cell"].tolist() == [23 << 8, 24 << 8, (24 << 8) + 16]
    assert found["inventory"].tolist() == [0, 2, 8]
    assert set(PITFALL.read(ram)) == {"room", "cell"}


def test_pitfall_is_watched_while_it_walks():
    game = AtariSingle("pitfall", protocol=replace(MACHADO, sticky=0.0))
    _, infos = game.reset(seed=0)
    start, x = infos["room"][0], int(game.ram()[PITFALL.x])
    for _ in range(5):
        game.step([3])
    assert int(game.ram()[PITFALL.x]) > x
    for _ in range(20):
        *_, infos = game.step([4])
    assert infos["room"][0] != start


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_environment_depends_on_its_seed_and_index_only(backend):
    def pool(num_envs, num_threads):
        protocol = replace(RND2018, noop_max=10)
        return AtariVector("breakout", num_envs, protocol=protocol, backend=backend, num_threads=num_threads)

    def steps(pool, seed):
        obs, _ = pool.reset(seed=seed)
        rows = [obs, *(pool.step(np.full(pool.num_envs, t % 4))[0] for t in range(40))]
        return np.stack(rows)

    two = pool(2, 1)
    first = steps(two, 4)
    np.testing.assert_array_equal(first, steps(pool(2, 2), 4))
    one = pool(1, 1)
    np.testing.assert_array_equal(first[:, :1], steps(one, 4))
    np.testing.assert_array_equal(first[:, :1], steps(one, [4]))
    np.testing.assert_array_equal(first, steps(two, 4))
    assert (first[:, 0] != first[:, 1]).any()
    # Neighbouring seeds share no environment.
    other = steps(two, 5)
    assert all((first[:, i] != other[:, j]).any() for i in range(2) for j in range(2))


def test_seeding_alike_at_once_gives_the_same_beginning():
    pool = AtariVector("breakout", 1, protocol=replace(RND2018, noop_max=10), backend="ale")
    rows = []
    for _ in range(2):
        obs, infos = pool.reset(seed=3)
        rows.append((obs.copy(), infos["lives"].copy()))
        obs[:], infos["lives"][:] = 9, 9
    np.testing.assert_array_equal(rows[0][0], rows[1][0])
    assert rows[0][1] == rows[1][1] == 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_step_after_the_frame_limit_begins_the_next_episode(backend):
    obs, reward, terminated, truncated, infos = play(AtariVector("qbert", 1, protocol=ALIKE, backend=backend), 130)
    ends = np.flatnonzero(truncated[:, 0])
    assert ends[0] == 100
    assert not terminated[ends[0], 0]
    assert infos["frame_number"][100, 0] == 400
    # The last observation still belongs to the old episode, the next one is like the very first.
    np.testing.assert_array_equal(obs[100, 0, :3], obs[99, 0, 1:])
    np.testing.assert_array_equal(obs[101, 0], obs[0, 0])
    np.testing.assert_array_equal(obs[102, 0, :3], obs[101, 0, 1:])
    assert infos["frame_number"][101:103, 0].tolist() == [0, 4]
    assert reward[101, 0] == 0
    assert not truncated[101, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_reset_breaks_an_episode_off(backend):
    pool = AtariVector("qbert", 1, protocol=ALIKE, backend=backend)
    first, _ = pool.reset(seed=0)
    for action in (3, 4, 5) * 10:
        pool.step([action])
    again, infos = pool.reset()
    np.testing.assert_array_equal(first, again)
    assert infos["frame_number"] == 0
    ends = [pool.step([0])[3][0] for _ in range(100)]
    assert np.flatnonzero(ends).tolist() == [99]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_game_over_is_terminated_and_the_next_action_ignored(backend):
    protocol = replace(ALIKE, frame_limit=MACHADO.frame_limit)
    obs, reward, terminated, truncated, infos = play(
        AtariVector("breakout", 2, protocol=protocol, backend=backend), 400
    )
    assert not truncated.any()
    ends = np.argwhere(terminated)
    assert len(ends) >= 2
    for t, e in ends:
        if t + 1 < len(obs):
            assert infos["lives"][t : t + 2, e].tolist() == [0, 5]
            np.testing.assert_array_equal(obs[t, e, :3], obs[t - 1, e, 1:])
            np.testing.assert_array_equal(obs[t + 1, e], obs[0, e])
            assert not terminated[t + 1, e]
            assert reward[t + 1, e] == 0


@needs_envpool
@pytest.mark.parametrize(("game", "sticky"), [("montezuma_revenge", 0.25), ("qbert", 0.0), ("breakout", 0.25)])
def test_both_back_ends_play_the_same_game(game, sticky):
    """Also the sticky actions are the same. ale-py leaves out the frame in which an episode ends."""
    protocol = replace(ALIKE, sticky=sticky)
    left, right = (play(AtariVector(game, 1, protocol=protocol, backend=b), 210) for b in ("envpool", "ale"))
    for a, b in zip(left[1:4], right[1:4], strict=True):
        np.testing.assert_array_equal(a, b)
    ended = left[2] | left[3]
    assert ended.any()
    np.testing.assert_array_equal(left[0][~ended], right[0][~ended])
    np.testing.assert_array_equal(left[0][ended][:, :3], right[0][ended][:, :3])
    for key in ("lives", "frame_number"):
        np.testing.assert_array_equal(left[4][key], right[4][key])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_single_game_plays_like_the_pool(backend):
    pool, single = AtariVector("qbert", 1, protocol=ALIKE, backend=backend), AtariSingle("qbert", protocol=ALIKE)
    left, right = play(pool, 210), play(single, 210)
    ended = left[2] | left[3]
    if backend == "ale":
        for array in (left[0], right[0], left[4]["cell"], right[4]["cell"]):
            array[ended] = 0
    assert_same(left, right)
    assert ended.sum() >= 2
    assert left[1].sum() > 0


@needs_envpool
def test_envpool_plays_one_no_op_before_an_episode():
    pool = AtariVector("qbert", 1, protocol=replace(ALIKE, stack=1, fire_reset=False), backend="envpool")
    obs, reward, *_ = play(pool, 100)
    ale, shrink = ale_py.ALEInterface(), AreaResize((210, 160), (84, 84))
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(ale_py.roms.get_rom_path("qbert"))
    ale.reset_game()
    ale.act(ale_py.Action.NOOP)
    np.testing.assert_array_equal(obs[0, 0, 0], shrink(ale.getScreenGrayscale()))
    rng = np.random.default_rng(0)
    for t in range(1, 101):
        action, gained, screens = ale.getLegalActionSet()[rng.integers(18, size=1)[0]], 0, []
        for _ in range(4):
            gained += ale.act(action)
            screens.append(ale.getScreenGrayscale())
        assert gained == reward[t, 0]
        np.testing.assert_array_equal(obs[t, 0, 0], shrink(np.maximum(*screens[2:])))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sticky_actions_and_action_sets(backend):
    loose, sticky = (
        play(AtariVector("breakout", 1, protocol=replace(RND2018, sticky=s), backend=backend), 20) for s in (0, 0.9)
    )
    assert (loose[0] != sticky[0]).any()
    assert AtariVector("breakout", 1, protocol=RND2018, backend=backend).single_action_space.n == 4
    assert AtariVector("breakout", 1, protocol=MACHADO, backend=backend).single_action_space.n == 18


def test_the_single_game_repeats_actions_as_often_as_asked():
    game = AtariSingle("breakout", protocol=Protocol(sticky=0.25, skip=1, stack=1, frame_limit=5000))
    game.reset(seed=0)
    repeated = []
    for t in range(2000):
        game.step([t % 2])
        repeated.append(game._emulator._action.value != t % 2)
    # Standard error 0.01; a repetition of the same action two frames ago is no repetition.
    assert np.mean(repeated) == pytest.approx(0.25 / 1.25, abs=0.03)


@pytest.mark.parametrize("game", ["montezuma_revenge", "qbert"])
def test_a_restored_game_goes_on_exactly(game):
    rng = np.random.default_rng(1)
    protocol = replace(MACHADO, noop_max=5, frame_limit=600)

    def roll(single, actions):
        rows = [single.step(action) for action in actions]
        return [(*(part.tobytes() for part in row[:4]), str(row[4])) for row in rows] + [single.rgb().tobytes()]

    single, fresh = (AtariSingle(game, protocol=protocol) for _ in range(2))
    for _ in range(3):
        single.reset(seed=int(rng.integers(100)))
        for action in rng.integers(18, size=(int(rng.integers(1, 140)), 1)):
            single.step(action)
        saved, picture, ram = pickle.dumps(single.state()), single.rgb(), single.ram()
        actions = rng.integers(18, size=(60, 1))
        expected = roll(single, actions)
        for other in (single, fresh):
            other.set_state(pickle.loads(saved))
            np.testing.assert_array_equal(other.rgb(), picture)
            np.testing.assert_array_equal(other.ram(), ram)
            assert roll(other, actions) == expected


def test_a_state_of_another_game_is_refused():
    single = AtariSingle("qbert")
    with pytest.raises(gymnasium.error.ResetNeeded):
        single.state()
    single.reset(seed=0)
    with pytest.raises(ValueError, match=r"state of qbert.*plays pitfall"):
        AtariSingle("pitfall").set_state(single.state())


def test_names_and_presets():
    for name in ("MontezumaRevenge", "montezuma_revenge", "ALE/MontezumaRevenge-v5", "montezumarevenge"):
        assert rom_name(name) == "montezuma_revenge"
    assert rom_name("CartPole-v1") is None
    assert PROTOCOLS["rnd2018"].frame_limit == 18_000
    assert not PROTOCOLS["rnd2018"].full_actions
    assert PROTOCOLS["machado"].frame_limit == 108_000
    assert (BYOL_EXPLORE.sticky, BYOL_EXPLORE.stack) == (0, 1)
    assert PROTOCOLS["byol_hindsight"].sticky == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sticky": 1.5}, "sticky must be a probability below 1, got 1.5"),
        ({"sticky": float("nan")}, "sticky"),
        ({"skip": 0}, "skip must be at least 1"),
        ({"stack": 0}, "stack must be at least 1"),
        ({"noop_max": -1}, "noop_max must be at least 0"),
        ({"frame_limit": 1001}, "multiple of skip=4, got 1001"),
    ],
)
def test_bad_protocols(changes, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**changes)


def test_bad_arguments(monkeypatch):
    with pytest.raises(ValueError, match=r"unknown Atari game 'MontezumasRevenge'.*montezuma_revenge"):
        AtariVector("MontezumasRevenge", 1)
    with pytest.raises(ValueError, match="backend must be"):
        AtariVector("qbert", 1, backend="gym")
    with pytest.raises(ValueError, match="num_envs >= 1"):
        AtariVector("qbert", 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'byol_ext\[explore\]'"):
        AtariVector("qbert", 1, backend="envpool")
    pool = AtariVector("qbert", 1, backend="auto")
    assert type(pool._engine).__name__ == "AleEngine"
    monkeypatch.setitem(sys.modules, "ale_py.roms", None)
    with pytest.raises(ImportError, match=r"pip install 'byol_ext\[explore\]'"):
        AtariVector("qbert", 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_calls(backend):
    pool = AtariVector("qbert", 2, backend=backend)
    with pytest.raises(gymnasium.error.ResetNeeded):
        pool.step([0, 0])
    with pytest.raises(ValueError, match="no reset options"):
        pool.reset(options={"reset_mask": np.ones(2, bool)})
    with pytest.raises(ValueError, match="at least 0"):
        pool.reset(seed=-1)
    with pytest.raises(ValueError, match="one seed for each of 2"):
        pool.reset(seed=[1])
    pool.reset(seed=0)
    for actions in ([0, 6], [-1, 0]):
        with pytest.raises(gymnasium.error.InvalidAction, match=r"must be in 0\.\.5"):
            pool.step(actions)
    for actions in ([0], [0.5, 0.5], 0):
        with pytest.raises(gymnasium.error.InvalidAction, match=r"shape \(2,\)"):
            pool.step(actions)
    pool.close()
    pool.close()
    for call in (pool.reset, lambda: pool.step([0, 0])):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError):
            call()
