"""Colour code, line by line, and put elements around marked stretches.

A whole file is coloured at once and then cut into lines. So a comment in the
middle of a statement, which begins a new row, does not confuse anything.

What else there is to say of a token (that it is a symbol, where it leads) is said
by marks: attributes for a stretch of a line. Who makes them does not matter here;
marks of the same stretch become one element.

Each token is an element or two, tens of thousands for a book: so this module
writes its HTML by itself, and leaves templates to what stands around the lines.
"""

import html
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from pygments import lex
from pygments.lexer import Lexer
from pygments.lexers import PythonLexer, get_lexer_by_name
from pygments.token import Token, _TokenType
from pygments.util import ClassNotFound

from facing.read.source import DIRECTIVE

# Five colours, and no more: each says what a name cannot say by itself.
CLASSES = {
    Token.Keyword: "k",
    Token.Operator.Word: "k",
    Token.Literal.String: "s",
    Token.Literal.Number: "m",
    Token.Comment: "c",
    Token.Name.Class: "d",
    Token.Name.Function: "d",
    Token.Name.Decorator: "d",
}


def css_class(kind: _TokenType) -> str:
    """Return the class of a token's nearest kind that has one."""
    return next((CLASSES[k] for k in reversed(kind.split()) if k in CLASSES), "")


@dataclass(frozen=True)
class Mark:
    """Attributes for the columns `start` to `end` of a line."""

    line: int
    start: int
    end: int
    attributes: tuple[tuple[str, str], ...]


def highlight_python(text: str, marks: Iterable[Mark] = ()) -> list[str]:
    """Return the lines of Python source as HTML."""
    lexer = PythonLexer(stripnl=False, stripall=False)
    by_line = defaultdict(list)
    for mark in marks:
        by_line[mark.line].append(mark)
    return [
        _render_marked(line, by_line[n]) if n in by_line else _render(line)
        for n, line in enumerate(_split_lines(text, lexer), 1)
    ]


def highlight(text: str, language: str) -> str | None:
    """Return code as HTML, or None if Pygments does not know the language."""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return None
    return "\n".join(map(_render, _split_lines(text, lexer)))


# A line in pieces: the class of a colour, and the text that has it.
Pieces = list[tuple[str, str]]


def _render(pieces: Pieces) -> str:
    return "".join(
        f'<span class="{css}">{html.escape(text, quote=False)}</span>'
        if css and text.strip()
        else html.escape(text, quote=False)
        for css, text in pieces
    )


def _render_marked(pieces: Pieces, marks: list[Mark]) -> str:
    """Return a line with elements around what is marked, one in another."""
    parts: list[str] = []
    open_ends: list[tuple[int, str]] = []
    waiting = [*_mark_elements(marks)]
    at = 0
    for css, text in pieces:
        last = at + len(text)
        while at < last:
            while waiting and waiting[0][0] <= at:
                start, end, opening, closing = waiting.pop(0)
                # A stretch that would reach out of the one around it is none.
                if start == at and all(end <= e for e, _ in open_ends):
                    parts.append(opening)
                    open_ends.append((end, closing))
            stops = [last, *(e for e, _ in open_ends), *(w[0] for w in waiting[:1])]
            cut = min(stop for stop in stops if stop > at)
            parts.append(_render([(css, text[: cut - at])]))
            text, at = text[cut - at :], cut
            while open_ends and open_ends[-1][0] <= at:
                parts.append(open_ends.pop()[1])
    return "".join([*parts, *(closing for _, closing in reversed(open_ends))])


def _mark_elements(marks: list[Mark]) -> Iterator[tuple[int, int, str, str]]:
    """Yield start, end and tags of each stretch, outer ones first."""

    def outer_first(mark: Mark) -> tuple[int, int]:
        return mark.start, -mark.end

    for (start, end), same in groupby(sorted(marks, key=outer_first), outer_first):
        attributes = dict(pair for mark in same for pair in mark.attributes)
        # What leads somewhere is a link, and so is a place to link to: the
        # script lets it lead to itself.
        tag = "a" if attributes.keys() & {"href", "id"} else "span"
        written = "".join(
            f' {name}="{html.escape(value)}"'
            for name, value in sorted(attributes.items())
        )
        yield start, -end, f"<{tag}{written}>", f"</{tag}>"


def _split_lines(text: str, lexer: Lexer) -> list[Pieces]:
    lines: list[Pieces] = [[]]
    for css, part in _merge_pieces(text, lexer):
        for i, piece in enumerate(part.split("\n")):
            if i:
                lines.append([])
            if piece:
                lines[-1].append((css, piece))
    # What follows the last newline is no line.
    return [_quieten(line) for line in lines[:-1]]


def _quieten(line: Pieces) -> Pieces:
    """Mark a comment behind code that speaks to a tool: the page does not show it."""
    *before, (css, text) = line or [("", "")]
    if css == "c" and DIRECTIVE.match(text) and any(part.strip() for _, part in before):
        return [*before, ("c q", text)]
    return line


def _merge_pieces(text: str, lexer: Lexer) -> Iterator[tuple[str, str]]:
    """Join neighbours of one colour: a third of the page's bytes."""
    last, gathered = "", ""
    for kind, part in lex(text, lexer):
        css = css_class(kind)
        if css != last and gathered:
            yield last, gathered
            gathered = ""
        last, gathered = css, gathered + part
    yield last, gathered
