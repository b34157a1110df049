"""The 30 levels as data, in the published order of DMLab-30; the mechanics that read it are in this package's kernels.

Rewards and episode lengths are the published ones where known (spec: zipfian-envs.md, section 3.2); everything else is
our simplified form. Lengths are in cells, a step is 1/15 s.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np

from envs.zipf.labyrinth.text import QUESTIONS, TASKS, Template

STEPS_PER_SECOND = 15
"""Agent steps in a second of the original: 60 frames a second, each action four times (spec: from memory)."""


class Mechanic(IntEnum):
    """What a level is about."""

    PICKUPS = 0
    """Objects give their value when touched; when none of positive value is left, a level may be restocked."""
    GOAL = 1
    """One goal; when it is found, the episode ends or the agent is put elsewhere."""
    PUZZLE = 2
    """Rooms behind coloured doors; a key opens one door, and one key can be held."""
    DEFERRED = 3
    """A costly object turns out to be the key of a second room, if there is one."""
    CHOICE = 4
    """A pad leads to a second room, where the object that was not shown in the first is the right one."""
    LANGUAGE = 5
    """An instruction or a question; the first object touched is the answer."""
    TAG = 6
    """Opponents with hit-scan weapons."""
    TRIALS = 7
    """A screen; turn to its left or right mark to answer."""


class Layout(IntEnum):
    """How a level's map is made."""

    ROOMS = 0
    MAZE = 1
    FIELD = 2
    PLATFORMS = 3
    BOOTH = 4


class Looks(IntEnum):
    """What pickups look like."""

    KINDS = 0
    """Four kinds of objects, two of them good, drawn anew for every episode."""
    PAIRS = 1
    """One of two fixed pairs of a good and a bad object, bound to the look of the room but for one combination."""
    APPLES = 2
    MUSHROOMS = 3


class Trial(IntEnum):
    """What is asked on the screen."""

    MAPPING = 0
    """Six pictures, each bound to a side for the episode."""
    RECOGNITION = 1
    """Was this picture shown before in this episode? Right if so."""
    COMPARISON = 2
    """Study, wait, then: the same pictures? Right if so."""
    SEARCH = 3
    """Is there a pink ball among its look-alikes? Right if so."""


@dataclass(frozen=True)
class Level:
    """One level; what does not belong to its mechanic or layout is ignored.

    Attributes:
        name: As published.
        seconds: Episode length.
        mechanic: What it is about.
        layout: How its map is made.
        edge: Cells along an edge of a room (`ROOMS`, without walls) or of the map (with them).
        fewest_rooms, most_rooms: Rooms of the map, drawn for each episode.
        loops: Share of a maze's inner walls that are opened beyond a spanning tree.
        maps: Maps are drawn from so many fixed ones; 0 makes a new one for each episode.
        outdoors: Day, dawn or night sky instead of a ceiling.
        good, bad: Numbers of objects of positive and negative value.
        good_value, bad_value: Reward for touching one (also the goal's value and the costly object's).
        looks: What pickups look like.
        regrow: Seconds until a pickup is back; 0 for never.
        restock: Whether all pickups come back, and the agent starts elsewhere, when the last good one is taken.
        doors: Places of doors in a maze; each is open or closed at random, so that a way exists.
        hidden: Whether the goal is invisible.
        ends: Whether the goal ends the episode.
        decoys: Share of side platforms; negative draws the share for each episode.
        templates: Bit ``t`` is set for the kinds ``t`` of instruction or question in use.
        bots: Opponents.
        trial: What is asked on the screen.
    """

    name: str
    seconds: int
    mechanic: Mechanic
    layout: Layout
    edge: int
    fewest_rooms: int = 1
    most_rooms: int = 1
    loops: float = 0.05
    maps: int = 0
    outdoors: bool = False
    good: int = 0
    bad: int = 0
    good_value: float = 1.0
    bad_value: float = -1.0
    looks: Looks = Looks.APPLES
    regrow: int = 0
    restock: bool = False
    doors: int = 0
    hidden: bool = False
    ends: bool = False
    decoys: float = 0.0
    templates: int = 0
    bots: int = 0
    trial: Trial = Trial.MAPPING

    @property
    def steps(self) -> int:
        """Episode length in agent steps."""
        return self.seconds * STEPS_PER_SECOND


def _bits(*templates: Template) -> int:
    return sum(1 << t for t in templates)


def _tag(name: str, edge: int, bots: int) -> Level:
    return Level(name, 240, Mechanic.TAG, Layout.MAZE, edge, loops=0.45, bots=bots)


def _foraging(name: str, edge: int, good: int, *, maps: int = 0, regrow: int = 0) -> Level:
    return Level(
        name,
        120,
        Mechanic.PICKUPS,
        Layout.FIELD,
        edge,
        maps=maps,
        outdoors=True,
        good=good,
        looks=Looks.MUSHROOMS,
        regrow=regrow,
    )


def _platforms(name: str, decoys: float) -> Level:
    return Level(
        name,
        60,
        Mechanic.GOAL,
        Layout.PLATFORMS,
        17,
        outdoors=True,
        good_value=100.0,
        ends=True,
        decoys=decoys,
    )


def _trials(name: str, trial: Trial) -> Level:
    return Level(name, 150, Mechanic.TRIALS, Layout.BOOTH, 5, trial=trial)


def _maze(name: str, *, large: bool, mechanic: Mechanic, doors: int = 0, loops: float = 0.05) -> Level:
    rooms = 9 if large else 4
    goal = mechanic is Mechanic.GOAL
    return Level(
        name,
        120 if large else 90,
        mechanic,
        Layout.MAZE,
        17 if large else 11,
        fewest_rooms=rooms,
        most_rooms=rooms,
        loops=loops,
        good=0 if goal else 3 * rooms // 2,
        good_value=10.0 if goal else 1.0,
        restock=not goal,
        doors=doors,
    )


def _rewards(name: str, seconds: int, objects: int) -> Level:
    return Level(
        name,
        seconds,
        Mechanic.PICKUPS,
        Layout.ROOMS,
        13,
        good=objects // 2,
        bad=objects // 2,
        good_value=2.0,
        looks=Looks.KINDS,
        restock=True,
    )


def _language(name: str, seconds: int, edge: int, rooms: tuple[int, int], objects: int, templates: int) -> Level:
    return Level(
        name, seconds, Mechanic.LANGUAGE, Layout.ROOMS, edge, *rooms, good=1, bad=objects - 1, templates=templates
    )


LEVELS: tuple[Level, ...] = (
    Level(
        "rooms_collect_good_objects_train",
        60,
        Mechanic.PICKUPS,
        Layout.ROOMS,
        9,
        good=6,
        bad=6,
        looks=Looks.PAIRS,
        restock=True,
    ),
    Level(
        "rooms_exploit_deferred_effects_train",
        60,
        Mechanic.DEFERRED,
        Layout.ROOMS,
        6,
        fewest_rooms=1,
        most_rooms=2,
        good=4,
        bad_value=-3.0,
    ),
    Level(
        "rooms_select_nonmatching_object",
        12,
        Mechanic.CHOICE,
        Layout.ROOMS,
        4,
        fewest_rooms=2,
        most_rooms=2,
        good_value=10.0,
        bad_value=-10.0,
    ),
    Level("rooms_watermaze", 120, Mechanic.GOAL, Layout.ROOMS, 11, good_value=10.0, hidden=True),
    Level(
        "rooms_keys_doors_puzzle",
        60,
        Mechanic.PUZZLE,
        Layout.ROOMS,
        4,
        fewest_rooms=4,
        most_rooms=6,
        good_value=50.0,
        ends=True,
    ),
    _language(
        "language_select_described_object", 60, 5, (1, 1), 2, _bits(Template.COLOUR, Template.SHAPE, Template.BOTH)
    ),
    _language("language_select_located_object", 120, 4, (2, 6), 8, _bits(Template.COLOUR_IN_ROOM)),
    _language("language_execute_random_task", 120, 4, (2, 4), 6, _bits(*TASKS)),
    _language("language_answer_quantitative_question", 60, 7, (1, 1), 6, _bits(*QUESTIONS)),
    _tag("lasertag_one_opponent_small", 11, 1),
    _tag("lasertag_three_opponents_small", 11, 3),
    _tag("lasertag_one_opponent_large", 21, 1),
    _tag("lasertag_three_opponents_large", 21, 3),
    _foraging("natlab_fixed_large_map", 25, 30, maps=1),
    _foraging("natlab_varying_map_regrowth", 15, 10, regrow=60),
    _foraging("natlab_varying_map_randomized", 15, 14, maps=100),
    _platforms("skymaze_irreversible_path_hard", 0.9),
    _platforms("skymaze_irreversible_path_varied", -1.0),
    _trials("psychlab_arbitrary_visuomotor_mapping", Trial.MAPPING),
    _trials("psychlab_continuous_recognition", Trial.RECOGNITION),
    _trials("psychlab_sequential_comparison", Trial.COMPARISON),
    _trials("psychlab_visual_search", Trial.SEARCH),
    _maze("explore_object_locations_small", large=False, mechanic=Mechanic.PICKUPS),
    _maze("explore_object_locations_large", large=True, mechanic=Mechanic.PICKUPS),
    _maze("explore_obstructed_goals_small", large=False, mechanic=Mechanic.GOAL, doors=8, loops=0.3),
    _maze("explore_obstructed_goals_large", large=True, mechanic=Mechanic.GOAL, doors=20, loops=0.3),
    _maze("explore_goal_locations_small", large=False, mechanic=Mechanic.GOAL),
    _maze("explore_goal_locations_large", large=True, mechanic=Mechanic.GOAL),
    _rewards("explore_object_rewards_few", 90, 8),
    _rewards("explore_object_rewards_many", 120, 16),
)
"""``lab30``: rank k is ``LEVELS[k - 1]``."""

LAB12: tuple[Level, ...] = tuple(LEVELS[rank - 1] for rank in (1, 2, 4, 5, 6, 9, 14, 17, 22, 23, 25, 27))
"""A quick selection of every mechanic (spec: zipfian-envs.md, section 3.2)."""


def level_table(levels: tuple[Level, ...]) -> np.ndarray:
    """The numbers of levels as an array of records, for the kernels; ``number`` is the index in `LEVELS`."""
    numbers = {field.name: np.float64 if field.type == "float" else np.int64 for field in fields(Level)}
    del numbers["name"]
    dtype = [*numbers.items(), ("number", np.int64), ("steps", np.int64)]
    table = np.zeros(len(levels), dtype).view(np.recarray)
    for row, level in zip(table, levels, strict=True):
        for name in numbers:
            row[name] = getattr(level, name)
        row["number"], row["steps"] = LEVELS.index(level), level.steps
    return table
