"""A book: all annotated files of a project, and what is declared for them.

Both front ends make one, ask it for pages, and then for its problems. Problems are
collected here and never raised; a front end decides what they mean.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from facing.feature import BookFeature, Link
from facing.features.equation_tests import EquationTests
from facing.features.name_links import NameLinks
from facing.features.paper_map import PaperMap
from facing.features.shapes import Shapes
from facing.features.steps import Steps
from facing.features.symbols import SymbolTable
from facing.page import Page, build
from facing.problem import Problem
from facing.read.source import Source, read

# What can be declared: each is a file, and an option of plugin and command.
DECLARED = ("symbols", "links", "examples", "papers")

T = TypeVar("T")


class Book:
    """The files of a project, their features, their pages, and all problems.

    Paths are seen from `root`. `tests` are searched for tests of equations: those
    that assert one become pages, too, and every equation must have one. What else
    is declared are files: `symbols`, `links`, `examples` and `papers`. Unless `fold`
    is false, imports, constructors and the reference parts of docstrings are folded.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        root: Path = Path(),
        tests: Iterable[Path] | None = None,
        symbols: Path | None = None,
        links: Path | None = None,
        examples: Path | None = None,
        papers: Path | None = None,
        fold: bool = True,
    ) -> None:
        self.root, self.fold = root, fold
        self.paths = list(paths)
        self.pages: dict[Path, Page] = {}
        self._unread: list[Problem] = []
        self._undeclared: list[Problem] = []
        self._equations_are_tested = tests is not None
        self.equation_tests = EquationTests(tests or (), root)
        self.tests = self._paths_of_tests()
        self.sources = {s.path: s for s in self._read([*self.paths, *self.tests])}
        self._declare(symbols, links, examples, papers)

    def _paths_of_tests(self) -> list[Path]:
        known = {(self.root / path).resolve() for path in self.paths}
        found = {test.path for test in self.equation_tests.tests}
        return sorted(p for p in found if (self.root / p).resolve() not in known)

    def _read(self, paths: list[Path]) -> Iterator[Source]:
        for path in paths:
            try:
                yield read(path, self.root)
            except Problem as problem:
                self._unread.append(problem)

    def _declare(
        self,
        symbols: Path | None,
        links: Path | None,
        examples: Path | None,
        papers: Path | None,
    ) -> None:
        sources, root = list(self.sources.values()), self.root
        self.symbols = self._try(
            lambda: SymbolTable(root / symbols, sources) if symbols else None
        )
        self.names = self._try(
            lambda: NameLinks(sources, root / links if links else None)
        )
        self.shapes = self._try(
            lambda: Shapes(root / examples, sources, self.symbols) if examples else None
        )
        stepped = self.shapes.stepped if self.shapes else []
        self.steps = Steps(stepped) if stepped else None
        self.paper_map = self._try(
            lambda: PaperMap(root / papers, sources) if papers else None
        )

    def _try(self, make: Callable[[], T | None]) -> T | None:
        try:
            return make()
        except Problem as problem:
            self._undeclared.append(problem)
            return None

    @property
    def features(self) -> list[BookFeature]:
        """What pages show besides their notes and code."""
        declared = (
            *(self.symbols, self.names, self.shapes),
            *(self.steps, self.paper_map),
        )
        return [self.equation_tests, *(each for each in declared if each)]

    def page(self, path: Path, link: Link = lambda target, line: target) -> Page:
        """Build the page of one file; `link` gives the addresses of its links."""
        source = self.sources[path]
        features = [each.on_page(source) for each in self.features]
        self.pages[path] = build(source, link, features, fold=self.fold)
        return self.pages[path]

    def problems(self) -> list[Problem]:
        """Return all that is wrong, once the pages are made."""
        found = [
            *self._unread,
            *(p for page in self.pages.values() for p in page.problems),
            *self._undeclared,
            *(p for each in self.features for p in each.remaining_problems()),
            *self._equation_problems(),
        ]
        return [problem.relative_to(self.root) for problem in found]

    def _equation_problems(self) -> list[Problem]:
        """Hold the equations of all pages but the tests' to their tests."""
        if not self._equations_are_tested:
            return []
        equations = [
            equation
            for path, page in self.pages.items()
            if path not in self.tests
            for equation in page.equations
        ]
        return self.equation_tests.check(equations)
