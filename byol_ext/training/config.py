"""Configuration of the training loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from byol_ext.schedules import Schedule, warmup_constant, warmup_cosine
from byol_ext.training.source import EpochSource, Source

RESUMABLE = frozenset(
    {
        "steps",
        "epochs",
        "samples_seen",
        "log_every",
        "monitor_every",
        "evaluate_every",
        "checkpoint_every",
        "keep",
        "trackers",
        "nan_patience",
        "device",
        "compile",
        "deterministic",
        "find_unused_parameters",
    }
)
"""Fields that may differ between the run and its resumption; a changed limit changes the learning-rate schedule."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The size of a micro-batch belongs to the source; training ends at the first limit reached."""

    steps: int | None = None
    """Optimiser steps."""
    epochs: float | None = None
    """Passes over the data (a source with epochs only)."""
    samples_seen: int | None = None
    """Samples over all processes (a source with epochs only)."""
    accumulate_steps: int = 1
    """Micro-batches of each optimiser step."""
    accumulate: Literal["naive", "cached"] = "naive"
    """naive: sum of micro-batch gradients, exact where no layer or loss couples samples. cached: exact for every head
    and loss, for one extra encoder forward (spec slap 8)."""
    lr: float = 4e-4
    """Peak learning rate (SLAP 4.3)."""
    predictor_lr_scale: float = 1.0
    """Factor on the learning rate of the model's predictors: above 1 they follow the projections faster, which keeps
    more directions of the latent space in use."""
    predictor_lr_schedule: Literal["same", "const"] = "same"
    """Learning rate of the predictors over time: the schedule, or without warm-up and decay (SimSiam's fixed rate)."""
    warmup: float = 0.1
    """Fraction of the steps with linear warm-up (SLAP 4.3)."""
    schedule: Literal["cosine", "const"] = "cosine"
    """Learning rate after the warm-up: half a cosine to ``final_lr``, or constant."""
    final_lr: float = 0.0
    """Where the cosine ends, as a fraction of the peak (ViDiDi's code: .001)."""
    weight_decay: float = 1e-6
    """AdamW's decay of weight matrices (SLAP's public configuration); none on norms, biases and 1-D parameters."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decays."""
    clip_norm: float = 3.0
    """Largest gradient norm of a step (SLAP's public configuration); 0 switches clipping off."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Autocast type; auto is bf16 on a CUDA device that has it, else no."""
    compile: bool = False
    """Whether to torch.compile the encoders."""
    sync_batchnorm: bool = False
    """Whether BatchNorm takes its statistics over all processes; an error on the CPU."""
    find_unused_parameters: bool = False
    """DistributedDataParallel's flag: needed where a step leaves parameters out, as alternating plans do."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    monitor_every: int = 100
    """Steps between calls of the monitors; 0 for never."""
    evaluate_every: int = 0
    """Steps between evaluations during training; 0 for never."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the end of training always makes one."""
    keep: int = 3
    """Checkpoints kept."""
    seed: int = 0
    """Seed of dropout and of whatever else draws from the global generators; each rank gets its own stream."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Experiment trackers: tensorboard, wandb, trackio."""
    deterministic: bool = False
    """Whether to ask PyTorch for deterministic algorithms (slower on CUDA)."""
    nan_patience: int = 5
    """Consecutive steps with a non-finite loss or gradient, all skipped, after which training fails."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto is cuda where available."""

    def __post_init__(self) -> None:
        for name in ("accumulate_steps", "log_every", "checkpoint_every", "keep", "nan_patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("monitor_every", "evaluate_every", "clip_norm", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not 0.0 <= self.final_lr <= 1.0:
            raise ValueError(f"final_lr={self.final_lr} is a fraction of lr and must lie in [0, 1]")
        if not 0.0 <= self.warmup <= 1.0:
            raise ValueError(f"warmup={self.warmup} is a fraction of the steps and must lie in [0, 1]")
        for name in ("steps", "epochs", "samples_seen"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be positive")


def total_steps(config: TrainConfig, source: Source) -> int:
    """Optimiser steps until the first limit.

    Args:
        config: The configuration; at least one of ``steps``, ``epochs``, ``samples_seen`` is set.
        source: Says how many batches and samples an epoch holds.

    Raises:
        ValueError: If no limit is set, or a limit needs epochs that the source does not have.
    """
    limits = [config.steps] if config.steps is not None else []
    epochs = [config.epochs] if config.epochs is not None else []
    if config.epochs is not None or config.samples_seen is not None:
        if not isinstance(source, EpochSource):
            raise ValueError(f"{type(source).__name__} has no epochs; limit the training by steps")
        if config.samples_seen is not None:
            epochs.append(config.samples_seen / source.samples_per_epoch)
        # The tolerance keeps 3 epochs of 7 batches at 21 windows when the division is not exact.
        batches = min(epochs) * source.batches_per_epoch
        limits.append(max(math.ceil(batches / config.accumulate_steps - 1e-9), 1))
    if not limits:
        raise ValueError("nothing limits the training; set steps, epochs or samples_seen")
    return min(limits)


def learning_rate(config: TrainConfig, steps: int) -> Schedule:
    """Learning rate of update ``step + 1``.

    Args:
        config: The configuration.
        steps: Steps of the whole training.

    Example:
        >>> lr = learning_rate(TrainConfig(lr=1.0, warmup=0.1), steps=100)
        >>> [round(lr(k), 2) for k in (0, 9, 55, 100)]
        [0.1, 1.0, 0.5, 0.0]
    """
    warmup = round(config.warmup * steps)
    if config.schedule == "const":
        return warmup_constant(config.lr, warmup)
    return warmup_cosine(config.lr, steps, warmup, config.final_lr * config.lr)
