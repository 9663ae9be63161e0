"""Lint and format at the right width: `make check` and `make format`.

A page's code column holds 78 columns, so the annotated files in mkdocs.yml's
navigation are that narrow. All other Python is 88 columns wide. ruff knows one
width for a folder, so it is called twice.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE_WIDTH = "78"


def pages() -> list[str]:
    """Return the annotated files in mkdocs.yml's `nav`, notebooks left out."""
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    found = re.findall(r": (?!notebooks/)(\S+\.py)$", nav, re.MULTILINE)
    if not found:
        sys.exit("mkdocs.yml must lead to the annotated files in `nav:`, but has none")
    return found


def ruff(*arguments: str) -> bool:
    """Run ruff in the project, and return whether it was content."""
    command = [sys.executable, "-m", "ruff", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main(arguments: list[str]) -> int:
    """Check the style, or with `--fix` mend what ruff can mend."""
    if arguments not in ([], ["--fix"]):
        sys.exit(f"usage: python tools/style.py [--fix], got {' '.join(arguments)}")
    fix = ["--fix"] if arguments else []
    check = [] if arguments else ["--check"]
    narrow = ["--line-length", PAGE_WIDTH]
    annotated = pages()
    others = [f"--exclude={path}" for path in annotated]
    passed = [
        ruff("check", *fix, "."),
        ruff("check", *narrow, "--select", "E501", *annotated),
        ruff("format", *check, *others, "."),
        ruff("format", *check, *narrow, *annotated),
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
