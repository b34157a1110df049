"""Exact values of the gridworld under a uniformly random policy: no sampling, an absorbing Markov chain per map.

The chain does not know the goal, since every object ends the episode: one distribution over cells, propagated for
``horizon`` steps, gives the probability of ending on each object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.zipf.game import Settings
from envs.zipf.law import SPLITS, Floats, Split
from envs.zipf.world import World


@dataclass(frozen=True)
class RandomWalk:
    """Values by map, and by goal where they depend on it.

    Attributes:
        success: ``[maps, objects]``: probability that the goal is the first object touched, in time.
        length: ``[maps]``: mean episode length in steps.
        timeout: ``[maps]``: probability that no object is touched in time.
        shortest: ``[maps, objects]``: fewest steps to the goal without touching another object; inf if impossible.
    """

    success: Floats
    length: Floats
    timeout: Floats
    shortest: Floats

    def average(self, map_law: Floats, object_law: Floats) -> dict[str, float]:
        """The four values under a product law over maps ``[maps]`` and goals ``[objects]``."""
        return {
            "success": float(map_law @ self.success @ object_law),
            "length": float(map_law @ self.length),
            "timeout": float(map_law @ self.timeout),
            "shortest": float(map_law @ self.shortest @ object_law),
        }


def random_walk(world: World, horizon: int = 100) -> RandomWalk:
    """Solve every map for episodes of at most ``horizon`` steps.

    Example:
        >>> from envs.zipf import law, generator, world
        >>> maps = world.published_maps(20, generator.Sizes())
        >>> walk, zipf = random_walk(world.build_world(maps, view=7)), law.zipf(20, 2.0)
        >>> {name: round(value, 4) for name, value in walk.average(zipf, zipf).items()}
        {'success': 0.0324, 'length': 17.7724, 'timeout': 0.0106, 'shortest': 13.4197}
    """
    values = [_absorb(world, i, horizon) for i in range(len(world.maps))]
    success, length, timeout = (np.array(column) for column in zip(*values, strict=True))
    shortest = np.array([_shortest(world, i) for i in range(len(world.maps))])
    return RandomWalk(success, length, timeout, shortest)


def random_baselines(settings: Settings) -> dict[Split, dict[str, float]]:
    """The averages of a random walk under every split: what a score must be compared with, since splits differ.

    Example:
        >>> {split: round(value["success"], 4) for split, value in random_baselines(Settings()).items()}
        {'zipf': 0.0324, 'uniform': 0.0477, 'rare': 0.0859}
    """
    walk, (maps, objects) = random_walk(settings.world(), settings.max_steps), settings.factors
    return {split: walk.average(maps.probabilities(split), objects.probabilities(split)) for split in SPLITS}


def _absorb(world: World, index: int, horizon: int) -> tuple[Floats, float, float]:
    following, objects = world.next[index], world.goal[index]
    cells, actions = following.shape
    share = np.zeros(cells)
    share[world.start[index]] = 1.0
    ended, length = np.zeros(len(objects)), 0.0
    for _ in range(horizon):
        length += share.sum()
        share = np.bincount(following.ravel(), np.repeat(share / actions, actions), cells).astype(np.float64)
        ended += share[objects]
        share[objects] = 0.0
    return ended, length, float(share.sum())


def _shortest(world: World, index: int) -> Floats:
    following, objects = world.next[index], set(world.goal[index].tolist())
    steps: dict[int, int] = {int(world.start[index]): 0}
    frontier: list[int] = list(steps)
    for position in frontier:
        if position in objects:
            continue
        for neighbour in following[position].tolist():
            if neighbour not in steps:
                steps[neighbour] = steps[position] + 1
                frontier.append(neighbour)
    return np.array([steps.get(goal, np.inf) for goal in world.goal[index].tolist()])
