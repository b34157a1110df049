"""Readers, tokenizers, packing and prepared folders: what goes in comes out, in the split it belongs to."""

import gzip
import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byol_ext.ledger import BadSampleLedger, TooManyBadSamples
from byol_ext.text.documents import (
    Document,
    folder_documents,
    hf_documents,
    in_validation,
    jsonl_documents,
    unique_paragraphs,
)
from byol_ext.text.language_data import PackedSequences, encode_documents, load_folder, prepare_folder
from byol_ext.text.language_tokenizers import CharTokenizer, SubwordTokenizer, load_language_tokenizer
from byol_ext.training.source import LoaderSource, ResumableSampler

TEXTS = ["the cat sat on the mat", "a dog ate the cat", "the dog sat", "it rained on the mat all day", "no cat no dog"]


@pytest.fixture
def documents() -> list[Document]:
    return [Document(f"d{i}", TEXTS[i % 5] + f" {'abcdefghij'[i % 10]}") for i in range(60)]


@pytest.fixture(scope="module")
def subwords() -> SubwordTokenizer:
    return SubwordTokenizer.train(TEXTS * 5, vocab_size=280)


def test_the_split_is_a_share_that_depends_on_the_key_alone():
    held_out = [in_validation(f"page {i}", 0.2) for i in range(5000)]
    assert np.mean(held_out) == pytest.approx(0.2, abs=0.02)
    wider = [in_validation(f"page {i}", 0.3) for i in range(5000)]
    assert all(w for h, w in zip(held_out, wider, strict=True) if h)
    with pytest.raises(ValueError, match="validation share"):
        in_validation("a", 1.5)


def test_paragraphs_are_kept_once_and_only_prose():
    pages = [
        Document("a", "First  paragraph,\nover lines.\n\nShort.\n\nOne with an é in it."),
        Document("b", "First paragraph, over lines.\n\nShort."),
        Document("c", "Another paragraph of prose.\n\nFirst paragraph, over lines."),
    ]
    kept = [(page.key, page.text) for page in unique_paragraphs(pages, min_characters=10)]
    assert kept == [("a", "First paragraph, over lines."), ("c", "Another paragraph of prose.")]
    laid_out = next(unique_paragraphs(pages, min_characters=10, reflow=False))
    assert laid_out.text == "First  paragraph,\nover lines."
    assert len(next(unique_paragraphs(pages, min_characters=1, ascii_only=False)).text.split("\n\n")) == 3


def test_a_folder_of_texts(tmp_path, caplog):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("two", encoding="utf-8")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone")
    (tmp_path / "c.md").write_text("three")
    assert [(d.key, d.text) for d in folder_documents(tmp_path)] == [("a.txt", "one"), ("sub/b.txt", "two")]
    (tmp_path / "bad.txt").write_bytes(b"ab\xff")
    (tmp_path / "empty.txt").write_text(" ")
    ledger = BadSampleLedger(max_bad_fraction=0.5)
    with caplog.at_level(logging.WARNING):
        assert len(list(folder_documents(tmp_path, ledger=ledger))) == 2
    assert ledger.bad == {"not UTF-8": 1, "empty": 1}
    assert "byte 2 is not UTF-8" in caplog.text
    with pytest.raises(TooManyBadSamples, match="not UTF-8"):
        list(folder_documents(tmp_path))
    with pytest.raises(FileNotFoundError, match="no file matches"):
        list(folder_documents(tmp_path, pattern="*.rst"))


@pytest.mark.parametrize("zipped", [False, True])
def test_jsonl(tmp_path, zipped):
    lines = [json.dumps({"text": f"text {i}", "url": f"u{i}"}) for i in range(98)]
    data = "\n".join([*lines[:50], "", "{broken", *lines[50:], '{"other": 1}']).encode()
    path = tmp_path / ("a.jsonl.gz" if zipped else "a.jsonl")
    path.write_bytes(gzip.compress(data) if zipped else data)
    ledger = BadSampleLedger()
    read = list(jsonl_documents(path, key="url", ledger=ledger))
    assert [d.key for d in read] == [f"u{i}" for i in range(98)]
    assert ledger.bad == {"not JSON": 1, "no text": 1}
    assert ledger.entries[0]["key"].endswith(":52")
    assert read[3].text == "text 3"
    assert len({d.key for d in jsonl_documents(path)}) == 98
    with pytest.raises(TooManyBadSamples, match="field 'body'"):
        list(jsonl_documents(path, field="body"))


def test_streamed_hugging_face_rows():
    datasets = pytest.importorskip("datasets")
    rows = [{"text": "x" * 10, "n": i} for i in range(20)]
    streamed = datasets.Dataset.from_list(rows).to_iterable_dataset()
    assert len(list(hf_documents(streamed))) == 20
    assert [d.key for d in hf_documents(streamed, key="n", max_characters=25)] == ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"no column 'body'.*\['n', 'text'\]"):
        list(hf_documents(streamed, column="body"))


@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=30))
def test_byte_level_subwords_are_lossless(subwords, text):
    (ids,) = subwords.encode([text])
    assert subwords.decode(ids.tolist()) == text
    assert subwords.separator not in ids
    assert subwords.decode([*ids.tolist(), subwords.separator, *ids.tolist()]) == f"{text}\n{text}"


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab é\n😀", max_size=40))
def test_characters_are_lossless(text):
    tokenizer = CharTokenizer("ab é\n😀")
    assert tokenizer.decode(tokenizer.encode([text])[0].tolist()) == text


def test_characters_outside_the_alphabet():
    with pytest.raises(ValueError, match="'z' is not in the alphabet of 3"):
        CharTokenizer("ab ").encode(["abz"])
    fitted = CharTokenizer.fit(["aab", "c"], max_size=4)
    assert fitted.vocab_size == 4
    assert fitted.decode(fitted.encode(["abcz"])[0].tolist()) == "ab\ufffd\ufffd"
    with pytest.raises(ValueError, match="more than once"):
        CharTokenizer("aa ")
    with pytest.raises(ValueError, match="separator"):
        CharTokenizer("ab")


def test_saved_tokenizers_are_the_same(tmp_path, subwords):
    for name, tokenizer in (("c", CharTokenizer("ab?", separator="b", unknown="?")), ("s", subwords)):
        (tmp_path / name).mkdir()
        tokenizer.save(tmp_path / name)
        loaded = load_language_tokenizer(tmp_path / name)
        assert loaded.fingerprint() == tokenizer.fingerprint()
        assert loaded.separator == tokenizer.separator
        assert loaded.encode(["abba cat"])[0].tolist() == tokenizer.encode(["abba cat"])[0].tolist()
    assert SubwordTokenizer.load(tmp_path / "s" / "tokenizer.json").vocab_size == 280
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        SubwordTokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="no token </b>"):
        SubwordTokenizer.load(tmp_path / "s", separator="</b>")
    with pytest.raises(ValueError, match="at least 257"):
        SubwordTokenizer.train(TEXTS, vocab_size=100)


def test_streams_hold_all_documents_in_order_and_their_split(documents, subwords):
    for tokenizer in (CharTokenizer("abcdefghijklmnopqrstuvwxyz "), subwords):
        data = encode_documents(documents, tokenizer, validation_share=0.3)
        for stream, held_out in ((data.train, False), (data.validation, True)):
            mine = [d for d in documents if in_validation(d.key, 0.3) == held_out]
            expected = [[*ids.tolist(), tokenizer.separator] for ids in tokenizer.encode([d.text for d in mine])]
            assert stream.tokens_N.tolist() == [i for ids in expected for i in ids]
            assert stream.facts.documents == len(mine) > 5
            assert stream.facts.tokens == len(stream.tokens_N)
            separators = len(mine) * tokenizer.separator_characters
            assert stream.facts.characters == sum(len(d.text) for d in mine) + separators
    uniform = data.train.bits_per_character(np.log(2.0))
    assert uniform == pytest.approx(data.train.facts.tokens / data.train.facts.characters)


def test_a_prepared_folder_equals_memory(tmp_path, documents, subwords):
    kept = encode_documents(documents, subwords, validation_share=0.3)
    written = prepare_folder(iter(documents), subwords, tmp_path / "corpus", validation_share=0.3)
    again = load_folder(tmp_path / "corpus")
    for data in (written, again):
        assert data.facts() == kept.facts()
        assert np.array_equal(data.validation.tokens_N, kept.validation.tokens_N)
    assert again.sequences("train", 8).fingerprint == kept.sequences("train", 8).fingerprint
    with pytest.raises(FileExistsError, match="load_folder"):
        prepare_folder(documents, subwords, tmp_path / "corpus", validation_share=0.3)
    assert not list(tmp_path.glob("*.partial"))


def test_damaged_folders_are_refused(tmp_path, documents, subwords):
    with pytest.raises(FileNotFoundError, match=r"meta\.json"):
        load_folder(tmp_path)
    prepare_folder(documents, subwords, tmp_path / "c", validation_share=0.3)
    data = (tmp_path / "c" / "train.bin").read_bytes()
    (tmp_path / "c" / "train.bin").write_bytes(data[:-2])
    with pytest.raises(ValueError, match="cut off"):
        load_folder(tmp_path / "c")
    SubwordTokenizer.train(TEXTS, vocab_size=270).save(tmp_path / "c")
    with pytest.raises(ValueError, match="prepare the folder again"):
        load_folder(tmp_path / "c")


def test_an_empty_split_is_refused(documents):
    with pytest.raises(ValueError, match="no document is in validation"):
        encode_documents(documents, CharTokenizer("abcdefghijklmnopqrstuvwxyz "), validation_share=0.0)


@pytest.fixture
def characters(documents):
    return encode_documents(documents, CharTokenizer("abcdefghijklmnopqrstuvwxyz "), validation_share=0.3)


def test_sequences_cut_the_stream_without_gaps(characters):
    stream = characters.train
    packed = PackedSequences(stream, 16)
    joined = torch.cat([packed[i]["tokens"] for i in range(len(packed))])
    assert joined.tolist() == stream.tokens_N[: len(joined)].tolist()
    assert 0 <= len(stream.tokens_N) - len(joined) < 16
    assert packed.rows().ravel().tolist() == joined.tolist()
    assert packed[(2, 5)]["epoch"] == 5
    assert torch.equal(packed[(2, 5)]["tokens"], packed[2]["tokens"])
    with pytest.raises(IndexError):
        packed[len(packed)]
    with pytest.raises(ValueError, match="no sequence of length"):
        PackedSequences(stream, 10**6)


def test_shifted_epochs_cut_elsewhere_and_repeat_exactly(characters):
    stream = characters.train
    packed = characters.sequences("train", 16, shift=True, seed=3)
    whole = stream.tokens_N.tolist()
    starts = set()
    for epoch in range(40):
        last = packed[(len(packed) - 1, epoch)]["tokens"].tolist()
        first = packed[(0, epoch)]["tokens"].tolist()
        assert first == packed[(0, epoch)]["tokens"].tolist()
        assert len(last) == 16
        starts.add(next(s for s in range(16) if whole[s : s + 16] == first))
    assert len(starts) > 8
    plain = characters.sequences("train", 16)
    assert len({packed.fingerprint, plain.fingerprint, characters.sequences("train", 8).fingerprint}) == 3


def test_batches_resume_where_they_stood(characters):
    def source() -> LoaderSource:
        packed = characters.sequences("train", 16, shift=True)
        return LoaderSource(packed, ResumableSampler(len(packed), 4, seed=1, rank=0, world_size=1))

    first = source()
    batches = [batch for _, batch in zip(range(40), first, strict=False)]
    assert batches[0]["tokens"].shape == (4, 16)
    assert batches[0]["tokens"].dtype == torch.int64
    second = source()
    second.load_state_dict(first.state_dict() | {"position": 25})
    again = next(iter(second))
    assert torch.equal(again["tokens"], batches[25]["tokens"])
    assert second.fingerprint == characters.sequences("train", 16, shift=True).fingerprint
