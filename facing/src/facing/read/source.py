r"""
# From source to rows

A page is a list of rows: on the left a note, on the right the code that it
speaks of. This file finds them. Docstrings and comments that have their
lines for themselves are notes; all else is code. A row begins at a comment,
at a definition, and where a definition ends.

Every line of the file belongs to exactly one row.
"""

import ast
import io
import re
import tokenize
import warnings
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facing.problem import Problem
from facing.read.text import read_text
from facing.read.yaml import load_front_matter


@dataclass(frozen=True)
class Line:
    """A line of a note: where it stands in the file, and its text."""

    number: int
    text: str


@dataclass
class Row:
    """
    Notes, the code beside them, and the definition that begins there.

    `depth` counts the definitions around the row. `constructor` is the line
    of an `__init__` without a note: it stands beside the note of its class.
    """

    notes: list[list[Line]] = field(default_factory=list)
    code: list[int] = field(default_factory=list)
    blank: list[int] = field(default_factory=list)
    name: str = ""
    depth: int = 0
    constructor: int = 0

    def __bool__(self) -> bool:
        return bool(self.notes or self.code or self.blank)


@dataclass
class Source:
    """A file, read: its text, lines, front matter, rows and syntax tree."""

    path: Path
    text: str
    lines: list[str]
    meta: dict[str, Any]
    rows: list[Row]
    tree: ast.Module
    module: str  # its dotted name, as it is imported
    root: Path  # the folder where imports begin
    file: Path  # where it was read, whatever it is called on the page


def read(path: Path, root: Path = Path()) -> Source:
    """
    Read a file into rows. Its path is seen from `root`.

    **Raises**: `Problem` if it cannot be read or is no valid Python.
    """
    file = root / path
    text = read_text(file)
    tree, tokens = parse_python(file, text)
    lines = text.removesuffix("\n").split("\n")
    finder = _RowFinder(lines, tree, tokens)
    meta = _take_front_matter(file, finder.module_note)
    rows = finder.lay_out_rows()
    name, top = module_name(file)
    return Source(
        path, text, lines, meta, rows, tree, name, top, file.resolve()
    )


def module_name(path: Path) -> tuple[str, Path]:
    """Return a file's dotted name among packages, and their folder."""
    path = path.resolve()
    parts = [] if path.stem == "__init__" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def parse_python(
    path: Path, text: str
) -> tuple[ast.Module, list[tokenize.TokenInfo]]:
    """Return the syntax tree and the tokens of a file's text."""
    try:
        with warnings.catch_warnings():
            # `\m` in a docstring that is not raw is no concern of ours.
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
        return tree, list(
            tokenize.generate_tokens(io.StringIO(text).readline)
        )
    except SyntaxError as error:
        raise Problem(
            path, error.lineno or 1, f"not valid Python here: {error.msg}"
        ) from None
    except tokenize.TokenError as error:
        message, (line, _) = error.args
        raise Problem(path, line, f"not valid Python: {message}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Problem(path, 1, f"not valid Python: {error}") from None


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

# Comments that speak to tools and not to readers.
DIRECTIVE = re.compile(
    r"#(!|\s*(-\*-|vim?:|coding[:=]|type:|noqa\b|fmt:|isort:|ruff:|mypy:|"
    r"pyright:|pylint:|pragma:|nosec\b|flake8[:-]|yapf:|%%))"
)


class _RowFinder:
    """Finds the notes and definitions of a file, and lays out its rows."""

    def __init__(
        self,
        lines: list[str],
        tree: ast.Module,
        tokens: list[tokenize.TokenInfo],
    ) -> None:
        self.lines = lines
        self.notes: dict[int, list[Line]] = {}  # by their first line
        self.docstrings: set[int] = set()  # first lines, the module's not
        self.documented: set[str] = set()
        self.starts: dict[int, tuple[str, int]] = {}  # name and last line
        self.headers: set[int] = set()  # the lines of `def f(...):`
        self.module_note = self._find_docstring(tree)
        self._find_definitions(tree, tokens)
        self._find_comments(tokens)

    def _find_definitions(
        self, tree: ast.Module, tokens: list[tokenize.TokenInfo]
    ) -> None:
        newlines = [t.start[0] for t in tokens if t.type == tokenize.NEWLINE]
        todo: list[tuple[ast.AST, str]] = [(tree, "")]
        while todo:
            parent, prefix = todo.pop()
            for node in ast.iter_child_nodes(parent):
                if isinstance(node, Definition):
                    self._add_definition(node, prefix + node.name, newlines)
                    todo.append((node, f"{prefix}{node.name}."))
                elif isinstance(
                    node, ast.stmt | ast.ExceptHandler | ast.match_case
                ):
                    todo.append((node, prefix))

    def _add_definition(
        self, node: Definition, name: str, newlines: list[int]
    ) -> None:
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        self.starts[first] = name, node.end_lineno or node.lineno
        # A header goes on to the end of its logical line. Comments between
        # its parentheses stay in the code.
        last = newlines[bisect_left(newlines, node.lineno)]
        self.headers.update(range(first, last + 1))
        note = self._find_docstring(node)
        if note:
            self.docstrings.add(note[0].number)
            self.documented.add(name)

    def _find_docstring(
        self, node: ast.Module | Definition
    ) -> list[Line] | None:
        """
        Find a docstring that is one literal and has its lines for itself.

        A comment behind it belongs to it.
        """
        statement = node.body[0] if node.body else None
        if not (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        ):
            return None
        before, text, behind = self._cut_out(statement)
        literal = _LITERAL.fullmatch(text)
        if before or not literal or behind[:1] not in ("", "#"):
            return None
        body = literal["body"]
        if literal["prefix"] not in ("r", "R"):
            body = _unescape(body)
        texts = body.split("\n")
        if behind and not DIRECTIVE.match(behind):
            texts[-1] += "  " + behind.lstrip("# ")
        note = _number_lines(statement.lineno, texts, flush=1)
        self.notes[statement.lineno] = note
        return note

    def _cut_out(self, statement: ast.stmt) -> tuple[str, str, str]:
        r"""
        Return the source of a statement, with what is before and behind it.

        A docstring is read from the source, for in its value `\beta` has
        become a backspace and "eta" if the literal is not raw.
        """
        first, last = statement.lineno, statement.end_lineno or 0
        # Python counts columns in bytes of UTF-8.
        before = self.lines[first - 1].encode()[: statement.col_offset]
        behind = self.lines[last - 1].encode()[statement.end_col_offset :]
        text = "\n".join(self.lines[first - 1 : last]).encode()
        text = text[len(before) : len(text) - len(behind)]
        return before.decode().strip(), text.decode(), behind.decode().strip()

    def _find_comments(self, tokens: list[tokenize.TokenInfo]) -> None:
        """Gather comments on lines of their own, at one indentation."""
        block: list[tokenize.TokenInfo] = []
        for token in tokens:
            if token.type != tokenize.COMMENT or not self._is_note(token):
                continue
            line, column = token.start
            if block and block[-1].start != (line - 1, column):
                self._add_comment(block)
                block = []
            block.append(token)
        if block:
            self._add_comment(block)

    def _is_note(self, comment: tokenize.TokenInfo) -> bool:
        line, column = comment.start
        return not (
            self.lines[line - 1][:column].strip()
            or line in self.headers
            or DIRECTIVE.match(comment.string)
        )

    def _add_comment(self, block: list[tokenize.TokenInfo]) -> None:
        first = block[0].start[0]
        texts = [re.sub(r"^#+:? ?", "", t.string) for t in block]
        self.notes[first] = _number_lines(first, texts)

    def lay_out_rows(self) -> list[Row]:
        """Lay out the file, from its first line to its last."""
        rows = [Row()]
        around: list[int] = []  # last lines of the definitions around
        number, ended = 1, False
        while number <= len(self.lines):
            note = self.notes.get(number)
            text = self.lines[number - 1].strip()
            while text and around and around[-1] < number:
                around.pop()
                ended = True
            if self._starts_row(number, rows[-1], ended and bool(text)):
                rows.append(Row(depth=len(around)))
                ended = False
            row = rows[-1]
            if number in self.starts:
                name, last = self.starts[number]
                if self._joins_its_class(name, row):
                    row.constructor = number
                else:
                    row.name, row.depth = name, len(around)
                around.append(last)
            if note:
                row.notes.append(note)
                number = note[-1].number
            else:
                (row.code if text else row.blank).append(number)
            number += 1
        return [_join_code(row) for row in rows if row]

    def _starts_row(self, number: int, row: Row, ended: bool) -> bool:
        """Tell whether a new row begins at a line."""
        note = self.notes.get(number)
        if number in self.docstrings or not row:
            return False
        if note is not None and note is self.module_note:
            return bool(row.notes or row.code)
        after_module_note = self.module_note in row.notes
        if number in self.starts or note:
            if self._joins_its_class(self.starts.get(number, ("",))[0], row):
                return False
            if row.code or row.name or after_module_note:
                return True
            # A note without code goes with what stands right below it.
            above = row.notes[-1][0].number if row.notes else number
            return self._indentation(above) != self._indentation(number)
        text = self.lines[number - 1].strip()
        return ended or (after_module_note and bool(text))

    def _joins_its_class(self, name: str, row: Row) -> bool:
        """Tell whether only the class speaks of this constructor."""
        own = f"{row.name}.__init__"
        return bool(row.notes) and name == own and name not in self.documented

    def _indentation(self, number: int) -> int:
        line = self.lines[number - 1].expandtabs()
        return len(line) - len(line.lstrip())


def _join_code(row: Row) -> Row:
    """Put blank lines between code lines back among them."""
    if row.code:
        first, last = row.code[0], row.code[-1]
        inner = [n for n in row.blank if first < n < last]
        row.code = sorted(row.code + inner)
        row.blank = [n for n in row.blank if n not in inner]
    return row


_LITERAL = re.compile(
    r"""(?P<prefix>[rRuU]?)(?P<quote>\"{3}|'{3}|\"|')"""
    r"""(?P<body>(?:\\.|(?!(?P=quote)).)*)(?P=quote)""",
    re.DOTALL,
)


def _unescape(body: str) -> str:
    r"""
    Guess what the author of a docstring that is not raw meant by `\`.

    If every backslash is doubled, they were escaped on purpose. If some are
    not, as in `\frac`, LaTeX was written as if the string were raw.
    """
    body = re.sub(r"^\\(?=\n)", "", body)
    runs = re.findall(r"\\+", body)
    if all(len(run) % 2 == 0 for run in runs):
        return body.replace("\\\\", "\\")
    return re.sub(r"\\([\"'])", r"\1", body)


def _number_lines(first: int, texts: list[str], flush: int = 0) -> list[Line]:
    """Number lines, and take off the indentation that they share."""
    texts = [text.expandtabs().rstrip() for text in texts]
    margin = min(
        (len(t) - len(t.lstrip()) for t in texts[flush:] if t), default=0
    )
    return [
        Line(first + i, text.lstrip() if i < flush else text[margin:])
        for i, text in enumerate(texts)
    ]


def _take_front_matter(path: Path, note: list[Line] | None) -> dict[str, Any]:
    """Take YAML between two `---` off the head of the module's note."""
    texts = [line.text for line in note or []]
    filled = [i for i, text in enumerate(texts) if text]
    if note is None or not filled or texts[filled[0]] != "---":
        return {}
    start = filled[0] + 1
    if "---" not in texts[start:]:
        return {}
    end = texts.index("---", start)
    text = "\n".join(texts[start:end])
    meta = load_front_matter(text, path, note[start].number)
    if not isinstance(meta, dict):
        return {}  # two rules with text between them
    note[: end + 1] = [Line(line.number, "") for line in note[: end + 1]]
    return meta
