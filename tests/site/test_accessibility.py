"""What axe finds, in both schemes and in all that opens; contrast; width."""

from importlib.resources import files

import pytest
from helpers.browsing import Visit, page_paths
from helpers.site_pages import BATCH_CHANNEL_NORM, LAYERS, WIDTHS, choose_sizes
from playwright.sync_api import Browser, Page

from website.norm_diagrams import Sizes

pytestmark = pytest.mark.slow

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
    """Return all that axe finds."""
    rest = {rule: {"enabled": False} for rule in COLOURS}
    return run_axe(page, "document", {"rules": rest}) + colour_violations(page)


def colour_violations(page: Page) -> list[tuple[str, str]]:
    """Return what axe finds that depends on the scheme."""
    return run_axe(page, f"{{include: ({LOOKS})()}}", {"runOnly": COLOURS})


def run_axe(page: Page, where: str, how: object) -> list[tuple[str, str]]:
    if not page.evaluate("!!window.axe"):
        page.evaluate(AXE)
    return [
        (v["id"], node["html"][:200])
        for v in page.evaluate(f"how => axe.run({where}, how)", how)["violations"]
        for node in v["nodes"]
    ]


def test_pages_fit_the_window_load_nothing_else_and_pass_axe(visit, page_urls):
    found: list[tuple[str, object]] = []
    for url in page_urls:
        page = visit.open(url)
        page.emulate_media(color_scheme="light", reduced_motion="reduce")
        found += [(url, each) for each in violations(page)]
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        page.wait_for_function(
            "getComputedStyle(document.body).colorScheme === 'dark' ||"
            " !document.body.dataset.mdColorScheme"
        )
        found += [(url, each) for each in colour_violations(page)]
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            wide = page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                found.append((url, f"{wide} px wide at {width}"))
    assert found == []
    assert visit.errors == []
    assert visit.requests_elsewhere(page_urls[0]) == []


def test_axe_sees_a_word_that_is_too_faint(visit, site_url):
    page = visit.open(site_url + BATCH_CHANNEL_NORM)
    assert colour_violations(page) == []
    page.add_style_tag(content=".lit .code .k { color: #bbb !important }")
    assert {rule for rule, _ in colour_violations(page)} == {"color-contrast"}


def open_search(page: Page) -> None:
    page.locator(".md-search__input").click()
    page.locator(".md-search__input").press_sequentially("norm")
    page.locator("a.md-search-result__link").first.wait_for()


def open_drawer(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    page.locator("[data-opens=drawer]").click()
    page.locator(".md-nav--primary a:visible").first.wait_for()


def choose_one_value_for_a_statistic(page: Page) -> None:
    choose_sizes(page, Sizes(1, 4, 4, 1))


STATES = [open_search, open_drawer, choose_one_value_for_a_statistic]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES, ids=lambda s: s.__name__)
def test_axe_finds_nothing_in_what_opens(browser, site_url, scheme, state):
    visit = Visit(browser, scheme)
    page = visit.open(site_url + BATCH_CHANNEL_NORM)
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


@pytest.fixture(scope="module", params=["light", "dark"])
def contrasts(
    request: pytest.FixtureRequest, browser: Browser, site_url: str
) -> dict[str, list[float]]:
    """The contrasts of each kind of text, on the layers' pages in one scheme."""
    visit = Visit(browser, request.param)
    found: dict[str, list[float]] = {text: [] for text in TEXTS}
    for path in LAYERS:
        page = visit.open(site_url + path)
        for text, where in TEXTS.items():
            found[text] += page.evaluate(CONTRAST, list(where))
    visit.page.close()
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_code_numbers_and_hints_have_aa_contrast(contrasts, text):
    assert contrasts[text]
    assert min(contrasts[text]) >= 4.5


def test_pages_fit_a_window_at_twice_the_size(visit, built_site, site_url):
    wide = []
    for path in page_paths(built_site):
        page = visit.open(site_url + path, 720)
        if page.evaluate("document.documentElement.scrollWidth") > 720:
            wide.append(path)
    assert wide == []
