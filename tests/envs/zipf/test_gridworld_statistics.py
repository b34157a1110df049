"""What only many episodes, another interpreter or the memory allocator can show."""

import hashlib
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from envs.zipf.exact import random_baselines
from envs.zipf.game import Settings
from envs.zipf.gridworld import ZipfGridworldVector
from envs.zipf.law import SPLITS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("split", SPLITS)
def test_a_million_tasks_follow_the_product_law(split):
    env = ZipfGridworldVector(20_000, split=split, obs="tiles", copy=False)
    env.reset(seed=0)
    counts = np.zeros(400)
    for _ in range(50):
        counts += np.bincount(env.reset()[1]["task_id"], minlength=400)
    factors = Settings(split=split).factors
    expected = 1e6 * np.outer(*(items.probabilities(split) for items in factors)).ravel()
    assert (counts[expected == 0] == 0).all()
    often = expected >= 5
    seen = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    positive = wanted > 0
    assert stats.chisquare(seen[positive], wanted[positive]).pvalue > 1e-3


@pytest.mark.parametrize("split", SPLITS)
def test_random_episodes_match_the_exact_values(split):
    episodes = 20_000
    env = ZipfGridworldVector(episodes, split=split, obs="tiles", copy=False)
    env.reset(seed=5)
    rng = np.random.default_rng(6)
    length, won, late = np.zeros(episodes, int), np.zeros(episodes, bool), np.zeros(episodes, bool)
    going = np.ones(episodes, bool)
    for step in range(1, 101):
        _, reward, terminated, truncated, _ = env.step(rng.integers(0, 8, episodes))
        ended = going & (terminated | truncated)
        length[ended], won[ended], late[ended] = step, reward[ended] > 0, truncated[ended]
        going &= ~ended
    assert not going.any()
    exact = random_baselines(Settings())[split]
    for sample, mean in ((won, exact["success"]), (length, exact["length"]), (late, exact["timeout"])):
        assert abs(sample.mean() - mean) < 4 * sample.std() / np.sqrt(episodes)


PROGRAM = """
import hashlib, numpy as np
from envs.zipf.gridworld import ZipfGridworldVector
digest = hashlib.sha256()
env = ZipfGridworldVector(4, obs="both", split="uniform", max_steps=6, view=5, tile=4)
obs, infos = env.reset(seed=3)
for actions in np.random.default_rng(0).integers(0, 8, (30, 4)):
    arrays = (obs["tiles"], obs["image"], obs["cue"], infos["task_id"], infos["task_prob"], infos["outcome"])
    for array in arrays:
        digest.update(array.tobytes())
    obs, *rest, infos = env.step(actions)
    for array in rest:
        digest.update(array.tobytes())
print(digest.hexdigest())
"""


def test_the_uncompiled_kernels_give_the_same():
    outputs = []
    for disable in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM],
            env={**os.environ, "NUMBA_DISABLE_JIT": disable, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(run.stdout.strip())
    assert len(outputs[0]) == len(hashlib.sha256().hexdigest())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("obs", ["pixels", "tiles", "both"])
def test_steps_allocate_no_arrays(obs):
    n = 4096
    env = ZipfGridworldVector(n, obs=obs, copy=False)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 8, (60, n))
    for row in actions[:30]:
        env.step(row)
    peaks = []
    tracemalloc.start()
    for row in actions[30:]:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        env.step(row)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # A step's dictionaries are 2.3 kB; the batch's smallest array, of bools, would be 4 kB.
    assert np.median(peaks) < n
    assert left / len(peaks) < n / 2
