"""Execute notebooks, each only once for the same code, torch and images.

The outputs of a notebook are cached under all that they depend on, so that
words can be edited, here and in the package, without waiting for them again.
Beside them stands when and with what it was executed.
"""

import ast
import hashlib
import importlib.metadata
import json
import logging
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from mkdocs.exceptions import PluginError
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert.filters import strip_ansi
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

log = logging.getLogger("mkdocs.plugins.website")

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class ResultCache:
    """The cached outputs of a checkout's notebooks."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def data(self) -> Path | None:
        """The folder of the images, found by the loader's own rules."""
        return find_data()

    @cached_property
    def folder(self) -> Path:
        """The folder for results of this code, this torch and these images."""
        return self.root / ".cache" / "notebooks" / digest(self.root, self.data)

    def execute(self, path: Path) -> NotebookNode:
        """Return a notebook with the outputs of its code cells."""
        return with_outputs(jupytext.read(path), self.result(path)["outputs"])

    def result(self, path: Path) -> dict[str, Any]:
        """Return a notebook's outputs, a list for each code cell, and what made them.

        It is executed if that has not been done.
        """
        notebook = jupytext.read(path)
        cached = self.folder / f"{path.stem}-{code_digest(notebook)}.json"
        if not cached.exists():
            _write(cached, json.dumps(self._execute(notebook, path)))
        os.utime(cached)
        found: dict[str, Any] = json.loads(cached.read_text("utf-8"))
        return found

    def _execute(self, notebook: NotebookNode, path: Path) -> dict[str, Any]:
        # This imports torch, like `find_data`.
        from labml_bcn.experiment.environment import surroundings

        made_with = surroundings()
        # It tells of this build, and not of the notebook.
        del made_with["command"]
        if code_cells(notebook):
            log.info(
                "Executing notebooks/%s, for a minute or two; what it prints is "
                "kept in .cache",
                path.name,
            )
            execute(notebook, path, self.data)
        outputs = [cell.outputs for cell in code_cells(notebook)]
        return {"surroundings": made_with, "outputs": outputs}

    def prune(self, stem: str, keep: int = 4) -> None:
        """Remove all but the newest results of a notebook.

        A few stay, so that going back to other images, or to the code of
        another branch, does not execute it again.
        """
        cached = sorted(
            self.folder.parent.glob(f"*/{stem}-*.json"),
            key=lambda path: path.stat().st_mtime,
        )
        for path in cached[:-keep]:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()


def _write(path: Path, text: str) -> None:
    """Write a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, "utf-8")
    part.replace(path)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells of a notebook that are executed."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def with_outputs(notebook: NotebookNode, outputs: list[Any]) -> NotebookNode:
    """Return a notebook with these outputs, a list for each code cell."""
    pairs = zip(code_cells(notebook), outputs, strict=True)
    for number, (cell, each) in enumerate(pairs, start=1):
        cell.outputs = nbformat.from_dict(each)
        cell.execution_count = number
    return _without_random_names(notebook)


# ---- What a result depends on ----------------------------------------------


def digest(root: Path, data: Path | None) -> str:
    """Return a digest of the package's code, the version of torch, the images."""
    torch = importlib.metadata.version("torch")
    parts = torch, package_digest(root), images_digest(data)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def package_digest(root: Path) -> str:
    """Return a digest of the package's code.

    Comments and docstrings do not change a result, so they are left out. So
    are the benchmarks, which no notebook uses.
    """
    found = hashlib.sha256()
    package = root / "labml_bcn"
    for path in _modules(package):
        found.update(str(path.relative_to(package)).encode())
        found.update(_without_words(path.read_text("utf-8")).encode())
    return found.hexdigest()[:16]


def images_digest(data: Path | None) -> str:
    """Return a digest of the files of images, which is empty for none."""
    found = hashlib.sha256()
    for path in sorted(data.iterdir()) if data else []:
        found.update(path.name.encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16] if data else ""


def code_digest(notebook: NotebookNode) -> str:
    """Return a digest of a notebook's code."""
    text = json.dumps([cell.source for cell in code_cells(notebook)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _modules(package: Path) -> Iterator[Path]:
    unused = package / "experiment" / "bench"
    for path in sorted(package.rglob("*.py")):
        if not path.is_relative_to(unused):
            yield path


def _without_words(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def find_data() -> Path | None:
    """Return the folder of the images, or None if they cannot be downloaded."""
    # This imports torch: only a build that has notebooks should wait for it.
    from labml_bcn.experiment import cifar10

    try:
        return cifar10.find()
    except cifar10.DownloadError as error:
        cifar10.log.warning("%s The notebooks go on without it.", error)
        return None
    except (OSError, ValueError) as error:
        raise PluginError(str(error)) from None


# ---- Executing -------------------------------------------------------------


def execute(notebook: NotebookNode, path: Path, data: Path | None) -> None:
    """Execute a notebook's cells; a cell that fails is an error of the build."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=None,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute(env=_environment(path.parents[1], data))
    except (CellExecutionError, RuntimeError) as error:
        raise PluginError(
            f"notebooks/{path.name}: a cell failed\n{strip_ansi(str(error))}"
        ) from None
    CoalesceStreamsPreprocessor().preprocess(notebook, {})


def _environment(root: Path, data: Path | None) -> dict[str, str]:
    # The kernel imports this checkout and loads the images that the digest
    # was made of. Progress bars are for people who wait.
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else str(root),
        "LABML_BCN_DATA": str(data or ""),
        "LABML_BCN_DOWNLOAD": "0",
        "TQDM_DISABLE": "1",
    }


def _without_random_names(notebook: NotebookNode) -> NotebookNode:
    """Name cells by their order: jupytext names them at random."""
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        cell.metadata.pop("lines_to_next_cell", None)
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook
