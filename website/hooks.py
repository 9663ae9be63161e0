"""What MkDocs calls while it builds this site."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

from facing import fill
from website import (
    card,
    faults_page,
    norm_diagrams,
    notebook_pages,
    notebook_records,
    playground,
    reference,
    results_page,
    scatter_lab,
    search_index,
    speed_page,
    start_page,
    symbol_table,
    works_with_page,
)
from website.finish import finish, remove_unused, without_comments
from website.notebook_pages import NotebookPage
from website.notebook_results import ResultCache

Kinds = Mapping[str, Callable[..., str]]


class _Build:
    """What the functions below share during one build."""

    def __init__(self, config: MkDocsConfig) -> None:
        self.root = _root(config)
        self.kinds = _kinds(config)
        self.results = ResultCache(self.root)
        self.notebooks: dict[str, NotebookPage] = {}
        self.search = search_index.Scope()


_build: _Build


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).resolve().parent


# ---- Placeholders ----------------------------------------------------------


def _kinds(config: MkDocsConfig) -> Kinds:
    """Return what pages of prose may ask for: each kind makes Markdown."""
    root = _root(config)
    facing: Any = config.plugins["facing"]
    return {
        "version": lambda: read_version(root),
        "citation-url": lambda: _citation_url(config.site_url or config.repo_url),
        "reference": lambda: reference.markdown(root / "labml_bcn"),
        "symbols": lambda: symbol_table.markdown(facing.book.symbols),
        **results_page.kinds(root / "docs" / "results"),
        **scatter_lab.kinds(root),
        **start_page.kinds(root),
        **playground.kinds(root),
        **speed_page.kinds(root / "docs" / "benchmarks"),
        **works_with_page.kinds(root, config.repo_url),
    }


def _html_kinds(page: Page) -> Kinds:
    """Return what any page may ask for: each kind makes HTML."""
    kinds: dict[str, Callable[..., str]] = {
        "figure": norm_diagrams.figure,
        **{name: _build.kinds[name] for name in results_page.ANYWHERE},
        **faults_page.html_kinds(_build.root),
        **scatter_lab.html_kinds(_build.root),
        **playground.html_kinds(_build.root),
    }
    if page.file.src_uri in _build.notebooks:
        kinds["output"] = _build.notebooks[page.file.src_uri].output
    return kinds


def _fill(text: str, kinds: Kinds) -> str:
    try:
        return fill(text, kinds)
    except LookupError as error:
        # MkDocs names the page, and stops without a traceback.
        raise PluginError(str(error)) from error


def read_version(root: Path) -> str:
    """Return the version that the package states."""
    text = (root / "labml_bcn" / "__init__.py").read_text("utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert found, "labml_bcn/__init__.py states the version"
    return found[1]


def _citation_url(url: str | None) -> str:
    return f",\n  url     = {{{url}}}" if url else ""


# ---- Events, in MkDocs's order ---------------------------------------------


def on_config(config: MkDocsConfig) -> None:
    """Put version, licence and origin into the footer."""
    version = read_version(_root(config))
    config.copyright = (
        f"labml_bcn {version}, MIT licence. Not affiliated with labml.ai."
    )


# Before mkdocs-jupyter, which makes pages of the notebooks among the files.
@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> None:
    """Begin a build, and add the notebooks, which lie outside docs/."""
    global _build
    _build = _Build(config)
    root = str(_build.root)
    for path in sorted((_build.root / "notebooks").glob("*.py")):
        uri = f"notebooks/{path.name}"
        files.append(File(uri, root, config.site_dir, config.use_directory_urls))
    # Where a link is shared, its picture needs a whole address.
    if config.site_url:
        files.append(File.generated(config, "assets/card.png", content=card.png()))


def on_nav(nav: Navigation, **_: object) -> None:
    """Note what the search leaves out: what is inside, and code."""
    for page in nav.pages:
        _build.search.add(page)


def on_pre_page(page: Page, **_: object) -> None:
    """Let MkDocs render a notebook's Markdown, in place of mkdocs-jupyter."""
    if page.file.src_uri.startswith("notebooks/"):
        del page.render


def on_page_read_source(page: Page, **_: object) -> str | None:
    """Return a notebook as Markdown, with what it puts out."""
    if not page.file.src_uri.startswith("notebooks/"):
        return None
    path = _build.root / page.file.src_uri
    notebook = notebook_records.show(_build.results, path)
    converted = notebook_pages.convert(notebook, page.file.name)
    _build.notebooks[page.file.src_uri] = converted
    return converted.markdown


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Put in what is made at build, and put a notebook's files beside it."""
    if notebook := _build.notebooks.get(page.file.src_uri):
        for name, content in notebook.files.items():
            uri = f"notebooks/{page.file.name}/{name}"
            files.append(File.generated(config, uri, content=content))
    return _fill(markdown, _build.kinds)


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Offer a notebook's downloads below its title."""
    if page.file.src_uri not in _build.notebooks:
        return html
    offer = notebook_pages.downloads(page.file.name)
    html = html.replace("</h1>", f"</h1>\n{offer}", 1)
    return f'<div class="notebook">\n{html}\n</div>'


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Put in figures and outputs, now that search has indexed the page."""
    output = _fill(output, _html_kinds(page))
    return finish(output, partial(get_relative_url, other=page.url))


def on_post_template(output_content: str, **_: object) -> str:
    """Finish the page for what is not found, too."""
    return finish(output_content)


# After the search, which writes its index.
@event_priority(-100)
def on_post_build(config: MkDocsConfig) -> None:
    """Send readers nothing that they do not need, and mend the search."""
    site = Path(config.site_dir)
    for path in (site / "assets").iterdir():
        if path.suffix in (".css", ".js"):
            path.write_text(without_comments(path.read_text("utf-8"), path.suffix))
    remove_unused(site)
    search_index.mend(site, _build.root, _build.search)
    for uri in _build.notebooks:
        _build.results.prune(Path(uri).stem)
