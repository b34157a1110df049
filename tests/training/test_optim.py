from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import training_toy as toy
from torch import nn

from byol_ext.training import adamw, parameter_groups


def test_learning_rate_follows_the_schedule_and_the_group_scale(tmp_path: Path) -> None:
    rates: list[list[float]] = []

    class Recorder(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            rates.append([group["lr"] for group in self.param_groups])

    def build(model: nn.Module) -> torch.optim.Optimizer:
        parameters = [p for p in model.parameters() if p.requires_grad]
        return Recorder([{"params": parameters[:1]}, {"params": parameters[1:], "lr_scale": 10.0}], lr=0.0)

    toy.train(
        tmp_path / "r", toy.slap(), toy.config(steps=4, lr=1.0, warmup=0.5, schedule="const"), toy.source(),
        optimizer=build,
    )  # fmt: skip
    assert rates == [[0.5, 5.0], [1.0, 10.0], [1.0, 10.0], [1.0, 10.0]]


def test_a_constant_rate_has_neither_warm_up_nor_decay(tmp_path: Path) -> None:
    rates: list[list[float]] = []

    class Recorder(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            rates.append([group["lr"] for group in self.param_groups])

    config = toy.config(steps=4, lr=1.0, warmup=0.5, predictor_lr_scale=2.0, predictor_lr_schedule="const")

    def build(model: nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(
            model, 0.0, predictor_lr_scale=config.predictor_lr_scale, predictor_lr_schedule=config.predictor_lr_schedule
        )
        return Recorder(groups, lr=0.0)

    toy.train(tmp_path / "r", toy.slap(), config, toy.source(), optimizer=build)
    assert [rate[-1] for rate in rates] == [2.0] * 4
    assert rates[0][0] == 0.5
    assert rates[-1][0] < 1.0


def test_the_default_optimiser_knows_the_constant_rate() -> None:
    model = toy.slap()
    groups = adamw(model, toy.config(predictor_lr_schedule="const"), torch.device("cpu")).param_groups
    constant = {id(p) for group in groups if group.get("constant_lr") for p in group["params"]}
    assert constant == {id(p) for p in model.predictors.parameters()}
    assert not any("constant_lr" in g or "lr_scale" in g for g in parameter_groups(model, 0.0))
