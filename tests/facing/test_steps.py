"""Steps with numbers: what was computed, in order, and formulas that are right."""

import re
import textwrap
from pathlib import Path

import pytest
from facing.book import Book
from facing.features.step_formula import formula, number

FRAME = (1, 2, 2)
FULL = {"shape": [2, 2], "flat": [1.0, 2.0, 3.0, -4.0]}
COLUMN = {"shape": [2, 1], "flat": [1.5, -0.5]}

ARRAY = """
class A:
    def __init__(self, *flat):
        self.flat, self.shape = flat, (len(flat),)

    dtype = "lib.float32"

    def tolist(self):
        return list(self.flat)

    def __add__(self, other):
        return A(*(a + other for a in self.flat))

    def sqrt(self):
        return A(*(a**0.5 for a in self.flat))

    def same(self):
        return self
"""

LAYER = """
from arrays import A


def norm(x, more=1.0, negative=False):
    y = x.same()
    z = (
        y + more
    )
    if negative:
        z = z + -9.0
    name = z
    return z.sqrt()


def after():
    pass
"""

EXAMPLES = """
from arrays import A
from layer import norm

SIZES = [{"B": 2}]

def plain():
    '''Nothing special.'''
    norm(A(3.0, 8.0))

def negative():
    '''Below zero for a while.'''
    norm(A(12.0, 57.0), negative=True)

STEPS = {norm: [plain, negative]}
"""


def step(expression: str, result: dict[str, object], **parts: object) -> dict:
    return {"expression": expression, "parts": parts, **result}


def test_a_formula_has_the_numbers_at_the_point_that_is_followed():
    parts = {"x": FULL, "m": COLUMN}
    result = {"shape": [2, 2], "flat": [-0.5, 0.5, 3.5, -3.5]}
    assert formula(step("x - m", result, **parts), (0, 1, 1), FRAME) == "−4 − (−0.5)"
    assert formula(step("x - m", result, **parts), (0, 0, 1), FRAME) == "2 − 1.5"


def test_a_statistic_is_of_all_values_that_it_lies_over():
    parts = {"x": FULL, "x.mean(1)": COLUMN}
    shown = formula(step("x.mean(1)", COLUMN, **parts), (0, 1, 0), FRAME)
    assert shown == "mean(3, −4)"


def test_a_formula_that_does_not_give_what_the_line_gave_is_left_out():
    wrong = {"shape": [2, 2], "flat": [9.0] * 4}
    assert formula(step("x - m", wrong, x=FULL, m=COLUMN), (0, 0, 0), FRAME) == ""
    assert formula(step("x - gone", FULL, x=FULL), (0, 0, 0), FRAME) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (1.2345, "1.23"),
        (-12.34, "-12.3"),
        (1234.5, "1234"),
        (2.0, "2"),
        (-0.0001, "0"),
        (True, "yes"),
    ],
)
def test_numbers_are_shown_with_three_digits(value, text):
    assert number(value) == text


class Project:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("arrays.py", ARRAY)
        self.write("layer.py", LAYER)

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.write_text(textwrap.dedent(text).lstrip("\n"))
        return path

    def book(self, examples: str) -> Book:
        path = self.write("examples_of_it.py", examples)
        return Book([self.root / "layer.py"], examples=path)

    def problems(self, examples: str) -> list[str]:
        book = self.book(examples)
        book.page(self.root / "layer.py")
        return [str(p).removeprefix(f"{self.root}/") for p in book.problems()]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_page_shows_each_step_of_each_run_below_the_function(project):
    body = project.book(EXAMPLES).page(project.root / "layer.py").body
    before, _, rest = body.partition('<figure class="stepper">')
    figure, _, after = rest.partition("</figure>")
    assert 'id="norm"' in before
    assert 'id="after"' in after
    steps = []
    for head, runs in re.findall(r"<tbody><tr>(.*?)</tr><tr>(.*?)</tr>", figure, re.S):
        cells = re.findall(r"<td>(.*?)</td>", runs, re.S)
        plain = [re.sub("<[^>]*>", " ", cell).split() for cell in cells]
        steps.append((re.sub("<[^>]*>", "", head), [" ".join(c) for c in plain]))
    # No step: `x.same()` passes on what it was given, and `name` is another name.
    assert steps == [
        ("4 x [2]", ["3 8*", "12 57*"]),
        ("6–8 z [2]", ["4 9* 8 + 1", "13 58* 57 + 1"]),
        ("10 z [2]", ["", "4 49* 58 + (−9)"]),
        ("12 z.sqrt() [2]", ["2 3* √9", "2 7* √49"]),
    ]


def test_what_is_stepped_through_is_not_searched(project):
    page = project.book(EXAMPLES).page(project.root / "layer.py")
    assert "Nothing special" in page.body
    assert "Nothing special" not in page.search


def test_a_preset_that_does_not_call_its_function_is_a_problem(project):
    idle = EXAMPLES.replace("    norm(A(3.0, 8.0))", "    A(3.0)")
    assert project.problems(idle) == [
        "examples_of_it.py:6: this example fails: plain is to call norm, and did "
        "not: call it, or take the preset out of STEPS"
    ]


def test_steps_of_another_form_are_a_problem(project):
    (problem,) = project.problems(EXAMPLES.replace("[plain, negative]", "plain"))
    assert "STEPS must give each function that is stepped through a list" in problem
