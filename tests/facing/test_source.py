"""A file into rows: notes, the code beside them, and every encoding."""

import pytest
from facing.page import plain_text
from facing.problem import Problem
from facing.read.source import read
from helpers.rendering import page_of, rows_of, source_of


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
    assert rows_of(tmp_path, text) == [
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
    found = rows_of(tmp_path, text)
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
    assert rows_of(tmp_path, text)[1] == (
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
    found = rows_of(tmp_path, code + "\n")
    assert [n for n, _ in found if n] == []
    assert "\n".join(c for _, c in found) == code


def test_directives_stay_code(tmp_path):
    text = "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n# type: ignore\n"
    assert rows_of(tmp_path, text) == [("", text.strip())]


def test_a_comment_behind_a_docstring_is_kept(tmp_path):
    text = 'def f():\n    """Doc."""  # and more\n    """x"""  # noqa\n'
    assert rows_of(tmp_path, text)[0][0] == "Doc.  and more"
    text = 'def f():\n    """Doc."""  # noqa: D400\n    return 1\n'
    assert rows_of(tmp_path, text)[0][0] == "Doc."


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_do_not_matter(tmp_path, end):
    text = '"""Doc."""\n\n# Note.\nx = 1\n'.replace("\n", end)
    found = rows_of(tmp_path, text.encode())
    assert found == [("Doc.", ""), ("Note.", "x = 1")]


def test_a_form_feed_does_not_shift_lines(tmp_path):
    built = page_of(tmp_path, b"a = 1\n\x0c\n# Note \xe2\x80\xa8 still.\nb = 2\n")
    assert 'id="L4"' in built.body
    assert 'id="L5"' not in built.body


def test_tabs_and_encodings_are_read(tmp_path):
    text = "# coding: latin-1\ndef f():\n\t'Für $x$.'\n\treturn 'ü'\n"
    built = page_of(tmp_path, text.encode("latin-1"))
    assert "Für " in built.body
    assert "ü" in plain_text(built.search)


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert rows_of(tmp_path, "\ufeff# Note.\nx = 1\n".encode()) == [("Note.", "x = 1")]


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
def test_an_unreadable_file_is_reported_with_line_and_reason(
    tmp_path, data, line, says
):
    with pytest.raises(Problem, match=says) as caught:
        source_of(tmp_path, data)
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{tmp_path / 'sample.py'}:{line}: ")


def test_a_missing_file_is_a_problem(tmp_path):
    with pytest.raises(Problem, match="cannot be read"):
        read(tmp_path / "none.py")


@pytest.mark.parametrize("prefix", ["", "r", "R", "u"])
def test_latex_in_a_docstring_needs_no_raw_string(tmp_path, prefix):
    built = page_of(tmp_path, f'{prefix}"""$\\frac{{\\beta}}{{\\nu}}$ and $\\rho$"""\n')
    assert built.problems == []
    assert "<mfrac><mi>β</mi><mi>ν</mi></mfrac>" in built.body


def test_doubled_backslashes_are_taken_as_escapes(tmp_path):
    built = page_of(tmp_path, '"""$\\\\frac{a}{b}$ \\\\\\\\"""\n')
    assert built.problems == []
    assert "<mfrac>" in built.body


def test_row_breaks_survive_in_a_docstring_that_is_not_raw(tmp_path):
    built = page_of(
        tmp_path,
        '"""\\begin{align} a &= b \\\\ c &= \\delta \\end{align}"""\n',
    )
    assert built.problems == []
    assert built.body.count("<mtr>") == 2


def test_escaped_quotes_are_quotes(tmp_path):
    assert rows_of(tmp_path, '"""say \\"\\"\\" here"""\n') == [('say """ here', "")]


def test_front_matter_gives_title_and_description(tmp_path):
    built = page_of(
        tmp_path,
        '"""\n---\ntitle: A title\nsummary: >\n  Some\n  words.\n---\n# Heading\n"""\n',
    )
    assert (built.title, built.description) == ("A title", "Some words.")
    assert "title: A" not in built.body
    assert [h.text for h in built.headings] == ["Heading"]


def test_front_matter_that_is_no_yaml_names_its_line(tmp_path):
    with pytest.raises(Problem, match="front matter") as caught:
        source_of(tmp_path, '"""\n---\ntitle: "unclosed\n---\n"""\n')
    assert caught.value.line in (3, 4)


def test_two_rules_are_no_front_matter(tmp_path):
    built = page_of(tmp_path, '"""\n---\n\njust text\n\n---\n"""\n')
    assert "just text" in built.body
