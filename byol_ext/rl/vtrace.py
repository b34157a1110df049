"""V-trace: values and policy gradients of one policy from what another one did (IMPALA, arXiv 1802.01561, 4.1).

Legend: ``T`` transitions, ``B`` environments, ``A`` actions; time-major.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from byol_ext.losses.pair import as_float, full_precision
from byol_ext.rl.ppo import log_probs, mix_advantages, value_loss
from byol_ext.rl.returns import check_rows, row_mean, successor_values, suffix_scan, trace_coefficients


class VTrace(NamedTuple):
    """What :func:`vtrace` returns.

    Attributes:
        returns_TB: Value targets ``v_t`` ``[T, B]``; ``V_t`` itself in rows that are not real.
        advantages_TB: ``rho_t (r_t + discount v_s(t) - V_t)`` ``[T, B]``, the weight of ``grad log pi``; 0 in rows
            that are not real.
    """

    returns_TB: Tensor
    advantages_TB: Tensor


@torch.no_grad()
def vtrace(
    rewards_TB: Tensor,
    values_TB: Tensor,
    *,
    log_ratio_TB: Tensor,
    terminated_TB: Tensor,
    truncated_TB: Tensor,
    real_TB: Tensor,
    discount: float,
    trace: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    episodic: bool = True,
) -> VTrace:
    """Off-policy value targets and advantages of one value head.

    With ``rho_t = min(rho_bar, pi/mu)``, ``c_t = trace min(c_bar, pi/mu)`` and ``s(t)``, episode ends and rows that are
    not real as in :func:`byol_ext.rl.returns.gae`,

        v_t = V_t + rho_t (r_t + discount V_s(t) - V_t) + discount c_t (v_s(t) - V_s(t)).

    When ``pi = mu``, ``v_t - V_t`` is GAE with the same ``trace``: at ``trace=1`` the n-step return to the end of the
    episode or segment. With two heads call it twice with the same ratios.

    Args:
        rewards_TB: ``[T, B]``.
        values_TB: ``[T + 1, B]``.
        log_ratio_TB: ``log pi(a) - log mu(a)`` of the learner over the actor, ``[T, B]``.
        terminated_TB: ``[T, B]`` bool.
        truncated_TB: ``[T, B]`` bool; a row that is both counts as terminated.
        real_TB: ``[T, B]`` bool.
        discount: Per step, in [0, 1].
        trace: Lambda; 1 in IMPALA.
        rho_bar: Largest weight of a temporal difference: sets which policy's value is learnt. 1 in IMPALA.
        c_bar: Largest weight of a trace: sets how fast it is learnt. 1 in IMPALA.
        episodic: Whether the return ends with the episode.

    Returns:
        Targets and advantages in float32 (float64 for float64 inputs), without gradient.

    Raises:
        ValueError: If there is not one more row of values than of rewards.
    """
    check_rows(rewards_TB, values_TB)
    rewards, values = as_float(rewards_TB), as_float(values_TB)
    ratio = torch.where(real_TB, as_float(log_ratio_TB), 0.0).exp()
    rho = ratio.clamp(max=rho_bar)
    following = successor_values(values, terminated_TB=terminated_TB, real_TB=real_TB, episodic=episodic)
    delta = torch.where(real_TB, rho * (rewards + discount * following - values[:-1]), 0.0)
    carry = trace_coefficients(
        discount * trace * ratio.clamp(max=c_bar),
        ended_TB=terminated_TB | truncated_TB,
        real_TB=real_TB,
        episodic=episodic,
    )
    correction = torch.where(real_TB, suffix_scan(delta, carry), 0.0)
    returns = torch.cat([values[:-1] + correction, values[-1:]])
    following = successor_values(returns, terminated_TB=terminated_TB, real_TB=real_TB, episodic=episodic)
    advantages = torch.where(real_TB, rho * (rewards + discount * following - values[:-1]), 0.0)
    return VTrace(returns[:-1], advantages)


@full_precision
def vtrace_loss(
    *,
    logits_TBA: Tensor,
    values: Mapping[str, Tensor],
    action_TB: Tensor,
    old_log_prob_TB: Tensor,
    rewards: Mapping[str, Tensor],
    terminated_TB: Tensor,
    truncated_TB: Tensor,
    real_TB: Tensor,
    discounts: Mapping[str, float],
    weights: Mapping[str, float],
    episodic: Mapping[str, bool],
    trace: float = 1.0,
    value_coef: float = 0.5,
    entropy_coef: float = 0.001,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The actor-critic loss of IMPALA, with means over all rows as in :func:`byol_ext.rl.ppo.ppo_loss`.

        L = - mean A log pi(a) + value_coef sum_head mean (V - v)^2 - entropy_coef mean H

    Args:
        logits_TBA: ``[T, B, A]``, with gradient.
        values: ``[T + 1, B]`` by head, with gradient.
        action_TB: ``[T, B]`` int64.
        old_log_prob_TB: ``[T, B]`` under the policy that acted.
        rewards: ``[T, B]`` by head.
        terminated_TB: ``[T, B]`` bool.
        truncated_TB: ``[T, B]`` bool.
        real_TB: ``[T, B]`` bool.
        discounts: By head.
        weights: Of the heads' advantages in ``A``.
        episodic: Whether a head's returns end with the episode.
        trace: Lambda; 1 in IMPALA.
        value_coef: Weight of the squared errors, without a further half.
        entropy_coef: Weight of the entropy.

    Returns:
        The loss, and detached scalars: ``policy``, ``value/HEAD``, ``entropy``, ``approx_kl``, ``ratio`` (mean over
        all rows of the truncated ``rho``) and ``explained_variance/HEAD``.

    Raises:
        ValueError: If the mappings have different heads.
    """
    if not values.keys() == rewards.keys() == discounts.keys() == episodic.keys():
        raise ValueError(
            f"values, rewards, discounts and episodic must have the same heads, got {sorted(values)}, "
            f"{sorted(rewards)}, {sorted(discounts)} and {sorted(episodic)}"
        )
    log_prob_TB, entropy_TB = log_probs(logits_TBA, torch.where(real_TB, action_TB, 0))
    log_ratio = torch.where(real_TB, log_prob_TB.detach() - as_float(old_log_prob_TB), 0.0)
    targets = {
        name: vtrace(
            rewards[name],
            value_TB.detach(),
            log_ratio_TB=log_ratio,
            terminated_TB=terminated_TB,
            truncated_TB=truncated_TB,
            real_TB=real_TB,
            discount=discounts[name],
            trace=trace,
            episodic=episodic[name],
        )
        for name, value_TB in values.items()
    }
    advantage = mix_advantages({name: target.advantages_TB for name, target in targets.items()}, weights)
    policy = -row_mean(advantage * log_prob_TB, real_TB)
    value, terms = value_loss(
        values={name: value_TB[:-1] for name, value_TB in values.items()},
        returns={name: target.returns_TB for name, target in targets.items()},
        real_TB=real_TB,
    )
    entropy = row_mean(entropy_TB, real_TB)
    terms["policy"], terms["entropy"] = policy.detach(), entropy.detach()
    terms["approx_kl"] = (log_ratio.exp() - 1 - log_ratio).mean()
    terms["ratio"] = row_mean(log_ratio.exp().clamp(max=1.0), real_TB)
    return policy + value_coef * value - entropy_coef * entropy, terms
