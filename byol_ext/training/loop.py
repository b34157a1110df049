"""The training loop: ``fit`` runs any :class:`byol_ext.training.Trainable` on any source; it knows no recipe.

Order of a step (core-ssl 1.4): views -> online -> predictors -> target -> loss -> backward -> clip -> optimiser ->
``after_step``. A skipped step (fp16 overflow, non-finite loss or gradient) takes neither optimiser nor ``after_step``
and leaves the model as it was; it counts as a step for the schedules.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn

from byol_ext.bootstrap import Out
from byol_ext.schedules import Schedule
from byol_ext.training.accelerate_setup import (
    compile_encoders,
    deterministic_algorithms,
    make_accelerator,
    prepare_model,
    refuse_unsharded_calls,
    start_trackers,
)
from byol_ext.training.accumulate import Accumulator, BufferGuard, Prepare, Window
from byol_ext.training.checkpoint import latest_checkpoint
from byol_ext.training.config import TrainConfig, learning_rate, total_steps
from byol_ext.training.progress import Progress
from byol_ext.training.resume import Counters, TrainState
from byol_ext.training.rng_state import preserved, seed_all
from byol_ext.training.run import Run
from byol_ext.training.signals import StopSignals
from byol_ext.training.source import Batch, Source
from byol_ext.training.trainable import Trainable

logger = logging.getLogger(__name__)

Monitor = Callable[[nn.Module, Out, int], Mapping[str, float]]
"""``(model, out, step) -> values to log``, called without gradient on the first process, on the step's local rows."""
Evaluate = Callable[[nn.Module, int], Mapping[str, float]]
"""``(model, step) -> metrics``, called without gradient on the first process with the model in eval mode."""


@dataclass(frozen=True)
class FitResult:
    """How a training ended.

    Attributes:
        step: Optimiser steps done, over all resumptions.
        samples_seen: Samples over all processes.
        skipped: Steps skipped for overflow or non-finite values.
        interrupted: Name of the signal that stopped the training after a checkpoint (exit code 130), or ``None``.
        metrics: The last log record.
        checkpoint: The newest checkpoint.
        seconds: Wall time, over all resumptions.
        wait_fraction: Share of this call's time spent waiting for batches.
    """

    step: int
    samples_seen: int
    skipped: int
    interrupted: str | None
    metrics: dict[str, Any]
    checkpoint: Path | None
    seconds: float
    wait_fraction: float


def fit(
    model: Trainable,
    source: Source,
    config: TrainConfig,
    *,
    prepare: Prepare,
    run: Run,
    monitors: Sequence[Monitor] = (),
    evaluate: Evaluate | None = None,
    resume: bool = False,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    lr: Schedule | None = None,
    unit: str = "samples",
    headline: str | None = None,
) -> FitResult:
    """Train a model until the first limit of the configuration, or until Ctrl-C or SIGTERM.

    Call it in one process, or in each process of ``torchrun`` / ``accelerate launch``; the source then yields this
    process' batches. It seeds the global generators with (seed, rank); models are built, and seeded, before.

    Several processes means data parallel. FSDP1 is refused. FSDP2 (Accelerate's ``fsdp_version: 2``) takes naive
    accumulation only, allows neither monitors nor evaluation on the way, and was tested on CPU processes, not on GPUs.

    Args:
        model: The model, an ``nn.Module``; it is moved to the device and left in training mode there.
        source: Endless batches; its state goes into the checkpoints.
        config: How to train.
        prepare: ``(batch on the device, step) -> (views, Ctx)``: mel spectrograms, augmentation; called without
            gradient. It must depend on its arguments alone, so that a resumed run repeats it.
        run: Where everything is written.
        monitors: Called every ``config.monitor_every`` steps; their values are logged.
        evaluate: Called every ``config.evaluate_every`` steps; its values are logged as ``eval/<name>``.
        resume: Whether to continue from the run's newest complete checkpoint; without one, training starts anew.
        optimizer: Builds the optimiser; default: AdamW (:func:`byol_ext.training.adamw`). A group's
            ``lr_scale`` multiplies the schedule; with a true ``constant_lr`` it multiplies the peak rate instead.
        lr: Learning rate of each step in place of the configuration's warm-up and schedule.
        unit: What the rate counts.
        headline: Key of the log record to show in the progress bar.

    Returns:
        How it ended.

    Raises:
        TypeError: If the model is no ``nn.Module``.
        FileExistsError: If the run has checkpoints and ``resume`` is false.
        ValueError: If accumulation would not be exact, no limit is set, the source ends, or the run's configuration
            or data differ when resuming.
        FloatingPointError: If loss or gradients are not finite for ``config.nan_patience`` consecutive steps.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"fit trains an nn.Module, got a {type(model).__name__}")
    total = total_steps(config, source)
    newest = latest_checkpoint(run.checkpoints)
    if newest is not None and not resume:
        raise FileExistsError(f"{run.path} has checkpoints; resume the run, or choose another name")
    accelerator = make_accelerator(config, run)
    refuse_unsharded_calls(
        accelerator,
        evaluates=evaluate is not None and config.evaluate_every > 0,
        monitors=bool(monitors) and config.monitor_every > 0,
    )
    seed_all(config.seed, accelerator.process_index)
    with deterministic_algorithms(config.deterministic), StopSignals() as stop:
        model.train()
        wrapped, prepared = prepare_model(accelerator, model, config, optimizer)
        if config.compile:
            compile_encoders(model)
        accumulator = Accumulator(
            accelerator, model, wrapped, prepare=prepare, mode=config.accumulate, steps=config.accumulate_steps
        )
        state = TrainState(accelerator, model, prepared, source, config, run)
        if resume:
            state.load()
        state.announce(total)
        start_trackers(accelerator, config, run, state.counters.step)
        progress = Progress(
            total, done=state.counters.step, unit=unit, headline=headline, enabled=accelerator.is_main_process
        )
        trainer = _Trainer(
            state, accumulator, total, lr or learning_rate(config, total), monitors, evaluate, progress, stop
        )
        try:
            return trainer.run()
        finally:
            progress.close()
            for tracker in accelerator.trackers:
                tracker.finish()
            if wrapped is not model:
                accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)


class _Trainer:
    """The moving parts of one call of :func:`fit`."""

    def __init__(
        self,
        state: TrainState,
        accumulator: Accumulator,
        total: int,
        lr: Schedule,
        monitors: Sequence[Monitor],
        evaluate: Evaluate | None,
        progress: Progress,
        stop: StopSignals,
    ) -> None:
        self.state, self.accumulator, self.total, self.lr = state, accumulator, total, lr
        self.monitors, self.evaluate, self.progress, self.stop = monitors, evaluate, progress, stop
        self.accelerator: Accelerator = state.accelerator
        self.model, self.optimizer, self.config, self.run_dir = state.model, state.optimizer, state.config, state.run
        self.counters: Counters = state.counters
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        guarded = getattr(self.model, "forward_moves_buffers", True)
        self.guard = BufferGuard(self.model) if guarded else None
        self.bad_steps = 0
        self.record: dict[str, Any] = {}
        self.wait = 0.0

    def run(self) -> FitResult:
        """Steps until the end, then a checkpoint and the card."""
        began = self.rate_time = time.perf_counter()
        self.rate_step, self.rate_samples = self.counters.step, self.counters.samples
        self.began = began - self.counters.seconds
        interrupted = None
        batches = iter(self.state.source)
        timed = self._timed(batches)
        try:
            while self.counters.step < self.total and interrupted is None:
                interrupted = self._step(timed)
                if self.counters.step % self.config.checkpoint_every == 0 and self.counters.step < self.total:
                    self.state.save()
        finally:
            if isinstance(batches, Generator):
                batches.close()  # its loader's workers would else live as long as the traceback of an error
        checkpoint = self.state.save()
        if self.accelerator.is_main_process:
            self.run_dir.write_card()
        if interrupted is not None and self.accelerator.is_main_process:
            print(f"stopped by {interrupted}; continue with: {self.run_dir.resume_command}", file=sys.stderr)
        waited = self.wait / max(time.perf_counter() - began, 1e-9)
        counters = self.counters
        return FitResult(
            step=counters.step,
            samples_seen=counters.samples,
            skipped=counters.skipped,
            interrupted=interrupted,
            metrics=self.record,
            checkpoint=checkpoint,
            seconds=counters.seconds,
            wait_fraction=waited,
        )

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.wait += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def _step(self, batches: Iterator[Batch]) -> str | None:
        """One optimiser step; returns the signal that asked to stop."""
        step = self.counters.step
        if self.guard is not None:
            self.guard.save()
        window = self.accumulator.run(batches, step)
        loss, samples, stop = self._totals(window)
        if samples != window.nominal:
            grads = [p.grad for p in self.parameters if p.grad is not None]
            torch._foreach_mul_(grads, window.nominal / samples)
        lr = self.lr(step)
        for group in self.optimizer.param_groups:
            rate = self.config.lr if group.get("constant_lr") else lr
            group["lr"] = rate * group.get("lr_scale", 1.0)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.clip_norm or math.inf)
        if self.accelerator.num_processes == 1:
            loss, norm = torch.stack([loss, norm.to(loss)]).tolist()  # one synchronisation with the device
        else:
            loss, norm = float(loss), float(norm)
        taken = self._update(loss, norm, step, window)
        values = self.accumulator.model.after_step(step) if taken else {}
        self.optimizer.zero_grad(set_to_none=True)
        self.counters.step += 1
        self.counters.samples += samples
        self.counters.seconds = time.perf_counter() - self.began
        self.progress.advance(self.counters.step)
        self._report(window, {"loss": loss, "grad_norm": norm, "lr": lr, **values})
        return stop

    def _totals(self, window: Window) -> tuple[Any, int, str | None]:
        """Mean loss over all processes (unless this is the only one, still on the device), samples, stop request."""
        if self.accelerator.num_processes == 1:
            return window.loss, window.samples, self.stop.received
        codes = {None: 0.0, "SIGTERM": 1.0, "SIGINT": 1e6}
        local = [window.loss * window.samples, torch.tensor(float(window.samples))]
        local.append(torch.tensor(codes[self.stop.received]))
        totals = torch.stack([value.to(self.accelerator.device, torch.float64) for value in local])
        dist.all_reduce(totals)
        loss, samples, code = totals.tolist()
        return loss / samples, round(samples), None if not code else "SIGINT" if code >= 1e6 else "SIGTERM"

    def _update(self, loss: float, norm: float, step: int, window: Window) -> bool:
        """Take the optimiser step unless something is not finite; returns whether it was taken."""
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimizer.step()
            self.bad_steps = 0
            return True
        self.counters.skipped += 1
        if self.guard is not None:
            self.guard.restore()
        scaler = self.accelerator.scaler
        if scaler is not None:
            # Not through the optimiser: a fused one hides from Accelerate that it did nothing.
            scaler.update()
            if math.isfinite(loss) and scaler.get_scale() >= 1.0:
                return False  # an overflow: the scale is lower now and the next step may pass
        self.bad_steps += 1
        if self.bad_steps >= self.config.nan_patience:
            terms = {name: float(value) for name, value in window.terms.items()}
            raise FloatingPointError(
                f"loss or gradient was not finite for {self.bad_steps} consecutive steps, the last of them step "
                f"{step}: loss={loss}, grad_norm={norm}, terms={terms}. None of these steps was applied. The last good "
                f"checkpoint is {self.run_dir.latest}. Look at the data of these steps, or lower the learning rate"
            )
        return False

    def _report(self, window: Window, values: dict[str, float]) -> None:
        """Log, monitor and evaluate where the step is due."""
        step, config = self.counters.step, self.config
        to_log = step % config.log_every == 0 or step in (1, self.total)
        to_monitor = config.monitor_every > 0 and step % config.monitor_every == 0
        to_evaluate = config.evaluate_every > 0 and step % config.evaluate_every == 0
        if not (to_log or to_monitor or to_evaluate):
            return
        record: dict[str, Any] = {"step": step, **values, **self._terms(window)}
        with preserved(self.accelerator.device), torch.no_grad():
            if to_monitor and self.accelerator.is_main_process:
                for monitor in self.monitors:
                    record |= monitor(self.model, window.out, step)
            if to_evaluate and self.evaluate is not None:
                record |= self._evaluate(self.evaluate, step)
        self._log(record)

    def _terms(self, window: Window) -> dict[str, float]:
        """Means of the terms over all processes."""
        names = sorted(window.terms)
        if not names:
            return {}
        values = torch.stack([window.terms[name] for name in names]).double() * window.samples
        totals = torch.cat([values, values.new_tensor([window.samples])])
        if self.accelerator.num_processes > 1:
            dist.all_reduce(totals)
        return dict(zip(names, (totals[:-1] / totals[-1]).tolist(), strict=True))

    def _evaluate(self, evaluate: Evaluate, step: int) -> dict[str, float]:
        result: dict[str, float] = {}
        if self.accelerator.is_main_process:
            with _evaluation_mode(self.model):
                result = {f"eval/{name}": value for name, value in evaluate(self.model, step).items()}
        self.accelerator.wait_for_everyone()
        return result

    def _log(self, record: dict[str, Any]) -> None:
        now, counters = time.perf_counter(), self.counters
        elapsed, steps = max(now - self.rate_time, 1e-9), counters.step - self.rate_step
        record |= {
            "samples_seen": counters.samples,
            "samples/s": (counters.samples - self.rate_samples) / elapsed,
            "seconds_per_step": elapsed / max(steps, 1),
            "seconds": counters.seconds,
            "skipped": counters.skipped,
        }
        if self.accelerator.device.type == "cuda":
            record["peak_memory_gib"] = torch.cuda.max_memory_allocated(self.accelerator.device) / 2**30
        self.rate_time, self.rate_step, self.rate_samples = now, counters.step, counters.samples
        self.record = record
        if self.accelerator.is_main_process:
            self.run_dir.log({"time": time.time(), **record})
            self.accelerator.log({k: v for k, v in record.items() if k != "step"}, step=record["step"])
            self.progress.show(record)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, each module's own mode back after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
