"""Notebooks are executed once for the same code, torch and images."""

import importlib.metadata
import shutil
from pathlib import Path

import pytest
from helpers.paths import ROOT
from mkdocs.exceptions import PluginError

from website.notebook_results import ResultCache, digest


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "labml_bcn", tmp_path / "labml_bcn")
    return tmp_path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "test_batch.bin").write_bytes(b"some images")
    return folder


def cache_in(root: Path) -> ResultCache:
    """A cache of notebooks that use no images."""
    cache = ResultCache(root)
    cache.data = None
    return cache


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


# --- What a result depends on -----------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("batch_norm.py", "momentum: float = 0.1", "momentum: float = 0.2"),
        ("weight_standardization.py", "factor**0.5", "factor**0.6"),
        ("experiment/state.py", "5e-4", "6e-4"),
        ("experiment/vgg.py", "padding=1", "padding=2"),
    ],
)
def test_a_change_in_code_executes_again(checkout, data, name, old, new):
    before = digest(checkout, data)
    edit(checkout / "labml_bcn" / name, old, new)
    assert digest(checkout, data) != before


def test_a_change_in_words_does_not(checkout, data):
    before = digest(checkout, data)
    layer = checkout / "labml_bcn" / "batch_norm.py"
    edit(layer, "Batch normalization gives every", "It gives every")
    edit(layer, "# Evaluation uses the", "# Testing uses the")
    edit(checkout / "labml_bcn/experiment/bench/naive.py", "return", "yield")
    assert digest(checkout, data) == before


def test_other_images_execute_again(checkout, data):
    before = digest(checkout, data)
    (data / "test_batch.bin").write_bytes(b"other images")
    after = digest(checkout, data)
    without = digest(checkout, None)
    assert len({before, after, without}) == 3


def test_another_torch_executes_again(checkout, data, monkeypatch):
    before = digest(checkout, data)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
    assert digest(checkout, data) != before


def test_only_the_newest_results_are_kept(tmp_path):
    for n in range(6):
        path = tmp_path / ".cache" / "notebooks" / f"k{n}" / f"one-{n}.json"
        path.parent.mkdir(parents=True)
        path.write_text("[]")
    other = tmp_path / ".cache" / "notebooks" / "k0" / "two-0.json"
    other.write_text("[]")
    cache_in(tmp_path).prune("one", keep=4)
    left = list((tmp_path / ".cache").rglob("one-*.json"))
    assert len(left) == 4
    assert other.exists()


# --- Executing --------------------------------------------------------------


def write(folder: Path, *cells: str) -> Path:
    path = folder / "notebooks" / "n.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n\n".join(cells) + "\n")
    return path


@pytest.mark.slow
def test_a_notebook_runs_once_until_its_code_changes(tmp_path):
    mark = tmp_path / "ran"
    count = f"open({str(mark)!r}, 'a').write('x'); print(6 * 7)"
    cache = cache_in(tmp_path)

    def run(words: str, code: str) -> str:
        path = write(tmp_path, f"# %% [markdown]\n# {words}", f"# %%\n{code}")
        notebook = cache.execute(path)
        assert notebook.cells[0].source == words
        return notebook.cells[1].outputs[0].text

    assert run("One.", count) == "42\n"
    assert run("Two.", count) == "42\n"
    assert mark.read_text() == "x"
    assert run("Two.", count.replace("7", "8")) == "48\n"
    assert mark.read_text() == "xx"


@pytest.mark.slow
def test_a_failing_cell_stops_the_build_and_names_the_notebook(tmp_path):
    path = write(tmp_path, "# %%\nraise ValueError('as it must')")
    with pytest.raises(PluginError, match=r"notebooks/n\.py.*\n") as caught:
        cache_in(tmp_path).execute(path)
    assert "as it must" in str(caught.value)
    assert not list((tmp_path / ".cache").rglob("*.json"))
