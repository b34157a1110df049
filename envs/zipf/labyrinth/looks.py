"""What the labyrinth's cells, objects and skies look like, and the numbers by which the kernels know them.

The kernels are compiled with these numbers in them, and Numba's file cache does not notice when they change: delete
``envs/zipf/labyrinth/__pycache__/*.nb*`` after an edit here.
"""

from __future__ import annotations

import numpy as np

from envs.raycast import COLOURS, NO_FLOOR, Atlas, Material, Sky, billboards, build_atlas, surfaces
from envs.raycast.billboards import Billboard, shaped
from envs.raycast.colours import Colour, Texture, mixed
from envs.zipf.labyrinth.text import COLOUR_WORDS, SHAPE_WORDS

ROOM_COLOURS = 6
"""Rooms, doors and keys have the first six colours of `COLOUR_WORDS`."""
THEMES, PLATFORM_LEVELS = 4, 9
PLATFORM_STEP = 0.3
"""Height between two levels of platforms."""

# Cell codes: the first of each family.
VOID = 0
ROOM_WALL = 1
ROOM_FLOOR = ROOM_WALL + ROOM_COLOURS
DOOR = ROOM_FLOOR + ROOM_COLOURS
THEME_WALL = DOOR + ROOM_COLOURS
THEME_FLOOR = THEME_WALL + THEMES
DECAL = THEME_FLOOR + THEMES
HEDGE = DECAL + ROOM_COLOURS
ROCK = HEDGE + 1
GRASS = HEDGE + 2
PLATFORM = HEDGE + 3
SCREEN = PLATFORM + PLATFORM_LEVELS
BOOTH_WALL = SCREEN + 1
BOOTH_FLOOR = SCREEN + 2
PAD = SCREEN + 3
GATE = SCREEN + 4
OPEN_GATE = SCREEN + 5
CODES = SCREEN + 6

# Sprites: an object is ``OBJECT + SHAPES * shape + colour``.
OBJECT = 0
SHAPES = len(SHAPE_WORDS)
OBJECTS = SHAPES * len(COLOUR_WORDS)
KEY = OBJECTS
ROBOT = KEY + ROOM_COLOURS
ROBOTS = 3
APPLE = ROBOT + ROBOTS
MUSHROOM = APPLE + 1
TROPHY = APPLE + 2
YES = APPLE + 3
NO = APPLE + 4
LEFT = APPLE + 5
RIGHT = APPLE + 6
FIXATION = APPLE + 7
LOOKALIKE = APPLE + 8
"""Pink ball, pink box, green ball: for visual search."""
SPRITES = LOOKALIKE + 3

DAY, DAWN, NIGHT, INDOORS = range(4)
SKIES: tuple[Sky, ...] = (
    Sky((70, 130, 226), (196, 222, 246), (150, 190, 235)),
    Sky((92, 92, 168), (252, 178, 118), (214, 150, 140), light=0.85),
    Sky((6, 8, 28), (38, 46, 86), (10, 12, 34), light=0.55),
    Sky((206, 204, 198), (150, 148, 144), (60, 60, 60)),
)

_ROOM_COLOUR = [COLOURS[word] for word in COLOUR_WORDS[:ROOM_COLOURS]]
_THEME: tuple[tuple[Texture, Texture], ...] = (
    (surfaces.stones((156, 150, 142)), surfaces.tiles((150, 120, 92), count=2)),
    (surfaces.planks((160, 108, 62)), surfaces.tiles((120, 132, 120), count=4)),
    (surfaces.panels((150, 166, 182)), surfaces.tiles((86, 96, 120), count=2)),
    (surfaces.bricks((176, 116, 84)), surfaces.planks((150, 134, 110))),
)


def _softened(colour: Colour, share: float = 0.5) -> Colour:
    red, green, blue = (int(c) for c in mixed(colour, (140, 140, 140), share))
    return red, green, blue


def _families() -> tuple[dict[str, Texture], list[Material]]:
    """Surfaces by name, and materials in the order of the cell codes."""
    textures: dict[str, Texture] = {"black": surfaces.plain((0, 0, 0))}
    materials: list[Material] = []

    def add(name: str, side: Texture, top: Texture | None = None, *, height: float = 1.0, opaque: bool = True) -> None:
        textures[name] = side
        textures[f"{name} top"] = side if top is None else top
        materials.append(Material(name, f"{name} top", height, opaque))

    def add_floor(name: str, texture: Texture) -> None:
        add(name, texture, height=0.0, opaque=False)

    add("void", textures["black"], height=NO_FLOOR, opaque=False)
    for k, colour in enumerate(_ROOM_COLOUR):
        add(f"room wall {k}", surfaces.bricks(colour))
    for k, colour in enumerate(_ROOM_COLOUR):
        add_floor(f"room floor {k}", surfaces.tiles(_softened(colour), count=2))
    for k, colour in enumerate(_ROOM_COLOUR):
        add(f"door {k}", surfaces.door(colour))
    for k, (wall, _) in enumerate(_THEME):
        add(f"theme wall {k}", wall)
    for k, (_, floor) in enumerate(_THEME):
        add_floor(f"theme floor {k}", floor)
    for k, colour in enumerate(_ROOM_COLOUR):
        add(f"decal {k}", surfaces.stripes(colour, _softened(colour, 0.75)))
    add("hedge", surfaces.leaves((74, 138, 58)))
    add("rock", surfaces.rock((150, 140, 128)), height=0.4, opaque=False)
    add_floor("grass", surfaces.meadow((104, 158, 76)))
    for k in range(PLATFORM_LEVELS):
        tone = mixed((64, 84, 160), (250, 226, 150), k / (PLATFORM_LEVELS - 1))
        colour = (int(tone[0]), int(tone[1]), int(tone[2]))
        top, side = surfaces.tiles(colour, count=2), mixed(surfaces.panels(colour), (0, 0, 0), 0.35)
        add(f"platform {k}", side, top, height=k * PLATFORM_STEP, opaque=False)
    add("screen", surfaces.screen())
    add("booth wall", surfaces.plain((96, 100, 110)))
    add_floor("booth floor", surfaces.tiles((84, 84, 92)))
    add_floor("pad", surfaces.stripes((255, 236, 120), (250, 250, 250)))
    add("gate", surfaces.door((168, 168, 176), frame=(40, 40, 48)))
    add_floor("open gate", surfaces.panels((170, 170, 178)))
    return textures, materials


def _sprites() -> dict[str, Billboard]:
    """Billboards in the order of the sprite numbers."""
    pictures: dict[str, Billboard] = {}
    for shape in SHAPE_WORDS:
        for colour in COLOUR_WORDS:
            pictures[f"{colour} {shape}"] = shaped(billboards.SHAPES[shape](), COLOURS[colour])
    for k, colour_of_key in enumerate(_ROOM_COLOUR):
        pictures[f"key {k}"] = billboards.key(colour_of_key)
    for k, name in enumerate(("purple", "orange", "cyan")):
        pictures[f"robot {k}"] = billboards.robot(COLOURS[name])
    pictures |= {
        "apple": billboards.apple(),
        "mushroom": billboards.mushroom(),
        "trophy": billboards.trophy(),
        "yes": billboards.tick(),
        "no": billboards.saltire(),
        "left": billboards.arrow(left=True),
        "right": billboards.arrow(left=False),
        "fixation": billboards.target(),
        "lookalike 0": shaped(billboards.ball(), COLOURS["pink"]),
        "lookalike 1": shaped(billboards.box(), COLOURS["pink"]),
        "lookalike 2": shaped(billboards.ball(), COLOURS["green"]),
    }
    return pictures


MATERIALS = tuple(_families()[1])
HEIGHT = np.array([material.height for material in MATERIALS])
"""Of the top of a cell, by code."""
OPAQUE = np.array([material.opaque for material in MATERIALS])
"""Whether a cell blocks sight, by code."""
IS_FLOOR = (HEIGHT == 0.0) & (np.arange(len(HEIGHT)) != PLATFORM)
"""Whether a cell is ground, by code."""
CAN_STAND = IS_FLOOR | (np.arange(len(HEIGHT)) - PLATFORM < PLATFORM_LEVELS) & (np.arange(len(HEIGHT)) >= PLATFORM)
"""Whether a cell is ground or a platform, by code."""


def labyrinth_atlas() -> Atlas:
    """Textures and materials of all levels."""
    textures, materials = _families()
    return build_atlas(textures, _sprites(), materials)
