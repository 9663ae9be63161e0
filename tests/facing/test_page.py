"""The renderer on files that people write: rows, ids, formulas, errors."""

import re
import textwrap
from pathlib import Path

import pytest
from facing.page import Page, build, plain
from facing.problem import Problem
from facing.read.source import Source, read
from facing.text.mathml import MathError, to_mathml
from facing.text.notes import is_well_formed

ROOT = Path(__file__).resolve().parents[2]
ANNOTATED = sorted((ROOT / "labml_bcn").rglob("*.py"))


def source(tmp_path: Path, text: str | bytes) -> Source:
    path = tmp_path / "sample.py"
    if isinstance(text, str):
        text = textwrap.dedent(text).lstrip("\n").encode()
    path.write_bytes(text)
    return read(path)


def page(tmp_path: Path, text: str | bytes) -> Page:
    return build(source(tmp_path, text))


def rows(tmp_path: Path, text: str | bytes) -> list[tuple[str, str]]:
    """Each row as the text of its notes and the text of its code."""
    read_source = source(tmp_path, text)
    return [
        (
            "\n".join(line.text for note in row.notes for line in note),
            "\n".join(read_source.lines[n - 1] for n in row.code),
        )
        for row in read_source.rows
    ]


def without_math(body: str) -> str:
    return re.sub(r"<math\b.*?</math>", "MATH", body, flags=re.DOTALL)


def note(tmp_path: Path, markdown: str) -> str:
    """The HTML of one note, with MATH for formulas."""
    body = page(tmp_path, f'r"""\n# T\n\n{markdown}\n"""\n').body
    body = body[body.index("</h1>") + len("</h1>\n") :]
    body = re.sub(r'<i id="L\d+"></i>', "", without_math(body))
    return re.sub(r"</div></section>.*", "", body, flags=re.DOTALL)


# --- Rows -----------------------------------------------------------------


def test_notes_stand_beside_the_code_below_them(tmp_path):
    text = '''
        """Intro."""
        import os

        # First step.
        # Still first.
        a = 1  # stays
        b = 2
        # Second step.
        c = 3
        '''
    assert rows(tmp_path, text) == [
        ("Intro.", ""),
        ("", "import os"),
        ("First step.\nStill first.", "a = 1  # stays\nb = 2"),
        ("Second step.", "c = 3"),
    ]


def test_a_docstring_stands_beside_its_definition(tmp_path):
    text = '''
        @decorated
        @twice(
            # not a note: inside the header
            1,
        )
        async def f(
            a,  # trailing
            # nor this
            b,
        ):
            """Doc of f."""
            x = 1

            def inner():
                """Doc of inner."""
                return 1

            return x


        class C:
            attribute = 1

            def method(self): return "not a docstring"
        '''
    found = rows(tmp_path, text)
    assert found[0][0] == "Doc of f."
    assert found[0][1].startswith("@decorated\n@twice(\n    # not a note")
    assert found[0][1].endswith("):\n    x = 1")
    assert found[1] == (
        "Doc of inner.",
        "    def inner():\n        return 1",
    )
    assert found[2] == ("", "    return x")
    assert found[3] == ("", "class C:\n    attribute = 1")
    assert found[4][1].endswith('return "not a docstring"')


def test_a_comment_above_a_definition_joins_its_docstring(tmp_path):
    text = '''
        x = 0
        # Why f.
        def f():
            """What f does."""
            return 1
        '''
    assert rows(tmp_path, text)[1] == (
        "Why f.\nWhat f does.",
        "def f():\n    return 1",
    )


@pytest.mark.parametrize(
    "code",
    [
        'x = """no docstring"""',
        'def f():\n    x = 1\n    """a string, later"""',
        'f"""an f-string {1}"""',
        'b"""bytes"""',
        'def f(): """on one line"""',
        '"one" "two"',
        '"""doc"""; x = 1',
        'print("""# no comment""")',
        'x = """\n# no comment either\n"""',
    ],
)
def test_strings_that_only_look_like_docstrings_are_code(tmp_path, code):
    found = rows(tmp_path, code + "\n")
    assert [n for n, _ in found if n] == []
    assert "\n".join(c for _, c in found) == code


def test_directives_stay_code(tmp_path):
    text = "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n# type: ignore\n"
    assert rows(tmp_path, text) == [("", text.strip())]


def test_a_comment_behind_a_docstring_is_kept(tmp_path):
    text = 'def f():\n    """Doc."""  # and more\n    """x"""  # noqa\n'
    assert rows(tmp_path, text)[0][0] == "Doc.  and more"
    text = 'def f():\n    """Doc."""  # noqa: D400\n    return 1\n'
    assert rows(tmp_path, text)[0][0] == "Doc."


@pytest.mark.parametrize("path", ANNOTATED, ids=lambda p: p.stem)
def test_every_line_belongs_to_one_row_and_is_a_target(path):
    found = read(path)
    numbers = [
        number
        for row in found.rows
        for number in [
            *row.code,
            *row.blank,
            *(line.number for note in row.notes for line in note),
        ]
    ]
    expected = range(1, len(found.lines) + 1)
    assert sorted(numbers) == list(expected)
    built = build(found)
    ids = re.findall(r'\sid="([^"]*)"', built.body)
    assert len(ids) == len(set(ids))
    assert {f"L{n}" for n in expected} <= set(ids)


@pytest.mark.parametrize("path", ANNOTATED, ids=lambda p: p.stem)
def test_our_own_files_render_without_a_problem(path):
    built = build(read(path))
    assert built.problems == []
    assert is_well_formed(built.body)
    shown = re.sub(r"<code>.*?</code>", "", built.body, flags=re.DOTALL)
    assert "$" not in shown
    assert r"\(" not in shown


# --- Files as people save them ---------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_do_not_matter(tmp_path, end):
    text = '"""Doc."""\n\n# Note.\nx = 1\n'.replace("\n", end)
    found = rows(tmp_path, text.encode())
    assert found == [("Doc.", ""), ("Note.", "x = 1")]


def test_a_form_feed_does_not_shift_lines(tmp_path):
    built = page(tmp_path, b"a = 1\n\x0c\n# Note \xe2\x80\xa8 still.\nb = 2\n")
    assert 'id="L4"' in built.body
    assert 'id="L5"' not in built.body


def test_tabs_and_encodings_are_read(tmp_path):
    text = "# coding: latin-1\ndef f():\n\t'Für $x$.'\n\treturn 'ü'\n"
    built = page(tmp_path, text.encode("latin-1"))
    assert "Für " in built.body
    assert "ü" in plain(built.search)


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert rows(tmp_path, "\ufeff# Note.\nx = 1\n".encode()) == [("Note.", "x = 1")]


def test_an_empty_file_is_a_page_with_its_name(tmp_path):
    built = page(tmp_path, b"")
    assert built.title == "sample.py"
    assert "<h1" in built.body


@pytest.mark.parametrize(
    ("data", "line", "says"),
    [
        (b"x = 1\ny = (\n", 2, "not valid Python"),
        (b"x = 1\nmatch = = 2\n", 2, "not valid Python"),
        (b"x = 1\n# \xff\n", 2, "byte 0xff at offset 8"),
        (b"# coding: klingon\n", 1, "unknown encoding"),
        (b"x = 1\x00\n", 1, "not valid Python"),
        (b"def f():\nreturn 1\n", 2, "not valid Python"),
        (b"x = " + b"(" * 5000 + b")" * 5000 + b"\n", 1, "not valid Python"),
    ],
)
def test_what_cannot_be_read_names_file_line_and_reason(tmp_path, data, line, says):
    with pytest.raises(Problem, match=says) as caught:
        source(tmp_path, data)
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{tmp_path / 'sample.py'}:{line}: ")


def test_a_missing_file_is_a_problem(tmp_path):
    with pytest.raises(Problem, match="cannot be read"):
        read(tmp_path / "none.py")


# --- Docstrings, raw and not -----------------------------------------------


@pytest.mark.parametrize("prefix", ["", "r", "R", "u"])
def test_latex_in_a_docstring_needs_no_raw_string(tmp_path, prefix):
    built = page(tmp_path, f'{prefix}"""$\\frac{{\\beta}}{{\\nu}}$ and $\\rho$"""\n')
    assert built.problems == []
    assert "<mfrac><mi>β</mi><mi>ν</mi></mfrac>" in built.body


def test_doubled_backslashes_are_taken_as_escapes(tmp_path):
    built = page(tmp_path, '"""$\\\\frac{a}{b}$ \\\\\\\\"""\n')
    assert built.problems == []
    assert "<mfrac>" in built.body


def test_row_breaks_survive_in_a_docstring_that_is_not_raw(tmp_path):
    built = page(
        tmp_path,
        '"""\\begin{align} a &= b \\\\ c &= \\delta \\end{align}"""\n',
    )
    assert built.problems == []
    assert built.body.count("<mtr>") == 2


def test_escaped_quotes_are_quotes(tmp_path):
    assert rows(tmp_path, '"""say \\"\\"\\" here"""\n') == [('say """ here', "")]


def test_front_matter_gives_title_and_description(tmp_path):
    built = page(
        tmp_path,
        '"""\n---\ntitle: A title\nsummary: >\n  Some\n  words.\n---\n# Heading\n"""\n',
    )
    assert (built.title, built.description) == ("A title", "Some words.")
    assert "title: A" not in built.body
    assert [h.text for h in built.headings] == ["Heading"]


def test_front_matter_that_is_no_yaml_names_its_line(tmp_path):
    with pytest.raises(Problem, match="front matter") as caught:
        source(tmp_path, '"""\n---\ntitle: "unclosed\n---\n"""\n')
    assert caught.value.line in (3, 4)


def test_two_rules_are_no_front_matter(tmp_path):
    built = page(tmp_path, '"""\n---\n\njust text\n\n---\n"""\n')
    assert "just text" in built.body


# --- Formulas ---------------------------------------------------------------


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
    got = note(tmp_path, markdown)
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
    assert note(tmp_path, f"before\n\n{markdown}\n\nafter") == (
        f"<p>before</p>\n{BLOCK}\n<p>after</p>"
    )


def test_text_may_run_into_display_math(tmp_path):
    got = note(tmp_path, "where $$a$$ holds,\nand $b$:\n$$c$$")
    block = '<span class="math-block">MATH</span>'
    assert got == f"<p>where {block} holds,\nand MATH:\n{block}</p>"


@pytest.mark.parametrize("sign", ["+", "-", "*", "1."])
@pytest.mark.parametrize("quote", ["$", "$$"])
def test_a_line_of_a_formula_is_no_list_item(tmp_path, sign, quote):
    text = f"Of {quote}a = b\n{sign} \\beta{quote}, say."
    built = page(tmp_path, f'r"""\n# T\n\n{text}\n"""\n')
    assert built.problems == []
    assert not re.search("[\ue000-\uf8ff]", built.body)
    assert "<mi>β</mi></math>" in built.body
    assert {"L4", "L5"} <= built.ids


def test_code_is_never_math(tmp_path):
    got = note(tmp_path, "```\n$x$ $$\n```\n\ntext\n\n    $y$ $$z$$\n\n$w$")
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
    built = page(tmp_path, f'r"""\n{markdown}\n"""\nx = 1\n')
    assert [p.line for p in built.problems] == [line]
    assert says in str(built.problems[0])
    assert "sample.py" in str(built.problems[0])
    assert 'id="L2"' in built.body
    assert "<code>" in built.body


def test_a_bad_formula_in_a_comment_names_its_line(tmp_path):
    built = page(tmp_path, "x = 1\n# fine\n#\n# bad $\\frac$\ny = 2\n")
    assert [p.line for p in built.problems] == [4]


def test_css_colours_and_bold_symbols_are_understood():
    assert "color:#90EE90" in to_mathml(r"\textcolor{lightgreen}{x}", False)
    assert "color:#FF0000" in to_mathml(r"\color{#f00}{x}", False)
    assert to_mathml(r"\pmb{x}", False) == to_mathml(r"\boldsymbol{x}", False)
    with pytest.raises(MathError, match="color"):
        to_mathml(r"\textcolor{nosuchcolour}{x}", False)


def test_environments_are_not_numbered_unless_tagged():
    assert "(1)" not in to_mathml(r"\begin{align}a&=b\end{align}", True)
    assert "(7)" in to_mathml(r"\begin{align}a&=b\tag{7}\end{align}", True)


# --- Headings ---------------------------------------------------------------


def test_headings_fit_together_whatever_their_levels(tmp_path):
    built = page(
        tmp_path,
        '''
        """
        ## Title

        #### Deep
        """

        class A:
            """
            # Loud

            text
            """

            def b(self):
                """No heading."""

            def c(self):
                """
                ###### Quiet
                """
        ''',
    )
    assert [(h.level, h.id) for h in built.headings] == [
        (1, "title"),
        (2, "deep"),
        (2, "A"),
        (3, "A.b"),
        (3, "A.c"),
    ]
    assert 'href="#A.c"' in built.body


def test_dunder_methods_have_a_name_but_no_place_in_the_outline(tmp_path):
    built = page(tmp_path, "class A:\n    def __init__(self): pass\n")
    assert [h.id for h in built.headings] == ["top", "A"]
    assert 'id="A.__init__"' in built.body


def test_a_module_without_heading_is_titled_by_its_file(tmp_path):
    built = page(tmp_path, '"""Only text."""\nx = 1\n')
    assert [(h.level, h.text) for h in built.headings] == [(1, "sample.py")]


def test_a_heading_may_hold_math_and_its_own_anchor(tmp_path):
    built = page(tmp_path, '"""\n# <a id="own">The $\\mu$</a>\n"""\n')
    assert built.title == "The μ"
    assert 'id="own"' in built.body


def test_the_same_name_twice_gives_two_ids(tmp_path):
    built = page(tmp_path, "def f(): pass\ndef f(): pass\n")
    assert [h.id for h in built.headings][1:] == ["f", "f-2"]


# --- Notes as HTML ----------------------------------------------------------


@pytest.mark.parametrize(
    "markdown",
    [
        "returns Dict<str, int> or <T>",
        "an end </div> without a start",
        "<div>never closed",
        "a < b and c > d",
        "<b>bold <i>crossed</b></i>",
    ],
)
def test_a_note_cannot_break_the_page(tmp_path, markdown):
    built = page(tmp_path, f'"""\n{markdown}\n"""\nx = 1\n')
    assert is_well_formed(built.body)
    for word in re.findall(r"\w{4,}", re.sub(r"<[^ >]*>", "", markdown)):
        assert word in plain(built.body)


def test_html_that_is_well_formed_is_kept(tmp_path):
    assert "<sub>2</sub>" in note(tmp_path, "H<sub>2</sub>O")


def test_a_link_defined_in_one_note_works_in_the_next(tmp_path):
    built = page(
        tmp_path,
        '"""\nText.\n\n[there]: https://example.org/x\n"""\n# See [there].\nx = 1\n',
    )
    assert '<a href="https://example.org/x">there</a>' in built.body


def test_links_are_handed_over_with_their_line(tmp_path):
    seen = []

    def link(target: str, line: int) -> str:
        seen.append((target, line))
        return "moved" if target == "other.py" else target

    text = '"""\nOne.\n\nSee [it](other.py) and [that](#L1).\n"""\n'
    built = build(source(tmp_path, text), link)
    assert seen == [("other.py", 4), ("#L1", 4)]
    assert '<a href="moved">it</a>' in built.body


def test_lines_of_a_note_are_targets_where_they_stand(tmp_path):
    built = page(tmp_path, '"""\nOne.\n\nTwo,\nstill two.\n\n- a\n- b\n"""\n')
    assert '<p><i id="L4"></i><i id="L5"></i><i id="L6"></i>Two' in built.body
    assert '<li><i id="L8"></i><i id="L9"></i>b' in built.body


def test_fenced_code_is_coloured(tmp_path):
    got = note(tmp_path, "```python\nimport x\n```")
    assert '<span class="k">import</span>' in got


# --- Code -------------------------------------------------------------------


def test_code_is_shown_to_the_letter(tmp_path):
    text = "if a < b and c:\n\tx = '''<i>\n  &amp;\n'''\n\n\ny = 2\n"
    built = page(tmp_path, text)
    code = re.search(r"<pre><code>(.*)</code></pre>", built.body, re.DOTALL)
    assert code is not None
    shown = plain(code[1]).split("\n")
    assert shown == text.strip().split("\n")


def test_the_search_text_has_code_and_prose_but_no_math(tmp_path):
    built = page(tmp_path, '"""Mean $\\mu_c$ here."""\nself.exp_mean = mean_of(x)\n')
    assert "exp_mean" in plain(built.search)
    assert "here." in built.search
    assert "<math" not in built.search
    assert "μ" not in built.search
