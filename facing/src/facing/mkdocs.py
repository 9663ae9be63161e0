"""The plugin for MkDocs: annotated files as pages of a site.

It is the only module that knows MkDocs.

    plugins:
      - facing:
          sources: [my_package]       # files, or folders of them; without: those in nav
          template: main.html         # the theme's, for these pages
          tests: [tests]              # equations are held to them
          symbols: docs/symbols.yml   # linked in formulas and code
          papers: docs/papers.yml     # their constructs, by line
          links: docs/names.yml       # where others' names lead
          examples: examples.py       # run to see their shapes
          fold: true                  # false: imports and references stay open
          lenient: false              # true: only warn of mistakes

All may be left out. The table of the papers' constructs goes where a
page of prose has `<!-- constructs -->`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config import base, config_options
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import BasePlugin, event_priority, get_plugin_logger
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page as SitePage
from mkdocs.structure.toc import get_toc
from mkdocs.utils import get_relative_url
from mkdocs.utils.templates import TemplateContext

from facing.book import DECLARED, Book
from facing.features.paper_map import paper_map_sections
from facing.page import ASSETS, OF_STEPS, SHARED, Heading, Page, plain_text
from facing.placeholders import fill, kinds_in

log = get_plugin_logger(__name__)

# The anchors that a page links to: for each file, anchor and link as written.
Anchors = dict[File, dict[str, str]]


class AnnotatedFile(File):
    """A Python file that is a page of the site."""

    def is_documentation_page(self) -> bool:
        """Say yes: MkDocs asks the file's ending, and knows `.md` only."""
        return True

    # MkDocs would read Python as Markdown.
    content_string = ""

    def _get_stem(self) -> str:
        # MkDocs gives README and index the folder's own address.
        return Path(self.src_uri).stem


class FacingConfig(base.Config):  # type: ignore[no-untyped-call]
    """What can be set in mkdocs.yml."""

    sources = config_options.ListOfItems(config_options.Type(str), default=[])
    template = config_options.Type(str, default="main.html")
    tests = config_options.ListOfItems(config_options.Type(str), default=[])
    symbols = config_options.Type(str, default="")
    papers = config_options.Type(str, default="")
    links = config_options.Type(str, default="")
    examples = config_options.Type(str, default="")
    fold = config_options.Type(bool, default=True)
    lenient = config_options.Type(bool, default=False)


class FacingPlugin(BasePlugin[FacingConfig]):  # type: ignore[no-untyped-call]
    """Turns annotated Python files into pages."""

    book: Book

    def on_config(self, config: MkDocsConfig) -> None:
        """Ask for the shared assets on every page, and watch the sources."""
        styles = [name for name in SHARED if name.endswith(".css")]
        config.extra_css[:0] = [f"assets/{name}" for name in styles]
        scripts = [name for name in SHARED if name.endswith(".js")]
        config.extra_javascript += [f"assets/{name}" for name in scripts]
        self._root = Path(config.config_file_path or ".").resolve().parent
        self._declared = {name: self.config[name] for name in DECLARED}
        self._sources = self.config.sources or list(_python_files(config.nav))
        watched = [*self._sources, *self.config.tests]
        watched += filter(None, self._declared.values())
        config.watch += [str(self._root / each) for each in watched]

    # Before plugins that look for their files, and after those that bring some.
    @event_priority(50)
    def on_files(self, files: Files, config: MkDocsConfig) -> None:
        """Add the sources and the assets to the files of the site."""
        tests = list(self._find_files("tests", self.config.tests))
        self.book = Book(
            self._find_sources(files),
            root=self._root,
            tests=tests if self.config.tests else None,
            fold=self.config.fold,
            **{name: Path(path) for name, path in self._declared.items() if path},
        )
        self._pages: dict[str, tuple[Page, Anchors]] = {}
        self._tables: dict[str, list[str]] = {}
        for path in [*self.book.paths, *self.book.tests]:
            files.append(self._annotated_file(path, config))
            if not config.repo_url:
                source = str(self._root / path)
                files.append(
                    File.generated(config, _raw_uri(path), abs_src_path=source)
                )
        for name in (*SHARED, *OF_STEPS):
            content = (ASSETS / name).read_bytes()
            files.append(File.generated(config, f"assets/{name}", content=content))

    def _find_sources(self, files: Files) -> Iterator[Path]:
        """Yield the files that shall be pages, as paths from the root."""
        if self.config.sources:
            yield from self._find_files("sources", self._sources)
            return
        # A Python file in `nav` that is nobody else's. MkDocs says if there is none.
        for name in self._sources:
            if (self._root / name).is_file() and not files.get_file_from_path(name):
                yield Path(name)

    def _find_files(self, option: str, names: list[str]) -> Iterator[Path]:
        """Yield the Python files of an option, as paths from the root."""
        for name in names:
            path = self._root / name
            if not path.exists():
                raise PluginError(
                    f"facing: {option} names {name}, and there is no "
                    f"such file or folder beside {self._root / 'mkdocs.yml'}"
                )
            files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
            yield from (each.relative_to(self._root) for each in files)

    def _annotated_file(self, path: Path, config: MkDocsConfig) -> AnnotatedFile:
        # A test is reached from its equation, and has no place in the navigation.
        is_test = path in self.book.tests
        return AnnotatedFile(
            path.as_posix(),
            str(self._root),
            config.site_dir,
            config.use_directory_urls,
            inclusion=InclusionLevel.NOT_IN_NAV if is_test else InclusionLevel.INCLUDED,
        )

    def on_nav(self, nav: Navigation, config: MkDocsConfig, files: Files) -> None:
        """Build the pages, so that others can tell what is on them."""
        if self.book.paper_map:
            for file in files.documentation_pages():
                is_prose = file.src_uri.endswith(".md")
                if is_prose and "constructs" in kinds_in(file.content_string):
                    self.book.paper_map.page = Path(file.src_uri)
        for file in files:
            if isinstance(file, AnnotatedFile):
                self._pages[file.src_uri] = self._build(file, files)

    def _build(self, file: File, files: Files) -> tuple[Page, Anchors]:
        path = Path(file.src_uri)
        if path not in self.book.sources:
            return Page(path.name), {}
        links = _Links(file, files)
        page = self.book.page(path, links.link)
        for line, target in links.broken:
            log.warning(f"{path}:{line}: no page at the link {target}")
        return page, links.anchors

    def on_page_markdown(
        self,
        markdown: str,
        page: SitePage,
        config: MkDocsConfig,
        files: Files,
    ) -> str | None:
        """Tell MkDocs a page's title, and what its front matter says."""
        if page.file.src_uri not in self._pages:
            return self._fill_headings(markdown, page, files)
        built, _ = self._pages[page.file.src_uri]
        page.meta.update(built.meta, title=built.title)
        page.meta["template"] = self.config.template
        page.meta["source_url"] = _source_url(page.file, config, files)
        if Path(page.file.src_uri) in self.book.tests:
            page.meta["search"] = {"exclude": True}
        if built.description:
            page.meta["description"] = built.description
        return None

    def _fill_headings(self, markdown: str, page: SitePage, files: Files) -> str:
        """Put the headings of the table of constructs into a page."""
        paper_map = self.book.paper_map
        if not paper_map or "constructs" not in kinds_in(markdown):
            return markdown

        def address(path: Path, line: int) -> str:
            file = files.get_file_from_path(path.as_posix())
            assert file
            return f"{file.url_relative_to(page.file)}#L{line}"

        sections = list(paper_map_sections(paper_map, address))
        self._tables[page.file.src_uri] = [section.body for section in sections]
        # Headings are Markdown's, so that the page's outline has them. The
        # rest is HTML that it must not touch.
        headings = "\n\n".join(
            f"## {section.title}\n\n<!-- construct: {i} -->"
            for i, section in enumerate(sections)
        )
        return fill(markdown, {"constructs": lambda: headings})

    def on_page_content(
        self, html: str, page: SitePage, config: MkDocsConfig, files: Files
    ) -> str:
        """Hand over headings and ids, and what the search shall index."""
        if page.file.src_uri not in self._pages:
            bodies = self._tables.get(page.file.src_uri)
            if bodies is None:
                return html
            return fill(html, {"construct": lambda i: bodies[int(i)]})
        built, page.links_to_anchors = self._pages[page.file.src_uri]
        page.present_anchor_ids = built.ids
        page.toc = get_toc(_nest(built.headings))  # type: ignore[arg-type]
        # Tests would drown what people search.
        return "" if Path(page.file.src_uri) in self.book.tests else built.search

    def on_env(self, env: Any, config: MkDocsConfig, files: Files) -> None:
        """Stop if anything is wrong: a site has no broken page."""
        problems = self.book.problems()
        for problem in problems:
            (log.info if self.config.lenient else log.error)(str(problem))
        if problems and not self.config.lenient:
            raise PluginError(
                f"facing: {len(problems)} to mend in the annotated files, named above"
            )

    @event_priority(-100)
    def on_page_context(
        self,
        context: TemplateContext,
        /,
        *,
        page: SitePage,
        config: MkDocsConfig,
        nav: Navigation,
    ) -> None:
        """Put in the page's real content, once the search has indexed it."""
        if page.file.src_uri in self._pages:
            built = self._pages[page.file.src_uri][0]
            page.content = built.body
            if built.has_steps:
                style, script = (
                    get_relative_url(f"assets/{name}", page.url) for name in OF_STEPS
                )
                page.content = (
                    f'<link rel="stylesheet" href="{style}">{built.body}'
                    f'<script src="{script}" defer></script>'
                )


def _python_files(nav: Any) -> Iterator[str]:
    """Yield the Python files that a navigation leads to."""
    if isinstance(nav, dict):
        nav = list(nav.values())
    if isinstance(nav, list):
        for entry in nav:
            yield from _python_files(entry)
    elif isinstance(nav, str) and nav.endswith(".py") and "://" not in nav:
        yield nav


def _raw_uri(path: Path) -> str:
    """Return where a source lies beside its page, to be looked at raw."""
    return (path.with_suffix("") / path.name).as_posix()


def _source_url(file: File, config: MkDocsConfig, files: Files) -> str:
    """Return where the source is: in the repository, or beside the page."""
    if config.repo_url:
        return f"{config.repo_url.rstrip('/')}/blob/HEAD/{file.src_uri}"
    raw = files.get_file_from_path(_raw_uri(Path(file.src_uri)))
    return raw.url_relative_to(file) if raw else ""


class _Links:
    """Leads links from an annotated file to pages of the site."""

    def __init__(self, here: File, files: Files) -> None:
        self.here, self.files = here, files
        self.broken: list[tuple[int, str]] = []
        self.anchors: Anchors = {}

    def link(self, target: str, line: int) -> str:
        """Return the address for a link, and note what must be checked."""
        path, _, fragment = target.partition("#")
        if re.match(r"[a-z][a-z0-9+.-]*:|/", target):
            return target
        here = self.here
        file: File | None = here
        if path:
            folder = Path(here.src_uri).parent
            file = self.files.get_file_from_path(_resolve_dots(folder / path))
        if file is None:
            self.broken.append((line, target))
            return target
        if fragment:
            self.anchors.setdefault(file, {})[fragment] = target
        if not path:
            return target
        return file.url_relative_to(here) + ("#" + fragment if fragment else "")


def _resolve_dots(path: Path) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            del parts[-1:]
        else:
            parts.append(part)
    return "/".join(parts)


def _nest(headings: list[Heading]) -> list[dict[str, Any]]:
    """Return headings as MkDocs wants them: those below as children."""
    top: list[dict[str, Any]] = []
    around: list[dict[str, Any]] = []
    for heading in headings:
        token = {
            "level": heading.level,
            "id": heading.id,
            "name": plain_text(heading.text),
            "children": [],
        }
        while around and around[-1]["level"] >= heading.level:
            around.pop()
        (around[-1]["children"] if around else top).append(token)
        around.append(token)
    return top
