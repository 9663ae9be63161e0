"""The glossary's table of symbols, with links to every place of each."""

from itertools import groupby
from pathlib import Path

from labml_bcn.literate.symbols import Symbol, Table

HEAD = """\
| symbol | in the code | meaning | shape | places |
| --- | --- | --- | --- | --- |
"""


def markdown(table: Table | None) -> str:
    """Return the symbols in the order of their file, as Markdown."""
    assert table, "mkdocs.yml names docs/symbols.yml"
    return HEAD + "\n".join(map(_row, table.symbols))


def _row(symbol: Symbol) -> str:
    names = {name: 0 for given in symbol.names.values() for name in given}
    cells = (
        ", ".join(f"${latex}$" for latex in symbol.latex),
        ", ".join(f"`{name}`" for name in names),
        f"*{symbol.say}*: {symbol.meaning}",
        f"`{symbol.shape}`" if symbol.shape else "",
        _places(symbol),
    )
    return f"| {' | '.join(cells)} |"


def _places(symbol: Symbol) -> str:
    places = sorted({(path, line) for path, line, _ in symbol.uses})
    pages = [
        f"{path.stem.replace('_', ' ')} {_lines(path, [n for _, n in found])}"
        for path, found in groupby(places, lambda place: place[0])
    ]
    count = f"{len(places)} line{'s' * (len(places) > 1)}"
    return (
        f'<details class="places"><summary>{count}</summary>'
        f"{'; '.join(pages)}</details>"
    )


def _lines(path: Path, lines: list[int]) -> str:
    return ", ".join(f"[{n}]({path.as_posix()}#L{n})" for n in lines)
