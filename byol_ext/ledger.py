"""The account of samples that could not be used: counted, logged once a cause, written to ``errors.jsonl``."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_log = logging.getLogger(__name__)


class TooManyBadSamples(RuntimeError):
    """More samples than allowed could not be used; the message lists the causes."""


class BadSampleLedger:
    """Adds up bad samples in the main process; logs each cause once and stops the run when there are too many.

    Call `update` with every batch and `check` at the end of each epoch. A batch brings ``seen`` (samples tried),
    ``bad`` {cause: count}, ``errors`` [{"key", "cause", "message"}] and, if it likes, ``notes`` {what: count} about
    samples that were kept.

    Args:
        max_bad_fraction: Largest share of the samples tried that may be bad (5 %, slap spec §10).
        min_seen: Samples to see before `update` judges; `check` judges at once.
        hints: What to do about a note, by its name; added to its log line.

    Attributes:
        seen: Samples tried.
        bad: Bad ones, by cause.
        notes: Samples that were kept although something was odd, by what it was.
        entries: Each bad sample once: ``{"key", "cause", "message"}``, ready for `write_errors_jsonl`.

    Example:
        >>> ledger = BadSampleLedger()
        >>> ledger.update({"seen": 100, "bad": {"silent": 2}, "errors": []})
        >>> ledger.fraction
        0.02
    """

    def __init__(
        self, *, max_bad_fraction: float = 0.05, min_seen: int = 100, hints: Mapping[str, str] | None = None
    ) -> None:
        if not 0.0 <= max_bad_fraction <= 1.0:
            raise ValueError(f"max_bad_fraction={max_bad_fraction}: expected a share between 0 and 1")
        self._max_bad_fraction = max_bad_fraction
        self._min_seen = min_seen
        self._hints = dict(hints or {})
        self.seen = 0
        self.bad: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self._entries: dict[tuple[str, str], dict[str, str]] = {}
        self._logged: set[str] = set()

    @property
    def fraction(self) -> float:
        """Share of the samples tried that was bad."""
        return self.bad.total() / self.seen if self.seen else 0.0

    @property
    def entries(self) -> list[dict[str, str]]:
        """Each bad sample once."""
        return list(self._entries.values())

    def update(self, batch: Mapping[str, Any]) -> None:
        """Add a batch.

        Raises:
            TooManyBadSamples: If ``min_seen`` samples were tried and too many were bad.
        """
        self.seen += batch["seen"]
        for error in batch["errors"]:
            self._log_once(error["cause"], f"bad sample, logged once for {error['cause']}: {error['message']}")
            self._entries.setdefault((error["key"], error["cause"]), dict(error))
        self.bad.update(batch["bad"])
        for name, count in batch.get("notes", {}).items():
            if count:
                self.notes[name] += count
                hint = f"; {self._hints[name]}" if name in self._hints else ""
                self._log_once(f"note {name}", f"a {name} sample was kept, logged once{hint}")
        if self.seen >= self._min_seen:
            self.check()

    def check(self) -> None:
        """Judge what was seen so far.

        Raises:
            TooManyBadSamples: If too many samples were bad; lists the causes and an example of each.
        """
        if self.fraction <= self._max_bad_fraction:
            return
        examples = {entry["cause"]: entry["message"] for entry in reversed(self.entries)}
        causes = "; ".join(f"{n} x {cause} (e.g. {examples.get(cause, '?')})" for cause, n in self.bad.most_common())
        raise TooManyBadSamples(
            f"{self.bad.total()} of {self.seen} samples are bad ({self.fraction:.1%}, allowed "
            f"{self._max_bad_fraction:.1%}): {causes}"
        )

    def write(self, path: str | Path) -> None:
        """Add the bad samples to an ``errors.jsonl``; those of an earlier part of the run stay.

        Args:
            path: The file. Each pair of key and cause is in it once, and it is replaced at once or not at all.

        Raises:
            ValueError: If the file exists and a line is not a JSON object; names the line.
        """
        merged: dict[tuple[Any, Any], Mapping[str, Any]] = {}
        for entry in [*read_errors_jsonl(path), *self.entries]:
            merged.setdefault((entry.get("key"), entry.get("cause")), entry)
        write_errors_jsonl(path, merged.values())

    def state_dict(self) -> dict[str, Any]:
        """Counts, entries and what was logged, for a checkpoint."""
        return {
            "seen": self.seen,
            "bad": dict(self.bad),
            "notes": dict(self.notes),
            "entries": self.entries,
            "logged": sorted(self._logged),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.seen = int(state["seen"])
        self.bad, self.notes = Counter(state["bad"]), Counter(state["notes"])
        self._entries = {(entry["key"], entry["cause"]): dict(entry) for entry in state["entries"]}
        self._logged = set(state["logged"])

    def _log_once(self, what: str, message: str) -> None:
        if what not in self._logged:
            self._logged.add(what)
            _log.warning("%s", message)


def read_errors_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Entries of an ``errors.jsonl``: ``{"key", "cause", "message", …}``; empty if the file does not exist.

    Args:
        path: The file, or the folder that holds it.

    Returns:
        One dictionary a line.

    Raises:
        ValueError: For a line that is not a JSON object; names file and line.
    """
    file = Path(path)
    file = file / "errors.jsonl" if file.is_dir() else file
    if not file.exists():
        return []
    entries = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}:{number}: not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{file}:{number}: got {type(entry).__name__}, expected an object")
        entries.append(entry)
    return entries


def write_errors_jsonl(path: str | Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write entries one JSON object a line; the file appears at once or not at all."""
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    replace_file(Path(path), text.encode(errors="backslashreplace"))


def replace_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and put it in place: readers see the old one or the new one."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def candidates(first: int, count: int, *, seed: int, epoch: int, tries: int) -> Iterator[int]:
    """A sample, and then others at random: neighbours in a list are often bad together, or of one class.

    Args:
        first: The wanted sample.
        count: Samples of the source.
        seed: Of the choice, with ``epoch`` and ``first``.
        epoch: Pass over the data.
        tries: Most samples, the first included.

    Example:
        >>> sorted(candidates(2, 4, seed=0, epoch=0, tries=9))
        [0, 1, 2, 3]
    """
    yield first
    if count == 1:
        return
    rng = np.random.default_rng([seed & 0xFFFFFFFFFFFFFFFF, epoch, first, 1])
    others = rng.choice(count - 1, size=min(tries, count) - 1, replace=False)
    yield from (int(other + (other >= first)) for other in others)


def account_of(errors: list[dict[str, str]]) -> dict[str, Any]:
    """What an item says of the samples that it stands in for: ``bad``, counts by cause, and ``errors``."""
    return {"bad": dict(Counter(error["cause"] for error in errors)), "errors": errors}
