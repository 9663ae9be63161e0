"""A notebook as Markdown with outputs.

MkDocs renders the Markdown like that of any other page: words as they are, and
code in fences. A placeholder stands for each output, until the HTML of the page
is there.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from nbconvert.filters import ansi2html
from nbformat import NotebookNode


@dataclass
class NotebookPage:
    """A notebook's Markdown, its outputs as HTML, and the files beside it."""

    markdown: str = ""
    outputs: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def output(self, number: str) -> str:
        """Return what stands for `<!-- output: number -->`."""
        return self.outputs[int(number)]


def convert(notebook: NotebookNode, name: str) -> NotebookPage:
    """Return an executed notebook as a page; `name` is that of its download."""
    page = NotebookPage()
    blocks = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            blocks.append(cell.source)
        elif cell.cell_type == "code":
            blocks += [_code(cell), *_outputs(cell.outputs, page)]
    page.markdown = "\n\n".join(blocks)
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    page.files[f"{name}.ipynb"] = f"{text}\n".encode()
    return page


def downloads(name: str) -> str:
    """Return the line that offers the notebook's files."""
    return (
        f'<p class="downloads">Download: <a href="{name}.py" download>'
        f'Python file</a>, <a href="{name}.ipynb" download>notebook with '
        "outputs</a>. Both run where the package is installed.</p>"
    )


# The tags of cells whose code is folded, and what is written in its place. Without
# the script it stays open: what is folded can always be read.
FOLDED = {"plot": "Code of the plot", "say": "Code of the sentence"}
FOLD = (
    '<details class="fold" open markdown>\n<summary>{summary}</summary>\n\n{code}'
    "\n\n</details>\n"
    "<script>document.currentScript.previousElementSibling.open = false</script>"
)


def _code(cell: NotebookNode) -> str:
    """Return a cell's code; that of a cell with a tag of `FOLDED` can be unfolded.

    In a notebook's Python file such a cell begins with `# %% tags=["plot"]`.
    """
    code = _fence(cell.source)
    for tag in cell.metadata.get("tags", []):
        if summary := FOLDED.get(tag):
            return FOLD.format(summary=summary, code=code)
    return code


def _fence(code: str) -> str:
    # Longer than any fence within.
    fence = max(["``", *re.findall("`{3,}", code)], key=len) + "`"
    return f"{fence}python\n{code}\n{fence}"


def _outputs(outputs: list[NotebookNode], page: NotebookPage) -> Iterator[str]:
    if outputs:
        # Numbers and the words of a plot would drown what people search.
        yield '<section class="output" data-search-exclude="true" markdown>'
        yield from (_output(output, page) for output in outputs)
        yield "</section>"


def _output(output: NotebookNode, page: NotebookPage) -> str:
    """Return one output: as Markdown, or as a placeholder for its HTML."""
    data = output.get("data", {})
    if "text/markdown" in data and "text/html" not in data:
        return str(data["text/markdown"])
    page.outputs.append(_to_html(output, page.files))
    return f"<!-- output: {len(page.outputs) - 1} -->"


def _to_html(output: NotebookNode, files: dict[str, bytes]) -> str:
    """Return an output in the richest form that a page can show."""
    if output.output_type == "stream":
        return _text(output.text)
    forms: dict[str, Callable[[str], str]] = {
        "text/html": lambda html: _images_to_files(html, files),
        "image/svg+xml": lambda svg: f"<figure>{svg}</figure>",
        "image/png": lambda png: f'<img alt="" src="{_add_image(png, files)}">',
        "text/plain": _text,
    }
    for kind, to_html in forms.items():
        if kind in output.data:
            return to_html(output.data[kind])
    return ""


def _text(text: str) -> str:
    return f'<pre class="no-copy"><code>{ansi2html(text)}</code></pre>'


def _images_to_files(html: str, files: dict[str, bytes]) -> str:
    """Put images into files of their own: they do not compress."""
    image = re.compile(r'"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)"')
    return image.sub(lambda match: f'"{_add_image(match[1], files)}"', html)


def _add_image(base64_png: str, files: dict[str, bytes]) -> str:
    data = base64.b64decode(base64_png)
    name = hashlib.sha256(data).hexdigest()[:12] + ".png"
    files[name] = data
    return name
