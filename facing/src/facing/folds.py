"""What a page folds away until someone asks: imports, a constructor, references.

A fold always has a note beside it that says what the reader came for. So nothing is
folded that nobody speaks of: imports are folded below a module's docstring, and the
body of an `__init__` in a class that has one. A line with a comment of its own stays.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from itertools import accumulate, groupby, pairwise

from facing.read.source import Source
from facing.text.notes import TagChecker, is_well_formed

# Less than this is as short as the fold that would stand in its place.
FEWEST_LINES = 3
FEWEST_CHARACTERS = 160


def foldable_lines(source: Source) -> dict[int, str]:
    """Return the lines that may be folded, each with what its fold is called."""
    tree = source.tree
    found: dict[int, str] = {}
    if ast.get_docstring(tree, clean=False):
        for node in filter(_is_import, tree.body):
            found |= dict.fromkeys(_lines(node, node), "Imports")
    for each in ast.walk(tree):
        if isinstance(each, ast.ClassDef) and ast.get_docstring(each, clean=False):
            for method in each.body:
                if getattr(method, "name", "") == "__init__":
                    found |= _body_lines(method)
    return found


def _is_import(node: ast.stmt) -> bool:
    """Tell whether a statement only imports, under a condition perhaps."""
    if isinstance(node, ast.If | ast.Try):
        parts = [*node.body, *node.orelse]
        return all(isinstance(part, ast.Import | ast.ImportFrom) for part in parts)
    return isinstance(node, ast.Import | ast.ImportFrom)


def _body_lines(method: ast.stmt) -> dict[int, str]:
    body: list[ast.stmt] = getattr(method, "body", [])
    label = "The rest of <code>__init__</code>"
    same_line = body[0].lineno == method.lineno
    return {} if same_line else dict.fromkeys(_lines(body[0], body[-1]), label)


def _lines(first: ast.stmt, last: ast.stmt) -> range:
    return range(first.lineno, (last.end_lineno or last.lineno) + 1)


def fold_lines(
    numbers: Sequence[int], lines: Sequence[str], foldable: dict[int, str]
) -> Iterator[tuple[str, list[int]]]:
    """Yield a row's lines in parts, each with what its fold is called, or ""."""
    called: list[str] = []
    for n in numbers:
        # A blank line goes with the line above it.
        blank = called and not lines[n - 1].strip()
        called.append(called[-1] if blank else foldable.get(n, ""))
    parts: list[tuple[str, list[int]]] = []
    for label, group in groupby(zip(called, numbers, strict=True), lambda x: x[0]):
        part = [n for _, n in group]
        shown = label if len(part) >= FEWEST_LINES else ""
        if parts and parts[-1][0] == shown == "":
            parts[-1][1].extend(part)
        else:
            parts.append((shown, part))
    yield from parts


# What each part of a docstring's reference is called in a fold's summary.
_CALLED = {
    "Arguments": "arguments",
    "Args": "arguments",
    "Parameters": "parameters",
    "Inputs": "inputs",
    "Input": "input",
    "Returns": "result",
    "Yields": "result",
    "Shape": "shape",
    "Raises": "errors",
    "Source": "source",
}

# A paragraph that begins with **Raises**, or with `Raises:` alone on its line.
_LABEL = re.compile(
    rf"<p>(?:<i id[^>]*></i>)*(?P<strong><strong>)?(?P<label>{'|'.join(_CALLED)})\b"
    r"(?(strong)[^<]*</strong>|:\s*\n)(?P<rest>.*)</p>",
    re.DOTALL,
)
_LISTS = ("ul", "ol", "dl", "table", "pre")


def fold_reference(note: str) -> Iterator[tuple[str, str]]:
    """Yield a note's HTML in parts, each with what its fold is called, or ""."""
    blocks = _blocks(note) if is_well_formed(note) else [("", note)]
    for is_reference, group in groupby(_label(blocks), lambda part: bool(part[0])):
        parts = list(group)
        body = "".join(block for _, block in parts)
        long = len(re.sub(r"<[^>]*>", "", body)) >= FEWEST_CHARACTERS
        if is_reference and long and "math-block" not in body:
            called = ", ".join(dict.fromkeys(_CALLED[label] for label, _ in parts))
            yield called.capitalize(), body
        else:
            yield "", body


def _label(blocks: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield each block with the part of the reference that it belongs to, or ""."""
    label: str = ""
    awaited: tuple[str, ...] = ()
    for tag, block in blocks:
        start = _LABEL.match(block)
        if start:
            label = start["label"]
            awaited = _LISTS if start["rest"].strip(": ") else ("p", *_LISTS)
        elif tag in awaited:
            awaited = _LISTS
        elif tag != "i":  # an anchor
            label, awaited = "", ()
        yield label, block


def _blocks(note: str) -> list[tuple[str, str]]:
    """Return the elements that stand side by side in a note, each with its tag."""
    finder = _BlockFinder()
    finder.feed(note)
    finder.close()
    line_starts = [0, *accumulate(len(line) + 1 for line in note.split("\n"))]
    starts = [line_starts[n - 1] + column for _, n, column in finder.starts]
    cuts = pairwise([*starts, len(note)])
    tags = [tag for tag, _, _ in finder.starts]
    return [(tag, note[i:j]) for tag, (i, j) in zip(tags, cuts, strict=True)]


class _BlockFinder(HTMLParser):
    """Finds where elements begin that stand in no other."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[tuple[str, int, int]] = []
        self.depth = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Go into an element, unless it is one that holds nothing."""
        self.handle_startendtag(tag, attrs)
        self.depth += tag not in TagChecker.VOID

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """Remember where an element begins."""
        if not self.depth:
            self.starts.append((tag, *self.getpos()))

    def handle_endtag(self, tag: str) -> None:
        """Go out of an element."""
        self.depth -= 1

    def handle_data(self, data: str) -> None:
        """Take text that stands in no element for one without a tag."""
        if not self.depth and data.strip():
            self.starts.append(("", *self.getpos()))
