"""Link names in the code to where they are defined.

A name that means something defined in the project is a link to the line where that
is: a class, a function, a method, an attribute, whatever was imported. A name of
another library leads to its documentation, if a YAML file gives the address:

    https://docs.example.org/generated/{name}.html:
      - library.Thing
      - library.function

The other way round, a name is a place to link to: where a function first sets
`var`, that token has the id `Class.function.var`.
"""

import ast
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from facing.feature import BookFeature, Feature, Link
from facing.features.name_index import (
    External,
    Import,
    Meaning,
    Module,
    NameIndex,
    NameReader,
    attributes,
    is_set,
)
from facing.problem import Problem
from facing.read.scopes import Scopes, enclosing_scopes, expressions
from facing.read.source import Source
from facing.read.yaml import load_yaml
from facing.text.code import Mark


class NameLinks(BookFeature):
    """Knows what is defined where in a project, and others' addresses."""

    def __init__(
        self, sources: Sequence[Source], addresses: Path | None = None
    ) -> None:
        known = read_addresses(addresses) if addresses else {}
        self.index = NameIndex(sources, known)

    def on_page(self, source: Source) -> "NameFeature":
        """Return what names mean on one file's page."""
        return NameFeature(self.index, source)


class NameFeature(Feature):
    """Links the names of one page, and makes names places to link to."""

    def __init__(self, index: NameIndex, source: Source) -> None:
        self.index, self.source = index, source
        self.scopes = Scopes(source)
        self.reader = NameReader(index, index.pages[source.path])
        self.reader.scopes = self.scopes

    def marks(self, link: Link) -> Iterator[Mark]:
        """Yield links for names, and ids for where they are first set."""
        for line, start, end, meaning in self._meanings():
            target = self._target(meaning)
            if target:
                href = target if "://" in target else link(target, line)
                yield Mark(line, start, end, (("href", href),))
        for name, (line, start, end) in self._first_places().items():
            yield Mark(line, start, end, (("id", name),))

    def _target(self, meaning: Meaning | None) -> str:
        """Return the address of what a name means, "" if it has none."""
        if isinstance(meaning, External):
            return self.index.addresses.get(meaning.name, "")
        if isinstance(meaning, Import):
            module = self.index.module(meaning.module)
            if module is None:
                return self.index.addresses.get(meaning.module, "")
            return self._address(module)
        if meaning and meaning.module.page == self.source.path:
            return f"#L{meaning.line}"
        address = self._address(meaning.module) if meaning else ""
        return f"{address}#L{meaning.line}" if meaning and address else ""

    def _address(self, module: Module) -> str:
        if module.page in (None, self.source.path):
            return ""
        path = os.path.relpath(module.page or "", self.source.path.parent)
        return Path(path).as_posix()

    def _meanings(self) -> Iterator[tuple[int, int, int, Meaning | None]]:
        for scope, node in expressions(self.source):
            if isinstance(node, ast.arg) or is_set(node):
                continue
            if isinstance(node, ast.Name | ast.Attribute):
                place = self._last_word(node)
                yield *place, self.reader.meaning(node, scope)
        for part in ast.walk(self.source.tree):
            if isinstance(part, ast.Import | ast.ImportFrom):
                yield from self._import_places(part)

    def _last_word(self, node: ast.Name | ast.Attribute) -> tuple[int, int, int]:
        line, _, end = list(self.scopes.places_of(node))[-1]
        word = node.id if isinstance(node, ast.Name) else node.attr
        return line, end - len(word), end

    def _import_places(
        self, node: ast.Import | ast.ImportFrom
    ) -> Iterator[tuple[int, int, int, Meaning | None]]:
        module = ""
        if isinstance(node, ast.ImportFrom):
            module = self.reader.module.imported_module(node)
            text = self.source.lines[node.lineno - 1]
            word = re.compile(r"from\s+([\w.]+)").match(text, node.col_offset)
            if word:
                yield node.lineno, *word.span(1), Import(module)
        for alias in node.names:
            start = alias.col_offset
            place = alias.lineno, start, start + len(alias.name)
            if module:
                yield *place, self.index.member(Import(module), alias.name)
            elif isinstance(node, ast.Import):
                yield *place, Import(alias.name)

    def _first_places(self) -> dict[str, tuple[int, int, int]]:
        """Return each name's full name, and the first place that sets it."""
        found: dict[str, tuple[int, int, int]] = {}
        for scope, node in expressions(self.source):
            name = self._full_name(node, scope)
            if not name or name in self.scopes.definitions:
                continue
            if isinstance(node, ast.Attribute):
                place = self._last_word(node)
            else:
                place = next(self.scopes.places_of(node))
            found[name] = min(place, found.get(name, place))
        return found

    def _full_name(self, node: ast.expr | ast.arg, scope: str) -> str:
        """Return the name that a token sets, with those around it."""
        if isinstance(node, ast.arg):
            own = self.reader.own_class(ast.Name(node.arg, ast.Load()), scope)
            return "" if own else f"{scope}.{node.arg}"
        if not is_set(node):
            return ""
        if isinstance(node, ast.Name) and node.id != "_":
            if self.scopes.is_function(scope) and not self.scopes.binds(scope, node.id):
                return ""  # global or nonlocal: set elsewhere, too
            return f"{scope}.{node.id}".lstrip(".")
        return self._attribute_name(node, scope)

    def _attribute_name(self, node: ast.expr, scope: str) -> str:
        """Return an attribute's full name if it is first set here, or ""."""
        if not isinstance(node, ast.Attribute):
            return ""
        owner = self.reader.own_class(node.value, scope)
        first = attributes(owner.node).get(node.attr) if owner else None
        if owner is None or first != (node.end_lineno, None):
            return ""
        return next(
            f"{name}.{node.attr}"
            for name in enclosing_scopes(scope)
            if self.scopes.definitions[name] is owner.node
        )


def read_addresses(path: Path) -> dict[str, str]:
    """Return the address of each name in a YAML file.

    Raises `Problem` if the file cannot be read, or is not a mapping from addresses
    to lists of names.
    """
    top = load_yaml(path)
    found: dict[str, str] = {}
    for address, names in (top if isinstance(top, dict) else {"": ""}).items():
        if not re.match(r"https?://", str(address)) or not isinstance(names, list):
            reason = "expected addresses, each with a list of names below it"
            raise Problem(path, 1, reason)
        for name in names:
            found[name] = address.replace("{name}", name)
    return found
