import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from byol_ext.metrics.modality_gap import GapShift, gap_shift_curve
from byol_ext.training.curves import smoothed
from byol_ext.training.figure_style import new_figure
from byol_ext.training.figures import (
    Bar,
    bars_with_intervals,
    confusion_figure,
    gap_shift_figure,
    modality_pca,
    read_metrics,
    save_figure,
    similarity_matrix,
    training_curves,
)

AUDIO, TEXT = torch.randn(40, 16), torch.randn(40, 16)


def check(path: Path) -> tuple[int, int]:
    """A readable PNG that is not blank, with nothing left beside it; returns its size."""
    image = Image.open(path)
    image.load()
    assert image.format == "PNG"
    assert np.asarray(image.convert("L")).std() > 1
    assert not [file for file in path.parent.iterdir() if file.name.startswith(".")]
    return image.size


def write_log(path: Path, entries: list[dict], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail, encoding="utf-8")
    return path


def test_modality_pca(tmp_path):
    size = check(modality_pca(audio_ND=AUDIO, text_ND=TEXT, path=tmp_path / "new" / "pca.png"))
    assert size[0] == 1280  # 6.4 inches at 200 dpi


@pytest.mark.parametrize("width", [1, 2, 5])
def test_modality_pca_of_narrow_and_collapsed_sets(width, tmp_path):
    check(modality_pca(audio_ND=torch.ones(3, width), text_ND=torch.ones(3, width), path=tmp_path / "pca.png"))


def test_similarity_matrix(tmp_path):
    check(similarity_matrix(audio_ND=AUDIO, text_ND=TEXT, path=tmp_path / "a.png"))
    names = [f"item {i} with a name that goes on and on and on" for i in range(10)]
    check(similarity_matrix(audio_ND=AUDIO[:10], text_ND=TEXT[:10], path=tmp_path / "b.png", names=names))


def test_training_curves_draw_all_terms_of_several_runs(tmp_path):
    log = [
        {"step": s, "wall": s, "loss": math.exp(-s), "terms": {"a": 1.0, "b": float("nan")}, "note": "text", "ok": True}
        for s in range(12)
    ]
    one = write_log(tmp_path / "one.jsonl", log)
    two = write_log(tmp_path / "two.jsonl", log[:1])
    check(training_curves({"one": one, "two": two}, path=tmp_path / "curves.png"))
    check(training_curves({"one": one}, path=tmp_path / "loss.png", terms=["loss", "absent"]))


def test_read_metrics_keeps_the_later_entry_and_skips_a_cut_last_line(tmp_path):
    file = write_log(
        tmp_path / "m.jsonl",
        [{"step": 2, "loss": 9}, {"step": 1, "loss": 1.0, "x": {"y": 2}}, {"step": 2, "loss": 3.0}],
        tail='{"step": 3, "lo',
    )
    series = read_metrics(file)
    assert set(series) == {"loss", "x/y"}
    assert series["loss"][0].tolist() == [1, 2]
    assert series["loss"][1].tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [('{"step": 1\n{"step": 2}\n', "line 1"), ('{"loss": 1}\n', "step"), ("[1]\n", "object")],
)
def test_broken_logs_are_named(lines, message, tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_text(lines, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_metrics(file)


def test_curves_need_numbers(tmp_path):
    with pytest.raises(ValueError, match="no numbers"):
        training_curves({"x": write_log(tmp_path / "m.jsonl", [{"step": 1}])}, path=tmp_path / "x.png")
    with pytest.raises(FileNotFoundError):
        training_curves({"x": tmp_path / "none.jsonl"}, path=tmp_path / "x.png")


def test_smoothing_keeps_constants_exactly_and_ignores_nan():
    assert smoothed(np.full(50, 0.95), 7).tolist() == [0.95] * 50
    assert smoothed(np.array([1.0, np.nan, 3.0]), 3).tolist() == [1.0, 2.0, 3.0]
    values = np.random.default_rng(0).random(20)
    expected = [values[max(0, i - 2) : i + 3].mean() for i in range(20)]
    np.testing.assert_allclose(smoothed(values, 5), expected)


def test_gap_shift_figure(tmp_path):
    curve = gap_shift_curve(audio_ND=AUDIO, text_ND=TEXT)
    check(gap_shift_figure(curve, path=tmp_path / "gap.png", pairs=40, chance={"R@1": 2.5}))
    with pytest.raises(ValueError, match="at least 2"):
        gap_shift_figure([GapShift(0.0, 0.1, {})], path=tmp_path / "x.png", pairs=1)


def test_confusion_figure(tmp_path):
    check(confusion_figure(np.eye(3, dtype=int) * 4, names=["a", "b", "c"], path=tmp_path / "c.png"))
    check(confusion_figure(np.zeros((30, 30), dtype=int), names=[f"c{i}" for i in range(30)], path=tmp_path / "d.png"))
    with pytest.raises(ValueError, match="3 classes"):
        confusion_figure(np.eye(2), names=["a", "b", "c"], path=tmp_path / "x.png")


def test_bars_with_intervals(tmp_path):
    bars = [Bar("R@1", 3.0, 2.0, 4.0, "SLAP", 1.0), Bar("R@1", 2.0, 1.0, 3.0, "CLAP", 1.0), Bar("gap", -0.2)]
    check(bars_with_intervals(bars, path=tmp_path / "bars.png", title="Title", note="N = 3", unit="percent"))
    with pytest.raises(ValueError, match="no bars"):
        bars_with_intervals([], path=tmp_path / "x.png", title="", note="")


def test_save_is_atomic_and_replaces(tmp_path):
    path = tmp_path / "f.png"
    path.write_bytes(b"old")
    save_figure(new_figure(2, 1, title="t", note="n"), path)
    assert Image.open(path).size == (400, round(1.66 * 200))
    assert [file.name for file in tmp_path.iterdir()] == ["f.png"]
    with pytest.raises(ValueError, match=r"\.png"):
        save_figure(new_figure(2, 1, title="t", note="n"), tmp_path / "f.pdf")


def test_shapes_must_agree(tmp_path):
    for function in (modality_pca, similarity_matrix):
        with pytest.raises(ValueError, match="equal"):
            function(audio_ND=AUDIO, text_ND=TEXT[:5], path=tmp_path / "x.png")
