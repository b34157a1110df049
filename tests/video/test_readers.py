"""Folders of videos, UCF101 and HMDB51 lists: names as they are published, and what can be wrong with them."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from byol_ext.video.encode import write_mp4
from byol_ext.video.files import VideoFiles, stem
from byol_ext.video.readers import hmdb51, ucf101, video_folder
from byol_ext.video.samples import VideoReadError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def mp4(path: Path, frames: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.linspace(0, 255, frames).astype(np.uint8)
    pictures = np.broadcast_to(levels[:, None, None, None], (frames, 16, 16, 3))
    write_mp4(path, [(np.ascontiguousarray(pictures), np.arange(frames) / 25.0)])


CLASSES = ["ApplyEyeMakeup", "HandstandPushups", "Yo Yo"]
TRAIN = [
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1",
    "HandstandPushups/v_HandStandPushups_g09_c02.avi 2",
    "Yo Yo/v_YoYo_g10_c01.avi 3",
]


@pytest.fixture
def ucf(tmp_path: Path) -> tuple[Path, Path]:
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    index = "".join(f"{i} {name}\r\n" for i, name in enumerate(CLASSES, 1))
    (lists / "classInd.txt").write_bytes(b"\xef\xbb\xbf" + index.encode() + b"\r\n")
    (lists / "trainlist01.txt").write_bytes("\r\n".join([*TRAIN, "", ""]).encode())
    (lists / "testlist01.txt").write_text("HandstandPushups/v_HandStandPushups_g01_c01.avi\n\n")
    videos = touch(
        tmp_path / "UCF-101",
        *(line.rpartition(" ")[0] for line in TRAIN),
        "HandstandPushups/v_HandStandPushups_g01_c01.avi",
    )
    return videos, lists


def test_ucf101_lists(ucf, caplog):
    videos, lists = ucf
    with caplog.at_level(logging.WARNING):
        train = ucf101(videos, lists, train=True)
    assert [(s.key, s.label, s.group) for s in train.samples] == [
        (TRAIN[0][:-2], 0, "ApplyEyeMakeup_g08"),
        (TRAIN[1][:-2], 1, "HandstandPushups_g09"),
        (TRAIN[2][:-2], 2, "Yo Yo_g10"),
    ]
    assert list(train.classes) == CLASSES
    assert "names 3 videos; the published list has 9537" in caplog.text
    test = ucf101(videos, lists, train=False)
    assert [(s.key, s.label) for s in test.samples] == [("HandstandPushups/v_HandStandPushups_g01_c01.avi", 1)]
    assert test.fingerprint != train.fingerprint


def test_ucf101_published_counts_raise_no_warning(ucf, caplog):
    videos, lists = ucf
    names = [f"ApplyEyeMakeup/v_ApplyEyeMakeup_g{i:05d}_c01.avi" for i in range(3783)]
    (lists / "testlist01.txt").write_text("\n".join(names))
    touch(videos, names[0])
    ucf101(videos, lists, train=False, missing="skip")
    assert "the published list" not in caplog.text


def test_ucf101_finds_other_cases_suffixes_and_frame_folders(ucf, tmp_path):
    _, lists = ucf
    videos = touch(
        tmp_path / "cache",
        "applyeyemakeup/v_ApplyEyeMakeup_g08_c01.MP4",
        "HandstandPushups/v_HandStandPushups_g09_c02/image_00001.jpg",
        "HandstandPushups/v_HandStandPushups_g09_c02/image_00002.jpg",
        "v_yoyo_g10_c01.npy",
    )
    found = [s.open.args[0].relative_to(videos).as_posix() for s in ucf101(videos, lists, train=True).samples]
    assert found == [
        "applyeyemakeup/v_ApplyEyeMakeup_g08_c01.MP4",
        "HandstandPushups/v_HandStandPushups_g09_c02",
        "v_yoyo_g10_c01.npy",
    ]


def test_ambiguous_names_are_refused_unless_one_is_exact(tmp_path):
    files = VideoFiles(touch(tmp_path, "a/x.avi", "A/X.avi", "b/y.avi", "B/Y.avi"))
    assert files.find("a/x.avi") == "a/x.avi"
    assert files.find("B/Y.mp4") == "B/Y.avi"
    with pytest.raises(ValueError, match="may be any of"):
        files.find("a/X.avi")
    assert files.find("c/z.avi") is None


def test_ucf101_missing_videos(ucf, caplog):
    videos, lists = ucf
    (videos / "Yo Yo/v_YoYo_g10_c01.avi").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 videos .*v_YoYo_g10_c01.*missing='skip'"):
        ucf101(videos, lists, train=True)
    assert len(ucf101(videos, lists, train=True, missing="skip")) == 2
    assert "1 of 3 videos are not in" in caplog.text
    with pytest.raises(FileNotFoundError, match="3 of 3"):
        ucf101(touch(videos.parent / "none", "other.avi"), lists, train=True, missing="skip")
    with pytest.raises(FileNotFoundError, match="trainlist02"):
        ucf101(videos, lists, train=True, split=2)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        ucf101(videos / "nowhere", lists, train=True)


@pytest.mark.parametrize(
    "line",
    [
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 2",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 0",
        "Unknown/v_Unknown_g01_c01.avi",
        "Unknown/v_Unknown_g01_c01.avi 9",
    ],
)
def test_ucf101_malformed_lines_name_the_place(ucf, line):
    videos, lists = ucf
    (lists / "trainlist01.txt").write_text(f"{TRAIN[0]}\n{line}\n")
    with pytest.raises(ValueError, match=r"trainlist01\.txt:2: "):
        ucf101(videos, lists, train=True)


@pytest.mark.parametrize("index", ["1 A\n1 B\n", "1 A\n3 B\n", "A\n", "x A\n"])
def test_ucf101_malformed_class_index(ucf, index):
    videos, lists = ucf
    (lists / "classInd.txt").write_text(index)
    with pytest.raises(ValueError, match="classInd"):
        ucf101(videos, lists, train=True)


ODD = "#20_Rhythm_(clap)_[u]_nm!&_np1_fr_goo_0.avi"


@pytest.fixture
def hmdb(tmp_path: Path) -> tuple[Path, Path]:
    lists = tmp_path / "splits"
    lists.mkdir()
    (lists / "clap_test_split1.txt").write_text(f"{ODD} 1 \nApril_clap_u_nm_np1_fr_goo_1.avi 2\nunused.avi 0\n")
    (lists / "brush_hair_test_split1.txt").write_bytes(b"April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1\r\n")
    (lists / "clap_test_split2.txt").write_text("unused.avi 1\n")
    videos = touch(
        tmp_path / "hmdb",
        f"clap/{ODD}",
        "clap/April_clap_u_nm_np1_fr_goo_1.avi",
        "clap/unused.avi",
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
    )
    return videos, lists


def test_hmdb51_lists(hmdb, caplog):
    videos, lists = hmdb
    train = hmdb51(videos, lists, train=True)
    assert [(s.key, s.label, s.group) for s in train.samples] == [
        ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", 0, "April_09"),
        (f"clap/{ODD}", 1, None),
    ]
    assert train.samples[1].open.args[0] == videos / "clap" / ODD
    assert list(train.classes) == ["brush_hair", "clap"]
    assert "names 2 videos; the published list has 3570" in caplog.text
    assert [s.key for s in hmdb51(videos, lists, train=False).samples] == ["clap/April_clap_u_nm_np1_fr_goo_1.avi"]
    assert [s.key for s in hmdb51(videos, lists, train=True, split=2).samples] == ["clap/unused.avi"]


def test_hmdb51_malformed(hmdb):
    videos, lists = hmdb
    (lists / "clap_test_split1.txt").write_text("a.avi 3\n")
    with pytest.raises(ValueError, match=r"clap_test_split1\.txt:1"):
        hmdb51(videos, lists, train=True)
    with pytest.raises(FileNotFoundError, match="_test_split3"):
        hmdb51(videos, lists, train=True, split=3)


def test_a_folder_of_class_folders(tmp_path):
    touch(tmp_path, "b/2.mp4", "b/deep/1.webm", "a/[x]*.avi", "a/._x.avi", ".git/z.mp4", "a/readme.txt")
    source = video_folder(tmp_path)
    assert [(s.key, s.label) for s in source.samples] == [("a/[x]*.avi", 0), ("b/2.mp4", 1), ("b/deep/1.webm", 1)]
    assert source.classes == ["a", "b"]
    assert [s.label for s in video_folder(tmp_path, classes=["b", "c", "a"]).samples] == [2, 0, 0]
    with pytest.raises(ValueError, match="'b'"):
        video_folder(tmp_path, classes=["a"])
    touch(tmp_path, "stray.mp4")
    with pytest.raises(ValueError, match=r"stray\.mp4"):
        video_folder(tmp_path)


def test_a_flat_folder_is_unlabelled(tmp_path):
    source = video_folder(touch(tmp_path, "2.mp4", "1.MP4"))
    assert [(s.key, s.label) for s in source.samples] == [("1.MP4", None), ("2.mp4", None)]
    assert source.classes == []
    with pytest.raises(FileNotFoundError, match="no video found"):
        video_folder(touch(tmp_path / "texts", "a.txt"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        video_folder(tmp_path / "nothing")


def test_pictures_beside_videos_are_not_a_video_of_frames(tmp_path):
    touch(tmp_path, "a/v1.mp4", "a/thumb1.jpg", "b/v2/image_00001.jpg", "b/v2/image_00002.jpg")
    assert [s.key for s in video_folder(tmp_path).samples] == ["a/v1.mp4", "b/v2"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "real/a/1.mp4")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a").symlink_to(tmp_path / "real/a")
    (tmp_path / "real/a/again").symlink_to(tmp_path / "real/a")
    assert [s.key for s in video_folder(tmp_path / "data").samples] == ["a/1.mp4"]


def test_real_files_open_and_bad_ones_are_typed_errors(tmp_path):
    mp4(tmp_path / "a/good.mp4")
    touch(tmp_path, "a/zero.mp4")
    np.save(tmp_path / "a/array.npy", np.zeros((5, 8, 8, 3), np.uint8))
    source = pickle.loads(pickle.dumps(video_folder(tmp_path)))
    by_key = {s.key: s for s in source.samples}
    with by_key["a/good.mp4"].open() as reader:
        assert len(reader.info.times_N) == 12
        assert abs(int(reader.frames([11]).mean()) - 255) < 4
    with by_key["a/array.npy"].open() as reader:
        assert reader.frames([4]).shape == (1, 8, 8, 3)
    with pytest.raises(VideoReadError, match=r"zero\.mp4"):
        by_key["a/zero.mp4"].open()


def test_stems():
    assert [stem(n) for n in ("a.b.avi", "a.b", "x/Mr. Smith", "y.NPY")] == ["a.b", "a.b", "x/Mr. Smith", "y"]
