"""The base of batch-stepped environments, on the two mazes: streams, autoreset, checks, buffers, snapshots."""

import importlib
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs import _rng
from envs._compile import announce
from envs._frame import InfoSpec
from envs._vector import BatchVectorEnv
from envs.disco import RandomDiscoMaze, RandomDiscoMazeVector
from envs.mazes import StochasticMaze, StochasticMazeVector

ROOT = Path(__file__).parent.parent.parent
MODES = list(AutoresetMode)


def maze(num_envs, **kwargs):
    return StochasticMazeVector(num_envs, **({"noise": "brownian", "sticky": 0.3, "max_steps": 9} | kwargs))


def disco(num_envs, **kwargs):
    return RandomDiscoMazeVector(num_envs, **({"size": 7, "max_steps": 9} | kwargs))


def actions_of(steps, num_envs):
    return np.random.default_rng(5).integers(0, 5, (steps, num_envs))


def rollout(env, actions, seed=3):
    """Everything that a run returns, one list entry a call, copied."""
    obs, infos = env.reset(seed=seed)
    out = [([obs.copy()], {k: v.copy() for k, v in infos.items()})]
    for row in actions:
        *rest, infos = env.step(row)
        ended = rest[2] | rest[3]
        out.append(([x.copy() for x in rest], {k: v.copy() for k, v in infos.items() if isinstance(v, np.ndarray)}))
        if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            obs, infos = env.reset(options={"reset_mask": ended})
            out.append(([obs.copy()], {k: v.copy() for k, v in infos.items()}))
    return out


def assert_rows_equal(big, small, n):
    """The first ``n`` rows of two runs."""
    assert len(big) == len(small)
    for (arrays, infos), (arrays_small, infos_small) in zip(big, small, strict=True):
        for x, y in zip(arrays, arrays_small, strict=True):
            np.testing.assert_array_equal(x[:n], y[:n])
        for key in infos_small.keys() & infos.keys() - {"final_obs"}:
            np.testing.assert_array_equal(infos[key][:n], infos_small[key][:n], err_msg=key)


def test_random_bits_are_uniform_and_streams_apart():
    keys = np.array([_rng.stream_key(s, e) for s in (0, 1, 2**70) for e in range(50)], np.uint64)
    assert len(set(keys.tolist())) == 150
    bits = np.array(
        [
            _rng.draw(np.uint64(_rng.moment(key, episode, step)), np.uint64(purpose), index)
            for key in keys[:20]
            for episode in range(4)
            for step in range(20)
            for purpose in range(4)
            for index in range(4)
        ],
        np.uint64,
    )
    n = len(bits)
    assert len(np.unique(bits)) == n
    each = (bits[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(each.mean(0) - 0.5).max() < 4.5 * 0.5 / np.sqrt(n)
    units = np.array([_rng.uniform(b) for b in bits])
    assert units.min() >= 0
    assert units.max() < 1
    assert abs(units.mean() - 0.5) < 4 / np.sqrt(12 * n)
    counts = np.bincount([_rng.bounded(b, 7) for b in bits], minlength=7)
    assert ((counts - n / 7) ** 2 / (n / 7)).sum() < 27.9  # chi square, 6 degrees of freedom, p = 1e-4
    lagged = np.corrcoef(units[:-1], units[1:])[0, 1]
    assert abs(lagged) < 4 / np.sqrt(n)


def test_stream_key_matches_the_published_splitmix64():
    # First outputs of SplitMix64 from state 0 (Vigna's reference implementation).
    state = 0
    for expected in (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F):
        state = (state + 0x9E3779B97F4A7C15) & (2**64 - 1)
        assert int(_rng.mix(np.uint64(state))) == expected == _rng._mix_int(state)


@pytest.mark.parametrize("seed_and_index", [(-1, 0), (0, -1)])
def test_stream_key_refuses_negative_numbers(seed_and_index):
    with pytest.raises(ValueError, match="at least 0"):
        _rng.stream_key(*seed_and_index)


@pytest.mark.parametrize("make", [maze, disco])
@pytest.mark.parametrize("mode", MODES)
def test_trajectories_do_not_depend_on_batch_or_threads(make, mode):
    actions = actions_of(25, 64)
    reference = rollout(make(64, autoreset_mode=mode), actions)
    for n, threads in ((64, 2), (7, 1), (7, 2), (1, 1)):
        env = make(n, autoreset_mode=mode, num_threads=threads, copy=n == 7)
        # In DISABLED mode all end at once here, so that runs of any width reset alike.
        assert_rows_equal(reference, rollout(env, actions[:, :n]), n)
        env.close()


@pytest.mark.parametrize("make", [maze, disco])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_equals_gymnasiums_loop_over_single_environments(make, mode):
    single = {
        maze: lambda: StochasticMaze(noise="brownian", sticky=0.3, max_steps=9),
        disco: lambda: RandomDiscoMaze(size=7, max_steps=9),
    }[make]
    actions, seeds = actions_of(30, 3), [4, 0, 9]
    loop, batch = SyncVectorEnv([single] * 3, autoreset_mode=mode), make(3, autoreset_mode=mode)
    expected, given = loop.reset(seed=seeds), batch.reset(seed=seeds)
    np.testing.assert_array_equal(given[0], expected[0])
    ends = 0
    for row in actions:
        *expected, expected_infos = loop.step(row)
        *given, infos = batch.step(row)
        for x, y in zip(given, expected, strict=True):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
        assert infos.keys() == expected_infos.keys()
        final, expected_final = infos.get("final_info", {}), expected_infos.get("final_info", {})
        for key in infos.keys() - {"final_obs", "final_info"}:
            np.testing.assert_array_equal(infos[key], expected_infos[key], err_msg=key)
        for key in expected_final:
            np.testing.assert_array_equal(final[key], expected_final[key], err_msg=key)
        if "final_obs" in infos:
            ends += 1
            for x, y in zip(infos["final_obs"], expected_infos["final_obs"], strict=True):
                np.testing.assert_array_equal(x, y)
    assert ends == (3 if mode is AutoresetMode.SAME_STEP else 0)


def test_next_step_shows_the_last_observation_and_then_ignores_the_action():
    env = maze(2, max_steps=3)
    env.reset(seed=0)
    for _ in range(3):
        last = env.step([2, 2])
    assert last[3].all()
    assert last[4]["cell"].tolist() != [3 * 29 + 3] * 2
    _, reward, terminated, truncated, infos = env.step([99, -5])
    assert not np.any([reward, terminated, truncated])
    assert infos["cell"].tolist() == [3 * 29 + 3] * 2
    assert infos["noise_events"].tolist() == [0, 0]
    assert env.streams.episode.tolist() == [1, 1]
    with pytest.raises(InvalidAction):
        env.step([99, 0])


def test_episodes_differ_and_a_seed_repeats_them():
    env = disco(1)
    first, second = env.reset(seed=0)[0], env.reset()[0]
    assert (first != second).any()
    assert (env.reset(seed=0)[0] == first).all()
    assert (env.reset()[0] == second).all()
    assert (env.reset(seed=1)[0] != first).any()


def test_seeds():
    env = disco(3)
    one = env.reset(seed=[7, 7, 8])[0]
    assert (one[0] == one[1]).all()
    assert (one[0] != one[2]).any()
    kept = env.reset(seed=[None, 7, None])[0]
    assert (kept[1] == one[0]).all()
    assert (kept[0] != one[0]).any()
    assert env.streams.episode.tolist() == [1, 0, 1]
    assert (disco(1).reset()[0] != disco(1).reset()[0]).any(), "unseeded environments differ"
    with pytest.raises(ValueError, match="one seed for each of 3"):
        env.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="at least 0"):
        env.reset(seed=[1, 2, -3])


def test_partial_reset_keeps_the_others():
    env = maze(3, autoreset_mode="Disabled", copy=False)
    env.reset(seed=0)
    for _ in range(4):
        obs, *_, infos = env.step([2, 2, 2])
    obs, cells = obs.copy(), infos["cell"].copy()
    again, infos = env.reset(options={"reset_mask": np.array([False, True, False])})
    assert (again[[0, 2]] == obs[[0, 2]]).all()
    assert infos["cell"][[0, 2]].tolist() == cells[[0, 2]].tolist()
    assert infos["cell"][1] == 3 * 29 + 3
    assert env.streams.step.tolist() == [4, 0, 4]


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True, False], TypeError),
        (np.array([1, 0]), TypeError),
        (np.array([True]), ValueError),
        (np.array([False, False]), ValueError),
    ],
)
def test_reset_mask_is_checked(mask, error):
    with pytest.raises(error, match="reset_mask"):
        maze(2).reset(options={"reset_mask": mask})


def test_step_needs_a_reset():
    env = maze(2, autoreset_mode="Disabled", max_steps=1, render_mode="ansi")
    for call in (lambda: env.step([0, 0]), env.render):
        with pytest.raises(ResetNeeded, match="sub-environment 0 has not begun"):
            call()
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match="sub-environment 1 has not begun"):
        env.step([0, 0])
    env.reset()
    env.step([0, 0])
    with pytest.raises(ResetNeeded, match="episode of sub-environment 0 is over"):
        env.step([0, 0])
    assert len(env.render()) == 2
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match="episode of sub-environment 1 is over"):
        env.step([0, 0])


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0.0, 1.0], "dtype float64"),
        ([True, False], "dtype bool"),
        ([0], r"shape \(2,\), got \(1,\)"),
        ([[0, 1]], "shape"),
        ([0, 5], r"actions\[1\] must be in 0..4, got 5"),
        ([-1, 7], r"actions\[0\] must be in 0..4, got -1"),
    ],
)
def test_actions_are_checked_before_anything_moves(actions, message):
    env = maze(2)
    env.reset(seed=0)
    before = env.state()
    with pytest.raises(InvalidAction, match=message):
        env.step(np.array(actions))
    assert all((before[key] == value).all() for key, value in env.state().items() if isinstance(value, np.ndarray))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.uint64, int])
def test_any_integers_will_do(dtype):
    env = maze(2)
    env.reset(seed=0)
    env.step(np.array([0, 4], dtype))


def test_closed_environments_say_so():
    env = maze(2, num_threads=2)
    env.reset()
    state = env.state()
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step([0, 0]), env.render, env.state, lambda: env.set_state(state)):
        with pytest.raises(ClosedEnvironmentError):
            call()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"num_threads": -1}, "num_threads must be at least 0"),
        ({"copy": False, "buffers": 1}, "buffers must be at least 2"),
        ({"render_mode": "human"}, "render_mode"),
        ({"autoreset_mode": "never"}, "never"),
    ],
)
def test_constructor_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        maze(**({"num_envs": 1} | kwargs))


def test_unknown_options():
    with pytest.raises(ValueError, match="unknown reset options"):
        maze(1).reset(options={"level": 3})


def test_copies_are_the_callers_and_buffers_rotate():
    env = maze(2)
    calls = [env.reset(seed=0), env.step([2, 2]), env.step([2, 2])]
    arrays = [x for call in calls for x in (*call[:-1], *call[-1].values())]
    assert len({id(x) for x in arrays}) == len(arrays)
    assert not any(np.shares_memory(x, y) for i, x in enumerate(arrays) for y in arrays[:i])

    env = maze(2, copy=False, buffers=3)
    seen = [env.reset(seed=0)[0]] + [env.step([2, 2])[0] for _ in range(5)]
    assert [seen[i] is seen[0] for i in range(6)] == [True, False, False, True, False, False]


@pytest.mark.parametrize("make", [maze, disco])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_no_array_is_allocated_per_step(make, mode):
    n = 8192
    steps = 60 if mode is AutoresetMode.NEXT_STEP else 1000
    env = make(n, copy=False, autoreset_mode=mode, max_steps=steps, num_threads=2)
    actions = actions_of(4, n)
    env.reset(seed=0)
    tracemalloc.start()
    try:
        for t in range(300):  # Numba's call dispatch renews some small objects once after tracing begins
            env.step(actions[t % 4])
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for t in range(130):
            env.step(actions[t % 4])
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < n, "the smallest array, one bool a row, has n bytes"
    assert after - before < 2048


@pytest.mark.parametrize("make", [maze, disco])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("copy", [True, False])
def test_snapshots_are_exact(make, mode, copy):
    env, actions = make(4, autoreset_mode=mode, copy=copy, max_steps=6), actions_of(14, 4)
    env.reset(seed=2)
    env.step(actions[0])
    held = env.step(actions[1])[0]
    kept, state = held.copy(), env.state()

    def go(env):
        out = []
        for row in actions[2:]:
            if mode is AutoresetMode.DISABLED and env._ended.any():
                env.reset(options={"reset_mask": env._ended.copy()})
            *arrays, infos = env.step(row)
            out += [x.copy() for x in (*arrays, infos["cell"], infos["noise_on"], infos["coverage"])]
        return out

    expected = go(env)
    other = make(4, autoreset_mode=mode, copy=copy, max_steps=6)
    for again in (env, other):
        held = env.reset()[0] if again is env else held
        before = held.copy()
        again.set_state(state)
        assert (held == before).all(), "what was returned before is left alone"
        assert (again.frame.obs == kept).all()
        for x, y in zip(go(again), expected, strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_wrong_snapshot_is_refused():
    state = maze(2).state()
    with pytest.raises(ValueError, match=r"must be .* of shape \(3,"):
        maze(3).set_state(state)
    with pytest.raises(ValueError, match="missing or unexpected"):
        disco(2).set_state(state)
    state["env/cell"] = state["env/cell"].astype(np.float32)
    with pytest.raises(ValueError, match="env/cell"):
        maze(2).set_state(state)


def test_two_threads_may_step_two_environments():
    actions = actions_of(60, 64)
    expected = rollout(maze(64), actions)
    results = {}

    def work(name):
        results[name] = rollout(maze(64, num_threads=2), actions)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(2):
        assert_rows_equal(expected, results[n], 64)


def test_an_error_in_a_thread_reaches_the_caller():
    class Failing(BatchVectorEnv):
        metadata = {"render_modes": []}  # noqa: RUF012

        def _reset_rows(self, frame, mask, lo, hi):
            pass

        def _step_rows(self, frame, actions, skip, lo, hi):
            if lo:
                raise FloatingPointError(f"row {lo}")

        def _state_arrays(self):
            return {}

    env = Failing(
        2,
        observation_space=Box(0, 1, (1,), np.uint8),
        action_space=Discrete(2),
        infos={"won": InfoSpec(np.bool_, last_only=True)},
        num_threads=2,
    )
    _, infos = env.reset()
    assert infos["_won"].tolist() == [False, False]
    with pytest.raises(FloatingPointError, match="row 1"):
        env.step([0, 0])


def test_a_cold_cache_says_that_it_compiles(tmp_path, monkeypatch, capsys):
    (tmp_path / "cold_kernel.py").write_text(
        "from numba import njit\n\n\n@njit(cache=True)\ndef double(x):\n    return 2 * x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    kernel = importlib.import_module("cold_kernel").double
    announce("Doubling", kernel.py_func)
    assert capsys.readouterr().err == ""
    announce("Doubling", kernel)
    assert "compiling Doubling" in capsys.readouterr().err
    kernel(1)
    announce("Doubling", kernel)
    del sys.modules["cold_kernel"]
    announce("Doubling", importlib.import_module("cold_kernel").double)
    assert capsys.readouterr().err == "", "compiled, or in the cache"


SMALL = """
import hashlib, sys, warnings
import numpy as np
warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
from envs.disco import RandomDiscoMazeVector
from envs.mazes import NOISES, StochasticMazeVector
from envs.noise import NoisyTV, NoisyVectorEnv, OnDemandNoise, PersistiveNoise, PixelNoise, StickyAction
cases = [StochasticMazeVector(2, noise=noise, sticky=0.2, max_steps=6) for noise in NOISES]
cases += [RandomDiscoMazeVector(2, size=7, max_steps=6), RandomDiscoMazeVector(2, size=9, window=5)]
box = (1, 1, 2, 2)
for noise in (PersistiveNoise(), PixelNoise(0.5), OnDemandNoise(box=box), NoisyTV(box), StickyAction()):
    cases.append(NoisyVectorEnv(RandomDiscoMazeVector(2, size=7, max_steps=6), noise))
for env in cases:
    digest = hashlib.sha256()
    obs, infos = env.reset(seed=11)
    for row in np.random.default_rng(0).integers(0, 5, (12, 2)):
        obs, reward, terminated, truncated, infos = env.step(row)
        for x in (obs, reward, terminated, truncated, *infos.values()):
            digest.update(np.ascontiguousarray(x).tobytes())
    print(digest.hexdigest()[:16])
print("jitted" if hasattr(__import__("envs._rng")._rng.mix, "signatures") else "plain")
"""


def test_the_kernels_run_as_plain_python_too():
    def run(**env):
        out = subprocess.run(
            [sys.executable, "-c", SMALL],
            cwd=ROOT,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        return out.stdout.split()

    plain, jitted = run(NUMBA_DISABLE_JIT="1"), run(NUMBA_DISABLE_JIT="0")
    assert plain.pop() == "plain"
    assert jitted.pop() == "jitted"
    assert plain == jitted
    assert len(plain) == 15
    assert len(set(plain)) >= 14, "all but the television out of view and no noise differ"
