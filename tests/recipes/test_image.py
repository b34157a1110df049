"""The image recipe: every method trains, gradients reach what they should, runs stop and go on, presets build."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from byol_ext.bootstrap import Bootstrap, Ctx, SetTerm
from byol_ext.closed_form import ClosedForm
from byol_ext.images.norms import WSConv2d
from byol_ext.ledger import BadSampleLedger
from byol_ext.training import latest_checkpoint, learning_rate
from byol_ext.training.checkpoint import load_model_state
from recipes import image
from recipes.config import parse
from recipes.image import Experiment, build, fresh, load_run, train
from recipes.image_active import AskedPairs
from recipes.image_config import PRESETS, AugmentConfig, DataConfig, EncoderConfig, ImageConfig, clutter
from recipes.image_data import (
    Prepare,
    Splits,
    context_names,
    evaluation_batches,
    features,
    open_splits,
    training_source,
)
from recipes.image_method_config import CLOSED_FORMS, METHOD_NAMES, MethodConfig
from recipes.image_methods import build_encoder, build_method, build_optimizer, encoder_passes
from recipes.image_variants import METHODS, with_method

NO_TARGET = ("simclr", "dcl", "vicreg", "directclr", "shuffled-dbn", "tcr", "emp-ssl", "pal", "sie")


def small(method: str = "byol", *, steps: int = 7, root: Path | None = None) -> ImageConfig:
    config = with_method(clutter(), method)
    return replace(
        config,
        name=method,
        root=str(root or "runs"),
        data=replace(config.data, batch=24),
        encoder=replace(config.encoder, channels=(16, 16)[: len(config.encoder.channels)], strides=(2, 2)),
        method=replace(
            config.method, projector=(32, 16), predictor_hidden=32, dbn=replace(config.method.dbn, group_size=8)
        ),
        train=replace(config.train, steps=steps, warmup=0.0, lr=1e-3, log_every=1, monitor_every=2, checkpoint_every=2),
        eval=replace(config.eval, draws=1),
    )


def opened(config: ImageConfig) -> tuple[Experiment, Prepare, Splits]:
    splits = open_splits(config)
    experiment = build(config, steps=3, samples=len(splits.train))
    ledger = BadSampleLedger()
    return experiment, Prepare(config, splits, names=context_names(experiment.model), ledger=ledger), splits


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_its_gradients_reach_what_they_should(name: str) -> None:
    config = small(name)
    experiment, prepare, splits = opened(config)
    model = experiment.model
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    start = {key: p.detach().clone() for key, p in trained.items()}
    optimizer = build_optimizer(config, config.train)(model)
    batches = iter(training_source(config, splits))
    for step in range(3):
        views, ctx = prepare(next(batches), step)
        out = model(views, ctx, step)
        out.loss.backward()
        assert torch.isfinite(out.loss)
        gradients = {key: p.grad for key, p in trained.items()}
        assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
        assert all(p.grad is None for key, p in model.named_parameters() if key not in trained)
        if step == 2:  # an empty queue of MoCo has no gradient, DirectCLR's unseen coordinates have none ever
            assert [key for key, g in gradients.items() if g is not None and not g.any()] == []
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(step)
    assert all(not torch.equal(p.detach(), start[key]) for key, p in trained.items())
    assert any(key.startswith("branches.image.encoder.") for key in trained)
    has_target = not name.startswith(NO_TARGET) and name != "simsiam-no-stop-gradient"
    assert (model.target is not None) == has_target
    if config.method.name in CLOSED_FORMS:
        predictor = model.predictors["image"]
        assert isinstance(predictor, ClosedForm)
        assert bool(predictor.initialised)
        assert not any(key.startswith("predictors.") for key in trained)


def test_the_names_are_those_of_the_configuration() -> None:
    assert set(METHOD_NAMES) <= set(METHODS)
    for name in METHOD_NAMES:
        assert with_method(clutter(), name).method.name == name


@pytest.mark.parametrize(("name", "nearest"), [("simclr-sqr", "simclr-sq"), ("byol-gnws", "byol-gn-ws")])
def test_an_unknown_method_is_answered(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=nearest):
        with_method(clutter(), name)


def test_an_unknown_method_of_a_saved_configuration_is_answered() -> None:
    with pytest.raises(ValueError, match=r"no method 'byool'; did you mean byol"):
        MethodConfig("byool")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name: str) -> None:
    config = PRESETS[name]()
    encoder = build_encoder(config)
    if encoder.width > 512:  # the target's copy of a large network proves nothing more
        assert encoder.width == 2048
        return
    model = build_method(config, encoder, steps=10)
    side, channels = config.data.size, 1 if config.data.train != "openclipart" else 3
    out = model({view: torch.randn(4, channels, side, side) for view in model.views}, Ctx(), 0)
    assert torch.isfinite(out.loss)


def test_the_clutter_preset_is_the_one_of_the_spec() -> None:
    config = clutter()
    model = build(config, steps=1000).model
    shapes = {key: tuple(p.shape) for key, p in model.named_parameters() if p.requires_grad and p.ndim > 1}
    assert shapes == {
        "branches.image.encoder.body.0.weight": (16, 1, 3, 3),
        "branches.image.encoder.body.3.weight": (32, 16, 3, 3),
        "branches.image.encoder.body.6.weight": (64, 32, 3, 3),
        "branches.image.projector.0.weight": (256, 64),
        "branches.image.projector.3.weight": (64, 256),
        "predictors.image.net.0.weight": (256, 64),
        "predictors.image.net.3.weight": (64, 256),
    }
    strides = [m.stride[0] for m in model.branches["image"].modules() if isinstance(m, torch.nn.Conv2d)]
    assert strides == [1, 2, 2]
    optimizer = build_optimizer(config, config.train)(model)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert sorted({(group["lr"], group["weight_decay"]) for group in optimizer.param_groups}) == [
        (3e-3, 0.0),
        (3e-3, 1e-4),
    ]
    rate = learning_rate(config.train, 1000)
    assert [round(rate(step), 6) for step in (0, 99, 550, 1000)] == [3e-5, 3e-3, 1.5e-3, 0.0]
    assert model.target is not None
    assert model.target.ema is not None
    tau = model.target.ema.tau
    assert callable(tau)
    assert [tau(step) for step in (0, 1000)] == pytest.approx([0.95, 1.0])
    assert (config.data.batch, config.eval.c, config.eval.draws) == (128, 0.1, 4)
    splits = open_splits(config)
    assert splits.test is not None
    assert (len(splits.train), len(splits.test)) == (1297, 500)


def test_methods_differ_where_they_say() -> None:
    linear = with_method(clutter(), "linear")
    assert linear.train.predictor_lr_scale == 10.0
    groups = build_optimizer(linear, linear.train)(build(linear, steps=1).model).param_groups
    assert [group.get("lr_scale") for group in groups] == [None, None, 10.0]
    model = build(small("byol-gn-ws"), steps=1).model
    assert model.coupling_reasons() == []
    assert any(isinstance(module, WSConv2d) for module in model.modules())
    assert encoder_passes(build(small("byol"), steps=1).model) == 4
    assert encoder_passes(build(small("simsiam"), steps=1).model) == 2
    assert encoder_passes(build(small("emp-ssl"), steps=1).model) == 8


def test_without_stop_gradient_the_loss_is_the_same_and_the_gradient_is_not() -> None:
    found = {}
    for name in ("simsiam", "simsiam-no-stop-gradient"):
        config = small(name)
        experiment, prepare, splits = opened(config)
        views, ctx = prepare(next(iter(training_source(config, splits))), 0)
        out = experiment.model(views, ctx, 0)
        out.loss.backward()
        weight = next(experiment.encoder.parameters())
        assert weight.grad is not None
        found[name] = out.loss.item(), weight.grad
    (one, with_stop), (two, without) = found.values()
    assert one == pytest.approx(two, abs=1e-6)
    assert not torch.allclose(with_stop, without, rtol=0.1)


def weights(root: Path, name: str) -> dict[str, torch.Tensor]:
    checkpoint = latest_checkpoint(root / "image" / name / "checkpoints")
    assert checkpoint is not None
    return load_model_state(checkpoint)


@pytest.mark.parametrize("name", ["byol", "newton-schulz", "ascl-moco", "pal-infonce-active"])
def test_a_stopped_run_goes_on_bit_by_bit(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def config(root: str) -> ImageConfig:
        made = small(name, root=tmp_path / root)
        return replace(made, method=replace(made.method, pal=replace(made.method.pal, every=2)))

    train(config("whole"))
    original = image.Prepare.__call__
    monkeypatch.setattr(
        image.Prepare,
        "__call__",
        lambda self, batch, step: (
            (os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None) or original(self, batch, step)
        ),
    )
    stopped, *_ = train(config("parts"))
    assert (stopped.interrupted, stopped.step) == ("SIGTERM", 3)
    monkeypatch.undo()
    train(config("parts"), resume=True)
    one, two = (weights(tmp_path / root, name) for root in ("whole", "parts"))
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    if name == "pal-infonce-active":
        assert int(one["set_terms.0.scale.used"]) == 4 * 20


def test_a_run_is_monitored_measured_and_read_back(tmp_path: Path) -> None:
    config = small("linear", steps=4, root=tmp_path)
    config = replace(config, train=replace(config.train, evaluate_every=2))
    result, experiment, splits, run = train(config)
    records = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    last = records[-1]
    assert last["step"] == result.step == 4
    for name in ("eval/knn_accuracy", "collapse/collapsed", "predictor/image/stable_rank", "grad_norm/predictor"):
        assert np.isfinite(last[name]), name
    assert last["ema/distance"] > 0
    again, loaded, _ = load_run(run.path)
    assert again == config
    assert splits.test is not None
    before, after = (features(each.encoder, splits.test, config) for each in (experiment, loaded))
    assert torch.equal(before.x_ND, after.x_ND)
    assert before.x_ND.shape == (500, 16)
    untrained = features(fresh(config).encoder.eval(), splits.test, config)
    assert not torch.equal(untrained.x_ND, after.x_ND)


def test_lars_and_sgd_train_at_the_rate_of_the_batch(tmp_path: Path) -> None:
    for optimizer in ("lars", "sgd"):
        config = replace(small(steps=2, root=tmp_path), name=optimizer, optimizer=optimizer, lr_reference_batch=12)
        result, *_ = train(config)
        assert result.metrics["lr"] <= 2e-3
        assert image.scale_lr(config).lr == pytest.approx(2e-3)


def write_pictures(folder: Path, count: int) -> None:
    """Class folders ``a`` and ``b`` of noise, of several sizes."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(0, 256, (20 + k % 3, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{k}.png")


def pictures(tmp_path: Path, preset: str = "byol") -> ImageConfig:
    config = small("byol", steps=3, root=tmp_path)
    return replace(
        config,
        data=DataConfig(str(tmp_path / "set" / "train"), size=16, batch=8),
        augment=AugmentConfig(preset, small_size=8, small_views=2, views=3),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("preset", ["byol", "simclr", "weak-target", "multi-crop", "patches"])
def test_folders_of_pictures_train_under_each_preset(tmp_path: Path, preset: str) -> None:
    for part in ("train", "val"):
        write_pictures(tmp_path / "set" / part, 5)
    (tmp_path / "set" / "train" / "a" / "0.png").write_bytes(b"no picture")
    config = replace(pictures(tmp_path, preset), data=replace(pictures(tmp_path).data, max_bad_fraction=0.5))
    result, experiment, splits, run = train(config)
    assert np.isfinite(result.metrics["loss"])
    assert json.loads((run.path / "errors.jsonl").read_text())["cause"] == "unreadable"
    assert splits.test is not None
    assert features(experiment.encoder, splits.test, config).x_ND.shape == (10, 16)
    several = replace(config, eval=replace(config.eval, patches=3, batch=4))
    assert [tuple(x.shape) for x, _ in evaluation_batches(splits.test, several)] == [
        (4, 3, 3, 16, 16),
        (4, 3, 3, 16, 16),
        (2, 3, 3, 16, 16),
    ]


def test_multi_crop_predicts_the_large_views_from_all(tmp_path: Path) -> None:
    config = pictures(tmp_path, "multi-crop")
    model: Bootstrap = build_method(config, build_encoder(config), steps=1)
    assert [edge.name for edge in model.edges(0)] == ["a->b", "b->a", "s0->a", "s0->b", "s1->a", "s1->b"]
    assert sum(edge.weight for edge in model.edges(0)) == pytest.approx(2.0)  # type: ignore[misc]
    contrast = replace(config, method=replace(config.method, name="simclr"))
    terms = build_method(contrast, build_encoder(contrast), steps=1).set_terms
    assert [term.views for term in terms if isinstance(term, SetTerm)] == [
        ("a", "b"),
        ("a", "s0"),
        ("b", "s0"),
        ("a", "s1"),
        ("b", "s1"),
    ]


def test_the_annotator_answers_from_the_labels_within_its_budget() -> None:
    torch.manual_seed(0)
    truth = torch.arange(40) % 4
    asked = AskedPairs(40, budget=25, questions=10, every=2, score="uncertainty")
    z_VBD = torch.randn(2, 20, 8)
    for step in range(8):
        ids = torch.randperm(40)[:20]
        asked.stage(z_VBD, ids, truth[ids])
        asked.commit()
        assert int(asked.used) == min(10 * (step // 2 + 1), 25)
    pairs, same = asked.pairs, asked.same
    assert torch.equal(same, truth[pairs[:, 0]] == truth[pairs[:, 1]])
    copy = AskedPairs(40, budget=25, questions=10, every=2, score="uncertainty")
    copy.load_state_dict(asked.state_dict())
    ids = torch.arange(40)
    assert torch.equal(copy.graph(ids), asked.graph(ids))
    assert asked.graph(ids).sum() > 40
    assert bool((asked.graph(ids) <= (truth[:, None] == truth).float()).all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": AugmentConfig("byol")}, "does not go with"),
        ({"data": DataConfig(fraction=0.5)}, "clutter-digits has pictures of 16"),
        ({"method": MethodConfig("sie")}, "rotate"),
        ({"method": MethodConfig("semppl")}, "label_share"),
        ({"data": DataConfig(label_share=0.1)}, "must not see"),
        ({"augment": AugmentConfig(views=1)}, "two views"),
    ],
)
def test_contradictions_are_answered(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(clutter(), **changes)


def test_an_unknown_encoder_is_answered() -> None:
    for name, message in (("resnet9", "no torchvision ResNet"), ("keras:x", "expected small")):
        with pytest.raises(ValueError, match=message):
            build_encoder(replace(clutter(), encoder=EncoderConfig(name)))


def test_the_command_line_reaches_nested_options() -> None:
    args = "--preset tiny --method.name pal-infonce --method.pal.graph active --method.closed.ridge 0.5 --eval.c None"
    config = parse(clutter, PRESETS, args.split(), prog="byol-ext image train", description="")
    assert (config.name, config.method.name, config.method.pal.graph) == ("tiny", "pal-infonce", "active")
    assert (config.method.closed.ridge, config.eval.c, config.train.steps) == (0.5, None, 200)
