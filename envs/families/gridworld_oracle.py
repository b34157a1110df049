"""What is known exactly of Zipf's Gridworld: the best policy, and what random actions earn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.zipf.exact import random_walk
from envs.zipf.game import Settings
from envs.zipf.law import Floats
from envs.zipf.world import ACTIONS, World


def gridworld_oracle(
    *, num_maps: int = 20, num_objects: int = 20, map_seed: int = 1234
) -> Callable[[Any, Mapping[str, Any]], NDArray[np.int64]]:
    """A policy for `envs.evaluate.evaluate_matched` that reads where it is from the infos and always reaches the goal.

    Args:
        num_maps: Of the environment, like the others.
        num_objects: See `envs.zipf.game.Settings`.
        map_seed: See `envs.zipf.game.Settings`.
    """
    world = Settings(num_maps=num_maps, num_objects=num_objects, map_seed=map_seed, rare=1).world()
    ways = np.stack([np.stack([_way(world, m, goal) for goal in world.goal[m].tolist()]) for m in range(num_maps)])

    def act(observations: Any, infos: Mapping[str, Any]) -> NDArray[np.int64]:
        maps, goals = np.divmod(infos["task_id"], num_objects)
        return ways[maps, goals, infos["cell"] % ways.shape[-1]]

    return act


def gridworld_random_returns(
    *, num_maps: int = 20, num_objects: int = 20, map_seed: int = 1234, max_steps: int = 100
) -> Floats:
    """Expected return ``[K]`` of uniformly random actions on each (map, goal), by dynamic programming.

    Args:
        num_maps: Of the environment, like the others.
        num_objects: See `envs.zipf.game.Settings`.
        map_seed: See `envs.zipf.game.Settings`.
        max_steps: See `envs.zipf.game.Settings`.

    Example:
        >>> round(float(gridworld_random_returns().mean()), 6)
        0.047694
    """
    settings = Settings(num_maps=num_maps, num_objects=num_objects, map_seed=map_seed, rare=1)
    return random_walk(settings.world(), max_steps).success.ravel()


def _way(world: World, m: int, goal: int) -> NDArray[np.int64]:
    """The best action on every position ``[P]`` of a map: breadth first, backwards from the goal."""
    following, objects = world.next[m], set(world.goal[m].tolist())
    into: dict[int, list[tuple[int, int]]] = {}
    for position, action in np.ndindex(len(following), len(ACTIONS)):
        if position not in objects and following[position, action] != position:
            into.setdefault(int(following[position, action]), []).append((position, action))
    best, reached, frontier = np.zeros(len(following), np.int64), {goal}, [goal]
    for here in frontier:
        for position, action in into.get(here, []):
            if position not in reached:
                best[position] = action
                reached.add(position)
                frontier.append(position)
    return best
