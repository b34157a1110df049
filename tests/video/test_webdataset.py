"""Videos in tar shards: written by the `webdataset` package, read at random."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from byol_ext.video.data import VideoClips, collate
from byol_ext.video.encode import write_mp4
from byol_ext.video.samples import ArrayReader, VideoReadError
from byol_ext.video.sampling import ClipSampler
from byol_ext.video.webdataset import video_shards


def first_byte(source: bytes, *, name: str | None = None) -> ArrayReader:
    """Ten frames of the value of the first byte, in place of decoding."""
    return ArrayReader(np.full((10, 4, 4, 3), source[0], np.uint8))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(2):
        with webdataset.TarWriter(str(tmp_path / f"{number:06d}.tar")) as tar:
            for i in range(3):
                value = 3 * number + i
                tar.write(
                    {
                        "__key__": f"sub/clip.{value}" if value == 5 else f"clip{value}",
                        "mp4": bytes([value]) * 9,
                        "cls": value % 2,
                        "json": {"fps": 25.0, "group": f"g{value // 2}", "nested": {"x": 1}},
                    }
                )
    return tmp_path


def test_labels_groups_facts_and_bytes(shards):
    source = video_shards(f"{shards}/{{000000..000001}}.tar", opener=first_byte)
    assert [(s.key, s.label, s.group) for s in source.samples][:4] == [
        ("000000/clip0.mp4", 0, "g0"),
        ("000000/clip1.mp4", 1, "g0"),
        ("000000/clip2.mp4", 0, "g1"),
        ("000001/clip3.mp4", 1, "g1"),
    ]
    assert source.samples[0].facts == {"fps": 25.0}
    assert list(source.classes) == ["0", "1"]
    for value, sample in enumerate(pickle.loads(pickle.dumps(source)).samples):
        with sample.open() as reader:
            assert reader.frames([0]).max() == value
    again = video_shards(shards, opener=first_byte)
    assert again.fingerprint == source.fingerprint


def test_a_key_ends_at_the_first_dot_as_in_webdataset(shards):
    found = {s.key for s in video_shards(shards, opener=first_byte).samples}
    theirs = {s["__key__"] for s in webdataset.WebDataset(str(shards / "000001.tar"), shardshuffle=False)}
    assert "sub/clip" in theirs
    assert "000001/sub/clip.5.mp4" in found


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_class_names(tmp_path):
    path = _tar(
        tmp_path / "a.tar",
        {
            "1.avi": b"1",
            "1.cls": b"run\n",
            "2.webm": b"2",
            "2.json": b'{"label": "jump", "note": "x"}',
            "3.mkv": b"3",
            "4.txt": b"no video",
        },
    )
    source = video_shards(path, opener=first_byte)
    assert [(s.key, s.label) for s in source.samples] == [("a/1.avi", 1), ("a/2.webm", 0), ("a/3.mkv", None)]
    assert list(source.classes) == ["jump", "run"]
    assert source.samples[1].facts == {"note": "x"}
    assert [s.label for s in video_shards(path, classes=["run", "jump"], opener=first_byte).samples] == [0, 1, None]
    with pytest.raises(ValueError, match="'jump' is not among"):
        video_shards(path, classes=["run"], opener=first_byte)


def test_broken_members_are_left_out_and_counted(tmp_path, caplog):
    path = _tar(
        tmp_path / "a.tar",
        {
            "1.mp4": b"1",
            "1.json": b"{broken",
            "2.mp4": b"2",
            "2.cls": b"\xff",
            "3.mp4": b"3",
            "3.json": b'{"label": -1}',
            "4.mp4": b"4",
            "4.json": b'{"label": [1]}',
            "5.json": b'{"label": 1}',
            "6.mp4": b"6",
            "6.cls": b"1",
        },
    )
    source = video_shards(path, opener=first_byte)
    assert [(s.key, s.label) for s in source.samples] == [("a/6.mp4", 1)]
    assert "'label_unreadable': 4" in caplog.text
    assert "'missing': 1" in caplog.text
    mixed = _tar(tmp_path / "b.tar", {"1.mp4": b"1", "1.cls": b"1", "2.mp4": b"2", "2.cls": b"run"})
    with pytest.raises(ValueError, match="pass classes"):
        video_shards(mixed, opener=first_byte)
    with pytest.raises(ValueError, match="hold no video"):
        video_shards(_tar(tmp_path / "c.tar", {"1.txt": b"1"}), opener=first_byte)


def test_truncated_and_foreign_files(tmp_path, caplog):
    whole = _tar(tmp_path / "a.tar", {f"{i}.mp4": bytes([i]) * 3000 for i in range(4)}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: 2 * (3072 + 512) + 512 + 100])
    source = video_shards(tmp_path / "cut.tar", opener=first_byte)
    assert [s.key for s in source.samples] == ["cut/0.mp4", "cut/1.mp4"]
    assert "left out" in caplog.text or "ends early" in caplog.text
    (tmp_path / "x.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(ValueError, match="uncompressed tar"):
        video_shards(tmp_path / "x.tar")


def test_a_shard_that_changes_after_indexing_is_a_typed_error(tmp_path):
    path = _tar(tmp_path / "a.tar", {"1.mp4": b"1" * 3000})
    (sample,) = video_shards(path, opener=first_byte).samples
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(VideoReadError, match="bytes early"):
        sample.open()
    path.unlink()
    with pytest.raises(VideoReadError, match="missing"):
        sample.open()


def test_real_videos_in_shards_become_clips(tmp_path):
    moving = np.random.default_rng(0).integers(256, size=(30, 16, 16, 3), dtype=np.uint8)
    write_mp4(tmp_path / "v.mp4", [(moving, np.arange(30) / 25.0)])
    _tar(tmp_path / "a.tar", {"1.mp4": (tmp_path / "v.mp4").read_bytes(), "1.cls": b"0", "2.mp4": b"", "2.cls": b"0"})
    clips = VideoClips(video_shards(tmp_path / "a.tar"), ClipSampler(clips=2, frames=4, stride=2), on_bad="report")
    batch = collate([clips[0], clips[1]])
    assert batch["clips"].shape == (1, 2, 4, 16, 16, 3)
    assert sum(batch["bad"].values()) == 1
    assert "2.mp4" in batch["errors"][0]["message"]
