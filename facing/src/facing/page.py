r"""
# From rows to a page

Here notes and code come together. The result knows nothing of where it will
be shown: it is HTML, with its title, its headings and its ids.
"""

import html
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facing.features.equations import Equation, Equations, Proofs
from facing.read.source import Problem, Row, Source
from facing.text.code import Mark, python_lines
from facing.text.notes import Notes, anchors, is_sound

# What every page needs beside it, wherever it is shown.
ASSETS = Path(__file__).parent / "assets"
TEMPLATES = Path(__file__).parent / "templates"
SHARED = (
    "literate.css",
    "literate.js",
    "symbols.js",
    "stix-two-math.woff2",
    "OFL-LICENSE.txt",
)


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
    description: str
    body: str
    search: str  # the same without math and line numbers, for an index
    headings: list[Heading]
    ids: set[str]
    problems: list[Problem]
    meta: dict[str, Any] = field(default_factory=dict)
    equations: list[Equation] = field(default_factory=list)


Link = Callable[[str, int], str]


class Feature:
    """
    What a page may show besides its notes and code.

    Each feature is a file of its own, and none knows of the others. These
    are the places where it can put something; by default it puts nothing.
    """

    def marks(self, link: Link) -> Iterable[Mark]:
        """Return attributes for stretches of code."""
        return ()

    def note(self, body: str, link: Link) -> str:
        """Return a note's HTML, with what it adds."""
        return body

    def formula(self, mathml: str, line: int) -> str:
        """Return a formula that stands on a line, decorated."""
        return mathml

    def beside(self, line: int) -> str:
        """Return what stands behind a line of code."""
        return ""

    def foot(self) -> str:
        """Return what stands below the rows."""
        return ""


def build(
    source: Source,
    link: Link = lambda target, line: target,
    proofs: Proofs | None = None,
    features: Sequence[Feature] = (),
) -> Page:
    """
    Lay out a file as a page.

    `link` is given each link's target and line, and returns where it shall
    lead. `proofs` are the tests of equations, and `features` what else is
    shown.
    """
    builder = _Builder(source, link, proofs, features)
    rows = [builder.row(row) for row in source.rows]
    if not builder.titled:
        rows.insert(
            0, f'<section class="row wide">{builder.title()}</section>'
        )
    foot = "".join(feature.foot() for feature in features)
    body = f'<div class="lit">{"".join(rows)}{foot}</div>'
    title = str(source.meta.get("title") or builder.headings[0].text)
    return Page(
        title=plain(title),
        description=" ".join(str(source.meta.get("summary") or "").split()),
        body=body,
        search=_for_search("".join(rows)),
        headings=builder.headings,
        ids=set(re.findall(r'\sid="([^"]*)"', body)),
        problems=builder.problems,
        meta=source.meta,
        equations=builder.equations.found,
    )


def plain(text: str) -> str:
    """Return the text of HTML, formulas included."""
    return html.unescape(re.sub(r"<[^>]*>", "", text)).strip()


def _for_search(body: str) -> str:
    # An index wants a flat page: Material's search ends a section where the
    # element around its heading ends, and code would belong to no heading.
    body = re.sub(r"<math\b.*?</math>", " ", body, flags=re.DOTALL)
    body = re.sub(r'<span class="proof">.*?</span>', "", body)
    body = re.sub(r"<a class=\"headerlink\".*?</a>", "", body)
    body = re.sub(r"<i [^>]*aria-hidden.*?</i>", "", body)
    return re.sub(r"</?(section|div|i|a|span)\b[^>]*>", "", body)


_HEADING = re.compile(
    r"<h(?P<level>[1-6])(?P<attributes>[^>]*)>(?P<text>.*?)</h(?P=level)>",
    re.DOTALL,
)


# Where little code stands beside a long docstring, its reference part goes
# below the code, so that neither column stays empty.
_REFERENCE = re.compile(
    r"<p>(?:<i id[^>]*></i>)*<strong>"
    r"(?:Arguments|Args|Parameters|Inputs?|Returns|Shape|Raises)\b"
)


# Characters of an introduction that fill more than a few lines.
LONG = 800


def _is_tall(row: Row) -> bool:
    return sum(map(len, row.notes)) > len(row.code) + 20


class _Builder:
    """Builds rows one after the other; headings depend on those before."""

    def __init__(
        self,
        source: Source,
        link: Link,
        proofs: Proofs | None,
        features: Sequence[Feature],
    ) -> None:
        self.source, self.link, self.features = source, link, features
        self.headings: list[Heading] = []
        names = {row.name for row in source.rows}
        self.equations = Equations(source.path, names, proofs)
        self.notes = Notes(source.path, link, self.equations, self._decorated)
        self.rendered = {
            id(row): self._noted("".join(map(self.notes.render, row.notes)))
            for row in source.rows
        }
        # Ids that the author set keep their place; ours give way.
        own = re.findall(r'\sid="([^"]*)"', "".join(self.rendered.values()))
        self.ids = set(own)
        first = next(iter(self.rendered.values()), "")
        self.titled = bool(_HEADING.search(first)) and not source.rows[0].name
        marks = [mark for f in features for mark in f.marks(link)]
        self.code = python_lines(source.text, self._placed(marks, names))

    def _placed(self, marks: list[Mark], names: set[str]) -> Iterator[Mark]:
        """Keep marks from taking the ids of headings and definitions."""
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

    def _decorated(self, mathml: str, line: int) -> str:
        for feature in self.features:
            mathml = feature.formula(mathml, line)
        return mathml

    def _noted(self, body: str) -> str:
        for feature in self.features:
            body = feature.note(body, self.link)
        return body

    @property
    def problems(self) -> list[Problem]:
        return self.notes.problems + self.equations.problems

    def title(self) -> str:
        """Return a heading for a page whose author wrote none."""
        named = str(self.source.meta.get("title") or self.source.path.name)
        text = html.escape(named)
        heading = Heading(1, self._unique("top"), text)
        self.headings.insert(0, heading)
        return _div("note", _shown(heading, text))

    def row(self, row: Row) -> str:
        """Return a row's HTML."""
        note = self._note(row) + anchors(row.blank)
        if not row.code:
            # A long introduction is set in two columns, over the whole width.
            kind = "wide long" if len(plain(note)) > LONG else "wide"
            return (
                f'<section class="row {kind}">{_div("note", note)}</section>'
            )
        code = _div("code", self._code(row.code))
        split = self._reference(note) if _is_tall(row) else None
        if split is None:
            return (
                f'<section class="row">{_div("note", note)}{code}</section>'
            )
        above, below = _div("note", note[:split]), _div("more", note[split:])
        return f'<section class="row tall">{above}{below}{code}</section>'

    def _reference(self, note: str) -> int | None:
        """Find where a docstring turns from telling to listing."""
        label = _REFERENCE.search(note)
        if not label or not is_sound(note[: label.start()]):
            return None
        return label.start()

    def _note(self, row: Row) -> str:
        """Return a row's note, with its headings fitted into the page."""
        note = self.rendered[id(row)]
        base = row.depth + 2
        if self.titled and not self.headings:
            base = 1
        levels = [int(m["level"]) for m in _HEADING.finditer(note)]
        shift = base - min(levels, default=base)
        if not row.name:
            return self._fitted(note, shift)
        short = row.name.split(".")[-1]
        name = f'<code class="name">{html.escape(short)}</code>'
        target = self._unique(row.name)
        first = re.match(r"(?:<i id[^>]*></i>)*\s*(?=<h[1-6])", note)
        if not first:
            # The name is the heading that the author left out.
            heading = self._heading(base, target, name)
            if short.startswith("__"):  # __init__ leads nobody anywhere
                self.headings.remove(heading)
            return _shown(heading, name) + self._fitted(note, shift + 1)
        # The author's heading gets the name: a link to it is `#name`.
        found = _HEADING.match(note, first.end())
        assert found
        text = found["text"]
        if short.lower() not in plain(text).lower():
            text += f" {name}"
        heading = self._heading(int(found["level"]) + shift, target, text)
        rest = self._fitted(note[found.end() :], shift)
        return note[: first.end()] + _shown(heading, text) + rest

    def _fitted(self, note: str, shift: int) -> str:
        """Give a note's headings their levels, ids and links."""

        def replace(match: re.Match[str]) -> str:
            given = re.search(r'\sid="([^"]*)"', match["attributes"])
            target = given[1] if given else self._unique(_slug(match["text"]))
            level = int(match["level"]) + shift
            heading = self._heading(level, target, match["text"])
            return _shown(heading, match["text"])

        return _HEADING.sub(replace, note)

    def _heading(self, level: int, target: str, text: str) -> Heading:
        # One heading of the first level, and no level left out: people who
        # listen to a page go from heading to heading.
        deepest = self.headings[-1].level + 1 if self.headings else 2
        first = 1 if self.titled and not self.headings else 2
        level = max(first, min(level, deepest, 6))
        text = re.sub(r"</?[ai]\b[^>]*>", "", text)
        self.headings.append(Heading(level, target, text))
        return self.headings[-1]

    def _unique(self, wanted: str) -> str:
        wanted = wanted or "section"
        found, n = wanted, 1
        while found in self.ids or re.fullmatch(r"L\d+", found):
            n += 1
            found = f"{wanted}-{n}"
        self.ids.add(found)
        return found

    def _code(self, numbers: list[int]) -> str:
        """Return lines of code, each a target, and its number its link."""
        texts = [self.source.lines[n - 1] for n in numbers]
        # On a phone, the indentation that a block's lines share is room lost
        # for nothing. It is marked here, and the stylesheet takes it away.
        indents = [t[: len(t) - len(t.lstrip())] for t in texts if t.strip()]
        margin = os.path.commonprefix(indents)  # noqa: RUF071
        lines = []
        for n in numbers:
            code = self.code[n - 1]
            beside = "".join(f.beside(n) for f in self.features)
            if margin and code.startswith(margin):
                code = (
                    f'<span class="in">{margin}</span>{code[len(margin) :]}'
                )
            lines.append(
                f'<span class="l" id="L{n}"><a href="#L{n}" tabindex="-1" '
                f'aria-label="{n}"></a>{code}{beside}</span>\n'
            )
        return f"<pre><code>{''.join(lines)}</code></pre>"


def _slug(text: str) -> str:
    return re.sub(r"[^\w]+", "-", plain(text).lower()).strip("-")


def _shown(heading: Heading, text: str) -> str:
    """Return a heading with a link to itself."""
    target = html.escape(heading.id)
    label = html.escape(f"Link to {plain(text)}")
    return (
        f'<h{heading.level} id="{target}">{text}<a class="headerlink" '
        f'href="#{target}" aria-label="{label}">#</a></h{heading.level}>'
    )


def _div(css: str, content: str) -> str:
    return f'<div class="{css}">{content}</div>'
