"""Instructions as tokens: a small vocabulary and eleven templates with slots.

Legend: ``L`` tokens of an instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

COLOUR_WORDS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "white")
SHAPE_WORDS = ("ball", "box", "cone", "star", "ring", "gem", "cross", "cup")
PLURALS = ("balls", "boxes", "cones", "stars", "rings", "gems", "crosses", "cups")
SIZE_WORDS = ("small", "big")
_OTHER_WORDS = (
    "pick",
    "the",
    "an",
    "object",
    "in",
    "room",
    "that",
    "is",
    "not",
    "are",
    "all",
    "any",
    "most",
    "anything",
)

VOCABULARY: tuple[str, ...] = ("", *_OTHER_WORDS, *SIZE_WORDS, *COLOUR_WORDS, *SHAPE_WORDS, *PLURALS, "?")
"""Word of each token; 0 pads."""
LENGTH = 8
"""``L``: tokens of every instruction, padded."""


class Template(IntEnum):
    """Kinds of instructions, then of questions."""

    COLOUR = 0
    SHAPE = 1
    BOTH = 2
    COLOUR_IN_ROOM = 3
    SHAPE_IN_ROOM = 4
    SIZE = 5
    NOT_COLOUR = 6
    ALL = 7
    ANY = 8
    ANYTHING = 9
    MOST = 10


TASKS, QUESTIONS = tuple(Template)[:7], tuple(Template)[7:]

_SENTENCES = {
    Template.COLOUR: "pick the {colour} object",
    Template.SHAPE: "pick the {shape}",
    Template.BOTH: "pick the {colour} {shape}",
    Template.COLOUR_IN_ROOM: "pick the {colour} object in the {room} room",
    Template.SHAPE_IN_ROOM: "pick the {shape} in the {room} room",
    Template.SIZE: "pick the {size} {shape}",
    Template.NOT_COLOUR: "pick an object that is not {colour}",
    Template.ALL: "are all {shapes} {colour} ?",
    Template.ANY: "is any {shape} {colour} ?",
    Template.ANYTHING: "is anything {colour} ?",
    Template.MOST: "are most {shapes} {colour} ?",
}
COLOUR, SHAPE, ROOM, SIZE = 0, 1, 2, 3
"""What a slot is filled with."""
_SLOTS = {
    "{colour}": (COLOUR, "red"),
    "{shape}": (SHAPE, "ball"),
    "{shapes}": (SHAPE, "balls"),
    "{room}": (ROOM, "red"),
    "{size}": (SIZE, "small"),
}


def _compiled() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each template the tokens of its words, and for each slot what fills it (elsewhere -1).

    A slot's token is that of its first possible word: the words of a kind stand in a row.
    """
    token = np.zeros((len(Template), LENGTH), np.int64)
    slot = np.full((len(Template), LENGTH), -1, np.int64)
    for template, sentence in _SENTENCES.items():
        for k, word in enumerate(sentence.split()):
            filled, first = _SLOTS.get(word, (-1, word))
            token[template, k], slot[template, k] = VOCABULARY.index(first), filled
    return token, slot


TEMPLATE_TOKEN, TEMPLATE_SLOT = _compiled()


def detokenize(tokens: Sequence[int] | NDArray[np.integer]) -> str:
    """The sentence of an instruction's tokens ``[L]``.

    Raises:
        ValueError: A token outside the vocabulary.

    Example:
        >>> detokenize([1, 2, 17, 25, 0, 0, 0, 0])
        'pick the red ball'
    """
    numbers = [int(token) for token in tokens]
    if odd := [token for token in numbers if not 0 <= token < len(VOCABULARY)]:
        raise ValueError(f"tokens must be in 0..{len(VOCABULARY) - 1}, got {odd[0]}")
    return " ".join(VOCABULARY[token] for token in numbers if token)


def tokenize(sentence: str) -> NDArray[np.int32]:
    """Tokens ``[L]`` of a sentence of the vocabulary.

    Raises:
        ValueError: An unknown word, or more than ``L`` words.
    """
    words = sentence.split()
    if unknown := [word for word in words if word not in VOCABULARY]:
        raise ValueError(f"unknown word {unknown[0]!r}; known: {' '.join(VOCABULARY[1:])}")
    if len(words) > LENGTH:
        raise ValueError(f"an instruction has at most {LENGTH} words, got {len(words)}")
    return np.array([VOCABULARY.index(word) for word in words] + [0] * (LENGTH - len(words)), np.int32)
