"""Instructions as tokens."""

import numpy as np
import pytest

from envs.zipf.labyrinth import VOCABULARY, detokenize, tokenize
from envs.zipf.labyrinth.text import (
    COLOUR_WORDS,
    LENGTH,
    PLURALS,
    SHAPE_WORDS,
    SIZE_WORDS,
    TEMPLATE_SLOT,
    TEMPLATE_TOKEN,
    Template,
)


def test_words_are_unique_and_the_kinds_stand_in_rows():
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    for words in (COLOUR_WORDS, SHAPE_WORDS, PLURALS, SIZE_WORDS):
        first = VOCABULARY.index(words[0])
        assert VOCABULARY[first : first + len(words)] == words


@pytest.mark.parametrize(
    "sentence", ["", "pick the red ball", "pick the cyan object in the purple room", "is anything blue ?"]
)
def test_tokens_and_back(sentence):
    tokens = tokenize(sentence)
    assert tokens.shape == (LENGTH,)
    assert tokens.dtype == np.int32
    assert detokenize(tokens) == sentence


@pytest.mark.parametrize("template", list(Template))
def test_every_template_is_a_sentence(template):
    sentence = detokenize(TEMPLATE_TOKEN[template])
    assert sentence.split()[0] in ("pick", "is", "are")
    assert (TEMPLATE_SLOT[template] >= 0).sum() in (1, 2)


def test_unknown_words_and_tokens():
    with pytest.raises(ValueError, match="'hat'"):
        tokenize("pick the red hat")
    with pytest.raises(ValueError, match="at most 8"):
        tokenize("the " * 9)
    with pytest.raises(ValueError, match="-1"):
        detokenize([-1])
