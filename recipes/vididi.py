"""ViDiDi end to end: configuration -> videos -> clips -> derivatives -> Bootstrap -> fit -> evaluation -> figures.

"Unfolding Videos Dynamics via Taylor Expansion" (Chen et al., arXiv 2409.02371): two clips of a video and their
temporal differences are views of one signal, and one encoder gives all of them the same embedding.

Legend: ``B`` videos, ``V`` clips of each, ``T`` frames, ``C, H, W``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from byol_ext.bootstrap import Bootstrap, Ctx
from byol_ext.ledger import BadSampleLedger
from byol_ext.metrics.spectrum import CollapseMonitor
from byol_ext.rng import sample_keys
from byol_ext.schedules import Schedule
from byol_ext.training import (
    FitResult,
    LoaderSource,
    Monitor,
    ResumableSampler,
    Run,
    TrainConfig,
    fit,
    learning_rate,
    load_weights,
    process_device,
    rank_and_world,
    total_steps,
)
from byol_ext.video.data import NOTE_HINTS, VideoClips, collate, data_report
from byol_ext.video.derivatives import difference_pair
from byol_ext.video.schedule import DerivativeSchedule
from byol_ext.video.transforms import CentreClip, ClipAugment, check_invariances
from recipes.config import open_run, resume_command
from recipes.vididi_config import VididiConfig
from recipes.vididi_data import Splits, open_splits
from recipes.vididi_model import (
    BRANCH,
    FIRST,
    SECOND,
    build_bootstrap,
    build_encoder,
    build_optimizer,
    build_schedule,
    ema_decay,
)

_LONG_EPOCH = 10**6  # steps; only a training has epochs of its own
FREE = ("eval", "root", "data.workers")
"""What may differ when a run is resumed: it does not change the weights."""


@dataclass
class Experiment:
    """A model with what its batches go through.

    Attributes:
        model: The trainable graph.
        schedule: Derivatives of each step.
    """

    model: Bootstrap
    schedule: DerivativeSchedule

    @property
    def encoder(self) -> nn.Module:
        """The online encoder: what evaluation looks at."""
        branch = self.model.branches[BRANCH]
        return branch.encoder  # type: ignore[return-value]


class Prepare:
    """Batches on the device to views: augmentation, differences in float32, and each clip's order.

    Args:
        augment: Augmentation of clips.
        schedule: Derivatives of each step.
        seed: Seed of the augmentation.
        ledger: Account of unusable videos.
    """

    def __init__(self, augment: ClipAugment, schedule: DerivativeSchedule, *, seed: int, ledger: BadSampleLedger):
        self.augment, self.schedule, self.seed, self.ledger = augment, schedule, seed, ledger

    def __call__(self, batch: Mapping[str, Any], step: int) -> tuple[dict[str, Any], Ctx]:
        """``(batch, step) -> (views, Ctx)``."""
        self.ledger.update(batch)
        keys_B = sample_keys(self.seed, batch["epochs"], batch["ids"])
        clips_BVCTHW: Tensor = self.augment(batch["clips"], batch["sizes"], keys_B)
        orders = self.schedule.orders(step)
        pair = difference_pair(clips_BVCTHW[:, 0], clips_BVCTHW[:, 1], orders)
        views = {
            name: {"x": x_BCTHW, "order_B": torch.full((len(x_BCTHW),), order, dtype=torch.int64)}
            for name, x_BCTHW, order in zip((FIRST, SECOND), pair, orders, strict=True)
        }
        return views, Ctx()


def collapse_monitor() -> Monitor:
    """Collapse monitor over the online latents of a step."""
    watch = CollapseMonitor()
    return lambda model, out, step: watch(out.online, step=step)


def build(config: VididiConfig, *, channels: int, steps: int, steps_per_epoch: int) -> Experiment:
    """The trainable graph of a configuration; ``config.seed`` seeds the weights.

    Args:
        config: The configuration.
        channels: Channels that the encoder sees.
        steps: Optimiser steps of the training, for the decay's schedule.
        steps_per_epoch: Steps of a pass over the data, for the derivatives' schedule.
    """
    torch.manual_seed(config.seed)
    schedule = build_schedule(config, steps_per_epoch=steps_per_epoch)
    encoder = build_encoder(config, channels=channels, max_order=schedule.max_order)
    model = build_bootstrap(
        encoder,
        config.method,
        schedule,
        decay=ema_decay(config.method, steps=counted(config, schedule, steps), count=counter(config, schedule)),
        joint=config.encoder.bn != "per_view",
    )
    return Experiment(model, schedule)


def fresh(config: VididiConfig) -> Experiment:
    """The graph as it is before training: to load weights into, or as the untrained control.

    Args:
        config: The configuration.
    """
    return build(config, channels=len(config.augment.mean), steps=1, steps_per_epoch=_LONG_EPOCH)


def counter(config: VididiConfig, schedule: DerivativeSchedule) -> Callable[[int], int]:
    """Step counter of learning rate and decay: the step, or the authors' that counts macro-epochs."""
    return schedule.macro_step if config.schedule.authors_step_reuse else int


def counted(config: VididiConfig, schedule: DerivativeSchedule, steps: int) -> int:
    """Steps of the training as that counter counts them."""
    return counter(config, schedule)(steps - 1) + 1


def train(config: VididiConfig, *, resume: bool = False) -> tuple[FitResult, Experiment, Splits, Run]:
    """Train from a configuration.

    Args:
        config: The configuration.
        resume: Whether to continue the run of that name.

    Returns:
        How it ended, the model in evaluation mode, the data, the run.

    Raises:
        ValueError: For data that does not exist, or augmentation that breaks its labels.
        TooManyBadSamples: If more than ``data.max_bad_fraction`` of the videos cannot be used.
    """
    splits = open_splits(config.data, seed=config.seed)
    check_invariances(config.augment, splits.train.invariances, force=config.force_augment)
    path = Path(config.root) / "vididi" / config.name
    run = Run.create(
        path, recipe="vididi", config=config, resume=resume, resume_command=resume_command("vididi", path), free=FREE
    )
    clips = VideoClips(
        splits.train,
        config.clips,
        seed=config.seed,
        short_side=config.data.short_side,
        min_motion=config.data.min_motion,
    )
    source = LoaderSource(
        clips,
        ResumableSampler(len(clips), config.data.batch, seed=config.seed),
        collate=collate,
        num_workers=config.data.workers,
    )
    scaled = scale_lr(config)
    steps = total_steps(scaled, source)
    experiment = build(
        config,
        channels=len(config.augment.mean),
        steps=steps,
        steps_per_epoch=max(source.batches_per_epoch // scaled.accumulate_steps, 1),
    )
    ledger = BadSampleLedger(max_bad_fraction=config.data.max_bad_fraction, hints=NOTE_HINTS)
    try:
        result = fit(
            experiment.model,
            source,
            scaled,
            prepare=Prepare(config.augment, experiment.schedule, seed=config.seed, ledger=ledger),
            run=run,
            monitors=[collapse_monitor()],
            resume=resume,
            optimizer=build_optimizer(config, scaled),
            lr=authors_rate(config, scaled, experiment.schedule, steps),
            unit="videos",
        )
        ledger.check()
    finally:
        account(run, ledger)
    experiment.model.eval()
    return result, experiment, splits, run


def authors_rate(config: VididiConfig, train: TrainConfig, schedule: DerivativeSchedule, steps: int) -> Schedule | None:
    """The authors' staircase where it is asked for: each pass of a macro-epoch starts from the same rate."""
    if not config.schedule.authors_step_reuse:
        return None
    rate = learning_rate(train, counted(config, schedule, steps))
    return lambda step: rate(schedule.macro_step(step))


def account(run: Run, ledger: BadSampleLedger) -> None:
    """Write what became of the videos: ``data.json``, and ``errors.jsonl`` if some could not be used."""
    rank = rank_and_world()[0]
    suffix = "" if rank == 0 else f"-rank{rank}"
    (run.path / f"data{suffix}.json").write_text(json.dumps(data_report(ledger), indent=1) + "\n")
    if ledger.entries:
        ledger.write(run.path / f"errors{suffix}.jsonl")


def scale_lr(config: VididiConfig) -> TrainConfig:
    """The training configuration with the learning rate of the batch over all processes."""
    if not config.lr_reference_batch:
        return config.train
    batch = config.data.batch * config.train.accumulate_steps * rank_and_world()[1]
    return replace(config.train, lr=config.train.lr * batch / config.lr_reference_batch)


def centre(config: VididiConfig) -> CentreClip:
    """Deterministic clips for evaluation, of the size and normalisation of training (spec 6: 128 to 112)."""
    augment = config.augment
    whole = config.data.train.startswith("motion-sprites")
    short_side = augment.size if whole else round(augment.size * 128 / 112)
    return CentreClip(augment.size, short_side=short_side, mean=augment.mean, std=augment.std)


def load_run(path: str | Path) -> tuple[VididiConfig, Experiment, Run]:
    """A trained model from its run directory, in evaluation mode.

    Args:
        path: Run directory.

    Raises:
        FileNotFoundError: If there is no run, or it has no complete checkpoint.
        ValueError: If it is another recipe's run.
    """
    config, run, checkpoint = open_run(path, "vididi", VididiConfig)
    experiment = fresh(config)
    load_weights(experiment.model, checkpoint)
    experiment.model.to(process_device(config.train.device)).eval()
    return config, experiment, run
