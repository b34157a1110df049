"""Dots and table of a study: every number that is due is there, and only the best of a column is bold."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from recipes import vididi_study_figures
from recipes.vididi_study_figures import MOTION_COLUMNS, Column, study_dots, study_table

STUDY = {
    "random init": [{"probe/linear_accuracy": 0.12, "probe/shuffled_accuracy": 0.3, "probe/chance": 0.125}],
    "ViDiDi": [{"probe/linear_accuracy": value, "probe/chance": 0.125, "retrieval/R@1": 20.0} for value in (0.3, 0.4)],
}


def test_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights: dict[str, str] = {}
    save = vididi_study_figures.save_figure

    def spy(figure: Figure, path: str | Path) -> Path:
        weights.update({text.get_text(): text.get_fontweight() for text in figure.axes[0].texts})
        return save(figure, path)

    monkeypatch.setattr(vididi_study_figures, "save_figure", spy)
    path = study_table(STUDY, columns=MOTION_COLUMNS, title="ViDiDi", note="2 arms", path=tmp_path / "table.png")
    assert path.stat().st_size > 10_000
    assert {"12.0", "35.0", "30.0 – 40.0", "20.0", "12.5", "–", "ViDiDi (2 seeds)"} <= set(weights)
    assert (weights["35.0"], weights["12.0"]) == ("bold", "normal")
    # The only arm with a shuffled probe; but that is a control.
    assert weights["30.0"] == "normal"
    with pytest.raises(ValueError, match="no arms"):
        study_table({}, columns=(Column("a", "a"),), title="", note="", path=tmp_path / "x.png")


def test_dots(tmp_path: Path):
    path = study_dots(STUDY, columns=MOTION_COLUMNS, title="ViDiDi", note="2 arms", path=tmp_path / "dots.png")
    assert path.stat().st_size > 10_000
    with pytest.raises(ValueError, match="no arm"):
        study_dots(STUDY, columns=(Column("x", "x"),), title="", note="", path=tmp_path / "x.png")
