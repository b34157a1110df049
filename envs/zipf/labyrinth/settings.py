"""Arguments of the labyrinth, checked, and what follows from them: levels, their law, spaces and infos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from envs._frame import Frame, InfoSpec
from envs.zipf.labyrinth._sim import OUTCOMES, Law, Out
from envs.zipf.labyrinth.levels import LAB12, LEVELS, Level
from envs.zipf.labyrinth.text import LENGTH, VOCABULARY
from envs.zipf.law import SPLITS, Floats, Split, check_choice, check_law, cumulative, rare_count, split_law

Order = Literal["forward", "reversed", "permuted"]
_ORDERS = ("forward", "reversed", "permuted")
_SETS: Mapping[str, tuple[Level, ...]] = {"lab30": LEVELS, "lab12": LAB12}

INFOS: Mapping[str, InfoSpec] = {
    "task_id": InfoSpec(np.int64),
    "level": InfoSpec(np.int64),
    "ranks": InfoSpec(np.int64, (1,)),
    "task_prob": InfoSpec(np.float64),
    "is_rare": InfoSpec(np.bool_),
    "cell": InfoSpec(np.int64),
    "score": InfoSpec(np.float64),
    "success": InfoSpec(np.bool_, last_only=True),
    "outcome": InfoSpec(OUTCOMES.dtype, last_only=True),
}


@dataclass(frozen=True)
class Settings:
    """Arguments that the single and the vector environment share; the defaults are the published distribution.

    Attributes:
        split: Law of the levels: ``zipf`` (training), ``uniform`` or ``rare``.
        exponent: Of the Zipf law; default 1 (``zipf1`` of the original).
        rare: Share (float) or count (int) of the rare ranks.
        levels: ``lab30``, ``lab12`` or names of levels.
        order: Which level has which rank: ``forward`` as listed, ``reversed``, or ``permuted`` by ``rank_seed``.
        rank_seed: Seed of the permutation.
        law: ``n -> probabilities by rank``; replaces the law of every split.
        size: Rows and columns of a picture.
        flat: Observe the picture itself instead of a dictionary.

    Raises:
        ValueError: On any value out of range or unknown name.
    """

    split: Split = "zipf"
    exponent: float = 1.0
    rare: float | int = 0.2
    levels: str | Sequence[str] = "lab30"
    order: Order = "forward"
    rank_seed: int | None = None
    law: Callable[[int], object] | None = None
    size: tuple[int, int] = (72, 96)
    flat: bool = False

    def __post_init__(self) -> None:
        check_choice("split", self.split, SPLITS)
        check_choice("order", self.order, _ORDERS)
        if (self.order == "permuted") != (self.rank_seed is not None):
            raise ValueError(
                f"order='permuted' and rank_seed go together, got order={self.order!r} with rank_seed={self.rank_seed}"
            )
        if (self.rank_seed or 0) < 0:
            raise ValueError(f"rank_seed must be at least 0, got {self.rank_seed}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be (rows, columns) of at least 1, got {self.size}")
        _ = self.chosen, self.make_law()

    @property
    def chosen(self) -> tuple[Level, ...]:
        """The levels; a task is an index into them."""
        if isinstance(self.levels, str):
            check_choice("levels", self.levels, tuple(_SETS))
            return _SETS[self.levels]
        by_name = {level.name: level for level in LEVELS}
        for name in self.levels:
            check_choice("level", name, tuple(by_name))
        if len(set(self.levels)) != len(self.levels) or not self.levels:
            raise ValueError(f"levels must be different names, at least one, got {list(self.levels)}")
        return tuple(by_name[name] for name in self.levels)

    @property
    def rank(self) -> NDArray[np.int64]:
        """Rank of each level, from 0."""
        n = len(self.chosen)
        if self.order == "permuted":
            return np.random.default_rng(self.rank_seed).permutation(n)
        return np.arange(n) if self.order == "forward" else np.arange(n)[::-1].copy()

    @property
    def observation_space(self) -> Box | Dict:
        """Space of one observation."""
        image = Box(0, 255, (*self.size, 3), np.uint8)
        if self.flat:
            return image
        return Dict({"image": image, "instruction": Box(0, len(VOCABULARY) - 1, (LENGTH,), np.int32)})

    def make_law(self) -> Law:
        """The kernels' law tables."""
        rank, n = self.rank, len(self.chosen)
        by_level = np.stack([self._by_rank(split, n)[rank] for split in SPLITS])
        return Law(
            cumulative=np.stack([cumulative(probability) for probability in by_level]),
            probability=by_level,
            rank=rank,
            rare=rank >= n - rare_count(n, self.rare),
        )

    def _by_rank(self, split: Split, n: int) -> Floats:
        if self.law is not None:
            return check_law(self.law(n), n)
        return split_law(split, n, exponent=self.exponent, rare=self.rare)


def out_of(frame: Frame) -> Out:
    """The kernels' view of a frame."""
    tokens = frame.obs["instruction"] if isinstance(frame.obs, dict) else np.zeros((0, LENGTH), np.int32)
    info = dict(frame.info)
    outcome = info.pop("outcome")
    return Out(
        tokens=tokens,
        reward=frame.reward,
        terminated=frame.terminated,
        truncated=frame.truncated,
        outcome=outcome.view(np.uint32).reshape(len(outcome), -1),
        **info,
    )


def checked_tasks(task: Any, num_tasks: int, num_envs: int) -> NDArray[np.int64]:
    """``options["task"]`` as an int64 scalar or ``[B]``.

    Raises:
        ValueError: If it is not an integer, or one a sub-environment, or out of range.
    """
    given = np.asarray(task)
    if given.dtype.kind not in "iu" or given.shape not in ((), (num_envs,)):
        raise ValueError(f"options['task'] must be an integer or {num_envs} of them, got {task!r}")
    if (given < 0).any() or (given >= num_tasks).any():
        raise ValueError(f"options['task'] must be in 0..{num_tasks - 1}, got {task}")
    return given.astype(np.int64)
