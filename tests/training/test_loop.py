from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import training_toy as toy
from accelerate import Accelerator
from torch import Tensor, nn

from byol_ext.bootstrap import Bootstrap, Ctx, Out
from byol_ext.training import LARS, Run, fit, latest_checkpoint, load_checkpoint, loop, parameter_groups
from byol_ext.training.run import json_value


def poison(at: set[int]) -> Callable[[dict[str, Any], int], tuple[dict[str, Tensor], Ctx]]:
    """``prepare`` that gives NaN views at some steps."""

    def prepare(batch: dict[str, Any], step: int) -> tuple[dict[str, Tensor], Ctx]:
        views, ctx = toy.prepare(batch, step)
        return ({k: v * float("nan") for k, v in views.items()} if step in at else views), ctx

    return prepare


def fit_with(path: Path, prepare: Any, model: Bootstrap | None = None, **changes: Any) -> Any:
    config = toy.config(**changes)
    run = Run.create(path, recipe="toy", config=config, resume_command="again")
    return fit(model if model is not None else toy.slap(), toy.source(), config, prepare=prepare, run=run)


class Spied(Bootstrap):
    """Records the online weights after each optimiser step, before the target moves."""

    def after_step(self, step: int) -> dict[str, float]:
        self.__dict__.setdefault("seen", []).append(toy.weights(self.branches))
        return super().after_step(step)


@pytest.mark.parametrize("mode", ["naive", "cached"])
def test_the_target_moves_once_per_window_by_the_closed_form(tmp_path: Path, mode: str) -> None:
    model = toy.slap(tau=0.9)
    model.__class__ = Spied
    assert model.target is not None
    start = toy.weights(model.branches)
    result = toy.train(tmp_path / "r", model, toy.config(steps=4, accumulate_steps=3, accumulate=mode), toy.source())
    assert model.target.ema is not None
    assert model.target.ema.updates == result.step == len(model.seen) == 4
    assert result.samples_seen == 4 * 3 * 8
    target = toy.weights(model.target.ema.module)
    for name, value in target.items():
        expected = 0.9**4 * start[name]
        for k, online in enumerate(model.seen):
            expected = expected + 0.1 * 0.9 ** (3 - k) * online[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_a_step_with_nan_leaves_no_trace(tmp_path: Path) -> None:
    model = toy.slap(norm="batch")
    snapshots: list[dict[str, Tensor]] = []

    def prepare(batch: dict[str, Any], step: int) -> tuple[dict[str, Tensor], Ctx]:
        snapshots.append(toy.weights(model))
        return poison({3})(batch, step)

    result = fit_with(tmp_path / "r", prepare, model, steps=6, log_every=1)
    assert result.skipped == 1
    assert result.step == 6
    for name, before in snapshots[3].items():
        assert torch.equal(before, snapshots[4][name]), name
    assert any(not torch.equal(before, snapshots[5][name]) for name, before in snapshots[4].items())
    records = Run.open(tmp_path / "r").metrics()
    assert records[3]["loss"] is None
    assert "ema/tau" not in records[3]
    assert [r["skipped"] for r in records] == [0, 0, 0, 1, 1, 1]


def test_nan_for_too_long_fails_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"3 consecutive steps.*step 9.*a->b.*step-5") as caught:
        fit_with(tmp_path / "r", poison(set(range(7, 99))), steps=30, nan_patience=3)
    assert "learning rate" in str(caught.value)
    newest = latest_checkpoint(tmp_path / "r" / "checkpoints")
    assert newest is not None
    assert newest.name == "step-5"
    assert all(v.isfinite().all() for v in load_checkpoint(newest).model.values())


def test_scattered_nan_steps_do_not_add_up(tmp_path: Path) -> None:
    result = fit_with(tmp_path / "r", poison({2, 3, 5, 6, 8, 9}), steps=12, nan_patience=3)
    assert result.skipped == 6


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = toy.slap()

    def prepare(batch: dict[str, Any], step: int) -> tuple[dict[str, Tensor], Ctx]:
        if step == 7:
            with torch.no_grad():
                next(model.parameters()).fill_(float("inf"))
        return toy.prepare(batch, step)

    with pytest.raises(FloatingPointError, match="step-5"):
        fit_with(tmp_path / "r", prepare, model, steps=20, checkpoint_every=5, nan_patience=4)
    assert "not finite at step 10" in caplog.text
    assert [p.name for p in sorted((tmp_path / "r" / "checkpoints").iterdir())] == ["step-5"]


def scaled(config: Any, run: Run) -> Accelerator:
    """An accelerator that scales losses as on CUDA with fp16."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
    accelerator.native_amp = True
    accelerator.state._mixed_precision = "fp16"
    accelerator.autocast = nullcontext  # type: ignore[assignment]
    return accelerator


def overflow(model: nn.Module, at: set[int]) -> None:
    """Make a gradient infinite in some backward passes."""
    calls = iter(range(10**6))
    parameter = next(p for p in model.parameters() if p.requires_grad)
    parameter.register_hook(lambda grad: grad * float("inf") if next(calls) in at else grad)


def test_a_skipped_amp_step_moves_neither_weights_nor_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "make_accelerator", scaled)
    model = toy.slap()
    overflow(model, {2, 5})
    result = fit_with(tmp_path / "r", toy.prepare, model, steps=8, log_every=1, nan_patience=1)
    assert result.skipped == 2
    assert model.target is not None
    assert model.target.ema is not None
    assert model.target.ema.updates == 6
    records = Run.open(tmp_path / "r").metrics()
    assert ["ema/tau" in r for r in records] == [True, True, False, True, True, False, True, True]
    newest = latest_checkpoint(tmp_path / "r" / "checkpoints")
    assert newest is not None
    assert load_checkpoint(newest).state["scaler"]["scale"] == 2.0


def test_amp_gradients_are_unscaled_before_clipping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = toy.slap()
    fit_with(tmp_path / "plain", toy.prepare, plain, steps=5, clip_norm=0.5)
    monkeypatch.setattr(loop, "make_accelerator", scaled)
    amp = toy.slap()
    fit_with(tmp_path / "amp", toy.prepare, amp, steps=5, clip_norm=0.5)
    for name, value in toy.weights(plain).items():
        torch.testing.assert_close(toy.weights(amp)[name], value)


def test_endless_amp_overflow_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "make_accelerator", scaled)
    model = toy.slap()
    overflow(model, set(range(1000)))
    with pytest.raises(FloatingPointError, match="2 consecutive"):
        fit_with(tmp_path / "r", toy.prepare, model, steps=50, nan_patience=2)


def test_amp_nan_loss_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "make_accelerator", scaled)
    result = fit_with(tmp_path / "r", poison({1}), steps=4)
    assert result.skipped == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(
    tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)

    def prepare(batch: dict[str, Any], step: int) -> tuple[dict[str, Tensor], Ctx]:
        if step == 6:
            signal.raise_signal(number)
        return toy.prepare(batch, step)

    result = fit_with(tmp_path / "r", prepare)
    assert result.interrupted == number.name
    assert result.step == 7
    assert result.checkpoint == latest_checkpoint(tmp_path / "r" / "checkpoints")
    assert result.checkpoint is not None
    assert result.checkpoint.name == "step-7"
    assert "continue with: again" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def prepare(batch: dict[str, Any], step: int) -> tuple[dict[str, Tensor], Ctx]:
        if step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return toy.prepare(batch, step)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit_with(tmp_path / "r", prepare)
    assert signal.getsignal(signal.SIGINT) is before


def test_metrics_hold_every_term_and_the_run_describes_itself(tmp_path: Path) -> None:
    result = toy.train(tmp_path / "r", toy.slap(), toy.config(steps=7, log_every=3), toy.source())
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["step"] for r in records] == [1, 3, 6, 7]
    expected = {"time", "seconds", "loss", "a->a", "a->b", "b->a", "b->b", "lr", "grad_norm", "ema/tau", "samples_seen",
                "samples/s", "skipped"}  # fmt: skip
    assert expected <= records[-1].keys()
    last = records[-1]
    assert last["loss"] == pytest.approx(0.5 * sum(last[e] for e in ("a->a", "a->b", "b->a", "b->b")), rel=1e-5)
    assert last["samples_seen"] == 56
    assert json_value(result.metrics).items() <= last.items()
    card = (tmp_path / "r" / "README.md").read_text()
    assert "step-7" in card
    assert "again" in card


def test_accumulated_terms_are_window_means(tmp_path: Path) -> None:
    accumulated = toy.config(steps=1, accumulate_steps=4)
    parts = toy.train(tmp_path / "parts", toy.slap(), accumulated, toy.source(batch=8)).metrics
    whole = toy.train(tmp_path / "whole", toy.slap(), toy.config(steps=1), toy.source(batch=32)).metrics
    for key in ("loss", "a->b", "grad_norm"):
        assert parts[key] == pytest.approx(whole[key], rel=1e-5)


def test_monitors_and_evaluation_leave_the_training_as_it_is(tmp_path: Path) -> None:
    calls: list[tuple[str, int, bool]] = []

    def monitor(model: nn.Module, out: Out, step: int) -> dict[str, float]:
        assert not torch.is_grad_enabled()
        torch.rand(3)
        calls.append(("monitor", step, model.training))
        return {"spread": float(out.online["a"].z.std())}

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        torch.rand(3)
        calls.append(("evaluate", step, model.training))
        return {"score": 1.0}

    watched, alone = toy.slap(norm="batch", dropout=0.3), toy.slap(norm="batch", dropout=0.3)
    config = toy.config(steps=6, monitor_every=2, evaluate_every=3, log_every=100)
    result = toy.train(tmp_path / "a", watched, config, toy.source(), monitors=[monitor], evaluate=evaluate)
    toy.train(tmp_path / "b", alone, toy.config(steps=6), toy.source())
    assert calls == [
        ("monitor", 2, True),
        ("evaluate", 3, False),
        ("monitor", 4, True),
        ("monitor", 6, True),
        ("evaluate", 6, False),
    ]
    assert result.metrics["eval/score"] == 1.0
    assert result.metrics["spread"] > 0
    for name, value in toy.weights(alone).items():
        assert torch.equal(value, toy.weights(watched)[name]), name


def test_an_evaluated_target_stays_evaluated_after_an_evaluation(tmp_path: Path) -> None:
    model = toy.slap(dropout=0.2)
    assert model.target is not None
    model.target.mode = "eval"
    toy.train(
        tmp_path / "r", model, toy.config(steps=2, evaluate_every=1), toy.source(), evaluate=lambda model, step: {}
    )
    assert model.training
    assert not model.target.training


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    moved = {}
    for clip in (0.0, 1e-3):
        model = toy.slap()
        before = toy.weights(model)
        toy.train(
            tmp_path / str(clip),
            model,
            toy.config(steps=1, clip_norm=clip, lr=1.0, warmup=0.0),
            toy.source(),
            optimizer=lambda model: torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0),
        )
        difference = [(toy.weights(model)[n] - v).square().sum() for n, v in before.items() if n.startswith("branches")]
        moved[clip] = float(torch.stack(difference).sum().sqrt())
    assert moved[0.0] > 0.05
    assert moved[1e-3] <= 1e-3 * 1.001


def test_a_given_learning_rate_replaces_the_schedule(tmp_path: Path) -> None:
    config = toy.config(steps=4, lr=9.0, log_every=1)
    run = Run.create(tmp_path / "r", recipe="toy", config=config, resume_command="again")
    fit(
        toy.slap(),
        toy.source(),
        config,
        prepare=toy.prepare,
        run=run,
        lr=lambda step: 0.01 * (step % 2 + 1),
        optimizer=lambda model: LARS(parameter_groups(model, 1e-6), config.lr),
    )
    assert [record["lr"] for record in run.metrics()] == [0.01, 0.02, 0.01, 0.02]


class Counting(nn.Module):
    """A predictor's statistics in a buffer that each forward rebinds, as closed forms do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("C", torch.zeros(6, 6))

    def forward(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            self.C = 0.9 * self.C + z.float().T @ z.float()
        return z


def test_a_step_with_nan_leaves_no_trace_in_rebound_buffers(tmp_path: Path) -> None:
    model = toy.slap()
    model.predictors["a"].net.append(Counting())
    assert fit_with(tmp_path / "r", poison({3}), model, steps=6).skipped == 1
    assert model.predictors["a"].net[-1].C.isfinite().all()
    assert model.predictors["a"].net[-1].C.any()


def test_bf16_computes_the_loss_in_float32(tmp_path: Path) -> None:
    result = toy.train(tmp_path / "r", toy.slap(), toy.config(steps=3, precision="bf16"), toy.source())
    assert result.step == 3
    again = toy.train(tmp_path / "s", toy.slap(), toy.config(steps=3, precision="no"), toy.source())
    assert again.metrics["loss"] == pytest.approx(result.metrics["loss"], rel=0.1)
    assert again.metrics["loss"] != result.metrics["loss"]


def test_cached_bf16_is_the_gradient_of_one_batch(tmp_path: Path) -> None:
    norms = [
        toy.train(tmp_path / mode, toy.clap(), toy.config(steps=1, precision="bf16", accumulate=mode), toy.source())
        .metrics["grad_norm"]
        for mode in ("naive", "cached")
    ]  # fmt: skip
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    models = [toy.slap(dropout=0.1), toy.slap(dropout=0.1)]
    for model, workers in zip(models, (0, 2), strict=True):
        toy.train(tmp_path / str(workers), model, toy.config(steps=10), toy.source(workers=workers))
    for name, value in toy.weights(models[0]).items():
        assert torch.equal(value, toy.weights(models[1])[name]), name


def test_tensorboard_by_default(tmp_path: Path) -> None:
    toy.train(tmp_path / "r", toy.slap(), toy.config(steps=2, trackers=("tensorboard",)), toy.source())
    assert list((tmp_path / "r" / "tensorboard").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"precision": "fp16"}, ValueError, "needs a CUDA device"),
        ({"trackers": ("mlflow",)}, ValueError, "not one of tensorboard, wandb, trackio"),
        ({"steps": None}, ValueError, "nothing limits the training"),
        ({"accumulate_steps": 2}, ValueError, "not exact"),
        ({"sync_batchnorm": True}, ValueError, "sync_batchnorm needs CUDA"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        toy.train(tmp_path / "r", toy.slap(norm="batch"), toy.config(**changes), toy.source())


def test_a_missing_tracker_names_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install wandb"):
        toy.train(tmp_path / "r", toy.slap(), toy.config(trackers=("wandb",)), toy.source())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        toy.train(tmp_path / "r", toy.slap(), toy.config(device="cuda"), toy.source())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs g++: apt-get install g++")
@pytest.mark.parametrize("mode", ["naive", "cached"])
def test_compiled_encoders_compute_the_same(tmp_path: Path, mode: str) -> None:
    models = [toy.slap(), toy.slap()]
    for model, compiled in zip(models, (False, True), strict=True):
        config = toy.config(steps=3, compile=compiled, accumulate=mode, accumulate_steps=2)
        toy.train(tmp_path / str(compiled), model, config, toy.source())
    assert toy.weights(models[0]).keys() == toy.weights(models[1]).keys()
    for name, value in toy.weights(models[0]).items():
        torch.testing.assert_close(toy.weights(models[1])[name], value, rtol=1e-4, atol=1e-5)


def test_deterministic_mode_is_left_as_it_was(tmp_path: Path) -> None:
    toy.train(tmp_path / "r", toy.slap(), toy.config(steps=1, deterministic=True), toy.source())
    assert not torch.are_deterministic_algorithms_enabled()
