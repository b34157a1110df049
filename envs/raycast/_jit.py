"""Decorators of compiled functions."""

from __future__ import annotations

from numba import njit

entry = njit(nogil=True, cache=True)
"""For functions that Python calls."""

inner = njit(nogil=True, cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)  # type: ignore[call-overload]
"""For functions that only compiled ones call: without wrappers a third of the compilation is saved."""
