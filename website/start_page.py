"""What the start page shows of the layers and of the study, made at build."""

import re
from collections.abc import Callable
from pathlib import Path
from statistics import mean

from facing import Scopes, Source, read
from labml_bcn.experiment.records import read_records
from labml_bcn.experiment.study import STUDIES
from website.study_results import Results, is_above


def kinds(root: Path) -> dict[str, Callable[..., str]]:
    """Return the page's placeholders."""

    def load(name: str) -> Results:
        return Results(STUDIES[name], read_records(root / "docs" / "results" / name))

    return {
        "step": lambda *words: step(root, *words),
        "fall": lambda name: fall(load(name)),
        "headline": lambda name: headline(load(name)),
    }


# ---- A step of a layer -----------------------------------------------------


def step(root: Path, module: str, function: str, equation: str, *more: str) -> str:
    """Return a step of a function as Markdown: sentence, formula and lines.

    The step is the one whose note names the equation. The lines of those that name
    `more` equations go with it.
    """
    path = f"labml_bcn/{module}.py"
    source = read(Path(path), root)
    note, numbers = _find_step(source, function, equation)
    for name in more:
        numbers = numbers + _find_step(source, function, name)[1]
    code = "\n".join(source.lines[n - 1][4:] for n in numbers)
    first, last = numbers[0], numbers[-1]
    return (
        f'<div class="step" markdown>\n<div markdown>\n{_sentence(note)}\n\n'
        f"$${_formula(source, equation)}$$\n</div>\n\n"
        f"<div markdown>\n```{{ .python .no-copy }}\n{code}\n```\n\n"
        f"[Lines {first} to {last}]({path}#L{first})\n"
        "{ .place }\n</div>\n</div>"
    )


def _find_step(source: Source, function: str, equation: str) -> tuple[str, list[int]]:
    scopes = Scopes(source)
    named = re.compile(rf"#{re.escape(equation)}[)}}]")
    for row in source.rows:
        note = "\n".join(line.text for lines in row.notes for line in lines)
        inside = row.code and scopes.scope_at(row.code[0]) == function
        if inside and not row.name and named.search(note):
            return note, row.code
    raise LookupError(f"{source.path}: no step of {function} names #{equation}")


def _sentence(note: str) -> str:
    """Return what a note says before its formula, its links as words."""
    before = re.split(r"\n\s*\n|\$\$", note, maxsplit=1)[0]
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", before).strip()


def _formula(source: Source, equation: str) -> str:
    notes = [lines for row in source.rows for lines in row.notes]
    text = "\n".join(line.text for lines in notes for line in lines)
    found = re.search(
        rf"\$\$((?:(?!\$\$).)+)\$\$\s*\{{#{re.escape(equation)}\b", text, re.DOTALL
    )
    if found is None:
        raise LookupError(f"{source.path}: there is no equation #{equation}")
    return found[1]


# ---- What it is worth ------------------------------------------------------


def fall(results: Results) -> str:
    """Return what batch norm gets right at one image a batch, in both modes."""
    training, tested = (mean(values) for values in results.gap("BN", 1))
    at_two = (mean(values) for values in results.gap("BN", 2))
    return (
        f"Trained with one image a batch, a small network with batch norm gets"
        f" **{training:.1f}%** of its latest training images right in training mode,"
        f" and **{tested:.1f}%** of the test images after `eval()`. Guessing"
        f" gets 10%. With two images it is {' and '.join(f'{x:.1f}%' for x in at_two)}."
    )


def headline(results: Results) -> str:
    """Return what one image a batch did to four methods, in two sentences."""
    names = ("BN", "GN", "BCN+WS", "GN+WS")
    found = {name: results.main(name, 1) for name in names}
    bn, gn, bcn_ws, gn_ws = (f"{mean(found[name]):.1f}%" for name in names)
    verdict = (
        "does as well, as far as three seeds can tell: try that first, for it has"
        " less to set"
    )
    if is_above(found["BCN+WS"], found["GN+WS"]):
        verdict = "is below it in every seed"
    elif is_above(found["GN+WS"], found["BCN+WS"]):
        verdict = "is above it in every seed: take that"
    return (
        f"With one image a batch, the network gets **{bn}** of the test images right"
        f" with batch norm, **{gn}** with group norm,"
        f" and **{bcn_ws}** with batch-channel norm and standardized weights. Group"
        f" norm with standardized weights, **{gn_ws}**, {verdict}."
    )
