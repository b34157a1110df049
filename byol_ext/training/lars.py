"""LARS, the optimiser of BYOL, SimCLR and VICReg at large batches (You et al., arXiv 1708.03888)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

import torch
from torch import Tensor

Variant = Literal["lars", "larc_clip"]


class LARS(torch.optim.Optimizer):
    """Momentum SGD whose step in each tensor is scaled to the size of its weights.

    Per tensor: ``g <- grad + wd w``; ``trust = eta |w| / |g|``, 1 where either norm is 0;
    ``m <- momentum m + trust g``; ``w <- w - lr m``. Tensors of fewer than two dims (biases, norms) get plain momentum
    SGD without decay. It is the optimiser of the published BYOL and VICReg code (core-ssl spec 14): the decay counts
    in the norm.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        momentum: Momentum (.9).
        weight_decay: Decay of tensors of two dims and more (BYOL 1.5e-6, ViDiDi's code 1e-6).
        eta: Trust coefficient (.001).
        variant: ``lars`` as above; ``larc_clip`` divides by ``|grad| + wd |w|`` and lets the trust be at most
            ``1 / lr`` (solo-learn).

    Raises:
        ValueError: If a number is negative or the variant unknown.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> optimiser = LARS([w], lr=1.0, weight_decay=0.1)
        >>> w.grad = torch.tensor([[1.0, 0.0]])
        >>> optimiser.step()
        >>> [round(x, 5) for x in w[0].tolist()]  # trust .003676 times (1.3, .4)
        [2.99522, 3.99853]
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 1e-3,
        variant: Variant = "lars",
    ) -> None:
        if min(lr, momentum, weight_decay, eta) < 0:
            raise ValueError(
                f"lr={lr}, momentum={momentum}, weight_decay={weight_decay} and eta={eta} must not be negative"
            )
        if variant not in ("lars", "larc_clip"):
            raise ValueError(f"variant={variant!r} is not one of 'lars', 'larc_clip'")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "variant": variant}
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update([p for p in group["params"] if p.grad is not None], group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        if not weights:
            return
        grads = [w.grad for w in weights if w.grad is not None]
        adapted = [i for i, w in enumerate(weights) if w.ndim >= 2]
        steps = list(grads)
        if adapted:
            scaled = _scaled([weights[i] for i in adapted], [grads[i] for i in adapted], group)
            for i, g in zip(adapted, scaled, strict=True):
                steps[i] = g
        momenta = [self._momentum(w) for w in weights]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, steps)
        torch._foreach_add_(weights, momenta, alpha=-group["lr"])

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]


def _scaled(weights: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """Decayed gradients times their trust."""
    decay, eta = group["weight_decay"], group["eta"]
    decayed = list(torch._foreach_add(grads, weights, alpha=decay)) if decay else [g.clone() for g in grads]
    weight_norms = torch.stack(torch._foreach_norm(weights))
    if group["variant"] == "lars":
        norms = torch.stack(torch._foreach_norm(decayed))
    else:
        norms = torch.stack(torch._foreach_norm(grads)) + decay * weight_norms
    trust = torch.where((weight_norms > 0) & (norms > 0), eta * weight_norms / norms.clamp_min(1e-38), 1.0)
    if group["variant"] == "larc_clip" and group["lr"] > 0:
        trust = trust.clamp_max(1.0 / group["lr"])
    torch._foreach_mul_(decayed, list(trust.unbind()))
    return decayed
