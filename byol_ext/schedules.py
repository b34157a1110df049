"""Schedules: pure functions from a step to a value (learning rate, EMA decay, loss weight).

A schedule is any ``Callable[[int], float]``; the functions below build the common ones.

Example:
    >>> tau = ema_cosine(0.996, steps=100)
    >>> [round(tau(k), 3) for k in (0, 50, 100)]
    [0.996, 0.998, 1.0]
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda step: value


def linear(start: float, end: float, steps: int) -> Schedule:
    """From ``start`` at step 0 to ``end`` at ``steps``, constant after.

    Raises:
        ValueError: If ``steps`` is not positive.
    """
    _check_steps(steps)
    return lambda step: start + (end - start) * min(max(step, 0) / steps, 1.0)


def cosine(start: float, end: float, steps: int) -> Schedule:
    """Half a cosine from ``start`` at step 0 to ``end`` at ``steps``, constant after.

    Raises:
        ValueError: If ``steps`` is not positive.
    """
    _check_steps(steps)
    return lambda step: end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(step, 0) / steps, 1.0)))


def warmup_cosine(peak: float, steps: int, warmup: int, final: float = 0.0) -> Schedule:
    """Linear warm-up to ``peak`` over ``warmup`` steps, then half a cosine down to ``final`` at ``steps``.

    Step 0 already moves (``peak / warmup``): the value at step ``k`` is the learning rate of update ``k + 1``.

    Raises:
        ValueError: If ``steps`` is not positive or ``warmup`` lies outside ``[0, steps]``.
    """
    _check_steps(steps)
    if not 0 <= warmup <= steps:
        raise ValueError(f"warmup={warmup} must lie between 0 and steps={steps}")
    decay = cosine(peak, final, max(steps - warmup, 1))
    return lambda step: peak * (step + 1) / warmup if step < warmup else decay(step - warmup)


def warmup_constant(peak: float, warmup: int) -> Schedule:
    """Linear warm-up to ``peak`` over ``warmup`` steps, constant after.

    Raises:
        ValueError: If ``warmup`` is negative.
    """
    if warmup < 0:
        raise ValueError(f"warmup={warmup} must not be negative")
    return lambda step: peak * min((step + 1) / warmup, 1.0) if warmup else peak


def ema_cosine(base: float, steps: int) -> Schedule:
    """BYOL's decay: ``1 - (1 - base)(1 + cos(pi k / K)) / 2``, from ``base`` to 1 (Grill et al. 2020, 3.2).

    Raises:
        ValueError: If ``base`` lies outside [0, 1] or ``steps`` is not positive.
    """
    _check_decay(base)
    return cosine(base, 1.0, steps)


def ema_warmup(decay: float) -> Schedule:
    """Decay for weight averaging, ``min(decay, (1 + n) / (10 + n))``: the average is useful from the first steps.

    Raises:
        ValueError: If ``decay`` lies outside [0, 1].
    """
    _check_decay(decay)
    return lambda step: min(decay, (1.0 + step) / (10.0 + step))


def scale_decay(decay: float, batch: int, reference_batch: int) -> float:
    """Decay that keeps the target's time scale in samples when the batch changes: ``decay ** (batch / reference)``.

    The rule of "How to Scale Your EMA" (arXiv 2307.13813).

    Raises:
        ValueError: If ``decay`` lies outside [0, 1] or a batch size is not positive.

    Example:
        >>> round(scale_decay(0.95, batch=1536, reference_batch=768), 4)
        0.9025
    """
    _check_decay(decay)
    if batch < 1 or reference_batch < 1:
        raise ValueError(f"batch={batch} and reference_batch={reference_batch} must be positive")
    return float(decay ** (batch / reference_batch))


def at(value: float | Schedule, step: int) -> float:
    """The value of a number or a schedule at a step."""
    return value(step) if callable(value) else value


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps={steps} must be positive")


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"EMA decay {decay} must lie in [0, 1]")
