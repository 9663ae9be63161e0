"""Shapes that a run has seen: beside the lines, in letters, never guessed."""

import html
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from facing.book import Book
from facing.features import shape_examples, trace
from facing.features.shape_claims import fits
from facing.page import build
from facing.read.source import read
from helpers.paths import ROOT
from helpers.rendering import write

# All that a tensor needs here: a shape, a dtype, and some operations.
ARRAY = """
class A:
    def __init__(self, *shape, dtype="lib.float32"):
        self.shape, self.dtype = tuple(shape), dtype

    @property
    def T(self):
        return A(*self.shape[::-1])

    def sum(self):
        return A(*self.shape[:-1])
"""


class Case:
    """A layer, its examples, and the hints that its page gets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.symbols: Path | None = None
        self.write("arrays.py", ARRAY)
        self.sizes = [{"B": 2, "C": 12}, {"B": 3, "C": 20}, {"B": 5, "C": 7}]
        self.derived: dict[str, str] = {}

    def write(self, name: str, text: str) -> Path:
        return write(self.root / name, text)

    def book(self, layer: str, examples: str) -> Book:
        layer = "from arrays import A\n" + textwrap.dedent(layer).lstrip("\n")
        self.source = read(self.write("layer.py", layer))
        head = f"SIZES = {self.sizes}\nDERIVED = {self.derived}\n"
        head += "import layer\nfrom arrays import A\n"
        self.examples = self.root / "examples_of_it.py"
        self.examples.write_text(head + textwrap.dedent(examples))
        return Book([self.source.path], symbols=self.symbols, examples=self.examples)

    def hints(self, layer: str, examples: str) -> list[str]:
        """Each line that has a hint, with it; below is marked."""
        book = self.book(layer, examples)
        assert book.shapes, book.problems()
        page = book.shapes.on_page(self.source)
        found = []
        for n, line in enumerate(self.source.lines, 1):
            hint = page.beside(n)
            if hint:
                text = html.unescape(re.sub("<[^>]*>", "", hint))
                below = " (below)" * ('class="h b"' in hint)
                found.append(f"{line.strip()} -> {text}{below}")
        return found

    def problems(self, layer: str, examples: str) -> list[str]:
        book = self.book(layer, examples)
        book.page(self.source.path)
        return [str(p).removeprefix(f"{self.root}/") for p in book.problems()]


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """A case whose examples run in this process, which is faster."""

    def answer(task: str, _: str) -> object:
        return trace.run(json.loads(task))

    monkeypatch.setattr(shape_examples, "_run_task", answer)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield Case(tmp_path)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_shapes_are_shown_where_they_were_seen(case):
    layer = """
        def f(x, y=None):
            z = x.T
            a, (b, c) = x, (z, 1)
            for i in [x]:
                j = i.sum()
            with open(__file__) as file:
                k = (
                    x
                )
            if (w := x.T).shape:
                n = len([v for v in [x]])
            else:
                never = x
            a.kept = x.sum()
            a.kept = None
            return z, w
        """
    assert case.hints(layer, "def one(B, C): layer.f(A(B, C))") == [
        "def f(x, y=None): -> [B, C] f32",
        "z = x.T -> [C, B] f32",
        "a, (b, c) = x, (z, 1) -> a [B, C]; b [C, B] f32",
        "for i in [x]: -> [B, C] f32",
        "j = i.sum() -> [B] f32",
        "k = ( -> [B, C] f32",
        "if (w := x.T).shape: -> [C, B] f32",
        "a.kept = x.sum() -> [B] f32",
        "return z, w -> 2 × [C, B] f32",
    ]


def test_methods_and_inner_functions_are_seen_and_lambdas_are_not(case):
    layer = """
        class Layer:
            def __call__(self, x):
                def inner(y):
                    return y.T
                self.kept: A = (lambda v: v.sum())(x)
                return inner(x)

            @staticmethod
            def gen(x):
                yield x

            async def later(self, x):
                return x
        """
    examples = """
        def one(B, C):
            layer.Layer()(A(B, C))
            list(layer.Layer.gen(A(B, C)))
            try:
                layer.Layer().later(A(B, C)).send(None)
            except StopIteration:
                pass
        """
    assert case.hints(layer, examples) == [
        "def __call__(self, x): -> [B, C] f32",
        "def inner(y): -> [B, C] f32",
        "return y.T -> [C, B] f32",
        "self.kept: A = (lambda v: v.sum())(x) -> [B] f32",
        "return inner(x) -> [C, B] f32",
        "def gen(x): -> [B, C] f32",
        "async def later(self, x): -> [B, C] f32",
    ]


def test_a_failed_assignment_has_no_shape(case):
    layer = """
        def f(x):
            y = x
            try:
                y = x.missing
            except AttributeError:
                return None
        """
    assert case.hints(layer, "def one(B, C): layer.f(A(B, C))") == [
        "def f(x): -> [B, C] f32",
        "y = x -> [B, C] f32",
    ]


def test_each_branch_that_an_example_reaches_is_shown(case):
    layer = """
        def f(x, flat):
            if flat:
                return x.sum()
            y = x
            return y
        """
    examples = """
        def one(B, C): layer.f(A(B, C), True)
        def two(B, C): layer.f(A(B, C, 1), False)
        """
    assert case.hints(layer, examples) == [
        "def f(x, flat): -> [B, C] f32 or [B, C, 1] f32",
        "return x.sum() -> [B] f32",
        "y = x -> [B, C, 1] f32",
        "return y -> [B, C, 1] f32",
    ]


SAME = "def f(x): ..."
ONE = "def one(B, C): layer.f(A(B, C, 3, B * C, B + 1))"


def test_sizes_become_letters_and_numbers_stay_on_hover(case):
    assert case.hints(SAME, ONE) == ["def f(x): ... -> [B, C, 3, 24|60|35, 3|4|6] f32"]
    case.derived = {"B·C": "B * C"}
    assert case.hints(SAME, ONE) == ["def f(x): ... -> [B, C, 3, B·C, 3|4|6] f32"]
    assert (
        case.book(SAME, ONE)
        .shapes.on_page(case.source)
        .beside(2)
        .count("[2, 12, 3, 24, 3]")
    )


def test_another_batch_size_changes_the_numbers_and_not_the_letters(case):
    before = case.hints(SAME, ONE.replace("B + 1", "1"))
    case.sizes[0]["B"] = 11
    after = case.hints(SAME, ONE.replace("B + 1", "1"))
    assert [h.replace("24|60|35", "132|60|35") for h in before] == after


def test_sizes_that_are_equal_once_are_told_apart(case):
    case.sizes[0]["B"] = case.sizes[0]["C"]
    assert case.hints(SAME, "def one(B, C): layer.f(A(C, B))") == [
        "def f(x): ... -> [C, B] f32"
    ]


def test_sizes_that_are_always_equal_stay_numbers(case):
    for sizes in case.sizes:
        sizes["C"] = sizes["B"]
    assert case.hints(SAME, "def one(B, C): layer.f(A(C, B))") == [
        "def f(x): ... -> [2|3|5, 2|3|5] f32"
    ]


def test_a_size_that_never_changes_is_no_letter(case):
    for sizes in case.sizes:
        sizes["B"] = 3
    assert case.hints(SAME, "def one(B, C): layer.f(A(B, C, 3))") == [
        "def f(x): ... -> [3, C, 3] f32"
    ]


def test_only_sizes_that_an_example_takes_explain_it(case):
    for sizes in case.sizes:
        sizes["D"] = sizes["C"]
    assert case.hints(SAME, "def one(B, C): layer.f(A(C, B))") == [
        "def f(x): ... -> [C, B] f32"
    ]


def test_what_a_page_does_not_show_of_a_line_takes_no_room(case):
    line = f"def f(a): return a  # type: ignore[{'no-untyped-call' * 4}]"
    assert case.hints(line, "def one(B, C): layer.f(A(B, C))") == [
        f"{line} -> [B, C] f32"
    ]


def test_a_long_line_has_its_hint_below(case):
    name = "a_name_that_goes_on_and_on_and_on_and_on_and_on_and_on_and_on"
    assert case.hints(f"def f({name}): ...", "def one(B, C): layer.f(A(B, C))") == [
        f"def f({name}): ... -> [B, C] f32 (below)"
    ]


def test_dtypes_are_shown(case):
    examples = """
        def one(B): layer.f(A(B))
        def two(B): layer.f(A(B, dtype="bfloat16"))
        def three(B): layer.f(A(dtype="int64"))
        """
    assert case.hints(SAME, examples) == [
        "def f(x): ... -> [B] f32 or [B] bf16 or [] i64"
    ]


# --- Claims -----------------------------------------------------------------

CLAIMING = '''
    class Layer:
        """
        Does.

        **Shape**

        - Input and output: `[B, C, *]` or `[B]`.
        - `scale`, `shift`: `[C]`;
          more about it.

        **Raises**: nothing like `[B]`.
        """

        def __init__(self, n):
            self.scale = self.shift = A(n)

        def forward(self, x):
            """Takes `x` of shape `[B, *]`."""
            return x
    '''


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("layer.Layer(C).forward(A(B, C, 3, 4))", []),
        ("layer.Layer(C).forward(A(B, C))", []),
        ("layer.Layer(C).forward(A(B))", []),
        (
            "layer.Layer(B).forward(A(B, C))",
            [
                "layer.py:9: scale is said to have the shape [C], but it has "
                "[2] in the example one with B=2, C=12",
                "layer.py:9: shift is said to have the shape [C], but it has "
                "[2] in the example one with B=2, C=12",
            ],
        ),
        (
            "layer.Layer(C).forward(A(C, B))",
            [
                "layer.py:8: Input is said to have the shape [B, C, *] or "
                "[B], but it has [12, 2] in the example one with B=2, C=12",
                "layer.py:8: output is said to have the shape [B, C, *] or "
                "[B], but it has [12, 2] in the example one with B=2, C=12",
                "layer.py:19: `x` is said to have the shape [B, *], but it "
                "has [12, 2] in the example one with B=2, C=12",
            ],
        ),
    ],
)
def test_a_claim_that_a_run_contradicts_is_a_problem(case, call, expected):
    assert case.problems(CLAIMING, f"def one(B, C): {call}") == expected


@pytest.mark.parametrize(
    ("claimed", "shape", "expected"),
    [
        ("[B, C, *]", (2, 12), True),
        ("[B, C, *]", (2,), False),
        ("[B, …, 1]", (2, 5, 5, 1), True),
        ("[B, …, 1]", (2, 5, 5), False),
        ("[B, N, N]", (2, 5, 5), True),
        ("[B, N, N]", (2, 5, 6), False),
        ("[C/B]", (6,), True),
        ("[B·C]", (25,), False),
        ("[]", (), True),
        ("[]", (1,), False),
        ("[3, B]", (3, 2), True),
        ("[3, B]", (4, 2), False),
    ],
)
def test_claims_are_read_with_letters_stars_and_numbers(claimed, shape, expected):
    assert fits(claimed, shape, {"B": 2, "C": 12}) is expected


def test_a_declared_symbol_that_a_run_contradicts_is_a_problem(case):
    case.symbols = case.write(
        "symbols.yml",
        """
        - latex: m
          scope: layer.f
          code: m
          say: m
          meaning: a mean
          shape: "[B]"
        - latex: x
          scope: {layer: x, layer.g: []}
          say: x
          meaning: input
          shape: "[C, B]"
        """,
    )
    layer = """
        def f(x):
            m = x.sum()
            def own(m): ...
            own(x)
            m = x.T
        """
    assert case.problems(layer, "def one(B, C): layer.f(A(C, B))") == [
        "symbols.yml:7: scope layer.g: layer defines no such thing; did you "
        "mean layer.f or layer?"
    ]
    text = case.symbols.read_text().replace(", layer.g: []", "")
    case.symbols.write_text(text)
    assert case.problems(layer, "def one(B, C): layer.f(A(B, C))") == [
        "symbols.yml:1: m in layer.f is said to have the shape [B], but it "
        "has [12, 2] in the example one with B=2, C=12",
        "symbols.yml:7: x in layer is said to have the shape [C, B], but it "
        "has [2, 12] in the example one with B=2, C=12",
    ]


# --- The process ------------------------------------------------------------


def test_without_examples_pages_stay_as_they_are(case):
    source = read(case.write("plain.py", "def f(x):\n    return x\n"))
    book = Book([source.path])
    assert book.shapes is None
    names = book.names.on_page(source)
    assert '<i class="h' not in build(source, features=[names]).body


@pytest.fixture
def apart(tmp_path: Path) -> Case:
    """A case whose examples run in a process of their own, as they do."""
    return Case(tmp_path)


def test_examples_run_in_a_process_of_their_own(apart):
    examples = """
        def one(B, C):
            print("This is no JSON.")
            layer.f(A(B, C))
        """
    assert apart.hints(SAME, examples) == ["def f(x): ... -> [B, C] f32"]
    assert "layer" not in sys.modules


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        ("def one(B): 1 / 0", "5: this example fails: ZeroDivisionError: "),
        ("def one(B): layer.f(", "5: this example fails: SyntaxError: "),
        ("def one(Z): ...", "5: this example fails: one takes Z, and SIZES"),
        ("def one(z=1): exit(z)", "5: this example fails: SystemExit: 1"),
        ("SIZES = []", "1: this example fails: SIZES must be a list of"),
        ("SIZES += [{}]", "1: this example fails: SIZES must be a list of"),
        ("import os; os._exit(1)", "1: this example fails: it ended early"),
    ],
)
def test_an_example_that_fails_names_its_line(apart, examples, expected):
    (found,) = apart.problems(SAME, examples)
    assert found.startswith(f"examples_of_it.py:{expected}")


def test_our_layers_show_what_their_pages_claim():
    names = ("batch_norm", "batch_channel_norm", "weight_standardization")
    paths = [ROOT / "labml_bcn" / f"{name}.py" for name in names]
    book = Book(paths, examples=ROOT / "website" / "examples.py")
    assert book.problems() == []
    hints = {
        line.strip(): page.beside(n)
        for source in book.sources.values()
        for page in [book.shapes.on_page(source)]
        for n, line in enumerate(source.lines, 1)
    }
    grouped = hints["grouped = z.reshape(len(z), groups, -1)"]
    assert ">[B, G, D·L] f32<" in grouped
    assert "[2, 3, 140] f32 [3, 4, 110] f32" in grouped
