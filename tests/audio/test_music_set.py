"""The rendered-music set: its sources, training on them directly, and building shards that resume."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from byol_ext.audio import music_render
from byol_ext.audio.abc_tunes import Tune, read_tunes
from byol_ext.audio.data import AudioTextDataset, AudioTextSample, BadAudio, WebDatasetShards, collate, write_shards
from byol_ext.audio.music import Item, MusicSource, build_music_set
from byol_ext.audio.music_facts import INSTRUMENTS
from byol_ext.audio.music_render import TIMGM6MB, Renderer, missing_for_music
from byol_ext.audio.wesnoth import WESNOTH, vorbis_comments, wesnoth_tracks, wesnoth_windows
from byol_ext.ledger import read_errors_jsonl

MISSING = missing_for_music()
needs_renderer = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
needs_wesnoth = pytest.mark.skipif(not WESNOTH.is_dir(), reason="apt-get install -y wesnoth-1.16-music")


def build(dst: Path, corpus: Path, workers: int = 1, n_train: int = 5, wesnoth: Path | None = None) -> dict[str, int]:
    return build_music_set(
        dst,
        n_train=n_train,
        n_val=1,
        n_test=2,
        seconds=1.0,
        shard_size=3,
        workers=workers,
        root=corpus,
        held_out_soundfont=TIMGM6MB,
        wesnoth=wesnoth,
    )


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


@needs_renderer
def test_build_resumes_and_matches_itself(tmp_path: Path, corpus: Path) -> None:
    import soundfile

    dst = tmp_path / "set"
    counts = build(dst, corpus)
    assert counts == {"train": 5, "val": 1, "test": 2, "test_fluidr3": 2}
    shards = sorted(p.name for p in dst.glob("*.tar"))
    assert shards == [f"{s}-000000.tar" for s in ("test", "test_fluidr3", "train")] + [
        "train-000001.tar",
        "val-000000.tar",
    ]
    content = members(dst / "train-000000.tar")
    assert list(content)[:2] == ["train-000000.flac", "train-000000.json"]
    wave, rate = soundfile.read(io.BytesIO(content["train-000000.flac"]))
    assert (wave.shape, rate) == ((16_000,), 16_000)
    record = json.loads(content["train-000000.json"])
    tags = record["original_data"]["tags"]
    assert len(record["text"]) == 5
    assert {"instrument", "program", "tempo", "bpm", "meter", "title", "origin", "kind", "soundfont"} <= tags.keys()
    assert tags["instrument"] in record["tag"]
    assert json.loads((dst / "sizes.json").read_text())["train-000001.tar"] == 2
    before = {name: (dst / name).read_bytes() for name in shards}
    (dst / "train-000000.tar").unlink()
    (dst / "train-000000.tar.tmp").write_bytes(b"left by a killed run")
    stamp = (dst / "train-000001.tar").stat().st_mtime_ns
    assert build(dst, corpus) == counts
    assert (dst / "train-000001.tar").stat().st_mtime_ns == stamp
    assert {name: (dst / name).read_bytes() for name in shards} == before
    assert not list(dst.glob("*.tmp"))
    with pytest.raises(ValueError, match="holds another set"):
        build(dst, corpus, n_train=6)


@pytest.mark.slow
@needs_renderer
def test_build_does_not_depend_on_the_number_of_processes(tmp_path: Path, corpus: Path) -> None:
    build(tmp_path / "one", corpus)
    build(tmp_path / "two", corpus, workers=2)
    for path in (tmp_path / "one").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@needs_renderer
def test_silent_clips_are_left_out_and_reported(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(music_render, "MIN_RMS", 2.0)
    assert set(build(tmp_path, corpus).values()) == {0}
    errors = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert len(errors) == 10
    assert "silent" in errors[0]["cause"]
    assert {error["shard"].split("-")[0] for error in errors} == {"train", "val", "test", "test_fluidr3"}


@needs_renderer
def test_sets_are_read_by_the_shard_reader(tmp_path: Path, corpus: Path) -> None:
    build(tmp_path, corpus)
    source = WebDatasetShards(str(tmp_path / "train-*.tar"))
    assert len(source) == 5
    assert source[0].key == "train-000000"
    assert source[0].split == "train"
    assert source[0].tags["instrument"] in {i.name for i in INSTRUMENTS}


@pytest.fixture
def items(corpus: Path) -> tuple[Item, ...]:
    """Four clips; the first and the last are of one tune."""
    tunes = read_tunes(corpus)[:3]
    return (*(Item(t, 0) for t in tunes), Item(tunes[0], 1))


def same(a: AudioTextSample, b: AudioTextSample) -> bool:
    return a == b and np.array_equal(a.audio, b.audio)  # type: ignore[arg-type]


@needs_renderer
def test_rendered_samples_depend_on_seed_tune_and_variant_alone(items: tuple[Item, ...]) -> None:
    source = MusicSource(items, seconds=1.0)
    samples = [source[i] for i in range(4)]
    assert [s.key for s in samples] == [f"train-{i:06d}" for i in range(4)]
    assert (samples[0].audio.shape, samples[0].sr, samples[0].tags["soundfont"]) == ((16_000,), 16_000, "TimGM6mb")
    again = pickle.loads(pickle.dumps(source))
    assert all(same(samples[i], again[i]) for i in (2, 0, 3, 1))
    alone = MusicSource((items[3],), seconds=1.0)[0]
    assert np.array_equal(alone.audio, samples[3].audio)
    assert (alone.captions, alone.tags) == (samples[3].captions, samples[3].tags)
    assert samples[0].tags != samples[3].tags
    assert MusicSource(items, seconds=1.0, seed=1)[0].tags != samples[0].tags
    assert same(source[-1], samples[3])
    with pytest.raises(IndexError):
        source[4]


@needs_renderer
def test_captions_need_no_rendering(items: tuple[Item, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    source = MusicSource(
        (*items, Item(Tune("a/empty-0", "a", {"T": "x"}, "X:1\nT:x\nM:4/4\nK:C\n"), 0)), seconds=1.0, n_captions=3
    )
    rendered = [source[i].captions for i in range(4)]
    monkeypatch.setattr(Renderer, "clip", None)
    assert [source.captions(i) for i in range(4)] == rendered
    assert source.captions(4) == ()
    with pytest.raises(BadAudio, match="a/empty-0: unreadable"):
        source[4]


@needs_renderer
@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_rendered_tunes_without_shards(items: tuple[Item, ...], tmp_path: Path, workers: int) -> None:
    """The same items as from shards, up to the 16 bits of these; a forked worker makes its own renderer."""
    source = MusicSource(items, seconds=1.0)
    write_shards(source, tmp_path, sr=16_000, prefix="train-")
    shards = WebDatasetShards(str(tmp_path / "train-*.tar"))
    direct, packed = (AudioTextDataset(s, sr=16_000, clip_seconds=0.5, train=True) for s in (source, shards))
    order = [(i, epoch) for epoch in range(2) for i in (2, 0, 3, 1)]
    batches = list(DataLoader(direct, batch_size=4, sampler=order, num_workers=workers, collate_fn=collate))
    for k, batch in enumerate(batches):
        expected = collate([packed[index] for index in order[4 * k : 4 * k + 4]])
        assert (batch["caption"], batch["tags"], batch["bad"]) == (expected["caption"], expected["tags"], {})
        np.testing.assert_allclose(batch["audio"], expected["audio"], atol=2**-15)


def write_ogg(path: Path, seconds: float, title: str | None, level: float = 0.1) -> None:
    soundfile = pytest.importorskip("soundfile", reason="pip install 'byol_ext[slap]'")
    path.parent.mkdir(exist_ok=True)
    wave = level * np.sin(np.arange(int(8000 * seconds)) * 0.3)
    with soundfile.SoundFile(path, "w", 8000, 1, format="OGG", subtype="VORBIS") as file:
        if title is not None:
            file.title, file.artist, file.genre = title, "A. Composer", "Romantic Classical"
        file.write(wave)


def test_tracks_with_tags(tmp_path: Path) -> None:
    write_ogg(tmp_path / "b.ogg", 4, "Elf Land")
    write_ogg(tmp_path / "silence.ogg", 1, None)
    (track,) = wesnoth_tracks(tmp_path)
    assert track.tags["title"] == "Elf Land"
    assert track.captions[-1] == '"Elf Land", orchestral music by A. Composer for The Battle for Wesnoth.'
    windows = wesnoth_windows([track], seconds=1, windows=3)
    assert [sample.start for sample in windows.samples] == [0.75, 1.5, 2.25]
    assert all(sample.clip(sr=16_000, n=None).wave_S.shape == (16_000,) for sample in windows.samples)
    assert len(wesnoth_windows([track], seconds=3, windows=3)) == 1
    assert (windows[1].key, windows[1].captions, windows[1].split) == ("b-1", track.captions, "wesnoth")
    assert windows[1].tags == {**track.tags, "track": "b", "start": 1.5}
    with pytest.raises(FileNotFoundError, match="apt-get install -y wesnoth"):
        wesnoth_tracks(tmp_path / "none")
    (tmp_path / "c.ogg").write_bytes(b"not ogg")
    with pytest.raises(ValueError, match=r"c\.ogg"):
        vorbis_comments(tmp_path / "c.ogg")


@needs_renderer
def test_silent_and_unreadable_tracks_are_reported(tmp_path: Path, corpus: Path) -> None:
    write_ogg(tmp_path / "tracks" / "a.ogg", 3, "Elf Land")
    write_ogg(tmp_path / "tracks" / "b.ogg", 1, "Quiet", level=1e-4)
    write_ogg(tmp_path / "tracks" / "c.ogg", 3, "Half")
    half = (tmp_path / "tracks" / "c.ogg").read_bytes()
    (tmp_path / "tracks" / "c.ogg").write_bytes(half[: len(half) // 2])
    counts = build(tmp_path / "set", corpus, wesnoth=tmp_path / "tracks")
    assert counts["wesnoth"] == 3
    assert list(members(tmp_path / "set" / "wesnoth-000000.tar"))[:2] == ["a-0.flac", "a-0.json"]
    assert [(e["key"], e["cause"]) for e in read_errors_jsonl(tmp_path / "set")] == [
        ("b-0", "silent"),
        ("c-0", "truncated"),
    ]


@needs_wesnoth
def test_wesnoth_captions() -> None:
    tracks = wesnoth_tracks()
    assert len(tracks) == 40
    elf = next(t for t in tracks if t.path.stem == "elf-land")
    assert elf.captions[0] == "Gameplay music, intended to be used in scenes with an Elvish feel."
    assert not any("://" in caption for t in tracks for caption in t.captions)
