"""English prose from Debian packages, where no data set can be downloaded: dictionaries and technical manuals.

Source: ``specs/data.md``, "Text corpora". The texts keep their packages' licences (GPL, PSF, Artistic, WordNet, GFDL);
nothing of them is in this repository.
"""

from __future__ import annotations

import gzip
import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from byol_ext.text.documents import Document, content_key, unique_paragraphs

Reader = Callable[[Path], Iterator[Document]]

_BREAK = "\n\n"
_TAG = re.compile(r"<[^>]*>")
_PARAGRAPH = re.compile(r"<p\b[^>]*>(.*?)</p>", re.DOTALL)
_NOT_PROSE = re.compile(r"^(genindex|search|py-modindex|copyright|bugs)\b|^_|/_")
_LETTER = re.compile(r"\[(?:([A-Za-z])(?:acute|grave|circ|cir|um|cced|tilde|mac|breve)|(ae|oe|AE|OE))\]")
_PRONUNCIATION = re.compile(r"\\[^\\]*\\,?|\([^()]*\[[^()]*\),?")
_BRACKETS = re.compile(r"\s*\[[^\[\]]*\]")
_POD_CODE = re.compile(r"[A-Z]<<+\s(.*?)\s>>+|([A-Z])<([^<>]*)>", re.DOTALL)
_POD_ESCAPES = {"lt": "<", "gt": ">", "verbar": "|", "sol": "/"}


def debian_documents(sources: Sequence[str] = (), *, root: str | Path = "/") -> Iterator[Document]:
    """Documents of several packages, each paragraph of it unique, ASCII and at least 40 characters long.

    Args:
        sources: Names of :data:`PACKAGES`; default: :data:`LARGE`, about 48 MB.
        root: Folder in which the packages were unpacked; ``/`` where they are installed.

    Raises:
        FileNotFoundError: If a package is not there; the message says how to get it.
        ValueError: For an unknown name.
    """
    chosen = tuple(sources) or LARGE
    for name in chosen:
        if name not in _READERS:
            raise ValueError(f"unknown source {name!r}; the sources are {sorted(_READERS)}")
    return unique_paragraphs(document for name in chosen for document in _READERS[name](Path(root)))


def read_gcide(root: Path) -> Iterator[Document]:
    """Entries of the GNU Collaborative International Dictionary of English (23.5 MB)."""
    path = _find("gcide", root, "usr/share/dictd/gcide.dict.dz")
    return _dictionary(path, _clean_gcide)


def read_foldoc(root: Path) -> Iterator[Document]:
    """Entries of the Free On-line Dictionary of Computing (4 MB)."""
    path = _find("foldoc", root, "usr/share/dictd/foldoc.dict.dz")
    return _dictionary(path, _clean_foldoc)


def read_wordnet(root: Path) -> Iterator[Document]:
    """Glosses of WordNet with their example phrases, a gloss a document (8 MB)."""
    for part in ("noun", "verb", "adj", "adv"):
        path = _find("wordnet", root, f"usr/share/wordnet/data.{part}")
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                _, bar, gloss = line.partition("| ")
                if bar and not line.startswith("  "):
                    yield Document(content_key(gloss), gloss.strip())


def read_linux(root: Path) -> Iterator[Document]:
    """Pages of the Linux kernel's documentation, without translations (14 MB)."""
    return _pages(_find("linux", root, "usr/share/doc/linux-doc-*/html"), "linux")


def read_python(root: Path) -> Iterator[Document]:
    """Pages of Python's documentation (5 MB)."""
    return _pages(_find("python", root, "usr/share/doc/python3*/html"), "python")


def read_perl(root: Path) -> Iterator[Document]:
    """Manual pages of Perl (5 MB)."""
    folder = _find("perl", root, "usr/share/perl/5.*/pod/perlop.pod").parent
    for path in sorted(folder.glob("*.pod")):
        yield Document(f"perl/{path.name}", _clean_pod(path.read_text("utf-8", errors="replace")))


PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "gcide": "dict-gcide",
        "foldoc": "dict-foldoc",
        "wordnet": "wordnet-base",
        "linux": "linux-doc-6.1",
        "python": "python3.11-doc",
        "perl": "perl-doc",
    }
)
"""Debian package of each source."""

LARGE = ("gcide", "linux", "python", "perl")
"""The larger training set of ``specs/data.md``: 47.5 MB of text."""

_READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "gcide": read_gcide,
        "foldoc": read_foldoc,
        "wordnet": read_wordnet,
        "linux": read_linux,
        "python": read_python,
        "perl": read_perl,
    }
)


def _find(name: str, root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if not found:
        package = PACKAGES[name]
        raise FileNotFoundError(
            f"{root / pattern} is not there. On Debian: apt-get install {package}. Without root, or where dpkg leaves "
            f"out /usr/share/doc: apt-get download {package} && dpkg-deb -x {package}_*.deb DIR, then root=DIR"
        )
    return found[-1]


def _dictionary(path: Path, clean: Callable[[str], str]) -> Iterator[Document]:
    """Entries of a dictd file: each begins with a line that is not indented; ``00-…`` entries are about the file."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
    for entry in re.split(r"\n(?=\S)", text):
        if not entry.startswith("00-"):
            cleaned = clean(entry)
            yield Document(content_key(cleaned), cleaned)


def _clean_gcide(entry: str) -> str:
    """Without pronunciation, etymology and source marks (all in brackets), and the braces of references."""
    text = _PRONUNCIATION.sub("", _LETTER.sub(lambda match: match[1] or match[2], entry))
    while (plain := _BRACKETS.sub("", text)) != text:
        text = plain
    return re.sub(r"[{}]", "", text)


def _clean_foldoc(entry: str) -> str:
    """The definition without headword, categories, addresses and date."""
    body = _BREAK.join(entry.split(_BREAK)[1:])
    body = re.sub(r"\(\d{4}-\d\d-\d\d\)|\{?\(https?://[^)]*\)\}?", "", _TAG.sub("", body))
    return re.sub(r"[{}]", "", body)


def _pages(folder: Path, name: str) -> Iterator[Document]:
    """Paragraphs of HTML pages."""
    for path in sorted(folder.rglob("*.html")):
        relative = path.relative_to(folder).as_posix()
        if relative.startswith("translations/") or _NOT_PROSE.search(relative):
            continue
        paragraphs = _PARAGRAPH.findall(path.read_text("utf-8", errors="replace"))
        text = _BREAK.join(" ".join(html.unescape(_TAG.sub("", inner)).split()) for inner in paragraphs)
        yield Document(f"{name}/{relative}", text)


def _clean_pod(text: str) -> str:
    """Paragraphs of prose: neither commands nor code, with formatting codes replaced by what they enclose."""
    prose = [part for part in text.split(_BREAK) if part and not part[0].isspace() and not part.startswith("=")]
    joined = _BREAK.join(prose)
    while (plain := _POD_CODE.sub(_pod_code, joined)) != joined:
        joined = plain
    return joined.replace("\ue000", "<").replace("\ue001", ">")


def _pod_code(match: re.Match[str]) -> str:
    if match[1] is not None:
        # Private-use stand-ins keep angle brackets of code from being read as another code.
        return match[1].replace("<", "\ue000").replace(">", "\ue001")
    letter, inside = match[2], match[3]
    if letter == "E":
        return _POD_ESCAPES.get(inside, "").replace("<", "\ue000").replace(">", "\ue001")
    if letter in "XZ":
        return ""
    return inside.split("|")[0] if letter == "L" else inside
