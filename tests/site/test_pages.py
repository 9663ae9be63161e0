"""Annotated pages in a reader's touch_page: mouse, keys, touch and clipboard."""

import re
from collections.abc import Iterator
from textwrap import dedent

import pytest
from facing.read.scopes import Scopes
from facing.read.source import read
from helpers.browsing import Visit
from helpers.paths import ROOT
from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.slow

SOURCE = ROOT / "labml_bcn" / "batch_channel_norm.py"
LINES = [line.strip() for line in SOURCE.read_text("utf-8").splitlines()]
VAR = "batch_channel_norm_stepwise.group_var"
LINE = 1 + LINES.index("values = cast(x, statistics_dtype(x))")


@pytest.fixture
def page(visit: Visit, standalone_url: str) -> Iterator[Page]:
    """The page of the batch-channel norm, in a window of 1440 px."""
    opened = visit.open(f"{standalone_url}batch_channel_norm.html")
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield opened
    assert visit.errors == []


def lit_lines(page: Page) -> list[int]:
    """Return the numbers of the lines with places that are lit up."""
    return page.evaluate(
        """[...document.querySelectorAll(".row .lit-same")].map((place) => {
            const line = place.closest(".l");
            if (line) return +line.id.slice(1);
            const before = [...document.querySelectorAll("[id^=L]")].filter(
                (id) => id.compareDocumentPosition(place) & 4);
            return +before.at(-1).id.slice(1);
        })"""
    )


def card(page: Page) -> Locator:
    return page.locator("[role=tooltip]")


def in_code(page: Page, name: str) -> Locator:
    return page.locator(f'[id="{name}"]')


def in_formula(page: Page, definition: str) -> Locator:
    row = f'.row:has([id="{definition}"])'
    return page.locator(f"{row} .note math [data-s]")


# --- Symbols ----------------------------------------------------------------


def test_pointing_at_code_lights_up_code_and_formulas(page):
    in_code(page, "batch_channel_norm_stepwise.group_var").hover()
    tags = page.evaluate(
        "[...document.querySelectorAll('.lit-same')].map((e) => e.localName)"
    )
    assert {"msubsup", "a"} <= set(tags)
    assert page.locator(".lit-here").count() == 1
    assert "the variance of group g" in card(page).inner_text()
    assert "[B, G, 1, *]" in card(page).inner_text()


def test_pointing_at_a_formula_lights_up_code(page):
    symbol = in_formula(page, VAR).filter(has_text="σ").first
    symbol.hover()
    var = in_code(page, "batch_channel_norm_stepwise.group_var")
    assert "lit-same" in (var.get_attribute("class") or "")
    assert "sigma squared of sample b, group g" in card(page).inner_text()


@pytest.mark.parametrize(
    ("name", "formulas"),
    [
        (VAR, set()),
        ("EstimatedBatchNorm.measure.var", {"EstimatedBatchNorm.measure"}),
        ("EstimatedBatchNorm.forward.var", {"EstimatedBatchNorm.forward"}),
    ],
)
def test_var_in_one_function_is_not_var_in_another(page, name, formulas):
    in_code(page, name).hover()
    scopes = Scopes(read(SOURCE))
    # The stepwise form has all symbols of the page.
    found = {scopes.scope_at(line) for line in lit_lines(page)} - {
        "batch_channel_norm_stepwise"
    }
    assert found == formulas


@pytest.fixture
def touch_page(browser: Browser, standalone_url: str) -> Iterator[Page]:
    """The same page, to be read by mouse, keyboard and touch."""
    context = browser.new_context(
        viewport={"width": 1440, "height": 900},
        has_touch=True,
        permissions=["clipboard-read", "clipboard-write"],
    )
    opened = context.new_page()
    opened.goto(f"{standalone_url}batch_channel_norm.html")
    yield opened
    context.close()


def point(at: Locator, by: str) -> None:
    if by == "mouse":
        at.hover()
    elif by == "touch":
        at.tap()
    else:
        at.focus()
        at.page.keyboard.press("ArrowRight")
        at.page.keyboard.press("ArrowLeft")


@pytest.mark.parametrize("by", ["mouse", "keyboard", "touch"])
@pytest.mark.parametrize("place", ["formula", "code"])
@pytest.mark.parametrize("leave", ["Escape", "elsewhere"])
def test_a_symbol_lights_up_by_any_input_and_goes_out(touch_page, place, by, leave):
    symbol = (
        in_code(touch_page, "batch_channel_norm_stepwise.group_var")
        if place == "code"
        else in_formula(touch_page, VAR).filter(has_text="σ").first
    )
    point(symbol, by)
    card(touch_page).wait_for()
    assert "sigma squared of sample b, group g" in card(touch_page).inner_text()
    tags = touch_page.evaluate(
        "[...document.querySelectorAll('.lit-same')].map((e) => e.localName)"
    )
    assert {"msubsup", "a"} <= set(tags)
    elsewhere = touch_page.locator("h1")
    if leave == "Escape":
        touch_page.keyboard.press("Escape")
    elif by == "touch":
        elsewhere.tap()
    else:
        elsewhere.click()
    assert not card(touch_page).is_visible()
    assert lit_lines(touch_page) == []


def test_the_card_stays_while_it_is_pointed_at_and_goes_after(page):
    page.clock.install()
    in_code(page, "batch_channel_norm_stepwise.group_var").hover()
    card(page).hover()
    page.clock.run_for(1000)
    assert card(page).is_visible()
    page.mouse.move(5, 5)
    page.clock.run_for(1000)
    card(page).wait_for(state="hidden")


@pytest.mark.parametrize("width", [1440, 390])
def test_the_card_does_not_cover_its_symbol_and_moves_nothing(
    visit, standalone_url, width
):
    page = visit.open(f"{standalone_url}batch_channel_norm.html", width)
    page.set_viewport_size({"width": width, "height": 500})
    height = "document.documentElement.scrollHeight"
    whole = page.evaluate(height)
    symbols = page.locator(".lit [data-s]")
    for n in range(0, symbols.count(), 17):
        symbol = symbols.nth(n)
        symbol.scroll_into_view_if_needed()
        # As at a touch: a mouse would be above what lies inside.
        symbol.evaluate(
            "(e) => e.dispatchEvent(new PointerEvent('pointerover',"
            " { bubbles: true, pointerType: 'mouse' }))"
        )
        box, over = symbol.bounding_box(), card(page).bounding_box()
        assert box
        assert over
        assert (
            over["y"] >= box["y"] + box["height"]
            or over["y"] + over["height"] <= box["y"]
            or over["x"] >= box["x"] + box["width"]
            or over["x"] + over["width"] <= box["x"]
        )
        assert over["x"] >= 0
        assert over["x"] + over["width"] <= width
        assert page.evaluate(height) == whole
        page.keyboard.press("Escape")


def test_each_row_is_one_stop_of_the_tab_key(page):
    stops = page.evaluate(
        """[...document.querySelectorAll(".lit .row")].map((row) =>
            [...row.querySelectorAll("[data-s], .code a")].filter(
                (stop) => stop.tabIndex === 0).length)"""
    )
    assert max(stops) == 1
    assert sum(stops) == len([s for s in stops if s])


def test_arrow_keys_go_through_symbols_and_lines(page):
    page.locator(".lit .row [data-s], .lit .row .code a").first.focus()
    seen = set()
    focused = "document.activeElement.outerHTML"
    for _ in range(60):
        page.keyboard.press("ArrowRight")
        seen.add(page.evaluate("document.activeElement.localName"))
    assert {"mi", "a"} <= seen
    forward = page.evaluate(focused)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert re.sub(r"\s(class|aria)\S*=\"[^\"]*\"", "", forward) == re.sub(
        r"\s(class|aria)\S*=\"[^\"]*\"", "", page.evaluate(focused)
    )
    page.locator(f"#L{LINE} > a").first.focus()
    page.keyboard.press("ArrowDown")
    below = page.evaluate("document.activeElement.hash")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.hash") == f"#L{LINE}"
    assert int(below.removeprefix("#L")) > LINE


def test_a_symbol_with_the_focus_says_what_it_is(page):
    in_formula(page, VAR).filter(has_text="μ").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    described = page.evaluate(
        """() => {
            const at = document.activeElement;
            const by = at.getAttribute("aria-describedby");
            return [by && document.getElementById(by).innerText,
                    getComputedStyle(at).outlineStyle];
        }"""
    )
    assert "mu of sample b, group g" in described[0]
    assert described[1] != "none"
    page.keyboard.press("Escape")
    assert not card(page).is_visible()


def test_the_first_tap_explains_and_the_second_follows(
    browser: Browser, standalone_url
):
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True
    )
    page = context.new_page()
    page.goto(f"{standalone_url}batch_channel_norm.html")
    link = page.locator(".l [data-s] a[href]").first
    target = link.get_attribute("href")
    link.tap()
    assert card(page).is_visible()
    assert "batch_channel_norm.html" in page.url
    assert "#" not in page.url
    link.tap()
    page.wait_for_url(f"**{target}")
    page.locator("h1").tap()
    assert not card(page).is_visible()
    context.close()


# --- Links to lines and names -----------------------------------------------


def copied_link(page: Page) -> str:
    page.locator(".lit-bar [role=status]:not(:empty)").wait_for()
    return page.evaluate("navigator.clipboard.readText()")


@pytest.mark.parametrize(
    ("place", "fragment"),
    [
        (f"#L{LINE} > a >> nth=0", f"#L{LINE}"),
        (
            '[id="batch_channel_norm_stepwise.group_var"]',
            "#batch_channel_norm_stepwise.group_var",
        ),
        ('[id="ChannelNorm"] .headerlink', "#ChannelNorm"),
        ('[id="group-statistics"] .proof a >> nth=0', "#group-statistics"),
    ],
)
@pytest.mark.parametrize("by", ["mouse", "keyboard", "touch"])
def test_a_link_to_its_own_place_is_copied(touch_page, place, fragment, by):
    at = touch_page.locator(place)
    if ".proof" in place and by != "keyboard":
        point(touch_page.locator(place.partition(" a >>")[0]), by)  # opens its card
    if by == "mouse":
        at.click()
    elif by == "touch":
        at.tap()
        if at.evaluate("(e) => Boolean(e.closest('[data-s]'))"):
            assert card(touch_page).is_visible()  # a symbol is explained first
            at.tap()
    else:
        at.focus()
        touch_page.keyboard.press("Enter")
    assert copied_link(touch_page).endswith(f"batch_channel_norm.html{fragment}")
    assert touch_page.url.endswith(fragment)
    said = touch_page.locator(".lit-bar [role=status]").inner_text()
    assert said == f"Link copied: {fragment}"


def test_a_link_to_another_place_is_followed_and_not_copied(page):
    page.locator("pre:visible .l a[href^='batch_norm.html#L']").first.click()
    page.wait_for_url("**/batch_norm.html#L*")
    line = page.url.rpartition("#")[2]
    assert page.locator(f"#{line}").is_visible()
    page.go_back()
    page.locator("pre:visible .l a[href^='#L']:not([aria-label])").first.click()
    assert page.locator(".lit-bar [role=status]").inner_text() == ""


def test_selected_code_has_neither_numbers_nor_hints(page):
    text = page.evaluate(
        """() => {
            const code = document.querySelector(
                '.row:has([id="batch_channel_norm_stepwise.group_var"]) .code pre');
            getSelection().selectAllChildren(code);
            return getSelection().toString();
        }"""
    )
    source = SOURCE.read_text()
    assert "group_var = (grouped - group_mean)" in text
    assert all(line in source.splitlines() for line in text.splitlines())


def test_without_script_code_and_legend_read_whole(browser: Browser, standalone_url):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{standalone_url}batch_channel_norm.html")
    assert page.locator(".h", has_text="[B, G, D·L]").first.is_visible()
    page.locator(".symbols summary").click()
    assert page.locator(".symbols dd", has_text="group g").first.is_visible()
    page.goto(
        f"{standalone_url}batch_channel_norm.html#batch_channel_norm_stepwise.group_var"
    )
    assert page.evaluate("scrollY") > 0
    context.close()


def test_print_shows_neither_the_card_nor_the_status_bar(page):
    in_code(page, "batch_channel_norm_stepwise.group_var").hover()
    page.emulate_media(media="print")
    assert not card(page).is_visible()
    assert page.locator(".lit-bar").is_hidden()


# --- On the site ------------------------------------------------------------


@pytest.fixture
def page_on_site(visit: Visit, site_url: str) -> Page:
    opened = visit.open(f"{site_url}labml_bcn/batch_channel_norm/")
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    return opened


def test_the_copy_buttons_give_clean_code(page_on_site):
    source = SOURCE.read_text().split("\n")
    page_on_site.evaluate(
        "document.querySelectorAll('.fold').forEach((fold) => { fold.open = true; })"
    )
    boxes = page_on_site.locator(".lit .code pre").all()
    assert len(boxes) > 9
    for box in boxes:
        numbers = box.evaluate(
            "(e) => [...e.querySelectorAll('.l')].map((l) => +l.id.slice(1))"
        )
        code = dedent("\n".join(source[n - 1] for n in numbers))
        box.locator("button.md-code__button").press("Enter")
        page_on_site.wait_for_function(
            """(code) => navigator.clipboard.readText().then(
                (text) => text.replace(/^\\n+|\\n+$/g, "") === code)""",
            arg=code,
        )


def test_a_page_leads_to_its_source_its_neighbours_and_its_papers(page_on_site):
    with page_on_site.expect_response("**/batch_channel_norm.py") as source:
        page_on_site.locator("text=View source").click()
    # The browser has to guess in which encoding a Python file is.
    served = page_on_site.request.get(source.value.url)
    assert served.body() == SOURCE.read_bytes()
    page_on_site.go_back()
    footer = page_on_site.locator("footer")
    assert footer.locator("a[rel=prev], .md-footer__link--prev").count() == 1
    assert footer.locator("a[rel=next], .md-footer__link--next").count() == 1
    page_on_site.locator(".page-tools >> text=Cite").click()
    text = page_on_site.locator("article").inner_text()
    assert text.count("@article{") == 2
    assert text.count("@software{") == 1
    assert "0.1.0" in text


def test_the_glossary_leads_to_every_place_of_a_symbol(page_on_site, site_url):
    page_on_site.goto(f"{site_url}glossary/")
    row = page_on_site.locator("tr", has_text="group_size")
    row.locator("summary").click()
    line = 1 + LINES.index("group_size = self.channels // self.groups")
    row.locator("details a", has_text=re.compile(f"^{line}$")).click()
    page_on_site.wait_for_url(f"**/batch_channel_norm/#L{line}")
    assert "group_size" in page_on_site.locator(f"#L{line}").inner_text()
