"""Formulas in Markdown: what is one, and what only looks like one."""

import re

import pytest
from helpers.rendering import note_of, page_of


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("costs $5 and $6", "<p>costs $5 and $6</p>"),
        ("the $HOME folder", "<p>the $HOME folder</p>"),
        ("$HOME and `$x` $y$", "<p>$HOME and <code>$x</code> MATH</p>"),
        ("$20,000 and $30,000", "<p>$20,000 and $30,000</p>"),
        ("$ x$ and $x $", "<p>$ x$ and $x $</p>"),
        ("$x$5", "<p>$x$5</p>"),
        (r"cost \$5", "<p>cost $5</p>"),
        ("$a_1 b_2$ and *c*", "<p>MATH and <em>c</em></p>"),
        ("$a$b$c$", "<p>MATHbMATH</p>"),
        ("$a\n+ b$", "<p>MATH</p>"),
        ("`$x$` and ``a`$x$`b``", None),
        ("$a\n\nb$", "<p>$a</p>\n<p>b$</p>"),
        (r"\(a\), then", "<p>MATH, then</p>"),
        ("![$x$](a.png)", '<p><img alt="$x$" src="a.png" /></p>'),
    ],
)
def test_inline_math_follows_pandocs_rule(tmp_path, markdown, expected):
    got = note_of(tmp_path, markdown)
    if expected is None:
        assert "MATH" not in got
    else:
        assert got == expected


BLOCK = '<p><span class="math-block">MATH</span></p>'


@pytest.mark.parametrize(
    "markdown",
    [
        "$$a$$",
        "$$\na\n$$",
        "$$\na\n\n= b\n$$",
        r"\[a\]",
        "\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}",
        "\\begin{equation*}\na\n\\end{equation*}",
        "\\begin{eqnarray}a &=& b\\end{eqnarray}",
        r"$$\begin{split}a &= b\end{split}$$",
    ],
)
def test_display_math_alone_is_a_block(tmp_path, markdown):
    assert note_of(tmp_path, f"before\n\n{markdown}\n\nafter") == (
        f"<p>before</p>\n{BLOCK}\n<p>after</p>"
    )


def test_text_may_run_into_display_math(tmp_path):
    got = note_of(tmp_path, "where $$a$$ holds,\nand $b$:\n$$c$$")
    block = '<span class="math-block">MATH</span>'
    assert got == f"<p>where {block} holds,\nand MATH:\n{block}</p>"


@pytest.mark.parametrize("sign", ["+", "-", "*", "1."])
@pytest.mark.parametrize("quote", ["$", "$$"])
def test_a_line_of_a_formula_is_no_list_item(tmp_path, sign, quote):
    text = f"Of {quote}a = b\n{sign} \\beta{quote}, say."
    built = page_of(tmp_path, f'r"""\n# T\n\n{text}\n"""\n')
    assert built.problems == []
    assert not re.search("[\ue000-\uf8ff]", built.body)
    assert "<mi>β</mi></math>" in built.body
    assert {"L4", "L5"} <= built.ids


def test_code_is_never_math(tmp_path):
    got = note_of(tmp_path, "```\n$x$ $$\n```\n\ntext\n\n    $y$ $$z$$\n\n$w$")
    assert got.count("MATH") == 1
    assert "$x$ $$" in got
    assert "$y$ $$z$$" in got


@pytest.mark.parametrize(
    ("markdown", "line", "says"),
    [
        ("fine $x$\n\nbad $\\frac{a$", 4, "reached end of input"),
        ("one\n\n$$ a = b\n\ntext $x$\n\n$$c$$", 4, "never closed"),
        ("one\n\n\\begin{align} a", 4, "never closed"),
        ("one\n$\\unknowncommand$", 3, "Unknown command"),
        ("```\na\n```\n\n$a & b$", 6, "table-like"),
    ],
)
def test_a_bad_formula_is_reported_with_its_line_and_shown(
    tmp_path, markdown, line, says
):
    built = page_of(tmp_path, f'r"""\n{markdown}\n"""\nx = 1\n')
    assert [p.line for p in built.problems] == [line]
    assert says in str(built.problems[0])
    assert "sample.py" in str(built.problems[0])
    assert 'id="L2"' in built.body
    assert "<code>" in built.body


def test_a_bad_formula_in_a_comment_names_its_line(tmp_path):
    built = page_of(tmp_path, "x = 1\n# fine\n#\n# bad $\\frac$\ny = 2\n")
    assert [p.line for p in built.problems] == [4]
