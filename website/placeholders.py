"""What was recorded, put into a page where it says so."""

import re
from collections.abc import Callable, Mapping
from typing import Any

Kinds = Mapping[str, Callable[..., str]]


def put(markdown: str, kinds: Kinds, load: Callable[[str], Any]) -> str:
    """Replace `<!-- kind: name, more -->` by what `kinds[kind]` makes of it.

    It is given what `load` finds under the name, and `more`.
    """

    def replaced(match: re.Match[str]) -> str:
        kind, name, more = match.groups()
        return kinds[kind](load(name), *more.split(", ")[1:])

    return re.sub(r"<!-- (\w+): ([\w-]+)([\w, ]*) -->", replaced, markdown)


def row(*cells: str) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(cells) + " |"
