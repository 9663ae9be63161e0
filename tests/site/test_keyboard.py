"""The keyboard reaches everything, and its place is always seen."""

import pytest
from helpers.site_pages import BATCH_CHANNEL_NORM, LAYERS, ONE_OF_EACH_KIND
from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.slow

# What the focus is on, and what is wrong with that.
FOCUS = """() => {
    const e = document.activeElement;
    window.first ??= e;
    const around = window.walked && e === window.first;
    if (!e || e === document.body || around) return null;
    // The switch of colours is drawn by the label behind its input.
    const shown = e.matches(".md-option") ? e.nextElementSibling : e;
    const box = shown.getBoundingClientRect();
    const [wide, high] = [innerWidth, innerHeight];
    const covered = () => [...shown.getClientRects()].every(r =>
        [0.2, 0.5, 0.8].every(part => {
            const x = r.left + r.width * part, y = r.top + r.height / 2;
            const at = document.elementFromPoint(
                Math.min(Math.max(x, 0), wide - 1),
                Math.min(Math.max(y, 0), high - 1));
            return !at || !(shown.contains(at) || at.contains(shown));
        }));
    const ringed = () => {
        const around = [shown, shown.parentElement,
            shown.parentElement.parentElement].filter(Boolean);
        return around.map(each => getComputedStyle(each)).some(style =>
            style.outlineStyle !== "none" &&
            parseFloat(style.outlineWidth) >= 2);
    };
    const follows = () => !window.walked || window.walked
        .compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING;
    const opaque = { opacityProperty: true, visibilityProperty: true };
    const wrong = Object.entries({
        "not visible": !shown.checkVisibility(opaque),
        "no size": box.width < 2 || box.height < 2,
        "out of the window": box.bottom <= 0 || box.top >= high ||
            box.right <= 0 || box.left >= wide,
        "covered": covered(),
        "no ring": !ringed(),
        "out of order": !follows(),
    }).filter(([, is]) => is).map(([what]) => what);
    window.walked = e;
    return [e.outerHTML.slice(0, 140), wrong];
}"""
MAX_STOPS = 700


def problems_of_this_focus(page: Page) -> list[str]:
    """Return what is wrong with the place of the focus, by itself."""
    page.evaluate("window.first = window.walked = undefined")
    return page.evaluate(FOCUS)[1]


def press_tab_to_the_end(page: Page) -> tuple[int, list[object]]:
    """Press Tab to the end of the page; return the stops, and what was wrong."""
    wrong = []
    for stops in range(MAX_STOPS):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        if focus is None:
            return stops, wrong
        if focus[1]:
            wrong.append(focus)
    return MAX_STOPS, [*wrong, "the keyboard never gets to the end"]


@pytest.fixture
def page(browser: Browser):
    """A page without transitions."""
    page = browser.new_page(reduced_motion="reduce")
    yield page
    page.close()


def focus_problems(page: Page, urls: list[str]) -> list[object]:
    """Press Tab through all of some pages, and return what was wrong on them."""
    found = []
    for url in urls:
        page.goto(url)
        stops, wrong = press_tab_to_the_end(page)
        found += [(url, each) for each in wrong]
        assert stops > 3, url
    return found


def test_the_keyboard_reaches_all_and_its_place_is_always_seen(page, page_urls):
    page.set_viewport_size({"width": 1440, "height": 900})
    assert focus_problems(page, page_urls) == []


def test_the_keyboard_reaches_all_in_a_narrow_window(page, site_url, standalone_url):
    page.set_viewport_size({"width": 390, "height": 900})
    urls = [site_url + path for path in {*ONE_OF_EACH_KIND, *LAYERS}]
    urls.append(f"{standalone_url}batch_channel_norm.html")
    assert focus_problems(page, urls) == []


def test_the_switch_of_colours_answers_space_and_enter(page, site_url):
    page.goto(site_url)
    switch = page.locator(".md-option:has(+ label:not([hidden]))")
    for key, option, scheme in (
        ("Space", "__palette_1", "default"),
        ("Enter", "__palette_2", "slate"),
        ("Space", "__palette_0", "default"),
    ):
        switch.focus()
        page.keyboard.press(key)
        page.wait_for_function("id => document.activeElement.id === id", arg=option)
        shown = page.get_attribute("body", "data-md-color-scheme")
        assert shown == scheme


def test_the_drawer_opens_navigates_and_closes_by_keyboard(page, site_url):
    page.set_viewport_size({"width": 390, "height": 900})
    page.goto(site_url + BATCH_CHANNEL_NORM)
    opener = page.locator("[data-opens=drawer]")
    for key in ("Enter", "Space"):
        opener.focus()
        page.keyboard.press(key)
        inside = "document.activeElement.closest('.md-sidebar--primary')"
        page.wait_for_function(inside)
        assert problems_of_this_focus(page) == []
        page.keyboard.press("Escape")
        assert not page.is_checked("#__drawer")
        opens = page.evaluate("document.activeElement.dataset.opens")
        assert opens == "drawer"
    page.keyboard.press("Enter")
    page.wait_for_function(inside)
    # Out of the section, back into it, and to another of its pages.
    for words in ("Layers", "Layers"):
        tab_to(page, page.locator("label:visible", has_text=words).last)
        page.keyboard.press("Enter")
    tab_to(page, page.locator(".md-nav--primary a", has_text="In one map"))
    page.keyboard.press("Enter")
    page.wait_for_url("**/labml_bcn/fused/")


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab, or Shift and Tab, until something has the focus."""
    for key in ["Tab"] * 25 + ["Shift+Tab"] * 25:
        if wanted.evaluate("e => e === document.activeElement"):
            assert problems_of_this_focus(page) == []
            return
        page.keyboard.press(key)
    raise AssertionError(f"the keyboard does not get to {wanted}")


def test_the_search_closes_when_the_focus_leaves_it(page, site_url):
    page.goto(site_url + "use/")
    page.locator(".md-search__input").focus()
    page.wait_for_function("document.querySelector('#__search').checked")
    page.keyboard.press("Tab")
    for _ in range(20):
        if not page.evaluate("!!document.activeElement.closest('.md-search')"):
            break
        page.keyboard.press("Tab")
    assert not page.is_checked("#__search")


def test_a_search_is_done_by_keyboard_alone(page, site_url):
    page.goto(site_url)
    page.wait_for_function(
        "document.querySelector('.md-search-result__meta')"
        ".textContent.startsWith('Type to')"
    )
    page.keyboard.press("s")
    page.keyboard.type("elimination")
    page.locator("a.md-search-result__link").first.wait_for()
    page.keyboard.press("ArrowDown")
    assert "md-search-result__link" in page.evaluate("document.activeElement.className")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "?h=" in url)
