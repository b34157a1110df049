"""The labyrinth's state: one record an agent, records of things, a map of cells.

Legend: ``B`` sub-environments, ``S`` places for things, ``Y, X`` cells of a map, ``L`` tokens of an instruction.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.raycast import NOTHING, Scene
from envs.raycast._jit import inner
from envs.zipf.labyrinth.text import LENGTH

MAP_EDGE = 25
"""``Y = X``: the largest map; what a smaller one leaves is void."""
THINGS = 40
"""``S``."""
HEADINGS = 24
TURN = 2 * np.pi / HEADINGS
"""A heading is counted in turns of 15 degrees from +x towards +y."""
NORTH = 18
EYE = 0.5
"""Height of the eye above the floor under it."""


class Role(IntEnum):
    """What touching a thing does."""

    NONE = 0
    """Nothing: it is only seen."""
    PICKUP = 1
    """Its value; it disappears, and may come back."""
    ROUND = 2
    """Its value; then the episode ends or the level's next round begins."""
    KEY = 3
    """Its value, and it is held, if the hand is free."""
    PAD = 4
    """Its value, and the agent is put into the other room."""
    BOT = 5
    """Nothing; but it can be tagged."""


# A field must not be called as an attribute of NumPy's records (such as "size"): un-jitted, that would be read.
AGENT = np.dtype(
    [
        *((name, np.float64) for name in ("x", "y", "eye", "angle", "score")),
        *(
            (name, np.int64)
            for name in (
                *("level", "heading", "sky", "overlay"),  # level: row of the table of levels
                *(
                    "held",
                    "left",
                    "right",
                    "wrong",
                ),  # colour of the key in the hand; good pickups left; tally of rounds
                *(
                    "phase",
                    "timer",
                    "answer",
                    "count",
                    "items",
                    "seen",
                ),  # of trials; `seen` is a set of pictures by bits
                *("cooldown", "health"),  # of the weapon; hits that can be taken
            )
        ),
    ]
)
THING = np.dtype(
    [
        *((name, np.float64) for name in ("x", "y", "z", "width", "value", "aim_x", "aim_y")),
        *(
            (name, np.int64)
            for name in (
                *("texture", "look"),  # what is drawn now (or `NOTHING`), and what is drawn when it is there
                *("role", "present", "timer"),
                *(
                    "kind",
                    "order",
                ),  # kind: colour of a key, side of a picture; order: the oracle takes the lowest first
            )
        ),
    ]
)


class State(NamedTuple):
    """What changes.

    Attributes:
        agents: ``[B]`` records `AGENT`.
        things: ``[B, S]`` records `THING`.
        cells: ``[B, Y, X]`` uint8, codes of `envs.zipf.labyrinth.looks`.
        tokens: ``[B, L]`` int32: the instruction.
        forced: ``[B]``: row of the table of levels for the next episode, or -1 to draw one.
        split: ``[1]``: split in use, index into `envs.zipf.law.SPLITS`.
    """

    agents: np.recarray
    things: np.recarray
    cells: NDArray[np.uint8]
    tokens: NDArray[np.int32]
    forced: NDArray[np.int64]
    split: NDArray[np.int64]


class Work(NamedTuple):
    """Memory that one thread uses while it makes or searches a map.

    Attributes:
        rng: ``[2]``: the moment's stream and how many numbers were drawn from it.
        queue: ``[Y * X]``: cells by ``row * X + column``.
        distance: ``[Y, X]``: steps from a goal, or -1.
        taken: ``[Y, X]``: cells not to put anything in.
        order: ``[64]``: a permutation.
    """

    rng: NDArray[np.uint64]
    queue: NDArray[np.int64]
    distance: NDArray[np.int64]
    taken: NDArray[np.bool_]
    order: NDArray[np.int64]


def empty_state(num_envs: int) -> State:
    """A state before the first reset."""
    return State(
        agents=np.zeros(num_envs, AGENT).view(np.recarray),
        things=np.zeros((num_envs, THINGS), THING).view(np.recarray),
        cells=np.zeros((num_envs, MAP_EDGE, MAP_EDGE), np.uint8),
        tokens=np.zeros((num_envs, LENGTH), np.int32),
        forced=np.full(num_envs, -1, np.int64),
        split=np.zeros(1, np.int64),
    )


def make_work() -> Work:
    """Memory for one thread."""
    return Work(
        rng=np.zeros(2, np.uint64),
        queue=np.zeros(MAP_EDGE * MAP_EDGE, np.int64),
        distance=np.zeros((MAP_EDGE, MAP_EDGE), np.int64),
        taken=np.zeros((MAP_EDGE, MAP_EDGE), np.bool_),
        order=np.zeros(64, np.int64),
    )


def scene_of(state: State) -> Scene:
    """Views of the state for the renderer."""
    agents, things = state.agents, state.things
    return Scene(
        cells=state.cells,
        **{name: np.asarray(agents[name]) for name in ("x", "y", "eye", "angle", "sky", "overlay")},
        **{f"sprite_{name}": np.asarray(things[name]) for name in ("x", "y", "z", "texture")},
        sprite_size=np.asarray(things["width"]),
    )


def row_of(state: State, e: int) -> State:
    """The state of one sub-environment, not copied."""
    rows = {name: array[e : e + 1] for name, array in state._asdict().items() if name != "split"}
    return state._replace(**rows)


@inner
def put(thing, x, y, look, role, value, width, order):  # type: ignore[no-untyped-def]
    """Places a thing."""
    thing.x, thing.y, thing.z, thing.width = x, y, 0.0, width
    thing.look, thing.texture, thing.present = look, look, 1
    thing.role, thing.value, thing.order = role, value, order
    thing.kind, thing.timer = -1, 0


@inner
def hide(thing):  # type: ignore[no-untyped-def]
    """Takes a thing out of the world until `show`."""
    thing.present, thing.texture = 0, NOTHING


@inner
def show(thing):  # type: ignore[no-untyped-def]
    """Brings a hidden thing back to where it was."""
    thing.present, thing.texture, thing.timer = 1, thing.look, 0
