"""What a page may show besides its notes and code.

Each feature is a module of its own in `features/`. A page knows only what is here,
and so do the features: none knows a page.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from facing.problem import Problem
from facing.read.source import Source
from facing.text.code import Mark
from facing.text.equations import Equation

# Given a link's target and its line, returns the address where it shall lead.
Link = Callable[[str, int], str]


class Feature:
    """The places of one page where a feature can put something.

    By default it puts nothing.
    """

    def marks(self, link: Link) -> Iterable[Mark]:
        """Return attributes for stretches of code."""
        return ()

    def note(self, body: str, link: Link) -> str:
        """Return a note's HTML, with what it adds."""
        return body

    def formula(self, mathml: str, line: int) -> str:
        """Return a formula that stands on a line, decorated."""
        return mathml

    def caption(self, equation: Equation) -> str:
        """Return HTML for behind the name of an equation."""
        return ""

    def beside(self, line: int) -> str:
        """Return HTML for behind a line of code."""
        return ""

    def below(self, lines: Sequence[int]) -> str:
        """Return HTML for below a row with these lines of code."""
        return ""

    def foot(self) -> str:
        """Return HTML for below the rows."""
        return ""


class BookFeature(ABC):
    """What a feature knows of all files of a book together."""

    @abstractmethod
    def on_page(self, source: Source) -> Feature:
        """Return what one file's page shows of it."""

    def remaining_problems(self) -> Iterable[Problem]:
        """Return what only all pages together tell, once they are made."""
        return ()
