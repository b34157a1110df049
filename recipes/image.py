"""The image recipe end to end: configuration -> pictures -> views -> Bootstrap -> fit.

BYOL (Grill et al., arXiv 2006.07733) and its relatives over one loop: what differs between methods is the graph that
``image_methods.build_method`` makes of a configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from byol_ext.bootstrap import Bootstrap, Out
from byol_ext.ledger import BadSampleLedger
from byol_ext.metrics.predictor_spectrum import GradientNorms, PredictorMonitor
from byol_ext.metrics.probes import knn_probe
from byol_ext.metrics.spectrum import CollapseMonitor
from byol_ext.training import (
    Evaluate,
    FitResult,
    Monitor,
    Run,
    TrainConfig,
    fit,
    load_weights,
    process_device,
    rank_and_world,
    total_steps,
)
from recipes.config import open_run, resume_command
from recipes.image_config import ImageConfig
from recipes.image_data import Prepare, Splits, context_names, features, open_splits, training_source
from recipes.image_method_config import EDGE_METHODS
from recipes.image_methods import BRANCH, build_encoder, build_method, build_optimizer

FREE = ("eval", "root", "data.workers")
"""What may differ when a run is resumed: it does not change the weights."""
logger = logging.getLogger(__name__)


@dataclass
class Experiment:
    """A model.

    Attributes:
        model: The trainable graph.
    """

    model: Bootstrap

    @property
    def encoder(self) -> nn.Module:
        """The online encoder, ``[B, c, M, M] -> [B, width]``: what evaluation looks at."""
        branch = self.model.branches[BRANCH]
        return branch.encoder  # type: ignore[return-value]


def build(config: ImageConfig, *, steps: int, samples: int | None = None) -> Experiment:
    """The trainable graph of a configuration; ``config.seed`` seeds the weights.

    Args:
        config: The configuration.
        steps: Optimiser steps of the training, for the decay's schedule.
        samples: Training pictures; PAL's active loop needs to know.
    """
    torch.manual_seed(config.seed)
    return Experiment(build_method(config, build_encoder(config), steps=steps, samples=samples))


def fresh(config: ImageConfig) -> Experiment:
    """The graph as it is before training: to load weights into, or as the untrained control.

    Args:
        config: The configuration.
    """
    return build(config, steps=1, samples=1)


def train(config: ImageConfig, *, resume: bool = False) -> tuple[FitResult, Experiment, Splits, Run]:
    """Train from a configuration.

    Args:
        config: The configuration.
        resume: Whether to continue the run of that name.

    Returns:
        How it ended, the model in evaluation mode, the data, the run.

    Raises:
        FileNotFoundError: If the data is not there.
        ValueError: For options that contradict each other.
        TooManyBadSamples: If more than ``data.max_bad_fraction`` of the pictures cannot be used.
    """
    splits = open_splits(config)
    path = Path(config.root) / "image" / config.name
    run = Run.create(
        path, recipe="image", config=config, resume=resume, resume_command=resume_command("image", path), free=FREE
    )
    source = training_source(config, splits)
    scaled = scale_lr(config)
    experiment = build(config, steps=total_steps(scaled, source), samples=len(splits.train))
    warn_of_collapse(config)
    ledger = BadSampleLedger(max_bad_fraction=config.data.max_bad_fraction)
    norms, optimizer = GradientNorms(), build_optimizer(config, scaled)
    try:
        result = fit(
            experiment.model,
            source,
            scaled,
            prepare=Prepare(config, splits, names=context_names(experiment.model), ledger=ledger),
            run=run,
            monitors=[*monitors(), norms],
            evaluate=online_knn(config, splits),
            resume=resume,
            optimizer=lambda model: norms.watch(model, optimizer(model)),
            unit="images",
            headline="eval/knn_accuracy" if scaled.evaluate_every else None,
        )
        ledger.check()
    finally:
        account(run, ledger)
    experiment.model.eval()
    return result, experiment, splits, run


def monitors() -> Sequence[Monitor]:
    """Collapse of the online latents, and the predictor's matrix and target."""
    watch = CollapseMonitor()

    def collapse(model: nn.Module, out: Out, step: int) -> Mapping[str, float]:
        return watch(out.online, step=step)

    return [collapse, PredictorMonitor()]


def online_knn(config: ImageConfig, splits: Splits) -> Evaluate | None:
    """The k-NN accuracy on the test pictures, every ``train.evaluate_every`` steps; for watching, not for choosing."""
    if splits.test is None:
        return None
    test = splits.test

    def evaluate(model: nn.Module, step: int) -> Mapping[str, float]:
        assert isinstance(model, Bootstrap)
        encoder = Experiment(model).encoder
        probe = knn_probe(
            train=features(encoder, splits.train, config),
            test=features(encoder, test, config),
            k=config.eval.knn,
            temperature=config.eval.knn_temperature,
        )
        return {"knn_accuracy": probe.metrics["accuracy"]}

    return evaluate


def warn_of_collapse(config: ImageConfig) -> None:
    """Say so where our own small runs collapsed (core spec 15): bootstrapping without batch statistics."""
    batchless = config.encoder.norm != "batch" or config.method.norm in ("gn_ws", "none")
    if batchless and config.method.name in EDGE_METHODS:
        logger.warning(
            "%s without batch statistics collapsed in all small runs of the spec (section 15); watch "
            "collapse/collapsed in metrics.jsonl, or use method.norm='batch' and encoder.norm='batch'",
            config.method.name,
        )


def scale_lr(config: ImageConfig) -> TrainConfig:
    """The training configuration with the learning rate of the batch over all processes."""
    if not config.lr_reference_batch:
        return config.train
    batch = config.data.batch * config.train.accumulate_steps * rank_and_world()[1]
    return replace(config.train, lr=config.train.lr * batch / config.lr_reference_batch)


def account(run: Run, ledger: BadSampleLedger) -> None:
    """Write ``errors.jsonl`` if some pictures could not be used."""
    if ledger.entries:
        rank = rank_and_world()[0]
        ledger.write(run.path / ("errors.jsonl" if rank == 0 else f"errors-rank{rank}.jsonl"))


def load_run(path: str | Path) -> tuple[ImageConfig, Experiment, Run]:
    """A trained model from its run directory, in evaluation mode.

    Args:
        path: Run directory.

    Raises:
        FileNotFoundError: If there is no run, or it has no complete checkpoint.
        ValueError: If it is another recipe's run.
    """
    config, run, checkpoint = open_run(path, "image", ImageConfig)
    experiment = fresh(config)
    load_weights(experiment.model, checkpoint)
    experiment.model.to(process_device(config.train.device)).eval()
    return config, experiment, run
