"""The plugin, in real MkDocs sites of other people's making."""

import json
import logging
from pathlib import Path

import pytest
from helpers.small_sites import build_small_site
from mkdocs.exceptions import Abort

ANNOTATED = '''"""
---
title: The layer
summary: What it does.
---

# A layer

Mean $\\mu$, see [home](../docs/index.md) and [two](two.py#Two.go).
"""


class One:
    """What One is."""

    exp_mean = 1
'''

TWO = '''"""Second."""


class Two:
    """
    ## Twice
    """

    def go(self):
        """Goes."""
'''


class Site:
    """A folder with a site in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "docs").mkdir()
        (root / "code").mkdir()
        self.write("docs/index.md", "# Home\n\n[One](code/one.py#L13)\n")
        self.write("code/one.py", ANNOTATED.replace("../docs/", "../"))
        self.write("code/two.py", TWO)
        self.options: dict[str, object] = {"sources": ["code"]}
        self.theme = "mkdocs"
        self.validation = {"links": {"anchors": "warn"}}
        self.strict = True
        self.repo_url = ""
        self.templates: dict[str, str] = {}
        self.nav: list[object] | None = None

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def build(self) -> Path:
        settings = {
            "site_name": "Site",
            "theme": {"name": self.theme, **self.templates},
            "plugins": ["search", {"facing": self.options}],
            "strict": self.strict,
            "repo_url": self.repo_url,
            "validation": self.validation,
            "nav": self.nav,
        }
        return build_small_site(self.root, settings)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    # MkDocs logs warnings through a counter that lives as long as Python.
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    return Site(tmp_path)


def test_a_file_becomes_a_page_with_its_place_in_the_site(site):
    out = site.build()
    page = (out / "code" / "one" / "index.html").read_text()
    assert "<title>The layer - Site</title>" in page
    assert '<section class="row">' in page
    assert 'href="#One"' in page  # the theme's table of contents
    assert "<math>" in page
    assert 'href="../.."' in page or 'href="../../"' in page
    assert 'href="../two/#Two.go"' in page
    home = (out / "index.html").read_text()
    assert 'href="code/one/#L13"' in home


def test_assets_lie_in_the_site(site):
    out = site.build()
    for name in ("literate.css", "literate.js", "stix-two-math.woff2"):
        assert (out / "assets" / name).is_file()


@pytest.mark.parametrize("theme", ["mkdocs", "material"])
def test_the_search_finds_prose_names_and_classes_but_no_math(site, theme):
    site.theme = theme
    out = site.build()
    index = json.loads((out / "search" / "search_index.json").read_text())
    text = json.dumps(index["docs"], ensure_ascii=False)
    for word in ("What One is", "exp_mean", "class One"):
        assert word in text
    assert "μ" not in text
    page = (out / "code" / "one" / "index.html").read_text()
    assert theme == "mkdocs" or 'content="What it does."' in page
    places = {entry["location"] for entry in index["docs"]}
    assert {"code/one/#One", "code/two/#Two.go"} <= places


def test_a_formula_that_does_not_parse_stops_the_build(site, caplog):
    site.write("code/bad.py", '"""\nOne.\n\nBad $\\frac{$.\n"""\n')
    site.strict = False
    with pytest.raises(Abort):
        site.build()
    assert "1 to mend" in caplog.text
    assert "code/bad.py:4: Expected" in caplog.text


def test_all_problems_are_reported_at_once(site, caplog):
    site.write("code/bad.py", '"""Bad $\\frac{$."""\n')
    site.write("code/worse.py", "x = (\n")
    with pytest.raises(Abort):
        site.build()
    assert "2 to mend" in caplog.text
    assert "code/bad.py:1:" in caplog.text
    assert "code/worse.py:1: not valid Python" in caplog.text


def test_lenient_shows_the_source(site):
    site.write("code/bad.py", '"""Bad $\\frac{$."""\n')
    site.options["lenient"] = True
    page = (site.build() / "code" / "bad" / "index.html").read_text()
    assert r"<code>$\frac{$</code>" in page


@pytest.mark.parametrize(
    "link", ["missing.py", "two.py#nowhere", "#nowhere", "../no.md"]
)
def test_a_broken_link_stops_a_strict_build(site, caplog, link):
    site.write("code/linking.py", f'"""\nText.\n\n[a]({link})\n"""\n')
    caplog.set_level(logging.WARNING)
    with pytest.raises(Abort):
        site.build()
    assert link in caplog.text
    assert "linking.py" in caplog.text


def test_without_sources_the_python_files_in_nav_are_the_pages(site):
    site.options = {}
    site.write("docs/script.py", "# Docs hold this file: it is not to be annotated.\n")
    inner = {"Deeper": ["code/two.py", {"Script": "script.py"}]}
    site.nav = ["index.md", {"One": "code/one.py"}, {"More": [inner]}]
    site.write("code/three.py", '"""Not in the navigation."""\n')
    out = site.build()
    assert "Second" in (out / "code" / "two" / "index.html").read_text()
    assert (out / "code" / "one" / "index.html").exists()
    assert not (out / "code" / "three").exists()
    assert (out / "script.py").exists()


def test_a_python_file_in_nav_that_is_not_there_is_named(site, caplog):
    site.options = {}
    site.nav = ["index.md", "code/one.py", "code/two.py", "code/none.py"]
    caplog.set_level(logging.WARNING)
    with pytest.raises(Abort):
        site.build()
    assert "code/none.py" in caplog.text


def test_a_source_that_is_not_there_is_named(site, caplog):
    site.options["sources"] = ["nowhere"]
    with pytest.raises(Abort):
        site.build()
    assert "sources names nowhere" in caplog.text


def test_two_builds_are_the_same_to_the_byte(site):
    out = site.build()
    page = out / "code" / "one" / "index.html"
    first = page.read_bytes()
    site.build()
    assert page.read_bytes() == first


LAW = 'r"""\n# T\n\nA law: $$a = b$$ {#sum}\n"""\n'
TEST = '"""T."""\n\n\n@pytest.mark.equation("%s")\ndef test_s():\n    1\n'


def test_a_test_of_an_equation_is_a_page_that_the_search_leaves_out(site):
    (site.root / "tests").mkdir()
    site.write("code/law.py", LAW)
    site.write("tests/test_law.py", TEST % "law.sum")
    site.write("tests/test_no.py", "def test_nothing():\n    1\n")
    site.options["tests"] = ["tests"]
    out = site.build()
    page = (out / "code" / "law" / "index.html").read_text()
    assert '<a href="../../tests/test_law/#L5">s</a>' in page
    assert 'id="L5"' in (out / "tests/test_law/index.html").read_text()
    assert not (out / "tests" / "test_no").exists()
    assert "def test_s" not in (out / "search/search_index.json").read_text()
    assert 'href="tests/' not in (out / "index.html").read_text()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("law.summ", "test_law.py:4: the equation 'law.summ'"),
        ("one.sum", "law.py:4: no test asserts the equation sum"),
    ],
)
def test_equations_and_tests_that_do_not_fit_stop_the_build(site, caplog, names, says):
    (site.root / "tests").mkdir()
    site.write("code/law.py", LAW)
    site.write("tests/test_law.py", TEST % names)
    site.options["tests"] = ["tests"]
    with pytest.raises(Abort):
        site.build()
    assert says in caplog.text
    assert "2 to mend" in caplog.text


PAPERS = """
papers: {a: {name: A, url: "https://a.example"}}
constructs: {a sum: {papers: [a], says: It adds.}}
"""


def test_the_table_of_constructs_is_a_part_of_a_page_of_prose(site):
    site.write("papers.yml", PAPERS)
    site.write("docs/lines.md", "# Lines\n\n<!-- constructs -->\n\nEnd.\n")
    site.write("code/sum.py", "# **From the paper**: a sum.\nx = 1 + 2\n")
    site.options["papers"] = "papers.yml"
    out = site.build()
    lines = (out / "lines" / "index.html").read_text()
    assert 'href="#a-sum"' in lines  # the theme's table of contents
    assert 'href="../code/sum/#L2"' in lines
    page = (out / "code" / "sum" / "index.html").read_text()
    assert 'href="../../lines/#a-sum"' in page


def test_a_construct_without_lines_stops_the_build(site, caplog):
    site.write("papers.yml", PAPERS)
    site.options["papers"] = "papers.yml"
    with pytest.raises(Abort):
        site.build()
    assert "papers.yml:3: no line implements 'a sum'" in caplog.text


SYMBOL = """\
- latex: \\mu
  scope: one
  say: mu
  meaning: a mean
"""


def test_a_declared_symbol_is_marked_and_explained(site):
    site.write("docs/symbols.yml", SYMBOL)
    site.options["symbols"] = "docs/symbols.yml"
    page = (site.build() / "code" / "one" / "index.html").read_text()
    assert '<mi data-s="1">μ</mi>' in page
    assert "a mean" in page.split('<details class="symbols">')[1]


def test_pages_for_which_nothing_is_declared_stay_the_same(site):
    before = {p: p.read_bytes() for p in site.build().rglob("code/**/*.html")}
    site.write("docs/symbols.yml", SYMBOL)
    site.write("docs/examples.py", "SIZES = [{}]\n")
    site.options |= {
        "symbols": "docs/symbols.yml",
        "examples": "docs/examples.py",
    }
    out = site.build()
    two = out / "code" / "two" / "index.html"
    assert two.read_bytes() == before[two]
    one = out / "code" / "one" / "index.html"
    assert one.read_bytes() != before[one]


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("two", "docs/symbols.yml:1: \\mu occurs nowhere in two"),
        ("one.Zwei", "docs/symbols.yml:1: scope one.Zwei: one defines no"),
        ("three", "docs/symbols.yml:1: scope three: no module of that name"),
    ],
)
def test_a_mistake_in_the_table_of_symbols_stops_the_build(
    site, caplog, scope, expected
):
    site.write("docs/symbols.yml", SYMBOL.replace("one", scope))
    site.options["symbols"] = "docs/symbols.yml"
    with pytest.raises(Abort):
        site.build()
    assert expected in caplog.text


CLAIM = '''"""Three."""


def three(x):
    """
    **Shape**: `x` is `[B, C]`.
    """
'''

EXAMPLE = """\
from three import three

SIZES = [{"B": 2, "C": 3}, {"B": 3, "C": 5}]


class Tensor:
    dtype = "float32"

    def __init__(self, *shape):
        self.shape = shape


def go(B, C):
    three(Tensor(C, B))
"""


def test_a_claim_that_a_run_contradicts_stops_the_build(site, caplog):
    site.write("code/three.py", CLAIM)
    site.write("docs/examples.py", EXAMPLE)
    site.options["examples"] = "docs/examples.py"
    with pytest.raises(Abort):
        site.build()
    assert "code/three.py:6: x is said to have the shape" in caplog.text
    site.write("docs/examples.py", EXAMPLE.replace("(C, B)", "(B, C)"))
    page = (site.build() / "code" / "three" / "index.html").read_text()
    assert ">[B, C] f32</i>" in page


def test_the_source_lies_beside_its_page(site):
    out = site.build()
    raw = out / "code" / "one" / "one.py"
    assert raw.read_bytes() == (site.root / "code" / "one.py").read_bytes()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("", "one.py"),
        ("https://example.org/us/it/", "https://example.org/us/it/blob/HEAD"),
    ],
)
def test_a_page_knows_where_its_source_is(site, address, expected):
    site.repo_url = address
    site.write(
        "docs/shown.html",
        '<a href="{{ page.meta.source_url }}">{{ page.title }}</a>',
    )
    site.templates["custom_dir"] = str(site.root / "docs")
    site.options["template"] = "shown.html"
    page = (site.build() / "code" / "one" / "index.html").read_text()
    target = expected + "/code/one.py" * bool(address)
    assert page == f'<a href="{target}">The layer</a>'
