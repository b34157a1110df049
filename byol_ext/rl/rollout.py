"""A source of minibatches that steps environments with the current policy.

A rollout is collected, rewarded by the bonus, turned into advantages and cut into minibatches of whole environments,
epoch by epoch; then the next one is collected. ``fit`` sees batches like any other's.

Legend: ``T`` transitions, ``B`` environments, ``b`` environments of a minibatch; time-major.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from byol_ext.bootstrap import Ctx
from byol_ext.metrics.exploration import ExplorationTracker
from byol_ext.rl.agent import ExploreAgent
from byol_ext.rl.collect import Collector, Rollout
from byol_ext.rl.curiosity.bonus import Reward
from byol_ext.rl.ppo import mix_advantages
from byol_ext.rl.returns import gae
from byol_ext.rl.segment import Segment
from byol_ext.rng import sample_generator
from byol_ext.training.accumulate import to_device
from byol_ext.training.trainable import process_buffers

OBSERVED_ROWS = 4
"""Every how many rows input statistics take: consecutive frames say nearly the same."""


@dataclass(frozen=True)
class RewardMix:
    """How extrinsic and intrinsic reward come together.

    Attributes:
        intrinsic_coef: Weight of the intrinsic reward.
        extrinsic_coef: Weight of the extrinsic one; 0 explores for its own sake.
        clip_sign: Whether the extrinsic reward is its sign only (RND).
    """

    intrinsic_coef: float = 1.0
    extrinsic_coef: float = 1.0
    clip_sign: bool = True

    def streams(self, extrinsic: Tensor, intrinsic: Tensor, heads: tuple[str, ...]) -> dict[str, Tensor]:
        """Rewards by value head: their sum for one head, each alone for ``extrinsic`` and ``intrinsic``."""
        outer = self.extrinsic_coef * (extrinsic.sign() if self.clip_sign else extrinsic)
        inner = self.intrinsic_coef * intrinsic
        if len(heads) == 1:
            return {heads[0]: outer + inner}
        return {"extrinsic": outer, "intrinsic": inner}


@dataclass
class _Pending:
    """A rollout that is being learned from: what minibatches are cut from, and how many were."""

    segment: Segment
    extra: dict[str, Any]
    number: int
    taken: int = 0


class RolloutSource:
    """Minibatches of rollouts, a :class:`byol_ext.training.Source`.

    Args:
        collector: Steps the environments.
        agent: Policy and bonus; the parameters that ``fit`` trains.
        mix: Reward mixing.
        epochs: Passes over a rollout (PPO: 4).
        minibatches: Parts that a pass cuts the environments into.
        bonus_every_epoch: Whether the bonus learns in each pass; by default in the first only, since learning one
            rollout again and again speeds the world model up against the policy and starves the reward.
        seed: Seed of the minibatches' order.
        tracker: Takes account of episodes, rooms and coverage.

    Raises:
        ValueError: If the environments cannot be cut into that many minibatches.
    """

    def __init__(
        self,
        collector: Collector,
        agent: ExploreAgent,
        *,
        mix: RewardMix,
        epochs: int = 4,
        minibatches: int = 4,
        bonus_every_epoch: bool = False,
        seed: int = 0,
        tracker: ExplorationTracker | None = None,
        fingerprint: str = "",
    ) -> None:
        if collector.batch % minibatches:
            raise ValueError(f"{collector.batch} environments cannot be cut into {minibatches} equal minibatches")
        self.collector, self.agent, self.mix = collector, agent, mix
        self.epochs, self.minibatches, self.bonus_every_epoch = epochs, minibatches, bonus_every_epoch
        self.seed, self.fingerprint = seed, fingerprint
        self.tracker = tracker
        self.memory = {k: v.to(collector.device) for k, v in agent.bonus.initial_memory(collector.batch).items()}
        self.rollouts = 0
        self._pending: _Pending | None = None
        self._log: dict[str, float] = {}
        self._since = time.perf_counter()

    @property
    def batches_per_rollout(self) -> int:
        """Optimiser steps between two rollouts."""
        return self.epochs * self.minibatches

    @property
    def steps_taken(self) -> int:
        """Environment steps of this process, over all environments."""
        return self.collector.taken * self.collector.batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Minibatches without end."""
        while True:
            if self._pending is None:
                self._pending = self._collect()
            pending = self._pending
            batch = self._minibatch(pending)
            pending.taken += 1
            if pending.taken == self.batches_per_rollout:
                self._pending = None
            yield batch

    def advance(self) -> None:
        """Collect a rollout that nobody learns from."""
        self._collect()

    def metrics(self) -> dict[str, float]:
        """What the last rollout cost and paid, and the tracker's account."""
        return self._log | (self.tracker.metrics() if self.tracker is not None else {})

    def state_dict(self) -> dict[str, Any]:
        """Counters, environments where they can be saved, and the rollout if it is half learned."""
        pending = self._pending
        return {
            "rollouts": self.rollouts,
            "memory": dict(self.memory),
            "bonus": {name: buffer.cpu().clone() for name, buffer in process_buffers(self.agent.bonus).items()},
            "collector": self.collector.state_dict(),
            "tracker": self.tracker.state_dict() if self.tracker is not None else None,
            "pending": None
            if pending is None
            else {
                "segment": {f.name: getattr(pending.segment, f.name) for f in fields(Segment)},
                "extra": pending.extra,
                "number": pending.number,
                "taken": pending.taken,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a :meth:`state_dict` was taken."""
        device = self.collector.device
        self.rollouts = state["rollouts"]
        self.collector.load_state_dict(state["collector"])
        fresh = self.agent.bonus.initial_memory(self.collector.batch)
        saved = state["memory"] if self.collector.exact else fresh
        self.memory = {key: value.to(device) for key, value in saved.items()}
        if self.collector.exact:
            for name, buffer in process_buffers(self.agent.bonus).items():
                buffer.copy_(state["bonus"][name])
        if self.tracker is not None and state["tracker"] is not None:
            self.tracker.load_state_dict(state["tracker"])
            if not self.collector.exact:
                self.tracker.drop_running()
        pending = state["pending"]
        if pending is not None:
            segment = Segment(**pending["segment"]).to(device)
            self._pending = _Pending(segment, to_device(pending["extra"], device), pending["number"], pending["taken"])

    def _collect(self) -> _Pending:
        self.agent.refresh_inputs()
        rollout = self.collector.collect()
        segment = replace(rollout.segment, memory=self.memory)
        began = time.perf_counter()
        reward = self.agent.bonus.reward(segment)
        self.memory = reward.memory
        pending = _Pending(segment, self._targets(segment, rollout, reward), self.rollouts)
        self.agent.observe(segment.obs[segment.context + 1 :: OBSERVED_ROWS])
        self.rollouts += 1
        self._account(segment, rollout, reward, time.perf_counter() - began)
        return pending

    @torch.no_grad()
    def _targets(self, segment: Segment, rollout: Rollout, reward: Reward) -> dict[str, Any]:
        """Advantages and returns of each head."""
        objective, tail = self.agent.objective, segment.tail
        rewards = self.mix.streams(tail(segment.reward), reward.scaled, self.agent.policy.heads)
        advantages = {
            head: gae(
                rewards[head],
                rollout.values[head],
                terminated_TB=tail(segment.terminated),
                truncated_TB=tail(segment.truncated),
                real_TB=tail(segment.real),
                discount=stream.discount,
                trace=objective.trace,
                episodic=stream.episodic,
            )
            for head, stream in objective.streams.items()
        }
        weights = {head: stream.weight for head, stream in objective.streams.items()}
        extra: dict[str, Any] = {
            "policy_state": rollout.policy_state,
            "advantage": mix_advantages(advantages, weights),
            "returns": {head: advantage + rollout.values[head][:-1] for head, advantage in advantages.items()},
            "rewards": rewards,
        }
        if objective.algorithm == "vmpo":
            start = segment.context
            rows = segment.obs[start:-1], segment.prev_action[start:-1], segment.first[start:-1]
            extra["logits"] = self.agent.acting_policy(*rows, rollout.policy_state).logits_RBA
        return extra

    def _minibatch(self, pending: _Pending) -> dict[str, Any]:
        epoch, part = divmod(pending.taken, self.minibatches)
        order = sample_generator(self.seed, pending.number, epoch).permutation(self.collector.batch)
        size = self.collector.batch // self.minibatches
        chosen = torch.from_numpy(order[part * size : (part + 1) * size].copy()).to(self.collector.device)
        if self.minibatches == 1:
            chosen = chosen.sort().values
        batch = pending.segment.select(chosen).batch_major()
        for name, value in pending.extra.items():
            batch[name] = _select(name, value, chosen)
        learn = self.bonus_every_epoch or epoch == 0
        return {"rollout": batch, "context": pending.segment.context, "learn_bonus": learn}

    def _account(self, segment: Segment, rollout: Rollout, reward: Reward, seconds: float) -> None:
        now = time.perf_counter()
        total, self._since = now - self._since, now
        steps = segment.steps * segment.batch
        environments, inference = rollout.seconds["environments"], rollout.seconds["inference"]
        self._log = {
            "env_steps": float(self.steps_taken),
            "steps_per_second": steps / max(total, 1e-9),
            "share/environments": environments / total,
            "share/inference": inference / total,
            "share/reward": seconds / total,
            "share/learning": max(1 - (environments + inference + seconds) / total, 0.0),
            "reward/intrinsic_raw": float(reward.raw.mean()),
            "reward/intrinsic": float(reward.scaled.mean()),
            "reward/intrinsic_max": float(reward.scaled.max()),
            "reward/intrinsic_zero": float((reward.scaled == 0).float().mean()),
            **{f"bonus/{name}": float(value) for name, value in reward.terms.items()},
        }
        if self.tracker is not None:
            tail = segment.tail
            self.tracker.update(
                reward=_array(tail(segment.reward)),
                terminated=_array(tail(segment.terminated)),
                truncated=_array(tail(segment.truncated)),
                real=_array(tail(segment.real)),
                action=_array(tail(segment.action)),
                intrinsic=_array(reward.scaled),
                raw=_array(reward.raw),
                info={key: _array(tail(value)) for key, value in segment.info.items()},
            )


def prepare(batch: Mapping[str, Any], step: int) -> tuple[dict[str, Any], Ctx]:
    """``fit``'s ``prepare`` for :class:`RolloutSource`."""
    return {"rollout": batch["rollout"]}, Ctx(data={k: batch[k] for k in ("context", "learn_bonus")})


def _select(name: str, value: Any, chosen: Tensor) -> Any:
    """Some environments of a tensor ``[T, B, ...]``, batch-major; ``policy_state`` is ``[B, M]`` already."""
    if isinstance(value, dict):
        return {key: _select(key, item, chosen) for key, item in value.items()}
    return value[chosen] if name == "policy_state" else value[:, chosen].transpose(0, 1)


def _array(value: Tensor) -> Any:
    return value.detach().cpu().numpy()
