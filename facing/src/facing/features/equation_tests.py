"""Hold the equations of pages and the tests that assert them to each other.

A formula on a page is easily wrong, or becomes wrong when the code changes. So a
test may say that it asserts a named equation:

    @pytest.mark.equation("batch_norm.normalize")

The page shows the tests behind the equation. An equation without a test is
reported, and so is a test that names no equation.

Markers are read from the tests' source. No test is imported or run here.
"""

import ast
import difflib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from facing.feature import BookFeature, Feature
from facing.problem import Problem
from facing.read.source import Source, parse_python
from facing.read.text import read_text
from facing.templating import render
from facing.text.equations import Equation


@dataclass(frozen=True)
class EquationTest:
    """A test that says it asserts an equation.

    `line` is where the test begins, `marked` where it names the equation.
    """

    equation: str
    path: Path
    line: int
    name: str
    marked: int

    def asserts(self, equation: Equation) -> bool:
        """Tell whether an equation's full name ends in the given one."""
        parts = tuple(self.equation.split("."))
        return len(parts) > 1 and equation.parts[-len(parts) :] == parts


class EquationTests(BookFeature):
    """All equation markers of some test files, named by their paths from root."""

    def __init__(self, paths: Iterable[Path] = (), root: Path = Path()) -> None:
        self.tests: list[EquationTest] = []
        self.problems: list[Problem] = []
        for path in paths:
            try:
                tree, _ = parse_python(path, read_text(root / path))
            except Problem as problem:
                self.problems.append(problem)
            else:
                self._read_markers(path, tree)

    def _read_markers(self, path: Path, tree: ast.Module) -> None:
        for marker, call, test in _markers(tree):
            wrong = _marker_mistake(call, test)
            if wrong:
                message = f"the marker `equation` {wrong}"
                self.problems.append(Problem(path, marker.lineno, message))
            elif isinstance(test, _Test):
                self.tests += [
                    EquationTest(name, path, test.lineno, test.name, marker.lineno)
                    for name in _names(call)
                ]

    def on_page(self, source: Source) -> "EquationTestFeature":
        """Return what one page shows of the tests."""
        return EquationTestFeature(self, source)

    def of(self, equation: Equation) -> list[EquationTest]:
        """Return the tests of an equation."""
        return [t for t in self.tests if equation.name and t.asserts(equation)]

    def check(self, equations: list[Equation]) -> list[Problem]:
        """Hold equations and tests to each other."""
        return [
            *self.problems,
            *(p for equation in equations for p in self._untested_problems(equation)),
            *(p for test in self.tests for p in _unknown_equations(test, equations)),
        ]

    def _untested_problems(self, equation: Equation) -> Iterator[Problem]:
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


def _unknown_equations(
    test: EquationTest, equations: list[Equation]
) -> Iterator[Problem]:
    """Yield a problem unless exactly one equation is what a test names."""
    found = [e for e in equations if e.name and test.asserts(e)]
    if len(found) == 1:
        return
    named = f"the equation {test.equation!r}, which {test.name} names,"
    if found:
        places = " and ".join(f"{e.path}:{e.line}" for e in found)
        wrong = f"is at {places}: write more of the path before its name"
    else:
        known = [".".join(e.parts[-2:]) for e in equations if e.name]
        close = difflib.get_close_matches(test.equation, known, 3, 0.5)
        wrong = "is on no page"
        wrong += f"; did you mean {' or '.join(close)}?" if close else ""
    yield Problem(test.path, test.marked, f"{named} {wrong}")


class EquationTestFeature(Feature):
    """Shows the tests of a page's equations."""

    def __init__(self, tests: EquationTests, source: Source) -> None:
        self.tests, self.source = tests, source

    def caption(self, equation: Equation) -> str:
        """Return links to the tests of an equation."""
        tests = [
            {"address": self._address(test), "words": _words(test)}
            for test in self.tests.of(equation)
        ]
        return render("equation_tests.html", tests=tests) if tests else ""

    def _address(self, test: EquationTest) -> str:
        place = os.path.relpath(test.path, self.source.path.parent)
        return f"{Path(place).as_posix()}#L{test.line}"


def _words(test: EquationTest) -> str:
    return test.name.removeprefix("test_").replace("_", " ")


_Test = ast.FunctionDef | ast.AsyncFunctionDef
_Marker = tuple[ast.expr, ast.Call | None, ast.stmt | None]


def _markers(tree: ast.Module) -> Iterator[_Marker]:
    """Yield each marker with its call, and the test that it decorates.

    It may stand inside another decorator, as with `pytest.param`.
    """
    tests = {
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
            yield part, calls.get(id(part)), tests.get(id(part))


def _is_marker(node: ast.AST) -> TypeGuard[ast.Attribute]:
    """Tell whether this is `pytest.mark.equation`, or `mark.equation`."""
    if not isinstance(node, ast.Attribute) or node.attr != "equation":
        return False
    of = node.value
    return "mark" in (getattr(of, "attr", ""), getattr(of, "id", ""))


def _names(call: ast.Call | None) -> list[str]:
    """Return the plain strings among a marker's arguments."""
    return [
        each.value
        for each in (call.args if call else ())
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]


def _marker_mistake(call: ast.Call | None, test: ast.stmt | None) -> str:
    """Return what is wrong with a marker, or ""."""
    if not call:
        return (
            "must be called where it stands, with names: "
            '@pytest.mark.equation("module.name")'
        )
    names = _names(call)
    if not names or len(names) < len(call.args) or call.keywords:
        return "names equations by plain strings, one or more"
    if not isinstance(test, _Test):
        return "must stand right at a test: as its decorator"
    return ""
