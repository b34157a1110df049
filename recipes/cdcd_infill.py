"""Filling blanks in a text: ``The [[12]] sat on the [[8]].`` has blanks of 12 and 8 tokens (spec 15).

``[[?]]`` is a blank of unknown length: each candidate length is filled and the best kept, by the nats that the model
needs for a token of the blanks given the rest. A text need not have the length that the model trained on; it may be
shorter, since the network's positions are relative, but not longer.

Legend: ``B`` sequences, ``L`` positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from byol_ext.text.language_tokenizers import LanguageTokenizer
from recipes.cdcd_config import SampleConfig
from recipes.cdcd_generate import TextModel

CANDIDATE_LIMIT = 256
_BLANK = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
_BOUND_DRAWS = 16
_CONTEXT = 12


@dataclass(frozen=True)
class Template:
    """A text with blanks.

    Attributes:
        pieces: Stretches of text, one more than blanks; any may be empty.
        blanks: Tokens of each blank; None where unknown.

    Example:
        >>> parse_template("a [[3]]b[[?]]")
        Template(pieces=('a ', 'b', ''), blanks=(3, None))
    """

    pieces: tuple[str, ...]
    blanks: tuple[int | None, ...]

    def sized(self, candidates: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Tokens of the blanks, for each choice of the unknown ones."""
        return product(*(candidates if blank is None else (blank,) for blank in self.blanks))


@dataclass(frozen=True)
class Fill:
    """A text whose blanks were filled.

    Attributes:
        text: All of it.
        blanks: What stands in each blank.
        lengths: Tokens of each blank.
        nats_per_token: Of the blanks given the rest: a bound, or what an autoregressive model needs for them from the
            left alone.
    """

    text: str
    blanks: tuple[str, ...]
    lengths: tuple[int, ...]
    nats_per_token: float


def parse_template(text: str) -> Template:
    """Read ``[[n]]`` and ``[[?]]``.

    Raises:
        ValueError: If there is no blank, or one is malformed; the message names the place.
    """
    pieces: list[str] = []
    blanks: list[int | None] = []
    end = 0
    for match in _BLANK.finditer(text):
        pieces.append(_plain(text, end, match.start()))
        content = match.group(1).strip()
        if content != "?" and not (content.isascii() and content.isdigit() and int(content) > 0):
            raise ValueError(
                f"{_place(text, match.start())}: [[{match.group(1)}]] is no blank; write [[8]] for 8 tokens, or [[?]] "
                "for a length to be found"
            )
        blanks.append(None if content == "?" else int(content))
        end = match.end()
    pieces.append(_plain(text, end, len(text)))
    if not blanks:
        raise ValueError("the text has no blank; write [[8]] where 8 tokens are missing")
    return Template(tuple(pieces), tuple(blanks))


def parse_candidates(text: str) -> range:
    """Read ``n..m``, both ends included.

    Raises:
        ValueError: If it is no range of positive lengths.

    Example:
        >>> list(parse_candidates("2..4"))
        [2, 3, 4]
    """
    match = re.fullmatch(r"(\d+)\.\.(\d+)", text.strip())
    if match is None or not 0 < int(match[1]) <= int(match[2]):
        raise ValueError(f"candidates {text!r}: expected n..m with 0 < n <= m, such as 4..12")
    return range(int(match[1]), int(match[2]) + 1)


def encode_template(
    template: Template, lengths: Sequence[int], tokenizer: LanguageTokenizer, *, limit: int
) -> tuple[Tensor, Tensor]:
    """Tokens of a template, each stretch of text encoded by itself.

    Args:
        template: The template.
        lengths: Tokens of each blank.
        tokenizer: The model's.
        limit: Positions that the model trained on.

    Returns:
        ``tokens_L`` int64, zero in blanks, and ``noised_L``, true there.

    Raises:
        ValueError: If a piece cannot be encoded, or the text is longer than the limit.
    """
    tokens: list[int] = []
    noised: list[bool] = []
    for place, piece in enumerate(template.pieces):
        ids = _encode(piece, place, tokenizer)
        blank = lengths[place] if place < len(lengths) else 0
        tokens += [*ids, *([0] * blank)]
        noised += [False] * len(ids) + [True] * blank
    if len(tokens) > limit:
        raise ValueError(
            f"the text is {len(tokens)} tokens long, {sum(noised)} of them blank; the model trained on sequences of "
            f"{limit}: shorten the text or the blanks"
        )
    return torch.tensor(tokens, dtype=torch.int64), torch.tensor(noised)


def infill(
    model: TextModel,
    template: Template,
    tokenizer: LanguageTokenizer,
    *,
    limit: int,
    how: SampleConfig,
    seed: int = 0,
    fills: int = 1,
    candidates: Sequence[int] = (),
) -> list[Fill]:
    """Fill a template, several times for each choice of lengths, best first.

    Args:
        model: The model.
        template: The text.
        tokenizer: The model's.
        limit: Positions that the model trained on.
        how: Steps, sampler and knobs.
        seed: Of the noise.
        fills: Fills of each choice of lengths.
        candidates: Lengths of an unknown blank; every combination of several such blanks is tried. Those with which
            the text is longer than the limit are left out.

    Raises:
        ValueError: If candidates and unknown blanks do not go together, there are more than 256 combinations or no fill
            is wanted, the text does not fit, or ``how`` turns a knob that the model does not have.
    """
    if fills < 1:
        raise ValueError(f"fills={fills} must be positive")
    choices = _choices(template, candidates)
    if len(choices) > 1:
        fixed = len(encode_template(template, [0] * len(template.blanks), tokenizer, limit=limit)[0])
        choices = [lengths for lengths in choices if fixed + sum(lengths) <= limit] or choices[:1]
    generator = torch.Generator(model.device).manual_seed(seed)
    found = [
        fill
        for lengths in choices
        for fill in _filled(model, template, lengths, tokenizer, limit, how, generator, fills)
    ]
    return sorted(found, key=lambda fill: fill.nats_per_token)


def _filled(
    model: TextModel,
    template: Template,
    lengths: tuple[int, ...],
    tokenizer: LanguageTokenizer,
    limit: int,
    how: SampleConfig,
    generator: torch.Generator,
    fills: int,
) -> Iterator[Fill]:
    tokens_L, noised_L = encode_template(template, lengths, tokenizer, limit=limit)
    for start in range(0, fills, how.batch):
        count = min(how.batch, fills - start)
        tokens_BL, noised_BL = (value.expand(count, -1).to(model.device) for value in (tokens_L, noised_L))
        made_BL = model.sample(tokens_BL, noised_BL, how=how, generator=generator).tokens_BL
        nats_B = model.nats(made_BL, noised_BL=noised_BL, draws=_BOUND_DRAWS, passes=1, generator=generator)
        for row_L, nats in zip(made_BL.cpu(), nats_B.tolist(), strict=True):
            blank_tokens = row_L[noised_L].split(list(lengths))
            yield Fill(
                text=tokenizer.decode(row_L.tolist()),
                blanks=tuple(tokenizer.decode(blank.tolist()) for blank in blank_tokens),
                lengths=lengths,
                nats_per_token=nats / sum(lengths),
            )


def _choices(template: Template, candidates: Sequence[int]) -> list[tuple[int, ...]]:
    unknown = template.blanks.count(None)
    if bool(unknown) != bool(candidates):
        wanted = "candidate lengths are needed, such as 4..12" if unknown else "candidates need a blank [[?]]"
        raise ValueError(f"the text has {unknown} blanks of unknown length: {wanted}")
    if unknown and len(candidates) ** unknown > CANDIDATE_LIMIT:
        raise ValueError(
            f"{len(candidates)} candidates for each of {unknown} blanks are more than {CANDIDATE_LIMIT} combinations; "
            "narrow the range or give some lengths"
        )
    return list(template.sized(candidates))


def _encode(piece: str, place: int, tokenizer: LanguageTokenizer) -> list[int]:
    try:
        return [int(i) for i in tokenizer.encode([piece])[0]] if piece else []
    except ValueError as error:
        where = "before the first blank" if place == 0 else f"after blank {place}"
        raise ValueError(f"the text {where}, {piece[:40]!r}: {error}") from error


def _plain(text: str, start: int, end: int) -> str:
    """A stretch without a stray double bracket."""
    for bracket in ("[[", "]]"):
        at = text.find(bracket, start, end)
        if at >= 0:
            raise ValueError(f"{_place(text, at)}: {bracket} without its partner; a blank is [[8]] or [[?]]")
    return text[start:end]


def _place(text: str, at: int) -> str:
    return f"character {at + 1}, at {text[at : at + _CONTEXT]!r}"
