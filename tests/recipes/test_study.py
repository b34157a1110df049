"""Runs of a study in processes of their own, and its tables."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from recipes.study import markdown_table, run_missing, spread, spread_text
from recipes.vididi_config import PRESETS, VididiConfig
from recipes.vididi_study import ABLATIONS, METHODS, Cell, cell_config, dots, markdown, study_cells, tabulate


def test_failed_runs_are_named_after_the_others_are_done(tmp_path: Path) -> None:
    tasks = {"said": partial(print, "hello"), "good": partial(int, 0), "bad": partial(int, 1), "old": partial(int, 1)}
    with pytest.raises(RuntimeError, match=r"2 runs failed: .*bad"):
        run_missing(tasks, finished=["old"], jobs=1, logs=tmp_path / "logs")
    assert (tmp_path / "logs" / "said.log").read_text() == "hello\n"
    assert not (tmp_path / "logs" / "old.log").exists()


def test_means_and_ranges() -> None:
    assert spread([1.0, 3.0, 5.0]) == {"mean": 3.0, "low": 1.0, "high": 5.0}
    assert spread_text(spread([1.0, 3.0]), 1) == "2.0 [1.0, 3.0]"
    assert spread_text(None) == "-"
    assert markdown_table(["a"], [["1"]]) == "| a |\n|---|\n| 1 |"


def test_cells_of_study_and_ablations_have_names_of_their_own() -> None:
    cells = study_cells(list(METHODS), ["fixed", "moving"], seeds=3)
    assert len({cell.name for cell in cells}) == len(cells) == 2 * 3 * (2 * 3 + 1)
    for ablation, changes in ABLATIONS.items():
        varied = study_cells(["byol"], ["fixed"], seeds=1, ablate=ablation)
        assert len({cell.name for cell in varied}) == len(varied) == 1 + len(changes)
        assert varied[0].name == "byol-vididi-fixed-0"  # the study's own run


@pytest.mark.parametrize("ablation", list(ABLATIONS))
def test_each_change_changes_what_it_says(tmp_path: Path, ablation: str) -> None:
    plain = cell_config(tmp_path, Cell("byol", True, "fixed", 1), 64)
    seen: list[VididiConfig] = []
    for change in ABLATIONS[ablation]:
        config = cell_config(tmp_path, Cell("byol", True, "fixed", 1, ablation, change), 64)
        same_settings = {"per view"}  # BYOL's own
        assert (config.train.steps, config.seed, config.data.camera) == (64, 1, "fixed")
        parts = ("encoder", "method", "schedule", "augment", "train")
        differs = [part for part in parts if getattr(config, part) != getattr(plain, part)]
        assert bool(differs) != (change in same_settings)
        seen.append(config)
    assert len({str(config) for config in seen}) == len(seen)


def fake_results(folder: Path, linear: float) -> None:
    folder.mkdir(parents=True)
    metrics = {
        "probe/linear_accuracy": linear,
        "probe/random_init_accuracy": 0.2,
        "probe/random_init_linear_d1_accuracy": 0.3,
        "probe/chance": 0.125,
        "retrieval/R@1": 20.0,
        "retrieval/random_init/R@1": 15.0,
        "retrieval/chance/R@1": 12.5,
    }
    (folder / "results.json").write_text(json.dumps({"metrics": metrics}))


def test_table_and_figure(tmp_path: Path) -> None:
    cells = [Cell("vicreg", on, "fixed", seed) for seed in (0, 1) for on in (True, False)]
    for cell in cells:
        fake_results(tmp_path / "vididi" / cell.name, 0.3 + 0.1 * cell.seed if cell.vididi else 0.1)
    table = {row["run"]: row for row in tabulate(tmp_path, cells)}
    assert set(table) == {"untrained", "vicreg ViDiDi", "vicreg base"}
    assert table["vicreg ViDiDi"]["linear"] == pytest.approx({"mean": 35.0, "low": 30.0, "high": 40.0})
    assert table["untrained"]["linear"]["mean"] == pytest.approx(20.0)
    assert table["untrained"]["R@1"]["mean"] == 15.0
    text = markdown(list(table.values()))
    assert "| fixed | vicreg ViDiDi | 2 | 20.0 [20.0, 20.0] | - | 35.0 [30.0, 40.0] |" in text
    assert dots(tmp_path, cells, tmp_path / "dots.png").stat().st_size > 10_000


def test_presets_of_the_study_are_those_of_the_command() -> None:
    assert {preset().name for preset in METHODS.values()} <= set(PRESETS)
