"""Notebooks as pages: executed once, drawn lean, offered for download.

mkdocs-jupyter finds the notebooks and makes them pages. Its conversion is
replaced by this file's: it brings 574 KB of styles to every page, leaves
formulas unrendered, and keeps results under the notebook's name alone, so
that they outlive the code they were computed with.
"""

import ast
import base64
import hashlib
import html
import importlib.metadata
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jupytext
import markdown
import nbformat
from facing.text.markdown_math import MathExtension
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert.filters import ansi2html, strip_ansi
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

MATH = "facing.text.markdown_math"


# ---- What a result depends on ---------------------------------------------


def results_folder(root: Path, data: Path | None) -> Path:
    """Return where results of this code, this torch and these images lie.

    Comments and docstrings do not change a result, so they are left out:
    writing a note does not execute a notebook again. Nor does the renderer.
    """
    digest = hashlib.sha256(importlib.metadata.version("torch").encode())
    package = root / "labml_bcn"
    for path in sorted(package.rglob("*.py")):
        if package / "literate" not in path.parents:
            digest.update(str(path.relative_to(package)).encode())
            digest.update(_without_words(path.read_text("utf-8")).encode())
    for path in sorted(data.iterdir()) if data else []:
        digest.update(path.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return root / ".cache" / "notebooks" / digest.hexdigest()[:16]


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
    """Return the folder of the images, by the loader's own rules."""
    # This imports torch: only a build that has notebooks should wait for it.
    from labml_bcn.experiment import cifar10

    try:
        return cifar10.find()
    except cifar10.DownloadError as error:
        cifar10.log.warning("%s The notebooks go on without it.", error)
        return None
    except (OSError, ValueError) as error:
        raise PluginError(str(error)) from None


# ---- Executing ------------------------------------------------------------


def executed(path: Path, folder: Path, data: Path | None) -> NotebookNode:
    """Return the notebook with the outputs of its code.

    They are kept under the code alone, so that its prose can be edited
    without waiting for it.
    """
    notebook = jupytext.read(path)
    code = [each for each in notebook.cells if each.cell_type == "code"]
    text = json.dumps([each.source for each in code])
    name = f"{path.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    kept = folder / f"{name}.json"
    if not kept.exists():
        _execute(notebook, path, data)
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part")
        part.write_text(json.dumps([each.outputs for each in code]), "utf-8")
        part.replace(kept)
    os.utime(kept)
    outputs = json.loads(kept.read_text("utf-8"))
    for number, (cell, each) in enumerate(zip(code, outputs, strict=True), start=1):
        cell.outputs = nbformat.from_dict(each)
        cell.execution_count = number
    return _settled(notebook)


def _execute(notebook: NotebookNode, path: Path, data: Path | None) -> None:
    # The kernel finds this checkout first, and the same images as the name
    # of the result's folder says. Progress bars are for people who wait.
    root = str(path.parents[1])
    known = os.environ.get("PYTHONPATH")
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=None,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute(
            env={
                **os.environ,
                "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root,
                "LABML_BCN_DATA": str(data or ""),
                "LABML_BCN_DOWNLOAD": "0",
                "TQDM_DISABLE": "1",
            }
        )
    except (CellExecutionError, RuntimeError) as error:
        raise PluginError(
            f"notebooks/{path.name}: a cell failed\n{strip_ansi(str(error))}"
        ) from None
    CoalesceStreamsPreprocessor().preprocess(notebook, {})


def _settled(notebook: NotebookNode) -> NotebookNode:
    # Cells are named anew, and at random, each time a notebook is read.
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        cell.metadata.pop("lines_to_next_cell", None)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def prune(root: Path, stem: str, keep: int = 4) -> None:
    """Remove all but the newest results of a notebook.

    A few stay, so that going back to other images, or to the code of another
    branch, does not execute it again.
    """
    folder = root / ".cache" / "notebooks"
    kept = sorted(
        folder.glob(f"*/{stem}-*.json"), key=lambda path: path.stat().st_mtime
    )
    for path in kept[:-keep]:
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


# ---- Drawing --------------------------------------------------------------


@dataclass
class Page:
    """A notebook as HTML, with its headings and the images beside it."""

    html: str
    headings: list[Any] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)


def draw(
    notebook: NotebookNode,
    config: MkDocsConfig,
    link: Callable[[str], str],
    warn: Callable[[str], None],
) -> Page:
    """Return the page: Markdown as everywhere on this site, code, outputs.

    `link` turns the address of a source file into that of its page, and
    `warn` is told of a formula that does not parse.
    """
    md = markdown.Markdown(
        extensions=[
            *(each for each in config.markdown_extensions if each != MATH),
            MathExtension(
                report=lambda line, message: warn(message),
                **config.mdx_configs.get(MATH, {}),
            ),
        ],
        extension_configs=config.mdx_configs,
    )
    # All cells are one document, or each would number its headings anew.
    # Code leaves a paragraph of its own, which is replaced afterwards.
    blocks: dict[str, str] = {}
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            token = f"\ue010{len(blocks)}\ue011"
            blocks[f"<p>{token}</p>"] = _code(cell, md)
            parts.append(token)
    text = md.convert("\n\n".join(parts))
    headings = list(md.toc_tokens)  # type: ignore[attr-defined]
    text = re.sub(
        r'(<a [^>]*?href=")([^"#:]+\.(?:py|md)(?:#[^"]*)?)"',
        lambda m: f'{m[1]}{html.escape(link(m[2]))}"',
        text,
    )
    for token, block in blocks.items():
        text = text.replace(token, block)
    text, images = _beside(text)
    return Page(f'<div class="notebook">\n{text}\n</div>', headings, images)


def _beside(text: str) -> tuple[str, dict[str, bytes]]:
    """Put images into files of their own: they do not compress."""
    images = {}

    def named(match: re.Match[str]) -> str:
        data = base64.b64decode(match[1])
        name = hashlib.sha256(data).hexdigest()[:12] + ".png"
        images[name] = data
        return f'"{name}"'

    found = re.compile(r'"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)"')
    return found.sub(named, text), images


def _code(cell: NotebookNode, md: markdown.Markdown) -> str:
    formatter: HtmlFormatter[str] = HtmlFormatter(cssclass="highlight", wrapcode=True)
    source = highlight(cell.source, PythonLexer(), formatter)
    outputs = "\n".join(_output(each, md) for each in cell.outputs)
    if outputs:
        # Numbers and the words of a plot would drown what people search.
        outputs = (
            f'<section class="output" data-search-exclude="true">{outputs}</section>'
        )
    return f'<div class="input">{source}</div>\n{outputs}'


def _output(output: NotebookNode, md: markdown.Markdown) -> str:
    if output.output_type == "stream":
        return _text(output.text)
    draw: dict[str, Callable[[str], str]] = {
        "text/html": str,
        "image/svg+xml": lambda svg: f"<figure>{svg}</figure>",
        "image/png": _png,
        "text/markdown": md.convert,
        "text/plain": _text,
    }
    for kind, function in draw.items():
        if kind in output.data:
            return function(output.data[kind])
    return ""


def _text(text: str) -> str:
    return f'<pre class="no-copy"><code>{ansi2html(text)}</code></pre>'


def _png(data: str) -> str:
    code = base64.b64encode(base64.b64decode(data)).decode()
    return f'<img alt="" src="data:image/png;base64,{code}">'
