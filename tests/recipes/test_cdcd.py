"""The text recipe end to end on a small Markov source: train, stop, kill, resume, load; every method."""

from __future__ import annotations

import json
import math
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

from byol_ext.training import latest_checkpoint
from byol_ext.training.checkpoint import load_model_state
from recipes import cdcd
from recipes.cdcd import load_run, train
from recipes.cdcd_config import PRESETS, CdcdConfig, DataConfig, NetworkConfig, WarpConfig, chars
from recipes.cdcd_data import open_data
from recipes.cdcd_model import build, build_warp

METHODS = ("diffusion", "simplex", "ar", "mdlm")
ROOT = Path(__file__).parents[2]


def small(root: Path, method: str = "diffusion", *, steps: int = 6, **changes: Any) -> CdcdConfig:
    """Seconds on one core."""
    config = chars()
    return replace(
        config,
        name=method,
        root=str(root),
        method="diffusion" if method == "simplex" else method,  # type: ignore[arg-type]
        process="simplex" if method == "simplex" else "gaussian",
        data=DataConfig(text="markov", markov_tokens=4000, length=16, batch=8),
        network=NetworkConfig(width=16, depth=1, heads=2, time_units=8, embedding_width=8, dropout=0.1),
        train=replace(config.train, steps=steps, monitor_every=3, checkpoint_every=2),
        **changes,
    )


def weights(root: Path, name: str) -> dict[str, Any]:
    """Everything in a run's newest checkpoint of the model: weights, average, warp and its optimiser."""
    checkpoint = latest_checkpoint(root / "cdcd" / name / "checkpoints")
    assert checkpoint is not None
    return load_model_state(checkpoint)


def assert_same_state(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, two[name]), name
        else:
            assert _plain(value) == _plain(two[name]), name


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("method", METHODS)
def test_a_run_logs_held_out_curves_and_loads(tmp_path: Path, method: str) -> None:
    result, trained, run = train(small(tmp_path, method))
    records = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    curves = {name for record in records for name in record if name.startswith("curve/")}
    assert len(curves) == (1 if method in ("ar", "mdlm") else 8)
    assert all(math.isfinite(record[name]) for record in records for name in curves & record.keys())
    loaded, _ = load_run(run.path, data=trained.data)
    assert result.step == 6
    assert type(loaded.model) is type(trained.model)
    for name, value in trained.model.average.state_dict().items():
        assert torch.equal(value, loaded.model.average.state_dict()[name]), name


@pytest.mark.parametrize("method", ["diffusion", "simplex", "mdlm"])
def test_a_stopped_run_goes_on_bit_by_bit(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train(small(tmp_path / "whole", method))
    parts = small(tmp_path / "parts", method)
    original = cdcd.TokenContext.__call__

    def stop_in_step_2(self: Any, batch: Any, step: int) -> Any:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, step)

    monkeypatch.setattr(cdcd.TokenContext, "__call__", stop_in_step_2)
    stopped, *_ = train(parts)
    assert (stopped.interrupted, stopped.step) == ("SIGTERM", 3)
    monkeypatch.undo()
    train(parts, resume=True)
    state = weights(tmp_path / "whole", method)
    assert_same_state(state, weights(tmp_path / "parts", method))
    if method != "mdlm":
        assert any("warp" in name for name in state)
        assert any("ema" in name for name in state)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "tests/recipes")
from recipes import cdcd
from test_cdcd import small

original = cdcd.TokenContext.__call__
def die_in_step_5(self, batch, step):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, batch, step)
cdcd.TokenContext.__call__ = die_in_step_5
cdcd.train(small(Path(sys.argv[1])))
"""


def test_a_killed_run_goes_on_bit_by_bit(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "parts")], cwd=ROOT, env=env, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL
    result, *_ = train(small(tmp_path / "parts"), resume=True)
    assert result.step == 6
    train(small(tmp_path / "whole"))
    assert_same_state(weights(tmp_path / "whole", "diffusion"), weights(tmp_path / "parts", "diffusion"))


PROCESSES = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, "tests/recipes")
from recipes import cdcd
from recipes.cli import leave_process_group
from test_cdcd import small

config = small(Path(sys.argv[1]), sys.argv[2])
config = replace(config, network=replace(config.network, dropout=0.0))
cdcd.train(replace(config, data=replace(config.data, batch=int(sys.argv[3]))))
leave_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_equal_one(tmp_path: Path, method: str) -> None:
    script = tmp_path / "run.py"
    script.write_text(PROCESSES)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launcher, name, batch in ((torchrun, "two", "8"), ([sys.executable], "one", "16")):
        subprocess.run([*launcher, str(script), str(tmp_path / name), method, batch], check=True, cwd=ROOT, env=env)
    one, two = (weights(tmp_path / name, method) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            # Keys' biases hardly get a gradient at first, and Adam makes a step of its rounding error.
            parts = [slice(16), slice(32, None)] if name.endswith("qkv.bias") else [...]
            for part in parts:
                torch.testing.assert_close(two[name][part], value[part], rtol=1e-4, atol=1e-5, msg=name)


def test_another_text_is_refused(tmp_path: Path) -> None:
    config = small(tmp_path, steps=2)
    _, _, run = train(config)
    other = open_data(replace(config.data, markov_tokens=5000))
    with pytest.raises(ValueError, match="train of the text"):
        load_run(run.path, data=other)
    with pytest.raises(ValueError, match="resume"):
        train(replace(config, data=replace(config.data, markov_tokens=5000)), resume=True)


def test_presets_build() -> None:
    for preset in PRESETS.values():
        config = preset()
        if config.network.width <= 256:
            for method, process in (("diffusion", "gaussian"), ("diffusion", "simplex"), ("ar", "gaussian")):
                build(replace(config, method=method, process=process), 27)  # type: ignore[arg-type]


def test_baselines_have_the_size_of_the_denoiser() -> None:
    sizes = {
        method: sum(p.numel() for p in build(small(Path(), method), 27).average.transformer.parameters())
        for method in ("ar", "mdlm")
    }
    assert sizes["ar"] == sizes["mdlm"]


@pytest.mark.parametrize("kind", ["pwl", "gumbel", "logistic", "loguniform", "uniform"])
def test_every_warp_trains(tmp_path: Path, kind: str) -> None:
    config = small(tmp_path, steps=3, warp=WarpConfig(kind=kind))  # type: ignore[arg-type]
    _, trained, _ = train(config)
    warp = trained.model.warp  # type: ignore[union-attr]
    t_B = warp.times(torch.tensor([0.0, 0.5, 1.0]))
    assert warp.t_min <= t_B[0] < t_B[1] < t_B[2] <= warp.t_max * (1 + 1e-6)


def test_a_beta_shape_reaches_the_fit() -> None:
    straight, bent = (
        build_warp(WarpConfig(shape=shape), t_min=1.0, t_max=9.0, typical=3.0) for shape in ((1, 1), (0.5, 1))
    )
    t_B = torch.tensor([3.0])
    assert float(bent.cross_entropy(t_B)) > float(straight.cross_entropy(t_B))  # type: ignore[union-attr]


def test_texts(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        words = rng.choice(["the", "cat", "sat", "on", "a", "mat"], size=30)
        (folder / f"{i}.txt").write_text(" ".join(words))
    lines = [json.dumps({"body": path.read_text()}) for path in sorted(folder.glob("*.txt"))]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    common = DataConfig(vocab_size=300, validation_share=0.2, length=8)
    from_folder = open_data(replace(common, text=str(folder), tokenizer="characters"))
    assert from_folder.tokenizer.vocab_size < 20
    from_lines = open_data(replace(common, text=str(tmp_path / "texts.jsonl"), field="body", cache=str(tmp_path / "c")))
    assert 257 < from_lines.tokenizer.vocab_size <= 300
    again = open_data(replace(common, text="gone", cache=str(tmp_path / "c")))
    assert again.facts() == from_lines.facts()
    prepared = open_data(replace(common, text=str(tmp_path / "c")))
    assert prepared.facts() == from_lines.facts()
    own = open_data(replace(common, text=str(folder), tokenizer=str(tmp_path / "c")))
    assert own.tokenizer.fingerprint() == from_lines.tokenizer.fingerprint()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("nowhere", FileNotFoundError, "data.text='nowhere'"),
        ("book.pdf", ValueError, "book.pdf"),
        ("debian:klingon", ValueError, "klingon"),
        ("folder", FileNotFoundError, "no file matches"),
    ],
)
def test_what_is_no_text(tmp_path: Path, text: str, error: type[Exception], message: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.pdf").write_bytes(b"%PDF")
    (tmp_path / "folder").mkdir()
    with pytest.raises(error, match=message):
        open_data(DataConfig(text=text))


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"length": 1}},
        {"data": {"validation_share": 1.0}},
        {"sample": {"prompt": 1.0}},
        {"sample": {"steps": 0}},
        {"network": {"output_prior": True}, "process": "simplex"},
    ],
)
def test_bad_configurations_are_refused(changes: dict[str, Any]) -> None:
    from recipes.config import from_dict

    with pytest.raises(ValueError):
        from_dict(CdcdConfig, changes, base=chars())
