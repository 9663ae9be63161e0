"""The figure on batch-channel norm whose sizes the reader chooses."""

import pytest
from helpers.site_pages import BATCH_CHANNEL_NORM, choose_sizes
from playwright.sync_api import Page

from website import norm_diagrams
from website.norm_diagrams import ESTIMATE, GROUP, Sizes

pytestmark = pytest.mark.slow


def drawn_cells(page: Page) -> list[list[bool]]:
    return page.evaluate(
        """[...document.querySelectorAll(".explorer .samples")].map(step =>
            [...step.querySelectorAll("i")].map(i => i.className === "on"))"""
    )


def expected_cells(sizes: Sizes) -> list[list[bool]]:
    return [
        [
            statistic.shares(sizes, b, c)
            for b in range(sizes.batch)
            for _ in range(sizes.positions)
            for c in range(sizes.channels)
        ]
        for statistic in (ESTIMATE, GROUP)
    ]


@pytest.mark.parametrize(
    "sizes",
    [Sizes(), Sizes(1, 1, 1, 1), Sizes(8, 12, 4, 12), Sizes(3, 4, 4, 1)],
    ids=str,
)
def test_the_chosen_sizes_are_drawn_and_counted(visit, site_url, sizes):
    page = visit.open(site_url + BATCH_CHANNEL_NORM)
    choose_sizes(page, sizes)
    assert drawn_cells(page) == expected_cells(sizes)
    numbers = norm_diagrams.counts(sizes)
    for name, value in numbers.items():
        places = page.locator(f".explorer [data-n={name}]")
        assert set(places.all_inner_texts()) == {str(value)}, name
    for name in ("BL", "DL"):
        shown = page.locator(f".explorer [data-one={name}]").is_visible()
        assert shown == (numbers[name] == 1), name
    assert visit.errors == []


def test_groups_that_do_not_divide_go_to_the_nearest_that_do(visit, site_url):
    page = visit.open(site_url + BATCH_CHANNEL_NORM)
    choose_sizes(page, Sizes(2, 7, 5, 2))
    assert drawn_cells(page) == expected_cells(Sizes(2, 7, 7, 2))
    groups = page.locator(".explorer [name=groups]")
    assert groups.get_attribute("aria-valuetext") == "7"


def test_the_script_first_draws_what_is_shown_without_it(browser, visit, site_url):
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(site_url + BATCH_CHANNEL_NORM)
    assert plain.locator(".explorer form").is_hidden()
    steps = ".explorer .steps"
    before = plain.locator(steps).evaluate("e => e.outerHTML")
    context.close()
    page = visit.open(site_url + BATCH_CHANNEL_NORM)
    assert page.locator(".explorer form").is_visible()
    assert page.locator(steps).evaluate("e => e.outerHTML") == before


def test_sizes_are_chosen_by_keyboard_and_by_touch(browser, visit, site_url):
    page = visit.open(site_url + BATCH_CHANNEL_NORM)
    page.locator(".explorer [name=batch]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".explorer [data-n=BL]").inner_text() == "12"
    live = page.locator(".explorer [aria-live=polite]")
    assert "12 values of this batch" in live.inner_text()
    context = browser.new_context(
        viewport={"width": 390, "height": 900}, has_touch=True, is_mobile=True
    )
    phone = context.new_page()
    phone.goto(site_url + BATCH_CHANNEL_NORM)
    batch = phone.locator(".explorer [name=batch]")
    batch.scroll_into_view_if_needed()
    box = batch.bounding_box()
    phone.touchscreen.tap(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    assert phone.locator(".explorer [data-n=BL]").inner_text() == "32"
    context.close()


def test_each_slider_says_what_it_sets(visit, site_url):
    page = visit.open(site_url + BATCH_CHANNEL_NORM)
    figure = page.locator(".explorer")
    for name, value in (
        ("Samples in the batch, B", "2"),
        ("Channels, C", "6"),
        ("Groups, G", "2"),
        ("Positions, L", "4"),
    ):
        slider = figure.get_by_role("slider", name=name, exact=True)
        assert slider.input_value() == value
