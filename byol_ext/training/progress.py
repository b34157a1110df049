"""One progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Shows steps, rate, time left, loss and one headline metric, on standard error.

    Args:
        total: Steps of the training.
        done: Steps done before.
        unit: What the rate counts: samples, frames, tokens.
        headline: Key of a record to show beside the loss.
        enabled: False on all processes but the first.
    """

    def __init__(
        self,
        total: int,
        *,
        done: int = 0,
        unit: str = "samples",
        headline: str | None = None,
        enabled: bool = True,
    ) -> None:
        self.total, self.unit, self.headline, self.enabled = total, unit, headline, enabled
        self._shown: dict[str, Any] = {}
        self._bar: RichProgress | None = None
        console = Console(stderr=True)
        if enabled and console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
            )
            self._bar = RichProgress(*columns, console=console, transient=False)
            self._task = self._bar.add_task("training", total=total, completed=done, values="")
            self._bar.start()

    def advance(self, step: int) -> None:
        """Say that ``step`` steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def show(self, record: dict[str, Any]) -> None:
        """Show a log record: into the bar, or as one line."""
        if not self.enabled:
            return
        self._shown.update(record)
        text = self._text()
        if self._bar is not None:
            self._bar.update(self._task, values=text)
            return
        left = self._time_left(record)
        print(f"step {record['step']}/{self.total}  {text}{left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def _text(self) -> str:
        parts = [f"loss {_short(self._shown.get('loss'))}", f"{_short(self._shown.get('samples/s'))} {self.unit}/s"]
        if self.headline is not None and self.headline in self._shown:
            parts.append(f"{self.headline} {_short(self._shown[self.headline])}")
        return "  ".join(parts)

    def _time_left(self, record: dict[str, Any]) -> str:
        per_step = record.get("seconds_per_step")
        if not per_step:
            return ""
        seconds = round((self.total - record["step"]) * per_step)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f"  {hours}:{minutes:02}:{seconds % 60:02} left" if hours else f"  {minutes}:{seconds % 60:02} left"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "-"
