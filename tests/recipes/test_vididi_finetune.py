from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from byol_ext.bootstrap import Ctx
from byol_ext.training import Run, Trainable, TrainConfig
from byol_ext.video.samples import ArrayReader, Reader, VideoList, VideoReadError, VideoSample
from byol_ext.video.transforms import CentreClip, ClipAugment
from recipes.vididi_features import ClipProtocol
from recipes.vididi_finetune import FinetuneConfig, VideoClassifier, classify, finetune
from recipes.vididi_split import split_by_group

CENTRE = CentreClip(size=4, short_side=4)
AUGMENT = ClipAugment(size=4, p_flip=0.0, p_grey=0.0, p_blur=0.0, hue=0.0, saturation=0.0, brightness=0.1)
CONFIG = FinetuneConfig(
    train=TrainConfig(
        steps=12, lr=0.3, warmup=0.0, schedule="const", weight_decay=0.0, clip_norm=0.0, trackers=(), device="cpu",
        log_every=1, monitor_every=0,
    ),
    batch=8,
    dropout=0.0,
    frames=6,
    stride=1,
    test=ClipProtocol(clips=2, frames=6, stride=1, batch=16),
)  # fmt: skip


class Encoder(nn.Module):
    """A convolution over time and space with a BatchNorm."""

    width = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, (3, 2, 2), bias=False)
        self.norm = nn.BatchNorm3d(8)

    def forward(self, x_BCTHW: Tensor, order_B: Tensor | None = None) -> Tensor:
        return self.norm(self.conv(x_BCTHW)).relu().mean(dim=(2, 3, 4))


def _open(frames: np.ndarray) -> Reader:
    return ArrayReader(frames)


def _broken() -> Reader:
    raise VideoReadError("unreadable", "no video", source="broken")


def ramps(n: int, *, seed: int) -> VideoList:
    """Brightness that rises (class 0) or falls (class 1)."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        level_N = 128 + (np.arange(10) - 4.5) * rng.uniform(8, 12) * (1, -1)[i % 2]
        frames = np.broadcast_to(level_N[:, None, None, None], (10, 5, 5, 3)).astype(np.uint8)
        samples.append(VideoSample(f"r{seed}-{i}", partial(_open, frames), label=i % 2, group=f"g{i // 2 % 5}"))
    return VideoList(samples, classes=("rise", "fall"))


def new_run(path: Path, config: FinetuneConfig = CONFIG, *, resume: bool = False) -> Run:
    return Run.create(path, recipe="vididi", config=config, resume=resume)


def seeded_encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder()


def test_it_learns_and_tests_every_video(tmp_path: Path) -> None:
    broken = [VideoSample(f"broken-{k}", _broken, label=0, group=f"g{k}") for k in range(2)]  # not both held out
    train = VideoList([*ramps(40, seed=1), *broken], classes=("rise", "fall"))
    config = replace(CONFIG, orders=(0, 1), heads="separate", three_crops=True, validation_share=0.2)
    config = replace(config, train=replace(config.train, evaluate_every=6), max_bad_fraction=0.5)
    run = new_run(tmp_path / "run", config)
    found = finetune(
        seeded_encoder(), train=train, test=ramps(11, seed=2), config=config, augment=AUGMENT, centre=CENTRE, run=run
    )
    assert found.metrics["finetune/accuracy"] == found.metrics["finetune/accuracy_three_crops"] == 1.0
    assert found.metrics["finetune/validation_accuracy"] == 1.0
    assert found.metrics["finetune/n_test"] == 11
    assert found.protocol["n_train"] + found.protocol["n_validation"] == 42
    assert found.metrics["finetune/n_validation"] == 8
    assert found.confusion is not None
    assert found.confusion.tolist() == [[6, 0], [0, 5]]
    assert "eval/accuracy" in run.metrics()[5]
    assert [line["lr"] for line in run.metrics()] == pytest.approx([0.3] * 6 + [0.03] * 2 + [0.003] * 2 + [0.0003] * 2)
    assert "broken" in (run.path / "errors.jsonl").read_text()


def test_an_interrupted_fine_tuning_goes_on_to_equal_weights(tmp_path: Path) -> None:
    config = replace(CONFIG, dropout=0.5)
    half = replace(config, train=replace(config.train, steps=6), decay_at=(1.0, 4 / 3))
    whole = replace(config, decay_at=(0.5, 2 / 3))
    data = {"train": ramps(24, seed=1), "test": ramps(6, seed=2), "augment": AUGMENT, "centre": CENTRE}
    encoders = [seeded_encoder() for _ in range(3)]
    finetune(encoders[0], config=whole, run=new_run(tmp_path / "whole", config), **data)
    finetune(encoders[1], config=half, run=new_run(tmp_path / "parts", config), **data)
    finetune(
        encoders[2], config=whole, run=new_run(tmp_path / "parts", config, resume=True), resume=True, **data
    )  # fmt: skip
    for name, value in encoders[0].state_dict().items():
        assert torch.equal(value, encoders[2].state_dict()[name]), name
    assert not torch.equal(encoders[0].conv.weight, encoders[1].conv.weight)


def test_adamw_may_take_the_place_of_sgd(tmp_path: Path) -> None:
    weights = []
    for optimizer in ("sgd", "adamw"):
        config = replace(CONFIG, optimizer=optimizer, decay_at=(), train=replace(CONFIG.train, steps=1, lr=1e-3))
        encoder = seeded_encoder()
        finetune(
            encoder, train=ramps(12, seed=1), test=ramps(4, seed=2), config=config, augment=AUGMENT, centre=CENTRE,
            run=new_run(tmp_path / optimizer, config),
        )  # fmt: skip
        weights.append((encoder.conv.weight - seeded_encoder().conv.weight).abs().detach())
    assert weights[1].max().item() == pytest.approx(1e-3, rel=0.01)  # Adam's first step is the rate in size
    assert not torch.allclose(weights[0], weights[1])


def test_a_frozen_encoder_does_not_move_statistics_included(tmp_path: Path) -> None:
    encoder = seeded_encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    config = replace(CONFIG, freeze=True)
    found = finetune(
        encoder, train=ramps(24, seed=1), test=ramps(6, seed=2), config=config, augment=AUGMENT, centre=CENTRE,
        run=new_run(tmp_path / "run", config),
    )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert "frozen" in found.protocol["encoder"]


@pytest.mark.parametrize("heads", ["shared", "separate"])
def test_the_loss_is_the_mean_over_orders(heads: str) -> None:
    config = replace(CONFIG, orders=(0, 1), heads=heads)
    model = VideoClassifier(Encoder(), 3, config).eval()
    assert isinstance(model, Trainable)
    assert len(model.heads) == (2 if heads == "separate" else 1)
    x, labels = torch.randn(4, 3, 6, 4, 4), torch.tensor([0, 1, 2, 1])
    views = {"0": x, "1": x[:, :, 1:] - x[:, :, :-1]}
    out = model(views, Ctx(data={"labels": labels}), 0)
    losses = [
        F.cross_entropy(model.heads[key if heads == "separate" else "0"](model.encoder(views[key])), labels)
        for key in ("0", "1")
    ]
    torch.testing.assert_close(out.loss, (losses[0] + losses[1]) / 2)
    torch.testing.assert_close(out.terms["d1"], losses[1].detach())


def test_logits_are_means_over_clips() -> None:
    model = VideoClassifier(Encoder(), 2, replace(CONFIG, dropout=0.9)).train()
    source = ramps(5, seed=3)
    table = classify(model, source, CONFIG.test, centre=CENTRE)
    assert model.training
    model.eval()
    for i in range(5):
        frames = torch.from_numpy(source[i].open().frames(range(10)).copy())
        clips = torch.stack([frames[0:6], frames[4:10]])[None]
        x = CENTRE(clips, torch.tensor([[5, 5]]))[0]
        expected = model.heads["0"](model.encoder(x)).mean(dim=0)
        torch.testing.assert_close(table.values["logits"][i], expected)


def labelled(groups: list[tuple[int, str | None]]) -> VideoList:
    samples = [VideoSample(str(i), _broken, label=label, group=group) for i, (label, group) in enumerate(groups)]
    return VideoList(samples, classes=[str(k) for k in range(9)])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=60),
    st.floats(0.05, 0.6),
    st.integers(0, 3),
)
def test_groups_are_never_divided_and_every_class_is_trained_on(
    videos: list[tuple[int, int]], share: float, seed: int
) -> None:
    source = labelled([(label, f"{label}-{group}") for label, group in videos])
    train, held = split_by_group(source, share=share, seed=seed)
    again = split_by_group(source, share=share, seed=seed)[0]
    kept = [train[i] for i in range(len(train))]
    out = [held[i] for i in range(len(held))] if held is not None else []
    assert [s.key for s in kept] == [again[i].key for i in range(len(again))]
    assert sorted(int(s.key) for s in [*kept, *out]) == list(range(len(videos)))
    assert not {s.group for s in kept} & {s.group for s in out}
    assert {s.label for s in kept} == {label for label, _ in videos}
    for label in {label for label, _ in videos}:
        groups = len({group for other, group in videos if other == label})
        found = len({s.group for s in out if s.label == label})
        assert found == (max(round(share * groups), 1) if groups > 1 else 0)


def test_groups_that_span_classes_stay_whole() -> None:
    source = labelled([(label, f"g{group}") for group in range(25) for label in range(4)])
    train, held = split_by_group(source, share=0.2, seed=0)
    assert (len(train), len(held)) == (80, 20)
    with pytest.raises(ValueError, match="would have no training video"):
        split_by_group(labelled([(0, "a"), (0, "b"), (1, "a"), (2, "b")]), share=0.5, seed=0)
    with pytest.raises(ValueError, match="has no label"):
        split_by_group(VideoList([VideoSample("bare", _broken)]), share=0.1, seed=0)
