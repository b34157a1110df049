"""The agent that ``fit`` trains: a policy and a curiosity bonus, which may share their trunk.

Legend: ``O`` context rows, ``T`` transitions, ``R = O + T``, ``B`` environments, ``A`` actions; time-major.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from byol_ext.bootstrap import Ctx, Out
from byol_ext.rl.curiosity.bonus import Bonus, BonusLoss
from byol_ext.rl.encoders import InputStatistics
from byol_ext.rl.policy import ActorCritic, PolicyOutput
from byol_ext.rl.ppo import normalise_advantage, ppo_loss
from byol_ext.rl.segment import Segment
from byol_ext.rl.vmpo import VMPOLoss
from byol_ext.rl.vtrace import vtrace_loss

Algorithm = Literal["ppo", "vtrace", "vmpo"]


@dataclass(frozen=True)
class Stream:
    """A reward stream with a value head of its own.

    Attributes:
        discount: Discount (RND: 0.999 extrinsic, 0.99 intrinsic).
        weight: Weight of its advantages in the policy's (RND: 2 extrinsic, 1 intrinsic).
        episodic: Whether its returns end with the episode; RND's intrinsic one goes on.
    """

    discount: float = 0.99
    weight: float = 1.0
    episodic: bool = True


@dataclass(frozen=True)
class Objective:
    """How a policy learns.

    Attributes:
        algorithm: ``ppo`` (default), ``vtrace``, ``vmpo``.
        clip: PPO's ratio clip (RND 0.1).
        value_coef: Weight of the value losses.
        entropy_coef: Weight of the entropy bonus (RND 0.001).
        bonus_coef: Weight of the bonus's own loss (1).
        streams: Reward streams by value head.
        trace: GAE's lambda, V-trace's lambda.
        target_period: V-MPO: optimiser steps between copies of the acting policy (from memory: 10 to 100).
    """

    algorithm: Algorithm = "ppo"
    clip: float = 0.1
    value_coef: float = 0.5
    entropy_coef: float = 0.001
    bonus_coef: float = 1.0
    streams: Mapping[str, Stream] = field(default_factory=lambda: {"value": Stream()})
    trace: float = 0.95
    target_period: int = 50


class ExploreAgent(nn.Module):
    """Policy, bonus and their common loss; a :class:`byol_ext.training.Trainable`.

    The view ``rollout`` is a minibatch of :class:`byol_ext.rl.rollout.RolloutSource`: a batch-major segment with
    advantages and returns.

    Args:
        policy: Actor and critic with one value head for each stream.
        bonus: Intrinsic reward.
        objective: How the policy learns.

    Attributes:
        forward_moves_buffers: False: statistics move with rollouts, and a skipped step must not take them back.

    Raises:
        ValueError: If value heads and streams differ.
    """

    forward_moves_buffers = False

    def __init__(self, policy: ActorCritic, bonus: Bonus, objective: Objective) -> None:
        super().__init__()
        if set(policy.heads) != set(objective.streams):
            raise ValueError(
                f"value heads {sorted(policy.heads)} and reward streams {sorted(objective.streams)} differ"
            )
        self.policy, self.bonus, self.objective = policy, bonus, objective
        self.vmpo = VMPOLoss() if objective.algorithm == "vmpo" else None
        self.target_policy = copy.deepcopy(policy).requires_grad_(False) if objective.algorithm == "vmpo" else None
        self._bonus_learned = False

    @property
    def acting_policy(self) -> ActorCritic:
        """The policy that collects rollouts: V-MPO acts with a copy that lags behind."""
        return self.policy if self.target_policy is None else self.target_policy

    @property
    def couples_samples(self) -> bool:
        """Advantages are normalised over the minibatch."""
        return True

    @property
    def encoder_couples_samples(self) -> bool:
        """No encoder does."""
        return False

    def coupling_reasons(self) -> list[str]:
        """Why a sequence's loss depends on the others of its minibatch."""
        return ["advantage normalisation"]

    def forward(self, views: Mapping[str, Any], ctx: Ctx, step: int = 0) -> Out:
        """Loss of a minibatch.

        Args:
            views: ``{"rollout": minibatch}``.
            ctx: ``data`` holds ``context`` and ``learn_bonus``: whether the bonus learns from this minibatch too.
            step: Index of the optimiser step.
        """
        batch = views["rollout"]
        segment = Segment.from_batch(batch, context=ctx.data["context"])
        bonus = self.bonus.loss(segment, step=step) if ctx.data["learn_bonus"] else None
        self._bonus_learned = bonus is not None
        beliefs = bonus.beliefs[segment.context :] if bonus is not None and bonus.beliefs is not None else None
        output = self._policy_rows(segment, batch["policy_state"], beliefs)
        loss, terms = self._policy_loss(segment, batch, output)
        terms = {f"policy/{name}": value for name, value in terms.items()}
        if bonus is not None:
            loss = loss + self.objective.bonus_coef * bonus.total
            terms |= _bonus_terms(bonus)
        return Out(loss=loss, terms=terms)

    def after_step(self, step: int) -> dict[str, float]:
        """Let the bonus move its target where it has learned, and V-MPO its multipliers and acting policy."""
        values = dict(self.bonus.after_step(step)) if self._bonus_learned else {}
        if self.vmpo is not None and self.target_policy is not None:
            self.vmpo.project()
            if (step + 1) % self.objective.target_period == 0:
                self.target_policy.load_state_dict(self.policy.state_dict())
        return values

    def observe(self, obs: Tensor) -> None:
        """Let the input statistics of all encoders see observations ``[..., *shape]``; they count after a refresh."""
        for statistics in self._input_statistics():
            statistics.observe(obs)

    def refresh_inputs(self) -> None:
        """Standardise by what was observed so far, in all encoders and their copies alike."""
        for statistics in self._input_statistics():
            statistics.refresh()

    @property
    def standardises(self) -> bool:
        """Whether an encoder has input statistics."""
        return any(True for _ in self._input_statistics())

    def _input_statistics(self) -> Iterator[InputStatistics]:
        return (module for module in self.modules() if isinstance(module, InputStatistics))

    def _policy_rows(self, segment: Segment, state: Tensor, beliefs: Tensor | None) -> PolicyOutput:
        """The policy on the ``T + 1`` rows after the context."""
        start = segment.context
        return self.policy(
            segment.obs[start:], segment.prev_action[start:], segment.first[start:], state, beliefs=beliefs
        )

    def _policy_loss(
        self, segment: Segment, batch: Mapping[str, Any], output: PolicyOutput
    ) -> tuple[Tensor, dict[str, Tensor]]:
        objective, tail = self.objective, segment.tail
        action, log_prob, real = tail(segment.action), tail(segment.log_prob), tail(segment.real)
        returns = {head: value.transpose(0, 1) for head, value in batch["returns"].items()}
        rewards = {head: value.transpose(0, 1) for head, value in batch["rewards"].items()}
        if objective.algorithm == "vtrace":
            return vtrace_loss(
                logits_TBA=output.logits_RBA[:-1],
                values=output.values,
                action_TB=action,
                old_log_prob_TB=log_prob,
                rewards=rewards,
                terminated_TB=tail(segment.terminated),
                truncated_TB=tail(segment.truncated),
                real_TB=real,
                discounts={head: stream.discount for head, stream in objective.streams.items()},
                weights={head: stream.weight for head, stream in objective.streams.items()},
                episodic={head: stream.episodic for head, stream in objective.streams.items()},
                trace=objective.trace,
                value_coef=objective.value_coef,
                entropy_coef=objective.entropy_coef,
            )
        values = {head: value[:-1] for head, value in output.values.items()}
        advantage = batch["advantage"].transpose(0, 1)
        if self.vmpo is not None:
            return self.vmpo(
                logits_TBA=output.logits_RBA[:-1],
                old_logits_TBA=batch["logits"].transpose(0, 1),
                values=values,
                action_TB=action,
                advantage_TB=advantage,
                returns=returns,
                real_TB=real,
                value_coef=objective.value_coef,
            )
        return ppo_loss(
            logits_TBA=output.logits_RBA[:-1],
            values=values,
            action_TB=action,
            old_log_prob_TB=log_prob,
            advantage_TB=normalise_advantage(advantage, real, synchronise=True),
            returns=returns,
            real_TB=real,
            clip=objective.clip,
            value_coef=objective.value_coef,
            entropy_coef=objective.entropy_coef,
        )


def _bonus_terms(bonus: BonusLoss) -> dict[str, Tensor]:
    return {"bonus/loss": bonus.total.detach(), **{f"bonus/{name}": value for name, value in bonus.terms.items()}}


def optimizer_groups(agent: ExploreAgent, *, critic_lr_scale: float = 1.0) -> list[dict[str, Any]]:
    """Trainable parameters in groups: those of an adversarial critic have rate and moments of their own.

    Args:
        agent: The agent.
        critic_lr_scale: The critic's learning rate over the others'.
    """
    critic: list[nn.Parameter] = agent.bonus.critic_parameters()
    apart = {id(p) for p in critic}
    rest = [p for p in agent.parameters() if p.requires_grad and id(p) not in apart]
    groups: list[dict[str, Any]] = [{"params": rest}]
    if critic:
        groups.append({"params": critic, "lr_scale": critic_lr_scale})
    return groups


def adam(agent: ExploreAgent, *, lr: float, critic_lr_scale: float = 1.0, eps: float = 1e-5) -> torch.optim.Optimizer:
    """Adam over :func:`optimizer_groups` (RND: epsilon 1e-5)."""
    groups = optimizer_groups(agent, critic_lr_scale=critic_lr_scale)
    return torch.optim.Adam(groups, lr=lr, eps=eps, fused=True)
