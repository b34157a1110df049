"""The video figures are drawn from small arrays; what their titles and pictures say is checked, not their looks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from recipes import vididi_figures
from recipes.vididi_figures import (
    TIME,
    derivative_strips,
    motion_picture,
    nearest_neighbours,
    retrieval_sheet,
    saliency_figure,
)


def moving_block(direction: int, *, channels: int = 1, frames: int = 8, side: int = 24) -> np.ndarray:
    clip = np.full((frames, side, side, channels), 60, np.uint8)
    for t in range(frames):
        left = 2 + 2 * (t if direction > 0 else frames - 1 - t)
        clip[t, 4:8, left : left + 4] = 220
    return clip


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All texts of the figures that are saved."""
    seen: list[str] = []
    save = vididi_figures.save_figure

    def spy(figure: Figure, path: str | Path) -> Path:
        seen.extend(text.get_text() for text in figure.texts)
        seen.extend(
            text.get_text() for ax in figure.axes for text in (*ax.texts, ax.title, ax._left_title, ax.yaxis.label)
        )
        return save(figure, path)

    monkeypatch.setattr(vididi_figures, "save_figure", spy)
    return seen


def drawn(path: Path) -> bool:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))
    return min(pixels.shape) > 200 and pixels.std() > 5


@pytest.mark.parametrize("channels", [1, 3])
def test_derivative_strips(tmp_path: Path, texts: list[str], channels: int):
    clips = np.stack([moving_block(1, channels=channels), moving_block(-1, channels=channels)])
    path = derivative_strips(clips, ["right", "left"], path=tmp_path / "strips.png", note="two videos")
    assert drawn(path)
    # Each step changes two columns of four rows at both ends of the block: 16 of 576 pixels.
    assert f"One difference empties {100 * (1 - 16 / 576):.0f} % of the picture; what changes stays" in texts
    assert {"right", "left", "frames", "order 1", "order 2"} <= set(texts)
    with pytest.raises(ValueError, match="R names"):
        derivative_strips(clips, ["right"], path=tmp_path / "x.png", note="")


def test_motion_picture_tells_the_direction():
    early, late = np.array(TIME(0.0)[:3]), np.array(TIME(1.0)[:3])
    for direction in (1, -1):
        picture = motion_picture(moving_block(direction))
        left, right = picture[5, 3], picture[5, 18]
        nearer_early = [np.abs(pixel - early).sum() < np.abs(pixel - late).sum() for pixel in (left, right)]
        assert nearer_early == ([True, False] if direction > 0 else [False, True])
        assert np.ptp(picture[20, 20]) == 0.0
    noise = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
    np.testing.assert_array_equal(motion_picture(noise), noise[3] / 255.0)


def test_retrieval_sheet_from_features(tmp_path: Path, texts: list[str]):
    gallery = [moving_block(1), moving_block(-1), moving_block(1)]
    names = ["right", "left", "right"]
    rows = nearest_neighbours(
        [0, 1],
        query_QD=torch.tensor([[2.0, 0.1], [0.0, 3.0], [1.0, 1.0]]),
        gallery_ND=torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        query_frames=lambda i: gallery[i],
        gallery_frames=lambda i: gallery[i],
        query_names=["right", "right", "left"],
        gallery_names=names,
        neighbours=2,
    )
    assert [row.found_names for row in rows] == [["right", "right"], ["left", "right"]]
    assert rows[1].cosines == pytest.approx([1.0, 0.5**0.5])
    assert drawn(retrieval_sheet(rows, path=tmp_path / "sheet.png", note="3 videos"))
    assert "1 of 2 nearest videos are of the query's class; 3 of all 4 shown" in texts
    with pytest.raises(ValueError, match="at least one query"):
        retrieval_sheet([], path=tmp_path / "x.png", note="")


def test_saliency_figure(tmp_path: Path, texts: list[str]):
    clips = np.stack([moving_block(1, frames=12), moving_block(-1, frames=12)])
    mask = clips[..., 0] > 200
    maps = {"base": np.ones(mask.shape), "ViDiDi": mask.astype(float)}
    path = saliency_figure(
        clips, ["right", "left"], saliency_RTHW=maps, mask_RTHW=mask, path=tmp_path / "saliency.png", note="two videos"
    )
    assert drawn(path)
    area = f"{100 * mask.mean():.0f} %"
    assert f"Saliency on what moves in these 2 videos: base {area}, ViDiDi 100 %; its area: {area}" in texts
    assert "ViDiDi\n100 % inside" in texts
