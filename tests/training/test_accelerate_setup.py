from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import training_toy as toy
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from byol_ext.heads import WindowBatchNorm2d, WindowMode
from byol_ext.training import loop
from byol_ext.training.accelerate_setup import prepare_model, refuse_unsharded_calls, synchronize_batch_norms


@pytest.mark.parametrize(("mode", "after"), [("window", "window"), ("frozen", "frozen"), ("batch", "window")])
def test_synchronising_keeps_windowed_norms(mode: WindowMode, after: WindowMode) -> None:
    model = toy.slap(norm="batch", window=mode)
    state = toy.weights(model)
    synchronize_batch_norms(model)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    windowed = [m for m in norms if isinstance(m, WindowBatchNorm2d)]
    assert len(windowed) == 4  # two branches and their copies
    assert {m.mode for m in windowed} == {after}
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms if m not in windowed)
    assert len(norms) == 4 + 6  # projectors, their copies, predictors
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    model.eval()
    views, ctx = toy.prepare(torch.utils.data.default_collate([toy.Items(8)[i, 0] for i in range(8)]), 0)
    model.begin_window([views], 0)
    assert model(views, ctx).loss.isfinite()
    model.end_window()


def test_synchronised_norms_still_follow_their_source() -> None:
    model = toy.slap(norm="batch", tau=0.0)
    synchronize_batch_norms(model)
    with torch.no_grad():
        for parameter in model.branches.parameters():
            parameter.add_(1.0)
    model.after_step(0)
    assert model.target is not None
    assert model.target.ema is not None
    for name, value in model.target.ema.module.named_parameters():
        assert torch.equal(value, model.branches.get_parameter(name)), name


def sharded(version: int, monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    monkeypatch.setattr(Accelerator, "is_fsdp2", version == 2)
    return Accelerator(cpu=True)


def test_fsdp1_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"FSDP1 is not supported.*fsdp_version: 2"):
        prepare_model(sharded(1, monkeypatch), toy.slap(), toy.config(), None)


def test_fsdp2_does_not_take_cached_accumulation(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not under FSDP"):
        prepare_model(sharded(2, monkeypatch), toy.slap(), toy.config(accumulate="cached"), None)


@pytest.mark.parametrize(("evaluates", "monitors"), [(True, False), (False, True)])
def test_fsdp2_refuses_calls_on_one_process(evaluates: bool, monitors: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = sharded(2, monkeypatch)
    refuse_unsharded_calls(accelerator, evaluates=False, monitors=False)
    with pytest.raises(ValueError, match="evaluate_every=0 and monitor_every=0"):
        refuse_unsharded_calls(accelerator, evaluates=evaluates, monitors=monitors)


@pytest.mark.parametrize("watch", [{"evaluate": lambda model, step: {}}, {"monitors": [lambda model, out, step: {}]}])
def test_fit_refuses_them_before_it_trains(
    watch: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "make_accelerator", lambda config, run: sharded(2, monkeypatch))
    config = toy.config(steps=1, evaluate_every=1, monitor_every=1)
    with pytest.raises(ValueError, match="first process alone"):
        toy.train(tmp_path / "r", toy.slap(), config, toy.source(), **watch)
