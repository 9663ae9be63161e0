r"""Match symbols by structure, in formulas and in code.

A symbol's LaTeX is converted once, and equal subtrees of a formula's MathML are
marked: `\hat\mu_c` is `\hat{\mu}_c`, and the r in `\operatorname{Var}` is nothing. A
power of a symbol holds the symbol; an index, an accent or a prime makes another one
of it. In code, a name is a Python expression, such as `self.exp_mean` or
`x.shape[0]`, and equal subtrees of the syntax tree are marked.
"""

import ast
import html
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Generic, TypeVar
from xml.etree import ElementTree

from facing.text.mathml import to_mathml

Element = ElementTree.Element
Form = tuple[str, ...]
S = TypeVar("S")

# Attributes that make another letter of a letter; all others are layout.
_MEANT = ("mathvariant",)
_WRAPPERS = frozenset(("math", "mrow", "mstyle"))
_ROWS = frozenset(("math", "mrow", "msqrt", "mstyle", "mtd", "mpadded"))
# One letter, with whatever is put to it. All else has parts of its own.
_LETTERS = frozenset(("mi", "mo", "mn", "msub", "msup", "msubsup", "mover"))
_BRACES = frozenset("⏞⏟⎴⎵⏜⏝")


def parse_mathml(mathml: str) -> Element:
    """Return MathML as a tree; HTML's names of characters are resolved."""
    return ElementTree.fromstring(
        re.sub(
            r"&(?!(?:amp|lt|gt|quot|apos|#\w+);)\w+;",
            lambda m: html.unescape(m[0]),
            mathml,
        )
    )


def _children(element: Element) -> list[Element]:
    return [child for child in element if child.tag != "mspace"]


def _is_wrapper(element: Element) -> bool:
    return element.tag in _WRAPPERS and len(_children(element)) == 1


def math_key(element: Element) -> str:
    """Return what two elements share if they show the same."""
    inner = [math_key(child) for child in _children(element)]
    if _is_wrapper(element):
        return inner[0]
    meant = [element.get(name, "") for name in _MEANT]
    return f"<{element.tag} {meant} {element.text or ''} {inner}>"


def parse_expression(code: str) -> ast.expr:
    """Return a name as it is written in the table, as an expression."""
    return ast.parse(code, mode="eval").body


def code_key(node: ast.AST) -> str:
    """Return what two expressions share if they are the same."""
    if isinstance(node, ast.arg):
        node = ast.Name(node.arg, ast.Load())
    return re.sub(r", ctx=\w+\(\)", "", ast.dump(node))


@cache
def form_of(latex: str) -> Form:
    """Return the keys of a form's parts, one unless it is a row of several."""
    parts = [parse_mathml(to_mathml(latex, False))]
    while len(parts) == 1 and parts[0].tag in _WRAPPERS:
        parts = _children(parts[0])
    return tuple(math_key(part) for part in parts)


class FormulaMarker(Generic[S]):
    """Marks the symbols of one formula, the largest ones first.

    `forms` are the symbols by their form, and `number` gives the number that marks
    a symbol.
    """

    def __init__(self, forms: Mapping[Form, S], number: Callable[[S], str]) -> None:
        self.forms, self.number = forms, number
        self.longest = max(map(len, forms))

    def _set_number(self, element: Element, symbol: S) -> None:
        element.set("data-s", self.number(symbol))

    def mark(self, element: Element) -> None:
        """Mark an element, or what is inside it."""
        symbol = self.forms.get((math_key(element),))
        if symbol and not _is_wrapper(element):
            self._set_number(element, symbol)
            if element.tag in _LETTERS:
                return
        inside = [*element]
        if element.tag == "msubsup" and element[2].tag != "mo":
            # A power of a symbol with a subscript.
            base = ElementTree.Element("msub")
            base.extend(inside[:2])
            symbol = self.forms.get((math_key(base),))
            if symbol:
                self._set_number(element, symbol)
                inside = inside[2:]
        if not symbol and _is_another_letter(element):
            inside = inside[1:]
        if element.tag in _ROWS:
            inside = self._group_neighbours(element)
        for child in inside:
            self.mark(child)

    def _group_neighbours(self, row: Element) -> list[Element]:
        """Put marks around neighbours that are one symbol together."""
        keys = [math_key(child) for child in row]
        at = 0
        while at < len(row):
            for n in range(min(self.longest, len(row) - at), 1, -1):
                symbol = self.forms.get(tuple(keys[at : at + n]))
                if symbol and not (n == len(row) and row.get("data-s")):
                    group = ElementTree.Element("mrow")
                    group.extend(row[at : at + n])
                    self._set_number(group, symbol)
                    row[at : at + n] = [group]
                    keys[at : at + n] = [""]
                    break
            at += 1
        return [*row]


def _is_another_letter(element: Element) -> bool:
    """Tell whether an index, an accent or a prime makes another letter."""
    if not len(element) or element[0].tag not in ("mi", "mover"):
        return False
    if element.tag in ("mover", "munder", "munderover"):
        return (element[-1].text or "") not in _BRACES
    primed = element.tag == "msup" and element[1].tag == "mo"
    return primed or element.tag in ("msub", "msubsup")
