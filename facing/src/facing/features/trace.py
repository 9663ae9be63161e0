"""Run examples, and record the shapes of what they compute.

This module is run in a process of its own: the code that is shown runs there, fresh,
and can disturb nothing. It reads from its input what to run and what to watch, and
writes what it saw, both as JSON. It needs nothing but Python.

Functions that the examples list in `STEPS` are stepped through, too (`step_recorder`).

An example is a function of sizes. It is called once for each set of sizes, and
meanwhile every value with a `shape` and a `dtype` that a line of the watched files
assigns, takes as an argument or returns is recorded. Nothing here knows of PyTorch.
"""

import ast
import contextlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType, ModuleType
from typing import Any

# What is written for each value: the example, which set of sizes, the file,
# the line, the scope, the name, and dtype and shape of each tensor in it.
Observation = dict[str, Any]

# In place of a line: what a function was given, and what it left.
GIVEN, LEFT = -1, 0


@dataclass(eq=False)
class Statement:
    """A statement's lines, and the names that it sets."""

    first: int
    last: int
    returns: bool
    targets: list[tuple[int, str, CodeType]] = field(default_factory=list)


def statements(text: str) -> dict[int, Statement]:
    """Return the innermost statement of each line, of blocks the header."""
    found: dict[int, Statement] = {}
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.stmt):
            continue
        body: list[ast.stmt] = getattr(node, "body", [])
        last = body[0].lineno - 1 if body else node.end_lineno or 0
        last = max(last, node.lineno)
        made = Statement(node.lineno, last, isinstance(node, ast.Return))
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.targets = [
                (leaf.lineno, ast.unparse(leaf), _compile(leaf))
                for leaf in _leaves(node)
            ]
        for line in range(node.lineno, last + 1):
            known = found.get(line)
            if known is None or known.first <= made.first:
                found[line] = made
    return found


def _leaves(node: ast.stmt) -> Iterator[ast.expr]:
    """Yield the names and attributes that a statement sets, in order."""
    todo: list[ast.AST] = [node]
    while todo:
        part = todo.pop(0)
        if isinstance(part, ast.Name | ast.Attribute) and _is_assigned(part):
            yield part
        elif not isinstance(part, ast.Lambda | ast.comprehension):
            inner = ast.iter_child_nodes(part)
            todo[:0] = [n for n in inner if not isinstance(n, ast.stmt)]


def _is_assigned(node: ast.Name | ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store)


def _compile(node: ast.expr) -> CodeType:
    return compile(ast.unparse(node), "<watched>", "eval")


def tensors(value: object) -> list[list[Any]]:
    """Return dtype and shape of a tensor, or of each in a tuple of them."""
    if isinstance(value, tuple) and value:
        parts = [tensors(part) for part in value]
        return [p for part in parts for p in part] if all(parts) else []
    shape = dtype = None
    with contextlib.suppress(Exception):  # of what is not ready to be asked
        shape, dtype = value.shape, value.dtype  # type: ignore[attr-defined]
    if isinstance(value, type) or dtype is None:
        return []
    if not isinstance(shape, tuple) or not all(type(n) is int for n in shape):
        return []
    return [[str(dtype).rpartition(".")[2], list(shape)]]


class Recorder:
    """Records tensors while the code of some files runs."""

    def __init__(self, paths: list[str], watch: dict[str, Any]) -> None:
        self.files = {}
        self.watch = watch
        self.observations: dict[str, Observation] = {}
        self.run: tuple[str, int] = "", 0
        for path in paths:
            with open(path, "rb") as file:
                text = file.read().decode("utf-8", "replace")
            self.files[path] = statements(text)

    def record(self, frame: FrameType, line: int, name: str, value: object) -> None:
        """Record a value, if it is a tensor or a tuple of tensors."""
        found = tensors(value)
        if found:
            path = os.path.realpath(frame.f_code.co_filename)
            scope = frame.f_code.co_qualname.replace("<locals>.", "")
            example, number = self.run
            seen = {
                **{"example": example, "run": number, "file": path},
                **{"line": line, "scope": scope, "name": name},
                "value": found,
            }
            self.observations.setdefault(json.dumps(seen), seen)

    def start_function(self, frame: FrameType, event: str, _: object) -> Any:
        """Watch a function from now on, if it is in one of the files."""
        code = frame.f_code
        path = os.path.realpath(code.co_filename)
        if path not in self.files or code.co_name.startswith("<"):
            return None
        known = self.files[path]
        for name in inspect.getargs(code).args:
            self.record(frame, GIVEN, name, frame.f_locals.get(name))
        return _FunctionTrace(self, frame, known).step

    def end_function(self, frame: FrameType) -> None:
        """Record what is watched at the end of a function."""
        path = os.path.realpath(frame.f_code.co_filename)
        scope = frame.f_code.co_qualname.replace("<locals>.", "")
        for where, names in self.watch.get(path, {}).items():
            if not f"{scope}.".startswith(f"{where}." if where else ""):
                continue
            for name in names:
                with contextlib.suppress(Exception):
                    value = eval(name, frame.f_globals, frame.f_locals)
                    self.record(frame, LEFT, name, value)


class _FunctionTrace:
    """Watches one call, statement by statement."""

    def __init__(
        self,
        recorder: Recorder,
        frame: FrameType,
        known: dict[int, Statement],
    ) -> None:
        self.recorder, self.known = recorder, known
        self.now: Statement | None = None
        flags = frame.f_code.co_flags
        self.suspends = flags & (
            inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
        )

    def step(self, frame: FrameType, event: str, value: object) -> Any:
        if event == "exception":
            self.now = None  # what it sets was not set
        elif event == "line":
            # Within a statement of several lines nothing is done yet.
            new = self.known.get(frame.f_lineno)
            if new is not self.now:
                self.record_targets(frame)
            self.now = new
        elif event == "return":
            self.record_targets(frame)
            if self.now and self.now.returns and not self.suspends:
                self.recorder.record(frame, self.now.first, "return", value)
            self.recorder.end_function(frame)
        return self.step

    def record_targets(self, frame: FrameType) -> None:
        """Record what the last statement has set."""
        for line, name, code in self.now.targets if self.now else ():
            with contextlib.suppress(Exception):
                value = eval(code, frame.f_globals, frame.f_locals)
                self.recorder.record(frame, line, name, value)


def load(path: str) -> ModuleType:
    """Import a module by its path."""
    spec = importlib.util.spec_from_file_location("examples", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["examples"] = module
    spec.loader.exec_module(module)
    return module


def examples(module: ModuleType) -> dict[str, Any]:
    """Return the functions of a module that are its own and public."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


class ExampleError(ValueError):
    """Something in the examples' file that its author must mend."""

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


def presets(module: ModuleType) -> dict[Any, list[Any]]:
    """Return the functions to step through, each with what shall call it."""
    found: dict[Any, list[Any]] = getattr(module, "STEPS", {})
    if not isinstance(found, dict) or not all(
        inspect.isfunction(function) and isinstance(calls, list) and calls
        for function, calls in found.items()
    ):
        raise ExampleError(
            "STEPS must give each function that is stepped through a list of "
            "functions that call it, such as {layer: [one_small_batch]}"
        )
    return found


def run_presets(module: ModuleType) -> list[dict[str, Any]]:
    """Return what each function computed under its presets, step by step."""
    from facing.features import step_recorder

    found = []
    for function, calls in presets(module).items():
        code = inspect.unwrap(function).__code__
        runs = list(step_recorder.record(function, calls))
        for call, run in zip(calls, runs, strict=True):
            if run["steps"] is None:
                raise ExampleError(
                    f"{call.__name__} is to call {code.co_qualname}, and did not: "
                    "call it, or take the preset out of STEPS",
                    call.__code__.co_firstlineno,
                )
        scope = code.co_qualname.replace("<locals>.", "")
        path = os.path.realpath(code.co_filename)
        found.append({"file": path, "scope": scope, "runs": runs})
    return found


def sizes_of(module: ModuleType) -> list[dict[str, int]]:
    """Return the sets of sizes, with those that follow from others."""
    sets = getattr(module, "SIZES", None)
    if not sets or any(each.keys() != sets[0].keys() for each in sets):
        raise ExampleError(
            "SIZES must be a list of one or more sets of sizes, all with the "
            'same names, such as [{"B": 2}, {"B": 3}]'
        )
    derived: dict[str, str] = getattr(module, "DERIVED", {})
    return [
        {
            **given,
            **{name: eval(text, {}, given) for name, text in derived.items()},
        }
        for given in sets
    ]


def sizes_taken_by(name: str, function: Any, sizes: dict[str, int]) -> list[str]:
    """Return the sizes that an example takes."""
    found = []
    for each in inspect.signature(function).parameters.values():
        if each.name in sizes:
            found.append(each.name)
        elif each.default is each.empty:
            raise ExampleError(
                f"{name} takes {each.name}, and SIZES has "
                f"{', '.join(sizes)}: add {each.name} to every set",
                function.__code__.co_firstlineno,
            )
    return found


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Run all examples with all sizes, and return what was seen."""
    sys.path[:0] = task["roots"]
    recorder = Recorder(task["paths"], task["watch"])
    module = load(task["examples"])
    sizes, taken = sizes_of(module), {}
    stepped = {call for calls in presets(module).values() for call in calls}
    for name, function in examples(module).items():
        if function in stepped:
            continue
        taken[name] = sizes_taken_by(name, function, sizes[0])
        for n, given in enumerate(sizes):
            recorder.run = name, n
            before = sys.gettrace()
            sys.settrace(recorder.start_function)
            try:
                function(**{size: given[size] for size in taken[name]})
            finally:
                sys.settrace(before)
    derived = getattr(module, "DERIVED", {})
    return {
        "sizes": sizes,
        "takes": taken,
        "derived": derived,
        "seen": list(recorder.observations.values()),
        "steps": run_presets(module),
    }


def main() -> None:
    """Read a task from the input, and write what was seen to the output."""
    task = json.load(sys.stdin)
    try:
        # What examples print is no part of the answer.
        with contextlib.redirect_stdout(sys.stderr):
            answer = run(task)
    except (Exception, SystemExit) as error:
        path = task["examples"]
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == path] or [1]
        if isinstance(error, SyntaxError) and error.filename == path:
            lines = [error.lineno]
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, ExampleError):
            lines, reason = [error.line], str(error)
        answer = {"error": reason, "line": lines[-1]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
