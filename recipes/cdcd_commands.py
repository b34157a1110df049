"""The commands of ``byol-ext cdcd``: train, eval, sample, infill, probe, export, study."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from byol_ext.training import Run, rank_and_world
from recipes.cdcd import Trained, load_run, train
from recipes.cdcd_adapters import check_knobs
from recipes.cdcd_config import PRESETS, CdcdConfig, EvalConfig, SampleConfig, chars
from recipes.cdcd_data import open_data
from recipes.cdcd_eval import Evaluation, check_evaluation, evaluate
from recipes.cdcd_page import write_page
from recipes.cdcd_probe import export_command, probe_command
from recipes.cdcd_reference import Judges
from recipes.cdcd_sample_commands import infill_command, sample_command
from recipes.cdcd_study import study_command
from recipes.config import from_dict, parse

HEADLINES = (
    "ar_nll",
    "ngram_nll",
    "entropy_pooled",
    "entropy_sequence",
    "js2",
    "js3",
    "copy_rate",
    "words/found",
    "bits_per_char_bound",
    "bits_per_char",
    "warp/deviation",
)


@dataclass(frozen=True)
class Measuring:
    """What ``eval`` may change of a run's configuration."""

    eval: EvalConfig = field(default_factory=EvalConfig)
    """What is measured."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """How sequences are drawn."""


def train_command(args: Sequence[str]) -> int:
    """``byol-ext cdcd train``: train, then evaluate."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--resume", action="store_true")
    chosen, rest = own.parse_known_args(list(args))
    about = (
        "Train a text diffusion model (--process gaussian or simplex), or a baseline of the same size (--method ar, "
        "mdlm), then evaluate it.\n\n"
        "--resume continues the run of that name from its newest checkpoint, or starts it."
    )
    config = parse(chars, PRESETS, rest, prog="byol-ext cdcd train", description=about)
    return train_and_evaluate(config, resume=chosen.resume)


def train_and_evaluate(config: CdcdConfig, *, resume: bool = False) -> int:
    """Train, and unless a signal stopped it, evaluate and write results, page and card.

    Returns:
        Exit code: 0, or 130 after an interrupt.

    Raises:
        ValueError: If sampling or evaluation would fail after the training.
    """
    check_knobs(config.sample, kind(config))
    data = open_data(config.data)
    check_evaluation(config, data)
    result, trained, run = train(config, resume=resume, data=data)
    if result.interrupted is not None:
        return 130
    if rank_and_world()[0] == 0:
        extra = {"train/steps": float(result.step), "train/seconds": result.seconds}
        print_headlines(report(trained, run, extra=extra).metrics, run.path)
    return 0


def kind(config: CdcdConfig) -> str:
    """The name of a configuration's model: cdcd, simplex, mdlm or ar."""
    if config.method != "diffusion":
        return config.method
    return "simplex" if config.process == "simplex" else "cdcd"


def report(
    trained: Trained, run: Run, *, extra: dict[str, float] | None = None, judges: Judges | None = None
) -> Evaluation:
    """Evaluate; write ``results.json``, the figures, ``page.html`` and the card.

    Args:
        trained: The model with its text.
        run: Where to write.
        extra: Further metrics, such as what the training took.
        judges: Judges that are open already.

    Returns:
        What was measured, the further metrics among it.
    """
    evaluation = evaluate(trained, judges=judges)
    evaluation = replace(evaluation, metrics=evaluation.metrics | (extra or {}))
    write_page(run.path, evaluation.page)
    run.write_results(evaluation.metrics, controls=evaluation.controls, protocol=evaluation.protocol)
    return evaluation


def print_headlines(metrics: dict[str, float], path: Path) -> None:
    """The figures that people look for."""
    for name in HEADLINES:
        if name in metrics:
            print(f"{name:24} {metrics[name]:.4g}")
    print(f"results: {path / 'results.json'}  page: {path / 'page.html'}")


def eval_command(args: Sequence[str]) -> int:
    """``byol-ext cdcd eval --run DIR``."""
    prog = "byol-ext cdcd eval"
    own = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    own.add_argument("--run", type=Path)
    own.add_argument("--json", action="store_true")
    chosen, rest = own.parse_known_args(list(args))
    default = Measuring()
    if chosen.run is not None:
        config = from_dict(CdcdConfig, Run.open(chosen.run).config, where=str(chosen.run / "config.yaml"))
        default = Measuring(config.eval, config.sample)
    elif not {"-h", "--help"} & set(rest):
        own.error("--run DIR is required")
    about = (
        "Evaluate a trained run's averaged weights and write results.json and page.html; options that are not given "
        "are the run's own.\n\n--run DIR is the run directory, --json prints JSON."
    )
    measuring = tyro.cli(Measuring, default=default, args=rest, prog=prog, description=about)
    trained, run = load_run(chosen.run)
    trained.config = replace(trained.config, eval=measuring.eval, sample=measuring.sample)
    check_knobs(measuring.sample, kind(trained.config))
    metrics = report(trained, run, extra=_of_training(run)).metrics
    if chosen.json:
        print(json.dumps(metrics, indent=1))
        return 0
    for name, value in metrics.items():
        print(f"{name:44} {value:.4g}")
    return 0


def _of_training(run: Run) -> dict[str, float]:
    """What an earlier evaluation noted of the training, which this one cannot know."""
    earlier = (run.results() or {}).get("metrics", {})
    return {name: value for name, value in earlier.items() if name.startswith("train/")}


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "eval": eval_command,
    "sample": sample_command,
    "infill": infill_command,
    "probe": probe_command,
    "export": export_command,
    "study": study_command,
}
