"""A 3 x 5 pixel font for the legends of rendered pictures, so that no font library is needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# A glyph is five rows from the top; a row is an octal digit, its bits the pixels from the left.
_GLYPHS = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ .,:%/=()+-_^'",
        (
            *("75557", "26227", "71747", "71717", "55711", "74717", "74757", "71122", "75757", "75717"),
            *("25755", "65656", "34443", "65556", "74647", "74644", "34553", "55755", "72227", "11152"),
            *("55655", "44447", "57755", "65555", "25552", "65644", "25563", "65655", "34216", "72222"),
            *("55557", "55522", "55775", "55255", "55222", "71247", "00000", "00002", "00024", "02020"),
            *("51245", "11244", "07070", "24442", "21112", "02720", "00700", "00007", "25000", "22000"),
        ),
        strict=True,
    )
)
GLYPH_WIDTH, GLYPH_HEIGHT = 4, 6


def text_width(text: str, scale: int) -> int:
    """Width of a line in pixels."""
    return len(text) * GLYPH_WIDTH * scale


def write_text(
    picture: NDArray[np.uint8], text: str, *, row: int, column: int, scale: int, colour: tuple[int, int, int]
) -> None:
    """Write a line into ``picture`` ``[H, W, 3]``, in place, cut at its right and lower edges.

    Args:
        picture: The picture.
        text: Letters (any case), digits and ``.,:%/=()+-_^'``; other characters are blank.
        row: Of the upper left corner.
        column: Of the upper left corner.
        scale: Pixels a font pixel is wide.
        colour: Red, green and blue, 0..255.
    """
    for k, letter in enumerate(text.upper()):
        digits = [int(digit) for digit in _GLYPHS.get(letter, "00000")]
        lit = np.array([[digit >> bit & 1 for bit in (2, 1, 0)] for digit in digits], dtype=bool)
        lit = lit.repeat(scale, axis=0).repeat(scale, axis=1)
        left = column + k * GLYPH_WIDTH * scale
        window = picture[row : row + lit.shape[0], left : left + lit.shape[1]]
        window[lit[: window.shape[0], : window.shape[1]]] = colour
