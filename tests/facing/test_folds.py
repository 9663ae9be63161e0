"""What is folded away: imports, constructors and references that a note speaks of."""

import re

import pytest
from facing.page import plain_text
from helpers.rendering import page_of, source_of

from facing import Book, build

IMPORTS = """
import a
import b
from c import d
"""
NOTED = '"""Text."""\n'

FOLD = re.compile(
    r'<details class="fold"><summary>(?P<called>.*?)</summary>'
    r"(?P<inside>.*?)</details>",
    re.DOTALL,
)


def folds(tmp_path, text):
    """Each fold of a page: what it is called, and the text inside."""
    found = FOLD.finditer(page_of(tmp_path, text).body)
    return [(plain_text(m["called"]), plain_text(m["inside"])) for m in found]


def called(tmp_path, text):
    return [name for name, _ in folds(tmp_path, text)]


def test_imports_below_a_docstring_are_folded_whole(tmp_path):
    text = NOTED + IMPORTS + "\nx = 1\n"
    assert folds(tmp_path, text) == [("Imports", IMPORTS.strip())]


@pytest.mark.parametrize(
    "more",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import e\n",
        "try:\n    import e\nexcept ImportError:\n    e = None\n",
        "from __future__ import annotations\nfrom e import (\n    f,\n    g,\n)\n",
    ],
)
def test_imports_under_a_condition_are_folded_too(tmp_path, more):
    ((name, inside),) = folds(tmp_path, NOTED + more + IMPORTS + "\nx = 1\n")
    assert name == "Imports"
    assert inside == (more + IMPORTS).strip()


def test_imports_that_a_comment_speaks_of_stay(tmp_path):
    text = (
        f"{NOTED}# These first: why.\nimport x\nimport y\nimport z\n\n# More.\nu = 1\n"
    )
    assert called(tmp_path, text) == []


@pytest.mark.parametrize("text", ["import a\n", "import a\nimport b\n"])
def test_what_is_as_short_as_its_fold_stays(tmp_path, text):
    assert called(tmp_path, NOTED + text) == []


@pytest.mark.parametrize(
    "text",
    [
        IMPORTS,
        "# A comment.\n\nx = 1\n" + IMPORTS,
        "class A:\n    def __init__(self):\n" + "        a = 1\n" * 9,
        f"{IMPORTS}\nclass A:\n    def __init__(self, a):\n" + "        a += 1\n" * 9,
    ],
)
def test_code_that_no_docstring_speaks_of_is_never_folded(tmp_path, text):
    page = page_of(tmp_path, text)
    assert "<details" not in page.body
    assert page.body == build(source_of(tmp_path, text), fold=False).body


CLASS = '''
class A:
    """What it is for."""

    def __init__(
        self,
        x,
    ):
        super().__init__()
        self.x = x
        self.y = x
        # A note.
        self.z = x
        self.u = x
        self.v = x

    def __repr__(self):
        return "A"
'''


def test_a_constructor_shows_its_signature_and_what_comments_speak_of(tmp_path):
    assert folds(tmp_path, CLASS) == [
        (
            "The rest of __init__",
            "super().__init__()\n        self.x = x\n        self.y = x",
        )
    ]


def test_a_constructor_without_a_note_stands_beside_its_class(tmp_path):
    page = page_of(tmp_path, CLASS)
    rows = page.body.split("<section")
    (row,) = [row for row in rows if 'id="A"' in row]
    assert 'id="A.__init__"' in row
    assert "What it is for." in row
    (own,) = [row for row in rows if 'id="A.__repr__"' in row]
    assert own is not row


def test_a_constructor_with_a_docstring_has_its_own_row(tmp_path):
    text = CLASS.replace("    ):\n", '    ):\n        """Make one."""\n')
    page = page_of(tmp_path, text)
    rows = page.body.split("<section")
    (row,) = [row for row in rows if 'id="A.__init__"' in row]
    assert "Make one." in row
    assert 'id="A"' not in row
    assert called(tmp_path, text) == ["The rest of __init__"]


REFERENCE = {
    "bold": """
**Arguments**

- `x`: what goes in, in words that go on for longer than one line does.
- `y`: more of what goes in, in words that go on for longer than one does.

**Returns**: what comes out, in words.

**Raises**

- `ValueError`: never.
""",
    "google": """
Args:
    x: what goes in, in words that go on for longer than one line does.
    y: more of what goes in, in words that go on for longer than one does.

Returns:
    What comes out, in words.

Raises:
    ValueError: never.
""",
}


@pytest.mark.parametrize("style", REFERENCE)
def test_the_reference_of_a_docstring_is_one_fold_and_prose_is_none(tmp_path, style):
    note = f"Why it is there.\n{REFERENCE[style]}\nBut **note** this.\n"
    text = f'def f(x, y):\n    r"""\n{note}\n    """\n    return x\n'
    page = page_of(tmp_path, text)
    ((name, inside),) = folds(tmp_path, text)
    assert name == "Arguments, result, errors"
    for part in ("what goes in", "comes out", "ValueError"):
        assert part in inside
    open_text = plain_text(FOLD.sub("", page.body))
    assert "Why it is there." in open_text
    assert "But note this." in open_text


@pytest.mark.parametrize(
    "note",
    [
        "**Returns**: the mean.",
        "**Shape**\n\n$$[B, C]$$ {.notation}\n\n- " + "many words " * 30,
        "The **arguments** are " + "many words " * 30,
        "Returns: " + "many words " * 30,
    ],
)
def test_what_is_short_or_no_reference_or_has_an_equation_stays(tmp_path, note):
    text = f'def f():\n    r"""\n    Do.\n\n    {note}\n    """\n'
    assert called(tmp_path, text.replace("\n\n", "\n\n    ")) == []


def test_folds_keep_every_line_and_id(tmp_path):
    text = NOTED + IMPORTS + CLASS
    folded, open_ = (build(source_of(tmp_path, text), fold=f) for f in (True, False))
    assert "<details" not in open_.body
    assert folded.ids == open_.ids
    assert plain_text(re.sub("<summary>.*?</summary>", "", folded.body)) == plain_text(
        open_.body
    )


def test_a_book_can_leave_everything_open(tmp_path):
    source = source_of(tmp_path, NOTED + IMPORTS)
    for fold in (True, False):
        page = Book([source.path], root=source.root, fold=fold).page(source.path)
        assert ("<details" in page.body) == fold


def test_comments_to_tools_behind_code_are_marked_and_kept(tmp_path):
    lines = "f(x)  # type: ignore[misc]", "g(x)  # noqa: X", "h(x)  # why", "# fmt: off"
    text = "\n".join([*lines, 's = "# type: ignore"\n'])
    body = page_of(tmp_path, text).body
    assert re.findall(r'<span class="c q">(.*?)</span>', body) == [
        "# type: ignore[misc]",
        "# noqa: X",
    ]
