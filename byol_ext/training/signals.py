"""Ctrl-C and SIGTERM as a request to stop after the step."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType


class StopSignals:
    """While entered, SIGINT and SIGTERM set :attr:`received`; a second SIGINT raises ``KeyboardInterrupt`` at once.

    The previous handlers come back on exit. Outside the main thread, where Python forbids handlers, it does nothing.

    Example:
        >>> with StopSignals() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.received
        'SIGTERM'
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        if number == signal.SIGINT:
            print("\nstopping after this step; Ctrl-C again stops now, without a checkpoint", file=sys.stderr)
