"""Mel front-end against Hugging Face's, SpecAugment, and the functions on single waveforms."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from byol_ext.audio.transforms import (
    LogMel,
    MelConfig,
    SpecAugment,
    Windows,
    cut_windows,
    fill_clip,
    fit_clip,
    laion_mel,
    pool_windows,
    resample,
    small_mel,
    to_mono,
)
from byol_ext.rng import sample_generator, sample_keys

RATE = 48_000


def signal(name: str, seconds: float = 10.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    phase = {
        "tone": 440.0 * t,
        "high tone": 9000.7 * t,
        "chirp": 50.0 * t + 0.5 * (14_000 - 50.0) / seconds * t**2,
        "quiet tone": 1003.7 * t,
    }
    if name == "noise":
        wave = np.random.default_rng(0).normal(size=t.size) * 0.1
    elif name == "silence":
        wave = np.zeros(t.size)
    else:
        wave = (1e-4 if name == "quiet tone" else 0.5) * np.sin(2 * np.pi * phase[name])
    return wave.astype(np.float32)


def hf_mel(wave: np.ndarray, bank: str) -> np.ndarray:
    from transformers import ClapFeatureExtractor

    extractor = ClapFeatureExtractor(frequency_min=50, frequency_max=14_000)
    truncation = "rand_trunc" if bank == "slaney" else "fusion"
    out = extractor(wave, truncation=truncation, padding="repeatpad", sampling_rate=RATE, return_tensors="np")
    return out["input_features"][0][0]


@pytest.mark.parametrize("bank", ["slaney", "htk"])
@pytest.mark.parametrize("name", ["tone", "high tone", "quiet tone", "chirp", "noise", "silence"])
def test_mel_equals_hf_clap_extractor(bank: str, name: str) -> None:
    wave = signal(name)
    mel = LogMel(laion_mel(bank))(torch.from_numpy(wave)[None])
    assert mel.shape == (1, 1, 1001, 64)
    assert mel.dtype == torch.float32
    np.testing.assert_allclose(mel[0, 0].numpy(), hf_mel(wave, bank), rtol=0, atol=1e-3)


def test_the_two_banks_differ() -> None:
    wave = torch.from_numpy(signal("noise", 1.0))[None]
    assert (LogMel(laion_mel("slaney"))(wave) - LogMel(laion_mel("htk"))(wave)).abs().max() > 5


def test_short_clip_with_repeatpad_equals_hf() -> None:
    wave = signal("noise", 3.0)
    filled = fill_clip(wave, length=10 * RATE, sample_rate=RATE, fill="repeatpad")
    mel = LogMel(laion_mel())(torch.from_numpy(filled)[None])
    np.testing.assert_allclose(mel[0, 0].numpy(), hf_mel(wave, "slaney"), rtol=0, atol=1e-3)


@pytest.mark.parametrize("bank", ["slaney", "htk"])
def test_bank_equals_torchaudio(bank: str) -> None:
    torchaudio = pytest.importorskip("torchaudio")
    ours = LogMel(laion_mel(bank))._constants[torch.device("cpu")][1]
    norm = "slaney" if bank == "slaney" else None
    theirs = torchaudio.functional.melscale_fbanks(513, 50.0, 14_000.0, 64, RATE, norm=norm, mel_scale=bank)
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=2e-4 * float(theirs.max()))


def test_small_front_end_has_no_empty_bin_and_100_frames_a_second() -> None:
    mel = LogMel(small_mel())
    assert (mel._constants[torch.device("cpu")][1].sum(dim=0) > 0).all()
    assert mel(torch.zeros(1, 16_000)).shape == (1, 1, small_mel().frames(16_000), 64) == (1, 1, 101, 64)


def test_ten_times_the_amplitude_is_20_decibel() -> None:
    wave = torch.from_numpy(signal("noise", 0.5))[None]
    mel = LogMel(laion_mel())
    torch.testing.assert_close(mel(10 * wave), mel(wave) + 20, rtol=0, atol=1e-4)


def test_mean_and_std_are_applied_in_decibel() -> None:
    wave = torch.from_numpy(signal("noise", 0.5))[None]
    plain = LogMel(MelConfig())(wave)
    torch.testing.assert_close(LogMel(MelConfig(mean=-30.0, std=15.0))(wave), (plain + 30) / 15)


def test_float32_precision_is_close_on_noise() -> None:
    wave = torch.from_numpy(signal("noise", 1.0))[None]
    torch.testing.assert_close(
        LogMel(MelConfig(precision="float32"))(wave), LogMel(MelConfig())(wave), rtol=0, atol=1e-3
    )


def test_autocast_and_casting_do_not_touch_the_front_end() -> None:
    wave = torch.from_numpy(signal("tone", 0.5))[None]
    mel = LogMel(laion_mel())
    reference = mel(wave)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mel(wave), reference)
    assert torch.equal(mel.to(torch.bfloat16)(wave), reference)


def test_mel_of_a_clip_does_not_depend_on_its_batch() -> None:
    waves = torch.from_numpy(np.stack([signal(n, 1.0) for n in ("tone", "noise", "chirp", "silence")]))
    mel = LogMel(laion_mel())
    whole = mel(waves)
    torch.testing.assert_close(torch.cat([mel(wave[None]) for wave in waves]), whole, rtol=0, atol=1e-5)


def test_hash_names_every_field() -> None:
    changes = {
        "sample_rate": 44_100,
        "n_fft": 2048,
        "win": 512,
        "hop": 320,
        "n_mels": 128,
        "fmin": 0.0,
        "fmax": 13_000.0,
        "bank": "htk",
        "amin": 1e-8,
        "precision": "float32",
    }
    hashes = {MelConfig().hash(), MelConfig(mean=0.0, std=2.0).hash(), MelConfig(mean=1.0, std=2.0).hash()}
    hashes |= {dataclasses.replace(MelConfig(), **{key: value}).hash() for key, value in changes.items()}
    assert len(hashes) == 3 + len(changes)
    assert {*changes, "mean", "std"} == {field.name for field in dataclasses.fields(MelConfig)}
    assert laion_mel().hash() == MelConfig().hash()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bank": "librosa"}, "slaney"),
        ({"precision": "float16"}, "float64"),
        ({"fmax": 25_000.0}, "sample_rate / 2"),
        ({"fmin": 15_000.0}, "fmin < fmax"),
        ({"win": 2048}, "win <= n_fft"),
        ({"hop": 0}, "hop >= 1"),
        ({"amin": 0.0}, "amin > 0"),
        ({"mean": 1.0}, "together"),
        ({"mean": 1.0, "std": 0.0}, "std > 0"),
    ],
)
def test_bad_mel_configs(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MelConfig(**options)


def test_bad_waveforms() -> None:
    mel = LogMel(laion_mel())
    with pytest.raises(ValueError, match="too short"):
        mel(torch.zeros(1, 512))
    with pytest.raises(ValueError, match="mono"):
        mel(torch.zeros(2, 1, 48_000))
    with pytest.raises(TypeError, match="32768"):
        mel(torch.zeros(1, 48_000, dtype=torch.int16))


# SpecAugment


def masked(keys: Tensor, frames: int = 1001, bins: int = 64) -> tuple[Tensor, Tensor]:
    """Hidden frames [B, T] and hidden bins [B, F], read off a marked spectrogram."""
    hidden = SpecAugment(fill=-1.0)(torch.ones(len(keys), 1, frames, bins), keys_B=keys)[:, 0] < 0
    return hidden.all(dim=2), hidden.all(dim=1)


def test_spec_augment_does_not_depend_on_the_split() -> None:
    keys = sample_keys(3, 1, torch.arange(8))
    mel = torch.randn(8, 1, 1001, 64, generator=torch.Generator().manual_seed(0))
    augment = SpecAugment()
    whole = augment(mel, keys_B=keys)
    parts = [augment(mel[rows], keys_B=keys[rows]) for rows in (slice(0, 1), slice(1, 6), slice(6, 8))]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(augment(mel[[5, 2]], keys_B=keys[[5, 2]]), whole[[5, 2]])


def test_spec_augment_differs_between_epochs_and_samples() -> None:
    ids = torch.arange(16)
    first, second = masked(sample_keys(0, 0, ids))[0], masked(sample_keys(0, 1, ids))[0]
    assert not torch.equal(first, second)
    assert len({tuple(row.tolist()) for row in first}) > 12


def test_spec_augment_bounds_and_distribution() -> None:
    keys = sample_keys(0, 0, torch.arange(2000))
    frames, bins = masked(keys, frames=200)
    assert frames.sum(1).max() <= 128
    assert bins.sum(1).max() <= 16
    for mask in (frames, bins):
        starts = mask.int().diff(dim=1, prepend=torch.zeros(len(mask), 1, dtype=torch.int))
        assert (starts == 1).sum(1).max() == 2
        assert mask[:, 0].any()
        assert mask[:, -1].any()
    # one stripe alone has the uniform width 0..64: mean 32
    one = SpecAugment(time_stripes=1, freq_stripes=0, fill=-1.0)(torch.ones(2000, 1, 200, 4), keys_B=keys)
    width = (one[:, 0, :, 0] < 0).sum(1).float()
    assert width.min() == 0
    assert width.max() == 64
    assert abs(width.mean() - 32) < 1.5


def test_spec_augment_hides_whole_stripes_only_and_fills_with_the_clip_mean() -> None:
    mel = torch.randn(4, 1, 300, 64, generator=torch.Generator().manual_seed(0)) * 10 - 40
    keys = sample_keys(0, 0, torch.arange(4))
    out = SpecAugment()(mel, keys_B=keys)
    frames, bins = masked(keys, frames=300)
    hidden = (frames[:, :, None] | bins[:, None, :])[:, None]
    expected = torch.where(hidden, mel.mean((1, 2, 3), keepdim=True), mel)
    torch.testing.assert_close(out, expected)


def test_spec_augment_is_the_identity_in_eval_mode() -> None:
    mel = torch.randn(2, 1, 300, 64)
    assert torch.equal(SpecAugment().eval()(mel, keys_B=torch.arange(2)), mel)


def test_spec_augment_errors() -> None:
    with pytest.raises(ValueError, match="lower the stripe width"):
        SpecAugment()(torch.zeros(1, 1, 100, 64), keys_B=torch.arange(1))
    with pytest.raises(ValueError, match="one key a sample"):
        SpecAugment()(torch.zeros(2, 1, 1001, 64), keys_B=torch.arange(3))
    with pytest.raises(ValueError, match="'mean' or a number"):
        SpecAugment(fill="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=">= 0"):
        SpecAugment(time_width=-1)


# Single waveforms


def test_fill_policies_by_hand() -> None:
    wave = np.arange(1, 4, dtype=np.float32)

    def fill(policy: str) -> list[float]:
        return fill_clip(wave, length=8, sample_rate=100, fill=policy).tolist()  # type: ignore[arg-type]

    assert fill("repeatpad") == [1, 2, 3, 1, 2, 3, 0, 0]
    assert fill("pad") == [1, 2, 3, 0, 0, 0, 0, 0]
    assert fill("repeat") == [1, 2, 3, 1, 2, 3, 1, 2]
    assert fill_clip(wave, length=3, sample_rate=100).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("samples", "fill", "message"),
    [(0, "pad", "10 ms"), (479, "repeat", "10 ms"), (481_000, "pad", "crop it"), (1000, "mirror", "repeatpad")],
)
def test_fill_errors(samples: int, fill: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fill_clip(np.zeros(samples, np.float32), length=480_000, sample_rate=RATE, fill=fill)  # type: ignore[arg-type]


def test_ten_milliseconds_are_enough() -> None:
    filled = fill_clip(np.ones(480, np.float32), length=RATE, sample_rate=RATE)
    assert filled.shape == (RATE,)
    assert filled.dtype == np.float32
    assert torch.isfinite(LogMel(laion_mel())(torch.from_numpy(filled)[None])).all()


def test_crops() -> None:
    wave = np.arange(1000, dtype=np.float32)
    crop = {"length": 100, "sample_rate": 1000}
    assert fit_clip(wave, **crop)[0] == 450
    assert fit_clip(wave, at="first", **crop)[0] == 0
    drawn = [fit_clip(wave, generator=sample_generator(0, 0, i), **crop) for i in range(200)]
    again = [fit_clip(wave, generator=sample_generator(0, 0, i), **crop) for i in range(200)]
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    starts = [int(clip[0]) for clip in drawn]
    assert all(np.array_equal(clip, wave[s : s + 100]) for clip, s in zip(drawn, starts, strict=True))
    assert min(starts) < 50
    assert max(starts) > 850
    assert fit_clip(wave, generator=sample_generator(0, 0, 0), length=1000, sample_rate=1000).shape == (1000,)


def test_to_mono_averages_and_never_flattens() -> None:
    stereo = np.array([[1.0, 3.0], [0.0, -2.0], [0.5, 0.5]])
    assert to_mono(stereo).tolist() == [2.0, -1.0, 0.5]
    assert to_mono(stereo.T, channel_axis=0).tolist() == [2.0, -1.0, 0.5]
    mono = np.ones(5, np.float32)
    assert to_mono(mono) is mono
    copied = np.stack([signal("noise", 0.1)] * 6, axis=1)
    np.testing.assert_array_equal(to_mono(copied), signal("noise", 0.1))
    with pytest.raises(ValueError, match="channel_axis"):
        to_mono(np.zeros((2, 48_000)))
    with pytest.raises(ValueError, match="1-64 channels"):
        to_mono(np.zeros((48_000, 0)))
    with pytest.raises(ValueError, match=r"expected \[S\]"):
        to_mono(np.zeros((2, 3, 4)))
    with pytest.raises(TypeError, match="int16"):
        to_mono(np.zeros((100, 2), np.int16))


def test_resample_keeps_frequency_level_and_duration() -> None:
    pytest.importorskip("soxr")
    wave = np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100).astype(np.float32)
    out = resample(wave, rate_in=44_100, rate_out=RATE)
    assert out.shape == (RATE,)
    assert out.dtype == np.float32
    expected = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(out[2000:-2000], expected[2000:-2000], atol=1e-3)
    assert resample(wave, rate_in=44_100, rate_out=44_100) is wave
    with pytest.raises(ValueError, match="positive"):
        resample(wave, rate_in=0, rate_out=RATE)


def test_resample_without_soxr_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(ImportError, match=r"byol_ext\[slap\]"):
        resample(np.zeros(100, np.float32), rate_in=8000, rate_out=16_000)


# Windows


@given(samples=st.integers(1, 3000), length=st.integers(1, 400))
@settings(deadline=None, max_examples=200)
def test_grid_covers_the_file_with_the_fewest_windows(samples: int, length: int) -> None:
    starts = Windows("grid").starts(samples, length=length)
    heard = {sample for start in starts for sample in range(start, start + length)}
    assert heard >= set(range(samples))
    assert len(starts) == max(1, -(-samples // length))
    assert all(0 <= start <= max(0, samples - length) for start in starts)


@given(samples=st.integers(1, 2000), length=st.integers(10, 300), hop=st.integers(1, 10))
@settings(deadline=None, max_examples=100)
def test_all_covers_the_file_when_the_hop_is_at_most_a_window(samples: int, length: int, hop: int) -> None:
    starts = Windows("all", hop=hop / 10).starts(samples, length=length, sample_rate=10)
    assert {s for start in starts for s in range(start, start + length)} >= set(range(samples))
    assert starts[-1] == max(0, samples - length)
    assert all(start % hop == 0 for start in starts[:-1])


def test_windows_by_hand() -> None:
    assert Windows("center").starts(1001, length=100) == [450]
    assert Windows("first").starts(1001, length=100) == [0]
    assert Windows("grid", k=3).starts(1000, length=100) == [0, 450, 900]
    assert Windows("grid", k=1).starts(1000, length=100) == [450]
    assert Windows("grid", k=5).starts(102, length=100) == [0, 1, 2]
    for kind in ("center", "first", "grid"):
        assert Windows(kind).starts(60, length=100) == [0]


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("center", Windows("center")),
        ("first", Windows("first")),
        ("grid", Windows()),
        ("grid(12)", Windows("grid", k=12)),
        ("all(2.5)", Windows("all", hop=2.5)),
    ],
)
def test_windows_parse(text: str, windows: Windows) -> None:
    assert Windows.parse(text) == windows


@pytest.mark.parametrize("text", ["", "grid()", "grid(0)", "grid(-1)", "all", "all(0)", "middle", "first(2)"])
def test_windows_parse_errors(text: str) -> None:
    with pytest.raises(ValueError):
        Windows.parse(text)


def test_windows_errors() -> None:
    with pytest.raises(ValueError, match="belongs to 'grid'"):
        Windows("center", k=2)
    with pytest.raises(ValueError, match="needs hop"):
        Windows("all")
    with pytest.raises(ValueError, match="needs hop"):
        Windows("grid", hop=1.0)
    with pytest.raises(ValueError, match="expected 'grid'"):
        Windows("middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sample_rate"):
        Windows("all", hop=1.0).starts(100, length=10)


def test_cut_windows() -> None:
    wave = np.arange(250, dtype=np.float32)
    clips, starts = cut_windows(wave, windows=Windows(), length=100, sample_rate=1000)
    assert starts == [0, 75, 150]
    assert clips[:, 0].tolist() == [0, 75, 150]
    clips, starts = cut_windows(wave[:40], windows=Windows(), length=100, sample_rate=1000)
    assert starts == [0]
    assert clips.tolist() == [[*range(40), *range(40), *[0] * 20]]
    with pytest.raises(ValueError, match="10 ms"):
        cut_windows(wave[:0], windows=Windows(), length=100, sample_rate=1000)


def test_pool_windows_by_hand() -> None:
    z = torch.tensor([[3.0, 0.0], [0.0, 0.1], [0.0, -4.0]])
    torch.testing.assert_close(pool_windows(z[:2]), torch.tensor([0.5, 0.5]).sqrt())
    pooled = pool_windows(z, owner_N=torch.tensor([1, 1, 0]))
    torch.testing.assert_close(pooled, torch.tensor([[0.0, -1.0], [0.5**0.5, 0.5**0.5]]))
    assert pool_windows(z[:2].bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="at least one window"):
        pool_windows(z, owner_N=torch.tensor([0, 2, 2]))
    with pytest.raises(ValueError, match="N >= 1"):
        pool_windows(torch.zeros(0, 4))
