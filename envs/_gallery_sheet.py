"""Layout of the contact sheet: sections of captioned pictures on a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 1600
_MARGIN, _GAP = 48, 24
_TITLE, _HEADING, _TEXT, _CAPTION = 40, 27, 17, 16
_PAGE, _INK, _DIM, _RULE = (18, 19, 24), (238, 238, 240), (150, 154, 166), (56, 58, 68)
_LARGEST = 6
"""Small pictures are enlarged at most so many times, by whole numbers."""
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Panel:
    """A picture ``[H, W, 3]`` and what stands under it."""

    picture: NDArray[np.uint8]
    caption: str


@dataclass(frozen=True)
class Section:
    """The panels of one environment.

    Attributes:
        title: Its id.
        note: Under the title.
        panels: In reading order.
        columns: Panels side by side.
    """

    title: str
    note: str
    panels: Sequence[Panel]
    columns: int


def draw_sheet(sections: Sequence[Section], missing: Sequence[str]) -> NDArray[np.uint8]:
    """The page ``[H, WIDTH, 3]``.

    Args:
        sections: From top to bottom.
        missing: Lines for the end: environments that could not be made.
    """
    page = _Page()
    page.line("Environments of byol_ext", _TITLE, _INK, after=24)
    for section in sections:
        page.rule()
        page.line(section.title, _HEADING, _INK, after=6)
        page.line(section.note, _TEXT, _DIM, after=18)
        for start in range(0, len(section.panels), section.columns):
            page.row(section.panels[start : start + section.columns], section.columns)
    if missing:
        page.rule()
        page.line("Not available here", _HEADING, _INK, after=10)
        for reason in missing:
            page.line(reason, _TEXT, _DIM, after=6)
    return page.drawn()


class _Page:
    """Places things from top to bottom; the height is known when all are placed."""

    def __init__(self) -> None:
        self._y = _MARGIN
        self._texts: list[tuple[int, int, str, int, Colour]] = []
        self._pictures: list[tuple[int, int, Any]] = []
        self._rules: list[int] = []

    def line(self, text: str, size: int, colour: Colour, *, after: int) -> None:
        """A line of text; too long ones are wrapped."""
        for part in _wrapped(text, size, WIDTH - 2 * _MARGIN):
            self._texts.append((_MARGIN, self._y, part, size, colour))
            self._y += round(1.25 * size)
        self._y += after

    def rule(self) -> None:
        """A line across the page."""
        self._y += 16
        self._rules.append(self._y)
        self._y += 22

    def row(self, panels: Sequence[Panel], columns: int) -> None:
        """Pictures side by side, standing on one line, their captions below it."""
        width = (WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) // columns
        pictures = [_fitted(panel.picture, width) for panel in panels]
        captions = [_wrapped(panel.caption, _CAPTION, width) for panel in panels]
        base = self._y + max(picture.height for picture in pictures)
        for at, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
            left = _MARGIN + at * (width + _GAP)
            self._pictures.append((left, base - picture.height, picture))
            for number, text in enumerate(lines):
                self._texts.append((left, base + 8 + number * (_CAPTION + 4), text, _CAPTION, _DIM))
        self._y = base + 8 + max(len(lines) for lines in captions) * (_CAPTION + 4) + 20

    def drawn(self) -> NDArray[np.uint8]:
        """The page."""
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (WIDTH, self._y + _MARGIN // 2), _PAGE)
        draw = ImageDraw.Draw(image)
        for y in self._rules:
            draw.line((_MARGIN, y, WIDTH - _MARGIN, y), fill=_RULE, width=2)
        for left, top, picture in self._pictures:
            image.paste(picture, (left, top))
        for left, top, text, size, colour in self._texts:
            draw.text((left, top), text, fill=colour, font=_font(size))
        return np.asarray(image)


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """The text in lines that fit; words end at spaces and, if need be, after underscores."""
    lines = [""]
    for word in text.replace("_", "_\0").replace(" ", " \0").split("\0"):
        if lines[-1] and _font(size).getlength((lines[-1] + word).rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]


def _fitted(picture: NDArray[np.uint8], width: int) -> Any:
    """Enlarged by a whole number, or shrunk, to at most the width."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.width > width:
        return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    times = min(width // image.width, _LARGEST)
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
