"""What an agent has explored: episodes, cells and rooms, and how much of its curiosity noise has caught.

NumPy only. Rows that are no transitions (``real`` false) count nowhere.

Legend: ``T`` steps of a rollout, ``B`` environments; time-major.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

RANDOM_HUMAN = {
    "alien": (227.8, 7127.7),
    "bank_heist": (14.2, 753.1),
    "freeway": (0.0, 29.6),
    "gravitar": (173.0, 3351.4),
    "hero": (1027.0, 30826.4),
    "montezuma_revenge": (0.0, 4753.3),
    "pitfall": (-229.4, 6463.7),
    "private_eye": (24.9, 69571.3),
    "qbert": (163.9, 13455.0),
    "solaris": (1236.3, 12326.7),
    "venture": (0.0, 1187.5),
}
"""Scores of a random and a human player (the field's standard table, from memory [M]): the ten hardest exploration
games of the BYOL-Explore paper, and Bank Heist, by ale-py's ROM names."""


def clipped_human_normalised(score: float, game: str) -> float:
    """``clip((score - random) / (human - random), 0, 1)`` with the references of :data:`RANDOM_HUMAN` [M: from memory].

    Args:
        score: Highest average episode return that was reached in training.
        game: ROM name such as ``montezuma_revenge``.

    Raises:
        ValueError: If the game has no reference.

    Example:
        >>> clipped_human_normalised(2376.65, "montezuma_revenge")
        0.5
    """
    if game not in RANDOM_HUMAN:
        raise ValueError(f"no reference scores for {game!r}; there are some for {sorted(RANDOM_HUMAN)}")
    random, human = RANDOM_HUMAN[game]
    return min(max((score - random) / (human - random), 0.0), 1.0)


class ExplorationTracker:
    """Takes account of rollouts; exact for episodes that cross them.

    Attributes:
        steps: Environment steps so far, auto-resets included.
        visits: Transitions into each id by ``cell`` and ``room``, over the lifetime.

    Args:
        num_envs: ``B``.
        noop: Index of the action that does nothing.
        window: Episodes that means are taken over.
        bins: Most intervals in which room visits are kept over time, at least 2; when full, neighbours are merged.

    Example:
        >>> tracker = ExplorationTracker(1)
        >>> flags = np.array([[False], [True]])
        >>> tracker.update(
        ...     reward=np.ones((2, 1)), terminated=flags, truncated=~flags & flags, real=flags | ~flags,
        ...     info={"cell": np.array([[4], [4]])},
        ... )
        >>> tracker.metrics()["episode/return"], tracker.metrics()["lifetime/cells"]
        (2.0, 1.0)
    """

    def __init__(self, num_envs: int, *, noop: int = 0, window: int = 100, bins: int = 512) -> None:
        self.num_envs, self.noop, self.window, self.bins = num_envs, noop, window, bins
        self.rows = 0
        self.episodes = 0
        self.best_return = -np.inf
        self.visits: dict[str, dict[int, int]] = {}
        self._first_row: dict[int, int] = {}
        self._finished: dict[str, list[float]] = {}
        self._totals: dict[str, float] = {}
        self._recent: dict[str, float] = {}
        self._history: list[tuple[int, dict[int, int]]] = []
        self._stride, self._filled = 1, 0
        self.drop_running()

    def drop_running(self) -> None:
        """Forget the episodes in flight; call it when the environments begin anew without having finished."""
        self._running: dict[str, Array] = {}
        self._present: dict[str, tuple[Array, Array]] = {}

    @property
    def steps(self) -> int:
        """Environment steps so far of all environments, auto-resets included."""
        return self.rows * self.num_envs

    def update(
        self,
        *,
        reward: Array,
        terminated: Array,
        truncated: Array,
        real: Array,
        info: Mapping[str, Array],
        action: Array | None = None,
        intrinsic: Array | None = None,
        raw: Array | None = None,
    ) -> None:
        """Take account of a rollout; all arrays are ``[T, B]``.

        Args:
            reward: Extrinsic reward.
            terminated: Ends in a terminal state.
            truncated: Ends by a limit.
            real: Which rows are transitions.
            info: Read where present: ids ``cell`` and ``room`` of where a transition leads, ``noise_on``,
                ``noise_asked``, and of the episode so far ``coverage`` and ``tracker_hits [T, B, n]``.
            action: Index of the action.
            intrinsic: Intrinsic reward that the agent maximises.
            raw: Intrinsic reward before its normalisation.

        Raises:
            ValueError: If the rollout has other environments.
        """
        real = real.astype(bool)
        if real.ndim != 2 or real.shape[1] != self.num_envs:
            raise ValueError(f"rollouts must be [T, {self.num_envs}], as the tracker was made for, got {real.shape}")
        rollout = _Rollout(real, (terminated | truncated).astype(bool) & real)
        finished = {}
        summed = {"return": reward, "length": np.ones(real.shape), "intrinsic_return": intrinsic}
        for name, values in summed.items():
            if values is not None:
                before = self._running.get(name, np.zeros(self.num_envs))
                finished[name], self._running[name] = rollout.sums(values, before)
        for key, name in (("cell", "cells"), ("room", "rooms")):
            if key in info:
                present = self._present.get(key, (np.zeros(0, np.int64), np.zeros(0, np.int64)))
                finished[name], self._present[key] = rollout.distinct(info[key].astype(np.int64), present)
                _add(self.visits.setdefault(key, {}), _counted(info[key][real]))
        if "coverage" in info:
            finished["coverage"] = info["coverage"][rollout.ends].astype(np.float64)
        if "tracker_hits" in info:
            finished["trackers"] = (info["tracker_hits"][rollout.ends] > 0).sum(-1).astype(np.float64)
        for name, ended in finished.items():
            self._finished[name] = [*self._finished.get(name, []), *ended.tolist()][-self.window :]
        self._sum(rollout, info, action=action, intrinsic=intrinsic, raw=raw)
        if "room" in info:
            self._room_times(info["room"].astype(np.int64), real)
        self.rows += len(real)
        self.episodes += int(rollout.ends.sum())
        if len(self._finished["return"]) == self.window:
            self.best_return = max(self.best_return, float(np.mean(self._finished["return"])))

    def metrics(self) -> dict[str, float]:
        """Flat metrics.

        ``episode/*``: means over the last finished episodes, ``episode/return_best`` the highest of a full window;
        ``lifetime/cells|rooms`` distinct ones, ``lifetime/visit_entropy`` of the distribution over cells in nats;
        ``noise/share`` of the intrinsic reward earned where noise was on, ``noise/time`` of the transitions there,
        ``noise/asked`` and ``action/noop`` of the actions; each over the lifetime and, ``*_recent``, over some ten
        rollouts. What was not given is not there.
        """
        found = {f"episode/{name}": float(np.mean(v)) for name, v in self._finished.items() if v}
        if np.isfinite(self.best_return):
            found["episode/return_best"] = self.best_return
        found["episodes"] = float(self.episodes)
        for key, name in (("cell", "cells"), ("room", "rooms")):
            if key in self.visits:
                found[f"lifetime/{name}"] = float(len(self.visits[key]))
        if self.visits.get("cell"):
            found["lifetime/visit_entropy"] = _entropy(self.visits["cell"])
        for totals, suffix in ((self._totals, ""), (self._recent, "_recent")):
            found |= {f"{name}{suffix}": value for name, value in _ratios(totals).items()}
        return found

    def first_visits(self) -> dict[int, int]:
        """Environment step by which each room had been seen."""
        return {room: row * self.num_envs for room, row in self._first_row.items()}

    def room_history(self) -> tuple[Array, Array, Array]:
        """Room visits over time: last environment step of each interval ``[n]``, rooms ``[r]``, visits ``[n, r]``."""
        rooms = np.array(sorted(self.visits.get("room", {})), np.int64)
        counts = np.array([[bin_.get(int(room), 0) for room in rooms] for _, bin_ in self._history], np.int64)
        ends = np.array([row * self.num_envs for row, _ in self._history], np.int64)
        return ends, rooms, counts.reshape(len(ends), len(rooms))

    def state_dict(self) -> dict[str, Any]:
        """Everything, in numbers, lists and dictionaries."""
        return {
            "num_envs": self.num_envs,
            "rows": self.rows,
            "episodes": self.episodes,
            "best_return": float(self.best_return),
            "visits": {name: _columns(table) for name, table in self.visits.items()},
            "first_row": _columns(self._first_row),
            "finished": {name: list(values) for name, values in self._finished.items()},
            "totals": dict(self._totals),
            "recent": dict(self._recent),
            "history": [[row, *_columns(table)] for row, table in self._history],
            "stride": self._stride,
            "filled": self._filled,
            "running": {name: values.tolist() for name, values in self._running.items()},
            "present": {name: [envs.tolist(), ids.tolist()] for name, (envs, ids) in self._present.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a :meth:`state_dict` was taken.

        Raises:
            ValueError: If it is of another number of environments.
        """
        if state["num_envs"] != self.num_envs:
            raise ValueError(f"the state is of {state['num_envs']} environments, the tracker of {self.num_envs}")
        self.rows, self.episodes, self.best_return = state["rows"], state["episodes"], state["best_return"]
        self.visits = {name: _table(columns) for name, columns in state["visits"].items()}
        self._first_row = _table(state["first_row"])
        self._finished = {name: list(values) for name, values in state["finished"].items()}
        self._totals, self._recent = dict(state["totals"]), dict(state["recent"])
        self._history = [(row, _table(columns)) for row, *columns in state["history"]]
        self._stride, self._filled = state["stride"], state["filled"]
        self._running = {name: np.array(values, np.float64) for name, values in state["running"].items()}
        self._present = {
            name: (np.array(envs, np.int64), np.array(ids, np.int64)) for name, (envs, ids) in state["present"].items()
        }

    @classmethod
    def merge(cls, states: Sequence[Mapping[str, Any]], *, window: int = 100) -> ExplorationTracker:
        """One tracker from those of several processes that advanced together, each with environments of its own.

        Args:
            states: Their :meth:`state_dict`.
            window: Episodes of each that means are taken over.

        Returns:
            A tracker of all environments, for reading. ``best_return`` is the mean of theirs: when each was reached
            is not known.
        """
        merged = cls(sum(state["num_envs"] for state in states), window=window * len(states))
        parts = []
        for state in states:
            part = cls(state["num_envs"])
            part.load_state_dict(state)
            parts.append(part)
        merged.rows = max(part.rows for part in parts)
        merged.episodes = sum(part.episodes for part in parts)
        merged.best_return = float(np.mean([part.best_return for part in parts]))
        merged._stride, merged._filled = parts[0]._stride, parts[0]._filled
        offset = 0
        for part in parts:
            for name, table in part.visits.items():
                _add(merged.visits.setdefault(name, {}), table)
            for room, row in part._first_row.items():
                merged._first_row[room] = min(row, merged._first_row.get(room, row))
            for name, values in part._finished.items():
                merged._finished.setdefault(name, []).extend(values)
            _add(merged._totals, part._totals)
            _add(merged._recent, part._recent)
            for name, (envs, ids) in part._present.items():
                before = merged._present.get(name, (np.zeros(0, np.int64), np.zeros(0, np.int64)))
                merged._present[name] = np.append(before[0], envs + offset), np.append(before[1], ids)
            offset += part.num_envs
        for name in parts[0]._running:
            merged._running[name] = np.concatenate([part._running[name] for part in parts])
        for bins in zip_longest(*[part._history for part in parts], fillvalue=(0, {})):
            together: dict[int, int] = {}
            for _, counts in bins:
                _add(together, counts)
            merged._history.append((max(row for row, _ in bins), together))
        return merged

    def _sum(
        self,
        rollout: _Rollout,
        info: Mapping[str, Array],
        *,
        action: Array | None,
        intrinsic: Array | None,
        raw: Array | None,
    ) -> None:
        """Add to the totals that ratios are taken of."""
        real = rollout.real
        totals = {"transitions": float(real.sum())}
        if action is not None:
            totals["noop"] = float((action == self.noop)[real].sum())
        if "noise_asked" in info:
            totals["asked"] = float(info["noise_asked"][real].sum())
        if "noise_on" in info:
            noisy = info["noise_on"].astype(bool) & real
            totals["noisy"] = float(noisy.sum())
            for name, values in (("scaled", intrinsic), ("raw", raw)):
                if values is not None:
                    totals[name] = float(values[real].sum(dtype=np.float64))
                    totals[f"{name}_noisy"] = float(values[noisy].sum(dtype=np.float64))
        _add(self._totals, totals)
        self._recent = {name: 0.9 * value for name, value in self._recent.items()}
        _add(self._recent, totals)

    def _room_times(self, room: Array, real: Array) -> None:
        ids, first = np.unique(room[real], return_index=True)
        row_of = np.nonzero(real)[0]
        for name, index in zip(ids.tolist(), first.tolist(), strict=True):
            self._first_row.setdefault(name, self.rows + int(row_of[index]) + 1)
        if self._filled == self._stride or not self._history:
            if len(self._history) == self.bins:
                self._halve_history()
            self._history.append((0, {}))
            self._filled = 0
        table = self._history[-1][1]
        _add(table, _counted(room[real]))
        self._history[-1] = (self.rows + len(real), table)
        self._filled += 1

    def _halve_history(self) -> None:
        """Merge neighbouring intervals, so that each spans twice as many rollouts; an odd last one stays half full."""
        for (_, table), (_, later) in zip(self._history[::2], self._history[1::2], strict=False):
            _add(table, later)
        ends = [row for row, _ in self._history[1::2]] + [row for row, _ in self._history[-1:]]
        self._history = [(row, table) for row, (_, table) in zip(ends, self._history[::2], strict=False)]
        self._stride *= 2


class _Rollout:
    """Which transition belongs to which episode: ``slot`` numbers them, environment by environment."""

    def __init__(self, real: Array, ends: Array) -> None:
        self.real, self.ends = real, ends
        self.over = ends.sum(0)
        self.most = int(self.over.max()) + 1
        self.slot = np.arange(real.shape[1]) * self.most + np.cumsum(ends, 0) - ends
        self.live = np.arange(real.shape[1]) * self.most + self.over

    def sums(self, values: Array, before: Array) -> tuple[Array, Array]:
        """Sums over the episodes that ended, in the order of their ends, and over those that go on ``[B]``."""
        size = self.real.shape[1] * self.most
        sums = np.bincount(self.slot[self.real], values[self.real].astype(np.float64), size).astype(np.float64)
        sums[:: self.most] += before
        return sums[self.slot[self.ends]], sums[self.live]

    def distinct(self, ids: Array, present: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        """Distinct ids of the episodes that ended, and (environment, id) of those that go on."""
        names, index = np.unique(np.append(present[1], ids[self.real]), return_inverse=True)
        slots = np.append(present[0] * self.most, self.slot[self.real])
        pairs = np.unique(slots * len(names) + index)
        slot, name = np.divmod(pairs, max(len(names), 1))
        counts = np.bincount(slot, minlength=self.real.shape[1] * self.most)
        going_on = slot == self.live[slot // self.most]
        kept = slot[going_on] // self.most, names[name[going_on]]
        return counts[self.slot[self.ends]].astype(np.float64), kept


def _ratios(totals: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    named = (
        ("noise/share", "scaled_noisy", "scaled"),
        ("noise/share_raw", "raw_noisy", "raw"),
        ("noise/time", "noisy", "transitions"),
        ("noise/asked", "asked", "transitions"),
        ("action/noop", "noop", "transitions"),
    )
    for name, part, whole in named:
        if part in totals:
            found[name] = totals[part] / totals[whole] if totals[whole] else 0.0
    return found


def _entropy(visits: Mapping[int, int]) -> float:
    share = np.fromiter(visits.values(), np.float64, len(visits)) / sum(visits.values())
    return float(-(share * np.log(share)).sum()) + 0.0


def _counted(ids: Array) -> dict[int, int]:
    names, counts = np.unique(ids, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _add(table: dict[Any, Any], more: Mapping[Any, Any]) -> None:
    for name, count in more.items():
        table[name] = table.get(name, 0) + count


def _columns(table: Mapping[int, int]) -> list[list[int]]:
    return [list(table.keys()), list(table.values())]


def _table(columns: Sequence[Sequence[int]]) -> dict[int, int]:
    return dict(zip(*columns, strict=True))
