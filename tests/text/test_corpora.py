"""Corpora of the standard library and of Debian packages: cleaned as described, errors that say what to do."""

import gzip

import pytest

from byol_ext.text import corpora
from byol_ext.text.corpora import letters_and_spaces, stdlib27, stdlib_bpe, stdlib_documents
from byol_ext.text.debian_corpora import LARGE, PACKAGES, debian_documents
from byol_ext.text.documents import Document


@pytest.fixture
def library(tmp_path):
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "x.py").write_text('"""Not ours."""')
    (tmp_path / "a.py").write_text(
        '"""First."""\nclass A:\n    """A class."""\n    def f(self):\n        """Do it."""\n'
    )
    (tmp_path / "b.py").write_text('async def g():\n    """Do it."""\n    return "no docstring"\n')
    (tmp_path / "c.py").write_text("this is no python")
    return tmp_path


def test_docstrings_once_each_by_file(library):
    read = list(stdlib_documents(library))
    assert read[0] == Document("a.py", "First.\n\nA class.\n\nDo it.")
    assert [d.key for d in read[1:]] == sorted(d.key for d in read if d.key.startswith("topic/"))
    assert len(read) > 50
    with pytest.raises(FileNotFoundError, match="no Python sources"):
        list(stdlib_documents(library / "nowhere"))


def test_27_symbols_and_subwords(library, monkeypatch):
    documents = list(stdlib_documents(library))
    monkeypatch.setattr(corpora, "stdlib_documents", lambda: iter(documents))
    data = stdlib27()
    assert data.tokenizer.vocab_size == 27
    text = data.tokenizer.decode(data.validation.tokens_N[:5000].tolist())
    assert "  " not in text
    assert letters_and_spaces(text) == text.strip()
    share = data.validation.facts.characters / (data.validation.facts.characters + data.train.facts.characters)
    assert 0.01 < share < 0.4
    subwords = stdlib_bpe(vocab_size=400)
    assert subwords.tokenizer.vocab_size == 400
    assert subwords.train.facts.characters > 1.5 * subwords.train.facts.tokens
    assert documents[0].text in subwords.tokenizer.decode(subwords.train.tokens_N.tolist()) + subwords.tokenizer.decode(
        subwords.validation.tokens_N.tolist()
    )


@pytest.mark.slow
def test_the_library_of_this_interpreter_has_the_size_that_the_spec_saw():
    data = stdlib27()
    assert 1.2e6 < data.train.facts.characters < 3e6
    assert 0.05 < data.validation.facts.characters / data.train.facts.characters < 0.3


GCIDE = """00-database-short
   The dictionary

Abdication \\Ab`di*ca"tion\\, n. [L. abdicatio: cf. F.
   abdication.]
   The act of abdicating; the renunciation of a high office, as {Caesar}.
   [1913 Webster]

   Note: A second paragraph that is long enough to be kept here.

Pearl (p[~e]rl), n.
   A shelly concretion found in C[ae]sar's oysters and other molluscs.
   [PJC]
"""
FOLDOC = """actor

   1. <programming> In {object-oriented} programming, an {object} which exists as a process.

   (1994-11-08)
"""
WORDNET = """  1 This software and database is being provided to you | not this, which is the licence of the data
00001740 03 n 01 entity 0 003 ~ 0 n 0000 | that which is perceived to have its own distinct existence; "an example"
"""
HTML = """<html><p>Single Root <a href="x">I/O</a> Virtualization &lt;SR-IOV&gt; is
 a capability.</p><pre>code that is not read although it is long enough</pre><p>short</p></html>"""
POD = """=head1 A heading that is long enough to be taken for prose

If you write C<< $x->y >> or B<bold I<nested>>, S<see L<the manual|perlop>> for E<lt>this.X<index>

    code that is indented, and not prose at all
"""


@pytest.fixture
def root(tmp_path):
    files = {
        "usr/share/dictd/gcide.dict.dz": gzip.compress(GCIDE.encode()),
        "usr/share/dictd/foldoc.dict.dz": gzip.compress(FOLDOC.encode()),
        **{f"usr/share/wordnet/data.{part}": WORDNET.encode() for part in ("noun", "verb", "adj", "adv")},
        "usr/share/doc/linux-doc-6.1/html/PCI/pci.html": HTML.encode(),
        "usr/share/doc/linux-doc-6.1/html/translations/it/pci.html": HTML.replace("Single", "Singola").encode(),
        "usr/share/doc/python3.11/html/genindex.html": HTML.replace("Single", "Double").encode(),
        "usr/share/doc/python3.11/html/library/x.html": HTML.replace("Single", "Triple").encode(),
        "usr/share/perl/5.36.0/pod/perlop.pod": POD.encode(),
    }
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        (
            "gcide",
            [
                "Abdication n. The act of abdicating; the renunciation of a high office, as Caesar.\n\n"
                "Note: A second paragraph that is long enough to be kept here.",
                "Pearl n. A shelly concretion found in Caesar's oysters and other molluscs.",
            ],
        ),
        ("foldoc", ["1. In object-oriented programming, an object which exists as a process."]),
        ("wordnet", ['that which is perceived to have its own distinct existence; "an example"']),
        ("linux", ["Single Root I/O Virtualization <SR-IOV> is a capability."]),
        ("python", ["Triple Root I/O Virtualization <SR-IOV> is a capability."]),
        ("perl", ["If you write $x->y or bold nested, see the manual for <this."]),
    ],
)
def test_each_package_gives_its_prose(root, source, texts):
    assert [d.text for d in debian_documents([source], root=root)] == texts


def test_several_packages_and_what_is_missing(root, tmp_path):
    assert len(list(debian_documents(root=root))) == 5
    assert set(LARGE) < set(PACKAGES)
    with pytest.raises(FileNotFoundError, match=r"apt-get install dict-gcide.*dpkg-deb -x"):
        list(debian_documents(["gcide"], root=tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="unknown source 'brown'"):
        list(debian_documents(["brown"], root=root))
