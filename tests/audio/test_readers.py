"""Manifests, import maps of published sets, Hugging Face data sets; caption rows of the bad-input table."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byol_ext.audio import importers
from byol_ext.audio.decode import BadAudio
from byol_ext.audio.readers import HFAudioText, ManifestDataset, hf_samples, split_captions
from byol_ext.audio.samples import AudioTextSample, BadCaption, SampleList, caption_duplicate_rate, caption_list


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def rows_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


# Manifests.


def test_csv_tsv_and_jsonl_give_the_same_samples(tmp_path):
    rows = [
        {"audio": "x/a.wav", "caption": 'a "loud", bright hum', "split": "train", "start": 1.5, "duration": 2.0},
        {"audio": "b.flac", "caption": "Ein Körper summt", "split": "train", "start": 0.0, "duration": 3.0},
    ]
    header = list(rows[0])
    rows_csv(tmp_path / "m.csv", [header, *([row[name] for name in header] for row in rows)])
    with (tmp_path / "m.tsv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([header, *([row[name] for name in header] for row in rows)])
    write(tmp_path / "m.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n\n")
    read = [ManifestDataset(tmp_path / name, split="train").samples for name in ("m.csv", "m.tsv", "m.jsonl")]
    assert read[0] == read[1] == read[2]
    first = read[0][0]
    assert first.path == tmp_path / "x/a.wav"
    assert (first.captions, first.start, first.duration) == (('a "loud", bright hum',), 1.5, 2.0)


def test_audio_root_split_id_and_tags(tmp_path):
    path = rows_csv(
        tmp_path / "m.csv",
        [
            ["id", "audio", "caption", "split", "instrument"],
            ["7", "a.wav", "a hum", "train", "flute"],
            ["8", "b.wav", "a buzz", "test", ""],
        ],
    )
    data = ManifestDataset(path, audio_root="/music", split="train")
    assert len(data) == 1
    assert (data[0].key, str(data[0].path), data[0].tags) == ("7", "/music/a.wav", {"instrument": "flute"})
    assert len(ManifestDataset(path)) == 2
    with pytest.raises(ValueError, match=r"no row has split 'val'; the splits are \['test', 'train'\]"):
        ManifestDataset(path, split="val")


def test_rows_of_one_recording_are_merged(tmp_path):
    path = rows_csv(tmp_path / "m.csv", [["audio", "caption"], ["a", "one"], ["b", "x"], ["a", "two"], ["a", "one"]])
    data = ManifestDataset(path)
    assert [sample.captions for sample in data.samples] == [("one", "two"), ("x",)]


@pytest.mark.parametrize("cell", ["one|two", "!!one|two", '["one", "two"]'])
def test_captions_column_of_a_table(tmp_path, cell):
    path = rows_csv(tmp_path / "m.csv", [["audio", "captions"], ["a.wav", cell]])
    assert ManifestDataset(path)[0].captions == ("one", "two")
    assert split_captions(cell) == ["one", "two"]


def test_a_caption_column_is_never_split(tmp_path):
    path = rows_csv(tmp_path / "m.csv", [["audio", "caption"], ["a.wav", "rock|pop"]])
    assert ManifestDataset(path)[0].captions == ("rock|pop",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "", "empty file"),
        ("m.csv", "audio,captoin\na.wav,x\n", r"m\.csv:2: expected one of the fields 'caption'"),
        ("m.csv", "file,caption\na.wav,x\n", r"m\.csv:2: field 'audio' is missing"),
        ("m.csv", "audoi,caption\na.wav,x\n", "did you mean 'audoi'"),
        ("m.csv", "audio,caption\na.wav,x\n,y\n", r"m\.csv:3: field 'audio': got ''"),
        ("m.csv", "audio,caption\na.wav,x, y\n", r"m\.csv:2: 3 fields, the header .* has 2"),
        ("m.csv", "audio,caption,start\na.wav,x,soon\n", r"m\.csv:2: field 'start': got 'soon'"),
        ("m.csv", "audio,caption,start\na.wav,x,-1\n", "field 'start': got '-1', expected seconds at least 0"),
        ("m.csv", "audio,caption,duration\na.wav,x,0\n", "field 'duration'.*greater than 0"),
        ("m.csv", "audio,caption,duration\na.wav,x,nan\n", "field 'duration'"),
        ("m.csv", "audio,audio,caption\na,b,c\n", "names a field twice"),
        ("m.csv", 'audio,caption\na.wav,"x\n', "m.csv:2: unexpected end of data"),
        ("m.csv", "id,audio,caption\n1,a.wav,x\n1,b.wav,y\n", r"m\.csv:3: field 'id': '1' names another recording"),
        ("m.csv", "audio,caption,captions\na,b,c\n", "one of the fields 'caption' and 'captions'"),
        ("m.jsonl", '{"audio": "a", "caption": "x"}\n{"audio": \n', r"m\.jsonl:2: not JSON"),
        ("m.jsonl", "[1]\n", r"m\.jsonl:1: got list"),
        ("m.jsonl", '{"audio": 3, "caption": "x"}\n', "field 'audio': got 3"),
        ("m.txt", "audio,caption\n", "a manifest is .csv, .tsv or .jsonl"),
    ],
)
def test_malformed_manifests_name_file_row_and_field(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        ManifestDataset(write(tmp_path / name, text))


def test_manifest_that_is_not_utf8(tmp_path):
    (tmp_path / "m.csv").write_bytes("audio,caption\na,é\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        ManifestDataset(tmp_path / "m.csv")


def test_missing_split_column_is_an_error_only_when_a_split_is_wanted(tmp_path):
    path = write(tmp_path / "m.csv", "audio,caption\na.wav,x\n")
    assert len(ManifestDataset(path)) == 1
    with pytest.raises(ValueError, match=r"m\.csv:2: field 'split' is missing"):
        ManifestDataset(path, split="train")


# Row: empty/whitespace/None caption, empty list, non-string.


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("", "caption_empty"),
        ("   ", "caption_empty"),
        (None, "caption_missing"),
        ([], "caption_missing"),
        ([None], "caption_missing"),
        (["", " "], "caption_empty"),
        (3, "caption_not_text"),
        ([1, 2], "caption_not_text"),
        (float("nan"), "caption_missing"),
    ],
)
def test_row_unusable_captions_drop_the_row_and_are_counted(tmp_path, value, cause):
    rows = [{"audio": "a.wav", "captions": value}, {"audio": "b.wav", "captions": ["fine", None, ""]}]
    path = write(tmp_path / "m.jsonl", "\n".join(json.dumps(row) for row in rows))
    data = ManifestDataset(path)
    assert [sample.captions for sample in data.samples] == [("fine",)]
    assert data.dropped == {cause: 1}
    assert caption_list(value) == ((), cause)


# Row: duplicates: keep, but report the duplicate rate.


def test_row_duplicate_captions_are_kept_and_reported():
    samples = [AudioTextSample(str(i), captions) for i, captions in enumerate([("A hum", "x"), ("a HUM",), ("y", "y")])]
    assert caption_duplicate_rate(SampleList(samples)) == pytest.approx(2 / 4)
    assert caption_duplicate_rate(SampleList([])) == 0.0


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(texts.filter(str.strip), texts), min_size=1, max_size=8))
def test_csv_round_trip_keeps_every_usable_caption(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("m") / "m.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["audio", "caption", "id"], *([f"{i}.wav", c, i] for i, (_, c) in enumerate(rows))])
    data = ManifestDataset(path)
    expected = [caption.strip() for _, caption in rows if caption.strip()]
    assert [caption for sample in data.samples for caption in sample.captions] == expected
    assert sum(data.dropped.values()) == len(rows) - len(expected)


@settings(max_examples=60, deadline=None)
@given(start=st.floats(0, 1e6), duration=st.floats(1e-6, 1e6), caption=texts)
def test_jsonl_round_trip(tmp_path_factory, start, duration, caption):
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    row = {"audio": "a.wav", "caption": caption, "start": start, "duration": duration}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    data = ManifestDataset(path)
    assert len(data) == bool(caption.strip())
    if len(data):
        assert (data[0].start, data[0].duration, data[0].captions) == (start, duration, (caption.strip(),))


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=80), suffix=st.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_any_bytes_give_samples_or_a_value_error(tmp_path_factory, data, suffix):
    path = tmp_path_factory.mktemp("m") / f"m{suffix}"
    path.write_bytes(data)
    message = str(path)
    try:
        ManifestDataset(path)
    except ValueError as error:
        message = str(error)
    assert str(path) in message


# Import maps.


def test_slap_csv(tmp_path):
    path = write(
        tmp_path / "s.csv", "npy_path,caption,set\nx/a.npy,!!one|two,train\nb.npy,one|two,test\nc.npy,,train\n"
    )
    data = importers.slap_csv(path, audio_root="/r", suffix=".mp3")
    assert [sample.captions for sample in data.samples] == [("one", "two"), ("one|two",)]
    assert str(data[0].path) == "/r/x/a.mp3"
    assert data.dropped == {"caption_empty": 1}
    assert [sample.key for sample in importers.slap_csv(path, audio_root="/r", split="test").samples] == ["b.npy"]


def test_slap_csv_over_arrays_needs_their_rate(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(1600, np.float32))
    path = write(tmp_path / "s.csv", "npy_path,caption,set\na.npy,one,train\n")
    with_rate = importers.slap_csv(path, audio_root=tmp_path, array_rate=16_000)
    assert with_rate[0].clip(sr=16_000, n=None).duration == 0.1
    with pytest.raises(BadAudio, match="no_rate"):
        importers.slap_csv(path, audio_root=tmp_path)[0].clip(sr=16_000, n=None)
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(BadAudio, match="unreadable"):
        with_rate[0].clip(sr=16_000, n=None)


def test_muscall_json(tmp_path):
    items = [{"audio_id": 5, "caption": "a hum", "audio_path": "a.mp3", "genre": "folk"}]
    path = write(tmp_path / "m.json", json.dumps(items))
    sample = importers.muscall_json(path, audio_root="/r", split="train")[0]
    assert (sample.key, sample.captions, sample.tags, sample.split) == ("5", ("a hum",), {"genre": "folk"}, "train")
    with pytest.raises(ValueError, match=r"m\.json\[0\]: field 'audio_path' is missing"):
        importers.muscall_json(write(path, '[{"caption": "a"}]'), audio_root="/r")
    with pytest.raises(ValueError, match="expected a list"):
        importers.muscall_json(write(path, "{}"), audio_root="/r")


def test_musiccaps_csv(tmp_path):
    header = (
        "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval"
    )
    path = write(
        tmp_path / "mc.csv",
        f"{header}\n"
        "-0Gj8,30,40,\"/m/0,/m/1\",\"['slow', 'calm']\",A slow tune.,4,False,True\n"
        "abc,0,10,/m/2,[],Fast.,1,False,False\n",
    )
    data = importers.musiccaps_csv(path, audio_root=tmp_path, cut=False, file_template="{ytid}.m4a")
    first = data[0]
    assert (first.key, first.start, first.duration, first.split) == ("-0Gj8", 30.0, 10.0, "test")
    assert first.tags["aspects"] == ["slow", "calm"]
    assert first.path == tmp_path / "-0Gj8.m4a"
    cut = importers.musiccaps_csv(path, audio_root=tmp_path, split="train")
    assert [(sample.key, sample.start, sample.duration) for sample in cut.samples] == [("abc", 0.0, None)]
    (tmp_path / "abc.wav").touch()
    present = importers.musiccaps_csv(path, audio_root=tmp_path, drop_missing=True)
    assert ([sample.key for sample in present.samples], present.dropped) == (["abc"], {"missing": 1})
    with pytest.raises(ValueError, match="file_template"):
        importers.musiccaps_csv(path, audio_root=tmp_path, file_template="{nothing}")


def test_song_describer_csv(tmp_path):
    header = "caption_id,track_id,caption,is_valid_subset,familiarity,artist_id,album_id,path,duration"
    path = write(
        tmp_path / "sd.csv",
        f"{header}\n1,9,one,True,0,artist_1,album_1,53/9.mp3,200\n2,9,two,False,1,artist_1,album_1,53/9.mp3,200\n",
    )
    data = importers.song_describer_csv(path, audio_root="/r")
    assert len(data) == 1
    assert (data[0].captions, str(data[0].path), data[0].split) == (("one", "two"), "/r/53/9.2min.mp3", "test")
    assert importers.song_describer_csv(path, audio_root="/r", valid_only=True)[0].captions == ("one",)


def test_clotho_csv(tmp_path):
    header = "file_name," + ",".join(f"caption_{i}" for i in range(1, 6))
    path = write(tmp_path / "clotho_captions_evaluation.csv", f"{header}\na b.wav,one,two,three,four,five\n")
    sample = importers.clotho_csv(path, audio_root="/r")[0]
    assert (sample.captions, sample.split) == (("one", "two", "three", "four", "five"), "test")
    with pytest.raises(ValueError, match="caption_5"):
        importers.clotho_csv(
            write(path, "file_name,caption_1,caption_2,caption_3,caption_4\na,b,c,d,e\n"), audio_root="/"
        )


# Hugging Face data sets, made in memory.


def wav_bytes(value: float) -> bytes:
    sf = pytest.importorskip("soundfile", reason="pip install 'byol_ext[slap]'")
    buffer = io.BytesIO()
    sf.write(buffer, np.full(1600, value, np.float32), 16_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@pytest.fixture
def hf_rows():
    datasets = pytest.importorskip("datasets", reason="pip install 'byol_ext[slap]'")
    audio = [{"bytes": wav_bytes(0.1 * i), "path": f"{i}.wav"} for i in range(3)]
    rows = {"audio": audio, "caption": ["zero", "one", ""], "name": ["a", "b", "c"], "key": ["C", "D", "E"]}
    return datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))


def test_hf_dataset_in_memory(hf_rows):
    data = HFAudioText(hf_rows, key="name", split="train")
    assert len(data) == 3
    sample = data[1]
    assert (sample.key, sample.captions, sample.split, sample.tags) == ("b", ("one",), "train", {"key": "D"})
    np.testing.assert_allclose(sample.clip(sr=16_000, n=None).wave_S, 0.1, atol=1e-7)
    assert list(data.captions(1)) == ["one"]
    assert list(data.captions(2)) == []
    with pytest.raises(BadCaption, match="caption_empty"):
        data[2]
    with pytest.raises(ValueError, match="no column 'text'"):
        HFAudioText(hf_rows, caption="text")


def test_hf_audio_feature_that_would_decode_is_switched_off(hf_rows):
    import datasets

    features = datasets.Features({**hf_rows.features, "audio": datasets.Audio(sampling_rate=8_000)})
    decoding = hf_rows.cast(features)
    assert isinstance(decoding.features["audio"], datasets.Audio)
    assert decoding.features["audio"].decode
    assert HFAudioText(decoding)[0].clip(sr=16_000, n=None).duration == 0.1


def test_hf_arrays_and_paths(tmp_path):
    datasets = pytest.importorskip("datasets", reason="pip install 'byol_ext[slap]'")
    (tmp_path / "a.wav").write_bytes(wav_bytes(0.3))
    arrays = datasets.Dataset.from_dict(
        {"audio": [{"array": [0.5] * 800, "sampling_rate": 8_000}], "caption": [["one", "two"]]}
    )
    assert HFAudioText(arrays)[0].clip(sr=8_000, n=None).duration == 0.1
    assert HFAudioText(arrays)[0].captions == ("one", "two")
    paths = datasets.Dataset.from_dict({"audio": [str(tmp_path / "a.wav")], "caption": ["x"]})
    assert HFAudioText(paths)[0].clip(sr=16_000, n=None).duration == 0.1
    no_rate = datasets.Dataset.from_dict({"audio": [{"array": [0.5] * 800, "sampling_rate": None}], "caption": ["x"]})
    with pytest.raises(BadAudio, match="no_rate"):
        HFAudioText(no_rate)[0]


def test_hf_streaming(hf_rows):
    samples = list(hf_samples(hf_rows.to_iterable_dataset(), key="name"))
    assert [sample.key for sample in samples] == ["a", "b", "c"]
    assert samples[2].captions == ()
    assert samples[0].clip(sr=16_000, n=None).duration == 0.1


# Samples.


def test_sample_array_without_rate_is_an_error():
    with pytest.raises(ValueError, match="needs its sample rate"):
        AudioTextSample("a", ("x",), audio=np.ones(10, np.float32))
    with pytest.raises(ValueError, match="one of audio, path and blob"):
        AudioTextSample("a", ("x",), audio=np.ones(10, np.float32), sr=8000, blob=b"")


def test_sample_without_audio_cannot_be_decoded():
    with pytest.raises(BadAudio, match="missing"):
        AudioTextSample("a", ("x",)).clip(sr=8000, n=10)
