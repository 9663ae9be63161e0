r"""Name the displayed equations of a page.

A displayed equation may have a name, written behind it,

    $$y = \gamma \hat x + \beta$$ {#normalize}

which becomes its id. What states no law of the code, a definition of notation say,
is declared so: `{.notation}`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from facing.problem import Problem
from facing.templating import render


@dataclass(frozen=True)
class Equation:
    """A displayed equation: where it stands, and its name, if it has one.

    `law` is false if it was declared to be notation, or if its name is wrong and was
    reported.
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


_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class EquationFrames:
    """Frames the equations of one page, and gathers what is wrong in them.

    `taken` are names that lead somewhere else on the page; an equation would take
    their place. `caption` returns HTML that stands behind an equation's name.
    """

    def __init__(
        self, path: Path, taken: set[str], caption: Callable[[Equation], str]
    ) -> None:
        self.path, self.taken, self.caption = path, taken, caption
        self.problems: list[Problem] = []
        # By place, for a note that is rendered twice has each only once.
        self._by_place: dict[tuple[int, str], Equation] = {}

    @property
    def equations(self) -> list[Equation]:
        """The equations in the order of the page."""
        return list(self._by_place.values())

    def frame(self, line: int, source: str, attributes: str, block: str) -> str:
        """Return an equation's HTML, with its name and its caption."""
        equation = self._by_place.get((line, source))
        if equation is None:
            equation = self._read_attributes(line, attributes)
            self._by_place[line, source] = equation
        if not equation.name:
            return block
        caption = self.caption(equation)
        return render("equation.html", name=equation.name, block=block, caption=caption)

    def _read_attributes(self, line: int, attributes: str) -> Equation:
        name, law = "", True
        for word in attributes.split():
            if word == ".notation":
                law = False
            elif word[0] == "#" and not name:
                name = self._checked_name(line, word[1:])
                law = law and bool(name)
            else:
                self._report(
                    line,
                    f"behind an equation stand {{#name}} and {{.notation}}, "
                    f"and not {word}",
                )
        return Equation(self.path, line, name, law)

    def _checked_name(self, line: int, name: str) -> str:
        """Return a name, or report why it cannot be one and return ""."""
        before = [e.line for e in self.equations if e.name == name]
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
