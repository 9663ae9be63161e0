r"""
# Symbols, in formulas and in code

A letter in a formula and a name in the code often mean the same thing. Where
a project says which, in one YAML file, a reader can point at either and sees
every place where it stands:

    - latex: [\mu_c, \mu]        # the form to show, then others
      scope:                     # where it holds, and its names there
        norm.Norm: self.exp_mean
        norm.Norm.update: [old_mean, new_mean]
      say: mu sub c
      meaning: running mean of channel c
      shape: "[C]"

`scope` may also be a name or a list of names; `code`, a name or a list, then
holds in all of them. A symbol that only formulas have needs no code. A shape
may be one of several: "[C] or [G, D]".

**The rule of scopes.** What is declared for a scope holds in it and in the
scopes inside, unless an inner one declares the same form or name anew. A
name that is a function's own variable is not that of a function around it.
A symbol is lit up in one class or function at a time. Declared for a class
and, under other names, for its methods, it is one symbol in all of them.

**Matching is by structure.** A symbol's LaTeX is converted once, and equal
subtrees of a formula's MathML are marked: `\hat\mu_c` is `\hat{\mu}_c`, and
the r in `\operatorname{Var}` is nothing. A power of a symbol holds the
symbol; an index, an accent or a prime makes another one of it.
In code, a name is a Python expression, such as `self.exp_mean` or
`x.shape[0]`, and equal subtrees of the syntax tree are marked.
"""

import ast
import html
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from facing.page import Feature, Link
from facing.read.scopes import Scopes, around, expressions
from facing.read.source import (
    Problem,
    Source,
    decode,
    reading_yaml,
)
from facing.text.code import Mark
from facing.text.mathml import MathError, to_mathml

Element = ElementTree.Element

# A place where a symbol stands: the file, the line, and the scope there.
Use = tuple[Path, int, str]


@dataclass
class Symbol:
    """A symbol as declared, and where it was found."""

    line: int
    latex: list[str]
    names: dict[str, list[str]]  # by scope, as written
    say: str
    meaning: str
    shape: str = ""
    uses: set[Use] = field(default_factory=set)

    @property
    def mathml(self) -> str:
        """The form to show."""
        return to_mathml(self.latex[0], False)


# ## The file

_DROP = "; correct it, or take it out"
_KEYS = {"latex", "scope", "code", "say", "meaning", "shape"}


class _Reader:
    """Reads the YAML file; what is wrong is said with its line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fail(self, node: yaml.Node, message: str) -> Problem:
        return Problem(self.path, node.start_mark.line + 1, message)

    def symbols(self) -> list[Symbol]:
        with reading_yaml(self.path):
            top = yaml.compose(decode(self.path), yaml.SafeLoader)
        if top is None:
            return []
        if not isinstance(top, yaml.SequenceNode):
            raise self.fail(top, "symbols are a list: begin each with `- `")
        return [self.symbol(node) for node in top.value]

    def symbol(self, node: yaml.Node) -> Symbol:
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, "a symbol is a mapping, with `latex: ...`")
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if key.value not in _KEYS:
                known = ", ".join(sorted(_KEYS))
                raise self.fail(key, f"unknown field {key.value}; {known}")
            if key.value in fields:
                raise self.fail(key, f"a second {key.value}; keep one of them")
            fields[key.value] = value
        for name in ("latex", "scope", "say", "meaning"):
            if name not in fields or not any(self.parts(fields[name])):
                raise self.fail(node, f"a symbol without {name}; write one")
        return Symbol(
            node.start_mark.line + 1,
            self.texts(fields["latex"]),
            self.names(fields["scope"], fields.get("code")),
            self.text(fields["say"]),
            self.text(fields["meaning"]),
            self.text(fields["shape"]) if "shape" in fields else "",
        )

    def names(self, scope: yaml.Node, code: yaml.Node | None) -> dict[str, list[str]]:
        if isinstance(scope, yaml.MappingNode):
            if code:
                raise self.fail(code, "code stands in scope already")
            return {k.value: self.texts(v) for k, v in scope.value}
        names = self.texts(code) if code else []
        return dict.fromkeys(self.texts(scope), names)

    def parts(self, node: yaml.Node) -> list[str]:
        """Return what a field holds: a text, a list, or a mapping's keys."""
        if isinstance(node, yaml.MappingNode):
            return [self.text(key) for key, _ in node.value]
        return self.texts(node)

    def texts(self, node: yaml.Node) -> list[str]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        return [text for text in map(self.text, nodes) if text]

    def text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.fail(node, "expected a text here; quote [ and {")
        return "" if node.value == "null" else " ".join(node.value.split())


# ## Structure

# Attributes that make another letter of a letter; all others are layout.
_MEANT = ("mathvariant",)
_WRAPPERS = frozenset(("math", "mrow", "mstyle"))
_ROWS = frozenset(("math", "mrow", "msqrt", "mstyle", "mtd", "mpadded"))
# One letter, whatever is put to it. All else has parts of its own.
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


def _parts(element: Element) -> list[Element]:
    return [child for child in element if child.tag != "mspace"]


def _is_wrapper(element: Element) -> bool:
    return element.tag in _WRAPPERS and len(_parts(element)) == 1


def math_key(element: Element) -> str:
    """Return what two elements share if they show the same."""
    inner = [math_key(child) for child in _parts(element)]
    if _is_wrapper(element):
        return inner[0]
    meant = [element.get(name, "") for name in _MEANT]
    return f"<{element.tag} {meant} {element.text or ''} {inner}>"


def parsed(code: str) -> ast.expr:
    """Return a name as it is written in the table, as an expression."""
    return ast.parse(code, mode="eval").body


def code_key(node: ast.AST) -> str:
    """Return what two expressions share if they are the same."""
    if isinstance(node, ast.arg):
        node = ast.Name(node.arg, ast.Load())
    return re.sub(r", ctx=\w+\(\)", "", ast.dump(node))


@cache
def _form(latex: str) -> tuple[str, ...]:
    """Return a form's key, in parts where it is a row of several."""
    parts = [parse_mathml(to_mathml(latex, False))]
    while len(parts) == 1 and parts[0].tag in _WRAPPERS:
        parts = _parts(parts[0])
    return tuple(math_key(part) for part in parts)


# ## The table


class Table:
    """
    The symbols of a project, brought together with its files.

    **Raises**: `Problem`, with the line of the YAML file, where it cannot be
    read, a scope does not exist or is ambiguous, a formula or a name does
    not parse, or two symbols of one scope share a form or a name.
    """

    def __init__(self, path: Path, sources: Iterable[Source]) -> None:
        self.path = path
        self.symbols = _Reader(path).symbols()
        self._scopes = {s.path: (s.module, Scopes(s)) for s in sources}
        # By file and scope: symbols by their form, and by their name.
        self.by_form: dict[tuple[Path, str], dict[str, Symbol]] = defaultdict(dict)
        self.by_name: dict[tuple[Path, str], dict[str, Symbol]] = defaultdict(dict)
        self._declared: list[tuple[Symbol, str, Path, str]] = []
        self.found_names: set[tuple[Path, str, str]] = set()
        for symbol in self.symbols:
            for scope in symbol.names:
                self._declare(symbol, scope)

    def fail(self, symbol: Symbol, message: str) -> Problem:
        """Return a problem of a symbol."""
        return Problem(self.path, symbol.line, message)

    def _declare(self, symbol: Symbol, scope: str) -> None:
        path, name = place = self._place(symbol, scope)
        self._declared.append((symbol, scope, path, name))
        for latex in symbol.latex:
            try:
                key = "".join(_form(latex))
            except MathError as error:
                raise self.fail(symbol, str(error)) from None
            self._put(self.by_form[place], key, symbol, scope, latex)
        for code in symbol.names[scope]:
            try:
                key = code_key(parsed(code))
            except SyntaxError:
                message = f"code: {code} is not a Python expression"
                raise self.fail(symbol, message) from None
            self._put(self.by_name[place], key, symbol, scope, code)

    def _put(
        self,
        table: dict[str, Symbol],
        key: str,
        symbol: Symbol,
        scope: str,
        shown: str,
    ) -> None:
        other = table.setdefault(key, symbol)
        if other is not symbol:
            raise self.fail(
                symbol,
                f"{shown} is declared for {scope} already, in line "
                f"{other.line}; keep one of the two",
            )

    def _place(self, symbol: Symbol, scope: str) -> tuple[Path, str]:
        """Find the file and the definition that a scope names."""
        parts = scope.split(".")
        found, modules = [], []
        for n in range(1, len(parts) + 1):
            module, name = ".".join(parts[:n]), ".".join(parts[n:])
            for path, (its, scopes) in self._scopes.items():
                if f".{its}".endswith(f".{module}"):
                    modules.append(its)
                    if name in scopes.names:
                        found.append((path, name))
        if len(found) == 1:
            return found[0]
        if found:
            files = ", ".join(str(path) for path, _ in found)
            message = f"scope {scope} is ambiguous: {files}; name the package"
        elif modules:
            message = f"scope {scope}: {modules[0]} defines no such thing"
        else:
            message = f"scope {scope}: no module of that name has a page"
        if not found:
            message += self._close_to(scope)
        raise self.fail(symbol, message)

    def _close_to(self, scope: str) -> str:
        """Return a question after scopes that exist and are written alike."""
        known = [
            ".".join(filter(None, [module.rpartition(".")[2], name]))
            for module, scopes in self._scopes.values()
            for name in scopes.names
        ]
        close = get_close_matches(scope, known, 2)
        return f"; did you mean {' or '.join(close)}?" if close else ""

    @property
    def paths(self) -> list[Path]:
        """The files that the table is for, in the order of the project."""
        return list(self._scopes)

    def declared_in(self, path: Path) -> Iterator[tuple[Symbol, str, str]]:
        """Yield the symbols of a file: as declared, and in which scope."""
        for symbol, scope, where, name in self._declared:
            if where == path:
                yield symbol, scope, name

    def on(self, source: Source) -> "OnPage":
        """Return what the table means for one file's page."""
        return OnPage(self, source, self._scopes[source.path][1])

    def left_over(self) -> Iterator[Problem]:
        """Yield what was declared and occurs nowhere, once pages are made."""
        for symbol, scope, path, name in self._declared:
            inside = (name, name + ".") if name else ("", "")
            if not any(
                use[0] == path and (use[2] == inside[0] or use[2].startswith(inside[1]))
                for use in symbol.uses
            ):
                message = f"{symbol.latex[0]} occurs nowhere in {scope}{_DROP}"
                yield self.fail(symbol, message)
                continue
            for code in symbol.names[scope]:
                key = code_key(parsed(code))
                if (path, name, key) not in self.found_names:
                    message = f"code: {code} occurs nowhere in {scope}{_DROP}"
                    yield self.fail(symbol, message)


# ## A page


class OnPage(Feature):
    """Marks the symbols of one page, and gathers them in a legend."""

    def __init__(self, table: Table, source: Source, scopes: Scopes) -> None:
        self.table, self.source, self.scopes = table, source, scopes
        self.numbers: dict[tuple[int, str], int] = {}
        self.used: dict[int, Symbol] = {}
        self._known: dict[str, dict[tuple[str, ...], Symbol]] = {}
        self._here = {where[2] for where in table.declared_in(source.path)}

    def _number(self, symbol: Symbol, scope: str, line: int) -> str:
        """Return a number for the symbol in the place where it is one."""
        path = self.source.path
        declared = {name for s, _, name in self.table.declared_in(path) if s is symbol}
        within = [name for name in around(scope) if name and name in declared]
        symbol.uses.add((path, line, scope))
        self.used[symbol.line] = symbol
        key = symbol.line, within[-1] if within else ""
        return str(self.numbers.setdefault(key, len(self.numbers) + 1))

    # Code.

    def marks(self, link: Link) -> Iterator[Mark]:
        """Yield the marks of all symbols in the code."""
        if not self._here:
            return
        for scope, node in expressions(self.source):
            key = code_key(node)
            symbol, given = self.named(key, node, scope)
            if symbol is None:
                continue
            self.table.found_names.add((self.source.path, given, key))
            number = self._number(symbol, scope, node.lineno)
            for line, start, end in self.scopes.places(node):
                yield Mark(line, start, end, (("data-s", number),))

    def named(
        self, key: str, node: ast.expr | ast.arg, scope: str
    ) -> tuple[Symbol | None, str]:
        """Return what an expression is in a scope, and which one says so."""
        own = False
        for name in around(scope):
            if not (own and self.scopes.is_function(name)):
                declared = self.table.by_name.get((self.source.path, name))
                if declared and key in declared:
                    return declared[key], name
            own = own or self.scopes.binds(name, _root(node))
        return None, ""

    # Formulas.

    def formula(self, mathml: str, line: int) -> str:
        """Return a formula with its symbols marked."""
        scope = self.scopes.at(line)
        forms = self._forms(scope)
        if not forms:
            return mathml
        tree = parse_mathml(mathml)
        _Formula(self, forms, scope, line).mark(tree)
        return ElementTree.tostring(
            tree, encoding="unicode", short_empty_elements=False
        )

    def _forms(self, scope: str) -> dict[tuple[str, ...], Symbol]:
        """Return the forms that hold in a scope."""
        if scope in self._known:
            return self._known[scope]
        found = self._known.setdefault(scope, {})
        for name in around(scope):
            by_form = self.table.by_form.get((self.source.path, name), {})
            for symbol in by_form.values():
                for latex in symbol.latex:
                    found.setdefault(_form(latex), symbol)
        return found

    # The legend.

    def foot(self) -> str:
        """Return a legend of the page's symbols."""
        if not self.used:
            return ""
        items = "".join(map(self._item, self.used.values()))
        return (
            '<details class="symbols"><summary>Symbols of this page</summary>'
            f"<dl>{items}</dl></details>"
        )

    def _item(self, symbol: Symbol) -> str:
        numbers = [
            str(n) for (line, _), n in self.numbers.items() if line == symbol.line
        ]
        path = self.source.path
        names = {
            code: None
            for s, scope, _ in self.table.declared_in(path)
            if s is symbol
            for code in symbol.names[scope]
        }
        code = "".join(f" <code>{html.escape(n)}</code>" for n in names)
        shape = f" <code>{html.escape(symbol.shape)}</code>" * bool(symbol.shape)
        return (
            f'<div data-for="{" ".join(numbers)}"><dt>{symbol.mathml}{code}'
            f"</dt><dd><i>{html.escape(symbol.say)}</i> "
            f"{html.escape(symbol.meaning)}{shape}</dd></div>"
        )


def _root(node: ast.AST) -> str:
    """Return the name that an expression begins with."""
    while not isinstance(node, ast.Name | ast.arg):
        value: Any = getattr(node, "value", None) or getattr(node, "func", None)
        if not isinstance(value, ast.AST):
            return ""
        node = value
    return node.id if isinstance(node, ast.Name) else node.arg


class _Formula:
    """Marks the symbols of one formula, the largest ones first."""

    def __init__(
        self,
        page: OnPage,
        forms: dict[tuple[str, ...], Symbol],
        scope: str,
        line: int,
    ) -> None:
        self.page, self.forms = page, forms
        self.scope, self.line = scope, line
        self.longest = max(map(len, forms))

    def _note(self, element: Element, symbol: Symbol) -> None:
        number = self.page._number(symbol, self.scope, self.line)
        element.set("data-s", number)

    def mark(self, element: Element) -> None:
        """Mark an element, or what is inside it."""
        symbol = self.forms.get((math_key(element),))
        if symbol and not _is_wrapper(element):
            self._note(element, symbol)
            if element.tag in _LETTERS:
                return
        inside = [*element]
        if element.tag == "msubsup" and element[2].tag != "mo":
            # A power of a symbol with a subscript.
            base = ElementTree.Element("msub")
            base.extend(inside[:2])
            symbol = self.forms.get((math_key(base),))
            if symbol:
                self._note(element, symbol)
                inside = inside[2:]
        if not symbol and _makes_another(element):
            inside = inside[1:]
        if element.tag in _ROWS:
            inside = self._grouped(element)
        for child in inside:
            self.mark(child)

    def _grouped(self, row: Element) -> list[Element]:
        """Put marks around neighbours that are one symbol together."""
        keys = [math_key(child) for child in row]
        at = 0
        while at < len(row):
            for n in range(min(self.longest, len(row) - at), 1, -1):
                symbol = self.forms.get(tuple(keys[at : at + n]))
                if symbol and not (n == len(row) and row.get("data-s")):
                    group = ElementTree.Element("mrow")
                    group.extend(row[at : at + n])
                    self._note(group, symbol)
                    row[at : at + n] = [group]
                    keys[at : at + n] = [""]
                    break
            at += 1
        return [*row]


def _makes_another(element: Element) -> bool:
    """Tell whether an index, an accent or a prime makes another letter."""
    if not len(element) or element[0].tag not in ("mi", "mover"):
        return False
    if element.tag in ("mover", "munder", "munderover"):
        return (element[-1].text or "") not in _BRACES
    primed = element.tag == "msup" and element[1].tag == "mo"
    return primed or element.tag in ("msub", "msubsup")
