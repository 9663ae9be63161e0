"""Step through a function with the numbers that it had.

A project's examples may list functions to step through, and by what they are called:

    STEPS = {norm: [one_low_channel, evaluation]}

Each is run once (`step_recorder`), and below the function the page shows its steps:
a table of lines, and of each run's values and formula. A script, `stepthrough.js`,
makes of the table something to drag. It computes nothing: all numbers stand in the
table, and the code of a line, and what a name means, elsewhere on the page.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facing.feature import BookFeature, Feature
from facing.features.step_formula import Grid, Point, formula, frame_of, grid, number
from facing.read.scopes import Function, Scopes, arguments
from facing.read.source import Source
from facing.templating import render


class Steps(BookFeature):
    """The functions that a project's examples step through."""

    def __init__(self, stepped: Sequence[dict[str, Any]]) -> None:
        self.stepped = stepped

    def on_page(self, source: Source) -> "StepFeature":
        """Return what one page shows of them."""
        return StepFeature(self, source)


@dataclass
class _Step:
    """A line and what it sets, with each run's values; a run may pass it by."""

    lines: tuple[int, int]
    name: str
    shape: list[int]
    runs: dict[int, dict[str, str]] = field(default_factory=dict)


class StepFeature(Feature):
    """Shows below each function of one file how its numbers came about."""

    def __init__(self, steps: Steps, source: Source) -> None:
        self.scopes = Scopes(source)
        self.by_last_line: dict[int, dict[str, Any]] = {}
        for each in steps.stepped:
            node = self.scopes.definitions.get(each["scope"])
            if Path(each["file"]) == source.file and isinstance(node, Function):
                assert node.end_lineno
                self.by_last_line[node.end_lineno] = each

    def below(self, lines: Sequence[int]) -> str:
        """Return the steps of the function whose last line is among these."""
        found = [self.by_last_line[n] for n in lines if n in self.by_last_line]
        return "".join(self._render(each["scope"], each["runs"]) for each in found)

    def _render(self, scope: str, runs: list[dict[str, Any]]) -> str:
        frame = frame_of(step for run in runs for step in run["steps"])
        steps = self._merge(scope, runs, frame)
        return render("steps.html", scope=scope, runs=runs, steps=steps)

    def _merge(
        self, scope: str, runs: list[dict[str, Any]], frame: Point
    ) -> list[_Step]:
        """Return the steps of all runs in one list, in the order of execution."""
        merged: list[_Step] = []
        for n, run in enumerate(runs):
            point, at = _farthest(run["steps"], frame), 0
            for seen in run["steps"]:
                lines = self._lines(seen, scope)
                here = (lines, seen["name"], seen["shape"])
                later = [(s.lines, s.name, s.shape) for s in merged[at:]]
                if here in later:
                    at += later.index(here)
                else:
                    merged.insert(at, _Step(*here))
                values = _values(grid(seen, frame), point, frame)
                worked = formula(seen, point, frame)
                merged[at].runs[n] = {"values": values, "formula": worked}
                at += 1
        return merged

    def _lines(self, seen: dict[str, Any], scope: str) -> tuple[int, int]:
        """Return a step's lines; an argument is where the signature has it."""
        first, last = seen["lines"]
        if first:
            return first, last
        node = self.scopes.definitions[scope]
        given = arguments(node) if isinstance(node, Function) else []
        line = next(a.lineno for a in given if a.arg == seen["name"])
        return line, line


def _farthest(steps: list[dict[str, Any]], frame: Point) -> Point:
    """Return the point of a run's first full tensor that lies farthest from 0."""
    full = [s for s in steps if math.prod(s["shape"]) == math.prod(frame)]
    first = grid((full or steps)[0], frame)
    return max(first.cells(), key=lambda point: abs(first.at(point)))


def _values(tensor: Grid, point: Point, frame: Point) -> str:
    """Return a tensor as text: a line for each row, blocks beside each other.

    The number below the point that is followed has a star.
    """
    blocks, rows, columns = tensor.size
    marked = tensor.cell_over(point, frame)

    def shown(cell: Point) -> str:
        text = number(tensor.at(cell))
        return text + "*" * (cell == marked)

    def row_of(r: int) -> Iterator[str]:
        for b in range(blocks):
            yield "\t".join(shown((b, r, c)) for c in range(columns))

    return "\n".join("\t\t".join(row_of(r)) for r in range(rows))
