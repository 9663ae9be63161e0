"""The search finds what a reader means, in the built site and in a browser."""

import gzip
import json

import pytest
from playwright.sync_api import Page

from website.search_index import Scope, improve

BATCH_NORM = "labml_bcn/batch_norm/"
BCN = "labml_bcn/batch_channel_norm/"
WS = "labml_bcn/weight_standardization/"
SILENT = "notebooks/3_elimination_singularities/"
TUNING = "notebooks/5_fine_tuning/"

# What readers type, and the pages that answer it.
QUERIES = {
    "singularity": {SILENT},
    "SyncBN": {"use/", "works_with/", "relatives/"},
    "EstBN": {BCN, "relatives/"},
    "frozen BN": {"use/", TUNING, "relatives/"},
    "batch size 1": {"results/"},
    "GroupNorm": {"glossary/", BCN, "relatives/"},
    "ImageNet": {"results/"},
    "CIFAR-10": {"results/", "notebooks/2_micro_batch_run/"},
    "dead channels": {SILENT},
    "how fast": {"speed/"},
    "torch.compile": {"use/", "works_with/"},
    "install": {"use/"},
    "convert my network": {"use/", "labml_bcn/convert/"},
    "export to ONNX": {"use/", "works_with/", "labml_bcn/bake/"},
    "momentum": {"use/", "results/"},
    "running variance": {BATCH_NORM},
    "weight standardisation": {WS},
    "cite": {"papers/"},
    "fine-tuning": {TUNING},
    "learning rate": {"use/"},
    "batchchannelnorm": {BCN},
    "fuse conv bn": {"labml_bcn/bake/"},
    "replace batchnorm in resnet": {"use/", "labml_bcn/convert/"},
    "why does eval fail": {"results/", BATCH_NORM},
    "how does it work": {BCN},
    "test time": {"results/", BATCH_NORM},
    "gradient accumulation": {"use/"},
    "group norm or bcn": {"relatives/", "results/", BCN},
}
ENOUGH = 26


FIRST = "a.md-search-result__link"


def ask(page: Page, query: str) -> None:
    """Put a query into the field, and let a key tell the theme of it."""
    field = page.locator("input[data-md-component=search-query]")
    field.fill(query)
    field.press("End")


def first_page(page: Page, query: str) -> str:
    """Return the page that comes first."""
    ask(page, "")
    page.locator(FIRST).first.wait_for(state="detached")
    ask(page, query)
    found = page.locator(FIRST).first
    found.wait_for()
    address = found.evaluate("a => new URL(a.href).pathname")
    return address.removeprefix("/")


@pytest.fixture
def search(visit, site_url) -> Page:
    """The start page, with the index at hand."""
    page = visit.open(site_url)
    page.locator("input[data-md-component=search-query]").focus()
    page.wait_for_function(
        "document.querySelector('.md-search-result__meta')"
        ".textContent.startsWith('Type to')"
    )
    return page


@pytest.mark.slow
def test_a_readers_words_find_the_right_page_first(search):
    found = {query: first_page(search, query) for query in QUERIES}
    wrong = {q: page for q, page in found.items() if page not in QUERIES[q]}
    assert len(QUERIES) - len(wrong) >= ENOUGH, wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "other"),
    [("singularity", "singularities"), ("normalise", "normalize")],
)
def test_words_of_one_stem_find_the_same(search, one, other):
    assert first_page(search, one) == first_page(search, other)


@pytest.mark.slow
def test_a_result_shows_the_word_that_was_typed_and_is_no_landmark(search):
    assert first_page(search, "SyncBN") in QUERIES["SyncBN"]
    words = search.locator(".md-search-result .md-tag:visible")
    assert set(words.all_inner_texts()) == {"SyncBN"}
    assert search.locator(".md-search-result nav:not([role])").count() == 0


@pytest.mark.slow
def test_the_index_is_at_most_80_kb_and_has_no_internals(built_site):
    data = (built_site / "search" / "search_index.json").read_bytes()
    assert len(gzip.compress(data, 6)) <= 80_000
    places = {entry["location"] for entry in json.loads(data)["docs"]}
    inside = ("facing/", "tests/", "labml_bcn/experiment/")
    assert [place for place in places if place.startswith(inside)] == []


@pytest.mark.slow
def test_nothing_that_no_reader_asks_for_is_in_the_site(built_site):
    assert list(built_site.rglob("*.map")) == []
    assert list(built_site.rglob("lunr*")) == []
    for path in built_site.rglob("*.min.*"):
        assert "sourceMappingURL" not in path.read_text("utf-8"), path


# --- The index, without a site ----------------------------------------------


def entry(location: str, **more: object) -> dict[str, object]:
    return {"location": location, "title": "Title", "text": "", **more}


def places(words: dict[str, list[str]]) -> dict[str, object]:
    return {"words": words, "boost": {"b/": 0.5}}


def test_a_place_has_readers_words_and_its_weight():
    entries = [entry("a/#x"), entry("b/")]
    one, other = improve(entries, Scope(), places({"a/#x": ["SyncBN"]}))
    assert one["tags"] == ["SyncBN"]
    assert (one["boost"], other["boost"]) == (1, 0.5)
    assert "tags" not in other


def test_words_for_a_place_that_is_gone_stop_the_build():
    with pytest.raises(Exception, match=r"search\.yml: there is no 'gone/'"):
        improve([entry("a/")], Scope(), places({"gone/": ["word"]}))


def test_internals_are_left_out_and_code_is_not_read():
    entries = [
        entry("inside/"),
        entry("code/", text="<p>Why.</p><pre><code>x = 1\n</code></pre><p>So.</p>"),
        entry("code/#L.f", title="The method <code>f</code>"),
        entry("code/#L", title="The layer <code>L</code>"),
    ]
    scope = Scope(hidden={"inside/"}, from_code={"code/"})
    page, method, layer = improve(entries, scope, places({}))
    assert page["text"] == "<p>Why.</p><p>So.</p>"
    assert method["boost"] < layer["boost"] == page["boost"]
