"""Who may import whom: the arrows point one way."""

import ast
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "labml_bcn"
LITERATE = sorted((PACKAGE / "literate").glob("*.py"))
EXPERIMENT = sorted((PACKAGE / "experiment").glob("*.py"))
LAYERS = sorted(PACKAGE.glob("*.py"))


def imports(path: Path) -> set[str]:
    """The modules that a file names, the standard library left out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


def inside(names: set[str], package: str) -> set[str]:
    return {n for n in names if n == package or n.startswith(package + ".")}


@pytest.mark.parametrize("path", LAYERS, ids=lambda p: p.stem)
def test_layers_import_torch_and_each_other(path):
    names = imports(path)
    allowed = inside(names, "torch") | inside(names, "labml_bcn")
    assert names == allowed
    assert not inside(names, "labml_bcn.experiment")
    assert not inside(names, "facing")


@pytest.mark.parametrize("path", LITERATE, ids=lambda p: p.stem)
def test_the_renderer_knows_no_norm_and_one_file_knows_mkdocs(path):
    names = imports(path)
    assert inside(names, "labml_bcn") == inside(names, "facing")
    assert not inside(names, "torch")
    assert bool(inside(names, "mkdocs")) == (path.name == "plugin.py")


@pytest.mark.parametrize("path", EXPERIMENT, ids=lambda p: p.stem)
def test_the_experiment_does_not_know_the_renderer(path):
    assert not inside(imports(path), "facing")
