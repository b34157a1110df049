import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from byol_ext.audio import music_render
from byol_ext.audio.abc_tunes import (
    Key,
    Tune,
    corpus_root,
    normalize_title,
    notes_of,
    parse_key,
    read_tunes,
    split_of,
    stable_hash,
)
from byol_ext.audio.music import plan_music_set
from byol_ext.audio.music_captions import facts_in, make_captions
from byol_ext.audio.music_facts import (
    INSTRUMENTS,
    KINDS,
    TEMPI,
    beat_of,
    choose_facts,
    key_of,
    kind_of,
    meter_of,
    place_of,
)
from byol_ext.audio.music_render import FLUIDR3, TIMGM6MB, Renderer, missing_for_music, render_clip

MISSING = missing_for_music()
needs_renderer = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
needs_symusic = pytest.mark.skipif(importlib.util.find_spec("symusic") is None, reason="pip install 'byol_ext[music]'")
needs_corpus = pytest.mark.skipif(importlib.util.find_spec("music21") is None, reason="pip install 'byol_ext[music]'")
needs_fluidr3 = pytest.mark.skipif(not FLUIDR3.exists(), reason="apt-get install -y fluid-soundfont-gm")

SCALE = "X:1\nT:The Scale\nM:4/4\nL:1/4\nK:C\nA B c d|e f g a|\n"


def tune(abc: str, collection: str = "ryansMammoth", name: str = "t-0") -> Tune:
    headers: dict[str, str] = {}
    for line in abc.splitlines():
        if line[1:2] == ":":
            headers.setdefault(line[0], line[2:].strip())
    return Tune(f"{collection}/{name}", collection, headers, abc)


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("G", Key("G", "major")),
        ("Em", Key("E", "minor")),
        ("EM", Key("E", "major")),
        ("E Minor", Key("E", "minor")),
        ("EMin", Key("E", "minor")),
        ("A Mixolydian", Key("A", "Mixolydian")),
        ("AMix", Key("A", "Mixolydian")),
        ("Ador", Key("A", "Dorian")),
        ("E phr -8va", Key("E", "Phrygian")),
        ("Glydian", Key("G", "Lydian")),
        ("D Major", Key("D", "major")),
        ("F# Minor", Key("F#", "minor")),
        ("Bb", Key("Bb", "major")),
        ("Es", Key("Eb", "major")),
        ("H", Key("B", "major")),
        ("G % a typo?", Key("G", "major", certain=False)),
        ("Hp", None),
        ("none", None),
        ("", None),
    ],
)
def test_parse_key(field: str, key: Key | None) -> None:
    assert parse_key(field) == key


@pytest.mark.parametrize(
    ("title", "same"),
    [
        ("Blackbird, The", "The Blackbird"),
        ("Limerick -- Jig", "LIMERICK"),
        ("Die Rabenmutter (II)", "Rabenmutter, Die"),
        ("Chevy Chase 1", "Chevy Chase 2"),
        ("Jenny's Reel", "JENNYS"),
        ("Schöne Nächte", "SCHONE NACHTE"),
        ("The White Cockade 2nd Setting", "White Cockade"),
    ],
)
def test_titles_of_one_tune_fall_together(title: str, same: str) -> None:
    assert normalize_title(title) == normalize_title(same)
    assert split_of(title) == split_of(same)


@pytest.mark.parametrize("title", ["", "?", "12", "The", "(x)", "山歌", "Reel"])
def test_odd_titles_have_a_name(title: str) -> None:
    assert normalize_title(title)


def test_split_is_pinned() -> None:
    """The split must never move: a stored test set would leak into training."""
    assert stable_hash("reel") == 168517443777518465
    sides = [split_of(title) for title in ("The Blackbird", "Die Rabenmutter", "Flowers of Edinburgh", "Jan Borluut")]
    assert sides == ["train", "train", "test", "train"]


@needs_corpus
def test_whole_corpus_splits_by_title() -> None:
    tunes = read_tunes()
    assert len(tunes) == 12978
    assert len({t.name for t in tunes}) == len(tunes)
    titles: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for t in tunes:
        titles[split_of(t.title)].add(normalize_title(t.title))
    assert not titles["train"] & titles["val"]
    assert not titles["train"] & titles["test"]
    assert not titles["val"] & titles["test"]
    n = sum(len(t) for t in titles.values())
    assert abs(len(titles["test"]) / n - 0.10) < 0.01
    assert abs(len(titles["val"]) / n - 0.06) < 0.01


def captions_are_true(tunes: list[Tune]) -> None:
    rng = np.random.default_rng(0)
    notes = np.array([[0.0, 1, 60, 100], [1, 1, 62, 100], [60, 1, 67, 100]])
    seen: dict[str, set[str]] = {}
    for t in tunes:
        facts = choose_facts(t, notes, variant=0, seconds=5, soundfont="x", rng=rng)
        known = {k: str(v) for k, v in facts.as_dict().items() if v is not None}
        captions = make_captions(facts, rng)
        assert len(set(captions)) == 5
        for caption in captions:
            said = facts_in(caption)
            assert said == {k: known[k] for k in said}, caption
            for name, value in said.items():
                seen.setdefault(name, set()).add(value)
        wanted = {"instrument", "tempo", "bpm", "meter", "key", "tonic", "kind", "origin"} & known.keys()
        assert facts_in(captions[0]).keys() == wanted, captions[0]
    assert seen["instrument"] == {i.name for i in INSTRUMENTS}
    assert seen["tempo"] == set(TEMPI)
    assert len(seen["kind"]) > 20
    assert seen["kind"] <= set(KINDS)


@needs_corpus
def test_captions_are_true() -> None:
    captions_are_true(read_tunes()[::10])


@pytest.mark.slow
@needs_corpus
def test_captions_of_the_whole_corpus_are_true() -> None:
    captions_are_true(read_tunes())


def test_facts_of_headers() -> None:
    jig = tune("X:1\nT:Limerick -- Jig\nM:6/8\nK:D\nabc|\n")
    assert (meter_of(jig), kind_of(jig), place_of(jig), key_of(jig, last_pitch=60)) == (
        "6/8",
        "jig",
        (None, None),
        ("D major", None),
    )
    song = tune(
        "X:1\nT:Lied\nR: Kinder -, Wiegen - Lied\nO: Europa, Deutschland, Hessen\nM:FREI4/4\nK:Es\nabc|\n",
        "essenFolksong",
    )
    assert (meter_of(song), place_of(song)) == (None, ("Germany", "Hesse"))
    assert kind_of(song) in ("lullaby", "children's song")
    assert key_of(song, last_pitch=63) == (None, "E flat")
    assert key_of(song, last_pitch=62) == (None, None)
    doubtful = tune("X:1\nT:A Jig to remember\nM:C|\nK:D % a typo\nabc|\nM:3/4\nabc|\n", "oneills1850")
    assert (meter_of(doubtful), kind_of(doubtful), place_of(doubtful)) == (None, None, ("Ireland", None))
    assert key_of(doubtful, last_pitch=62) == (None, None)


@pytest.mark.parametrize(
    ("meter", "beat"), [("4/4", 1.0), ("2/2", 2.0), ("6/8", 1.5), ("9/8", 1.5), ("3/8", 0.5), ("6/4", 3.0), (None, 1.0)]
)
def test_beats(meter: str | None, beat: float) -> None:
    assert beat_of(meter) == beat


def test_tempo_words_do_not_overlap() -> None:
    bounds = [bound for limits in TEMPI.values() for bound in limits]
    assert bounds == sorted(bounds)
    assert all(high * 1.1 < low for high, low in zip(bounds[1::2], bounds[2::2], strict=False))


def test_instruments_are_distinct() -> None:
    assert len({i.name for i in INSTRUMENTS}) == len({i.program for i in INSTRUMENTS}) == 40


@needs_symusic
def test_notes_and_repeats_in_quarter_notes() -> None:
    notes = notes_of(tune("X:1\nT:x\nM:4/4\nL:1/8\nQ:1/4=300\nK:EM\n|:E2 F2 G4:|\n"))
    np.testing.assert_allclose(notes[:, 0], [0, 1, 2, 4, 5, 6], atol=0.01)
    np.testing.assert_allclose(notes[:, 1], [1, 1, 2, 1, 1, 2], atol=0.01)
    assert notes[:, 2].tolist() == [64, 66, 68] * 2


@needs_symusic
@pytest.mark.parametrize("body", ["", "z4|z4|"])
def test_tune_without_notes(body: str) -> None:
    with pytest.raises(ValueError, match="ryansMammoth/t-0"):
        notes_of(tune(f"X:1\nT:x\nM:4/4\nK:C\n{body}\n"))


@needs_symusic
def test_parser_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    notes_of(tune("X:1\nT:x\nM:4/4\nL:1/4\nK:C treble8 foo\n%%bad\nCDE@F $% [|: (3AB\n"))
    print("after")
    assert capfd.readouterr() == ("before\nafter\n", "")


def test_reading_a_folder(corpus: Path, tmp_path: Path) -> None:
    tunes = read_tunes(corpus)
    assert [t.name for t in tunes[:2]] == ["essenFolksong/a-0", "essenFolksong/a-1"]
    assert len(tunes) == 40
    (corpus / "oneills1850" / "b.abc").write_bytes(
        b"X:1\r\nT:\r\nM:4/4\r\nK:C\r\nX:2\r\nT:ok\r\nM:4/4\r\nK:C\r\nA\r\n\xff"
    )
    assert [t.title for t in read_tunes(corpus) if "/b-" in t.name] == ["ok"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_tunes(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \.abc file"):
        read_tunes(tmp_path / "empty")


def test_missing_packages_name_their_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"byol_ext\[music\]"):
        corpus_root()
    assert missing_for_music() == "pip install 'byol_ext[music]'"


@needs_symusic
def test_missing_soundfont_names_its_package(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="apt-get install -y timgm6mb-soundfont"):
        Renderer(tmp_path / TIMGM6MB.name)


def test_missing_library_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(module: str, *, extra: str) -> None:
        raise ImportError("Couldn't find the FluidSynth library.")

    monkeypatch.setattr(music_render, "require", no_library)
    monkeypatch.setattr(Path, "exists", lambda self: True)
    with pytest.raises(ImportError, match="apt-get install -y libfluidsynth3 timgm6mb-soundfont"):
        Renderer()


@needs_symusic
def test_plan_shares_no_title_and_no_melody(corpus: Path) -> None:
    tunes = read_tunes(corpus)
    train = next(t for t in tunes if split_of(t.title) == "train")
    names = (f"copy {i}" for i in range(1000))
    twin = dataclasses.replace(
        train, name="x/twin", headers={**train.headers, "T": next(n for n in names if split_of(n) == "test")}
    )
    plan = plan_music_set([*tunes, twin], n_train=60, n_val=2, n_test=3)
    assert [len(plan[s]) for s in ("train", "val", "test")] == [60, 2, 3]
    groups = {s: {normalize_title(i.tune.title) for i in items} for s, items in plan.items()}
    assert not groups["train"] & (groups["val"] | groups["test"])
    assert not groups["val"] & groups["test"]
    assert "x/twin" not in {i.tune.name for i in plan["test"]}
    assert len({(i.tune.name, i.variant) for i in plan["train"]}) == 60
    assert plan == plan_music_set([twin, *tunes[::-1]], n_train=60, n_val=2, n_test=3)
    with pytest.raises(ValueError, match="test clips wanted"):
        plan_music_set([train], n_train=1, n_val=0, n_test=1)


@needs_renderer
def test_pitch_and_tempo_of_a_rendered_tune() -> None:
    """Each note of a scale sounds at its frequency (FFT peak within 15 cents) and in its beat."""
    scale = tune(SCALE)
    notes = notes_of(scale)
    facts = choose_facts(scale, notes, variant=0, seconds=4, soundfont="x", rng=np.random.default_rng(0))
    flute = dataclasses.replace(facts, program=73, bpm=120, beat=1.0, start=0.0)
    with Renderer() as renderer:
        audio = renderer.clip(notes, flute, seconds=4)
    assert audio.shape == (64_000,)
    assert audio.dtype == np.float32
    for beat, pitch in enumerate((69, 71, 72, 74, 76, 77, 79, 81)):
        note = audio[beat * 8000 + 2000 : beat * 8000 + 7600]
        spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note)), 1 << 17))
        peak = np.fft.rfftfreq(1 << 17, 1 / 16_000)[spectrum.argmax()]
        assert abs(1200 * np.log2(peak / (440 * 2 ** ((pitch - 69) / 12)))) < 15


@needs_renderer
def test_beats_a_minute_count_the_beats_of_the_meter() -> None:
    """At 60 beats a minute a bar of 6/8 lasts two seconds; a marimba's attacks are found by their energy."""
    jig = tune("X:1\nT:x\nM:6/8\nL:1/8\nK:C\n" + "c z5|" * 4 + "\n")
    notes = notes_of(jig)
    facts = choose_facts(jig, notes, variant=0, seconds=6, soundfont="x", rng=np.random.default_rng(0))
    marimba = dataclasses.replace(facts, program=12, bpm=60, start=0.0)
    with Renderer() as renderer:
        audio = renderer.clip(notes, marimba, seconds=6)
    energy = np.square(audio).reshape(-1, 160).mean(1)
    attacks = np.flatnonzero(energy > 20 * np.append(0, energy[:-1]) + 1e-6) * 0.01
    np.testing.assert_allclose(attacks[np.diff(attacks, prepend=-1) > 0.2], [0, 2, 4], atol=0.03)


@needs_renderer
def test_a_short_tune_starts_again() -> None:
    short = tune(SCALE)
    notes = notes_of(short)
    facts = choose_facts(short, notes, variant=0, seconds=5, soundfont="x", rng=np.random.default_rng(0))
    fast = dataclasses.replace(facts, program=73, bpm=240, beat=1.0, start=0.0)
    with Renderer() as renderer:
        audio = renderer.clip(notes, fast, seconds=5)
    assert np.sqrt(np.square(audio[-16_000:]).mean()) > 1e-3


@needs_renderer
def test_clips_depend_on_seed_tune_and_variant_alone(corpus: Path) -> None:
    tunes = read_tunes(corpus)[:4]
    with Renderer() as renderer, Renderer() as other:
        first = [render_clip(t, seconds=2, renderer=renderer) for t in tunes]
        again = [render_clip(t, seconds=2, renderer=other) for t in tunes[::-1]][::-1]
        variant = render_clip(tunes[0], seconds=2, renderer=renderer, variant=1)
        seed = render_clip(tunes[0], seconds=2, renderer=renderer, seed=1)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.audio, b.audio)
        assert (a.captions, a.facts) == (b.captions, b.facts)
        assert np.sqrt(np.square(a.audio).mean()) > 1e-3
    assert len({first[0].facts.bpm, variant.facts.bpm, seed.facts.bpm}) > 1


@needs_renderer
@needs_fluidr3
def test_held_out_soundfont_changes_the_sound_only(corpus: Path) -> None:
    t = read_tunes(corpus)[0]
    with Renderer() as a, Renderer(FLUIDR3) as b:
        clip, shifted = render_clip(t, seconds=2, renderer=a), render_clip(t, seconds=2, renderer=b)
    assert clip.captions == shifted.captions
    assert dataclasses.replace(shifted.facts, soundfont=clip.facts.soundfont) == clip.facts
    assert not np.allclose(clip.audio, shifted.audio)
