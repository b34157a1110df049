"""Trainings that several processes do together, and that one process does with the same global batches.

As a script, under ``torchrun``: ``training_ddp.py OUT``.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import training_toy as toy
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch import Tensor, nn

from byol_ext.bootstrap import Ctx
from byol_ext.training import load_checkpoint, loop, rank_and_world, save_checkpoint
from byol_ext.training.sharded import gather_state, scatter_state

GLOBAL_BATCH = 16

# name: (model, changes of the configuration, samples in the data set, whether to drop the incomplete last batch)
CASES: dict[str, tuple[Any, dict[str, Any], int, bool]] = {
    "naive": (partial(toy.slap, norm="layer"), {"accumulate_steps": 3}, 64, True),
    "naive, ragged": (partial(toy.slap, norm="none"), {"accumulate_steps": 2}, 61, False),
    "naive, windowed input norm": (partial(toy.slap, window="window"), {}, 64, True),
    "naive, unused parameters": (toy.alternating, {"find_unused_parameters": True}, 64, True),
    "cached": (partial(toy.slap, norm="layer"), {"accumulate_steps": 2, "accumulate": "cached"}, 64, True),
    "cached, ragged": (partial(toy.slap, norm="none"), {"accumulate_steps": 2, "accumulate": "cached"}, 61, False),
    "cached, unused parameters": (toy.alternating, {"accumulate": "cached"}, 64, True),
    "gathered infonce": (toy.clap, {}, 64, True),
    "gathered infonce, cached": (toy.clap, {"accumulate_steps": 2, "accumulate": "cached"}, 64, True),
}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Unlike Adam's, its update is as close as the gradients are."""
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)


def train_case(name: str, out: Path) -> toy.FitResult:
    model, changes, n, drop_last = CASES[name]
    source = toy.source(n, GLOBAL_BATCH // rank_and_world()[1], drop_last=drop_last)
    config = toy.config(steps=6, lr=0.1, clip_norm=1.0, **changes)
    return toy.train(out / name, model(), config, source, optimizer=sgd)


def train_cases(out: Path) -> None:
    for name in CASES:
        train_case(name, out)


def nan_on_one_rank(out: Path) -> None:
    """The data of the last process is bad at one step; all must skip it."""

    def prepare(batch: dict[str, Any], step: int) -> tuple[dict[str, Tensor], Ctx]:
        views, ctx = toy.prepare(batch, step)
        bad = step == 2 and rank_and_world()[0] == 1
        return ({k: v * float("nan") for k, v in views.items()} if bad else views), ctx

    config = toy.config(steps=5, log_every=1)
    run = toy.Run.create(out / "nan", recipe="toy", config=config)
    result = toy.fit(toy.slap(), toy.source(batch=8), config, prepare=prepare, run=run)
    assert (result.step, result.skipped) == (5, 1), result


def signal_on_one_rank(out: Path) -> None:
    """The last process is told to stop; all stop after the same step, and go on bit by bit."""

    def prepare(stop: bool, batch: dict[str, Any], step: int) -> tuple[dict[str, Tensor], Ctx]:
        if stop and step == 3 and rank_and_world()[0] == 1:
            signal.raise_signal(signal.SIGTERM)
        return toy.prepare(batch, step)

    config = toy.config(steps=9)
    weights = {}
    for name, stop, resume in (("whole", False, False), ("parts", True, False), ("parts", False, True)):
        run = toy.Run.create(out / name, recipe="toy", config=config, resume=resume)
        model = toy.slap(norm="batch", dropout=0.3)
        data = toy.source(batch=8)
        result = toy.fit(model, data, config, prepare=partial(prepare, stop), run=run, resume=resume)
        assert (result.interrupted, result.step) == (("SIGTERM", 4) if stop else (None, 9)), result
        weights[name] = toy.weights(model)
    for key, value in weights["whole"].items():
        assert torch.equal(value, weights["parts"][key]), key


def fsdp(out: Path) -> None:
    """A sharded model trains as a whole one does, and its state survives a checkpoint."""
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    batches = [toy.source(16, 4, rank=rank_and_world()[0], world_size=2) for _ in range(2)]
    whole, first, second = toy.slap(), toy.slap(), toy.slap(seed=1)
    steps = [(whole, sgd(whole))]
    for model in (first, second):
        fully_shard(model)
        steps.append((model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)))
    steps[0] = whole, torch.optim.AdamW([p for p in whole.parameters() if p.requires_grad], lr=1e-2)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Any], k: int) -> None:
        model(*toy.prepare(batch, k), k).loss.backward()
        for parameter in model.parameters() if model is whole else ():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= 2
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(k)

    data = [next(iter(source)) for source in batches]
    step(*steps[0], data[0], 0)
    step(*steps[1], data[0], 0)
    weights, state = gather_state(first, steps[1][1])
    if dist.get_rank() == 0:
        save_checkpoint(out / "fsdp", 1, model=weights, state={"optimizer": state}, meta={}, keep=1)
    dist.barrier()
    loaded = load_checkpoint(out / "fsdp" / "step-1")
    scatter_state(second, steps[2][1], weights=loaded.model, optimizer_state=loaded.state["optimizer"])
    for model, optimizer in steps:
        step(model, optimizer, data[1], 1)
    for model, optimizer in steps[1:]:
        found, _ = gather_state(model, optimizer)
        for key, value in found.items():
            torch.testing.assert_close(value, whole.state_dict()[key])


def fsdp_fit(out: Path) -> None:
    """``fit`` under FSDP2 equals one process, also over a resumption; Accelerate offers FSDP on GPUs only."""
    make, accelerator = loop.make_accelerator, Accelerator

    def sharded(*arguments: Any) -> Accelerator:
        made = make(*arguments)
        made.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="NO_WRAP", cpu_ram_efficient_loading=False
        )
        return made

    accelerator.distributed_type = property(lambda self: DistributedType.FSDP)  # type: ignore[method-assign]
    accelerator.is_fsdp2 = property(lambda self: True)  # type: ignore[method-assign]
    loop.make_accelerator = sharded
    for seed, steps in ((0, 3), (1, 6)):
        config = toy.config(steps=steps, lr=0.1, clip_norm=1.0, schedule="const", warmup=0.0)
        toy.train(out / "fsdp_fit", toy.slap(seed=seed), config, toy.source(batch=8), optimizer=sgd, resume=seed > 0)


def work(function: Any, rank: int, world: int, port: int, out: Path) -> None:
    """A process of a group on this machine."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    function(out)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_cases(Path(sys.argv[1]))
    dist.destroy_process_group()
