"""What MkDocs calls while it builds this site."""

import json
import logging
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from mkdocs.structure.toc import get_toc
from mkdocs.utils import get_relative_url
from mkdocs_jupyter import convert

from website import (
    norm_diagrams,
    notebook_pages,
    reference,
    results_page,
    speed_page,
    symbol_table,
)

ROOT = Path(__file__).resolve().parents[1]
log = logging.getLogger("mkdocs.plugins.site")


class _Notebooks:
    """The notebooks of the build that is running."""

    def __init__(self, config: MkDocsConfig, files: Files) -> None:
        self.config, self.files = config, files
        self.data = notebook_pages.find_data()
        self.folder = notebook_pages.results_folder(ROOT, self.data)
        self.drawn: dict[str, tuple[Any, notebook_pages.Page]] = {}

    def to_html(self, path: str, **_: object) -> str:
        """Execute and draw one; this takes the place of the plugin's own."""
        uri = Path(path).relative_to(ROOT).as_posix()
        notebook = notebook_pages.executed(Path(path), self.folder, self.data)
        page = notebook_pages.draw(
            notebook,
            self.config,
            link=self._link(uri),
            warn=lambda message: log.warning("%s: %s", uri, message),
        )
        self.drawn[uri] = (notebook, page)
        return page.html

    def _link(self, uri: str) -> Callable[[str], str]:
        here = self.files.get_file_from_path(uri)
        assert here, "MkDocs asks for notebooks that it was given"

        def link(address: str) -> str:
            path, _, anchor = address.partition("#")
            path = posixpath.normpath(posixpath.join("notebooks", path))
            file = self.files.get_file_from_path(path)
            if file is None:
                log.warning("%s: links to %s, which is no page", uri, address)
                return address
            return file.url_relative_to(here) + ("#" + anchor) * bool(anchor)

        return link


_building: list[_Notebooks] = []


def _version() -> str:
    text = (ROOT / "labml_bcn" / "__init__.py").read_text("utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert found, "labml_bcn/__init__.py states the version"
    return found[1]


def on_config(config: MkDocsConfig) -> None:
    """Put version, licence and origin into the footer."""
    config.copyright = (
        f"labml_bcn {_version()}, MIT licence. Not affiliated with labml.ai."
    )


# Before mkdocs-jupyter, which looks for notebooks among the files.
@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the notebooks, which lie outside docs/, as pages."""
    _building.clear()
    paths = sorted((ROOT / "notebooks").glob("*.py"))
    for path in paths:
        uri = path.relative_to(ROOT).as_posix()
        files.append(File(uri, str(ROOT), config.site_dir, config.use_directory_urls))
    if paths:
        _building.append(_Notebooks(config, files))
        convert.nb2html = _building[0].to_html


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> None:
    """Let links in notebooks see the pages that plugins added."""
    for notebooks in _building:
        notebooks.files = files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, **_: object
) -> str:
    """Put in what is made at build: the reference, the symbols."""
    if page.file.src_uri == "reference.md":
        return markdown + reference.markdown(ROOT / "labml_bcn")
    if page.file.src_uri == "speed.md":
        return speed_page.put(markdown, ROOT / "docs" / "benchmarks")
    if page.file.src_uri == "results.md":
        return results_page.put(markdown, ROOT / "docs" / "results")
    if page.file.src_uri == "papers.md":
        return _cited(markdown, config)
    if page.file.src_uri == "glossary.md":
        facing: Any = config.plugins["facing"]
        table = symbol_table.markdown(facing.book.symbols)
        return markdown.replace("<!-- symbols -->", table)
    return markdown


def _cited(markdown: str, config: MkDocsConfig) -> str:
    """Put the version into the citation, and the address if it is known."""
    markdown = markdown.replace("<!-- version -->", _version())
    address = config.site_url or config.repo_url
    if not address:
        return markdown
    last = "  note    = {MIT licence}"
    return markdown.replace(last, f"{last},\n  url     = {{{address}}}")


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Give a notebook's page its headings and its downloads."""
    for notebooks in _building:
        if page.file.src_uri in notebooks.drawn:
            _, drawn = notebooks.drawn[page.file.src_uri]
            page.toc = get_toc(drawn.headings)
            return html.replace("</h1>", "</h1>\n" + _downloads(page), 1)
    return html


def _downloads(page: Page) -> str:
    name = page.file.name
    return (
        f'<p class="downloads">Download: <a href="{name}.py" download>'
        f'Python file</a>, <a href="{name}.ipynb" download>notebook with '
        "outputs</a>. Both run where the package is installed.</p>"
    )


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Mend what an audit finds, and write a notebook's download."""
    for notebooks in _building:
        if page.file.src_uri in notebooks.drawn:
            notebook, drawn = notebooks.drawn[page.file.src_uri]
            target = Path(page.file.abs_dest_path or "").with_name(
                page.file.name + ".ipynb"
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(notebook, indent=1, ensure_ascii=False)
            target.write_text(text + "\n", "utf-8")
            for name, data in drawn.images.items():
                target.with_name(name).write_bytes(data)
    return _mended(_with_figures(output, page))


def _with_figures(output: str, page: Page) -> str:
    def missing(name: str) -> None:
        log.warning("%s: there is no figure %r", page.file.src_uri, name)

    output = norm_diagrams.put(output, missing)
    if "<math" in output:
        # Fetched at once, the font is there before the formulas are shown.
        font = get_relative_url("assets/stix-two-math.woff2", page.url)
        output = output.replace(
            "</title>",
            f'</title><link rel="preload" href="{font}" as="font" '
            'type="font/woff2" crossorigin>',
            1,
        )
    if 'class="explorer"' not in output:
        return output
    script = get_relative_url("assets/explorer.js", page.url)
    return output.replace("</body>", f'<script src="{script}"></script></body>', 1)


def on_post_template(output_content: str, **_: object) -> str:
    """Mend the page for what is not found, too."""
    return _mended(output_content)


def _mended(output: str) -> str:
    # A dialog needs a name.
    output = output.replace(
        'data-md-component="search" role="dialog"',
        'data-md-component="search" role="dialog" aria-label="Search"',
    )
    # With this attribute, the theme asks the repository's host for stars.
    output = output.replace(' data-md-component="source"', "")
    # The theme's margins are a twentieth of a page; an article's are text.
    frame, start, article = output.partition("<article")
    article, end, foot = article.partition("</article>")
    frame, foot = (re.sub(r"\s*\n\s*", "\n", each) for each in (frame, foot))
    return "".join((frame, start, article, end, foot))


def _lean(text: str, kind: str) -> str:
    """Take comments and margins off a stylesheet or script of ours.

    In scripts, comments stand on lines of their own.
    """
    comment = r"/\*.*?\*/" if kind == ".css" else r"^\s*//.*?$"
    text = re.sub(comment, "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\n\s*", "\n", text).lstrip()


def on_post_build(config: MkDocsConfig) -> None:
    """Send no comments to readers; keep no results that nothing asks for."""
    for path in (Path(config.site_dir) / "assets").iterdir():
        if path.suffix in (".css", ".js"):
            path.write_text(_lean(path.read_text("utf-8"), path.suffix))
    for notebooks in _building:
        for uri in notebooks.drawn:
            notebook_pages.prune(ROOT, Path(uri).stem)
