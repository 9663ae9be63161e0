"""Pages read whole without script, and print whole."""

import re

import pytest
from helpers.browsing import page_paths
from helpers.site_pages import LAYERS, ONE_OF_EACH_KIND

pytestmark = pytest.mark.slow

HIDDEN = """[...document.querySelectorAll(
    "article :is(h1, h2, h3, h4, h5, h6, p, li, dt, dd, td, pre, math, svg)")]
    .filter(e => !e.checkVisibility({ opacityProperty: true,
        visibilityProperty: true }) && !e.closest("[hidden], details"))
    .map(e => e.outerHTML.slice(0, 120))"""


def test_every_page_reads_whole_without_script(browser, built_site, site_url):
    context = browser.new_context(java_script_enabled=False)
    found = []
    for path in page_paths(built_site):
        page = context.new_page()
        page.goto(site_url + path)
        # The page itself runs nothing; only this question does.
        found += [(path, each) for each in page.evaluate(HIDDEN)]
        assert page.locator("article h1").first.is_visible(), path
        page.close()
    context.close()
    assert found == []


PAPER = """() => {
    const wide = document.documentElement.scrollWidth > innerWidth;
    const boxes = "article :is(pre, .math-block)";
    const cut = [...document.querySelectorAll(boxes)]
        .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
        .map(e => e.outerHTML.slice(0, 120));
    const left = [...document.querySelectorAll(
        ".md-header, .md-tabs, .md-sidebar, .md-footer__inner, .siblings, " +
        ".explorer form, .md-code__nav")]
        .filter(e => e.checkVisibility()).map(e => e.className);
    return [wide, cut, left];
}"""


# As wide as the text of an A4 page, upright and on its side.
UPRIGHT, ON_ITS_SIDE = 718, 1031


def on_paper(browser, url, width):
    """A page as it is laid out for print."""
    page = browser.new_page(viewport={"width": width, "height": 700})
    page.emulate_media(media="print")
    page.goto(url)
    return page


@pytest.mark.parametrize("path", ONE_OF_EACH_KIND)
def test_print_is_the_text_and_cuts_nothing(browser, site_url, path):
    width = ON_ITS_SIDE if path in LAYERS else UPRIGHT
    page = on_paper(browser, site_url + path, width)
    assert page.evaluate(PAPER) == [False, [], []]
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()


def sheets(page):
    """Width and height of each sheet that a browser would print."""
    pdf = page.pdf(format="A4", prefer_css_page_size=True)
    found = re.findall(rb"/MediaBox \[0 0 ([0-9.]+) ([0-9.]+)\]", pdf)
    assert found
    return [tuple(map(float, size)) for size in found]


BESIDE = """() => [...document.querySelectorAll(".lit .row:has(> .code)")].map(row => {
    const [note, code] = [...row.children].map(e => e.getBoundingClientRect());
    return note.top === code.top && note.right < code.left;
})"""


@pytest.mark.parametrize("path", LAYERS)
def test_on_paper_notes_face_their_code_on_a_sheet_on_its_side(browser, site_url, path):
    page = on_paper(browser, site_url + path, ON_ITS_SIDE)
    beside = page.evaluate(BESIDE)
    assert len(beside) > 10
    assert all(beside)
    assert page.evaluate(PAPER) == [False, [], []]
    assert all(width > height for width, height in sheets(page))
    page.close()


APART = """() => {
    const name = document.querySelector(
        ".lit .note > :is(h3, h4, h5, h6):has(> .name:not(.titled))");
    const words = document.createRange();
    words.selectNodeContents(name.parentElement.querySelector(":scope > p"));
    const behind = name.querySelector(".name").getBoundingClientRect().right;
    return words.getClientRects()[0].left - behind;
}"""


def test_on_paper_a_name_stands_apart_from_the_words_behind_it(browser, site_url):
    page = on_paper(browser, site_url + LAYERS[0], ON_ITS_SIDE)
    assert page.evaluate(APART) >= 4
    page.close()


@pytest.mark.parametrize("path", ["", "use/", "results/", "notebooks/4_roughness/"])
def test_pages_of_prose_are_printed_upright(browser, site_url, path):
    page = on_paper(browser, site_url + path, UPRIGHT)
    assert all(width < height for width, height in sheets(page))
    page.close()
