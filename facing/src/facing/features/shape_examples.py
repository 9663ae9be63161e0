"""Run a project's examples, and return the shapes that were seen.

A project gives examples in one Python file:

    SIZES = [
        {"B": 2, "C": 12, "L": 35},
        {"B": 3, "C": 20, "L": 22},
        {"B": 4, "C": 6, "L": 9},
    ]
    DERIVED = {"BC": "B * C"}  # sizes that follow from others

    def batch_norm(B, C, L):
        BatchNorm(C)(torch.randn(B, C, L))

Each function is run with each set of sizes, in a process of its own (`trace`).
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from facing.features import trace
from facing.problem import Problem
from facing.read.source import Source

Shape = tuple[int, ...]
Value = tuple[tuple[str, Shape], ...]  # dtype and shape of each tensor


@dataclass(frozen=True)
class Observation:
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

    def letters_of(self, example: str) -> dict[str, Shape]:
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
        found = [n for n, seen in self.letters_of(example).items() if seen == numbers]
        if len(found) == 1:
            return found[0]
        return "|".join(map(str, dict.fromkeys(numbers)))


def run_examples(
    examples: Path, sources: Sequence[Source], watch: dict[str, dict[str, list[str]]]
) -> tuple[Sizes, list[Observation], list[dict[str, Any]]]:
    """Run a file of examples: return its sizes, all that was seen, and all steps.

    `watch` names, by file and scope, what is looked at when a function ends. Raises
    `Problem`, at the line of the examples, if one fails.
    """
    task = {
        "examples": str(examples.resolve()),
        "paths": [str(source.file) for source in sources],
        "roots": sorted({str(source.root) for source in sources}),
        "watch": watch,
    }
    answer = _run_task(json.dumps(task), _digest(examples, sources))
    if "error" in answer:
        message = f"this example fails: {answer['error']}"
        raise Problem(examples, answer["line"], message)
    sizes = Sizes(answer["sizes"], answer["takes"], answer["derived"])
    seen = [_observation(**each) for each in answer["seen"]]
    return sizes, seen, answer["steps"]


def _observation(file: str, value: Any, **rest: Any) -> Observation:
    parts = tuple((dtype, tuple(shape)) for dtype, shape in value)
    return Observation(file=Path(file), value=parts, **rest)


def _digest(examples: Path, sources: Sequence[Source]) -> str:
    """Return a key of all code that a run may depend on."""
    folders = {examples.resolve().parent, *(s.file.parent for s in sources)}
    digest = hashlib.sha256()
    for path in sorted(p for folder in folders for p in folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _run_task(task: str, digest: str) -> dict[str, Any]:
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
