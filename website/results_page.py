"""The recorded study as tables, figures and sentences of a page.

`make results` writes the records. Nothing on the page that depends on them
is typed by hand: where a sentence compares, it is made here, of what is
there, and says so where something is missing.
"""

import html
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from labml_bcn.experiment import plotting
from labml_bcn.experiment.records import (
    Records,
    Trial,
    Values,
    accuracy,
    is_recorded,
    read_records,
)
from labml_bcn.experiment.study import (
    AT_MICRO,
    STUDIES,
    Study,
    learning_rate,
    plan,
)
from labml_bcn.experiment.vgg import BLOCKS, groups_for
from website import placeholders
from website.placeholders import row

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDER = DOCS / "results"
README_PLOT = DOCS / "assets" / "accuracy.svg"
README_STYLE = "<style>svg{font-family:sans-serif;--method-bcn:#9a63d6}</style>"
MICRO_SIZES = (1, 2, 4)
# By how much there is to choose: neither groups nor running statistics first.
SIMPLEST = ("BN", "GN", "BN+WS", "GN+WS", "BCN plain+WS", "BCN", "BCN+WS")
VARIANCES = ("running_mean", "batch_mean")
NOT_YET = "not recorded yet"


@dataclass(frozen=True)
class Results:
    """A study and what is recorded of it."""

    study: Study
    records: Records

    def main(self, method: str, batch_size: int) -> list[float]:
        """Return the accuracies of a method in percent, one a seed."""
        return self.of(self.study.main(method, batch_size, self.records))

    def of(self, points: Sequence[Trial]) -> list[float]:
        """Return the accuracies of the points that are recorded."""
        return [
            100 * accuracy(self.records[point.name])
            for point in points
            if is_recorded(point, self.records)
        ]

    def whole(self, values: Sequence[float]) -> bool:
        """Say whether there is one for each seed."""
        return len(values) == len(self.study.seeds)

    def ablated(self, method: str, **settings: Any) -> list[float]:
        """Return accuracies at the ablation's batch size, by settings.

        Those of the comparison are found as well.
        """
        settings = {"groups": None, **settings}
        return self.of(
            [
                point
                for point in self.points
                if point.part != "sweep"
                and point.method == method
                and point.settings["batch_size"] == self.study.ablated
                and all(
                    point.settings.get(key) == value for key, value in settings.items()
                )
            ]
        )

    def estimate(self, around: str, momentum: float) -> list[float]:
        """Return accuracies of BCN+WS with a kind of variance."""
        return self.ablated("BCN+WS", variance_around=around, momentum=momentum)

    @cached_property
    def sizes(self) -> list[int]:
        """The batch sizes, the smallest first."""
        return sorted(self.study.batch_sizes)

    @cached_property
    def points(self) -> list[Trial]:
        """All points of the study."""
        return plan(self.study, self.records)

    @cached_property
    def kept(self) -> list[Values]:
        """The records that are points of the study."""
        return [
            self.records[point.name]
            for point in self.points
            if is_recorded(point, self.records)
        ]


# ---- What may be said ------------------------------------------------------


def above(results: Results, one: list[float], other: list[float]) -> bool:
    """Say whether each seed of one is above each seed of the other."""
    if not (results.whole(one) and results.whole(other)):
        return False
    return min(one) > max(other)


def best(results: Results, batch_size: int) -> list[str] | None:
    """Return the best method and those that are not told apart from it.

    `None` as long as not all methods are recorded, one run a seed.
    """
    found = {m: results.main(m, batch_size) for m in results.study.methods}
    if not all(map(results.whole, found.values())):
        return None
    ranking = sorted(found, key=lambda method: -mean(found[method]))
    first = ranking[0]
    return [
        method for method in ranking if not above(results, found[first], found[method])
    ]


def state(results: Results) -> str:
    """Say how much is recorded, where it is not all."""
    done, total = len(results.kept), len(results.points)
    if done == total:
        return f"All {total} runs are recorded."
    parts = Counter(point.part for point in results.points)
    there = Counter(record["name"].partition("-")[0] for record in results.kept)
    told = ", ".join(
        f"{there[part]} of {parts[part]} of the {name}"
        for part, name in (
            ("main", "comparison"),
            ("sweep", "search for learning rates"),
            ("ablation", "ablation"),
        )
        if parts[part]
    )
    return (
        f'!!! note "Not all of it is recorded yet"\n    {done} of {total} '
        f"runs are: {told}. What follows is made of these. Where seeds are "
        "missing, nothing is compared."
    )


def answer(results: Results) -> str:
    """Return the recommendation that follows from the norm_diagrams."""
    lines, all_sizes = [], []
    for size in MICRO_SIZES:
        names = best(results, size)
        if names is None:
            lines.append(f"- **Batch size {size}:** {NOT_YET}.")
            continue
        all_sizes.append(set(names))
        first, *others = names
        values = results.main(first, size)
        also = (
            f" Not told apart from it: {_list(others)}."
            if others
            else " Every other method is below it, seed for seed."
        )
        lines.append(f"- **Batch size {size}: {first}**, {spread(values)}.{also}")
    if len(all_sizes) < len(MICRO_SIZES):
        return "\n".join(lines)
    return "\n".join(lines) + "\n\n" + _in_one_sentence(all_sizes)


def _in_one_sentence(best_at: list[set[str]]) -> str:
    common = [m for m in SIMPLEST if all(m in names for names in best_at)]
    sizes = _list(list(map(str, MICRO_SIZES)))
    if not common:
        said = f"No method is among the best at {sizes} alike."
    elif len(common) == 1:
        said = f"**Among the best at {sizes} alike is {common[0]} alone.**"
    else:
        said = (
            f"**Among the best at {sizes} alike are {_list(common)}.** The "
            f"first of these has the least to set."
        )
    ours = sum("BCN+WS" in names for names in best_at)
    if "BCN+WS" not in common:
        said += f" BCN+WS is among them at {ours} of the three."
    return said


def spread(values: Sequence[float]) -> str:
    """Return a mean, and the lowest and the highest."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.1f}%"
    return f"{mean(values):.1f}% ({min(values):.1f} to {max(values):.1f})"


def _list(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


# ---- With the papers -------------------------------------------------------

# What the papers and their authors' code report, with figures from stored
# sources; and what is compared here: the one that should be above, the other
# one, and the batch sizes.
CLAIMS: list[tuple[str, str, str, str, tuple[int, ...]]] = [
    (
        "Weight standardization helps batch norm at large batches",
        "ImageNet error, ResNet-50: 24.30 to 23.76",
        *("BN+WS", "BN"),
        (64,),
    ),
    (
        "Weight standardization helps group norm",
        "ImageNet error, ResNet-50: 24.81 to 23.72",
        *("GN+WS", "GN"),
        (1, 2, 4, 64),
    ),
    (
        "Batch norm fails at two images a batch",
        "ImageNet error, ResNet-50: 35.22 at 2 images a GPU, 23.41 at 32 "
        "(as the authors of MABN report)",
        *("GN", "BN"),
        (2,),
    ),
    (
        "BCN+WS is above GN+WS at micro-batch",
        "PASCAL VOC mIoU, ResNet-101: 78.10 and 77.20",
        *("BCN+WS", "GN+WS"),
        MICRO_SIZES,
    ),
    (
        "Micro-batches need estimated statistics",
        "Stated, without a figure that we know",
        *("BCN+WS", "BCN plain+WS"),
        (1, 2),
    ),
]


def papers(results: Results) -> str:
    """Return what the papers say beside what was found here."""
    lines = []
    for claim, figures, high, low, sizes in CLAIMS:
        verdicts = [_beside(results, high, low, size) for size in sizes]
        found = "; ".join(
            f"{verdict} at batch size {size}"
            for verdict, size in zip(verdicts, sizes, strict=True)
        )
        if set(verdicts) == {NOT_YET}:
            found = NOT_YET
        lines.append(f"- **{claim}.** {figures}. Here, {high} and {low}: {found}.")
    return "\n".join(lines)


def _beside(results: Results, high: str, low: str, size: int) -> str:
    one, other = results.main(high, size), results.main(low, size)
    if not (results.whole(one) and results.whole(other)):
        return NOT_YET
    verdict = "not told apart"
    if above(results, one, other):
        verdict = "**agrees**"
    elif above(results, other, one):
        verdict = "**disagrees**"
    return f"{_short(one)} and {_short(other)}, {verdict},"


def _short(values: Sequence[float]) -> str:
    return f"{mean(values):.1f}" if values else "–"


# ---- Figures ---------------------------------------------------------------


def plot(results: Results) -> str:
    """Draw accuracy over batch size, one line a method, with its spread."""
    if not any(record["name"].startswith("main") for record in results.kept):
        return f"The comparison is {NOT_YET}."
    with mpl.rc_context(plotting.STYLE):
        fig, ax = plt.subplots(figsize=(5.2, 4.4), layout="constrained")
        for k, method in enumerate(results.study.methods):
            # A little to the left or right, so that bars do not hide bars.
            shift = 2 ** (0.07 * (k - len(results.study.methods) // 2))
            _curve(
                ax,
                [(size * shift, results.main(method, size)) for size in results.sizes],
                method,
                **plotting.METHODS[method].style,
            )
        ax.set_xscale("log", base=2)
        ax.set_xticks(results.sizes, map(str, results.sizes))
        ax.minorticks_off()
        ax.set(xlabel="images a batch", ylabel="test accuracy (%)")
        fig.legend(loc="outside lower center", ncols=4)
        sentence = (
            "Accuracy on the test images over batch size; every run saw "
            f"{results.study.images:,} images. Marks are means over seeds, "
            "bars go from the lowest to the highest seed. Solid lines are "
            "with weight standardization, dashed ones without."
        )
        return plotting.page(fig, sentence, sentence + " " + _in_words(results))


def _in_words(results: Results) -> str:
    said = []
    for size in results.sizes:
        found = {m: results.main(m, size) for m in results.study.methods}
        ranking = sorted((m for m in found if found[m]), key=lambda m: -mean(found[m]))
        if ranking:
            values = (f"{m} {mean(found[m]):.1f}" for m in ranking)
            said.append(f"At batch size {size}: {', '.join(values)}.")
    return " ".join(said)


def momentum_plot(results: Results) -> str:
    """Draw the ablation of the estimate."""
    if not any(results.estimate("running_mean", r) for r in results.study.momenta):
        return f"These runs are {NOT_YET}."
    looks: dict[str, dict[str, Any]] = {
        "running_mean": {"linestyle": "-", "marker": "o"},
        "batch_mean": {"linestyle": ":", "marker": "s"},
    }
    momenta = sorted(results.study.momenta)
    with mpl.rc_context(plotting.STYLE):
        fig, ax = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
        for around, shift in zip(VARIANCES, (0.97, 1.03), strict=True):
            _curve(
                ax,
                [(r * shift, results.estimate(around, r)) for r in momenta],
                around,
                color=plotting.METHODS["BCN+WS"].colour,
                **looks[around],
            )
        ax.set_xscale("log")
        ax.set_xticks(momenta, [f"{r:g}" for r in momenta])
        ax.minorticks_off()
        ax.set(xlabel="momentum", ylabel="test accuracy (%)")
        fig.legend(loc="outside lower center", ncols=2)
        return plotting.page(
            fig,
            f"BCN+WS at batch size {results.study.ablated} with other "
            "momenta, the variance around the running mean and around the "
            "batch's. Bars go from the lowest to the highest seed. The "
            "numbers stand in the table below.",
        )


def _curve(
    ax: Axes,
    values: Sequence[tuple[float, list[float]]],
    label: str,
    **look: Any,
) -> None:
    """Draw means with the lowest and the highest, of what there is."""
    there = [(x, each) for x, each in values if each]
    middle = [mean(each) for _, each in there]
    below = [mean(each) - min(each) for _, each in there]
    over = [max(each) - mean(each) for _, each in there]
    look = {"marker": "o", **look}
    ax.errorbar(
        [x for x, _ in there],
        middle,
        yerr=[below, over],
        label=label,
        elinewidth=1,
        **look,
    )


# ---- Tables ----------------------------------------------------------------


def table(results: Results) -> str:
    """Return the accuracy of each method at each batch size."""
    lines = [row("batch size", *map(str, results.sizes))]
    lines.append("| --- |" + " ---: |" * len(results.sizes))
    tops = {size: best(results, size) or [] for size in results.sizes}
    for method in results.study.methods:
        cells = []
        for size in results.sizes:
            values = results.main(method, size)
            cell = _short(values)
            if len(values) > 1:
                cell += f"<br><small>{min(values):.1f}&nbsp;to&nbsp;"
                cell += f"{max(values):.1f}</small>"
            if values and not results.whole(values):
                cell += f"<br><small>{len(values)} of "
                cell += f"{len(results.study.seeds)} seeds</small>"
            bold = method in tops[size]
            cells.append(f"**{cell}**" if bold else cell)
        lines.append(row(method, *cells))
    return "\n".join(lines)


def momentum(results: Results) -> str:
    """Return the ablation of the estimate: momentum and variance."""
    lines = [row("momentum", *(f"`{each}`" for each in VARIANCES))]
    lines.append("| --- | ---: | ---: |")
    for r in sorted(results.study.momenta):
        cells = (spread(results.estimate(each, r)) for each in VARIANCES)
        lines.append(row(f"{r:g}", *cells))
    return "\n".join(lines)


def advice(results: Results) -> str:
    """Compare what "Use it" recommends with the best of the ablation."""
    found = {
        (around, r): results.estimate(around, r)
        for around in VARIANCES
        for r in results.study.momenta
    }
    if not all(map(results.whole, found.values())):
        return f"Whether what Use it recommends is best is {NOT_YET}."
    ours = AT_MICRO["variance_around"], AT_MICRO["momentum"]
    best_of = max(found, key=lambda each: mean(found[each]))
    around, r = best_of
    if ours == best_of:
        said = "the best of these"
    elif above(results, found[best_of], found[ours]):
        said = f"below `{around}` with momentum {r:g}"
    else:
        said = f"not told apart from the best, `{around}` with momentum {r:g}"
        over = [each for each in found if above(results, found[each], found[ours])]
        if over:
            named = _list([f"`{name}` with {r:g}" for name, r in over])
            said += f", but each of its seeds is below every one of {named}"
    return (
        f"What Use it recommends for one or two images, `{ours[0]}` with "
        f"momentum {ours[1]:g}, is {said}."
    )


def groups(results: Results) -> str:
    """Return the ablation of the number of groups."""
    lines = [row("groups", "channels of a group", "accuracy")]
    lines.append("| --- | --- | ---: |")
    widths = sorted({w for block in BLOCKS["small"] for w in block})
    usual = groups_for(widths[0])
    for count in sorted((*results.study.groups, usual)):
        given = None if count == usual else count
        values = results.ablated("BCN+WS", groups=given, **AT_MICRO)
        inside = ", ".join(str(width // count) for width in widths)
        mark = ", as above" if given is None else ""
        lines.append(row(f"{count}{mark}", inside, spread(values)))
    return "\n".join(lines)


def slow(results: Results) -> str:
    """Return what a small momentum does to statistics of the batch."""
    lines = [row("method", "0.1, as above", f"{results.study.slow:g}")]
    lines.append("| --- | ---: | ---: |")
    for method, label, more in results.study.changes():
        if label == f"r{results.study.slow:g}":
            usual = results.ablated(method, momentum=None)
            changed = results.ablated(method, **more)
            lines.append(row(method, spread(usual), spread(changed)))
    return "\n".join(lines)


def rates(results: Results) -> str:
    """Return the learning rates, and how they came about."""
    study, records = results.study, results.records
    lines = [row("batch size", *map(str, results.sizes))]
    lines.append("| --- |" + " ---: |" * len(results.sizes))
    for method in study.methods:
        cells = []
        for size in results.sizes:
            lr = learning_rate(study, method, size, records)
            tried = study.rates.get(size, ())
            edge = len(tried) > 1 and lr in (min(tried), max(tried))
            cells.append("–" if lr is None else f"{lr:g}" + "*" * edge)
        lines.append(row(method, *cells))
    return "\n".join(lines)


def sweep(results: Results) -> str:
    """Return the accuracies on the images held out."""
    lines = []
    for size, tried in sorted(results.study.rates.items()):
        lines.append(row(f"batch size {size}", *map(str, sorted(tried))))
        lines.append("| --- |" + " ---: |" * len(tried))
        for method in results.study.methods:
            cells = [
                _short(results.of([point]))
                for point in results.study.sweep(method, size)
            ]
            lines.append(row(method, *cells))
        lines.append("")
    return "\n".join(lines)


def commands(results: Results) -> str:
    """Return the command of each point, folded, a fold a method."""
    points = [p for p in results.points if p.settings["lr"] is not None]
    folds = []
    for method in results.study.methods:
        text = "\n".join(
            f"{_linked(results, point)}\n{html.escape(point.command)}"
            for part in ("main", "sweep", "ablation")
            for point in points
            if (point.part, point.method) == (part, method)
        )
        if text:
            folds.append(
                f'<details class="commands"><summary>{method}</summary>'
                f"<pre>{text}</pre></details>"
            )
    return "\n\n".join(folds)


def _linked(results: Results, point: Trial) -> str:
    if not is_recorded(point, results.records):
        return f"{point.name} ({NOT_YET})"
    return f'<a href="cpu/{point.name}.json">{point.name}</a>'


def facts(results: Results) -> str:
    """Say with what it was recorded."""
    kept = results.kept
    if not kept:
        return f"The runs are {NOT_YET}."
    last = [r for r in kept if r["settings"]["hold_out"] is None] or kept
    lost = sum(record["accuracy"] is None for record in kept)
    counts = last[0]["counts"]
    lines = [
        row("images", _all(last, lambda r: r["images"])),
        "| --- | --- |",
        row(
            "to train on, to test with",
            "{train:,}, {test:,}".format(**counts),
        ),
        row(
            "their SHA-256 begins with",
            _all(last, lambda r: _code(r["settings"]["digest"][:16])),
        ),
        row("PyTorch", _all(kept, lambda r: r["surroundings"]["torch"])),
        row("processor, one core a run", _all(kept, _processor)),
        row("commit", _all(kept, lambda r: _code(str(r["commit"])[:12]))),
        row("runs whose loss became no number", str(lost)),
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


def count(results: Results) -> str:
    """Say how many runs there are."""
    done, total = len(results.kept), len(results.points)
    return f"{done} of {total} runs are recorded"


def error(results: Results) -> str:
    """Return the standard error of an accuracy, from the test images."""
    found = [r for r in results.kept if r["settings"]["hold_out"] is None]
    if not found:
        return "a few"
    p = mean(map(accuracy, found))
    return f"{100 * (p * (1 - p) / found[0]['counts']['test']) ** 0.5:.1f}"


KINDS: dict[str, Callable[[Results], str]] = {
    each.__name__: each
    for each in (
        *(state, answer, plot, table, papers, momentum_plot, momentum),
        *(advice, groups, slow, rates, sweep, commands, facts, count, error),
    )
}


def put(markdown: str, folder: Path) -> str:
    """Replace `<!-- table: cpu -->` and the like by what was recorded."""

    def load(name: str) -> Results:
        return Results(STUDIES[name], read_records(folder / name))

    return placeholders.put(markdown, KINDS, load)


def for_readme(results: Results) -> str:
    """Return the plot as a file.

    A README has no font and no colour of text to take, and may be light or
    dark: each colour has to do for both.
    """
    markup = plot(results)
    svg = markup[markup.index("<svg") : markup.index("</svg>")] + "</svg>\n"
    svg = svg.replace("currentColor", "#808080")
    return svg.replace(">", f">{README_STYLE}", 1)


if __name__ == "__main__":
    found = Results(STUDIES["cpu"], read_records(FOLDER / "cpu"))
    README_PLOT.write_text(for_readme(found), "utf-8")
