"""Random rollouts, and what several processes make of their halves of one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from byol_ext.rl.curiosity.bonus import Bonus
from byol_ext.rl.curiosity.counts import CountBonus
from byol_ext.rl.curiosity.icm import ICM, InverseModel
from byol_ext.rl.curiosity.ngu import NGU, EpisodicMemory
from byol_ext.rl.curiosity.rewards import ForwardFilter, RewardNormaliser, RunningMeanStd
from byol_ext.rl.curiosity.rnd import RND, Distillation, mlp_networks
from byol_ext.rl.encoders import mlp_encoder
from byol_ext.rl.segment import Segment

SHAPE, ACTIONS = (2, 3, 3), 3


def rollout(steps: int, batch: int, *, seed: int = 0, shape: tuple[int, ...] = SHAPE, ends: float = 0.1) -> Segment:
    """Random pictures, actions and cells from the beginning of episodes, which end at random."""
    generator = torch.Generator().manual_seed(seed)
    ended = torch.zeros(batch, dtype=torch.bool)
    real, over, first = [], [], [torch.ones(batch, dtype=torch.bool)]
    for _ in range(steps):
        real.append(~ended)
        first.append(ended)
        ended = ~ended & (torch.rand(batch, generator=generator) < ends)
        over.append(ended)
    terminated = torch.stack(over) & (torch.rand(steps, batch, generator=generator) < 0.5)
    action = torch.randint(0, ACTIONS, (steps, batch), generator=generator)
    none = torch.full((1, batch), ACTIONS)
    return Segment(
        obs=torch.randint(0, 256, (steps + 1, batch, *shape), generator=generator, dtype=torch.uint8),
        first=torch.stack(first),
        prev_action=torch.where(torch.stack(first), ACTIONS, torch.cat([none, action])),
        action=action,
        reward=torch.randint(0, 3, (steps, batch), generator=generator) * torch.stack(real),
        terminated=terminated,
        truncated=torch.stack(over) & ~terminated,
        real=torch.stack(real),
        log_prob=torch.zeros(steps, batch),
        state=torch.zeros(batch, 4),
        info={"cell": torch.randint(0, 20, (steps, batch), generator=generator) * 2**40},
    )


def cut(segment: Segment, start: int, stop: int, *, context: int = 0) -> Segment:
    """Rows ``start .. stop`` with some of those before them as context."""
    lead = start - context

    def rows(x: Tensor) -> Tensor:
        return x[lead : stop + (len(x) - len(segment.action))]

    names = ("obs", "first", "prev_action", "action", "reward", "terminated", "truncated", "real", "log_prob")
    changed: dict[str, Any] = {name: rows(getattr(segment, name)) for name in names}
    return replace(segment, context=context, info={k: rows(v) for k, v in segment.info.items()}, **changed)


def corrupt(segment: Segment) -> Segment:
    """Nonsense wherever a row is no transition: in all that belongs to the row."""
    noise = torch.Generator().manual_seed(99)

    def spoil(x: Tensor, low: int, high: int) -> Tensor:
        return torch.where(segment.real, x, torch.randint(low, high, x.shape, generator=noise).to(x.dtype))

    return replace(
        segment,
        action=spoil(segment.action, 0, ACTIONS),
        reward=spoil(segment.reward, -99, 99),
        log_prob=spoil(segment.log_prob, -9, 0),
        info={"cell": spoil(segment.info["cell"], 500, 600)},
    )


def bonus(name: str, batch: int) -> Bonus:
    """A small bonus with fixed weights."""
    torch.manual_seed(0)

    def distillation() -> Distillation:
        return Distillation(mlp_networks(SHAPE, (8,), 6), fraction=0.5)

    def inverse() -> InverseModel:
        return InverseModel(mlp_encoder(SHAPE, (8, 4)), ACTIONS, hidden=8)

    if name == "rnd":
        return RND(distillation(), scale=ForwardFilter(batch))
    if name == "icm":
        return ICM(inverse(), scale=RewardNormaliser(), hidden=8)
    if name == "ngu":
        return NGU(inverse(), distillation(), EpisodicMemory(batch, 4, capacity=16), scale=RewardNormaliser())
    return CountBonus()


NAMES = ("rnd", "icm", "ngu", "count")


def run(name: str, segment: Segment, *, updates: int = 3, size: int = 12) -> dict[str, Tensor]:
    """Rewards, losses and gradients of a bonus over consecutive segments, with a step of descent after each."""
    model = bonus(name, segment.batch)
    memory = model.initial_memory(segment.batch)
    found: dict[str, Tensor] = {}
    for update in range(updates):
        part = replace(cut(segment, update * size, (update + 1) * size), memory=memory)
        reward = model.reward(part)
        memory = reward.memory
        found[f"reward {update}"], found[f"raw {update}"] = reward.scaled, reward.raw
        model.zero_grad()
        loss = model.loss(part, step=update)
        loss.total.backward()
        found[f"loss {update}"] = loss.total.detach()
        descend(model)
    return found


def descend(model: Bonus, rate: float = 0.1) -> None:
    """One step of gradient descent on the gradients of all processes."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            gradient = parameter.grad.clone()
            if dist.is_initialized():
                dist.all_reduce(gradient)
                gradient /= dist.get_world_size()
            parameter.data -= rate * gradient


def statistics(values: Tensor, real: Tensor) -> dict[str, Tensor]:
    """The parts alone."""
    stats, normaliser, scale = RunningMeanStd(()), RewardNormaliser(), ForwardFilter(values.shape[1])
    found: dict[str, Tensor] = {}
    for number, rows in enumerate(values.split(8)):
        mask = real[number * 8 : number * 8 + len(rows)]
        stats.update(rows[mask])
        found[f"normalised {number}"], found[f"filtered {number}"] = normaliser(rows, mask), scale(rows, mask)
    return found | {"mean": stats.mean, "var": stats.var, "count": stats.count}


BATCH = 4


def all_results(columns: slice) -> dict[str, dict[str, Tensor]]:
    """What some environments of one rollout give."""
    segment = rollout(36, BATCH, seed=3)
    chosen = segment.select(torch.arange(BATCH)[columns])
    values = torch.rand(36, BATCH, generator=torch.Generator().manual_seed(1))[:, columns]
    return {name: run(name, chosen) for name in NAMES} | {"statistics": statistics(values, chosen.real)}


def work(rank: int, world: int, port: int, out: Path) -> None:
    """A process with its share of the environments."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    share = BATCH // world
    torch.save(all_results(slice(rank * share, (rank + 1) * share)), out / f"{rank}.pt")
    dist.destroy_process_group()
