"""Read what docstrings and declared symbols claim of shapes.

A docstring claims, for instance, "`scale`: `[C]`" below **Shape**, or "`x` of shape
`[B, C, *]`". A symbol claims its declared shape for its names.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from facing.features.shape_examples import Observation, Shape
from facing.features.symbol_file import Symbol
from facing.features.symbol_matching import code_key, parse_expression
from facing.features.symbols import SymbolTable
from facing.features.trace import GIVEN
from facing.read.scopes import Function, Scopes, arguments
from facing.read.source import Source

Place = tuple[Path, str, str]  # a file, a scope in it, a name there


@dataclass(frozen=True)
class Claim:
    """A shape, said of a name in a scope: by a docstring, or a symbol."""

    path: Path  # of the docstring, or of the symbol
    line: int
    subject: str
    place: Place
    shapes: tuple[str, ...]
    given: bool = False  # only of what the function was given or gave back

    def concerns(self, seen: Observation) -> bool:
        """Tell whether what was seen of the name is spoken of."""
        outside = seen.name == "return" or "." in seen.name
        return not self.given or outside or seen.line == GIVEN

    def holds(self, seen: Observation, given: dict[str, int]) -> bool:
        """Tell whether each tensor seen has one of the claimed shapes."""
        return all(
            any(fits(claimed, shape, given) for claimed in self.shapes)
            for _, shape in seen.value
        )


def fits(claimed: str, shape: Shape, given: dict[str, int]) -> bool:
    """Tell whether a shape is one of those written with letters and stars."""
    parts = [part.strip() for part in claimed.strip("[]").split(",")]
    parts = [part for part in parts if part]
    stars = [i for i, part in enumerate(parts) if part in ("*", "...", "…")]
    if not stars:
        return len(parts) == len(shape) and _sizes_agree(parts, shape, given)
    before, behind = parts[: stars[0]], parts[stars[0] + 1 :]
    if len(shape) < len(before) + len(behind):
        return False
    tail = shape[len(shape) - len(behind) :]
    return _sizes_agree([*before, *behind], shape[: len(before)] + tail, given)


def _sizes_agree(parts: list[str], shape: Shape, given: dict[str, int]) -> bool:
    known = dict(given)
    for part, size in zip(parts, shape, strict=True):
        if part.isdecimal():
            expected = int(part)
        elif set("·*/+- ") & set(part):
            expected = _compute_size(part, known, size)
        else:
            expected = known.setdefault(part, size)
        if expected != size:
            return False
    return True


def _compute_size(text: str, known: dict[str, int], otherwise: int) -> int:
    """Return a size such as C/G or B·L, or `otherwise` if a letter is not known."""
    text = text.replace("·", "*").replace("/", "//").replace("////", "//")
    if not set(re.findall(r"[^\W\d]\w*", text)) <= known.keys():
        return otherwise
    if not re.fullmatch(r"[\w\s+*/()-]+", text):
        return otherwise
    try:
        return int(eval(text, {"__builtins__": {}}, known))
    except (SyntaxError, TypeError, ZeroDivisionError):
        return otherwise


def symbol_claims(
    symbols: SymbolTable | None, sources: Sequence[Source]
) -> Iterator[Claim]:
    """Yield what declared symbols claim of the shapes of their names."""
    for source in sources if symbols else ():
        assert symbols
        page = symbols.on_page(source)
        functions = [f for f in page.scopes.names if page.scopes.is_function(f)]
        for symbol, scope, _ in symbols.declared_in(source.path):
            if not symbol.shape.startswith("["):
                continue
            shapes = tuple(symbol.shape.split(" or "))
            for function, (name, node) in product(
                functions, _variables_of(symbol, scope)
            ):
                if page.symbol_of(code_key(node), node, function)[0] is symbol:
                    subject = f"{name} in {scope}"
                    place = source.file, function, name
                    yield Claim(symbols.path, symbol.line, subject, place, shapes)


def _variables_of(symbol: Symbol, scope: str) -> Iterator[tuple[str, ast.expr]]:
    """Yield a symbol's names; a call is not made again only to see its result."""
    for name in symbol.names[scope]:
        node = parse_expression(name)
        if not any(isinstance(n, ast.Call) for n in ast.walk(node)):
            yield name, node


_SHAPE = re.compile(r"`(\[[^`\[\]]*\])`")
_SUBJECT = re.compile(
    r"`(?P<name>[^\W\d][\w.]*)`|\b(?P<word>inputs?|outputs?|results?)\b",
    re.IGNORECASE,
)
_OF_SHAPE = re.compile(r"`([^\W\d][\w.]*)`\s+of\s+shape\s+`(\[[^`\[\]]*\])`")


def docstring_claims(source: Source) -> Iterator[Claim]:
    """Yield what the docstrings of a file say of shapes."""
    scopes = Scopes(source)
    for scope, node in scopes.definitions.items():
        if ast.get_docstring(node) is None:
            continue
        first, last = node.body[0].lineno, node.body[0].end_lineno or 0
        text = "\n".join(source.lines[first - 1 : last])
        for at, subject, name, shapes in _claims_in(text):
            line = first + text.count("\n", 0, at)
            for function, variable in _variables(scopes, scope, name):
                place = source.file, function, variable
                yield Claim(source.path, line, subject, place, shapes, given=True)


# Where in a text something is claimed, of what, by which name, and the shapes.
Statement = tuple[int, str, str, tuple[str, ...]]


def _claims_in(text: str) -> Iterator[Statement]:
    """Yield what a docstring claims."""
    for match in _OF_SHAPE.finditer(text):
        yield match.start(2), f"`{match[1]}`", match[1], (match[2],)
    for section in re.finditer(
        r"\*\*Shapes?\*\*(.*?)(?=\n\s*\*\*\w|\Z)", text, re.DOTALL
    ):
        items = re.compile(r"(?:\A|\n\s*[-*+] )((?:(?!\n\s*[-*+] ).)*)", re.S)
        for item in items.finditer(section[1]):
            start = section.start(1) + item.start(1)
            yield from _item_claims(item[1], start)


def _item_claims(text: str, start: int) -> Iterator[Statement]:
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


def _variables(scopes: Scopes, scope: str, said: str) -> Iterator[tuple[str, str]]:
    """Yield the function and the name in it that a docstring speaks of."""
    node = scopes.definitions[scope]
    is_class = isinstance(node, ast.ClassDef)
    function = f"{scope}.forward" if is_class else scope
    definition = scopes.definitions.get(function)
    given = arguments(definition) if isinstance(definition, Function) else []
    names = [argument.arg for argument in given]
    word = said.lower().rstrip("s")
    if word == "input":
        yield from [(function, n) for n in names if n not in ("self", "ctx")][:1]
    elif word in ("output", "result"):
        yield function, "return"
    elif said in names:
        yield function, said
    elif is_class:
        methods = [n for n in scopes.names if n.rpartition(".")[0] == scope]
        yield from ((method, f"self.{said}") for method in methods)
