"""The commands of ``byol-ext image``: train, eval, compare, spectrum."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from byol_ext.training import Run, latest_checkpoint, process_device, rank_and_world
from byol_ext.training.curves import training_curves
from byol_ext.training.figures import confusion_figure
from recipes.config import parse
from recipes.image import Experiment, fresh, load_run, train
from recipes.image_compare import compare_command
from recipes.image_config import PRESETS, ImageConfig, clutter
from recipes.image_data import Splits, open_splits
from recipes.image_eval import Evaluation, branch_of, evaluate
from recipes.image_figures import views_figure
from recipes.image_methods import encoder_passes
from recipes.image_spectrum_command import spectrum_command

HEADLINES = (
    "probe/linear_accuracy",
    "probe/knn_accuracy",
    "probe/random_init_accuracy",
    "probe/raw_pixels_accuracy",
    "probe/chance",
    "few_labels/1%/accuracy",
    "few_labels/10%/accuracy",
    "rankme",
    "std_sqrt_d",
)
CURVES = (
    "loss",
    *(f"collapse/{view}/z/{name}" for view in ("a", "p0") for name in ("std_sqrt_d", "rankme")),
    "predictor/a->b/cosine",
    "predictor/image/stable_rank",
    "predictor/image/binary_error",
    "predictor/image/alignment",
    "ema/tau",
    "ema/distance",
    "lr",
    "grad_norm",
)
MOST_CONFUSED = 40
"""Classes of a confusion matrix that can still be read."""


def train_command(args: Sequence[str]) -> int:
    """``byol-ext image train``: pretrain, then evaluate on the test pictures."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--resume", action="store_true")
    chosen, rest = own.parse_known_args(list(args))
    about = (
        "Pretrain an image encoder with BYOL or one of its relatives (--method.name), then evaluate it.\n\n"
        "--resume continues the run of that name from its newest checkpoint, or starts it."
    )
    config = parse(clutter, PRESETS, rest, prog="byol-ext image train", description=about)
    return train_and_evaluate(config, resume=chosen.resume)


def train_and_evaluate(config: ImageConfig, *, resume: bool = False) -> int:
    """Train, and unless a signal stopped it, evaluate and write results, figures and card.

    Returns:
        Exit code: 0, or 130 after an interrupt.
    """
    whole, began = begins_anew(config), time.process_time()
    result, experiment, splits, run = train(config, resume=resume)
    if result.interrupted is not None:
        return 130
    if rank_and_world()[0] != 0:
        return 0
    extra = {"train/steps": float(result.step), "train/seconds": result.seconds, **cost(run)}
    extra |= {"train/cpu_seconds": time.process_time() - began} if whole else {}
    if splits.test is None:
        draw(run, config, splits)
        print(f"trained; there are no test pictures to evaluate on (--data.test). Run: {run.path}")
        return 0
    evaluation = report(config, experiment, splits, run, extra=extra)
    print_headlines(evaluation.metrics, run.path)
    return 0


def report(
    config: ImageConfig, experiment: Experiment, splits: Splits, run: Run, *, extra: dict[str, float] | None = None
) -> Evaluation:
    """Evaluate with controls; write ``results.json`` and the figures.

    Args:
        config: The configuration.
        experiment: The trained model.
        splits: The pictures.
        run: Where to write.
        extra: Further metrics, such as what the training took; default: those of an earlier evaluation.

    Returns:
        What was measured, the further metrics among it.
    """
    before = run.results()
    if extra is None and before is not None:
        extra = {name: value for name, value in before["metrics"].items() if name.startswith("train/")}
    evaluation = measured(config, experiment, splits)
    passes = float(encoder_passes(experiment.model))
    evaluation = replace(evaluation, metrics=evaluation.metrics | {"train/encoder_passes": passes} | dict(extra or {}))
    draw(run, config, splits)
    if len(evaluation.classes) <= MOST_CONFUSED:
        confusion_figure(evaluation.confusion, names=evaluation.classes, path=run.figures / "confusion.png")
    run.write_results(
        evaluation.metrics,
        controls=evaluation.controls,
        protocol=evaluation.protocol | {"pretraining": pretraining(config)},
    )
    return evaluation


def measured(config: ImageConfig, experiment: Experiment, splits: Splits) -> Evaluation:
    """Probes and ranks of the encoder and, with ``eval.controls``, of its untrained twin and of raw pixels."""
    untrained = branch_of(fresh(config).model).to(process_device(config.train.device)) if config.eval.controls else None
    projector = branch_of(experiment.model).projector
    return evaluate(experiment.encoder, splits, config, projector=projector, untrained=untrained)


def begins_anew(config: ImageConfig) -> bool:
    """Whether a run has no checkpoint yet: what an earlier process took of the CPU is not known."""
    return latest_checkpoint(Path(config.root) / "image" / config.name / "checkpoints") is None


def cost(run: Run) -> dict[str, float]:
    """``train/step_ms``: the median over the log's intervals, so that monitors and checkpoints do not count."""
    times = [record["seconds_per_step"] for record in run.metrics() if "seconds_per_step" in record]
    return {"train/step_ms": 1e3 * statistics.median(times)} if times else {}


def pretraining(config: ImageConfig) -> dict[str, object]:
    """What the encoder was pretrained with, in short; ``config.yaml`` has all of it."""
    return {
        "method": config.method.name,
        "encoder": config.encoder.name,
        "norm": config.encoder.norm,
        "data": config.data.train,
        "batch": config.data.batch,
        "optimizer": config.optimizer,
        "seed": config.seed,
    }


def draw(run: Run, config: ImageConfig, splits: Splits) -> None:
    """Training curves, and the views of some pictures."""
    training_curves({config.name: run.path / "metrics.jsonl"}, path=run.figures / "training.png", terms=CURVES)
    views_figure(config, splits, path=run.figures / "views.png")


def print_headlines(metrics: dict[str, float], path: Path) -> None:
    """The figures that people look for."""
    for name in HEADLINES:
        if name in metrics:
            print(f"{name:28} {metrics[name]:.4g}")
    print(f"results: {path / 'results.json'}")


def eval_command(args: Sequence[str]) -> int:
    """``byol-ext image eval --run DIR``."""
    parser = argparse.ArgumentParser(
        prog="byol-ext image eval",
        description="k-NN, linear probe, few labels and rank of a trained encoder, with controls.",
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--test", default="", help="other test pictures: a folder or a split (default: the run's own)")
    parser.add_argument("--patches", type=int, help="patches whose features are averaged (default: the run's own)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(list(args))
    config, experiment, run = load_run(chosen.run)
    config = replace(
        config,
        data=replace(config.data, test=chosen.test or config.data.test),
        eval=replace(config.eval, patches=chosen.patches or config.eval.patches),
    )
    evaluation = report(config, experiment, open_splits(config), run)
    if chosen.json:
        print(json.dumps(evaluation.metrics, indent=1))
    else:
        for name, value in evaluation.metrics.items():
            print(f"{name:44} {value:.4g}")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "eval": eval_command,
    "compare": compare_command,
    "spectrum": spectrum_command,
}
