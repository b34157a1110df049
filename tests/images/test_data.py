"""Items, batches, bad pictures, and sets brought into memory."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from byol_ext.images.data import Images, collate, squares
from byol_ext.images.decode import Decoder
from byol_ext.images.readers import ImageFiles
from byol_ext.images.samples import ArrayImages, ImageReadError, ImageSubset
from byol_ext.ledger import BadSampleLedger, TooManyBadSamples
from byol_ext.training.source import LoaderSource, ResumableSampler


def files(root: Path, n: int = 12, bad: tuple[int, ...] = (3,)) -> ImageFiles:
    rng = np.random.default_rng(0)
    for i in range(n):
        path = root / f"{i}.png"
        if i in bad:
            path.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
        else:
            Image.fromarray(rng.integers(0, 256, (10 + i, 20, 3), dtype=np.uint8)).save(path)
    return ImageFiles(root, [f"{i}.png" for i in range(n)], np.arange(n))


def png(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", **options)
    return buffer.getvalue()


def test_a_batch_is_padded_and_says_what_is_true(tmp_path: Path) -> None:
    dataset = Images(files(tmp_path))
    batch = collate([dataset[i, 2] for i in (0, 5)])
    assert batch["images"].shape == (2, 15, 20, 3)
    assert batch["sizes"].tolist() == [[10, 20], [15, 20]]
    assert (batch["labels"].tolist(), batch["epochs"].tolist(), batch["keys"]) == ([0, 5], [2, 2], ["0.png", "5.png"])
    assert torch.equal(batch["images"][1], torch.from_numpy(dataset.source.read(5)))
    assert int(batch["images"][0, 10:].sum()) == 0
    assert (batch["seen"], batch["bad"]) == (2, {})


def test_a_bad_picture_is_replaced_by_key_and_counted(tmp_path: Path) -> None:
    dataset = Images(files(tmp_path), seed=1)
    item = dataset[3, 0]
    assert item["id"] != 3
    assert item["label"] == item["id"]
    assert item["bad"] == {"unreadable": 1}
    assert dataset[3, 0]["id"] == item["id"]
    assert len({dataset[3, epoch]["id"] for epoch in range(12)}) > 3
    ledger = BadSampleLedger(max_bad_fraction=0.6, min_seen=1)
    ledger.update(collate([item, dataset[4]]))
    assert (ledger.seen, ledger.bad["unreadable"], ledger.entries[0]["key"]) == (3, 1, "3.png")


def test_bad_pictures_are_reported_or_raised_on_wish(tmp_path: Path) -> None:
    source = files(tmp_path)
    batch = collate([Images(source, on_bad="report")[i] for i in range(12)])
    assert batch["ids"].tolist() == [i for i in range(12) if i != 3]
    assert (batch["seen"], batch["bad"]) == (12, {"unreadable": 1})
    with pytest.raises(ImageReadError, match=r"3\.png: unreadable"):
        Images(source, on_bad="raise")[3]
    nothing = collate([Images(source, on_bad="report")[3]])
    assert (len(nothing["images"]), nothing["seen"]) == (0, 1)


def test_a_set_of_bad_pictures_ends_the_run(tmp_path: Path) -> None:
    dataset = Images(files(tmp_path, 4, bad=(0, 1, 2, 3)))
    with pytest.raises(TooManyBadSamples, match="4 of 4 pictures tried"):
        dataset[0, 0]
    with pytest.raises(TooManyBadSamples, match="4 of 4"):
        squares(dataset.source, 8)


def test_it_goes_through_workers_and_resumes(tmp_path: Path) -> None:
    def source(workers: int) -> LoaderSource:
        dataset = Images(files(tmp_path), seed=5)
        sampler = ResumableSampler(12, 4, seed=2, rank=0, world_size=1)
        return LoaderSource(dataset, sampler, collate=collate, num_workers=workers)

    one = source(0)
    batches = [batch for batch, _ in zip(one, range(5), strict=False)]
    two = source(1)
    two.load_state_dict({**one.state_dict(), "position": 3})
    stream = iter(two)
    got = next(stream)
    stream.close()
    assert torch.equal(got["ids"], batches[3]["ids"])
    assert torch.equal(got["images"], batches[3]["images"])
    assert two.fingerprint == one.fingerprint == Images(files(tmp_path)).fingerprint


def test_squares_are_padded_then_scaled_and_leave_out_the_bad(tmp_path: Path) -> None:
    ledger = BadSampleLedger(max_bad_fraction=0.1)
    small = squares(files(tmp_path), 10, ledger=ledger)
    assert small.images_NHWC.shape == (11, 10, 10, 3)
    assert 3 not in small.labels
    assert (ledger.seen, ledger.bad.total()) == (12, 1)
    canvas = torch.full((1, 3, 20, 20), 255.0)
    canvas[0, :, 5:15] = torch.from_numpy(files(tmp_path).read(0)).permute(2, 0, 1)
    want = torch.nn.functional.interpolate(canvas, (10, 10), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    assert (torch.from_numpy(small.images_NHWC[0]) - want).abs().max() <= 1.5


def test_fingerprints_name_the_data() -> None:
    images, labels = np.zeros((3, 4, 4, 1), np.uint8), np.arange(3)
    source = ArrayImages(images, labels)
    changed = images.copy()
    changed[2, 0, 0] = 1
    others = [
        ArrayImages(changed, labels),
        ArrayImages(images, labels[::-1].copy()),
        ImageSubset(source, np.array([0, 1])),
        ImageSubset(source, np.array([1, 0])),
    ]
    assert len({source.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert ArrayImages(images.copy(), labels.copy()).fingerprint == source.fingerprint


def test_transparency_lies_on_the_ground() -> None:
    clear = np.zeros((2, 3, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    clear[0, 1] = (0, 0, 0, 128)
    decoded = Decoder()(png(clear))
    assert decoded[0, 0].tolist() == [10, 20, 30]
    assert decoded[0, 1].tolist() == [127, 127, 127]
    assert decoded[1, 2].tolist() == [255, 255, 255]
    assert Decoder(ground=(1, 2, 3))(png(clear))[1, 2].tolist() == [1, 2, 3]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    buffer = io.BytesIO()
    palette.save(buffer, "png", transparency=0)
    assert Decoder()(buffer.getvalue())[0, 0].tolist() == [255, 255, 255]


def test_sixteen_bits_and_rotation_tags_are_understood() -> None:
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert Decoder(channels=1)(png(deep))[0, :, 0].tolist() == [0, 100, 255]
    turned = Image.new("RGB", (6, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    turned.save(buffer, "jpeg", exif=exif)
    assert Decoder()(buffer.getvalue()).shape == (6, 4, 3)


def test_large_pictures_shrink_and_huge_ones_are_refused() -> None:
    data = png(np.full((40, 120, 3), 7, np.uint8))
    assert Decoder(max_side=30)(data).shape == (10, 30, 3)
    assert Decoder(max_side=None)(data).shape == (40, 120, 3)
    assert (Decoder(max_side=30)(data) == 7).all()
    with pytest.raises(ImageReadError, match="too_large"):
        Decoder(max_pixels=4000)(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unreadable"),
        (b"not a picture", "unreadable"),
        (png(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8))[:900], "unreadable"),
        (png(np.zeros((30, 30, 3), np.uint8)).replace(b"IDAT", b"IDAX"), "unreadable"),
    ],
    ids=["empty", "text", "cut off", "no data"],
)
def test_damaged_bytes_are_one_kind_of_error(data: bytes, reason: str) -> None:
    with pytest.raises(ImageReadError, match="x: unreadable") as caught:
        Decoder()(data, name="x")
    assert caught.value.reason == reason
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match=r"a\.png: missing"):
        Decoder()(tmp_path / "a.png")


def test_bad_arguments_are_errors() -> None:
    source = ArrayImages(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2))
    with pytest.raises(IndexError, match="picture 2 of 2"):
        Images(source)[2]
    with pytest.raises(ValueError, match="no pictures"):
        Images(ImageSubset(source, np.array([], np.int64)))
    with pytest.raises(ValueError, match="max_tries"):
        Images(source, max_tries=0)
    with pytest.raises(ValueError, match="on_bad"):
        Images(source, on_bad="skip")
    with pytest.raises(TypeError, match="uint8"):
        ArrayImages(np.zeros((2, 4, 4, 1)), np.arange(2))
    with pytest.raises(ValueError, match="1 or 3"):
        ArrayImages(np.zeros((2, 4, 4), np.uint8), np.arange(2))
    with pytest.raises(ValueError, match="labels"):
        ArrayImages(np.zeros((2, 4, 4, 1), np.uint8), np.arange(3))
    with pytest.raises(ValueError, match="channels"):
        Decoder(channels=4)
    grey, colour = (Images(ArrayImages(np.zeros((1, 4, 4, c), np.uint8), np.zeros(1, np.int64)))[0] for c in (1, 3))
    with pytest.raises(ValueError, match="one batch"):
        collate([grey, colour])
