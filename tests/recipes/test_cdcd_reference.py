"""Judges of text: exact where the answer is known, and a reference run that could not judge is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from byol_ext.diffusion.autoregressive import Autoregressive, AutoregressiveConfig, token_nll
from byol_ext.diffusion.transformer import TransformerConfig
from byol_ext.text.documents import Document
from byol_ext.text.language_data import LanguageData, StreamFacts, TokenStream, encode_documents
from byol_ext.text.language_tokenizers import CharTokenizer
from byol_ext.text.markov import MarkovSource
from recipes.cdcd import Trained, load_run, train
from recipes.cdcd_config import CdcdConfig, DataConfig, EvalConfig, NetworkConfig, chars
from recipes.cdcd_data import open_data
from recipes.cdcd_model import build
from recipes.cdcd_reference import ReferenceScorer, SourceScorer, default_judges, open_judges, open_reference


def config(
    root: Path, name: str, *, method: str = "ar", width: int = 16, length: int = 16, seed: int = 0
) -> CdcdConfig:
    """One step of training, well below a second."""
    base = chars()
    return replace(
        base,
        name=name,
        root=str(root),
        method=method,  # type: ignore[arg-type]
        data=DataConfig(text="markov", markov_tokens=4000, length=length, batch=4),
        network=NetworkConfig(width=width, depth=1, heads=2, time_units=8, embedding_width=8),
        train=replace(base.train, steps=1, monitor_every=1, checkpoint_every=1),
        curve_times=0,
        seed=seed,
    )


@pytest.fixture(scope="module")
def data() -> LanguageData:
    return open_data(DataConfig(text="markov", markov_tokens=4000))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: LanguageData) -> Path:
    """Runs that may and may not judge."""
    root = tmp_path_factory.mktemp("runs")
    train(config(root, "judge", width=32), data=data)
    train(config(root, "judged", seed=1), data=data)
    train(config(root, "masked", method="mdlm"), data=data)
    train(config(root, "short", length=8), data=data)
    return root / "cdcd"


@pytest.fixture(scope="module")
def judged(runs: Path, data: LanguageData) -> Trained:
    return load_run(runs / "judged", data=data)[0]


def test_a_reference_scores_as_its_network_does(runs: Path, judged: Trained) -> None:
    scorer = open_reference(runs / "judge", trained=judged)
    ids_NL = judged.held_out().rows()[:7]
    with torch.no_grad():
        expected = token_nll(scorer.model, torch.from_numpy(ids_NL)).numpy()
    assert scorer.nll(ids_NL) == pytest.approx(expected, abs=1e-6)
    assert replace(scorer, batch=3).nll(ids_NL) == pytest.approx(expected, abs=1e-5)
    assert "judge" in scorer.name
    assert "seed 0" in scorer.name
    own = sum(p.numel() for p in judged.model.average.parameters())
    assert sum(p.numel() for p in scorer.model.parameters()) > 2 * own


def test_the_first_token_is_scored_from_the_start_and_others_from_their_left(judged: Trained) -> None:
    model = Autoregressive(AutoregressiveConfig(27, TransformerConfig(width=8, depth=1, heads=2))).eval()
    torch.nn.init.normal_(model.output.weight)
    scorer = ReferenceScorer(model, "any")
    ids_NL = judged.held_out().rows()[:2]
    changed_NL = ids_NL.copy()
    changed_NL[:, 9] = (changed_NL[:, 9] + 1) % 27
    differs = (scorer.nll(ids_NL) != scorer.nll(changed_NL)).any(axis=0)
    assert not differs[:9].any()
    assert differs[9:].all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("judged", "the judged model itself"),
        ("masked", "method 'mdlm'"),
        ("short", "--data.length 16"),
        ("absent", "no data.json"),
    ],
)
def test_runs_that_cannot_judge_are_refused(runs: Path, judged: Trained, name: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_reference(runs / name, trained=judged)


def test_a_copy_of_the_judged_run_is_refused(runs: Path, judged: Trained, tmp_path: Path) -> None:
    shutil.copytree(runs / "judged", tmp_path / "copy")
    with pytest.raises(ValueError, match="itself"):
        open_reference(tmp_path / "copy", trained=judged)


def test_a_reference_that_saw_other_text_or_other_tokens_is_refused(runs: Path, judged: Trained) -> None:
    other_text = open_data(DataConfig(text="markov", markov_tokens=4000, markov_seed=1))
    with pytest.raises(ValueError, match=r"cannot judge this model: its train"):
        open_reference(runs / "judge", trained=replace_data(judged, other_text))
    tokenizer = CharTokenizer("zyxwvutsrqponmlkjihgfedcba ")
    other_tokens = LanguageData(judged.data.train, judged.data.validation, tokenizer)
    with pytest.raises(ValueError, match=r"cannot judge this model: its tokenizer_sha256"):
        open_reference(runs / "judge", trained=replace_data(judged, other_tokens))


def replace_data(trained: Trained, data: LanguageData) -> Trained:
    return Trained(trained.config, data, trained.model)


def test_the_configuration_names_the_reference(runs: Path, judged: Trained) -> None:
    named = replace(judged.config, eval=EvalConfig(reference=str(runs / "judge")))
    judges = default_judges(Trained(named, judged.data, judged.model))
    assert judges.first is judges.reference
    assert judges.reference is not None
    assert "judge" in judges.reference.name
    assert judges.ngram.name == "6-gram"


def test_the_source_of_markov_text_is_the_best_judge(data: LanguageData, tmp_path: Path) -> None:
    own = config(tmp_path, "any")
    judges = default_judges(Trained(own, data, build(own, 27)))
    assert isinstance(judges.reference, SourceScorer)
    source = MarkovSource(seed=0)
    ids_NL = source.sample(2000, 16, seed=5)
    nll = judges.reference.nll(ids_NL)
    se = nll.sum(axis=1).std() / np.sqrt(len(nll))
    assert nll.sum(axis=1).mean() == pytest.approx(source.entropy(16), abs=4 * se)
    assert judges.ngram.nll(ids_NL).mean() > nll.mean() + 0.05


def test_the_order_falls_where_the_vocabulary_is_large() -> None:
    tokens = np.arange(50) % 40
    facts = StreamFacts(1, 50, 50, "", "")
    alphabet = "".join(chr(0x4E00 + i) for i in range(2**13))
    stream = TokenStream(tokens, facts)
    judges = open_judges(LanguageData(stream, stream, CharTokenizer(alphabet, separator=alphabet[0])), order=6)
    assert judges.ngram.name == "4-gram"  # 2 ** (13 * 4) fits into 63 bits
    assert judges.first is judges.ngram


def test_known_words_are_those_of_the_training_text_only() -> None:
    texts = ["the cat sat on the mat and the cat sat"] * 3 + ["unheard unheard"]
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    data = encode_documents(documents, CharTokenizer("abcdefghijklmnopqrstuvwxyz "), validation_share=0.4)
    judges = open_judges(data, order=2)
    trained_on = set(data.tokenizer.decode(data.train.tokens_N.tolist()).split())
    assert "cat" in judges.words
    assert judges.words <= trained_on
