"""Evaluation of an image encoder: against other libraries and by hand, its controls, and what must not leak."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from byol_ext.bootstrap import Ctx
from byol_ext.images.encoders import small_cnn
from byol_ext.images.samples import ArrayImages
from byol_ext.metrics.probes import Split
from byol_ext.metrics.spectrum import rankme
from recipes import image_eval, image_supervised
from recipes.image import fresh
from recipes.image_config import AugmentConfig, DataConfig, ImageConfig, clutter
from recipes.image_data import Splits, evaluation_batches, features, open_splits
from recipes.image_eval import branch_of, calibrate_norms, evaluate, fit_linear, ranks, raw_pixels
from recipes.image_supervised import Classifier, train_supervised

CLASSES = 3


def pictures(count: int, *, seed: int, labels: bool = True) -> ArrayImages:
    """Grey squares as bright as their class, with a little noise."""
    rng = np.random.default_rng(seed)
    label_N = np.arange(count) % CLASSES
    images = 60 + 60 * label_N[:, None, None, None] + rng.integers(-9, 10, (count, 8, 8, 1))
    return ArrayImages(images.astype(np.uint8), label_N if labels else np.full(count, -1), ("dark", "grey", "light"))


def splits(*, labels: bool = True) -> Splits:
    train, test = pictures(45, seed=0, labels=labels), pictures(24, seed=1)
    return Splits(train, test, torch.zeros(len(train), dtype=torch.bool))


def small() -> ImageConfig:
    """Squares through a tiny encoder."""
    config = clutter()
    return replace(
        config,
        data=DataConfig("squares", size=8, channels=1, batch=15),
        augment=AugmentConfig("byol", mean=(0.5,), std=(0.25,)),
        encoder=replace(config.encoder, channels=(8,), strides=(2,)),
        method=replace(config.method, projector=(16, 8), predictor_hidden=16),
        eval=replace(config.eval, shares=(), batch=20),
    )


def test_everything_is_measured_beside_controls() -> None:
    config = small()
    models = [fresh(config).model, fresh(replace(config, seed=1)).model]
    trained, untrained = (branch_of(model).eval() for model in models)
    found = evaluate(trained.encoder, splits(), config, projector=trained.projector, untrained=untrained)
    assert found.controls.keys() == {"random_init", "raw_pixels"}
    for name, control in found.controls.items():
        assert found.metrics[f"probe/{name}_accuracy"] == control["probe/linear_accuracy"]
    # Brightness is the class: pixels say it all.
    assert found.metrics["probe/raw_pixels_accuracy"] == 1.0
    assert found.controls["raw_pixels"]["per_class/worst"] == 1.0
    assert "rankme" not in found.controls["raw_pixels"]
    assert found.metrics["probe/chance"] == pytest.approx(1 / 3)
    assert found.confusion.sum() == 24
    assert np.trace(found.confusion) / 24 == pytest.approx(found.metrics["probe/linear_accuracy"])
    y_ND = features(trained.encoder, splits().train, config).x_ND
    with torch.no_grad():
        assert found.metrics["rankme"] == pytest.approx(rankme(trained.projector(y_ND)), rel=1e-5)
    assert found.metrics["rankme_y"] == pytest.approx(rankme(y_ND), rel=1e-5)
    assert (found.protocol["n_train"], found.protocol["n_test"], found.protocol["width"]) == (45, 24, 8)


def test_the_probe_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(300, 6, generator=generator) * torch.tensor([1.0, 5.0, 0.2, 1.0, 1.0, 3.0])
    y_N = (x_ND[:, :3] / torch.tensor([1.0, 5.0, 0.2]) + 0.7 * torch.randn(300, 3, generator=generator)).argmax(1)
    train, test = Split(x_ND[:200], y_N[:200]), Split(x_ND[200:], y_N[200:])
    scaler = StandardScaler().fit(train.x_ND)
    peer = LogisticRegression(C=0.1, tol=1e-8, max_iter=2000).fit(scaler.transform(train.x_ND), train.y_N)
    own = fit_linear(train, test, c=0.1)
    expected = peer.score(scaler.transform(test.x_ND), test.y_N)
    assert own.metrics["accuracy"] == pytest.approx(expected, abs=1e-9)
    assert own.chosen == {"C": 0.1}


def test_copies_of_a_thing_are_held_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    real = image_eval.linear_probe

    def spy(**arguments: Any) -> Any:
        seen.append(arguments)
        return real(**arguments)

    monkeypatch.setattr(image_eval, "linear_probe", spy)
    thing_N = torch.arange(40).repeat_interleave(4)
    train = Split(torch.stack([thing_N.float(), torch.randn(160)], 1), thing_N % 2)
    fit_linear(train, train, c=None, copies=4)
    chosen, last = seen
    rest, held = (set(chosen[name].x_ND[:, 0].tolist()) for name in ("train", "validation"))
    assert not rest & held
    assert len(held) == 8
    assert len(rest | held) == 40
    assert len(last["c_grid"]) == 1
    assert len(last["train"].x_ND) == 160


def test_untrained_norms_get_the_statistics_of_the_pictures() -> None:
    config = small()
    branch = branch_of(fresh(config).model)
    convolution, norm = branch.encoder.body[0], branch.encoder.body[1]
    calibrate_norms(branch, splits().train, config)
    x_NcMM = torch.cat([x[:, 0] for x, _ in evaluation_batches(splits().train, config)])
    out = convolution(x_NcMM)
    # Batches of 20, 20 and 5: their means are averaged.
    means = torch.stack([part.mean((0, 2, 3)) for part in out.split(20)]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    assert not branch.training
    assert norm.momentum == 0.1


def test_pixels_shrink_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(raw_pixels(splits())(x), x.flatten(1))
    monkeypatch.setattr(image_eval, "PIXEL_NUMBERS", 45 * 16)
    torch.testing.assert_close(raw_pixels(splits())(x), F.avg_pool2d(x, 2).flatten(1))


def test_digits_count_once_among_few_labels() -> None:
    config = clutter()
    config = replace(config, eval=replace(config.eval, draws=2, shares=(0.01,)))
    found = evaluate(lambda x: x.mean((2, 3)), open_splits(config), config)
    assert found.metrics["few_labels/1%/items"] == 10  # of 1,297 digits: at least one a class, at most two
    assert (found.protocol["n_train"], found.protocol["n_test"]) == (2594, 1000)
    assert found.metrics["probe/linear_accuracy/low"] <= found.metrics["probe/linear_accuracy"]


def test_many_rows_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_eval, "RANKME_ROWS", 3)
    y_ND = torch.randn(5, 4)
    assert ranks(y_ND, None) == {"rankme_y": rankme(y_ND[[0, 2, 4]])}
    assert ranks(y_ND, nn.Identity())["rankme"] == rankme(y_ND[[0, 2, 4]])


def test_without_labels_there_is_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match=r"training pictures .* have no labels"):
        evaluate(lambda x: x.flatten(1), splits(labels=False), small())
    with pytest.raises(ValueError, match=r"no test pictures.*--data\.test"):
        evaluate(lambda x: x.flatten(1), replace(splits(), test=None), small())


def test_the_classifier_leaves_unlabelled_pictures_out() -> None:
    torch.manual_seed(0)
    model = Classifier(small_cnn(channels=(4,), strides=(2,)), CLASSES).eval()
    x = torch.randn(4, 1, 8, 8)
    label_B = torch.tensor([2, -1, 0, -1])

    def forward(label_B: Tensor) -> Any:
        return model({"a": x, "b": x + 1}, Ctx(data={"truth": label_B}), 0)

    expected = F.cross_entropy(model.head(model.encoder(x[[0, 2]])), label_B[[0, 2]])
    torch.testing.assert_close(forward(label_B).loss, expected)
    assert forward(torch.full((4,), -1)).loss == 0.0
    assert not model.couples_samples
    assert model.train().couples_samples


def test_the_supervised_control_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_supervised, "open_splits", lambda config: splits())
    config = small()
    config = replace(
        config,
        name="supervised",
        root=str(tmp_path),
        augment=replace(config.augment, least_area=0.8, strength=0.0, flip=0.0, blur=False),
        train=replace(config.train, steps=24, lr=2e-2, log_every=1, monitor_every=0),
    )
    result, model, _, run = train_supervised(config)
    assert result.step == 24
    losses = [record["loss"] for record in run.metrics()]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.2
    assert not model.training
    again, *_ = train_supervised(config, resume=True)
    assert again.step == 24
