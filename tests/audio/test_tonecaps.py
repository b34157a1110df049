"""ToneCaps: the split, the captions, determinism, and that its factors can be heard."""

import itertools
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from byol_ext.audio.data import WebDatasetShards, caption_duplicate_rate, collate, write_shards
from byol_ext.audio.tonecaps import (
    CAPTIONS,
    SAMPLE_RATE,
    WORDS,
    ToneCaps,
    ToneCapsSource,
    class_prompts,
    combinations,
    describes,
    render,
)


def test_splits_are_disjoint_and_every_pair_of_values_is_heard_in_training():
    splits = {split: set(combinations(split)) for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in splits.items()} == {"train": 135, "val": 27, "test": 54}
    assert set.union(*splits.values()) == set(combinations())
    assert sum(map(len, splits.values())) == len(combinations()) == 216
    for (i, first), (j, second) in itertools.combinations(enumerate(WORDS.values()), 2):
        heard = {(combination[i], combination[j]) for combination in splits["train"]}
        assert heard == set(itertools.product(first, second))


def test_test_split_is_balanced():
    for position, values in enumerate(WORDS.values()):
        counts = [sum(c[position] == value for c in combinations("test")) for value in values]
        assert max(counts) - min(counts) <= 2


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_captions_name_their_combination_and_no_other(split):
    source = ToneCapsSource(split)
    for i in range(len(source)):
        captions = source.captions(i)
        assert len(set(captions)) == CAPTIONS
        assert {describes(caption) for caption in captions} == {source.combinations[i % len(source.combinations)]}


def test_evaluation_pairs_have_no_false_negatives():
    source = ToneCapsSource("test")
    assert len(source) == 54
    assert caption_duplicate_rate(source) == 0.0
    described = [describes(source.captions(i)[0]) for i in range(len(source))]
    assert len(set(described)) == 54
    assert describes("a dog barks") is None


def test_item_of_the_contract():
    data = ToneCaps("train", clips_per_combination=2)
    item = data[140, 1]
    assert len(data) == 270
    assert item["audio"].shape == (data.clip_samples,)
    assert item["audio"].dtype == np.float32
    assert (item["id"], item["key"], item["duration"], item["bad"]) == (140, "train-00140", 1.5, {})
    assert tuple(item["tags"]) == tuple(WORDS)
    assert tuple(item["tags"].values()) == describes(item["caption"])
    assert {data[140, epoch]["caption"] for epoch in range(30)} == set(item["captions"])
    assert ToneCaps("test")[3, 5]["caption"] == ToneCaps("test")[3]["captions"][0] == ToneCaps("test").captions(3)[0]


def test_items_depend_on_seed_split_and_id_alone():
    forwards, backwards = ToneCapsSource("test"), ToneCaps("test", cache=False)
    for i in reversed(range(54)):
        np.testing.assert_array_equal(backwards[i]["audio"], forwards[i].audio)
        assert tuple(backwards[i]["captions"]) == forwards[i].captions == forwards.captions(i)
    assert not np.array_equal(forwards[0].audio, ToneCapsSource("test", seed=1)[0].audio)
    more = ToneCapsSource("test", clips_per_combination=2)
    np.testing.assert_array_equal(more[5].audio, forwards[5].audio)
    assert not np.array_equal(more[5 + 54].audio, more[5].audio)
    assert more[5 + 54].tags == more[5].tags


@pytest.mark.parametrize("cache", [False, True])
def test_items_do_not_depend_on_workers(cache):
    order = [(i, epoch) for epoch in range(2) for i in (3, 50, 7, 11)]

    def batches(workers):
        data = ToneCaps("test", train=True, cache=cache)
        return list(DataLoader(data, batch_size=4, sampler=order, num_workers=workers, collate_fn=collate))

    for alone, shared in zip(batches(0), batches(2), strict=True):
        assert torch.equal(alone["audio"], shared["audio"])
        assert alone["caption"] == shared["caption"]


def test_clips_are_audible_and_within_full_scale():
    for combination in combinations():
        wave = render(combination, np.random.default_rng(1))
        assert np.abs(wave).max() <= 1.0
        assert wave.std() > 0.01


def dominant(wave: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(wave.size)))
    return float(np.argmax(spectrum) * SAMPLE_RATE / wave.size)


def test_factors_can_be_heard():
    rng = np.random.default_rng(0)
    hertz = {
        register: [dominant(render(("sine", register, "slow", "gated", "clean"), rng)) for _ in range(20)]
        for register in WORDS["register"]
    }
    assert max(hertz["low"]) < min(hertz["mid"]) < max(hertz["mid"]) < min(hertz["high"])
    for tempo, pulses in (("slow", 2), ("medium", 4), ("fast", 8)):
        loud = render(("sine", "high", tempo, "gated", "clean"), rng).reshape(-1, 80).std(axis=1)
        spectrum = np.abs(np.fft.rfft(loud - loud.mean(), 16 * loud.size))
        assert np.argmax(spectrum) * SAMPLE_RATE / 80 / (16 * loud.size) == pytest.approx(pulses, rel=0.2)
    quiet = [
        render(("sine", "low", "slow", "gated", noise), rng).reshape(-1, 80).std(axis=1).min()
        for noise in ("clean", "noisy")
    ]
    assert quiet[1] > 20 * quiet[0]
    peaks = []
    for waveform in WORDS["waveform"]:
        wave = render((waveform, "low", "slow", "gated", "clean"), np.random.default_rng(3))
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(wave.size)))
        peaks.append(spectrum[np.fft.rfftfreq(wave.size, 1 / SAMPLE_RATE) > 190].max() / spectrum.max())
    assert peaks[0] < peaks[1] < peaks[2] < peaks[3]


def test_training_set_is_generated_in_seconds():
    source = ToneCapsSource("train")
    start = time.process_time()
    for i in range(0, len(source), 10):
        assert source[i].audio is not None
    assert 10 * (time.process_time() - start) < 10


def test_class_prompts():
    prompts = class_prompts("noise")
    assert list(prompts) == ["clean", "noisy"]
    assert "a tone with hiss" in prompts["noisy"]
    for factor in WORDS:
        found = [text for texts in class_prompts(factor).values() for text in texts]
        assert len(found) == len(set(found))
    with pytest.raises(ValueError, match="factor"):
        class_prompts("colour")


def test_wrong_arguments():
    with pytest.raises(ValueError, match="split"):
        ToneCaps("dev")
    with pytest.raises(ValueError, match="clips_per_combination"):
        ToneCapsSource("test", clips_per_combination=0)
    with pytest.raises(IndexError):
        ToneCapsSource("test")[54]


def test_tonecaps_can_be_packed_and_read_back(tmp_path):
    pytest.importorskip("soundfile", reason="pip install 'byol_ext[slap]'")
    source = ToneCapsSource("test")
    report = write_shards(source, tmp_path, sr=SAMPLE_RATE, shard_size=32)
    assert (len(report.shards), report.written) == (2, 54)
    read = WebDatasetShards(str(tmp_path / "*.tar"))
    assert (read[40].key, read[40].captions, read[40].tags) == (source[40].key, source[40].captions, source[40].tags)
    np.testing.assert_allclose(read[40].clip(sr=SAMPLE_RATE, n=None).wave_S, source[40].audio, atol=1e-4)
