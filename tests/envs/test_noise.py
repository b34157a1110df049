"""The noise wrappers: what they draw, when, and that it depends on a sub-environment's seed alone."""

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, InvalidProbability
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.disco import RandomDiscoMaze, RandomDiscoMazeVector
from envs.mazes import StochasticMaze, StochasticMazeVector
from envs.noise import (
    NoisyEnv,
    NoisyTV,
    NoisyVectorEnv,
    OnDemandNoise,
    PersistiveNoise,
    PixelNoise,
    StickyAction,
)

ALL = [PersistiveNoise(), PixelNoise(0.5), OnDemandNoise(), NoisyTV((1, 2, 3, 2), action=1), StickyAction(0.5)]
NAMES = [type(noise).__name__ for noise in ALL]
KEYS = ("noise_on", "noise_asked", "noise_events")
MODES = list(AutoresetMode)


class Ramp(gymnasium.Env):
    """Pictures [8, 9] that show the step and the last action, without noise of their own."""

    observation_space = Box(0, 255, (8, 9), np.uint8)
    action_space = Discrete(4)
    length = 5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._picture(0), {}

    def step(self, action):
        self.steps += 1
        return self._picture(action), 0.0, False, self.steps >= self.length, {}

    def _picture(self, action):
        picture = np.arange(72, dtype=np.uint8).reshape(8, 9) * 3
        picture[0, :2] = self.steps, action
        return picture


class LongRamp(Ramp):
    length = 100


def disco(num_envs, **kwargs):
    return RandomDiscoMazeVector(num_envs, **({"size": 7, "max_steps": 6} | kwargs))


def actions_of(steps, num_envs, n=5):
    return np.random.default_rng(2).integers(0, n, (steps, num_envs))


def within(count, n, p):
    return abs(count - n * p) <= 4 * np.sqrt(n * p * (1 - p))


def rollout(env, actions, seed=3):
    obs, infos = env.reset(seed=seed)
    out = [[obs.copy(), *(infos[key].copy() for key in KEYS)]]
    for row in actions:
        obs, _, terminated, truncated, infos = env.step(row)
        ended = terminated | truncated
        out.append([obs.copy(), *(infos[key].copy() for key in KEYS)])
        if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            obs, infos = env.reset(options={"reset_mask": ended})
            out.append([obs.copy(), *(infos[key].copy() for key in KEYS)])
    return out


@pytest.mark.parametrize("noise", ALL, ids=NAMES)
@pytest.mark.parametrize("mode", MODES)
def test_noise_depends_on_seed_and_index_only(noise, mode):
    actions = actions_of(20, 9)
    big = rollout(NoisyVectorEnv(disco(9, autoreset_mode=mode), noise), actions)
    for n, kwargs in ((3, {"num_threads": 2}), (1, {"copy": False})):
        small = rollout(NoisyVectorEnv(disco(n, autoreset_mode=mode, **kwargs), noise), actions[:, :n])
        for x, y in zip(big, small, strict=True):
            for a, b in zip(x, y, strict=True):
                np.testing.assert_array_equal(a[:n], b)
    other = rollout(NoisyVectorEnv(disco(9, autoreset_mode=mode), noise), actions, seed=4)
    assert any((x[0] != y[0]).any() for x, y in zip(big, other, strict=True))


@pytest.mark.parametrize("noise", ALL, ids=NAMES)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_single_wrapper_equals_vector_wrapper(noise, mode):
    actions, seeds = actions_of(15, 2), [5, 6]
    loop = SyncVectorEnv([lambda: NoisyEnv(RandomDiscoMaze(size=7, max_steps=6), noise)] * 2, autoreset_mode=mode)
    batch = NoisyVectorEnv(disco(2, autoreset_mode=mode), noise)
    (expected, infos), (given, mine) = loop.reset(seed=seeds), batch.reset(seed=seeds)
    np.testing.assert_array_equal(given, expected)
    finals = 0
    for row in actions:
        expected, *_, infos = loop.step(row)
        given, *_, mine = batch.step(row)
        np.testing.assert_array_equal(given, expected)
        for key in KEYS:
            np.testing.assert_array_equal(mine[key], infos[key], err_msg=key)
        if "final_obs" in infos:
            finals += 1
            for x, y in zip(mine["final_obs"], infos["final_obs"], strict=True):
                np.testing.assert_array_equal(x, y)
            for key in (*KEYS, "cell", "_cell", "_noise_on"):
                np.testing.assert_array_equal(mine["final_info"][key], infos["final_info"][key], err_msg=key)
    assert finals == (2 if mode is AutoresetMode.SAME_STEP else 0)


def test_persistive_layer_is_a_walk_modulo_fifty():
    env = NoisyVectorEnv(SyncVectorEnv([Ramp] * 3), PersistiveNoise())
    clean = SyncVectorEnv([Ramp] * 3)
    obs, infos = env.reset(seed=0)
    layer = np.zeros((3, 8, 9), int)
    assert (obs == clean.reset(seed=0)[0]).all()
    assert infos["noise_on"].tolist() == [False] * 3
    ups = []
    for t, row in enumerate(actions_of(23, 3, n=4)):
        obs, *_, infos = env.step(row)
        truth = clean.step(row)[0].astype(int)
        now = env._run._rows.memory.astype(int)
        if t % 6 == 5:  # an automatic reset
            assert (obs == truth).all()
            assert not now.any()
            assert infos["noise_events"].tolist() == [0] * 3
        else:
            assert now.min() >= 0
            assert now.max() <= 49
            assert (obs == np.clip(truth + now, 0, 255)).all()
            step = np.where(row % 2 == 0, 1, 11)[:, None, None]
            up, down = now == (layer + step) % 50, now == (layer - step) % 50
            assert (up ^ down).all()
            ups.append(up)
            assert infos["noise_on"].all()
            assert infos["noise_events"].tolist() == [t % 6 + 1] * 3
        layer = now
    assert within(np.sum(ups), np.size(ups), 0.5)


def test_all_channels_get_the_same_persistive_layer():
    for env in (StochasticMazeVector(2), disco(2)):
        noisy, rest = NoisyVectorEnv(env, PersistiveNoise(step=(7, 7), modulo=50)), type(env)
        obs, _ = noisy.reset(seed=0)
        clean = rest(2) if rest is StochasticMazeVector else disco(2)
        clean.reset(seed=0)
        obs, *_ = noisy.step([2, 3])
        truth = clean.step([2, 3])[0]
        added = (obs.astype(int) - truth)[truth == 0]
        assert set(np.unique(added)) == {7, 43}
        channel = 1 if rest is StochasticMazeVector else 3
        dark = (truth == 0).all(axis=channel)
        spread = np.ptp(np.moveaxis(obs, channel, -1)[dark].astype(int), axis=-1)
        assert (spread == 0).all()


def test_pixel_noise_rate_and_distribution():
    n, steps = 64, 40
    env, clean = NoisyVectorEnv(SyncVectorEnv([LongRamp] * n), PixelNoise(0.25)), SyncVectorEnv([LongRamp] * n)
    on, pixels = [], []
    obs, infos = env.reset(seed=0)
    truth, _ = clean.reset(seed=0)
    for row in actions_of(steps, n, n=4):
        on.append(infos["noise_on"])
        assert (obs[~on[-1]] == truth[~on[-1]]).all()
        pixels.append(obs[on[-1]].ravel())
        assert not infos["noise_asked"].any()
        obs, *_, infos = env.step(row)
        truth = clean.step(row)[0]
    on, pixels = np.array(on), np.concatenate(pixels)
    assert within(on.sum(), on.size, 0.25)
    counts = np.bincount(pixels, minlength=256)
    assert ((counts - len(pixels) / 256) ** 2 / (len(pixels) / 256)).sum() < 347  # chi square, 255 df, p = 1e-4


def test_on_demand_noise_is_exactly_after_the_action_and_in_the_box():
    clean = SyncVectorEnv([LongRamp] * 16)
    env = NoisyVectorEnv(SyncVectorEnv([LongRamp] * 16), OnDemandNoise(2, box=(1, 2, 3, 4)))
    obs, infos = env.reset(seed=0)
    assert (obs == clean.reset(seed=0)[0]).all()
    assert not np.any([infos[key] for key in KEYS])
    inside = np.zeros((8, 9), bool)
    inside[1:4, 2:6] = True
    events = np.zeros(16, int)
    for row in actions_of(30, 16, n=4):
        obs, *_, infos = env.step(row)
        truth = clean.step(row)[0]
        assert (infos["noise_on"] == (row == 2)).all()
        assert (infos["noise_asked"] == (row == 2)).all()
        events += row == 2
        assert infos["noise_events"].tolist() == events.tolist()
        differs = obs != truth
        assert not differs[:, ~inside].any()
        assert not differs[row != 2].any()
        assert differs[row == 2][:, inside].mean() > 0.9


def test_infos_are_joined_with_the_environments_own():
    env = NoisyVectorEnv(NoisyVectorEnv(StochasticMazeVector(64, noise="pixel"), OnDemandNoise(0)), PixelNoise(0.5))
    plain = StochasticMazeVector(64, noise="pixel")
    plain.reset(seed=0)
    env.reset(seed=0)
    totals = np.zeros(3)
    for row in actions_of(30, 64):
        *_, infos = env.step(row)
        own = plain.step(row)[4]["noise_on"]
        middle, outer = env.env._run._rows.on, env._run._rows.on
        assert (infos["noise_on"] == (own | middle | outer)).all()
        assert (infos["noise_asked"] == (row == 0)).all()
        totals += [own.sum(), middle.sum(), outer.sum()]
    assert infos["noise_events"].sum() - plain.frame.info["noise_events"].sum() - env.env._run._events.sum() == (
        env._run._events.sum()
    )
    assert abs(totals[2] / (30 * 64) - 0.5) < 0.05
    assert infos["_noise_on"].all()


def test_stacked_noises_of_a_kind_draw_apart():
    env = NoisyVectorEnv(NoisyVectorEnv(disco(64), PixelNoise(0.5)), PixelNoise(0.5))
    env.reset(seed=0)
    inner, outer = env.env._run._rows.on, env._run._rows.on
    assert within((inner == outer).sum(), 64, 0.5)


def test_television_changes_on_its_action_and_with_the_episode():
    env = NoisyVectorEnv(disco(4, max_steps=20), NoisyTV((2, 1, 2, 3), action=3))
    obs, infos = env.reset(seed=0)
    still = obs[:, 2:4, 1:4].copy()
    assert not infos["noise_asked"].any()
    for row in actions_of(20, 4):
        obs, *_, infos = env.step(row)
        now = obs[:, 2:4, 1:4]
        changed = (now != still).any(axis=(1, 2, 3))
        assert (changed == (row == 3)).all()
        assert (infos["noise_asked"] == changed).all()
        still = now.copy()
    obs, *_ = env.step([0] * 4)
    assert (obs[:, 2:4, 1:4] != still).any(axis=(1, 2, 3)).all(), "a new episode, a new still"


def test_sticky_actions_repeat_the_last_one_carried_out():
    layout = ["#" * 43, "#S" + "." * 40 + "#", "#" * 43]
    n = 256
    env = NoisyVectorEnv(StochasticMazeVector(n, layout=layout, max_steps=40), StickyAction(0.25))
    before = env.reset(seed=0)[1]["cell"]
    last, differing, overruled = None, 0, 0
    for t in range(120):
        row = np.full(n, 2 if t % 2 else 0)
        *_, infos = env.step(row)
        if t % 41 == 40:
            last = None
        else:
            carried = np.where(infos["cell"] != before, 2, 0)
            assert (infos["noise_on"] == (carried != row)).all()
            if last is None:
                assert (carried == row).all(), "an episode's first action is carried out"
            else:
                assert ((carried == row) | (carried == last)).all()
                differing += (last != row).sum()
                overruled += (carried != row).sum()
            last = carried
        before = infos["cell"]
    assert within(overruled, differing, 0.25)


def test_partial_reset_leaves_the_other_rows_alone():
    noise = PersistiveNoise()
    for copy in (True, False):
        env = NoisyVectorEnv(disco(3, autoreset_mode="Disabled", copy=copy, max_steps=20), noise)
        env.reset(seed=0)
        for row in actions_of(4, 3):
            obs, *_, infos = env.step(row)
        obs, layer = obs.copy(), env._run._rows.memory.copy()
        again, infos = env.reset(options={"reset_mask": np.array([True, False, False])})
        assert (again[1:] == obs[1:]).all()
        assert (env._run._rows.memory[1:] == layer[1:]).all()
        assert not env._run._rows.memory[0].any()
        assert infos["noise_events"].tolist() == [0, 8, 8]


@pytest.mark.parametrize("noise", ALL, ids=NAMES)
def test_snapshots_are_exact(noise):
    env, actions = NoisyVectorEnv(disco(3), noise), actions_of(20, 3)
    env.reset(seed=1)
    for row in actions[:5]:
        env.step(row)
    state = env.state()
    first = [[x.copy() for x in env.step(row)[:1]] for row in actions[5:]]
    other = NoisyVectorEnv(disco(3), noise)
    for again in (env, other):
        again.set_state(state)
        for row, expected in zip(actions[5:], first, strict=True):
            assert (again.step(row)[0] == expected[0]).all()


def test_unseeded_noise_differs_and_goes_on_with_the_next_episode():
    wraps = [NoisyEnv(StochasticMaze(), PixelNoise(1.0)) for _ in range(2)]
    first = [env.reset()[0] for env in wraps]
    assert (first[0] != first[1]).any()
    assert (wraps[0].reset()[0] != first[0]).any()
    seeded = [env.reset(seed=3)[0] for env in wraps]
    assert (seeded[0] == seeded[1]).all()
    assert (wraps[0].reset()[0] == wraps[1].reset()[0]).all()
    batches = [NoisyVectorEnv(disco(1), PixelNoise(1.0)).reset()[0] for _ in range(2)]
    assert (batches[0] != batches[1]).any()


def test_the_global_generator_is_left_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    rollout(NoisyVectorEnv(disco(2), PixelNoise(0.5)), actions_of(5, 2))
    assert (np.random.get_state()[1] == before).all()


def test_read_only_pictures_are_copied_and_others_altered_in_place():
    inner = disco(2, copy=False)
    env = NoisyVectorEnv(inner, PixelNoise(1.0))
    assert env.reset(seed=0)[0] is inner.frame.obs

    class ReadOnly(Ramp):
        picture = np.zeros((8, 9), np.uint8)

        def _picture(self, action):
            self.picture.flags.writeable = False
            return self.picture

    single = NoisyEnv(ReadOnly(), PixelNoise(1.0))
    assert single.reset(seed=0)[0].any()
    assert not ReadOnly.picture.any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PixelNoise(1.1), InvalidProbability, "p must be"),
        (lambda: StickyAction(float("nan")), InvalidProbability, "p must be"),
        (lambda: PersistiveNoise(step=(1, 60)), ValueError, "steps"),
        (lambda: PersistiveNoise(modulo=0), ValueError, "modulo"),
        (lambda: NoisyVectorEnv(disco(1), OnDemandNoise(5)), ValueError, r"action must be in 0\.\.4"),
        (lambda: NoisyVectorEnv(disco(1), NoisyTV((5, 0, 3, 3))), ValueError, "within 7 x 7"),
        (lambda: NoisyVectorEnv(disco(1), PixelNoise(box=(-1, 0, 3, 3))), ValueError, "within 7 x 7"),
        (lambda: NoisyEnv(gymnasium.make("CartPole-v1"), PixelNoise()), ValueError, "uint8 pictures"),
        (lambda: NoisyEnv(gymnasium.make("Pendulum-v1"), PixelNoise()), ValueError, "Discrete"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_bad_actions_change_nothing():
    env = NoisyVectorEnv(disco(2), StickyAction(0.5))
    env.reset(seed=0)
    before = env._run._rows.streams.step.copy()
    for actions in ([0], [0.5, 0.5], [0, 9]):
        with pytest.raises(InvalidAction):
            env.step(np.array(actions))
    with pytest.raises(InvalidAction):
        NoisyEnv(RandomDiscoMaze(), PixelNoise()).step("left")
    assert (env._run._rows.streams.step == before).all()
