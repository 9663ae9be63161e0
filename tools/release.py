"""Tell whether a tag may be released, and print its part of the changelog.

`python tools/release.py v0.2.0` is what the release workflow asks before it
builds anything.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def version(init: str) -> str:
    """Return the version that a package's `__init__.py` states."""
    found = re.search(r'^__version__ = "(.+)"$', init, re.MULTILINE)
    if not found:
        raise ValueError("the package must state its __version__, but does not")
    return found[1]


def notes(tag: str, init: str, changelog: str) -> str:
    """Return what the changelog says of a tag's version.

    Raises ValueError if the tag is not the version, or the changelog does not
    know it.
    """
    stated = version(init)
    if tag != f"v{stated}":
        raise ValueError(
            f"the tag must be v{stated}, the version that labml_bcn states, got "
            f"{tag}; change __version__ or the tag"
        )
    section = re.search(
        rf"^## \[{re.escape(stated)}\].*?\n(.*?)(?=^## |\Z)",
        changelog,
        re.MULTILINE | re.DOTALL,
    )
    if not section or not section[1].strip():
        raise ValueError(
            f"CHANGELOG.md must have a section [{stated}] with text, but has none; "
            "rename [Unreleased]"
        )
    return section[1].strip() + "\n"


def main(arguments: list[str]) -> int:
    """Print the notes of the tag that is named."""
    if len(arguments) != 1:
        print("usage: python tools/release.py TAG", file=sys.stderr)
        return 2
    init = (ROOT / "labml_bcn" / "__init__.py").read_text("utf-8")
    try:
        text = notes(arguments[0], init, (ROOT / "CHANGELOG.md").read_text("utf-8"))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
