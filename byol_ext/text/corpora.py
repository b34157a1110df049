"""Two small corpora that every CPython brings along: its documentation strings, as 27 symbols or as byte-level BPE.

Source: spec cdcd section 13, which saw 1.59 M training and 0.22 M validation characters on CPython 3.11. Ours, with
repeated paragraphs left out, are 1.68 M and 0.17 M on 3.11.7; record the hashes, for each version has another text.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from byol_ext.text.documents import Document, in_validation, unique_paragraphs
from byol_ext.text.language_data import LanguageData, encode_documents
from byol_ext.text.language_tokenizers import CharTokenizer, SubwordTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz "
VALIDATION_SHARE = 0.12
"""Share of the documents held out: that of the characters in spec cdcd section 13."""

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def stdlib_documents(folder: str | Path | None = None) -> Iterator[Document]:
    """Docstrings of the standard library, a source file a document, and the help topics of ``pydoc``.

    The sources are parsed, not imported. A paragraph that occurred before is left out: methods inherit their docstrings
    in writing, and help topics contain each other.

    Args:
        folder: Folder of the library's sources; default: that of the running interpreter.

    Raises:
        FileNotFoundError: If the folder holds no docstrings (some distributions ship compiled modules only).
    """
    root = Path(folder) if folder is not None else Path(sysconfig.get_paths()["stdlib"])
    return unique_paragraphs(_all_documents(root), min_characters=1, ascii_only=False, reflow=False)


def _all_documents(root: Path) -> Iterator[Document]:
    documented = False
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _LEFT_OUT.isdisjoint(relative.parts):
            text = "\n\n".join(_docstrings(path))
            if text:
                documented = True
                yield Document(relative.as_posix(), text)
    if not documented:
        raise FileNotFoundError(f"{root} holds no Python sources with docstrings; give the folder of a CPython's lib")
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        yield Document(f"topic/{name}", inspect.cleandoc(topics[name]))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        # The library ships some templates and fixtures that are no Python.
        return
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, _DOCUMENTED) else None
        if text:
            yield text


def letters_and_spaces(text: str) -> str:
    """Lower-case text with each run of anything but ``a-z`` turned into one space, none at the ends.

    Example:
        >>> letters_and_spaces("It's 3 o'clock!")
        'it s o clock'
    """
    return re.sub(r"[^a-z]+", " ", text.lower()).strip()


def stdlib27(*, validation_share: float = VALIDATION_SHARE) -> LanguageData:
    """The standard library's documentation as 27 symbols, ``a-z`` and the space.

    Args:
        validation_share: Share of documents held out.
    """
    documents = (replace(document, text=letters_and_spaces(document.text)) for document in stdlib_documents())
    tokenizer = CharTokenizer(LETTERS, separator=" ")
    return encode_documents((d for d in documents if d.text), tokenizer, validation_share=validation_share)


def stdlib_bpe(*, vocab_size: int = 1024, validation_share: float = VALIDATION_SHARE) -> LanguageData:
    """The same text with case and punctuation, as byte-level BPE learned from the training documents.

    Args:
        vocab_size: Number of ids.
        validation_share: Share of documents held out.

    Raises:
        ImportError: If ``tokenizers`` is not installed.
    """
    documents = list(stdlib_documents())
    learned_from = (document.text for document in documents if not in_validation(document.key, validation_share))
    tokenizer = SubwordTokenizer.train(learned_from, vocab_size=vocab_size)
    return encode_documents(documents, tokenizer, validation_share=validation_share)
