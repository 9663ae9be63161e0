"""Work out what names in the code mean: definitions, imports, others' libraries.

What a name means is read from the syntax tree, never guessed. If it could be two
things, it means nothing.
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from facing.problem import Problem
from facing.read.scopes import (
    Function,
    Scopes,
    arguments,
    bound_names,
    enclosing_scopes,
)
from facing.read.source import Definition, Source, parse_python
from facing.read.text import read_text


@dataclass(frozen=True)
class External:
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


Meaning = External | Import | Defined


@dataclass(eq=False)
class Module:
    """A module of the project, which may have no page itself."""

    name: str
    tree: ast.Module
    page: Path | None
    package: bool
    bindings: dict[str, list[Meaning]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bindings = self.bindings_of(self.tree)

    def bindings_of(self, scope: ast.AST) -> dict[str, list[Meaning]]:
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
                    found[short].append(self._import_of(node, alias))
            elif not isinstance(node, ast.Lambda | ast.comprehension):
                if isinstance(node, ast.Name) and is_set(node):
                    found[node.id].append(Defined(self, node.lineno))
                todo += list(ast.iter_child_nodes(node))[::-1]
        return found

    def _import_of(self, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> Import:
        if isinstance(node, ast.ImportFrom):
            return Import(self.imported_module(node), alias.name)
        whole = alias.name if alias.asname else alias.name.partition(".")[0]
        return Import(whole)

    def imported_module(self, node: ast.ImportFrom) -> str:
        """Return the module that `from ... import` names, dots resolved."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        up = node.level - self.package
        base = parts[: len(parts) - up] if up else parts
        return ".".join([*base, *filter(None, [node.module])])


def is_set(node: ast.expr) -> bool:
    """Tell whether a name or an attribute is assigned here."""
    return isinstance(getattr(node, "ctx", None), ast.Store)


class NameIndex:
    """Knows what is defined where in a project.

    `addresses` are those of other libraries' names.
    """

    def __init__(self, sources: Sequence[Source], addresses: dict[str, str]) -> None:
        self.addresses = addresses
        self.roots = sorted({source.root for source in sources})
        self.modules: dict[str, Module | None] = {}
        self.pages = {}
        for source in sources:
            package = source.path.stem == "__init__"
            module = Module(source.module, source.tree, source.path, package)
            self.pages[source.path] = module
            self.modules.setdefault(source.module, module)

    def module(self, name: str) -> Module | None:
        """Find a module of the project, among the pages or beside them."""
        if name not in self.modules:
            self.modules[name] = self._read_module(name)
        return self.modules[name]

    def _read_module(self, name: str) -> Module | None:
        for root in self.roots:
            base = root.joinpath(*name.split("."))
            for path in (base / "__init__.py", base.with_suffix(".py")):
                if path.is_file():
                    try:
                        tree, _ = parse_python(path, read_text(path))
                    except Problem:
                        return None
                    package = path.stem == "__init__"
                    return Module(name, tree, None, package)
        return None

    def resolve(self, found: Sequence[Meaning], depth: int = 0) -> Meaning | None:
        """Return the one thing that a name's bindings mean, imports followed.

        A variable is where it is first set. A name bound in several ways could be
        any of them.
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
        if isinstance(of, External):
            return External(f"{of.name}.{name}")
        if isinstance(of, Import):
            module = self.module(of.module)
            if module and name in module.bindings:
                return self.resolve(module.bindings[name], depth + 1)
            below = f"{of.module}.{name}"
            if self.module(below):
                return Import(below)
            return None if module else External(below)
        if isinstance(of, Defined) and isinstance(of.node, ast.ClassDef):
            return self.attribute(self.lookup_order(of), name)
        return None

    def attribute(self, classes: Iterable[Meaning | None], name: str) -> Meaning | None:
        """Look a name up in classes, in order, while they are known."""
        for each in classes:
            if isinstance(each, External):
                found = External(f"{each.name}.{name}")
                if found.name in self.addresses:
                    return found
            if not isinstance(each, Defined):
                return None
            lines = attributes(each.node)
            if name in lines:
                line, node = lines[name]
                return Defined(each.module, line, node)
        return None

    def lookup_order(self, of: Defined) -> list[Meaning | None]:
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
                here = NameReader(self, each.module)
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
        for line, name in _set_on_self(method):
            found.setdefault(name, (line, None))
    return found


def _set_on_self(method: Function) -> list[tuple[int, str]]:
    """Return the attributes that a method sets on `self`, by line."""
    own = self_name(method)
    return sorted(
        (part.end_lineno or part.lineno, part.attr)
        for part in ast.walk(method)
        if isinstance(part, ast.Attribute)
        and is_set(part)
        and isinstance(part.value, ast.Name)
        and part.value.id == own
    )


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def self_name(node: ast.AST) -> str:
    """Return what a method calls its object or class: mostly `self`."""
    if not isinstance(node, Function) or not arguments(node):
        return ""
    static = any(
        isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list
    )
    return "" if static else arguments(node)[0].arg


class NameReader:
    """Reads what the expressions of one module mean."""

    def __init__(self, names: NameIndex, module: Module) -> None:
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
        classes = self.names.lookup_order(own)[_is_super(node.value) :]
        return self.names.attribute(classes, node.attr)

    def name(self, node: ast.Name, scope: str) -> Meaning | None:
        """Return what a name means in a scope, by Python's rules."""
        name = node.id
        for where in filter(None, enclosing_scopes(scope) if self.scopes else ()):
            assert self.scopes
            around_it = self.scopes.definitions[where]
            is_class = isinstance(around_it, ast.ClassDef)
            if is_class and where != scope:
                continue  # a class's names are not its methods'
            found = self._bindings(where, around_it).get(name, [])
            if isinstance(around_it, ast.ClassDef):
                if found:
                    one = self.names.resolve(found)
                    # Until a class's body sets it, a name is that around it.
                    late = isinstance(one, Defined) and one.line >= node.lineno
                    return None if late else one
            elif name in bound_names(around_it):
                # A variable leads nowhere; what a function defines does.
                one = self.names.resolve(found)
                known = isinstance(one, Defined) and one.node is None
                return None if known else one
        return self.names.resolve(self.module.bindings.get(name, []))

    def _bindings(self, where: str, node: Definition) -> dict[str, list[Meaning]]:
        if where not in self._bound:
            found = self.module.bindings_of(ast.Module(node.body, []))
            for argument in arguments(node) if isinstance(node, Function) else ():
                here = Defined(self.module, argument.lineno)
                found[argument.arg].append(here)
            self._bound[where] = found
        return self._bound[where]

    def own_class(self, node: ast.AST, scope: str) -> Defined | None:
        """Return the class that `self`, or `super()`, stands for."""
        assert self.scopes or not scope
        for where in filter(None, enclosing_scopes(scope)):
            assert self.scopes
            method = self.scopes.definitions[where]
            outer = self.scopes.definitions.get(where.rpartition(".")[0])
            name = self_name(method)
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
