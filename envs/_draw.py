"""Small pictures and texts of boards, for `render`.

Legend: ``H`` rows and ``W`` columns of a board, ``s`` pixels a cell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SCALE = 16


def enlarge(cells_HW3: NDArray[np.uint8], scale: int = SCALE) -> NDArray[np.uint8]:
    """Every cell as a square of ``scale`` pixels: ``[H * s, W * s, 3]``."""
    return np.repeat(np.repeat(cells_HW3, scale, axis=0), scale, axis=1)


def outline(
    picture: NDArray[np.uint8],
    top: int,
    left: int,
    height: int,
    width: int,
    color: tuple[int, int, int],
    *,
    scale: int = SCALE,
    thickness: int = 2,
) -> None:
    """Draws the frame of a rectangle of cells, in place; the part beyond the picture is left out."""
    rows, columns = (np.arange(n) for n in picture.shape[:2])
    down = (rows >= top * scale) & (rows < (top + height) * scale)
    across = (columns >= left * scale) & (columns < (left + width) * scale)
    inner_down = (rows >= top * scale + thickness) & (rows < (top + height) * scale - thickness)
    inner_across = (columns >= left * scale + thickness) & (columns < (left + width) * scale - thickness)
    picture[np.outer(down, across) & ~np.outer(inner_down, inner_across)] = color


def disc(picture: NDArray[np.uint8], row: int, column: int, color: tuple[int, int, int], *, scale: int = SCALE) -> None:
    """Draws a disc into one cell, in place."""
    y, x = np.mgrid[:scale, :scale] - (scale - 1) / 2
    inside = y**2 + x**2 <= (0.4 * scale) ** 2
    picture[row * scale : (row + 1) * scale, column * scale : (column + 1) * scale][inside] = color
