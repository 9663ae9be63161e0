"""Named equations, and the tests that assert them, in anyone's files."""

import re
from pathlib import Path

import markdown
import pytest
from facing.cli import main
from facing.features.equation_tests import EquationTests
from facing.page import Page, build
from facing.read.source import read
from facing.text.markdown_math import MathExtension
from helpers.rendering import messages, write

MARK = "@pytest.mark.equation"


def page(tmp_path: Path, note: str, tests: EquationTests | None = None) -> Page:
    path = write(tmp_path / "layer.py", f'r"""\n# T\n\n{note}\n"""\nx = 1\n')
    source = read(path)
    return build(source, features=[tests.on_page(source)] if tests else [])


def read_markers(tmp_path: Path, text: str) -> EquationTests:
    return EquationTests([write(tmp_path / "tests" / "test_layer.py", text)])


def equation_names(body: str) -> list[str]:
    return re.findall(r'<span class="equation" id="([^"]*)">', body)


# --- On a page --------------------------------------------------------------


@pytest.mark.parametrize(
    "note",
    [
        "$$a = b$$ {#sum}",
        "$$a = b$${#sum}",
        "$$a\n= b$$ {: #sum }",
        "$$a = b$$\n{#sum}",
        "$$\na = b\n$$\n{#sum .notation}\n\nText.",
        "$$\na = b\n$$ {#sum}",
        "    $$\n    a = b\n    $$ {#sum}".replace("    ", ""),
        r"\[a = b\] {#sum}",
        "\\begin{align}\na &= b\n\\end{align} {#sum}",
        "Text $$a = b$$ {#sum} and more.",
        "- One:\n\n    $$a = b$$ {#sum}\n\n- two",
        "- One:\n  $$a\n  = b$$ {#sum}",
        "1. One:\n\n    $$a\n    = b$$\n    {#sum}\n2. Two",
        '!!! note "Why"\n    Because:\n\n    $$a = b$$ {#sum}\n\n    So.',
        "> $$a = b$$ {#sum}",
        "$$a = b$$ {#sum .notation}",
    ],
)
def test_a_name_behind_an_equation_is_its_id(tmp_path, note):
    made = page(tmp_path, note)
    assert equation_names(made.body) == ["sum"]
    assert "sum" in made.ids
    assert '<a href="#sum"' in made.body
    assert "{" not in re.sub(r"<math.*?</math>", "", made.body)
    assert messages(made.problems) == []
    assert [e.name for e in made.equations] == ["sum"]


def test_several_equations_in_one_note_each_have_their_line(tmp_path):
    made = page(
        tmp_path,
        "$$a = b$$ {#first}\n\nand\n\n$$b\n= c$$ {#second}\n\n"
        "$$c = d$$ $$e = f$$ {#third}\n\nnot $x$.",
    )
    assert [(e.name, e.line) for e in made.equations] == [
        ("first", 4),
        ("second", 8),
        ("", 11),
        ("third", 11),
    ]
    assert equation_names(made.body) == ["first", "second", "third"]


def test_without_names_a_page_is_as_without_equations(tmp_path):
    note = "A $$a = b$$ {see below} and\n\n$$\nc\n$$\n\n\\[d\\]"
    made = page(tmp_path, note)
    assert "equation" not in made.body
    assert "proof" not in made.body
    assert "{see below}" in made.body
    assert made.body == page(tmp_path, note, EquationTests()).body
    block = re.escape('<span class="math-block"><math ')
    assert len(re.findall(rf"<p>(?:A |<i [^>]*></i>)*{block}", made.body)) == 3


@pytest.mark.parametrize("braces", ["{: .wide }", "{: #sum }", "{.wide}"])
def test_braces_on_the_next_line_that_are_markdowns_stay_so(tmp_path, braces):
    made = page(tmp_path, f"One.\n\n$$a = b$$\n{braces}")
    assert messages(made.problems) == []
    assert equation_names(made.body) == []
    assert "{" not in re.sub(r"<math.*?</math>", "", made.body)


def test_names_in_code_are_code(tmp_path):
    made = page(tmp_path, "    $$a$$ {#sum}\n\nand `$$a$$ {#sum}`.")
    assert made.equations == []
    assert made.body.count("$$a$$ {#sum}") == 2


@pytest.mark.parametrize(
    "name", ["Sum", "a_b", "-a", "a--b", "a.b", "5a", "é", "L5", "a-"]
)
def test_a_name_with_odd_characters_is_refused(tmp_path, name):
    made = page(tmp_path, f"One:\n\n$$a$$ {{#{name}}}")
    (message,) = messages(made.problems)
    assert message.startswith(f"layer.py:6: {name!r} is no name")
    assert equation_names(made.body) == []


@pytest.mark.parametrize(
    ("braces", "word"),
    [("{#a .law}", ".law"), ("{#a #b}", "#b"), ("{#a b=c}", "b=c")],
)
def test_other_words_in_the_braces_are_refused(tmp_path, braces, word):
    (message,) = messages(page(tmp_path, f"$$a$$ {braces}").problems)
    assert message.endswith(f"and not {word}")


def test_a_name_stands_once_on_a_page(tmp_path):
    made = page(tmp_path, "$$a$$ {#sum}\n\n$$b$$ {#sum}")
    (message,) = messages(made.problems)
    assert message == ("layer.py:6: 'sum' already names the equation at line 4")
    assert equation_names(made.body) == ["sum"]


def test_a_name_does_not_take_a_definitions_place(tmp_path):
    path = write(
        tmp_path / "layer.py",
        '''
        def pooled():
            r"""
            Pools: $$a$$ {#pooled}
            """
        ''',
    )
    (message,) = messages(build(read(path)).problems)
    assert message.startswith("layer.py:3: 'pooled' already names a place")


def test_a_heading_gives_way_to_an_equation(tmp_path):
    made = page(tmp_path, "## Sum\n\n$$a$$ {#sum}")
    assert '<h2 id="sum-2">' in made.body


def test_outside_of_annotated_pages_braces_are_left_to_markdown():
    text = "$$a$$ {#sum}\n\n    $$a$$ {#sum}\n"
    html = markdown.markdown(text, extensions=[MathExtension()])
    assert html.count("{#sum}") == 2
    assert "<code>$$a$$ {#sum}\n</code>" in html


# --- In the tests -----------------------------------------------------------

TESTS = f"""
    import pytest

    {MARK}("layer.sum", "layer.other")
    @pytest.mark.parametrize("x", [1, 2])
    def test_a_sum_is_a_sum(x):
        pass

    class TestMore:
        @pytest.mark.parametrize("x", [
            pytest.param(1, marks=pytest.mark.equation("layer.other")),
        ])
        async def test_another(self):
            pass
"""


def test_the_page_shows_which_tests_assert_an_equation(tmp_path):
    tests = read_markers(tmp_path, TESTS)
    assert tests.problems == []
    made = page(tmp_path, "$$a$$ {#sum}\n\n$$b$$ {#other}", tests)
    captions = re.findall(r"<small>(.*?)</small>", made.body)
    link = '<a href="tests/test_layer.py#L{}">{}</a>'
    assert captions[0].endswith("tested: " + link.format(5, "a sum is a sum"))
    assert captions[1].endswith(
        f"{link.format(5, 'a sum is a sum')}, {link.format(12, 'another')}"
    )
    assert tests.check(made.equations) == []
    assert "tested" not in made.search


def test_an_equation_without_name_or_test_is_reported(tmp_path):
    tests = read_markers(tmp_path, f'{MARK}("layer.sum")\ndef test_s(): 1\n')
    note = "$$a$$ {#sum}\n\n$$b$$\n\n$$c$$ {#c}\n\n$$d$$ {.notation}"
    made = page(tmp_path, note, tests)
    found = messages(tests.check(made.equations))
    assert [m.split(":")[1] for m in found] == ["6", "8"]
    assert "write {#name} behind it" in found[0]
    assert '@pytest.mark.equation("layer.c")' in found[1]


def test_a_marker_that_names_no_equation_is_reported(tmp_path):
    text = f'{MARK}("layer.sum", "layer.summ")\ndef test_s(): 1\n'
    tests = read_markers(tmp_path, text)
    made = page(tmp_path, "$$a$$ {#sum}", tests)
    (message,) = messages(tests.check(made.equations))
    assert message.startswith("test_layer.py:1: the equation 'layer.summ'")
    assert "did you mean layer.sum?" in message


def test_a_marker_must_say_which_of_two_files_it_means(tmp_path):
    equations = [
        equation
        for folder in ("a", "b")
        for equation in build(
            read(write(tmp_path / folder / "x.py", 'r"""$$a$$ {#s}"""\n'))
        ).equations
    ]
    text = f'{MARK}("x.s", "a.x.s", "b.x.s")\ndef test_s(): 1\n'
    (message,) = messages(read_markers(tmp_path, text).check(equations))
    assert "write more of the path" in message


def test_a_marker_may_be_written_without_pytest(tmp_path):
    tests = read_markers(tmp_path, '@mark.equation("layer.s")\ndef test_s(): 1')
    made = page(tmp_path, "$$a$$ {#s}", tests)
    assert tests.check(made.equations) == []


def test_a_refused_name_is_reported_once(tmp_path):
    tests = read_markers(tmp_path, "")
    made = page(tmp_path, "$$a$$ {#No_name}", tests)
    assert len(made.problems) == 1
    assert tests.check(made.equations) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{MARK}()\ndef test_a(): 1\n", "by plain strings"),
        (f"{MARK}(NAME)\ndef test_a(): 1\n", "by plain strings"),
        (f"{MARK}('a.b', 3)\ndef test_a(): 1\n", "by plain strings"),
        (f"{MARK}(name='a.b')\ndef test_a(): 1\n", "by plain strings"),
        (f"{MARK}('a.b')\ndef helper(): 1\n", "must stand right at a test"),
        (f"law = {MARK[1:]}('a.b')\n", "must stand right at a test"),
        (f"{MARK}\ndef test_a(): 1\n", "must be called where it stands"),
        (f"law = {MARK[1:]}\n", "must be called where it stands"),
        ("def test_a(:\n", "not valid Python"),
    ],
)
def test_a_marker_that_cannot_be_read_is_reported(tmp_path, text, says):
    (message,) = messages(read_markers(tmp_path, text).check([]))
    assert message.startswith("test_layer.py:1:")
    assert says in message


# --- By the command ---------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write(tmp_path / "code" / "layer.py", 'r"""$$a$$ {#sum}"""\n')
    write(
        tmp_path / "tests" / "test_layer.py",
        f'"""Tests."""\n\n\n{MARK}("layer.sum")\ndef test_s():\n    1\n',
    )
    write(tmp_path / "tests" / "test_none.py", "x = 1\n")
    return tmp_path


def run(tree: Path) -> int:
    paths = [str(tree / name) for name in ("code", "tests", "out")]
    return main([paths[0], "--tests", paths[1], "--out", paths[2]])


def test_the_command_writes_the_tests_beside_the_pages(tree):
    assert run(tree) == 0
    layer = (tree / "out" / "code" / "layer.html").read_text()
    assert 'href="../tests/test_layer.html#L5"' in layer
    test = (tree / "out" / "tests" / "test_layer.html").read_text()
    assert 'id="L5"' in test
    assert not (tree / "out" / "tests" / "test_none.html").exists()
    assert "test_layer" not in (tree / "out" / "index.html").read_text()


def test_the_command_fails_for_an_equation_without_a_test(tree, capsys):
    write(tree / "code" / "layer.py", 'r"""$$a$$ {#sum}\n\n$$b$$"""\n')
    assert run(tree) == 1
    assert "layer.py:3: an equation without a name" in capsys.readouterr().err
