"""One HTML file that holds a whole report: text, tables, figures, coloured tokens; no scripts, no other files.

It is made for light and dark, wide and narrow screens, and paper.

>>> report = Report("Run 7").section("Retrieval").table([{"metric": "R@1", "value": 12.5}], caption="N = 80 pairs")
>>> "12.5" in report.html()
True
"""

import base64
import html
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

_PNG = b"\x89PNG\r\n\x1a\n"
_CSS = """
:root { color-scheme: light dark; --ink: #1f2933; --muted: #5b6772; --line: #d9dee3; --page: #ffffff; --soft: #f5f7f9;
  --link: #0067a3; --mark: #ffe98a; --l1: #fdf1de; --l2: #fbdfb5; --l3: #f6c681; --l4: #f0ab54; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --muted: #9aa7b3; --line: #38424c; --page: #14191e;
  --soft: #1c232a; --link: #6cbcf0;
  --mark: #5c4f10; --l1: #2e2618; --l2: #47371c; --l3: #63491d; --l4: #825a1c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 5rem; max-width: 60rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .8rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p { margin: .6rem 0; max-width: 44rem; overflow-wrap: anywhere; }
.subtitle, caption, figcaption { color: var(--muted); font-size: .92rem; }
nav { margin: 1.4rem 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .95rem; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .5rem; position: sticky; left: 0;
  max-width: min(44rem, calc(100vw - 2rem)); }
th, td { padding: .34rem .75rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: .3rem; }
thead th { font-weight: 600; border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody tr:hover { background: var(--soft); }
.number { text-align: right; white-space: nowrap; }
figure { margin: 1.6rem 0; } figcaption { margin-top: .45rem; max-width: 44rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem;
  overflow-x: auto; font: .86rem/1.5 ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; }
.row { display: flex; flex-wrap: wrap; gap: 0 1.6rem; } .row figure { max-width: 100%; }
.row figcaption { width: 0; min-width: 100%; }
.lines { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .5rem 1rem; }
.aligned { gap: .12rem 1rem; }
.tokens, .legend, .label { font: .9rem/1.55 ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; }
.label { color: var(--muted); font-size: .82rem; line-height: 1.7; white-space: pre; }
.tokens { white-space: break-spaces; overflow-wrap: anywhere; } .aligned .tokens { line-break: anywhere; }
.tokens span, .tokens mark { unicode-bidi: isolate; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin-bottom: .8rem; font-size: .82rem; }
.level-0 { font-weight: 700; } .level-1 { background: var(--l1); }
.level-2 { background: var(--l2); text-decoration: underline dotted 1px; text-underline-offset: .2em; }
.level-3 { background: var(--l3); text-decoration: underline dashed 1px; text-underline-offset: .2em; }
.level-4 { background: var(--l4); text-decoration: underline solid 1px; text-underline-offset: .2em; }
.given { color: var(--link); border-bottom: 2px solid var(--link); }
mark { background: var(--mark); color: inherit; text-decoration: underline; text-underline-offset: .2em; }
@media (max-width: 42rem) { body { padding: 1.4rem 1rem 3rem; } th, td { padding: .3rem .55rem; }
  .lines, .aligned { grid-template-columns: minmax(0, 1fr); gap: 0; } .lines .tokens { margin-bottom: .55rem; }
  .label { white-space: normal; } th:not(.number), td:not(.number) { min-width: 6.5rem; } }
@media print { .tokens * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


class Look(Enum):
    """How a span of text is shown; levels can be told apart without colour, by weight and underline.

    ``LEVEL_0`` (bold) to ``LEVEL_4`` (strongest background, solid underline) shade a number, ``MARKED`` is a
    highlighter, ``GIVEN`` sets apart what was there before.
    """

    PLAIN = ""
    LEVEL_0 = "level-0"
    LEVEL_1 = "level-1"
    LEVEL_2 = "level-2"
    LEVEL_3 = "level-3"
    LEVEL_4 = "level-4"
    MARKED = "marked"
    GIVEN = "given"


LEVELS = (Look.LEVEL_0, Look.LEVEL_1, Look.LEVEL_2, Look.LEVEL_3, Look.LEVEL_4)


@dataclass(frozen=True)
class Span:
    """A piece of text with a look.

    Attributes:
        text: Shown as it is, spaces and line ends included.
        look: How.
        hint: Shown when the pointer rests on it.
    """

    text: str
    look: Look = Look.PLAIN
    hint: str = ""


@dataclass
class _Section:
    name: str
    parts: list[str] = field(default_factory=list)


class Report:
    """Collects sections, then writes one self-contained HTML file. Methods return the report, so calls can be chained.

    All text is escaped; nothing is loaded from elsewhere, so the file can be mailed and opened offline.

    Args:
        title: heading and browser title.
        subtitle: one line below it, such as date, commit, device.
    """

    def __init__(self, title: str, *, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self._sections: list[_Section] = [_Section("")]

    def section(self, name: str) -> Self:
        """Start a section; what follows belongs to it. Sections are linked from the top."""
        self._sections.append(_Section(name))
        return self

    def text(self, text: str) -> Self:
        """Add paragraphs; an empty line separates them. Markup is shown as written, not interpreted."""
        for paragraph in re.split(r"\n\s*\n", text.strip()):
            self._add(f"<p>{html.escape(paragraph)}</p>")
        return self

    def code(self, text: str) -> Self:
        """Add a command or other text in which spaces and line ends matter."""
        return self._add(f"<pre>{html.escape(text.strip(chr(10)))}</pre>")

    def table(self, rows: Sequence[Mapping[str, Any]], *, caption: str, columns: Sequence[str] | None = None) -> Self:
        """Add a table; a column whose values are all numbers is right-aligned.

        Args:
            rows: one mapping a row; a missing or None value prints as an en dash.
            caption: what the numbers are, on how many items.
            columns: names in order. Default: all keys in order of first appearance.

        Raises:
            ValueError: no rows and no columns, or a column that no row has.
        """
        names = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
        if not names:
            raise ValueError("a table needs rows, or columns to show that there are none")
        for name in names:
            if rows and not any(name in row for row in rows):
                raise ValueError(
                    f"no row has the column {name!r}; the rows have {sorted({k for r in rows for k in r})}"
                )
        numeric = {name: _is_numeric([row.get(name) for row in rows]) for name in names}
        head = "".join(_cell("th", html.escape(str(name)), numeric[name]) for name in names)
        body = "".join(
            "<tr>" + "".join(_cell("td", html.escape(_format(row.get(n))), numeric[n]) for n in names) + "</tr>\n"
            for row in rows
        )
        return self._add(
            f'<div class="scroll"><table><caption>{html.escape(caption)}</caption>'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
        )

    def figure(self, path: str | Path, *, caption: str) -> Self:
        """Embed a PNG at half its pixels, so a 200 dpi figure is sharp on a dense screen.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not a PNG.
        """
        return self._add(f"<figure>{_figure(path, caption)}</figure>")

    def figures(self, figures: Sequence[tuple[str | Path, str]]) -> Self:
        """Embed PNGs side by side as far as the width allows, each a path with its caption; see :meth:`figure`."""
        inner = "".join(f"<figure>{_figure(path, caption)}</figure>" for path, caption in figures)
        return self._add(f'<div class="row">{inner}</div>')

    def spans(
        self,
        lines: Sequence[tuple[str, Sequence[Span]]],
        *,
        caption: str,
        legend: Sequence[Span] = (),
        aligned: bool = False,
    ) -> Self:
        """Add lines of monospaced text in which spans have looks.

        Args:
            lines: A label and the spans of each line; long lines wrap.
            caption: What is shown, and of how many.
            legend: A span for each look, whose text says what it means.
            aligned: Wrap after any character, so that equal positions stand below each other; else between words.
        """
        head = f'<div class="legend">{"".join(map(_span, legend))}</div>' if legend else ""
        body = "\n".join(
            f'<div class="label">{html.escape(label)}</div><div class="tokens">{"".join(map(_span, spans))}</div>'
            for label, spans in lines
        )
        return self._add(
            f'<figure>{head}<div class="{"lines aligned" if aligned else "lines"}">\n{body}\n</div>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def html(self) -> str:
        """The whole document."""
        named = [(f"s{i}", section) for i, section in enumerate(self._sections) if section.name]
        links = "".join(f'<a href="#{anchor}">{html.escape(section.name)}</a>' for anchor, section in named)
        anchors = {id(section): anchor for anchor, section in named}
        body = []
        for section in self._sections:
            if section.name:
                body.append(f'<h2 id="{anchors[id(section)]}">{html.escape(section.name)}</h2>')
            body += section.parts
        subtitle = f'<div class="subtitle">{html.escape(self.subtitle)}</div>\n' if self.subtitle else ""
        navigation = f"<nav>{links}</nav>\n" if len(named) > 1 else ""
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(self.title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
            f"<h1>{html.escape(self.title)}</h1>\n{subtitle}{navigation}" + "\n".join(body) + "\n</body>\n</html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the file under a temporary name in the same folder, then rename it."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self.html())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        return path

    def _add(self, part: str) -> Self:
        self._sections[-1].parts.append(part)
        return self


def _figure(path: str | Path, caption: str) -> str:
    data = Path(path).read_bytes()
    if not data.startswith(_PNG) or len(data) < 24:
        raise ValueError(f"{path} is not a PNG file")
    width, height = (int.from_bytes(data[at : at + 4], "big") // 2 for at in (16, 20))
    text = html.escape(caption)
    return (
        f'<img alt="{text}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode("ascii")}">'
        f"<figcaption>{text}</figcaption>"
    )


def _span(span: Span) -> str:
    text = html.escape(span.text)
    hint = f' title="{html.escape(span.hint)}"' if span.hint else ""
    if span.look is Look.MARKED:
        return f"<mark{hint}>{text}</mark>"
    look = f' class="{span.look.value}"' if span.look is not Look.PLAIN else ""
    return f"<span{look}{hint}>{text}</span>" if look or hint else text


def _cell(tag: str, content: str, numeric: bool) -> str:
    return f'<{tag} class="number">{content}</{tag}>' if numeric else f"<{tag}>{content}</{tag}>"


def _is_numeric(values: Sequence[Any]) -> bool:
    """All present values are numbers, or texts that start like one (`12.5 [10.1, 14.9]`, `0.3 ± 0.1`)."""
    present = [value for value in values if value is not None]
    return bool(present) and all(
        (isinstance(value, Real) and not isinstance(value, bool))
        or (isinstance(value, str) and re.fullmatch(r"[+\-−]?\d[\d.,\s%±×\[\]+\-−e–]*", value) is not None)
        for value in present
    )


def _format(value: Any) -> str:
    """Numbers to four significant digits, whole ones in full with thousands separated by a thin space."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}".replace(",", "\u2009")
    if isinstance(value, Real):
        number = float(value)
        if not math.isfinite(number):
            return str(number)
        if abs(number) >= 1000:
            return f"{number:,.0f}".replace(",", "\u2009") if abs(number) < 1e9 else f"{number:.3e}"
        return f"{number:.4g}".replace("-", "−") if number == 0 or abs(number) >= 1e-3 else f"{number:.2e}"
    return str(value)
