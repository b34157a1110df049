"""Precomputed features: round trip, the front-end hash, crops."""

import numpy as np
import pytest

from byol_ext.audio.data import collate
from byol_ext.audio.decode import BadAudio
from byol_ext.audio.features import FeatureShards, FeatureTextDataset, write_features
from byol_ext.audio.samples import AudioTextSample, SampleList


def mels(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"k{i}": rng.standard_normal((20 + i, 4)).astype(np.float16) for i in range(count)}


@pytest.mark.parametrize("form", ["safetensors", "npy"])
def test_mel_round_trip_with_unequal_lengths(tmp_path, form):
    given = mels(5)
    assert write_features(given.items(), tmp_path, kind="mel", front_end="h", shard_size=2, format=form) == 5
    read = FeatureShards(tmp_path, front_end="h", kind="mel")
    assert read.keys == list(given)
    assert len(list(tmp_path.glob(f"*.{form}"))) == 3
    for i, (key, array) in enumerate(given.items()):
        np.testing.assert_array_equal(read[i], array)
        np.testing.assert_array_equal(read.of(key), array)
        assert read[i].dtype == np.float16
    assert "k9" not in read


@pytest.mark.parametrize("form", ["safetensors", "npy"])
def test_y_round_trip(tmp_path, form):
    rows = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    write_features(((str(i), row) for i, row in enumerate(rows)), tmp_path, kind="y", front_end="h", format=form)
    np.testing.assert_array_equal(
        np.stack([FeatureShards(tmp_path, front_end="h", kind="y")[i] for i in range(3)]), rows
    )


def test_another_front_end_or_kind_is_an_error(tmp_path):
    write_features(mels(1).items(), tmp_path, kind="mel", front_end="slaney-1")
    with pytest.raises(ValueError, match="front_end 'slaney-1', now it is 'htk-2'"):
        FeatureShards(tmp_path, front_end="htk-2", kind="mel")
    with pytest.raises(ValueError, match="kind"):
        FeatureShards(tmp_path, front_end="slaney-1", kind="y")
    with pytest.raises(ValueError, match="already holds"):
        write_features(mels(1).items(), tmp_path, kind="mel", front_end="slaney-1")
    with pytest.raises(FileNotFoundError, match="write_features"):
        FeatureShards(tmp_path / "none", front_end="h", kind="mel")


@pytest.mark.parametrize("rows", [[("a", np.zeros(3))], [("a", np.zeros((0, 3)))], [("a", np.ones((2, 3)))] * 2])
def test_wrong_arrays_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="'a'"):
        write_features(rows, tmp_path, kind="mel", front_end="h")


def test_dataset_crops_pads_and_joins_captions(tmp_path):
    given = mels(4)
    write_features(given.items(), tmp_path, kind="mel", front_end="h")
    source = SampleList(AudioTextSample(f"k{i}", (f"c{i}", "x")) for i in (3, 0))
    features = FeatureShards(tmp_path, front_end="h", kind="mel")
    data = FeatureTextDataset(features, source, frames=22, train=False)
    np.testing.assert_array_equal(data[0]["features"], given["k3"][:22].astype(np.float32))
    padded = data[1]["features"]
    np.testing.assert_array_equal(padded[:20], given["k0"].astype(np.float32))
    assert (padded[20:] == -100).all()
    batch = collate([data[0], data[1]])
    assert batch["features"].shape == (2, 22, 4)
    assert batch["caption"] == ["c3", "c0"]
    train = FeatureTextDataset(features, source, frames=10, train=True)
    np.testing.assert_array_equal(train[0, 1]["features"], train[0, 1]["features"])
    assert len({train[0, epoch]["features"].tobytes() for epoch in range(20)}) > 5
    assert {train[0, epoch]["caption"] for epoch in range(20)} == {"c3", "x"}
    with pytest.raises(ValueError, match="1 of 1 samples have no features"):
        FeatureTextDataset(features, SampleList([AudioTextSample("z", ("c",))]), frames=10, train=True)


def test_features_that_are_not_finite_are_rejected(tmp_path):
    write_features([("a", np.full((3, 2), np.nan, np.float32))], tmp_path, kind="mel", front_end="h")
    source = SampleList([AudioTextSample("a", ("c",))])
    data = FeatureTextDataset(FeatureShards(tmp_path, front_end="h", kind="mel"), source, frames=2, train=True)
    with pytest.raises(BadAudio, match="non_finite"):
        data[0]
