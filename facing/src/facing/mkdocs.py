"""
# The plugin for MkDocs

All that MkDocs needs to show annotated files as pages of a site. It is the
only file that knows of MkDocs.

    plugins:
      - facing:
          sources: [my_package]       # files, or folders of them
          template: main.html         # the theme's, for these pages
          tests: [tests]              # equations are held to them
          symbols: docs/symbols.yml   # linked in formulas and code
          papers: docs/papers.yml     # their constructs, by line
          links: docs/names.yml       # where others' names lead
          examples: website/examples.py  # run to see their shapes
          lenient: false              # true: only warn of mistakes

All but the sources may be left out. The table of the papers' constructs goes
where a page of prose has `<!-- constructs -->`.
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
from mkdocs.utils.templates import TemplateContext

from facing.book import DECLARED, Project
from facing.features.equations import Proofs
from facing.features.paper_map import PLACE, Table
from facing.page import (
    ASSETS,
    SHARED,
    Heading,
    Page,
    build,
    plain,
)
from facing.read.source import Problem, Source, read

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

    sources = config_options.ListOfItems(config_options.Type(str))
    template = config_options.Type(str, default="main.html")
    tests = config_options.ListOfItems(config_options.Type(str), default=[])
    symbols = config_options.Type(str, default="")
    papers = config_options.Type(str, default="")
    links = config_options.Type(str, default="")
    examples = config_options.Type(str, default="")
    lenient = config_options.Type(bool, default=False)


class FacingPlugin(BasePlugin[FacingConfig]):  # type: ignore[no-untyped-call]
    """Turns annotated Python files into pages."""

    def on_config(self, config: MkDocsConfig) -> None:
        """Ask for the shared assets on every page, and watch the sources."""
        config.extra_css.insert(0, "assets/literate.css")
        for name in SHARED:
            if name.endswith(".js"):
                config.extra_javascript.append(f"assets/{name}")
        self._root = Path(config.config_file_path or ".").resolve().parent
        watched = [*self.config.sources, *self.config.tests]
        watched += filter(None, self._declared().values())
        config.watch += [str(self._root / each) for each in watched]

    @event_priority(100)
    def on_files(self, files: Files, config: MkDocsConfig) -> None:
        """Add the sources and the assets to the files of the site."""
        self._pages: dict[str, tuple[Page, Anchors]] = {}
        self._tables: dict[str, list[str]] = {}
        self._problems = 0
        sources = list(self._found("sources", self.config.sources))
        tests = list(self._found("tests", self.config.tests))
        self._proofs = Proofs.read(tests, self._root)
        # A test that asserts an equation is a page, for the equation leads
        # to its lines.
        self._proving = {proof.path for proof in self._proofs.proofs}
        self._proving -= set(sources)
        self._read([*sources, *sorted(self._proving)])
        for path in [*sources, *sorted(self._proving)]:
            files.append(
                AnnotatedFile(
                    path.as_posix(),
                    str(self._root),
                    config.site_dir,
                    config.use_directory_urls,
                    inclusion=InclusionLevel.NOT_IN_NAV
                    if path in self._proving
                    else InclusionLevel.INCLUDED,
                )
            )
            if not config.repo_url:
                files.append(_beside(path, self._root, config))
        for name in SHARED:
            content = (ASSETS / name).read_bytes()
            files.append(File.generated(config, f"assets/{name}", content=content))

    def _read(self, paths: list[Path]) -> None:
        """Read all files, for what stands in one may be used in another."""
        self._sources: dict[Path, Source] = {}
        for path in paths:
            try:
                source = read(self._root / path)
            except Problem as unread:
                self._report(unread)
            else:
                source.path = path
                self._sources[path] = source
        self.project = Project(
            list(self._sources.values()),
            **{
                name: self._root / path if path else None
                for name, path in self._declared().items()
            },
        )

    def _declared(self) -> dict[str, str]:
        """Return the files in which a project declares things."""
        return {name: self.config[name] for name in DECLARED}

    def _found(self, option: str, names: list[str]) -> Iterator[Path]:
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

    def on_nav(self, nav: Navigation, config: MkDocsConfig, files: Files) -> None:
        """Build the pages, so that others can tell what is on them."""
        if self.project.constructs:
            for file in files.documentation_pages():
                prose = file.src_uri.endswith(".md")
                if prose and PLACE in file.content_string:
                    self.project.constructs.page = Path(file.src_uri)
        for file in files:
            if isinstance(file, AnnotatedFile):
                self._pages[file.src_uri] = self._built(file, files)

    def _built(self, file: File, files: Files) -> tuple[Page, Anchors]:
        path = Path(file.src_uri)
        if path not in self._sources:
            return Page(path.name, "", "", "", [], set(), []), {}
        source, to = self._sources[path], _Links(file, files)
        features = self.project.features(source)
        built = build(source, to.link, self._proofs, features)
        for problem in built.problems:
            self._report(problem)
        for line, target in to.broken:
            log.warning(f"{path}:{line}: no page at the link {target}")
        return built, to.anchors

    def on_page_markdown(
        self,
        markdown: str,
        page: SitePage,
        config: MkDocsConfig,
        files: Files,
    ) -> str | None:
        """Tell MkDocs a page's title, and what its front matter says."""
        if page.file.src_uri not in self._pages:
            return self._with_table(markdown, page, files)
        built, _ = self._pages[page.file.src_uri]
        page.meta.update(built.meta, title=built.title)
        page.meta["template"] = self.config.template
        page.meta["source_url"] = _source_url(page.file, config, files)
        if Path(page.file.src_uri) in self._proving:
            page.meta["search"] = {"exclude": True}
        if built.description:
            page.meta["description"] = built.description
        return None

    def _with_table(self, markdown: str, page: SitePage, files: Files) -> str | None:
        """Put the headings of the table of constructs into a page."""
        if not self.project.constructs or PLACE not in markdown:
            return None

        def address(path: Path, line: int) -> str:
            file = files.get_file_from_path(path.as_posix())
            assert file
            return f"{file.url_relative_to(page.file)}#L{line}"

        table = Table(self.project.constructs, address)
        sections = list(table.sections())
        self._tables[page.file.src_uri] = [body for _, _, body in sections]
        # Headings are Markdown's, so that the page's outline has them. The
        # rest is HTML that it must not touch.
        headings = "\n\n".join(
            f"## {title}\n\n<!-- construct {i} -->"
            for i, (title, _, _) in enumerate(sections)
        )
        return markdown.replace(PLACE, headings)

    def _report(self, problem: Problem) -> None:
        path = Path(problem.path)
        if path.is_relative_to(self._root):
            path = path.relative_to(self._root)
        problem = Problem(path, problem.line, problem.message)
        self._problems += not self.config.lenient
        (log.info if self.config.lenient else log.error)(str(problem))

    def on_page_content(
        self, html: str, page: SitePage, config: MkDocsConfig, files: Files
    ) -> str | None:
        """Hand over headings and ids, and what the search shall index."""
        if page.file.src_uri not in self._pages:
            for i, body in enumerate(self._tables.get(page.file.src_uri, ())):
                html = html.replace(f"<!-- construct {i} -->", body)
            return html
        built, page.links_to_anchors = self._pages[page.file.src_uri]
        page.present_anchor_ids = built.ids
        page.toc = get_toc(_nested(built.headings))  # type: ignore[arg-type]
        # A test is reached from its equation, and would drown what people
        # search.
        return "" if Path(page.file.src_uri) in self._proving else built.search

    def on_env(self, env: Any, config: MkDocsConfig, files: Files) -> None:
        """Stop where something was reported: a site has no broken page."""
        if self.config.tests:
            equations = [
                equation
                for uri, (built, _) in self._pages.items()
                if Path(uri) not in self._proving
                for equation in built.equations
            ]
            for problem in self._proofs.check(equations):
                self._report(problem)
        for problem in self.project.left_over():
            self._report(problem)
        if self._problems:
            raise PluginError(
                f"facing: {self._problems} to mend in the annotated files, named above"
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
            page.content = self._pages[page.file.src_uri][0].body


def _beside(path: Path, root: Path, config: MkDocsConfig) -> File:
    """Return a source as a file beside its page, to be looked at raw."""
    place = path.with_suffix("") / path.name
    source = str(root / path)
    return File.generated(config, place.as_posix(), abs_src_path=source)


def _source_url(file: File, config: MkDocsConfig, files: Files) -> str:
    """Return where the source is: in the repository, or beside the page."""
    if config.repo_url:
        return f"{config.repo_url.rstrip('/')}/blob/HEAD/{file.src_uri}"
    path = Path(file.src_uri)
    raw = files.get_file_from_path((path.with_suffix("") / path.name).as_posix())
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
            file = self.files.get_file_from_path(_normal(folder / path))
        if file is None:
            self.broken.append((line, target))
            return target
        if fragment:
            self.anchors.setdefault(file, {})[fragment] = target
        if not path:
            return target
        return file.url_relative_to(here) + ("#" + fragment if fragment else "")


def _normal(path: Path) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            del parts[-1:]
        else:
            parts.append(part)
    return "/".join(parts)


def _nested(headings: list[Heading]) -> list[dict[str, Any]]:
    """Return headings as MkDocs wants them: those below as children."""
    top: list[dict[str, Any]] = []
    around: list[dict[str, Any]] = []
    for heading in headings:
        token = {
            "level": heading.level,
            "id": heading.id,
            "name": plain(heading.text),
            "children": [],
        }
        while around and around[-1]["level"] >= heading.level:
            around.pop()
        (around[-1]["children"] if around else top).append(token)
        around.append(token)
    return top
