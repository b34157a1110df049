"""Captions: one normal form, and optional augmentations keyed by an explicit generator."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")

TAG_TEMPLATES: tuple[str, ...] = (
    "{}",
    "Music with {}",
    "This is a recording of {}",
    "The sound of {}",
)
"""Templates of :func:`tags_to_prompt`; ``{}`` is the list of tags."""


def normalize_caption(text: object, *, row: int | None = None) -> str:
    r"""Bring a caption into normal form: Unicode NFC, runs of white and control characters to one space, stripped.

    Args:
        text: The caption.
        row: Its position, named in the error.

    Returns:
        The normal form, never empty.

    Raises:
        ValueError: If the caption is None, not a string, or empty (slap spec §10).

    Example:
        >>> normalize_caption("  slow \n  reel ")
        'slow reel'
    """
    where = "caption" if row is None else f"caption in row {row}"
    if not isinstance(text, str):
        raise ValueError(f"{where} is {type(text).__name__} ({text!r:.60}); expected a non-empty string")
    spaced = "".join(" " if unicodedata.category(c) == "Cc" else c for c in unicodedata.normalize("NFC", text))
    normal = " ".join(spaced.split())
    if not normal.strip("\ufeff\u200b\u200c\u200d "):
        raise ValueError(f"{where} is empty ({text!r:.60}); expected a non-empty string")
    return normal


def normalize_captions(texts: Sequence[object]) -> list[str]:
    """Normal forms of several captions, for queries: every caption must be usable.

    Args:
        texts: A sequence of captions; one string is refused, because it would be read as a list of letters.

    Returns:
        One normal form a row.

    Raises:
        ValueError: If the sequence is a string or empty, or a caption is unusable; names the row.

    Example:
        >>> normalize_captions(["a  reel", "a jig"])
        ['a reel', 'a jig']
    """
    if isinstance(texts, str):
        raise ValueError(f"expected a list of captions, got one string {texts!r:.60}; wrap it in a list")
    if len(texts) == 0:
        raise ValueError("expected at least one caption, got an empty list")
    return [normalize_caption(text, row=row) for row, text in enumerate(texts)]


def usable_captions(texts: Iterable[object]) -> list[str]:
    """Normal forms of the usable captions of a training sample; the others are dropped, repetitions too.

    Args:
        texts: Captions of one sample, possibly None, empty or of another type.

    Returns:
        Distinct normal forms in order; empty if the sample has none and must be skipped.

    Example:
        >>> usable_captions(["a reel", None, "  ", "a  reel", 3])
        ['a reel']
    """
    usable: dict[str, None] = {}
    for text in texts:
        try:
            usable[normalize_caption(text)] = None
        except ValueError:
            continue
    return list(usable)


def split_sentences(caption: str) -> list[str]:
    """Sentences of a caption, cut after ``.``, ``!`` or ``?`` followed by white space.

    Example:
        >>> split_sentences("A reel. Played at 1.5 times speed!")
        ['A reel.', 'Played at 1.5 times speed!']
    """
    return [sentence for sentence in _SENTENCE_END.split(caption.strip()) if sentence]


def choose_caption(captions: Sequence[str], rng: np.random.Generator | None) -> str:
    """One of several captions: drawn in training, the first in evaluation.

    Args:
        captions: Captions of one sample.
        rng: Source of the choice, or None for the first.

    Returns:
        One caption.

    Raises:
        ValueError: If there are none.

    Example:
        >>> choose_caption(["a", "b"], None)
        'a'
    """
    if not captions:
        raise ValueError("expected at least one caption, got none; drop such samples with usable_captions")
    return captions[0] if rng is None else captions[int(rng.integers(len(captions)))]


def shuffle_sentences(caption: str, rng: np.random.Generator) -> str:
    """The caption with its sentences in random order.

    Args:
        caption: A caption.
        rng: Source of the order.
    """
    sentences = split_sentences(caption)
    return " ".join(sentences[int(i)] for i in rng.permutation(len(sentences)))


def drop_sentences(caption: str, rng: np.random.Generator, *, chance: float = 0.3) -> str:
    """The caption with each sentence left out by chance; at least one stays.

    Args:
        caption: A caption.
        rng: Source of the choices.
        chance: Chance of each sentence to be left out.
    """
    sentences = split_sentences(caption)
    keep = rng.random(len(sentences)) >= chance
    if not keep.any():
        keep[int(rng.integers(len(sentences)))] = True
    return " ".join(sentence for sentence, kept in zip(sentences, keep, strict=True) if kept)


def tags_to_prompt(
    tags: Mapping[str, object] | Sequence[str],
    rng: np.random.Generator | None = None,
    *,
    templates: Sequence[str] = TAG_TEMPLATES,
    drop: float = 0.3,
) -> str:
    """A caption made of tags.

    Args:
        tags: Tags, or named tags of which the string values are used.
        rng: Draws template, order and which tags are left out; None gives the first template over all tags.
        templates: Texts with one ``{}``.
        drop: Chance of each tag to be left out; at least one stays.

    Returns:
        A caption.

    Raises:
        ValueError: If there is no tag.

    Example:
        >>> tags_to_prompt({"instrument": "flute", "bpm": 90, "kind": "reel"})
        'flute, reel'
    """
    values = tags.values() if isinstance(tags, Mapping) else tags
    words = [value for value in values if isinstance(value, str) and value.strip()]
    if not words:
        raise ValueError(f"expected at least one tag that is a non-empty string, got {tags!r:.80}")
    if rng is None:
        return templates[0].format(", ".join(words))
    order = [int(i) for i in rng.permutation(len(words))]
    kept = [i for i in order if rng.random() >= drop] or order[:1]
    return templates[int(rng.integers(len(templates)))].format(", ".join(words[i] for i in kept))


@dataclass(frozen=True)
class CaptionAugment:
    """Training-time choice and augmentation of captions; the default only chooses among a sample's captions.

    Attributes:
        shuffle: Chance to shuffle the sentences.
        drop: Chance of each sentence to be left out.
        tag_prompt: Chance to use a prompt made of ``tag_fields`` instead of a caption.
        tag_fields: Named tags that may appear in a prompt.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> CaptionAugment(tag_prompt=1.0)(["A slow reel."], {"instrument": "flute"}, rng).endswith("flute")
        True
    """

    shuffle: float = 0.0
    drop: float = 0.0
    tag_prompt: float = 0.0
    tag_fields: tuple[str, ...] = ("instrument", "tempo", "kind", "meter", "origin")

    def __call__(self, captions: Sequence[str], tags: Mapping[str, object], rng: np.random.Generator | None) -> str:
        """One caption of a sample.

        Args:
            captions: Its captions.
            tags: Its named tags.
            rng: Keyed by (seed, epoch, sample id); None (evaluation) gives the first caption unchanged.
        """
        if rng is None:
            return choose_caption(captions, None)
        prompt, shuffle = rng.random(2)
        named = {name: tags[name] for name in self.tag_fields if isinstance(tags.get(name), str)}
        if named and prompt < self.tag_prompt:
            return tags_to_prompt(named, rng)
        caption = choose_caption(captions, rng)
        if self.drop > 0:
            caption = drop_sentences(caption, rng, chance=self.drop)
        return shuffle_sentences(caption, rng) if shuffle < self.shuffle else caption


@dataclass
class TruncationCount:
    """How many captions a tokenizer cut (slap spec §10: truncate and count).

    Attributes:
        seen: Captions tokenised.
        truncated: Captions with more tokens than allowed.
        longest: Most tokens seen in one caption, before cutting.
    """

    seen: int = field(default=0)
    truncated: int = field(default=0)
    longest: int = field(default=0)

    def add(self, lengths: Sequence[int], limit: int) -> None:
        """Count one batch.

        Args:
            lengths: Tokens of each caption before cutting.
            limit: Most tokens kept.
        """
        self.seen += len(lengths)
        self.truncated += sum(length > limit for length in lengths)
        self.longest = max(self.longest, *lengths) if lengths else self.longest

    @property
    def share(self) -> float:
        """Truncated captions over all; 0 before the first."""
        return self.truncated / self.seen if self.seen else 0.0
