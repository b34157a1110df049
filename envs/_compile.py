"""Says so when kernels are about to be compiled, which takes some seconds once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def announce(what: str, *kernels: Any) -> None:
    """Prints a line to stderr if one of the kernels is neither compiled nor in Numba's cache on disk.

    Args:
        what: Name of the environment.
        kernels: Functions made by ``numba.njit(cache=True)``; plain functions (``NUMBA_DISABLE_JIT``) are ignored.
    """
    for kernel in kernels:
        if hasattr(kernel, "signatures") and not kernel.signatures and not _cached(kernel):
            print(f"envs: compiling {what}, once; it is cached in {kernel.stats.cache_path}", file=sys.stderr)
            return


def _cached(kernel: Any) -> bool:
    """Whether the folder of Numba's cache has an index of this function."""
    function = kernel.py_func
    stem = Path(function.__code__.co_filename).stem
    return any(Path(kernel.stats.cache_path).glob(f"{stem}.{function.__qualname__}-*.nbi"))
