"""Nothing moves once it is shown, and the math font comes only with math."""

import pytest
from helpers.site_pages import BATCH_CHANNEL_NORM, LAYERS, WIDTHS
from playwright.sync_api import Route

pytestmark = pytest.mark.slow

PAINTED = "performance.getEntriesByName('first-contentful-paint').length > 0"
# What moved. Nothing tells when no more will move, so it looks for a while.
LAYOUT_SHIFTS = """new Promise(done => {
    const found = [];
    new PerformanceObserver(list => {
        for (const entry of list.getEntries()) {
            found.push([entry.value, entry.sources.map(
                s => s.node?.outerHTML ?? s.node?.textContent ?? "").map(
                text => text.slice(0, 120))]);
        }
    }).observe({ type: "layout-shift", buffered: true });
    setTimeout(() => done(found), 400);
})"""


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_moves_after_it_was_shown(browser, page_urls, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    found = []
    for url in page_urls:
        page.goto(url)
        found += [(url, shift) for shift in page.evaluate(LAYOUT_SHIFTS)]
    page.close()
    assert found == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_moves_while_a_long_table_is_read(browser, site_url, width):
    """A slow processor shows rows before it has read the longest one."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    for _ in range(3):
        page.goto(site_url + "glossary/")
        assert page.evaluate(LAYOUT_SHIFTS) == []
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_moves_when_the_math_font_comes_late(browser, site_url, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    late = []

    def deliver_after_first_paint(route: Route) -> None:
        page.wait_for_function(PAINTED)
        late.append(route.request.url)
        route.continue_()

    page.route("**/*.woff2", deliver_after_first_paint)
    found = []
    for path in LAYERS:
        page.goto(site_url + path)
        found += [(path, shift) for shift in page.evaluate(LAYOUT_SHIFTS)]
    page.close()
    assert late
    assert found == []


def test_the_math_font_is_used_where_there_is_math(visit, site_url):
    page = visit.open(site_url + BATCH_CHANNEL_NORM)
    page.wait_for_function("document.fonts.status === 'loaded'")
    assert page.evaluate(
        "[...document.fonts].some(f => f.family.includes('STIX') &&"
        " f.status === 'loaded')"
    )
    assert any(url.endswith(".woff2") for url in visit.requests)


def test_no_font_is_asked_for_where_there_is_no_math(visit, site_url):
    visit.open(site_url + "facing/src/facing/page/")
    visit.page.wait_for_load_state("networkidle")
    assert not any(url.endswith(".woff2") for url in visit.requests)
