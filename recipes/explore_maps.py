"""Maps of where a run has been: Montezuma's rooms, other games' rooms over time, the maze's cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from byol_ext.metrics.exploration import ExplorationTracker
from byol_ext.rl.figures import board_map, montezuma_map, rooms_over_time
from byol_ext.training import Run
from byol_ext.training.checkpoint import load_checkpoint
from recipes.config import open_run
from recipes.explore_config import ExploreConfig
from recipes.explore_results import FRAMES_PER_STEP, atari_game, frames_per_step


def maps_of_run(path: Path, out: Path | None = None) -> dict[str, Any]:
    """Draw the maps of a run's newest checkpoint, all processes together.

    Args:
        path: Run directory.
        out: Folder of the pictures; default: the run's ``figures``.

    Raises:
        FileNotFoundError: If there is no run, or it has no complete checkpoint.
        ValueError: If it is a run of another recipe.
    """
    config, run, checkpoint = open_run(path, "explore", ExploreConfig)
    processes = load_checkpoint(checkpoint).state["processes"]
    tracker = ExplorationTracker.merge([process["source"]["tracker"] for process in processes])
    pictures = draw_maps(run, tracker, config, out=out)
    first = {room: step * frames_per_step(config) for room, step in sorted(tracker.first_visits().items())}
    return {
        "cells": len(tracker.visits.get("cell", {})),
        "rooms": len(tracker.visits.get("room", {})),
        "first_visit_frames": first,
        "pictures": [str(picture) for picture in pictures],
    }


def draw_maps(run: Run, tracker: ExplorationTracker, config: ExploreConfig, *, out: Path | None = None) -> list[Path]:
    """The maps that a run's environment allows.

    Args:
        run: The run.
        tracker: What it has counted.
        config: Its configuration.
        out: Folder of the pictures; default: the run's ``figures``.

    Returns:
        Their paths; none where the environment does not say where the agent is.
    """
    folder = run.figures if out is None else out
    if config.env.removeprefix("byol_ext/").removesuffix("-v0") == "StochasticMaze":
        return [_maze(tracker, config, folder / "cells.png")]
    rooms = tracker.visits.get("room")
    if not rooms:
        return []
    note = f"{config.agent}, {tracker.steps:,} steps ({tracker.steps * FRAMES_PER_STEP:,} frames) of {config.env}"
    steps, names, counts = tracker.room_history()
    pictures = [rooms_over_time(steps * FRAMES_PER_STEP, names, counts, path=folder / "rooms_over_time.png", note=note)]
    if atari_game(config.env) == "montezuma_revenge":
        pictures.append(
            montezuma_map(
                tracker.visits["cell"],
                tracker.first_visits(),
                frames_per_step=FRAMES_PER_STEP,
                path=folder / "rooms.png",
                note=note,
            )
        )
    return pictures


def _maze(tracker: ExplorationTracker, config: ExploreConfig, path: Path) -> Path:
    from envs._maze_board import BOARD

    grid = np.array([list(line) for line in BOARD])
    visits = np.zeros(grid.shape)
    for cell, count in tracker.visits.get("cell", {}).items():
        visits[divmod(cell, grid.shape[1])] = count
    marks = {(int(r), int(c)): str(grid[r, c]) for r, c in np.argwhere(np.isin(grid, list("S1234")))}
    return board_map(
        visits,
        walls=grid == "#",
        marks=marks,
        title="Where the agent spent its time",
        note=f"{config.agent}, noise {config.envs.noise}, {tracker.steps:,} steps; S start, 1-4 trackers",
        path=path,
    )
