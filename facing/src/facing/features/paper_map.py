"""Lead from the constructs of papers to the lines that implement them.

Code that implements a paper should say which line is which part of it. A YAML file
lists what the papers have:

    papers:
      first: {name: A Paper, url: "https://..."}
    constructs:
      running mean: {papers: [first], says: A mean over many steps.}

and a comment above the lines that implement a construct says so, by name:

    # **From the paper**: running mean.

On the page that name leads to a table of all constructs, each beside its lines. The
differences that a definition declares, in a note that begins with `!!! differs`,
stand there too. A name that the file does not list is reported, and so is a
construct that no line implements.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml
from markdown import Markdown

from facing.feature import BookFeature, Feature, Link
from facing.problem import Problem
from facing.read.scopes import Scopes
from facing.read.source import Line, Row, Source
from facing.read.yaml import compose_yaml, load_yaml
from facing.templating import render
from facing.text.code import highlight_python
from facing.text.markdown_math import MathExtension
from facing.text.notes import EXTENSIONS


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


_FROM = re.compile(
    r"^ {0,3}\*\*From the papers?\*\*:\s(?P<names>.+?)\.(?=\s|$)",
    re.DOTALL | re.MULTILINE,
)
_DIFFERS = re.compile(r"(?P<indent>\s*)!!!\s+differs\b")


class PaperMap(BookFeature):
    """All constructs that a file lists, and what the sources say of them."""

    def __init__(self, path: Path, sources: Iterable[Source]) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.constructs = {c.name: c for c in _read_constructs(path)}
        # The page with the table, as seen from where the sources' paths are.
        self.page: Path | None = None
        self.others: list[Difference] = []
        for source in sources:
            self._read_source(source)

    def _read_source(self, source: Source) -> None:
        scopes = Scopes(source)
        differences: list[Difference] = []
        for row, note in ((r, n) for r in source.rows for n in r.notes):
            for name, line in _construct_names(note):
                self._add_span(source, scopes, row, name, line)
            differences += _declared_differences(source, scopes, note)
        for difference in differences:
            self._add_difference(difference)

    def _add_span(
        self, source: Source, scopes: Scopes, row: Row, name: str, line: int
    ) -> None:
        construct = self.constructs.get(name)
        code = [n for n in row.code if n > line]
        if construct is None:
            known = ", ".join(self.constructs)
            wrong = f"{self.path.name} lists no construct {name!r}; {known}"
        elif not code:
            wrong = f"no code stands below, that would be {name!r}"
        else:
            span = Span(source, scopes.scope_at(code[0]), tuple(code))
            construct.spans.append(span)
            return
        self.problems.append(Problem(source.path, line, wrong))

    def _add_difference(self, difference: Difference) -> None:
        of = [
            construct
            for construct in self.constructs.values()
            if any(map(difference.belongs_to, construct.spans))
        ]
        for construct in of:
            construct.differences.append(difference)
        if not of:
            self.others.append(difference)

    def on_page(self, source: Source) -> "PaperMapFeature":
        """Return what one page shows of it."""
        return PaperMapFeature(self, source)

    def remaining_problems(self) -> Iterator[Problem]:
        """Yield names that are not listed, and constructs without lines."""
        yield from self.problems
        for construct in self.constructs.values():
            if not construct.spans:
                yield Problem(
                    self.path,
                    construct.line,
                    f"no line implements {construct.name!r}: write "
                    f"**From the paper**: {construct.name}. above one",
                )


def _construct_names(note: list[Line]) -> Iterator[tuple[str, int]]:
    """Yield the constructs that a note names, with their lines."""
    text = "\n".join(line.text for line in note)
    for match in _FROM.finditer(text):
        line = note[text.count("\n", 0, match.start())].number
        for name in match["names"].split(","):
            yield " ".join(name.split()), line


def _declared_differences(
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
            scopes.scope_at(line.number),
            line.number,
            dedent("\n".join(text)).strip(),
        )


def _read_constructs(path: Path) -> Iterator[Construct]:
    top = compose_yaml(path)
    data = load_yaml(path) or {}
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


_NAMED = re.compile(r"(<strong>From the papers?</strong>:\s)(.+?)(\.(?=\s|<))", re.S)


class PaperMapFeature(Feature):
    """Leads from a construct's name to the table."""

    def __init__(self, paper_map: PaperMap, source: Source) -> None:
        self.paper_map, self.source = paper_map, source

    def note(self, body: str, link: Link) -> str:
        """Return a note with its constructs linked."""
        page = self.paper_map.page
        if page is None:
            return body
        place = Path(os.path.relpath(page, self.source.path.parent)).as_posix()

        def link_name(name: str) -> str:
            construct = self.paper_map.constructs.get(" ".join(name.split()))
            if not construct:
                return name
            address = link(f"{place}#{construct.slug}", 1)
            return render("link.html", address=address, text=name.strip())

        return _NAMED.sub(
            lambda m: m[1] + ", ".join(map(link_name, m[2].split(","))) + m[3],
            body,
        )


# Gives the address of a file's line.
Address = Callable[[Path, int], str]


@dataclass(frozen=True)
class Section:
    """A part of the table: its heading, and HTML for any page."""

    title: str
    slug: str
    body: str


def paper_map_sections(paper_map: PaperMap, address: Address) -> Iterator[Section]:
    """Yield the constructs, each beside its lines, then all other differences."""
    table = _Table(address)
    for each in paper_map.constructs.values():
        yield Section(each.title, each.slug, table.construct(each))
    if paper_map.others:
        body = table.others(paper_map.others)
        yield Section("Other differences", "other-differences", body)


class _Table:
    """Renders the sections of the table."""

    def __init__(self, address: Address) -> None:
        self.address = address
        math = MathExtension(report=lambda line, message: None)
        self._md = Markdown(extensions=[*EXTENSIONS, math])

    def construct(self, construct: Construct) -> str:
        return render(
            "paper_map/construct.html",
            construct=construct,
            differences=map(self._difference, construct.differences),
            spans=map(self._span, construct.spans),
        )

    def others(self, differences: Iterable[Difference]) -> str:
        return render(
            "paper_map/others.html", differences=map(self._difference, differences)
        )

    def _difference(self, difference: Difference) -> dict[str, str]:
        self._md.reset()
        return {
            "where": difference.scope or difference.source.path.stem,
            "address": self.address(difference.source.path, difference.line),
            "text": self._md.convert(difference.text),
        }

    def _span(self, span: Span) -> dict[str, Any]:
        code = highlight_python(span.source.text)
        texts = [span.source.lines[n - 1] for n in span.lines]
        margin = min(len(t) - len(t.lstrip()) for t in texts if t.strip())
        path = span.source.path
        return {
            "name": f"{path.name}, {span.scope}" if span.scope else path.name,
            "address": self.address(path, span.lines[0]),
            "lines": [
                {
                    "number": n,
                    "address": self.address(path, n),
                    "code": code[n - 1][margin:],
                }
                for n in span.lines
            ],
        }
