"""A page laid out of rows: headings, ids, code, and our own files."""

import re

import pytest
from facing.page import build, plain_text
from facing.read.source import read
from facing.text.notes import is_well_formed
from helpers.rendering import OWN_FILES, page_of


@pytest.mark.parametrize("path", OWN_FILES, ids=lambda p: p.stem)
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


@pytest.mark.parametrize("path", OWN_FILES, ids=lambda p: p.stem)
def test_our_own_files_render_without_a_problem(path):
    built = build(read(path))
    assert built.problems == []
    assert is_well_formed(built.body)
    shown = re.sub(r"<code>.*?</code>", "", built.body, flags=re.DOTALL)
    assert "$" not in shown
    assert r"\(" not in shown


def test_an_empty_file_is_a_page_with_its_name(tmp_path):
    built = page_of(tmp_path, b"")
    assert built.title == "sample.py"
    assert "<h1" in built.body


def test_headings_fit_together_whatever_their_levels(tmp_path):
    built = page_of(
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
    built = page_of(tmp_path, "class A:\n    def __init__(self): pass\n")
    assert [h.id for h in built.headings] == ["top", "A"]
    assert 'id="A.__init__"' in built.body


def test_a_module_without_heading_is_titled_by_its_file(tmp_path):
    built = page_of(tmp_path, '"""Only text."""\nx = 1\n')
    assert [(h.level, h.text) for h in built.headings] == [(1, "sample.py")]


def test_a_heading_may_hold_math_and_its_own_anchor(tmp_path):
    built = page_of(tmp_path, '"""\n# <a id="own">The $\\mu$</a>\n"""\n')
    assert built.title == "The μ"
    assert 'id="own"' in built.body


def test_the_same_name_twice_gives_two_ids(tmp_path):
    built = page_of(tmp_path, "def f(): pass\ndef f(): pass\n")
    assert [h.id for h in built.headings][1:] == ["f", "f-2"]


def test_code_is_shown_to_the_letter(tmp_path):
    text = "if a < b and c:\n\tx = '''<i>\n  &amp;\n'''\n\n\ny = 2\n"
    built = page_of(tmp_path, text)
    code = re.search(r"<pre><code>(.*)</code></pre>", built.body, re.DOTALL)
    assert code is not None
    shown = plain_text(code[1]).split("\n")
    assert shown == text.strip().split("\n")


def test_the_search_text_has_code_and_prose_but_no_math(tmp_path):
    built = page_of(tmp_path, '"""Mean $\\mu_c$ here."""\nself.exp_mean = mean_of(x)\n')
    assert "exp_mean" in plain_text(built.search)
    assert "here." in built.search
    assert "<math" not in built.search
    assert "μ" not in built.search
