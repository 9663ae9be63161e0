"""What the pages tell people to type, typed."""

import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "docs" / "use.md"]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_the_python_on_a_page_runs_and_prints_what_the_page_says(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = path.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert blocks
    exec(compile("\n".join(blocks), path.name, "exec"), {})
    printed = capsys.readouterr().out
    for text in re.findall(r"^```text\n(.*?)^```", page, re.M | re.S):
        assert text in printed


def listed_paths(tree: str) -> set[str]:
    """The paths of a tree drawn with indentation, of files and folders."""
    found: set[str] = set()
    folders: list[tuple[int, str]] = []
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        names = re.match(r"[\w./, -]+?(?=  |$)", line.strip())
        while folders and folders[-1][0] >= indent:
            folders.pop()
        above = folders[-1][1] if folders else ""
        for name in names[0].split(", ") if names else ():
            found.add(above + name)
            if name.endswith("/"):
                folders.append((indent, above + name))
    return found


def test_the_readmes_tree_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text()
    listed = listed_paths(text.split("## The tree")[1].split("```")[1])
    rooms = ("labml_bcn", "facing/src", "website", "tools")
    modules = {
        path.relative_to(ROOT).as_posix()
        for room in rooms
        for path in (ROOT / room).rglob("*.py")
        if not path.name.startswith("__")
    }
    in_folders = {name for name in listed if "/" in name}
    assert {name for name in in_folders if name.endswith(".py")} == modules
    for name in listed:
        assert (ROOT / name).exists(), name
