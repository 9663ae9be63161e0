"""Facing pages, literally: code beside its note, and nothing that is folded is lost."""

import statistics

import pytest
from helpers.facing_layout import DISTANCES, HOLES
from helpers.site_pages import LAYERS

pytestmark = pytest.mark.slow

OPEN = "[...document.querySelectorAll('.fold')].map(fold => fold.open)"
PAGE = "batch_norm.html"


@pytest.mark.parametrize("path", LAYERS)
def test_the_ground_of_code_ends_with_the_code(visit, site_url, path):
    holes = visit.open(site_url + path).evaluate(HOLES)
    assert holes["ground"] < 0.10
    # And what is left beside a long note is never half a screen.
    assert holes["largest"][0][0] < 450, holes["largest"]
    assert holes["share"] < 0.40, holes["largest"]


@pytest.mark.parametrize("path", LAYERS)
def test_a_formula_stands_near_the_code_that_it_speaks_of(visit, site_url, path):
    distances = visit.open(site_url + path).evaluate(DISTANCES)
    assert statistics.median(distances.values()) < 300, distances


def folded_line(page):
    """The number of a line that is folded away."""
    inside = ".code .fold .l"
    return page.locator(inside).first.get_attribute("id")


def test_a_link_into_a_fold_opens_it_and_no_other(visit, standalone_url):
    page = visit.open(standalone_url + PAGE)
    assert not any(page.evaluate(OPEN))
    line = folded_line(page)
    visit.open("about:blank")
    page = visit.open(f"{standalone_url}{PAGE}#{line}")
    assert sum(page.evaluate(OPEN)) == 1
    assert page.locator(f"#{line}").is_visible()


def test_a_link_on_the_page_into_a_fold_opens_it(visit, standalone_url):
    page = visit.open(standalone_url + PAGE)
    line = folded_line(page)
    page.evaluate(f"location.hash = '{line}'")
    page.locator(f"#{line}").wait_for(state="visible")


def test_keys_open_a_fold_and_pass_over_a_closed_one(visit, standalone_url):
    page = visit.open(standalone_url + PAGE)
    summary = page.locator(".code .fold > summary").first
    for _ in range(40):
        page.keyboard.press("Tab")
        if summary.evaluate("e => e === document.activeElement"):
            break
    else:
        pytest.fail("Tab does not reach the summary")
    page.keyboard.press("Enter")
    assert page.evaluate(OPEN).count(True) == 1
    page.keyboard.press("Tab")
    inside = "document.activeElement.closest('.fold[open]') !== null"
    assert page.evaluate(inside)
    page.evaluate("document.querySelector('.fold[open]').open = false")
    page.locator(".row .code a:visible").first.focus()
    for _ in range(30):
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.checkVisibility()")


HEIGHTS = """[...document.querySelectorAll('.fold > :last-child')]
    .map(e => e.getBoundingClientRect().height)"""


def test_folds_are_open_on_paper_and_without_script(browser, visit, standalone_url):
    page = visit.open(standalone_url + PAGE)
    page.emulate_media(media="print")
    assert min(page.evaluate(HEIGHTS)) > 0
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(standalone_url + PAGE)
    assert min(page.evaluate(HEIGHTS)) > 0
    context.close()


def test_code_stays_in_sight_beside_a_long_note(visit, standalone_url):
    page = visit.open(standalone_url + PAGE)
    seen = page.evaluate("""() => {
        const rows = [...document.querySelectorAll(".lit .row:has(> .code)")];
        const rest = row => row.clientHeight - row.lastElementChild.clientHeight;
        const row = rows.sort((a, b) => rest(b) - rest(a))[0];
        scrollTo(0, row.getBoundingClientRect().top + scrollY + rest(row) / 2);
        return [rest(row), row.lastElementChild.getBoundingClientRect().top];
    }""")
    assert seen[0] > 100
    assert 0 <= seen[1] < 20


def test_a_proof_mark_opens_a_card_by_pointer_and_key(visit, site_url):
    page = visit.open(site_url + LAYERS[0])
    mark = page.locator(".tested").first
    card = mark.locator("small")
    shown = "e => getComputedStyle(e).clipPath === 'none'"
    assert not card.evaluate(shown)
    mark.hover()
    assert card.evaluate(shown)
    page.mouse.move(5, 5)
    mark.focus()
    assert card.evaluate(shown)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert card.evaluate(shown)
    page.keyboard.press("Escape")
    assert not card.evaluate(shown)
    mark.hover()
    page.keyboard.press("Escape")
    assert not card.evaluate(shown)
    page.mouse.move(5, 5)
    mark.hover()
    assert card.evaluate(shown)
    page.emulate_media(media="print")
    assert card.evaluate(shown)


# For each symbol that has a card: how many px² of other lines of code it covers.
COVERED = """() => [...document.querySelectorAll(".lit .code [data-s]")]
    .filter(e => e.checkVisibility()).filter((_, n) => n % 15 === 0).map(symbol => {
        symbol.scrollIntoView({ block: "center", behavior: "instant" });
        symbol.dispatchEvent(new PointerEvent("pointerover",
            { bubbles: true, pointerType: "mouse" }));
        const card = document.querySelector("#lit-card").getBoundingClientRect();
        const line = symbol.closest(".l").getBoundingClientRect();
        const lines = [...document.querySelectorAll(".lit .l")]
            .filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect())
            .filter(r => r.top >= line.top && r.top < line.top + 100);
        const { min, max } = Math;
        return lines.reduce((sum, r) => sum +
            max(0, min(card.right, r.right) - max(card.left, r.left)) *
            max(0, min(card.bottom, r.bottom) - max(card.top, r.top)), 0);
    })"""


def test_a_card_does_not_cover_the_next_lines_of_code(visit, standalone_url):
    covered = visit.open(standalone_url + PAGE).evaluate(COVERED)
    assert len(covered) > 5
    assert statistics.median(covered) == 0
    assert max(covered) < 1000


def test_a_card_leads_to_the_code_if_that_is_far(visit, standalone_url):
    page = visit.open(f"{standalone_url}batch_channel_norm.html")
    far = page.evaluate("""() => [...document.querySelectorAll(".math-block [data-s]")]
        .findIndex(symbol => {
            const code = [...document.querySelectorAll(
                `.code [data-s="${symbol.dataset.s}"]`)];
            const top = e => e.getBoundingClientRect().top;
            return code.length &&
                code.every(e => Math.abs(top(e) - top(symbol)) > 1000);
        })""")
    if far < 0:
        pytest.skip("no symbol is far from its code")
    symbol = page.locator(".math-block [data-s]").nth(far)
    symbol.scroll_into_view_if_needed()
    symbol.click()
    link = page.locator("#lit-card > a")
    line = link.get_attribute("href")
    link.click()
    assert page.url.endswith(line)
    assert page.locator(line).is_visible()


COPY_BUTTONS_OVER_CODE = """[...document.querySelectorAll(".row .md-code__nav")]
    .filter(nav => nav.checkVisibility()).filter(nav => {
        const box = nav.querySelector("button").getBoundingClientRect();
        return [...nav.closest(".row").querySelectorAll(".l, .note > *")]
            .filter(e => e.checkVisibility())
            .flatMap(e => [...e.getClientRects()]).filter(r => r.height)
            .some(r => Math.min(r.right, box.right, innerWidth)
                > Math.max(r.left, box.left)
                && Math.min(r.bottom, box.bottom) > Math.max(r.top, box.top) + 1);
    }).map(nav => nav.closest(".row").querySelector(".l").id)"""


def test_copy_buttons_cover_nothing_on_a_phone(browser, site_url):
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(site_url + LAYERS[1])
    page.locator(".md-code__nav").first.wait_for(state="attached")
    assert page.evaluate(COPY_BUTTONS_OVER_CODE) == []
    context.close()
