"""The glossary's table of symbols, with links to every line of each."""

from pathlib import Path

from facing import Symbol, SymbolTable

HEAD = """\
| symbol | in the code | meaning, and where it stands | shape |
| --- | --- | --- | --- |
"""


def markdown(table: SymbolTable | None) -> str:
    """Return a table of the symbols, in the order in which they are declared."""
    assert table, "mkdocs.yml names docs/symbols.yml"
    return HEAD + "\n".join(_row(each, table) for each in table.symbols)


def _row(symbol: Symbol, table: SymbolTable) -> str:
    names = {name: 0 for given in symbol.names.values() for name in given}
    cells = (
        ", ".join(f"${latex}$" for latex in symbol.latex),
        ", ".join(f"`{name}`" for name in names),
        f"*{symbol.say}*: {symbol.meaning} {_line_links(symbol, table)}",
        f"`{symbol.shape}`" if symbol.shape else "",
    )
    return f"| {' | '.join(cells)} |"


def _line_links(symbol: Symbol, table: SymbolTable) -> str:
    lines: dict[Path, set[int]] = {path: set() for path in table.paths}
    for path, line, _ in symbol.uses:
        lines[path].add(line)
    count = sum(map(len, lines.values()))
    pages = "; ".join(
        f"{path.stem.replace('_', ' ')} {_links(path, sorted(found))}"
        for path, found in lines.items()
        if found
    )
    summary = f"<summary>{count} line{'s' * (count > 1)}</summary>"
    return (
        f'<details class="places" data-search-exclude="true">{summary}{pages}</details>'
    )


def _links(path: Path, lines: list[int]) -> str:
    return ", ".join(f"[{n}]({path.as_posix()}#L{n})" for n in lines)
