"""Tokenizers of running text for language models: single characters, or any ``tokenizers`` file.

Unlike the caption tokenizers of :mod:`byol_ext.text.tokenizers` they neither pad nor cut, and they decode.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from byol_ext._extras import require

Ids = npt.NDArray[np.int64]
_SEPARATORS = ("<|endoftext|>", "</s>", "<eos>", "[SEP]")
_CHARACTERS, _SUBWORDS = "characters.json", "tokenizer.json"


class LanguageTokenizer(Protocol):
    """Texts to ids and back.

    Attributes:
        vocab_size: Number of ids.
        separator: Id that stands between documents.
        separator_characters: Characters of text that it stands for (1 for a space, 0 for a special token).
    """

    vocab_size: int
    separator: int
    separator_characters: int

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text, without special tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a sequence of ids."""

    def fingerprint(self) -> str:
        """Hash of what decides the ids."""

    def save(self, folder: Path) -> None:
        """Write what :func:`load_language_tokenizer` reads."""


def load_language_tokenizer(folder: str | Path) -> CharTokenizer | SubwordTokenizer:
    """The tokenizer that was saved in a folder, or a Hugging Face tokenizer's folder.

    Raises:
        FileNotFoundError: If the folder holds neither ``characters.json`` nor ``tokenizer.json``.
    """
    characters = Path(folder) / _CHARACTERS
    if characters.exists():
        state = json.loads(characters.read_text(encoding="utf-8"))
        return CharTokenizer(state["alphabet"], separator=state["separator"], unknown=state["unknown"])
    return SubwordTokenizer.load(folder)


class CharTokenizer:
    """One id a character.

    Args:
        alphabet: The characters, in the order of their ids.
        separator: The one that stands between documents.
        unknown: The one that replaces characters outside the alphabet; without it they are an error.

    Raises:
        ValueError: If a character occurs twice, or the separator or ``unknown`` is not one of the alphabet.

    Example:
        >>> tokenizer = CharTokenizer("abc ")
        >>> tokenizer.encode(["a cab"])[0].tolist(), tokenizer.decode([2, 0, 1])
        ([0, 3, 2, 0, 1], 'cab')
    """

    def __init__(self, alphabet: str, *, separator: str = " ", unknown: str | None = None) -> None:
        if len(set(alphabet)) < len(alphabet):
            twice = [character for character, n in Counter(alphabet).items() if n > 1]
            raise ValueError(f"the alphabet holds {twice[:5]} more than once")
        for name, character in (("separator", separator), ("unknown", unknown)):
            if character is not None and (len(character) != 1 or character not in alphabet):
                raise ValueError(f"{name} {character!r}: expected one character of the alphabet {alphabet[:60]!r}")
        self.alphabet, self.unknown = alphabet, unknown
        self.vocab_size = len(alphabet)
        self.separator = alphabet.index(separator)
        self.separator_characters = 1
        codes = np.array([ord(character) for character in alphabet])
        self._ids = np.full(codes.max() + 2, -1 if unknown is None else alphabet.index(unknown), dtype=np.int64)
        self._ids[codes] = np.arange(len(alphabet))

    @classmethod
    def fit(
        cls, texts: Iterable[str], *, max_size: int = 256, separator: str = "\n", unknown: str = "\ufffd"
    ) -> CharTokenizer:
        """A tokenizer of the most frequent characters of some texts; the others become ``unknown``.

        Args:
            texts: Training texts.
            max_size: Most characters of the alphabet.
            separator: Stands between documents; added if no text holds it.
            unknown: Stands for characters outside the alphabet; likewise.

        Example:
            >>> CharTokenizer.fit(["ab", "ba"]).vocab_size
            4
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        reserved = {separator, unknown}
        ranked = sorted(counts, key=lambda character: (-counts[character], character))
        common = [character for character in ranked if character not in reserved][: max_size - len(reserved)]
        return cls("".join(sorted({*common, *reserved})), separator=separator, unknown=unknown)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text.

        Raises:
            ValueError: For a character outside the alphabet, unless there is ``unknown``.
        """
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> Ids:
        codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]
        if ids.size and ids.min() < 0:
            stranger = text[int(ids.argmin())]
            raise ValueError(f"{stranger!r} is not in the alphabet of {self.vocab_size}; normalise, or give `unknown`")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a sequence of ids."""
        return "".join(self.alphabet[int(i)] for i in ids)

    def fingerprint(self) -> str:
        """Hash of alphabet, separator and ``unknown``."""
        return _digest(self._state())

    def save(self, folder: Path) -> None:
        """Write ``characters.json``."""
        (folder / _CHARACTERS).write_text(json.dumps(self._state()), encoding="utf-8")

    def _state(self) -> dict[str, Any]:
        return {"alphabet": self.alphabet, "separator": self.alphabet[self.separator], "unknown": self.unknown}


class SubwordTokenizer:
    """A tokenizer of the library ``tokenizers``; a byte-level one is lossless.

    Args:
        tokenizer: A ``tokenizers.Tokenizer``.
        separator: Token that stands between documents; default: the first of the usual names that it knows.

    Raises:
        ValueError: If the separator is not one of its tokens.
    """

    def __init__(self, tokenizer: Any, *, separator: str | None = None) -> None:
        names = _SEPARATORS if separator is None else (separator,)
        found = [name for name in names if tokenizer.token_to_id(name) is not None]
        if not found:
            raise ValueError(f"the tokenizer has no token {' or '.join(names)}; name its end-of-text as `separator`")
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = int(tokenizer.get_vocab_size())
        self.separator = int(tokenizer.token_to_id(found[0]))
        self.separator_characters = 0

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocab_size: int = 1024, separator: str = "<|endoftext|>"
    ) -> SubwordTokenizer:
        """A byte-level BPE learned from texts: every string has ids, and decodes to itself.

        Args:
            texts: Training texts (those of the validation split are to be left out).
            vocab_size: Number of ids, the 256 bytes and the separator among them.
            separator: Name of the token between documents.

        Raises:
            ImportError: If ``tokenizers`` is not installed.
            ValueError: If the vocabulary does not hold bytes and separator.
        """
        if vocab_size < 257:
            raise ValueError(f"vocab_size={vocab_size}: expected at least 257, the bytes and the separator")
        tokenizers = require("tokenizers", extra="cdcd")
        models, trainers = require("tokenizers.models", extra="cdcd"), require("tokenizers.trainers", extra="cdcd")
        byte_level = require("tokenizers.pre_tokenizers", extra="cdcd").ByteLevel
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
        tokenizer.decoder = require("tokenizers.decoders", extra="cdcd").ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[separator],
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer, separator=separator)

    @classmethod
    def load(cls, path: str | Path, *, separator: str | None = None) -> SubwordTokenizer:
        """Read a ``tokenizer.json``, or that of a Hugging Face folder.

        Raises:
            FileNotFoundError: If it does not exist.
            ImportError: If ``tokenizers`` is not installed.
        """
        file = Path(path) / _SUBWORDS if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"{file}: not there; give a tokenizer.json or a folder that holds one")
        tokenizer = require("tokenizers", extra="cdcd").Tokenizer.from_file(str(file))
        beside = file.with_name("separator.json")
        if separator is None and beside.exists():
            separator = json.loads(beside.read_text(encoding="utf-8"))
        return cls(tokenizer, separator=separator)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text, without special tokens."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a sequence of ids; a separator becomes a line end, so that no word runs across it."""
        documents: list[list[int]] = [[]]
        for i in ids:
            if int(i) == self.separator:
                documents.append([])
            else:
                documents[-1].append(int(i))
        return "\n".join(self._tokenizer.decode(document) for document in documents)

    def fingerprint(self) -> str:
        """Hash of vocabulary, rules and separator."""
        return _digest({"content": json.loads(self._tokenizer.to_str()), "separator": self.separator})

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json``, which Hugging Face's libraries read, and the separator's name."""
        self._tokenizer.save(str(folder / _SUBWORDS))
        name = self._tokenizer.id_to_token(self.separator)
        (folder / "separator.json").write_text(json.dumps(name), encoding="utf-8")


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
