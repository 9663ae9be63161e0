"""What the hooks make of a small site: notebooks, placeholders, errors."""

import logging
from pathlib import Path

import pytest
from helpers.paths import ROOT, mkdocs_settings
from helpers.small_sites import build_small_site
from mkdocs.exceptions import Abort

from facing import MathError

NOTEBOOK = """\
# %% [markdown]
# # A title
#
# Mean $\\mu$ of [the code](../code.py#Layer), and [prose](../index.md).
#
# ## Below
#
# %%
x = 1
"""


class SmallSite:
    """A checkout with a page of prose, an annotated file and a notebook."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("docs/index.md", "# Home\n")
        self.write("code.py", '"""# Code"""\n\n\nclass Layer:\n    """A layer."""\n')
        self.write("labml_bcn/__init__.py", '__version__ = "1.2.3"\n')
        self.write("notebooks/n.py", NOTEBOOK)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def build(self, **settings: object) -> Path:
        """Build it with the options of the real site."""
        real = mkdocs_settings()
        same = ("markdown_extensions", "validation", "strict")
        config = {name: real[name] for name in same} | {
            "site_name": "Small",
            "theme": {"name": "material", "font": False},
            "hooks": [str(ROOT / "website" / "hooks.py")],
            "plugins": [
                "search",
                {"facing": {"sources": ["code.py"]}},
                next(each for each in real["plugins"] if "mkdocs-jupyter" in each),
            ],
            **settings,
        }
        return build_small_site(self.root, config)


@pytest.fixture
def small_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallSite:
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    monkeypatch.setenv("LABML_BCN_DATA", "")
    monkeypatch.setenv("LABML_BCN_DOWNLOAD", "0")
    return SmallSite(tmp_path)


@pytest.mark.slow
def test_mkdocs_renders_a_notebook_like_any_page(small_site):
    folder = small_site.build() / "notebooks" / "n"
    page = (folder / "index.html").read_text()
    assert "<math" in page
    assert '<a href="../../code/#Layer">the code</a>' in page
    assert '<a href="../../">prose</a>' in page
    assert '<h2 id="below">' in page
    assert '<a href="#below" class="md-nav__link">' in page
    assert 'class="language-python highlight"' in page
    article = page.split('<div class="notebook">')[1]
    title, downloads, *_ = article.strip().splitlines()
    assert title.startswith('<h1 id="a-title">A title')
    assert downloads.startswith('<p class="downloads">')
    source = small_site.root / "notebooks" / "n.py"
    assert (folder / "n.py").read_bytes() == source.read_bytes()
    assert (folder / "n.ipynb").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("Bad $\\frac{$.", "Error reading page 'notebooks/n.py': line 10: Expected"),
        ("[gone](gone.py)", "'notebooks/n.py' contains a link 'gone.py'"),
        ("[gone](../code.py#Gone)", "does not contain an anchor '#Gone'"),
    ],
)
def test_a_mistake_in_a_notebooks_words_stops_the_build(
    small_site, caplog, words, message
):
    small_site.write("notebooks/n.py", f"# %% [markdown]\n# # Title\n#\n# {words}\n")
    with pytest.raises((Abort, MathError)):
        small_site.build()
    assert message in caplog.text


@pytest.mark.parametrize(
    ("placeholder", "message"),
    [
        ("<!-- figure: no -->", "there is no figure 'no', only norms"),
        ("<!-- times: no -->", "there is no record"),
        ("<!-- plot: no -->", "there is no study 'no', only cpu"),
    ],
)
def test_a_placeholder_for_what_is_not_there_stops_the_build(
    small_site, caplog, placeholder, message
):
    (small_site.root / "notebooks" / "n.py").unlink()
    small_site.write("docs/index.md", f"# Home\n\n{placeholder}\n")
    with pytest.raises(Abort):
        small_site.build()
    assert "page 'index.md':" in caplog.text
    assert message in caplog.text


def test_an_annotated_page_shows_what_the_study_found(small_site):
    (small_site.root / "notebooks" / "n.py").unlink()
    (small_site.root / "docs" / "results").mkdir()
    (small_site.root / "docs" / "results" / "cpu").symlink_to(
        ROOT / "docs" / "results" / "cpu"
    )
    asked = "We found: <!-- gap_sentence: cpu -->\n\n<!-- gap: cpu -->"
    small_site.write("code.py", f'"""# Code\n\n{asked}\n"""\n')
    page = (small_site.build() / "code" / "index.html").read_text()
    assert "We found: At one image a batch BN, BN+WS and BCN plain+WS get" in page
    assert page.count('<figure><div role="img" aria-label="Accuracy at batch size') == 1
    assert "<!-- gap" not in page


def test_prose_is_filled_and_other_comments_stay(small_site, caplog):
    caplog.set_level(logging.WARNING)
    (small_site.root / "notebooks" / "n.py").unlink()
    text = "# Home\n\nVersion <!-- version --><!-- citation-url -->.\n\n<!-- mine -->\n"
    small_site.write("docs/index.md", text)
    page = (small_site.build() / "index.html").read_text()
    assert "<p>Version 1.2.3.</p>" in page
    assert "<!-- mine -->" in page
    page = (small_site.build(site_url="https://a.example/") / "index.html").read_text()
    assert "url     = {https://a.example/}" in page
    assert caplog.records == []


def test_a_shared_link_shows_a_title_a_sentence_and_a_picture(small_site):
    (small_site.root / "notebooks" / "n.py").unlink()
    small_site.write("docs/index.md", "# Home\n")
    small_site.write("docs/a.md", "---\ndescription: Words.\n---\n\n# A *page*\n")
    overrides = str(ROOT / "docs" / "overrides")
    theme = {"name": "material", "font": False, "custom_dir": overrides}
    out = small_site.build(theme=theme, site_url="https://a.example/b/")
    page = (out / "a" / "index.html").read_text()
    for name, content in {
        "title": "A page",
        "description": "Words.",
        "url": "https://a.example/b/a/",
        "image": "https://a.example/b/assets/card.png",
    }.items():
        assert f'<meta property="og:{name}" content="{content}">' in page
    assert (out / "assets" / "card.png").read_bytes().startswith(b"\x89PNG")
    # Without an address of the site there is none for the picture.
    page = (small_site.build(theme=theme) / "a" / "index.html").read_text()
    assert 'property="og:title"' in page
    assert "og:image" not in page
    assert not (out / "assets" / "card.png").exists()
