"""The outline marks the place that is read."""

import pytest
from helpers.site_pages import BATCH_CHANNEL_NORM

pytestmark = pytest.mark.slow

# The mark of the outline, and whether the page can scroll no further.
MARKED = """() => [
    [...document.querySelectorAll(".md-nav--secondary .md-nav__link--active")]
        .map(link => link.hash).at(-1),
    scrollY + innerHeight >= document.documentElement.scrollHeight - 2]"""


@pytest.mark.parametrize(
    "path", ["use/", "notebooks/2_micro_batch_run/", BATCH_CHANNEL_NORM]
)
def test_the_outline_marks_the_entry_that_was_clicked(browser, site_url, path):
    page = browser.new_page(
        viewport={"width": 1440, "height": 900}, reduced_motion="reduce"
    )
    page.goto(site_url + path)
    page.evaluate("document.fonts.ready.then(() => null)")
    links = page.locator(".md-nav--secondary a.md-nav__link:visible")
    assert links.count() > 4
    for link in links.all():
        target = link.get_attribute("href")
        link.click()
        page.wait_for_timeout(150)
        marked, is_at_end = page.evaluate(MARKED)
        assert marked == target or is_at_end
    page.close()
