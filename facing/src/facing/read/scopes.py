"""Scopes: in which module, class or function a name means something.

`var` in one function is not `var` in another. A scope is named by dots as Python
names it: `batch_norm.BatchNorm.forward`. What stands in a docstring or in a body
belongs to the scope of that definition; decorators, defaults and annotations
belong to the scope around it.
"""

import ast
from collections.abc import Iterator

from facing.read.source import Definition, Source

Function = ast.FunctionDef | ast.AsyncFunctionDef
Place = tuple[int, int, int]  # line, first column, column behind the last


class Scopes:
    """The scopes of one file, by line and by name."""

    def __init__(self, source: Source) -> None:
        self.lines = source.lines
        self._ranges: list[tuple[int, int, str]] = []
        self.definitions: dict[str, Definition] = {}
        self._add_definitions(source.tree, "")
        self.names = {"", *self.definitions}

    def is_function(self, name: str) -> bool:
        """Tell whether a scope is a function."""
        node = self.definitions.get(name)
        return node is not None and not isinstance(node, ast.ClassDef)

    def binds(self, scope: str, name: str) -> bool:
        """Tell whether a scope is a function with a local variable of this name."""
        node = self.definitions.get(scope)
        if node is None or isinstance(node, ast.ClassDef):
            return False
        return name in bound_names(node)

    def _add_definitions(self, parent: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, Definition):
                name = prefix + node.name
                self._ranges.append((node.lineno, self._last_line(node), name))
                self.definitions.setdefault(name, node)
                self._add_definitions(node, name + ".")
            else:
                self._add_definitions(node, prefix)

    def _last_line(self, node: Definition) -> int:
        """Find a definition's last line, comments at its end included."""
        end = last = node.end_lineno or node.lineno
        for text in self.lines[end:]:
            bare = text.lstrip()
            indent = len(text) - len(bare)
            if bare and not (bare[0] == "#" and indent > node.col_offset):
                break
            end += 1
            last = end if bare else last
        return last

    def scope_at(self, line: int) -> str:
        """Return the innermost scope that holds a line; "" is the module."""
        holding = [each for each in self._ranges if each[0] <= line <= each[1]]
        return max(holding, default=(0, 0, ""))[2]

    def places_of(self, node: ast.expr | ast.arg) -> Iterator[Place]:
        """Yield where an expression stands, line by line."""
        first, last = node.lineno, node.end_lineno or node.lineno
        end = node.end_col_offset or 0
        if isinstance(node, ast.arg):  # the name, without its annotation
            last, end = first, node.col_offset + len(node.arg.encode())
        for n in range(first, last + 1):
            text = self.lines[n - 1]
            # Python counts columns in bytes of UTF-8.
            data = text.encode()
            start = len(data[: node.col_offset].decode()) if n == first else 0
            stop = len(data[:end].decode()) if n == last else len(text)
            shown = text[start:stop]
            start += len(shown) - len(shown.lstrip())
            if shown.strip():
                yield n, start, start + len(shown.strip())


def enclosing_scopes(scope: str) -> Iterator[str]:
    """Yield a scope and those around it, from the inside out."""
    while scope:
        yield scope
        scope = scope.rpartition(".")[0]
    yield ""


Expression = tuple[str, ast.expr | ast.arg]


def expressions(source: Source) -> Iterator[Expression]:
    """Yield each expression of a file with its scope, outer ones first.

    What a function binds anew for itself (the parameters of a nested
    function or a lambda, the variable of a comprehension) is another thing
    of the same name, and left out if it would be taken for the outer one.
    f-strings are left out: before Python 3.12 their parts have no place.
    """
    yield from _ExpressionWalk().body(source.tree, "")


class _ExpressionWalk:
    """Goes through a tree, and knows in which scope it is."""

    def __init__(self) -> None:
        self.rebound: list[set[str]] = []  # names that inner scopes bind anew

    def body(self, node: ast.AST, scope: str) -> Iterator[Expression]:
        for child in ast.iter_child_nodes(node):
            yield from self.walk(child, scope)

    def walk(self, node: ast.AST, scope: str) -> Iterator[Expression]:
        if isinstance(node, Function):
            yield from self.function(node, scope)
        elif isinstance(node, ast.ClassDef):
            for outer in (*node.decorator_list, *node.bases, *node.keywords):
                yield from self.walk(outer, scope)
            for statement in node.body:
                yield from self.walk(statement, _join(scope, node.name))
        elif isinstance(node, _COMPREHENSIONS):
            bound = {n for g in node.generators for n in stored_names(g.target)}
            yield from self.inner(node, scope, bound)
        elif isinstance(node, ast.Lambda):
            yield from self.inner(node, scope, {a.arg for a in arguments(node)})
        elif not isinstance(node, ast.JoinedStr):
            if isinstance(node, ast.expr) and not self._is_rebound(node):
                yield scope, node
            if isinstance(node, ast.arg) and not self._is_rebound(node):
                yield scope, node
            yield from self.body(node, scope)

    def function(self, node: Function, scope: str) -> Iterator[Expression]:
        defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        notes = [a.annotation for a in arguments(node)] + [node.returns]
        for outer in (*node.decorator_list, *defaults, *filter(None, notes)):
            yield from self.walk(outer, scope)
        name = _join(scope, node.name)
        for argument in arguments(node):
            yield name, argument
        for statement in node.body:
            yield from self.walk(statement, name)

    def inner(self, node: ast.AST, scope: str, bound: set[str]) -> Iterator[Expression]:
        self.rebound.append(bound)
        yield from self.body(node, scope)
        self.rebound.pop()

    def _is_rebound(self, node: ast.expr | ast.arg) -> bool:
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        if isinstance(node, ast.arg):
            names = {node.arg}
        return any(names & bound for bound in self.rebound)


_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _join(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name


def arguments(node: Function | ast.Lambda) -> list[ast.arg]:
    """Return all parameters of a function, in their order."""
    a = node.args
    found = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
    return [each for each in found if each]


def bound_names(node: Function) -> set[str]:
    """Return the names of a function's parameters and local variables."""
    found = {a.arg for a in arguments(node)}
    outside: set[str] = set()
    todo: list[ast.AST] = list(node.body)
    while todo:
        part = todo.pop()
        if isinstance(part, ast.Nonlocal | ast.Global):
            outside.update(part.names)
        elif isinstance(part, Definition):
            found.add(part.name)
        elif not isinstance(part, (*_COMPREHENSIONS, ast.Lambda)):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                found.add(part.id)
            if isinstance(part, ast.alias):
                found.add(part.asname or part.name.partition(".")[0])
            if isinstance(part, ast.ExceptHandler) and part.name:
                found.add(part.name)
            todo += ast.iter_child_nodes(part)
    return found - outside


def stored_names(node: ast.AST) -> list[str]:
    """Return the names that a target binds."""
    return [
        n.id
        for n in ast.walk(node)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]
