"""Pages of the site that stand for all, and the figure on one of them."""

from playwright.sync_api import Page

from website.norm_diagrams import Sizes

LAYERS = (
    "labml_bcn/batch_norm/",
    "labml_bcn/batch_channel_norm/",
    "labml_bcn/weight_standardization/",
    "labml_bcn/fused/",
)
BATCH_CHANNEL_NORM = LAYERS[1]
ONE_OF_EACH_KIND = (
    "",
    "use/",
    BATCH_CHANNEL_NORM,
    "notebooks/2_micro_batch_run/",
    "paper_to_line/",
)
WIDTHS = (1440, 390)


def choose_sizes(page: Page, sizes: Sizes) -> None:
    """Set the sliders of the figure whose sizes the reader chooses."""
    for name in ("batch", "channels", "groups", "positions"):
        page.locator(f".explorer [name={name}]").fill(str(getattr(sizes, name)))
