"""Put what is made at build into a page of prose.

A page says where something goes by a comment, of one grammar for all kinds:

    <!-- kind -->
    <!-- kind: name -->
    <!-- kind: name, word, word -->
"""

import re
from collections.abc import Callable, Mapping

_WORD = r"\w(?:[\w -]*\w)?"
_PLACEHOLDER = re.compile(
    rf"<!--\s*(?P<kind>[\w-]+)(?:\s*:\s*(?P<words>{_WORD}(?:\s*,\s*{_WORD})*))?\s*-->"
)


def fill(markdown: str, kinds: Mapping[str, Callable[..., str]]) -> str:
    """Replace each placeholder by what its kind makes of its words.

    A placeholder with no words calls its kind with no argument. A comment whose
    kind is not among `kinds` is a comment, and stays.
    """

    def replace(match: re.Match[str]) -> str:
        make = kinds.get(match["kind"])
        if make is None:
            return match[0]
        words = (match["words"] or "").split(",")
        return make(*(word.strip() for word in words if word))

    return _PLACEHOLDER.sub(replace, markdown)


def kinds_in(markdown: str) -> set[str]:
    """Return the kinds of all placeholders in a text."""
    return {match["kind"] for match in _PLACEHOLDER.finditer(markdown)}
