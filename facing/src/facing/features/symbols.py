"""Link symbols in formulas with their names in the code.

A letter in a formula and a name in the code often mean the same thing. If a project
says which, in a YAML file (`symbol_file` tells how), a reader can point at either
and sees every place where it stands.

What is declared for a scope holds in it and in the scopes inside, unless an inner
one declares the same form or name anew. A name that is a function's own variable is
not that of a function around it. A symbol is lit up in one class or function at a
time. Declared for a class and, under other names, for its methods, it is one symbol
in all of them. `symbol_matching` tells what equals what.
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from facing.feature import BookFeature, Feature, Link
from facing.features.symbol_file import Symbol, read_symbols
from facing.features.symbol_matching import (
    Form,
    FormulaMarker,
    code_key,
    form_of,
    parse_expression,
    parse_mathml,
)
from facing.problem import Problem
from facing.read.scopes import Scopes, enclosing_scopes, expressions
from facing.read.source import Source
from facing.templating import render
from facing.text.code import Mark
from facing.text.mathml import MathError

_DROP = "; correct it, or take it out"


class SymbolTable(BookFeature):
    """The symbols of a project, brought together with its files.

    Raises `Problem`, with the line of the YAML file, if it cannot be read, a scope
    does not exist or is ambiguous, a formula or a name does not parse, or two
    symbols of one scope share a form or a name.
    """

    def __init__(self, path: Path, sources: Iterable[Source]) -> None:
        self.path = path
        self.symbols = read_symbols(path)
        self._scopes = {s.path: (s.module, Scopes(s)) for s in sources}
        # By file and scope: symbols by their form, and by their name.
        self.by_form: dict[tuple[Path, str], dict[str, Symbol]] = defaultdict(dict)
        self.by_name: dict[tuple[Path, str], dict[str, Symbol]] = defaultdict(dict)
        self._declared: list[tuple[Symbol, str, Path, str]] = []
        self.names_found: set[tuple[Path, str, str]] = set()
        for symbol in self.symbols:
            for scope in symbol.names:
                self._declare(symbol, scope)

    def _problem(self, symbol: Symbol, message: str) -> Problem:
        """Return a problem of a symbol."""
        return Problem(self.path, symbol.line, message)

    def _declare(self, symbol: Symbol, scope: str) -> None:
        path, name = place = self._find_scope(symbol, scope)
        self._declared.append((symbol, scope, path, name))
        for latex in symbol.latex:
            try:
                key = "".join(form_of(latex))
            except MathError as error:
                raise self._problem(symbol, str(error)) from None
            self._add(self.by_form[place], key, symbol, scope, latex)
        for code in symbol.names[scope]:
            try:
                key = code_key(parse_expression(code))
            except SyntaxError:
                message = f"code: {code} is not a Python expression"
                raise self._problem(symbol, message) from None
            self._add(self.by_name[place], key, symbol, scope, code)

    def _add(
        self,
        table: dict[str, Symbol],
        key: str,
        symbol: Symbol,
        scope: str,
        shown: str,
    ) -> None:
        other = table.setdefault(key, symbol)
        if other is not symbol:
            raise self._problem(
                symbol,
                f"{shown} is declared for {scope} already, in line "
                f"{other.line}; keep one of the two",
            )

    def _find_scope(self, symbol: Symbol, scope: str) -> tuple[Path, str]:
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
            message += self._suggest_scopes(scope)
        raise self._problem(symbol, message)

    def _suggest_scopes(self, scope: str) -> str:
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

    def on_page(self, source: Source) -> "SymbolFeature":
        """Return what the table means for one file's page."""
        return SymbolFeature(self, source, self._scopes[source.path][1])

    def remaining_problems(self) -> Iterator[Problem]:
        """Yield what was declared and occurs on none of the pages."""
        for symbol, scope, path, name in self._declared:
            inside = (name, name + ".") if name else ("", "")
            if not any(
                use[0] == path and (use[2] == inside[0] or use[2].startswith(inside[1]))
                for use in symbol.uses
            ):
                message = f"{symbol.latex[0]} occurs nowhere in {scope}{_DROP}"
                yield self._problem(symbol, message)
                continue
            for code in symbol.names[scope]:
                key = code_key(parse_expression(code))
                if (path, name, key) not in self.names_found:
                    message = f"code: {code} occurs nowhere in {scope}{_DROP}"
                    yield self._problem(symbol, message)


class SymbolFeature(Feature):
    """Marks the symbols of one page, and gathers them in a legend."""

    def __init__(self, table: SymbolTable, source: Source, scopes: Scopes) -> None:
        self.table, self.source, self.scopes = table, source, scopes
        self.numbers: dict[tuple[int, str], int] = {}
        self.used: dict[int, Symbol] = {}
        self._forms_by_scope: dict[str, dict[Form, Symbol]] = {}
        self._scopes_declared = {where[2] for where in table.declared_in(source.path)}

    def _number(self, symbol: Symbol, scope: str, line: int) -> str:
        """Return a symbol's number in the outermost scope that declares it."""
        path = self.source.path
        declared = {name for s, _, name in self.table.declared_in(path) if s is symbol}
        within = [name for name in enclosing_scopes(scope) if name and name in declared]
        symbol.uses.add((path, line, scope))
        self.used[symbol.line] = symbol
        key = symbol.line, within[-1] if within else ""
        return str(self.numbers.setdefault(key, len(self.numbers) + 1))

    def marks(self, link: Link) -> Iterator[Mark]:
        """Yield the marks of all symbols in the code."""
        if not self._scopes_declared:
            return
        for scope, node in expressions(self.source):
            key = code_key(node)
            symbol, given = self.symbol_of(key, node, scope)
            if symbol is None:
                continue
            self.table.names_found.add((self.source.path, given, key))
            number = self._number(symbol, scope, node.lineno)
            for line, start, end in self.scopes.places_of(node):
                yield Mark(line, start, end, (("data-s", number),))

    def symbol_of(
        self, key: str, node: ast.expr | ast.arg, scope: str
    ) -> tuple[Symbol | None, str]:
        """Return an expression's symbol, and the scope that declares it."""
        own = False
        for name in enclosing_scopes(scope):
            if not (own and self.scopes.is_function(name)):
                declared = self.table.by_name.get((self.source.path, name))
                if declared and key in declared:
                    return declared[key], name
            own = own or self.scopes.binds(name, _first_name(node))
        return None, ""

    def formula(self, mathml: str, line: int) -> str:
        """Return a formula with its symbols marked."""
        scope = self.scopes.scope_at(line)
        forms = self._forms(scope)
        if not forms:
            return mathml
        tree = parse_mathml(mathml)
        FormulaMarker(forms, lambda s: self._number(s, scope, line)).mark(tree)
        return ElementTree.tostring(
            tree, encoding="unicode", short_empty_elements=False
        )

    def _forms(self, scope: str) -> dict[Form, Symbol]:
        """Return the forms that hold in a scope."""
        if scope in self._forms_by_scope:
            return self._forms_by_scope[scope]
        found = self._forms_by_scope.setdefault(scope, {})
        for name in enclosing_scopes(scope):
            by_form = self.table.by_form.get((self.source.path, name), {})
            for symbol in by_form.values():
                for latex in symbol.latex:
                    found.setdefault(form_of(latex), symbol)
        return found

    def foot(self) -> str:
        """Return a legend of the page's symbols."""
        if not self.used:
            return ""
        return render("symbols.html", entries=map(self._entry, self.used.values()))

    def _entry(self, symbol: Symbol) -> dict[str, Any]:
        declared = self.table.declared_in(self.source.path)
        names = [
            name
            for other, scope, _ in declared
            if other is symbol
            for name in symbol.names[scope]
        ]
        return {
            "symbol": symbol,
            "numbers": [
                n for (line, _), n in self.numbers.items() if line == symbol.line
            ],
            "names": dict.fromkeys(names),
        }


def _first_name(node: ast.AST) -> str:
    """Return the name that an expression begins with."""
    while not isinstance(node, ast.Name | ast.arg):
        value: Any = getattr(node, "value", None) or getattr(node, "func", None)
        if not isinstance(value, ast.AST):
            return ""
        node = value
    return node.id if isinstance(node, ast.Name) else node.arg
