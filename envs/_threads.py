"""Threads that work on fixed ranges of rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise


class Partition:
    """Calls a function for fixed ranges of ``num_rows`` rows, each in its own persistent thread.

    Numba's ``prange`` is not used, since its thread pool breaks when two Python threads enter it at once.

    Args:
        num_rows: Rows to divide, at least 1.
        num_threads: Ranges, at most one a row; 0 means one a core. The caller's thread takes the first.
        name: Of the threads.
    """

    def __init__(self, num_rows: int, num_threads: int, *, name: str) -> None:
        threads = min(num_threads or os.cpu_count() or 1, num_rows)
        self.ranges = list(pairwise(num_rows * t // threads for t in range(threads + 1)))
        self._pool = ThreadPoolExecutor(threads - 1, name) if threads > 1 else None

    def run(self, rows: Callable[[int, int], None]) -> None:
        """Calls ``rows(lo, hi)`` for every range and waits; raises what one of them raised."""
        if self._pool is None:
            rows(*self.ranges[0])
            return
        futures = [self._pool.submit(rows, lo, hi) for lo, hi in self.ranges[1:]]
        try:
            rows(*self.ranges[0])
        finally:
            errors = [error for future in futures if (error := future.exception()) is not None]
        for error in errors:
            raise error

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()
