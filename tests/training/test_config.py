from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
import training_toy as toy
from torch import nn

from byol_ext.heads import LogitScale
from byol_ext.training import TrainConfig, adamw, learning_rate, parameter_groups, total_steps
from byol_ext.training.config import RESUMABLE
from byol_ext.training.signals import StopSignals


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"steps": 7}, 7),
        ({"epochs": 3}, 24),
        ({"epochs": 0.5}, 4),
        ({"epochs": 3, "accumulate_steps": 5}, 5),
        ({"samples_seen": 64}, 8),
        ({"samples_seen": 65}, 9),
        ({"steps": 7, "epochs": 3}, 7),
        ({"steps": 70, "epochs": 3, "samples_seen": 80}, 10),
        ({"epochs": 0.001}, 1),
    ],
)
def test_the_first_limit_counts(limits: dict[str, Any], steps: int) -> None:
    assert total_steps(toy.config(**{"steps": None, **limits}), toy.source(64, 8)) == steps


class Stream:
    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_epochs_need_a_source_with_epochs() -> None:
    with pytest.raises(ValueError, match="Stream has no epochs"):
        total_steps(toy.config(steps=None, epochs=1), Stream())
    assert total_steps(toy.config(steps=3), Stream()) == 3
    with pytest.raises(ValueError, match="nothing limits"):
        total_steps(toy.config(steps=None), Stream())


@pytest.mark.parametrize(
    "bad",
    [
        {"accumulate_steps": 0}, {"log_every": 0}, {"checkpoint_every": 0}, {"keep": 0}, {"nan_patience": 0},
        {"monitor_every": -1}, {"clip_norm": -1.0}, {"weight_decay": -1.0}, {"warmup": 1.5}, {"steps": 0},
        {"epochs": -1.0}, {"samples_seen": 0}, {"final_lr": 2.0},
    ],
    ids=str,
)  # fmt: skip
def test_bad_values_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        TrainConfig(**bad)


def test_resumable_fields_exist() -> None:
    assert {f.name for f in fields(TrainConfig)} >= RESUMABLE


def test_learning_rate_ends_at_zero_or_stays() -> None:
    cosine = learning_rate(TrainConfig(lr=2.0, warmup=0.1), 100)
    assert max(cosine(k) for k in range(100)) == pytest.approx(2.0)
    assert cosine(99) < 2e-3
    ended = learning_rate(TrainConfig(lr=2.0, warmup=0.0, final_lr=0.25), 100)
    assert (ended(0), ended(100)) == (pytest.approx(2.0), pytest.approx(0.5))
    const = learning_rate(TrainConfig(lr=2.0, warmup=0.0, schedule="const"), 100)
    assert {const(k) for k in range(100)} == {2.0}


class Listed(nn.Module):
    no_decay = ("table",)

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3, 4))
        self.weight = nn.Parameter(torch.zeros(3, 4))


def test_norms_biases_temperatures_and_listed_parameters_do_not_decay() -> None:
    model = nn.ModuleDict(
        {"linear": nn.Linear(3, 4), "norm": nn.LayerNorm(4), "scale": LogitScale(), "listed": Listed()}
    )
    model["tied"] = model["linear"]
    decayed, rest = parameter_groups(model, 0.1)
    assert {id(p) for p in decayed["params"]} == {id(model["linear"].weight), id(model["listed"].weight)}
    assert decayed["weight_decay"] == 0.1
    assert rest["weight_decay"] == 0.0
    assert len(rest["params"]) == 5


def test_the_target_is_not_in_the_optimiser() -> None:
    model = toy.slap()
    assert model.target is not None
    optimizer = adamw(model, toy.config(), torch.device("cpu"))
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    assert not held & {id(p) for p in model.target.parameters()}


def test_a_frozen_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        adamw(nn.Linear(2, 2).requires_grad_(False), toy.config(), torch.device("cpu"))


def test_signals_outside_the_main_thread_are_left_alone() -> None:
    received: list[str | None] = []

    def enter() -> None:
        with StopSignals() as stop:
            received.append(stop.received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert received == [None]


def test_a_second_sigterm_changes_nothing() -> None:
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == "SIGTERM"
