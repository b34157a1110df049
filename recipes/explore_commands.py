"""The commands of ``byol-ext explore``: train, eval, record, rooms, study."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from byol_ext.training import rank_and_world
from byol_ext.training.curves import training_curves
from recipes.config import parse
from recipes.explore import final_metrics, load_run, train, wander
from recipes.explore_config import PRESETS, ExploreConfig, maze
from recipes.explore_eval import evaluate, record
from recipes.explore_maps import draw_maps
from recipes.explore_results import CURVES, headline, print_headlines, protocol
from recipes.explore_study import study_command


def train_command(args: Sequence[str]) -> int:
    """``byol-ext explore train``: train, then evaluate."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--resume", action="store_true")
    chosen, rest = own.parse_known_args(list(args))
    about = (
        "Train an exploring agent, then evaluate it.\n\n"
        "--resume continues the run of that name from its newest checkpoint, or starts it."
    )
    config = parse(maze, PRESETS, rest, prog="byol-ext explore train", description=about)
    return train_and_evaluate(config, resume=chosen.resume)


def train_and_evaluate(config: ExploreConfig, *, resume: bool = False) -> int:
    """Train, and unless a signal stopped it, evaluate and write results, figures and card.

    Returns:
        Exit code: 0, or 130 after an interrupt.
    """
    if config.agent == "random":
        experiment, run = wander(config)
        metrics = dict(experiment.source.metrics())
    else:
        result, experiment, run = train(config, resume=resume)
        if result.interrupted is not None:
            return 130
        metrics = dict(final_metrics(experiment, result))
    if rank_and_world()[0] == 0:
        metrics |= evaluate(experiment.agent, config, run)
        metrics |= headline(metrics, config)
        training_curves({config.name: run.path / "metrics.jsonl"}, path=run.figures / "training.png", terms=CURVES)
        draw_maps(run, experiment.tracker, config)
        run.write_results(metrics, protocol=protocol(config))
        print_headlines(metrics, run.path)
    return 0


def eval_command(args: Sequence[str]) -> int:
    """``byol-ext explore eval --run DIR``."""
    parser = argparse.ArgumentParser(
        prog="byol-ext explore eval", description="Play episodes with a trained agent; rows go into eval.jsonl."
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--episodes", type=int, help="episodes for each way of acting (default: the run's own)")
    parser.add_argument("--max-steps", type=int, help="longest episode in agent steps (default: the run's own)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(list(args))
    config, agent, run = load_run(chosen.run)
    own = replace(
        config.eval,
        episodes=chosen.episodes or config.eval.episodes,
        max_steps=chosen.max_steps or config.eval.max_steps,
    )
    metrics = evaluate(agent, replace(config, eval=own), run)
    if chosen.json:
        print(json.dumps(metrics, indent=1))
    else:
        for name, value in metrics.items():
            print(f"{name:40} {value:.4g}")
    return 0


def record_command(args: Sequence[str]) -> int:
    """``byol-ext explore record --run DIR``."""
    parser = argparse.ArgumentParser(
        prog="byol-ext explore record",
        description="A video of an episode with the intrinsic reward drawn under it, and its most novel moments.",
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--out", type=Path, help=".mp4 or .gif (default: DIR/figures/episode.gif)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the episode (default: 0)")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest action instead of a sample")
    parser.add_argument("--max-steps", type=int, default=1000, help="longest episode (default: 1000)")
    parser.add_argument("--top", type=int, default=10, help="moments on the sheet (default: 10)")
    parser.add_argument("--fps", type=int, default=15, help="frames a second (default: 15)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(list(args))
    config, agent, run = load_run(chosen.run)
    out = chosen.out or run.figures / "episode.gif"
    if out.suffix not in (".mp4", ".gif"):
        parser.error(f"--out {out} must end in .mp4 or .gif")
    done = record(
        agent,
        config,
        out,
        seed=chosen.seed,
        greedy=chosen.greedy,
        max_steps=chosen.max_steps,
        top=chosen.top,
        fps=chosen.fps,
    )
    print(json.dumps(done, indent=1) if chosen.json else "\n".join(f"{k}: {v}" for k, v in done.items()))
    return 0


def rooms_command(args: Sequence[str]) -> int:
    """``byol-ext explore rooms --run DIR``."""
    parser = argparse.ArgumentParser(
        prog="byol-ext explore rooms", description="Where a run has been: rooms or cells, and when it first got there."
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--out", type=Path, help="folder for the pictures (default: DIR/figures)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(list(args))
    from recipes.explore_maps import maps_of_run

    found = maps_of_run(chosen.run, chosen.out)
    print(json.dumps(found, indent=1) if chosen.json else "\n".join(f"{k}: {v}" for k, v in found.items()))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "eval": eval_command,
    "record": record_command,
    "rooms": rooms_command,
    "study": study_command,
}
