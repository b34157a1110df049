"""T6 of slap 16: several processes equal one."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import training_ddp as ddp
import training_toy as toy
from torch import Tensor

from byol_ext.training import Run, load_checkpoint

SCRIPT = Path(ddp.__file__)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(function: Callable[[Path], None], out: Path, world: int = 2) -> None:
    """Run a function in several processes that form a gloo group."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["byol_ext.training", "torch._dynamo", "torch.distributed.fsdp"])
    port = free_port()
    processes = [context.Process(target=ddp.work, args=(function, r, world, port, out)) for r in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * world


def final(run: Path) -> dict[str, Tensor]:
    newest = Run.open(run).latest
    assert newest is not None
    return load_checkpoint(newest).model


def assert_equal_runs(alone: Path, shared: Path) -> None:
    for name in ddp.CASES:
        expected, found = final(alone / name), final(shared / name)
        for key, value in expected.items():
            torch.testing.assert_close(
                found[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key, n=name: f"{n}: {k} {m}"
            )
        a, b = Run.open(alone / name).metrics()[-1], Run.open(shared / name).metrics()[-1]
        assert a["samples_seen"] == b["samples_seen"]
        for key in ("loss", "grad_norm"):
            assert b[key] == pytest.approx(a[key], rel=1e-4), (name, key)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    ddp.train_cases(out)
    return out


def test_two_processes_equal_one(alone: Path, tmp_path: Path) -> None:
    together(ddp.train_cases, tmp_path)
    assert_equal_runs(alone, tmp_path)


def test_the_cases_move(alone: Path) -> None:
    """A guard for the tests of equality: each run ends away from its start."""
    for name, (model, *_) in ddp.CASES.items():
        start, end = model().state_dict(), final(alone / name)
        moved = [key for key in start if not torch.equal(start[key], end[key])]
        assert any(key.startswith("branches.a.encoder") for key in moved), name
        assert any(key.startswith("branches.b.projector") for key in moved), name


def test_a_nan_on_one_process_is_skipped_by_all(tmp_path: Path) -> None:
    together(ddp.nan_on_one_rank, tmp_path)


def test_a_signal_to_one_process_stops_all_at_the_same_step_and_resumes_bit_by_bit(tmp_path: Path) -> None:
    together(ddp.signal_on_one_rank, tmp_path)


def test_a_sharded_model_trains_and_its_state_is_saved_whole(tmp_path: Path) -> None:
    together(ddp.fsdp, tmp_path)


@pytest.mark.slow
def test_fit_under_fsdp2_equals_one_process(tmp_path: Path) -> None:
    together(ddp.fsdp_fit, tmp_path)
    config = toy.config(steps=6, lr=0.1, clip_norm=1.0, schedule="const", warmup=0.0)
    toy.train(tmp_path / "whole", toy.slap(), config, toy.source(batch=16), optimizer=ddp.sgd)
    expected, found = final(tmp_path / "whole"), final(tmp_path / "fsdp_fit")
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_torchrun_nodes_that_meet_over_a_rendezvous_equal_one_process(alone: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend",
        "c10d", "--rdzv_endpoint", f"127.0.0.1:{free_port()}", "--rdzv_id", "byol_ext-test", str(SCRIPT), str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    nodes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        errors = [node.communicate(timeout=240)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(error[-3000:] for error in errors)
    assert_equal_runs(alone, tmp_path)
