"""Class folders and Hugging Face data sets."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from byol_ext.images.decode import Decoder
from byol_ext.images.readers import HFImages, class_folders
from byol_ext.images.samples import ImageReadError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, value in [("dog/b.PNG", 2), ("dog/deep/a.jpg", 3), ("cat/c.png", 1), (".hidden/d.png", 9)]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (value, value, value)).save(path)
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "cat" / "._c.png").write_text("a Mac's leftover")
    return tmp_path


def test_class_folders_are_found_in_order(root: Path) -> None:
    source = class_folders(root)
    assert source.classes == ("cat", "dog")
    assert list(source.names) == ["cat/c.png", "dog/b.PNG", "dog/deep/a.jpg"]
    assert source.labels.tolist() == [0, 1, 1]
    assert source.read(1)[0, 0].tolist() == [2, 2, 2]
    assert source.key(2) == "dog/deep/a.jpg"


def test_classes_of_the_training_split_decide_the_labels(root: Path) -> None:
    source = class_folders(root, classes=("dog", "cat"), decoder=Decoder(channels=1))
    assert source.labels.tolist() == [0, 0, 1]
    assert source.read(2).shape == (4, 5, 1)
    assert source.fingerprint != class_folders(root).fingerprint
    with pytest.raises(FileNotFoundError, match="bird"):
        class_folders(root, classes=("bird", "cat"))


def test_missing_folders_and_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        class_folders(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no pictures"):
        class_folders(tmp_path)


def hub_set() -> datasets.Dataset:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (6, 7 + i, 3), dtype=np.uint8)) for i in range(3)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    return datasets.Dataset.from_dict({"image": pictures, "label": [1, 0, 1]}, features=features)


def test_a_hugging_face_set_is_read_as_it_decodes_itself() -> None:
    dataset = hub_set()
    source = HFImages(dataset)
    assert (len(source), list(source.classes), source.labels.tolist()) == (3, ["no", "yes"], [1, 0, 1])
    for i in range(3):
        assert np.array_equal(source.read(i), np.asarray(dataset[i]["image"]))
    assert HFImages(dataset, label=None).labels.tolist() == [-1, -1, -1]
    assert HFImages(dataset).fingerprint == source.fingerprint


def test_damaged_rows_are_bad_samples() -> None:
    features = datasets.Features({"img": datasets.Image()})
    rows = {"img": [{"bytes": b"rubbish", "path": None}, {"bytes": None, "path": "/absent.png"}, None]}
    source = HFImages(datasets.Dataset.from_dict(rows, features=features), image="img", label=None)
    for i, reason in enumerate(["unreadable", "missing", "missing"]):
        with pytest.raises(ImageReadError) as caught:
            source.read(i)
        assert caught.value.reason == reason


def test_columns_are_checked() -> None:
    with pytest.raises(ValueError, match="'img'"):
        HFImages(hub_set(), image="img")
    with pytest.raises(ValueError, match="expected pictures"):
        HFImages(hub_set(), image="label")
