"""Blanks in texts: syntax, lengths, messages, and the choice of the best fill by a model that knows the answer."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from byol_ext.text.language_tokenizers import CharTokenizer
from recipes.cdcd_adapters import Generated
from recipes.cdcd_config import SampleConfig
from recipes.cdcd_infill import Template, encode_template, infill, parse_candidates, parse_template

TOKENIZER = CharTokenizer("abcd ")
HOW = SampleConfig(batch=4)


@dataclass
class Alphabet:
    """Fills blanks with ``b`` and finds a token the costlier the further the text's length is from six."""

    name = "alphabet"
    exact = True
    device = torch.device("cpu")
    batches: list[tuple[int, int]] = field(default_factory=list)

    def sample(
        self, tokens_BL: Tensor, noised_BL: Tensor, *, how: SampleConfig, generator: torch.Generator, film: int = 0
    ) -> Generated:
        self.batches.append((tokens_BL.shape[0], tokens_BL.shape[1]))
        return Generated(tokens_BL.masked_fill(noised_BL, 1), 1, None)

    def nats(
        self,
        tokens_BL: Tensor,
        *,
        noised_BL: Tensor | None = None,
        draws: int,
        passes: int,
        generator: torch.Generator,
    ) -> Tensor:
        assert noised_BL is not None
        assert (tokens_BL[noised_BL] == 1).all()
        return noised_BL.sum(1).double() * (1.0 + abs(tokens_BL.shape[1] - 6))

    def marginals(self, tokens_BL: Tensor, noised_BL: Tensor, *, generator: torch.Generator) -> Tensor:
        raise AssertionError("infilling needs no marginals")


def test_blanks_are_parsed() -> None:
    assert parse_template("The [[12]] sat on the [[8]].") == Template(("The ", " sat on the ", "."), (12, 8))
    assert parse_template("[[3]][[?]]") == Template(("", "", ""), (3, None))
    assert parse_template("a[0] [[ 2 ]]\n") == Template(("a[0] ", "\n"), (2,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no blank at all", "has no blank"),
        ("", "has no blank"),
        ("ab [[x]] cd", r"character 4, at '\[\[x\]\] cd': \[\[x\]\] is no blank; write \[\[8\]\]"),
        ("ab [[0]]", r"character 4.*\[\[0\]\] is no blank"),
        ("[[-1]]", r"character 1.*no blank"),
        ("[[²]]", "no blank"),
        ("[[]]", r"character 1.*\[\[\]\] is no blank"),
        ("[[2]] ab [[3", r"character 10, at '\[\[3': \[\[ without its partner"),
        ("ab]] [[2]]", r"character 3, at '\]\] \[\[2\]\]': \]\] without"),
    ],
)
def test_malformed_blanks_name_their_place(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_template(text)


def test_candidates_are_ranges() -> None:
    assert list(parse_candidates(" 3..5 ")) == [3, 4, 5]
    assert list(parse_candidates("3..3")) == [3]
    for bad in ("3", "5..3", "0..2", "a..b", "1...3", "-1..2"):
        with pytest.raises(ValueError, match=r"expected n\.\.m"):
            parse_candidates(bad)


def test_tokens_and_blanks_take_their_places() -> None:
    template = parse_template("ab[[2]] c[[1]]")
    tokens_L, noised_L = encode_template(template, [2, 1], TOKENIZER, limit=7)
    assert tokens_L.tolist() == [0, 1, 0, 0, 4, 2, 0]
    assert noised_L.tolist() == [False, False, True, True, False, False, True]
    with pytest.raises(ValueError, match="7 tokens long, 3 of them blank; the model trained on sequences of 6"):
        encode_template(template, [2, 1], TOKENIZER, limit=6)


def test_text_outside_the_alphabet_names_the_piece() -> None:
    with pytest.raises(ValueError, match=r"the text after blank 1, 'aXc': 'X' is not in the alphabet"):
        encode_template(parse_template("ab[[2]]aXc[[1]]"), [2, 1], TOKENIZER, limit=20)
    with pytest.raises(ValueError, match=r"the text before the first blank, 'X'"):
        encode_template(parse_template("X[[2]]"), [2], TOKENIZER, limit=20)


def test_fills_come_in_batches_with_their_blanks() -> None:
    model = Alphabet()
    found = infill(model, parse_template("a[[1]]c[[3]]"), TOKENIZER, limit=9, how=HOW, fills=6)
    assert model.batches == [(4, 6), (2, 6)]
    assert len(found) == 6
    assert found[0].text == "abcbbb"
    assert found[0].blanks == ("b", "bbb")
    assert found[0].lengths == (1, 3)
    assert found[0].nats_per_token == 1.0


def test_the_best_of_several_lengths_is_first_and_what_does_not_fit_is_left_out() -> None:
    model = Alphabet()
    template = parse_template("aa[[?]]cc")
    found = infill(model, template, TOKENIZER, limit=7, how=HOW, candidates=range(1, 9))
    assert [one.text for one in found] == ["aabbcc", "aabcc", "aabbbcc"]
    assert [one.nats_per_token for one in found] == [1.0, 2.0, 2.0]
    assert {length for _, length in model.batches} == {5, 6, 7}
    with pytest.raises(ValueError, match="8 tokens long"):
        infill(model, template, TOKENIZER, limit=7, how=HOW, candidates=range(4, 9))


def test_unknown_blanks_are_combined() -> None:
    found = infill(
        Alphabet(), parse_template("[[?]]a[[1]]a[[?]]"), TOKENIZER, limit=20, how=HOW, candidates=range(1, 3)
    )
    assert sorted(one.lengths for one in found) == [(1, 1, 1), (1, 1, 2), (2, 1, 1), (2, 1, 2)]
    assert {one.lengths for one in found[:2]} == {(1, 1, 2), (2, 1, 1)}


@pytest.mark.parametrize(
    ("text", "candidates", "fills", "message"),
    [
        ("a[[?]]", range(0), 1, "1 blanks of unknown length: candidate lengths are needed"),
        ("a[[2]]", range(1, 3), 1, r"candidates need a blank \[\[\?\]\]"),
        ("[[?]] [[?]]", range(1, 18), 1, "more than 256 combinations"),
        ("a[[2]]", range(0), 0, "fills=0 must be positive"),
    ],
)
def test_what_does_not_go_together_is_refused(text: str, candidates: range, fills: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        infill(Alphabet(), parse_template(text), TOKENIZER, limit=30, how=HOW, fills=fills, candidates=candidates)
