"""Playing episodes with a trained policy, without learning.

Legend: ``B`` environments, ``T`` steps of an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byol_ext.rl.policy import ActorCritic, sample_actions
from byol_ext.rl.segment import Segment
from byol_ext.rl.spaces import channels_first, observation_shape
from byol_ext.rng import keyed_uniform, sample_keys

Watch = Callable[[int, Mapping[str, Any]], None]
"""Called as ``(step, values)`` after each step of :func:`trace`, for pictures."""


def play(
    policy: ActorCritic, env: Any, *, episodes: int, greedy: bool = False, seed: int = 0, max_steps: int = 27_000
) -> list[dict[str, float]]:
    """Whole episodes, the same number in each environment, so that short ones do not crowd out long ones.

    Args:
        policy: The policy, in evaluation mode.
        env: A vector environment that auto-resets on the next step, with seeds of its own.
        episodes: Episodes in all; rounded up to a multiple of the environments.
        greedy: Whether to take the likeliest action instead of a sample.
        seed: Seed of environments and actions.
        max_steps: Longest episode; a longer one is cut there and marked, and what follows counts as the next.

    Returns:
        A row an episode: ``return``, ``length``, ``cut``, and where the environment tells: ``cells`` and ``rooms``
        (distinct ones), ``coverage``, ``trackers`` (distinct ones hit).
    """
    batch, player = env.num_envs, _Player(policy, env, greedy=greedy, seed=seed)
    quota = -(-episodes // batch)
    rows: list[list[dict[str, float]]] = [[] for _ in range(batch)]
    running = [_Running() for _ in range(batch)]
    while any(len(done) < quota for done in rows):
        reward, ended, reset, info = player.step()
        for index in range(batch):
            if reset[index]:
                continue
            episode = running[index]
            episode.add(float(reward[index]), info, index)
            if ended[index] or episode.length >= max_steps:
                if len(rows[index]) < quota:
                    rows[index].append(episode.row(info, index, cut=not ended[index]))
                running[index] = _Running()
    return [row for done in rows for row in done]


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each column, and median and interquartile mean of the return.

    Example:
        >>> summary([{"return": 1.0}, {"return": 3.0}])["return_mean"]
        2.0
    """
    returns = np.sort([row["return"] for row in rows])
    quarter = len(returns) // 4
    metrics = {
        "episodes": float(len(rows)),
        "return_median": float(np.median(returns)),
        "return_iqm": float(returns[quarter : len(returns) - quarter].mean()),
        "return_max": float(returns.max()),
    }
    names = {name for row in rows for name in row}
    return metrics | {f"{name}_mean": float(np.mean([row[name] for row in rows if name in row])) for name in names}


@dataclass(frozen=True)
class Trace:
    """One episode of one environment.

    Attributes:
        segment: The episode as a segment of one environment.
        value: ``[T, H]``: value heads in the policy's order.
    """

    segment: Segment
    value: np.ndarray


def trace(
    policy: ActorCritic,
    env: Any,
    *,
    greedy: bool = False,
    seed: int = 0,
    max_steps: int = 27_000,
    watch: Watch | None = None,
    info_keys: tuple[str, ...] = ("noise_on", "noise_asked", "cell", "room"),
) -> Trace:
    """One episode with everything that a bonus needs to reward it afterwards.

    Args:
        policy: The policy, in evaluation mode.
        env: A vector environment of one environment.
        greedy: Whether to take the likeliest action.
        seed: Seed of environment and actions.
        max_steps: Where to cut.
        watch: Called after the reset (step 0) and each step, with ``reward``, ``info``.
        info_keys: Facts to keep.
    """
    player = _Player(policy, env, greedy=greedy, seed=seed)
    rows: dict[str, list[Any]] = {
        name: [] for name in ("action", "log_prob", "reward", "terminated", "truncated", "value")
    }
    infos: dict[str, list[Any]] = {key: [] for key in info_keys if key in player.info}
    observations, previous = [player.obs.clone()], [player.prev_action.clone()]
    if watch is not None:
        watch(0, {"reward": 0.0, "info": player.info})
    for step in range(1, max_steps + 1):
        reward, ended, _, info = player.step()
        observations.append(player.obs.clone())
        previous.append(player.prev_action.clone())
        for name, value in player.last.items():
            rows[name].append(value)
        rows["reward"].append(torch.as_tensor(reward, dtype=torch.float32))
        for key, values in infos.items():
            values.append(torch.as_tensor(np.asarray(info[key])))
        if watch is not None:
            watch(step, {"reward": float(reward[0]), "info": info})
        if ended[0]:
            break
    stacked = {name: torch.stack(values) for name, values in rows.items()}
    time = len(rows["reward"])
    first = torch.zeros(time + 1, 1, dtype=torch.bool)
    first[0] = True
    device = player.device
    segment = Segment(
        obs=torch.stack(observations),
        first=first.to(device),
        prev_action=torch.stack(previous),
        action=stacked["action"],
        reward=stacked["reward"].to(device),
        terminated=stacked["terminated"].to(device),
        truncated=stacked["truncated"].to(device),
        real=torch.ones(time, 1, dtype=torch.bool, device=device),
        log_prob=stacked["log_prob"],
        state=policy.initial_state(1).to(device),
        info={key: torch.stack(values).to(device) for key, values in infos.items()},
    )
    return Trace(segment, stacked["value"][:, 0].float().cpu().numpy())


@dataclass
class _Running:
    """An episode under way."""

    total: float = 0.0
    length: int = 0
    cells: set[int] = field(default_factory=set)
    rooms: set[int] = field(default_factory=set)

    def add(self, reward: float, info: Mapping[str, Any], index: int) -> None:
        self.total += reward
        self.length += 1
        if "cell" in info:
            self.cells.add(int(info["cell"][index]))
        if "room" in info:
            self.rooms.add(int(info["room"][index]))

    def row(self, info: Mapping[str, Any], index: int, *, cut: bool) -> dict[str, float]:
        row = {"return": self.total, "length": float(self.length), "cut": float(cut)}
        if self.cells:
            row["cells"] = float(len(self.cells))
        if self.rooms:
            row["rooms"] = float(len(self.rooms))
        if "coverage" in info:
            row["coverage"] = float(info["coverage"][index])
        if "tracker_hits" in info:
            row["trackers"] = float((np.asarray(info["tracker_hits"][index]) > 0).sum())
        return row


class _Player:
    """Steps a vector environment with a policy."""

    def __init__(self, policy: ActorCritic, env: Any, *, greedy: bool, seed: int) -> None:
        self.policy, self.env, self.greedy, self.seed = policy, env, greedy, seed
        self.device = next(policy.parameters()).device
        _, self._channels_last = observation_shape(env.single_observation_space)
        batch = env.num_envs
        obs, self.info = env.reset(seed=[seed + i for i in range(batch)])
        self.obs = self._tensor(obs)
        self._none = int(env.single_action_space.n)
        self.prev_action = torch.full((batch,), self._none, device=self.device)
        self.first = torch.ones(batch, dtype=torch.bool, device=self.device)
        self.state = policy.initial_state(batch).to(self.device)
        self.last: dict[str, Tensor] = {}
        self._ended = np.zeros(batch, bool)
        self._taken = 0
        self._ids = torch.arange(batch)

    @torch.inference_mode()
    def step(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, Mapping[str, Any]]:
        """Reward, ends, which environments only reset, and infos."""
        output = self.policy.act(self.obs, self.prev_action, self.first, self.state)
        keys = sample_keys(self.seed, self._taken, self._ids)
        uniform_B = keyed_uniform(keys, 1)[:, 0].to(self.device)
        action_B, log_prob_B = sample_actions(output.logits_BA, uniform_B)
        if self.greedy:
            action_B = output.logits_BA.argmax(-1)
        obs, reward, terminated, truncated, self.info = self.env.step(action_B.cpu().numpy())
        reset, self._ended = self._ended, terminated | truncated
        self.obs, self.state = self._tensor(obs), output.state_BM.float()
        self.first = torch.from_numpy(reset.copy()).to(self.device)
        self.prev_action = action_B.masked_fill(self.first, self._none)
        self._taken += 1
        self.last = {
            "action": action_B.clone(),
            "log_prob": log_prob_B.clone(),
            "terminated": torch.from_numpy(terminated.copy()),
            "truncated": torch.from_numpy(truncated.copy()),
            "value": torch.stack([output.values[head].float() for head in self.policy.heads], -1),
        }
        return reward, self._ended, reset, self.info

    def _tensor(self, obs: np.ndarray) -> Tensor:
        return torch.from_numpy(channels_first(obs, last=self._channels_last)).to(self.device)
