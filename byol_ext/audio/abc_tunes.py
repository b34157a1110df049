"""ABC tunes of the ``music21`` corpus: files to tunes, headers to facts' raw material, bodies to notes.

The corpus files are read directly; ``music21`` is located, never imported. Notes come from ``abc2midi``, which the
``symusic`` wheel carries. It is run in a folder of its own and not through ``symusic.Score.from_abc``: that writes to
a temporary file whose name two processes can share, so that one reads the other's tune, and lets the parser print.

Legend: ``N`` notes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from byol_ext._extras import require

_TUNE_START = re.compile(r"(?m)^(?=X:)")
_HEADER = re.compile(r"(?m)^([A-Z]):[ \t]*(.*?)[ \t\]]*$")
_KEY = re.compile(r"^(Es|As|H|[A-G][b#]?)\s*(?:(maj|min|mix|dor|phr|lyd|loc)[a-z]*|([mM])(?![a-z]))?(?:\s.*)?$")
_KEY_WORD = re.compile(r"(?i)(?<=[\sA-Gb#])(maj|min|mix|dor|phr|lyd|loc)(?=[a-z]*\b)")
_GERMAN_TONIC = {"H": "B", "Es": "Eb", "As": "Ab"}
_MODES = {
    "M": "major",
    "m": "minor",
    "maj": "major",
    "min": "minor",
    "mix": "Mixolydian",
    "dor": "Dorian",
    "phr": "Phrygian",
    "lyd": "Lydian",
    "loc": "Locrian",
}
_ABC_MODES = {"major": "", "minor": "m", **{m: m[:3].lower() for m in ("Mixolydian", "Dorian", "Phrygian", "Lydian")}}
_DANCES = "reel|hornpipe|jig|strathspey|march|waltz|clog|fling|highland fling|slip jig|air|medley|song"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Key:
    """A key as its transcriber wrote it.

    Attributes:
        tonic: Note name such as ``"F#"``.
        mode: ``"major"``, ``"minor"`` or a church mode such as ``"Dorian"``.
        certain: False if the line carries a transcriber's comment, which in this corpus expresses doubt.
    """

    tonic: str
    mode: str
    certain: bool = True


@dataclass(frozen=True)
class Tune:
    """One tune of an ABC file.

    Attributes:
        name: Stable name, ``collection/file-position`` with the position in the file from 0.
        collection: Folder of the corpus, such as ``"oneills1850"``.
        headers: First value of each one-letter field, such as ``{"T": "The Ranting Highlandman.", "M": "C|"}``.
        abc: The tune's whole text.
    """

    name: str
    collection: str
    headers: dict[str, str]
    abc: str

    @property
    def title(self) -> str:
        """The first ``T:`` field."""
        return self.headers["T"]

    @property
    def changes(self) -> frozenset[str]:
        """Which of meter ``"M"`` and key ``"K"`` change inside the tune, so that they are no facts about a clip."""
        return frozenset(f for f in "MK" if len(re.findall(rf"(?m)^{f}:|\[{f}:", self.abc)) > 1)


def corpus_root(root: str | Path | None = None) -> Path:
    """Folder of the ABC corpus.

    Args:
        root: A folder to use instead of the installed one.

    Returns:
        ``root``, or ``corpus`` of the installed ``music21`` package (which is not imported).

    Raises:
        ImportError: If ``root`` is None and ``music21`` is not installed.
        FileNotFoundError: If the folder does not exist.
    """
    if root is None:
        spec = importlib.util.find_spec("music21")
        if spec is None or spec.origin is None:
            raise ImportError("the music21 corpus is not installed: pip install 'byol_ext[music]'")
        root = Path(spec.origin).parent / "corpus"
    path = Path(root)
    if not path.is_dir():
        raise FileNotFoundError(f"no folder of ABC files at {path}; give root= or pip install 'byol_ext[music]'")
    return path


def read_tunes(root: str | Path | None = None) -> list[Tune]:
    """Every tune with a title, a meter field and a key field, in a fixed order.

    Args:
        root: Folder searched for ``**/*.abc``; default the installed ``music21`` corpus (12,978 tunes, 1 s).

    Returns:
        Tunes sorted by file, then by position in the file.

    Raises:
        ImportError: If no root is given and ``music21`` is missing.
        FileNotFoundError: If the folder does not exist or holds no ABC file.
    """
    folder = corpus_root(root)
    files = sorted(folder.glob("**/*.abc"), key=lambda f: f.relative_to(folder).as_posix())
    if not files:
        raise FileNotFoundError(f"no .abc file under {folder}")
    return [tune for file in files for tune in _tunes_of(file, folder)]


def _tunes_of(file: Path, folder: Path) -> Iterator[Tune]:
    stem = file.relative_to(folder).with_suffix("").as_posix()
    parts = _TUNE_START.split(file.read_text("utf-8", "replace").replace("\r\n", "\n"))
    for position, abc in enumerate(parts[1:]):
        headers: dict[str, str] = {}
        for field, value in _HEADER.findall(abc):
            headers.setdefault(field, value)
        if headers.get("T") and {"M", "K"} <= headers.keys():
            yield Tune(f"{stem}-{position}", file.parent.name, headers, abc)


def parse_key(field: str) -> Key | None:
    """Read a ``K:`` field, including the corpus's German note names and spelled-out modes.

    Args:
        field: The field's value, such as ``"A Dorian"``, ``"Em"``, ``"EM"`` (major), ``"Es"`` (E flat).

    Returns:
        The key, or None for highland pipes (``Hp``) and anything unreadable.

    Example:
        >>> parse_key("Bm"), parse_key("EM").mode, parse_key("H").tonic
        (Key(tonic='B', mode='minor', certain=True), 'major', 'B')
    """
    value, _, comment = field.partition("%")
    match = _KEY.match(_KEY_WORD.sub(lambda m: m[1].lower(), value.strip()))
    if match is None:
        return None
    tonic, word = _GERMAN_TONIC.get(match[1], match[1]), match[2] or match[3] or "M"
    return Key(tonic, _MODES[word], certain=not comment.strip())


def normalize_title(title: str) -> str:
    """Title reduced so that variants of one tune share it: the unit of the split.

    Case, accents, punctuation, text in brackets, "1st setting", trailing numbers, articles at either end and a
    trailing dance word are dropped. Merging too much is harmless: it only keeps more tunes on one side.

    Args:
        title: A ``T:`` field.

    Returns:
        Lower-case words separated by single spaces, never empty.

    Example:
        >>> normalize_title("The 7th Regiment -- Reel"), normalize_title("Die Rabenmutter (II)")
        ('7th regiment', 'rabenmutter')
    """
    text = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    short = re.sub(r"\([^)]*\)|\[[^]]*\]", " ", text)
    short = re.sub(r"\b(\d+(st|nd|rd|th)|first|second|third) (setting|version|way)\b", " ", short)
    short = " ".join(re.findall(r"[a-z0-9]+", short.replace("'", "")))
    for pattern in (
        r"( (\d+|[ivx]+))+$",
        rf" ({_DANCES})s?$",
        r" (the|a|an|der|die|das)$",
        r"^(the|a|an|der|die|das) ",
    ):
        short = re.sub(pattern, "", short)
    return short or " ".join(re.findall(r"[a-z0-9]+", text)) or "untitled"


def stable_hash(text: str) -> int:
    """63-bit hash of a text, the same in every process and on every machine.

    Example:
        >>> stable_hash("reel") == stable_hash("reel") != stable_hash("jig")
        True
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def split_of(title: str, *, val: float = 0.06, test: float = 0.10) -> str:
    """Side of the split on which a title lies: a pure function of its normalised form.

    Args:
        title: A ``T:`` field.
        val: Share of titles for validation.
        test: Share of titles for testing.

    Returns:
        ``"train"``, ``"val"`` or ``"test"``.

    Example:
        >>> split_of("The Blackbird") == split_of("Blackbird, The")
        True
    """
    u = stable_hash("title:" + normalize_title(title)) / 2**63
    return "test" if u < test else "val" if u < test + val else "train"


def notes_of(tune: Tune) -> np.ndarray:
    """Notes of a tune, repeats played out, in quarter notes from its start, so that any tempo can be chosen.

    Tempo marks are dropped, guitar chords are off, and the key line is rewritten in the spelling that the parser
    reads correctly (it takes ``EM`` for E minor and refuses German note names).

    Args:
        tune: A tune.

    Returns:
        ``[N, 4]`` float64: onset and duration in quarter notes, MIDI pitch, velocity; sorted by onset, then pitch.

    Raises:
        ValueError: If the tune cannot be parsed or holds no note.
        ImportError: If ``symusic`` is missing.
    """
    symusic = require("symusic", extra="music")
    program = next(Path(str(symusic.__file__)).parent.glob("bin/abc2midi*"))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "tune.abc"), Path(folder, "tune.mid")
        source.write_text(_playable(tune), encoding="utf-8")
        command = [str(program), str(source), "-o", str(target), "-silent"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode or not target.exists():
            message = done.stdout.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise ValueError(f"tune {tune.name}: the ABC parser wrote no notes {message}")
        score = symusic.Score(target)
    rows = [
        (n.time / score.tpq, n.duration / score.tpq, n.pitch, n.velocity) for track in score.tracks for n in track.notes
    ]
    if not rows:
        raise ValueError(f"tune {tune.name}: no notes")
    notes_N4 = np.asarray(rows, dtype=np.float64)
    return notes_N4[np.lexsort((notes_N4[:, 2], notes_N4[:, 0]))]


def _playable(tune: Tune) -> str:
    abc = re.sub(r"(?m)^Q:.*\n", "", tune.abc)

    def spelled(match: re.Match[str]) -> str:
        key = parse_key(match[1])
        if key is None or key.mode not in _ABC_MODES:
            return match[0]
        return f"K:{key.tonic}{_ABC_MODES[key.mode]}"

    abc = re.sub(r"(?m)^K:[ \t]*(.*?)[ \t]*$", spelled, abc)
    return re.sub(r"(?m)^(K:.*)$", r"\1\n%%MIDI gchordoff", abc, count=1)
