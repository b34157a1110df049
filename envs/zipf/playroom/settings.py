"""Arguments of the playroom, checked, and what follows from them: rules, law, infos.

Legend: ``B`` sub-environments, ``L`` tokens of an instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from envs._frame import Frame, InfoSpec
from envs.zipf.law import SPLITS, RankedItems, Split, check_choice, cumulative
from envs.zipf.playroom.levels import LEVELS, Subset
from envs.zipf.playroom.lexicon import LEXICON, Naming
from envs.zipf.playroom.state import OUTCOMES, RIGHT_ANGLE, SENTENCE, SLOTS, Law, Out, Rules
from envs.zipf.playroom.text import FURNITURE, LENGTH, TASKS, VOCABULARY, Task, sentence, tokenize

Distractors = Literal["same", "uniform"]
INSTRUCTION_SPACE = Box(0, len(VOCABULARY) - 1, (LENGTH,), np.int32)

INFOS: Mapping[str, InfoSpec] = {
    "task_id": InfoSpec(np.int64),
    "ranks": InfoSpec(np.int64, (1,)),
    "task_prob": InfoSpec(np.float64),
    "is_rare": InfoSpec(np.bool_),
    "furniture": InfoSpec(np.int64),
    "held": InfoSpec(np.int64),
    "cell": InfoSpec(np.int64),
    "instruction": InfoSpec(SENTENCE),
    "success": InfoSpec(np.bool_, last_only=True),
    "outcome": InfoSpec(OUTCOMES.dtype, last_only=True),
}


@dataclass(frozen=True)
class Body:
    """How the agent moves.

    Attributes:
        speed: Length of a step in metres.
        turn: Of a turn, in steps of 15 degrees.
        drop: Distance at which a released object is put down, in metres.
    """

    speed: float
    turn: int
    drop: float


WALKER = Body(speed=0.25, turn=1, drop=0.7)
"""In first person: 15 steps a second at a brisk walk; 15 degrees (spec: zipfian-envs.md, section 4.2)."""
GRID_WALKER = Body(speed=1.0, turn=RIGHT_ANGLE, drop=1.0)
"""On the grid: from cell to cell in four directions."""


@dataclass(frozen=True)
class Settings:
    """Arguments that all playrooms share.

    Attributes:
        task: ``lift``, ``put_on``, ``put_near`` or ``find``.
        split: Law of the object asked for: ``zipf`` (training), ``uniform`` or ``rare``.
        exponent: Of the Zipf law; default 2, as in the original's example.
        rare: Share (float) or count (int) of the rare ranks.
        num_objects: Kinds of objects, from the most frequent of the lexicon on.
        objects_in_room: The one asked for among them.
        distractors: The others' law, without replacement: the ``same`` as for the object asked for, or ``uniform``.
        subset: Only ``frequent`` or only ``rare`` objects are asked for; their law is scaled up.
        naming: ``atomic`` invented names, or ``compositional`` "red ball".
        rank_seed: Permutes which object has which rank; None keeps the lexicon's order.
        law: ``n -> probabilities by rank``; replaces the law of every split.
        max_steps: Steps after which an episode is truncated.
        level: One of the original's level names; replaces task, split, exponent, subset and objects_in_room.

    Raises:
        ValueError: On any value out of range or unknown name, and if the split asks for nothing in the subset.
    """

    task: Task = "lift"
    split: Split = "zipf"
    exponent: float = 2.0
    rare: float | int = 0.2
    num_objects: int = len(LEXICON)
    objects_in_room: int = 3
    distractors: Distractors = "same"
    subset: Subset = "all"
    naming: Naming = "atomic"
    rank_seed: int | None = None
    law: Callable[[int], object] | None = None
    max_steps: int = 300
    level: str | None = None

    def __post_init__(self) -> None:
        if self.level is not None:
            self._take_level(self.level)
        for what, given, allowed in (
            ("task", self.task, TASKS),
            ("split", self.split, SPLITS),
            ("distractors", self.distractors, ("same", "uniform")),
            ("subset", self.subset, ("all", "frequent", "rare")),
            ("naming", self.naming, ("atomic", "compositional")),
        ):
            check_choice(what, given, allowed)
        for what, value, least, most in (
            ("num_objects", self.num_objects, 1, len(LEXICON)),
            ("objects_in_room", self.objects_in_room, 1, min(SLOTS, self.num_objects)),
            ("max_steps", self.max_steps, 1, None),
            ("rank_seed", self.rank_seed or 0, 0, None),
        ):
            if value < least or (most is not None and value > most):
                limits = f"at least {least}" if most is None else f"in {least}..{most}"
                raise ValueError(f"{what} must be {limits}, got {value}")
        self.check_split(self.split)

    def _take_level(self, name: str) -> None:
        check_choice("level", name, tuple(LEVELS))
        level = LEVELS[name]
        exponent = self.exponent if level.exponent is None else level.exponent
        values = (level.task, level.split, exponent, level.subset, level.objects_in_room)
        names = ("task", "split", "exponent", "subset", "objects_in_room")
        for field, value in zip(names, values, strict=True):
            object.__setattr__(self, field, value)

    def check_split(self, split: Split) -> None:
        """Raises ValueError on an unknown split, and on one that asks for nothing in the subset."""
        check_choice("split", split, SPLITS)
        if self._probabilities(split).sum() <= 0:
            raise ValueError(f"split {split!r} gives the objects of subset={self.subset!r} no probability")

    @property
    def _items(self) -> RankedItems:
        return RankedItems(
            self.num_objects, exponent=self.exponent, rare=self.rare, rank_seed=self.rank_seed, law=self.law
        )

    def _probabilities(self, split: Split) -> NDArray[np.float64]:
        """Of each object, before they are scaled up."""
        items = self._items
        kept = {"all": np.ones(self.num_objects, np.bool_), "frequent": ~items.is_rare, "rare": items.is_rare}
        return np.where(kept[self.subset], items.probabilities(split), 0.0)

    def make_law(self) -> Law:
        """The kernels' law tables."""
        raw = np.stack([self._probabilities(split) for split in SPLITS])
        total = raw.sum(1, keepdims=True)
        probability = np.divide(raw, total, out=np.zeros_like(raw), where=total > 0)
        some = probability.sum(1) > 0
        table = np.stack([cumulative(row) if known else row for row, known in zip(probability, some, strict=True)])
        return Law(cumulative=table, probability=probability, rank=self._items.rank, rare=self._items.is_rare)

    def make_rules(self, body: Body) -> Rules:
        """The kernels' rules for an agent with this body."""
        words = np.array(
            [
                [sentence(self.task, item, furniture, self.naming) for item in LEXICON[: self.num_objects]]
                for furniture in FURNITURE
            ],
            SENTENCE,
        )
        return Rules(
            task=TASKS.index(self.task),
            objects=self.objects_in_room,
            same_law=self.distractors == "same",
            max_steps=self.max_steps,
            speed=body.speed,
            turn=body.turn,
            drop=body.drop,
            tokens=np.array([[tokenize(text) for text in row] for row in words.tolist()]),
            letters=words.view(np.uint32).reshape(*words.shape, -1),
        )


def out_of(frame: Frame) -> Out:
    """The kernels' view of a frame."""
    info, n = dict(frame.info), len(frame.reward)
    outcome, instruction = info.pop("outcome"), info.pop("instruction")
    assert isinstance(frame.obs, dict), "playrooms observe dictionaries"
    return Out(
        tokens=frame.obs["instruction"],
        reward=frame.reward,
        terminated=frame.terminated,
        truncated=frame.truncated,
        instruction=instruction.view(np.uint32).reshape(n, -1),
        outcome=outcome.view(np.uint32).reshape(n, -1),
        **info,
    )


def checked_tasks(task: Any, num_objects: int, num_envs: int) -> NDArray[np.int64]:
    """``options["task"]`` as an int64 scalar or ``[B]``.

    Raises:
        ValueError: If it is not an integer, or one a sub-environment, or out of range.
    """
    given = np.asarray(task)
    if given.dtype.kind not in "iu" or given.shape not in ((), (num_envs,)):
        raise ValueError(f"options['task'] must be an integer or {num_envs} of them, got {task!r}")
    if (given < 0).any() or (given >= num_objects).any():
        raise ValueError(f"options['task'] must be in 0..{num_objects - 1}, got {task}")
    return given.astype(np.int64)
