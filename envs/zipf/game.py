"""Settings of Zipf's Gridworld, checked, and what follows from them: world, law of tasks, spaces and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from envs._frame import InfoSpec
from envs.zipf._kernels import OUTCOMES, Canvas, Law, Tables, words
from envs.zipf.generator import MAX_OBJECTS, Cell, Sizes
from envs.zipf.law import SPLITS, RankedItems, Split, check_choice, cumulative
from envs.zipf.pictures import FIRST_OBJECT, cue_pictures, tile_pictures
from envs.zipf.world import World, build_world, published_maps

Observe = Literal["pixels", "tiles", "both"]
PixelType = Literal["uint8", "float32"]
Rare = float | int | tuple[float | int, float | int]

INFOS: Mapping[str, InfoSpec] = {
    "task_id": InfoSpec(np.int64),
    "ranks": InfoSpec(np.int64, (2,)),
    "task_prob": InfoSpec(np.float64),
    "is_rare": InfoSpec(np.bool_),
    "cell": InfoSpec(np.int64),
    "success": InfoSpec(np.bool_, last_only=True),
    "outcome": InfoSpec(OUTCOMES.dtype, last_only=True),
}


@dataclass(frozen=True)
class Settings:
    """Arguments that the single and the vector environment share; the defaults are the published environment.

    Attributes:
        split: Law of the tasks: ``zipf`` (training), ``uniform`` or ``rare``.
        exponent: Of the Zipf law.
        rare: Share (float) or count (int) of the rare ranks; a pair gives maps and objects each their own.
        num_maps: Maps.
        num_objects: Objects in each map; each can be the goal.
        num_rooms: Rows and columns of rooms.
        room_size: Height and width of a room in cells.
        max_steps: Steps after which an episode is truncated.
        view: Width of the square view in tiles, odd.
        tile: Width of a tile's picture in pixels.
        map_seed: Map ``i`` is generated from ``map_seed + i``.
        rank_seed: Permutes which map and which object have which rank; None is the published assignment.
        obs: ``pixels`` (key ``image``), ``tiles`` (keys ``tiles`` and ``cue``) or ``both``.
        dtype: Of the image: ``uint8`` 0..255 or ``float32`` 0..1.
        flat: Return the image itself instead of a dictionary; only with ``obs="pixels"``.
        law: ``n -> probabilities by rank``, for maps and for objects; replaces the law of every split.
        level: Level name of the original: ``zipf_<exponent>``, ``uniform`` or ``uniform_rare``; replaces ``split``
            and ``exponent``.

    Raises:
        ValueError: On any value out of range or unknown name.
    """

    split: Split = "zipf"
    exponent: float = 2.0
    rare: Rare = 0.2
    num_maps: int = 20
    num_objects: int = 20
    num_rooms: Cell = (3, 3)
    room_size: Cell = (3, 3)
    max_steps: int = 100
    view: int = 7
    tile: int = 9
    map_seed: int = 1234
    rank_seed: int | None = None
    obs: Observe = "pixels"
    dtype: PixelType = "uint8"
    flat: bool = False
    law: Callable[[int], object] | None = None
    level: str | None = None

    def __post_init__(self) -> None:
        if self.level is not None:
            split, exponent = _parse_level(self.level, self.exponent)
            object.__setattr__(self, "split", split)
            object.__setattr__(self, "exponent", exponent)
        check_choice("split", self.split, SPLITS)
        check_choice("obs", self.obs, ("pixels", "tiles", "both"))
        check_choice("dtype", self.dtype, ("uint8", "float32"))
        for name, value, least in (
            ("num_maps", self.num_maps, 1),
            ("max_steps", self.max_steps, 1),
            ("view", self.view, 3),
            ("tile", self.tile, 3),
            ("map_seed", self.map_seed, 0),
            ("rank_seed", self.rank_seed or 0, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.view % 2 == 0:
            raise ValueError(f"view must be odd, so that the agent is at its centre, got {self.view}")
        if self.flat and self.obs != "pixels":
            raise ValueError(f"flat=True returns the image alone and needs obs='pixels', got obs={self.obs!r}")
        _ = self.sizes, self.factors

    @property
    def sizes(self) -> Sizes:
        """Layout of the maps."""
        (rows, columns), (height, width) = self.num_rooms, self.room_size
        return Sizes((rows, columns), (height, width), self.num_objects)

    @property
    def factors(self) -> tuple[RankedItems, RankedItems]:
        """Maps and objects: the task's law is their product."""
        rare = self.rare if isinstance(self.rare, tuple) else (self.rare, self.rare)
        seeds = [None if self.rank_seed is None else (self.rank_seed, factor) for factor in range(2)]
        counts = self.num_maps, self.num_objects
        maps, objects = (
            RankedItems(n, exponent=self.exponent, rare=share, rank_seed=seed, law=self.law)
            for n, share, seed in zip(counts, rare, seeds, strict=True)
        )
        return maps, objects

    @property
    def observation_space(self) -> Box | Dict:
        """Space of one observation."""
        size, top = self.view * self.tile, 255 if self.dtype == "uint8" else 1
        image = Box(0, top, (size, size, 3), np.dtype(self.dtype).type)
        if self.flat:
            return image
        symbols: dict[str, Space] = {
            "tiles": Box(0, 255, (self.view, self.view), np.uint8),
            "cue": Box(0, MAX_OBJECTS - 1, (), np.uint8),
        }
        pixels: dict[str, Space] = {"image": image}
        return Dict({"pixels": pixels, "tiles": symbols, "both": {**pixels, **symbols}}[self.obs])

    def world(self) -> World:
        """Generate the maps and their tables."""
        return build_world(published_maps(self.num_maps, self.sizes, self.map_seed), self.view)


def make_tables(settings: Settings, world: World) -> Tables:
    """The kernels' static tables."""
    pictures = np.concatenate([tile_pictures(settings.tile), cue_pictures(settings.tile)])
    if settings.dtype == "float32":
        pictures = pictures.astype(np.float32) / np.float32(255)
    return Tables(
        tiles=world.tiles,
        next=world.next,
        start=world.start,
        goal=world.goal,
        look=world.look,
        picture=words(pictures),
        picture_row=pictures[0, 0].nbytes,
        tile=settings.tile,
        window=settings.view,
        stride=world.stride,
        max_steps=settings.max_steps,
        first_cue=FIRST_OBJECT + MAX_OBJECTS,
    )


def make_law(settings: Settings) -> Law:
    """The kernels' law tables."""
    maps, objects = settings.factors
    map_law, object_law = (np.stack([items.probabilities(split) for split in SPLITS]) for items in (maps, objects))
    return Law(
        map_cumulative=np.stack([cumulative(law) for law in map_law]),
        object_cumulative=np.stack([cumulative(law) for law in object_law]),
        map_probability=map_law,
        object_probability=object_law,
        map_rank=maps.rank,
        object_rank=objects.rank,
        map_rare=maps.is_rare,
        object_rare=objects.is_rare,
    )


def make_canvas(observation: np.ndarray | Mapping[str, np.ndarray]) -> Canvas:
    """Views of the arrays of a batch of observations, for the kernels to write to."""
    arrays = observation if isinstance(observation, Mapping) else {"image": observation}
    nothing = np.empty(0, np.uint8)
    return Canvas(
        image=words(arrays.get("image", nothing)),
        tiles=arrays.get("tiles", nothing.reshape(0, 0, 0)),
        cue=arrays.get("cue", nothing),
    )


def checked_tasks(task: Any, law: Law, num_envs: int | None) -> NDArray[np.int32]:
    """``options["task"]`` as ``[2]``, or ``[B, 2]`` for a vector environment, which takes either shape.

    Raises:
        ValueError: If it is not a pair of integers (or one pair a sub-environment), or out of range.
    """
    given = np.asarray(task)
    shapes = [(2,)] if num_envs is None else [(2,), (num_envs, 2)]
    counts = len(law.map_rank), len(law.object_rank)
    if given.dtype.kind not in "iu" or given.shape not in shapes:
        raise ValueError(f"options['task'] must be integers (map, object) of shape {' or '.join(map(str, shapes))}")
    if (given < 0).any() or (given >= counts).any():
        raise ValueError(f"options['task'] must be below {counts[0]} maps and {counts[1]} objects, got {task}")
    return given.astype(np.int32)


def _parse_level(level: str, exponent: float) -> tuple[Split, float]:
    fixed: dict[str, Split] = {"uniform": "uniform", "uniform_rare": "rare"}
    if level in fixed:
        return fixed[level], exponent
    if level.startswith("zipf_"):
        try:
            return "zipf", float(level.removeprefix("zipf_"))
        except ValueError:
            pass
    raise ValueError(f"unknown level {level!r}; known: zipf_<exponent> such as zipf_2, uniform, uniform_rare")
