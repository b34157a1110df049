"""What the loop takes from Hugging Face Accelerate: device, precision, processes, wrappers, trackers."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, ProjectConfiguration
from torch import nn

from byol_ext.bootstrap import Branch
from byol_ext.heads import WindowBatchNorm2d
from byol_ext.training.config import TrainConfig
from byol_ext.training.optim import adamw
from byol_ext.training.run import Run
from byol_ext.training.trainable import process_buffers

logger = logging.getLogger(__name__)

_PLAIN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
TRACKERS = ("tensorboard", "wandb", "trackio")


def make_accelerator(config: TrainConfig, run: Run) -> Accelerator:
    """Accelerator for a configuration; joins the process group that a launcher describes.

    Raises:
        ValueError: If the device or precision is not available, or a tracker is unknown.
        ImportError: If a tracker is not installed.
    """
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise ValueError("device='cuda', but PyTorch sees no CUDA device; use device='cpu' or 'auto'")
    on_cuda = cuda and config.device != "cpu"
    for tracker in config.trackers:
        if tracker not in TRACKERS:
            raise ValueError(f"tracker {tracker!r} is not one of {', '.join(TRACKERS)}")
        if importlib.util.find_spec(tracker) is None:
            raise ImportError(f"tracker {tracker!r} is not installed: pip install {tracker}")
    # Accelerate keeps device and precision of a process' first accelerator; a program may train twice.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(
        cpu=not on_cuda,
        mixed_precision=_precision(config, on_cuda),
        log_with=list(config.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(run.path), logging_dir=str(run.path / "tensorboard")),
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=config.find_unused_parameters,
            )
        ],
    )


def _precision(config: TrainConfig, on_cuda: bool) -> Literal["no", "bf16", "fp16"]:
    if config.precision == "auto":
        return "bf16" if on_cuda and torch.cuda.is_bf16_supported() else "no"
    if config.precision == "fp16" and not on_cuda:
        raise ValueError("precision='fp16' needs a CUDA device; use 'bf16' or 'no' on the CPU")
    return config.precision


def prepare_model(
    accelerator: Accelerator,
    model: nn.Module,
    config: TrainConfig,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None,
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """Move the model to its device and wrap model and optimiser for the processes at hand.

    Cached accumulation averages gradients itself, so its model gets no wrapper.

    Raises:
        ValueError: Under FSDP1, if cached accumulation meets a wrapper that it does not know, such as FSDP2, or if
            BatchNorm cannot be synchronised on the device.
    """
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError(
            "FSDP1 is not supported: its flat parameters hide the target's weights from the moving average; use "
            "fsdp_version: 2 in Accelerate's configuration, or data parallel"
        )
    if config.sync_batchnorm and accelerator.device.type != "cuda":
        raise ValueError(
            f"sync_batchnorm needs CUDA, and this trains on {accelerator.device.type}; set sync_batchnorm=False"
        )
    model.to(accelerator.device)
    world = accelerator.num_processes
    if config.sync_batchnorm and world > 1:
        synchronize_batch_norms(model)
    elif world > 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        logger.warning("BatchNorm statistics are local to each of the %d processes", world)
    built = optimizer(model) if optimizer is not None else adamw(model, config, accelerator.device)
    if config.accumulate == "naive" and world > 1:
        wrapped, prepared = accelerator.prepare(model, built)
        return wrapped, cast(AcceleratedOptimizer, prepared)
    if accelerator.distributed_type not in _PLAIN:
        raise ValueError(
            f"accumulate='cached' runs in one process or data parallel, not under {accelerator.distributed_type.value}"
        )
    if world > 1:
        broadcast_state(model)
    return model, cast(AcceleratedOptimizer, accelerator.prepare_optimizer(built))


def refuse_unsharded_calls(accelerator: Accelerator, *, evaluates: bool, monitors: bool) -> None:
    """Refuse what FSDP2 cannot do: parts of a model called on the first process alone.

    Sharded weights are gathered only in the model's own ``forward``, by all processes together; ``embed`` does neither.

    Args:
        accelerator: The processes.
        evaluates: Whether the training is to be evaluated on the way.
        monitors: Whether it is to be monitored.

    Raises:
        ValueError: If either is asked for under FSDP.
    """
    if accelerator.distributed_type == DistributedType.FSDP and (evaluates or monitors):
        raise ValueError(
            "evaluation and monitors call the model on the first process alone, which cannot work while FSDP spreads "
            "its weights; set evaluate_every=0 and monitor_every=0 and evaluate the checkpoints afterwards"
        )


def synchronize_batch_norms(model: nn.Module) -> None:
    """Let each BatchNorm below a model take its statistics over all processes, in place.

    A :class:`byol_ext.heads.WindowBatchNorm2d` stays one, since models address it by name: ``window`` covers all
    processes already, ``frozen`` has no batch statistics, and ``batch`` becomes ``window``.

    Args:
        model: The model; itself no BatchNorm.
    """
    for name, child in list(model.named_children()):
        if isinstance(child, WindowBatchNorm2d):
            child.mode = "window" if child.mode == "batch" else child.mode
        elif isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            synchronize_batch_norms(child)


def broadcast_state(model: nn.Module, *, buffers_only: bool = False) -> None:
    """Give all processes the first one's buffers, and parameters unless ``buffers_only``.

    Buffers of one process stay its own (:func:`byol_ext.training.trainable.process_buffers`).
    """
    own = {id(buffer) for buffer in process_buffers(model).values()}
    shared = [buffer for buffer in model.buffers() if id(buffer) not in own]
    for tensor in shared + ([] if buffers_only else list(model.parameters())):
        torch.distributed.broadcast(tensor.detach(), src=0)


def compile_encoders(model: nn.Module) -> None:
    """Compile each branch's encoder in place, online and target; a model without branches as a whole."""
    branches = [module for module in model.modules() if isinstance(module, Branch)]
    for branch in branches:
        branch.encoder.compile()
    if not branches:
        model.compile()


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Deterministic PyTorch algorithms inside, the previous setting after; operations without one warn."""
    if not enabled:
        yield
        return
    if torch.cuda.is_available() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ:
        logger.warning("set CUBLAS_WORKSPACE_CONFIG=:4096:8 before the start for deterministic matrix products")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def start_trackers(accelerator: Accelerator, config: TrainConfig, run: Run, step: int) -> None:
    """Open the experiment trackers; a resumed TensorBoard log forgets what came after the checkpoint."""
    if config.trackers:
        accelerator.init_trackers(
            f"byol_ext-{run.recipe}",
            init_kwargs={
                "tensorboard": {"purge_step": step + 1 if step else None},
                "wandb": {"name": run.name, "dir": str(run.path)},
                "trackio": {"name": run.name},
            },
        )
