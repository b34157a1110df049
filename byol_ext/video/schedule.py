"""ViDiDi's balanced alternating schedule: which temporal derivatives the two clips of a step are (spec vididi 2).

A step has a phase ``p`` in 0 ... 3 and a coin ``h``, shared by its whole batch. ``h = 1`` differences both clips once;
then ``p = 0`` differences both, 1 the second, 2 the first, 3 neither:

===== ======== ========
phase h = 0    h = 1
===== ======== ========
0     (1, 1)   (2, 2)
1     (0, 1)   (1, 2)
2     (1, 0)   (2, 1)
3     (0, 0)   (1, 1)
===== ======== ========

Both are pure functions of (seed, optimiser step): the same on every rank and after a resume.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from byol_ext.graph import Edge
from byol_ext.rng import sample_generator

_ORDERS = ((1, 1), (0, 1), (1, 0), (0, 0))
_COIN_STREAM = 0x5649444944490000  # in place of an epoch, so that no sample of the data shares the coin's stream
_SHORT_EPOCH = 8


@dataclass(frozen=True)
class DerivativeSchedule:
    """Derivative orders of the two clips at each optimiser step.

    Args:
        seed: Seed of the coin.
        period: When the phase changes: ``epoch``, after each pass over the data (VICReg and SimCLR in the authors'
            code); ``pass``, likewise, where one pass through ``phases`` makes a macro-epoch (their BYOL; see
            :meth:`macro_step`); ``step``, after each step (short runs).
        steps_per_epoch: Optimiser steps of one pass over the data; needed for ``epoch`` and ``pass``.
        phases: The phases in turn. (0, 1, 2, 3) for VICReg and SimCLR; one of the authors' BYOL scripts has
            (3, 1, 2, 0).
        p_double: Probability of ``h = 1`` (.5).
        pairs: ``balanced``, the table above; ``random``, each clip's order drawn from 0, 1, 2 at every step, for
            ablations (ours): ``phases`` and ``p_double`` are without effect.

    Raises:
        ValueError: If an argument lies outside its range or ``steps_per_epoch`` is missing.

    Warns:
        UserWarning: If the phase changes by epochs and these have fewer than 8 steps: the coin is unbalanced then.

    Example:
        >>> schedule = DerivativeSchedule(seed=0, period="step", p_double=0.0)
        >>> [schedule.orders(step) for step in range(5)]
        [(1, 1), (0, 1), (1, 0), (0, 0), (1, 1)]
    """

    seed: int = 0
    period: Literal["epoch", "pass", "step"] = "epoch"
    steps_per_epoch: int | None = None
    phases: tuple[int, ...] = (0, 1, 2, 3)
    p_double: float = 0.5
    pairs: Literal["balanced", "random"] = "balanced"

    def __post_init__(self) -> None:
        if self.period not in ("epoch", "pass", "step"):
            raise ValueError(f"period={self.period!r} is not one of 'epoch', 'pass', 'step'")
        if self.pairs not in ("balanced", "random"):
            raise ValueError(f"pairs={self.pairs!r} is not one of 'balanced', 'random'")
        if not self.phases or any(phase not in range(4) for phase in self.phases):
            raise ValueError(f"phases={self.phases} must be some of 0, 1, 2, 3")
        if not 0.0 <= self.p_double <= 1.0:
            raise ValueError(f"p_double={self.p_double} must lie in [0, 1]")
        if self.period == "step":
            return
        if self.steps_per_epoch is None or self.steps_per_epoch < 1:
            raise ValueError(
                f"period={self.period!r} needs steps_per_epoch, the steps of one pass over the data; "
                f"got {self.steps_per_epoch}"
            )
        if self.steps_per_epoch < _SHORT_EPOCH and self.pairs == "balanced" and 0.0 < self.p_double < 1.0:
            warnings.warn(
                f"an epoch has {self.steps_per_epoch} steps: with fewer than {_SHORT_EPOCH} the coin is unbalanced "
                "within an epoch; use period='step'",
                stacklevel=3,
            )

    @classmethod
    def base(cls) -> Self:
        """The control without derivatives: phase 3 and ``h = 0`` at every step."""
        return cls(period="step", phases=(3,), p_double=0.0)

    @classmethod
    def fixed_pair(cls, seed: int = 0) -> Self:
        """The authors' ablation: always phase 1, the coin kept, so orders are (0, 1) or (1, 2)."""
        return cls(seed, period="step", phases=(1,))

    @classmethod
    def random_pairs(cls, seed: int = 0) -> Self:
        """Ablation: each clip's order drawn from 0, 1, 2 at every step."""
        return cls(seed, period="step", pairs="random")

    @property
    def max_order(self) -> int:
        """The highest order that can occur; clips need more frames than it."""
        if self.pairs == "random":
            return 2
        return max(max(_ORDERS[phase]) for phase in self.phases) + (self.p_double > 0.0)

    @property
    def cycle_steps(self) -> int:
        """Steps of one pass through ``phases``; save and compare models at its multiples."""
        return len(self.phases) * self._phase_steps

    def orders(self, step: int) -> tuple[int, int]:
        """Orders of the first and the second clip.

        Args:
            step: Index of the optimiser step, from 0.
        """
        generator = sample_generator(self.seed, _COIN_STREAM, step)
        if self.pairs == "random":
            first, second = generator.integers(0, 3, size=2)
            return int(first), int(second)
        coin = int(generator.random() < self.p_double)
        first, second = _ORDERS[self.phases[step // self._phase_steps % len(self.phases)]]
        return first + coin, second + coin

    def macro_step(self, step: int) -> int:
        """The step counter of the authors' BYOL script, for its learning rate and nominal EMA decay.

        Each pass of a macro-epoch starts again from the macro-epoch's count, so that a schedule of this number is a
        staircase over ``steps / len(phases)`` values and not monotone.

        Args:
            step: Index of the optimiser step, from 0.

        Raises:
            ValueError: If the period is not ``pass``.

        Example:
            >>> schedule = DerivativeSchedule(period="pass", steps_per_epoch=10)
            >>> [schedule.macro_step(step) for step in (0, 9, 10, 39, 40)]
            [0, 9, 0, 9, 10]
        """
        if self.period != "pass":
            raise ValueError(f"macro-epochs exist with period='pass', not {self.period!r}")
        return step // self.cycle_steps * self._phase_steps + step % self._phase_steps

    def plan(self, predictor: str | None) -> Callable[[int], Sequence[Edge]]:
        """Edges between the views ``first`` and ``second``, both ways, for :class:`byol_ext.bootstrap.Bootstrap`.

        The labels name the orders, so that each pair has its own curve.

        Args:
            predictor: Name of the predictor.

        Example:
            >>> [edge.name for edge in DerivativeSchedule.base().plan("q")(0)]
            ['first.d0->second.d0', 'second.d0->first.d0']
        """

        def edges(step: int) -> Sequence[Edge]:
            first, second = self.orders(step)
            return (
                Edge("first", "second", predictor, label=f"first.d{first}->second.d{second}"),
                Edge("second", "first", predictor, label=f"second.d{second}->first.d{first}"),
            )

        return edges

    @property
    def _phase_steps(self) -> int:
        return 1 if self.period == "step" else self.steps_per_epoch or 1
