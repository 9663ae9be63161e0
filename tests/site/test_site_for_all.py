"""Light and open to all: bytes, keys, touch, contrast, stillness, print."""

import gzip
from importlib.resources import files
from pathlib import Path

import pytest
from helpers.browsing import Visit, page_paths
from playwright.sync_api import Browser, Locator, Page, Route

from website import norm_diagrams
from website.norm_diagrams import ESTIMATE, GROUP, Sizes

pytestmark = pytest.mark.slow

LAYERS = (
    "labml_bcn/batch_norm/",
    "labml_bcn/batch_channel_norm/",
    "labml_bcn/weight_standardization/",
    "labml_bcn/fused/",
)
BCN = LAYERS[1]
# One of each kind: prose, start, annotated, notebook, a test.
KINDS = ("", "use/", BCN, "notebooks/2_micro_batch_run/", "paper_to_line/")
WIDTHS = (1440, 390)
KB = 1000


# --- Bytes ------------------------------------------------------------------


def compressed(path: Path) -> int:
    return len(gzip.compress(path.read_bytes(), 6))


def over(sizes: dict[str, int], limit: int) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if size > limit * KB}


def test_layer_pages_are_at_most_30_kb_and_others_60(site):
    sizes = {
        path: compressed(
            site / (path if path.endswith(".html") else f"{path}index.html")
        )
        for path in page_paths(site)
    }
    assert set(LAYERS) <= set(sizes)
    assert over({path: sizes[path] for path in LAYERS}, 30) == {}
    assert over(sizes, 60) == {}


def test_our_styles_and_scripts_are_at_most_12_kb_together(site):
    ours = [p for kind in ("css", "js") for p in site.glob(f"assets/*.{kind}")]
    sizes = {path.name: compressed(path) for path in ours}
    assert {"literate.css", "site.css", "literate.js", "site.js"} <= {*sizes}
    assert sum(sizes.values()) <= 12 * KB, sizes


def test_the_math_font_is_at_most_90_kb(site):
    (font,) = site.rglob("*.woff2")
    assert font.stat().st_size <= 90 * KB


# --- Stillness --------------------------------------------------------------

SHIFTS = """new Promise(done => {
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
def test_nothing_moves_after_it_was_shown(browser, pages, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    found = []
    for url in pages:
        page.goto(url)
        found += [(url, shift) for shift in page.evaluate(SHIFTS)]
    page.close()
    assert found == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_moves_while_a_long_table_is_read(browser, address, width):
    """A slow processor shows rows before it has read the longest one."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    for _ in range(3):
        page.goto(address + "glossary/")
        assert page.evaluate(SHIFTS) == []
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_moves_when_the_math_font_comes_late(browser, address, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    late = []

    def wait(route: Route) -> None:
        page.wait_for_timeout(700)
        late.append(route.request.url)
        route.continue_()

    page.route("**/*.woff2", wait)
    found = []
    for path in LAYERS:
        page.goto(address + path)
        found += [(path, shift) for shift in page.evaluate(SHIFTS)]
    page.close()
    assert late
    assert found == []


def test_the_math_font_is_used_where_there_is_math(visit, address):
    page = visit.open(address + BCN)
    page.wait_for_function("document.fonts.status === 'loaded'")
    assert page.evaluate(
        "[...document.fonts].some(f => f.family.includes('STIX') &&"
        " f.status === 'loaded')"
    )
    assert any(url.endswith(".woff2") for url in visit.asked)


def test_no_font_is_asked_for_where_there_is_no_math(visit, address):
    visit.open(address + "facing/src/facing/page/")
    visit.page.wait_for_timeout(200)
    assert not any(url.endswith(".woff2") for url in visit.asked)


# --- By keyboard ------------------------------------------------------------

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
MANY = 700


def wrong_here(page: Page) -> list[str]:
    """Say what is wrong with the place of the focus, by itself."""
    page.evaluate("window.first = window.walked = undefined")
    return page.evaluate(FOCUS)[1]


def walk(page: Page) -> tuple[int, list[object]]:
    """Press Tab to the end of the page, and gather what was wrong."""
    wrong = []
    for stops in range(MANY):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        if focus is None:
            return stops, wrong
        if focus[1]:
            wrong.append(focus)
    return MANY, [*wrong, "the keyboard never gets to the end"]


@pytest.fixture
def still(browser: Browser):
    """A page without transitions."""
    page = browser.new_page(reduced_motion="reduce")
    yield page
    page.close()


def walked(page: Page, urls: list[str]) -> list[object]:
    """Walk through pages, and gather what was wrong on them."""
    found = []
    for url in urls:
        page.goto(url)
        stops, wrong = walk(page)
        found += [(url, each) for each in wrong]
        assert stops > 3, url
    return found


def test_the_keyboard_reaches_all_and_its_place_is_always_seen(still, pages):
    still.set_viewport_size({"width": 1440, "height": 900})
    assert walked(still, pages) == []


def test_so_it_does_in_a_narrow_window(still, address, layers):
    still.set_viewport_size({"width": 390, "height": 900})
    urls = [address + path for path in {*KINDS, *LAYERS}]
    urls.append(f"{layers}batch_channel_norm.html")
    assert walked(still, urls) == []


def test_the_switch_of_colours_answers_space_and_enter(still, address):
    still.goto(address)
    switch = still.locator(".md-option:has(+ label:not([hidden]))")
    for key, option, scheme in (
        ("Space", "__palette_1", "default"),
        ("Enter", "__palette_2", "slate"),
        ("Space", "__palette_0", "default"),
    ):
        switch.focus()
        still.keyboard.press(key)
        still.wait_for_function("id => document.activeElement.id === id", arg=option)
        shown = still.get_attribute("body", "data-md-color-scheme")
        assert shown == scheme


def test_the_drawer_opens_leads_on_and_closes_by_keyboard(still, address):
    still.set_viewport_size({"width": 390, "height": 900})
    still.goto(address + BCN)
    opener = still.locator("[data-opens=drawer]")
    for key in ("Enter", "Space"):
        opener.focus()
        still.keyboard.press(key)
        inside = "document.activeElement.closest('.md-sidebar--primary')"
        still.wait_for_function(inside)
        assert wrong_here(still) == []
        still.keyboard.press("Escape")
        assert not still.is_checked("#__drawer")
        opens = still.evaluate("document.activeElement.dataset.opens")
        assert opens == "drawer"
    still.keyboard.press("Enter")
    still.wait_for_function(inside)
    # Out of the section, back into it, and to another of its pages.
    for words in ("Layers", "Layers"):
        reach(still, still.locator("label:visible", has_text=words).last)
        still.keyboard.press("Enter")
    reach(still, still.locator(".md-nav--primary a", has_text="In one map"))
    still.keyboard.press("Enter")
    still.wait_for_url("**/labml_bcn/fused/")


def reach(page: Page, wanted: Locator) -> None:
    """Press Tab, or Shift and Tab, until something has the focus."""
    for key in ["Tab"] * 25 + ["Shift+Tab"] * 25:
        if wanted.evaluate("e => e === document.activeElement"):
            assert wrong_here(page) == []
            return
        page.keyboard.press(key)
    raise AssertionError(f"the keyboard does not get to {wanted}")


def test_what_lies_over_the_page_closes_when_the_focus_leaves_it(still, address):
    still.goto(address + "use/")
    still.locator(".md-search__input").focus()
    still.wait_for_function("document.querySelector('#__search').checked")
    still.keyboard.press("Tab")
    for _ in range(20):
        if not still.evaluate("!!document.activeElement.closest('.md-search')"):
            break
        still.keyboard.press("Tab")
    assert not still.is_checked("#__search")


def test_a_search_is_done_by_keyboard_alone(still, address):
    still.goto(address)
    still.wait_for_function(
        "document.querySelector('.md-search-result__meta')"
        ".textContent.startsWith('Type to')"
    )
    still.keyboard.press("s")
    still.keyboard.type("elimination")
    still.locator("a.md-search-result__link").first.wait_for()
    still.keyboard.press("ArrowDown")
    assert "md-search-result__link" in still.evaluate(
        "document.activeElement.className"
    )
    still.keyboard.press("Enter")
    still.wait_for_url(lambda url: "?h=" in url)


# --- The figure whose sizes are chosen --------------------------------------


def drawn(page: Page) -> list[list[bool]]:
    return page.evaluate(
        """[...document.querySelectorAll(".explorer .samples")].map(step =>
            [...step.querySelectorAll("i")].map(i => i.className === "on"))"""
    )


def declared(sizes: Sizes) -> list[list[bool]]:
    return [
        [
            statistic.shares(sizes, b, c)
            for b in range(sizes.batch)
            for _ in range(sizes.positions)
            for c in range(sizes.channels)
        ]
        for statistic in (ESTIMATE, GROUP)
    ]


def choose(page: Page, sizes: Sizes) -> None:
    for name in ("batch", "channels", "groups", "positions"):
        page.locator(f".explorer [name={name}]").fill(str(getattr(sizes, name)))


@pytest.mark.parametrize(
    "sizes",
    [Sizes(), Sizes(1, 1, 1, 1), Sizes(8, 12, 4, 12), Sizes(3, 4, 4, 1)],
    ids=str,
)
def test_the_chosen_sizes_are_drawn_and_counted(visit, address, sizes):
    page = visit.open(address + BCN)
    choose(page, sizes)
    assert drawn(page) == declared(sizes)
    numbers = norm_diagrams.counts(sizes)
    for name, value in numbers.items():
        places = page.locator(f".explorer [data-n={name}]")
        assert set(places.all_inner_texts()) == {str(value)}, name
    for name in ("BL", "DL"):
        told = page.locator(f".explorer [data-one={name}]").is_visible()
        assert told == (numbers[name] == 1), name
    assert visit.errors == []


def test_groups_that_do_not_divide_go_to_the_nearest_that_do(visit, address):
    page = visit.open(address + BCN)
    choose(page, Sizes(2, 7, 5, 2))
    assert drawn(page) == declared(Sizes(2, 7, 7, 2))
    groups = page.locator(".explorer [name=groups]")
    assert groups.get_attribute("aria-valuetext") == "7"


def test_at_its_default_the_script_draws_what_the_page_shows(browser, visit, address):
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(address + BCN)
    assert plain.locator(".explorer form").is_hidden()
    steps = ".explorer .steps"
    before = plain.locator(steps).evaluate("e => e.outerHTML")
    context.close()
    page = visit.open(address + BCN)
    assert page.locator(".explorer form").is_visible()
    assert page.locator(steps).evaluate("e => e.outerHTML") == before


def test_sizes_are_chosen_by_keyboard_and_by_touch(browser, visit, address):
    page = visit.open(address + BCN)
    page.locator(".explorer [name=batch]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".explorer [data-n=BL]").inner_text() == "12"
    live = page.locator(".explorer [aria-live=polite]")
    assert "12 values of this batch" in live.inner_text()
    context = browser.new_context(
        viewport={"width": 390, "height": 900}, has_touch=True, is_mobile=True
    )
    phone = context.new_page()
    phone.goto(address + BCN)
    batch = phone.locator(".explorer [name=batch]")
    batch.scroll_into_view_if_needed()
    box = batch.bounding_box()
    phone.touchscreen.tap(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    assert phone.locator(".explorer [data-n=BL]").inner_text() == "32"
    context.close()


# --- For every eye ----------------------------------------------------------

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
COLOURS = ["color-contrast", "link-in-text-block"]

# Contrast is what takes axe its time, and a page of code has thousands of
# words in a few colours. So it is asked of one element of each look: what
# the contrast is made of, down to the grounds behind.
LOOKS = """() => {
    const grounds = new WeakMap();
    const behind = (e) => {
        if (!e) return "";
        if (!grounds.has(e)) {
            const own = getComputedStyle(e).backgroundColor;
            grounds.set(e, behind(e.parentElement) + " " + own);
        }
        return grounds.get(e);
    };
    const looks = new Map();
    for (const e of document.body.querySelectorAll("*")) {
        const words = [...e.childNodes].some(
            (n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
        if (!words || !e.checkVisibility()) continue;
        const style = getComputedStyle(e);
        const look = [e.localName, style.color, style.opacity,
            style.fontSize, style.fontWeight, behind(e)].join();
        if (!looks.has(look)) looks.set(look, e);
    }
    return [...looks.values()];
}"""


def violations(page: Page) -> list[tuple[str, str]]:
    """Ask axe for all it finds."""
    rest = {rule: {"enabled": False} for rule in COLOURS}
    return _axe(page, "document", {"rules": rest}) + in_colours(page)


def in_colours(page: Page) -> list[tuple[str, str]]:
    """Ask axe for what depends on the scheme."""
    return _axe(page, f"{{include: ({LOOKS})()}}", {"runOnly": COLOURS})


def _axe(page: Page, where: str, how: object) -> list[tuple[str, str]]:
    if not page.evaluate("!!window.axe"):
        page.evaluate(AXE)
    return [
        (v["id"], node["html"][:200])
        for v in page.evaluate(f"how => axe.run({where}, how)", how)["violations"]
        for node in v["nodes"]
    ]


def test_pages_fit_ask_nobody_and_satisfy_axe(visit, pages):
    found: list[tuple[str, object]] = []
    for url in pages:
        page = visit.open(url)
        page.emulate_media(color_scheme="light", reduced_motion="reduce")
        found += [(url, each) for each in violations(page)]
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        page.wait_for_function(
            "getComputedStyle(document.body).colorScheme === 'dark' ||"
            " !document.body.dataset.mdColorScheme"
        )
        found += [(url, each) for each in in_colours(page)]
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            wide = page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                found.append((url, f"{wide} px wide at {width}"))
    assert found == []
    assert visit.errors == []
    assert visit.away(pages[0]) == []


def test_axe_sees_a_word_that_is_too_faint(visit, address):
    page = visit.open(address + BCN)
    assert in_colours(page) == []
    page.add_style_tag(content=".lit .code .k { color: #bbb !important }")
    assert {rule for rule, _ in in_colours(page)} == {"color-contrast"}


def search_open(page: Page) -> None:
    page.locator(".md-search__input").click()
    page.locator(".md-search__input").press_sequentially("norm")
    page.locator("a.md-search-result__link").first.wait_for()


def drawer_open(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    page.locator("[data-opens=drawer]").click()
    page.locator(".md-nav--primary a:visible").first.wait_for()


def sizes_chosen(page: Page) -> None:
    choose(page, Sizes(1, 4, 4, 1))


STATES = [search_open, drawer_open, sizes_chosen]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES, ids=lambda s: s.__name__)
def test_axe_finds_nothing_in_what_opens(browser, address, scheme, state):
    visit = Visit(browser, scheme)
    page = visit.open(address + BCN)
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    state(page)
    assert violations(page) == []
    visit.page.close()


# The contrast of some text with the ground behind it, as WCAG computes it.
CONTRAST = """([selector, pseudo]) => {
    const pixel = document.createElement("canvas").getContext("2d");
    const rgba = (colour) => {
        pixel.clearRect(0, 0, 1, 1);
        pixel.fillStyle = colour;
        pixel.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const onto = ([r, g, b, a], ground) =>
        [r, g, b].map((v, i) => v * a + ground[i] * (1 - a));
    const light = (rgb) => {
        const [r, g, b] = rgb.map(v => v / 255).map(v =>
            v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = [];
    for (const e of document.querySelectorAll(selector)) {
        const grounds = [];
        for (let at = e; at; at = at.parentElement)
            grounds.unshift(rgba(getComputedStyle(at).backgroundColor));
        const ground = grounds.reduce(
            (below, above) => onto(above, below), [255, 255, 255]);
        const style = getComputedStyle(e, pseudo);
        const text = onto(rgba(style.color), ground);
        const [a, b] = [light(text), light(ground)].sort((x, y) => y - x);
        found.push((a + 0.05) / (b + 0.05));
    }
    return found;
}"""
TEXTS = {
    "a line's number": (".lit .code .l > a", "::before"),
    "code": (".lit .code code", None),
    "a keyword": (".lit .code .k", None),
    "a string": (".lit .code .s", None),
    "a number": (".lit .code .m", None),
    "a definition": (".lit .code .d", None),
    "a comment": (".lit .code .c", None),
    "an equation's tests": (".lit .proof", None),
    "a shape": (".lit .code .h", None),
    "a figure's words": (".explorer figcaption", None),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("text", TEXTS)
def test_code_numbers_and_hints_have_aa_contrast(browser, address, scheme, text):
    visit = Visit(browser, scheme)
    selector, pseudo = TEXTS[text]
    found = []
    for path in LAYERS:
        page = visit.open(address + path)
        found += page.evaluate(CONTRAST, [selector, pseudo])
    visit.page.close()
    assert found
    assert min(found) >= 4.5


# --- Without script, and on paper -------------------------------------------

HIDDEN = """[...document.querySelectorAll(
    "article :is(h1, h2, h3, h4, h5, h6, p, li, dt, dd, td, pre, math, svg)")]
    .filter(e => !e.checkVisibility({ opacityProperty: true,
        visibilityProperty: true }) && !e.closest("[hidden], details"))
    .map(e => e.outerHTML.slice(0, 120))"""


def test_every_page_reads_whole_without_script(browser, site, address):
    context = browser.new_context(java_script_enabled=False)
    found = []
    for path in page_paths(site):
        page = context.new_page()
        page.goto(address + path)
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


@pytest.mark.parametrize("path", KINDS)
def test_print_is_the_text_and_cuts_nothing(browser, address, path):
    # As wide as the text of an A4 page.
    page = browser.new_page(viewport={"width": 718, "height": 1000})
    page.emulate_media(media="print")
    page.goto(address + path)
    assert page.evaluate(PAPER) == [False, [], []]
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()
