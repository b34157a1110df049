"""A rollout segment: what the collector hands to bonuses and learners.

Legend: ``O`` context rows carried over from the previous segment, ``T`` transitions, ``R = O + T``, ``B`` environments,
``A`` actions, ``M`` recurrent width; time-major.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """``R = context + T`` consecutive transitions of ``B`` environments that auto-reset on the *next* step.

    After ``terminated | truncated`` at row ``t`` the observation ``obs[t + 1]`` is the episode's last; row ``t + 1`` is
    no transition (its action was ignored, ``real`` is false, its reward 0) and ``obs[t + 2]`` begins the next episode.

    Attributes:
        obs: ``[R + 1, B, C, H, W]`` uint8 (or ``[R + 1, B, F]`` float); the last row is the bootstrap observation.
        first: ``[R + 1, B]`` bool: the observation begins an episode.
        prev_action: ``[R + 1, B]`` int64: the action that led to the observation; ``A`` ("none") where ``first``.
        action: ``[R, B]`` int64.
        reward: ``[R, B]`` float32, extrinsic, as the environment gave it.
        terminated: ``[R, B]`` bool: the episode ended in a terminal state.
        truncated: ``[R, B]`` bool: the episode was cut; its value goes on.
        real: ``[R, B]`` bool: the row is a transition of the environment, not an auto-reset.
        log_prob: ``[R, B]`` float32: log-probability of the action under the policy that acted.
        state: ``[B, M]`` float32: the policy's recurrent state before row 0 (before its reset, if ``first[0]``).
        context: ``O``: leading rows of the previous segment. They give the last ``T`` rows their history (all ``K``
            losses that reach a transition); no reward, loss of the policy, or statistic is taken of them.
        memory: State of the bonus before row 0, ``[B, ...]`` each; what it returned with the previous segment.
        info: Per-transition facts of the environment, ``[R, B, ...]``, such as ``noise_on``, ``cell``, ``room``.
    """

    obs: Tensor
    first: Tensor
    prev_action: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    real: Tensor
    log_prob: Tensor
    state: Tensor
    context: int = 0
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    info: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """``T``: transitions without the context."""
        return len(self.action) - self.context

    @property
    def batch(self) -> int:
        """``B``."""
        return self.action.shape[1]

    def tail(self, rows: Tensor) -> Tensor:
        """The last ``T`` rows of a tensor over transitions ``[R, ...]``."""
        return rows[self.context :]

    def select(self, environments: Tensor) -> Segment:
        """The segment of some environments.

        Args:
            environments: Indices ``[b]`` or a bool mask ``[B]``.
        """
        return self._map(lambda x: x[environments], lambda x: x[:, environments])

    def to(self, device: Any) -> Segment:
        """The segment on a device."""
        return self._map(*[lambda x: x.to(device, non_blocking=True)] * 2)

    def batch_major(self) -> dict[str, Any]:
        """Views of all tensors with the environment first, as ``fit`` wants its batches; see :meth:`from_batch`."""
        turned = self._map(lambda x: x, lambda x: x.transpose(0, 1))
        return {f.name: getattr(turned, f.name) for f in fields(self) if f.name != "context"}

    @classmethod
    def from_batch(cls, batch: Mapping[str, Any], *, context: int) -> Segment:
        """The inverse of :meth:`batch_major`; other keys are ignored."""
        values = {f.name: batch[f.name] for f in fields(cls) if f.name != "context"}
        return cls(context=context, **values)._map(lambda x: x, lambda x: x.transpose(0, 1))

    def _map(self, of_state: Callable[[Tensor], Tensor], of_rows: Callable[[Tensor], Tensor]) -> Segment:
        changed: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "context":
                continue
            change = of_state if item.name in ("state", "memory") else of_rows
            if isinstance(value, Mapping):
                changed[item.name] = {key: change(part) for key, part in value.items()}
            else:
                changed[item.name] = change(value)
        return replace(self, **changed)
