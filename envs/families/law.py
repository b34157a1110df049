"""The law over a family of tasks: a product of Zipf laws over its factors, and how many slots each task gets.

Legend: ``K`` tasks, ``F`` factors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.zipf.law import SPLITS, Floats, RankedItems, Split, check_choice

Rare = float | int | tuple[float | int, ...]


class TaskLaw:
    """Ranks and probabilities of ``K`` tasks that are all combinations of ``F`` factors' items, the last one fastest.

    Every factor follows the same law over its own ranks, and the factors are independent: ``P(i, j) = P(i) P(j)``. A
    task is rare if all its items are.

    Args:
        factors: Items of each factor; one factor is a plain law over tasks.
        exponent: Of the ``zipf`` split.
        rare: Fraction (float) or count (int) of each factor's items that are rare, or one of these a factor.
        rank_seed: Permutes item -> rank, each factor by a stream of its own; None keeps item ``k`` at rank ``k``.

    Attributes:
        factors: As given.
        items: The law of each factor.
        ranks: ``[K, F]`` int64, 0 the most frequent.
        is_rare: ``[K]`` bool.
        order: ``[K]``: tasks by falling frequency; ties by their number.

    Raises:
        ValueError: No task, or an exponent or rare share out of range.

    Example:
        >>> law = TaskLaw((20, 20), exponent=2.0)
        >>> law.probabilities("zipf")[0].round(7), law.ranks[21].tolist(), int(law.is_rare.sum())
        (np.float64(0.3925052), [1, 1], 16)
    """

    def __init__(
        self, factors: Sequence[int], *, exponent: float, rare: Rare = 0.2, rank_seed: int | None = None
    ) -> None:
        self.factors = tuple(factors)
        shares = rare if isinstance(rare, tuple) else (rare,) * len(self.factors)
        if len(shares) != len(self.factors):
            raise ValueError(f"rare must be one value or {len(self.factors)}, one a factor, got {rare}")
        self.items = [
            RankedItems(n, exponent=exponent, rare=share, rank_seed=None if rank_seed is None else (rank_seed, factor))
            for factor, (n, share) in enumerate(zip(self.factors, shares, strict=True))
        ]
        index = np.indices(self.factors).reshape(len(self.factors), -1)
        self.ranks: NDArray[np.int64] = np.stack([items.rank[i] for items, i in zip(self.items, index, strict=True)], 1)
        self.is_rare: NDArray[np.bool_] = np.all(
            [items.is_rare[i] for items, i in zip(self.items, index, strict=True)], axis=0
        )
        self.order = np.argsort((self.ranks + 1).prod(axis=1), kind="stable")

    def __len__(self) -> int:
        return math.prod(self.factors)

    def probabilities(self, split: Split) -> Floats:
        """Probability ``[K]`` of each task; raises ValueError on an unknown split."""
        joint = np.ones(1)
        for items in self.items:
            joint = np.multiply.outer(joint, items.probabilities(split)).ravel()
        return joint

    def task_numbers(self, given: Any, num_envs: int | None = None) -> NDArray[np.int64]:
        """Tasks that a caller named.

        Args:
            given: A task's number or, with several factors, its items ``[F]``; with ``num_envs`` also one for each
                sub-environment: numbers ``[B]`` or, with several factors, items ``[B, F]``.
            num_envs: ``B``; None for a single environment.

        Returns:
            Numbers ``[B]``, or ``[1]`` without ``num_envs``.

        Raises:
            ValueError: Other shapes or types, or out of range.
        """
        tasks, several = np.asarray(given), len(self.factors) > 1
        shapes: list[tuple[int, ...]] = [(), *([(len(self.factors),)] if several else [])]
        if num_envs is not None:
            shapes.append((num_envs, len(self.factors)) if several else (num_envs,))
        if tasks.dtype.kind not in "iu" or tasks.shape not in shapes:
            known = ", ".join(map(str, shapes))
            raise ValueError(f"options['task'] must be integers of one of the shapes {known}, got {given!r}")
        by_factor = several and tasks.ndim > 0
        limits = self.factors if by_factor else len(self)
        if (tasks < 0).any() or (tasks >= np.asarray(limits)).any():
            raise ValueError(f"options['task'] must be at least 0 and below {limits}, got {given!r}")
        numbers = np.ravel_multi_index(tuple(np.moveaxis(tasks, -1, 0)), self.factors) if by_factor else tasks
        return np.broadcast_to(numbers, (num_envs or 1,)).astype(np.int64)


def checked_options(
    options: Mapping[str, Any] | None, split: Split, law: TaskLaw, num_envs: int | None
) -> tuple[Split, NDArray[np.int64] | None]:
    """Reset options as the split to use and the tasks to force, ``[B]`` or ``[1]``, or None.

    Raises:
        ValueError: An unknown option or split, or a task out of range.
    """
    given = dict(options or {})
    if unknown := set(given) - {"task", "split"}:
        raise ValueError(f"unknown reset options {sorted(unknown)}; known: task, split")
    split = given.get("split", split)
    check_choice("split", split, SPLITS)
    return split, law.task_numbers(given["task"], num_envs) if "task" in given else None


def allocate_slots(probability: Floats, num_envs: int, min_slots: int = 1) -> NDArray[np.int64]:
    """Share ``num_envs`` slots among tasks in proportion to their probability, by largest remainder.

    Tasks of probability 0 get none, all others at least ``min_slots``; those that need the minimum are taken out before
    the rest is shared in proportion.

    Args:
        probability: ``[K]``, summing to 1.
        num_envs: Slots.
        min_slots: Fewest slots of a task that can occur; with 0, rare tasks may never be played.

    Returns:
        ``[K]``, summing to ``num_envs``.

    Raises:
        ValueError: If ``min_slots`` is negative or there are too few slots for it.

    Example:
        >>> allocate_slots(np.array([0.7, 0.2, 0.1, 0.0]), 8).tolist()
        [5, 2, 1, 0]
    """
    if min_slots < 0:
        raise ValueError(f"min_slots must be at least 0, got {min_slots}")
    possible = probability > 0
    needed = int(possible.sum()) * min_slots
    if num_envs < needed:
        raise ValueError(
            f"{num_envs} slots are too few for {int(possible.sum())} tasks with at least {min_slots} each: "
            f"give num_envs of {needed} or more, a smaller min_slots, or allocation='per_episode'"
        )
    slots, free = np.zeros(len(probability), np.int64), possible.copy()
    while True:
        left = num_envs - int(slots.sum())
        quota = np.where(free, probability, 0.0)
        quota *= left / quota.sum()
        short = free & (quota < min_slots - 1e-9)
        if not short.any():
            break
        slots[short], free = min_slots, free & ~short
    whole = np.floor(quota + 1e-9).astype(np.int64)
    slots += whole
    by_remainder = np.argsort(-np.where(free, quota - whole, -np.inf), kind="stable")
    slots[by_remainder[: num_envs - int(slots.sum())]] += 1
    return slots
