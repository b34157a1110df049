"""What a run of the exploration recipe reports: headline names, curves, protocol."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from byol_ext.metrics.exploration import RANDOM_HUMAN, clipped_human_normalised
from byol_ext.training import rank_and_world
from recipes.explore_config import ExploreConfig

FRAMES_PER_STEP = 4
"""Emulator frames of an Atari agent step."""
CURVES = (
    "loss",
    "episode/return",
    "episode/coverage",
    "episode/trackers",
    "episode/cells",
    "lifetime/cells",
    "lifetime/rooms",
    "lifetime/visit_entropy",
    "noise/share_recent",
    "noise/time_recent",
    "noise/asked_recent",
    "reward/intrinsic_raw",
    "reward/intrinsic",
    "policy/entropy",
    "policy/approx_kl",
    "policy/clip_fraction",
    "bonus/error",
    "bonus/inv",
    "bonus/rec_shuffled",
    "bonus/critic_accuracy",
    "bonus/ell/k1",
    "bonus/ell/k8",
    "bonus/y/rankme",
    "bonus/rnd/error",
    "steps_per_second",
)
MAZE = {
    "maze/coverage": "episode/coverage",
    "maze/trackers": "episode/trackers",
    "maze/noise_share": "noise/share",
    "maze/noise_time": "noise/time",
    "maze/noise_asked": "noise/asked",
    "maze/cells": "lifetime/cells",
}


def headline(metrics: Mapping[str, float], config: ExploreConfig) -> dict[str, float]:
    """The names that design 10 promises, where the environment gives them."""
    game = atari_game(config.env)
    if game is None:
        # Only a maze says where its noise is.
        maze = "noise/time" in metrics
        return {name: metrics[own] for name, own in MAZE.items() if own in metrics} if maze else {}
    found = {"atari/frames_per_second": FRAMES_PER_STEP * metrics["steps_per_second"]}
    rooms = [metrics[name] for name in ("lifetime/rooms", "eval/sampled/rooms_mean") if name in metrics]
    if rooms:
        found["atari/rooms"] = rooms[0]
    if game in RANDOM_HUMAN and "episode/return_best" in metrics:
        found["atari/clipped_human_normalised"] = clipped_human_normalised(metrics["episode/return_best"], game)
    return found


def atari_game(env: str) -> str | None:
    """ROM name of an Atari environment, or ``None`` for others."""
    from envs.protocols import rom_name

    return rom_name(env)


def frames_per_step(config: ExploreConfig) -> int:
    """Emulator frames of an agent step."""
    return FRAMES_PER_STEP if atari_game(config.env) is not None else 1


def protocol(config: ExploreConfig) -> dict[str, Any]:
    """How it was measured."""
    atari = atari_game(config.env) is not None
    return {
        "env": config.env,
        "agent": config.agent,
        "noise": config.envs.noise,
        "env_steps": config.env_steps,
        "frames_per_step": frames_per_step(config),
        "atari_protocol": config.envs.protocol if atari else None,
        "environments": config.envs.num * rank_and_world()[1],
        "seed": config.seed,
        "evaluation_episodes": config.eval.episodes,
        "episode_metrics": "means over the last 100 training episodes of the first process",
    }


def print_headlines(metrics: Mapping[str, float], path: Path) -> None:
    """The numbers that people look for first."""
    wanted = ("maze/", "atari/", "eval/sampled/return_mean", "eval/greedy/return_mean", "episode/return", "lifetime/")
    for name, value in metrics.items():
        if name.startswith(wanted):
            print(f"{name:36} {value:.4g}")
    print(f"run: {path}")
