"""Where an environment without a map is: a 64-bit hash of its picture, for visit counts and coverage.

Legend: ``B`` environments, ``C`` channels or stacked frames, ``H, W`` pixels.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs._rng import mix

COLUMNS, ROWS, LEVELS = 11, 8, 8
"""Size and grey levels of the picture that is hashed, as Go-Explore's first version used (spec exploration §8.3)."""

_EXACT = 1024
"""Pictures of at most this many bytes are hashed as they are: they are boards, not camera views."""


def frame_cells(obs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Hash of the newest of some stacked grey frames, after reduction to 11x8 pixels of 8 grey levels.

    A reduced pixel is the mean of its block, rounded down; blocks begin at ``i * H // 8`` and ``j * W // 11``.

    Args:
        obs: ``[B, C, H, W]``, contiguous, at least 8x11 pixels; the last of ``C`` is the newest.

    Returns:
        ``[B]``; equal for equal reduced pictures, on every machine.

    Raises:
        ValueError: Pictures smaller than 8x11.

    >>> frames = np.zeros((3, 4, 84, 84), np.uint8)
    >>> frames[1, :3] = 255  # older frames are not looked at
    >>> frames[2, 3, :11, :8] = 255
    >>> cells = frame_cells(frames)
    >>> bool(cells[0] == cells[1]), bool(cells[0] == cells[2])
    (True, False)
    """
    if obs.shape[2] < ROWS or obs.shape[3] < COLUMNS:
        raise ValueError(f"pictures must have at least {ROWS}x{COLUMNS} pixels, got {obs.shape[2]}x{obs.shape[3]}")
    cells = np.empty(len(obs), np.int64)
    _frame_cells(np.ascontiguousarray(obs), _edges(obs.shape[2], ROWS), _edges(obs.shape[3], COLUMNS), cells)
    return cells


def picture_cells(obs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Hash of pictures in any layout.

    Args:
        obs: ``[B, H, W, C]`` or ``[B, C, H, W]`` (the smaller of the outer two counts as channels). Pictures of more
            than 1024 bytes are averaged over the channels and go through `frame_cells`; smaller ones are hashed whole.

    Returns:
        ``[B]``.
    """
    _, first, middle, last = obs.shape
    height, width = (first, middle) if last <= first else (middle, last)
    if obs[0].size <= _EXACT or height < ROWS or width < COLUMNS:
        cells = np.empty(len(obs), np.int64)
        _byte_cells(np.ascontiguousarray(obs).reshape(len(obs), -1), cells)
        return cells
    grey = obs.mean(axis=3 if last <= first else 1, dtype=np.float32).astype(np.uint8)
    return frame_cells(grey[:, None])


def _edges(size: int, blocks: int) -> NDArray[np.int64]:
    return np.arange(blocks + 1) * size // blocks


@njit(nogil=True, cache=True)
def _frame_cells(obs, rows, columns, cells):  # type: ignore[no-untyped-def]
    sums = np.empty(obs.shape[3], np.uint32)
    for b in range(len(obs)):
        frame = obs[b, -1]
        key = np.uint64(0)
        for i in range(ROWS):
            sums[:] = 0
            # Whole rows first: this loop is most of the work and vectorises.
            for y in range(rows[i], rows[i + 1]):
                for x in range(frame.shape[1]):
                    sums[x] += frame[y, x]
            for j in range(COLUMNS):
                total = 0
                for x in range(columns[j], columns[j + 1]):
                    total += sums[x]
                area = (rows[i + 1] - rows[i]) * (columns[j + 1] - columns[j])
                key = mix(key + np.uint64(total // area * LEVELS // 256 + 1))
        cells[b] = np.int64(key)


@njit(nogil=True, cache=True)
def _byte_cells(pictures, cells):  # type: ignore[no-untyped-def]
    for b in range(len(pictures)):
        key = np.uint64(0)
        for byte in pictures[b]:
            key = mix(key + np.uint64(byte) + np.uint64(1))
        cells[b] = np.int64(key)
