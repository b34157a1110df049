"""Instructions of the playroom as tokens: a fixed vocabulary and one sentence for each task.

Legend: ``L`` tokens of an instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from envs.raycast import COLOURS
from envs.raycast.billboards import SHAPES
from envs.zipf.playroom.lexicon import LEXICON, Item, Naming

Task = Literal["lift", "put_on", "put_near", "find"]
TASKS: tuple[Task, ...] = get_args(Task)
FURNITURE = ("bed", "tray")
_GRAMMAR = ("a", "an", "the", "lift", "put", "find", "on", "near", *FURNITURE)

VOCABULARY: tuple[str, ...] = ("", *_GRAMMAR, *(item.name for item in LEXICON), *COLOURS, *SHAPES)
"""Word of each token; 0 pads. It is the same for every setting."""
LENGTH = 8
"""``L``: tokens of every instruction, padded."""
_TOKEN = {word: token for token, word in enumerate(VOCABULARY)}


def sentence(task: Task, item: Item, furniture: str, naming: Naming) -> str:
    """The instruction in words.

    Args:
        task: What to do.
        item: With what.
        furniture: One of `FURNITURE`; only tasks that put name it.
        naming: How objects are called.

    Example:
        >>> sentence("put_on", LEXICON[0], "bed", "atomic"), sentence("lift", LEXICON[0], "bed", "compositional")
        ('put a zup on the bed', 'lift an orange star')
    """
    name = " ".join(item.words(naming))
    article = "an" if name[0] in "aeiou" else "a"
    verb, *relation = task.split("_")
    return " ".join([verb, article, name, *(f"{word} the {furniture}" for word in relation)])


def tokenize(words: str) -> NDArray[np.int32]:
    """Tokens ``[L]`` of a sentence of the vocabulary.

    Raises:
        ValueError: An unknown word, or more than ``L`` words.
    """
    split = words.split()
    if unknown := [word for word in split if word not in _TOKEN]:
        raise ValueError(f"unknown word {unknown[0]!r}; known: {' '.join(VOCABULARY[1:])}")
    if len(split) > LENGTH:
        raise ValueError(f"an instruction has at most {LENGTH} words, got {len(split)}")
    return np.array([_TOKEN[word] for word in split] + [0] * (LENGTH - len(split)), np.int32)


def detokenize(tokens: Sequence[int] | NDArray[np.integer]) -> str:
    """The sentence of an instruction's tokens ``[L]``.

    Raises:
        ValueError: A token outside the vocabulary.

    Example:
        >>> detokenize(tokenize("put a zup near the tray"))
        'put a zup near the tray'
    """
    numbers = [int(token) for token in tokens]
    if odd := [token for token in numbers if not 0 <= token < len(VOCABULARY)]:
        raise ValueError(f"tokens must be in 0..{len(VOCABULARY) - 1}, got {odd[0]}")
    return " ".join(VOCABULARY[token] for token in numbers if token)
