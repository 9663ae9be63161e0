"""What the site's search knows: what it leaves out, and readers' own words.

The theme's search asks for words that begin with those of a query, in titles, text
and tags. Before its worker stands website/search.js, which asks for the stems of
words, and puts first what has all of them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

from website.finish import without_comments

Entry = dict[str, Any]

# The tab whose pages no reader searches for.
INSIDE = "Internals"
# What has no heading is found by its name; a word means the page around it.
DETAIL = 0.3


@dataclass
class Scope:
    """The addresses of pages that the search leaves out, or reads in part."""

    hidden: set[str] = field(default_factory=set)
    from_code: set[str] = field(default_factory=set)

    def add(self, page: Page) -> None:
        """Take notice of a page of the navigation."""
        if any(section.title == INSIDE for section in page.ancestors):
            self.hidden.add(page.url)
        if page.file.src_uri.endswith(".py"):
            self.from_code.add(page.url)


def mend(site: Path, root: Path, scope: Scope) -> None:
    """Mend the index and the worker of a built site, as docs/search.yml says."""
    path = site / "search" / "search_index.json"
    declared = root / "docs" / "search.yml"
    if not path.exists() or not declared.exists():
        return
    index = json.loads(path.read_text("utf-8"))
    index["docs"] = improve(
        index["docs"], scope, yaml.safe_load(declared.read_text("utf-8"))
    )
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text, "utf-8")
    script = Path(__file__).with_name("search.js").read_text("utf-8")
    script = without_comments(script, ".js")
    for worker in (site / "assets" / "javascripts" / "workers").glob("search.*.js"):
        worker.write_text(f"{script}{worker.read_text('utf-8')}", "utf-8")


def improve(
    entries: list[Entry], scope: Scope, declared: Mapping[str, Any]
) -> list[Entry]:
    """Return the entries that readers look for, found by their words, too.

    A page that is made from code is found by what its notes say.
    """
    entries = [each for each in entries if _page(each) not in scope.hidden]
    for entry in entries:
        entry["boost"] = declared["boost"].get(_page(entry), 1)
        if _page(entry) in scope.from_code:
            entry["text"] = re.sub(r"<pre>.*?</pre>", "", entry["text"], flags=re.S)
            if _is_detail(entry):
                entry["boost"] *= DETAIL
    places = {entry["location"]: entry for entry in entries}
    for location, words in declared["words"].items():
        if location not in places:
            raise PluginError(
                f"docs/search.yml: there is no {location!r} among the pages and "
                "headings that can be found"
            )
        places[location]["tags"] = words
    return entries


def _is_detail(entry: Entry) -> bool:
    # Its title has no words of its own.
    name = r"(The (class|function|method) )?<code>\w+</code>"
    return re.fullmatch(name, entry["title"]) is not None


def _page(entry: Entry) -> str:
    return str(entry["location"]).partition("#")[0]
