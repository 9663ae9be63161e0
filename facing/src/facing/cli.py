"""The command: `facing PATH... --out DIR` writes pages without MkDocs.

It writes a page for every Python file, an index of them, and the stylesheet, script
and font that they share. The pages need no server, no network, and to be read no
script.
"""

import argparse
import html
import os
import posixpath
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from facing import __version__
from facing.book import DECLARED, Book
from facing.feature import Link
from facing.features.paper_map import PaperMap, paper_map_sections
from facing.page import ASSETS, OF_STEPS, SHARED, Heading, Page
from facing.problem import Problem
from facing.templating import render


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    options = _parser().parse_args(arguments)
    problems: list[Problem] = []
    files = list(_find_files(options.path, problems))
    tests = list(_find_files(options.tests, problems)) if options.tests else None
    declared = {name: getattr(options, name) for name in DECLARED}
    book = Book(files, tests=tests, fold=not options.no_fold, **declared)
    _Folder(options.out, book).write()
    problems += book.problems()
    for problem in problems:
        print(problem, file=sys.stderr)
    count = f", {len(problems)} to mend" if problems else ""
    print(f"{len(files)} files, pages in {options.out}{count}")
    return 1 if problems and not options.lenient else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="facing",
        description="Render annotated Python files as pages: notes on the "
        "left, code on the right, formulas as MathML.",
        epilog="What cannot be read or rendered is reported with file and "
        "line; everything else is written all the same, and the exit status "
        "is 1.",
    )
    parser.add_argument(
        "path",
        nargs="+",
        type=Path,
        help="a Python file, or a folder of them",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder to write pages to"
    )
    parser.add_argument(
        "--tests",
        nargs="+",
        type=Path,
        help="tests, or folders of them: each displayed equation must be "
        "named by a marker of one, and its page shows which",
    )
    parser.add_argument(
        "--symbols",
        type=Path,
        help="a YAML file that declares symbols: they are linked in formulas "
        "and code; the README says how",
    )
    parser.add_argument(
        "--papers",
        type=Path,
        help="a YAML file that lists the constructs of papers: a page leads "
        "from each to its lines; the README says how",
    )
    parser.add_argument(
        "--examples",
        type=Path,
        help="a Python file with examples: they are run, and the shapes seen "
        "are shown beside the code; the README says how",
    )
    parser.add_argument(
        "--links",
        type=Path,
        help="a YAML file with addresses for names of other libraries; "
        "the README says how",
    )
    parser.add_argument(
        "--no-fold",
        action="store_true",
        help="fold nothing: by default imports, the bodies of constructors and the "
        "reference parts of docstrings are folded where notes speak of them",
    )
    parser.add_argument("--version", action="version", version=f"facing {__version__}")
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="exit with 0 all the same; a formula that does not parse is "
        "shown as its source",
    )
    return parser


def _find_files(paths: list[Path], problems: list[Problem]) -> Iterator[Path]:
    """Yield each file once, folders searched, hidden ones passed over."""
    seen = set()
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(p for p in path.rglob("*.py") if not _is_hidden(p, path))
            if not found:
                problems.append(Problem(path, 1, "no Python files in it"))
        elif not path.exists():
            problems.append(Problem(path, 1, "there is no such file"))
            continue
        for file in found:
            if file.is_file() and file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _is_hidden(path: Path, root: Path) -> bool:
    return any(
        part.startswith(".") or part == "__pycache__"
        for part in path.relative_to(root).parts
    )


class _Folder:
    """Writes the pages of a book, their index, and what they share."""

    def __init__(self, out: Path, book: Book) -> None:
        self.out, self.book = out, book
        self.places = _places([*book.paths, *book.tests])

    def write(self) -> None:
        for name in (*SHARED, *OF_STEPS, "standalone.css"):
            self._write(f"assets/{name}", (ASSETS / name).read_bytes())
        pages = {}
        if self.book.paper_map:
            path = self.out / "paper-to-line.html"
            self.book.paper_map.page, self.places[path] = path, path.name
            pages[path] = self._paper_map_page(self.book.paper_map)
            self._write_page(path.name, pages[path])
        for path, source in self.book.sources.items():
            page = self.book.page(path, self._links(path))
            place = Path(self.places[path])
            raw = place.with_suffix("").with_suffix(".py")
            self._write(raw.as_posix(), source.file.read_bytes())
            self._write_page(place.as_posix(), page, quote(raw.name))
            if path not in self.book.tests:
                pages[path] = page
        self._write_page("index.html", self._contents(pages))

    def _paper_map_page(self, paper_map: PaperMap) -> Page:
        """Return the page that leads from papers to lines."""

        def address(path: Path, line: int) -> str:
            return f"{quote(self.places[path])}#L{line}"

        title = "From paper to line"
        sections = list(paper_map_sections(paper_map, address))
        return Page(
            title=title,
            description="What the papers have, beside the lines that implement it.",
            body=render("paper_map/page.html", title=title, sections=sections),
            headings=[Heading(2, s.slug, html.escape(s.title)) for s in sections],
        )

    def _links(self, file: Path) -> Link:
        """Return what leads links to other files to their pages."""
        pages = {path.resolve(): place for path, place in self.places.items()}
        here = posixpath.dirname(self.places[file])

        def link(target: str, line: int) -> str:
            path, mark, fragment = target.partition("#")
            if not path or re.match(r"[a-z][a-z0-9+.-]*:|/", path):
                return target
            place = pages.get((file.parent / unquote(path)).resolve())
            if place is None:
                return target
            return quote(posixpath.relpath(place, here or ".")) + mark + fragment

        return link

    def _contents(self, pages: dict[Path, Page]) -> Page:
        """Return the index of all pages."""
        entries = [
            {
                "address": quote(self.places[path]),
                "title": page.title,
                "place": self.places[path].removesuffix(".html"),
                "description": page.description,
            }
            for path, page in pages.items()
        ]
        return Page("Contents", body=render("contents.html", entries=entries))

    def _write_page(self, place: str, page: Page, source: str = "") -> None:
        document = render(
            "page.html",
            title=page.title,
            description=page.description,
            up="../" * place.count("/"),
            has_math="<math" in page.body,
            has_steps=page.has_steps,
            headings=[h for h in page.headings if h.level in (2, 3)],
            body=page.body,
            source=source,
        )
        self._write(place, document.encode() + b"\n")

    def _write(self, place: str, content: bytes) -> None:
        path = self.out / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _places(files: list[Path]) -> dict[Path, str]:
    """Give each file its page's path, below the folder that all share."""
    full = {file: file.resolve() for file in files}
    shared = os.path.commonpath([p.parent for p in full.values()] or [Path("/")])
    places = {}
    for file, path in full.items():
        place = path.relative_to(shared)
        # The index is index.html. A module of that name gives way.
        stem = "index.py" if place.stem == "index" else place.stem
        places[file] = place.with_name(f"{stem}.html").as_posix()
    return places
