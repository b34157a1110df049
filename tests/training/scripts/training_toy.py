"""A small model, data set and configuration that the tests of the training loop share with their subprocesses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from byol_ext.bootstrap import Bootstrap, Branch, Ctx, Edge, SetTerm, Target
from byol_ext.heads import LogitScale, Norm, WindowBatchNorm2d, WindowMode, mlp_head
from byol_ext.losses.contrastive import infonce_cross
from byol_ext.predictors import mlp_predictor
from byol_ext.rng import sample_generator
from byol_ext.training import FitResult, LoaderSource, ResumableSampler, Run, TrainConfig, fit

WIDTH = 8


class Items(torch.utils.data.Dataset):
    """Two noisy looks at each of ``n`` points; the noise is keyed by (epoch, id)."""

    def __init__(self, n: int = 64) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        i, epoch = index
        base = sample_generator(7, 0, i).normal(size=WIDTH)
        noise = sample_generator(8, epoch, i).normal(size=(2, WIDTH)) * 0.1
        return {"id": i, "a": (base + noise[0]).astype("float32"), "b": (base + noise[1]).astype("float32")}


class WindowedEncoder(nn.Module):
    """An encoder whose input goes through a BatchNorm without trainable layers before it."""

    def __init__(self, mode: WindowMode) -> None:
        super().__init__()
        self.input_norm = WindowBatchNorm2d(WIDTH, mode=mode)
        self.net = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, 12))

    def norm_input(self, x: Tensor) -> Tensor:
        return x[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.input_norm(self.norm_input(x))[:, :, 0, 0])


def encoder(*, dropout: float = 0.0, window: WindowMode | None = None) -> nn.Module:
    if window is not None:
        return WindowedEncoder(window)
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 12))


def slap(
    *, norm: Norm = "layer", dropout: float = 0.0, tau: float = 0.9, window: WindowMode | None = None, seed: int = 0
) -> Bootstrap:
    """Two branches that predict each other's targets and their own."""
    torch.manual_seed(seed)
    branches = {
        v: Branch(encoder(dropout=dropout, window=window), mlp_head([12, 16, 6], norm=norm)) for v in ("a", "b")
    }
    predictors = {v: mlp_predictor(6, 16, norm=norm, dropout=dropout) for v in ("a", "b")}
    plan = [Edge(u, v, predictor=u, weight=0.5, mask="rows") for u in ("a", "b") for v in ("a", "b")]
    target = Target(branches, tau=tau)
    return Bootstrap(branches, {"a": "a", "b": "b"}, target=target, predictors=predictors, plan=plan)


def alternating(seed: int = 0) -> Bootstrap:
    """Edges that change with the step, so that each step leaves one predictor out."""
    model = slap(seed=seed)
    model.plan = lambda step: [Edge(*(("a", "b") if step % 2 else ("b", "a")), predictor="a" if step % 2 else "b")]
    return model


def clap(*, norm: Norm = "none", window: WindowMode | None = None, seed: int = 0) -> Bootstrap:
    """The same branches under InfoNCE."""
    torch.manual_seed(seed)
    branches = {v: Branch(encoder(window=window), mlp_head([12, 16, 6], norm=norm)) for v in ("a", "b")}
    term = SetTerm("infonce", ("a", "b"), infonce_cross, keys=("a", "b"), scale=LogitScale())
    return Bootstrap(branches, {"a": "a", "b": "b"}, set_terms=[term])


def prepare(batch: dict[str, Any], step: int) -> tuple[dict[str, Tensor], Ctx]:
    """Views, and a row mask that leaves out every fifth sample."""
    return {"a": batch["a"], "b": batch["b"]}, Ctx(masks={"rows": batch["id"] % 5 != 0}, data={"id": batch["id"]})


def source(n: int = 64, batch: int = 8, *, workers: int = 0, seed: int = 0, **kwargs: Any) -> LoaderSource:
    return LoaderSource(Items(n), ResumableSampler(n, batch, seed=seed, **kwargs), num_workers=workers)


def config(**changes: Any) -> TrainConfig:
    plain = {
        "steps": 20, "lr": 1e-2, "trackers": (), "device": "cpu", "checkpoint_every": 5, "log_every": 5,
        "monitor_every": 0, "keep": 3,
    }  # fmt: skip
    return TrainConfig(**{**plain, **changes})


def train(
    path: Path, model: Bootstrap, train_config: TrainConfig, data: LoaderSource, *, resume: bool = False, **kwargs: Any
) -> FitResult:
    """Create or reopen a run and fit."""
    run = Run.create(path, recipe="toy", config={"train": train_config}, resume=resume, resume_command="again")
    return fit(model, data, train_config, prepare=prepare, run=run, resume=resume, **kwargs)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
