"""A small environment, and agents small enough for it."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

from byol_ext.rl.agent import ExploreAgent, Objective, Stream
from byol_ext.rl.collect import Collector
from byol_ext.rl.curiosity.world_model import BYOLExplore
from byol_ext.rl.encoders import mlp_encoder
from byol_ext.rl.policy import ActorCritic
from byol_ext.rl.recurrent import Trunk


class Corridor(VectorEnv):
    """Cells 0 .. size - 1; action 1 goes right, 0 left; the right end pays 1 and terminates, ``limit`` steps truncate.

    With probability ``slip`` (a stream for each environment) the move is reversed. Resets on the next step.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs, *, size=5, limit=12, slip=0.2):
        self.num_envs, self.size, self.limit, self.slip = num_envs, size, limit, slip
        self.single_observation_space = Box(0, 255, (1, 1, size), np.uint8)
        self.single_action_space = Discrete(2)
        self.closed_by_us = False

    def reset(self, *, seed=None, options=None):
        seeds = seed if isinstance(seed, list) else [seed + i for i in range(self.num_envs)]
        self.random = [np.random.default_rng(s) for s in seeds]
        self.cell = np.zeros(self.num_envs, np.int64)
        self.age = np.zeros(self.num_envs, np.int64)
        self.ended = np.zeros(self.num_envs, bool)
        return self._obs(), self._info()

    def step(self, actions):
        slipped = np.array([r.random() < self.slip for r in self.random])
        move = np.where(np.asarray(actions) == 1, 1, -1) * np.where(slipped, -1, 1)
        again = self.ended
        self.cell = np.where(again, 0, np.clip(self.cell + move, 0, self.size - 1))
        self.age = np.where(again, 0, self.age + 1)
        terminated = (self.cell == self.size - 1) & ~again
        truncated = (self.age >= self.limit) & ~terminated & ~again
        self.ended = terminated | truncated
        self.slipped = slipped & ~again
        return self._obs(), terminated.astype(np.float32), terminated, truncated, self._info(slipped & ~again)

    def _obs(self):
        obs = np.zeros((self.num_envs, 1, 1, self.size), np.uint8)
        obs[np.arange(self.num_envs), 0, 0, self.cell] = 255
        return obs

    def _info(self, slipped=None):
        slipped = np.zeros(self.num_envs, bool) if slipped is None else slipped
        return {"cell": self.cell.copy(), "noise_on": slipped, "coverage": (self.cell + 1) / self.size}

    def close(self, **kwargs):
        self.closed_by_us = True


class SavedCorridor(Corridor):
    """One whose state can be saved."""

    def state(self):
        arrays = {name: getattr(self, name).copy() for name in ("cell", "age", "ended")}
        return arrays | {"random": [r.bit_generator.state for r in self.random]}

    def set_state(self, state):
        for name in ("cell", "age", "ended"):
            setattr(self, name, state[name].copy())
        for r, saved in zip(self.random, state["random"], strict=True):
            r.bit_generator.state = saved


def make_agent(
    *, seed=0, size=5, memory=8, share="none", heads=("value",), algorithm="ppo", horizon=3, standardise=False
):
    torch.manual_seed(seed)

    def make_trunk(width):
        return Trunk(mlp_encoder((1, 1, size), (8,), standardise=standardise), 2, width=width, action_width=4)

    trunk = make_trunk(memory)
    own = trunk if share == "encoder+rnn" else make_trunk(8)
    bonus = BYOLExplore(own, horizon=horizon, predictor_hidden=(16,), shares_recurrence=share == "encoder+rnn")
    streams = {head: Stream(episodic=head != "intrinsic") for head in heads}
    return ExploreAgent(ActorCritic(trunk, 2, heads=heads), bonus, Objective(algorithm=algorithm, streams=streams))


@pytest.fixture
def corridor():
    return Corridor


@pytest.fixture
def saved_corridor():
    return SavedCorridor


@pytest.fixture
def agent():
    return make_agent


@pytest.fixture
def collector():
    def make(agent, *, groups=1, envs=4, steps=10, context=0, seed=0, kind=SavedCorridor, **options):
        pools = [kind(envs // groups, **options) for _ in range(groups)]
        return Collector(pools, agent.acting_policy, steps=steps, context=context, seed=seed)

    return make
