"""The built site: its files, links and search, and reading it in a browser."""

import json
import os
import re
import subprocess
import sys
from urllib.parse import unquote, urljoin, urlsplit

import nbformat
import pytest
from helpers.browsing import page_file, page_paths
from helpers.paths import ROOT

from tools import style

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted(p.stem for p in (ROOT / "notebooks").glob("*.py"))


# --- Without a browser ------------------------------------------------------


def test_every_source_and_notebook_has_its_page(built_site):
    sources = style.pages()
    assert len(sources) >= 10
    assert {
        *(f"{source.removesuffix('.py')}/" for source in sources),
        "use/",
        "glossary/",
        "reference/",
        "404.html",
        "",
        *(f"notebooks/{name}/" for name in NOTEBOOKS),
    } <= set(page_paths(built_site))


def test_no_page_loads_anything_from_elsewhere(parsed_pages, built_site):
    for path, page in parsed_pages.items():
        for load in page.loads:
            assert not urlsplit(load).netloc, (path, load)
    for sheet in built_site.rglob("*.css"):
        for load in re.findall(r"url\(([^)]*)\)", sheet.read_text()):
            assert "//" not in load or "data:" in load, (sheet, load)


def test_every_link_leads_somewhere(parsed_pages, built_site):
    root = "http://site/"
    for path, page in parsed_pages.items():
        for link in page.links:
            if urlsplit(link).scheme or link.startswith("/"):
                continue
            parts = urlsplit(urljoin(root + path, link))
            target = unquote(parts.path.removeprefix("/"))
            if target in parsed_pages:
                ids = {*parsed_pages[target].ids, "", "__top"}
                assert unquote(parts.fragment) in ids, (path, link)
            else:
                assert (built_site / target).is_file(), (path, link)


def test_ids_are_unique_on_every_page(parsed_pages):
    for path, page in parsed_pages.items():
        assert len(page.ids) == len(set(page.ids)), path


def test_no_latex_is_left_over(built_site):
    for path in page_paths(built_site):
        text = page_file(built_site, path).read_text()
        assert not re.search("[\ue000-\uf8ff]", text), path
        for verbatim in ("code", "pre", "script", "style"):
            text = re.sub(rf"<{verbatim}\b.*?</{verbatim}>", "", text, flags=re.DOTALL)
        text = re.sub(r"<[^>]*>", "", text)
        assert not re.search(r"\$[^\s$]|\\\(|\\begin\{", text), path


def test_no_placeholder_is_left_over(built_site):
    for path in page_paths(built_site):
        text = page_file(built_site, path).read_text()
        assert re.findall(r"<!--\s*[\w-]+\s*(?::[\w, -]*)?-->", text) == [], path


def test_the_search_finds_prose_names_and_classes(built_site):
    index = json.loads((built_site / "search" / "search_index.json").read_text())
    entries = {e["location"]: e["title"] + e["text"] for e in index["docs"]}

    def found(word: str) -> set[str]:
        return {place.split("#")[0] for place, text in entries.items() if word in text}

    assert "labml_bcn/batch_norm/" in found("exp_mean")
    assert "labml_bcn/batch_channel_norm/" in found("class ChannelNorm")
    assert "labml_bcn/batch_channel_norm/" in found("micro-batch")
    assert not found("<math")


def test_the_page_for_what_is_not_found_says_so(built_site):
    text = (built_site / "404.html").read_text()
    assert re.search("not (here|found)|no page", text, re.IGNORECASE)


def test_the_footer_states_the_version(built_site):
    version = re.search(
        r'__version__ = "(.+)"',
        (ROOT / "labml_bcn" / "__init__.py").read_text(),
    )
    assert version is not None
    for path in ("index.html", "use/index.html"):
        footer = (built_site / path).read_text().split("<footer")[1]
        assert version[1] in footer


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_page_is_lean_and_has_its_downloads(built_site, name):
    folder = built_site / "notebooks" / name
    page = (folder / "index.html").read_text()
    assert "mermaid" not in page
    assert "<math" in page
    assert "<style" not in page.split("</head>")[1]
    source = ROOT / "notebooks" / f"{name}.py"
    assert (folder / f"{name}.py").read_bytes() == source.read_bytes()
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert any(c.outputs for c in code)
    assert all(c.execution_count for c in code)
    stored = json.dumps([c.outputs for c in code])
    assert "it/s]" not in stored
    assert str(ROOT) not in stored


def test_a_downloaded_notebook_runs_as_a_script(built_site, tmp_path):
    source = built_site / "notebooks" / NOTEBOOKS[0] / f"{NOTEBOOKS[0]}.py"
    done = subprocess.run(
        [sys.executable, str(source)],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("images: ")


# --- In a browser -----------------------------------------------------------


def test_the_switch_changes_the_scheme(visit, site_url):
    page = visit.open(site_url)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for _ in range(2):
        page.locator("[data-md-component=palette] label:visible").click()
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    scheme = page.get_attribute("body", "data-md-color-scheme")
    assert scheme == "slate"
    assert after != before


@pytest.mark.parametrize("word", ["exp_mean", "ChannelNorm", "micro-batch"])
def test_searching_shows_results(visit, site_url, word):
    page = visit.open(site_url)
    page.wait_for_function(
        "document.querySelector('.md-search-result__meta')"
        ".textContent.startsWith('Type to')"
    )
    # The theme listens to keys, not to changes of the text.
    query = page.locator("input[data-md-component=search-query]")
    query.press_sequentially(word)
    found = "a.md-search-result__link[href*='labml_bcn/batch_']"
    page.locator(found).first.wait_for()


def test_a_line_of_code_is_a_place_to_link_to(visit, site_url):
    path = "labml_bcn/batch_channel_norm/"
    page = visit.open(site_url + path)
    line = page.locator(".lit .code > pre .l").nth(10)
    number = line.locator("a").first.get_attribute("aria-label")
    line.locator("a").first.click()
    assert page.url.endswith(f"#L{number}")
    assert line.bounding_box()["y"] >= 0


def test_copied_code_has_no_line_numbers(visit, site_url):
    path = "labml_bcn/batch_norm/"
    page = visit.open(site_url + path)
    text = page.evaluate(
        """() => {
            getSelection().selectAllChildren(
                document.querySelector(".lit .code > pre"));
            return getSelection().toString();
        }"""
    )
    source = (ROOT / "labml_bcn" / "batch_norm.py").read_text()
    assert "class BatchNorm" in text
    assert set(text.splitlines()) <= set(source.splitlines())


def test_on_a_phone_code_loses_its_common_indentation(visit, site_url):
    path = "labml_bcn/batch_norm/"
    lines = "document.querySelectorAll('.lit .in').length"
    page = visit.open(site_url + path, 390)
    assert page.evaluate(lines) > 0
    assert not page.locator(".lit .in").first.is_visible()
