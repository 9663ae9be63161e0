"""Put numbers into the formula of a step.

All tensors of a run are laid into one frame, the largest of them: blocks side by
side, rows in each, columns in each row. A smaller one is stretched to fill it, so
that a statistic covers the values that share it. One point of the frame is followed
through the steps, and what a formula is made of is read off below that point.

A formula is shown only if, worked out with these numbers, it gives what the line
gave. So what is not understood is left out, and nothing false is shown.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

Point = tuple[int, int, int]  # block, row and column


@dataclass(frozen=True)
class Grid:
    """A tensor as blocks of rows and columns, of numbers or truths."""

    shape: tuple[int, ...]
    flat: tuple[float, ...]
    size: Point

    def at(self, cell: Point) -> float:
        """Return the number in a cell."""
        _, rows, columns = self.size
        return self.flat[(cell[0] * rows + cell[1]) * columns + cell[2]]

    def cell_over(self, point: Point, frame: Point) -> Point:
        """Return the cell that covers a point when all fill the frame."""
        block, row, column = (
            at * own // full
            for at, own, full in zip(point, self.size, frame, strict=True)
        )
        return block, row, column

    def cells(self) -> Iterator[Point]:
        """Yield all cells, in the order of the numbers."""
        blocks, rows, columns = self.size
        yield from product(range(blocks), range(rows), range(columns))

    def cells_below(self, cell: Point, size: Point) -> list[Point]:
        """Return the cells that lie below a cell of a coarser grid."""
        coarse = Grid((), (), size)
        return [own for own in self.cells() if coarse.cell_over(own, self.size) == cell]


def _size(shape: Sequence[int]) -> Point:
    """Return the blocks, rows and columns of a shape."""
    if len(shape) < 3:
        rows, columns = *shape, *(1, 1)[len(shape) :]
        return 1, rows, columns
    return shape[0], math.prod(shape[1:-1]), shape[-1]


def frame_of(steps: Iterable[dict[str, Any]]) -> Point:
    """Return the size of the first of the largest tensors."""
    return _size(max((step["shape"] for step in steps), key=math.prod))


def grid(kept: dict[str, Any], frame: Point) -> Grid:
    """Return a recorded value as a grid.

    As many numbers as the frame has are the same in another shape, and keep their
    places.
    """
    shape = tuple(kept["shape"])
    is_full = math.prod(shape) == math.prod(frame)
    return Grid(shape, tuple(kept["flat"]), frame if is_full else _size(shape))


def number(value: float) -> str:
    """Return a number as pages show it, with three digits that matter."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    size = abs(value)
    text = f"{value:.{3 if size < 1 else max(0, 2 - int(math.log10(size)))}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


@dataclass(frozen=True)
class _Term:
    """A part of a formula: how it is written, what it gives, how tightly it binds."""

    text: str
    value: float
    binds: int

    def within(self, binds: int) -> str:
        """Return the text, in parentheses if it binds less than is asked."""
        return self.text if self.binds >= binds else f"({self.text})"


# How tightly sums, products, functions and single numbers bind. A negative number
# wants parentheses wherever it does not come first.
SUM, PRODUCT, FUNCTION, ONE, NEGATIVE = 1, 2, 3, 4, 0

# By operator: its sign, how it binds, how the term to its right must bind.
_Operation = tuple[str, int, int, Callable[[float, float], float]]
_OPERATIONS: dict[type[ast.operator], _Operation] = {
    ast.Add: (" + ", SUM, SUM, operator.add),
    ast.Sub: (" − ", SUM, PRODUCT, operator.sub),
    ast.Mult: (" × ", PRODUCT, PRODUCT, operator.mul),
    ast.Div: (" / ", PRODUCT, FUNCTION, operator.truediv),
}

_FUNCTIONS: dict[str, tuple[str, Callable[[float], float]]] = {
    "square": ("{}²", lambda a: a * a),
    "sqrt": ("√{}", math.sqrt),
    "rsqrt": ("1/√{}", lambda a: 1 / math.sqrt(a)),
    "reciprocal": ("1/{}", lambda a: 1 / a),
}

_OVER_MANY: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda values: sum(values) / len(values),
    "sum": sum,
    "amax": max,
    "amin": min,
}


class _Reader:
    """Writes an expression with the numbers that it had at one point."""

    def __init__(self, parts: dict[str, Grid], point: Point, frame: Point) -> None:
        self.parts, self.point, self.frame = parts, point, frame

    def term(self, node: ast.expr) -> _Term:
        """Return an expression as a term."""
        match node:
            case ast.BinOp(left, ast.Pow(), ast.Constant(2)):
                return self._call("square", [left], node)
            case ast.BinOp(left, op, right) if type(op) in _OPERATIONS:
                return self._operation(op, self.term(left), self.term(right))
            case ast.Call(func=ast.Attribute(value, attr), args=args):
                on_value = ast.unparse(value) in self.parts
                return self._call(attr, [value] * on_value + args, node)
            case ast.Call(func=ast.Name(name), args=args):
                return self._call(name, args, node)
        return self._seen(node)

    def _seen(self, node: ast.expr) -> _Term:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return _signed(f"{node.value:g}", node.value)
        part = self.parts[ast.unparse(node)]
        inner = self.parts.get(ast.unparse(getattr(node, "value", node)))
        if isinstance(node, ast.Subscript) and inner and inner.flat == part.flat:
            return self.term(node.value)  # the same numbers in another shape
        value = part.at(part.cell_over(self.point, self.frame))
        # A setting is written as it is: 0.00001, and no rounded 0.
        return _signed(_setting(value) if not part.shape else number(value), value)

    def _operation(self, op: ast.operator, left: _Term, right: _Term) -> _Term:
        sign, binds, tighter, compute = _OPERATIONS[type(op)]
        first = left.text if left.binds == NEGATIVE else left.within(binds)
        text = first + sign + right.within(tighter)
        return _Term(text, compute(left.value, right.value), binds)

    def _call(self, name: str, given: list[ast.expr], node: ast.expr) -> _Term:
        if name in _FUNCTIONS and len(given) == 1:
            form, compute = _FUNCTIONS[name]
            of = self.term(given[0])
            text = form.format(of.within(ONE))
            return _Term(text, compute(of.value), FUNCTION)
        if name in _OVER_MANY and given:
            return self._over_many(name, given[0], node)
        return self._seen(node)

    def _over_many(self, name: str, operand: ast.expr, node: ast.expr) -> _Term:
        result, values = self.parts[ast.unparse(node)], self.parts[ast.unparse(operand)]
        cell = result.cell_over(self.point, self.frame)
        numbers = [values.at(each) for each in values.cells_below(cell, result.size)]
        text = f"{name}({', '.join(_minus(number(each)) for each in numbers)})"
        return _Term(text, _OVER_MANY[name](numbers), ONE)


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _signed(text: str, value: float) -> _Term:
    return _Term(_minus(text), value, ONE if value >= 0 else NEGATIVE)


def _setting(value: float) -> str:
    if isinstance(value, bool):
        return number(value)
    return f"{value:.10f}".rstrip("0").rstrip(".")


def formula(step: dict[str, Any], point: Point, frame: Point) -> str:
    """Return how a step came to its number at a point, or ""."""
    if not step["expression"]:
        return ""
    parts = {text: grid(kept, frame) for text, kept in step["parts"].items()}
    result = grid(step, frame)
    shown = result.at(result.cell_over(point, frame))
    try:
        tree = ast.parse(step["expression"], mode="eval").body
        term = _Reader(parts, point, frame).term(tree)
        is_right = math.isclose(term.value, shown, rel_tol=1e-4, abs_tol=1e-5)
    except (KeyError, ArithmeticError, ValueError):
        return ""  # a part that was not kept, or is not understood
    is_news = term.text != _minus(number(shown))
    return term.text if is_right and is_news else ""
