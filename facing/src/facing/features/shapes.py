"""Show beside a line of code which shapes its values have.

The shapes are those that a project's examples have shown (`shape_examples`). A
number becomes a letter only if it is that size in *every* run, and no other size of
the example is: two sizes that happen to be equal once are told apart by the other
runs, and what stays ambiguous stays a number.

A claim (`shape_claims`) that a run contradicts is a problem, at its line.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from facing.feature import BookFeature, Feature
from facing.features.shape_claims import Claim, docstring_claims, symbol_claims
from facing.features.shape_examples import Observation, Value, run_examples
from facing.features.symbols import SymbolTable
from facing.features.trace import GIVEN
from facing.problem import Problem
from facing.read.scopes import Function, Scopes, arguments
from facing.read.source import DIRECTIVE, Source
from facing.templating import render


class Shapes(BookFeature):
    """The shapes that a project's examples have shown.

    Raises `Problem`, at the line of the examples, if one fails.
    """

    def __init__(
        self, examples: Path, sources: Sequence[Source], symbols: SymbolTable | None
    ) -> None:
        self.path = examples
        self.claims = [
            *(claim for source in sources for claim in docstring_claims(source)),
            *symbol_claims(symbols, sources),
        ]
        found = run_examples(examples, sources, self._watch())
        self.sizes, self.seen, self.stepped = found

    def _watch(self) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {}
        for claim in self.claims:
            file, scope, name = claim.place
            names = found.setdefault(str(file), {})
            names.setdefault(scope, []).append(name)
        return found

    def on_page(self, source: Source) -> "ShapeFeature":
        """Return what was seen of one file."""
        return ShapeFeature(self, source)

    def remaining_problems(self) -> Iterator[Problem]:
        """Yield the claims that a run contradicts, each once."""
        by_place = defaultdict(list)
        for seen in self.seen:
            by_place[seen.file, seen.scope, seen.name].append(seen)
        reported = set()
        for claim in self.claims:
            for seen in by_place[claim.place]:
                statement = claim.path, claim.line, claim.subject
                if statement not in reported and not self._is_met(claim, seen):
                    reported.add(statement)
                    yield self._contradiction(claim, seen)

    def _is_met(self, claim: Claim, seen: Observation) -> bool:
        given = self._sizes_in(seen)
        return not claim.concerns(seen) or claim.holds(seen, given)

    def _sizes_in(self, seen: Observation) -> dict[str, int]:
        return {
            name: numbers[seen.run]
            for name, numbers in self.sizes.letters_of(seen.example).items()
        }

    def _contradiction(self, claim: Claim, seen: Observation) -> Problem:
        given = ", ".join(f"{k}={v}" for k, v in self._sizes_in(seen).items())
        shapes = " and ".join(str(list(shape)) for _, shape in seen.value)
        return Problem(
            claim.path,
            claim.line,
            f"{claim.subject} is said to have the shape "
            f"{' or '.join(claim.shapes)}, but it has {shapes} in the "
            f"example {seen.example} with {given}",
        )


# Columns of the code column, and of the gutter at its right, where hints stand. A
# line that reaches into its hint has it below.
ROOM, GUTTER = 77, 15
_UNSHOWN = re.compile(rf"(?<=\S)\s+{DIRECTIVE.pattern}.*")


class ShapeFeature(Feature):
    """Shows beside each line of one file which shapes were seen there."""

    def __init__(self, shapes: Shapes, source: Source) -> None:
        self.shapes, self.source = shapes, source
        self.scopes = Scopes(source)
        self.lines: dict[int, dict[str, list[Observation]]] = defaultdict(dict)
        for seen in shapes.seen:
            line = self._line(seen)
            if seen.file == source.file and line:
                self.lines[line].setdefault(seen.name, []).append(seen)

    def _line(self, seen: Observation) -> int:
        if seen.line != GIVEN:
            return seen.line
        node = self.scopes.definitions.get(seen.scope)
        given = arguments(node) if isinstance(node, Function) else []
        return next((a.lineno for a in given if a.arg == seen.name), 0)

    def beside(self, line: int) -> str:
        """Return the hint of a line."""
        names = self.lines.get(line)
        if not names:
            return ""
        text = _join_by_names(
            {n: self._shown_shapes(seen) for n, seen in names.items()}
        )
        numbers = _join_by_names(
            {n: _format_numbers(seen) for n, seen in names.items()}
        )
        code = _UNSHOWN.sub("", self.source.lines[line - 1])
        fits = len(code) + max(len(text), GUTTER) <= ROOM
        return render("shape_hint.html", text=text, numbers=numbers, fits=fits)

    def _shown_shapes(self, seen: list[Observation]) -> str:
        """Return all that was seen of a name, in letters."""
        runs: dict[str, dict[int, list[Value]]] = {}
        for each in seen:
            of_example = runs.setdefault(each.example, {})
            values = of_example.setdefault(each.run, [])
            if each.value not in values:
                values.append(each.value)
        found: dict[str, None] = {}
        for example, by_run in runs.items():
            for text in self._letters(example, list(by_run.values())):
                found.setdefault(text)
        return " or ".join(found)

    def _letters(self, example: str, runs: list[list[Value]]) -> Iterator[str]:
        """Yield the values of an example, those of all runs together."""
        alike = len({tuple(map(_kind, values)) for values in runs}) == 1
        if not alike or len(runs) < 2:
            for value in dict.fromkeys(v for values in runs for v in values):
                yield _format_value(value, [[str(n) for n in s] for _, s in value])
            return
        for same in zip(*runs, strict=True):
            yield _format_value(
                same[0],
                [
                    [
                        self.shapes.sizes.letter(example, numbers)
                        for numbers in zip(*shapes, strict=True)
                    ]
                    for shapes in zip(*([s for _, s in v] for v in same), strict=True)
                ],
            )


def _kind(value: Value) -> tuple[tuple[str, int], ...]:
    return tuple((dtype, len(shape)) for dtype, shape in value)


def _format_value(value: Value, shapes: list[list[str]]) -> str:
    parts = [
        f"[{', '.join(shape)}] {_short_dtype(dtype)}"
        for (dtype, _), shape in zip(value, shapes, strict=True)
    ]
    counted = [(part, len(list(same))) for part, same in groupby(parts)]
    return ", ".join(f"{n} × {part}" if n > 1 else part for part, n in counted)


def _short_dtype(dtype: str) -> str:
    """Return float32 as f32, bfloat16 as bf16, and so on."""
    short = re.sub(r"^(b?)float(?=\d)", r"\1f", dtype)
    return re.sub(r"^(u?)int(?=\d)", r"\1i", short)


def _join_by_names(shown: dict[str, str]) -> str:
    """Return the hints of a line, each with the names that have it."""
    names = defaultdict(list)
    for name, text in shown.items():
        names[text].append(name)
    if len(names) == 1:
        return next(iter(names))
    parts = [f"{', '.join(of)} {text}" for text, of in names.items()]
    dtypes = {text.rpartition(" ")[2] for text in names}
    if len(dtypes) == 1:  # said once, at the end
        parts = [part.replace(f" {min(dtypes)}", "") for part in parts]
        parts[-1] += f" {min(dtypes)}"
    return "; ".join(parts)


def _format_numbers(seen: list[Observation]) -> str:
    """Return the numbers of all runs."""
    values = dict.fromkeys(each.value for each in seen)
    return " ".join(
        _format_value(value, [[str(n) for n in shape] for _, shape in value])
        for value in values
    )
