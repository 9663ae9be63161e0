"""Recorded outputs stand in for images that a build does not have."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jupytext
import pytest
from helpers.paths import ROOT
from mkdocs.exceptions import PluginError
from nbformat import NotebookNode
from nbformat.v4 import new_output

from labml_bcn.experiment import runner
from labml_bcn.experiment.records import read_records, write_record
from website import notebook_records, notebook_results
from website.notebook_records import is_picture
from website.notebook_results import ResultCache

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
RECORDS = notebook_records.folder(ROOT)
CODE = "# %% [markdown]\n# # Title\n#\n# Words.\n\n# %%\nprint('here')\n"


def display(**forms: str) -> NotebookNode:
    return new_output(
        "display_data", {k.replace("_", "/"): v for k, v in forms.items()}
    )


# --- The records of this repository -----------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_record_of_a_notebook_fits_its_code(path):
    record = read_records(RECORDS)[path.stem]
    assert notebook_records.fits(record, jupytext.read(path)), (
        f"{path.name} has changed since its outputs were recorded: `make notebooks`"
    )
    assert "CIFAR-10" in record["images"]
    assert "not CIFAR-10" not in json.dumps(record["outputs"])


def test_no_record_holds_a_picture_or_much_text():
    for record in read_records(RECORDS).values():
        outputs = [output for cell in record["outputs"] for output in cell]
        assert not any(map(is_picture, outputs))
        assert not any(output.get("name") == "stderr" for output in outputs)
    assert sum(path.stat().st_size for path in RECORDS.iterdir()) < 500_000


# --- What is a picture ------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    [
        display(image_png="iVBORw0KGgo="),
        display(text_plain="<Figure>", image_jpeg="/9j/4AA="),
        display(**{"image_svg+xml": '<svg><image href="a.png"/></svg>'}),
        display(text_html="<figure><svg><g><IMAGE id='a'/></g></svg></figure>"),
        display(text_html='<img src="a.png">'),
        display(text_markdown="![](data:image/png;base64,iVBORw0KGgo=)"),
    ],
)
def test_what_has_pixels_is_left_out_of_a_record(output):
    [kept] = notebook_records.without_pictures([output])
    assert list(kept["data"]) == ["text/markdown"]
    assert "Recorded outputs hold no picture" in kept["data"]["text/markdown"]


@pytest.mark.parametrize(
    "output",
    [
        new_output("stream", text="a <image> in words"),
        display(text_html="<figure><svg><path d='M0 0'/></svg></figure>"),
        display(**{"image_svg+xml": "<svg><path d='M0 0'/></svg>"}),
        display(text_markdown="**12%** of the images"),
    ],
)
def test_text_and_drawings_are_recorded(output):
    assert notebook_records.without_pictures([output]) == [output]


# --- What a page shows ------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResultCache:
    """A checkout with one notebook, whose outputs on images are recorded."""
    (tmp_path / "labml_bcn").mkdir()
    (tmp_path / "labml_bcn" / "a.py").write_text("x = 1\n")
    (tmp_path / "notebooks").mkdir()
    write(tmp_path, CODE)

    def execute(notebook: NotebookNode, path: Path, data: Path | None) -> None:
        [cell] = notebook_results.code_cells(notebook)
        cell.outputs = [
            new_output("stream", text="on images" if data else "on stripes"),
            display(image_png="iVBORw0KGgo="),
        ]

    monkeypatch.setattr(notebook_results, "execute", execute)
    with_images = ResultCache(tmp_path)
    with_images.data = tmp_path / "notebooks"
    record = notebook_records.make(
        with_images, tmp_path / "notebooks/n.py", "a part of CIFAR-10", "c0ffee" * 7
    )
    write_record(notebook_records.folder(tmp_path), dict(record))
    without = ResultCache(tmp_path)
    without.data = None
    return without


def write(root: Path, code: str) -> None:
    (root / "notebooks" / "n.py").write_text(code)


def show(results: ResultCache) -> tuple[str, str]:
    """The words of the notebook, and what its cell of code printed."""
    words, code = notebook_records.show(
        results, results.root / "notebooks" / "n.py"
    ).cells
    return words.source, code.outputs[0].text


def test_without_images_the_record_is_shown_and_said_below_the_title(results):
    words, printed = show(results)
    assert printed == "on images"
    assert words.startswith(
        '# Title\n\n<div class="admonition note recorded" markdown>'
    )
    assert "Recorded outputs" in words
    assert "on a part of CIFAR-10, at commit `c0ffeec0ffee`" in words
    assert "../notebook_outputs/n.json" in words
    assert "LABML_BCN_DATA" in words
    assert "changed" not in words
    assert words.endswith("\n\nWords.")


def record_anew(results: ResultCache, **changes: Any) -> None:
    """Write another record in the place of the one that is there."""
    [record] = read_records(notebook_records.folder(results.root)).values()
    outputs = [[new_output("stream", text="as recorded")]]
    changed = record | {"outputs": outputs} | changes
    write_record(notebook_records.folder(results.root), changed)


def test_with_images_the_notebook_is_executed_for_the_pictures(results):
    results.data = results.root / "notebooks"
    words, printed = show(results)
    assert printed == "on images"
    assert words == "# Title\n\nWords."


def test_with_images_what_was_recorded_of_them_is_not_executed_again(results):
    results.data = results.root / "notebooks"
    record_anew(results)
    words, printed = show(results)
    assert printed == "as recorded"
    assert words == "# Title\n\nWords."


@pytest.mark.parametrize("name", ["code", "package", "data", "torch"])
def test_with_images_what_others_made_is_executed(results, name):
    results.data = results.root / "notebooks"
    [record] = read_records(notebook_records.folder(results.root)).values()
    other = {"surroundings": record["surroundings"] | {"torch": "1.0"}}
    record_anew(results, **(other if name == "torch" else {name: "other"}))
    assert show(results)[1] == "on images"


def test_other_words_leave_the_record_as_it_is(results):
    write(results.root, CODE.replace("Words.", "Better words."))
    words, printed = show(results)
    assert printed == "on images"
    assert "Better words." in words


def test_other_code_runs_on_the_stand_in_and_the_page_says_why(results):
    write(results.root, CODE.replace("here", "there"))
    words, printed = show(results)
    assert printed == "on stripes"
    assert "admonition warning" in words
    assert "the notebook has changed since its outputs" in words
    assert "the images are not" in words


def test_a_notebook_without_a_record_runs_on_the_stand_in_and_says_so(results):
    shutil.rmtree(notebook_records.folder(results.root))
    words, printed = show(results)
    assert printed == "on stripes"
    assert "no outputs of this notebook are recorded" in words


def test_a_page_says_that_the_package_has_changed_since(results):
    module = results.root / "labml_bcn" / "a.py"
    module.write_text('"""Words."""\nx = 1\n')
    assert "The package has changed since then" not in show(results)[0]
    module.write_text("x = 2\n")
    words, printed = show(results)
    assert printed == "on images"
    assert "The package has changed since then" in words


def test_a_record_that_a_hand_has_changed_is_no_record(results):
    path = notebook_records.folder(results.root) / "n.json"
    path.write_text(path.read_text().replace("on images", "on IMAGES"))
    with pytest.raises(PluginError, match=r"n\.json must have the SHA-256"):
        show(results)


# --- Recording --------------------------------------------------------------


def test_a_record_says_what_made_it_and_leaves_pictures_out(results):
    [record] = read_records(notebook_records.folder(results.root)).values()
    assert {"torch", "cpu", "time", "python"} <= set(record["surroundings"])
    assert "command" not in record["surroundings"]
    assert "iVBORw0KGgo=" not in json.dumps(record)
    [[printed, picture]] = record["outputs"]
    assert printed["text"] == "on images"
    assert "Recorded outputs hold no picture" in picture["data"]["text/markdown"]


def test_recording_needs_images(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["notebook_records"])
    monkeypatch.setattr(notebook_results, "find_data", lambda: None)
    with pytest.raises(SystemExit):
        notebook_records.main()
    assert "LABML_BCN_DATA to a folder that holds" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["labml_bcn", "notebooks"])
def test_a_record_is_made_by_a_commit(monkeypatch, capsys, tmp_path, changed):
    commit = "c0ffee" + "-changed" * (changed == "labml_bcn")
    monkeypatch.setattr(sys, "argv", ["notebook_records"])
    monkeypatch.setattr(notebook_results, "find_data", lambda: tmp_path)
    monkeypatch.setattr(runner, "current_commit", lambda: commit)
    monkeypatch.setattr(
        notebook_records, "_are_notebooks_changed", lambda: changed == "notebooks"
    )
    with pytest.raises(SystemExit):
        notebook_records.main()
    assert "Commit the changes, then record" in capsys.readouterr().err
