"""The site and the command's pages, built once, and a browser to read them.

conftest.py makes these fixtures known to all tests. Building the site takes
minutes, so tests that use it are slow, and pytest's processes share one.
"""

import contextlib
import fcntl
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from facing.cli import main as write_pages
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    sync_playwright,
)

from helpers.missing import skip_or_fail
from helpers.paths import ROOT
from website.finish import FIGURES


@pytest.fixture(scope="session")
def built_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once for all processes of pytest-xdist."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    out = shared / "built_site"
    with (shared / "built_site.lock").open("w") as lock:
        # The first to come builds it, the others wait.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            build_site(shared / "building").rename(out)
    return out


def build_site(out: Path) -> Path:
    """Build the site into a folder, as `make site` does; a warning fails."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return out


@pytest.fixture(scope="session")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our layers and a model, as the command `facing` writes them."""
    out = tmp_path_factory.mktemp("standalone")
    package, docs = ROOT / "labml_bcn", ROOT / "docs"
    declared = {
        "--symbols": docs / "symbols.yml",
        "--links": docs / "torch_names.yml",
        "--examples": ROOT / "website" / "examples.py",
    }
    options = [part for pair in declared.items() for part in pair]
    paths = [*sorted(package.glob("[!_]*.py")), package / "experiment" / "vgg.py"]
    assert write_pages([*map(str, [*paths, *options]), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def standalone_url(standalone: Path) -> Iterator[str]:
    """The address of the pages that the command writes."""
    with serve(standalone) as url:
        yield url


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder, and yield its address."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def site_url(built_site: Path) -> Iterator[str]:
    """The address of the site."""
    with serve(built_site) as url:
        yield url


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser without a window."""
    path = shutil.which("chromium")
    if path is None:
        skip_or_fail("chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic"],
        )
        yield launched
        launched.close()


def page_paths(folder: Path) -> list[str]:
    """Return the addresses of all pages in a folder, from its root."""
    paths = [p.relative_to(folder).as_posix() for p in folder.rglob("*.html")]
    return sorted(p.removesuffix("index.html") for p in paths)


def page_file(folder: Path, path: str) -> Path:
    """Return the file of a page."""
    return folder / (path if path.endswith(".html") else f"{path}index.html")


class ParsedPage(HTMLParser):
    """What a page loads, where it links to, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("prev", "next"):
            self.loads.append(found.get("href", ""))
        elif "src" in found:
            self.loads.append(found["src"])


@pytest.fixture(scope="session")
def parsed_pages(built_site: Path) -> dict[str, ParsedPage]:
    """All pages of the site, by their paths."""
    return {
        path: ParsedPage(page_file(built_site, path).read_text())
        for path in page_paths(built_site)
    }


def show_alone(page: Page, figure: str, name: str) -> None:
    """Show a figure that can be dragged, by its class, without the site around it."""
    theirs = [ROOT / "docs" / "assets" / each for each in ("site.css", *FIGURES[name])]
    files = [ROOT / "facing" / "src" / "facing" / "assets" / "literate.css", *theirs]
    styles = "".join(p.read_text() for p in files if p.suffix == ".css")
    page.set_content(
        f'<!doctype html><html lang="en"><title>{name}</title><style>{styles}</style>'
        f'<main class="md-typeset">{figure}</main>'
    )
    for path in files:
        if path.suffix == ".js":
            page.add_script_tag(content=path.read_text())


class Visit:
    """A page in a browser, with its errors and its requests."""

    def __init__(self, browser: Browser, scheme: str = "light") -> None:
        self.page = browser.new_page(
            viewport={"width": 1440, "height": 900}, color_scheme=scheme
        )
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._add_error)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))

    def _add_error(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def open(self, url: str, width: int = 1440) -> Page:
        """Go to an address, and wait for its fonts."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.goto(url)
        self.page.evaluate("document.fonts.ready.then(() => null)")
        return self.page

    def requests_elsewhere(self, url: str) -> list[str]:
        """Return the requests that went to another host than this address."""
        host = urlsplit(url).netloc
        return [
            each for each in self.requests if urlsplit(each).netloc not in (host, "")
        ]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A window of 1440 px on a light page."""
    visit = Visit(browser)
    yield visit
    visit.page.close()


@pytest.fixture(scope="session", params=["built_site", "standalone"])
def page_urls(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The addresses of all pages: of the site, and of the command."""
    folder = request.getfixturevalue(request.param)
    with serve(folder) as url:
        yield [url + path for path in page_paths(folder)]
