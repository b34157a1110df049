"""Single pictures with labels, for learning to recognise the playroom's objects without acting.

Legend: ``n`` pictures of a portion, ``H`` rows and ``W`` columns of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from envs._rng import stream_key
from envs.raycast import RaycastRenderer
from envs.zipf.law import check_choice
from envs.zipf.playroom.env import ZipfPlayroomVector
from envs.zipf.playroom.levels import LEVELS
from envs.zipf.playroom.looks import SKY, playroom_atlas
from envs.zipf.playroom.state import HEADINGS, TURN, scene_of

_PORTION = 64


def find_frames(
    n: int,
    seed: int,
    *,
    level: str = "supervised/find_shape_zipf2",
    rank_seed: int | None = None,
    size: tuple[int, int] = (72, 96),
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Pictures of the "find" levels: the first view of an episode, turned towards the object asked for.

    The object asked for is 1.5 to 4.5 m away and the closest to the middle of the picture; others may be in view.
    Picture ``i`` depends on ``seed``, ``i`` and the arguments only.

    Args:
        n: Pictures in all.
        seed: Non-negative.
        level: One of the original's "find" levels; its law is that of the labels.
        rank_seed: Permutes which object has which rank.
        size: ``(H, W)``.

    Yields:
        Portions of at most 64: pictures ``[n, H, W, 3]`` uint8 and labels ``[n]``, indices into the lexicon.

    Raises:
        ValueError: A level that is not a "find" level, ``n`` below 1, a negative seed.

    Example:
        >>> frames, labels = next(find_frames(3, seed=0))
        >>> frames.shape, labels.shape
        ((3, 72, 96, 3), (3,))
    """
    check_choice("level", level, [name for name, settings in LEVELS.items() if settings.task == "find"])
    if n < 1 or seed < 0:
        raise ValueError(f"n must be at least 1 and seed at least 0, got n={n}, seed={seed}")
    return _portions(n, seed, level, rank_seed, size)


def _portions(
    n: int, seed: int, level: str, rank_seed: int | None, size: tuple[int, int]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    width = min(n, _PORTION)
    env = ZipfPlayroomVector(width, level=level, rank_seed=rank_seed, size=(1, 1))
    renderer = RaycastRenderer(playroom_atlas(), [SKY], size=size)
    agents, things = env.game.state.agents, env.game.state.things
    for first in range(0, n, width):
        _, infos = env.reset(seed=[stream_key(seed, first + e) for e in range(width)])
        bearing = np.arctan2(things["y"][:, 0] - agents["y"], things["x"][:, 0] - agents["x"])
        agents["heading"] = np.rint(bearing / TURN).astype(np.int64) % HEADINGS
        agents["angle"] = agents["heading"] * TURN
        count = min(width, n - first)
        pictures = np.zeros((width, *size, 3), np.uint8)
        renderer.render(scene_of(env.game.state), pictures)
        yield pictures[:count], infos["task_id"][:count]
    env.close()
