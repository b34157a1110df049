"""What a checkpoint holds besides weights, and the checks before a run goes on."""

from __future__ import annotations

import logging
import socket
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import nn

from byol_ext.training import rng_state
from byol_ext.training.accelerate_setup import broadcast_state
from byol_ext.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint, save_checkpoint, tidy
from byol_ext.training.config import RESUMABLE, TrainConfig
from byol_ext.training.environment import environment
from byol_ext.training.run import Run, flatten, json_value, plain
from byol_ext.training.source import Source

logger = logging.getLogger(__name__)


@dataclass
class Counters:
    """What a training has counted, over all resumptions.

    Attributes:
        step: Optimiser steps done, skipped ones included.
        samples: Samples over all processes.
        skipped: Skipped steps.
        seconds: Wall time.
    """

    step: int = 0
    samples: int = 0
    skipped: int = 0
    seconds: float = 0.0


class TrainState:
    """Everything that a resumed training needs, and how it is saved and loaded; each process calls each method.

    Args:
        accelerator: Device, scaler and processes.
        model: The model itself.
        optimizer: The prepared optimiser.
        source: This process' source.
        config: Configuration of the loop.
        run: The run directory.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: AcceleratedOptimizer,
        source: Source,
        config: TrainConfig,
        run: Run,
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.source, self.config, self.run = source, config, run
        self.counters = Counters()
        self._saved: tuple[int, Path | None] = (-1, None)
        run.device = accelerator.device
        self._environment = environment(accelerator.device)

    def save(self) -> Path | None:
        """Write a checkpoint; weights that are not finite are not written.

        Returns:
            The newest good checkpoint.
        """
        if self._saved[0] == self.counters.step:
            return self._saved[1]
        if not self._finite():
            logger.error("weights are not finite at step %d: no checkpoint is written", self.counters.step)
            return self._saved[1]
        if self.accelerator.num_processes > 1:
            broadcast_state(self.model, buffers_only=True)
        weights, optimizer_state = self._weights_and_optimizer()
        state = {
            "counters": asdict(self.counters),
            "optimizer": optimizer_state,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
            "processes": self._gather(),
        }
        path = self.run.checkpoints / f"step-{self.counters.step}"
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.run.checkpoints,
                self.counters.step,
                model=weights,
                state=state,
                meta=json_value(self._meta()),
                keep=self.config.keep,
            )
        self.accelerator.wait_for_everyone()
        self._saved = self.counters.step, path
        return path

    def load(self) -> None:
        """Go to the run's newest complete checkpoint, if there is one.

        Raises:
            ValueError: If configuration, data or processes differ from the run's.
            FileNotFoundError: If a process does not see the checkpoint.
        """
        newest = [latest_checkpoint(self.run.checkpoints) if self.accelerator.is_main_process else None]
        if self.accelerator.num_processes > 1:
            dist.broadcast_object_list(newest, src=0)
        if newest[0] is not None:
            if not newest[0].is_dir():
                raise FileNotFoundError(
                    f"{newest[0]} is not visible on {socket.gethostname()}; put the run on a shared file system"
                )
            checkpoint = load_checkpoint(newest[0])
            check_same_run(checkpoint.meta, json_value(self._meta()), free=self.run.free)
            self._apply(checkpoint)
            self._saved = checkpoint.step, newest[0]
        if self.accelerator.is_main_process:
            tidy(self.run.checkpoints, newest=newest[0])
            self.run.truncate_metrics(self.counters.step)
            self.run.write_config()
        self.accelerator.wait_for_everyone()

    def announce(self, total: int) -> None:
        """Say on standard error what is about to train."""
        if self.accelerator.is_main_process:
            trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
            start = f"resuming at step {self.counters.step}" if self.counters.step else "training"
            print(
                f"{start}: {total} steps on {self.accelerator.num_processes} x {self.accelerator.device.type}, "
                f"{trainable / 1e6:.2f} M trainable parameters, precision {self.accelerator.mixed_precision}; "
                f"run directory {self.run.path}",
                file=sys.stderr,
            )

    def _apply(self, checkpoint: Checkpoint) -> None:
        state, rank = checkpoint.state, self.accelerator.process_index
        if self._sharded:
            from byol_ext.training.sharded import scatter_state  # seconds to import

            optimizer = self.optimizer.optimizer
            scatter_state(self.model, optimizer, weights=checkpoint.model, optimizer_state=state["optimizer"])
        else:
            self.model.load_state_dict(checkpoint.model)
            self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        processes = state["processes"]
        if len(processes) == self.accelerator.num_processes:
            own = processes[rank]
            rng_state.restore(own["rng"], self.accelerator.device)
        else:
            own = processes[0]
            if not all(equal_states(other["source"], own["source"]) for other in processes):
                raise ValueError(
                    f"the run had {len(processes)} processes, each with a source of its own; resume with as many"
                )
            logger.warning(
                "the run had %d processes and now has %d: random generators start anew, so that it is not continued "
                "bit by bit",
                len(processes),
                self.accelerator.num_processes,
            )
        self.source.load_state_dict(own["source"])
        for field in fields(Counters):
            setattr(self.counters, field.name, state["counters"][field.name])

    @property
    def _sharded(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.FSDP

    def _weights_and_optimizer(self) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._sharded:
            from byol_ext.training.sharded import gather_state  # seconds to import

            return gather_state(self.model, self.optimizer.optimizer)
        return self.model.state_dict(), self.optimizer.state_dict()

    def _gather(self) -> list[dict[str, Any]]:
        """Generators and source position of each process."""
        own = {"rng": rng_state.capture(self.accelerator.device), "source": self.source.state_dict()}
        if self.accelerator.num_processes == 1:
            return [own]
        gathered: list[Any] = [None] * self.accelerator.num_processes
        dist.all_gather_object(gathered, own)
        return gathered

    @torch.no_grad()
    def _finite(self) -> bool:
        """Whether all parameters are finite, on all processes."""
        own = [p.to_local() if hasattr(p, "to_local") else p for p in self.model.parameters()]  # FSDP's shards
        norms = torch._foreach_norm([p.detach() for p in own if p.is_floating_point()])
        finite = torch.isfinite(torch.stack([norm.float() for norm in norms])).all().to(torch.int32)
        if self.accelerator.num_processes > 1:
            dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        return bool(finite)

    def _meta(self) -> dict[str, Any]:
        return {
            "recipe": self.run.recipe,
            "train": plain(self.config),
            "config": plain(self.run.config),
            "fingerprint": getattr(self.source, "fingerprint", None),
            "processes": self.accelerator.num_processes,
            "environment": self._environment,
        }


def equal_states(a: Any, b: Any) -> bool:
    """Whether two states of numbers, strings, tensors, and lists, tuples and dicts of these, are equal.

    Example:
        >>> equal_states({"order": torch.ones(2)}, {"order": torch.ones(2)})
        True
    """
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        both = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
        return both and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal_states(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        return len(a) == len(b) and all(equal_states(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def check_same_run(saved: dict[str, Any], now: dict[str, Any], *, free: tuple[str, ...] = ()) -> None:
    """Refuse to continue a run with another configuration or other data.

    Limits and intervals (``RESUMABLE``) may differ, wherever the run's configuration holds a :class:`TrainConfig`, and
    so may the keys in ``free``. A field of :class:`TrainConfig` that the checkpoint is too old to know had its default.
    Another git revision warns.

    Args:
        saved: ``meta`` of the checkpoint.
        now: ``meta`` of this call.
        free: Dotted keys or prefixes of keys of the run's configuration.

    Raises:
        ValueError: The message lists what differs.
    """
    if saved["fingerprint"] != now["fingerprint"]:
        raise ValueError(
            f"the run was trained on the data {saved['fingerprint']!r}, but this is {now['fingerprint']!r}; resume on "
            "the run's data, or start a new run"
        )
    defaults = json_value(plain(TrainConfig()))
    differing = _differences(defaults | saved["train"], now["train"], allowed=set(RESUMABLE), free=())
    old, new = flatten(saved["config"]), flatten(now["config"])
    prefixes = [key.removesuffix("nan_patience") for key in new if key.split(".")[-1] == "nan_patience"]
    allowed = {prefix + name for prefix in prefixes for name in RESUMABLE}
    for prefix in prefixes:
        if f"{prefix}nan_patience" in old:
            old = {f"{prefix}{name}": value for name, value in defaults.items()} | old
    differing += [line for line in _differences(old, new, allowed=allowed, free=free) if line not in differing]
    if differing:
        raise ValueError(
            f"the run was trained with another configuration: {'; '.join(differing)}; resume with the run's "
            "config.yaml, or start a new run"
        )
    before, after = saved["environment"]["git"], now["environment"]["git"]
    if before != after:
        logger.warning("the run was trained with the source revision %s, this is %s", before, after)


def _differences(old: dict[str, Any], new: dict[str, Any], *, allowed: set[str], free: tuple[str, ...]) -> list[str]:
    absent = "(absent)"
    keys = [key for key in {**old, **new} if old.get(key, absent) != new.get(key, absent)]
    return [
        f"{key} was {old.get(key, absent)}, now {new.get(key, absent)}"
        for key in keys
        if key not in allowed and not any(key == f or key.startswith(f"{f}.") for f in free)
    ]
