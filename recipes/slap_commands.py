"""The commands of ``byol-ext slap``: train, eval, compare, shard, data."""

from __future__ import annotations

import argparse
import json
import re
import resource
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from byol_ext.training import FitResult, Run, environment, process_device, rank_and_world
from byol_ext.training.curves import read_metrics, training_curves
from recipes.config import parse
from recipes.slap import build, build_inputs, load_run, train
from recipes.slap_config import PRESETS, SlapConfig
from recipes.slap_data import Splits, open_splits
from recipes.slap_eval import Evaluation, Towers, compared_on, draw, evaluate
from recipes.slap_sources import open_source

CURVES = (
    "loss",
    *(f"{src}->{dst}" for src in ("audio", "text") for dst in ("text", "audio")),
    "clap-infonce",
    "clap-sigmoid",
    "eval/retrieval/text_to_audio/R@1",
    "eval/retrieval/audio_to_text/R@1",
    "collapse/audio/z/std_sqrt_d",
    "collapse/text/z/std_sqrt_d",
    "collapse/audio/z/effective_rank",
    "collapse/text/z/effective_rank",
    "grad_norm",
)
HEADLINES = (
    "retrieval/text_to_audio/R@1",
    "retrieval/audio_to_text/R@1",
    "retrieval/chance/R@1",
    "gap/delta",
    "gap/pairwise_separability",
)


def train_command(args: Sequence[str]) -> int:
    """``byol-ext slap train``: train, then evaluate on the test pairs."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--resume", action="store_true")
    chosen, rest = own.parse_known_args(list(args))
    about = (
        "Train SLAP (or a CLAP baseline: --loss.name clap-infonce), then evaluate it on the test pairs.\n\n"
        "--resume continues the run of that name from its newest checkpoint, or starts it."
    )
    config = parse(SlapConfig, PRESETS, rest, prog="byol-ext slap train", description=about)
    return train_and_evaluate(config, resume=chosen.resume)


def train_and_evaluate(config: SlapConfig, *, resume: bool = False) -> int:
    """Train, and unless a signal stopped it, evaluate and write results, figures and card.

    Returns:
        Exit code: 0, or 130 after an interrupt.
    """
    result, towers, splits, run = train(config, resume=resume)
    if result.interrupted is not None:
        return 130
    if rank_and_world()[0] == 0:
        if splits.test is None:
            print(f"trained; nothing to evaluate on: give --data.test or --data.val. Run: {run.path}")
            return 0
        evaluation = report(towers, splits, run, config, extra=training_cost(result))
        print_headlines(evaluation.metrics, run.path)
    return 0


def training_cost(result: FitResult) -> dict[str, float]:
    """What the training took: peak memory, rate, waiting."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        # Linux counts kibibytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {
        "train/steps": float(result.step),
        "train/samples_seen": float(result.samples_seen),
        "train/samples_per_second": result.samples_seen / max(result.seconds, 1e-9),
        "train/seconds": result.seconds,
        "train/peak_memory_mib": peak,
        "train/wait_fraction": result.wait_fraction,
        "train/skipped_steps": float(result.skipped),
    }


def report(
    towers: Towers, splits: Splits, run: Run, config: SlapConfig, *, extra: dict[str, float] | None = None
) -> Evaluation:
    """Evaluate a model with its controls and write ``results.json``, ``ranks.npz`` and the figures.

    Args:
        towers: The trained model.
        splits: The data.
        run: Run directory to write to.
        config: The configuration.
        extra: Further metrics, such as the cost of training.

    Raises:
        ValueError: If there are no test pairs.
    """
    if splits.test is None:
        raise ValueError("there are no pairs to evaluate on; give --data.test or --data.val")
    evaluation = evaluate(towers, test=splits.test, config=config, prompts=splits.prompts, train=splits.train)
    metrics = evaluation.metrics | (extra or {})
    ranks = {"": evaluation}
    for name, source in splits.domains.items():
        shifted = evaluate(towers, test=source, config=config, prompts=splits.prompts)
        metrics |= {f"domain/{name}/{key}": value for key, value in shifted.metrics.items()}
        ranks[f"{name}/"] = shifted
    # The trained model's tokenizer is the same and may hold cached features of these captions.
    untrained = build(config, replace(build_inputs(config), tokenize=towers.tokenize))
    untrained.model.to(process_device(config.train.device)).eval()
    control = evaluate(untrained, test=splits.test, config=config, prompts=splits.prompts, train=splits.train)
    kept = ("retrieval/", "zero_shot/", "probe/", "gap/")
    controls = {"random_init": {k: v for k, v in control.metrics.items() if k.startswith(kept)}}
    save_ranks(run.path / "ranks.npz", ranks | {"random_init/": control})
    draw(evaluation, run.figures, on=compared_on(config))
    draw_training({run.name: run.path / "metrics.jsonl"}, run.figures / "training.png")
    device = process_device(config.train.device)
    run.write_results(metrics, controls=controls, protocol=evaluation.protocol, device=device)
    evaluation.metrics = metrics
    return evaluation


def draw_training(logs: Mapping[str, Path], path: Path) -> None:
    """Curves of the losses, of what shows a collapse, and of validation retrieval.

    Args:
        logs: Name and ``metrics.jsonl`` of each run.
        path: PNG to write; nothing is written when no run was trained.
    """
    logs = {name: log for name, log in logs.items() if log.exists()}
    logged = {term for log in logs.values() for term in read_metrics(log)}
    terms = [term for term in CURVES if term in logged]
    if terms:
        training_curves(logs, path=path, terms=terms)


def save_ranks(path: Path, evaluations: dict[str, Evaluation]) -> None:
    """Rank and hits of every query, for paired intervals."""
    arrays = {}
    for prefix, evaluation in evaluations.items():
        for direction in ("text_to_audio", "audio_to_text"):
            ranking = getattr(evaluation.retrieval, direction)
            arrays[f"{prefix}{direction}"] = ranking.ranks_Q.numpy()
            arrays |= {f"{prefix}{direction}/R@{k}": ranking.hits_Q(k).numpy() for k in (1, 5, 10)}
        arrays[f"{prefix}owner"] = evaluation.embedded.owner_M.numpy()
    np.savez_compressed(path, **arrays)


def print_headlines(metrics: dict[str, float], path: Path) -> None:
    """The few numbers people look for first, and where the rest is."""
    for name in HEADLINES:
        interval = ""
        if f"{name}/low" in metrics:
            interval = f"   [{metrics[f'{name}/low']:.1f}, {metrics[f'{name}/high']:.1f}]"
        print(f"{name:40} {metrics[name]:8.3f}{interval}")
    for name, value in metrics.items():
        if name.startswith("zero_shot/") and name.endswith("ensemble/accuracy"):
            majority = metrics[name.replace("ensemble", "majority")]
            print(f"{name:40} {100 * value:8.3f}   (most frequent class {100 * majority:.1f})")
    print(f"results, figures and card: {path}")


def eval_command(args: Sequence[str]) -> int:
    """``byol-ext slap eval --run DIR``: evaluate a trained run, on its own or on other data."""
    own = argparse.ArgumentParser(prog="byol-ext slap eval", add_help=False, allow_abbrev=False)
    own.add_argument("--run", type=Path)
    own.add_argument("--out", type=Path)
    own.add_argument("--json", action="store_true")
    chosen, rest = own.parse_known_args(list(args))
    about = (
        "Evaluate the newest checkpoint of --run DIR; options start from the run's own configuration.\n\n"
        "--out DIR is where results and figures go (default: DIR/eval/NAME of the test data); --json prints JSON."
    )
    if chosen.run is None and not {"-h", "--help"} & set(rest):
        print("byol-ext slap eval: give --run DIR, a run directory such as runs/slap/tiny", file=sys.stderr)
        return 2
    if chosen.run is None:
        parse(SlapConfig, {}, rest, prog="byol-ext slap eval", description=about)
    trained, towers, run = load_run(chosen.run)
    config = parse(lambda: trained, {}, rest, prog="byol-ext slap eval", description=about)
    if model_of(config) != model_of(trained):
        print("byol-ext slap eval: audio, text, heads and loss belong to the trained model", file=sys.stderr)
        return 2
    name = re.sub(r"[^\w.-]+", "_", config.data.test or "test").strip("_")
    path = chosen.out if chosen.out is not None else run.path / "eval" / name
    into = Run.create(path, recipe="slap", config=config, resume=True, resume_command=shlex.join(["byol-ext", *args]))
    splits = open_splits(config, training=config.eval.probes)
    evaluation = report(towers, splits, into, config)
    if chosen.json:
        print(
            json.dumps(
                {
                    "metrics": evaluation.metrics,
                    "protocol": evaluation.protocol,
                    "environment": environment(process_device(config.train.device)),
                }
            )
        )
    else:
        print_headlines(evaluation.metrics, into.path)
    return 0


def model_of(config: SlapConfig) -> tuple[Any, ...]:
    """What the weights belong to."""
    return config.audio, replace(config.text, cache=""), config.heads, config.loss


def compare_command(args: Sequence[str]) -> int:
    """``byol-ext slap compare``: SLAP and CLAP with shared seeds, equal encoders and samples seen; one table."""
    from recipes.slap_compare import ARMS, compare

    arms = ["slap", "clap-infonce", "slap-shuffled"]
    own = argparse.ArgumentParser(prog="byol-ext slap compare", add_help=False, allow_abbrev=False)
    own.add_argument("--arms", nargs="+", default=arms)
    own.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    own.add_argument("--jobs", type=int, default=1)
    own.add_argument("--out", type=Path)
    chosen, rest = own.parse_known_args(list(args))
    about = (
        "Train each arm with each seed and print one table with paired intervals against the first arm. A finished run "
        "is kept, so the command can be repeated; options are those of train, from the preset tiny.\n\n"
        f"--arms ARM ... of {', '.join(ARMS)} (default: {' '.join(arms)})\n\n"
        "--seeds N ... (default: 0 1 2); --jobs N runs at a time (default: 1); --out DIR (default: "
        "ROOT/slap-compare/NAME)"
    )
    unknown = [arm for arm in chosen.arms if arm not in ARMS]
    if unknown:
        print(f"byol-ext slap compare: arms {unknown} are unknown; known are {', '.join(ARMS)}", file=sys.stderr)
        return 2
    if chosen.jobs < 1:
        print(f"byol-ext slap compare: --jobs {chosen.jobs} must be at least 1", file=sys.stderr)
        return 2
    config = parse(PRESETS["tiny"], PRESETS, rest, prog="byol-ext slap compare", description=about)
    out = chosen.out if chosen.out is not None else Path(config.root) / "slap-compare" / config.name
    return compare(config, arms=chosen.arms, seeds=chosen.seeds, jobs=chosen.jobs, out=out)


def shard_command(args: Sequence[str]) -> int:
    """``byol-ext slap shard SOURCE DST``: pack any readable set into WebDataset shards."""
    from byol_ext.audio.data import write_shards

    parser = argparse.ArgumentParser(prog="byol-ext slap shard", description="Pack pairs into WebDataset shards.")
    parser.add_argument("source", help="what --data.train takes: tonecaps, manifest:FILE, hf:NAME, clotho:FILE, ...")
    parser.add_argument("dst", type=Path, help="folder of the shards; an interrupted run goes on where it stopped")
    parser.add_argument("--split", default="train", help="split of the source (default: train)")
    parser.add_argument("--audio-root", default="", help="folder that relative paths start from")
    parser.add_argument("--sample-rate", type=int, default=48_000, help="Hz of the shards (default: 48000)")
    parser.add_argument("--workers", type=int, default=1, help="threads that decode and encode")
    chosen = parser.parse_args(list(args))
    source = open_source(chosen.source, split=chosen.split, audio_root=chosen.audio_root)
    written = write_shards(source, chosen.dst, sr=chosen.sample_rate, workers=chosen.workers)
    print(f"{written}")
    return 0


def data_command(args: Sequence[str]) -> int:
    """``byol-ext slap data music DST``: render the captioned music set into shards."""
    from byol_ext.audio.music import build_music_set

    parser = argparse.ArgumentParser(
        prog="byol-ext slap data",
        description="Make a data set: music renders real scores with a real soundfont and writes true captions.",
    )
    parser.add_argument("kind", choices=["music"])
    parser.add_argument("dst", type=Path, nargs="?", default=Path("data/music"))
    parser.add_argument("--train", type=int, default=10_000, help="training clips")
    parser.add_argument("--val", type=int, default=600, help="validation clips")
    parser.add_argument("--test", type=int, default=1000, help="test clips, of titles that training never has")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a clip")
    parser.add_argument("--sample-rate", type=int, default=16_000, help="Hz")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    chosen = parser.parse_args(list(args))
    build_music_set(
        chosen.dst,
        n_train=chosen.train,
        n_val=chosen.val,
        n_test=chosen.test,
        seconds=chosen.seconds,
        sample_rate=chosen.sample_rate,
        workers=chosen.workers,
        progress=True,
    )
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "eval": eval_command,
    "compare": compare_command,
    "shard": shard_command,
    "data": data_command,
}
