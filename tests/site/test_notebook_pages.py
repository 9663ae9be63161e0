"""A notebook is Markdown with outputs, which MkDocs renders as a page."""

import base64
import json

import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from facing import fill
from website import notebook_pages
from website.notebook_pages import NotebookPage

PNG = base64.b64encode(b"\x89PNG some image").decode()


def convert(*outputs: nbformat.NotebookNode, code: str = "x = 1") -> NotebookPage:
    """A page of one cell of code, with these outputs."""
    notebook = new_notebook(cells=[new_code_cell(code, outputs=list(outputs))])
    return notebook_pages.convert(notebook, "n")


def display(**data: str) -> nbformat.NotebookNode:
    """What a cell displays, in forms such as `text_html`."""
    forms = {name.replace("_", "/"): text for name, text in data.items()}
    return new_output("display_data", forms)


def to_html(page: NotebookPage) -> str:
    return fill(page.markdown, {"output": page.output})


def test_words_stay_and_code_stands_in_fences():
    text = "# %% [markdown]\n# # Title\n# Mean $\\mu$, [it](../a.py#b).\n# %%\nx = 1\n"
    page = notebook_pages.convert(jupytext.reads(text, fmt="py:percent"), "n")
    assert page.markdown == (
        "# Title\nMean $\\mu$, [it](../a.py#b).\n\n```python\nx = 1\n```"
    )
    assert page.outputs == []


def test_a_fence_is_longer_than_those_in_the_code():
    assert convert(code="s = '''\n````\n'''").markdown.startswith("`````python\n")


@pytest.mark.parametrize("tag", ["plot", "say"])
def test_code_that_only_shows_is_folded_and_open_without_script(tag):
    text = f'# %%\nx = 1\n\n# %% tags=["{tag}"]\nplot(x)\n'
    page = notebook_pages.convert(jupytext.reads(text, fmt="py:percent"), "n")
    before, _, folded = page.markdown.partition("<details")
    assert "x = 1" in before
    assert folded.startswith(' class="fold" open')
    assert "```python\nplot(x)\n```" in folded


def test_a_placeholder_stands_for_each_output():
    page = convert(
        new_output("stream", text="1 < 2\n"),
        display(text_plain="x", text_html="<b>x</b>"),
    )
    assert "<!-- output: 0 -->\n\n<!-- output: 1 -->" in page.markdown
    assert '<pre class="no-copy"><code>1 &lt; 2\n</code></pre>' in to_html(page)
    assert "<b>x</b>" in to_html(page)
    assert 'data-search-exclude="true"' in page.markdown


def test_an_output_in_markdown_is_markdown():
    page = convert(display(text_plain="<object>", text_markdown="*so*"))
    assert "\n\n*so*\n\n" in page.markdown
    assert page.outputs == []


@pytest.mark.parametrize(
    "output",
    [
        display(image_png=PNG),
        display(text_html=f'<img src="data:image/png;base64,{PNG}">'),
    ],
    ids=["a png", "a png in html"],
)
def test_images_are_files_beside_the_page(output):
    page = convert(output)
    [name] = (name for name in page.files if name.endswith(".png"))
    assert page.files[name] == base64.b64decode(PNG)
    assert f'src="{name}"' in to_html(page)
    assert "base64" not in to_html(page)


def test_the_notebook_is_offered_with_its_outputs():
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# One"),
            new_code_cell("1", outputs=[new_output("stream", text="1")]),
        ]
    )
    page = notebook_pages.convert(notebook, "one")
    download = nbformat.from_dict(json.loads(page.files["one.ipynb"]))
    nbformat.validate(download)
    assert download.cells == notebook.cells
    assert 'href="one.ipynb"' in notebook_pages.downloads("one")
    assert 'href="one.py"' in notebook_pages.downloads("one")
