r"""
# Observed shapes

Which shape does a line's result have? A project may answer with examples, in
one Python file:

    SIZES = [
        {"B": 2, "C": 12, "L": 35},
        {"B": 3, "C": 20, "L": 22},
        {"B": 4, "C": 6, "L": 9},
    ]
    DERIVED = {"BC": "B * C"}  # sizes that follow from others

    def batch_norm(B, C, L):
        BatchNorm(C)(torch.randn(B, C, L))

Each function is run with each set of sizes, and the page shows beside a line
the shapes that were seen there. A number becomes a letter only if it is that
size in *every* run, and no other size of the example is: two sizes that
happen to be equal once are told apart by the other runs, and what stays
ambiguous stays a number.

Docstrings make claims, such as "`scale`: `[C]`" below **Shape**, or "`x` of
shape `[B, C, *]`". So do declared symbols. A claim that a run contradicts is
a problem, at its line.
"""

import ast
import hashlib
import html
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from facing.features import trace
from facing.features.symbols import Table, code_key, parsed
from facing.features.trace import GIVEN
from facing.page import Feature
from facing.read.scopes import Function, Scopes, arguments
from facing.read.source import Problem, Source

# ## What was seen

Shape = tuple[int, ...]
Value = tuple[tuple[str, Shape], ...]  # dtype and shape of each tensor


@dataclass(frozen=True)
class Seen:
    """A value that a run has shown: where, and what it was."""

    example: str
    run: int
    file: Path
    line: int
    scope: str
    name: str
    value: Value


@dataclass(frozen=True)
class Sizes:
    """The sets of sizes, and which of them each example takes."""

    sets: list[dict[str, int]]
    takes: dict[str, list[str]]
    derived: dict[str, str]

    def of(self, example: str) -> dict[str, Shape]:
        """Return each size that may explain what an example shows."""
        taken = set(self.takes[example])
        follow = {
            name
            for name, text in self.derived.items()
            if set(re.findall(r"[^\W\d]\w*", text)) <= taken
        }
        return {
            name: tuple(each[name] for each in self.sets)
            for name in self.sets[0]
            if name in taken | follow
        }

    def letter(self, example: str, numbers: Shape) -> str:
        """Return the one size that has these numbers in all runs, or them."""
        if len(set(numbers)) == 1:
            return str(numbers[0])
        found = [n for n, seen in self.of(example).items() if seen == numbers]
        if len(found) == 1:
            return found[0]
        return "|".join(map(str, dict.fromkeys(numbers)))


class Shapes:
    """
    The shapes that a project's examples have shown.

    **Raises**: `Problem`, at the line of the examples, where one fails.
    """

    def __init__(
        self, examples: Path, sources: Sequence[Source], symbols: Table | None
    ) -> None:
        self.path = examples
        self.claims = [
            *(claim for source in sources for claim in docstrings(source)),
            *_declared(symbols, sources),
        ]
        task = {
            "examples": str(examples.resolve()),
            "paths": [str(source.file) for source in sources],
            "roots": sorted({str(source.root) for source in sources}),
            "watch": self._watch(),
        }
        answer = _answer(json.dumps(task), _digest(examples, sources))
        if "error" in answer:
            message = f"this example fails: {answer['error']}"
            raise Problem(examples, answer["line"], message)
        self.sizes = Sizes(answer["sizes"], answer["takes"], answer["derived"])
        self.seen = [_seen(**each) for each in answer["seen"]]

    def _watch(self) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {}
        for claim in self.claims:
            file, scope, name = claim.of
            names = found.setdefault(str(file), {})
            names.setdefault(scope, []).append(name)
        return found

    def on(self, source: Source) -> "OnPage":
        """Return what was seen of one file."""
        return OnPage(self, source)

    def left_over(self) -> Iterator[Problem]:
        """Yield the claims that a run contradicts, each once."""
        by_place = defaultdict(list)
        for seen in self.seen:
            by_place[seen.file, seen.scope, seen.name].append(seen)
        told = set()
        for claim in self.claims:
            for seen in by_place[claim.of]:
                said = claim.path, claim.line, claim.said
                if said not in told and not self._holds(claim, seen):
                    told.add(said)
                    yield self._contradicted(claim, seen)

    def _holds(self, claim: "Claim", seen: Seen) -> bool:
        given = self._given(seen)
        return not claim.concerns(seen) or claim.holds(seen, given)

    def _given(self, seen: Seen) -> dict[str, int]:
        return {
            name: numbers[seen.run]
            for name, numbers in self.sizes.of(seen.example).items()
        }

    def _contradicted(self, claim: "Claim", seen: Seen) -> Problem:
        given = ", ".join(f"{k}={v}" for k, v in self._given(seen).items())
        shapes = " and ".join(str(list(shape)) for _, shape in seen.value)
        return Problem(
            claim.path,
            claim.line,
            f"{claim.said} is said to have the shape "
            f"{' or '.join(claim.shapes)}, but it has {shapes} in the "
            f"example {seen.example} with {given}",
        )


def _seen(file: str, value: Any, **rest: Any) -> Seen:
    parts = tuple((dtype, tuple(shape)) for dtype, shape in value)
    return Seen(file=Path(file), value=parts, **rest)


def _digest(examples: Path, sources: Sequence[Source]) -> str:
    """Return a key of all code that a run may depend on."""
    folders = {examples.resolve().parent, *(s.file.parent for s in sources)}
    digest = hashlib.sha256()
    for path in sorted(p for folder in folders for p in folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _answer(task: str, digest: str) -> dict[str, Any]:
    """Run the examples in a process of their own, once for each state."""
    done = subprocess.run(
        [sys.executable, "-P", trace.__file__],
        input=task,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        reason = (done.stderr.strip().splitlines() or ["it ended early"])[-1]
        return {"error": reason, "line": 1}
    return answer


# ## What is claimed


Place = tuple[Path, str, str]  # a file, a scope in it, a name there


@dataclass(frozen=True)
class Claim:
    """A shape, said of a name in a scope: by a docstring, or a symbol."""

    path: Path  # where it is said
    line: int
    said: str
    of: Place
    shapes: tuple[str, ...]
    given: bool = False  # of what the function was given or gave back

    def concerns(self, seen: Seen) -> bool:
        """Tell whether what was seen of the name is spoken of."""
        outside = seen.name == "return" or "." in seen.name
        return not self.given or outside or seen.line == GIVEN

    def holds(self, seen: Seen, given: dict[str, int]) -> bool:
        """Tell whether each tensor seen has one of the claimed shapes."""
        return all(
            any(_fits(claimed, shape, given) for claimed in self.shapes)
            for _, shape in seen.value
        )


def _fits(claimed: str, shape: Shape, given: dict[str, int]) -> bool:
    """Tell whether a shape is one that is written with letters and stars."""
    parts = [part.strip() for part in claimed.strip("[]").split(",")]
    parts = [part for part in parts if part]
    stars = [i for i, part in enumerate(parts) if part in ("*", "...", "…")]
    if not stars:
        return len(parts) == len(shape) and _agree(parts, shape, given)
    before, behind = parts[: stars[0]], parts[stars[0] + 1 :]
    if len(shape) < len(before) + len(behind):
        return False
    tail = shape[len(shape) - len(behind) :]
    return _agree([*before, *behind], shape[: len(before)] + tail, given)


def _agree(parts: list[str], shape: Shape, given: dict[str, int]) -> bool:
    known = dict(given)
    for part, size in zip(parts, shape, strict=True):
        if part.isdecimal():
            expected = int(part)
        elif set("·*/+- ") & set(part):
            expected = _computed(part, known, size)
        else:
            expected = known.setdefault(part, size)
        if expected != size:
            return False
    return True


def _computed(text: str, known: dict[str, int], otherwise: int) -> int:
    """Return a size such as C/G or B·L, where its letters are known."""
    text = text.replace("·", "*").replace("/", "//").replace("////", "//")
    if not set(re.findall(r"[^\W\d]\w*", text)) <= known.keys():
        return otherwise
    if not re.fullmatch(r"[\w\s+*/()-]+", text):
        return otherwise
    try:
        return int(eval(text, {"__builtins__": {}}, known))
    except (SyntaxError, TypeError, ZeroDivisionError):
        return otherwise


def _declared(symbols: Table | None, sources: Sequence[Source]) -> Iterator[Claim]:
    """Yield what declared symbols say of the shapes of their names."""
    for source in sources if symbols else ():
        assert symbols
        page = symbols.on(source)
        functions = [f for f in page.scopes.names if page.scopes.is_function(f)]
        for symbol, scope, _ in symbols.declared_in(source.path):
            if not symbol.shape.startswith("["):
                continue
            # A call is not made again only to see what it gives.
            names = [
                (name, node)
                for name in symbol.names[scope]
                for node in [parsed(name)]
                if not any(isinstance(n, ast.Call) for n in ast.walk(node))
            ]
            yield from (
                Claim(
                    symbols.path,
                    symbol.line,
                    f"{name} in {scope}",
                    (source.file, function, name),
                    tuple(symbol.shape.split(" or ")),
                )
                for function in functions
                for name, node in names
                if page.named(code_key(node), node, function)[0] is symbol
            )


_SHAPE = re.compile(r"`(\[[^`\[\]]*\])`")
_SUBJECT = re.compile(
    r"`(?P<name>[^\W\d][\w.]*)`|\b(?P<word>inputs?|outputs?|results?)\b",
    re.IGNORECASE,
)
_OF_SHAPE = re.compile(r"`([^\W\d][\w.]*)`\s+of\s+shape\s+`(\[[^`\[\]]*\])`")


def docstrings(source: Source) -> Iterator[Claim]:
    """Yield what the docstrings of a file say of shapes."""
    scopes = Scopes(source)
    for scope, node in scopes.definitions.items():
        if ast.get_docstring(node) is None:
            continue
        first, last = node.body[0].lineno, node.body[0].end_lineno or 0
        text = "\n".join(source.lines[first - 1 : last])
        for at, said, names, shapes in _sentences(text):
            line = first + text.count("\n", 0, at)
            for where, name in _meant(scopes, scope, names):
                of = source.file, where, name
                yield Claim(source.path, line, said, of, shapes, given=True)


Sentence = tuple[int, str, str, tuple[str, ...]]


def _sentences(text: str) -> Iterator[Sentence]:
    """Yield where something is said, of what, and which shapes."""
    for match in _OF_SHAPE.finditer(text):
        yield match.start(2), f"`{match[1]}`", match[1], (match[2],)
    for section in re.finditer(
        r"\*\*Shapes?\*\*(.*?)(?=\n\s*\*\*\w|\Z)", text, re.DOTALL
    ):
        items = re.compile(r"(?:\A|\n\s*[-*+] )((?:(?!\n\s*[-*+] ).)*)", re.S)
        for item in items.finditer(section[1]):
            start = section.start(1) + item.start(1)
            yield from _item(item[1], start)


def _item(text: str, start: int) -> Iterator[Sentence]:
    """Yield the claims of one item: each is of what stands before it."""
    end, subjects, claimed, at = 0, list[str](), list[str](), 0
    for match in _SHAPE.finditer(text):
        between = text[end : match.start()]
        found = [m["name"] or m["word"] for m in _SUBJECT.finditer(between)]
        if found and subjects:
            for subject in subjects:
                yield start + at, subject, subject, tuple(claimed)
        if found:
            subjects, claimed, at = found, [], match.start()
        claimed.append(match[1])
        end = match.end()
    for subject in subjects:
        yield start + at, subject, subject, tuple(claimed)


def _meant(scopes: Scopes, scope: str, said: str) -> Iterator[tuple[str, str]]:
    """Yield the function and the name in it that a docstring speaks of."""
    node = scopes.definitions[scope]
    is_class = isinstance(node, ast.ClassDef)
    where = f"{scope}.forward" if is_class else scope
    function = scopes.definitions.get(where)
    given = arguments(function) if isinstance(function, Function) else []
    names = [argument.arg for argument in given]
    word = said.lower().rstrip("s")
    if word == "input":
        yield from [(where, n) for n in names if n not in ("self", "ctx")][:1]
    elif word in ("output", "result"):
        yield where, "return"
    elif said in names:
        yield where, said
    elif is_class:
        methods = [n for n in scopes.names if n.rpartition(".")[0] == scope]
        yield from ((method, f"self.{said}") for method in methods)


# ## On a page

# Line and hint fit in the code column up to here; else the hint goes below.
ROOM = 68


class OnPage(Feature):
    """Shows beside each line of one file which shapes were seen there."""

    def __init__(self, shapes: Shapes, source: Source) -> None:
        self.shapes, self.source = shapes, source
        self.scopes = Scopes(source)
        self.lines: dict[int, dict[str, list[Seen]]] = defaultdict(dict)
        for seen in shapes.seen:
            line = self._line(seen)
            if seen.file == source.file and line:
                self.lines[line].setdefault(seen.name, []).append(seen)

    def _line(self, seen: Seen) -> int:
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
        text = _together({n: self._shown(seen) for n, seen in names.items()})
        numbers = _together({n: _numbers(seen) for n, seen in names.items()})
        room = len(self.source.lines[line - 1]) + len(text) + 2 <= ROOM
        css = "h" if room else "h b"
        return (
            f'<i class="{css}" aria-hidden="true" '
            f'title="{html.escape(numbers)}">{html.escape(text)}</i>'
        )

    def _shown(self, seen: list[Seen]) -> str:
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
                yield _written(value, [[str(n) for n in s] for _, s in value])
            return
        for same in zip(*runs, strict=True):
            yield _written(
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


def _written(value: Value, shapes: list[list[str]]) -> str:
    parts = [
        f"[{', '.join(shape)}] {_short(dtype)}"
        for (dtype, _), shape in zip(value, shapes, strict=True)
    ]
    counted = [(part, len(list(same))) for part, same in groupby(parts)]
    return ", ".join(f"{n} × {part}" if n > 1 else part for part, n in counted)


def _short(dtype: str) -> str:
    """Return float32 as f32, bfloat16 as bf16, and so on."""
    short = re.sub(r"^(b?)float(?=\d)", r"\1f", dtype)
    return re.sub(r"^(u?)int(?=\d)", r"\1i", short)


def _together(shown: dict[str, str]) -> str:
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


def _numbers(seen: list[Seen]) -> str:
    """Return the numbers of all runs."""
    values = dict.fromkeys(each.value for each in seen)
    return " ".join(
        _written(value, [[str(n) for n in shape] for _, shape in value])
        for value in values
    )
