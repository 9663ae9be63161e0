"""What readers download: pages, styles, scripts and a font."""

import gzip
from pathlib import Path

import pytest
from facing.page import OF_STEPS
from helpers.browsing import page_file, page_paths
from helpers.site_pages import LAYERS

from website.finish import FIGURES

pytestmark = pytest.mark.slow

KB = 1000


def compressed_size(path: Path) -> int:
    return len(gzip.compress(path.read_bytes(), 6))


def larger_than(sizes: dict[str, int], limit: int) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if size > limit * KB}


def test_layer_pages_are_at_most_30_kb_and_others_60(built_site):
    sizes = {
        path: compressed_size(page_file(built_site, path))
        for path in page_paths(built_site)
    }
    assert set(LAYERS) <= set(sizes)
    assert larger_than({path: sizes[path] for path in LAYERS}, 30) == {}
    assert larger_than(sizes, 60) == {}


def test_our_styles_and_scripts_are_at_most_12_kb_together_and_a_figures_10(built_site):
    ours = [p for kind in ("css", "js") for p in built_site.glob(f"assets/*.{kind}")]
    sizes = {path.name: compressed_size(path) for path in ours}
    of_figures = {*OF_STEPS, *(name for files in FIGURES.values() for name in files)}
    figures = {name: sizes.pop(name) for name in of_figures}
    assert larger_than(figures, 10) == {}
    assert {"literate.css", "site.css", "literate.js", "site.js"} <= {*sizes}
    assert sum(sizes.values()) <= 12 * KB, sizes


def test_the_math_font_is_at_most_90_kb(built_site):
    (font,) = built_site.rglob("*.woff2")
    assert font.stat().st_size <= 90 * KB
