"""Tar shards: index and its invalidation, bad members, packing that survives a kill."""

import dataclasses
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from byol_ext.audio import packing
from byol_ext.audio.decode import BadAudio
from byol_ext.audio.packing import write_shards
from byol_ext.audio.samples import AudioTextSample, BadCaption, SampleList
from byol_ext.audio.shards import WebDatasetShards
from byol_ext.audio.tonecaps import ToneCapsSource
from byol_ext.ledger import read_errors_jsonl, write_errors_jsonl

sf = pytest.importorskip("soundfile", reason="pip install 'byol_ext[slap]'")
SR = 8_000


def audio(value: float, form: str = "wav") -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, np.full(800, value, np.float32), SR, format=form)
    return buffer.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            data = json.dumps(data).encode() if isinstance(data, dict | list) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def laion(count, start=0):
    for i in range(start, start + count):
        yield f"{i}.flac", audio(0.01 * i, "flac")
        yield f"{i}.json", {"text": [f"caption {i}", f"other {i}"], "tag": ["x"], "original_data": {"free": 1}}


# Reading.


def test_laion_layout_without_sizes_json(tmp_path):
    write_tar(tmp_path / "000000.tar", laion(3))
    write_tar(tmp_path / "000001.tar", laion(2, 3))
    data = WebDatasetShards(str(tmp_path / "{000000..000001}.tar"), split="train")
    assert len(data) == 5
    sample = data[4]
    assert (sample.key, sample.captions, sample.tags, sample.split) == (
        "000001/4",
        ("caption 4", "other 4"),
        {"tag": ["x"]},
        "train",
    )
    np.testing.assert_allclose(sample.clip(sr=SR, n=None).wave_S, 0.04, atol=1e-4)
    assert list(data.captions(0)) == ["caption 0", "other 0"]
    with pytest.raises(IndexError):
        data[5]


@pytest.mark.parametrize("form", ["flac", "wav", "mp3", "ogg"])
def test_audio_formats(tmp_path, form):
    write_tar(tmp_path / "a.tar", [(f"./x/k.{form}", audio(0.2, form)), ("./x/k.json", {"text": "one text"})])
    sample = WebDatasetShards(tmp_path / "a.tar")[0]
    assert sample.captions == ("one text",)
    assert sample.clip(sr=SR, n=None).duration >= 0.1


def test_globs_lists_and_augmented_captions(tmp_path):
    write_tar(tmp_path / "b.tar", laion(1))
    members = [("k.wav", audio(0.1)), ("k.json", {"text": ["a"], "text_augment_t5": "b", "text_augment_all": ["c"]})]
    write_tar(tmp_path / "a.tar", members)
    data = WebDatasetShards(
        [str(tmp_path / "*.tar"), tmp_path / "b.tar"], text_fields=("text", "text_augment_t5", "text_augment_all")
    )
    assert [path.name for path in data.paths] == ["a.tar", "b.tar", "b.tar"]
    assert [path.name for path in WebDatasetShards(tmp_path).paths] == ["a.tar", "b.tar"]
    assert data[0].captions == ("a", "b", "c")


def test_missing_shards_are_named(tmp_path):
    write_tar(tmp_path / "000000.tar", laion(1))
    with pytest.raises(FileNotFoundError, match=r"1 of 2 shards do not exist.*000001"):
        WebDatasetShards(str(tmp_path / "{000000..000001}.tar"))
    with pytest.raises(FileNotFoundError, match="no file matches"):
        WebDatasetShards(str(tmp_path / "z*.tar"))


def test_samples_without_audio_or_metadata_are_left_out_and_counted(tmp_path):
    path = write_tar(
        tmp_path / "a.tar", [*laion(2), ("lonely.flac", audio(0)), ("silent.json", {"text": ["a"]}), ("README", b"hi")]
    )
    data = WebDatasetShards(path)
    assert len(data) == 2
    assert data.dropped == {"caption_missing": 1, "missing": 1}


@pytest.mark.parametrize(
    ("metadata", "cause"),
    [
        ({"text": []}, "caption_missing"),
        ({"text": ["  "]}, "caption_empty"),
        ({"text": 5}, "caption_not_text"),
        ({}, "caption_missing"),
        (b"{broken", "caption_missing"),
        (b"\xff\xfe", "caption_missing"),
        ([1], "caption_missing"),
    ],
)
def test_bad_metadata_is_a_bad_caption(tmp_path, metadata, cause):
    data = WebDatasetShards(write_tar(tmp_path / "a.tar", [("k.wav", audio(0.1)), ("k.json", metadata)]))
    assert list(data.captions(0)) == []
    with pytest.raises(BadCaption) as caught:
        data[0]
    assert caught.value.reason == cause


@pytest.mark.parametrize("data", [b"", b"not a tar file at all" * 100])
def test_a_file_that_is_no_tar_is_an_error_that_names_it(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.tar"):
        WebDatasetShards(tmp_path / "a.tar")


def test_a_truncated_tar_gives_its_whole_members(tmp_path):
    path = write_tar(tmp_path / "a.tar", laion(4))
    whole = WebDatasetShards(path)
    last = int(whole._places[3, 1])
    path.write_bytes(path.read_bytes()[: last + 10])
    cut = WebDatasetShards(path)
    assert len(cut) == 3
    assert cut.dropped == {"truncated": 1}


def test_a_tar_that_shrinks_under_an_open_reader_is_a_bad_sample(tmp_path):
    path = write_tar(tmp_path / "a.tar", laion(2))
    data = WebDatasetShards(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(BadAudio, match="truncated"):
        data[1]


# Index files.


def test_index_is_used_and_rebuilt_when_the_shard_changes(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", laion(2))
    assert len(WebDatasetShards(path)) == 2
    scans = []
    from byol_ext.audio import shards

    scan = shards._scan
    monkeypatch.setattr(shards, "_scan", lambda *given: scans.append(1) or scan(*given))
    assert len(WebDatasetShards(path)) == 2
    assert scans == []
    write_tar(path, laion(3))
    assert len(WebDatasetShards(path)) == 3
    assert scans == [1]
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    WebDatasetShards(path)
    assert scans == [1, 1]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"stamp": 3}'])
def test_a_broken_index_file_is_rebuilt(tmp_path, content):
    path = write_tar(tmp_path / "a.tar", laion(2))
    WebDatasetShards(path)
    index = tmp_path / ".byol_ext_index" / "a.tar.json"
    index.write_bytes(content)
    assert len(WebDatasetShards(path)) == 2
    assert json.loads(index.read_text())["index"]["samples"]


def test_cache_dir_keeps_shards_of_equal_names_apart(tmp_path):
    for name, count in (("x", 1), ("y", 2)):
        (tmp_path / name).mkdir()
        write_tar(tmp_path / name / "a.tar", laion(count))
    for _ in range(2):
        sizes = [len(WebDatasetShards(tmp_path / name / "a.tar", cache_dir=tmp_path / "cache")) for name in "xy"]
        assert sizes == [1, 2]
    assert not (tmp_path / "x" / ".byol_ext_index").exists()


def test_an_index_folder_that_cannot_be_written_is_no_obstacle(tmp_path):
    path = write_tar(tmp_path / "a.tar", laion(2))
    (tmp_path / ".byol_ext_index").write_text("a file in the way")
    assert len(WebDatasetShards(path)) == 2


# Packing.


def samples(count: int) -> list[AudioTextSample]:
    rng = np.random.default_rng(0)
    return [
        AudioTextSample(
            f"song.{i}/x",
            (f"caption {i}", "second"),
            audio=(0.1 * rng.standard_normal(1600)).astype(np.float32),
            sr=16_000,
            tags={"tempo": i},
            split="train",
        )
        for i in range(count)
    ]


def test_pack_and_read_back(tmp_path):
    report = write_shards(SampleList(samples(5)), tmp_path, sr=16_000, format="wav", shard_size=2)
    assert [path.name for path in report.shards] == ["000000.tar", "000001.tar", "000002.tar"]
    assert json.loads((tmp_path / "sizes.json").read_text()) == {"000000.tar": 2, "000001.tar": 2, "000002.tar": 1}
    data = WebDatasetShards(str(tmp_path / "{000000..000002}.tar"))
    for given_sample, read in zip(samples(5), (data[i] for i in range(5)), strict=True):
        assert (read.key, read.captions, read.tags, read.split) == (
            given_sample.key,
            given_sample.captions,
            given_sample.tags,
            "train",
        )
        np.testing.assert_array_equal(read.clip(sr=16_000, n=None).wave_S, given_sample.audio)


@pytest.mark.parametrize("form", ["flac", "ogg", "mp3"])
def test_pack_resamples_and_encodes(tmp_path, form):
    write_shards(samples(1), tmp_path, sr=48_000, format=form)
    clip = WebDatasetShards(tmp_path / "000000.tar")[0].clip(sr=48_000, n=None)
    assert clip.duration == pytest.approx(0.1, abs=0.06)


def test_bad_samples_are_listed_and_left_out(tmp_path):
    mixed = samples(4)
    mixed[1] = AudioTextSample("gone", ("x",), path=tmp_path / "gone.wav")
    mixed[2] = AudioTextSample("mute", (), audio=np.ones(800, np.float32), sr=SR)
    report = write_shards(mixed, tmp_path / "out", sr=SR, shard_size=3)
    assert report.written == 2
    errors = read_errors_jsonl(tmp_path / "out")
    assert [(error["index"], error["key"], error["cause"]) for error in errors] == [
        (1, "gone", "missing"),
        (2, "mute", "caption_missing"),
    ]
    data = WebDatasetShards(str(tmp_path / "out" / "*.tar"))
    assert [data[i].key for i in range(len(data))] == ["song.0/x", "song.3/x"]


@pytest.mark.parametrize("killed_at", [0, 3, 5, 6])
@pytest.mark.parametrize("stream", [False, True])
def test_a_killed_run_resumes_to_the_same_files(tmp_path, monkeypatch, killed_at, stream):
    mixed = samples(7)
    mixed[2] = AudioTextSample("gone", ("x",), path=tmp_path / "gone.wav")

    def source():
        return iter(mixed) if stream else SampleList(mixed)

    write_shards(source(), tmp_path / "once", sr=SR, shard_size=2)
    pack, packed = packing._pack, []

    def killing(settings, job):
        packed.append(job[0])
        if job[0] == killed_at:
            raise KeyboardInterrupt
        return pack(settings, job)

    monkeypatch.setattr(packing, "_pack", killing)
    with pytest.raises(KeyboardInterrupt):
        write_shards(source(), tmp_path / "twice", sr=SR, shard_size=2)
    assert not (tmp_path / "twice" / f"{killed_at // 2:06d}.tar").exists()
    packed.clear()
    monkeypatch.setattr(packing, "_pack", lambda settings, job: packed.append(job[0]) or pack(settings, job))
    write_shards(source(), tmp_path / "twice", sr=SR, shard_size=2, workers=2)
    assert sorted(packed) == list(range(killed_at // 2 * 2, 7))
    for path in sorted((tmp_path / "once").glob("*.*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "twice" / path.name).read_bytes(), path.name
    packed.clear()
    write_shards(source(), tmp_path / "twice", sr=SR, shard_size=2)
    assert packed == []


def test_a_shard_without_its_state_or_of_another_size_is_written_again(tmp_path):
    write_shards(samples(4), tmp_path / "a", sr=SR, shard_size=2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / ".progress" / "000000.json").unlink()
    (tmp_path / "b" / "000001.tar").write_bytes(b"half")
    write_shards(samples(4), tmp_path / "b", sr=SR, shard_size=2)
    for name in ("000000.tar", "000001.tar"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    write_shards(samples(2), tmp_path, sr=SR)
    with pytest.raises(ValueError, match="begun with"):
        write_shards(samples(2), tmp_path, sr=2 * SR)
    with pytest.raises(ValueError, match="format"):
        write_shards(samples(2), tmp_path, format="aac")


def test_sets_with_other_prefixes_share_a_folder(tmp_path, monkeypatch):
    mixed = samples(5)
    mixed[1] = AudioTextSample("gone", ("x",), path=tmp_path / "gone.wav")
    first = write_shards(SampleList(mixed), tmp_path / "a", sr=SR, shard_size=2, prefix="test-")
    assert [path.name for path in first.shards] == [f"test-{number:06d}.tar" for number in range(3)]
    other = write_shards(samples(3), tmp_path / "a", sr=2 * SR, shard_size=2, prefix="test_b-")
    assert (first.written, other.written, len(first.errors), other.errors) == (4, 3, 1, ())
    sizes = {"test-000000.tar": 1, "test-000001.tar": 2, "test-000002.tar": 1}
    sizes |= {"test_b-000000.tar": 2, "test_b-000001.tar": 1}
    assert json.loads((tmp_path / "a" / "sizes.json").read_text()) == sizes
    assert [(error["shard"], error["index"]) for error in read_errors_jsonl(tmp_path / "a")] == [("test-000000.tar", 1)]
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").glob("*.*") if path.is_file()}
    (tmp_path / "a" / "test-000001.tar").unlink()
    pack, packed = packing._pack, []
    monkeypatch.setattr(packing, "_pack", lambda settings, job: packed.append(job[0]) or pack(settings, job))
    write_shards(samples(3), tmp_path / "a", sr=2 * SR, shard_size=2, prefix="test_b-")
    assert packed == []
    write_shards(SampleList(mixed), tmp_path / "a", sr=SR, shard_size=2, prefix="test-")
    assert packed == [2, 3]
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "a").glob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match="begun with"):
        write_shards(samples(3), tmp_path / "a", sr=SR, shard_size=2, prefix="test_b-")
    with pytest.raises(ValueError, match="file name"):
        write_shards(samples(1), tmp_path / "a", prefix="b/test-")


def test_members_named_by_key_tags_chosen_and_silence_left_out(tmp_path):
    named = [dataclasses.replace(sample, key=f"k-{i}") for i, sample in enumerate(samples(3))]
    named[1] = dataclasses.replace(named[1], audio=named[1].audio * 1e-3)
    named[2] = dataclasses.replace(named[2], tags={"a": 1, "b": 2, "c": 3})
    write_shards(named, tmp_path / "a", sr=16_000, names="key", tag_fields=("c", "x", "a"), drop_silent_dbfs=-60.0)
    with tarfile.open(tmp_path / "a" / "000000.tar") as tar:
        assert tar.getnames() == ["k-0.flac", "k-0.json", "k-2.flac", "k-2.json"]
        metadata = json.load(tar.extractfile("k-2.json"))
    assert (metadata["tag"], metadata["original_data"]["tags"]) == (["3", "1"], {"a": 1, "b": 2, "c": 3})
    assert [(error["key"], error["cause"]) for error in read_errors_jsonl(tmp_path / "a")] == [("k-1", "silent")]
    for keys in (("a", "a"), ("a.b", "c"), ("a/b", "c")):
        wrong = [dataclasses.replace(sample, key=key) for sample, key in zip(samples(2), keys, strict=True)]
        with pytest.raises(ValueError, match="names='index'"):
            write_shards(wrong, tmp_path / "b", sr=16_000, names="key")


@pytest.mark.slow
def test_processes_write_the_same_files(tmp_path):
    source = SampleList(samples(5))
    write_shards(source, tmp_path / "one", sr=SR, shard_size=2)
    assert write_shards(source, tmp_path / "two", sr=SR, shard_size=2, processes=2).written == 5
    for path in (tmp_path / "one").glob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    with pytest.raises(ValueError, match="needs a source"):
        write_shards(iter(samples(1)), tmp_path / "three", processes=2)


def test_errors_jsonl(tmp_path):
    entries = [{"key": "a", "cause": "silent", "message": "ü"}]
    write_errors_jsonl(tmp_path / "errors.jsonl", entries)
    assert read_errors_jsonl(tmp_path / "errors.jsonl") == read_errors_jsonl(tmp_path) == entries
    assert read_errors_jsonl(tmp_path / "none.jsonl") == []
    (tmp_path / "errors.jsonl").write_text("{}\n{\n")
    with pytest.raises(ValueError, match=r"errors\.jsonl:2"):
        read_errors_jsonl(tmp_path)


def test_the_webdataset_package_reads_the_same_pairs(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="pip install '.[dev]'")
    source = ToneCapsSource("val")
    write_shards(source, tmp_path, sr=16_000)
    ours = WebDatasetShards(tmp_path)
    theirs = {item["__key__"]: item for item in webdataset.WebDataset(str(tmp_path / "000000.tar"), shardshuffle=False)}
    assert len(theirs) == len(ours) == len(source)
    for index in (0, 13, 26):
        sample = ours[index]
        item = theirs[Path(sample.filename).stem]
        assert item["flac"] == sample.blob
        assert tuple(json.loads(item["json"])["text"]) == sample.captions
