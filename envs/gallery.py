"""A contact sheet of every environment under ``byol_ext/``: ``python -m envs.gallery out.png``.

Each environment has a section with its spaces and pictures of it as ``render_mode="rgb_array"`` draws them, or as the
agent sees it. Environments that cannot be made here are listed below with the reason.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Dict
from numpy.typing import NDArray

import envs  # noqa: F401  (registers our ids)
from envs._gallery_sheet import Panel, Section, draw_sheet

_OURS = "byol_ext/"
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Shot:
    """One picture of an environment.

    Attributes:
        caption: Under the picture.
        settings: Keyword arguments of the environment.
        options: Of its reset.
        actions: Taken before the picture; an integer is that many random ones.
        seeds: Of the environment and of random actions; more than one for `most_colours`.
        most_colours: Of all frames on the way and all seeds, show the one with the most colours instead of the last.
        observed: Show the agent's picture instead of the rendered one.
    """

    caption: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] | None = None
    actions: int | Sequence[int] = 12
    seeds: Sequence[int] = (0,)
    most_colours: bool = False
    observed: bool = False


def gallery(ids: Sequence[str] | None = None) -> Picture:
    """The contact sheet ``[H, W, 3]``.

    Args:
        ids: Of the environments; None is all that are registered under ``byol_ext/``.

    Raises:
        gymnasium.error.DependencyNotInstalled: Pillow is missing.
        ValueError: An id outside ``byol_ext/`` or unknown.

    Example:
        >>> sheet = gallery(["byol_ext/RandomDiscoMaze-v0"])
        >>> sheet.shape[1], sheet.dtype
        (1600, dtype('uint8'))
    """
    if importlib.util.find_spec("PIL") is None:
        raise DependencyNotInstalled("the gallery is drawn with Pillow: pip install pillow")
    known = sorted((key for key in gymnasium.registry if key.startswith(_OURS)), key=_place)
    if unknown := set(ids or ()) - set(known):
        raise ValueError(f"unknown environments {sorted(unknown)}; known: {', '.join(known)}")
    sections, missing = [], []
    for env_id in known if ids is None else ids:
        try:
            sections.append(_section(env_id))
        except (DependencyNotInstalled, ImportError) as error:
            missing.append(f"{env_id}: {str(error).splitlines()[0]}")
    return draw_sheet(sections, missing)


def take(env_id: str, shot: Shot) -> Picture:
    """The picture ``[H, W, 3]`` of a shot."""
    render_mode = None if shot.observed else "rgb_array"
    env = gymnasium.make(env_id, render_mode=render_mode, disable_env_checker=True, **shot.settings)
    frames = [frame for seed in shot.seeds for frame in _frames(env, shot, seed)]
    env.close()
    return max(frames, key=_colours) if shot.most_colours else frames[-1]


def _frames(env: gymnasium.Env, shot: Shot, seed: int) -> list[Picture]:
    """From the reset to the last action, or to the end of the episode."""
    obs, _ = env.reset(seed=seed, options=None if shot.options is None else dict(shot.options))
    rng = np.random.default_rng(seed)
    actions: Sequence[int] = shot.actions if isinstance(shot.actions, Sequence) else _random(env, rng, shot.actions)
    frames = [_frame(env, obs, shot)]
    for action in actions:
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
        frames.append(_frame(env, obs, shot))
    return frames


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m envs.gallery", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="picture to write, such as gallery.png")
    parser.add_argument("ids", nargs="*", help="environments; all by default")
    given = parser.parse_args(arguments)
    sheet = gallery(given.ids or None)
    from PIL import Image

    given.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(given.out)
    print(f"{given.out}: {sheet.shape[1]} x {sheet.shape[0]} pixels")


def _section(env_id: str) -> Section:
    shots, columns = _shots(env_id)
    panels = [Panel(take(env_id, shot), shot.caption) for shot in shots]
    env = gymnasium.make(env_id, disable_env_checker=True)
    spaces = f"observation {_space(env.observation_space)}, action {env.action_space}"
    env.close()
    hint = f". {_HINTS[env_id].capitalize()}" if env_id in _HINTS else ""
    return Section(env_id, spaces + hint, panels, columns)


def _frame(env: gymnasium.Env, obs: Any, shot: Shot) -> Picture:
    picture = (obs["image"] if isinstance(obs, dict) else obs) if shot.observed else env.render()
    return np.array(picture, np.uint8)


def _random(env: gymnasium.Env, rng: np.random.Generator, steps: int) -> list[int]:
    n = int(env.action_space.n)  # type: ignore[attr-defined]
    return rng.integers(n, size=steps).tolist()


def _colours(picture: Picture) -> int:
    """How many clearly different colours there are in more than a thousandth of the picture: objects, not texture."""
    codes = (picture // 43).astype(np.int64) @ (36, 6, 1)
    return int((np.bincount(codes.ravel()) > codes.size / 1000).sum())


def _space(space: gymnasium.Space) -> str:
    if isinstance(space, Dict):
        return ", ".join(f"{key} {_space(entry)}" for key, entry in space.items())
    shape = " x ".join(map(str, space.shape or ()))
    return f"{shape or 'number'} {space.dtype}"


def _place(env_id: str) -> tuple[int, str]:
    """Environments in the order of the sheet, others behind."""
    return (_ORDER.index(env_id) if env_id in _ORDER else len(_ORDER), env_id)


def _shots(env_id: str) -> tuple[list[Shot], int]:
    """The shots of an environment, and how many stand side by side."""
    if env_id == _LABYRINTH:
        return _labyrinth_shots(), 6
    if env_id in _SHOTS:
        return list(_SHOTS[env_id]), _COLUMNS.get(env_id, 4)
    return [Shot(f"seed {seed}", seeds=(seed,)) for seed in range(4)], 4


def _labyrinth_shots() -> list[Shot]:
    """All levels, each where a full turn from the start, and a moment's rest, show the most."""
    from envs.zipf.labyrinth import ACTIONS, LEVELS

    actions = [*[ACTIONS.index("turn right")] * 24, *[ACTIONS.index("act")] * 16]
    return [
        Shot(
            f"{rank} {level.name}",
            settings={"size": (168, 224)},
            options={"task": rank - 1},
            actions=actions,
            seeds=(0, 1, 2),
            most_colours=True,
            observed=True,
        )
        for rank, level in enumerate(LEVELS, start=1)
    ]


_GRIDWORLD, _LABYRINTH = "byol_ext/ZipfGridworld-v0", "byol_ext/ZipfLabyrinth-v0"
_PLAYROOM, _PLAYROOM_2D = "byol_ext/ZipfPlayroom-v0", "byol_ext/ZipfPlayroom2D-v0"
_MAZE, _DISCO = "byol_ext/StochasticMaze-v0", "byol_ext/RandomDiscoMaze-v0"
_ORDER = (_GRIDWORLD, _LABYRINTH, _PLAYROOM, _PLAYROOM_2D, _MAZE, _DISCO)
_COLUMNS = {_GRIDWORLD: 3, _MAZE: 3}

_SHOTS: Mapping[str, Sequence[Shot]] = {
    _GRIDWORLD: (
        Shot("the most frequent task", options={"task": (0, 0)}, actions=8),
        Shot('a rare map and a rare goal: split="rare"', {"split": "rare"}, {"task": (17, 18)}, actions=4),
        Shot("what the agent sees of it", options={"task": (17, 18)}, actions=4, observed=True),
    ),
    _MAZE: tuple(
        Shot(f'noise="{noise}"', {"noise": noise}, actions=[2, 2, 2, 1, 2, 2, 2, 3, 2, 0], seeds=(seed,))
        for noise, seed in (
            ("none", 0),
            ("brownian", 7),
            ("pixel", 8),
            ("on_demand", 0),
            ("tv", 0),
            ("wind", 6),
            ("slip", 5),
            ("swap", 0),
        )
    ),
    _DISCO: tuple(Shot(f"step {step}", actions=[2] * step) for step in range(4)),
}


_HINTS: Mapping[str, str] = {
    _GRIDWORLD: "yellow: what the agent sees; white: the agent, and around the goal",
    _LABYRINTH: "each level where a turn around shows most, larger than the agent sees it; by rank",
    _MAZE: "outlined: what the agent sees, red while the noise acts; yellow: the agent; green: trackers",
}


if __name__ == "__main__":
    main()
