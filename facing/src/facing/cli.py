"""
# Pages without MkDocs

`python -m facing PATH... --out DIR` writes a page for every
Python file, an index of them, and the stylesheet, script and font that they
share. The pages need no server, no network, and to be read no script.
"""

import argparse
import html
import os
import posixpath
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from string import Template
from urllib.parse import quote, unquote

try:
    from facing.book import DECLARED, Project
    from facing.features.equations import Proofs
    from facing.features.paper_map import Constructs, Table
    from facing.page import ASSETS, SHARED, TEMPLATES, Heading, Page, build
    from facing.read.source import Problem, Source, read
except ModuleNotFoundError as error:
    sys.exit(
        f"the renderer needs {error.name}, which is not installed: "
        "pip install 'labml-bcn[literate]'"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    options = _parser().parse_args(arguments)
    problems: list[Problem] = []
    files = list(_files(options.path, problems))
    proofs = None
    if options.tests:
        proofs = Proofs.read(_files(options.tests, problems))
    declared = {name: getattr(options, name) for name in DECLARED}
    write(files, options.out, problems, proofs, **declared)
    for problem in problems:
        print(problem, file=sys.stderr)
    found = f", {len(problems)} to mend" if problems else ""
    print(f"{len(files)} files, pages in {options.out}{found}")
    return 1 if problems and not options.lenient else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m facing",
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
        "and code; facing/src/facing/features/symbols.py says how",
    )
    parser.add_argument(
        "--papers",
        type=Path,
        help="a YAML file that lists the constructs of papers: a page leads "
        "from each to its lines; facing/src/facing/features/paper_map.py says how",
    )
    parser.add_argument(
        "--examples",
        type=Path,
        help="a Python file with examples: they are run, and the shapes seen "
        "are shown beside the code; facing/src/facing/features/shapes.py says how",
    )
    parser.add_argument(
        "--links",
        type=Path,
        help="a YAML file with addresses for names of other libraries; "
        "facing/src/facing/features/name_links.py says how",
    )
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="exit with 0 all the same; a formula that does not parse is "
        "shown as its source",
    )
    return parser


def _files(paths: list[Path], problems: list[Problem]) -> Iterator[Path]:
    """Yield each file once, folders searched, hidden ones passed over."""
    seen = set()
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(p for p in path.rglob("*.py") if _shown(p, path))
            if not found:
                problems.append(Problem(path, 1, "no Python files in it"))
        elif not path.exists():
            problems.append(Problem(path, 1, "there is no such file"))
            continue
        for file in found:
            if file.is_file() and file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _shown(path: Path, root: Path) -> bool:
    return not any(
        part.startswith(".") or part == "__pycache__"
        for part in path.relative_to(root).parts
    )


def write(
    files: list[Path],
    out: Path,
    problems: list[Problem],
    proofs: Proofs | None = None,
    **declared: Path | None,
) -> None:
    """
    Write the pages of files, their index, and what they share.

    Where there are `proofs`, their tests become pages, too. What else is
    `declared` is `Project`'s.
    """
    known = {file.resolve() for file in files}
    proving = {proof.path for proof in proofs.proofs} if proofs else set()
    tests = sorted(p for p in proving if p.resolve() not in known)
    places = _places([*files, *tests])
    _write_shared(out / "assets")
    sources = list(_sources(places, problems))
    project = Project(sources, **declared)
    pages = {}
    if project.constructs:
        table = out / "paper-to-line.html"
        project.constructs.page, places[table] = table, table.name
        pages[table] = _table(project.constructs, places)
        _write(table, _document(pages[table], table.name))
    for source in sources:
        link = _links(source.path, places)
        page = build(source, link, proofs, project.features(source))
        problems += page.problems
        place = Path(places[source.path])
        raw = place.with_suffix("").with_suffix(".py")
        _write(out / raw, source.path.read_bytes())
        view = f'<a href="{quote(raw.name)}">View source</a>'
        _write(out / place, _document(page, place.as_posix(), view))
        pages[source.path] = page
    problems += project.left_over()
    for test in tests:
        pages.pop(test, None)
    if proofs:
        found = [e for page in pages.values() for e in page.equations]
        problems += proofs.check(found)
    _write(
        out / "index.html",
        _index([(places[file], page) for file, page in pages.items()]),
    )


def _table(constructs: Constructs, places: dict[Path, str]) -> Page:
    """Return the page that leads from papers to lines."""

    def address(path: Path, line: int) -> str:
        return f"{quote(places[path])}#L{line}"

    headings = [Heading(1, "paper-to-line", "From paper to line")]
    body = '<div class="lit"><h1 id="paper-to-line">From paper to line</h1>'
    for title, slug, section in Table(constructs, address).sections():
        headings.append(Heading(2, slug, html.escape(title)))
        body += f'<h2 id="{slug}">{html.escape(title)}</h2>{section}'
    return Page(
        "From paper to line",
        "What the papers have, beside the lines that implement it.",
        body + "</div>",
        "",
        headings,
        set(),
        [],
    )


def _sources(files: Iterable[Path], problems: list[Problem]) -> Iterator[Source]:
    for file in files:
        try:
            yield read(file)
        except Problem as problem:
            problems.append(problem)


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


def _links(file: Path, places: dict[Path, str]) -> Callable[[str, int], str]:
    """Return what leads links to other files to their pages."""
    pages = {path.resolve(): place for path, place in places.items()}
    here = posixpath.dirname(places[file])

    def link(target: str, line: int) -> str:
        path, mark, fragment = target.partition("#")
        if not path or re.match(r"[a-z][a-z0-9+.-]*:|/", path):
            return target
        place = pages.get((file.parent / unquote(path)).resolve())
        if place is None:
            return target
        return quote(posixpath.relpath(place, here or ".")) + mark + fragment

    return link


def _write_shared(folder: Path) -> None:
    for name in (*SHARED, "standalone.css"):
        _write(folder / name, (ASSETS / name).read_bytes())


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        content = content.encode()
    path.write_bytes(content)


# Fetched at once, the font is there before the formulas are shown.
_PRELOAD = (
    '<link rel="preload" href="{up}assets/stix-two-math.woff2" as="font" '
    'type="font/woff2" crossorigin>'
)


def _document(page: Page, place: str, source: str = "") -> str:
    up = "../" * place.count("/")
    template = Template((TEMPLATES / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(page.title),
        description=html.escape(page.description),
        up=up,
        preload=_PRELOAD.format(up=up) if "<math" in page.body else "",
        outline=outline(page.headings),
        body=page.body,
        source=source,
    )


def outline(headings: list[Heading]) -> str:
    """Return a page's headings below the first as a list of links."""
    items = [
        f'<li class="h{h.level}"><a href="#{html.escape(h.id)}">{h.text}</a></li>'
        for h in headings
        if h.level in (2, 3)
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _index(entries: list[tuple[str, Page]]) -> str:
    items = "".join(
        f'<li><a href="{quote(place)}">{html.escape(page.title)}</a> '
        f"<code>{html.escape(place.removesuffix('.html'))}</code>"
        f"<p>{html.escape(page.description)}</p></li>"
        for place, page in entries
    )
    body = (
        '<div class="lit"><section class="row wide"><div class="note">'
        f'<h1>Contents</h1><ul class="contents">{items}</ul></div></section>'
        "</div>"
    )
    page = Page("Contents", "", body, "", [], set(), [])
    return _document(page, "index.html")


if __name__ == "__main__":
    sys.exit(main())
