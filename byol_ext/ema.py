"""Exponential moving average of a module's parameters.

Stands alone: weight averaging of any model uses it without the rest of the core.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from byol_ext.schedules import Schedule, at

Buffers = Literal["own", "copy", "ema"]


class EMA(nn.Module):
    """``average <- tau * average + (1 - tau) * source`` over parameters, matched by name, in one fused operation.

    Call :meth:`update` once after each optimiser step: never per micro-batch, never on a skipped step.

    Args:
        module: The module to follow; a deep copy becomes :attr:`module`. Tied parameters are updated once.
        tau: Decay, a number or a schedule of the step.
        buffers: What happens to buffers (BatchNorm statistics): ``copy`` from the source, right for an average that
            is evaluated; ``own``, the average keeps those of its own train-mode forwards (BYOL's reference); ``ema``,
            floating point ones averaged and integer ones copied.
        groups: Decays for parameters whose name starts with a prefix; the longest prefix wins.

    Raises:
        ValueError: If the policy is unknown or a prefix matches no parameter.

    Example:
        >>> source = nn.Linear(1, 1)
        >>> average = EMA(source, 0.9)
        >>> average.update(step=0)
        0.9
    """

    updates: Tensor

    def __init__(
        self,
        module: nn.Module,
        tau: float | Schedule,
        *,
        buffers: Buffers = "copy",
        groups: Mapping[str, float | Schedule] | None = None,
    ) -> None:
        super().__init__()
        if buffers not in ("own", "copy", "ema"):
            raise ValueError(f"buffers={buffers!r} is not one of 'own', 'copy', 'ema'")
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.tau, self.buffer_policy = tau, buffers
        self.groups = dict(groups or {})
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        # In a tuple, so that the source is not registered as a submodule.
        self._source = (module,)
        self._pairs: dict[str, tuple[list[Tensor], list[Tensor]]] | None = None
        for prefix in self.groups:
            if not any(name.startswith(prefix) for name, _ in module.named_parameters()):
                raise ValueError(f"EMA group {prefix!r} matches no parameter")

    @torch.no_grad()
    def update(self, step: int) -> float:
        """Move the average towards the source.

        Args:
            step: Index of the optimiser step, from 0.

        Returns:
            The decay used (of parameters outside the groups).

        Raises:
            ValueError: If the decay lies outside [0, 1], or parameters no longer match by name and shape.
        """
        if self._pairs is None or self._replaced():
            self._pairs = self._match()
        tau = at(self.tau, step)
        for prefix, (average, source) in self._pairs.items():
            decay = at(self.groups[prefix], step) if prefix else tau
            if not 0.0 <= decay <= 1.0:
                raise ValueError(f"EMA decay {decay} at step {step} lies outside [0, 1]")
            torch._foreach_lerp_(average, source, 1.0 - decay)
        if self.buffer_policy != "own":
            self._update_buffers(tau)
        self.updates += 1
        return tau

    def _replaced(self) -> bool:
        """Whether a parameter is no longer the tensor that was matched (``load_state_dict(assign=True)``, surgery)."""
        matched = {id(p) for averages, sources in (self._pairs or {}).values() for p in (*averages, *sources)}
        now = [p for module in (self.module, self._source[0]) for p in module.parameters()]
        return len(now) != len(matched) or any(id(p) not in matched for p in now)

    def _match(self) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
        averages, sources = dict(self.module.named_parameters()), dict(self._source[0].named_parameters())
        if averages.keys() != sources.keys():
            raise ValueError(f"EMA parameters differ by name: {sorted(averages.keys() ^ sources.keys())[:5]}")
        pairs: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
        for name, average in averages.items():
            if average.shape != sources[name].shape:
                raise ValueError(f"EMA parameter {name}: shape {average.shape} against {sources[name].shape}")
            prefix = max((p for p in self.groups if name.startswith(p)), key=len, default="")
            into = pairs.setdefault(prefix, ([], []))
            into[0].append(average)
            into[1].append(sources[name])
        return pairs

    def _update_buffers(self, tau: float) -> None:
        averages, sources = dict(self.module.named_buffers()), dict(self._source[0].named_buffers())
        if averages.keys() != sources.keys():
            raise ValueError(f"EMA buffers differ by name: {sorted(averages.keys() ^ sources.keys())[:5]}")
        for name, average in averages.items():
            if self.buffer_policy == "ema" and average.is_floating_point():
                average.lerp_(sources[name], 1.0 - tau)
            else:
                average.copy_(sources[name])
