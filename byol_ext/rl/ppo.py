"""Proximal policy optimisation over rows of which some are no transitions (arXiv 1707.06347).

Legend: ``T`` transitions, ``B`` environments, ``A`` actions; time-major.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from byol_ext.losses.pair import as_float, full_precision
from byol_ext.rl.returns import explained_variance, row_mean


@full_precision
def ppo_loss(
    *,
    logits_TBA: Tensor,
    values: Mapping[str, Tensor],
    action_TB: Tensor,
    old_log_prob_TB: Tensor,
    advantage_TB: Tensor,
    returns: Mapping[str, Tensor],
    real_TB: Tensor,
    clip: float = 0.1,
    value_coef: float = 0.5,
    entropy_coef: float = 0.001,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate, squared errors of the values and entropy.

        L = - mean min(ratio A, clip(ratio) A) + value_coef sum_head mean (V - R)^2 - entropy_coef mean H

    Means are over all rows (:func:`byol_ext.rl.returns.row_mean`): a row that is not real counts 0 and nothing of it is
    read but its logits, which get no gradient. Values are not clipped.

    Args:
        logits_TBA: ``[T, B, A]``, with gradient.
        values: ``[T, B]`` by head, with gradient.
        action_TB: ``[T, B]`` int64.
        old_log_prob_TB: ``[T, B]`` under the policy that acted.
        advantage_TB: ``[T, B]``, mixed and normalised.
        returns: ``[T, B]`` by head.
        real_TB: ``[T, B]`` bool.
        clip: The ratio counts in ``[1 - clip, 1 + clip]``; 0.1 in RND.
        value_coef: Weight of the squared errors, without a further half; 0.5 is RND's.
        entropy_coef: Weight of the entropy; 0.001 in RND.

    Returns:
        The loss, and detached scalars: ``policy``, ``value/HEAD``, ``entropy``, ``approx_kl`` (old to new, the
        estimator ``ratio - 1 - log ratio``), ``clip_fraction``, all means over all rows, and
        ``explained_variance/HEAD``.

    Raises:
        ValueError: If values and returns have different heads.
    """
    log_prob_TB, entropy_TB = log_probs(logits_TBA, torch.where(real_TB, action_TB, 0))
    log_ratio = torch.where(real_TB, log_prob_TB - as_float(old_log_prob_TB), 0.0)
    ratio = log_ratio.exp()
    advantage = torch.where(real_TB, as_float(advantage_TB), 0.0)
    policy = -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()
    value, value_terms = value_loss(values=values, returns=returns, real_TB=real_TB)
    entropy = row_mean(entropy_TB, real_TB)
    total = policy + value_coef * value - entropy_coef * entropy
    with torch.no_grad():
        terms = {
            "policy": policy.detach(),
            "entropy": entropy.detach(),
            "approx_kl": (ratio - 1 - log_ratio).mean(),
            "clip_fraction": ((ratio - 1).abs() > clip).to(ratio.dtype).mean(),
        }
    return total, terms | value_terms


def log_probs(logits_TBA: Tensor, action_TB: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of actions and entropies, ``[T, B]`` each, in float32 or wider.

    Args:
        logits_TBA: ``[T, B, A]``.
        action_TB: ``[T, B]`` int64.
    """
    log_prob = as_float(logits_TBA).log_softmax(-1)
    entropy = -(log_prob.exp() * log_prob).sum(-1)
    return log_prob.gather(-1, action_TB.unsqueeze(-1)).squeeze(-1), entropy


def value_loss(
    *, values: Mapping[str, Tensor], returns: Mapping[str, Tensor], real_TB: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared errors over all rows, summed over heads; ``value/HEAD`` and ``explained_variance/HEAD``, detached.

    Args:
        values: ``[T, B]`` by head, with gradient.
        returns: ``[T, B]`` by head.
        real_TB: ``[T, B]`` bool.

    Raises:
        ValueError: If values and returns have different heads.
    """
    if values.keys() != returns.keys():
        raise ValueError(f"values of the heads {sorted(values)} cannot learn returns of {sorted(returns)}")
    losses, terms = [], {}
    for name, value_TB in values.items():
        error = torch.where(real_TB, as_float(value_TB) - as_float(returns[name]), 0.0)
        losses.append(error.square().mean())
        terms[f"value/{name}"] = losses[-1].detach()
        terms[f"explained_variance/{name}"] = explained_variance(
            values_TB=value_TB, returns_TB=returns[name], real_TB=real_TB
        )
    return torch.stack(losses).sum(), terms


def mix_advantages(advantages: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Weighted sum of the heads' advantages (RND: 2 extrinsic + 1 intrinsic).

    Args:
        advantages: ``[T, B]`` by head.
        weights: By head.

    Raises:
        ValueError: If advantages and weights have different heads.

    Example:
        >>> mix_advantages({"a": torch.ones(1, 1), "b": torch.ones(1, 1)}, {"a": 2.0, "b": 1.0})
        tensor([[3.]])
    """
    if advantages.keys() != weights.keys():
        raise ValueError(f"advantages of the heads {sorted(advantages)} have weights for {sorted(weights)}")
    return torch.stack([weight * advantages[name] for name, weight in weights.items()]).sum(0)


@torch.no_grad()
def normalise_advantage(
    advantage_TB: Tensor, real_TB: Tensor, *, synchronise: bool = False, eps: float = 1e-8
) -> Tensor:
    """Mean 0 and standard deviation 1 over real rows; 0 elsewhere.

    Args:
        advantage_TB: ``[T, B]``.
        real_TB: ``[T, B]`` bool.
        synchronise: Whether the moments are those of all processes; each must then call.
        eps: Added to the standard deviation.
    """
    advantage = torch.where(real_TB, as_float(advantage_TB), 0.0)
    wide = advantage.double()
    moments = torch.stack([real_TB.sum().double(), wide.sum(), wide.square().sum()])
    if synchronise and dist.is_available() and dist.is_initialized():
        dist.all_reduce(moments)
    count, total, square = moments
    count = count.clamp(min=1)
    mean = total / count
    deviation = (square / count - mean.square()).clamp(min=0).sqrt()
    return torch.where(real_TB, (wide - mean) / (deviation + eps), 0.0).to(advantage.dtype)
