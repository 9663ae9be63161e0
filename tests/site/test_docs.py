"""What the pages tell people to type, typed."""

import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "docs" / "use.md"]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_the_python_on_a_page_runs(path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)
    assert blocks
    exec(compile("\n".join(blocks), path.name, "exec"), {})


def test_the_readmes_tree_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text()
    tree = text.split("## The tree")[1].split("```")[1]
    named = set(re.findall(r"[\w./-]+\.py\b", tree))
    package = ROOT / "labml_bcn"
    modules = {p.name for p in package.rglob("*.py") if not p.name.startswith("__")}
    assert modules <= {Path(name).name for name in named}
    for name in named:
        assert list(ROOT.glob(f"**/{Path(name).name}")), name
