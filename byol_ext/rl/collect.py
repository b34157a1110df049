"""Stepping environments with a policy: preallocated storage, pinned transfers, groups that step while others think.

Legend: ``O`` context rows, ``T`` transitions, ``R = O + T``, ``B`` environments of all groups, ``M`` recurrent width,
``A`` actions; time-major.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byol_ext.rl.packing import pack, unpack
from byol_ext.rl.policy import ActorCritic, sample_actions
from byol_ext.rl.segment import Segment
from byol_ext.rl.spaces import channels_first, discrete_actions, observation_shape
from byol_ext.rng import keyed_uniform, sample_keys

INFO_KEYS = ("noise_on", "noise_asked", "cell", "room", "inventory", "coverage", "tracker_hits")
"""Per-transition facts that are kept where an environment gives them."""


@dataclass(frozen=True)
class Rollout:
    """A segment and what the policy thought of it.

    Attributes:
        segment: The segment, on the policy's device; its storage is overwritten by the next rollout.
        values: By value head, ``[T + 1, B]`` float32: of each transition's observation and of the last observation.
        policy_state: ``[B, M]``: the policy's recurrent state before the first row after the context.
        seconds: Wall time waiting for environments, and thinking.
    """

    segment: Segment
    values: dict[str, Tensor]
    policy_state: Tensor
    seconds: dict[str, float]


class Collector:
    """Fills segments by stepping groups of environments, one group in a thread while the policy acts for another.

    Args:
        groups: ``gymnasium.vector.VectorEnv``s of equal spaces that auto-reset on the next step. Two groups overlap
            stepping and inference.
        policy: Who acts; it stays on its device.
        steps: ``T``.
        context: ``O``: rows of the previous segment that come along.
        seed: Seed of environments and actions.
        first_env: Index of the first environment among those of all processes, so that results do not depend on how
            environments are spread.
        autocast: Context in which the policy acts.
        info_keys: Info arrays to keep.

    Raises:
        ValueError: If the groups' spaces differ, or an environment is not of discrete actions.
    """

    def __init__(
        self,
        groups: Sequence[Any],
        policy: ActorCritic,
        *,
        steps: int,
        context: int = 0,
        seed: int = 0,
        first_env: int = 0,
        autocast: AbstractContextManager[Any] | None = None,
        info_keys: Sequence[str] = INFO_KEYS,
    ) -> None:
        if steps < 1 or not 0 <= context <= steps:
            raise ValueError(f"steps={steps} must be positive and context={context} in [0, steps]")
        self.groups, self.policy, self.steps, self.context = list(groups), policy, steps, context
        self.seed, self.info_keys = seed, tuple(info_keys)
        self.autocast = autocast if autocast is not None else nullcontext()
        self.shape, self._channels_last = observation_shape(groups[0].single_observation_space)
        self.actions = discrete_actions(groups[0].single_action_space)
        for group in groups[1:]:
            same = group.single_observation_space == groups[0].single_observation_space
            if not same or group.single_action_space != groups[0].single_action_space:
                raise ValueError("the groups of environments have different observation or action spaces")
        sizes = [group.num_envs for group in groups]
        bounds = np.cumsum([0, *sizes])
        self._slices = [slice(int(a), int(b)) for a, b in pairwise(bounds)]
        self.batch = int(bounds[-1])
        self.device = next(policy.parameters()).device
        self.env_ids = torch.arange(first_env, first_env + self.batch)
        self.taken = 0
        self._restarts = 0
        self._has_context = False
        self._started = False
        self._pool = ThreadPoolExecutor(len(self.groups), thread_name_prefix="environments")
        self._allocate(groups[0].single_observation_space.dtype)

    def _allocate(self, dtype: Any) -> None:
        rows, batch, device = self.context + self.steps, self.batch, self.device
        kind = torch.uint8 if np.dtype(dtype) == np.uint8 else torch.float32
        self.obs = torch.zeros(rows + 1, batch, *self.shape, dtype=kind, device=device)
        self.prev_action = torch.full((rows + 1, batch), self.actions, device=device)
        self.action = torch.zeros(rows, batch, dtype=torch.int64, device=device)
        self.log_prob = torch.zeros(rows, batch, device=device)
        self.state = torch.zeros(rows + 1, batch, self.policy.trunk.state_width, device=device)
        self.values = {head: torch.zeros(rows + 1, batch, device=device) for head in self.policy.heads}
        self.first = np.zeros((rows + 1, batch), bool)
        self.reward = np.zeros((rows, batch), np.float32)
        self.terminated = np.zeros((rows, batch), bool)
        self.truncated = np.zeros((rows, batch), bool)
        self.real = np.ones((rows, batch), bool)
        self.info: dict[str, np.ndarray] = {}
        pinned = device.type == "cuda"
        self._staging = [
            torch.zeros(s.stop - s.start, *self.shape, dtype=kind, pin_memory=True) if pinned else None
            for s in self._slices
        ]

    def collect(self) -> Rollout:
        """Take ``T`` steps in every environment.

        Raises:
            ValueError: If a reward is not finite; the message names step and environments.
        """
        started = time.perf_counter()
        waited = 0.0
        if not self._started:
            self._reset()
        elif self._has_context:
            self._carry()
        start = self.context
        uniform_TB = self._uniform()
        futures: list[Future[Any] | None] = [None] * len(self.groups)
        with torch.inference_mode(), self.autocast:
            for row in range(start, start + self.steps + 1):
                for index, part in enumerate(self._slices):
                    future = futures[index]
                    if future is not None:
                        began = time.perf_counter()
                        stepped = future.result()
                        waited += time.perf_counter() - began
                        self._store(row - 1, index, *stepped)
                    chosen = self._think(row, part, uniform_TB[row - start] if row < start + self.steps else None)
                    if chosen is not None:
                        futures[index] = self._pool.submit(self.groups[index].step, chosen)
        self.taken += self.steps
        self._check_rewards()
        rollout = self._rollout({"environments": waited, "inference": time.perf_counter() - started - waited})
        self._has_context = True
        return rollout

    def state_dict(self) -> dict[str, Any]:
        """Where the environments and the last rows stand, as numbers and tensors.

        Environments with a ``state()`` are saved exactly; the others restart when loaded.
        """
        tail = self.context + 1
        rows = {name: _tensor(getattr(self, name)[-tail:]) for name in ("obs", "prev_action", "state", "first")}
        kept = max(self.context, 1)
        names = ("action", "log_prob", "reward", "terminated", "truncated", "real")
        rows |= {name: _tensor(getattr(self, name)[-kept:]) for name in names}
        return {
            "taken": self.taken,
            "restarts": self._restarts,
            "started": self._started,
            "rows": rows,
            "info": {key: _tensor(value[-kept:]) for key, value in self.info.items()},
            "environments": [pack(g.state()) for g in self.groups] if self.exact else None,
        }

    @property
    def exact(self) -> bool:
        """Whether all environments can be saved and put back exactly."""
        return all(callable(getattr(group, "state", None)) for group in self.groups)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a :meth:`state_dict` was taken; environments that could not be saved begin new episodes."""
        self.taken, self._restarts = state["taken"], state["restarts"]
        if not state["started"]:
            return
        if state["environments"] is None:
            self._restarts += 1
            self._started = self._has_context = False
            return
        self._reset()
        for group, saved in zip(self.groups, state["environments"], strict=True):
            group.set_state(unpack(saved))
        rows = state["rows"]
        tail = self.context + 1
        for name in ("obs", "prev_action", "state"):
            getattr(self, name)[-tail:] = rows[name].to(self.device)
        self.first[-tail:] = rows["first"].numpy()
        kept = max(self.context, 1)
        for name in ("action", "log_prob"):
            getattr(self, name)[-kept:] = rows[name].to(self.device)
        for name in ("reward", "terminated", "truncated", "real"):
            getattr(self, name)[-kept:] = rows[name].numpy()
        self._allocate_info({key: value.numpy() for key, value in state["info"].items()})
        for key, value in state["info"].items():
            self.info[key][-kept:] = value.numpy()
        self._has_context = True

    def close(self) -> None:
        """Close the environments and the threads."""
        self._pool.shutdown(wait=True)
        for group in self.groups:
            group.close()

    def _reset(self) -> None:
        """First observations into the row where the next segment begins."""
        row = self.context
        seed = self.seed if not self._restarts else hash_seed(self.seed, self._restarts)
        for index, (group, part) in enumerate(zip(self.groups, self._slices, strict=True)):
            seeds = [seed + int(self.env_ids[i]) for i in range(part.start, part.stop)]
            obs, info = group.reset(seed=seeds)
            self._put(row, index, obs)
            if index == 0:
                self._allocate_info({key: np.asarray(info[key])[None] for key in self.info_keys if key in info})
        self.first[row] = True
        self.prev_action[row] = self.actions
        self.state[row] = 0
        self._started, self._has_context = True, False

    def _allocate_info(self, examples: Mapping[str, np.ndarray]) -> None:
        rows = self.context + self.steps
        self.info = {
            key: np.zeros((rows, self.batch, *value.shape[2:]), value.dtype) for key, value in examples.items()
        }

    def _carry(self) -> None:
        """Move the last rows to the front: the context, and the observation that the next segment begins with."""
        rows, keep = self.steps, self.context
        for name in ("obs", "prev_action", "state", "first"):
            array = getattr(self, name)
            array[: keep + 1] = _copy(array[rows:])
        if keep:
            for name in ("action", "log_prob", "reward", "terminated", "truncated", "real"):
                array = getattr(self, name)
                array[:keep] = _copy(array[rows:])
            for value in self.info.values():
                value[:keep] = value[rows:].copy()

    def _uniform(self) -> Tensor:
        """``[T, B]`` uniform numbers keyed by (seed, environment, step)."""
        steps = torch.arange(self.taken, self.taken + self.steps).repeat_interleave(self.batch)
        keys = sample_keys(self.seed, steps, self.env_ids.repeat(self.steps))
        return keyed_uniform(keys, 1, stream=self._restarts).view(self.steps, self.batch).to(self.device)

    def _think(self, row: int, part: slice, uniform_B: Tensor | None) -> np.ndarray | None:
        """Act on a row's observations; without random numbers only value them."""
        first = torch.from_numpy(self.first[row, part]).to(self.device, non_blocking=True)
        prev_action = self.prev_action[row, part]
        output = self.policy.act(self.obs[row, part], prev_action, first, self.state[row, part])
        for head, value_B in output.values.items():
            self.values[head][row, part] = value_B.float()
        if uniform_B is None:
            return None
        action_B, log_prob_B = sample_actions(output.logits_BA, uniform_B[part])
        self.action[row, part] = action_B
        self.log_prob[row, part] = log_prob_B
        self.state[row + 1, part] = output.state_BM.float()
        return action_B.cpu().numpy()

    def _store(
        self,
        row: int,
        index: int,
        obs: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        info: Mapping[str, Any],
    ) -> None:
        """What a step of a group gave: the transition of ``row`` and the observation of ``row + 1``."""
        part = self._slices[index]
        self._put(row + 1, index, obs)
        ended = self._ended(row, part)
        self.reward[row, part], self.terminated[row, part], self.truncated[row, part] = reward, terminated, truncated
        self.real[row, part] = ~ended
        self.first[row + 1, part] = ended
        action = self.action[row, part]
        if ended.any():
            mask = torch.from_numpy(ended).to(self.device)
            action = action.masked_fill(mask, self.actions)
        self.prev_action[row + 1, part] = action
        for key, rows in self.info.items():
            rows[row, part] = info[key]

    def _ended(self, row: int, part: slice) -> np.ndarray:
        """Which environments ended at the row before, so that this row is their reset."""
        if row == self.context and not self._has_context:
            return np.zeros(part.stop - part.start, bool)
        # With context 0 the row before the segment is the last row of the storage, not yet overwritten.
        return self.terminated[row - 1, part] | self.truncated[row - 1, part]

    def _put(self, row: int, index: int, obs: np.ndarray) -> None:
        source = torch.from_numpy(channels_first(obs, last=self._channels_last))
        staging = self._staging[index]
        if staging is not None:
            source = staging.copy_(source)
        self.obs[row, self._slices[index]].copy_(source, non_blocking=True)

    def _check_rewards(self) -> None:
        bad = ~np.isfinite(self.reward[self.context :])
        if bad.any():
            row, env = np.argwhere(bad)[0]
            raise ValueError(
                f"environment {env} gave the reward {self.reward[self.context + row, env]} at step "
                f"{self.taken - self.steps + row}; rewards must be finite numbers"
            )

    def _rollout(self, seconds: dict[str, float]) -> Rollout:
        start = 0 if self._has_context else self.context
        device = self.device

        def moved(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array[start:]).to(device, copy=True)

        segment = Segment(
            obs=self.obs[start:],
            prev_action=self.prev_action[start:],
            action=self.action[start:],
            log_prob=self.log_prob[start:],
            state=self.state[start].clone(),
            context=self.context - start,
            first=moved(self.first),
            reward=moved(self.reward),
            terminated=moved(self.terminated),
            truncated=moved(self.truncated),
            real=moved(self.real),
            info={key: moved(value) for key, value in self.info.items()},
        )
        values = {head: value[self.context :].clone() for head, value in self.values.items()}
        return Rollout(segment, values, self.state[self.context].clone(), seconds)


def hash_seed(seed: int, restarts: int) -> int:
    """Seed of the environments after a restart, far from those of other environments and restarts."""
    return int(sample_keys(seed, restarts, torch.zeros(1, dtype=torch.int64))[0]) & 0x3FFFFFFF


def _tensor(value: Any) -> Tensor:
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value.detach().cpu().clone()


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value.clone()
