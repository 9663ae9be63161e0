"""Render the notes of a page: Markdown to HTML.

Python-Markdown does it, with a few things that a page of notes needs: formulas, an
id for every line, named equations, and HTML that cannot break the page around it.
"""

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from markdown import Markdown

from facing.problem import Problem
from facing.read.source import Line
from facing.text.code import highlight
from facing.text.equations import EquationFrames
from facing.text.markdown_math import MARK, Formula, MathExtension

EXTENSIONS = [
    "admonition",
    "attr_list",
    "def_list",
    "fenced_code",
    "sane_lists",
    "tables",
]


class NoteRenderer:
    """Renders the notes of one page, and gathers what was wrong in them."""

    def __init__(
        self,
        path: Path,
        link: Callable[[str, int], str],
        equations: EquationFrames,
        decorate: Callable[[str, int], str],
    ) -> None:
        self.path = path
        self.link = link
        self.equations = equations
        self.problems: list[Problem] = []
        self._math = MathExtension(
            report=self._report,
            frame=self._frame_equation,
            decorate=lambda mathml, line: decorate(mathml, self._number(line)),
        )
        # One converter for all notes of a page: a link's target may stand in
        # one note and be named in the next.
        self._md = Markdown(extensions=[*EXTENSIONS, self._math])
        self._without_html = Markdown(extensions=[*EXTENSIONS, self._math])
        self._without_html.preprocessors.deregister("html_block")
        self._without_html.inlinePatterns.deregister("html")
        self._lines: list[Line] = []

    def _number(self, line: int) -> int:
        """Return the file's number of a line of this note."""
        return self._lines[min(line, len(self._lines)) - 1].number

    def _frame_equation(self, formula: Formula, block: str) -> str:
        return self.equations.frame(
            self._number(formula.line), formula.source, formula.attributes, block
        )

    def _report(self, line: int, message: str) -> None:
        problem = Problem(self.path, self._number(line), message)
        if str(problem) not in map(str, self.problems):
            self.problems.append(problem)

    def render(self, note: list[Line]) -> str:
        """Return the HTML of a note."""
        self._lines = note
        text, lines_of_marks = _insert_line_marks(note)
        body = self._convert(self._md, text)
        if not is_well_formed(body):
            # Say `Dict<str, int>`: not meant as HTML, so shown as it is.
            body = self._convert(self._without_html, text)
        body = _replace_line_marks(body, lines_of_marks)
        body = _FENCE.sub(_highlight_fence, body)
        return _LINK.sub(self._resolve_link, body)

    def _convert(self, md: Markdown, text: str) -> str:
        self._math.formulas.clear()
        return md.convert(text)

    def _resolve_link(self, match: re.Match[str]) -> str:
        start, target, end = match.groups()
        target = html.unescape(target)
        number = next(
            (n.number for n in self._lines if target in n.text),
            self._lines[0].number,
        )
        return start + html.escape(self.link(target, number)) + end


# Links and images. `href` and `src` are found in raw HTML, too.
_LINK = re.compile(r'(<(?:a|img)\b[^>]*?\s(?:href|src)=")([^"]*)(")', re.IGNORECASE)

_FENCE = re.compile(
    r'<pre><code class="language-([\w+-]+)">(.*?)</code></pre>', re.DOTALL
)


def _highlight_fence(match: re.Match[str]) -> str:
    code = highlight(html.unescape(match[2]), match[1])
    return match[0] if code is None else f"<pre><code>{code}</code></pre>"


# Marks tell where a line went. They stand before the text of lines that begin a
# paragraph or a list item; other lines share the mark before them. Code and formulas
# over several lines get none inside.
_MARKABLE = re.compile(r"( {0,3}(?:[-*+]|\d+\.) +)?(?=[\w$*\\`(\[\"'])")
_NOT_TEXT = re.compile(r"\[[^\]]*\]:|[-*_=]{3,}\s*$|.*\|")
_CLOSING = {
    "```": r"\s*```",
    "~~~": r"\s*~~~",
    "$$": r".*\$\$\s*(\{.*\}\s*)?$",
}
_OPENING = re.compile(r"\s*(?P<open>```|~~~|\$\$(?=\s*$)|\\begin\{.*?\})")


def _end_pattern(line: str) -> str:
    """Return the pattern of the line that ends what begins on this one."""
    opening = _OPENING.match(line)
    if not opening:
        return ""
    start = opening["open"]
    end = ".*" + re.escape(start.replace("begin", "end"))
    end = _CLOSING.get(start, end)
    return "" if re.match(end, line[opening.end() :]) else end


def _insert_line_marks(note: list[Line]) -> tuple[str, list[list[int]]]:
    """Return a note's text with marks, and the line numbers of each mark."""
    texts: list[str] = []
    ids: list[list[int]] = [[]]
    inside, after_blank = "", True
    for line in note:
        text = line.text
        start = _MARKABLE.match(text)
        closing = inside or _end_pattern(text)
        if (
            start
            and not closing
            and (start[1] or after_blank)
            and not _NOT_TEXT.match(text)
        ):
            ids.append([])
            at = start.end()
            text = f"{text[:at]}\ue002{len(ids) - 1}\ue003{text[at:]}"
        ids[-1].append(line.number)
        texts.append(text)
        after_blank = not line.text
        if inside and re.match(inside, text):
            inside = ""
        elif not inside:
            inside = closing
    return "\n".join(texts), ids


def line_anchors(numbers: list[int]) -> str:
    """Return empty elements that make lines targets of links."""
    return "".join(f'<i id="L{n}"></i>' for n in numbers)


def _replace_line_marks(body: str, ids: list[list[int]]) -> str:
    """Replace marks by ids; those that got lost stand at the note's head."""
    left = dict(enumerate(ids))

    def anchor(match: re.Match[str]) -> str:
        if match["code"]:  # a mark in code would be an element in code
            return MARK.sub("", match["code"])
        return line_anchors(left.pop(int(match["n"]), []))

    body = _MARK_OR_CODE.sub(anchor, body)
    return line_anchors(sorted(n for group in left.values() for n in group)) + body


_MARK_OR_CODE = re.compile(
    "(?P<code><(?P<tag>pre|code)\\b.*?</(?P=tag)>|<[a-zA-Z][^<>]*>)"
    "|\ue002(?P<n>\\d+)\ue003",
    re.DOTALL,
)


class TagChecker(HTMLParser):
    """Checks that tags are HTML's, and closed in the order of opening."""

    VOID = frozenset("area br col hr img input source track wbr".split())
    KNOWN = VOID | frozenset(
        "a abbr article aside audio b bdi bdo blockquote button caption cite "
        "code colgroup data dd del details dfn div dl dt em figcaption "
        "figure footer h1 h2 h3 h4 h5 h6 header i iframe ins kbd label li "
        "main mark math nav ol p picture pre q s samp section small span "
        "strong sub summary sup svg table tbody td tfoot th thead time tr u "
        "ul var video".split()
    )

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.well_formed = True

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Open a tag. What is inside math and svg is theirs."""
        if not {"math", "svg"} & set(self.open):
            self.well_formed &= tag in self.KNOWN
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """Pass over a tag that closes itself."""

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that was opened last."""
        self.well_formed &= bool(self.open) and self.open.pop() == tag


def is_well_formed(body: str) -> bool:
    """Tell whether HTML can stand in a page without breaking it."""
    checker = TagChecker()
    checker.feed(body)
    checker.close()
    return checker.well_formed and not checker.open
