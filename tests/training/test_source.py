from __future__ import annotations

import atexit
import gc
import itertools
import multiprocessing
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_exit
import training_toy as toy
from hypothesis import given, settings
from hypothesis import strategies as st
from training_toy import Items, source

from byol_ext.bootstrap import Ctx
from byol_ext.training import LoaderSource, ResumableSampler, Run, fit
from byol_ext.training.source import concatenate

sizes = st.integers(1, 60)


def take(sampler: ResumableSampler, count: int) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(iter(sampler), count))


@settings(deadline=None, max_examples=60)
@given(n=sizes, batch=st.integers(1, 12), seed=st.integers(0, 5), shuffle=st.booleans())
def test_an_epoch_covers_each_id_once(n: int, batch: int, seed: int, shuffle: bool) -> None:
    sampler = ResumableSampler(n, batch, seed=seed, drop_last=False, shuffle=shuffle, rank=0, world_size=1)
    for epoch in range(2):
        sampler.position = epoch * sampler.batches_per_epoch
        pairs = [pair for part in take(sampler, sampler.batches_per_epoch) for pair in part]
        assert sorted(i for i, _ in pairs) == list(range(n))
        assert {e for _, e in pairs} == {epoch}
    assert sampler.samples_per_epoch == n


@settings(deadline=None, max_examples=60)
@given(n=sizes, per_rank=st.integers(1, 6), world=st.integers(1, 4), drop_last=st.booleans(), count=st.integers(1, 20))
def test_the_global_batch_does_not_depend_on_the_world_size(
    n: int, per_rank: int, world: int, drop_last: bool, count: int
) -> None:
    together = per_rank * world
    tail = n % together
    if (drop_last and n < together) or (not drop_last and 0 < tail < world):
        with pytest.raises(ValueError, match=r"drop_last"):
            ResumableSampler(n, per_rank, rank=0, world_size=world, drop_last=drop_last)
        return
    alone = ResumableSampler(n, together, rank=0, world_size=1, drop_last=drop_last)
    ranks = [ResumableSampler(n, per_rank, rank=r, world_size=world, drop_last=drop_last) for r in range(world)]
    parts = [take(sampler, count) for sampler in ranks]
    for index, expected in enumerate(take(alone, count)):
        slices = [part[index] for part in parts]
        assert [pair for part in slices for pair in part] == expected
        assert all(slices)
        assert max(map(len, slices)) - min(map(len, slices)) <= 1


@settings(deadline=None, max_examples=40)
@given(n=st.integers(4, 60), skip=st.integers(0, 50), drop_last=st.booleans())
def test_skipping_equals_iterating(n: int, skip: int, drop_last: bool) -> None:
    make = lambda: ResumableSampler(n, 4, seed=3, rank=0, world_size=1, drop_last=drop_last)  # noqa: E731
    iterated, skipped = make(), make()
    expected = take(iterated, skip + 3)[skip:]
    skipped.load_state_dict({**skipped.state_dict(), "position": skip})
    assert take(skipped, 3) == expected


def test_shuffled_epochs_differ_and_seeds_differ() -> None:
    sampler = ResumableSampler(50, 5, rank=0, world_size=1)
    assert not np.array_equal(sampler.order(0), sampler.order(1))
    assert not np.array_equal(sampler.order(0), ResumableSampler(50, 5, seed=1, rank=0, world_size=1).order(0))
    plain = ResumableSampler(50, 5, shuffle=False, rank=0, world_size=1)
    assert np.array_equal(plain.order(3), np.arange(50))


@pytest.mark.parametrize(
    ("key", "other"),
    [("n", 65), ("seed", 1), ("drop_last", False), ("shuffle", False), ("global_batch", 16)],
)
def test_another_order_is_refused_by_name(key: str, other: object) -> None:
    sampler = ResumableSampler(64, 8, rank=0, world_size=1)
    with pytest.raises(ValueError, match=f"{key}={other}"):
        sampler.load_state_dict({**sampler.state_dict(), key: other})


def test_another_world_size_with_the_same_global_batch_is_accepted() -> None:
    state = {**ResumableSampler(64, 8, rank=0, world_size=1).state_dict(), "position": 5}
    two = ResumableSampler(64, 4, rank=1, world_size=2)
    two.load_state_dict(state)
    assert next(iter(two)) == ResumableSampler(64, 8, rank=0, world_size=1).batch(5)[4:]


@pytest.mark.parametrize(("n", "batch", "rank", "world"), [(0, 1, 0, 1), (4, 0, 0, 1), (4, 1, 2, 2), (4, 1, -1, 2)])
def test_bad_sizes(n: int, batch: int, rank: int, world: int) -> None:
    with pytest.raises(ValueError, match=r"must"):
        ResumableSampler(n, batch, rank=rank, world_size=world)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_counts_what_was_handed_out_not_what_was_prefetched(workers: int) -> None:
    whole = list(itertools.islice(iter(source(workers=workers)), 12))
    first = source(workers=workers)
    for _ in itertools.islice(iter(first), 5):
        pass
    state = first.state_dict()
    assert state["position"] == 5
    second = source(workers=workers)
    second.load_state_dict(state)
    for expected, batch in zip(whole[5:], iter(second), strict=False):
        assert torch.equal(batch["id"], expected["id"])
        assert torch.equal(batch["a"], expected["a"])


def test_batches_do_not_depend_on_workers() -> None:
    for alone, shared in itertools.islice(zip(iter(source()), iter(source(workers=2)), strict=False), 10):
        assert torch.equal(alone["a"], shared["a"])


def test_loading_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    next(iter(source(workers=1)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("case", "code"), [("open", 0), ("error", 1), ("fit", 1)])
def test_a_program_ends_although_its_workers_ignore_a_signal(case: str, code: int, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, training_exit.__file__, case, str(tmp_path / "r")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == code, done.stderr
    assert code == 0 or done.stderr.rstrip().endswith("RuntimeError: on purpose")


def test_a_closed_or_forgotten_iterator_stops_its_workers_and_its_exit_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    before, handlers, register = set(multiprocessing.active_children()), [], atexit.register

    def recorded(function: Any) -> Any:
        handlers.append(weakref.ref(function))
        return register(function)

    monkeypatch.setattr(atexit, "register", recorded)
    closed, forgotten = iter(source(workers=1)), iter(source(workers=1))
    next(closed), next(forgotten)
    assert len(set(multiprocessing.active_children()) - before) == 2
    closed.close()  # type: ignore[attr-defined]
    del closed, forgotten
    gc.collect()
    assert set(multiprocessing.active_children()) <= before
    assert len(handlers) >= 2
    assert not any(handler() for handler in handlers)


def test_an_error_stops_the_workers(tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())

    def prepare(batch: dict[str, Any], step: int) -> tuple[dict[str, torch.Tensor], Ctx]:
        if step == 2:
            raise RuntimeError("on purpose")
        return toy.prepare(batch, step)

    config = toy.config()
    run = Run.create(tmp_path / "r", recipe="toy", config=config)
    with pytest.raises(RuntimeError, match="on purpose") as caught:
        fit(toy.slap(), toy.source(workers=2), config, prepare=prepare, run=run)
    assert caught.traceback  # holds the frames
    assert set(multiprocessing.active_children()) <= before


class Slow(Items):
    def __getitem__(self, index: tuple[int, int]) -> dict[str, object]:
        time.sleep(0.005)
        return super().__getitem__(index)


def test_wait_fraction_tells_a_starved_loop_from_a_fed_one() -> None:
    starved = LoaderSource(Slow(), ResumableSampler(64, 4, rank=0, world_size=1))
    for _ in itertools.islice(iter(starved), 6):
        pass
    assert starved.wait_fraction > 0.8
    fed = source()
    for _ in itertools.islice(iter(fed), 6):
        time.sleep(0.02)
    assert fed.wait_fraction < 0.5
    fed.reset_wait()
    assert fed.wait_seconds == 0


def test_fingerprint_names_the_data() -> None:
    assert source(32).fingerprint == "Items[32]"
    named = Items(8)
    named.fingerprint = "tones-1"  # type: ignore[attr-defined]
    assert LoaderSource(named, ResumableSampler(8, 2, rank=0, world_size=1)).fingerprint == "tones-1"


@pytest.mark.parametrize(
    "parts",
    [
        [{"x": torch.ones(2)}, {"y": torch.ones(2)}],
        [{"x": 1}, {"x": 2}],
        [torch.ones(2), [1, 2]],
    ],
)
def test_concatenate_refuses_what_does_not_fit_together(parts: list[object]) -> None:
    with pytest.raises(ValueError, match=r"micro-batches"):
        concatenate(parts)


def test_concatenate_joins_tuples_item_by_item() -> None:
    joined = concatenate([(torch.ones(2), {"k": 3}, (16, 8)), (torch.zeros(1), {"k": 3}, (16, 8))])
    assert joined[0].tolist() == [1, 1, 0]
    assert joined[1:] == ({"k": 3}, (16, 8))
    with pytest.raises(ValueError, match="must be equal"):
        concatenate([(1, 2), (1, 2, 3)])


def test_concatenate_joins_along_the_batch() -> None:
    joined = concatenate([{"t": torch.ones(2, 3), "l": ["a"], "n": np.zeros(1)}, {"t": torch.zeros(1, 3), "l": ["b"],
                          "n": np.ones(2)}])  # fmt: skip
    assert joined["t"].shape == (3, 3)
    assert joined["l"] == ["a", "b"]
    assert joined["n"].tolist() == [0, 1, 1]
