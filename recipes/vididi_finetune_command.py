"""``byol-ext vididi finetune``: a classifier on a pretrained encoder, or on a fresh one (the supervised baseline)."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from byol_ext.training import Run
from byol_ext.training.figures import confusion_figure
from byol_ext.video.transforms import check_invariances
from recipes.config import parse
from recipes.vididi import centre, fresh, load_run
from recipes.vididi_config import DataConfig, VididiConfig
from recipes.vididi_data import Splits, open_splits
from recipes.vididi_eval import evaluate
from recipes.vididi_finetune import FinetuneConfig, Finetuned, finetune


@dataclass(frozen=True)
class FinetuneRun:
    """Fine-tune the encoder of a run as a classifier."""

    run: str = ""
    """Run directory of the pretraining: its encoder, its clips' size and augmentation."""
    scratch: bool = False
    """Start from a fresh encoder of that kind: the supervised baseline."""
    name: str = "finetune"
    """Name of the fine-tuning; it lives in RUN/finetune/NAME."""
    data: DataConfig = field(default_factory=lambda: DataConfig(train=""))
    """Labelled videos; data.train empty: those of the run."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    force_augment: bool = False
    """Allow augmentation that breaks the labels of the data set."""


def finetune_command(args: Sequence[str]) -> int:
    """``byol-ext vididi finetune --run DIR``."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--resume", action="store_true")
    own.add_argument("--json", action="store_true")
    chosen, rest = own.parse_known_args(list(args))
    about = (
        "Fine-tune a pretrained encoder as a classifier and test it: last epoch, full test split, validation videos "
        "from the training split by group. --resume continues, --json prints JSON."
    )
    config = parse(FinetuneRun, {}, rest, prog="byol-ext vididi finetune", description=about)
    if not config.run:
        print(
            "byol-ext vididi finetune: --run DIR is needed: a run directory of byol-ext vididi train", file=sys.stderr
        )
        return 2
    pretrained, experiment, _ = load_run(config.run)
    encoder = experiment.encoder
    if config.scratch:
        encoder = fresh(pretrained).encoder
    data = config.data if config.data.train else pretrained.data
    splits = open_splits(data, seed=pretrained.seed)
    path = Path(config.run) / "finetune" / config.name
    command = f"byol-ext vididi finetune --config {shlex.quote(str(path / 'config.yaml'))} --resume"
    run = Run.create(path, recipe="vididi-finetune", config=config, resume=chosen.resume, resume_command=command)
    done = _finetuned(
        encoder, pretrained, splits, config.finetune, run, force=config.force_augment, resume=chosen.resume
    )
    if done.fit.interrupted is not None:
        return 130
    if chosen.json:
        print(json.dumps(done.metrics, indent=1))
    else:
        print("\n".join(f"{name:34} {value:.4g}" for name, value in done.metrics.items()))
        print(f"results: {run.path / 'results.json'}")
    return 0


def supervised(config: VididiConfig) -> int:
    """The supervised encoder of a study: as many steps on labels, then the same evaluation as the others.

    Args:
        config: The configuration of the pretraining that it stands beside.

    Returns:
        Exit code.
    """
    splits = open_splits(config.data, seed=config.seed)
    assert splits.test is not None
    encoder = fresh(config).encoder
    path = Path(config.root) / "vididi" / config.name
    run = Run.create(path, recipe="vididi-supervised", config=config, resume=True, resume_command="")
    settings = FinetuneConfig(
        train=config.train,
        optimizer="adamw",
        decay_at=(),
        batch=config.data.batch,
        dropout=0.0,
        frames=config.clips.frames,
        stride=config.clips.stride,
        validation_share=0.0,
        test=config.eval.protocol,
        seed=config.seed,
    )
    done = _finetuned(encoder, config, splits, settings, run, force=False, resume=True)
    if done.fit.interrupted is not None:
        return 130
    evaluation = evaluate(encoder, train=splits.train, test=splits.test, config=config.eval, centre=centre(config))
    run.write_results(evaluation.metrics | done.metrics, protocol=evaluation.protocol | {"finetune": done.protocol})
    return 0


def _finetuned(
    encoder: nn.Module,
    config: VididiConfig,
    splits: Splits,
    settings: FinetuneConfig,
    run: Run,
    *,
    force: bool,
    resume: bool,
) -> Finetuned:
    """Train and test; results and the confusion of classes go into the run.

    Raises:
        ValueError: If there are no labelled test videos.
    """
    if splits.test is None or not splits.train.classes:
        raise ValueError("fine-tuning needs labelled training and test videos; give --data.train and --data.test")
    check_invariances(config.augment, splits.train.invariances, force=force)
    done = finetune(
        encoder,
        train=splits.train,
        test=splits.test,
        config=settings,
        augment=config.augment,
        centre=centre(config),
        run=run,
        resume=resume,
    )
    if done.confusion is not None:
        confusion_figure(done.confusion, names=list(splits.test.classes), path=run.figures / "confusion.png")
        run.write_results(done.metrics, protocol=done.protocol)
    return done
