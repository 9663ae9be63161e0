r"""
# Equations and their tests

A formula on a page is easily wrong, or becomes wrong when the code changes.
So a displayed equation may have a name, written behind it,

    $$y = \gamma \hat x + \beta$$ {#normalize}

and a test may say that it asserts that equation:

    @pytest.mark.equation("batch_norm.normalize")

The name becomes the equation's id, and the page shows the tests. Where tests
are given, the pages and the tests are held to each other: an equation without
a test is reported, and so is a test that names no equation. What states no
law of the code, a definition of notation say, is declared so: `{.notation}`.

Markers are read from the tests' source. No test is imported or run here.
"""

import ast
import difflib
import html
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from facing.read.source import Problem, decode, syntax


@dataclass(frozen=True)
class Equation:
    """
    A displayed equation: where it stands, and its name, if it has one.

    `law` is false where it was declared to be notation, or its name is wrong
    and was reported.
    """

    path: Path
    line: int
    name: str = ""
    law: bool = True

    @property
    def parts(self) -> tuple[str, ...]:
        """The full name: the file's dotted path, then the equation's own."""
        parts = self.path.with_suffix("").parts
        return (*parts, self.name) if self.name else parts


# ## On a page

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class Equations:
    """
    Frames the equations of one page, and gathers what is wrong in them.

    `taken` are names that lead somewhere else on the page. An equation would
    take their place.
    """

    def __init__(self, path: Path, taken: set[str], proofs: "Proofs | None") -> None:
        self.path, self.taken, self.proofs = path, taken, proofs
        self.problems: list[Problem] = []
        # By place, for a note that is rendered twice has each only once.
        self._found: dict[tuple[int, str], Equation] = {}

    @property
    def found(self) -> list[Equation]:
        """The equations in the order of the page."""
        return list(self._found.values())

    def frame(self, line: int, source: str, attributes: str, block: str) -> str:
        """Return an equation's HTML, with its name and its tests."""
        equation = self._found.get((line, source))
        if equation is None:
            equation = self._read(line, attributes)
            self._found[line, source] = equation
        if not equation.name:
            return block
        return (
            f'<span class="equation" id="{equation.name}">{block}'
            f'<span class="proof">{self._caption(equation)}</span></span>'
        )

    def _read(self, line: int, attributes: str) -> Equation:
        name, law = "", True
        for word in attributes.split():
            if word == ".notation":
                law = False
            elif word[0] == "#" and not name:
                name = self._checked(line, word[1:])
                law = law and bool(name)
            else:
                self._report(
                    line,
                    f"behind an equation stand {{#name}} and {{.notation}}, "
                    f"and not {word}",
                )
        return Equation(self.path, line, name, law)

    def _checked(self, line: int, name: str) -> str:
        before = [e.line for e in self.found if e.name == name]
        if not _NAME.fullmatch(name):
            reason = (
                "is no name for an equation: use lower-case letters, digits "
                "and single hyphens, a letter first"
            )
        elif before:
            reason = f"already names the equation at line {before[0]}"
        elif name in self.taken:
            reason = "already names a place on this page; choose another name"
        else:
            return name
        self._report(line, f"{name!r} {reason}")
        return ""

    def _report(self, line: int, message: str) -> None:
        self.problems.append(Problem(self.path, line, message))

    def _caption(self, equation: Equation) -> str:
        link = (
            f'<a href="#{equation.name}" aria-label="Link to the equation '
            f'{equation.name}">{equation.name}</a>'
        )
        proofs = self.proofs.of(equation) if self.proofs else []
        tests = ", ".join(map(self._test, proofs))
        return f"{link} tested: {tests}" if tests else link

    def _test(self, proof: "Proof") -> str:
        place = os.path.relpath(proof.path, self.path.parent)
        target = f"{Path(place).as_posix()}#L{proof.line}"
        words = proof.test.removeprefix("test_").replace("_", " ")
        return f'<a href="{html.escape(target)}">{html.escape(words)}</a>'


# ## In the tests


@dataclass(frozen=True)
class Proof:
    """
    A test's word that it asserts an equation.

    `line` is where the test begins, `marked` where it names the equation.
    """

    equation: str
    path: Path
    line: int
    test: str
    marked: int

    def names(self, equation: Equation) -> bool:
        """Tell whether an equation's full name ends in the given one."""
        parts = tuple(self.equation.split("."))
        return len(parts) > 1 and equation.parts[-len(parts) :] == parts


@dataclass
class Proofs:
    """All markers of some tests, and what is wrong in them."""

    proofs: list[Proof] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def read(cls, paths: Iterable[Path], root: Path = Path()) -> "Proofs":
        """Read the markers of test files, named by their paths from root."""
        read = cls()
        for path in paths:
            try:
                tree, _ = syntax(path, decode(root / path))
            except Problem as problem:
                read.problems.append(problem)
                continue
            for marker, call, test in _markers(tree):
                read._add(path, marker, call, test)
        return read

    def _add(
        self,
        path: Path,
        marker: ast.expr,
        call: ast.Call | None,
        test: ast.stmt | None,
    ) -> None:
        names = [
            each.value
            for each in (call.args if call else ())
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        if not call:
            wrong = (
                "must be called where it stands, with names: "
                '@pytest.mark.equation("module.name")'
            )
        elif not names or len(names) < len(call.args) or call.keywords:
            wrong = "names equations by plain strings, one or more"
        elif not isinstance(test, _Test):
            wrong = "must stand right at a test: as its decorator"
        else:
            self.proofs += [
                Proof(name, path, test.lineno, test.name, marker.lineno)
                for name in names
            ]
            return
        message = f"the marker `equation` {wrong}"
        self.problems.append(Problem(path, marker.lineno, message))

    def of(self, equation: Equation) -> list[Proof]:
        """Return the proofs of an equation."""
        return [p for p in self.proofs if equation.name and p.names(equation)]

    def check(self, equations: list[Equation]) -> list[Problem]:
        """Hold equations and tests to each other."""
        return [
            *self.problems,
            *(p for e in equations for p in self._of_equation(e)),
            *(p for each in self.proofs for p in _of_proof(each, equations)),
        ]

    def _of_equation(self, equation: Equation) -> Iterator[Problem]:
        name = ".".join(equation.parts[-2:])
        if not equation.law or self.of(equation):
            return
        message = (
            f"no test asserts the equation {equation.name}: mark one with "
            f'@pytest.mark.equation("{name}")'
            if equation.name
            else "an equation without a name: write {#name} behind it and "
            "mark a test with it, or {.notation} where it states no law of "
            "the code"
        )
        yield Problem(equation.path, equation.line, message)


def _of_proof(proof: Proof, equations: list[Equation]) -> Iterator[Problem]:
    found = [e for e in equations if e.name and proof.names(e)]
    if len(found) == 1:
        return
    named = f"the equation {proof.equation!r}, which {proof.test} names,"
    if found:
        places = " and ".join(f"{e.path}:{e.line}" for e in found)
        wrong = f"is at {places}: write more of the path before its name"
    else:
        known = [".".join(e.parts[-2:]) for e in equations if e.name]
        close = difflib.get_close_matches(proof.equation, known, 3, 0.5)
        wrong = "is on no page"
        wrong += f"; did you mean {' or '.join(close)}?" if close else ""
    yield Problem(proof.path, proof.marked, f"{named} {wrong}")


_Test = ast.FunctionDef | ast.AsyncFunctionDef


_Marker = tuple[ast.expr, ast.Call | None, ast.stmt | None]


def _markers(tree: ast.Module) -> Iterator[_Marker]:
    """
    Yield each marker with its call, and the test that it decorates.

    It may stand inside another decorator, as with `pytest.param`.
    """
    at = {
        id(part): node
        for node in ast.walk(tree)
        if isinstance(node, _Test) and node.name.startswith("test")
        for decorator in node.decorator_list
        for part in ast.walk(decorator)
    }
    parts = list(ast.walk(tree))
    calls = {id(p.func): p for p in parts if isinstance(p, ast.Call)}
    for part in parts:
        if _is_marker(part):
            yield part, calls.get(id(part)), at.get(id(part))


def _is_marker(node: ast.AST) -> TypeGuard[ast.Attribute]:
    """Tell whether this is `pytest.mark.equation`, or `mark.equation`."""
    if not isinstance(node, ast.Attribute) or node.attr != "equation":
        return False
    of = node.value
    return "mark" in (getattr(of, "attr", ""), getattr(of, "id", ""))
