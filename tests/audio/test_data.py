"""Items, batches and the account of bad samples; training rows of the bad-input table of slap spec §10 (T12)."""

import io
import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from byol_ext.audio.data import (
    AudioTextDataset,
    AudioTextSample,
    BadAudio,
    BadCaption,
    SampleList,
    WebDatasetShards,
    collate,
    write_shards,
)
from byol_ext.audio.waves import fill_clip
from byol_ext.ledger import BadSampleLedger, TooManyBadSamples, read_errors_jsonl, write_errors_jsonl

SR = 8_000


def noise(seconds: float, seed: int = 0, sr: int = SR) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * sr))).astype(np.float32)


def sample(i: int, wave: np.ndarray | None = None, captions=("one", "two", "three"), sr: int = SR) -> AudioTextSample:
    return AudioTextSample(f"s{i}", captions, audio=noise(1.0, i, sr) if wave is None else wave, sr=sr, tags={"i": i})


def dataset(samples, *, train=True, clip_seconds=0.25, **options) -> AudioTextDataset:
    return AudioTextDataset(SampleList(samples), sr=SR, clip_seconds=clip_seconds, train=train, **options)


BAD = {
    "non_finite": sample(90, np.full(SR, np.nan, np.float32)),
    "no_samples": sample(91, np.zeros(0, np.float32)),
    "too_short": sample(92, noise(0.005)),
    "missing": AudioTextSample("s93", ("x",)),
    "unreadable": AudioTextSample("s94", ("x",), blob=b"no audio here"),
    "empty_file": AudioTextSample("s95", ("x",), blob=b""),
    "caption_missing": sample(96, captions=()),
}


class WithBad:
    """Ten samples of which number 3 is bad."""

    def __init__(self, bad: AudioTextSample) -> None:
        self.samples = [sample(i) for i in range(10)]
        self.samples[3] = bad

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> AudioTextSample:
        return self.samples[index]

    def captions(self, index: int) -> tuple[str, ...]:
        return self.samples[index].captions


# Items.


def test_item_of_the_contract():
    item = dataset([sample(0), sample(1)])[1, 4]
    assert (item["id"], item["epoch"], item["key"], item["tags"]) == (1, 4, "s1", {"i": 1})
    assert item["captions"] == ["one", "two", "three"]
    assert item["caption"] in item["captions"]
    assert item["audio"].dtype == np.float32
    assert item["audio"].shape == (2000,)
    assert (item["duration"], item["bad"], item["errors"], item["silent"]) == (1.0, {}, [], False)


def test_training_draws_are_keyed_by_seed_epoch_and_id():
    data = dataset([sample(0), sample(0)])
    again = dataset([sample(0), sample(0)])
    other_seed = dataset([sample(0), sample(0)], seed=1)
    np.testing.assert_array_equal(data[0, 1]["audio"], again[0, 1]["audio"])
    for other in (data[0, 2], data[1, 1], other_seed[0, 1]):
        assert not np.array_equal(data[0, 1]["audio"], other["audio"])
    np.testing.assert_array_equal(data[0]["audio"], data[0, 0]["audio"])
    assert {data[0, epoch]["caption"] for epoch in range(30)} == {"one", "two", "three"}


def test_evaluation_is_deterministic_and_central():
    wave = noise(1.0)
    data = dataset([sample(0, wave)], train=False)
    for epoch in range(3):
        np.testing.assert_array_equal(data[0, epoch]["audio"], wave[3000:5000])
        assert data[0, epoch]["caption"] == "one"
    np.testing.assert_array_equal(dataset([sample(0, wave)], train=False, crop="first")[0]["audio"], wave[:2000])


@settings(max_examples=40, deadline=None)
@given(st.integers(100, 3000), st.integers(0, 5), st.sampled_from(["repeatpad", "pad", "repeat"]))
def test_items_have_the_length_of_the_clip_and_lie_in_the_recording(count, epoch, fill):
    wave = np.linspace(-1, 1, count, dtype=np.float32)
    item = dataset([sample(0, wave)], fill=fill)[0, epoch]
    assert item["audio"].shape == (2000,)
    assert item["duration"] == count / SR
    if count >= 2000:
        first = int(np.searchsorted(wave, item["audio"][0]))
        np.testing.assert_array_equal(item["audio"], wave[first : first + 2000])


@pytest.mark.parametrize("fill", ["repeatpad", "pad", "repeat"])
def test_row_short_audio_is_filled_and_keeps_its_true_duration(fill):
    wave = noise(0.11)
    item = dataset([sample(0, wave)], fill=fill)[0]
    np.testing.assert_array_equal(item["audio"], fill_clip(wave, length=2000, sample_rate=SR, fill=fill))
    assert item["duration"] == 0.11


def test_whole_recordings_without_a_clip_length():
    data = dataset([sample(0, noise(0.7))], train=False, clip_seconds=None)
    assert data[0]["audio"].shape == (5600,)


def test_two_views_draw_two_crops():
    item = dataset([sample(0)], two_views=True)[0, 0]
    assert item["audio_2"].shape == item["audio"].shape
    assert not np.array_equal(item["audio"], item["audio_2"])
    np.testing.assert_array_equal(dataset([sample(0)])[0, 0]["audio"], item["audio"])
    batch = collate([item, item])
    assert batch["audio_2"].shape == (2, 2000)
    assert len(batch["caption_2"]) == 2


def test_captions_are_normalised_and_emptied_ones_dropped():
    data = dataset([sample(0, captions=("A", "b"))], normalize=lambda text: text.lower() if text != "b" else "")
    assert data[0]["captions"] == ["a"]
    assert data.captions(0) == ["a"]
    with pytest.raises(BadCaption):
        dataset([sample(0, captions=("b",))], normalize=lambda text: "", on_bad="raise")[0]


def refuses(text: str) -> str:
    """A normal form that, like ``byol_ext.text.normalize_caption``, raises for a caption without visible letters."""
    if not text.strip("\u200b\x00 "):
        raise ValueError(f"caption is empty ({text!r})")
    return text.strip()


def test_a_caption_that_normalisation_refuses_is_dropped():
    data = dataset([sample(0, captions=("\u200b", " a ", "\x00"))], normalize=refuses, train=False)
    assert data[0]["captions"] == data.captions(0) == ["a"]
    assert data[0]["caption"] == "a"
    assert dataset([sample(0, captions=("\x00",))], normalize=refuses).captions(0) == []


def test_a_sample_whose_captions_are_all_refused_is_bad():
    samples = [sample(0, captions=("\u200b", "\x00")), sample(1)]
    item = dataset(samples, normalize=refuses)[0]
    assert (item["key"], item["bad"]) == ("s1", {"caption_empty": 1})
    reported = dataset(samples, normalize=refuses, train=False)[0]
    assert "audio" not in reported
    assert reported["bad"] == {"caption_empty": 1}
    with pytest.raises(BadCaption, match="caption_empty"):
        dataset(samples, normalize=refuses, on_bad="raise")[0]


def test_row_over_full_scale_is_clipped_only_with_int16():
    loud = 20 * noise(1.0)
    assert np.abs(dataset([sample(0, loud)])[0]["audio"]).max() > 1
    assert np.abs(dataset([sample(0, loud)], int16=True)[0]["audio"]).max() == 1


def test_row_stereo_file_equals_its_mono_copy():
    sf = pytest.importorskip("soundfile", reason="pip install 'byol_ext[slap]'")
    wave, items = noise(1.0), []
    for array in (wave, np.stack([wave, wave], axis=1)):
        buffer = io.BytesIO()
        sf.write(buffer, array, SR, format="WAV", subtype="FLOAT")
        items.append(dataset([AudioTextSample("a", ("x",), blob=buffer.getvalue())])[0, 5]["audio"])
    np.testing.assert_array_equal(*items)


def test_index_out_of_range_and_empty_source():
    data = dataset([sample(0)])
    for index in (1, -1, (7, 0)):
        with pytest.raises(IndexError):
            data[index]
    assert len(list(data)) == 1
    with pytest.raises(ValueError, match="no samples"):
        dataset([])
    with pytest.raises(ValueError, match="clip_seconds"):
        dataset([sample(0)], clip_seconds=0.0)


# Bad samples.


@pytest.mark.parametrize("cause", list(BAD))
def test_row_bad_sample_in_training_is_replaced_and_counted(cause):
    data = AudioTextDataset(WithBad(BAD[cause]), sr=SR, clip_seconds=0.25, train=True)
    item = data[3, 2]
    assert item["bad"] == {cause: 1}
    assert item["errors"][0]["cause"] == cause
    assert item["id"] == 4
    np.testing.assert_array_equal(item["audio"], data[4, 2]["audio"])
    assert data[2]["bad"] == {}


@pytest.mark.parametrize("cause", list(BAD))
def test_row_bad_sample_in_evaluation_is_reported_and_leaves_the_batch_alone(cause):
    data = AudioTextDataset(WithBad(BAD[cause]), sr=SR, clip_seconds=0.25, train=False)
    batch = collate([data[i] for i in range(2, 6)])
    assert batch["ids"].tolist() == [2, 4, 5]
    assert (batch["bad"], batch["seen"]) == ({cause: 1}, 4)
    assert [error["cause"] for error in batch["errors"]] == [cause]
    clean = collate([data[i] for i in (2, 4, 5)])
    assert torch.equal(batch["audio"], clean["audio"])


def test_row_bad_sample_can_raise():
    with pytest.raises(BadAudio, match="non_finite"):
        dataset([BAD["non_finite"]], on_bad="raise")[0]


@pytest.mark.parametrize("wave", [np.zeros(SR, np.float32), np.full(SR, 0.3, np.float32)], ids=["silence", "dc"])
def test_row_silence_is_kept_finite_and_noted_or_dropped(wave):
    kept = dataset([sample(0, wave), sample(1)])[0]
    assert kept["silent"]
    assert np.isfinite(kept["audio"]).all()
    dropped = dataset([sample(0, wave), sample(1)], drop_silent_dbfs=-60.0)[0]
    assert (dropped["bad"], dropped["id"]) == ({"silent": 1}, 1)
    assert dataset([sample(0, wave)], drop_silent_dbfs=-60.0, train=False)[0]["id"] == 0


def test_tries_are_bounded():
    calls = []

    class AllBad(WithBad):
        def __len__(self):
            return 1000

        def __getitem__(self, index):
            calls.append(index)
            return BAD["unreadable"]

    data = AudioTextDataset(AllBad(BAD["missing"]), sr=SR, clip_seconds=0.25, train=True)
    with pytest.raises(TooManyBadSamples, match="50 samples in a row from id 998"):
        data[998]
    assert calls == [998, 999, *range(48)]
    with pytest.raises(TooManyBadSamples, match="2 samples in a row"):
        dataset([BAD["missing"], BAD["silent" if "silent" in BAD else "missing"]])[0]


def test_ledger_logs_each_cause_once_and_writes_errors(tmp_path, caplog):
    data = AudioTextDataset(WithBad(BAD["unreadable"]), sr=SR, clip_seconds=0.25, train=True)
    ledger = BadSampleLedger()
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            ledger.update(collate([data[i, epoch] for i in range(10)]))
    assert [record.message.split(":")[0] for record in caplog.records] == ["bad sample, logged once for unreadable"]
    assert (ledger.seen, dict(ledger.bad)) == (33, {"unreadable": 3})
    ledger.write(tmp_path / "errors.jsonl")
    assert [(entry["key"], entry["cause"]) for entry in read_errors_jsonl(tmp_path)] == [("s94", "unreadable")]
    other = BadSampleLedger()
    other.load_state_dict(ledger.state_dict())
    assert (other.seen, other.bad, other.entries) == (ledger.seen, ledger.bad, ledger.entries)


def bad_batch(*keys: str, cause: str = "silent") -> dict:
    errors = [{"key": key, "cause": cause, "message": f"{key}: {cause}"} for key in keys]
    return {"seen": 100, "bad": {cause: len(keys)}, "errors": errors, "notes": {"silent": 1}}


def test_ledger_logs_a_cause_once_within_a_batch_and_after_a_resume(caplog):
    ledger = BadSampleLedger()
    with caplog.at_level(logging.WARNING):
        ledger.update(bad_batch("a", "b", "c"))
        assert [record.message for record in caplog.records if "logged once for" in record.message] == [
            "bad sample, logged once for silent: a: silent"
        ]
        caplog.clear()
        resumed = BadSampleLedger()
        resumed.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
        resumed.update(bad_batch("d"))
        assert caplog.records == []
        resumed.update(bad_batch("a", "b", cause="missing"))
    assert [record.message.split(":")[0] for record in caplog.records] == ["bad sample, logged once for missing"]
    assert dict(resumed.bad) == {"silent": 4, "missing": 2}


def test_ledger_adds_to_the_errors_of_an_earlier_part_of_the_run(tmp_path):
    path = tmp_path / "errors.jsonl"
    earlier = {"key": "z", "cause": "missing", "message": "z: missing", "shard": "000000.tar"}
    write_errors_jsonl(path, [earlier, {"key": "a", "cause": "silent", "message": "a: silent"}])
    ledger = BadSampleLedger()
    ledger.update(bad_batch("a", "b"))
    ledger.update(bad_batch("z", cause="truncated"))
    for _ in range(2):
        ledger.write(path)
        entries = read_errors_jsonl(path)
        assert entries[0] == earlier
        assert [(entry["key"], entry["cause"]) for entry in entries] == [
            ("z", "missing"),
            ("a", "silent"),
            ("b", "silent"),
            ("z", "truncated"),
        ]
    assert list(tmp_path.iterdir()) == [path]


def test_too_many_bad_samples_stop_the_run_late_in_large_sets_and_at_the_end_in_small_ones():
    batch = {"seen": 10, "bad": {"truncated": 1}, "errors": [{"key": "a", "cause": "truncated", "message": "a: cut"}]}
    ledger = BadSampleLedger()
    for _ in range(9):
        ledger.update(batch)
    with pytest.raises(TooManyBadSamples, match=r"10 of 100 samples are bad \(10.0%, allowed 5.0%\): 10 x truncated"):
        ledger.update(batch)
    small = BadSampleLedger()
    small.update(batch)
    with pytest.raises(TooManyBadSamples, match="a: cut"):
        small.check()
    allowed = BadSampleLedger(max_bad_fraction=0.1)
    for _ in range(20):
        allowed.update(batch)
    allowed.check()


# Batches.


def test_collate():
    data = dataset([sample(i) for i in range(4)])
    batch = collate([data[2, 1], data[0, 1]])
    assert batch["audio"].shape == (2, 2000)
    assert batch["audio"].dtype == torch.float32
    assert batch["ids"].tolist() == [2, 0]
    assert batch["epochs"].tolist() == [1, 1]
    assert batch["ids"].dtype == batch["epochs"].dtype == torch.int64
    assert batch["duration"].tolist() == [1.0, 1.0]
    assert batch["keys"] == ["s2", "s0"]
    assert batch["captions"] == [["one", "two", "three"]] * 2
    assert batch["tags"] == [{"i": 2}, {"i": 0}]
    assert (batch["bad"], batch["errors"], batch["seen"], batch["notes"]) == ({}, [], 2, {"silent": 0})


def test_collate_never_gives_an_empty_tensor_or_unequal_lengths():
    bad = dataset([BAD["non_finite"]], train=False)
    with pytest.raises(ValueError, match="none of the 1 items"):
        collate([bad[0]])
    whole = dataset([sample(0), sample(1, noise(0.5))], train=False, clip_seconds=None)
    with pytest.raises(ValueError, match="set clip_seconds"):
        collate([whole[0], whole[1]])


@pytest.mark.parametrize("workers", [1, 2])
def test_items_do_not_depend_on_workers(tmp_path, workers):
    sources = [sample(i, noise(1.0, i)) for i in range(8)]
    write_shards(sources, tmp_path, sr=SR, shard_size=3)
    data = AudioTextDataset(WebDatasetShards(str(tmp_path / "*.tar")), sr=16_000, clip_seconds=0.25, train=True)
    order = [(i, epoch) for epoch in range(2) for i in (5, 1, 3, 0, 7, 2, 4, 6)]
    alone = [collate([data[index] for index in order[k : k + 4]]) for k in range(0, 16, 4)]
    loader = DataLoader(data, batch_size=4, sampler=order, num_workers=workers, collate_fn=collate)
    for expected, batch in zip(alone, loader, strict=True):
        assert torch.equal(expected["audio"], batch["audio"])
        assert expected["caption"] == batch["caption"]
        assert torch.equal(expected["epochs"], batch["epochs"])


def test_bad_counts_reach_the_main_process_from_workers():
    data = AudioTextDataset(WithBad(BAD["unreadable"]), sr=SR, clip_seconds=0.25, train=True)
    ledger = BadSampleLedger()
    for batch in DataLoader(data, batch_size=5, num_workers=2, collate_fn=collate):
        ledger.update(batch)
    assert (ledger.seen, dict(ledger.bad)) == (11, {"unreadable": 1})


def test_too_many_bad_samples_in_a_worker_keeps_its_type():
    data = dataset([BAD["missing"]])
    with pytest.raises(TooManyBadSamples, match="1 samples in a row"):
        list(DataLoader(data, num_workers=1, collate_fn=collate))
