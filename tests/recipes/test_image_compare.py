"""The comparison of methods: its runs, what it refuses, its table by hand; the gate of core-ssl 15 as a slow test."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from byol_ext.training import plain
from recipes import image_compare
from recipes.image_compare import (
    CONTROLS,
    PIXELS,
    SUPERVISED,
    UNTRAINED,
    Cell,
    Study,
    cell_config,
    compare_command,
    control_cells,
    finished_cells,
    run_cell,
    study_cells,
)
from recipes.image_compare_table import LINEAR, draw, markdown, notes, tabulate
from recipes.image_config import ImageConfig, clutter
from recipes.image_variants import METHODS

SMALL = {
    "data.batch": 32,
    "encoder.channels": [8],
    "encoder.strides": [2],
    "method.projector": [16, 8],
    "method.predictor_hidden": 16,
    "train.steps": 2,
    "train.log_every": 1,
    "eval.draws": 1,
    "eval.shares": [],
}


def test_bootstrapped_methods_have_more_seeds() -> None:
    cells = study_cells(["byol-gn-ws", "directpred", "simclr"])
    assert [sum(cell.method == name for cell in cells) for name in ("byol-gn-ws", "directpred", "simclr")] == [5, 5, 3]
    assert len(study_cells(["byol", "simclr"], seeds=2)) == 4
    assert len({cell.name for cell in study_cells(list(METHODS))}) == len(study_cells(list(METHODS)))
    controls = control_cells(5)
    assert [sum(cell.method == name for cell in controls) for name in CONTROLS] == [5, 1, 3]


@pytest.mark.parametrize("preset", ["clutter", "fashion", "openclipart"])
def test_every_method_has_a_configuration_on_every_data_set(tmp_path: Path, preset: str) -> None:
    study = Study(tmp_path, preset)
    for method in (*METHODS, *CONTROLS):
        config = cell_config(study, Cell(method, 3))
        assert (config.seed, config.train.seed, config.train.steps) == (3, 3, 1000)
        assert not config.eval.controls


def test_settings_and_varied_values_reach_the_configuration(tmp_path: Path) -> None:
    cells = study_cells(["simclr"], seeds=1, vary=("method.contrast.temperature", [0.1, 0.5]))
    assert [cell.arm for cell in cells] == ["simclr, temperature 0.1", "simclr, temperature 0.5"]
    configs = [cell_config(Study(tmp_path, settings=SMALL), cell) for cell in cells]
    assert [config.method.contrast.temperature for config in configs] == [0.1, 0.5]
    assert all(config.encoder.channels == (8,) and config.data.batch == 32 for config in configs)


def test_runs_and_controls_become_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(tasks: dict[str, Any], *, finished: list[str], **_: Any) -> None:
        for name, task in tasks.items():
            assert name in finished or task() == 0

    monkeypatch.setattr(image_compare, "run_missing", here)
    options = ["--methods", "simclr", "directpred", "--seeds", "1", "--out", str(tmp_path), "--json"]
    options += ["--set", *(f"{name}={json.dumps(value)}" for name, value in SMALL.items())]
    assert compare_command(options) == 0
    rows = {row["method"]: row for row in json.loads(_json_part(capsys.readouterr().out))["rows"]}
    assert list(rows) == [*CONTROLS, "simclr", "directpred"]
    for name, row in rows.items():
        results = json.loads((tmp_path / "image" / f"{name.replace(' ', '_')}-0" / "results.json").read_text())
        assert row[LINEAR]["mean"] == pytest.approx(100 * results["metrics"]["probe/linear_accuracy"])
    assert [rows[name]["passes"]["mean"] for name in ("simclr", "directpred", SUPERVISED)] == [2, 4, 1]
    assert "RankMe z" in rows[UNTRAINED]
    assert "RankMe z" not in rows[PIXELS]
    assert (tmp_path / "compare.png").stat().st_size > 10_000
    # All are finished now; other settings would make another table.
    monkeypatch.setattr(image_compare, "run_cell", pytest.fail)
    assert compare_command(options) == 0
    with pytest.raises(ValueError, match=r"was made with another train\.steps"):
        compare_command([*options, "--steps", "3"])


def _json_part(text: str) -> str:
    return text[text.index('{\n "preset"') :]


def fake(out: Path, name: str, **metrics: float) -> None:
    folder = out / "image" / name
    folder.mkdir(parents=True)
    found = {
        "probe/linear_accuracy": metrics["linear"],
        "rankme": metrics["rank"],
        "per_class/accuracy/cat": metrics.get("cat", 0.5),
        "per_class/accuracy/dog": metrics.get("dog", 0.5),
    }
    (folder / "results.json").write_text(json.dumps({"metrics": found}))


def test_table_by_hand(tmp_path: Path) -> None:
    fake(tmp_path, "a-0", linear=0.5, rank=10.0)
    fake(tmp_path, "a-1", linear=0.7, rank=20.0)
    fake(tmp_path, "pixels-0", linear=0.2, rank=3.0)
    arms = {PIXELS: ["pixels-0"], "a": ["a-0", "a-1"]}
    table = {row["method"]: row for row in tabulate(tmp_path, arms)}
    assert table["a"][LINEAR] == pytest.approx({"mean": 60.0, "low": 50.0, "high": 70.0})
    assert table["a"]["sd"] == pytest.approx(200**0.5)
    assert "sd" not in table[PIXELS]
    text = markdown(list(table.values()), {})
    assert "| a | 2 | 60.0 [50.0, 70.0] | - | - | - | 15.0 [10.0, 20.0] |" in text
    assert f"| {PIXELS} | 1 | 20.0 |" in text
    assert draw(tmp_path, arms, controls=[PIXELS], title="t", path=tmp_path / "f.png").stat().st_size > 10_000


def test_varied_settings_by_hand(tmp_path: Path) -> None:
    values = {0.1: (0.5, 10.0, 0.9, 0.1), 0.2: (0.7, 30.0, 0.8, 0.6), 0.4: (0.6, 40.0, 0.4, 0.7)}
    for value, (linear, rank, cat, dog) in values.items():
        fake(tmp_path, f"a, t {value}-0", linear=linear, rank=rank, cat=cat, dog=dog)
    arms = {f"a, t {value}": [f"a, t {value}-0"] for value in values}
    found = notes(tmp_path, arms, {f"a, t {value}": ("a", value) for value in values})
    (orders,) = found["rankme"]
    # Ranks of accuracy 1, 3, 2 and of RankMe 1, 2, 3: 1 - 6 * 2 / 24.
    assert orders["spearman"] == pytest.approx(0.5)
    assert orders["chosen"] == "a, t 0.4"
    assert orders["points below the best"] == pytest.approx(10.0)
    cat, dog = found["per_class"]
    # Mean over classes: .5, .7, .55; the middle is best, and both classes would do better elsewhere.
    assert (cat["class"], cat["at the best on average"], cat["its own best value"]) == ("cat", pytest.approx(80), 0.1)
    assert (dog["at its own best"], dog["its own best value"]) == (pytest.approx(70), 0.4)
    assert "| a | cat |" in markdown([], found)
    assert notes(tmp_path, arms, {}) == {"rankme": [], "per_class": []}


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    study, cell = Study(tmp_path, settings={"train.steps": 5}), Cell("byol", 0)
    fake(tmp_path, cell.name, linear=0.5, rank=1.0)
    folder = tmp_path / "image" / cell.name

    def saved(config: ImageConfig) -> None:
        (folder / "config.yaml").write_text(yaml.safe_dump(plain(config)))
        (folder / "run.json").write_text(json.dumps({"recipe": "image", "resume_command": ""}))

    config = cell_config(study, cell)
    saved(replace(config, root="elsewhere", eval=replace(config.eval, knn=3)))
    assert finished_cells(study, [cell, Cell("byol", 1)]) == [cell.name]
    saved(replace(config, optimizer="sgd"))
    with pytest.raises(ValueError, match=r"another optimizer; .* another --out"):
        finished_cells(study, [cell])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "simclrr"], "did you mean simclr"),
        (["--methods", "byol", "--set", "train.step=3"], "did you mean 'steps'"),
        (["--methods", "byol", "--set", "train.steps"], "expected FIELD=VALUE"),
        (["--methods", "byol", "--vary", "train.lr", "1e-3"], "two values at least"),
    ],
)
def test_bad_options_end_before_anything_runs(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        compare_command(options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_gate_of_the_core(tmp_path: Path) -> None:
    """Core-ssl 15: one seed, margins from the measured spread of seeds; about four CPU-minutes."""
    study, found = Study(tmp_path), {}
    for method in (UNTRAINED, "byol", "directpred", "simclr", "byol-no-predictor"):
        cell = Cell(method, 0)
        assert run_cell(study, cell) == 0
        found[method] = json.loads((tmp_path / "image" / cell.name / "results.json").read_text())["metrics"]
    gain = {
        method: 100 * (metrics["probe/linear_accuracy"] - found[UNTRAINED]["probe/linear_accuracy"])
        for method, metrics in found.items()
    }
    assert gain["byol"] >= 15, gain
    assert gain["directpred"] >= 25, gain
    assert gain["simclr"] >= 50, gain
    assert gain["byol-no-predictor"] <= 8, gain
    assert found["byol-no-predictor"]["std_sqrt_d"] < 0.1
    assert clutter().train.steps == 1000
