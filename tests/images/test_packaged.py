"""IDX files, Fashion-MNIST, OpenClipart and digits; the packages' own files where they are installed."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from byol_ext.images.packaged import FASHION_ROOT, OPENCLIPART_ROOT, digits, fashion_mnist, fold, openclipart, read_idx


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def test_idx_files_are_read_packed_and_plain(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    (tmp_path / "a").write_bytes(idx(array))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    assert np.array_equal(read_idx(tmp_path / "a"), array)
    assert np.array_equal(read_idx(tmp_path / "a.gz"), array)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x08\x03\x00",
        b"\x00\x00\x0d\x01\x00\x00\x00\x00",
        idx(np.zeros(4))[:-1],
        idx(np.zeros(4)) + b"x",
    ],
    ids=["empty", "header cut off", "floats", "short", "long"],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(ValueError, match="bad: "):
        read_idx(tmp_path / "bad")
    (tmp_path / "bad.gz").write_bytes(gzip.compress(idx(np.zeros(99)))[:-9])
    with pytest.raises(ValueError, match="gzip"):
        read_idx(tmp_path / "bad.gz")


def test_fashion_mnist_takes_files_from_any_folder_and_checks_them(tmp_path: Path) -> None:
    images, labels = np.arange(2 * 28 * 28).reshape(2, 28, 28) % 256, np.array([9, 0])
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    source = fashion_mnist("test", root=tmp_path)
    assert np.array_equal(source.read(1)[..., 0], images[1])
    assert [source.classes[i] for i in source.labels] == ["ankle boot", "T-shirt/top"]
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist("train", root=tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(3))))
    with pytest.raises(ValueError, match="do not fit together"):
        fashion_mnist("test", root=tmp_path)
    with pytest.raises(ValueError, match="valid"):
        fashion_mnist("valid", root=tmp_path)


@pytest.mark.skipif(not FASHION_ROOT.is_dir(), reason="apt-get install dataset-fashion-mnist")
def test_the_package_holds_what_the_spec_says() -> None:
    test = fashion_mnist("test")
    assert test.images_NHWC.shape == (10_000, 28, 28, 1)
    assert np.bincount(test.labels).tolist() == [1000] * 10


def test_digits_are_scikit_learns() -> None:
    whole = load_digits()
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1297, 500)
    assert np.array_equal(train.labels, whole.target[train.ids])
    assert np.array_equal(test.read(4)[..., 0], np.rint(whole.images[test.ids[4]] * 255 / 16))


@pytest.fixture
def clip_art(tmp_path: Path) -> Path:
    """Three real classes of 8, 4 and 2 stems, and all that is to be left out."""
    names = [f"birds/bird{'abcdefgh'[i]}_01" for i in range(8)] + [f"birds/birda_0{i}" for i in (2, 3)]
    names += [f"computer/part{'abcd'[i]}" for i in range(4)] + ["food/pie_1", "food/cake_1"]
    names += [f"shapes/stars/star{c}" for c in "abcdefgh"] + [f"computer/icons/icon{c}" for c in "abcd"]
    names += [f"signs_and_symbols/flags/{c}" for c in "abcdefgh"] + [f"unsorted/{c}" for c in "abcdefgh"]
    for i, name in enumerate(names):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 3), i).save(path)
    for c in "abcdefgh":
        (tmp_path / "food" / f"link{c}.png").symlink_to(f"../unsorted/{c}.png")
    return tmp_path


def test_openclipart_keeps_one_picture_a_stem_and_no_near_duplicates(clip_art: Path) -> None:
    source = openclipart(root=clip_art, least=3, most=6)
    assert source.classes == ("birds", "computer")
    assert np.bincount(source.labels).tolist() == [6, 4]
    assert not any("icons" in name or "link" in name or "_02" in name or "_03" in name for name in source.names)
    assert [source.classes[label] for label in source.labels] == [name.split("/")[0] for name in source.names]
    everything = openclipart(root=clip_art, least=2, most=None)
    assert np.bincount(everything.labels).tolist() == [8, 4, 2]
    assert set(source.names) <= set(everything.names)


def test_folds_are_balanced_disjoint_and_do_not_move_with_their_neighbours(clip_art: Path) -> None:
    source = openclipart(root=clip_art, least=2, most=None)
    tests = []
    for index in range(2):
        train, test = fold(source, index, folds=2)
        assert sorted([*train.ids, *test.ids]) == list(range(14))
        assert np.bincount(test.labels).tolist() == [4, 2, 1]
        tests.append(test.ids)
    assert not set(tests[0]) & set(tests[1])
    with pytest.raises(ValueError, match="fold 2 of 2"):
        fold(source, 2, folds=2)


def test_a_missing_openclipart_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="apt-get install openclipart-png"):
        openclipart(root=tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="60 different pictures"):
        openclipart(root=tmp_path)


@pytest.mark.skipif(not OPENCLIPART_ROOT.is_dir(), reason="apt-get install openclipart-png")
def test_the_openclipart_package_has_twelve_classes() -> None:
    source = openclipart()
    assert len(source.classes) == 12
    assert len(source) == 1950
    assert source.read(0).ndim == 3
