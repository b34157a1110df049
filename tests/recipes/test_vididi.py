"""The video recipe end to end on a few moving digits: train, stop, resume, evaluate, figures; every command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from byol_ext.ledger import BadSampleLedger, TooManyBadSamples
from byol_ext.schedules import at
from byol_ext.training import latest_checkpoint, learning_rate
from byol_ext.training.checkpoint import load_model_state
from byol_ext.video.encode import write_mp4
from byol_ext.video.schedule import DerivativeSchedule
from recipes import vididi
from recipes.cli import run as cli
from recipes.vididi import Prepare, authors_rate, build, load_run, scale_lr, train
from recipes.vididi_commands import train_and_evaluate
from recipes.vididi_config import PRESETS, VididiConfig, motion, motion_byol, motion_simclr, paper_byol, tiny
from recipes.vididi_data import open_splits

METHODS = {"vicreg": motion, "simclr": motion_simclr, "byol": motion_byol}


def weights(root: Path, name: str) -> dict[str, Any]:
    """Weights of a run's newest checkpoint."""
    checkpoint = latest_checkpoint(root / "vididi" / name / "checkpoints")
    assert checkpoint is not None
    return load_model_state(checkpoint)


def write_videos(folder: Path, count: int, *, frames: int = 20) -> None:
    """Class folders ``a`` (a square goes right) and ``b`` (left), 24 x 32 pixels."""
    for label, way in (("a", 1), ("b", -1)):
        (folder / label).mkdir(parents=True)
        for k in range(count):
            ground = np.random.default_rng(k).integers(0, 120, (24, 32, 3), dtype=np.uint8)
            video = np.repeat(ground[None], frames, axis=0)
            for t in range(frames):
                video[t, 8:14, (np.arange(6) + 3 * k + way * t) % 32] = 250
            write_mp4(folder / label / f"{label}{k}.mp4", [(video, np.arange(frames) / 25.0)])


def small(tmp_path: Path, method: str = "vicreg", *, steps: int = 6, **method_changes: Any) -> VididiConfig:
    config = METHODS[method]()
    return replace(
        config,
        name=method,
        root=str(tmp_path),
        data=replace(config.data, videos=64, test_videos=32, batch=16),
        method=replace(config.method, projector=(16, 8), predictor_hidden=16, **method_changes),
        train=replace(config.train, steps=steps, warmup=0.0, log_every=1, monitor_every=2, checkpoint_every=2),
        eval=replace(config.eval, protocol=replace(config.eval.protocol, batch=96), resamples=50, knn=5),
    )


@pytest.mark.parametrize("method", list(METHODS))
def test_train_evaluate_figures(tmp_path: Path, method: str) -> None:
    assert train_and_evaluate(small(tmp_path, method)) == 0
    folder = tmp_path / "vididi" / method
    results = json.loads((folder / "results.json").read_text())
    metrics = results["metrics"]
    for name in ("probe/linear_accuracy", "probe/single_frame_accuracy", "retrieval/R@1", "saliency/share_inside"):
        assert np.isfinite(metrics[name]), name
    assert metrics["probe/chance"] == 1 / 8
    assert results["controls"]["probe/random_init_accuracy"] == metrics["probe/random_init_accuracy"]
    assert results["protocol"]["n_skipped"] == 0
    assert {path.name for path in (folder / "figures").glob("*.png")} == {
        "training.png",
        "derivatives.png",
        "confusion.png",
        "retrieval.png",
        "saliency.png",
    }
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(record["loss"]) for record in records)
    if method == "byol":
        pairs = [sorted(name for name in record if "->" in name) for record in records]
        expected = vididi.build_schedule(small(tmp_path, method), steps_per_epoch=4)
        assert pairs == [sorted(edge.name for edge in expected.plan(None)(step)) for step in range(len(records))]
    assert json.loads((folder / "data.json").read_text())["seen"] == 96


def test_views_are_the_differences_that_the_schedule_asks_for(tmp_path: Path) -> None:
    config = small(tmp_path)
    schedule = DerivativeSchedule(period="step")
    prepare = Prepare(config.augment, schedule, seed=0, ledger=BadSampleLedger())
    plain = Prepare(config.augment, DerivativeSchedule.base(), seed=0, ledger=BadSampleLedger())
    batch = {
        "clips": torch.randint(0, 256, (4, 2, 8, 24, 24, 1), dtype=torch.uint8),
        "sizes": torch.full((4, 2), 24),
        "ids": torch.arange(4),
        "epochs": torch.zeros(4, dtype=torch.int64),
        "seen": 4,
        "bad": {},
        "errors": [],
    }
    raw, _ = plain(batch, 0)
    for step in range(8):
        views, _ = prepare(batch, step)
        for name, order in zip(("first", "second"), schedule.orders(step), strict=True):
            frames = views[name]["x"].shape[2]
            assert frames == 8 - max(schedule.orders(step))
            expected = torch.diff(raw[name]["x"], n=order, dim=2)[:, :, :frames]
            torch.testing.assert_close(views[name]["x"], expected)
            assert views[name]["order_B"].tolist() == [order] * 4


def test_the_base_method_sees_raw_clips_only(tmp_path: Path) -> None:
    schedule = vididi.build_schedule(small(tmp_path, vididi=False), steps_per_epoch=4)
    assert {schedule.orders(step) for step in range(50)} == {(0, 0)}


@pytest.mark.parametrize("method", ["vicreg", "byol"])
def test_a_run_stopped_inside_a_cycle_goes_on_bit_by_bit(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = small(tmp_path / "whole", method, steps=7)
    train(whole)
    parts = small(tmp_path / "parts", method, steps=7)
    original = vididi.Prepare.__call__
    monkeypatch.setattr(
        vididi.Prepare,
        "__call__",
        lambda self, batch, step: (
            (os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None) or original(self, batch, step)
        ),
    )
    stopped, *_ = train(parts)
    assert (stopped.interrupted, stopped.step) == ("SIGTERM", 3)
    monkeypatch.undo()
    train(parts, resume=True)
    one, two = (weights(tmp_path / name, method) for name in ("whole", "parts"))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert train_and_evaluate(parts, resume=True) == 0


def test_weights_do_not_depend_on_workers(tmp_path: Path) -> None:
    losses = []
    for workers in (0, 2):
        config = small(tmp_path / str(workers), steps=3)
        result, *_ = train(replace(config, data=replace(config.data, workers=workers)))
        losses.append(result.metrics["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("bn", ["joint", "per_view", "per_order"])
def test_batch_norm_modes_train_and_load(tmp_path: Path, bn: str) -> None:
    config = small(tmp_path, steps=3)
    config = replace(config, encoder=replace(config.encoder, bn=bn))
    _, experiment, _, run = train(config)
    loaded = load_run(run.path)[1].encoder.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in experiment.encoder.state_dict().items())


def test_an_encoder_for_each_order(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="per_view"):
        small(tmp_path, share=False)
    config = small(tmp_path)
    config = replace(config, encoder=replace(config.encoder, bn="per_view"), method=replace(config.method, share=False))
    experiment = build(config, channels=1, steps=1, steps_per_epoch=1)
    x = torch.randn(2, 1, 8, 24, 24)
    experiment.encoder.eval()
    orders = [experiment.encoder(x, torch.full((2,), order)) for order in range(3)]
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[1], orders[2])


def test_the_authors_rates_are_a_staircase() -> None:
    config = replace(paper_byol(), train=replace(paper_byol().train, epochs=None, steps=80))
    schedule = vididi.build_schedule(config, steps_per_epoch=10)
    rate = authors_rate(config, config.train, schedule, 80)
    assert rate is not None
    plain = learning_rate(config.train, 20)
    assert [rate(step) for step in range(80)] == [plain(step % 10 + 10 * (step // 40)) for step in range(80)]
    target = build(config, channels=3, steps=80, steps_per_epoch=10).model.target
    assert target is not None
    assert target.ema is not None
    assert {at(target.ema.tau, step) for step in (0, 79)} == {0.99}


def test_the_rate_grows_with_the_batch() -> None:
    config = replace(tiny(), lr_reference_batch=256)
    assert scale_lr(config).lr == pytest.approx(config.train.lr * 64 / 256)


def test_presets_build() -> None:
    for name, preset in PRESETS.items():
        config = preset()
        config = replace(config, encoder=replace(config.encoder, name="small"))
        experiment = build(config, channels=len(config.augment.mean), steps=4, steps_per_epoch=20)
        assert experiment.schedule.max_order == 2, name


def test_label_breaking_augmentation_is_refused(tmp_path: Path) -> None:
    config = small(tmp_path)
    with pytest.raises(ValueError, match="hflip"):
        train(replace(config, augment=replace(config.augment, p_flip=0.5)))


def test_a_folder_with_a_few_broken_files_trains_to_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    write_videos(folder / "train", 20)
    write_videos(folder / "test", 4)
    (folder / "train" / "a" / "broken.mp4").write_bytes(b"not a video")
    config = small(tmp_path, steps=6)
    config = replace(
        config,
        data=replace(config.data, train=str(folder), batch=8, short_side=24),
        eval=replace(config.eval, appearance=None),
    )
    assert train_and_evaluate(config) == 0
    run = tmp_path / "vididi" / "vicreg"
    account = json.loads((run / "data.json").read_text())
    assert account["bad"] == account["bad/unreadable"] >= 1
    assert "broken.mp4" in (run / "errors.jsonl").read_text()
    assert cli(["vididi", "retrieve", "--run", str(run), "--clips", "2", "--json"]) == 0
    assert cli(["vididi", "eval", "--run", str(run), "--limit", "6"]) == 0
    finetune = ["vididi", "finetune", "--run", str(run), "--finetune.train.epochs", "1", "--finetune.batch", "8"]
    short = ["--finetune.frames", "8", "--finetune.stride", "1", "--finetune.test.clips", "2"]
    assert cli([*finetune, *short, "--finetune.test.frames", "8", "--json"]) == 0
    assert cli([*finetune, *short, "--scratch", "--name", "scratch", "--finetune.test.frames", "8"]) == 0
    tested = json.loads((run / "finetune" / "scratch" / "results.json").read_text())
    assert 0 <= tested["metrics"]["finetune/accuracy"] <= 1


def test_an_all_bad_folder_stops_and_names_files(tmp_path: Path) -> None:
    (tmp_path / "v" / "a").mkdir(parents=True)
    for k in range(12):
        (tmp_path / "v" / "a" / f"{k}.mp4").write_bytes(b"nothing")
    config = small(tmp_path)
    config = replace(config, data=replace(config.data, train=str(tmp_path / "v"), batch=4))
    with pytest.raises(TooManyBadSamples, match=r"12 of 12 videos tried(.*\.mp4){5}"):
        train(config)


def test_cache_then_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_videos(tmp_path / "v", 6)
    command = ["vididi", "cache", str(tmp_path / "v"), str(tmp_path / "c"), "--short-side", "24", "--format", "array"]
    assert cli([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["videos"] == 12
    config = small(tmp_path, steps=2)
    config = replace(config, data=replace(config.data, train=str(tmp_path / "c"), batch=4, short_side=None))
    assert list(open_splits(config.data).train.classes) == ["a", "b"]
    assert train_and_evaluate(config) == 0


def test_commands_refuse_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_run(tmp_path / "nothing")
    assert cli(["vididi", "finetune"]) == 2


PROCESSES = """
import sys
from dataclasses import replace
from pathlib import Path
from torch import nn
from byol_ext.video.encoders import VideoEncoder
from recipes import vididi
from recipes.cli import leave_process_group
sys.path.insert(0, "tests/recipes")
from test_vididi import small

def encoder(config, *, channels, max_order):
    trunk = nn.Sequential(nn.Conv3d(channels, 8, (3, 5, 5), (1, 2, 2)), nn.GroupNorm(2, 8), nn.ReLU())
    return VideoEncoder(trunk, width=8, in_channels=channels, max_order=max_order)

vididi.build_encoder = encoder  # BatchNorm's statistics would be those of each process
config = small(Path(sys.argv[1]), sys.argv[2], steps=6, norm="layer")
vididi.train(replace(config, data=replace(config.data, batch=int(sys.argv[3]))))
leave_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
def test_two_processes_equal_one(tmp_path: Path, method: str) -> None:
    script = tmp_path / "run.py"
    script.write_text(PROCESSES)
    root = Path(__file__).parents[2]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launcher, name, batch in ((torchrun, "two", "8"), ([sys.executable], "one", "16")):
        subprocess.run([*launcher, str(script), str(tmp_path / name), method, batch], check=True, cwd=root, env=env)
    one, two = (weights(tmp_path / name, method) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        if method == "vicreg" and ".projector." in name and name.endswith("bias"):
            continue  # VICReg gives them no gradient, or hardly any, and Adam makes a step of its rounding error
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
