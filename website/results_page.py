"""The page of results: placeholders, replaced by what was recorded.

`make results` writes the records. Nothing on the page that depends on them is typed by
hand: each sentence that compares is made here. `python -m website.results_page` draws
the README's plot anew.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from labml_bcn.experiment.records import read_records
from labml_bcn.experiment.study import STUDIES
from website import (
    results_plots,
    results_questions,
    results_sentences,
    results_tables,
)
from website.study_results import Results

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDER = DOCS / "results"
README_PLOT = DOCS / "assets" / "accuracy.svg"

KINDS: dict[str, Callable[[Results], str]] = {
    each.__name__: each
    for each in (
        results_sentences.state,
        results_sentences.answer,
        results_plots.plot,
        results_tables.table,
        results_plots.gap,
        results_sentences.gap_sentence,
        results_sentences.gap_closes,
        results_sentences.last_images,
        results_tables.gap_table,
        results_sentences.papers,
        results_sentences.versus,
        results_plots.momentum_plot,
        results_tables.momentum,
        results_sentences.advice,
        results_tables.groups,
        results_tables.slow,
        results_tables.rates,
        results_tables.sweep,
        results_tables.commands,
        results_tables.facts,
        results_sentences.count,
        results_sentences.error,
    )
}
# What compares the questions' runs with the study's: both are given.
ANSWERS: dict[str, results_questions.Answer] = {
    each.__name__: each
    for each in (
        results_questions.below_chance,
        results_questions.rescue,
        results_questions.rescue_answer,
        results_questions.alone,
        results_questions.alone_answer,
        results_questions.halves_answer,
        results_questions.starts,
        results_questions.starts_answer,
        results_questions.around,
        results_questions.around_answer,
    )
}

# What an annotated page may ask for, too: HTML, or words without marks.
ANYWHERE = ("gap", "gap_sentence")


def kinds(folder: Path) -> dict[str, Callable[[str], str]]:
    """Return the page's placeholders; the word of each names a study."""

    @cache
    def load(name: str) -> Results:
        if name not in STUDIES:
            raise LookupError(f"there is no study {name!r}, only {', '.join(STUDIES)}")
        return Results(STUDIES[name], read_records(folder / name), name)

    def on_study(make: Callable[[Results], str]) -> Callable[[str], str]:
        return lambda name: make(load(name))

    def beside_study(make: results_questions.Answer) -> Callable[[str], str]:
        return lambda name: make(load(name), load("cpu"))

    return {kind: on_study(make) for kind, make in KINDS.items()} | {
        kind: beside_study(make) for kind, make in ANSWERS.items()
    }


def main() -> None:
    """Draw the README's plot."""
    found = Results(STUDIES["cpu"], read_records(FOLDER / "cpu"))
    README_PLOT.write_text(results_plots.for_readme(found), "utf-8")


if __name__ == "__main__":
    main()
