"""Picture files to ``uint8`` arrays: transparency on a ground, one colour space, no decompression bombs.

Legend: ``H, W, C`` height, width, channels.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from byol_ext.images.samples import ImageReadError


@dataclass(frozen=True)
class Decoder:
    """How pictures are decoded.

    Attributes:
        channels: 3 for RGB, 1 for luma.
        max_side: Shrink (antialiased) pictures whose longer side has more pixels, so that one large picture does not
            blow up a padded batch; None keeps them.
        ground: Colour behind transparent pixels; white, on which clip art is drawn.
        max_pixels: Pictures with more are not decoded (50 million pixels take 200 MB).

    Raises:
        ValueError: For a value out of its range, naming it.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("RGBA", (4, 2), (255, 0, 0, 0)).save(buffer, "png")
        >>> Decoder(channels=1)(buffer.getvalue())[..., 0]
        array([[255, 255, 255, 255],
               [255, 255, 255, 255]], dtype=uint8)
    """

    channels: int = 3
    max_side: int | None = 512
    ground: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: expected 1 or 3")
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"max_side={self.max_side}: expected at least 1 pixel, or None")

    def __call__(self, source: Path | bytes, *, name: str | None = None) -> np.ndarray:
        """Decode a file or its bytes.

        Args:
            source: The file, or what it holds.
            name: For messages; default: the path.

        Returns:
            ``uint8 [H, W, C]``, turned upright as its EXIF tag says.

        Raises:
            ImageReadError: If it is not there, no picture, damaged, or too large.
        """
        name = name or (str(source) if isinstance(source, Path) else "bytes")
        try:
            with _open(source) as picture:
                return self._pixels(picture, name)
        except FileNotFoundError as error:
            raise ImageReadError("missing", "no such file", source=name) from error
        except Image.DecompressionBombError as error:
            raise ImageReadError("too_large", str(error), source=name) from error
        # Pillow's plugins raise these on damaged files; SyntaxError is what its PNG plugin says of a broken chunk.
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
            if isinstance(error, ImageReadError):
                raise
            raise ImageReadError("unreadable", str(error), source=name) from error

    def _pixels(self, picture: Image.Image, name: str) -> np.ndarray:
        width, height = picture.size
        if width * height > self.max_pixels:
            detail = f"{height} x {width} pixels, more than max_pixels={self.max_pixels}"
            raise ImageReadError("too_large", detail, source=name)
        if self.max_side is not None:
            picture.draft("RGB" if self.channels == 3 else "L", (self.max_side, self.max_side))
        upright = ImageOps.exif_transpose(picture)
        opaque = _on_ground(_eight_bit(upright), self.ground).convert("RGB" if self.channels == 3 else "L")
        if self.max_side is not None and max(opaque.size) > self.max_side:
            opaque.thumbnail((self.max_side, self.max_side), Image.Resampling.BILINEAR, reducing_gap=2.0)
        pixels = np.array(opaque)
        return pixels[..., None] if pixels.ndim == 2 else pixels


def _open(source: Path | bytes) -> Image.Image:
    with warnings.catch_warnings():  # of large pictures: max_pixels decides
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Sixteen-bit grey scaled to eight; Pillow's own conversion cuts it off at 255."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture, dtype=np.int64).clip(0, 65535) // 257).astype(np.uint8))


def _on_ground(picture: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
    if not picture.has_transparency_data:
        return picture
    coloured = picture.convert("RGBA")
    below = Image.new("RGBA", coloured.size, (*ground, 255))
    return Image.alpha_composite(below, coloured)
