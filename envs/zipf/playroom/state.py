"""The playroom's state, its rules, and what the kernels write to.

Lengths are in metres, which are cells; x grows with columns (east), y with rows (south). The room's 10 by 10 cells lie
inside walls one cell thick.

Legend: ``B`` sub-environments, ``S`` places for objects, ``N`` kinds of objects, ``Y, X`` cells of the map,
``L`` tokens of an instruction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.raycast import NOTHING, Scene

ROOM = 10
MAP = ROOM + 2
"""``Y = X``: cells along an edge of the map, walls included."""
SLOTS = 8
"""``S``; the object asked for is in slot 0."""
BED_SIZE = (2, 3)
BED_HEIGHT, TRAY_HEIGHT, EYE, OBJECT_SIZE = 0.4, 0.14, 0.62, 0.6

FLOOR, WALL, PILLOW, BED, TRAY = range(5)
"""Codes of the map's cells."""
LIFT, PUT_ON, PUT_NEAR, FIND = range(4)
"""Tasks, in the order of `envs.zipf.playroom.text.TASKS`."""

HEADINGS = 24
"""A heading is counted in turns of 15 degrees from east towards south."""
RIGHT_ANGLE = HEADINGS // 4
TURN = 2 * np.pi / HEADINGS
# Rounded, so that steps along the axes are exact.
COSINE = np.round(np.cos(np.arange(HEADINGS) * TURN), 15)
SINE = np.round(np.sin(np.arange(HEADINGS) * TURN), 15)

ACTIONS = (
    "noop",
    "forward",
    "back",
    "strafe left",
    "strafe right",
    "turn left",
    "turn right",
    "grip",
    "release",
    "turn around",
)
"""Meaning of each action."""
NOOP, FORWARD, BACK, STRAFE_LEFT, STRAFE_RIGHT, TURN_LEFT, TURN_RIGHT, GRIP, RELEASE, TURN_AROUND = range(len(ACTIONS))

GOING_ON, GOAL, WRONG, TIMEOUT = range(4)
OUTCOMES = np.array(["", "goal", "wrong", "timeout"])
OUTCOME_LETTERS = OUTCOMES.view(np.uint32).reshape(len(OUTCOMES), -1)
SENTENCE = np.dtype("<U40")

AGENT = np.dtype(
    [
        *((name, np.float64) for name in ("x", "y", "eye", "angle")),
        # held: slot of the object in the hand, or -1; kind: the object asked for; furniture: where to put it, or -1
        *((name, np.int64) for name in ("heading", "sky", "overlay", "held", "kind", "furniture")),
    ]
)
THING = np.dtype(
    [
        *((name, np.float64) for name in ("x", "y", "z", "size")),
        *((name, np.int64) for name in ("kind", "texture")),  # kind: the object, or -1; texture: what is drawn
    ]
)
PIECE = np.dtype([(name, np.int64) for name in ("row", "column", "rows", "columns")])


class State(NamedTuple):
    """What changes.

    Attributes:
        agents: ``[B]`` records `AGENT`.
        things: ``[B, S]`` records `THING`: the objects.
        pieces: ``[B, 2]`` records `PIECE`: bed and tray.
        cells: ``[B, Y, X]`` uint8, the map.
        forced: ``[B]``: object that the next episode asks for, or -1 to draw one.
        split: ``[1]``: split in use, index into `envs.zipf.law.SPLITS`.
    """

    agents: np.recarray
    things: np.recarray
    pieces: np.recarray
    cells: NDArray[np.uint8]
    forced: NDArray[np.int64]
    split: NDArray[np.int64]


class Rules(NamedTuple):
    """What never changes.

    Attributes:
        task: One of `LIFT`, `PUT_ON`, `PUT_NEAR`, `FIND`.
        objects: In the room.
        same_law: Distractors follow the law of the object asked for; otherwise they are uniform.
        max_steps: Steps after which an episode is cut.
        speed: Length of a step.
        turn: Headings that a turn goes on.
        drop: Distance at which a released object is put down.
        tokens: ``[2, N, L]`` int32: instruction by furniture and object.
        letters: ``[2, N, 40]`` uint32: the same as letters.
    """

    task: int
    objects: int
    same_law: bool
    max_steps: int
    speed: float
    turn: int
    drop: float
    tokens: NDArray[np.int32]
    letters: NDArray[np.uint32]


class Law(NamedTuple):
    """Law of the objects: rows by split, in the order of `envs.zipf.law.SPLITS`.

    Attributes:
        cumulative: ``[3, N]``, for inverse sampling; zeros where the split gives the subset no probability.
        probability: ``[3, N]``.
        rank: ``[N]`` int64, from 0.
        rare: ``[N]`` bool.
    """

    cumulative: NDArray[np.float64]
    probability: NDArray[np.float64]
    rank: NDArray[np.int64]
    rare: NDArray[np.bool_]


class Out(NamedTuple):
    """Where a call's results go, but for pictures: ``[B]`` each.

    Attributes:
        tokens: ``[B, L]`` int32.
        reward, terminated, truncated, task_id, task_prob, is_rare, furniture, held, cell, success: See the environment.
        ranks: ``[B, 1]``.
        instruction: ``[B, 40]`` uint32, the letters of a `SENTENCE`.
        outcome: ``[B, 7]`` uint32, the letters of a ``<U7``.
    """

    tokens: NDArray[np.int32]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    task_id: NDArray[np.int64]
    ranks: NDArray[np.int64]
    task_prob: NDArray[np.float64]
    is_rare: NDArray[np.bool_]
    furniture: NDArray[np.int64]
    held: NDArray[np.int64]
    cell: NDArray[np.int64]
    instruction: NDArray[np.uint32]
    success: NDArray[np.bool_]
    outcome: NDArray[np.uint32]


def empty_state(num_envs: int) -> State:
    """A state before the first reset."""
    agents = np.zeros(num_envs, AGENT).view(np.recarray)
    agents.eye, agents.overlay = EYE, NOTHING
    return State(
        agents=agents,
        things=np.zeros((num_envs, SLOTS), THING).view(np.recarray),
        pieces=np.zeros((num_envs, 2), PIECE).view(np.recarray),
        cells=np.zeros((num_envs, MAP, MAP), np.uint8),
        forced=np.full(num_envs, -1, np.int64),
        split=np.zeros(1, np.int64),
    )


def row_of(state: State, e: int) -> State:
    """The state of one sub-environment, not copied."""
    rows = {name: array[e : e + 1] for name, array in state._asdict().items() if name != "split"}
    return state._replace(**rows)


def scene_of(state: State) -> Scene:
    """Views of the state for the ray-caster."""
    agents, things = state.agents, state.things
    return Scene(
        cells=state.cells,
        **{name: np.asarray(agents[name]) for name in ("x", "y", "eye", "angle", "sky", "overlay")},
        **{f"sprite_{name}": np.asarray(things[name]) for name in ("x", "y", "z", "size", "texture")},
    )
