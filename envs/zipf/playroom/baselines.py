"""How well a random and a scripted player do on every level: ``python -m envs.zipf.playroom.baselines``.

The results are kept in ``baselines.json`` beside this file; `load_baselines` reads them and `normalised` puts a score
between the two.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.zipf.playroom.env import ZipfPlayroomVector
from envs.zipf.playroom.env2d import ZipfPlayroom2DVector
from envs.zipf.playroom.levels import LEVELS
from envs.zipf.playroom.state import ACTIONS

PATH = Path(__file__).with_name("baselines.json")
Variant = Literal["3d", "2d"]
_VARIANTS: tuple[Variant, ...] = ("3d", "2d")
_ROWS = 500


@dataclass(frozen=True)
class Baseline:
    """Of one player on one level.

    Attributes:
        success: Share of episodes with the reward of 1, which is also the mean return.
        error: Standard error of ``success``.
        wrong: Share of episodes that end with a wrong object or furniture.
        steps: Mean length.
        episodes: Played.
    """

    success: float
    error: float
    wrong: float
    steps: float
    episodes: int


def measure(level: str, variant: Variant, player: Literal["random", "oracle"], *, episodes: int, seed: int) -> Baseline:
    """Plays a level.

    Args:
        level: Name of the level.
        variant: First person or on the grid.
        player: Uniformly random actions, or the scripted player.
        episodes: About how many; every one of 500 rooms plays equally many, so that long ones are not missed.
        seed: Of rooms and actions.
    """
    env: ZipfPlayroomVector | ZipfPlayroom2DVector
    if variant == "3d":
        env = ZipfPlayroomVector(_ROWS, level=level, size=(1, 1), autoreset_mode=AutoresetMode.DISABLED)
    else:
        env = ZipfPlayroom2DVector(_ROWS, level=level, obs="tiles", autoreset_mode=AutoresetMode.DISABLED)
    rng = np.random.default_rng(seed)
    choose: Callable[[], NDArray[np.int64]] = env.oracle_actions
    if player == "random":
        choose = lambda: rng.integers(len(ACTIONS), size=_ROWS)  # noqa: E731
    rounds = -(-episodes // _ROWS)
    outcomes, lengths = list[NDArray[np.str_]](), list[NDArray[np.int64]]()
    for _ in range(rounds):
        outcome, length = _play(env, choose, seed if not outcomes else None)
        outcomes.append(outcome)
        lengths.append(length)
    env.close()
    outcome = np.concatenate(outcomes)
    success = float((outcome == "goal").mean())
    return Baseline(
        success=round(success, 5),
        error=round(float(np.sqrt(success * (1 - success) / len(outcome))), 5),
        wrong=round(float((outcome == "wrong").mean()), 5),
        steps=round(float(np.concatenate(lengths).mean()), 2),
        episodes=len(outcome),
    )


def _play(
    env: ZipfPlayroomVector | ZipfPlayroom2DVector, choose: Callable[[], NDArray[np.int64]], seed: int | None
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """One episode of every room: outcomes and lengths. Rooms that are over begin anew, uncounted."""
    env.reset(seed=seed)
    outcome, length = np.full(env.num_envs, "", "<U7"), np.zeros(env.num_envs, np.int64)
    going = np.ones(env.num_envs, np.bool_)
    while going.any():
        _, _, terminated, truncated, infos = env.step(choose())
        length += going
        ended = terminated | truncated
        np.copyto(outcome, infos["outcome"], where=going & ended)
        going &= ~ended
        if ended.any() and going.any():
            env.reset(options={"reset_mask": ended})
    return outcome, length


def load_baselines(path: Path = PATH) -> dict[tuple[str, Variant, str], Baseline]:
    """The shipped results by (level, "3d" or "2d", "random" or "oracle").

    Example:
        >>> load_baselines()["lift/lift_shape_zipf2", "3d", "oracle"].success
        1.0
    """
    table = json.loads(path.read_text())
    return {
        (level, variant, player): Baseline(**table[variant][level][player])
        for variant in _VARIANTS
        for level in table[variant]
        for player in table[variant][level]
    }


def normalised(success: float, level: str, variant: Variant = "3d") -> float:
    """A success rate on the scale where the random player has 0 and the scripted one 1.

    Raises:
        KeyError: An unknown level.
    """
    table = load_baselines()
    random, oracle = (table[level, variant, player].success for player in ("random", "oracle"))
    return (success - random) / (oracle - random)


def main() -> None:
    """Measures all levels and writes the file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=PATH)
    args = parser.parse_args()
    table: dict[str, dict[str, dict[str, object]]] = {variant: {} for variant in _VARIANTS}
    for variant in _VARIANTS:
        measured: dict[object, dict[str, object]] = {}
        for name, level in LEVELS.items():
            # Neither player looks at names, so that levels which differ in their laws alone are one.
            game = level.task, level.objects_in_room
            if game not in measured:
                measured[game] = {
                    "random": asdict(measure(name, variant, "random", episodes=args.episodes, seed=args.seed)),
                    "oracle": asdict(measure(name, variant, "oracle", episodes=args.episodes, seed=args.seed)),
                }
                print(variant, name, measured[game], flush=True)
            table[variant][name] = measured[game]
    args.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
