"""Clips and batches: keyed randomness, bad videos, static clips, padding."""

import pickle
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from byol_ext.ledger import BadSampleLedger, TooManyBadSamples
from byol_ext.training.source import LoaderSource, ResumableSampler
from byol_ext.video.data import NOTE_HINTS, VideoClips, collate, data_report, is_static, motion
from byol_ext.video.encode import write_mp4
from byol_ext.video.readers import video_folder
from byol_ext.video.samples import ArrayReader, VideoInfo, VideoList, VideoReadError, VideoSample
from byol_ext.video.sampling import ClipSampler

N = 60
PAIR = ClipSampler(clips=2, frames=4, stride=2)
SPREAD = ClipSampler(clips=4, frames=4, stride=2, layout="even")


def numbered(n: int = N, height: int = 6, width: int = 8) -> ArrayReader:
    """Frame ``i`` is filled with ``i``."""
    frames = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, height, width, 3))
    return ArrayReader(np.ascontiguousarray(frames))


def still() -> ArrayReader:
    return ArrayReader(np.full((N, 6, 8, 3), 7, np.uint8))


def half_still() -> ArrayReader:
    """Nothing moves but in the last third."""
    frames = np.full((N, 6, 8, 3), 7, np.uint8)
    frames[40:] = np.arange(20, dtype=np.uint8)[:, None, None, None] * 10
    return ArrayReader(frames)


def broken(key: str) -> ArrayReader:
    raise VideoReadError("unreadable", "not a video", source=f"/data/{key}.mp4")


@dataclass(frozen=True)
class DamagedReader(ArrayReader):
    """Frames that cannot be decoded, which only decoding finds out."""

    damaged: frozenset[int] = frozenset()

    def frames(self, indices, *, short_side=None):
        if self.damaged & set(indices):
            raise VideoReadError("damaged", "a frame", source="d.mp4")
        return super().frames(indices, short_side=short_side)


def damaged(*bad: int) -> DamagedReader:
    return DamagedReader(numbered().frames_NHWC, damaged=frozenset(bad))


def sample(key: str, opener, **about) -> VideoSample:
    return VideoSample(key, opener, **about)


def videos(n: int, *, bad: frozenset[int] = frozenset()) -> VideoList:
    return VideoList(
        [
            sample(f"v{i}", partial(broken, f"v{i}") if i in bad else partial(numbered, N + i % 3), label=i % 4)
            for i in range(n)
        ]
    )


def starts(item) -> list[int]:
    return [int(clip[0, 0, 0, 0]) for clip in item["clips"]]


def test_an_item_is_the_frames_that_the_rule_names():
    item = VideoClips(videos(5), PAIR, seed=3)[2, 7]
    shown = np.stack([clip[:, 0, 0, 0] for clip in item["clips"]])
    assert (np.diff(shown.ravel().astype(int)) == 2).all()
    assert (item["id"], item["epoch"], item["key"], item["label"]) == (2, 7, "v2", 2)
    assert item["bad"] == {}
    assert item["notes"] == {}
    assert item["clips"][0].dtype == np.uint8


def test_clips_depend_on_seed_epoch_and_id_alone():
    clips = VideoClips(videos(5), PAIR, seed=3)
    assert starts(clips[2, 7]) == starts(VideoClips(videos(5), PAIR, seed=3)[2, 7])
    assert len({tuple(starts(clips[2, epoch])) for epoch in range(20)}) > 5
    assert len({tuple(starts(VideoClips(videos(5), PAIR, seed=s)[2, 7])) for s in range(20)}) > 5
    even = VideoClips(videos(5), SPREAD, seed=3)
    assert starts(even[2, 0]) == starts(even[2, 5])
    with pytest.raises(IndexError):
        clips[5]


def test_workers_and_batches_change_nothing():
    clips = VideoClips(videos(8, bad=frozenset({3})), PAIR, seed=1)
    alone = [torch.from_numpy(np.stack(clips[i, 2]["clips"])) for i in range(8)]
    loader = DataLoader(
        clips,
        batch_sampler=[[(i, 2) for i in range(4)], [(i, 2) for i in range(4, 8)]],
        collate_fn=collate,
        num_workers=2,
    )
    together = torch.cat([batch["clips"] for batch in loader])
    assert torch.equal(together, torch.stack(alone))


def test_a_source_resumes_to_the_same_clips():
    def source() -> LoaderSource:
        clips = VideoClips(videos(6), PAIR)
        return LoaderSource(clips, ResumableSampler(6, 2, seed=4, rank=0, world_size=1), collate=collate)

    first = source()
    batches = iter(first)
    for _ in range(4):
        next(batches)
    state = first.state_dict()
    expected = next(batches)
    second = source()
    second.load_state_dict(state)
    assert torch.equal(next(iter(second))["clips"], expected["clips"])
    assert first.fingerprint == videos(6).fingerprint


def test_a_bad_video_is_replaced_and_counted():
    clips = VideoClips(videos(20, bad=frozenset(range(8, 12))), PAIR, seed=0)
    chosen = set()
    for epoch in range(12):
        item = clips[9, epoch]
        assert item["id"] not in range(8, 12)
        assert item["errors"][0] == {
            "key": "/data/v9.mp4",
            "cause": "unreadable",
            "message": "/data/v9.mp4: unreadable: not a video",
        }
        assert sum(item["bad"].values()) == len(item["errors"])
        assert item["id"] == clips[9, epoch]["id"]
        chosen.add(item["id"])
    assert len(chosen) > 3  # not always the neighbour


def test_bad_videos_can_be_reported_or_raised():
    source = videos(4, bad=frozenset({1}))
    reported = VideoClips(source, SPREAD, on_bad="report")
    assert "clips" not in reported[1]
    batch = collate([reported[i] for i in range(4)])
    assert batch["ids"].tolist() == [0, 2, 3]
    assert (batch["seen"], batch["bad"]) == (4, {"unreadable": 1})
    with pytest.raises(VideoReadError, match=r"v1\.mp4"):
        VideoClips(source, SPREAD)[1]
    empty = collate([reported[1]])
    assert empty["clips"].shape[0] == len(empty["ids"]) == len(empty["labels"]) == 0
    assert empty["sizes"].shape == (0, 2)
    assert empty["seen"] == 1


def test_five_percent_broken_files_are_counted_to_the_end():
    clips = VideoClips(videos(100, bad=frozenset(range(0, 100, 20))), PAIR, seed=0)
    source = LoaderSource(clips, ResumableSampler(100, 10, rank=0, world_size=1), collate=collate)
    ledger = BadSampleLedger(max_bad_fraction=0.1)
    batches = iter(source)
    for _ in range(2 * source.batches_per_epoch):
        batch = next(batches)
        assert len(batch["ids"]) == 10
        ledger.update(batch)
    ledger.check()
    assert {entry["key"] for entry in ledger.entries} == {f"/data/v{i}.mp4" for i in range(0, 100, 20)}
    report = data_report(ledger)
    assert report["bad"] == report["bad/unreadable"] >= 10
    assert report["ok"] == 200
    assert report["seen"] == report["ok"] + report["bad"]


def test_an_all_bad_set_stops_after_one_pass_naming_five():
    clips = VideoClips(videos(12, bad=frozenset(range(12))), PAIR)
    with pytest.raises(TooManyBadSamples, match="12 of 12 videos") as caught:
        clips[4]
    assert str(caught.value).count("/data/v") == 5
    assert "/data/v4.mp4" in str(caught.value)
    with pytest.raises(TooManyBadSamples, match="3 of 12 videos"):
        VideoClips(videos(12, bad=frozenset(range(12))), PAIR, max_tries=3)[4]
    with pytest.raises(TooManyBadSamples, match="1 of 1 videos"):
        VideoClips(videos(1, bad=frozenset({0})), PAIR)[0]


def test_clips_with_damaged_frames_are_drawn_anew():
    clips = VideoClips(VideoList([sample("d", partial(damaged, 30))]), PAIR)
    redrawn = 0
    for epoch in range(40):
        item = clips[0, epoch]
        assert 30 not in np.concatenate([clip[:, 0, 0, 0] for clip in item["clips"]])
        redrawn += item["notes"].get("redrawn", 0)
    assert 0 < redrawn < 40
    with pytest.raises(TooManyBadSamples, match="damaged"):
        VideoClips(VideoList([sample("d", partial(damaged, *range(N)))]), PAIR)[0]


def test_only_the_damaged_clip_of_an_evaluation_is_moved():
    proper = starts(VideoClips(VideoList([sample("w", numbered)]), SPREAD)[0])
    clips = VideoClips(VideoList([sample("d", partial(damaged, proper[2] + 2))]), SPREAD)
    moved = starts(clips[0])
    assert [a == b for a, b in zip(proper, moved, strict=True)] == [True, True, False, True]
    assert moved == starts(clips[0, 9])
    assert clips[0]["notes"] == {"redrawn": 1}


def test_other_faults_of_a_reader_are_not_drawn_anew():
    class Gone(ArrayReader):
        def frames(self, indices, *, short_side=None):
            raise VideoReadError("unreadable", "vanished", source="g")

    clips = VideoClips(VideoList([sample("g", lambda: Gone(still().frames_NHWC))]), PAIR, on_bad="raise")
    with pytest.raises(VideoReadError, match="vanished"):
        clips[0]


def test_static_clips_are_counted_and_min_motion_avoids_them():
    assert VideoClips(VideoList([sample("s", still)]), PAIR)[0]["notes"] == {"static": 2}
    lazy = VideoClips(VideoList([sample("h", half_still)]), replace(PAIR, layout="independent"), seed=1)
    choosy = VideoClips(lazy.source, lazy.sampler, seed=1, min_motion=1.0, max_draws=50)
    assert any("static" in lazy[0, epoch]["notes"] for epoch in range(10))
    for epoch in range(10):
        item = choosy[0, epoch]
        assert "static" not in item["notes"]
        assert min(motion(clip) for clip in item["clips"]) >= 1.0
    with pytest.raises(TooManyBadSamples, match=r"static: motion 0\.00 is below min_motion=1"):
        VideoClips(VideoList([sample("s", still)]), PAIR, min_motion=1.0)[0]


def test_motion_is_the_mean_absolute_difference():
    rng = np.random.default_rng(0)
    clip = rng.integers(256, size=(5, 4, 3, 3), dtype=np.uint8)
    assert motion(clip) == pytest.approx(np.abs(np.diff(clip.astype(float), axis=0)).mean())
    assert not is_static(clip)
    assert is_static(np.repeat(clip[:1], 5, axis=0))
    assert motion(clip[:1]) == 0.0


def test_a_segment_of_a_video():
    clips = VideoClips(VideoList([sample("s", numbered, start=1.0, end=1.8)]), PAIR)
    for epoch in range(20):
        shown = np.concatenate([clip[:, 0, 0, 0] for clip in clips[0, epoch]["clips"]])
        assert shown.min() >= 25
        assert shown.max() < 45


def test_collate_pads_at_the_bottom_and_the_right():
    sizes = [(6, 8), (10, 4), (5, 9)]
    source = VideoList(
        [
            sample(f"{h}x{w}", partial(numbered, N, h, w), group="g" if i else None, facts={"i": i})
            for i, (h, w) in enumerate(sizes)
        ]
    )
    clips = VideoClips(source, ClipSampler(clips=2, frames=3, stride=1, layout="even"))
    batch = collate([clips[i] for i in range(3)])
    assert batch["clips"].shape == (3, 2, 3, 10, 9, 3)
    assert batch["clips"].dtype == torch.uint8
    assert batch["sizes"].tolist() == [list(size) for size in sizes]
    for b, (h, w) in enumerate(sizes):
        inside = batch["clips"][b, :, :, :h, :w]
        assert torch.equal(inside, torch.from_numpy(np.stack(clips[b]["clips"])))
        assert batch["clips"][b].sum() == inside.sum()
    assert batch["labels"].tolist() == [-1, -1, -1]
    assert batch["groups"] == [None, "g", "g"]
    assert batch["facts"] == [{"i": 0}, {"i": 1}, {"i": 2}]
    assert batch["read_seconds"].shape == (3,)


def test_notes_are_added_up():
    source = VideoList([sample("short", partial(numbered, 9)), sample("still", still)])
    clips = VideoClips(source, PAIR)
    batch = collate([clips[0], clips[1], clips[1]])
    assert batch["notes"] == {"short": 1, "static": 4}
    ledger = BadSampleLedger(hints=NOTE_HINTS)
    ledger.update(batch)
    assert (data_report(ledger)["short"], data_report(ledger)["static"]) == (1, 4)
    padding = VideoClips(source, replace(PAIR, short="pad_last", frames=6))
    assert set(padding[0]["notes"]) <= set(NOTE_HINTS)


def test_short_side_scales():
    clips = VideoClips(VideoList([sample("v", partial(numbered, N, 12, 16))]), PAIR, short_side=6)
    assert clips[0]["clips"][0].shape == (4, 6, 8, 3)


def test_bad_arguments_and_pickling():
    with pytest.raises(ValueError, match="no videos"):
        VideoClips(VideoList([]), PAIR)
    with pytest.raises(ValueError, match="max_tries"):
        VideoClips(videos(1), PAIR, max_tries=0)
    assert starts(pickle.loads(pickle.dumps(VideoClips(videos(2), PAIR)))[1]) == starts(VideoClips(videos(2), PAIR)[1])


def test_a_folder_with_broken_files_is_read_to_the_end(tmp_path):
    """Files as they are found: whole, empty, text, cut in half with and without an index at the end."""
    moving = np.random.default_rng(0).integers(256, size=(N, 16, 16, 3), dtype=np.uint8)
    write_mp4(tmp_path / "0.mp4", [(moving, np.arange(N) / 25.0)])
    whole = (tmp_path / "0.mp4").read_bytes()
    for i in range(1, 6):
        (tmp_path / f"{i}.mp4").write_bytes(whole)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    clips = VideoClips(video_folder(tmp_path), PAIR, seed=0)
    source = LoaderSource(clips, ResumableSampler(9, 3, rank=0, world_size=1), collate=collate)
    ledger = BadSampleLedger(max_bad_fraction=0.9)
    batches = iter(source)
    for _ in range(source.batches_per_epoch):
        batch = next(batches)
        assert batch["clips"].shape == (3, 2, 4, 16, 16, 3)
        ledger.update(batch)
    named = {entry["key"].rpartition("/")[2] for entry in ledger.entries}
    assert {"empty.mp4", "text.mp4"} <= named <= {"empty.mp4", "text.mp4", "half.mp4"}
    assert named == {"empty.mp4", "text.mp4", "half.mp4"} or data_report(ledger)["truncated"]


def test_a_damaged_video_avoids_its_gap():
    @dataclass(frozen=True)
    class Holey(ArrayReader):
        @property
        def info(self) -> VideoInfo:
            times = np.concatenate([np.arange(30), np.arange(40, 40 + N - 30)]) / 25.0
            return VideoInfo(times, 6, 8, truncated=True)

    clips = VideoClips(VideoList([sample("h", lambda: Holey(numbered().frames_NHWC))]), PAIR)
    for epoch in range(20):
        item = clips[0, epoch]
        shown = np.concatenate([clip[:, 0, 0, 0] for clip in item["clips"]])
        assert shown.max() < 30 or shown.min() >= 30
        assert item["notes"] == {"truncated": 1}
