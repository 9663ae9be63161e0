"""The recorded study as plots: for its page, and for the README."""

import math
from collections.abc import Sequence
from statistics import mean
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labml_bcn.experiment import plotting
from labml_bcn.experiment.records import GUESSING
from website.study_results import VARIANCES, Results

README_STYLE = "<style>svg{font-family:sans-serif;--method-bcn:#9a63d6}</style>"


@mpl.rc_context(plotting.STYLE)
def plot(results: Results) -> str:
    """Draw accuracy over batch size, one line a method, with its spread."""
    methods = results.study.methods
    fig, ax = plt.subplots(figsize=(5.2, 4.4), layout="constrained")
    for k, method in enumerate(methods):
        # A little to the left or right, so that bars do not hide bars.
        shift = 2 ** (0.07 * (k - len(methods) // 2))
        _draw_curve(
            ax,
            [(size * shift, results.main(method, size)) for size in results.sizes],
            method,
            **plotting.METHODS[method].style,
        )
    ax.set_xscale("log", base=2)
    ax.set_xticks(results.sizes, map(str, results.sizes))
    _label(fig, ax, "images a batch", ncols=4)
    sentence = (
        "Accuracy on the test images over batch size; every run saw"
        f" {results.study.images:,} images. Marks are means over seeds, bars go from"
        " the lowest to the highest seed. Solid lines are with weight standardization,"
        " dashed ones without."
    )
    return plotting.page(fig, sentence, sentence + " " + _in_words(results))


def _in_words(results: Results) -> str:
    said = []
    for size in results.sizes:
        means = {m: mean(results.main(m, size)) for m in results.study.methods}
        ranking = sorted(means, key=lambda method: -means[method])
        values = ", ".join(f"{method} {means[method]:.1f}" for method in ranking)
        said.append(f"At batch size {size}: {values}.")
    return " ".join(said)


@mpl.rc_context(plotting.STYLE)
def momentum_plot(results: Results) -> str:
    """Draw the ablation of the estimate."""
    looks: dict[str, dict[str, Any]] = {
        "running_mean": {"linestyle": "-", "marker": "o"},
        "batch_mean": {"linestyle": ":", "marker": "s"},
    }
    momenta = sorted(results.study.momenta)
    fig, ax = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
    for around, shift in zip(VARIANCES, (0.97, 1.03), strict=True):
        _draw_curve(
            ax,
            [(r * shift, results.estimate(around, r)) for r in momenta],
            around,
            color=plotting.METHODS["BCN+WS"].colour,
            **looks[around],
        )
    ax.set_xscale("log")
    ax.set_xticks(momenta, [f"{r:g}" for r in momenta])
    _label(fig, ax, "momentum", ncols=2)
    return plotting.page(
        fig,
        f"BCN+WS at batch size {results.study.ablated} with other momenta, the variance"
        " around the running mean and around the batch's. Bars go from the lowest to"
        " the highest seed. The numbers stand in the table below.",
    )


@mpl.rc_context(plotting.STYLE)
def gap(results: Results) -> str:
    """Draw accuracy in training mode beside that in evaluation, at batch size 1."""
    found = {method: results.gap(method, 1) for method in results.study.methods}
    # The deepest fall on top.
    order = sorted(found, key=lambda m: mean(found[m][1]) - mean(found[m][0]))
    fig, ax = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    top = len(order) - 1
    ax.vlines(100 * GUESSING, -0.6, top + 0.4, plotting.TEXT, (0, (1, 3)), lw=0.8)
    for y, method in enumerate(reversed(order)):
        _draw_gap(ax, y, found[method], method)
    _name_marks(ax, top, *map(mean, found[order[0]]))
    ax.set_yticks(range(len(order)), list(reversed(order)))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    # As wide as to the next ten, so that the numbers at the right stand in a column.
    highest = max(max(map(mean, pair)) for pair in found.values())
    right = 10 * math.ceil(highest / 10)
    ax.set(xlabel="accuracy (%)", xlim=(0, right), ylim=(-0.6, top + 0.9))
    return plotting.page(
        fig,
        "Batch size 1. Circles: accuracy in training mode, on the last"
        f" {results.last_images} training images. Bars: accuracy in evaluation, on the"
        " test images. Means over seeds, the largest fall on top; the dotted line is"
        " guessing. Dashed and hollow: without standardized weights.",
        gap_in_words(results, order),
    )


def _draw_gap(
    ax: Axes, y: int, pair: tuple[list[float], list[float]], method: str
) -> None:
    training, tested = map(mean, pair)
    look = plotting.METHODS[method].style
    ax.plot([training, tested], [y, y], marker="o", markevery=[0], **look)
    ax.plot(tested, y, "|", color=look["color"], markersize=13, markeredgewidth=3)
    words = f"{training:.1f} → {tested:.1f}"
    ax.annotate(words, (1, y), xycoords=("axes fraction", "data"), va="center")


def _name_marks(ax: Axes, y: int, training: float, tested: float) -> None:
    # In the row whose marks lie farthest apart.
    for x, words in ((training, "training mode"), (tested, "evaluation")):
        ax.annotate(
            words,
            (x, y),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )


def gap_in_words(results: Results, methods: Sequence[str]) -> str:
    """Say the figure: each method in training mode and in evaluation."""
    pairs = ((method, *map(mean, results.gap(method, 1))) for method in methods)
    said = "; ".join(
        f"{method} {training:.1f} in training mode and {tested:.1f} in evaluation"
        for method, training, tested in pairs
    )
    return f"Accuracy at batch size 1, in percent: {said}."


def _label(fig: Figure, ax: Axes, name: str, ncols: int) -> None:
    # Axes of accuracies, with the legend below.
    ax.minorticks_off()
    ax.set(xlabel=name, ylabel="test accuracy (%)")
    fig.legend(loc="outside lower center", ncols=ncols)


def _draw_curve(
    ax: Axes,
    values: Sequence[tuple[float, list[float]]],
    label: str,
    **look: Any,
) -> None:
    # Means, with bars from the lowest to the highest.
    ax.errorbar(
        [x for x, _ in values],
        [mean(each) for _, each in values],
        yerr=[
            [mean(each) - min(each) for _, each in values],
            [max(each) - mean(each) for _, each in values],
        ],
        label=label,
        elinewidth=1,
        **{"marker": "o", **look},
    )


def for_readme(results: Results) -> str:
    """Return the plot as a file.

    A README has no font and no colour of text to take, and may be light or dark: each
    colour has to do for both.
    """
    markup = plot(results)
    svg = markup[markup.index("<svg") : markup.index("</svg>")] + "</svg>\n"
    svg = svg.replace("currentColor", "#808080")
    return svg.replace(">", f">{README_STYLE}", 1)
