"""Diagnostics as monitors and evaluations of ``fit``: they are called and logged, and leave the training as it was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import training_toy as toy
from torch import Tensor

from byol_ext.bootstrap import Bootstrap
from byol_ext.metrics.augmentation_moments import AugmentationSensitivity, RandomMap
from byol_ext.metrics.hull import HullMonitor
from byol_ext.metrics.predictor_spectrum import GradientNorms, PredictorMonitor
from byol_ext.predictors import linear_predictor
from byol_ext.priors import Swag, SwagMonitor
from byol_ext.training import Run, TrainConfig
from byol_ext.training.optim import adamw
from byol_ext.training.sghmc import SGHMC

CONFIG = toy.config(steps=4, log_every=1, monitor_every=2, evaluate_every=4, clip_norm=0.0)


def linear_toy() -> Bootstrap:
    model = toy.slap(norm="batch", dropout=0.2)
    for name in ("a", "b"):
        model.predictors[name] = linear_predictor(6)
    return model


def trained(path: Path, model: Bootstrap, **calls: Any) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    toy.train(path, model, CONFIG, toy.source(), **calls)
    return Run.open(path).metrics(), toy.weights(model)


def test_diagnostics_in_the_loop_change_nothing(tmp_path: Path) -> None:
    _, expected = trained(tmp_path / "plain", linear_toy())
    model, norms = linear_toy(), GradientNorms()
    swag = SwagMonitor(Swag(model.branches["a"].encoder, rank=2), lambda m: m.branches["a"].encoder)
    nudge = RandomMap(torch.tensor([0.5, 0.5]), lambda x: torch.stack([x - 0.1, x + 0.1]))
    records, weights = trained(
        tmp_path / "watched",
        model,
        monitors=[PredictorMonitor(), HullMonitor(dims=(1, 2)), norms, swag],
        evaluate=AugmentationSensitivity(
            {"nudge": nudge}, torch.randn(16, 8), lambda m, x: m.embed({"a": x})["a"]["y"]
        ),
        optimizer=lambda m: norms.watch(m, adamw(m, CONFIG, torch.device("cpu"))),
    )
    for name, value in expected.items():
        assert torch.equal(value, weights[name]), name
    assert [record["step"] for record in records if "swag/collected" in record] == [2, 4]
    last = records[-1]
    assert last["swag/collected"] == 2.0
    assert 0.0 <= last["hull/a/z/1"] <= 1.0
    assert 0.0 < last["eval/augmentation/nudge/sensitivity"] < 1.0
    assert {"predictor/a->b/cosine", "predictor/a/stable_rank", "predictor/b/alignment", "ema/distance"} < last.keys()
    # Without clipping the parts add up to the loop's norm.
    assert math.hypot(last["grad_norm/online"], last["grad_norm/predictor"]) == pytest.approx(
        last["grad_norm"], rel=1e-5
    )
    mean_P = swag.swag.prior().mean_P
    assert mean_P.shape == (sum(p.numel() for p in model.branches["a"].encoder.parameters()),)


def test_sghmc_resumes_with_the_same_noise(tmp_path: Path) -> None:
    def sampler(model: torch.nn.Module) -> SGHMC:
        return SGHMC((p for p in model.parameters() if p.requires_grad), friction=0.1, temperature=1e-4)

    def config(steps: int) -> TrainConfig:
        return toy.config(steps=steps, schedule="const", warmup=0.0)

    whole, again = toy.slap(), toy.slap(seed=1)
    toy.train(tmp_path / "whole", whole, config(6), toy.source(), optimizer=sampler)
    toy.train(tmp_path / "cut", toy.slap(), config(3), toy.source(), optimizer=sampler)
    toy.train(tmp_path / "cut", again, config(6), toy.source(), resume=True, optimizer=sampler)
    expected = toy.weights(whole)
    for name, value in toy.weights(again).items():
        assert torch.equal(value, expected[name]), name
