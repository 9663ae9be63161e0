"""
# Code in colour

The whole file is coloured at once and then cut into lines. So a comment in
the middle of a statement, which begins a new row, does not confuse anything.
"""

import html
from collections.abc import Iterator

from pygments import lex
from pygments.lexer import Lexer
from pygments.lexers import PythonLexer, get_lexer_by_name
from pygments.token import Token, _TokenType
from pygments.util import ClassNotFound

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
    return next(
        (CLASSES[k] for k in reversed(kind.split()) if k in CLASSES), ""
    )


def python_lines(text: str) -> list[str]:
    """Return the lines of Python source as HTML."""
    return _lines(text, PythonLexer(stripnl=False, stripall=False))


def highlighted(text: str, language: str) -> str | None:
    """Return code in a named language as HTML, where it is known."""
    try:
        return "\n".join(_lines(text, get_lexer_by_name(language)))
    except ClassNotFound:
        return None


def _lines(text: str, lexer: Lexer) -> list[str]:
    lines = [""]
    for css, part in _merged(text, lexer):
        for i, piece in enumerate(part.split("\n")):
            if i:
                lines.append("")
            shown = html.escape(piece, quote=False)
            if css and piece.strip():
                shown = f'<span class="{css}">{shown}</span>'
            lines[-1] += shown
    return lines[:-1]  # what follows the last newline is no line


def _merged(text: str, lexer: Lexer) -> Iterator[tuple[str, str]]:
    """Join neighbours of one colour: a third of the page's bytes."""
    last, gathered = "", ""
    for kind, part in lex(text, lexer):
        css = css_class(kind)
        if css != last and gathered:
            yield last, gathered
            gathered = ""
        last, gathered = css, gathered + part
    yield last, gathered
