"""The tables, figures and numbers of the page "How fast it is".

They are made from records that `python -m labml_bcn.experiment.bench.layers
--json` has written; no number on the page is typed by hand.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from labml_bcn.experiment import plotting
from labml_bcn.experiment.bench.layers import geometric_mean
from website.markdown_tables import row

Record = dict[str, Any]

# How each rival is drawn. The pair is the line at 1.
LOOKS: dict[str, dict[str, Any]] = {
    "fused": {"method": "BCN", "marker": "o", "filled": True},
    "composed": {"method": "BCN", "marker": "o", "filled": False},
    "naive": {"method": "BCN plain", "marker": "s", "filled": False},
    "pair, compiled": {"method": "none", "marker": "D", "filled": False},
    "batch norm": {"method": "BN", "marker": "^", "filled": True},
    "group norm": {"method": "GN", "marker": "v", "filled": True},
    "passes": {"method": "BCN", "marker": "x", "filled": True},
    "copy": {"method": "none", "marker": "|", "filled": True},
}

_MEMORY = ("saved", "peak")


def times(record: Record) -> str:
    """Return a table: times as multiples of the pair's, and the input's size."""
    results = record["results"]
    names = [name for name in results[0]["rivals"] if name != "pair"]
    lines = [row("input", "MB", "pair, ms", *names)]
    lines.append("| --- |" + " ---: |" * (len(names) + 2))
    for each in results:
        rivals = each["rivals"]
        lines.append(
            row(
                ", ".join(map(str, each["input"])),
                f"{each['bytes'] / 1e6:.1f}",
                f"{rivals['pair']['ms']:.2f}",
                *(f"{rivals[name]['ratio']:.2f}" for name in names),
            )
        )
    means = [f"**{mean_ratio(record, name)}**" for name in names]
    lines.append(row("geometric mean", "", "", *means))
    return "\n".join(lines)


def mean_ratio(record: Record, name: str, other: str = "pair") -> str:
    """Return the geometric mean of one rival's time over another's."""
    return f"{geometric_mean(_ratios(record, name, other)):.2f}"


def worst_ratio(record: Record, name: str, other: str = "pair") -> str:
    """Return the largest of one rival's time over another's."""
    return f"{max(_ratios(record, name, other)):.2f}"


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


def standardizing(record: Record) -> str:
    """Return a table of what standardizing adds, as shares of the convolution."""
    lines = [row("convolution", "ms", "ours", "naive", "in evaluation")]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for each in record["results"]:
        into, out, kernel, stride, size = each["convolution"]
        what = f"{into} → {out}, {kernel}×{kernel}"
        step = f", stride {stride}" if stride > 1 else ""
        lines.append(
            row(
                f"{what}{step}, at {size}×{size}",
                f"{each['ms']:.2f}",
                f"{each['ours']:+.2f}",
                f"{each['naive']:+.2f}",
                f"{each['evaluation']:+.2f}",
            )
        )
    return "\n".join(lines)


def worst_share(record: Record, which: str) -> str:
    """Return the largest share of a convolution that standardizing adds."""
    return f"{max(each[which] for each in record['results']):.2f}"


def recorded_with(record: Record) -> str:
    """Return when and on what it was measured, and the command to repeat it."""
    made_with = record["surroundings"]
    place = made_with["gpu"] or f"{made_with['cpu']}, {made_with['instructions']}"
    settings = record.get("environment", {})
    words = [f"{name}={value}" for name, value in settings.items()]
    command = " ".join([*words, made_with["command"]])
    return (
        f"Recorded on {made_with['time'][:10]}: {place}, {made_with['cores']} cores, "
        f"{record['threads']} threads, PyTorch {made_with['torch']}, Python "
        f"{made_with['python']}. Again:\n\n    {command}"
    )


def times_plot(record: Record) -> str:
    """Return the table as a figure: a line for each input, a mark for each rival."""
    results = record["results"]
    names = [name for name in LOOKS if name in results[0]["rivals"]]
    with mpl.rc_context(plotting.STYLE):
        fig, ax = plt.subplots(figsize=(6.4, 3.4))
        heights = range(len(results), 0, -1)
        for name in names:
            ratios = [each["rivals"][name]["ratio"] for each in results]
            _plot_rival(ax, name, ratios, heights)
        ax.axvline(1, color=plotting.TEXT, linewidth=1)
        ax.text(1, len(results) + 0.6, "pair", ha="center", fontsize=9)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel("time, in multiples of the pair's")
        labels = [", ".join(map(str, each["input"])) for each in results]
        ax.set_yticks(heights, labels)
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return plotting.page(
            fig,
            "One line an input. Further left is faster; the upright line is the pair.",
            "The times of the table, as marks on one line for each input",
        )


def _plot_rival(ax: Axes, name: str, ratios: list[float], heights: range) -> None:
    look = LOOKS[name]
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


KINDS: dict[str, Callable[..., str]] = {
    "times": times,
    "times-plot": times_plot,
    "mean-ratio": mean_ratio,
    "worst-ratio": worst_ratio,
    "memory": memory,
    "standardizing": standardizing,
    "worst-share": worst_share,
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


def _ratios(record: Record, name: str, other: str) -> list[float]:
    rivals = [each["rivals"] for each in record["results"]]
    return [each[name]["ms"] / each[other]["ms"] for each in rivals]


def _range(values: list[float]) -> str:
    low, high = (f"{value:.2f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
