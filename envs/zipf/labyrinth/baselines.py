"""How well each level is played at random and by the scripted oracle: ``python -m envs.zipf.labyrinth.baselines``.

The file ``baselines.json`` beside this one has for each level the mean and standard deviation of the episodes' scores,
their number and mean length. A score is reported as ``(score - random) / (oracle - random)`` besides itself:

>>> normalized({"rooms_watermaze": baselines()["rooms_watermaze"].oracle.mean})
{'rooms_watermaze': 1.0}

Legend: ``B`` sub-environments, one episode each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.zipf.labyrinth._oracle import oracle_actions
from envs.zipf.labyrinth.env import ACTIONS, ZipfLabyrinthVector
from envs.zipf.labyrinth.levels import LEVELS
from envs.zipf.labyrinth.state import make_work

PATH = Path(__file__).with_name("baselines.json")
Player = Callable[[ZipfLabyrinthVector], NDArray[np.int64]]
"""Chooses ``[B]`` actions."""


@dataclass(frozen=True)
class Scores:
    """Episode scores of one player on one level.

    Attributes:
        mean: Of the scores.
        std: Their standard deviation (of the episodes, not of the mean).
        episodes: How many.
        length: Mean length in steps.
        success: Share of episodes with ``info["success"]``.
    """

    mean: float
    std: float
    episodes: int
    length: float
    success: float


@dataclass(frozen=True)
class Baseline:
    """The constants of one level."""

    random: Scores
    oracle: Scores


def oracle(env: ZipfLabyrinthVector) -> NDArray[np.int64]:
    """The scripted player's actions ``[B]``; it reads the true state."""
    actions = np.zeros(env.num_envs, np.int64)
    oracle_actions(env._levels, env._state, make_work(), actions)
    return actions


def random_player(seed: int) -> Player:
    """A player whose actions are uniform and independent."""
    rng = np.random.default_rng(seed)
    return lambda env: rng.integers(len(ACTIONS), size=env.num_envs)


def play(name: str, player: Player, *, episodes: int, seed: int) -> Scores:
    """Plays episodes of one level, side by side.

    Args:
        name: Of the level.
        player: Who plays.
        episodes: ``B``.
        seed: Of the environment.
    """
    env = ZipfLabyrinthVector(episodes, levels=[name], rare=1, size=(1, 1), copy=False)
    env.reset(seed=seed)
    score, length, success = np.zeros(episodes), np.zeros(episodes), np.zeros(episodes)
    ended = np.zeros(episodes, np.bool_)
    for step in range(1, env.levels[0].steps + 1):
        _, _, terminated, truncated, infos = env.step(player(env))
        now = (terminated | truncated) & ~ended
        score[now], length[now], success[now] = infos["score"][now], step, infos["success"][now]
        ended |= now
        if ended.all():
            break
    env.close()
    mean, std = float(score.mean()), float(score.std(ddof=1))
    return Scores(round(mean, 4), round(std, 4), episodes, round(float(length.mean()), 1), float(success.mean()))


def measure(name: str, *, episodes: int, seed: int = 0) -> Baseline:
    """Both players on one level."""
    return Baseline(
        play(name, random_player(seed), episodes=episodes, seed=seed),
        play(name, oracle, episodes=episodes, seed=seed),
    )


def baselines() -> dict[str, Baseline]:
    """The shipped constants by level."""
    levels = json.loads(PATH.read_text())["levels"]
    return {name: Baseline(Scores(**both["random"]), Scores(**both["oracle"])) for name, both in levels.items()}


def normalized(scores: Mapping[str, float]) -> dict[str, float]:
    """``(score - random) / (oracle - random)`` of each level's mean score.

    Raises:
        KeyError: An unknown level.
    """
    known = baselines()
    return {
        name: (score - known[name].random.mean) / (known[name].oracle.mean - known[name].random.mean)
        for name, score in scores.items()
    }


def main() -> None:
    """Measures all levels and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=256, help="episodes of each level and player")
    parser.add_argument("--seed", type=int, default=0, help="of environments and random player")
    parser.add_argument("--out", type=Path, default=PATH, help="file to write")
    given = parser.parse_args()
    levels = {}
    for level in LEVELS:
        both = measure(level.name, episodes=given.episodes, seed=given.seed)
        levels[level.name] = asdict(both)
        print(f"{level.name:42} random {both.random.mean:8.2f}  oracle {both.oracle.mean:8.2f}", flush=True)
    given.out.write_text(json.dumps({"seed": given.seed, "levels": levels}, indent=1) + "\n")


if __name__ == "__main__":
    main()
