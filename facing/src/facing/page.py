r"""
# From rows to a page

Here notes and code come together. The result knows nothing of where it will
be shown: it is HTML, with its title, its headings and its ids.
"""

import html
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facing.feature import Feature, Link
from facing.folds import fold_lines, fold_reference, foldable_lines
from facing.problem import Problem
from facing.read.source import Row, Source
from facing.templating import render
from facing.text.code import Mark, highlight_python
from facing.text.equations import Equation, EquationFrames
from facing.text.notes import NoteRenderer, line_anchors

# What every page needs beside it, wherever it is shown.
ASSETS = Path(__file__).parent / "assets"
SHARED = (
    "literate.css",
    "literate.js",
    "symbols.js",
    "stix-two-math.woff2",
    "OFL-LICENSE.txt",
)
# And what a page needs that has a figure of steps.
OF_STEPS = ("stepthrough.css", "stepthrough.js")


@dataclass(frozen=True)
class Heading:
    """An entry of the table of contents; its text is HTML."""

    level: int
    id: str
    text: str


@dataclass
class Page:
    """A page, and what its surroundings need to know of it."""

    title: str
    description: str = ""
    body: str = ""
    search: str = ""  # without math and line numbers, for an index
    headings: list[Heading] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    equations: list[Equation] = field(default_factory=list)

    @property
    def has_steps(self) -> bool:
        """Whether a function can be stepped through on this page."""
        return '<figure class="stepper">' in self.body


def build(
    source: Source,
    link: Link = lambda target, line: target,
    features: Sequence[Feature] = (),
    *,
    fold: bool = True,
) -> Page:
    """
    Lay out a file as a page.

    `link` is given each link's target and line, and returns where it shall
    lead. `features` are what else the page shows. Unless `fold` is false,
    boilerplate is folded.
    """
    builder = _PageBuilder(source, link, features, fold)
    rows = render("rows.html", rows=builder.rows())
    foot = "".join(feature.foot() for feature in features)
    narrow = "" if _has_long_notes(source) else " one"
    body = render("body.html", rows=rows, foot=foot, narrow=narrow)
    title = str(source.meta.get("title") or builder.headings[0].text)
    return Page(
        title=plain_text(title),
        description=" ".join(str(source.meta.get("summary") or "").split()),
        body=body,
        search=_search_text(rows),
        headings=builder.headings,
        ids=set(re.findall(r'\sid="([^"]*)"', body)),
        problems=builder.problems,
        meta=source.meta,
        equations=builder.equations.equations,
    )


def plain_text(text: str) -> str:
    """Return the text of HTML, formulas included."""
    return html.unescape(re.sub(r"<[^>]*>", "", text)).strip()


# Characters of a note that make three lines of it.
LONG = 125


def _has_long_notes(source: Source) -> bool:
    """
    Tell whether notes want a column of their own.

    Where hardly one is longer than two lines, that column would be empty.
    """
    lengths = [
        sum(len(line.text) for note in row.notes for line in note)
        for row in source.rows
        if row.code
    ]
    return 5 * sum(length >= LONG for length in lengths) >= len(lengths)


def _search_text(body: str) -> str:
    # An index wants a flat page: Material's search ends a section where the
    # element around its heading ends, and code would belong to no heading.
    body = re.sub(r"<math\b.*?</math>", " ", body, flags=re.DOTALL)
    body = re.sub(
        r'<figure class="stepper">.*?</figure>', "", body, flags=re.DOTALL
    )
    body = re.sub(r'<span class="proof.*?</span>', "", body)
    body = re.sub(r"<a class=\"headerlink\".*?</a>", "", body)
    body = re.sub(r"<i [^>]*aria-hidden.*?</i>", "", body)
    return re.sub(r"</?(section|div|i|a|span)\b[^>]*>", "", body)


_HEADING = re.compile(
    r"<h(?P<level>[1-6])(?P<attributes>[^>]*)>(?P<text>.*?)</h(?P=level)>",
    re.DOTALL,
)


_LEADING_HEADING = re.compile(
    r"(?P<before>(?:<i id[^>]*></i>)*\s*)" + _HEADING.pattern, re.DOTALL
)


@dataclass
class _Part:
    """HTML or lines of code; folded, if it is called something."""

    called: str
    content: Any


@dataclass
class _LaidOutRow:
    """What the template shows of a row."""

    kind: str
    note: list[_Part]
    code: Sequence[_Part] = ()
    below: str = ""


class _PageBuilder:
    """Builds rows one after the other; headings depend on those before."""

    def __init__(
        self,
        source: Source,
        link: Link,
        features: Sequence[Feature],
        fold: bool,
    ) -> None:
        self.source, self.link, self.features = source, link, features
        self.foldable = foldable_lines(source) if fold else {}
        self.fold = fold
        self.headings: list[Heading] = []
        names = {row.name for row in source.rows}
        self.equations = EquationFrames(source.path, names, self._caption)
        self.notes = NoteRenderer(
            source.path, link, self.equations, self._decorate_formula
        )
        self.rendered = {
            id(row): self._add_features(
                "".join(map(self.notes.render, row.notes))
            )
            for row in source.rows
        }
        # Ids that the author set keep their place; ours give way.
        own = re.findall(r'\sid="([^"]*)"', "".join(self.rendered.values()))
        self.ids = set(own)
        first = next(iter(self.rendered.values()), "")
        self.titled = bool(_HEADING.search(first)) and not source.rows[0].name
        marks = [mark for f in features for mark in f.marks(link)]
        free = self._marks_with_free_ids(marks, names)
        self.code = highlight_python(source.text, free)

    def _marks_with_free_ids(
        self, marks: list[Mark], names: set[str]
    ) -> Iterator[Mark]:
        """Leave out marks with the id of a heading or a definition."""
        notes = "".join(self.rendered.values())
        slugs = {_slug(m["text"]) for m in _HEADING.finditer(notes)}
        taken = self.ids | names | slugs | {"top"}
        for mark in marks:
            given = dict(mark.attributes).get("id", "")
            if not given:
                yield mark
            elif given not in taken:
                self.ids.add(given)
                yield mark

    def _caption(self, equation: Equation) -> str:
        return "".join(f.caption(equation) for f in self.features)

    def _decorate_formula(self, mathml: str, line: int) -> str:
        for feature in self.features:
            mathml = feature.formula(mathml, line)
        return mathml

    def _add_features(self, note: str) -> str:
        for feature in self.features:
            note = feature.note(note, self.link)
        return note

    @property
    def problems(self) -> list[Problem]:
        return self.notes.problems + self.equations.problems

    def rows(self) -> list[_LaidOutRow]:
        """Return the rows of the page, with a title if there is none."""
        rows = [self._row(row) for row in self.source.rows]
        if not self.titled:
            rows.insert(
                0, _LaidOutRow("row wide", [_Part("", self._title())])
            )
        return rows

    def _title(self) -> str:
        """Return a heading for a page whose author wrote none."""
        named = str(self.source.meta.get("title") or self.source.path.name)
        text = html.escape(named)
        heading = Heading(1, self._unique_id("top"), text)
        self.headings.insert(0, heading)
        return _heading_html(heading, text)

    def _row(self, row: Row) -> _LaidOutRow:
        note = self._note(row) + line_anchors(row.blank)
        notes = fold_reference(note) if self.fold else [("", note)]
        code = fold_lines(row.code, self.source.lines, self._foldable(row))
        ids = {}
        if row.constructor:
            ids[row.constructor] = self._unique_id(f"{row.name}.__init__")
        return _LaidOutRow(
            "row" if row.code else "row wide",
            list(itertools.starmap(_Part, notes)),
            [
                _Part(called, list(self._lines(part, ids)))
                for called, part in code
            ],
            "".join(f.below(row.code) for f in self.features),
        )

    def _foldable(self, row: Row) -> dict[int, str]:
        """Return which lines may be folded: none that a comment speaks of."""
        spoken_of = row.notes and not row.name
        return {} if spoken_of else self.foldable

    def _note(self, row: Row) -> str:
        """Return a row's note, with its headings fitted into the page."""
        note = self.rendered[id(row)]
        base = row.depth + 2
        if self.titled and not self.headings:
            base = 1
        levels = [int(m["level"]) for m in _HEADING.finditer(note)]
        shift = base - min(levels, default=base)
        if not row.name:
            return self._fit_headings(note, shift)
        short = row.name.split(".")[-1]
        target = self._unique_id(row.name)
        start = _LEADING_HEADING.match(note)
        name = render("name.html", name=short, titled=bool(start))
        if start:
            # The author's heading gets the name: a link to it is `#name`.
            text = start["text"]
            if short.lower() not in plain_text(text).lower():
                text += f" {name}"
            level = int(start["level"]) + shift
            heading = self._add_heading(level, target, text)
            rest = self._fit_headings(note[start.end() :], shift)
            return start["before"] + _heading_html(heading, text) + rest
        # The name is the heading that the author left out.
        heading = self._add_heading(base, target, name)
        if short.startswith("__"):  # __init__ leads nobody anywhere
            self.headings.remove(heading)
        rest = self._fit_headings(note, shift + 1)
        return _heading_html(heading, name) + rest

    def _fit_headings(self, note: str, shift: int) -> str:
        """Give a note's headings their levels, ids and links."""

        def replace(match: re.Match[str]) -> str:
            given = re.search(r'\sid="([^"]*)"', match["attributes"])
            target = (
                given[1] if given else self._unique_id(_slug(match["text"]))
            )
            level = int(match["level"]) + shift
            heading = self._add_heading(level, target, match["text"])
            return _heading_html(heading, match["text"])

        return _HEADING.sub(replace, note)

    def _add_heading(self, level: int, target: str, text: str) -> Heading:
        # One heading of the first level, and no level left out: people who
        # listen to a page go from heading to heading.
        deepest = self.headings[-1].level + 1 if self.headings else 2
        first = 1 if self.titled and not self.headings else 2
        level = max(first, min(level, deepest, 6))
        text = re.sub(r"</?[ai]\b[^>]*>", "", text)
        self.headings.append(Heading(level, target, text))
        return self.headings[-1]

    def _unique_id(self, wanted: str) -> str:
        wanted = wanted or "section"
        found, n = wanted, 1
        while found in self.ids or re.fullmatch(r"L\d+", found):
            n += 1
            found = f"{wanted}-{n}"
        self.ids.add(found)
        return found

    def _lines(
        self, numbers: list[int], ids: dict[int, str]
    ) -> Iterator[dict[str, Any]]:
        """Yield lines of code, each with what features put behind it."""
        texts = [self.source.lines[n - 1] for n in numbers]
        # On a phone, the indentation that a block's lines share is room lost
        # for nothing. It is marked here, and the stylesheet takes it away.
        indents = [t[: len(t) - len(t.lstrip())] for t in texts if t.strip()]
        shared = os.path.commonprefix(indents)  # noqa: RUF071
        for n in numbers:
            code = self.code[n - 1]
            margin = shared if code.startswith(shared) else ""
            yield {
                "number": n,
                "id": ids.get(n),
                "margin": margin,
                "code": code[len(margin) :],
                "hint": "".join(f.beside(n) for f in self.features),
            }


def _slug(text: str) -> str:
    return re.sub(r"[^\w]+", "-", plain_text(text).lower()).strip("-")


def _heading_html(heading: Heading, text: str) -> str:
    """Return a heading with a link to itself."""
    return render(
        "heading.html",
        level=heading.level,
        id=heading.id,
        text=text,
        label=f"Link to {plain_text(text)}",
    )
