from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest
import torch
import yaml

from byol_ext.training import Run, environment, plain
from byol_ext.training import environment as environment_function
from byol_ext.training.environment import git_revision
from byol_ext.training.progress import Progress


class Kind(Enum):
    ONE = "one"


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-3
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Config:
    inner: Inner = field(default_factory=Inner)
    out: Path = Path("runs")
    kind: Kind = Kind.ONE
    note: str | None = None


def make(path: Path) -> Run:
    return Run.create(path, recipe="slap", config=Config(), resume_command="byol-ext slap train --resume")


def test_layout_and_config(tmp_path: Path) -> None:
    run = make(tmp_path / "runs" / "slap" / "first")
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == {
        "inner": {"lr": 0.001, "sizes": [1, 2]}, "out": "runs", "kind": "one", "note": None,
    }  # fmt: skip
    opened = Run.open(run.path)
    assert (opened.recipe, opened.name, opened.config) == ("slap", "first", run.config)
    assert opened.resume_command == "byol-ext slap train --resume"
    assert opened.latest is None
    assert run.figures.is_dir()


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "r").log({"step": 1})
    with pytest.raises(FileExistsError, match="resume it, or choose another name"):
        make(tmp_path / "r")
    Run.create(tmp_path / "r", recipe="slap", config=Config(), resume=True)
    assert len(Run.open(tmp_path / "r").metrics()) == 1


def test_a_directory_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.yaml"):
        Run.open(tmp_path)


def test_metrics_are_strict_json_and_truncate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make(tmp_path / "r")
    for step in range(1, 5):
        run.log({"step": step, "loss": float("nan"), "t": torch.tensor(2.5)})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert run.metrics()[-1] == {"step": 4, "loss": None, "t": 2.5}
    assert "incomplete line" in caplog.text
    run.truncate_metrics(2)
    assert [r["step"] for r in run.metrics()] == [1, 2]
    run.truncate_metrics(0)
    assert run.metrics() == []


def test_results_have_the_shape_of_design_10(tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    run.figures.joinpath("pca.png").write_bytes(b"png")
    run.write_results(
        {"retrieval/text_to_audio/R@1": 0.5, "bad": float("inf")}, controls={"chance": 0.1}, protocol={"N": 10}
    )
    saved = json.loads((run.path / "results.json").read_text())
    assert set(saved) == {"recipe", "metrics", "controls", "protocol", "environment"}
    assert saved["recipe"] == "slap"
    assert saved["metrics"] == {"retrieval/text_to_audio/R@1": 0.5, "bad": None}
    assert {"versions", "device", "git"} <= saved["environment"].keys()
    assert saved["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert run.results() == saved
    card = (run.path / "README.md").read_text()
    for part in ("retrieval/text_to_audio/R@1 | 0.5", "figures/pca.png", "chance", "lr: 0.001", "versions.torch"):
        assert part in card


def test_processes_other_than_the_first_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run = make(tmp_path / "r")
    run.log({"step": 1})
    run.write_results({"x": 1.0})
    run.write_card()
    assert not (tmp_path / "r").exists()


def test_resume_command_defaults_to_this_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["byol-ext", "slap", "train", "--name", "a b"])
    run = Run.create(tmp_path / "r", recipe="slap", config={})
    assert run.resume_command == "byol-ext slap train --name 'a b' --resume"


def test_config_values_of_other_kinds_are_refused() -> None:
    with pytest.raises(TypeError, match="cannot hold"):
        plain({"x": object()})


def test_environment_names_versions_device_and_git() -> None:
    found = environment_function()
    assert found["versions"]["python"].startswith("3.")
    assert found["device"]
    assert environment is environment_function
    revision = git_revision()
    assert revision is None or len(revision.removesuffix("-dirty")) == 40


def test_progress_is_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(100, unit="frames", headline="coverage")
    progress.advance(10)
    progress.show({"step": 10, "loss": 0.5, "samples/s": 1234.0, "coverage": 0.25, "seconds_per_step": 60.0})
    progress.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "step 10/100  loss 0.5  1234 frames/s  coverage 0.25  1:30:00 left\n"
    Progress(100, enabled=False).show({"step": 1})
    assert capsys.readouterr().err == ""
