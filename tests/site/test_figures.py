"""What holds for all figures that can be dragged."""

from collections.abc import Iterator

import pytest
from helpers.site_pages import BATCH_CHANNEL_NORM
from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.slow

FIGURES = {
    ".explorer": BATCH_CHANNEL_NORM,
    ".stepper": BATCH_CHANNEL_NORM,
    ".lab.scatter": "scatter/",
    ".lab.playground": "playground/",
}
LABS = [figure for figure in FIGURES if figure.startswith(".lab")]

# A figure's words, before and after it was told that its controls have changed.
WORDS = """async figure => {
    const before = figure.innerText;
    for (const each of figure.querySelectorAll(":checked, [type=range], select")) {
        for (const type of ["input", "change"]) {
            each.dispatchEvent(new Event(type, {bubbles: true}));
        }
    }
    while (figure.hasAttribute("aria-busy")) {
        await new Promise(done => setTimeout(done, 20));
    }
    return [before, figure.innerText];
}"""


def choose_last(figure: Locator) -> None:
    """Set each control of a figure to its last choice."""
    for slider in figure.locator("[type=range]").all():
        slider.press("End")
    for choices in figure.locator("select").all():
        choices.select_option(index=choices.locator("option").count() - 1)
    if figure.get_by_role("radio").count():
        figure.get_by_role("radio").last.check()


@pytest.mark.parametrize("figure", FIGURES)
def test_after_going_back_a_figure_shows_what_its_controls_say(visit, site_url, figure):
    page = visit.open(site_url + FIGURES[figure])
    shown = page.locator(figure)
    choose_last(shown)
    page.goto(f"{site_url}papers/")
    page.go_back()
    before, after = shown.evaluate(WORDS)
    assert before == after
    assert visit.errors == []


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_says_aloud_what_changes_in_one_place(visit, site_url, figure):
    page = visit.open(site_url + FIGURES[figure])
    aloud = page.locator(figure).locator(
        "[aria-live], [role=status], output:not([aria-hidden])"
    )
    assert aloud.count() == 1


@pytest.mark.parametrize("figure", [".explorer", *LABS])
def test_without_script_a_figure_says_that_it_stands_still(browser, site_url, figure):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site_url + FIGURES[figure])
    assert not page.locator(f"{figure} form").is_visible()
    assert page.locator(f"{figure} noscript p").is_visible()
    context.close()


@pytest.fixture
def forced(browser, site_url) -> Iterator[Page]:
    """Batch-channel norm in a reader's own colours, which leave grounds out."""
    context = browser.new_context(forced_colors="active")
    page = context.new_page()
    page.goto(site_url + BATCH_CHANNEL_NORM)
    yield page
    context.close()


def test_values_that_share_a_statistic_are_seen_in_a_readers_own_colours(forced):
    ground = "e => getComputedStyle(e).backgroundColor"
    filled = forced.locator(".explorer .on").first.evaluate(ground)
    assert filled not in (forced.locator("body").evaluate(ground), "rgba(0, 0, 0, 0)")


@pytest.mark.parametrize("marked", [".stepped", ".lit-same"])
def test_what_is_lit_is_seen_in_a_readers_own_colours(forced, marked):
    forced.locator(".lit .row [data-s]:visible").first.hover()
    edges = forced.locator(marked).evaluate_all(
        "all => all.map(e => getComputedStyle(e).outlineStyle)"
    )
    assert set(edges) == {"solid"}


@pytest.mark.parametrize("figure", LABS)
def test_a_lab_begins_on_the_first_sheet_of_paper(browser, site_url, figure):
    # What the text of an A4 page holds, below its header.
    page = browser.new_page(viewport={"width": 718, "height": 1000})
    page.emulate_media(media="print")
    page.goto(site_url + FIGURES[figure])
    bottom = page.locator(figure).evaluate("e => e.getBoundingClientRect().bottom")
    page.close()
    assert bottom < 1000
