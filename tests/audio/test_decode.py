"""Audio rows of the bad-input table of slap spec §10 (T12), and partial reads against whole ones."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byol_ext.audio.containers import missing_bytes
from byol_ext.audio.decode import BadAudio, array_clip, decode, decode_clip, int16_normalize, level_dbfs, probe

sf = pytest.importorskip("soundfile", reason="pip install 'byol_ext[slap]'")
pytest.importorskip("soxr", reason="pip install 'byol_ext[slap]'")

FORMATS = ("wav", "flac", "ogg", "mp3", "aiff")


def tone(seconds: float, sr: int, hertz: float = 440.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * sr)) / sr)).astype(np.float32)


def encoded(wave: np.ndarray, sr: int, form: str = "wav", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, wave, sr, format=form, subtype=subtype)
    return buffer.getvalue()


def reason(source, **options) -> str:
    with pytest.raises(BadAudio) as caught:
        decode(source, sr=16_000, **options)
    assert str(caught.value).count(caught.value.reason) >= 1
    return caught.value.reason


# Row: unreadable / truncated / zero-byte / wrong extension.


@pytest.mark.parametrize("data", [b"this is a text file\n" * 50, b"RIFF", b"\x00" * 4000, b"ID3" + b"\x00" * 2000])
def test_row_unreadable(tmp_path, data):
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    assert reason(path) in ("unreadable", "truncated")
    assert reason(data) in ("unreadable", "truncated")


def test_row_unreadable_folder_missing_and_raw(tmp_path):
    raw = tmp_path / "a.raw"
    raw.write_bytes(b"\x00" * 3200)
    assert reason(tmp_path) == "unreadable"
    assert reason(tmp_path / "none.wav") == "missing"
    assert reason(raw) == "unreadable"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_row_truncated(tmp_path, form, share):
    noise = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 0.1
    data = encoded(noise, 16_000, form)
    path = tmp_path / f"a.{form}"
    path.write_bytes(data)
    assert decode(path, sr=16_000).shape[0] >= 32_000
    path.write_bytes(data[: int(share * len(data))])
    assert reason(path) == "truncated"
    with pytest.raises(BadAudio):
        decode_clip(path, sr=16_000, n=100, crop="first")


def test_row_truncated_streamed_wav_without_length_is_whole():
    data = bytearray(encoded(tone(0.1, 16_000), 16_000))
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert missing_bytes(io.BytesIO(bytes(data))) == 0


def test_row_zero_byte(tmp_path):
    path = tmp_path / "a.flac"
    path.touch()
    assert reason(path) == "empty_file"
    assert reason(b"") == "empty_file"


def test_row_wrong_extension(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(tone(0.1, 16_000), 16_000, "flac"))
    assert reason(path) == "wrong_extension"
    assert decode_clip(path, sr=16_000, n=None, check_extension=False).wave_S.shape == (1600,)


# Row: 0 samples, or < 1 hop.


def test_row_zero_samples():
    assert reason(encoded(np.zeros(0, np.float32), 16_000)) == "no_samples"
    assert reason(encoded(tone(1, 16_000), 16_000), start=1.0) == "no_samples"


def test_row_less_than_one_hop():
    assert reason(encoded(tone(0.009, 16_000), 16_000)) == "too_short"
    assert reason(encoded(tone(1, 16_000), 16_000), duration=0.005) == "too_short"
    assert decode(encoded(tone(0.010, 16_000), 16_000), sr=16_000).shape == (160,)


# Row: < 10 s (the fill itself is in test_data and test_transforms).


def test_row_short_audio_keeps_true_duration():
    clip = decode_clip(encoded(tone(0.5, 16_000), 16_000), sr=8_000, n=80_000)
    assert clip.duration == 0.5
    assert clip.wave_S.shape == (4000,)


# Row: silence, DC, NaN/Inf, over full scale.


def test_row_silence_and_dc_decode_to_finite_samples():
    for wave in (np.zeros(1600, np.float32), np.full(1600, 0.25, np.float32)):
        out = decode(encoded(wave, 16_000, subtype="FLOAT"), sr=16_000)
        np.testing.assert_array_equal(out, wave)
        assert level_dbfs(out) == float("-inf")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_row_nan_and_inf_are_rejected(value):
    wave = tone(0.1, 16_000)
    wave[7] = value
    assert reason(encoded(wave, 16_000, subtype="FLOAT")) == "non_finite"
    with pytest.raises(BadAudio, match="non_finite"):
        array_clip(wave, sr_in=16_000, sr=16_000, n=None)


def test_row_over_full_scale_is_kept_and_clipped_only_on_request():
    wave = 3.0 * tone(0.1, 16_000)
    out = decode(encoded(wave, 16_000, subtype="FLOAT"), sr=16_000)
    np.testing.assert_array_equal(out, wave)
    clipped = int16_normalize(out)
    assert clipped.max() == 1.0
    assert clipped.min() == -1.0
    np.testing.assert_allclose(clipped, np.clip(wave, -1, 1), atol=1 / 32767)


# Row: other sample rate.


@pytest.mark.parametrize("sr_in", [8_000, 22_050, 44_100, 48_000])
def test_row_other_rate_is_resampled_from_the_rate_of_the_file(sr_in):
    wave = decode(encoded(tone(1.0, sr_in), sr_in, subtype="FLOAT"), sr=16_000)
    assert abs(len(wave) - 16_000) <= 1
    inner = slice(1000, 15_000)
    np.testing.assert_allclose(wave[inner], tone(1.0, 16_000)[: len(wave)][inner], atol=2e-3)


@pytest.mark.parametrize("sr_in", [None, 0])
def test_row_array_without_a_rate_is_an_error(sr_in):
    with pytest.raises(BadAudio, match="no_rate"):
        array_clip(tone(0.1, 16_000), sr_in=sr_in, sr=16_000, n=None)


# Row: stereo / 5.1.


@pytest.mark.parametrize("channels", [2, 6])
@pytest.mark.parametrize("sr_in", [16_000, 32_000])
def test_row_channels_are_averaged_never_flattened(channels, sr_in):
    left = tone(0.5, sr_in)
    many = np.zeros((len(left), channels), np.float32)
    many[:, 0] = left
    mono = decode(encoded(left / channels, sr_in, subtype="FLOAT"), sr=16_000)
    np.testing.assert_allclose(decode(encoded(many, sr_in, subtype="FLOAT"), sr=16_000), mono, atol=1e-6)


def test_arrays_with_samples_first_are_refused():
    with pytest.raises(BadAudio, match="bad_shape"):
        array_clip(np.zeros((1600, 2), np.float32), sr_in=16_000, sr=16_000, n=None)


def test_integer_arrays_are_scaled_and_other_types_refused():
    wave = array_clip(np.full(200, 2**14, np.int16), sr_in=16_000, sr=16_000, n=None).wave_S
    np.testing.assert_array_equal(wave, np.full(200, 0.5, np.float32))
    with pytest.raises(BadAudio, match="uint8"):
        array_clip(np.zeros(200, np.uint8), sr_in=16_000, sr=16_000, n=None)


# Partial reads.


@pytest.mark.parametrize("form", ["wav", "flac", "ogg"])
def test_partial_read_equals_slice_of_the_whole(form):
    data = encoded(np.random.default_rng(1).standard_normal((48_000, 2)) * 0.1, 16_000, form)
    whole = decode(data, sr=16_000)
    for seed in range(5):
        clip = decode_clip(data, sr=16_000, n=4000, rng=np.random.default_rng(seed))
        first = round(clip.offset * 16_000)
        np.testing.assert_array_equal(clip.wave_S, whole[first : first + 4000])
    assert len({decode_clip(data, sr=16_000, n=4000, rng=np.random.default_rng(s)).offset for s in range(5)}) > 1


@pytest.mark.parametrize(("sr_in", "sr"), [(44_100, 16_000), (16_000, 44_100), (48_000, 16_000), (22_050, 48_000)])
def test_partial_resampled_read_equals_slice_of_the_whole(sr_in, sr):
    data = encoded(np.random.default_rng(1).standard_normal(3 * sr_in) * 0.1, sr_in, subtype="FLOAT")
    whole = decode(data, sr=sr)
    for seed in range(4):
        clip = decode_clip(data, sr=sr, n=sr // 2, rng=np.random.default_rng(seed))
        first = round(clip.offset * sr)
        np.testing.assert_allclose(clip.wave_S, whole[first : first + sr // 2], atol=1e-4)


def test_partial_read_of_a_long_file_reads_a_part(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    sf.write(path, np.zeros(16_000 * 60, np.float32), 16_000)
    asked = []
    read = sf.SoundFile.read
    monkeypatch.setattr(
        sf.SoundFile, "read", lambda self, frames, **options: asked.append(frames) or read(self, frames, **options)
    )
    decode_clip(path, sr=8_000, n=8_000)
    assert sum(asked) < 2 * 16_000


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(200, 5000),
    n=st.integers(1, 6000),
    rates=st.sampled_from([(8000, 8000), (8000, 16000), (16000, 8000), (11025, 8000), (8000, 11025)]),
    start=st.floats(0, 0.02),
    duration=st.one_of(st.none(), st.floats(0.012, 1.0)),
    crop=st.sampled_from(["center", "first", "random"]),
)
def test_crop_bounds(count, n, rates, start, duration, crop):
    sr_in, sr = rates
    ramp = np.linspace(-1, 1, count, dtype=np.float32)
    rng = np.random.default_rng(count) if crop == "random" else None
    segment = min(count - round(start * sr_in), count if duration is None else round(duration * sr_in))
    options = {"sr_in": sr_in, "sr": sr, "n": n, "rng": rng, "start": start, "duration": duration}
    options["crop"] = "first" if crop == "random" else crop
    if segment * sr // sr_in < 0.01 * sr:
        with pytest.raises(BadAudio, match="no_samples" if segment <= 0 else "too_short"):
            array_clip(ramp, **options)
        return
    clip = array_clip(ramp, **options)
    assert clip.duration == pytest.approx(segment / sr_in)
    assert abs(len(clip.wave_S) - min(n, segment * sr / sr_in)) <= 1
    assert np.isfinite(clip.wave_S).all()
    assert 0 <= clip.offset <= max(0.0, segment / sr_in - n / sr) + 1e-9
    if sr_in == sr:
        first = round(start * sr_in) + round(clip.offset * sr)
        np.testing.assert_array_equal(clip.wave_S, ramp[first : first + len(clip.wave_S)])


def test_start_and_duration_select_the_segment():
    wave = np.arange(16_000, dtype=np.float32) / 16_000
    out = decode(encoded(wave, 16_000, subtype="FLOAT"), sr=16_000, start=0.25, duration=0.5)
    np.testing.assert_array_equal(out, wave[4000:12_000])


def test_probe_reads_the_header(tmp_path):
    path = tmp_path / "a.flac"
    sf.write(path, np.zeros((4410, 2)), 44_100)
    info = probe(path)
    assert (info.sr, info.frames, info.channels, info.format, info.duration) == (44_100, 4410, 2, "FLAC", 0.1)


def test_bad_audio_survives_pickling():
    error = pickle.loads(pickle.dumps(BadAudio("silent", "detail", source="a.wav")))
    assert (error.reason, error.detail, error.source) == ("silent", "detail", "a.wav")
