"""Evaluating, recording and mapping runs of the exploration recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from byol_ext.rl.agent import ExploreAgent
from byol_ext.rl.evaluate import play, summary, trace
from byol_ext.rl.figures import annotated_frames, contact_sheet, write_video
from byol_ext.training import Run
from recipes.explore import make_envs
from recipes.explore_config import ExploreConfig
from recipes.explore_results import atari_game

EVALUATION_SEED = 1_000_003
"""Added to a run's seed, so that evaluation episodes are none of training's."""
POOL = 16
"""Environments stepped together in an evaluation."""


def evaluate(agent: ExploreAgent, config: ExploreConfig, run: Run) -> dict[str, float]:
    """Play episodes with sampled and greedy actions; every episode goes into ``eval.jsonl``.

    Args:
        agent: The agent in evaluation mode.
        config: Its configuration.
        run: Where to write.

    Returns:
        Metrics ``eval/<sampled|greedy>/<name>``.
    """
    metrics: dict[str, float] = {}
    lines = []
    modes = {"sampled": False, "greedy": True} if config.eval.greedy else {"sampled": False}
    for mode, greedy in modes.items():
        env = make_envs(config, num=min(config.eval.episodes, POOL), seed=config.seed + EVALUATION_SEED)
        rows = play(
            agent.policy,
            env,
            episodes=config.eval.episodes,
            greedy=greedy,
            seed=config.seed + EVALUATION_SEED,
            max_steps=config.eval.max_steps,
        )
        env.close()
        lines += [json.dumps({"mode": mode, **row}) for row in rows]
        metrics |= {f"eval/{mode}/{name}": value for name, value in summary(rows).items()}
    (run.path / "eval.jsonl").write_text("\n".join(lines) + "\n")
    return metrics


def record(
    agent: ExploreAgent,
    config: ExploreConfig,
    out: Path,
    *,
    seed: int,
    greedy: bool,
    max_steps: int,
    top: int,
    fps: int,
) -> dict[str, Any]:
    """A video of an episode with the intrinsic reward drawn under it, and its most novel moments as a sheet.

    Args:
        agent: The agent in evaluation mode.
        config: Its configuration.
        out: ``.mp4`` or ``.gif``; the sheet is written beside it.
        seed: Seed of the episode.
        greedy: Whether to act greedily.
        max_steps: Longest episode.
        top: Moments on the sheet.
        fps: Frames a second.

    Returns:
        What was recorded: paths, return, length, rooms.
    """
    env, picture = recording_env(config, seed=seed)
    frames: list[np.ndarray] = []
    captions: list[str] = []
    score = 0.0
    rooms: set[int] = set()

    def watch(step: int, values: Mapping[str, Any]) -> None:
        nonlocal score
        score += values["reward"]
        frames.append(picture())
        room = values["info"].get("room")
        if room is not None:
            rooms.add(int(room[0]))
        place = "" if room is None else f"  room {int(room[0])} ({len(rooms)} seen)"
        captions.append(f"step {step}  score {score:g}{place}")

    episode = trace(agent.policy, env, greedy=greedy, seed=seed, max_steps=max_steps, watch=watch)
    env.close()
    segment = replace(episode.segment, memory=agent.bonus.initial_memory(1))
    reward = agent.bonus.reward(segment, update=False)
    paid = reward.scaled[:, 0].float().cpu().numpy()
    values = np.concatenate([episode.value[:, -1], episode.value[-1:, -1]])
    captions = [f"{text}  value {value:.2f}" for text, value in zip(captions, values, strict=True)]
    marks = episode.segment.info.get("noise_on")
    drawn = annotated_frames(frames, paid, captions, marks_T=None if marks is None else marks[:, 0].cpu().numpy())
    video = write_video(drawn, out, fps=fps)
    best = np.argsort(-paid, kind="stable")[:top]
    sheet = contact_sheet(
        [frames[i + 1] for i in best],
        [f"step {i + 1}: {paid[i]:.2f}" for i in best],
        path=out.with_name(f"{out.stem}-moments.png"),
    )
    return {
        "video": str(video),
        "moments": str(sheet),
        "return": score,
        "length": len(paid),
        "rooms": len(rooms),
        "intrinsic": float(paid.sum()),
    }


def recording_env(config: ExploreConfig, *, seed: int) -> tuple[Any, Callable[[], np.ndarray]]:
    """One environment and a function that draws its present state as ``[H, W, 3]``.

    Atari is played by one emulator in Python, which shows its colours and, with any back end, its rooms.
    """
    from envs.make import make

    atari = atari_game(config.env) is not None
    env = make(
        config.env,
        1,
        seed=[seed],
        protocol=config.envs.protocol,
        backend="single" if atari else "auto",
        noise=config.envs.noise,
        size=config.envs.size,
        options=None if atari else {"render_mode": "rgb_array"},
    )
    return env, lambda: np.asarray(env.render()[0], np.uint8)  # type: ignore[index]
