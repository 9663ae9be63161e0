r"""
# Names that lead somewhere

A name in the code that means something defined in the project is a link to
the line where that is: a class, a function, a method, an attribute, whatever
was imported. A name of another library leads to its documentation, where a
YAML file gives the address:

    https://docs.example.org/generated/{name}.html:
      - library.Thing
      - library.function

What a name means is worked out from the syntax tree, never guessed. Where it
could be two things, it is no link.

The other way round, a name is a place to link to: where a function first
sets `var`, that token has the id `Class.function.var`.
"""

import ast
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from facing.page import Feature, Link
from facing.read.scopes import (
    Function,
    Scopes,
    arguments,
    around,
    bound,
    expressions,
)
from facing.read.source import (
    Definition,
    Problem,
    Source,
    decode,
    reading_yaml,
    syntax,
)
from facing.text.code import Mark

# ## What a name can mean


@dataclass(frozen=True)
class Elsewhere:
    """Something outside the project, by its full name."""

    name: str


@dataclass(frozen=True)
class Import:
    """What an import binds: a module, or something in it."""

    module: str
    name: str = ""


@dataclass(frozen=True, eq=False)
class Defined:
    """Something defined at a line of a module."""

    module: "Module"
    line: int
    node: ast.AST | None = None


Meaning = Elsewhere | Import | Defined


@dataclass(eq=False)
class Module:
    """A module of the project, which may have no page itself."""

    name: str
    tree: ast.Module
    page: Path | None
    package: bool
    bindings: dict[str, list[Meaning]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bindings = self.bound_in(self.tree)

    def bound_in(self, scope: ast.AST) -> dict[str, list[Meaning]]:
        """Return what the statements of a scope bind, each name's all."""
        found: dict[str, list[Meaning]] = defaultdict(list)
        todo = list(ast.iter_child_nodes(scope))[::-1]
        while todo:
            node = todo.pop()
            if isinstance(node, Definition):
                found[node.name].append(Defined(self, node.lineno, node))
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    short = alias.asname or alias.name.partition(".")[0]
                    found[short].append(self._imported(node, alias))
            elif not isinstance(node, ast.Lambda | ast.comprehension):
                if isinstance(node, ast.Name) and _is_set(node):
                    found[node.id].append(Defined(self, node.lineno))
                todo += list(ast.iter_child_nodes(node))[::-1]
        return found

    def _imported(self, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> Import:
        if isinstance(node, ast.ImportFrom):
            return Import(self.origin(node), alias.name)
        whole = alias.name if alias.asname else alias.name.partition(".")[0]
        return Import(whole)

    def origin(self, node: ast.ImportFrom) -> str:
        """Return the module that `from ... import` names, dots resolved."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        up = node.level - self.package
        base = parts[: len(parts) - up] if up else parts
        return ".".join([*base, *filter(None, [node.module])])


def _is_set(node: ast.expr) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store)


# ## The project


class Names:
    """Knows what is defined where in a project, and others' addresses."""

    def __init__(
        self, sources: Sequence[Source], addresses: Path | None = None
    ) -> None:
        self.addresses = read_addresses(addresses) if addresses else {}
        self.roots = sorted({source.root for source in sources})
        self.modules: dict[str, Module | None] = {}
        self.pages = {}
        for source in sources:
            package = source.path.stem == "__init__"
            module = Module(source.module, source.tree, source.path, package)
            self.pages[source.path] = module
            self.modules.setdefault(source.module, module)

    def on(self, source: Source) -> "OnPage":
        """Return what names mean on one file's page."""
        return OnPage(self, source)

    def module(self, name: str) -> Module | None:
        """Find a module of the project, among the pages or beside them."""
        if name not in self.modules:
            self.modules[name] = self._read(name)
        return self.modules[name]

    def _read(self, name: str) -> Module | None:
        for root in self.roots:
            base = root.joinpath(*name.split("."))
            for path in (base / "__init__.py", base.with_suffix(".py")):
                if path.is_file():
                    try:
                        tree, _ = syntax(path, decode(path))
                    except Problem:
                        return None
                    package = path.stem == "__init__"
                    return Module(name, tree, None, package)
        return None

    def settle(self, found: Sequence[Meaning], depth: int = 0) -> Meaning | None:
        """
        Return the one thing that a name's bindings mean, imports followed.

        A variable is where it is first set. A name bound in several ways
        could be any of them.
        """
        plain = all(isinstance(m, Defined) and not m.node for m in found)
        if not found or depth > 9 or not (len(found) == 1 or plain):
            return None
        first = found[0]
        if not isinstance(first, Import) or not first.name:
            return first
        return self.member(Import(first.module), first.name, depth + 1)

    def member(self, of: Meaning | None, name: str, depth: int = 0) -> Meaning | None:
        """Return what a name means behind a dot."""
        if isinstance(of, Elsewhere):
            return Elsewhere(f"{of.name}.{name}")
        if isinstance(of, Import):
            module = self.module(of.module)
            if module and name in module.bindings:
                return self.settle(module.bindings[name], depth + 1)
            below = f"{of.module}.{name}"
            if self.module(below):
                return Import(below)
            return None if module else Elsewhere(below)
        if isinstance(of, Defined) and isinstance(of.node, ast.ClassDef):
            return self.attribute(self.order(of), name)
        return None

    def attribute(self, classes: Iterable[Meaning | None], name: str) -> Meaning | None:
        """Look a name up in classes, in order, while they are known."""
        for each in classes:
            if isinstance(each, Elsewhere):
                found = Elsewhere(f"{each.name}.{name}")
                if found.name in self.addresses:
                    return found
            if not isinstance(each, Defined):
                return None
            lines = attributes(each.node)
            if name in lines:
                line, node = lines[name]
                return Defined(each.module, line, node)
        return None

    def order(self, of: Defined) -> list[Meaning | None]:
        """Return a class and its bases, in the order of lookup."""
        found: list[Meaning | None] = []
        todo: list[Meaning | None] = [of]
        while todo and len(found) < 99:
            each = todo.pop()
            found.append(each)
            if isinstance(each, Defined):
                if not isinstance(each.node, ast.ClassDef):
                    found[-1] = None
                    continue
                here = Reader(self, each.module)
                bases = each.node.bases
                todo += [here.meaning(base, "") for base in bases][::-1]
        keys = [_identity(each) for each in found]
        return [e for i, e in enumerate(found) if keys[i] not in keys[i + 1 :]]


def _identity(meaning: Meaning | None) -> object:
    node = meaning.node if isinstance(meaning, Defined) else None
    return id(node) if node else meaning


@cache
def attributes(node: ast.AST | None) -> dict[str, tuple[int, ast.AST | None]]:
    """Return where a class's attributes are first set or defined."""
    found: dict[str, tuple[int, ast.AST | None]] = {}
    body = node.body if isinstance(node, ast.ClassDef) else []
    for part in body:
        if isinstance(part, Definition):
            found.setdefault(part.name, (part.lineno, part))
        elif isinstance(part, ast.Assign | ast.AnnAssign):
            for target in _targets(part):
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, (target.lineno, None))
    methods = [part for part in body if isinstance(part, Function)]
    for method in sorted(methods, key=lambda m: m.name != "__init__"):
        for line, name in _set_on_own(method):
            found.setdefault(name, (line, None))
    return found


def _set_on_own(method: Function) -> list[tuple[int, str]]:
    """Return the attributes that a method sets on `self`, by line."""
    own = own_name(method)
    return sorted(
        (part.end_lineno or part.lineno, part.attr)
        for part in ast.walk(method)
        if isinstance(part, ast.Attribute)
        and _is_set(part)
        and isinstance(part.value, ast.Name)
        and part.value.id == own
    )


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def own_name(node: ast.AST) -> str:
    """Return what a method calls its object or class: mostly `self`."""
    if not isinstance(node, Function) or not arguments(node):
        return ""
    static = any(
        isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list
    )
    return "" if static else arguments(node)[0].arg


class Reader:
    """Reads what the expressions of one module mean."""

    def __init__(self, names: Names, module: Module) -> None:
        self.names, self.module = names, module
        self.scopes: Scopes | None = None
        self._bound: dict[str, dict[str, list[Meaning]]] = {}

    def meaning(self, node: ast.AST, scope: str) -> Meaning | None:
        """Return what an expression means, if that is sure."""
        if isinstance(node, ast.Name):
            return self.name(node, scope)
        if not isinstance(node, ast.Attribute):
            return None
        own = self.own_class(node.value, scope)
        if own is None:
            value = self.meaning(node.value, scope)
            return self.names.member(value, node.attr)
        classes = self.names.order(own)[_is_super(node.value) :]
        return self.names.attribute(classes, node.attr)

    def name(self, node: ast.Name, scope: str) -> Meaning | None:
        """Return what a name means in a scope, by Python's rules."""
        name = node.id
        for where in filter(None, around(scope) if self.scopes else ()):
            assert self.scopes
            around_it = self.scopes.definitions[where]
            is_class = isinstance(around_it, ast.ClassDef)
            if is_class and where != scope:
                continue  # a class's names are not its methods'
            found = self._bindings(where, around_it).get(name, [])
            if isinstance(around_it, ast.ClassDef):
                if found:
                    one = self.names.settle(found)
                    # Until a class's body sets it, a name is that around it.
                    late = isinstance(one, Defined) and one.line >= node.lineno
                    return None if late else one
            elif name in bound(around_it):
                # A variable leads nowhere; what a function defines does.
                one = self.names.settle(found)
                known = isinstance(one, Defined) and one.node is None
                return None if known else one
        return self.names.settle(self.module.bindings.get(name, []))

    def _bindings(self, where: str, node: Definition) -> dict[str, list[Meaning]]:
        if where not in self._bound:
            found = self.module.bound_in(ast.Module(node.body, []))
            for argument in arguments(node) if isinstance(node, Function) else ():
                here = Defined(self.module, argument.lineno)
                found[argument.arg].append(here)
            self._bound[where] = found
        return self._bound[where]

    def own_class(self, node: ast.AST, scope: str) -> Defined | None:
        """Return the class that `self`, or `super()`, stands for."""
        assert self.scopes or not scope
        for where in filter(None, around(scope)):
            assert self.scopes
            method = self.scopes.definitions[where]
            outer = self.scopes.definitions.get(where.rpartition(".")[0])
            name = own_name(method)
            if isinstance(outer, ast.ClassDef):
                is_self = isinstance(node, ast.Name) and node.id == name
                if name and (is_self or _is_super(node)):
                    return Defined(self.module, outer.lineno, outer)
                return None
            if isinstance(node, ast.Name) and self.scopes.binds(where, node.id):
                return None
        return None


def _is_super(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "super"
        and not node.args
    )


# ## A page


class OnPage(Feature):
    """Links the names of one page, and makes names places to link to."""

    def __init__(self, names: Names, source: Source) -> None:
        self.names, self.source = names, source
        self.scopes = Scopes(source)
        self.reader = Reader(names, names.pages[source.path])
        self.reader.scopes = self.scopes

    def marks(self, link: Link) -> Iterator[Mark]:
        """Yield links for names, and ids for where they are first set."""
        for line, start, end, meaning in self._found():
            target = self._target(meaning)
            if target:
                href = target if "://" in target else link(target, line)
                yield Mark(line, start, end, (("href", href),))
        for name, (line, start, end) in self._first().items():
            yield Mark(line, start, end, (("id", name),))

    def _target(self, meaning: Meaning | None) -> str:
        """Return the address of what a name means, "" where it has none."""
        if isinstance(meaning, Elsewhere):
            return self.names.addresses.get(meaning.name, "")
        if isinstance(meaning, Import):
            module = self.names.module(meaning.module)
            if module is None:
                return self.names.addresses.get(meaning.module, "")
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

    def _found(self) -> Iterator[tuple[int, int, int, Meaning | None]]:
        for scope, node in expressions(self.source):
            if isinstance(node, ast.arg) or _is_set(node):
                continue
            if isinstance(node, ast.Name | ast.Attribute):
                place = self._last_word(node)
                yield *place, self.reader.meaning(node, scope)
        for part in ast.walk(self.source.tree):
            if isinstance(part, ast.Import | ast.ImportFrom):
                yield from self._imported(part)

    def _last_word(self, node: ast.Name | ast.Attribute) -> tuple[int, int, int]:
        line, _, end = list(self.scopes.places(node))[-1]
        word = node.id if isinstance(node, ast.Name) else node.attr
        return line, end - len(word), end

    def _imported(
        self, node: ast.Import | ast.ImportFrom
    ) -> Iterator[tuple[int, int, int, Meaning | None]]:
        module = ""
        if isinstance(node, ast.ImportFrom):
            module = self.reader.module.origin(node)
            text = self.source.lines[node.lineno - 1]
            word = re.compile(r"from\s+([\w.]+)").match(text, node.col_offset)
            if word:
                yield node.lineno, *word.span(1), Import(module)
        for alias in node.names:
            start = alias.col_offset
            place = alias.lineno, start, start + len(alias.name)
            if module:
                yield *place, self.names.member(Import(module), alias.name)
            elif isinstance(node, ast.Import):
                yield *place, Import(alias.name)

    def _first(self) -> dict[str, tuple[int, int, int]]:
        """Return each name's full name, and the place where it is first."""
        found: dict[str, tuple[int, int, int]] = {}
        for scope, node in expressions(self.source):
            name = self._full_name(node, scope)
            if not name or name in self.scopes.definitions:
                continue
            if isinstance(node, ast.Attribute):
                place = self._last_word(node)
            else:
                place = next(self.scopes.places(node))
            found[name] = min(place, found.get(name, place))
        return found

    def _full_name(self, node: ast.expr | ast.arg, scope: str) -> str:
        """Return the name that a token sets, with those around it."""
        if isinstance(node, ast.arg):
            own = self.reader.own_class(ast.Name(node.arg, ast.Load()), scope)
            return "" if own else f"{scope}.{node.arg}"
        if not _is_set(node):
            return ""
        if isinstance(node, ast.Name) and node.id != "_":
            if self.scopes.is_function(scope) and not self.scopes.binds(scope, node.id):
                return ""  # global or nonlocal: set elsewhere, too
            return f"{scope}.{node.id}".lstrip(".")
        return self._attribute(node, scope)

    def _attribute(self, node: ast.expr, scope: str) -> str:
        """Return the full name of an attribute where it is first set."""
        if not isinstance(node, ast.Attribute):
            return ""
        owner = self.reader.own_class(node.value, scope)
        first = attributes(owner.node).get(node.attr) if owner else None
        if owner is None or first != (node.end_lineno, None):
            return ""
        return next(
            f"{name}.{node.attr}"
            for name in around(scope)
            if self.scopes.definitions[name] is owner.node
        )


# ## Others' documentation


def read_addresses(path: Path) -> dict[str, str]:
    """
    Return the address of each name in a YAML file.

    **Raises**: `Problem` where the file cannot be read, or is not a mapping
    from addresses to lists of names.
    """
    with reading_yaml(path):
        top = yaml.safe_load(decode(path))
    found: dict[str, str] = {}
    for address, names in (top if isinstance(top, dict) else {"": ""}).items():
        if not re.match(r"https?://", str(address)) or not isinstance(names, list):
            reason = "expected addresses, each with a list of names below it"
            raise Problem(path, 1, reason)
        for name in names:
            found[name] = address.replace("{name}", name)
    return found
