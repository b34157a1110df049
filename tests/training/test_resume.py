"""T7 of slap 16: a resumed run equals an uninterrupted one, bit by bit."""

from __future__ import annotations

import copy
import logging
import multiprocessing
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import training_kill as killable
import training_toy as toy
from torch import Tensor

from byol_ext.bootstrap import Bootstrap, Ctx
from byol_ext.training import LoaderSource, Run, fit, latest_checkpoint, load_checkpoint, plain, save_checkpoint
from byol_ext.training.resume import check_same_run, equal_states


def equal_weights(a: Bootstrap, b: Bootstrap) -> bool:
    left, right = toy.weights(a), toy.weights(b)
    return left.keys() == right.keys() and all(torch.equal(v, right[n]) for n, v in left.items())


@pytest.mark.parametrize("stop", [5, 10, 15])
@pytest.mark.parametrize("mode", ["naive", "cached"])
def test_resuming_at_a_step_equals_an_uninterrupted_run(tmp_path: Path, stop: int, mode: str) -> None:
    def make() -> Bootstrap:
        return toy.slap(norm="batch" if mode == "cached" else "layer", dropout=0.3, tau=0.8)

    common = {"accumulate": mode, "accumulate_steps": 2, "schedule": "const", "warmup": 0.0}
    whole, parts, resumed = make(), make(), make()
    toy.train(tmp_path / "whole", whole, toy.config(steps=20, log_every=1, **common), toy.source(n=70))
    toy.train(tmp_path / "parts", parts, toy.config(steps=stop, log_every=1, **common), toy.source(n=70))
    torch.rand(17)
    result = toy.train(
        tmp_path / "parts", resumed, toy.config(steps=20, log_every=1, **common), toy.source(n=70), resume=True
    )
    assert result.step == 20
    assert not equal_weights(parts, whole)
    assert equal_weights(resumed, whole)
    a, b = (load_checkpoint(tmp_path / n / "checkpoints" / "step-20").state for n in ("whole", "parts"))
    for index, values in a["optimizer"]["state"].items():
        for name, value in values.items():
            assert torch.equal(value, b["optimizer"]["state"][index][name])
    assert a["processes"][0]["source"] == b["processes"][0]["source"]
    timed = {"time", "seconds", "samples/s", "seconds_per_step"}
    records = [
        [{k: v for k, v in r.items() if k not in timed} for r in Run.open(tmp_path / n).metrics()]
        for n in ("whole", "parts")
    ]
    assert records[0] == records[1]


def test_an_interrupted_run_resumes_bit_by_bit_with_workers(tmp_path: Path) -> None:
    whole, stopped, resumed = (toy.slap(dropout=0.3) for _ in range(3))
    toy.train(tmp_path / "whole", whole, toy.config(steps=20), toy.source())

    def prepare(batch: dict[str, Any], step: int) -> tuple[dict[str, Tensor], Ctx]:
        if step == 12:
            signal.raise_signal(signal.SIGTERM)
        return toy.prepare(batch, step)

    config = toy.config(steps=20)
    run = Run.create(tmp_path / "r", recipe="toy", config={"train": config})
    first = fit(stopped, toy.source(workers=2), config, prepare=prepare, run=run)
    assert (first.interrupted, first.step) == ("SIGTERM", 13)
    second = toy.train(tmp_path / "r", resumed, config, toy.source(workers=1), resume=True)
    assert (second.interrupted, second.step, second.samples_seen) == (None, 20, 160)
    assert equal_weights(resumed, whole)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    model, again = toy.slap(), toy.slap()
    toy.train(tmp_path / "r", model, toy.config(steps=5), toy.source())
    before = (tmp_path / "r" / "metrics.jsonl").read_text()
    result = toy.train(tmp_path / "r", again, toy.config(steps=5), toy.source(), resume=True)
    assert result.step == 5
    assert equal_weights(model, again)
    assert (tmp_path / "r" / "metrics.jsonl").read_text() == before


def test_resume_without_a_checkpoint_starts(tmp_path: Path) -> None:
    assert toy.train(tmp_path / "r", toy.slap(), toy.config(steps=3), toy.source(), resume=True).step == 3


def test_no_metrics_line_is_written_twice(tmp_path: Path) -> None:
    toy.train(tmp_path / "r", toy.slap(), toy.config(steps=10, log_every=1), toy.source())
    (tmp_path / "r" / "checkpoints" / "step-10" / "model.safetensors").write_bytes(b"damaged")
    toy.train(tmp_path / "r", toy.slap(), toy.config(steps=12, log_every=1), toy.source(), resume=True)
    assert [r["step"] for r in Run.open(tmp_path / "r").metrics()] == list(range(1, 13))


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, resumed = toy.slap(), toy.slap()
    toy.train(tmp_path / "r", whole, toy.config(steps=20), toy.source())
    (tmp_path / "r" / "checkpoints" / "step-20" / "state.pt").unlink()
    toy.train(tmp_path / "r", resumed, toy.config(steps=20), toy.source(), resume=True)
    assert "step-20" in caplog.text
    assert equal_weights(whole, resumed)
    names = {p.name for p in (tmp_path / "r" / "checkpoints").iterdir()}
    assert names == {"step-10", "step-15", "step-20", "step-20.bad"}


@pytest.fixture
def started(tmp_path: Path) -> Path:
    toy.train(tmp_path / "r", toy.slap(), toy.config(steps=5), toy.source())
    return tmp_path / "r"


def test_training_over_a_run_is_refused(started: Path) -> None:
    with pytest.raises(FileExistsError, match="resume"):
        toy.train(started, toy.slap(), toy.config(steps=5), toy.source())
    with pytest.raises(FileExistsError, match="has checkpoints"):
        fit(toy.slap(), toy.source(), toy.config(steps=5), prepare=toy.prepare, run=Run.open(started))


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"lr": 0.5}, "lr was 0.01, now 0.5"), ({"accumulate_steps": 2}, "accumulate_steps was 1"), ({"seed": 9}, "seed")],
)
def test_another_configuration_is_refused_by_name(started: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        toy.train(started, toy.slap(), toy.config(steps=9, **changes), toy.source(), resume=True)


def resume_with_run_config(path: Path, config: dict[str, Any], free: tuple[str, ...] = ()) -> None:
    run = Run.create(path, recipe="toy", config=config, resume=True, free=free)
    fit(toy.slap(), toy.source(), toy.config(steps=6), prepare=toy.prepare, run=run, resume=True)


def test_the_recipes_configuration_counts_too(started: Path) -> None:
    train = toy.config(steps=6)
    with pytest.raises(ValueError, match=r"model\.width was \(absent\), now 9"):
        resume_with_run_config(started, {"train": train, "model": {"width": 9}})
    resume_with_run_config(started, {"train": train, "model": {"width": 9}}, free=("model",))


def test_limits_and_intervals_may_change(started: Path) -> None:
    changed = toy.config(steps=8, log_every=2, checkpoint_every=2, keep=1, nan_patience=9)
    assert toy.train(started, toy.slap(), changed, toy.source(), resume=True).step == 8
    assert Run.open(started).config["train"]["steps"] == 8


def test_other_data_is_refused(started: Path) -> None:
    other = LoaderSource(toy.Items(64), toy.ResumableSampler(64, 8, rank=0, world_size=1), fingerprint="other")
    with pytest.raises(ValueError, match=r"trained on the data 'Items\[64\]', but this is 'other'"):
        toy.train(started, toy.slap(), toy.config(steps=9), other, resume=True)


def test_another_order_is_refused(started: Path) -> None:
    with pytest.raises(ValueError, match="seed=0, but now has seed=5"):
        toy.train(started, toy.slap(), toy.config(steps=9), toy.source(seed=5), resume=True)


def test_another_revision_warns(
    started: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("byol_ext.training.resume.environment", lambda device: {"git": "f" * 40})
    with caplog.at_level(logging.WARNING):
        toy.train(started, toy.slap(), toy.config(steps=6), toy.source(), resume=True)
    assert "source revision" in caplog.text


def test_a_field_that_the_checkpoint_is_too_old_to_know_had_its_default() -> None:
    now = {"train": plain(toy.config()), "config": {"train": plain(toy.config())}, "fingerprint": None}
    now["environment"] = {"git": None}
    old = copy.deepcopy(now)
    del old["train"]["predictor_lr_schedule"], old["config"]["train"]["predictor_lr_schedule"]
    check_same_run(old, now)
    now["train"]["predictor_lr_schedule"] = "const"
    with pytest.raises(ValueError, match="predictor_lr_schedule was same, now const"):
        check_same_run(old, now)


def test_states_with_tensors_compare() -> None:
    state = {"position": 3, "order": torch.arange(4), "shards": [("a", torch.ones(2)), None]}
    assert equal_states(state, copy.deepcopy(state))
    for path, value in (("position", 4), ("order", torch.arange(5)), ("order", 1), ("shards", [("a", torch.zeros(2))])):
        assert not equal_states(state, {**state, path: value})
    assert not equal_states(state, {"position": 3})
    assert not equal_states(torch.ones(1), torch.ones(1, dtype=torch.float64))


class Ordered(LoaderSource):
    """A source whose state holds a tensor."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "order": torch.arange(3)}


@pytest.mark.parametrize("differ", [False, True])
def test_a_run_of_two_processes_resumes_in_one_unless_their_sources_differ(started: Path, differ: bool) -> None:
    state = torch.load(started / "checkpoints" / "step-5" / "state.pt", weights_only=True)
    model = load_checkpoint(started / "checkpoints" / "step-5")
    processes = [copy.deepcopy(state["state"]["processes"][0]) for _ in range(2)]
    for rank, process in enumerate(processes):
        process["source"]["order"] = torch.arange(3) + rank * differ
    save_checkpoint(
        started / "checkpoints", 5, model=model.model, state={**model.state, "processes": processes},
        meta=model.meta, keep=3,
    )  # fmt: skip
    data = Ordered(toy.Items(64), toy.ResumableSampler(64, 8, rank=0, world_size=1))
    data.fingerprint = "Items[64]"
    if differ:
        with pytest.raises(ValueError, match="each with a source of its own"):
            toy.train(started, toy.slap(), toy.config(steps=7), data, resume=True)
    else:
        assert toy.train(started, toy.slap(), toy.config(steps=7), data, resume=True).step == 7


def start(path: Path, **kwargs: Any) -> ForkServerProcess:
    """Train in a process of its own; the fork server has imported everything once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["byol_ext.training", "torch._dynamo", "torch.distributed.fsdp"])
    process = context.Process(target=killable.train, args=(path,), kwargs=kwargs)
    process.start()
    return process


def reference(path: Path) -> dict[str, Tensor]:
    killable.train(path, resume=False)
    return load_checkpoint(path / "checkpoints" / f"step-{killable.STEPS}").model


def assert_finished(path: Path, expected: dict[str, Tensor]) -> None:
    newest = latest_checkpoint(path / "checkpoints")
    assert newest is not None
    assert newest.name == f"step-{killable.STEPS}"
    found = load_checkpoint(newest).model
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    steps = [r["step"] for r in Run.open(path).metrics()]
    assert steps == list(range(1, killable.STEPS + 1))


def kill_and_resume(path: Path, kills: list[int]) -> None:
    for number, step in enumerate([*kills, None]):
        process = start(path, resume=number > 0, kill_at=step)
        process.join(120)
        assert process.exitcode == (0 if step is None else -signal.SIGKILL)


def test_kill_9_at_ten_random_steps_then_resume(tmp_path: Path) -> None:
    expected = reference(tmp_path / "whole")
    kill_and_resume(tmp_path / "r", sorted(random.Random(0).sample(range(killable.STEPS), 10)))
    assert_finished(tmp_path / "r", expected)


@pytest.mark.slow
def test_kill_9_at_random_moments_then_resume(tmp_path: Path) -> None:
    """Also within the writing of checkpoints and metrics."""
    expected = reference(tmp_path / "whole")
    draw, killed = random.Random(1), 0
    for trial in range(4):
        path = tmp_path / str(trial)
        for attempt in range(6):
            process = start(path, resume=attempt > 0)
            time.sleep(draw.uniform(0.05, 0.6))
            process.kill()
            process.join(60)
            killed += process.exitcode == -signal.SIGKILL
        process = start(path, resume=True)
        process.join(120)
        assert process.exitcode == 0
        assert_finished(path, expected)
    assert killed >= 5
