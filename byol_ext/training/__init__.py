"""Training: ``fit`` over any model of the core and any source, with run directories, checkpoints and exact resume."""

from byol_ext.training.accumulate import Accumulator, Prepare, Window, average_gradients, check_exact
from byol_ext.training.checkpoint import latest_checkpoint, load_checkpoint, load_weights, save_checkpoint
from byol_ext.training.config import TrainConfig, learning_rate, total_steps
from byol_ext.training.environment import environment, process_device
from byol_ext.training.lars import LARS
from byol_ext.training.loop import Evaluate, FitResult, Monitor, fit
from byol_ext.training.optim import adamw, parameter_groups
from byol_ext.training.run import Run, plain
from byol_ext.training.source import Batch, EpochSource, LoaderSource, ResumableSampler, Source, rank_and_world
from byol_ext.training.trainable import Trainable, TwoStage

__all__ = [
    "LARS",
    "Accumulator",
    "Batch",
    "EpochSource",
    "Evaluate",
    "FitResult",
    "LoaderSource",
    "Monitor",
    "Prepare",
    "ResumableSampler",
    "Run",
    "Source",
    "TrainConfig",
    "Trainable",
    "TwoStage",
    "Window",
    "adamw",
    "average_gradients",
    "check_exact",
    "environment",
    "fit",
    "latest_checkpoint",
    "learning_rate",
    "load_checkpoint",
    "load_weights",
    "parameter_groups",
    "plain",
    "process_device",
    "rank_and_world",
    "save_checkpoint",
    "total_steps",
]
