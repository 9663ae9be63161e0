"""The tables, figures and numbers of the page "How fast it is".

They are made from the records that `python -m labml_bcn.experiment.bench.record` has
written; no number on the page is typed by hand.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labml_bcn.experiment import plotting
from labml_bcn.experiment.bench.layers import SMALL_INPUTS, geometric_mean
from website.markdown_tables import row

Record = dict[str, Any]

# How each rival is drawn, in the order of the tables' columns. What all are compared
# with, the pair or the bare network, is the line at 1.
LOOKS: dict[str, dict[str, Any]] = {
    "kernels": {"method": "BCN", "marker": "o", "filled": True},
    "operations": {"method": "BCN", "marker": "o", "filled": False},
    "in turn": {"method": "BCN plain", "marker": "D", "filled": False},
    "naive": {"method": "BCN plain", "marker": "s", "filled": False},
    "group norm": {"method": "GN", "marker": "v", "filled": True},
    "batch norm": {"method": "BN", "marker": "^", "filled": True},
    "pair, compiled": {"method": "none", "marker": "D", "filled": False},
}
# What a plot of all would hide: these three are the question and the answer.
PLOTTED = ("kernels", "operations", "group norm")
FLOOR = {"method": "none", "marker": "|", "filled": True}

# How a model of the training benchmark is called.
MODELS = {"small": "small VGG", "vgg": "VGG", "resnet": "ResNet-50"}

_MEMORY = ("saved", "peak")


# ---- The layers ------------------------------------------------------------


def times(record: Record) -> str:
    """Return a table: times as multiples of the pair's, and the input's size."""
    results = record["results"]
    names = [name for name in LOOKS if name in results[0]["rivals"]]
    lines = [row("input (B, C, H, W)", "MB", "pair, ms", *names, "floor")]
    lines.append("| --- |" + " ---: |" * (len(names) + 3))
    for title, chosen in _sets(record):
        for each in chosen:
            rivals = each["rivals"]
            lines.append(
                row(
                    _shape(each),
                    f"{each['bytes'] / 1e6:.2g}",
                    f"{rivals['pair']['ms']:.3g}",
                    *(f"{rivals[name]['ratio']:.2f}" for name in names),
                    f"{each['floor']['ms'] / rivals['pair']['ms']:.2f}",
                )
            )
        means = [_mean(chosen, name, "pair") for name in (*names, "floor")]
        lines.append(row(f"**{title}**", "", "", *(f"**{m}**" for m in means)))
    return "\n".join(lines)


def mean_ratio(record: Record, name: str, other: str = "pair") -> str:
    """Return the geometric mean of one rival's time over another's.

    It is over the larger inputs, without the small ones.
    """
    *_, (_, chosen) = _sets(record)
    return _mean(chosen, name, other)


def small_mean_ratio(record: Record, name: str, other: str = "pair") -> str:
    """Return the same over the small inputs."""
    (_, chosen), *_ = _sets(record)
    return _mean(chosen, name, other)


def worst_ratio(record: Record, name: str, other: str = "pair") -> str:
    """Return the largest of one rival's time over another's, of all inputs."""
    return f"{max(_ratios(record['results'], name, other)):.2f}"


def memory(record: Record) -> str:
    """Return a table of the memory that is saved and allocated."""
    results = record["results"]
    lines = [row("layer", "kept for the backward pass", "most at any time")]
    lines.append("| --- | ---: | ---: |")
    for name in results[0]["rivals"]:
        measured = [each["rivals"][name] for each in results]
        ranges = [_range([m[key] for m in measured]) for key in _MEMORY]
        lines.append(row(name, *ranges))
    return "\n".join(lines)


def times_plot(record: Record) -> str:
    """Return the table as a figure: a line for each input, a mark for each rival."""
    # The sets are drawn apart, each from top to bottom.
    results: list[Record] = []
    heights: list[int] = []
    for _, chosen in _sets(record):
        start = heights[-1] - 1 if heights else 0
        heights += [start - place for place in range(1, len(chosen) + 1)]
        results += chosen
    with mpl.rc_context(plotting.STYLE):
        fig, ax = plt.subplots(figsize=(4.4, 0.8 + 0.25 * len(results)))
        for name in PLOTTED:
            _plot(ax, name, LOOKS[name], _ratios(results, name, "pair"), heights)
        _plot(ax, "floor", FLOOR, _ratios(results, "floor", "pair"), heights)
        ax.set_yticks(heights, [_shape(each) for each in results])
        return _finish(
            fig,
            ax,
            "pair",
            "time, in multiples of the pair's",
            (0.0625, 0.125, 0.25, 0.5, 1, 2, 4),
            "One line an input. Further left is faster; the upright line is the pair.",
        )


# ---- Training --------------------------------------------------------------


def training(record: Record) -> str:
    """Return a table: images per second, and times as multiples of the bare one's."""
    results = record["results"]
    names = [name for name in results[0]["networks"] if name != "bare"]
    first = names[0]
    lines = [row("network", "images a step", f"images/s, {first}", "bare, ms", *names)]
    lines.append("| --- |" + " ---: |" * (len(names) + 3))
    for each in results:
        networks = each["networks"]
        bare = networks["bare"]["ms"]
        lines.append(
            row(
                f"{MODELS[each['model']]}, {each['pixels']}×{each['pixels']}",
                str(each["batch_size"]),
                f"{networks[first]['images_per_second']:.3g}",
                f"{bare:.3g}",
                *(f"{networks[name]['ms'] / bare:.2f}" for name in names),
            )
        )
    return "\n".join(lines)


def training_ratio(
    record: Record, model: str, batch_size: str, name: str, other: str
) -> str:
    """Return one network's time for a step over another's."""
    for each in record["results"]:
        if (each["model"], str(each["batch_size"])) == (model, batch_size):
            networks = each["networks"]
            return f"{networks[name]['ms'] / networks[other]['ms']:.2f}"
    raise LookupError(f"there is no {model} with {batch_size} images a step")


def training_plot(record: Record) -> str:
    """Return the table as a figure: a line for each network and batch size."""
    results = record["results"]
    names = [name for name in LOOKS if name in results[0]["networks"]]
    heights = list(range(len(results), 0, -1))
    with mpl.rc_context(plotting.STYLE):
        fig, ax = plt.subplots(figsize=(4.4, 0.9 + 0.28 * len(results)))
        for name in names:
            networks = [each["networks"] for each in results]
            ratios = [each[name]["ms"] / each["bare"]["ms"] for each in networks]
            _plot(ax, name, LOOKS[name], ratios, heights)
        labels = [f"{MODELS[e['model']]}, {e['batch_size']} a step" for e in results]
        ax.set_yticks(heights, labels)
        return _finish(
            fig,
            ax,
            "bare",
            "time of a step, in multiples of the bare network's",
            (0.75, 1, 1.25, 1.5, 2, 3),
            "One line a network and batch size. Further left is faster; the upright"
            " line is the network without norm and standardization.",
        )


# ---- Weight standardization ------------------------------------------------


def standardizing(record: Record) -> str:
    """Return a table of what standardizing adds, as shares of the convolution."""
    results = record["results"]
    names = list(results[0]["adds"])
    lines = [row("convolution", "ms", *names)]
    lines.append("| --- |" + " ---: |" * (len(names) + 1))
    for each in results:
        into, out, kernel, stride, size = each["convolution"]
        what = f"{into} → {out}, {kernel}×{kernel}"
        step = f", stride {stride}" if stride > 1 else ""
        lines.append(
            row(
                f"{what}{step}, at {size}×{size}",
                f"{each['ms']:.2f}",
                *(f"{each['adds'][name]:+.2f}" for name in names),
            )
        )
    return "\n".join(lines)


def worst_share(record: Record, name: str) -> str:
    """Return the largest share of a convolution that standardizing adds."""
    return f"{max(each['adds'][name] for each in record['results']):.2f}"


def share_count(record: Record, name: str, percent: str) -> str:
    """Return in how many convolutions the share is at most so large."""
    shares = [each["adds"][name] for each in record["results"]]
    return f"{sum(share <= int(percent) / 100 for share in shares)} of {len(shares)}"


# ---- What it was measured with ---------------------------------------------


def recorded_with(record: Record) -> str:
    """Return when and on what it was measured, and the command to repeat it."""
    made_with = record["surroundings"]
    place = made_with["gpu"] or f"{made_with['cpu']}, {made_with['instructions']}"
    settings = record.get("environment", {})
    words = [f"{name}={value}" for name, value in settings.items()]
    command = " \\\n    ".join([*words, made_with["command"]])
    device = "cuda" if made_with["gpu"] else "cpu"
    return (
        f"Recorded on {made_with['time'][:10]}: {place}, {made_with['cores']} cores, "
        f"{record['threads']} threads, PyTorch {made_with['torch']}, Python "
        f"{made_with['python']}, {record['kernels'][device]}. Again:\n\n    {command}"
    )


KINDS: dict[str, Callable[..., str]] = {
    "times": times,
    "times-plot": times_plot,
    "mean-ratio": mean_ratio,
    "small-mean-ratio": small_mean_ratio,
    "worst-ratio": worst_ratio,
    "memory": memory,
    "training": training,
    "training-plot": training_plot,
    "training-ratio": training_ratio,
    "standardizing": standardizing,
    "worst-share": worst_share,
    "share-count": share_count,
    "recorded-with": recorded_with,
}


def kinds(folder: Path) -> dict[str, Callable[..., str]]:
    """Return the page's placeholders; the first word of each names a record."""

    def load(name: str) -> Record:
        path = folder / f"{name}.json"
        if not path.exists():
            raise LookupError(f"there is no record {path}")
        record: Record = json.loads(path.read_text("utf-8"))
        return record

    def on_record(make: Callable[..., str]) -> Callable[..., str]:
        return lambda name, *words: make(load(name), *words)

    return {kind: on_record(make) for kind, make in KINDS.items()}


# ---- Small helpers ---------------------------------------------------------


def _sets(record: Record) -> list[tuple[str, list[Record]]]:
    """Return the small inputs and the larger ones, as far as they were measured."""
    small: list[Record] = []
    others: list[Record] = []
    for each in record["results"]:
        is_small = tuple(each["input"]) in SMALL_INPUTS
        (small if is_small else others).append(each)
    sets = [("mean, small inputs", small), ("mean, larger inputs", others)]
    return [(title, chosen) for title, chosen in sets if chosen]


def _shape(result: Record) -> str:
    return ", ".join(map(str, result["input"]))


def _ratios(results: Sequence[Record], name: str, other: str) -> list[float]:
    times = [{**each["rivals"], "floor": each["floor"]} for each in results]
    return [each[name]["ms"] / each[other]["ms"] for each in times]


def _mean(results: Sequence[Record], name: str, other: str) -> str:
    return f"{geometric_mean(_ratios(results, name, other)):.2f}"


def _range(values: list[float]) -> str:
    low, high = (f"{value:.2f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _plot(
    ax: Axes, name: str, look: dict[str, Any], ratios: list[float], heights: list[int]
) -> None:
    colour = plotting.METHODS[look["method"]].colour
    ax.plot(
        ratios,
        heights,
        linestyle="none",
        marker=look["marker"],
        color=colour,
        markerfacecolor=colour if look["filled"] else "none",
        label=name,
    )


def _finish(
    fig: Figure,
    ax: Axes,
    yardstick: str,
    label: str,
    ticks: tuple[float, ...],
    sentence: str,
) -> str:
    """Draw the line at 1, a scale of ratios and a legend; return the figure."""
    low, high = ax.get_yticks()[[-1, 0]]
    ax.set_ylim(low - 0.7, high + 0.7)
    ax.axvline(1, color=plotting.TEXT, linewidth=1)
    ax.text(1, high + 0.8, yardstick, ha="center", fontsize=9)
    ax.set_xscale("log", base=2)
    left, right = ax.get_xlim()
    ax.set_xticks([tick for tick in ticks if left < tick < right])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.set_xlabel(label)
    # Above, not beside: on a narrow screen the marks need the width.
    ax.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.06),
        ncols=4,
        columnspacing=1,
        handletextpad=0.2,
    )
    alt = f"The times of the table, as marks: {label}. {sentence}"
    return plotting.page(fig, sentence, alt)
