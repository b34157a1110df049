from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import training_toy as toy
from torch import nn

from byol_ext.bootstrap import Ctx, Out
from byol_ext.training import Run, Trainable, TwoStage, fit
from byol_ext.training.trainable import process_buffers


class Plain(nn.Module):
    """A model that is no Bootstrap and has no encoder of its own."""

    couples_samples = encoder_couples_samples = False

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(toy.WIDTH, toy.WIDTH)

    def coupling_reasons(self) -> list[str]:
        return []

    def forward(self, views: dict[str, Any], ctx: Ctx, step: int) -> Out:
        return Out(loss=(self.net(views["a"]) - views["b"]).square().mean())

    def after_step(self, step: int) -> dict[str, float]:
        return {"steps": step + 1.0}


def test_a_model_that_is_no_bootstrap_trains(tmp_path: Path) -> None:
    config = toy.config(steps=40, accumulate_steps=2, log_every=1, lr=0.1)
    run = Run.create(tmp_path / "r", recipe="toy", config=config)
    result = fit(Plain(), toy.source(), config, prepare=toy.prepare, run=run)
    assert result.metrics["steps"] == 40
    assert result.metrics["loss"] < run.metrics()[0]["loss"] / 2


def test_what_a_model_lacks_is_named(tmp_path: Path) -> None:
    config = toy.config(accumulate="cached")
    run = Run.create(tmp_path / "r", recipe="toy", config=config)
    with pytest.raises(ValueError, match="which Plain lacks"):
        fit(Plain(), toy.source(), config, prepare=toy.prepare, run=run)
    with pytest.raises(TypeError, match="got a Trainee"):
        fit(type("Trainee", (), {})(), toy.source(), config, prepare=toy.prepare, run=run)


def test_a_bootstrap_is_two_stage() -> None:
    assert isinstance(toy.slap(), TwoStage)
    assert isinstance(Plain(), Trainable)
    assert not isinstance(Plain(), TwoStage)


def test_buffers_of_one_process_are_found_by_their_full_names():
    class Filter(nn.Module):
        process_local = ("state",)

        def __init__(self):
            super().__init__()
            self.register_buffer("state", torch.zeros(3))
            self.register_buffer("shared", torch.zeros(2))

    model = nn.Sequential(nn.BatchNorm1d(2), Filter())
    found = process_buffers(model)
    assert list(found) == ["1.state"]
    assert found["1.state"] is model[1].state
    assert list(process_buffers(model[1])) == ["state"]
