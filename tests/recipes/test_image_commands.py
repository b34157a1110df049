"""The image commands end to end on a small scale, and the quickstart's section."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from byol_ext.training import plain
from byol_ext.training.report import Report
from recipes import cli, image_config, quickstart
from recipes.image import load_run
from recipes.image_commands import COMMANDS, train_and_evaluate
from recipes.image_config import AugmentConfig, DataConfig, ImageConfig, clutter
from recipes.image_variants import with_method


def small(root: Path, name: str = "byol") -> ImageConfig:
    """Four steps of small networks."""
    config = with_method(clutter(), name)
    return replace(
        config,
        name=name,
        root=str(root),
        data=replace(config.data, batch=32),
        encoder=replace(config.encoder, channels=(8, 8), strides=(2, 2)),
        method=replace(config.method, projector=(16, 8), predictor_hidden=16),
        train=replace(config.train, steps=4, log_every=1, monitor_every=2, checkpoint_every=2),
        eval=replace(config.eval, draws=1, shares=()),
    )


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["image", *args])
    return int(stopped.value.code or 0)


def test_train_then_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text(yaml.safe_dump(plain(small(tmp_path))))
    assert run("train", "--config", str(saved)) == 0
    assert "probe/linear_accuracy" in capsys.readouterr().out
    folder = tmp_path / "image" / "byol"
    results = json.loads((folder / "results.json").read_text())
    metrics = results["metrics"]
    # What design 10 promises to programs.
    assert {"probe/linear_accuracy", "probe/random_init_accuracy", "rankme"} < metrics.keys()
    assert metrics["train/steps"] == 4
    assert metrics["train/encoder_passes"] == 4  # two views, online and target
    assert metrics["train/step_ms"] > 0
    assert metrics["train/cpu_seconds"] > 0
    assert results["controls"].keys() == {"random_init", "raw_pixels"}
    assert results["protocol"]["pretraining"]["method"] == "byol"
    for figure in ("training", "views", "confusion"):
        assert (folder / "figures" / f"{figure}.png").stat().st_size > 5_000
    assert run("eval", "--run", str(folder), "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again == pytest.approx(metrics)


def test_a_resumed_run_does_not_claim_to_know_its_cost(tmp_path: Path) -> None:
    config = small(tmp_path)
    config = replace(config, eval=replace(config.eval, controls=False))
    assert train_and_evaluate(config) == 0
    longer = replace(config, train=replace(config.train, steps=6))
    assert train_and_evaluate(longer, resume=True) == 0
    metrics = json.loads((tmp_path / "image" / "byol" / "results.json").read_text())["metrics"]
    assert metrics["train/steps"] == 6
    assert "train/cpu_seconds" not in metrics
    assert "probe/random_init_accuracy" not in metrics


def test_pictures_without_a_test_set_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pictures" / "class"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    config = small(tmp_path)
    config = replace(
        config,
        data=DataConfig(str(tmp_path / "pictures"), size=16, batch=6),
        augment=AugmentConfig("byol"),
    )
    assert train_and_evaluate(config) == 0
    assert "no test pictures" in capsys.readouterr().out
    assert (tmp_path / "image" / "byol" / "figures" / "views.png").exists()
    assert load_run(tmp_path / "image" / "byol")[0] == config


def test_usage_names_every_command_and_errors_are_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    usage = capsys.readouterr().out
    assert all(f"image {name}" in usage for name in COMMANDS)
    assert run("tarin") == 2
    assert run("eval", "--run", str(tmp_path)) == 1
    assert "not a run directory" in capsys.readouterr().err


def test_quickstart_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = small(tmp_path, "simclr")
    tiny = replace(tiny, eval=replace(tiny.eval, shares=(0.1,)))
    monkeypatch.setattr(image_config, "tiny", lambda: replace(tiny, name="tiny"))
    report = Report("quickstart")
    assert quickstart.SECTIONS["image"](report, tmp_path) == 0
    assert "probe/linear_accuracy" in (tmp_path / "image" / "results.json").read_text()
    html = report.html()
    assert "raw pixels" in html
    assert html.count("data:image/png") == 3
