"""An audio-text pair, what a source of pairs is, and what counts as a caption.

A source is map-style: `len`, and one sample at a position that never changes. So training shuffles globally and
resumes exactly. Sources are in ``readers.py`` (manifests, Hugging Face), ``importers.py`` and ``shards.py``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from byol_ext.audio.decode import BadAudio, Clip, Crop, array_clip, decode_clip


class BadCaption(ValueError):
    """A caption that must not be trained on.

    Attributes:
        reason: ``caption_missing``, ``caption_empty`` or ``caption_not_text``.
        source: File and row, or key.
    """

    def __init__(self, reason: str, source: str) -> None:
        super().__init__(f"{source}: {reason}: expected a non-empty text, or a list with at least one")
        self.reason = reason
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        return BadCaption, (self.reason, self.source)


@dataclass(frozen=True)
class AudioTextSample:
    """One recording, or a segment of one, with its captions. At most one of audio, path and blob is given.

    Attributes:
        key: Name that identifies the sample.
        captions: Non-empty texts.
        audio: Samples in memory, ``[S]`` or ``[C, S]``; needs ``sr``.
        path: Audio file, or a ``.npy`` array of samples (needs ``sr``).
        blob: The bytes of an audio file.
        sr: Rate of ``audio`` in Hz. Files state their own and ignore it.
        tags: Facts about the sample, such as ``{"instrument": "flute"}``.
        split: Name of its split, or "".
        start: Seconds to skip in the recording.
        duration: Seconds of the segment; None means to the end.
        filename: Name of the file in ``blob``, for messages and the extension check.

    Raises:
        ValueError: If several of audio, path and blob are given, or an array without its rate.

    Example:
        >>> sample = AudioTextSample("a", ("a quiet hum",), audio=np.ones(800, np.float32), sr=16000)
        >>> sample.clip(sr=8000, n=None).duration
        0.05
    """

    key: str
    captions: tuple[str, ...]
    audio: np.ndarray | None = field(default=None, compare=False)
    path: Path | None = None
    blob: bytes | None = None
    sr: int | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    start: float = 0.0
    duration: float | None = None
    filename: str | None = None

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.audio, self.path, self.blob)) > 1:
            raise ValueError(f"sample {self.key!r}: give one of audio, path and blob")
        if self.audio is not None and not self.sr:
            raise ValueError(f"sample {self.key!r}: audio= needs its sample rate; pass sr=")

    def clip(
        self,
        *,
        sr: int,
        n: int | None,
        rng: np.random.Generator | None = None,
        crop: Crop = "center",
        check_extension: bool = True,
    ) -> Clip:
        """Decode at most ``n`` samples at rate ``sr``.

        Args:
            sr: Target rate in Hz.
            n: Samples wanted, or None for the whole segment.
            rng: Draws the crop; None takes the deterministic ``crop``.
            crop: The middle or the start of the segment.
            check_extension: Reject a file whose content is not what its suffix says.

        Returns:
            The crop and the true duration of the segment.

        Raises:
            BadAudio: If there is no usable audio.
        """
        name = self.filename or (str(self.path) if self.path else self.key)
        array = _load_array(self.path, name) if self.path and self.path.suffix == ".npy" else self.audio
        if array is not None:
            return array_clip(
                array,
                sr_in=self.sr,
                sr=sr,
                n=n,
                rng=rng,
                crop=crop,
                start=self.start,
                duration=self.duration,
                name=name,
            )
        source = self.blob if self.blob is not None else self.path
        if source is None:
            raise BadAudio("missing", "the sample holds captions only", source=self.key)
        return decode_clip(
            source,
            sr=sr,
            n=n,
            rng=rng,
            crop=crop,
            start=self.start,
            duration=self.duration,
            name=name,
            check_extension=check_extension,
        )


class SampleSource(Protocol):
    """What every reader offers."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int, /) -> AudioTextSample:
        """The sample at a position; raises `BadAudio` or `BadCaption` if it cannot be used."""

    def captions(self, index: int) -> Sequence[str]:
        """Its captions, without touching audio; empty if there are none."""


class SampleList:
    """A source over samples in memory.

    Args:
        samples: The samples; their order defines their ids.
        dropped: Rows left out by the reader, by cause.

    Example:
        >>> len(SampleList([AudioTextSample("a", ("hum",))]))
        1
    """

    def __init__(self, samples: Iterable[AudioTextSample], *, dropped: Mapping[str, int] | None = None) -> None:
        self.samples = tuple(samples)
        self.dropped = dict(dropped or {})

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> AudioTextSample:
        return self.samples[index]

    def captions(self, index: int) -> Sequence[str]:
        """Captions of one sample."""
        return self.samples[index].captions


def caption_list(value: object) -> tuple[tuple[str, ...], str | None]:
    """The usable captions in ``value``, and the cause if there are none.

    Args:
        value: A text, a list of texts, or whatever a broken row holds.

    Returns:
        Stripped non-empty texts in order without repeats, and None; or ``()`` and the cause.

    Example:
        >>> caption_list([" a hum ", "", None]), caption_list("  "), caption_list(3)
        ((('a hum',), None), ((), 'caption_empty'), ((), 'caption_not_text'))
    """
    values = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    texts = [text.strip() for text in values if isinstance(text, str)]
    usable = tuple(dict.fromkeys(text for text in texts if text))
    if usable:
        return usable, None
    if not values or all(text is None or (isinstance(text, float) and math.isnan(text)) for text in values):
        return (), "caption_missing"
    return (), "caption_empty" if texts else "caption_not_text"


def position_and_epoch(index: int | tuple[int, int], *, size: int) -> tuple[int, int]:
    """What the index of an item names: ``id`` (epoch 0) or ``(id, epoch)``.

    Raises:
        IndexError: If there is no such id.
    """
    position, epoch = (int(index[0]), int(index[1])) if isinstance(index, tuple) else (int(index), 0)
    if not 0 <= position < size:
        raise IndexError(f"sample {position} of {size}")
    return position, epoch


def usable_texts(captions: Sequence[str], normalize: Callable[[str], str] | None) -> list[str]:
    """The captions that can be used, in normal form.

    Args:
        captions: Captions of a sample.
        normalize: Applied to each; one that it empties or refuses with `ValueError` is left out. None: as they are.
    """
    if normalize is None:
        return list(captions)
    usable = []
    for caption in captions:
        try:
            text = normalize(caption)
        except ValueError:
            continue
        if text:
            usable.append(text)
    return usable


def caption_duplicate_rate(samples: SampleSource) -> float:
    """Share of captions whose text (case-folded) also belongs to another sample.

    Duplicates are kept: they are false negatives for a contrastive loss and ties in retrieval (slap spec §10).

    Example:
        >>> pair = [AudioTextSample("a", ("Hum", "a dog")), AudioTextSample("b", ("hum",))]
        >>> round(caption_duplicate_rate(SampleList(pair)), 3)
        0.667
    """
    texts = [text for i in range(len(samples)) for text in {text.casefold() for text in samples.captions(i)}]
    counts = Counter(texts)
    return sum(n for n in counts.values() if n > 1) / len(texts) if texts else 0.0


def _load_array(path: Path, name: str) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise BadAudio("missing", "no such file", source=name) from error
    except (ValueError, OSError, EOFError) as error:
        raise BadAudio("unreadable", f"not an array of samples ({error})", source=name) from error
    return array
