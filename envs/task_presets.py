"""Families of tasks for `envs.tasks.ZipfTasks`, in the order of their ranks.

>>> from envs.tasks import ZipfTasks
>>> mazes = ZipfTasks(minigrid_seeds("MiniGrid-MultiRoom-N4-S5-v1", range(20)), exponent=2.0)
>>> mazes.reset(seed=0)[0].shape, mazes.family.names[19]
((7, 7, 3), 'MiniGrid-MultiRoom-N4-S5-v1 seed 19')
>>> mazes.close()

Only Zipf's gridworld and labyrinth have a published order; the others are ours, and `rank_seed` permutes any. Packages
load when a task opens; one that is missing raises `gymnasium.error.DependencyNotInstalled` (Atari: ImportError).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, Literal

import gymnasium
from gymnasium.error import DependencyNotInstalled
from gymnasium.vector import VectorEnv

from envs.atari import AtariSingle, AtariVector, known_game
from envs.families.atari_modes import ModeEmulator, ModeEnvPool, modes_and_difficulties
from envs.families.envpool_batch import EnvPoolBatch, has_envpool
from envs.families.family import Task, TaskFamily, option_tasks
from envs.families.grid_levels import open_level, open_levels
from envs.families.row_env import RowEnv
from envs.protocols import MACHADO, Protocol
from envs.zipf.law import check_choice

ATARI_57 = (
    *("alien", "amidar", "assault", "asterix", "asteroids", "atlantis", "bank_heist", "battle_zone"),
    *("beam_rider", "berzerk", "bowling", "boxing", "breakout", "centipede", "chopper_command"),
    *("crazy_climber", "defender", "demon_attack", "double_dunk", "enduro", "fishing_derby", "freeway"),
    *("frostbite", "gopher", "gravitar", "hero", "ice_hockey", "jamesbond", "kangaroo", "krull"),
    *("kung_fu_master", "montezuma_revenge", "ms_pacman", "name_this_game", "phoenix", "pitfall", "pong"),
    *("private_eye", "qbert", "riverraid", "road_runner", "robotank", "seaquest", "skiing", "solaris"),
    *("space_invaders", "star_gunner", "surround", "tennis", "time_pilot", "tutankham", "up_n_down"),
    *("venture", "video_pinball", "wizard_of_wor", "yars_revenge", "zaxxon"),
)
"""The 57 games of the usual benchmark (Wang et al. 2016), in the order of the alphabet."""

MINIGRID_LEVELS = (
    "MiniGrid-Empty-8x8-v0",
    "MiniGrid-FourRooms-v0",
    "MiniGrid-DoorKey-5x5-v0",
    "MiniGrid-SimpleCrossingS9N1-v0",
    "MiniGrid-LavaGapS5-v0",
    "MiniGrid-MultiRoom-N2-S4-v0",
    "MiniGrid-UnlockPickup-v0",
    "MiniGrid-DoorKey-8x8-v0",
    "MiniGrid-KeyCorridorS3R1-v0",
    "MiniGrid-LavaCrossingS9N1-v0",
    "MiniGrid-KeyCorridorS3R2-v0",
    "MiniGrid-MemoryS7-v0",
)
"""Twelve levels, roughly from easy to hard."""

BABYAI_LEVELS = (
    "BabyAI-GoToRedBallGrey-v0",
    "BabyAI-GoToRedBall-v0",
    "BabyAI-GoToLocal-v0",
    "BabyAI-GoToObj-v0",
    "BabyAI-OpenDoor-v0",
    "BabyAI-PickupLoc-v0",
    "BabyAI-PutNextLocal-v0",
    "BabyAI-UnlockLocal-v0",
    "BabyAI-GoTo-v0",
    "BabyAI-Open-v0",
    "BabyAI-Pickup-v0",
    "BabyAI-Synth-v0",
)
"""Twelve levels, roughly from easy to hard."""

VIZDOOM_SCENARIOS = (
    "Basic",
    "DefendTheCenter",
    "DefendTheLine",
    "HealthGathering",
    "MyWayHome",
    "PredictPosition",
    "TakeCover",
    "HealthGatheringSupreme",
    "DeadlyCorridor",
)
"""The scenarios for one player that show the same pictures and have few actions."""

_GRID_DONE = 6
"""MiniGrid's action "done", which does nothing in most levels."""


def atari_games(games: Sequence[str] = ATARI_57, *, protocol: Protocol = MACHADO) -> TaskFamily:
    """Atari games: ``[S, 84, 84]`` uint8 grey frames and all 18 actions.

    Args:
        games: Names as `envs.protocols.rom_name` takes them.
        protocol: How they are played; must have ``full_actions``, so that action spaces agree.

    Raises:
        ValueError: An unknown game (names the nearest).
        ImportError: ale-py is missing.
    """
    return TaskFamily(tuple(_atari_task(known_game(game), protocol, None) for game in games))


def atari_modes(game: str, *, protocol: Protocol = MACHADO) -> TaskFamily:
    """One Atari game's modes x difficulties: a product of two laws, the game's default of each most frequent.

    Of each factor a fifth is rare, at least one. Static allocation needs EnvPool, since ale-py's batches only play the
    default mode.

    Args:
        game: Name as `envs.protocols.rom_name` takes it.
        protocol: How it is played.

    Raises:
        ValueError: An unknown game (names the nearest).
        ImportError: ale-py is missing.

    Example:
        >>> atari_modes("Breakout").factors, atari_modes("Breakout").names[1]
        ((12, 2), 'breakout mode 0 difficulty 1')
    """
    rom = known_game(game)
    modes, difficulties = modes_and_difficulties(rom)
    tasks = tuple(_atari_task(rom, protocol, pair) for pair in product(modes, difficulties))
    factors = len(modes), len(difficulties)
    return TaskFamily(tasks, factors, rare=tuple(max(1, n // 5) for n in factors))


def minigrid_levels(levels: Sequence[str] = MINIGRID_LEVELS, *, instructions: bool = False) -> TaskFamily:
    """MiniGrid levels: the 7 x 7 cells in view as ``(7, 7, 3)`` uint8, and 7 actions.

    Static allocation uses EnvPool's C++ levels where EnvPool has them.

    Args:
        levels: Ids.
        instructions: Observe a dictionary with the mission's bytes as ``instruction`` besides ``image``.
    """
    return TaskFamily(tuple(_grid_task(level, instructions) for level in levels))


def babyai_levels(levels: Sequence[str] = BABYAI_LEVELS) -> TaskFamily:
    """BabyAI levels: `minigrid_levels` with instructions, which `envs.families.grid_levels.decode_instruction` reads.

    Args:
        levels: Ids.
    """
    return minigrid_levels(levels, instructions=True)


def minigrid_seeds(level: str, seeds: Sequence[int], *, instructions: bool = False) -> TaskFamily:
    """One MiniGrid or BabyAI level as it is generated from each seed: every task is one fixed world.

    Args:
        level: Id.
        seeds: The worlds, the first the most frequent.
        instructions: See `minigrid_levels`.
    """
    make = partial(open_level, level, instructions)
    tasks = [Task(f"{level} seed {seed}", make, engine=level, seed=seed, noop=_GRID_DONE) for seed in seeds]
    return TaskFamily(tuple(tasks))


def vizdoom_scenarios(scenarios: Sequence[str] = VIZDOOM_SCENARIOS, *, num_threads: int = 1) -> TaskFamily:
    """ViZDoom scenarios in EnvPool: ``[12, 84, 84]`` uint8, four colour frames; static allocation only.

    An action is a combination of the scenario's buttons, so the same number means other buttons elsewhere; the action
    spaces are padded. ViZDoom writes ``_vizdoom.ini`` into the working directory.

    Args:
        scenarios: EnvPool's names without version; those in `VIZDOOM_SCENARIOS` have equal observations.
        num_threads: Of each scenario's pool.
    """
    tasks = []
    for scenario in scenarios:
        make_many = partial(_vizdoom, f"{scenario}-v1", num_threads)
        tasks.append(Task(scenario, make_many=make_many))
    return TaskFamily(tuple(tasks), pad_actions=True)


def gridworld_tasks(
    *, num_maps: int = 20, num_objects: int = 20, settings: Mapping[str, Any] | None = None
) -> TaskFamily:
    """The (map, goal) pairs of Zipf's Gridworld, exponent 2; its own ``split=`` trains on them far faster.

    Args:
        num_maps: See `envs.zipf.game.Settings`.
        num_objects: See `envs.zipf.game.Settings`.
        settings: Its other settings.

    Example:
        >>> len(gridworld_tasks()), gridworld_tasks().names[21]
        (400, 'map 1, object 1')
    """
    kwargs = {**(settings or {}), "num_maps": num_maps, "num_objects": num_objects}
    pairs = list(product(range(num_maps), range(num_objects)))
    family = option_tasks(
        ("byol_ext/ZipfGridworld-v0", kwargs),
        [{"task": pair} for pair in pairs],
        names=[f"map {m}, object {o}" for m, o in pairs],
        factors=(num_maps, num_objects),
        batched=True,
    )
    return replace(family, exponent=2.0)


def labyrinth_levels(
    levels: Literal["lab30", "lab12"] = "lab30", *, settings: Mapping[str, Any] | None = None
) -> TaskFamily:
    """The levels of Zipf's Labyrinth in the published order; its own ``split=`` trains on them far faster.

    Args:
        levels: The published 30, or 12 of them.
        settings: Other keyword arguments of the environment.

    Example:
        >>> labyrinth_levels("lab12").names[:2]
        ('rooms_collect_good_objects_train', 'rooms_exploit_deferred_effects_train')
    """
    from envs.zipf.labyrinth.levels import LAB12, LEVELS

    chosen = {"lab30": LEVELS, "lab12": LAB12}
    check_choice("levels", levels, tuple(chosen))
    names = [level.name for level in chosen[levels]]
    return option_tasks(
        ("byol_ext/ZipfLabyrinth-v0", {**(settings or {}), "levels": levels}),
        [{"task": task} for task in range(len(names))],
        names=names,
        batched=True,
    )


def _atari_task(rom: str, protocol: Protocol, pair: tuple[int, int] | None) -> Task:
    """A game, in its default mode or in a (mode, difficulty)."""
    name = rom if pair is None else f"{rom} mode {pair[0]} difficulty {pair[1]}"
    return Task(
        name,
        partial(_open_game, rom, protocol, pair),
        engine=("atari", rom, protocol, pair),
        make_many=partial(_open_games, rom, protocol, pair),
    )


def _open_game(rom: str, protocol: Protocol, pair: tuple[int, int] | None) -> gymnasium.Env:
    if pair is None:
        return RowEnv(AtariSingle(rom, protocol=protocol))
    emulator = ModeEmulator(rom, protocol, mode=pair[0], difficulty=pair[1])
    return RowEnv(AtariVector(rom, 1, protocol=protocol, backend=emulator))


def _open_games(rom: str, protocol: Protocol, pair: tuple[int, int] | None, num_envs: int) -> VectorEnv:
    if pair is None:
        return AtariVector(rom, num_envs, protocol=protocol, num_threads=1)
    if importlib.util.find_spec("envpool") is None:
        raise DependencyNotInstalled("modes of Atari games in batches need EnvPool: pip install 'byol_ext[explore]'")
    engine = ModeEnvPool(rom, num_envs, protocol, 1, mode=pair[0], difficulty=pair[1])
    return AtariVector(rom, num_envs, protocol=protocol, backend=engine)


def _grid_task(level: str, instructions: bool) -> Task:
    make_many = partial(open_levels, level, instructions) if has_envpool(level) else None
    make = partial(open_level, level, instructions)
    return Task(level, make, engine=(level, instructions), noop=_GRID_DONE, make_many=make_many)


def _vizdoom(env_id: str, num_threads: int, num_envs: int) -> VectorEnv:
    settings = {"use_combined_action": True, "num_threads": num_threads}
    return EnvPoolBatch(env_id, num_envs, settings=settings)
