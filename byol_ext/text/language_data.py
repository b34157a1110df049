"""Documents to fixed-length sequences of tokens: encoded once, packed without padding, split by document.

Legend: ``N`` tokens of a stream, ``L`` positions of a sequence.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from byol_ext.rng import sample_generator
from byol_ext.text.documents import Document, in_validation
from byol_ext.text.language_tokenizers import LanguageTokenizer, load_language_tokenizer

Split = Literal["train", "validation"]
_SPLITS: tuple[Split, Split] = ("train", "validation")
_ENCODE_AT_ONCE = 256


@dataclass(frozen=True)
class StreamFacts:
    """What is known of the tokens of a split.

    Attributes:
        documents: Documents.
        characters: Characters of text, those that separators stand for included.
        tokens: Tokens, separators included.
        sha256: Hash of the tokens.
        text_sha256: Hash of the texts, whatever the tokenizer.
    """

    documents: int
    characters: int
    tokens: int
    sha256: str
    text_sha256: str


@dataclass(frozen=True)
class TokenStream:
    """All tokens of a split, one document after the other.

    Attributes:
        tokens_N: Ids, in memory or mapped from a file.
        facts: What is known of them.
    """

    tokens_N: npt.NDArray[Any]
    facts: StreamFacts

    def bits_per_character(self, nats_per_token: float) -> float:
        """Turn a loss into bits a character of the text.

        Example:
            >>> stream = TokenStream(np.arange(6), StreamFacts(1, 12, 6, "", ""))
            >>> round(stream.bits_per_character(math.log(2)), 6)
            0.5
        """
        return nats_per_token * self.facts.tokens / (self.facts.characters * math.log(2))


class PackedSequences(Dataset[dict[str, Any]]):
    """A stream cut into sequences of one length; an item is ``{"tokens": int64 [L], "id", "epoch"}``.

    Sequences run over the ends of documents, where the tokenizer's separator stands. What is left at the end of the
    stream is not used.

    Args:
        stream: The tokens.
        length: Positions of a sequence, ``L``.
        shift: Whether each epoch cuts elsewhere, ``0 .. L-1`` tokens from the start: a small corpus gives more
            sequences so.
        seed: Of these shifts.

    Attributes:
        fingerprint: Names data, length and shifts.

    Raises:
        ValueError: If the stream gives no sequence.

    Example:
        >>> stream = TokenStream(np.arange(10), StreamFacts(1, 10, 10, "", ""))
        >>> PackedSequences(stream, 4)[1]["tokens"]
        tensor([4, 5, 6, 7])
    """

    def __init__(self, stream: TokenStream, length: int, *, shift: bool = False, seed: int = 0) -> None:
        spare = length - 1 if shift else 0
        self._count = (len(stream.tokens_N) - spare) // length if length > 0 else 0
        if self._count < 1:
            raise ValueError(f"{len(stream.tokens_N)} tokens give no sequence of length {length}; shorten it")
        self.length = length
        self._stream, self._shift, self._seed = stream, shift, seed
        self.fingerprint = f"{stream.facts.sha256}/L{length}" + (f"/shift{seed}" if shift else "")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """The sequence of an id (epoch 0) or of ``(id, epoch)``.

        Raises:
            IndexError: If there is no such id.
        """
        row, epoch = (int(index[0]), int(index[1])) if isinstance(index, tuple) else (int(index), 0)
        if not 0 <= row < self._count:
            raise IndexError(f"sequence {row} of {self._count}")
        # The last argument is no sample but the whole epoch.
        offset = int(sample_generator(self._seed, epoch, 0).integers(self.length)) if self._shift else 0
        start = offset + row * self.length
        tokens = self._stream.tokens_N[start : start + self.length].astype(np.int64)
        return {"tokens": torch.from_numpy(tokens), "id": row, "epoch": epoch}

    def rows(self) -> npt.NDArray[np.int64]:
        """All sequences of epoch 0, ``[sequences, L]`` without shifts, for metrics."""
        used = self._stream.tokens_N[: self._count * self.length]
        return used.reshape(self._count, self.length).astype(np.int64)


@dataclass(frozen=True)
class LanguageData:
    """A corpus that a language model trains on.

    Attributes:
        train: Tokens of the training documents.
        validation: Tokens of the others.
        tokenizer: What made them.
    """

    train: TokenStream
    validation: TokenStream
    tokenizer: LanguageTokenizer

    def sequences(self, split: Split, length: int, *, shift: bool = False, seed: int = 0) -> PackedSequences:
        """The sequences of a split; see :class:`PackedSequences`."""
        stream = {"train": self.train, "validation": self.validation}[split]
        return PackedSequences(stream, length, shift=shift, seed=seed)

    def facts(self) -> dict[str, Any]:
        """Sizes and hashes for a run's record."""
        return {
            "vocab_size": self.tokenizer.vocab_size,
            "tokenizer_sha256": self.tokenizer.fingerprint(),
            "train": asdict(self.train.facts),
            "validation": asdict(self.validation.facts),
        }


def encode_documents(
    documents: Iterable[Document], tokenizer: LanguageTokenizer, *, validation_share: float
) -> LanguageData:
    """Encode a corpus in memory.

    Args:
        documents: The documents.
        tokenizer: Turns them into ids.
        validation_share: Expected share of documents that are held out.

    Returns:
        The corpus.

    Raises:
        ValueError: If a split is left empty.

    Example:
        >>> from byol_ext.text.language_tokenizers import CharTokenizer
        >>> data = encode_documents(
        ...     [Document(str(i), "abba") for i in range(9)], CharTokenizer("ab "), validation_share=0.3
        ... )
        >>> data.train.tokens_N[:6].tolist(), data.train.facts.documents + data.validation.facts.documents
        ([0, 1, 1, 0, 2, 0], 9)
    """
    sinks: dict[Split, io.BytesIO] = {"train": io.BytesIO(), "validation": io.BytesIO()}
    facts = _write(documents, tokenizer, validation_share, sinks)
    dtype = _dtype(tokenizer)
    train, validation = (
        TokenStream(np.frombuffer(sinks[split].getbuffer(), dtype=dtype), facts[split]) for split in _SPLITS
    )
    return LanguageData(train, validation, tokenizer)


def prepare_folder(
    documents: Iterable[Document], tokenizer: LanguageTokenizer, folder: str | Path, *, validation_share: float
) -> LanguageData:
    """Encode a corpus into a folder without ever holding it in memory; hosts without the texts train from the folder.

    Args:
        documents: The documents, streamed.
        tokenizer: Turns them into ids; it is saved in the folder.
        folder: Written under a temporary name and renamed, so it is complete or absent.
        validation_share: Expected share of documents that are held out.

    Returns:
        The corpus, mapped from the folder.

    Raises:
        FileExistsError: If the folder exists.
        ValueError: If a split is left empty.
    """
    target = Path(folder)
    if target.exists():
        raise FileExistsError(f"{target} exists; remove it, or load it with load_folder")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / "train.bin").open("wb") as train, (partial / "validation.bin").open("wb") as validation:
        sinks: dict[Split, BinaryIO] = {"train": train, "validation": validation}
        facts = _write(documents, tokenizer, validation_share, sinks)
    tokenizer.save(partial)
    meta: dict[str, Any] = {
        "dtype": np.dtype(_dtype(tokenizer)).str,
        "tokenizer_sha256": tokenizer.fingerprint(),
        "validation_share": validation_share,
        "train": asdict(facts["train"]),
        "validation": asdict(facts["validation"]),
    }
    (partial / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    partial.rename(target)
    return load_folder(target)


def load_folder(folder: str | Path) -> LanguageData:
    """Open what :func:`prepare_folder` wrote.

    Raises:
        FileNotFoundError: If the folder lacks ``meta.json``.
        ValueError: If a file has not the length, or the tokenizer not the content, that ``meta.json`` records.
    """
    root = Path(folder)
    if not (root / "meta.json").is_file():
        raise FileNotFoundError(f"{root}: no meta.json; expected a folder written by prepare_folder")
    meta = json.loads((root / "meta.json").read_text(encoding="utf-8"))
    tokenizer = load_language_tokenizer(root)
    if tokenizer.fingerprint() != meta["tokenizer_sha256"]:
        raise ValueError(f"{root}: the tokenizer is not the one that encoded the texts; prepare the folder again")
    streams = []
    for split in _SPLITS:
        facts = StreamFacts(**meta[split])
        tokens = np.memmap(root / f"{split}.bin", dtype=meta["dtype"], mode="r")
        if len(tokens) != facts.tokens:
            raise ValueError(f"{root}/{split}.bin holds {len(tokens)} tokens, expected {facts.tokens}; it was cut off")
        streams.append(TokenStream(tokens, facts))
    return LanguageData(streams[0], streams[1], tokenizer)


def _dtype(tokenizer: LanguageTokenizer) -> str:
    return "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"


def _write(
    documents: Iterable[Document],
    tokenizer: LanguageTokenizer,
    validation_share: float,
    sinks: Mapping[Split, BinaryIO],
) -> dict[Split, StreamFacts]:
    """Tokens of each split into its sink."""
    tallies: dict[Split, _Tally] = {"train": _Tally(), "validation": _Tally()}
    dtype = _dtype(tokenizer)
    for batch in _batches(documents):
        for document, ids in zip(batch, tokenizer.encode([document.text for document in batch]), strict=True):
            split: Split = "validation" if in_validation(document.key, validation_share) else "train"
            data = np.append(ids, tokenizer.separator).astype(dtype).tobytes()
            sinks[split].write(data)
            tallies[split].add(document.text, data, len(ids) + 1, len(document.text) + tokenizer.separator_characters)
    for split, tally in tallies.items():
        if not tally.documents:
            counts = {name: other.documents for name, other in tallies.items()}
            raise ValueError(f"no document is in {split} ({counts}); change validation_share={validation_share}")
    return {split: tally.facts() for split, tally in tallies.items()}


class _Tally:
    """Counts and hashes of a split while it is written."""

    def __init__(self) -> None:
        self.documents = self.characters = self.tokens = 0
        self._tokens_hash, self._text_hash = hashlib.sha256(), hashlib.sha256()

    def add(self, text: str, data: bytes, tokens: int, characters: int) -> None:
        self.documents += 1
        self.tokens += tokens
        self.characters += characters
        self._tokens_hash.update(data)
        self._text_hash.update(text.encode(errors="backslashreplace") + b"\0")

    def facts(self) -> StreamFacts:
        return StreamFacts(
            self.documents, self.characters, self.tokens, self._tokens_hash.hexdigest(), self._text_hash.hexdigest()
        )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(itertools.islice(iterator, _ENCODE_AT_ONCE)):
        yield batch
