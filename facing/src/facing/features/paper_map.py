r"""
# From paper to line

Code that implements a paper should say which line is which part of it. A
YAML file lists what the papers have:

    papers:
      first: {name: A Paper, url: "https://..."}
    constructs:
      running mean: {papers: [first], says: A mean over many steps.}

and a comment above the lines that implement a construct says so, by name:

    # **From the paper**: running mean.

On the page that name leads to a table of all constructs, each beside its
lines. The differences that a definition declares, in a note that begins with
`!!! differs`, stand there too. A name that the file does not list is
reported, and so is a construct that no line implements.
"""

import html
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml
from markdown import Markdown

from facing.page import Feature, Link
from facing.read.scopes import Scopes
from facing.read.source import (
    Line,
    Problem,
    Row,
    Source,
    decode,
    reading_yaml,
)
from facing.text.code import python_lines
from facing.text.markdown_math import MathExtension
from facing.text.notes import EXTENSIONS

# Where the table goes on a page of prose.
PLACE = "<!-- constructs -->"


@dataclass(frozen=True)
class Span:
    """Lines of a file, and the definition that they stand in."""

    source: Source
    scope: str
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """A declared difference: where it stands, and its Markdown."""

    source: Source
    scope: str
    line: int
    text: str

    def belongs_to(self, span: Span) -> bool:
        """Tell whether some lines stand in this difference's definition."""
        return bool(self.scope) and (
            self.source is span.source and f"{span.scope}.".startswith(f"{self.scope}.")
        )


@dataclass
class Construct:
    """A construct of some papers, and the lines that implement it."""

    name: str
    line: int
    says: str
    papers: list[dict[str, str]]
    spans: list[Span] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The name, as a heading has it."""
        return self.name[0].upper() + self.name[1:]

    @property
    def slug(self) -> str:
        """The heading's id, as Markdown makes it."""
        return re.sub(r"[^\w-]+", "-", self.name.lower()).strip("-")


# ## Gathering

_FROM = re.compile(
    r"^ {0,3}\*\*From the papers?\*\*:\s(?P<names>.+?)\.(?=\s|$)",
    re.DOTALL | re.MULTILINE,
)
_DIFFERS = re.compile(r"(?P<indent>\s*)!!!\s+differs\b")


class Constructs:
    """All that is declared in a file, and what the sources say of it."""

    def __init__(self, path: Path, sources: Iterable[Source]) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.found = {c.name: c for c in _declared(path)}
        # The page with the table, as seen from where the sources' paths are.
        self.page: Path | None = None
        self.others: list[Difference] = []
        for source in sources:
            self._gather(source)

    def _gather(self, source: Source) -> None:
        scopes = Scopes(source)
        differences: list[Difference] = []
        for row, note in ((r, n) for r in source.rows for n in r.notes):
            for name, line in _named(note):
                self._place(source, scopes, row, name, line)
            differences += _differences(source, scopes, note)
        for difference in differences:
            self._assign(difference)

    def _place(
        self, source: Source, scopes: Scopes, row: Row, name: str, line: int
    ) -> None:
        construct = self.found.get(name)
        code = [n for n in row.code if n > line]
        if construct is None:
            known = ", ".join(self.found)
            wrong = f"{self.path.name} lists no construct {name!r}; {known}"
        elif not code:
            wrong = f"no code stands below, that would be {name!r}"
        else:
            span = Span(source, scopes.at(code[0]), tuple(code))
            construct.spans.append(span)
            return
        self.problems.append(Problem(source.path, line, wrong))

    def _assign(self, difference: Difference) -> None:
        of = [
            construct
            for construct in self.found.values()
            if any(map(difference.belongs_to, construct.spans))
        ]
        for construct in of:
            construct.differences.append(difference)
        if not of:
            self.others.append(difference)

    def on(self, source: Source) -> "OnPage":
        """Return what one page shows of it."""
        return OnPage(self, source)

    def left_over(self) -> Iterator[Problem]:
        """Yield what is wrong: names, and constructs without lines."""
        yield from self.problems
        for construct in self.found.values():
            if not construct.spans:
                yield Problem(
                    self.path,
                    construct.line,
                    f"no line implements {construct.name!r}: write "
                    f"**From the paper**: {construct.name}. above one",
                )


def _named(note: list[Line]) -> Iterator[tuple[str, int]]:
    """Yield the constructs that a note names, with their lines."""
    text = "\n".join(line.text for line in note)
    for match in _FROM.finditer(text):
        line = note[text.count("\n", 0, match.start())].number
        for name in match["names"].split(","):
            yield " ".join(name.split()), line


def _differences(
    source: Source, scopes: Scopes, note: list[Line]
) -> Iterator[Difference]:
    """Yield the differences that a note declares."""
    for i, line in enumerate(note):
        start = _DIFFERS.match(line.text)
        if not start:
            continue
        inside = start["indent"] + "    "
        text = []
        for after in note[i + 1 :]:
            if after.text and not after.text.startswith(inside):
                break
            text.append(after.text)
        yield Difference(
            source,
            scopes.at(line.number),
            line.number,
            dedent("\n".join(text)).strip(),
        )


# ## The list


def _declared(path: Path) -> Iterator[Construct]:
    with reading_yaml(path):
        top = yaml.compose(decode(path), yaml.SafeLoader)
        data: Any = yaml.safe_load(decode(path)) or {}
    try:
        papers: dict[str, dict[str, str]] = data["papers"]
        lines = _lines_of_keys(top, "constructs")
        for name, value in data["constructs"].items():
            yield Construct(
                " ".join(name.split()),
                lines[name],
                " ".join(value["says"].split()),
                [{**papers[key], "key": key} for key in value["papers"]],
            )
    except (AttributeError, KeyError, TypeError) as error:
        raise Problem(
            path, 1, f"expected papers and constructs as described: {error!r}"
        ) from None


def _lines_of_keys(top: yaml.Node | None, name: str) -> dict[str, int]:
    assert top, "the caller has found the key in it"
    return {
        key.value: key.start_mark.line + 1
        for outer, inner in top.value
        if outer.value == name
        for key, _ in inner.value
    }


# ## On pages

_SHOWN = re.compile(r"(<strong>From the papers?</strong>:\s)(.+?)(\.(?=\s|<))", re.S)


class OnPage(Feature):
    """Leads from a construct's name to the table."""

    def __init__(self, constructs: Constructs, source: Source) -> None:
        self.constructs, self.source = constructs, source

    def note(self, body: str, link: Link) -> str:
        """Return a note with its constructs linked."""
        page = self.constructs.page
        if page is None:
            return body
        folder = self.source.path.parent
        place = Path(os.path.relpath(page, folder)).as_posix()

        def linked(name: str) -> str:
            found = self.constructs.found.get(" ".join(name.split()))
            if not found:
                return name
            target = html.escape(link(f"{place}#{found.slug}", 1))
            return f'<a href="{target}">{name.strip()}</a>'

        return _SHOWN.sub(
            lambda m: m[1] + ", ".join(map(linked, m[2].split(","))) + m[3],
            body,
        )


# Gives the address of a file's line.
Address = Callable[[Path, int], str]


class Table:
    """The constructs beside their lines, as HTML for any page."""

    def __init__(self, constructs: Constructs, address: Address) -> None:
        self.constructs, self.address = constructs, address
        math = MathExtension(report=lambda line, message: None)
        self._md = Markdown(extensions=[*EXTENSIONS, math])

    def sections(self) -> Iterator[tuple[str, str, str]]:
        """Yield title, id and HTML of each section."""
        for each in self.constructs.found.values():
            yield each.title, each.slug, _lit(self._construct(each))
        others = "".join(map(self._difference, self.constructs.others))
        if others:
            note = f'<div class="note">{others}</div>'
            row = f'<section class="row">{note}</section>'
            yield "Other differences", "other-differences", _lit(row)

    def _construct(self, construct: Construct) -> str:
        papers = " and ".join(
            f'<a href="{html.escape(p["url"])}">{html.escape(p["name"])}</a>'
            for p in construct.papers
        )
        note = f"<p>{html.escape(construct.says)} <em>From:</em> {papers}.</p>"
        note += "".join(map(self._difference, construct.differences))
        code = "".join(map(self._span, construct.spans))
        return (
            f'<section class="row"><div class="note">{note}</div>'
            f'<div class="code">{code}</div></section>'
        )

    def _difference(self, difference: Difference) -> str:
        self._md.reset()
        where = difference.scope or difference.source.path.stem
        link = self.address(difference.source.path, difference.line)
        return (
            '<div class="admonition differs"><p class="admonition-title">'
            f'Differs, says <a href="{html.escape(link)}">'
            f"<code>{html.escape(where)}</code></a></p>"
            f"{self._md.convert(difference.text)}</div>"
        )

    def _span(self, span: Span) -> str:
        coloured = python_lines(span.source.text)
        texts = [span.source.lines[n - 1] for n in span.lines]
        margin = min(len(t) - len(t.lstrip()) for t in texts if t.strip())
        path = span.source.path
        lines = "".join(
            f'<span class="l"><a href="{html.escape(self.address(path, n))}" '
            f'aria-label="{n}"></a>{coloured[n - 1][margin:]}</span>\n'
            for n in span.lines
        )
        name = f"{path.name}, {span.scope}" if span.scope else path.name
        link = html.escape(self.address(path, span.lines[0]))
        return (
            f'<p class="from"><a href="{link}">{html.escape(name)}</a></p>'
            f"<pre><code>{lines}</code></pre>"
        )


def _lit(body: str) -> str:
    return f'<div class="lit">{body}</div>'
