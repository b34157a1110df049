"""Pictures exist, have their size, and say what they were given."""

import numpy as np
import pytest
from PIL import Image

from byol_ext.rl import figures


def size(path):
    with Image.open(path) as image:
        return image.size


def test_montezuma_map(tmp_path):
    visits = {
        1 << 8 | 4 << 4 | 14: 5000,
        1 << 8 | 2 << 4 | 9: 30,
        2 << 8 | 8: 300,
        12: 12,
        (24 + 1) << 8 | 9 << 4 | 15: 4,
    }
    path = figures.montezuma_map(
        visits, {1: 0, 2: 10_000, 25: 2_000_000}, frames_per_step=4, path=tmp_path / "map.png", note="n"
    )
    one = figures.montezuma_map({1 << 8: 5}, {1: 0}, frames_per_step=4, path=tmp_path / "one.png", note="n")
    assert size(path)[1] > 1.5 * size(one)[1]


def test_rooms_cover_the_pyramid():
    assert sorted(room for row in figures.MONTEZUMA_ROWS for room in row) == list(range(24))


def test_rooms_over_time(tmp_path):
    counts = np.array([[10, 0, 0], [5, 5, 0], [1, 1, 8]])
    assert figures.rooms_over_time([100, 200, 300], [1, 2, 0], counts, path=tmp_path / "r.png", note="n").exists()


def test_board_and_curves(tmp_path):
    walls = np.zeros((4, 6), bool)
    walls[0] = True
    assert figures.board_map(
        np.arange(24).reshape(4, 6), walls=walls, marks={(1, 1): "S"}, title="t", note="n", path=tmp_path / "b.png"
    ).exists()
    x = np.arange(5)
    curves = {"none": {"a": [(x, x), (x, x + 1)], "b": [(x, 2 * x)]}, "noisy": {"a": [(x, x)]}}
    assert figures.agent_curves(curves, title="t", note="n", xlabel="x", ylabel="y", path=tmp_path / "c.png").exists()


def test_annotated_frames_and_videos(tmp_path):
    frames = [np.full((20, 30, 3), 10 * i, np.uint8) for i in range(6)]
    reward = np.array([0.0, 1.0, 0.2, 0.0, 3.0])
    drawn = figures.annotated_frames(frames, reward, [f"step {i}" for i in range(6)], marks_T=reward > 0.5, width=120)
    assert len(drawn) == 6
    assert drawn[0].shape == (80 + 84, 120, 3)
    np.testing.assert_array_equal(drawn[3][:80], np.full((80, 120, 3), 30, np.uint8))
    assert (drawn[0] != drawn[5]).any()
    gif = figures.write_video(drawn, tmp_path / "v.gif")
    with Image.open(gif) as image:
        assert image.n_frames == 6
    av = pytest.importorskip("av")
    with av.open(str(figures.write_video(drawn, tmp_path / "v.mp4"))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6
    with pytest.raises(ValueError, match=r"\.mp4 or \.gif"):
        figures.write_video(drawn, tmp_path / "v.avi")


def test_contact_sheet(tmp_path):
    pictures = [np.zeros((20, 30, 3), np.uint8)] * 7
    path = figures.contact_sheet(pictures, ["x"] * 7, path=tmp_path / "s.png", columns=3, width=60)
    assert size(path) == (3 * 68 + 8, 3 * (40 + 28) + 8)
    with pytest.raises(ValueError, match="at least one"):
        figures.contact_sheet([], [], path=tmp_path / "s.png")
