"""Files as people write them, and the pages that facing makes of them."""

import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

from facing import Page, Problem, Source, build, read
from helpers.paths import ROOT

# Our own files, annotated and plain, which must render like anyone's.
OWN_FILES = [
    *sorted((ROOT / "labml_bcn").rglob("*.py")),
    *sorted((ROOT / "facing" / "src").rglob("*.py")),
]


def write(path: Path, text: str) -> Path:
    """Write a text, without the margin that its lines share in the test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip("\n"), "utf-8")
    return path


def source_of(tmp_path: Path, text: str | bytes) -> Source:
    path = tmp_path / "sample.py"
    if isinstance(text, str):
        write(path, text)
    else:
        path.write_bytes(text)
    return read(path)


def page_of(tmp_path: Path, text: str | bytes) -> Page:
    return build(source_of(tmp_path, text))


def rows_of(tmp_path: Path, text: str | bytes) -> list[tuple[str, str]]:
    """Each row as the text of its notes and the text of its code."""
    source = source_of(tmp_path, text)
    return [
        (
            "\n".join(line.text for note in row.notes for line in note),
            "\n".join(source.lines[n - 1] for n in row.code),
        )
        for row in source.rows
    ]


def note_of(tmp_path: Path, markdown: str) -> str:
    """The HTML of one note, with MATH for formulas."""
    body = page_of(tmp_path, f'r"""\n# T\n\n{markdown}\n"""\n').body
    body = body[body.index("</h1>") + len("</h1>\n") :]
    body = re.sub(r"<math\b.*?</math>", "MATH", body, flags=re.DOTALL)
    body = re.sub(r'<i id="L\d+"></i>', "", body)
    return re.sub(r"</div></section>.*", "", body, flags=re.DOTALL)


def messages(problems: Iterable[Problem]) -> list[str]:
    """Each problem with the name of its file."""
    return [f"{Path(p.path).name}:{p.line}: {p.message}" for p in problems]
