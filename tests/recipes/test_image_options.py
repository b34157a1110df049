"""Every option of a method, a view, an encoder and the data changes what is trained; what a method reads is right."""

import dataclasses
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import InterpolationMode, rotate

from byol_ext.ledger import BadSampleLedger
from byol_ext.rng import sample_keys
from recipes.image import build
from recipes.image_config import AugmentConfig, DataConfig, EncoderConfig, ImageConfig, clutter
from recipes.image_data import Prepare, context_names, evaluation_batches, open_splits, training_source
from recipes.image_method_config import MethodConfig
from recipes.image_methods import build_optimizer
from recipes.image_variants import with_method
from recipes.image_views import rotated, turns

METHOD_OPTIONS: dict[str, tuple[str, Any]] = {
    "name": ("byol", "simclr"),
    "projector": ("byol", (24, 16)),
    "norm": ("byol", "layer"),
    "feature": ("emp-ssl", 24),
    "predictor": ("byol", False),
    "predictor_hidden": ("msb", 24),
    "view_batching": ("byol", "concat"),
    "gather": ("simclr", False),
    "target.source": ("byol", "frozen"),
    "target.tau": ("byol", 0.5),
    "target.schedule": ("byol", "constant"),
    "target.stop_gradient": ("simsiam", False),
    "closed.ridge": ("newton-schulz", 0.5),
    "closed.scale": ("newton-schulz", "paper"),
    "closed.average": ("visser", "moments"),
    "closed.decay": ("directpred", 0.9),
    "closed.acts": ("newton-schulz", "next"),
    "closed.rows": ("ns2", "both"),
    "closed.centre": ("stiefel", True),
    "closed.differentiable": ("neumann", True),
    "closed.precision": ("directcopy", "float64"),
    "closed.steps": ("newton-schulz", 2),
    "closed.step_size": ("visser", 0.2),
    "closed.damping": ("lrp", 0.1),
    "closed.gain": ("neumann", 0.01),
    "closed.alpha": ("directset", 0.9),
    "closed.floor": ("directpred", 0.5),
    "contrast.temperature": ("simclr", 0.7),
    "contrast.standardise": ("dcl", True),
    "contrast.weight_sigma": ("dclw", 2.0),
    "contrast.weight_gradient": ("dclw", True),
    "contrast.coordinates": ("directclr", 7),
    "vicreg.weights": ("vicreg-exp", (1.0, 2.0, 3.0)),
    "vicreg.variance_reduction": ("vicreg", "sum"),
    "vicreg.invariance": ("vicreg", "sum"),
    "vicreg.temperature": ("vicreg-exp", 0.5),
    "vicreg.standardise": ("vicreg-ctr", False),
    "dbn.group_size": ("shuffled-dbn", 4),
    "dbn.shuffle": ("shuffled-dbn", False),
    "dbn.distance": ("shuffled-dbn", "mse"),
    "dbn.steps": ("shuffled-dbn", 3),
    "dbn.eps": ("shuffled-dbn", 0.1),
    "rate.eps": ("emp-ssl", 0.5),
    "rate.similarity_weight": ("tcr", 3.0),
    "msb.singular_weight": ("msb", 9.0),
    "msb.brownian_weight": ("msb", 2.0),
    "ascl.kind": ("ascl", "hard"),
    "ascl.neighbours": ("ascl", 4),
    "ascl.temperature": ("ascl-moco", 0.5),
    "ascl.queue": ("ascl-moco", 30),
    "ascl.symmetric": ("ascl", False),
    "semppl.weight": ("semppl", 5.0),
    "semppl.neighbours": ("semppl", 9),
    "semppl.queue": ("semppl", 5),
    "pal.graph": ("pal-spectral", "active"),
    "pal.budget": ("pal-infonce-active", 5),
    "pal.questions": ("pal-infonce-active", 3),
    "pal.every": ("pal-infonce-active", 1),
    "pal.score": ("pal-infonce-active", "random"),
    "pal.invariance_weight": ("pal-vic2", 5.0),
    "pal.off_diagonal_weight": ("pal-barlow", 0.1),
    "pal.reduction": ("pal-infonce-labels", "sum"),
    "sie.invariant": ("sie", 0.25),
    "sie.similarity_weight": ("sie", 1.0),
    "sie.equivariant_factor": ("sie", 4.5),
    "sie.variance_weight": ("sie", 1.0),
    "sie.covariance_weight": ("sie", 9.0),
    "sie.moved_variance": ("sie", False),
}
NO_CHANGE_ON_ONE_PROCESS = ("gather",)


def leaves(value: Any, prefix: str = "") -> list[str]:
    names = []
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        path = f"{prefix}{field.name}"
        names += leaves(inner, f"{path}.") if dataclasses.is_dataclass(inner) else [path]
    return names


def changed(value: Any, path: str, new: Any) -> Any:
    head, _, rest = path.partition(".")
    return replace(value, **{head: changed(getattr(value, head), rest, new) if rest else new})


def small(method: str) -> ImageConfig:
    config = with_method(clutter(), method)
    if "pal-spectral" in method or "active" in method:
        # Answers count where both of a pair come again: 26 digits in batches of 24.
        digits = DataConfig("digits", fraction=0.02)
        config = replace(config, data=digits, augment=AugmentConfig("byol", mean=(0.5,), std=(0.5,)))
    return replace(
        config,
        data=replace(config.data, batch=24),
        encoder=replace(config.encoder, channels=(16, 16), strides=(2, 2)),
        method=replace(
            config.method, projector=(32, 16), predictor_hidden=32, dbn=replace(config.method.dbn, group_size=8)
        ),
    )


@cache
def trained(config: ImageConfig) -> torch.Tensor:
    """All weights and the loss after four steps, summed up."""
    splits = open_splits(config)
    model = build(config, steps=4, samples=len(splits.train)).model
    prepare = Prepare(config, splits, names=context_names(model), ledger=BadSampleLedger())
    optimizer = build_optimizer(config, config.train)(model)
    batches = iter(training_source(config, splits))
    for step in range(4):
        out = model(*prepare(next(batches), step), step)
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(step)
    online = [p.detach().double().abs().sum() for p in model.branches.parameters()]
    return torch.stack([*online, out.loss.detach().double()])


def test_the_table_has_every_option_of_a_method() -> None:
    assert sorted(METHOD_OPTIONS) == sorted(leaves(MethodConfig()))


@pytest.mark.parametrize("path", METHOD_OPTIONS)
def test_an_option_of_a_method_changes_what_is_learned(path: str) -> None:
    name, new = METHOD_OPTIONS[path]
    default = small(name)
    other = replace(default, method=changed(default.method, path, new))
    assert other != default
    one, two = trained(default), trained(other)
    assert torch.isfinite(two).all()
    assert torch.equal(one, two) == (path in NO_CHANGE_ON_ONE_PROCESS)


def test_gathering_reaches_the_losses() -> None:
    for name in ("simclr", "dcl", "vicreg", "vicreg-exp", "directclr", "tcr", "ascl", "semppl", "sie", "pal-spectral"):
        config = small(name)
        config = replace(config, method=replace(config.method, gather=False))
        for term in build(config, steps=1, samples=1297).model.set_terms:
            fn: Any = term.fn
            assert fn.keywords["gather"] is False, name


VIEW_OPTIONS: dict[str, tuple[str, Any]] = {
    "preset": ("byol", "simclr"),
    "views": ("patches", 3),
    "least_area": ("byol", 0.9),
    "flip": ("byol", 1.0),
    "strength": ("simclr", 0.1),
    "grey": ("byol", 1.0),
    "blur": ("byol", False),
    "brightness": ("byol", "multiplicative"),
    "small_size": ("multi-crop", 8),
    "small_views": ("multi-crop", 1),
    "patch_area": ("patches", 0.9),
    "max_angle": ("rotate", 30.0),
    "mean": ("byol", (0.5, 0.5, 0.5)),
    "std": ("weak-target", (0.5, 0.5, 0.5)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("a", "b", "c"):
            (root / part / label).mkdir(parents=True)
            for k in range(8):
                pixels = rng.integers(0, 256, (20 + k % 3, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{k}.png")
    return root


def with_pictures(folder: Path, preset: Any) -> ImageConfig:
    method = "sie" if preset == "rotate" else "byol"
    config = with_method(clutter(), method)
    return replace(
        config,
        data=DataConfig(str(folder), size=16, batch=8),
        augment=AugmentConfig(preset, small_size=12),
        train=replace(config.train, steps=1),
    )


def first_views(config: ImageConfig) -> list[torch.Tensor]:
    splits = open_splits(config)
    model = build(config, steps=1, samples=len(splits.train)).model
    prepare = Prepare(config, splits, names=context_names(model), ledger=BadSampleLedger())
    views, ctx = prepare(next(iter(training_source(config, splits))), 0)
    model(views, ctx, 0)
    return list(views.values())


def test_an_option_of_the_views_changes_them(folder: Path) -> None:
    assert sorted(VIEW_OPTIONS) == sorted(leaves(AugmentConfig()))
    for path, (preset, new) in VIEW_OPTIONS.items():
        default = with_pictures(folder, preset)
        one = first_views(default)
        two = first_views(replace(default, augment=changed(default.augment, path, new)))
        same = len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        assert not same, path


def test_options_of_the_data_reach_it(folder: Path) -> None:
    def opened(**changes: Any) -> Any:
        config = with_pictures(folder, "byol")
        return open_splits(replace(config, data=replace(config.data, **changes)))

    whole = opened()
    assert (len(whole.train), len(whole.test)) == (24, 24)
    assert np.bincount(opened(fraction=0.5).train.labels).tolist() == [4, 4, 4]
    assert opened(channels=1).train.read(0).shape == (20, 24, 1)
    assert opened(squares=10).train.read(0).shape == opened(squares=10).test.read(0).shape == (10, 10, 3)
    assert len(opened(test=str(folder / "train")).test) == 24
    assert opened(train=str(folder / "train")).test.fingerprint == whole.test.fingerprint
    assert opened(train="digits").train.read(0).shape == (8, 8, 1)


def test_hugging_face_sets_from_disk(tmp_path: Path) -> None:
    hf = pytest.importorskip("datasets")
    pixels = [Image.fromarray(np.full((6, 6, 3), value, np.uint8)) for value in (0, 90, 180, 250)]
    features = hf.Features({"img": hf.Image(), "fine": hf.ClassLabel(names=["x", "y"])})
    part = hf.Dataset.from_dict({"img": pixels, "fine": [0, 1, 0, 1]}, features=features)
    hf.DatasetDict({"train": part, "held": part.select([0])}).save_to_disk(tmp_path / "set")
    data = DataConfig(f"hf:{tmp_path / 'set'}", "held", size=8, image_column="img", label_column="fine", batch=2)
    config = replace(clutter(), data=data, augment=AugmentConfig("byol"))
    splits = open_splits(config)
    assert splits.test is not None
    assert (splits.train.labels.tolist(), len(splits.test)) == ([0, 1, 0, 1], 1)
    with pytest.raises(ValueError, match="'held', 'train'"):
        open_splits(replace(config, data=replace(data, test="val")))


ENCODER_OPTIONS: dict[str, tuple[EncoderConfig, Any]] = {
    "name": (EncoderConfig(), "vit_t"),
    "norm": (EncoderConfig(), "none"),
    "stem": (EncoderConfig("timm:resnet18"), "cifar"),
    "channels": (EncoderConfig(), (8, 16, 32)),
    "strides": (EncoderConfig(), (2, 2, 2)),
    "zero_init": (EncoderConfig("resnet18"), True),
    "patch": (EncoderConfig("vit_t"), 4),
}


def test_an_option_of_the_encoder_changes_it() -> None:
    assert sorted(ENCODER_OPTIONS) == sorted(leaves(EncoderConfig()))
    x = torch.randn(2, 1, 16, 16)
    for path, (default, new) in ENCODER_OPTIONS.items():
        config = replace(clutter(), encoder=default)
        encoders = [
            build(replace(config, encoder=each), steps=1).encoder for each in (default, changed(default, path, new))
        ]
        one, two = (encoder(x) for encoder in encoders)
        assert one.shape != two.shape or not torch.allclose(one, two), path


def test_pictures_turn_as_torchvision_turns_them() -> None:
    x = torch.rand(3, 2, 16, 16)
    degrees = torch.tensor([30.0, -75.0, 180.0])
    found = rotated(x, degrees.deg2rad())
    expected = torch.stack([rotate(p, float(d), InterpolationMode.BILINEAR) for p, d in zip(x, degrees, strict=True)])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_rotation_that_sie_is_told_leads_from_the_first_view_to_the_second(folder: Path) -> None:
    config = with_pictures(folder, "rotate")
    config = replace(config, augment=replace(config.augment, max_angle=20.0))
    splits = open_splits(config)
    ledger = BadSampleLedger()
    prepare = Prepare(config, splits, names=frozenset({"g"}), ledger=ledger)
    batch = next(iter(training_source(config, splits)))
    views, ctx = prepare(batch, 0)
    g = ctx.data["g"]
    keys = sample_keys(config.seed, batch["epochs"], batch["ids"])
    angle = turns(keys, views=2, most=20.0)
    assert float(angle.abs().max()) <= math.radians(20.0)
    relative = torch.atan2(g[:, 1], g[:, 0])
    torch.testing.assert_close(relative, angle[:, 1] - angle[:, 0])
    # Low frequencies survive a second interpolation: the first view turned on is near the second.
    gaps = [F.avg_pool2d(rotated(views["a"], way * relative) - views["b"], 5) for way in (1, -1)]
    assert float(gaps[0].square().mean()) < float(gaps[1].square().mean())


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_a_method_sees_the_shown_labels_only(share: float) -> None:
    config = small("semppl")
    config = replace(config, data=replace(config.data, label_share=share))
    splits = open_splits(config)
    assert abs(float(splits.shown.float().mean()) - share) < 0.01
    prepare = Prepare(config, splits, names=frozenset({"label", "draw"}), ledger=BadSampleLedger())
    batch = next(iter(training_source(config, splits)))
    _, ctx = prepare(batch, 0)
    shown = splits.shown[batch["ids"]]
    assert torch.equal(ctx.data["label"] >= 0, shown)
    assert torch.equal(ctx.data["label"][shown], batch["labels"][shown])
    assert ctx.data["draw"].shape == (24, 2)


def test_the_noise_of_msb_is_new_each_step() -> None:
    config = small("msb")
    splits = open_splits(config)
    prepare = Prepare(config, splits, names=frozenset({"noise"}), ledger=BadSampleLedger())
    batch = next(iter(training_source(config, splits)))
    one, two = (prepare(batch, step)[1].data["noise"] for step in (0, 1))
    assert one.shape == (24, 16)
    assert float((one * two).sum(1).abs().max()) < 0.95
    assert torch.equal(one, prepare(batch, 0)[1].data["noise"])


def test_all_seeds_are_measured_on_the_same_pictures() -> None:
    found = []
    for seed in (0, 1):
        config = replace(small("byol"), seed=seed)
        splits = open_splits(config)
        assert splits.test is not None
        test = torch.cat([x for x, _ in evaluation_batches(splits.test, config)])
        views, _ = Prepare(config, splits, ledger=BadSampleLedger())(next(iter(training_source(config, splits))), 0)
        found.append((test, views["a"]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][0].shape == (2000, 1, 1, 16, 16)
    assert not torch.equal(found[0][1], found[1][1])
