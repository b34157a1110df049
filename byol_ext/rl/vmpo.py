"""V-MPO: on-policy maximum a posteriori policy optimisation (arXiv 1909.12238).

**The constants here are from memory of the paper**, which nobody on the project has checked against them: treat all
defaults as fields to set, not as the published setting.

Legend: ``T`` transitions, ``B`` environments, ``A`` actions; time-major.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from byol_ext.losses.pair import as_float, full_precision
from byol_ext.rl.ppo import log_probs, value_loss
from byol_ext.rl.returns import row_mean

_SMALLEST = 1e-8


class VMPOLoss(nn.Module):
    """Loss of policy, values and the two multipliers, which are parameters of this module.

    With ``D`` the better half of the real rows by advantage and ``psi = softmax_D(A / eta)``,

        L = - sum_D psi log pi(a)
            + eta eps_eta + eta log mean_D exp(A / eta)
            + mean [alpha (eps_alpha - sg KL) + sg(alpha) KL]
            + value_coef sum_head mean (V - R)^2,           KL = KL(pi_old || pi).

    ``eta`` grows while the weights ``psi`` are more peaked than ``eps_eta`` (in nats) allows, ``alpha`` while the
    policy moves by more than ``eps_alpha``. ``pi_old`` is the policy that acted: the caller keeps it, a copy of the
    learner taken every ``T_target`` updates (10 to 100, from memory), and calls :meth:`project` after each update.
    Half and softmax are of the call's rows: minibatches and processes each take their own.

    Args:
        eta: Start of the temperature.
        alpha: Start of the multiplier of the KL constraint.
        eps_eta: Bound on ``KL(psi || uniform)``; 0.01 to 0.1 from memory, the middle by default.
        eps_alpha: Bound on the mean KL; 0.001 to 0.01 from memory, the middle by default.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self, *, eta: float = 1.0, alpha: float = 5.0, eps_eta: float = 0.03, eps_alpha: float = 0.003
    ) -> None:
        super().__init__()
        if min(eta, alpha, eps_eta, eps_alpha) <= 0:
            raise ValueError(f"eta={eta}, alpha={alpha}, eps_eta={eps_eta} and eps_alpha={eps_alpha} must be positive")
        self.eta, self.alpha = nn.Parameter(torch.tensor(eta)), nn.Parameter(torch.tensor(alpha))
        self.eps_eta, self.eps_alpha = eps_eta, eps_alpha

    @torch.no_grad()
    def project(self) -> None:
        """Keep both multipliers at 1e-8 or more; call it after each optimiser step."""
        self.eta.clamp_(min=_SMALLEST)
        self.alpha.clamp_(min=_SMALLEST)

    @full_precision
    def forward(
        self,
        *,
        logits_TBA: Tensor,
        old_logits_TBA: Tensor,
        values: Mapping[str, Tensor],
        action_TB: Tensor,
        advantage_TB: Tensor,
        returns: Mapping[str, Tensor],
        real_TB: Tensor,
        value_coef: float = 0.5,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on a segment; rows that are not real count 0.

        Args:
            logits_TBA: ``[T, B, A]`` of the learner, with gradient.
            old_logits_TBA: ``[T, B, A]`` of the policy that acted.
            values: ``[T, B]`` by head, with gradient.
            action_TB: ``[T, B]`` int64.
            advantage_TB: ``[T, B]``, mixed, not normalised.
            returns: ``[T, B]`` by head: n-step targets.
            real_TB: ``[T, B]`` bool; at least one row is.
            value_coef: Weight of the squared errors; 0.5 is the paper's half.

        Returns:
            The loss, and detached scalars: ``policy``, ``temperature``, ``kl_penalty`` (the three parts), ``entropy``,
            ``kl``, ``eta``, ``alpha``, ``value/HEAD`` and ``explained_variance/HEAD``.

        Raises:
            ValueError: If values and returns have different heads.
        """
        log_prob_TB, entropy_TB = log_probs(logits_TBA, torch.where(real_TB, action_TB, 0))
        best_TB = best_half(advantage_TB, real_TB)
        # Masked after the division: -inf / eta would make eta's gradient NaN.
        scaled = torch.where(best_TB, as_float(advantage_TB), 0.0) / self.eta
        scaled = scaled.masked_fill(~best_TB, -torch.inf).flatten()
        psi_TB = scaled.detach().softmax(0).view_as(log_prob_TB)
        policy = -torch.where(best_TB, psi_TB * log_prob_TB, 0.0).sum()
        log_mean = scaled.logsumexp(0) - best_TB.sum().to(scaled.dtype).log()
        temperature = self.eta * self.eps_eta + self.eta * log_mean

        kl_TB = _kl(old_logits_TBA.detach(), logits_TBA)
        penalty_TB = self.alpha * (self.eps_alpha - kl_TB.detach()) + self.alpha.detach() * kl_TB
        penalty = row_mean(penalty_TB, real_TB)
        value, terms = value_loss(values=values, returns=returns, real_TB=real_TB)
        terms |= {
            "policy": policy.detach(),
            "temperature": temperature.detach(),
            "kl_penalty": penalty.detach(),
            "entropy": row_mean(entropy_TB, real_TB).detach(),
            "kl": row_mean(kl_TB, real_TB).detach(),
            "eta": self.eta.detach().clone(),
            "alpha": self.alpha.detach().clone(),
        }
        return policy + temperature + penalty + value_coef * value, terms


@torch.no_grad()
def best_half(advantage_TB: Tensor, real_TB: Tensor) -> Tensor:
    """Mask ``[T, B]`` of the better half of the real rows (rounded down, at least one; ties by order).

    Args:
        advantage_TB: ``[T, B]``.
        real_TB: ``[T, B]`` bool.
    """
    order = torch.where(real_TB, as_float(advantage_TB), -torch.inf).flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return (rank < (real_TB.sum() // 2).clamp(min=1)).view_as(real_TB) & real_TB


def _kl(old_logits_TBA: Tensor, logits_TBA: Tensor) -> Tensor:
    old, new = as_float(old_logits_TBA).log_softmax(-1), as_float(logits_TBA).log_softmax(-1)
    return (old.exp() * (old - new)).sum(-1)
