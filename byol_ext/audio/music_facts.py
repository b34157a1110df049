"""What is known about a rendered tune: facts chosen by the renderer and facts read from the tune's header.

A fact is left out where the header is silent, doubtful, or not true of the whole tune (a meter that changes), so
that a caption made of facts is true.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from byol_ext.audio.abc_tunes import Tune, normalize_title, parse_key


@dataclass(frozen=True)
class Instrument:
    """A General MIDI program.

    Attributes:
        name: Name used in captions.
        program: General MIDI program, from 0.
        family: Family, such as ``"strings"``.
        octave: Octaves by which tunes (mostly G3 to B5) are moved into the instrument's range.
    """

    name: str
    program: int
    family: str
    octave: int = 0


INSTRUMENTS: tuple[Instrument, ...] = (
    Instrument("piano", 0, "keyboard"),
    Instrument("electric piano", 4, "keyboard"),
    Instrument("harpsichord", 6, "keyboard"),
    Instrument("church organ", 19, "keyboard"),
    Instrument("reed organ", 20, "keyboard"),
    Instrument("accordion", 21, "keyboard"),
    Instrument("glockenspiel", 9, "mallets", 1),
    Instrument("vibraphone", 11, "mallets"),
    Instrument("marimba", 12, "mallets"),
    Instrument("xylophone", 13, "mallets"),
    Instrument("tubular bells", 14, "mallets"),
    Instrument("nylon-string guitar", 24, "plucked"),
    Instrument("steel-string guitar", 25, "plucked"),
    Instrument("harp", 46, "plucked"),
    Instrument("banjo", 105, "plucked"),
    Instrument("sitar", 104, "plucked"),
    Instrument("koto", 107, "plucked"),
    Instrument("violin", 40, "strings"),
    Instrument("viola", 41, "strings"),
    Instrument("cello", 42, "strings", -1),
    Instrument("double bass", 43, "strings", -2),
    Instrument("string ensemble", 48, "strings"),
    Instrument("choir", 52, "voices"),
    Instrument("trumpet", 56, "brass"),
    Instrument("muted trumpet", 59, "brass"),
    Instrument("trombone", 57, "brass", -1),
    Instrument("French horn", 60, "brass", -1),
    Instrument("tuba", 58, "brass", -2),
    Instrument("soprano saxophone", 64, "reeds"),
    Instrument("alto saxophone", 65, "reeds"),
    Instrument("oboe", 68, "reeds"),
    Instrument("English horn", 69, "reeds"),
    Instrument("clarinet", 71, "reeds"),
    Instrument("bassoon", 70, "reeds", -1),
    Instrument("bagpipe", 109, "reeds"),
    Instrument("harmonica", 22, "reeds"),
    Instrument("piccolo", 72, "flutes", 1),
    Instrument("flute", 73, "flutes"),
    Instrument("recorder", 74, "flutes"),
    Instrument("pan flute", 75, "flutes"),
)
"""Forty programs in eight families; several families hold near neighbours (oboe and English horn, violin and viola)."""

TEMPI: dict[str, tuple[int, int]] = {
    "slow": (46, 66),
    "moderate": (84, 104),
    "fast": (126, 152),
    "very fast": (176, 208),
}
"""Beats a minute of each tempo class, ends included; gaps between the classes keep the words unambiguous."""

COLLECTIONS = {
    "essenFolksong": "the Essen folk song collection",
    "oneills1850": "O'Neill's Music of Ireland",
    "airdsAirs": "Aird's Airs",
    "ryansMammoth": "Ryan's Mammoth Collection",
    "northumbrianminstrelsyopus": "Northumbrian Minstrelsy",
    "josquin": "the works of Josquin des Prez",
}

_DANCES = (
    "slip jig|double jig|highland fling|reel|hornpipe|jig|strathspey|march|waltz|clog|air|slide|walkaround|gavotte|"
    "fling|minuet|polka|quickstep"
)
_DANCE_FIELD = re.compile(rf"^({_DANCES})$")
_DANCE_IN_TITLE = re.compile(r"\b(reel|hornpipe|jig|strathspey|march|waltz|clog|gavotte|minuet|polka)[^a-z0-9]*$")
_SONG_TYPES: tuple[tuple[str, str], ...] = (
    (r"wiegen\W+lied|wiegenlied", "lullaby"),
    (r"kinder\W+lied|kinderlied|kinder\W+-? ?(wiegen|spiel)\W", "children's song"),
    (r"tanz\W+lied|tanzlied|reigen", "dance song"),
    (r"trink\W+lied|trinklied|zech\W", "drinking song"),
    (r"jaeger\W+lied|jaegerlied", "hunting song"),
    (r"soldaten\b|soldatenlied|kriegs\W+lied|kriegslied", "soldiers' song"),
    (r"studenten", "students' song"),
    (r"hochzeits", "wedding song"),
    (r"abschieds\W+lied|abschiedslied", "farewell song"),
    (r"scherz\W+lied|spott\W+lied|spottlied|scherzlied", "humorous song"),
    (r"geistlich|religioes|kirchen\W+lied|marien\W+lied", "religious song"),
    (r"liebes\W+lied|liebeslied", "love song"),
    (r"ballade", "ballad"),
    (r"xiaodiao", "Chinese ditty"),
    (r"shange", "Chinese mountain song"),
    (r"haozi", "Chinese work song"),
)
KINDS: tuple[str, ...] = tuple(dict.fromkeys(_DANCES.split("|") + [kind for _, kind in _SONG_TYPES]))
"""Every dance and song type that a caption may name."""

_PLACES: tuple[tuple[str, str], ...] = (
    ("Elsass", "Alsace"),
    ("Lothringen", "Lorraine"),
    ("Luxemburg", "Luxembourg"),
    ("Schlesien", "Silesia"),
    ("Boehmen|Kuhlaendchen|Sudetenland", "Bohemia"),
    ("Siebenbuergen", "Transylvania"),
    ("Jugoslawien|Gottschee", "Yugoslavia"),
    ("Tschechoslowakei", "Czechoslovakia"),
    ("Schweiz", "Switzerland"),
    ("Oesterreich|Tirol|Steiermark", "Austria"),
    ("Niederlande", "the Netherlands"),
    ("Ungarn", "Hungary"),
    ("Rumaenien", "Romania"),
    ("Irland", "Ireland"),
    ("Italien", "Italy"),
    ("Schweden", "Sweden"),
    ("Daenemark", "Denmark"),
    ("Ukraine", "Ukraine"),
    ("Frankreich", "France"),
    ("Polen", "Poland"),
    ("China", "China"),
    ("Deutschland", "Germany"),
)
ORIGINS: tuple[str, ...] = tuple(place for _, place in _PLACES)
_REGIONS: tuple[tuple[str, str], ...] = (
    ("Hessen", "Hesse"),
    ("Westfalen", "Westphalia"),
    ("Niederrhein", "the Lower Rhine"),
    ("Rheinland", "the Rhineland"),
    ("Thueringen", "Thuringia"),
    ("Sachsen", "Saxony"),
    ("Franken", "Franconia"),
    ("Schwaben", "Swabia"),
    ("Bayern", "Bavaria"),
    ("Brandenburg", "Brandenburg"),
    ("Pommern", "Pomerania"),
    *(
        (name, name)
        for name in ("Hunan", "Hubei", "Jiangsu", "Shanxi", "Shaanxi", "Anhui", "Jiangxi", "Sichuan", "Hebei")
    ),
    *(
        (name, name)
        for name in ("Shandong", "Yunnan", "Guangdong", "Henan", "Liaoning", "Fujian", "Zhejiang", "Taiwan")
    ),
)


@dataclass(frozen=True)
class Facts:
    """Everything said about one clip; None where nothing is known.

    Attributes:
        instrument, family, program: The chosen instrument.
        tempo, bpm, beat: Chosen tempo class, beats a minute, and the note value of a beat in quarter notes.
        meter: Such as ``"6/8"``.
        kind: Dance or song type, one of :data:`KINDS`.
        origin, region: Country or historic region, and a region of Germany or China.
        key: Such as ``"A Dorian"``: only outside ``essenFolksong``, whose field holds no mode.
        tonic: Tonic alone, where the mode is unknown and the tune ends on it.
        collection, title, tune: Where the tune comes from.
        group: Normalised title, the unit of the split.
        variant, start: Rendering of the tune (from 0) and where the clip begins, in quarter notes.
        soundfont: Name of the soundfont.
    """

    instrument: str
    family: str
    program: int
    tempo: str
    bpm: int
    beat: float
    meter: str | None
    kind: str | None
    origin: str | None
    region: str | None
    key: str | None
    tonic: str | None
    collection: str | None
    title: str
    tune: str
    group: str
    variant: int
    start: float
    soundfont: str

    def as_dict(self) -> dict[str, Any]:
        """The facts as a flat dictionary for JSON."""
        return asdict(self)


def meter_of(tune: Tune) -> str | None:
    """Meter such as ``"6/8"``; ``C`` is 4/4 and ``C|`` is 2/2. None if free, unreadable or changing.

    Args:
        tune: A tune.
    """
    field = tune.headers["M"].split("%")[0].strip()
    field = {"C": "4/4", "C|": "2/2"}.get(field, field)
    return field if re.fullmatch(r"\d+/\d+", field) and "M" not in tune.changes else None


def beat_of(meter: str | None) -> float:
    """Length of a beat in quarter notes: three of the lower number in compound meters (6, 9, 12), else one.

    Example:
        >>> beat_of("6/8"), beat_of("2/2"), beat_of("3/4"), beat_of(None)
        (1.5, 2.0, 1.0, 1.0)
    """
    if meter is None:
        return 1.0
    upper, lower = (int(part) for part in meter.split("/"))
    return 4.0 / lower * (3 if upper in (6, 9, 12) else 1)


def kind_of(tune: Tune) -> str | None:
    """Dance or song type from the ``R:`` field, else the dance that ends the title (``"Myopia -- Hornpipe"``).

    Args:
        tune: A tune.

    Returns:
        One of :data:`KINDS` or None. Of several song types the first named one.
    """
    field = tune.headers.get("R", "").lower().replace("ö", "oe").replace("ä", "ae").replace("ü", "ue").strip()
    if tune.collection == "essenFolksong":
        found = [(m.start(), kind) for pattern, kind in _SONG_TYPES if (m := re.search(pattern, field))]
        return min(found)[1] if found else None
    dance = _DANCE_FIELD.match(field.replace("slipjig", "slip jig"))
    dance = dance or _DANCE_IN_TITLE.search(re.sub(r"\([^)]*\)|\b\d+\b", "", tune.title.lower()))
    return dance[1] if dance else None


def place_of(tune: Tune) -> tuple[str | None, str | None]:
    """Origin and region from the ``O:`` field; O'Neill's tunes are Irish and Northumbrian Minstrelsy's from England.

    Args:
        tune: A tune.

    Returns:
        Origin (one of :data:`ORIGINS`, ``"Ireland"`` or ``"Northumbria"``) and region; None where unknown.
    """
    if tune.collection == "oneills1850":
        return "Ireland", None
    if "northumbrian" in tune.name:
        return "Northumbria", None
    field = tune.headers.get("O", "")
    if tune.collection != "essenFolksong" or "?" in field:
        return None, None
    origin = next((place for pattern, place in _PLACES if re.search(rf"\b({pattern})\b", field)), None)
    region = next((place for pattern, place in _REGIONS if re.search(rf"\b{pattern}\b", field)), None)
    return origin, region if origin in ("Germany", "China") else None


def key_of(tune: Tune, *, last_pitch: int) -> tuple[str | None, str | None]:
    """Key with its mode, or the tonic alone.

    ``essenFolksong`` writes a key signature whose mode is unknown: only the tonic is a fact, and only if the tune
    ends on it.

    Args:
        tune: A tune.
        last_pitch: MIDI pitch of its last note.

    Returns:
        ``(key, tonic)`` such as ``("A Dorian", None)`` or ``(None, "G")``; both None where nothing is certain.
    """
    key = parse_key(tune.headers["K"])
    if key is None or not key.certain or "K" in tune.changes:
        return None, None
    tonic = key.tonic.replace("b", " flat").replace("#", " sharp")
    if tune.collection != "essenFolksong":
        return f"{tonic} {key.mode}", None
    pitch_class = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[key.tonic[0]]
    pitch_class += {"b": -1, "#": 1, "": 0}[key.tonic[1:]]
    return None, tonic if (last_pitch - pitch_class) % 12 == 0 else None


def choose_facts(
    tune: Tune, notes_N4: np.ndarray, *, variant: int, seconds: float, soundfont: str, rng: np.random.Generator
) -> Facts:
    """Choose instrument, tempo and start of one clip, and collect what the header says.

    Args:
        tune: A tune.
        notes_N4: Its notes, from :func:`byol_ext.audio.abc_tunes.notes_of`.
        variant: Which rendering of the tune this is.
        seconds: Length of the clip.
        soundfont: Name recorded in the facts.
        rng: Source of the choices.

    Returns:
        The facts of the clip. It starts on a note, at the beginning unless the tune is longer than the clip.
    """
    instrument = INSTRUMENTS[int(rng.integers(len(INSTRUMENTS)))]
    tempo = list(TEMPI)[int(rng.integers(len(TEMPI)))]
    low, high = TEMPI[tempo]
    bpm = int(rng.integers(low, high + 1))
    meter = meter_of(tune)
    beat = beat_of(meter)
    end = float((notes_N4[:, 0] + notes_N4[:, 1]).max())
    starts = notes_N4[notes_N4[:, 0] <= end - seconds * bpm * beat / 60, 0]
    start = float(starts[int(rng.integers(len(starts)))]) if len(starts) else float(notes_N4[0, 0])
    origin, region = place_of(tune)
    key, tonic = key_of(tune, last_pitch=int(notes_N4[-1, 2]))
    return Facts(
        instrument=instrument.name,
        family=instrument.family,
        program=instrument.program,
        tempo=tempo,
        bpm=bpm,
        beat=beat,
        meter=meter,
        kind=kind_of(tune),
        origin=origin,
        region=region,
        key=key,
        tonic=tonic,
        collection=COLLECTIONS.get(tune.name.split("/")[-1].rsplit("-", 1)[0], COLLECTIONS.get(tune.collection)),
        title=tune.title,
        tune=tune.name,
        group=normalize_title(tune.title),
        variant=variant,
        start=start,
        soundfont=soundfont,
    )
