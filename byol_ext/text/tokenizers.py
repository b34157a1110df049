"""Captions to token ids: a hashed word vocabulary that needs no file, and any Hugging Face tokenizer.

Legend: ``B`` captions, ``N`` tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from byol_ext.text.sources import resolve_source
from byol_ext.text.transforms import TruncationCount, normalize_captions

PAD, START = 0, 1
_RESERVED = 2
_TOKEN = re.compile(r"\d|[^\W\d_]+(?:['’][^\W\d_]+)?|[^\w\s]|_")


class Tokenizer(Protocol):
    """What an encoder's captions go through.

    Attributes:
        max_tokens: Most tokens of a caption, special ones included; longer captions are cut.
        truncation: How many were cut.
    """

    max_tokens: int
    truncation: TruncationCount

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Tokenise captions.

        Args:
            texts: Captions.

        Returns:
            ``input_ids`` ``[B, N]`` int64 and ``attention_mask`` ``[B, N]`` int64 (1 for tokens, 0 for padding),
            with ``N`` the longest of the batch. The keys are the arguments of the encoder's ``forward``.

        Raises:
            ValueError: If a caption is empty or not a string; names the row.
        """

    def state(self) -> dict[str, Any]:
        """Plain values from which :func:`tokenizer_from_state` rebuilds the tokenizer."""

    def fingerprint(self) -> str:
        """Hash of what decides the ids; the same wherever the tokenizer's files lie."""


def tokenizer_from_state(state: Mapping[str, Any]) -> HashTokenizer | HFTokenizer:
    """Rebuild a tokenizer from what its ``state()`` returned, for example from a saved run's config.

    Args:
        state: The state.

    Returns:
        A tokenizer that gives the same ids.

    Raises:
        ValueError: If the state names no tokenizer of this module.

    Example:
        >>> tokenizer_from_state(HashTokenizer(512).state()).vocab_size
        512
    """
    values = {name: value for name, value in state.items() if name != "kind"}
    if state.get("kind") == "hash":
        return HashTokenizer(**values)
    if state.get("kind") == "hf":
        return HFTokenizer(**values)
    raise ValueError(f"tokenizer state has kind {state.get('kind')!r}; expected 'hash' or 'hf'")


class HashTokenizer:
    """Words to ids by a hash that is the same in every process: no vocabulary file, no download.

    Text is case-folded and cut into words, single digits and punctuation. Without ``words`` each word is hashed
    whole into the vocabulary. With ``words`` (see :meth:`fit`) those have ids of their own, free of collisions,
    and any other word falls back to its character trigrams, hashed into the rest of the vocabulary. Each caption
    starts with id 1; id 0 is padding.

    Args:
        vocab_size: Number of ids, the size of the embedding table.
        max_tokens: Most tokens of a caption.
        words: Known words.

    Raises:
        ValueError: If the vocabulary cannot hold the words or ``max_tokens`` is under 2.

    Example:
        >>> tokens = HashTokenizer()(["a slow reel", "jig"])
        >>> tokens["input_ids"].shape, tokens["attention_mask"].sum(1).tolist()
        (torch.Size([2, 4]), [4, 2])
    """

    def __init__(self, vocab_size: int = 8192, max_tokens: int = 64, words: Sequence[str] = ()) -> None:
        self.words = tuple(dict.fromkeys(words))
        self._first_bucket = _RESERVED + len(self.words)
        if vocab_size <= self._first_bucket:
            raise ValueError(f"vocab_size {vocab_size} must exceed 2 reserved ids + {len(self.words)} words; raise it")
        if max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens}; expected at least 2 (start and one token)")
        self.vocab_size = vocab_size
        self.max_tokens = max_tokens
        self.truncation = TruncationCount()
        self._ids = {word: _RESERVED + i for i, word in enumerate(self.words)}

    @classmethod
    def fit(
        cls, captions: Iterable[str], *, min_count: int = 2, spare: int = 1024, max_tokens: int = 64
    ) -> HashTokenizer:
        """A tokenizer whose known words are those of a set of captions.

        Args:
            captions: Training captions.
            min_count: How often a word must occur.
            spare: Ids for the trigrams of unknown words.
            max_tokens: Most tokens of a caption.

        Returns:
            The tokenizer; its words are sorted, so the order of the captions does not matter.

        Example:
            >>> HashTokenizer.fit(["a reel", "a jig"], spare=10).words
            ('a',)
        """
        counts = Counter(word for caption in captions for word in _words(caption))
        words = sorted(word for word, count in counts.items() if count >= min_count)
        return cls(_RESERVED + len(words) + spare, max_tokens, words)

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Tokenise captions; see :class:`Tokenizer`."""
        rows = [[START, *self._encode(text)] for text in normalize_captions(texts)]
        self.truncation.add([len(row) for row in rows], self.max_tokens)
        width = min(max(len(row) for row in rows), self.max_tokens)
        ids_BN = torch.zeros(len(rows), width, dtype=torch.int64)
        mask_BN = torch.zeros(len(rows), width, dtype=torch.int64)
        for b, row in enumerate(rows):
            kept = row[:width]
            ids_BN[b, : len(kept)] = torch.tensor(kept)
            mask_BN[b, : len(kept)] = 1
        return {"input_ids": ids_BN, "attention_mask": mask_BN}

    def _encode(self, text: str) -> list[int]:
        return [token for word in _words(text) for token in self._word(word)]

    def _word(self, word: str) -> list[int]:
        known = self._ids.get(word)
        if known is not None:
            return [known]
        if not self.words:
            return [self._bucket(word)]
        padded = f"<{word}>"
        return [self._bucket("#" + padded[i : i + 3]) for i in range(max(len(padded) - 2, 1))]

    def _bucket(self, text: str) -> int:
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return self._first_bucket + int.from_bytes(digest, "big") % (self.vocab_size - self._first_bucket)

    def state(self) -> dict[str, Any]:
        """Plain values from which :func:`tokenizer_from_state` rebuilds the tokenizer."""
        return {
            "kind": "hash",
            "vocab_size": self.vocab_size,
            "max_tokens": self.max_tokens,
            "words": list(self.words),
        }

    def fingerprint(self) -> str:
        """Hash of :meth:`state`."""
        return _digest(self.state())


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _words(text: str) -> list[str]:
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


class HFTokenizer:
    """Any fast Hugging Face tokenizer, by name, folder or package.

    Args:
        name_or_path: Hub name, folder, or ``package:NAME/FOLDER`` such as :data:`~byol_ext.text.sources.MINILM`. Give
            the last one unresolved: ``state`` keeps it, and it holds on any machine.
        max_tokens: Most tokens of a caption, special ones included. SLAP uses 128, LAION-CLAP 77 (slap spec §2).

    Raises:
        ValueError: If the tokenizer has no padding token or a length limit under ``max_tokens``.
        OSError: From ``transformers``, if the files are not there.
    """

    def __init__(self, name_or_path: str | Path, max_tokens: int = 77) -> None:
        from transformers import AutoTokenizer

        self.name_or_path = str(name_or_path)
        self.max_tokens = max_tokens
        self.truncation = TruncationCount()
        self._tokenizer = AutoTokenizer.from_pretrained(resolve_source(name_or_path))
        if not self._tokenizer.is_fast:
            raise ValueError(f"{self.name_or_path}: only fast tokenizers are supported; save it with tokenizer.json")
        if self._tokenizer.pad_token_id is None:
            raise ValueError(f"{self.name_or_path}: the tokenizer has no padding token; use that of a text encoder")
        if max_tokens > self._tokenizer.model_max_length:
            limit = self._tokenizer.model_max_length
            raise ValueError(f"max_tokens {max_tokens} exceeds the limit {limit} of {self.name_or_path}; lower it")

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return len(self._tokenizer)

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Tokenise captions; see :class:`Tokenizer`."""
        batch = self._tokenizer(
            normalize_captions(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        lengths = [sum(e.attention_mask) + sum(_content(rest) for rest in e.overflowing) for e in batch.encodings]
        self.truncation.add(lengths, self.max_tokens)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def state(self) -> dict[str, Any]:
        """Plain values from which :func:`tokenizer_from_state` rebuilds the tokenizer; the source stays as given."""
        return {"kind": "hf", "name_or_path": self.name_or_path, "max_tokens": self.max_tokens}

    def fingerprint(self) -> str:
        """Hash of the tokenizer's content: vocabulary, rules, special tokens and ``max_tokens``, but not its path."""
        content = json.loads(self._tokenizer.backend_tokenizer.to_str())
        # Both are set anew by every call.
        del content["truncation"], content["padding"]
        sides = {name: getattr(self._tokenizer, name) for name in ("padding_side", "truncation_side")}
        return _digest({"kind": "hf", "max_tokens": self.max_tokens, "content": content, **sides})


def _content(encoding: Any) -> int:
    """Tokens of an encoding that are neither padding nor special."""
    return sum(
        mask - min(mask, special)
        for mask, special in zip(encoding.attention_mask, encoding.special_tokens_mask, strict=True)
    )
