"""The tracker against a slow account of each episode, and human-normalised scores."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from byol_ext.metrics.exploration import RANDOM_HUMAN, ExplorationTracker, clipped_human_normalised

Arrays = dict[str, Any]


def rollout(steps: int, batch: int, *, seed: int = 0, ends: float = 0.08) -> Arrays:
    """Random arguments of ``update`` for an environment that resets on the next step."""
    rng = np.random.default_rng(seed)
    over, real = np.zeros((steps, batch), bool), np.ones((steps, batch), bool)
    for t in range(steps):
        real[t] = ~over[t - 1] if t else True
        over[t] = real[t] & (rng.random(batch) < ends)
    terminated = over & (rng.random((steps, batch)) < 0.5)
    return {
        "reward": rng.normal(size=(steps, batch)).astype(np.float32),
        "terminated": terminated,
        "truncated": over & ~terminated,
        "real": real,
        "action": rng.integers(0, 4, (steps, batch)),
        "intrinsic": rng.random((steps, batch)).astype(np.float32),
        "raw": rng.random((steps, batch)).astype(np.float32),
        "info": {
            "cell": rng.integers(-9, 9, (steps, batch)) * 2**50,
            "room": rng.integers(0, 3 + 5 * np.arange(steps)[:, None] // steps, (steps, batch)).astype(np.int32),
            "noise_on": rng.random((steps, batch)) < 0.3,
            "noise_asked": rng.random((steps, batch)) < 0.2,
            "coverage": rng.random((steps, batch)).astype(np.float32),
            "tracker_hits": rng.integers(0, 2, (steps, batch, 4)),
        },
    }


def rows(data: Arrays, part: slice) -> Arrays:
    return {k: {n: v[part] for n, v in x.items()} if k == "info" else x[part] for k, x in data.items()}


def columns(data: Arrays, part: slice) -> Arrays:
    return {k: {n: v[:, part] for n, v in x.items()} if k == "info" else x[:, part] for k, x in data.items()}


def fed(data: Arrays, borders: list[int], tracker: ExplorationTracker | None = None) -> ExplorationTracker:
    tracker = tracker or ExplorationTracker(data["real"].shape[1])
    for start, stop in zip([0, *borders], [*borders, len(data["real"])], strict=True):
        tracker.update(**rows(data, slice(start, stop)))
    return tracker


def slow(data: Arrays, window: int = 100) -> dict[str, float]:
    """One transition at a time."""
    steps, batch = data["real"].shape
    info = data["info"]
    done: list[dict[str, float]] = []
    cells, rooms = {}, {}
    running: list[list[tuple[int, int]]] = [[] for _ in range(batch)]
    for t in range(steps):
        for b in range(batch):
            if not data["real"][t, b]:
                continue
            running[b].append((t, b))
            cells[info["cell"][t, b]] = cells.get(info["cell"][t, b], 0) + 1
            rooms[info["room"][t, b]] = rooms.get(info["room"][t, b], 0) + 1
            if data["terminated"][t, b] or data["truncated"][t, b]:
                episode = running[b]
                done.append(
                    {
                        "return": sum(float(data["reward"][at]) for at in episode),
                        "intrinsic_return": sum(float(data["intrinsic"][at]) for at in episode),
                        "length": len(episode),
                        "cells": len({int(info["cell"][at]) for at in episode}),
                        "rooms": len({int(info["room"][at]) for at in episode}),
                        "coverage": float(info["coverage"][t, b]),
                        "trackers": int((info["tracker_hits"][t, b] > 0).sum()),
                    }
                )
                running[b] = []
    real, last = data["real"], done[-window:]
    share = np.array(list(cells.values())) / real.sum()
    noisy = info["noise_on"] & real
    found = {f"episode/{name}": sum(row[name] for row in last) / len(last) for name in last[0]}
    return found | {
        "episodes": len(done),
        "lifetime/cells": len(cells),
        "lifetime/rooms": len(rooms),
        "lifetime/visit_entropy": -sum(p * math.log(p) for p in share),
        "noise/share": data["intrinsic"][noisy].sum() / data["intrinsic"][real].sum(),
        "noise/share_raw": data["raw"][noisy].sum() / data["raw"][real].sum(),
        "noise/time": noisy.sum() / real.sum(),
        "noise/asked": info["noise_asked"][real].mean(),
        "action/noop": (data["action"] == 0)[real].mean(),
    }


@pytest.mark.parametrize("borders", [[], [1, 2, 3], [40, 41, 77, 120], list(range(1, 160))])
def test_metrics_equal_a_slow_account(borders: list[int]) -> None:
    data = rollout(160, 5)
    found, expected = fed(data, borders).metrics(), slow(data)
    recent = {name for name in found if name.endswith("_recent")}
    assert set(found) - recent == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_only_the_last_episodes_count_in_means() -> None:
    data = rollout(200, 4)
    tracker = fed(data, [90], ExplorationTracker(4, window=7))
    expected = slow(data, window=7)
    assert expected["episodes"] > 20
    for name in ("return", "cells", "coverage"):
        assert tracker.metrics()[f"episode/{name}"] == pytest.approx(expected[f"episode/{name}"], rel=1e-6)


def test_rows_that_are_no_transitions_change_nothing() -> None:
    data = rollout(120, 5, ends=0.3)
    spoiled = {k: dict(v) if k == "info" else v.copy() for k, v in data.items()}
    unreal = ~data["real"]
    assert unreal.sum() > 50
    for name in ("reward", "action", "intrinsic", "raw"):
        spoiled[name][unreal] = 77
    spoiled["info"] = {name: value.copy() for name, value in data["info"].items()}
    for name, value in spoiled["info"].items():
        value[unreal] = True if name.startswith("noise") else 55
    spoiled["terminated"][unreal] = True
    assert fed(spoiled, [50]).state_dict() == fed(data, [50]).state_dict()


def test_a_saved_state_goes_on_exactly_and_is_plain() -> None:
    data = rollout(150, 4)
    straight = fed(data, [50, 100])
    saved = ExplorationTracker(4)
    saved.update(**rows(data, slice(0, 50)))
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    resumed = ExplorationTracker(4)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for part in (slice(50, 100), slice(100, 150)):
        resumed.update(**rows(data, part))
    assert resumed.state_dict() == straight.state_dict()
    assert resumed.metrics() == straight.metrics()


def test_a_state_of_other_environments_is_refused() -> None:
    with pytest.raises(ValueError, match="of 4 environments, the tracker of 3"):
        ExplorationTracker(3).load_state_dict(ExplorationTracker(4).state_dict())
    with pytest.raises(ValueError, match=r"\[T, 3\]"):
        ExplorationTracker(3).update(**rollout(5, 4))


def test_merged_processes_equal_one() -> None:
    data, borders = rollout(150, 6), [30, 60, 90, 120]
    whole = fed(data, borders, ExplorationTracker(6, window=10_000))
    parts = [fed(columns(data, part), borders, ExplorationTracker(n, window=10_000))
             for part, n in ((slice(0, 2), 2), (slice(2, 6), 4))]  # fmt: skip
    merged = ExplorationTracker.merge([part.state_dict() for part in parts], window=5000)
    expected, found = whole.metrics(), merged.metrics()
    assert found == pytest.approx(expected, rel=1e-9)
    assert merged.first_visits() == whole.first_visits()
    for a, b in zip(merged.room_history(), whole.room_history(), strict=True):
        np.testing.assert_array_equal(a, b)
    for seed in (9, 10):
        more = rollout(40, 6, seed=seed)
        whole.update(**more)
        merged.update(**more)
        assert merged.metrics() == pytest.approx(whole.metrics(), rel=1e-9)


def test_rooms_over_time() -> None:
    data = rollout(100, 3)
    tracker, room, real = fed(data, [20, 40, 60, 80]), data["info"]["room"], data["real"]
    for name, step in tracker.first_visits().items():
        t = int(np.nonzero(((room == name) & real).any(1))[0][0])
        assert step == (t + 1) * 3
    ends, rooms, visits = tracker.room_history()
    assert ends.tolist() == [60, 120, 180, 240, 300]
    assert rooms.tolist() == sorted(tracker.visits["room"])
    for i in range(5):
        part = slice(20 * i, 20 * i + 20)
        np.testing.assert_array_equal(visits[i], [((room == r) & real)[part].sum() for r in rooms])


@pytest.mark.parametrize("updates", [3, 4, 5, 7, 8, 23, 64])
def test_history_stays_short_and_loses_no_visit(updates: int) -> None:
    data = rollout(updates, 3)
    tracker = fed(data, list(range(1, updates)), ExplorationTracker(3, bins=4))
    ends, rooms, visits = tracker.room_history()
    assert len(ends) <= 4
    assert ends[-1] == tracker.steps
    assert len(set(np.diff(ends, prepend=0)[:-1])) <= 1
    assert visits.sum(0).tolist() == [tracker.visits["room"][room] for room in rooms.tolist()]
    begin = 0
    for end, counts in zip(ends // 3, visits, strict=True):
        part = data["info"]["room"][begin:end][data["real"][begin:end]]
        assert counts.tolist() == [(part == room).sum() for room in rooms]
        begin = end


def test_recent_shares_follow_the_agent() -> None:
    data, tracker = rollout(100, 3), ExplorationTracker(3)
    quiet = data | {"info": data["info"] | {"noise_on": np.zeros_like(data["info"]["noise_on"])}}
    for _ in range(60):
        tracker.update(**quiet)
    for _ in range(60):
        tracker.update(**data)
    expected = slow(data)["noise/share"]
    assert tracker.metrics()["noise/share"] == pytest.approx(expected / 2, rel=1e-6)
    assert tracker.metrics()["noise/share_recent"] == pytest.approx(expected, rel=0.01)


def test_the_best_mean_return_of_a_full_window_is_kept() -> None:
    tracker, flags = ExplorationTracker(1, window=2), np.ones((1, 1), bool)
    for score in (30.0, -10.0, 3.0, 5.0, 2.0):
        tracker.update(reward=np.full((1, 1), score), terminated=flags, truncated=~flags, real=flags, info={})
    metrics = tracker.metrics()
    assert metrics == {"episode/return": 3.5, "episode/length": 1.0, "episode/return_best": 10.0, "episodes": 5.0}


def test_dropped_episodes_do_not_leak() -> None:
    data, tracker = rollout(30, 3, ends=0.0), ExplorationTracker(3)
    tracker.update(**data)
    tracker.drop_running()
    over = np.ones((1, 3), bool)
    one = rows(data, slice(0, 1)) | {"terminated": over}
    tracker.update(**one)
    assert tracker.metrics()["episode/length"] == 1
    assert tracker.metrics()["episode/cells"] == 1
    assert tracker.metrics()["episode/return"] == pytest.approx(one["reward"].mean())


def test_nothing_real_and_nothing_given_is_no_error() -> None:
    tracker, none = ExplorationTracker(2), np.zeros((4, 2), bool)
    assert tracker.metrics() == {"episodes": 0.0}
    data = rollout(4, 2) | {"real": none}
    tracker.update(**data)
    assert tracker.metrics()["lifetime/cells"] == 0
    assert tracker.metrics()["noise/share"] == 0
    assert tracker.steps == 8
    resumed = ExplorationTracker(2)
    resumed.load_state_dict(tracker.state_dict())
    assert resumed.room_history()[2].shape == tracker.room_history()[2].shape == (1, 0)


def test_human_normalised_scores_are_clipped() -> None:
    assert len(RANDOM_HUMAN) == 11
    for game, (random, human) in RANDOM_HUMAN.items():
        assert clipped_human_normalised(random - 5, game) == 0
        assert clipped_human_normalised(human + 5, game) == 1
        assert clipped_human_normalised((random + human) / 2, game) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="pong"):
        clipped_human_normalised(1.0, "pong")
