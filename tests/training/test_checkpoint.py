from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_toy as toy
from torch import nn

from byol_ext.training import latest_checkpoint, load_checkpoint, load_weights, rng_state, save_checkpoint
from byol_ext.training.checkpoint import list_checkpoints, tidy


def save(folder: Path, step: int, *, keep: int = 9, model: dict[str, Any] | None = None, state: Any = None) -> Path:
    weights = model if model is not None else {"w": torch.full((3,), float(step))}
    return save_checkpoint(folder, step, model=weights, state=state or {"k": step}, meta={"note": "x"}, keep=keep)


def test_round_trip(tmp_path: Path) -> None:
    model = {
        "w": torch.randn(3, 4),
        "half": torch.randn(2).bfloat16(),
        "empty": torch.empty(0),
        "count": torch.tensor(7),
    }
    state = {"tensor": torch.arange(3), "nested": [{"a": (1, 2.5, None, "s", True)}]}
    path = save_checkpoint(tmp_path, 12, model=model, state=state, meta={"note": "x"}, keep=1)
    loaded = load_checkpoint(path)
    assert loaded.step == 12
    assert loaded.meta["note"] == "x"
    assert loaded.model.keys() == model.keys()
    for name, value in model.items():
        assert torch.equal(loaded.model[name], value)
        assert loaded.model[name].dtype == value.dtype
    assert torch.equal(loaded.state["tensor"], state["tensor"])
    assert loaded.state["nested"] == state["nested"]


def test_tied_weights_and_views_survive(tmp_path: Path) -> None:
    shared = torch.randn(4)
    path = save(tmp_path, 1, model={"a": shared, "b": shared, "part": shared[1:3], "t": torch.randn(2, 3).T})
    loaded = load_checkpoint(path).model
    assert torch.equal(loaded["b"], shared)
    assert torch.equal(loaded["part"], shared[1:3])
    assert loaded["t"].shape == (3, 2)


def test_values_of_a_state_dict_that_are_not_tensors_survive(tmp_path: Path) -> None:
    assert load_checkpoint(save(tmp_path, 1, model={"w": torch.ones(1), "_extra_state": {"n": 3}})).model[
        "_extra_state"
    ] == {"n": 3}  # fmt: skip


def test_weights_alone_load_into_a_model(tmp_path: Path) -> None:
    trained, fresh = toy.slap(seed=1), toy.slap(seed=2)
    path = save(tmp_path, 3, model=trained.state_dict())
    assert load_weights(fresh, path) == 3
    for name, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)
    with pytest.raises(RuntimeError, match="Missing key"):
        load_weights(nn.Linear(2, 2), path)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100, 15):
        save(tmp_path, step, keep=3)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-10", "step-15", "step-100"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-10", "step-100", "step-15"]


def truncate(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3])


def flip(path: Path) -> None:
    data = bytearray((path / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "state.pt").write_bytes(data)


damages = {
    "truncated": truncate,
    "a flipped bit": flip,
    "no meta": lambda path: (path / "meta.json").unlink(),
    "broken meta": lambda path: (path / "meta.json").write_text('{"files"'),
    "no weights": lambda path: (path / "model.safetensors").unlink(),
    "empty": lambda path: [file.unlink() for file in path.iterdir()],
}


@pytest.mark.parametrize("damage", damages)
def test_damaged_checkpoints_are_skipped_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    damages[damage](bad)
    assert latest_checkpoint(tmp_path) == good
    assert "step-2" in caplog.text
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(bad)
    tidy(tmp_path, newest=good)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1", "step-2.bad"]


def test_half_written_folders_do_not_count_and_are_cleared(tmp_path: Path) -> None:
    good = save(tmp_path, 1)
    (tmp_path / ".step-2.99.tmp").mkdir()
    (tmp_path / ".step-2.99.tmp" / "model.safetensors").write_bytes(b"")
    assert latest_checkpoint(tmp_path) == good
    tidy(tmp_path, newest=good)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_no_checkpoint(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none") is None
    with pytest.raises(FileNotFoundError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "none")


def test_a_crash_while_writing_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = save(tmp_path, 1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, 2)
    assert latest_checkpoint(tmp_path) == good


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 4, state={"k": "old"})
    assert load_checkpoint(save(tmp_path, 4, state={"k": "new"})).state == {"k": "new"}


def test_state_that_could_not_be_loaded_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="weights_only"):
        save(tmp_path, 1, state={"source": Path("x")})
    assert list(tmp_path.iterdir()) == []


def test_meta_is_plain_json(tmp_path: Path) -> None:
    meta = json.loads((save(tmp_path, 1) / "meta.json").read_text())
    assert set(meta) == {"note", "step", "files"}


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(())),
    ]


def test_generators_round_trip_through_a_checkpoint(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    rng_state.seed_all(3, rank=1)
    draw()
    path = save(tmp_path, 1, state={"rng": rng_state.capture(cpu)})
    expected = draw()
    rng_state.restore(load_checkpoint(path).state["rng"], cpu)
    assert draw() == expected


def test_ranks_have_streams_of_their_own() -> None:
    streams = []
    for rank in (0, 1, 0):
        rng_state.seed_all(3, rank)
        streams.append(draw())
    assert streams[0] == streams[2]
    assert all(a != b for a, b in zip(streams[0], streams[1], strict=True))


def test_preserved_hides_draws() -> None:
    with rng_state.preserved(torch.device("cpu")):
        before = draw()
    assert draw() == before
