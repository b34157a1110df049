"""Gradients of an accumulation window: several micro-batches, one optimiser step.

``naive`` sums the micro-batch gradients with weights ``b_j / B``: exact iff each sample's loss depends on that sample
alone, at a memory that does not grow with ``B`` (spec slap 8). ``cached`` (the GradCache idea) encodes all
micro-batches without gradient, runs heads and loss once on all representations, and replays each encoder forward with
its random state to send the gradient of the representations through it: exact for every head and loss whose encoders
do not couple samples, for one extra encoder forward.

Across processes, naive windows go through DistributedDataParallel, without synchronisation but in the last backward;
cached windows sum the gradients once, in flat buckets, because their backward runs in pieces that DDP's reducer does
not know.

Legend: ``b`` samples of a micro-batch, ``B`` samples of the window over all processes, ``N`` micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from byol_ext.bootstrap import Ctx, Encoded, Out
from byol_ext.heads import WindowBatchNorm2d
from byol_ext.training.rng_state import set_torch_state, torch_state
from byol_ext.training.source import Batch, concatenate, rebuilt
from byol_ext.training.trainable import Trainable, TwoStage, Views

Prepare = Callable[[Batch, int], tuple[Views, Ctx]]
"""From a batch on the device and the step's index to views and context: mel spectrograms, augmentation.

The graph is batch-major: the first dim of each view, mask and per-sample datum is the sample, which is what counts
samples, weights micro-batches and cuts them apart. A batch that comes time-major, ``[T, B, ...]``, is transposed here.
A view may have a multiple of the batch's rows, such as several crops of each sample, those of a sample side by side.
"""

_BUCKET_BYTES = 25 * 2**20


@dataclass
class Window:
    """What a window left behind besides gradients.

    Attributes:
        loss: Mean over this process' samples, detached.
        terms: Means of the terms over this process' samples, detached.
        samples: Samples of this process.
        nominal: The gradients are those of ``B / nominal`` times the mean loss over all processes.
        out: Result of the last micro-batch (naive) or of all of them together (cached).
    """

    loss: Tensor
    terms: dict[str, Tensor]
    samples: int
    nominal: int
    out: Out


@dataclass
class _Sum:
    """Sample-weighted sums over micro-batches."""

    samples: int = 0
    values: dict[str, Tensor] = field(default_factory=dict)

    def add(self, out: Out, samples: int) -> None:
        self.samples += samples
        for name, value in {**out.terms, "": out.loss}.items():
            part = value.detach().float() * samples
            self.values[name] = self.values[name] + part if name in self.values else part

    def window(self, nominal: int, out: Out) -> Window:
        means = {name: value / self.samples for name, value in self.values.items()}
        return Window(means.pop(""), means, self.samples, nominal, out)


class Accumulator:
    """Runs windows of a model.

    Args:
        accelerator: Device, precision and processes.
        model: The model itself, an ``nn.Module``; a :class:`byol_ext.training.TwoStage` one where the mode or a
            windowed norm needs it.
        wrapped: What to call for a naive forward: the model, or the model in its data-parallel wrapper.
        prepare: Device-side transforms.
        mode: ``naive`` or ``cached``.
        steps: Micro-batches of a window.

    Raises:
        ValueError: If the mode would give other gradients than the full batch, or the model lacks what it needs; the
            message says why.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: Trainable,
        wrapped: nn.Module,
        *,
        prepare: Prepare,
        mode: Literal["naive", "cached"],
        steps: int,
    ) -> None:
        self.accelerator, self.wrapped = accelerator, wrapped
        self.model, self.module, self._stages = model, cast(nn.Module, model), cast(TwoStage, model)
        self.prepare, self.mode, self.steps = prepare, mode, steps
        self.world = accelerator.num_processes
        norms = [m for m in self.module.modules() if isinstance(m, WindowBatchNorm2d) and m.mode == "window"]
        self.windowed = bool(norms) and (steps > 1 or self.world > 1)
        if (mode == "cached" or self.windowed) and not isinstance(model, TwoStage):
            raise ValueError(
                f"cached accumulation and windowed norms need encode, objective, begin_window and end_window, which "
                f"{type(model).__name__} lacks; use accumulate='naive' without windowed norms"
            )
        if steps > 1:
            check_exact(model, mode)

    def run(self, batches: Iterator[Batch], step: int) -> Window:
        """Forward and backward of one window.

        Args:
            batches: Batches of this process; ``steps`` are taken.
            step: Index of the optimiser step.
        """
        return self._cached(batches, step) if self.mode == "cached" else self._naive(batches, step)

    def _next(self, batches: Iterator[Batch], step: int) -> tuple[Views, Ctx, int]:
        batch = next(batches, None)
        if batch is None:
            raise ValueError(f"the source ended at step {step}; a source must yield batches without end")
        with torch.no_grad():
            views, ctx = self.prepare(to_device(batch, self.accelerator.device), step)
        return views, ctx, batch_size(views)

    def _nominal(self, first: int) -> int:
        """``N b`` over all processes, as if no micro-batch were ragged; equal on all processes."""
        if self.world > 1:
            largest = torch.tensor(first, device=self.accelerator.device)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
            first = int(largest)
        return first * self.steps * self.world

    @contextmanager
    def _norms(self, micro_views: list[Views], step: int) -> Iterator[None]:
        self._stages.begin_window(micro_views, step)
        try:
            yield
        finally:
            self._stages.end_window()

    def _naive(self, batches: Iterator[Batch], step: int) -> Window:
        # Windowed input norms look at all micro-batches first; otherwise one is held at a time.
        ready = [self._next(batches, step) for _ in range(self.steps if self.windowed else 1)]
        nominal = self._nominal(ready[0][2])
        sums = _Sum()
        with self._norms([views for views, _, _ in ready], step) if self.windowed else nullcontext():
            for index in range(self.steps):
                views, ctx, samples = ready.pop(0) if ready else self._next(batches, step)
                last = index == self.steps - 1
                with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                    with self.accelerator.autocast():
                        out = self.wrapped(views, ctx, step)
                    # The wrapper takes the mean over processes; times their number makes it a sum.
                    self.accelerator.backward(out.loss * (samples * self.world / nominal))
                sums.add(out, samples)
        return sums.window(nominal, out)

    def _cached(self, batches: Iterator[Batch], step: int) -> Window:
        micro = [self._next(batches, step) for _ in range(self.steps)]
        nominal = self._nominal(micro[0][2])
        device, sums = self.accelerator.device, _Sum()
        with self._norms([views for views, _, _ in micro], step) if self.windowed else nullcontext():
            states, parts = [], []
            for views, _, _ in micro:
                states.append(torch_state(device))
                with torch.no_grad(), self.accelerator.autocast():
                    parts.append(self._stages.encode(views, step))
            joined = Encoded(
                {view: y.requires_grad_() for view, y in concatenate([part.online for part in parts]).items()},
                concatenate([part.target for part in parts]),
            )
            ctx = join_contexts([ctx for _, ctx, _ in micro])
            samples = sum(size for _, _, size in micro)
            with self.accelerator.autocast():
                out = self._stages.objective(joined, ctx, step)
            self.accelerator.backward(out.loss * (samples * self.world / nominal))
            sums.add(out, samples)
            self._replay([views for views, _, _ in micro], joined, states, step)
        if self.world > 1:
            average_gradients(list(self.module.parameters()), self.world)
        return sums.window(nominal, out)

    def _replay(self, micro_views: list[Views], joined: Encoded, states: list[Any], step: int) -> None:
        """Send the gradient of the joined representations through each micro-batch's encoders."""
        device = self.accelerator.device
        after, buffers = torch_state(device), BufferGuard(self.module)
        start = dict.fromkeys(joined.online, 0)
        for views, state in zip(micro_views, states, strict=True):
            set_torch_state(state, device)
            with self.accelerator.autocast():
                online = self._stages.encode(views, step, target=False).online
            pairs = []
            for view, y in online.items():
                grad, first = joined.online[view].grad, start[view]
                start[view] += len(y)
                if y.requires_grad and grad is not None:
                    pairs.append((y, grad[first : start[view]]))
            if pairs:
                torch.autograd.backward([y for y, _ in pairs], [grad for _, grad in pairs])
        set_torch_state(after, device)
        # The first pass has already counted these batches in the encoders' running statistics.
        buffers.restore()


class BufferGuard:
    """A copy of a model's buffers (running statistics) to go back to, also where a module rebinds them.

    Args:
        model: The model; the copy is taken at once.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._saved: dict[tuple[nn.Module, str], tuple[Tensor, Tensor]] = {}
        self.save()

    @torch.no_grad()
    def save(self) -> None:
        """Take the copy again."""
        before, self._saved = self._saved, {}
        for key, buffer in self._now():
            own, copy = before.get(key, (None, None))
            if own is buffer and copy is not None and copy.shape == buffer.shape:
                copy.copy_(buffer)
            else:
                copy = buffer.detach().clone()
            self._saved[key] = buffer, copy

    @torch.no_grad()
    def restore(self) -> None:
        """Put the copied values back, into the tensors that they were copied from."""
        for (module, name), buffer in self._now():
            if (module, name) not in self._saved:
                setattr(module, name, None)  # it was None
            elif buffer is not self._saved[module, name][0]:
                setattr(module, name, self._saved[module, name][0])
        for buffer, copy in self._saved.values():
            buffer.copy_(copy)

    def _now(self) -> list[tuple[tuple[nn.Module, str], Tensor]]:
        modules = list(self._model.modules())
        return [((module, name), buffer) for module in modules for name, buffer in module.named_buffers(recurse=False)]


def check_exact(model: Trainable, mode: Literal["naive", "cached"]) -> None:
    """Refuse a mode whose gradients would silently differ from the full batch's (core-ssl I5, slap 8).

    Args:
        model: The model, in training mode.
        mode: How gradients are accumulated.

    Raises:
        ValueError: If something couples samples that the mode takes apart; the message lists it.
    """
    if mode == "naive" and model.couples_samples:
        raise ValueError(
            f"naive accumulation is not exact for this model, because {_listed(model.coupling_reasons())} couple the "
            "samples of a batch; use accumulate='cached', or heads with norm='layer' or 'none' and no set loss"
        )
    if mode == "cached" and model.encoder_couples_samples:
        reasons = [reason for reason in model.coupling_reasons() if ".encoder." in f".{reason}."]
        raise ValueError(
            f"accumulation is not exact for this model, because its encoders' {_listed(reasons)} couple the samples of "
            "a batch; use norms without batch statistics, or a frozen or windowed input norm"
        )


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@torch.no_grad()
def average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Replace gradients by their mean over processes, a few flat buckets at a time.

    A parameter without gradient on some processes counts as zero there; without one on all, it stays without.

    Args:
        parameters: The same parameters in the same order on each process.
        world: Number of processes.
    """
    trainable = [p for p in parameters if p.requires_grad]
    if not trainable:
        return
    used = torch.tensor([p.grad is not None for p in trainable], dtype=torch.int32, device=trainable[0].device)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    bucket: list[Tensor] = []
    size = 0
    for parameter, is_used in zip(trainable, used.tolist(), strict=True):
        if not is_used:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if bucket and (size > _BUCKET_BYTES or bucket[0].dtype != parameter.grad.dtype):
            _average_bucket(bucket, world)
            bucket, size = [], 0
        bucket.append(parameter.grad)
        size += parameter.grad.numel() * parameter.grad.element_size()
    if bucket:
        _average_bucket(bucket, world)


def _average_bucket(grads: list[Tensor], world: int) -> None:
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    flat /= world
    parts = flat.split([grad.numel() for grad in grads])
    torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])


def join_contexts(contexts: list[Ctx]) -> Ctx:
    """The context of several micro-batches as one.

    Args:
        contexts: Contexts with the same keys.

    Raises:
        ValueError: If keys differ, or values without a batch dimension are not equal.
    """
    return Ctx(
        masks=concatenate([dict(ctx.masks) for ctx in contexts]),
        data=concatenate([dict(ctx.data) for ctx in contexts]),
    )


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors of a nested batch on a device; everything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return rebuilt(value, [to_device(item, device) for item in value])
    return value


def batch_size(views: Mapping[str, Any]) -> int:
    """Samples of a batch: the first dim of the first tensor of each view, the smallest if some have a multiple of it.

    Raises:
        ValueError: If there is no tensor, a view has no rows, or the views' rows are not multiples of the smallest.

    Example:
        >>> batch_size({"global": torch.zeros(4, 3), "crops": torch.zeros(8, 3)})
        4
    """
    rows = {view: count for view, value in views.items() if (count := _rows(value)) is not None}
    if not rows:
        raise ValueError(f"prepare() must return views that hold tensors, got {sorted(views)}")
    smallest = min(rows.values())
    if not smallest:
        raise ValueError("prepare() returned views without rows")
    if any(count % smallest for count in rows.values()):
        raise ValueError(
            f"the views' first dims {rows} cannot all be the batch; prepare() must return batch-major views "
            "[B, ...], of which some may have a multiple of B rows"
        )
    return smallest


def _rows(value: Any) -> int | None:
    """Length of the first dim of the first tensor; ``None`` if there is none."""
    if isinstance(value, Mapping):
        counts = (_rows(item) for item in value.values())
        return next((count for count in counts if count is not None), None)
    return len(value) if isinstance(value, Tensor) and value.ndim else None
