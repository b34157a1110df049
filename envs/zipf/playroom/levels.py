"""The original's 18 level names, as settings of ours.

What the original's levels do is not published; the reading of their names is ours (spec: zipfian-envs.md, section 4.1):
lifting is learnt under a skewed law of the objects, putting on frequent ones and tested on rare ones, and "supervised"
asks to recognise without control.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from envs.zipf.law import Split
from envs.zipf.playroom.text import Task

Subset = Literal["all", "frequent", "rare"]
MANY, FEW = 8, 3
"""Objects in the room, in the levels with "many" in their names and in the others."""


@dataclass(frozen=True)
class Level:
    """Settings that a level's name stands for.

    Attributes:
        task: What to do.
        split: Law of the objects.
        exponent: Of the Zipf law; None where the split has none.
        subset: Objects that may be asked for.
        objects_in_room: How many there are.
    """

    task: Task
    split: Split
    exponent: float | None = None
    subset: Subset = "all"
    objects_in_room: int = FEW


LEVELS: Mapping[str, Level] = {
    "lift/lift_shape_uniform": Level("lift", "uniform"),
    "lift/lift_shape_uniform_rare": Level("lift", "rare"),
    "lift/lift_shape_zipf2": Level("lift", "zipf", 2.0),
    "lift/lift_shape_zipf3": Level("lift", "zipf", 3.0),
    "lift/lift_shape_zipf4": Level("lift", "zipf", 4.0),
    "put/lift_shape_uniform": Level("lift", "uniform"),
    "put/lift_shape_uniform_rare": Level("lift", "rare"),
    "put/lift_shape_zipf2": Level("lift", "zipf", 2.0),
    "put/lift_shape_many_zipf1": Level("lift", "zipf", 1.0, objects_in_room=MANY),
    "put/lift_shape_many_zipf4": Level("lift", "zipf", 4.0, objects_in_room=MANY),
    "put/put_on_bed_tray_frequent": Level("put_on", "uniform", subset="frequent"),
    "put/put_on_bed_tray_all": Level("put_on", "uniform"),
    "put/put_on_bed_tray_rare": Level("put_on", "uniform", subset="rare"),
    "put/put_near_bed_tray_frequent": Level("put_near", "uniform", subset="frequent"),
    "supervised/find_shape_uniform": Level("find", "uniform"),
    "supervised/find_shape_uniform_rare": Level("find", "rare"),
    "supervised/find_shape_zipf2": Level("find", "zipf", 2.0),
    "supervised/find_shape_zipf3": Level("find", "zipf", 3.0),
}
"""The settings by the original's level name."""
