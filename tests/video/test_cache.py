"""The cache of videos: what goes in comes out, damage is dealt with, a stopped run goes on."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from byol_ext.ledger import TooManyBadSamples
from byol_ext.video import cache as cache_module
from byol_ext.video.cache import cache_report, cache_videos, is_cache, open_cache
from byol_ext.video.cache_chunks import CacheSettings
from byol_ext.video.decode import open_video
from byol_ext.video.frames import StoredFramesReader
from byol_ext.video.samples import ArrayReader, VideoList, VideoReadError, VideoSample
from byol_ext.video.timing import seconds_per_read

pytest.importorskip("av")
ARRAY = CacheSettings(format="array", short_side=24, chunk=2)
H264 = CacheSettings(format="h264", short_side=24, chunk=2, crf=8)


def clips(count: int, *, frames: int = 6) -> VideoList:
    """Smooth videos of 36 by 48 pixels."""
    rows, columns = np.mgrid[:36, :48]
    samples = []
    for number in range(count):
        grey = np.stack([rows * 3 + columns + 2 * i + 5 * number for i in range(frames)])
        opener = partial(ArrayReader, np.repeat(grey[..., None], 3, -1).astype(np.uint8), 10.0)
        samples.append(VideoSample(f"c/{number} [x]", opener, label=number % 3, group=f"g{number}"))
    return VideoList(samples, ("a", "b", "c"), frozenset({"crop"}), name="clips")


def files_of(root: Path) -> dict[str, bytes]:
    """Contents of all files, but for the seconds in the report."""
    files = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    head = json.loads(files.pop("cache.json"))
    head["report"].pop("cpu_seconds")
    return {**files, "cache.json": json.dumps(head).encode()}


@pytest.mark.parametrize(("settings", "error"), [(ARRAY, 0), (H264, 3)])
def test_a_cache_is_the_source_made_small(tmp_path: Path, settings: CacheSettings, error: int) -> None:
    source = clips(5)
    facts = {"photograph": np.int64(1), "ram": np.arange(3), "nested": {"x": [1]}}
    source = replace(source, samples=[replace(source[0], facts=facts), *source.samples[1:]])
    report = cache_videos(source, tmp_path / "cache", settings=settings)
    stored = open_cache(tmp_path / "cache")
    assert (report.videos, report.frames, report.left_out, report.damaged) == (5, 30, {}, 0)
    assert cache_report(tmp_path / "cache") == report
    files = [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".mp4", ".u8")]
    assert report.bytes == sum(path.stat().st_size for path in files)
    assert report.bytes_per_video == report.bytes / 5
    assert stored.classes == source.classes
    assert stored.invariances == source.invariances
    assert stored.fingerprint != source.fingerprint
    assert dict(stored[0].facts) == {"photograph": 1, "ram": [0, 1, 2], "nested": {"x": [1]}}
    for mine, theirs in zip(stored, source, strict=True):
        assert (mine.key, mine.label, mine.group) == (theirs.key, theirs.label, theirs.group)
        with mine.open() as one, theirs.open() as other:
            np.testing.assert_allclose(one.info.times_N, other.info.times_N, atol=1e-4)
            frames, expected = one.frames([5, 0]), other.frames([5, 0], short_side=24)
        assert frames.shape == expected.shape == (2, 24, 32, 3)
        assert np.abs(frames.astype(int) - expected).max() <= error


def test_h264_has_even_sizes_and_short_groups_of_pictures(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    frames = np.random.default_rng(0).integers(0, 255, (20, 33, 41, 3), dtype=np.uint8)
    source = VideoList([VideoSample("a", partial(ArrayReader, frames))])
    cache_videos(source, tmp_path, settings=CacheSettings(short_side=128, gop=4))
    with open_cache(tmp_path)[0].open() as reader:
        # Smaller than short_side: not scaled up.
        assert (reader.info.height, reader.info.width) == (32, 40)
    (file,) = tmp_path.rglob("*.mp4")
    with av.open(str(file)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [number for number, packet in enumerate(packets) if packet.is_keyframe] == [0, 4, 8, 12, 16]
    assert all(packet.pts == packet.dts for packet in packets)


@pytest.mark.parametrize("settings", [ARRAY, H264])
def test_uneven_times_and_segments_are_kept(tmp_path: Path, settings: CacheSettings) -> None:
    frames = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 24, 32, 3), np.uint8) * 10
    times = np.array([0, 0.1, 0.3, 0.35, 0.5, 0.9, 1.0, 1.1, 1.4, 1.5, 1.6, 2.0])
    opener = partial(StoredFramesReader, frames, times)
    samples = [
        VideoSample("all", opener),
        VideoSample("part", opener, start=0.3, end=1.0),
        VideoSample("none", opener, start=5.0),
    ]
    report = cache_videos(VideoList(samples), tmp_path, settings=settings, max_bad_fraction=0.5)
    assert report.left_out == {"no_frames": 1}
    whole, part = open_cache(tmp_path)
    assert (part.start, part.end) == (0.0, None)
    with whole.open() as one, part.open() as other:
        np.testing.assert_allclose(one.info.times_N, times, atol=1e-4)
        np.testing.assert_allclose(other.info.times_N, times[2:6] - 0.3, atol=1e-4)
        assert np.abs(other.frames(range(4))[:, 0, 0, 0] - frames[2:6, 0, 0, 0].astype(int)).max() <= 3


class _Holed:
    """A reader some of whose frames cannot be decoded."""

    def __init__(self, frames_NHWC: np.ndarray, holes: frozenset[int]) -> None:
        self._inner, self._holes = ArrayReader(frames_NHWC), holes
        self.info = self._inner.info

    def frames(self, indices: list[int], *, short_side: int | None = None) -> np.ndarray:
        if self._holes & set(indices):
            raise VideoReadError("damaged", "hole", source="holed")
        return self._inner.frames(indices, short_side=short_side)

    def __enter__(self) -> "_Holed":
        return self

    def __exit__(self, *_: object) -> None:
        return None


@pytest.mark.parametrize("settings", [ARRAY, H264])
def test_of_a_damaged_video_the_longest_whole_part_is_kept(tmp_path: Path, settings: CacheSettings) -> None:
    frames = np.repeat(np.arange(150, dtype=np.uint8), 24 * 32 * 3).reshape(150, 24, 32, 3)
    samples = [
        VideoSample("good", partial(ArrayReader, frames[:3])),
        VideoSample("holed", partial(_Holed, frames, frozenset({4, 9, 131, 140}))),
        VideoSample("lost", partial(_Holed, frames[:9], frozenset(range(9)))),
        VideoSample("after", partial(ArrayReader, frames[7:9])),
    ]
    report = cache_videos(VideoList(samples), tmp_path, settings=settings, max_bad_fraction=0.5)
    assert (report.videos, report.truncated, report.damaged, report.left_out) == (3, 1, 1, {"damaged": 1})
    good, holed, after = open_cache(tmp_path)
    with good.open() as a, holed.open() as b, after.open() as c:
        assert [len(reader.info.times_N) for reader in (a, b, c)] == [3, 121, 2]
        assert np.abs(b.frames([0, 120])[:, 0, 0, 0].astype(int) - [10, 130]).max() <= 2
        assert np.abs(c.frames([0, 1])[:, 0, 0, 0].astype(int) - [7, 8]).max() <= 2
    assert not list(tmp_path.rglob("*.tmp"))
    (error,) = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert (error["key"], error["cause"]) == ("lost", "damaged")


def test_files_that_cannot_be_read_are_listed_and_too_many_end_the_run(
    tmp_path: Path, write_video: Callable[..., Path], moving: np.ndarray
) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("text")
    paths = [write_video("a.mp4", moving), tmp_path / "none.mp4", text, write_video("b.avi", moving)]
    source = VideoList([VideoSample(path.name, partial(open_video, path)) for path in paths])
    with pytest.raises(TooManyBadSamples, match="2 of 4"):
        cache_videos(source, tmp_path / "cache", settings=H264)
    entries = [json.loads(line) for line in (tmp_path / "cache" / "errors.jsonl").read_text().splitlines()]
    assert [(entry["key"], entry["cause"]) for entry in entries] == [
        ("none.mp4", "missing"),
        ("text.mp4", "unreadable"),
    ]
    with pytest.raises(ValueError, match="not complete"):
        open_cache(tmp_path / "cache")
    report = cache_videos(source, tmp_path / "cache", settings=H264, max_bad_fraction=0.5)
    assert report.left_out == {"missing": 1, "unreadable": 1}
    assert [sample.key for sample in open_cache(tmp_path / "cache")] == ["a.mp4", "b.avi"]


@pytest.mark.parametrize("settings", [ARRAY, H264])
def test_a_stopped_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: CacheSettings
) -> None:
    source = clips(7)
    cache_videos(source, tmp_path / "whole", settings=settings)
    made: list[int] = []

    def stops(samples: list[VideoSample], root: Path, number: int, settings: CacheSettings) -> dict[str, object]:
        made.append(number)
        if made == [0, 1, 2]:
            raise KeyboardInterrupt
        return write(samples, root, number, settings)

    write = cache_module.write_chunk
    monkeypatch.setattr(cache_module, "write_chunk", stops)
    with pytest.raises(KeyboardInterrupt):
        cache_videos(source, tmp_path / "stopped", settings=settings)
    assert is_cache(tmp_path / "stopped")
    with pytest.raises(ValueError, match="not complete"):
        open_cache(tmp_path / "stopped")
    cache_videos(source, tmp_path / "stopped", settings=settings)
    assert made == [0, 1, 2, 2, 3]
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")
    report = cache_videos(source, tmp_path / "stopped", settings=settings)
    assert made == [0, 1, 2, 2, 3]
    assert report.videos == 7


def test_other_settings_or_videos_do_not_go_into_the_same_folder(tmp_path: Path) -> None:
    cache_videos(clips(2), tmp_path, settings=ARRAY)
    with pytest.raises(ValueError, match="was begun with settings="):
        cache_videos(clips(2), tmp_path, settings=replace(ARRAY, short_side=12))
    with pytest.raises(ValueError, match="was begun with source=clips-2"):
        cache_videos(clips(3), tmp_path, settings=ARRAY)


def test_bad_arguments(tmp_path: Path) -> None:
    for wrong in ({"format": "zip"}, {"short_side": 127}, {"gop": 0}, {"crf": 60}, {"chunk": 0}):
        with pytest.raises(ValueError, match="="):
            CacheSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        cache_videos(clips(1), tmp_path, workers=0)
    with pytest.raises(FileNotFoundError, match="not a cache"):
        open_cache(tmp_path / "none")
    (tmp_path / "cache.json").write_text('{"version": 0}')
    with pytest.raises(ValueError, match="version 0"):
        open_cache(tmp_path)


def test_reading_is_timed() -> None:
    assert 0 < seconds_per_read(clips(3), samples=4) < 1


def test_worker_processes_make_the_same_files(tmp_path: Path) -> None:
    source = clips(5)
    cache_videos(source, tmp_path / "one", settings=ARRAY)
    cache_videos(source, tmp_path / "two", settings=ARRAY, workers=2)
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")


_KILLED = """
import sys
from functools import partial
from pathlib import Path
import numpy as np
from byol_ext.video.cache import cache_videos
from byol_ext.video.cache_chunks import CacheSettings
from byol_ext.video.samples import ArrayReader, VideoList, VideoSample

def source():
    frames = np.random.default_rng(0).integers(0, 255, (60, 128, 128, 3), dtype=np.uint8)
    return VideoList([VideoSample(str(n), partial(ArrayReader, frames[n % 7 :])) for n in range(40)])

if __name__ == "__main__":
    cache_videos(source(), Path(sys.argv[1]), settings=CacheSettings(chunk=2), workers=int(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_run_leaves_no_workers_and_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "make.py"
    script.write_text(_KILLED)
    run = [sys.executable, str(script)]
    process = subprocess.Popen([*run, str(tmp_path / "killed"), "2"])
    chunks = tmp_path / "killed" / "chunks"
    deadline = time.time() + 120
    while time.time() < deadline and len(list(chunks.glob("*.json")) if chunks.is_dir() else []) < 3:
        time.sleep(0.05)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= len(list(chunks.glob("*.json"))) < 20
    while time.time() < deadline and any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.05)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    subprocess.run([*run, str(tmp_path / "killed"), "1"], check=True)
    subprocess.run([*run, str(tmp_path / "whole"), "1"], check=True)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
