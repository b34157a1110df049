"""The official csv of Kinetics, and the lists of PySlowFast and VideoMAE."""

from pathlib import Path

import pytest

from byol_ext.video.kinetics import csv_splits, is_kinetics_csv, kinetics_csv, path_list

HEADER = "label,youtube_id,time_start,time_end,split,is_cc"
ROWS = [
    "testifying,---QUuC4vJs,84,94,train,0",
    '"air, drumming",AbCdEfGhIjK,0,10,train,0',
    "testifying,abcdefghijk,1000,1010,val,1",
]


@pytest.fixture
def listed(tmp_path: Path) -> tuple[Path, Path]:
    path = tmp_path / "k400.csv"
    path.write_bytes(("\ufeff" + "\r\n".join([HEADER, *ROWS]) + "\r\n").encode())
    videos = tmp_path / "videos"
    for name in (
        "testifying/---QUuC4vJs_000084_000094.mp4",
        "air_drumming/AbCdEfGhIjK_000000_000010.mkv",
        "val/abcdefghijk_001000_001010.mp4",
    ):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).touch()
    return path, videos


def test_the_official_csv(listed):
    path, videos = listed
    source = kinetics_csv(path, videos)
    assert [(s.key, s.label, s.group, s.start, s.end) for s in source.samples] == [
        ("---QUuC4vJs_000084_000094", 1, "---QUuC4vJs", 0.0, None),
        ("AbCdEfGhIjK_000000_000010", 0, "AbCdEfGhIjK", 0.0, None),
        ("abcdefghijk_001000_001010", 1, "abcdefghijk", 0.0, None),
    ]
    assert source.classes == ["air, drumming", "testifying"]
    assert source.samples[1].open.args[0] == videos / "air_drumming/AbCdEfGhIjK_000000_000010.mkv"
    assert [s.label for s in kinetics_csv(path, videos, split="val").samples] == [1]
    assert csv_splits(path) == {"train", "val"}
    assert is_kinetics_csv(path)


def test_ids_that_differ_in_case_are_different_videos(listed):
    path, videos = listed
    path.write_text(f"{HEADER}\n{ROWS[0]}\ntestifying,ABCDEFGHIJK,1000,1010,val,1\n")
    assert [s.group for s in kinetics_csv(path, videos).samples] == ["---QUuC4vJs"]


def test_missing_videos_are_normal(listed, caplog):
    path, videos = listed
    (videos / "val/abcdefghijk_001000_001010.mp4").unlink()
    assert len(kinetics_csv(path, videos)) == 2
    assert "1 of 3 videos are not in" in caplog.text
    with pytest.raises(FileNotFoundError, match="abcdefghijk_001000_001010"):
        kinetics_csv(path, videos, missing="error")
    with pytest.raises(FileNotFoundError, match="1 of 1"):
        kinetics_csv(path, videos, split="val")


def test_the_test_list_has_no_labels(listed):
    path, videos = listed
    path.write_text("youtube_id,time_start,time_end,split\n---QUuC4vJs,84,94,test\n")
    source = kinetics_csv(path, videos)
    assert [s.label for s in source.samples] == [None]
    assert source.classes == []


def test_whole_videos_are_cut_by_time(listed, tmp_path):
    path, _ = listed
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole/---QUuC4vJs.webm").touch()
    (sample,) = kinetics_csv(path, tmp_path / "whole", cut=False).samples
    assert (sample.start, sample.end) == (84.0, 94.0)


def test_malformed_csv(listed):
    path, videos = listed
    path.write_text("label,id\na,b\n")
    with pytest.raises(ValueError, match="no column 'youtube_id'"):
        kinetics_csv(path, videos)
    for row in ("x,abc,ten,20,train", "x,abc,20,10,train", "x,,0,10,train", "x,abc"):
        path.write_text(f"{HEADER}\n{ROWS[0]}\n{row}\n")
        with pytest.raises(ValueError, match=r"k400\.csv:3"):
            kinetics_csv(path, videos)
    path.write_text(f"{HEADER}\n{ROWS[0]}\n")
    with pytest.raises(ValueError, match=r"no row has split 'test'; the splits are \['train'\]"):
        kinetics_csv(path, videos, split="test")
    with pytest.raises(ValueError, match="'testifying'"):
        kinetics_csv(path, videos, classes=["abseiling"])
    assert [s.label for s in kinetics_csv(path, videos, classes=["abseiling", "testifying"]).samples] == [1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "my clips/b c.mp4", "x,y.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_slowfast_and_videomae_lists(folder):
    path = folder / "train.txt"
    path.write_text("a.mp4 3\r\n\r\nmy clips/b c.mp4 0\n")
    source = path_list(path)
    assert [(s.key, s.label) for s in source.samples] == [("a.mp4", 3), ("my clips/b c.mp4", 0)]
    assert source.classes == ["0", "1", "2", "3"]
    assert source.samples[1].open.args[0] == folder / "my clips/b c.mp4"
    path.write_text(f"{folder}/a.mp4 0 -1\nmy clips/b c.mp4 0 -1\n")
    assert [(s.key, s.label) for s in path_list(path, root=folder).samples] == [
        (f"{folder}/a.mp4", None),
        ("my clips/b c.mp4", None),
    ]
    assert path_list(path).classes == []


def test_other_separators(folder):
    path = folder / "train.csv"
    path.write_text("x,y.mp4,1\na.mp4, 0\n")
    assert [(s.key, s.label) for s in path_list(path, separator=",").samples] == [("x,y.mp4", 1), ("a.mp4", 0)]
    path.write_text("my clips/b c.mp4\t2\n")
    assert [(s.key, s.label) for s in path_list(path, separator="\t").samples] == [("my clips/b c.mp4", 2)]
    assert not is_kinetics_csv(path)


def test_malformed_lists(folder):
    path = folder / "train.txt"
    for line in ("a.mp4", "a.mp4,1", "a.mp4 -2", "a.mp4 one"):
        path.write_text(f"a.mp4 0\n{line}\n")
        with pytest.raises(ValueError, match=r"train\.txt:2.*separator"):
            path_list(path)
    path.write_text("a.mp4 2\n")
    with pytest.raises(ValueError, match="label 2, but there are 2 classes"):
        path_list(path, classes=["x", "y"])
    path.write_text("a.mp4 0\nb.mp4 0\n")
    assert len(path_list(path)) == 1
    with pytest.raises(FileNotFoundError, match="1 of 2"):
        path_list(path, missing="error")
    path.write_text("\n")
    with pytest.raises(FileNotFoundError, match="names no video"):
        path_list(path)
