"""Documents of running text: what a language model's corpus is made of, and readers of the forms users have.

A document is the unit of the split: all of its text is in training or all of it is in validation.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byol_ext.ledger import BadSampleLedger


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        key: Name that stays the same when the corpus is read again; it decides the split.
        text: The text.
    """

    key: str
    text: str


def in_validation(key: str, share: float) -> bool:
    """Whether a document belongs to the validation split: its key's hash, as a number in [0, 1), is below ``share``.

    The answer depends on nothing else, so documents that are added to a corpus move none of the others.

    Args:
        key: Key of the document.
        share: Expected share of validation documents.

    Raises:
        ValueError: If the share is not in [0, 1].

    Example:
        >>> in_validation("a", 0.0), in_validation("a", 1.0)
        (False, True)
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"validation share {share}: expected a number between 0 and 1")
    return (
        int.from_bytes(hashlib.blake2b(key.encode(errors="backslashreplace"), digest_size=8).digest()) < share * 2**64
    )


def content_key(text: str) -> str:
    """A key made of the text itself, for documents without a name.

    Example:
        >>> len(content_key("a gloss"))
        16
    """
    return hashlib.blake2b(text.encode(errors="backslashreplace"), digest_size=8).hexdigest()


def unique_paragraphs(
    documents: Iterable[Document], *, min_characters: int = 40, ascii_only: bool = True, reflow: bool = True
) -> Iterator[Document]:
    """Leave out the paragraphs that occurred before, in any document, and those that are no prose.

    Without this, boilerplate and repeated passages lie in both splits. Paragraphs are separated by blank lines, and the
    same if they differ in white space alone.

    Args:
        documents: Documents in an order that stays the same.
        min_characters: Shorter paragraphs are dropped (data spec: 40).
        ascii_only: Whether to drop paragraphs with other characters (data spec).
        reflow: Whether to turn the white space within a paragraph into single spaces.

    Yields:
        Documents with at least one paragraph left, paragraphs separated by a blank line.

    Example:
        >>> pages = [Document("a", "One  line."), Document("b", "One line."), Document("c", "Two lines.")]
        >>> [page.text for page in unique_paragraphs(pages, min_characters=1)]
        ['One line.', 'Two lines.']
    """
    seen: set[bytes] = set()
    for document in documents:
        kept = []
        for raw in document.text.split("\n\n"):
            paragraph = " ".join(raw.split())
            if len(paragraph) < max(min_characters, 1) or (ascii_only and not paragraph.isascii()):
                continue
            digest = hashlib.blake2b(paragraph.encode(errors="backslashreplace"), digest_size=8).digest()
            if digest not in seen:
                seen.add(digest)
                kept.append(paragraph if reflow else raw.strip("\n"))
        if kept:
            yield Document(document.key, "\n\n".join(kept))


def folder_documents(
    folder: str | Path, *, pattern: str = "**/*.txt", ledger: BadSampleLedger | None = None
) -> Iterator[Document]:
    """Each file of a folder as a document, in the order of their paths.

    Args:
        folder: The folder; paths within it are the keys.
        pattern: Which files.
        ledger: Account of files that are not UTF-8 or empty; default: one that allows 5 %.

    Raises:
        FileNotFoundError: If no file matches.
        TooManyBadSamples: From the ledger.
    """
    root = Path(folder)
    paths = sorted(path for path in root.glob(pattern) if path.is_file())
    if not paths:
        raise FileNotFoundError(f"{root}: no file matches {pattern!r}; give a folder of text files, or another pattern")
    account = ledger or BadSampleLedger()
    for path in paths:
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            _bad(account, str(path), "not UTF-8", f"{path}: byte {error.start} is not UTF-8")
            continue
        if not text.strip():
            _bad(account, str(path), "empty", f"{path}: empty file")
            continue
        account.update({"seen": 1, "bad": {}, "errors": []})
        yield Document(path.relative_to(root).as_posix(), text)
    account.check()


def jsonl_documents(
    path: str | Path, *, field: str = "text", key: str | None = None, ledger: BadSampleLedger | None = None
) -> Iterator[Document]:
    """Each line of a JSONL file (``.gz`` too) as a document; the file is streamed.

    Args:
        path: The file.
        field: Field of the text.
        key: Field of the key; default: the hash of the text.
        ledger: Account of unusable lines; default: one that allows 5 %.

    Raises:
        FileNotFoundError: If there is no such file.
        TooManyBadSamples: From the ledger.
    """
    file = Path(path)
    account = ledger or BadSampleLedger()
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file}:{number}"
            try:
                document = _from_row(json.loads(line), where, field, key)
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                _bad(account, where, "not JSON", f"{where}: {error}")
            except ValueError as error:
                _bad(account, where, "no text", str(error))
            else:
                account.update({"seen": 1, "bad": {}, "errors": []})
                yield document
    account.check()


def hf_documents(
    dataset: Any,
    *,
    column: str = "text",
    key: str | None = None,
    max_characters: int | None = None,
    ledger: BadSampleLedger | None = None,
) -> Iterator[Document]:
    """Rows of a Hugging Face data set as documents, streamed in its order.

    Args:
        dataset: A ``datasets.Dataset`` or ``IterableDataset`` (``load_dataset(..., streaming=True)``).
        column: Column of the text.
        key: Column of the key; default: the hash of the text.
        max_characters: Stop once so many characters were read.
        ledger: Account of unusable rows; default: one that allows 5 %.

    Raises:
        ValueError: If the data set has no such column.
        TooManyBadSamples: From the ledger.
    """
    names = getattr(dataset, "column_names", None)
    for wanted in (column, key):
        if names and wanted is not None and wanted not in names:
            raise ValueError(f"the data set has no column {wanted!r}; its columns are {sorted(names)}")
    account = ledger or BadSampleLedger()
    read = 0
    for number, row in enumerate(dataset):
        if max_characters is not None and read >= max_characters:
            break
        try:
            document = _from_row(row, f"row {number}", column, key)
        except ValueError as error:
            _bad(account, f"row {number}", "no text", str(error))
            continue
        account.update({"seen": 1, "bad": {}, "errors": []})
        read += len(document.text)
        yield document
    account.check()


def _from_row(row: Any, where: str, field: str, key: str | None) -> Document:
    text = row.get(field) if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        fields = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{where}: field {field!r} holds {text!r:.60}, expected a text; the fields are {fields}")
    if key is None:
        return Document(content_key(text), text)
    if row.get(key) is None:
        raise ValueError(f"{where}: field {key!r}, the key, is missing")
    return Document(str(row[key]), text)


def _bad(ledger: BadSampleLedger, key: str, cause: str, message: str) -> None:
    ledger.update({"seen": 1, "bad": {cause: 1}, "errors": [{"key": key, "cause": cause, "message": message}]})
