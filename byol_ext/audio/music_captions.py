"""Captions of rendered tunes: many sentences from one set of facts, and the facts read back from a sentence.

A caption mentions a subset of the facts; what it mentions is true. :func:`facts_in` is the inverse and is used to
prove that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from byol_ext.audio.music_facts import INSTRUMENTS, KINDS, ORIGINS, Facts

TEMPO_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "slow": (("slow", "unhurried", "slow-paced"), ("slowly", "at a slow tempo", "without hurry")),
    "moderate": (
        ("moderate", "medium-tempo", "mid-tempo"),
        ("at a moderate tempo", "at a medium pace", "neither fast nor slow"),
    ),
    "fast": (("fast", "brisk", "quick"), ("quickly", "at a fast tempo", "briskly")),
    "very fast": (("very fast", "rapid", "racing"), ("very quickly", "at a very fast tempo", "rapidly")),
}
"""Adjectives and adverbs of each tempo class."""

METER_WORDS: dict[str, tuple[str, ...]] = {
    "2/4": ("2/4", "two-four"),
    "3/4": ("3/4", "three-four"),
    "4/4": ("4/4", "four-four", "common"),
    "2/2": ("2/2", "two-two", "cut"),
    "6/8": ("6/8", "six-eight"),
    "9/8": ("9/8", "nine-eight"),
    "3/8": ("3/8", "three-eight"),
}
"""Ways to write a meter before the word "time"; other meters are written in figures."""

KEEP: dict[str, float] = {
    "instrument": 0.92,
    "tempo": 0.8,
    "kind": 0.7,
    "meter": 0.5,
    "origin": 0.4,
    "bpm": 0.35,
    "key": 0.3,
    "collection": 0.12,
    "title": 0.04,
}
"""Chance that a caption after the first mentions a fact."""

PLACES: tuple[str, ...] = (*ORIGINS, "Northumbria")


@dataclass(frozen=True)
class _Phrases:
    """The words chosen for one caption; an empty string is a fact left out."""

    instrument: str
    adjective: str
    adverb: str
    noun: str
    meter: str
    key: str
    bpm: str
    origin: str
    source: str


def make_captions(facts: Facts, rng: np.random.Generator, *, n: int = 5) -> list[str]:
    """Different true captions of one clip.

    Args:
        facts: What is known about the clip.
        rng: Source of the choices.
        n: Number of captions.

    Returns:
        ``n`` captions. The first mentions instrument, tempo, beats a minute, meter, key, type and place as far as
        they are known; the others leave out facts at random (:data:`KEEP`), never both instrument and tempo.
    """
    captions = [_caption(facts, {"instrument", "tempo", "kind", "meter", "origin", "bpm", "key"}, rng)]
    while len(captions) < n:
        kept = {fact for fact, chance in KEEP.items() if rng.random() < chance}
        if not kept & {"instrument", "tempo"}:
            kept.add("instrument")
        caption = _caption(facts, kept, rng)
        if caption not in captions:
            captions.append(caption)
    return captions


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _phrases(facts: Facts, kept: set[str], rng: np.random.Generator) -> _Phrases:
    adjectives, adverbs = TEMPO_WORDS[facts.tempo]
    tempo = "tempo" in kept
    folk = facts.collection is not None and "folk song" in facts.collection
    plain = ("folk song", "folk tune", "song melody") if folk else ("tune", "melody", "traditional tune")
    meter = (
        f"{_pick(rng, METER_WORDS.get(facts.meter, (facts.meter,)))} time" if facts.meter and "meter" in kept else ""
    )
    key = f"in {facts.key}" if facts.key else f"with {facts.tonic} as its tonic" if facts.tonic else ""
    place = f"{facts.region} in {facts.origin}" if facts.region and rng.random() < 0.3 else facts.origin
    source = f"collected in {facts.collection}" if facts.collection and "collection" in kept else ""
    if "title" in kept:
        title = facts.title.replace('"', "").strip(" .")
        source = ", ".join(filter(None, (source, f'titled "{title}"')))
    return _Phrases(
        instrument=facts.instrument if "instrument" in kept else "",
        adjective=_pick(rng, adjectives) if tempo else "",
        adverb=_pick(rng, adverbs) if tempo else "",
        noun=facts.kind if facts.kind and "kind" in kept else _pick(rng, plain),
        meter=meter,
        key=key if "key" in kept else "",
        bpm=f"{facts.bpm} {_pick(rng, ('beats per minute', 'bpm'))}" if "bpm" in kept else "",
        origin=f"from {place}" if place and "origin" in kept else "",
        source=source,
    )


def _caption(facts: Facts, kept: set[str], rng: np.random.Generator) -> str:
    styles = (_on_instrument, _instrument_plays, _two_sentences, _listing, _opening_clause, _solo)
    text = styles[int(rng.integers(len(styles)))](_phrases(facts, kept, rng), rng)
    text = re.sub(r"\s+", " ", text).strip()
    return text[0].upper() + text[1:]


def _article(words: str) -> str:
    """Prefix ``a`` or ``an``; plural instruments and ensembles read well with none but take one all the same."""
    if words.startswith("tubular bells"):
        return words
    sounds_like_vowel = words[:1].lower() in "aeio" or words.startswith("un")
    return f"{'an' if sounds_like_vowel else 'a'} {words}"


def _join(*parts: str, by: str = " ") -> str:
    return by.join(part for part in parts if part)


def _details(p: _Phrases, rng: np.random.Generator, *, tempo: bool = False) -> str:
    """Meter, key, beats a minute and source in random order, joined by commas."""
    parts = [f"in {p.meter}" if p.meter else "", p.key, f"at {p.bpm}" if p.bpm else "", p.adverb if tempo else ""]
    parts = [part for part in parts if part]
    order = rng.permutation(len(parts))
    return _join(*(parts[int(i)] for i in order), p.source, by=", ")


def _on_instrument(p: _Phrases, rng: np.random.Generator) -> str:
    played = f"{_pick(rng, ('played on', 'on', 'performed on'))} {_article(p.instrument)}" if p.instrument else ""
    return _join(_join(_article(_join(p.adjective, p.noun)), p.origin, played), _details(p, rng), by=", ") + "."


def _instrument_plays(p: _Phrases, rng: np.random.Generator) -> str:
    who = _article(p.instrument) if p.instrument else "someone"
    verb = "play" if p.instrument == "tubular bells" else _pick(rng, ("plays", "is playing", "performs"))
    return _join(_join(who, verb, _article(_join(p.adjective, p.noun)), p.origin), _details(p, rng), by=", ") + "."


def _two_sentences(p: _Phrases, rng: np.random.Generator) -> str:
    first = _join("this is", _article(p.noun), p.origin)
    on = f"on {_article(p.instrument)}" if p.instrument else ""
    second = _join(_join("it is played", on), _details(p, rng, tempo=True), by=" ")
    return f"{first}. {second[0].upper()}{second[1:]}." if second != "it is played" else f"{first}."


def _listing(p: _Phrases, rng: np.random.Generator) -> str:
    tempo = f"{p.adjective} tempo" if p.adjective and "tempo" not in p.adjective else p.adjective
    head = _join(p.noun, p.origin)
    parts = [part for part in (p.instrument, tempo, p.meter, p.bpm, p.key.removeprefix("in "), p.source) if part]
    order = rng.permutation(len(parts))
    return _join(head, *(parts[int(i)] for i in order), by=", ")


def _opening_clause(p: _Phrases, rng: np.random.Generator) -> str:
    opening = _join(f"in {p.meter}" if p.meter else "", f"at {p.bpm}" if p.bpm else "", by=" and ")
    verb = "play" if p.instrument == "tubular bells" else "plays"
    body = f"{_article(p.instrument)} {verb} {_article(p.noun)}" if p.instrument else f"{_article(p.noun)} is heard"
    return _join(opening, _join(body, p.origin, p.adverb), p.key, p.source, by=", ") + "."


def _solo(p: _Phrases, rng: np.random.Generator) -> str:
    kind = _pick(rng, ("performance", "recording", "rendition"))
    several = p.instrument in ("choir", "string ensemble")
    who = _join("" if several else "solo", p.instrument, kind)
    what = f"of {_article(p.noun)}"
    return _join(_join(p.adjective, who, what, p.origin), _details(p, rng), by=", ") + "."


_BY_LENGTH = sorted((i.name for i in INSTRUMENTS), key=len, reverse=True)
_KINDS_BY_LENGTH = sorted(KINDS, key=len, reverse=True)
_TEMPO_BY_WORD = {
    word: tempo for tempo in ("very fast", "moderate", "slow", "fast") for words in TEMPO_WORDS[tempo] for word in words
}
_METER_BY_WORD = {word: meter for meter, words in METER_WORDS.items() for word in words}


def _take(words: Sequence[str], text: str) -> tuple[str | None, str]:
    """The first listed word that occurs, and the text without it."""
    for word in words:
        pattern = rf"(?i)(?<![\w-]){re.escape(word)}(?![\w-])"
        if re.search(pattern, text):
            return word, re.sub(pattern, " ", text)
    return None, text


def facts_in(caption: str) -> dict[str, str]:
    """Read the facts that a caption of :func:`make_captions` mentions; titles in quotes are skipped.

    Args:
        caption: A caption.

    Returns:
        Values by the field names of :class:`~byol_ext.audio.music_facts.Facts` (``bpm`` as text).

    Example:
        >>> facts_in("A brisk slip jig on an oboe, in 9/8 time, at 130 bpm.")
        {'bpm': '130', 'meter': '9/8', 'instrument': 'oboe', 'tempo': 'fast', 'kind': 'slip jig'}
    """
    text = re.sub(r'"[^"]*"|collected in [^,."]*', " ", caption)
    found: dict[str, str] = {}
    for field, pattern in (
        ("bpm", r"\b(\d+) (?:bpm|beats per minute)\b"),
        ("meter", r"\b(\d+/\d+|[a-z]+-(?:two|four|eight)|common|cut) time\b"),
        ("key", r"\b([A-G](?: flat| sharp)? (?:major|minor|[A-Z][a-z]+ian))\b"),
        ("tonic", r"\b([A-G](?: flat| sharp)?) as its tonic\b"),
    ):
        if match := re.search(pattern, text):
            found[field] = match[1]
            text = text.replace(match[0], " ")
    if "meter" in found:
        found["meter"] = _METER_BY_WORD.get(found["meter"], found["meter"])
    tempo_words = sorted(_TEMPO_BY_WORD, key=len, reverse=True)
    for field, words in (
        ("instrument", _BY_LENGTH),
        ("tempo", tempo_words),
        ("kind", _KINDS_BY_LENGTH),
        ("origin", PLACES),
    ):
        word, text = _take(words, text)
        if word is not None:
            found[field] = _TEMPO_BY_WORD[word] if field == "tempo" else word
    return found
