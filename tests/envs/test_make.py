import builtins
import importlib.util
import itertools
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs._coverage import frame_cells, picture_cells
from envs._resize import AreaResize
from envs.atari import AtariVector
from envs.make import make
from envs.noise import OnDemandNoise, PixelNoise
from envs.pool import CheckedPool
from envs.protocols import MACHADO

HAS_ENVPOOL = importlib.util.find_spec("envpool") is not None


class Pictures(gymnasium.Env):
    """Noise in colour; what is wrong with it is an argument."""

    def __init__(self, shape=(96, 120, 3), dtype=np.uint8, actions=None, fault="none"):
        self.observation_space = Box(0, 255, shape, dtype)
        self.action_space = actions or Discrete(3)
        self.fault, self.steps = fault, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.fault == "reset" and self.steps:
            raise OSError("no more episodes")
        return self._picture(), {}

    def step(self, action):
        self.steps += 1
        if self.fault == "step" and self.steps == 3:
            raise ZeroDivisionError("broken engine")
        reward = np.nan if self.fault == "nan" and self.steps == 2 else float(action)
        return self._picture(), reward, False, self.steps % 5 == 0, {f"key{self.steps}": 1}

    def _picture(self):
        space = self.observation_space
        return self.np_random.integers(0, 256, space.shape).astype(space.dtype)


@pytest.fixture(autouse=True)
def _registered():
    gymnasium.register("byol_ext_test/Pictures-v0", entry_point=Pictures)
    yield
    del gymnasium.registry["byol_ext_test/Pictures-v0"]


def pictures(num_envs=2, **arguments):
    options = arguments.pop("options", {})
    return make("byol_ext_test/Pictures-v0", num_envs, seed=0, options=options, **arguments)


@pytest.mark.parametrize("name", ["MontezumaRevenge", "montezuma_revenge", "ALE/MontezumaRevenge-v5"])
def test_atari_by_any_name(name):
    pool = make(name, 1, seed=3, protocol="byol_explore", backend="ale", options={"frame_limit": 400})
    assert isinstance(pool, AtariVector)
    assert pool.game == "montezuma_revenge"
    assert (pool.protocol.stack, pool.protocol.frame_limit) == (1, 400)
    assert pool.reset(seed=3)[0].shape == (1, 1, 84, 84)
    pool.close()


def test_atari_takes_a_protocol_and_a_back_end():
    pool = make("qbert", 1, seed=0, protocol=MACHADO)
    assert pool.single_action_space.n == 18
    assert type(pool._engine).__name__ == ("EnvPoolEngine" if HAS_ENVPOOL else "AleEngine")
    pool.close()


@pytest.mark.parametrize("name", ["StochasticMaze", "byol_ext/StochasticMaze-v0", "StochasticMaze-v0"])
def test_ours_by_any_name(name):
    pool = make(name, 3, seed=0, noise="on_demand", num_threads=2, options={"max_steps": 7})
    obs, _ = pool.reset(seed=0)
    assert obs.shape == (3, 5, 5, 5)
    *_, infos = pool.step(np.zeros(3, np.int64))
    assert infos["noise_asked"].all()
    for _ in range(6):
        _, _, _, truncated, _ = pool.step(np.ones(3, np.int64))
    assert truncated.all()
    pool.close()


def test_ours_with_an_image_among_others():
    pool = make("ZipfGridworld", 2, seed=0)
    assert pool.single_observation_space.shape == (63, 63, 3)
    assert pool.reset()[0].shape == (2, 63, 63, 3)
    pool.close()


@pytest.mark.parametrize("noise", ["pixel", "on_demand", "noop_patch", "persistive", "tv", OnDemandNoise(action=2)])
def test_noise_is_below_the_stack_and_not_in_the_cell(noise):
    """Each frame of the stack is the single noisy frame of its own step."""
    options = {"frame_limit": 40, "sticky": 0.0}
    stacked, single, clean = (
        make("qbert", 1, seed=0, backend="single", noise=n, options={**options, "stack": s})
        for n, s in ((noise, 4), (noise, 1), ("none", 1))
    )
    rows = [[pool.reset(seed=1) for pool in (stacked, single, clean)]]
    for t in range(13):
        rows.append([(out[0], out[-1]) for out in (pool.step([t % 3]) for pool in (stacked, single, clean))])
    for t, ((stack, infos), (frame, _), (picture, clean_infos)) in enumerate(rows):
        begin = 0 if t <= 10 else 11
        for back in range(4):
            np.testing.assert_array_equal(stack[0, 3 - back], rows[max(t - back, begin)][1][0][0, 0])
        assert infos["cell"] == clean_infos["cell"]
        assert (frame != picture).any() == infos["noise_on"][0] or noise == "tv"
    assert any(row[0][1]["noise_on"][0] for row in rows)
    assert stacked.single_observation_space.shape == (4, 84, 84)
    np.testing.assert_array_equal(stacked.render()[0], stacked.unwrapped.rgb())


def test_noise_of_other_pictures():
    obs, infos = pictures(noise=PixelNoise(p=1.0)).reset(seed=0)
    assert (obs != pictures().reset(seed=0)[0]).any()
    assert infos["noise_on"].all()


def test_minigrid():
    pytest.importorskip("minigrid")
    pool = make("MiniGrid-Empty-5x5-v0", 2, seed=0, options={"render_mode": "rgb_array"})
    obs, infos = pool.reset(seed=1)
    assert (obs.shape, obs.dtype) == ((2, 7, 7, 3), np.uint8)
    assert pool.single_action_space.n == 7
    assert [picture.shape[2] for picture in pool.render()] == [3, 3]
    turned = pool.step([0, 2])[-1]["cell"]
    # One has turned, the other has moved: both see something else.
    assert (turned != infos["cell"]).all()
    pool.close()


def test_vectors_where_allowed():
    pool = make("CartPole-v1", 3, seed=0, allow_vectors=True)
    obs, infos = pool.reset()
    assert (obs.shape, infos) == ((3, 4), {})
    pool.close()
    with pytest.raises(ValueError, match=r"CartPole-v1 shows vectors.*allow_vectors=True"):
        make("CartPole-v1", 3, seed=0)


def test_the_seed_decides_everything():
    def begin(pool):
        return pool.reset()[0]

    np.testing.assert_array_equal(begin(pictures()), begin(pictures()))
    several, one = pictures(3), pictures(1)
    np.testing.assert_array_equal(several.reset(seed=5)[0][:1], one.reset(seed=5)[0])
    assert (one.reset(seed=6)[0] != one.reset(seed=5)[0]).any()


def test_pictures_are_shrunk_and_greyed():
    plain, grey, small = pictures(), pictures(grey=True), pictures(grey=True, size=84)
    (colour, _), (dull, _), (tiny, infos) = (pool.reset(seed=0) for pool in (plain, grey, small))
    assert (colour.shape, dull.shape, tiny.shape) == ((2, 96, 120, 3), (2, 96, 120, 1), (2, 84, 84, 1))
    assert tiny in small.observation_space
    luma = colour.astype(np.float64) @ [0.2125, 0.7154, 0.0721]
    np.testing.assert_allclose(dull[..., 0], luma, atol=1)
    np.testing.assert_array_equal(tiny[0, ..., 0], AreaResize((96, 120), (84, 84))(dull[0, ..., 0]))
    assert infos["cell"].shape == (2,)
    assert pictures(size=200).reset()[0].shape == (2, 96, 120, 3)
    assert pictures(options={"shape": (20, 30)}).reset()[0].shape == (2, 20, 30, 1)


@pytest.mark.parametrize("to", [(5, 7), (9, 13), (1, 1), (12, 20)])
def test_area_resize_is_the_mean_of_the_area(to):
    picture = np.random.default_rng(0).integers(0, 256, (12, 20, 2), dtype=np.uint8)
    # Every pixel split into so many that all results cover whole ones.
    fine = picture.repeat(to[0], axis=0).repeat(to[1], axis=1).astype(np.float64)
    expected = fine.reshape(to[0], len(picture), to[1], picture.shape[1], 2).mean(axis=(1, 3))
    np.testing.assert_allclose(AreaResize(picture.shape[:2], to)(picture), expected, atol=0.5 + 1e-3)
    with pytest.raises(ValueError, match="can only shrink"):
        AreaResize((4, 4), (5, 4))


def test_frame_cells_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    # Few distinct reduced pictures, so that equal cells occur: blocks of 8 by 11 with two grey levels in two corners.
    frames = np.zeros((40, 2, 84, 84), np.uint8)
    frames[:, 0] = rng.integers(0, 256, (40, 84, 84))
    frames[:, 1, :42, :40] = rng.integers(0, 2, 40)[:, None, None] * 100
    frames[:, 1, 60:, 50:] = rng.integers(0, 2, 40)[:, None, None] * 200
    frames[:, 1] += rng.integers(0, 20, (40, 84, 84), dtype=np.uint8)
    rows, columns = (np.arange(n + 1) * 84 // n for n in (8, 11))
    reduced = [
        tuple(
            int(frame[1, a:b, c:d].mean()) // 32
            for a, b in itertools.pairwise(rows)
            for c, d in itertools.pairwise(columns)
        )
        for frame in frames
    ]
    cells = frame_cells(frames).tolist()
    assert 2 < len(set(reduced)) < 40
    assert [[a == b for b in cells] for a in cells] == [[a == b for b in reduced] for a in reduced]


def test_picture_cells_tell_pictures_apart():
    boards = np.zeros((3, 7, 7, 3), np.uint8)
    boards[1, 0, 0, 0] = 1
    assert len(set(picture_cells(boards).tolist())) == 2
    views = np.zeros((3, 40, 60, 3), np.uint8)
    views[1, 0, 0] = 200
    views[2, :20] = 200
    cells = picture_cells(views)
    assert cells[0] == cells[1] != cells[2]
    np.testing.assert_array_equal(cells, picture_cells(views.transpose(0, 3, 1, 2)))
    with pytest.raises(ValueError, match="at least 8x11 pixels, got 8x10"):
        frame_cells(np.zeros((1, 1, 8, 10), np.uint8))


def test_the_pool_autoresets_like_gymnasiums():
    ours = CheckedPool([gymnasium.make("CartPole-v1") for _ in range(3)], name="CartPole-v1")
    theirs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1") for _ in range(3)])
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    seeds = [env.unwrapped.np_random_seed for env in ours.envs if ours.reset(seed=3)]
    np.testing.assert_array_equal(ours.reset(seed=3)[0], theirs.reset(seed=seeds)[0])
    rng, ends = np.random.default_rng(0), 0
    for _ in range(120):
        actions = rng.integers(2, size=3)
        for left, right in zip(ours.step(actions)[:4], theirs.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(left, right)
        ends += ours._ended.sum()
    assert ends > 5


def test_infos_of_a_pool_are_always_the_same():
    pool = pictures()
    infos = [pool.reset()[1], *(pool.step([0, 0])[-1] for _ in range(8))]
    assert all(set(info) == {"cell", "_cell"} and info["cell"].dtype == np.int64 for info in infos)


def test_a_reward_that_is_no_number():
    pool = pictures(options={"fault": "nan"})
    pool.step([0, 0])
    with pytest.raises(RuntimeError, match=r"Pictures-v0: environment 0 gave the reward nan at step 2"):
        pool.step([0, 0])


def test_a_crash_names_the_environment():
    pool = pictures(options={"fault": "step"})
    pool.envs[0].unwrapped.fault = "none"
    for _ in range(2):
        pool.step([0, 0])
    with pytest.raises(RuntimeError, match=r"Pictures-v0: environment 1 crashed in step\(\) at step 3") as crash:
        pool.step([0, 0])
    assert isinstance(crash.value.__cause__, ZeroDivisionError)


def test_a_crash_of_the_reset():
    pool = pictures(options={"fault": "reset"})
    for _ in range(5):
        pool.step([0, 0])
    with pytest.raises(RuntimeError, match=r"environment 0 crashed in reset\(\) at step 6") as crash:
        pool.step([0, 0])
    assert isinstance(crash.value.__cause__, OSError)


def test_bad_calls_of_a_pool():
    pool = CheckedPool([Pictures()], name="mine")
    with pytest.raises(gymnasium.error.ResetNeeded):
        pool.step([0])
    pool.reset()
    for actions in ([0, 0], [0.5]):
        with pytest.raises(gymnasium.error.InvalidAction, match=r"shape \(1,\)"):
            pool.step(actions)
    pool.close()
    for call in (pool.reset, lambda: pool.step([0])):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="mine"):
            call()
    for envs, message in (
        ([], "at least one"),
        ([Pictures(), Pictures(shape=(8, 8, 3))], "spaces of the environments differ"),
        ([Pictures(actions=MultiDiscrete([2, 2]))], "actions must be Discrete"),
    ):
        with pytest.raises(ValueError, match=message):
            CheckedPool(envs, name="mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": "MontezumasRevenge"}, "unknown environment 'MontezumasRevenge'; the nearest are MontezumaRevenge"),
        ({"id": "ALE/MontezumaRevnge-v5"}, "the nearest are MontezumaRevenge"),
        ({"id": "StochasticMaise"}, "the nearest are StochasticMaze"),
        ({"id": "CartPole-v9"}, "the nearest are CartPole-v1"),
        ({"id": "Qqqqqq"}, "unknown environment 'Qqqqqq'"),
        ({"id": "qbert", "protocol": "machada"}, "unknown protocol 'machada'; the nearest are machado"),
        ({"id": "qbert", "backend": "gym"}, "backend must be"),
        ({"id": "qbert", "noise": "snow"}, "unknown noise 'snow'; there are none, pixel"),
        ({"id": "qbert", "options": {"frame_limits": 3}}, "unknown option 'frame_limits'.*frame_limit"),
        ({"id": "StochasticMaze", "noise": "snow"}, "noise must be one of"),
        ({"id": "StochasticMaze", "options": {"maximum": 3}}, r"does not take the options \['maximum'\]"),
        ({"id": "CartPole-v1", "noise": "pixel", "allow_vectors": True}, "noise needs uint8 pictures"),
        ({"id": "qbert", "backend": "single", "num_envs": 2}, "plays one game, got num_envs=2"),
        ({"id": "CartPole-v1", "options": {"poles": 3}}, r"does not take the options \['poles'\]"),
        ({"id": "Pendulum-v1", "allow_vectors": True}, "needs discrete actions.*found Box"),
        ({"id": "FrozenLake-v1"}, r"needs uint8 pictures.*found Discrete\(16\)"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**{"num_envs": 1, "seed": 0, **arguments})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": np.float32}, "needs uint8 pictures.*float32"),
        ({"shape": (2, 8, 8, 3)}, "needs uint8 pictures"),
        ({"actions": MultiDiscrete([2, 2])}, "needs discrete actions.*found MultiDiscrete"),
        ({"actions": Discrete(3, start=1)}, "numbered from 0"),
    ],
)
def test_environments_that_cannot_be_explored(options, message):
    with pytest.raises(ValueError, match=message):
        pictures(options=options)


def test_missing_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py.roms", None)
    with pytest.raises(ImportError, match=r"pip install 'byol_ext\[explore\]'"):
        make("qbert", 1, seed=0)
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(ImportError, match="pip install minigrid"):
        make("MiniGrid-Empty-5x5-v0", 1, seed=0)
    imported = builtins.__import__

    def without_box2d(name, *rest):
        if name.startswith("Box2D"):
            raise ModuleNotFoundError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_box2d)
    with pytest.raises(ImportError, match=r"CarRacing-v3 cannot be made.*Box2D"):
        make("CarRacing-v3", 1, seed=0, options={"continuous": False})
