"""The text study on a small Markov source: its arms differ as they say, its table holds what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from recipes import cdcd_study
from recipes.cdcd_config import CdcdConfig, DataConfig, EvalConfig, NetworkConfig, SampleConfig, chars
from recipes.cdcd_study import (
    ARMS,
    COLUMNS,
    REFERENCE,
    REFERENCE_SEED,
    VARIANTS,
    Cell,
    cell_config,
    markdown,
    measure_cell,
    study_command,
    study_figure,
    tabulate,
    train_cell,
)


def small() -> CdcdConfig:
    """Seconds on one core."""
    config = chars()
    return replace(
        config,
        data=DataConfig(text="markov", markov_tokens=6000, length=16, batch=8),
        network=NetworkConfig(width=16, depth=1, heads=2, time_units=8, embedding_width=8),
        sample=SampleConfig(count=8, batch=8, steps=4),
        eval=EvalConfig(
            temperatures=(0.8, 1.0),
            steps=(2, 4),
            temperature_steps=4,
            passes=(0, 1),
            bound_count=8,
            bound_draws=2,
            given=(0.5,),
            infill_count=4,
            health_count=40,
            film=2,
        ),
        train=replace(config.train, monitor_every=0),
    )


def test_each_arm_changes_one_thing(tmp_path: Path) -> None:
    plain = cell_config(tmp_path, Cell("CDCD", 0), steps=4)
    for arm in set(ARMS) - {"CDCD"}:
        changed = cell_config(tmp_path, Cell(arm, 0), steps=4)
        differing = [name for name in vars(plain) if getattr(plain, name) != getattr(changed, name)]
        assert len(set(differing) - {"name"}) == 1, arm
    reference = cell_config(tmp_path, Cell(REFERENCE, REFERENCE_SEED), steps=8)
    assert (reference.method, reference.network.width) == ("ar", 2 * plain.network.width)
    assert {arm for arm, _ in VARIANTS.values()} <= set(ARMS)


def test_runs_become_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdcd_study, "chars", small)
    cells = [Cell("CDCD", 0), Cell("CDCD", 1), Cell("AR", 0)]
    assert train_cell(tmp_path, Cell(REFERENCE, REFERENCE_SEED), steps=4) == 0
    for cell in cells:
        assert train_cell(tmp_path, cell, steps=2) == 0
        assert measure_cell(tmp_path, cell) == 0
    table = {row["run"]: row for row in tabulate(tmp_path, cells)}
    of_cdcd = [name for name, (arm, _) in VARIANTS.items() if arm == "CDCD"]
    assert list(table)[:3] == ["AR", "CDCD", of_cdcd[0]]
    assert {"held_out", "unigram", "parrot"} <= table.keys()
    assert table["CDCD"]["seeds"] == 2
    results = [json.loads((tmp_path / "cdcd" / f"CDCD-{seed}" / "results.json").read_text()) for seed in (0, 1)]
    scores = [result["metrics"]["ar_nll"] for result in results]
    assert table["CDCD"]["AR-NLL"]["mean"] == pytest.approx(sum(scores) / 2)
    assert table["CDCD"]["AR-NLL"]["low"] == min(scores)
    assert "reference" in results[0]["protocol"]["ar_nll"]
    assert "warp off" not in table["AR"]
    assert all(title in markdown([table["CDCD"]]) for title in COLUMNS)
    assert study_figure(tmp_path, cells, path=tmp_path / "frontier.png") is not None


def test_an_unknown_arm_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        study_command(["--arms", "GPT"])
    assert "GPT" in capsys.readouterr().err
