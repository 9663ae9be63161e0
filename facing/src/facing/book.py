r"""
# What a project declares

Each page by itself is notes and code. What else pages show, because a project
declares it in files of its own, comes together here: one object for the whole
project, which gives each page its features.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from facing.features.name_links import Names
from facing.features.paper_map import Constructs
from facing.features.shapes import Shapes
from facing.features.symbols import Table
from facing.page import Feature
from facing.read.source import Problem, Source

# What can be declared: each is a file, and an option of plugin and command.
DECLARED = ("symbols", "links", "examples", "papers")

T = TypeVar("T")


class Project:
    """All annotated files, and what is declared for them."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        symbols: Path | None = None,
        links: Path | None = None,
        examples: Path | None = None,
        papers: Path | None = None,
    ) -> None:
        self.problems: list[Problem] = []
        self.symbols = self._try(lambda: Table(symbols, sources) if symbols else None)
        self.names = self._try(lambda: Names(sources, links))
        self.shapes = self._try(
            lambda: Shapes(examples, sources, self.symbols) if examples else None
        )
        self.constructs = self._try(
            lambda: Constructs(papers, sources) if papers else None
        )

    def _try(self, make: Callable[[], T | None]) -> T | None:
        try:
            return make()
        except Problem as problem:
            self.problems.append(problem)
            return None

    def features(self, source: Source) -> list[Feature]:
        """Return what one page shows besides its notes and code."""
        declared = (self.symbols, self.names, self.shapes, self.constructs)
        return [each.on(source) for each in declared if each]

    def left_over(self) -> Iterator[Problem]:
        """Yield what only all pages together show, once they are made."""
        yield from self.problems
        for each in (self.symbols, self.shapes, self.constructs):
            if each:
                yield from each.left_over()
