"""Symbols: matched by structure, held by scopes, declared without a slip."""

import re
import textwrap
from pathlib import Path

import pytest
from facing.book import Book
from facing.page import build
from facing.problem import Problem
from facing.read.source import Source, read
from helpers.rendering import write


class Case:
    """Files and a table of symbols, and what pages become of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources: list[Source] = []

    def file(self, name: str, text: str) -> Source:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(textwrap.dedent(text).lstrip("\n").encode())
        self.sources.append(read(path))
        return self.sources[-1]

    def declare(self, text: str) -> Book:
        path = write(self.root / "symbols.yml", text)
        book = Book([source.path for source in self.sources], symbols=path)
        table = book.symbols
        self.bodies = [
            build(s, features=[table.on_page(s)] if table else []).body
            for s in self.sources
        ]
        return book

    def problems(self, text: str) -> list[str]:
        found = self.declare(text).problems()
        return [str(p).removeprefix(f"{self.root}/") for p in found]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def marked(body: str) -> list[tuple[int, str]]:
    """The number and the text of each mark, in the order of the page."""
    body = body.split('<details class="symbols"')[0]
    found = []
    for at in re.finditer(r'<(\w+)[^>]* data-s="(\d+)"[^>]*>', body):
        depth, end = 1, at.end()
        for tag in re.finditer(rf"<(/?){at[1]}\b[^>]*>", body[at.end() :]):
            depth += -1 if tag[1] else 1
            if not depth:
                end = at.end() + tag.start()
                break
        found.append((int(at[2]), re.sub("<[^>]*>", "", body[at.end() : end])))
    return found


def symbol(latex: str, scope: str = "one", code: str = "[]") -> str:
    return (
        f"- latex: {latex}\n  scope: {scope}\n  code: {code}\n"
        "  say: it\n  meaning: what it is\n"
    )


# --- In formulas ------------------------------------------------------------


@pytest.mark.parametrize(
    ("latex", "formula", "expected"),
    [
        (r"\hat{\mu}_c", r"\hat\mu_c + \mu_c + \hat\mu", ["μˆc"]),
        (r"\mu_c", r"\mu_{c} - \mu_{b,c} - \mu", ["μc"]),
        (r"\mu", r"\mu_c + \bar\mu + \mu^2 + \mu", ["μ", "μ"]),
        ("r", r"\operatorname{Var}(x) + \text{r} + \mathrm{r} + r", ["r"]),
        (r"\sigma_c", r"\sigma_c^2 + \sigma^2_c + \sigma'_c", ["σc2", "σc2"]),
        (r"\sigma^2_c", r"\sqrt{\sigma_c^2 + \epsilon}", ["σc2"]),
        ("x", r"\frac{x}{\sqrt{x^x}} + y_x + 2^{-x}", ["x"] * 5),
        ("x", r"x' + x^* + x^{(2)}", ["x"]),
        ("x", r"\overline{x + y} + \underbrace{x}_{x}", ["x"] * 3),
        ("c", r"\sum_{c \in g} x_{b,c}", ["c", "c"]),
        ("C/G", r"D = C / G, \quad C + G", ["C/G"]),
        (r"d\gamma_c", r"d\gamma_c + d + \gamma_c", ["dγc"]),
        (r"\operatorname{Var}", r"\operatorname{Var}(x)", ["Var"]),
        ("x", r"\begin{align}x &= y \\ z &= x\end{align}", ["x", "x"]),
        ("x", r"\color{red}x + \left( x \right)", ["x", "x"]),
        ("x", r"a < b, \operatorname{f}(a)", []),
    ],
)
def test_formulas_match_by_structure(case, latex, formula, expected):
    case.file("one.py", f'r"""\n# T\n\nHere ${formula}$.\n"""\n')
    case.declare(symbol(latex))
    assert [text for _, text in marked(case.bodies[0])] == expected


def test_symbols_are_marked_wherever_formulas_stand(case):
    case.file(
        "one.py",
        r'''
        r"""
        # On $x$

        - In a list: $x$.

        | table |
        | --- |
        | $x$ |

        $$x$$
        """

        # A comment with $x$.
        a = 1
        ''',
    )
    case.declare(symbol("x"))
    assert len(marked(case.bodies[0])) == 5


def test_the_largest_symbol_wins(case):
    case.file("one.py", r'r"""$x_{b,c} + c + \frac{x_{b,c}}{x}$"""')
    case.declare(symbol("x") + symbol("c") + symbol("x_{b,c}"))
    texts = [text for _, text in marked(case.bodies[0])]
    assert texts == ["xb,c", "c", "xb,c", "x"]


def test_marks_change_nothing_else_of_a_formula(case):
    formula = r"\frac{1}{B} \sum_{b} \operatorname{f}(x_b) < \hat y^2"
    source = case.file("one.py", f'r"""${formula}$"""')
    plain = build(source).body
    case.declare(symbol("x_b") + symbol("B"))
    body = case.bodies[0].split("<details")[0] + "</div>"
    body = re.sub(r' data-s="\d+"', "", body)
    assert (
        body.replace("\u2061", "&ApplyFunction;").replace(
            "<mspace></mspace>", "<mspace/>"
        )
        == plain
    )


# --- In code ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("var", "var = cov(variance, var)", ["var", "var"]),
        ("var", "f(var=1); x.var; 'var'; f'{var}'  # var", []),
        ("self.m", "self.m += self.mm + other.m + m", ["self.m"]),
        ("x.shape[0]", "b = x.shape[0] * x.shape[1]", ["x.shape[0]"]),
        ("x", "for x in range(x): print(x)", ["x", "x", "x"]),
        ("x", "if (x := 1): pass", ["x"]),
        ("x", "y = [x for x in z] + [x for y in z]", ["x"]),
        ("x", "y = lambda x: x + 1; z = lambda y: x", ["x"]),
        ("x", "ünï = 'ü'; x = ünï; y = x", ["x", "x"]),
        ("x", "y = (\n    x\n    + z\n)", ["x"]),
        ("x + z", "y = (\n    x\n    + z\n)", ["x", "+ z"]),
        ("x", "async def f(x: x = x): await x", ["x"] * 4),
        ("x", "@x\nclass A(x): x: int = 1", ["x"] * 3),
        ("x", "if a:\n\tb(x)", ["x"]),
        ("x", "with a as x: del x", ["x", "x"]),
    ],
)
def test_code_matches_by_structure(case, code, text, expected):
    case.file("one.py", text)
    case.declare(symbol("x", code=f'"{code}"'))
    assert [text for _, text in marked(case.bodies[0])] == expected


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_do_not_matter(case, end):
    case.file("one.py", "def f(x):\n    return x\n".replace("\n", end))
    case.declare(symbol("x", code="x"))
    assert len(marked(case.bodies[0])) == 2


def test_a_marked_line_shows_its_code_to_the_letter(case):
    text = 'y = "<a>" if self.x[0] < x and f"{x}" else x  # <x>\n'
    case.file("one.py", text)
    case.declare(
        symbol("x", code="x")
        + symbol("y", code="self.x")
        + symbol("z", code="self.x[0]")
    )
    code = re.search(r"<pre><code>(.*?)</code></pre>", case.bodies[0], re.S)
    assert code
    shown = re.sub(r"<[^>]*>", "", code[1])
    assert shown.replace("&lt;", "<").replace("&gt;", ">") == text


# --- Scopes -----------------------------------------------------------------

TWO = r'''
    r"""Module: $v$."""

    class A:
        r"""Class: $v$."""

        def f(self, var):
            r"""In f: $v$."""
            # Still in f: $v$.
            return var
            # At the end of f: $v$.

        # Between the two: $v$.
        def g(self, var):
            r"""In g: $v$."""
            return var
    '''


def lines_of(case: Case, number: int = 0) -> list[int]:
    assert case.book.symbols
    uses = case.book.symbols.symbols[number].uses
    return sorted(line for _, line, _ in uses)


def test_a_symbol_holds_in_its_scope_and_nowhere_else(case):
    case.file("one.py", TWO)
    case.book = case.declare(symbol("v", "one.A.f", "var"))
    assert lines_of(case) == [6, 7, 8, 9, 10]


def test_an_inner_scope_may_declare_a_name_anew(case):
    case.file("one.py", TWO)
    case.book = case.declare(
        symbol("v", "one.A", "var") + symbol("v", "one.A.g", "var")
    )
    assert lines_of(case, 0) == [4, 6, 7, 8, 9, 10, 12]
    assert lines_of(case, 1) == [13, 14, 15]


def test_one_symbol_in_two_scopes_is_lit_up_in_one_at_a_time(case):
    case.file("one.py", TWO)
    case.declare(
        """
        - latex: v
          scope: {one.A.f: var, one.A.g: [var]}
          say: v
          meaning: a variance
        """
    )
    numbers = [n for n, _ in marked(case.bodies[0])]
    assert sorted(numbers) == [1] * 5 + [2] * 3
    assert case.bodies[0].count("<dt>") == 1
    assert 'data-for="1 2"' in case.bodies[0]


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        ("{one.A: [], one.A.f: var}", [1] * 8),
        ("{one.A: [], one.A.f: var, one.A.g: var}", [1] * 10),
        # A module is no whole: what it declares is shared notation.
        (
            "{one: [], one.A.f: var, one.A.g: var}",
            [1] * 3 + [2] * 5 + [3] * 3,
        ),
    ],
)
def test_a_class_and_its_methods_have_one_symbol(case, scopes, expected):
    case.file("one.py", TWO)
    case.declare(
        f"""
        - latex: v
          scope: {scopes}
          say: v
          meaning: a variance
        """
    )
    numbers = [n for n, _ in marked(case.bodies[0])]
    assert sorted(numbers) == expected


def test_a_function_inside_has_variables_of_its_own(case):
    case.file(
        "one.py",
        """
        def f(var):
            def own(var):
                return var

            def shared():
                nonlocal var
                var = 1

            def reads():
                return var
        """,
    )
    case.book = case.declare(symbol("v", "one.f", "var"))
    assert lines_of(case) == [1, 7, 10]


def test_decorators_and_defaults_belong_to_the_scope_around(case):
    case.file(
        "one.py",
        """
        @deco(x)
        def f(a: x = x) -> x:
            return x
        """,
    )
    case.book = case.declare(symbol("x", "one.f", "x"))
    assert lines_of(case) == [3]


def test_a_module_may_be_named_with_its_package(case):
    case.file("pkg/__init__.py", "")
    case.file("pkg/one.py", "x = 1\n")
    case.file("other/__init__.py", "")
    case.file("other/one.py", "x = 1\n")
    case.book = case.declare(symbol("x", "pkg.one", "x"))
    assert [bool(marked(body)) for body in case.bodies] == [0, 1, 0, 0]


def test_without_declared_symbols_pages_stay_as_they_are(case):
    source = case.file("one.py", TWO)
    other = case.file("two.py", r'r"""$v$"""' + "\nvar = 1\n")
    case.declare(symbol("v", "one", "var"))
    assert case.bodies[1] == build(other).body
    assert case.bodies[0] != build(source).body


# --- What is wrong is said with file and line -------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (symbol("w"), "1: w occurs nowhere in one"),
        (symbol("v", "one.A", "war"), "1: code: war occurs nowhere in one.A"),
        (
            symbol("v", "[one.A.f, one]") + symbol("u", "one.A.g", "var"),
            None,
        ),
        (
            symbol("v", "one.A.h"),
            "1: scope one.A.h: one defines no such thing; did you mean one.A",
        ),
        (
            symbol("v", "three"),
            "1: scope three: no module of that name has a page",
        ),
        (
            symbol("v") + symbol("'{v}'"),
            "6: {v} is declared for one already, in line 1; keep one of the two",
        ),
        (
            symbol("v", code="'a b'"),
            "1: code: a b is not a Python expression",
        ),
        (symbol(r"\frac{"), "1: Expected closing"),
        ("- latex: v\n", "1: a symbol without scope"),
        (symbol("v", "[]"), "1: a symbol without scope"),
        (symbol("v", "{}"), "1: a symbol without scope"),
        (symbol("[]"), "1: a symbol without latex"),
        (symbol("''"), "1: a symbol without latex"),
        ("- latex: v\n  sope: one\n", "2: unknown field sope; "),
        ("- latex: v\n  latex: w\n", "2: a second latex; keep one of them"),
        ("latex: v\n", "1: symbols are a list: begin each with `- `"),
        ("- latex: [\n", "2: not valid YAML: "),
        (symbol(r"[\mu_{c}]"), "1: not valid YAML: "),
        ("- latex: \x07\n", "1: not valid YAML: "),
        (symbol("v").replace("say: it", "say: [a, {b: c}]"), "4: expected a"),
        (
            symbol("v", "{one: var}", "var"),
            "3: code stands in scope already",
        ),
    ],
)
def test_a_mistake_in_the_table_names_its_line(case, text, expected):
    case.file("one.py", TWO)
    found = case.problems(text)
    if expected is None:
        assert found == []
        return
    assert len(found) == 1
    assert found[0].startswith(f"symbols.yml:{expected}")


def test_an_ambiguous_module_is_refused(case):
    for folder in ("a", "b"):
        case.file(f"{folder}/__init__.py", "")
        case.file(f"{folder}/one.py", TWO)
    (found,) = case.problems(symbol("v"))
    assert "scope one is ambiguous" in found
    assert "name the package" in found


def test_a_missing_table_is_a_problem(case):
    book = Book([], symbols=case.root / "no.yml")
    (found,) = book.problems()
    assert isinstance(found, Problem)
    assert "cannot be read" in str(found)
