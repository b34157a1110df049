"""Videos that are frames already."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from byol_ext.video.frames import FrameFolderReader, StoredFramesReader, open_array, open_stored_frames
from byol_ext.video.samples import ArrayReader, VideoReadError


def write_folder(folder: Path, frames_NHWC: np.ndarray, numbers: list[int], suffix: str = "png") -> Path:
    folder.mkdir()
    for number, picture in zip(numbers, frames_NHWC, strict=True):
        Image.fromarray(picture).save(folder / f"image_{number:05d}.{suffix}", quality=95)
    return folder


def test_a_folder_is_in_the_order_of_its_numbers(tmp_path: Path, moving: np.ndarray) -> None:
    folder = write_folder(tmp_path / "a b [c]", moving[:12], list(range(1, 13)))
    # Without leading zeros names sort otherwise; what is no frame is passed over.
    (folder / "image_00012.png").rename(folder / "image_12.png")
    (folder / "cover.png").write_bytes(b"")
    (folder / "notes 1.txt").write_text("")
    with FrameFolderReader(folder, fps=10.0) as reader:
        np.testing.assert_allclose(reader.info.times_N, np.arange(12) / 10)
        assert not reader.info.truncated
        np.testing.assert_array_equal(reader.frames([11, 0, 11]), moving[[11, 0, 11]])
        np.testing.assert_array_equal(
            reader.frames([3], short_side=24), ArrayReader(moving[:12]).frames([3], short_side=24)
        )


def test_jpeg_and_grey_pictures_come_as_rgb(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)
    folder = write_folder(tmp_path / "grey", smooth[None].repeat(2, 0), [7, 8], suffix="jpg")
    with FrameFolderReader(folder) as reader:
        frames = reader.frames([0, 1])
    assert frames.shape == (2, 40, 60, 3)
    assert np.abs(frames.astype(int) - smooth[None, ..., None]).max() <= 3


def test_missing_numbers_are_holes_in_time(tmp_path: Path, moving: np.ndarray) -> None:
    folder = write_folder(tmp_path / "holes", moving[:4], [5, 6, 9, 10])
    with FrameFolderReader(folder, fps=1.0) as reader:
        assert reader.info.times_N.tolist() == [0, 1, 4, 5]
        assert reader.info.truncated
        assert reader.info.variable_rate


def test_pictures_of_another_size_are_scaled_to_the_first(tmp_path: Path, moving: np.ndarray) -> None:
    folder = write_folder(tmp_path / "sizes", moving[:2], [1, 2])
    Image.fromarray(np.full((24, 80, 3), 9, np.uint8)).save(folder / "image_00002.png")
    with FrameFolderReader(folder) as reader:
        frames = reader.frames([0, 1])
    np.testing.assert_array_equal(frames[0], moving[0])
    assert np.unique(frames[1]).tolist() == [9]


def test_a_broken_picture_is_damage_to_its_frame_alone(tmp_path: Path, moving: np.ndarray) -> None:
    folder = write_folder(tmp_path / "broken", moving[:4], [1, 2, 3, 4], suffix="jpg")
    whole = (folder / "image_00003.jpg").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        (folder / "image_00003.jpg").write_bytes(content)
        with FrameFolderReader(folder) as reader:
            assert reader.frames([0, 1, 3]).shape[0] == 3
            with pytest.raises(VideoReadError, match="image_00003") as caught:
                reader.frames([1, 2])
            assert caught.value.reason == "damaged"
    (folder / "image_00001.jpg").write_bytes(b"")
    with pytest.raises(VideoReadError, match="unreadable"):
        FrameFolderReader(folder)


def test_folders_without_frames(tmp_path: Path, moving: np.ndarray) -> None:
    for folder, reason in ((tmp_path / "none", "missing"), (tmp_path, "no_frames")):
        with pytest.raises(VideoReadError) as caught:
            FrameFolderReader(folder)
        assert caught.value.reason == reason
    twice = write_folder(tmp_path / "twice", moving[:1], [1])
    (twice / "image_1.png").write_bytes((twice / "image_00001.png").read_bytes())
    with pytest.raises(VideoReadError, match="the same number"):
        FrameFolderReader(twice)


def test_arrays(tmp_path: Path, moving: np.ndarray) -> None:
    np.save(tmp_path / "colour.npy", moving)
    np.save(tmp_path / "grey.npy", moving[..., 0])
    with open_array(tmp_path / "colour.npy", fps=5.0) as colour, open_array(tmp_path / "grey.npy") as grey:
        assert colour.info.times_N[-1] == pytest.approx(39 / 5)
        frames = colour.frames([39, 2])
        np.testing.assert_array_equal(frames, moving[[39, 2]])
        assert type(frames) is np.ndarray
        np.testing.assert_array_equal(grey.frames([4]), moving[[4]][..., :1].repeat(3, -1))
        assert grey.frames([1], short_side=24).shape == (1, 24, 32, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"),
        (np.zeros((2, 4, 4, 3), np.float32), "unreadable"),
        (np.zeros((2, 3, 4, 4), np.uint8), "unreadable"),
        (np.zeros((0, 4, 4, 3), np.uint8), "no_frames"),
        (b"no array", "unreadable"),
        (b"", "unreadable"),
    ],
)
def test_bad_arrays(tmp_path: Path, content: np.ndarray | bytes | None, reason: str) -> None:
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(VideoReadError) as caught:
        open_array(path)
    assert caught.value.reason == reason
    assert str(path) in str(caught.value)


def test_a_cut_array_is_unreadable(tmp_path: Path, moving: np.ndarray) -> None:
    path = tmp_path / "a.npy"
    np.save(path, moving)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(VideoReadError, match="unreadable"):
        open_array(path)


def test_stored_frames(tmp_path: Path, moving: np.ndarray) -> None:
    path = tmp_path / "a.u8"
    path.write_bytes(b"12345" + moving[:3].tobytes())
    with open_stored_frames(path, offset=5, shape=(3, 48, 64, 3), times=[0, 0.1, 0.5]) as reader:
        assert isinstance(reader, StoredFramesReader)
        assert reader.info.times_N.tolist() == [0, 0.1, 0.5]
        np.testing.assert_array_equal(reader.frames([2, 0]), moving[[2, 0]])
    with pytest.raises(VideoReadError, match="unreadable"):
        open_stored_frames(path, offset=6, shape=(3, 48, 64, 3), times=[0, 1, 2])
    with pytest.raises(VideoReadError, match="missing"):
        open_stored_frames(tmp_path / "b.u8", offset=0, shape=(3, 48, 64, 3), times=[0, 1, 2])
