"""The text that a configuration names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from byol_ext._extras import require
from byol_ext.text.corpora import VALIDATION_SHARE, stdlib27, stdlib_bpe
from byol_ext.text.debian_corpora import debian_documents
from byol_ext.text.documents import Document, folder_documents, hf_documents, in_validation, jsonl_documents
from byol_ext.text.language_data import LanguageData, encode_documents, load_folder, prepare_folder
from byol_ext.text.language_tokenizers import (
    CharTokenizer,
    LanguageTokenizer,
    SubwordTokenizer,
    load_language_tokenizer,
)
from byol_ext.text.markov import MarkovSource
from recipes.cdcd_config import DataConfig

_LARGE_SHARE = 0.02
_SMALL_VOCABULARY = 1024


def open_data(config: DataConfig) -> LanguageData:
    """The encoded text, from memory or from the cache folder.

    Args:
        config: What to read.

    Raises:
        FileNotFoundError: If the text, or a package that holds it, is not there.
        ValueError: For a text that no reader takes, or a prepared folder that is damaged.
    """
    if config.text == "markov":
        return MarkovSource(seed=config.markov_seed).language_data(config.markov_tokens, config.markov_tokens // 10)
    small = config.validation_share or VALIDATION_SHARE
    if config.text == "stdlib27":
        return stdlib27(validation_share=small)
    if config.text == "stdlib-bpe":
        return stdlib_bpe(vocab_size=min(config.vocab_size, _SMALL_VOCABULARY), validation_share=small)
    if (Path(config.text) / "meta.json").is_file():
        return load_folder(config.text)
    if config.cache and (Path(config.cache) / "meta.json").is_file():
        return load_folder(config.cache)
    share = config.validation_share or _LARGE_SHARE
    tokenizer = _tokenizer(config, share)
    if config.cache:
        return prepare_folder(documents(config), tokenizer, config.cache, validation_share=share)
    return encode_documents(documents(config), tokenizer, validation_share=share)


def documents(config: DataConfig) -> Iterator[Document]:
    """The documents of a text that brings no tokenizer.

    Args:
        config: What to read.

    Raises:
        FileNotFoundError: If there is no such file, folder or package.
        ValueError: For a file of another kind.
    """
    kind, _, rest = config.text.partition(":")
    path = Path(config.text)
    if kind == "debian":
        return debian_documents([name for name in rest.split(",") if name], root=config.root)
    if kind == "hf":
        datasets = require("datasets", extra="cdcd")
        rows = datasets.load_dataset(rest, config.subset or None, split=config.split, streaming=True)
        return hf_documents(rows, column=config.field, max_characters=config.max_characters)
    if path.is_dir():
        return folder_documents(path)
    if ".jsonl" in path.suffixes:
        return jsonl_documents(path, field=config.field)
    if path.exists():
        raise ValueError(f"data.text={config.text!r}: expected a .jsonl file or a folder of .txt files")
    raise FileNotFoundError(
        f"data.text={config.text!r}: no such file or folder, and none of stdlib27, stdlib-bpe, markov, debian, hf:NAME"
    )


def _tokenizer(config: DataConfig, share: float) -> LanguageTokenizer:
    if config.tokenizer not in ("bpe", "characters"):
        return load_language_tokenizer(config.tokenizer)
    texts = _training_texts(documents(config), share)
    if config.tokenizer == "characters":
        return CharTokenizer.fit(texts, max_size=config.vocab_size)
    return SubwordTokenizer.train(texts, vocab_size=config.vocab_size)


def _training_texts(found: Iterable[Document], share: float) -> Iterator[str]:
    """Tokenizers learn from what models learn from."""
    return (document.text for document in found if not in_validation(document.key, share))
