"""Record what a function computes, statement by statement, with its numbers.

It runs in the process of the examples (`trace`), and knows nothing of PyTorch: a
tensor is what has a `shape` and a `tolist`. Beside what a statement sets, the values
of its parts are kept, so that a page can show a formula with numbers in it. To see
them, each part is evaluated once more before the statement runs: a function that is
stepped through must not change its tensors in place, and must not draw at random.
"""

import ast
import contextlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from itertools import zip_longest
from types import FrameType, FunctionType
from typing import Any

# A tensor of more values than this is not kept: nobody reads that many.
MOST = 64

# A value: its shape, and its numbers in one row.
Kept = dict[str, Any]


def keep(value: object) -> Kept | None:
    """Return a small tensor or a number, ready for JSON."""
    if isinstance(value, bool | int | float):
        return {"shape": [], "flat": [value]}
    with contextlib.suppress(Exception):  # of what is not ready to be asked
        shape, flat = list(value.shape), value.tolist()  # type: ignore[attr-defined]
        for _ in shape[1:]:
            flat = [number for part in flat for number in part]
        flat = flat if shape else [flat]
        if 0 < len(flat) <= MOST:
            return {"shape": shape, "flat": flat}
    return None


class _Statement:
    """A statement that computes something: its lines, results and parts."""

    def __init__(self, node: ast.stmt, target: ast.expr, value: ast.expr) -> None:
        self.first, self.last = node.lineno, node.end_lineno or node.lineno
        results, made_from = _elements(target), _elements(value)
        if len(results) != len(made_from):
            made_from = [value] * (len(results) == 1)
        texts = [ast.unparse(each) for each in made_from]
        pairs = zip_longest(results, texts, fillvalue="")
        # What is returned under its own name was there to see already.
        self.results = [
            (ast.unparse(result), text)
            for result, text in pairs
            if isinstance(result, ast.expr)
            and not (target is value and isinstance(result, ast.Name))
        ]
        self.parts = [ast.unparse(part) for part in _parts(value)]


def _read(node: ast.AST) -> _Statement | None:
    """Return a statement, if it computes what it sets or returns."""
    match node:
        case ast.Assign(targets=[target], value=ast.expr() as value):
            pass
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            pass
        case ast.AugAssign(target=target, op=op, value=added):
            value = ast.BinOp(target, op, added)
        case ast.Return(value=ast.expr() as value):
            target = value
        case _:
            return None
    # To give a value another name is no step.
    return None if isinstance(value, ast.Name) else _Statement(node, target, value)


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """Yield an expression and what it is made of."""
    for part in ast.iter_child_nodes(node):
        inner = part.value if isinstance(part, ast.keyword) else part
        if isinstance(inner, ast.expr) and not isinstance(inner, ast.Lambda):
            yield from _parts(inner)
    if not isinstance(node, ast.Constant | ast.comprehension):
        yield node


def _statements(function: FunctionType) -> dict[int, _Statement]:
    """Return the statements of a function that compute something, by line."""
    lines, start = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    ast.increment_lineno(tree, start - 1)
    found: dict[int, _Statement] = {}
    for node in ast.walk(tree):
        made = _read(node)
        if made:
            found.update(dict.fromkeys(range(made.first, made.last + 1), made))
    return found


class StepRecorder:
    """Keeps the steps of the last call of a function."""

    def __init__(self, function: FunctionType) -> None:
        self.code = function.__code__
        self.known = _statements(function)
        self.steps: list[dict[str, Any]] | None = None
        self.now: _Statement | None = None
        self.parts: dict[str, Kept] = {}

    def start(self, frame: FrameType, event: str, _: object) -> Any:
        """Watch the function, and none that it calls."""
        if frame.f_code is not self.code:
            return None
        self.steps, self.now = [], None
        for name in inspect.getargs(self.code).args:
            self._add((0, 0), name, frame.f_locals.get(name))
        return self._step

    def _step(self, frame: FrameType, event: str, value: object) -> Any:
        if event == "exception":
            self.now = None
        elif event == "line":
            new = self.known.get(frame.f_lineno)
            if new is not self.now:
                self._finish(frame)
                self._begin(frame, new)
        elif event == "return":
            self._finish(frame)
        return self._step

    def _begin(self, frame: FrameType, statement: _Statement | None) -> None:
        self.now, self.parts = statement, {}
        # What the parts call is not to be watched.
        for text in statement.parts if statement else ():
            kept = keep(_evaluate(text, frame))
            if kept:
                self.parts[text] = kept

    def _finish(self, frame: FrameType) -> None:
        if not self.now:
            return
        lines = self.now.first, self.now.last
        for name, expression in self.now.results:
            self._add(lines, name, _evaluate(name, frame), expression)
        self.now = None

    def _add(
        self, lines: tuple[int, int], name: str, value: object, expression: str = ""
    ) -> None:
        kept = keep(value)
        if self.steps is None or not kept or not kept["shape"]:
            return
        if not self._is_only_passed_on(kept, expression):
            made_from = {"expression": expression, "parts": self.parts}
            self.steps.append({"lines": lines, "name": name, **kept, **made_from})

    def _is_only_passed_on(self, kept: Kept, expression: str) -> bool:
        """Tell whether a call or a choice gave back one of its parts as it was."""
        node = ast.parse(expression or "0", mode="eval").body
        return isinstance(node, ast.Call | ast.Subscript | ast.IfExp) and any(
            part == kept for text, part in self.parts.items() if text != expression
        )


def _evaluate(text: str, frame: FrameType) -> object:
    with contextlib.suppress(Exception):
        return eval(text, frame.f_globals, dict(frame.f_locals))
    return None


def record(
    function: FunctionType, presets: list[Callable[[], object]]
) -> Iterator[dict[str, Any]]:
    """Run each preset, and yield its name, what it says, and its steps."""
    function = inspect.unwrap(function)
    for preset in presets:
        recorder = StepRecorder(function)
        before = sys.gettrace()
        sys.settrace(recorder.start)
        try:
            preset()
        finally:
            sys.settrace(before)
        yield {
            "name": preset.__name__.replace("_", " "),
            "says": " ".join((inspect.getdoc(preset) or "").split()),
            "steps": recorder.steps,
        }
