from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import training_toy as toy

from byol_ext.training import Run, environment
from byol_ext.training.environment import device_name


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, as far as its name goes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)


def device_in(path: Path) -> str:
    return str(json.loads((path / "results.json").read_text())["environment"]["device"])


@pytest.mark.usefixtures("gpu")
def test_the_device_is_the_one_that_computed() -> None:
    assert device_name() == device_name("cuda") == device_name(torch.device("cuda", 0)) == "GPU"
    assert device_name("cpu") == environment("cpu")["device"] != "GPU"
    assert environment()["device"] == "GPU"


def test_results_of_a_cpu_run_name_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    config = toy.config(steps=1)
    run = Run.create(tmp_path / "r", recipe="toy", config={"train": config})
    toy.fit(toy.slap(), toy.source(), config, prepare=toy.prepare, run=run)
    request.getfixturevalue("gpu")
    for writer in (run, Run.open(run.path)):
        writer.write_results({"x": 1.0})
        assert device_in(run.path) != "GPU"
    run.write_results({"x": 1.0}, device="cuda")
    assert device_in(run.path) == "GPU"
    other = Run.create(tmp_path / "auto", recipe="toy", config={"train": {"device": "auto"}})
    other.write_results({"x": 1.0})
    assert device_in(other.path) == "GPU"
