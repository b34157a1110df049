import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from byol_ext.training.report import LEVELS, Look, Report, Span


class Balanced(HTMLParser):
    """Fails on tags that do not close in order; collects everything that could load something from elsewhere."""

    VOID = frozenset({"meta", "img", "br", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in {"src", "href"} and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "figure.png"
    Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8)).save(path)
    return path


def parse(report: Report) -> Balanced:
    parser = Balanced()
    parser.feed(report.html())
    assert parser.open == []
    return parser


def test_the_file_stands_alone(png, tmp_path):
    report = Report("Title", subtitle="sub").text("intro").section("One").figure(png, caption="A figure")
    report.section("Two").table([{"a": 1}], caption="c").code("byol-ext doctor")
    path = report.save(tmp_path / "out" / "report.html")
    text = path.read_text(encoding="utf-8")
    assert text == report.html()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    parser = parse(report)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in parser.sources)
    assert not parser.tags & {"script", "link", "iframe"}
    assert "http" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    embedded = re.search(r"base64,([^\"]+)", text)
    assert embedded is not None
    assert base64.b64decode(embedded[1]) == png.read_bytes()
    assert 'width="30" height="20"' in text  # half the pixels
    for anchor in re.findall(r'href="#(\w+)"', text):
        assert f'id="{anchor}"' in text


def test_everything_is_escaped(png):
    evil = '<script>alert("x")</script>&'
    report = Report(evil, subtitle=evil).text(evil).code(evil).section(evil).figure(png, caption=evil)
    report.section("b").table([{evil: evil}], caption=evil).figures([(png, evil)])
    report.spans([(evil, [Span(evil, look, hint=evil) for look in Look])], caption=evil, legend=[Span(evil)])
    assert "<script>" not in report.html()
    assert "&lt;script&gt;" in report.html()
    parse(report)


def test_numbers_are_right_aligned_and_readable():
    rows = [
        {"name": "a", "value": 0.123456, "count": 1234567, "text": "12.5 [10.1, 14.9]", "mixed": 1, "ok": True},
        {"name": "b", "value": -12345.6, "count": None, "text": "3.0 ± 0.2", "mixed": "x", "ok": False},
        {"name": "c", "value": 3.2e-7, "text": "+1", "mixed": float("nan"), "ok": None},
    ]
    page = Report("t").table(rows, caption="c").html()
    for right in ("0.1235", "1\u2009234\u2009567", "\u221212\u2009346".replace("\u2212", "-"), "3.20e-07", "–"):
        assert f'<td class="number">{right}</td>' in page
    assert '<td class="number">12.5 [10.1, 14.9]</td>' in page
    assert '<th class="number">value</th>' in page
    for left in ("<td>a</td>", "<td>x</td>", "<td>nan</td>", "<td>yes</td>", "<td>no</td>", "<th>name</th>"):
        assert left in page


def test_numpy_numbers_count_as_numbers():
    page = Report("t").table([{"v": np.float32(0.5), "n": np.int64(3)}], caption="").html()
    assert '<td class="number">0.5</td>' in page
    assert '<td class="number">3</td>' in page


def test_columns_choose_and_order():
    page = Report("t").table([{"a": 1, "b": 2, "c": 3}], caption="", columns=["c", "a"]).html()
    assert re.findall(r"<th[^>]*>(\w)</th>", page) == ["c", "a"]
    empty = Report("t").table([], caption="nothing yet", columns=["a"])
    parse(empty)
    with pytest.raises(ValueError, match="no row has the column 'z'"):
        Report("t").table([{"a": 1}], caption="", columns=["z"])
    with pytest.raises(ValueError, match="needs rows"):
        Report("t").table([], caption="")


def test_paragraphs():
    page = Report("t").text("one\nstill one\n\ntwo").html()
    assert page.count("<p>") == 2


def test_figures_must_be_png(tmp_path):
    with pytest.raises(FileNotFoundError):
        Report("t").figure(tmp_path / "none.png", caption="")
    fake = tmp_path / "fake.png"
    fake.write_bytes(b"GIF89a and more bytes than the header")
    with pytest.raises(ValueError, match="not a PNG"):
        Report("t").figure(fake, caption="")


def test_same_names_get_their_own_anchor():
    page = Report("t").section("a").section("a").html()
    assert len(set(re.findall(r'<h2 id="(\w+)"', page))) == 2


def test_spans_keep_their_text_and_say_their_look():
    tokens = [Span("a  b\n", LEVELS[4], hint="p 0.1"), Span("c"), Span(" d", Look.MARKED), Span("e", Look.GIVEN)]
    report = Report("t").spans(
        [("step 1", tokens)], caption="One line.", legend=[Span("sure", LEVELS[0])], aligned=True
    )
    parse(report)
    page = report.html()
    line = re.search(r'<div class="tokens">(.*?)</div>', page, re.DOTALL)
    assert line is not None
    assert re.sub(r"<[^>]*>", "", line[1]) == "a  b\nc de"
    assert '<span class="level-4" title="p 0.1">a  b\n</span>c<mark> d</mark><span class="given">e</span>' in page
    assert '<div class="legend"><span class="level-0">sure</span></div>' in page
    assert '<div class="lines aligned">' in page
    assert '<div class="legend">' not in Report("t").spans([("", tokens)], caption="").html()


def test_every_level_can_be_told_apart_without_colour():
    page = Report("t").html()
    seen = set()
    for look in LEVELS:
        rule = re.search(rf"\.{look.value} {{ ([^}}]*) }}", page)
        assert rule is not None
        seen.add(re.sub(r"background: [^;]*;", "", rule[1]).strip())
    assert len(seen) == len(LEVELS)


def test_figures_stand_side_by_side(png):
    report = Report("t").figures([(png, "left"), (png, "right")])
    parse(report)
    row = re.search(r'<div class="row">(.*)</div>', report.html())
    assert row is not None
    assert re.findall(r"<figcaption>(\w+)<", row[1]) == ["left", "right"]
