"""Notes as HTML that cannot break the page around them."""

import re

import pytest
from facing.page import build, plain_text
from facing.text.notes import is_well_formed
from helpers.rendering import note_of, page_of, source_of


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
    built = page_of(tmp_path, f'"""\n{markdown}\n"""\nx = 1\n')
    assert is_well_formed(built.body)
    for word in re.findall(r"\w{4,}", re.sub(r"<[^ >]*>", "", markdown)):
        assert word in plain_text(built.body)


def test_html_that_is_well_formed_is_kept(tmp_path):
    assert "<sub>2</sub>" in note_of(tmp_path, "H<sub>2</sub>O")


def test_a_link_defined_in_one_note_works_in_the_next(tmp_path):
    built = page_of(
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
    built = build(source_of(tmp_path, text), link)
    assert seen == [("other.py", 4), ("#L1", 4)]
    assert '<a href="moved">it</a>' in built.body


def test_lines_of_a_note_are_targets_where_they_stand(tmp_path):
    built = page_of(tmp_path, '"""\nOne.\n\nTwo,\nstill two.\n\n- a\n- b\n"""\n')
    assert '<p><i id="L4"></i><i id="L5"></i><i id="L6"></i>Two' in built.body
    assert '<li><i id="L8"></i><i id="L9"></i>b' in built.body


def test_fenced_code_is_coloured(tmp_path):
    got = note_of(tmp_path, "```python\nimport x\n```")
    assert '<span class="k">import</span>' in got
