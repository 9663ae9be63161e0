"""Outputs of the notebooks on real images, kept for builds without the images.

`make notebooks` executes the notebooks on CIFAR-10 and records what they print and
draw. **A picture is never recorded:** the images are not ours to hand on. What counts
as one is anything with pixels in it, be it a raster image or one inside of a drawing.

A build that has the images executes a notebook, unless its record was made by the same
code and torch, of the same images, and lacks no picture. One that has none shows what
was recorded, as long as a notebook's code is that of the record; or else it executes
the notebook on the stand-in. Either page says below its title what it shows.
"""

import argparse
import importlib.metadata
import json
import subprocess
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.exceptions import PluginError
from nbformat import NotebookNode

from website.notebook_results import (
    ResultCache,
    code_digest,
    images_digest,
    package_digest,
    with_outputs,
)

Record = Mapping[str, Any]

ROOT = Path(__file__).resolve().parents[1]
RUN_IT = (
    "To run it yourself on the images, set `LABML_BCN_DATA` to a folder that holds"
    " `cifar-10-batches-bin`, or `LABML_BCN_DOWNLOAD=1` to download it (170 MB), and"
    " call `make lab`."
)


def folder(root: Path) -> Path:
    """Return where a checkout keeps its records."""
    return root / "docs" / "notebook_outputs"


# ---- What a page shows -----------------------------------------------------


def show(results: ResultCache, path: Path) -> NotebookNode:
    """Return a notebook with outputs, and a note if they are not its own on images."""
    notebook = jupytext.read(path)
    record = _read(results.root).get(path.stem)
    if record and fits(record, notebook):
        notebook = with_outputs(notebook, record["outputs"])
        if not results.data:
            changed = record["package"] != package_digest(results.root)
            return _below_title(notebook, _recorded(record, changed))
        if is_its_own(record, results):
            return notebook
    executed = results.execute(path)
    if results.data:
        return executed
    return _below_title(executed, _on_the_stand_in(record))


def is_its_own(record: Record, results: ResultCache) -> bool:
    """Return whether this code, torch and images made a record, pictures and all."""
    return (
        record["package"] == package_digest(results.root)
        and record["data"] == images_digest(results.data)
        and record["surroundings"]["torch"] == importlib.metadata.version("torch")
        and not any(_sentence() in outputs for outputs in record["outputs"])
    )


def fits(record: Record, notebook: NotebookNode) -> bool:
    """Return whether a notebook's code is still that of its record."""
    return bool(record["code"] == code_digest(notebook))


def _read(root: Path) -> Mapping[str, Record]:
    # This imports torch: only a build that has notebooks should wait for it.
    from labml_bcn.experiment.records import read_records

    try:
        return read_records(folder(root))
    except ValueError as error:
        raise PluginError(str(error)) from None


def _below_title(notebook: NotebookNode, note: str) -> NotebookNode:
    first = notebook.cells[0]
    title, _, text = first.source.partition("\n")
    if first.cell_type == "markdown" and title.startswith("# "):
        first.source = f"{title}\n\n{note}\n{text}"
    return notebook


def _recorded(record: Record, changed: bool) -> str:
    made_with = record["surroundings"]
    day = f"{datetime.fromisoformat(made_with['time']):%d %B %Y}".lstrip("0")
    name = record["name"]
    since = (
        "\n\n**The package has changed since then**, and may compute other numbers now."
        if changed
        else ""
    )
    return _note(
        "note",
        "Recorded outputs",
        f"This site was built without CIFAR-10. What stands below the code was"
        f" [recorded](../notebook_outputs/{name}.json) on {day}, on"
        f" {record['images']}, at commit `{record['commit'][:12]}`, with torch"
        f" {made_with['torch']} ({made_with['cpu']}, {made_with['cores']} cores)."
        f" {RUN_IT}{since}",
    )


def _on_the_stand_in(record: Record | None) -> str:
    why = (
        f"the notebook has changed since its outputs on {record['images']} were"
        f" recorded (at commit `{record['commit'][:12]}`)"
        if record
        else "no outputs of this notebook are recorded"
    )
    return _note(
        "warning",
        "Outputs on a stand-in",
        f"This site was built without CIFAR-10, and {why}. So the notebook ran on"
        " drawn stripes: the numbers are real, the images are not, and what the text"
        f" says of photographs need not hold for them. {RUN_IT}",
    )


def _note(kind: str, title: str, text: str) -> str:
    return (
        f'<div class="admonition {kind} recorded" markdown>\n'
        f'<p class="admonition-title">{title}</p>\n\n{text}\n</div>\n'
    )


# ---- Recording -------------------------------------------------------------


def without_pictures(outputs: Iterable[Any]) -> list[Any]:
    """Return outputs with a sentence in the place of each picture."""
    return [_sentence() if is_picture(each) else each for each in outputs]


def is_picture(output: Mapping[str, Any]) -> bool:
    """Return whether an output has pixels in it."""
    forms = output.get("data", {})
    if any(kind.startswith("image/") and kind != "image/svg+xml" for kind in forms):
        return True
    text = json.dumps(forms).lower()
    return any(mark in text for mark in ("<image", "<img", "<canvas", "data:image/"))


def _sentence() -> dict[str, Any]:
    words = (
        "*Here the notebook shows images. Recorded outputs hold no picture: run the"
        " notebook to see them.*"
    )
    return {
        "output_type": "display_data",
        "data": {"text/markdown": words},
        "metadata": {},
    }


def make(results: ResultCache, path: Path, images: str, commit: str) -> Record:
    """Return the record of a notebook, which is executed if it has not been."""
    found = results.result(path)
    return {
        "name": path.stem,
        "code": code_digest(jupytext.read(path)),
        "package": package_digest(results.root),
        "data": images_digest(results.data),
        "images": images,
        "commit": commit,
        "surroundings": found["surroundings"],
        "outputs": [without_pictures(each) for each in found["outputs"]],
    }


def _are_notebooks_changed() -> bool:
    words = ["git", "-C", str(ROOT), "status", "--porcelain", "--", "notebooks"]
    return bool(subprocess.run(words, capture_output=True, check=True).stdout)


def main() -> None:
    """Record the notebooks' outputs on CIFAR-10."""
    from labml_bcn.experiment import cifar10, records
    from labml_bcn.experiment.runner import current_commit

    parser = argparse.ArgumentParser(
        prog="python -m website.notebook_records", description=main.__doc__
    )
    known = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.py"))}
    parser.add_argument("notebook", nargs="*", choices=[*known, []], help="all if none")
    names = parser.parse_args().notebook or list(known)
    results = ResultCache(ROOT)
    commit = current_commit() or ""
    if not results.data:
        parser.error(
            "recording needs the images of CIFAR-10, and none were found. Set"
            " LABML_BCN_DATA to a folder that holds cifar-10-batches-bin, or"
            " LABML_BCN_DOWNLOAD=1 to download it (170 MB)."
        )
    if not commit or commit.endswith("-changed") or _are_notebooks_changed():
        parser.error(
            "a record names the commit that made it, and labml_bcn/ or notebooks/"
            " differ from the last one. Commit the changes, then record."
        )
    images = cifar10.read(results.data).source
    for name in names:
        records.write_record(
            folder(ROOT), dict(make(results, known[name], images, commit))
        )
        print(f"recorded {name}", flush=True)


if __name__ == "__main__":
    main()
