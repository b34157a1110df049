from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from byol_ext.ledger import TooManyBadSamples
from byol_ext.rng import sample_keys
from byol_ext.video.samples import ArrayReader, Reader, VideoList, VideoReadError, VideoSample
from byol_ext.video.transforms import CentreClip
from recipes.vididi_eval import EvalConfig, Evaluation, evaluate
from recipes.vididi_features import ClipProtocol, one_frame, shuffled_frames, tabulate

PROTOCOL = ClipProtocol(clips=3, frames=4, stride=2, batch=7)
CONFIG = EvalConfig(PROTOCOL, resamples=100)

CENTRE = CentreClip(size=4, short_side=5)


class Projection(nn.Module):
    """Random features of a clip after a BatchNorm."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(3)
        self.width = width
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("weight", torch.randn(48, width, generator=generator))

    def forward(self, x_BCTHW: Tensor, order_B: Tensor | None = None) -> Tensor:
        return (self.norm(x_BCTHW).std(dim=2).flatten(1) - 0.1) @ self.weight


class Slope(nn.Module):
    """Mean brightness, and its mean change from frame to frame, jumps cut down."""

    width = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x_BCTHW: Tensor, order_B: Tensor | None = None) -> Tensor:
        mean_BT = x_BCTHW.mean(dim=(1, 3, 4))
        change_B = mean_BT.diff(dim=1).clamp(-0.05, 0.05).mean(dim=1)
        return self.scale * torch.stack([mean_BT.mean(dim=1), change_B], dim=1)


def _open(frames: np.ndarray) -> Reader:
    return ArrayReader(frames)


def _broken() -> Reader:
    raise VideoReadError("unreadable", "no video", source="broken")


def noise(n: int, *, seed: int, classes: int = 3, length: int = 20) -> VideoList:
    """Noise of several sizes whose contrast depends a little on the class."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        label = i % classes
        frames = rng.normal(128, 20 + 8 * label + 12 * rng.random(3), size=(length + i % 5, 6 + i % 3, 7, 3))
        opener = partial(_open, frames.clip(0, 255).astype(np.uint8))
        samples.append(VideoSample(f"v{seed}-{i}", opener, label=label, group=f"g{i % 4}", facts={"third": i // 3 % 3}))
    return VideoList(samples, classes=tuple("abc")[:classes])


def ramps(n: int, *, seed: int) -> VideoList:
    """Brightness that rises (class 0) or falls (class 1) through all grey levels, so that a frame tells nothing."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        level_N = (rng.integers(128) + np.arange(16) * rng.uniform(3, 8) * (1, -1)[i % 2]) % 128 + 64
        frames = np.broadcast_to(level_N[:, None, None, None], (16, 5, 5, 3)).astype(np.uint8)
        samples.append(VideoSample(f"r{seed}-{i}", partial(_open, frames), label=i % 2))
    return VideoList(samples, classes=("rise", "fall"))


@pytest.fixture(scope="module")
def measured() -> tuple[Evaluation, Projection]:
    encoder = Projection().train()
    return (
        evaluate(
            encoder, train=noise(60, seed=1), test=noise(31, seed=2), centre=CENTRE, random_init=Projection(),
            config=replace(CONFIG, appearance="third", ks=(1, 5, 20)),
        ),
        encoder,
    )  # fmt: skip


def test_features_are_those_of_a_plain_loop_over_videos(measured: tuple[Evaluation, Projection]) -> None:
    evaluation, encoder = measured
    source = noise(31, seed=2)
    encoder.eval()
    for row, index in enumerate(evaluation.test.ids.tolist()):
        frames = source[index].open()
        length, height, width = len(frames.info.times_N), frames.info.height, frames.info.width
        found, differences = [], []
        for start in np.linspace(0, length - 7, 3).round().astype(int):
            clip = torch.from_numpy(frames.frames(range(start, start + 7, 2)))[None, None]
            x = CENTRE(clip, torch.tensor([[height, width]]))[:, 0]
            found.append(encoder(x))
            differences.append(encoder(x[:, :, 1:] - x[:, :, :-1]))
        raw, difference = (torch.cat(part).mean(dim=0) for part in (found, differences))
        torch.testing.assert_close(evaluation.test.values["raw"][row], raw, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(evaluation.test.values["difference"][row], difference, rtol=1e-5, atol=1e-5)


def test_retrieval_agrees_with_scikit_learn(measured: tuple[Evaluation, Projection]) -> None:
    evaluation, _ = measured
    train, test = evaluation.train, evaluation.test
    for name, parts in (("", ("raw",)), ("d1/", ("raw", "difference"))):
        gallery, query = (torch.cat([t.values[part] for part in parts], dim=1).double().numpy() for t in (train, test))
        neighbours = NearestNeighbors(n_neighbors=20, metric="cosine").fit(gallery)
        near_QK = neighbours.kneighbors(query, return_distance=False)
        right_QK = train.labels.numpy()[near_QK] == test.labels.numpy()[:, None]
        for k in (1, 5, 20):
            assert evaluation.metrics[f"retrieval/{name}R@{k}"] == pytest.approx(100 * right_QK[:, :k].any(1).mean())
    assert evaluation.metrics["retrieval/chance/R@1"] == pytest.approx(100 / 3)
    assert 0 < evaluation.metrics["retrieval/R@1/low"] <= evaluation.metrics["retrieval/R@1"]
    assert evaluation.metrics["retrieval/R@1"] <= evaluation.metrics["retrieval/R@1/high"]


def test_probes_agree_with_scikit_learn(measured: tuple[Evaluation, Projection]) -> None:
    evaluation, _ = measured
    train, test, metrics = evaluation.train, evaluation.test, evaluation.metrics
    train_y, test_y = train.labels.numpy(), test.labels.numpy()

    def linear(train_x: Tensor, test_x: Tensor, train_y: np.ndarray, test_y: np.ndarray) -> float:
        scale = StandardScaler().fit(train_x.double().numpy())
        model = LogisticRegression(C=0.1, max_iter=5000, tol=1e-8).fit(scale.transform(train_x), train_y)
        return float(model.score(scale.transform(test_x), test_y))

    controls = {"linear": "raw", "random_init": "random_init_raw"}
    for name, feature in (controls | {name: name for name in ("shuffled", "single_frame")}).items():
        expected = linear(train.values[feature], test.values[feature], train_y, test_y)
        assert metrics[f"probe/{name}_accuracy"] == pytest.approx(expected), name
    both = [torch.cat([t.values["raw"], t.values["difference"]], dim=1) for t in (train, test)]
    assert metrics["probe/linear_d1_accuracy"] == pytest.approx(linear(*both, train_y, test_y))
    third = [np.array([facts["third"] for facts in t.facts]) for t in (train, test)]
    assert metrics["probe/appearance_accuracy"] == pytest.approx(
        linear(train.values["raw"], test.values["raw"], *third)
    )

    def weights(distance_QK: np.ndarray) -> np.ndarray:
        return np.exp(-distance_QK / 0.07)

    voters = KNeighborsClassifier(20, metric="cosine", weights=weights).fit(train.values["raw"], train_y)
    assert metrics["probe/knn_accuracy"] == pytest.approx(voters.score(test.values["raw"], test_y))
    assert evaluation.confusion.trace() == pytest.approx(metrics["probe/linear_accuracy"] * len(test))
    assert metrics["probe/chance"] == pytest.approx(1 / 3)


def test_the_encoder_is_left_as_it_was(measured: tuple[Evaluation, Projection]) -> None:
    encoder = Projection().train()
    encoder.norm.eval()
    evaluate(encoder, train=noise(6, seed=1), test=noise(6, seed=2), config=CONFIG, centre=CENTRE)
    assert encoder.training
    assert not encoder.norm.training
    fresh = Projection().state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in encoder.state_dict().items())
    assert torch.equal(measured[1].norm.running_mean, torch.zeros(3))


def test_controls_tell_motion_from_single_frames() -> None:
    config = replace(CONFIG, protocol=ClipProtocol(clips=1, frames=8, stride=1, batch=64), ks=(1,))
    found = evaluate(Slope(), train=ramps(160, seed=1), test=ramps(160, seed=2), config=config, centre=CENTRE).metrics
    assert found["probe/linear_accuracy"] > 0.95
    assert found["probe/single_frame_accuracy"] < 0.62
    assert found["probe/shuffled_accuracy"] < 0.62
    assert found["probe/chance"] == 0.5


def test_the_batch_changes_nothing() -> None:
    source = noise(9, seed=4)
    functions = {"shuffled": lambda clips, keys: shuffled_frames(clips, keys).flatten(1)}
    one, many = (
        tabulate(source, functions, replace(PROTOCOL, batch=batch), centre=CENTRE, device="cpu") for batch in (1, 64)
    )
    assert torch.equal(one.values["shuffled"], many.values["shuffled"])
    assert one.keys == many.keys == [f"v4-{i}" for i in range(9)]


def test_shuffled_frames_are_a_permutation_for_each_clip() -> None:
    x = torch.randn(2, 3, 1, 6, 2, 2)
    shuffled = shuffled_frames(x, sample_keys(0, 0, torch.tensor([5, 9])))
    orders = set()
    for b in range(2):
        for v in range(3):
            match = (shuffled[b, v, :, :, None] == x[b, v, :, None]).all(dim=(0, 3, 4))
            assert (match.sum(0) == 1).all()
            assert (match.sum(1) == 1).all()
            orders.add(tuple(match.int().argmax(dim=1).tolist()))
    assert len(orders) > 1


def test_one_frame_is_one_frame_of_the_video() -> None:
    x = torch.randn(2, 3, 1, 5, 2, 2)
    still = one_frame(x)
    assert still.shape == (2, 1, 1, 5, 2, 2)
    assert torch.equal(still[:, 0, :, 0], x[:, 1, :, 2])
    assert (still.diff(dim=3) == 0).all()


def test_three_crops_cover_the_long_side() -> None:
    frames = np.zeros((8, 4, 12, 3), np.uint8)
    frames[:, :, :4], frames[:, :, 8:] = 60, 180  # three squares: dark, black, bright
    source = VideoList([VideoSample("wide", partial(_open, frames), label=0)])
    centre = CentreClip(size=4, short_side=4, mean=(0.0,) * 3, std=(1.0,) * 3)
    protocol = replace(PROTOCOL, clips=2, frames=2, crops=3)
    means = {"means": lambda clips, keys: clips.mean(dim=(2, 3, 4, 5))}
    table = tabulate(source, means, protocol, centre=centre, device="cpu")
    torch.testing.assert_close(255 * table.values["means"], torch.tensor([[60.0, 60, 0, 0, 180, 180]]))


def test_short_videos_are_kept_unless_the_authors_protocol_is_asked_for() -> None:
    short = noise(2, seed=5, length=3)
    train = VideoList([*noise(20, seed=1), *short], classes="abc")
    found = [
        evaluate(Projection(), train=train, test=noise(12, seed=2), centre=CENTRE,
                 config=replace(CONFIG, authors_protocol=flag, controls=False))
        for flag in (False, True)
    ]  # fmt: skip
    assert [e.metrics["retrieval/n_gallery"] for e in found] == [22, 20]
    assert [e.metrics["retrieval/n_skipped"] for e in found] == [0, 2]
    assert found[1].protocol["skipped"] == {"short": 2}
    assert found[0].protocol["kept_although"]["short"] == 2


def test_a_broken_video_is_an_error_unless_allowed() -> None:
    broken = VideoSample("broken", _broken, label=0)
    test = VideoList([*noise(12, seed=2), broken], classes="abc")
    with pytest.raises(TooManyBadSamples, match="unreadable"):
        evaluate(Projection(), train=noise(12, seed=1), test=test, config=CONFIG, centre=CENTRE)
    lenient = replace(CONFIG, protocol=replace(PROTOCOL, max_bad_fraction=0.2))
    found = evaluate(Projection(), train=noise(12, seed=1), test=test, config=lenient, centre=CENTRE)
    assert found.metrics["retrieval/n_skipped"] == 1
    assert found.protocol["skipped"] == {"unreadable": 1}
    assert [error["key"] for error in found.test.errors] == ["broken"]
    with pytest.raises(ValueError, match="none of 1 videos is left"):
        tabulate(VideoList([broken]), {}, replace(PROTOCOL, max_bad_fraction=1.0), centre=CENTRE, device="cpu")


def test_a_query_without_its_class_in_the_gallery_is_counted() -> None:
    found = evaluate(
        Projection(), train=noise(12, seed=1, classes=2), test=noise(12, seed=2), config=CONFIG, centre=CENTRE
    )
    assert found.metrics["retrieval/n_query"] == 8
    assert found.metrics["retrieval/n_without_class"] == 4
    assert found.metrics["probe/chance"] == 0.5


def test_missing_labels_and_facts_are_named() -> None:
    bare = VideoSample("bare", noise(1, seed=1)[0].open)
    with pytest.raises(ValueError, match="has no classes"):
        evaluate(Projection(), train=VideoList([bare]), test=noise(4, seed=2), config=CONFIG, centre=CENTRE)
    with pytest.raises(ValueError, match="without a label, such as bare"):
        evaluate(
            Projection(), train=VideoList([bare], classes="abc"), test=noise(4, seed=2), config=CONFIG, centre=CENTRE
        )
    config = replace(CONFIG, appearance="photograph")
    with pytest.raises(ValueError, match="their facts are"):
        evaluate(Projection(), train=noise(6, seed=1), test=noise(6, seed=2), config=config, centre=CENTRE)


def with_ram(n: int, *, seed: int) -> VideoList:
    """Two games whose first byte of RAM in the middle is the brightness of the video, the second a die."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        level = int(rng.integers(20, 220))
        frames = np.full((20, 8, 8, 3), level, np.uint8)
        ram = np.stack([np.full(20, level), np.full(20, rng.integers(0, 250)), np.full(20, i % 2)], 1).astype(np.uint8)
        opener = partial(_open, frames)
        samples.append(VideoSample(str(i), opener, label=i % 3, facts={"ram": ram, "game": i % 2}))
    return VideoList(samples, classes=list("abc"))


def test_memory_is_probed_game_by_game() -> None:
    config = EvalConfig(replace(PROTOCOL, clips=1), resamples=20, knn=3, controls=False)
    train, test = with_ram(80, seed=0), with_ram(40, seed=1)
    metrics = evaluate(Slope(), train=train, test=test, config=config, centre=CENTRE).metrics
    assert metrics["probe/ram/bytes"] == 2  # the flag varies too little
    assert metrics["probe/ram/share_above_half"] == 0.5
    assert 0.3 < metrics["probe/ram/r2_mean"] < 0.6
    plain = evaluate(
        Slope(), train=ramps(24, seed=0), test=ramps(12, seed=1), config=replace(config, knn=3), centre=CENTRE
    )
    assert not any("ram" in name.split("/") for name in plain.metrics)
