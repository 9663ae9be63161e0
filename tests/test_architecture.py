"""Who may import whom: the arrows point one way, and never in a circle."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from helpers.paths import ROOT

import facing

# Where each package lies. Tests are files, and nobody's package.
PACKAGES = {
    "labml_bcn": ROOT / "labml_bcn",
    "facing": ROOT / "facing" / "src" / "facing",
    "website": ROOT / "website",
    "tools": ROOT / "tools",
}


@cache
def modules() -> dict[str, Path]:
    """Each module of ours by its name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import of a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def imported(path: Path) -> set[str]:
    """The modules that a file imports, the standard library left out."""
    return {
        f"{module}.{name}" if f"{module}.{name}" in modules() else module
        for module, name in imports(path)
        if module.split(".")[0] not in sys.stdlib_module_names
    }


def room(module: str) -> str:
    """The room that a module stands in."""
    if module.startswith(("labml_bcn.experiment.bench.", "labml_bcn.experiment.bench")):
        return "bench"
    if module.startswith("labml_bcn.experiment"):
        return "experiment"
    return module.split(".")[0]


# What each room may import: other rooms, and packages of others. Whatever is
# left out is forbidden.
ROOMS = {
    "labml_bcn": {"torch", "triton"},  # triton comes with torch for CUDA
    "experiment": {
        *("labml_bcn", "torch", "matplotlib", "cycler", "IPython"),
        *("platformdirs", "pooch", "tqdm"),
    },
    "bench": {"labml_bcn", "experiment", "torch"},
    "facing": {
        *("jinja2", "markdown", "markupsafe", "math_core", "pygments"),
        *("webcolors", "yaml"),
        *("mkdocs",),  # in one file, as a test below says
    },
    "website": {
        *("facing", "labml_bcn", "experiment", "bench", "torch", "matplotlib"),
        *("mkdocs", "mkdocs_jupyter", "jupytext", "nbclient", "nbconvert", "nbformat"),
        *("markdown", "pygments", "yaml"),
    },
    "tools": {"facing", "labml_bcn", "fontTools", "pytest", "yaml"},
}


@pytest.mark.parametrize("module", modules())
def test_a_room_imports_what_its_arrows_allow(module):
    names = imported(modules()[module])
    assert {room(name) for name in names} <= ROOMS[room(module)] | {room(module)}


# Inside the renderer, each level knows those above it in this list.
LEVELS = [
    {"facing.problem", "facing.placeholders", "facing.templating"},
    {"facing.read"},
    {"facing.text"},
    {"facing.feature", "facing.folds"},
    {"facing.page", "facing.features"},
    {"facing.book"},
    {"facing.cli", "facing.mkdocs", "facing.__main__"},
]


def level(module: str) -> int:
    """The level of a module of the renderer."""
    names = {module, ".".join(module.split(".")[:2])}
    (found,) = (n for n, level in enumerate(LEVELS) if level & names)
    return found


@pytest.mark.parametrize("module", [m for m in modules() if m.startswith("facing.")])
def test_the_renderer_is_built_in_levels(module):
    ours = {name for name in imported(modules()[module]) if room(name) == "facing"}
    above = [name for name in ours - {"facing"} if level(name) > level(module)]
    assert not above


def test_one_file_of_the_renderer_knows_mkdocs():
    knowing = {
        name
        for name, path in modules().items()
        if room(name) == "facing"
        and any(each.split(".")[0] == "mkdocs" for each in imported(path))
    }
    assert knowing == {"facing.mkdocs"}


@pytest.mark.parametrize("module", [m for m in modules() if room(m) == "website"])
def test_the_website_uses_the_renderers_public_names(module):
    used = {
        (other, name)
        for other, name in imports(modules()[module])
        if other.split(".")[0] == "facing"
    }
    assert used <= {("facing", name) for name in facing.__all__}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The circles of a graph, each as the path that closes it."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(graph.get(name, ())):
                walk(other, [*path, name])
            done.add(name)

    for name in graph:
        walk(name, [])
    return found


def test_no_import_goes_in_a_circle():
    graph = {name: imported(path) for name, path in modules().items()}
    assert cycles(graph) == []


def test_a_circle_would_be_seen():
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}
    assert cycles(graph) == [["a", "b", "c", "a"]]
    assert cycles(graph | {"c": {"d"}}) == []


def test_docs_holds_no_python():
    assert not [*(ROOT / "docs").rglob("*.py")]


def test_notebooks_and_layers_are_not_told_of_the_website():
    for path in [
        *(ROOT / "notebooks").glob("*.py"),
        *(ROOT / "labml_bcn").rglob("*.py"),
    ]:
        assert not {
            name for name in imported(path) if room(name) in ("website", "tools")
        }
