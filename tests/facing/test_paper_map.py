"""From a paper's constructs to lines, in anyone's files."""

import re
from pathlib import Path

import pytest
from facing.cli import main
from facing.features.paper_map import PaperMap, paper_map_sections
from facing.page import build
from facing.problem import Problem
from facing.read.source import read
from helpers.rendering import messages, write

LIST = """
    papers:
      first: {name: A Paper, url: "https://paper.example/1"}
      second: {name: B & C, url: "https://paper.example/2"}
    constructs:
      running mean: {papers: [first], says: Over many <steps>.}
      centring: {papers: [first, second], says: Minus the mean.}
"""
CODE = '''
    r"""A layer."""


    class Layer:
        """
        !!! differs "Where"
            Of the class, $a^2$.
        """

        def update(self, x):
            # Slowly.
            #
            # **From the paper**: running
            # mean.
            self.mean += x

            # Another step.
            #
            # !!! differs "Where"
            #     Of the function.
            #
            #     Twice.
            #
            # Not this.
            return self.mean

        def apply(self, x):
            # **From the papers**: running mean, centring.
            return x - self.mean


    def other():
        """
        !!! differs "Where"
            Of another.
        """
'''


def paper_map(tmp_path: Path, code: str = CODE, listed: str = LIST) -> PaperMap:
    sources = [read(write(tmp_path / "code" / "layer.py", code))]
    return PaperMap(write(tmp_path / "papers.yml", listed), sources)


def test_a_construct_is_the_code_below_its_name(tmp_path):
    found = paper_map(tmp_path).constructs
    assert [
        (span.scope, span.lines)
        for span in found["running mean"].spans + found["centring"].spans
    ] == [
        ("Layer.update", (15,)),
        ("Layer.apply", (29,)),
        ("Layer.apply", (29,)),
    ]
    assert list(paper_map(tmp_path).remaining_problems()) == []


def test_a_difference_belongs_to_what_its_definition_implements(tmp_path):
    made = paper_map(tmp_path)
    texts = {
        name: [d.text for d in construct.differences]
        for name, construct in made.constructs.items()
    }
    assert texts["running mean"] == [
        "Of the class, $a^2$.",
        "Of the function.\n\nTwice.",
    ]
    assert texts["centring"] == ["Of the class, $a^2$."]
    assert [d.text for d in made.others] == ["Of another."]


def test_the_table_shows_constructs_beside_their_lines(tmp_path):
    made = paper_map(tmp_path)
    sections = paper_map_sections(made, lambda path, line: f"{path.stem}.html#L{line}")
    mean, centring, others = sections
    assert (mean.title, mean.slug) == ("Running mean", "running-mean")
    assert '<a href="layer.html#L15" aria-label="15"></a>self.mean' in mean.body
    assert "Over many &lt;steps&gt;." in mean.body
    assert '<a href="https://paper.example/2">B &amp; C</a>' in centring.body
    assert "<math>" in centring.body
    assert others.title == "Other differences"
    assert "Of another." in others.body


def test_a_page_leads_to_the_table_if_there_is_one(tmp_path):
    made = paper_map(tmp_path)
    source = read(tmp_path / "code" / "layer.py")
    plain = build(source).body
    assert build(source, features=[made.on_page(source)]).body == plain
    made.page = tmp_path / "table.md"
    body = build(source, features=[made.on_page(source)]).body
    for slug, name in (
        ("running-mean", "running\nmean"),
        ("running-mean", "running mean"),
        ("centring", "centring"),
    ):
        assert f'<a href="../table.md#{slug}">{name}</a>' in body


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "mean, centring.",
            "mean, centering.",
            "layer.py:28: papers.yml lists no construct 'centering'; running",
        ),
        (
            'Of another.\n        """\n',
            'Of another.\n        """\n    # **From the paper**: centring.\n',
            "layer.py:37: no code stands below, that would be 'centring'",
        ),
        (
            "**From the papers**: running mean, centring.",
            "Nothing.",
            "papers.yml:6: no line implements 'centring'",
        ),
    ],
)
def test_a_construct_that_does_not_match_the_list_is_reported(tmp_path, old, new, says):
    made = paper_map(tmp_path, CODE.replace(old, new))
    assert messages(made.remaining_problems())[0].startswith(says)


def test_a_construct_in_an_example_is_no_construct(tmp_path):
    code = 'r"""\nSo:\n\n    # **From the paper**: nothing.\n"""\nx = 1\n'
    assert paper_map(tmp_path, code).problems == []


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ("papers: [", "papers.yml:1: not valid YAML"),
        ("papers: {}", "papers.yml:1: expected papers and constructs"),
        (
            "papers: {}\nconstructs: {a: {papers: [b], says: c}}",
            "papers.yml:1: expected papers and constructs",
        ),
    ],
)
def test_a_list_that_cannot_be_read_is_named(tmp_path, listed, says):
    with pytest.raises(Problem) as caught:
        paper_map(tmp_path, listed=listed)
    assert messages([caught.value])[0].startswith(says)


def test_the_command_writes_the_table(tmp_path, capsys):
    paper_map(tmp_path)
    code, listed, out = (str(tmp_path / name) for name in ("code", "papers.yml", "out"))
    assert main([code, "--papers", listed, "--out", out]) == 0
    layer = (tmp_path / "out" / "layer.html").read_text()
    assert 'href="paper-to-line.html#centring"' in layer
    table = (tmp_path / "out" / "paper-to-line.html").read_text()
    assert '<h2 id="centring">' in table
    for target in re.findall(r'href="layer.html#(L\d+)"', table):
        assert f'id="{target}"' in layer
    index = (tmp_path / "out" / "index.html").read_text()
    assert 'href="paper-to-line.html"' in index
    write(tmp_path / "code" / "layer.py", "x = 1\n")
    assert main([code, "--papers", listed, "--out", out]) == 1
    assert "no line implements 'centring'" in capsys.readouterr().err
