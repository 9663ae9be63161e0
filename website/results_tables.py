"""The recorded study as tables of its page."""

import html
from collections.abc import Callable, Sequence
from statistics import mean

from labml_bcn.experiment.records import Trial, Values
from labml_bcn.experiment.study import AT_MICRO, learning_rate
from labml_bcn.experiment.vgg import BLOCKS, groups_for
from website.markdown_tables import row
from website.study_results import VARIANCES, Results, best_methods, falling, spread


def table(results: Results) -> str:
    """Return the accuracy of each method at each batch size."""
    lines = _head("batch size", results.sizes)
    best = {size: best_methods(results, size) for size in results.sizes}
    for method in results.study.methods:
        cells = []
        for size in results.sizes:
            values = results.main(method, size)
            cell = (
                f"{mean(values):.1f}<br><small>{min(values):.1f}&nbsp;to&nbsp;"
                f"{max(values):.1f}</small>"
            )
            cells.append(f"**{cell}**" if method in best[size] else cell)
        lines.append(row(method, *cells))
    return "\n".join(lines)


def gap_table(results: Results) -> str:
    """Return the accuracy in training mode and in evaluation, by method and size."""
    lines = _head("batch size", results.sizes)
    for method in results.study.methods:
        cells = []
        for size in results.sizes:
            training, tested = map(mean, results.gap(method, size))
            cell = f"{training:.1f}&nbsp;→&nbsp;{tested:.1f}"
            cells.append(f"**{cell}**" if method in falling(results, size) else cell)
        lines.append(row(method, *cells))
    return "\n".join(lines)


def _head(name: str, columns: Sequence[object]) -> list[str]:
    rule = "| --- |" + " ---: |" * len(columns)
    return [row(name, *map(str, columns)), rule]


def momentum(results: Results) -> str:
    """Return the ablation of the estimate: momentum and variance."""
    lines = _head("momentum", [f"`{each}`" for each in VARIANCES])
    for r in sorted(results.study.momenta):
        cells = (spread(results.estimate(each, r)) for each in VARIANCES)
        lines.append(row(f"{r:g}", *cells))
    return "\n".join(lines)


def groups(results: Results) -> str:
    """Return the ablation of the number of groups."""
    lines = [row("groups", "channels of a group", "accuracy")]
    lines.append("| --- | --- | ---: |")
    widths = sorted({w for block in BLOCKS["small"] for w in block})
    usual = groups_for(widths[0])
    for count in sorted((*results.study.groups, usual)):
        given = None if count == usual else count
        values = results.ablation("BCN+WS", groups=given, **AT_MICRO)
        inside = ", ".join(str(width // count) for width in widths)
        mark = ", as above" if given is None else ""
        lines.append(row(f"{count}{mark}", inside, spread(values)))
    return "\n".join(lines)


def slow(results: Results) -> str:
    """Return what a small momentum does to statistics of the batch."""
    lines = _head("method", ["0.1, as above", f"{results.study.slow:g}"])
    for method, label, more in results.study.changes():
        if label == f"r{results.study.slow:g}":
            usual = results.ablation(method, momentum=None)
            changed = results.ablation(method, **more)
            lines.append(row(method, spread(usual), spread(changed)))
    return "\n".join(lines)


EDGE = (
    "A star: a rate at the edge of those that were tried. A still better one may lie"
    " beyond."
)


def rates(results: Results) -> str:
    """Return the learning rates, with a star at one at the edge of those tried."""
    study = results.study
    lines = _head("batch size", results.sizes)
    for method in study.methods:
        cells = []
        for size in results.sizes:
            lr = learning_rate(study, method, size, results.records)
            tried = study.rates.get(size, ())
            edge = len(tried) > 1 and lr in (min(tried), max(tried))
            cells.append(f"{lr:g}" + "*" * edge)
        lines.append(row(method, *cells))
    table = "\n".join(lines)
    return f"{table}\n\n{EDGE}" if "*" in table else table


def sweep(results: Results) -> str:
    """Return the accuracies on the images held out."""
    lines = []
    for size, tried in sorted(results.study.rates.items()):
        lines += _head(f"batch size {size}", sorted(tried))
        for method in results.study.methods:
            values = results.accuracies(results.study.sweep(method, size))
            lines.append(row(method, *(f"{value:.1f}" for value in values)))
        lines.append("")
    return "\n".join(lines)


def commands(results: Results) -> str:
    """Return the command of each trial, folded, a fold a method."""
    folds = []
    for method in dict.fromkeys(trial.method for trial in results.trials):
        text = "\n".join(
            f"{_record_link(results, trial)}\n{html.escape(trial.command)}"
            for part in ("main", "sweep", "ablation", "question")
            for trial in results.trials
            if (trial.part, trial.method) == (part, method)
        )
        folds.append(
            '<details class="commands" data-search-exclude="true">'
            f"<summary>{method}</summary><pre>{text}</pre></details>"
        )
    return "\n\n".join(folds)


def _record_link(results: Results, trial: Trial) -> str:
    name = results.record(trial)["name"]
    return f'<a href="{results.name}/{name}.json">{name}</a>'


def facts(results: Results) -> str:
    """Return with what it was recorded."""
    records = results.recorded
    tested = [r for r in records if r["settings"]["hold_out"] is None]
    lost = sum(record["accuracy"] is None for record in records)
    lines = [
        row("images", _all(tested, lambda r: r["images"])),
        "| --- | --- |",
        row(
            "to train on, and others to test with",
            "{train:,}, {test:,}".format(**tested[0]["counts"]),
        ),
        row(
            "their SHA-256 begins with",
            _all(tested, lambda r: _code(r["settings"]["digest"][:16])),
        ),
        row("PyTorch", _all(records, lambda r: r["surroundings"]["torch"])),
        row("processor, one core a run", _all(records, _processor)),
        row("commit", _all(records, lambda r: _code(str(r["commit"])[:12]))),
        row("runs whose loss became NaN", str(lost)),
    ]
    return "\n".join(lines)


def _all(records: Sequence[Values], name: Callable[[Values], str]) -> str:
    return ", ".join(sorted({name(record) for record in records}))


def _code(text: str) -> str:
    return f"`{text}`"


def _processor(record: Values) -> str:
    machine = record["surroundings"]
    named = [machine.get("cpu"), machine.get("instructions")]
    return " with ".join(filter(None, named))
