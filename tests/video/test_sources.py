"""Whatever a path holds is recognised."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from byol_ext.video.cache import CacheSettings, cache_videos
from byol_ext.video.samples import ArrayReader, VideoList, VideoSample
from byol_ext.video.sources import open_source, recognise


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def keys(source) -> list[str]:
    return [sample.key for sample in source.samples]


def test_folders(tmp_path, caplog):
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    assert recognise(tmp_path) == "folder"
    assert keys(open_source(tmp_path, split="train")) == ["a/1.mp4", "b/2.mp4"]
    assert not caplog.text
    assert keys(open_source(tmp_path, split="test")) == ["a/1.mp4", "b/2.mp4"]
    assert "no folder for split 'test'" in caplog.text


def test_folders_of_splits_share_their_classes(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "train/c/3.mp4", "val/c/4.mp4")
    test = open_source(tmp_path, split="test")
    assert keys(test) == ["c/4.mp4"]
    assert test.samples[0].label == 2
    assert keys(open_source(tmp_path, split="train")) == ["a/1.mp4", "b/2.mp4", "c/3.mp4"]
    with pytest.raises(ValueError, match="no folder for split 'other'"):
        open_source(tmp_path, split="other")


def test_folders_of_frames(tmp_path):
    touch(tmp_path, "a/v1/image_00001.jpg", "a/v1/image_00002.jpg", "a/v2/image_00001.jpg")
    assert keys(open_source(tmp_path)) == ["a/v1", "a/v2"]
    assert keys(open_source(tmp_path, format="frames")) == ["a/v1", "a/v2"]


def test_ucf101(tmp_path):
    touch(tmp_path, "UCF-101/A/v_A_g01_c01.avi", "UCF-101/A/v_A_g02_c01.avi")
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 A\n")
    (lists / "trainlist01.txt").write_text("A/v_A_g01_c01.avi 1\n")
    (lists / "testlist01.txt").write_text("A/v_A_g02_c01.avi\n")
    assert recognise(tmp_path) == "ucf101"
    assert keys(open_source(tmp_path, split="test")) == ["A/v_A_g02_c01.avi"]
    assert recognise(tmp_path / "UCF-101") == "folder"
    given = open_source(tmp_path / "UCF-101", annotations=lists, split="train")
    assert keys(given) == ["A/v_A_g01_c01.avi"]
    with pytest.raises(ValueError, match="by group"):
        open_source(tmp_path, split="val")
    with pytest.raises(FileNotFoundError, match=r"classInd\.txt"):
        open_source(tmp_path / "UCF-101", format="ucf101", split="train")


def test_hmdb51(tmp_path):
    touch(tmp_path, "clap/x.avi", "clap/y.avi")
    (tmp_path / "splits").mkdir()
    for fold in (1, 2):
        (tmp_path / f"splits/clap_test_split{fold}.txt").write_text(f"x.avi {fold}\ny.avi {3 - fold}\n")
    assert recognise(tmp_path) == "hmdb51"
    assert keys(open_source(tmp_path, split="train")) == ["clap/x.avi"]
    assert keys(open_source(tmp_path, split="train", fold=2)) == ["clap/y.avi"]


def test_lists(tmp_path):
    touch(tmp_path, "videos/x_000001_000002.mp4", "videos/y_000001_000002.mp4")
    official = tmp_path / "k.csv"
    official.write_text("label,youtube_id,time_start,time_end,split\nrun,x,1,2,train\nrun,y,1,2,validate\n")
    assert recognise(official) == "kinetics"
    assert keys(open_source(official, split="train")) == ["x_000001_000002"]
    assert keys(open_source(tmp_path / "videos", annotations=official)) == ["x_000001_000002", "y_000001_000002"]
    assert keys(open_source(official, split="test")) == ["y_000001_000002"]
    with pytest.raises(ValueError, match="no row has split 'holdout'"):
        open_source(official, split="holdout")
    plain = tmp_path / "list.txt"
    plain.write_text("videos/x_000001_000002.mp4 1\nvideos/gone.mp4 0\n")
    assert recognise(plain) == "kinetics"
    with pytest.raises(FileNotFoundError, match="1 of 2"):
        open_source(plain)
    assert [s.label for s in open_source(plain, missing="skip").samples] == [1]
    assert len(open_source(tmp_path / "videos", format="kinetics", annotations=official)) == 2


def test_shards(tmp_path):
    for folder in ("", "train"):
        (tmp_path / folder).mkdir(exist_ok=True)
        with tarfile.open(tmp_path / folder / "0.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo(f"{folder}1.mp4"))
    for path, key in [
        (tmp_path / "0.tar", "0/1.mp4"),
        (tmp_path / "{0,0}.tar", "0/1.mp4"),
        (tmp_path / "?.tar", "0/1.mp4"),
        (tmp_path, "0/train1.mp4"),
    ]:
        assert recognise(path, split="train") == "webdataset"
        assert keys(open_source(path, split="train"))[0] == key


def _frames(value: int) -> ArrayReader:
    return ArrayReader(np.full((9, 8, 8, 3), value, np.uint8))


def test_caches(tmp_path):
    source = VideoList([VideoSample("one", lambda: _frames(3), label=0)], ["c"])
    cache_videos(source, tmp_path / "test", settings=CacheSettings(format="array", short_side=8))
    assert recognise(tmp_path / "test") == "cache"
    (sample,) = open_source(tmp_path, split="test").samples
    with sample.open() as reader:
        assert reader.frames([8]).max() == 3


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such"):
        open_source(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="expected a list"):
        open_source(touch(tmp_path, "x.bin") / "x.bin")
    with pytest.raises(FileNotFoundError, match="no such folder of videos"):
        open_source(tmp_path / "x.bin", format="folder")
