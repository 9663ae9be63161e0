"""What is folded on the screen, and what of it is on paper."""

import re

import pytest

pytestmark = pytest.mark.slow

NOTEBOOK = "notebooks/1_batch_channel_norm/"
# Closed details keep what is in them out of the layout.
HEIGHT = "fold => fold.querySelector('pre').getBoundingClientRect().height"


def test_the_code_of_a_plot_is_folded_until_it_is_asked_for(visit, site_url):
    page = visit.open(site_url + NOTEBOOK)
    fold = page.locator(".notebook .fold").first
    assert not fold.locator("pre").is_visible()
    fold.locator("summary").press("Enter")
    assert fold.locator("pre").is_visible()


def test_the_code_of_a_plot_is_read_without_script_and_on_paper(browser, site_url):
    without = browser.new_context(java_script_enabled=False).new_page()
    without.goto(site_url + NOTEBOOK)
    assert without.locator(".notebook .fold pre").first.is_visible()
    paper = browser.new_page()
    paper.goto(site_url + NOTEBOOK)
    paper.emulate_media(media="print")
    assert paper.locator(".notebook .fold").first.evaluate(HEIGHT) > 0
    without.context.close()
    paper.close()


def test_the_results_are_printed_without_the_commands_of_all_runs(browser, site_url):
    page = browser.new_page()
    page.goto(site_url + "results/")
    sheets = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))
    assert sheets <= 15
    page.close()
