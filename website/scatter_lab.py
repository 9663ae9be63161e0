"""The scatter lab: batches of real channels, which the reader makes larger and smaller.

Its numbers are those of `labml_bcn.experiment.moments`: what each of 512 images gives
to the mean and variance of four channels. No batch is simulated. Two values an image
have its mean and mean square, and so its part in any batch; the figure is what
`EstimatedBatchNorm` makes of them, in the order in which notebook 1 draws its images.

The page has the figure at its default. With docs/assets/scatter_lab.js a reader may
choose: it draws the same images in the same order, and a test holds it to the layer.
"""

import html
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labml_bcn import EstimatedBatchNorm
from website.norm_diagrams import SHOW_FORM

STEPS = 500
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
KEYS = ("mean", "mean_square")
MOMENTA = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Choice:
    """What a reader can choose; `channel` counts in the record, from 0."""

    batch: int = 2
    momentum: float = 0.01
    around: str = "batch_mean"
    channel: int = 3
    seed: int = 0


class Channel(NamedTuple):
    """What each image gives to a channel's statistics: mean and mean square."""

    mean: Tensor
    square: Tensor

    @property
    def within(self) -> float:
        """The variance within images, on average."""
        return float((self.square - self.mean.square()).mean())

    @property
    def between(self) -> float:
        """The variance of the images' means."""
        return float(self.mean.var(correction=0))

    @property
    def total(self) -> float:
        """The variance of all images together."""
        return self.within + self.between

    @property
    def images(self) -> Tensor:
        """Two values an image, `[N, 1, 2]`, with its mean and mean square."""
        std = (self.square - self.mean.square()).sqrt()
        return torch.stack([self.mean - std, self.mean + std], -1)[:, None]


class Replay(NamedTuple):
    """Statistics at each step: those of the batch, and the running ones after it."""

    batch_mean: list[float]
    batch_var: list[float]
    mean: list[float]
    var: list[float]


def read_channels(path: Path) -> list[Channel]:
    """Return the channels of a record."""
    record = json.loads(path.read_text("utf-8"))
    return [
        Channel(*(torch.tensor(each[k], dtype=torch.float64) for k in KEYS))
        for each in record["channels"]
    ]


# ---- What the layer does ---------------------------------------------------


def batches(images: Tensor, choice: Choice) -> Iterator[Tensor]:
    """Yield batches in the order of notebook 1."""
    generator = torch.Generator().manual_seed(choice.seed)
    for _ in range(STEPS):
        yield images[torch.randint(len(images), (choice.batch,), generator=generator)]


def replay(channel: Channel, choice: Choice) -> Replay:
    """Let the layer learn from batches, and note what it sees and what it keeps."""
    norm = EstimatedBatchNorm(
        1, momentum=choice.momentum, affine=False, variance_around=choice.around
    ).double()
    seen = Replay([], [], [], [])
    for batch in batches(channel.images, choice):
        measured = norm.measure(batch)
        assert measured, "a batch is not empty"
        norm(batch)
        kept = (*measured, norm.exp_mean, norm.exp_var)
        for values, value in zip(seen, kept, strict=True):
            values.append(float(value))  # type: ignore[arg-type]
    return seen


def settled_variance(channel: Channel, choice: Choice) -> float:
    """Return the mean of the running variance, when its start is forgotten.

    Around its own mean, a batch misses its share of the variance between images.
    Around the running mean it misses nothing, and that mean's own variance is added.
    """
    r, size = choice.momentum, choice.batch
    seen = 1 - 1 / size
    if choice.around == "running_mean":
        seen = 1 + r / (2 - r) / size
    return channel.within + seen * channel.between


# ---- Words -----------------------------------------------------------------

_CAPTION = (
    "Grey, what each batch measures, at the edge if it lies beyond. Violet, the "
    "running estimate, from its start at mean 0 and variance 1. Thin, what all "
    "{images} images have together; dashed, where the estimate settles."
)
_SCATTER = (
    "With B\N{NO-BREAK SPACE}= {batch}, the batch\N{RIGHT SINGLE QUOTATION MARK}s mean "
    "scatters by {batch_std} around that of all images (one standard deviation). The "
    "running mean, with r\N{NO-BREAK SPACE}= {momentum} and its start forgotten, "
    "scatters by {mean_std}."
)
_VARIANCE = (
    "The running variance settles at {settled}, {percent}% of the variance of all "
    "images, {total}."
)
_AROUND = {
    "batch_mean": " Measured around its own mean, a batch of {batch} sees {seen}% of "
    "how images differ from each other.",
    "running_mean": " Measured around the running mean, a batch sees all of how images "
    "differ, and the running mean\N{RIGHT SINGLE QUOTATION MARK}s own scatter besides.",
}
_START = "After {steps} steps the start still weighs {start}%."


def numbers(channel: Channel, choice: Choice) -> dict[str, str]:
    """Return the numbers that stand in the words, as they stand there."""
    r, size = choice.momentum, choice.batch
    settled = settled_variance(channel, choice)
    batch_std = math.sqrt(channel.between / size)
    return {
        "batch": f"{size}",
        "momentum": f"{r:g}",
        "batch_std": f"{batch_std:.3f}",
        "mean_std": f"{batch_std * math.sqrt(r / (2 - r)):.3f}",
        "settled": f"{settled:.3f}",
        "percent": f"{100 * settled / channel.total:.0f}",
        "total": f"{channel.total:.3f}",
        "seen": f"{100 * (1 - 1 / size):.0f}",
        "steps": f"{STEPS}",
        "start": f"{100 * (1 - r) ** STEPS:.1f}",
    }


def _words(channel: Channel, choice: Choice) -> str:
    shown = {
        name: f'<b data-n="{name}">{value}</b>'
        for name, value in numbers(channel, choice).items()
    }
    around = "".join(
        f'<span data-around="{name}"{" hidden" * (name != choice.around)}>'
        f"{text.format(**shown)}</span>"
        for name, text in _AROUND.items()
    )
    return (
        '<div class="words" aria-live="polite" aria-atomic="true">'
        f"<p>{_SCATTER.format(**shown)}</p>"
        f"<p>{_VARIANCE.format(**shown)}{around}</p>"
        f"<p>{_START.format(**shown)}</p></div>"
    )


# ---- Drawing ---------------------------------------------------------------

# The frame of a plot, in its own units: no point of a step lies on half a tenth.
LEFT, TOP, WIDTH, HEIGHT = 40, 10, 250, 180
SIZE = (362, 214)
TICKS = 6
NICE = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0)


class Axis(NamedTuple):
    """The lowest value of a plot, and what lies between two ticks."""

    low: float
    step: float

    @property
    def ticks(self) -> list[str]:
        """The labels of the ticks, from below."""
        values = (self.low + k * self.step for k in range(TICKS))
        return [f"{value:.2f}".replace("-", "\N{MINUS SIGN}") for value in values]

    def place(self, value: float) -> str:
        """Return how far down a value lies, at an edge if it lies beyond it."""
        share = (value - self.low) / (self.step * (TICKS - 1))
        return f"{TOP + HEIGHT * (1 - min(max(share, 0), 1)):.1f}"


def axes(channel: Channel) -> tuple[Axis, Axis]:
    """Return the axes of mean and variance, the same for every batch size.

    They hold nearly all that single images measure, and the start.
    """
    around = channel.square - 2 * channel.mean * channel.mean.mean()
    low, high = (float(channel.mean.quantile(q)) for q in (0.01, 0.99))
    most = float((around + channel.mean.mean().square()).quantile(0.96))
    return _axis(min(low, 0), max(high, 0)), _axis(0, max(most, 1.1))


def _axis(low: float, high: float) -> Axis:
    for step in NICE:
        lowest = math.floor(low / step) * step
        if lowest + (TICKS - 1) * step >= high:
            return Axis(lowest, step)
    raise ValueError(f"no axis holds {low} to {high}")


def _plot(
    name: str, axis: Axis, dots: list[float], line: list[float], lines: list[float]
) -> str:
    bottom, right = TOP + HEIGHT, LEFT + WIDTH
    grid = "".join(
        f'<text x="{LEFT - 6}" y="{bottom - k * HEIGHT / (TICKS - 1) + 4:g}" '
        f'text-anchor="end">{tick}</text>'
        for k, tick in enumerate(axis.ticks)
    )
    across = [f"{LEFT + k * WIDTH / STEPS:.1f}" for k in range(STEPS + 1)]
    shape = "".join(
        f"M{x} {axis.place(y)}h0" for x, y in zip(across[1:], dots, strict=True)
    )
    points = " ".join(f"{x},{axis.place(y)}" for x, y in zip(across, line, strict=True))
    truth, settled = (axis.place(value) for value in lines)
    # The higher one has its name above it, the other below.
    above = float(settled) >= float(truth)
    return (
        f'<svg viewBox="0 0 {SIZE[0]} {SIZE[1]}" role="img" aria-label="{name}">'
        f'<path class="frame" d="M{LEFT} {TOP}v{HEIGHT}h{WIDTH}"/>{grid}'
        f'<text x="{LEFT}" y="{bottom + 16}">0</text>'
        f'<text x="{LEFT + WIDTH / 2:g}" y="{bottom + 16}" text-anchor="middle">'
        f'steps</text><text x="{right}" y="{bottom + 16}" text-anchor="end">'
        f'{STEPS}</text><path class="dots" d="{shape}"/>'
        f'<path class="truth" d="M{LEFT} {truth}h{WIDTH}"/>'
        f'<path class="settled" d="M{LEFT} {settled}h{WIDTH}"/>'
        f'<polyline class="estimate" points="{points}"/>'
        f'<text class="name" x="{right + 5}" y="{truth}" dy="{-3 if above else 11}">'
        "all images</text>"
        f'<text class="name" x="{right + 5}" y="{settled}" dy="{11 if above else -3}">'
        "settles</text></svg>"
    )


_ALT = (
    "{what} over {steps} steps. Grey dots, one a batch, scatter around a level line, "
    "the {what} of all images. A violet line, the running {what}, starts at {start}, "
    "moves toward a dashed line."
)


def _plots(channel: Channel, choice: Choice) -> str:
    seen, (mean, var) = replay(channel, choice), axes(channel)
    truth, settled = channel.mean.mean(), settled_variance(channel, choice)
    panels = (
        ("mean", 0.0, mean, seen.batch_mean, seen.mean, [float(truth)] * 2),
        ("variance", 1.0, var, seen.batch_var, seen.var, [channel.total, settled]),
    )
    return "".join(
        f'<div class="panel"><p>The {what}</p>'
        + _plot(
            html.escape(_ALT.format(what=what, steps=STEPS, start=f"{start:g}")),
            axis,
            dots,
            [start, *line],
            lines,
        )
        + "</div>"
        for what, start, axis, dots, line, lines in panels
    )


# ---- The figure ------------------------------------------------------------


def _slider(name: str, label: str, values: tuple[float, ...], value: float) -> str:
    at = values.index(value)
    return (
        f"<label>{label} = <b>{value:g}</b>"
        f'<input type="range" name="{name}" min="0" max="{len(values) - 1}" '
        f'value="{at}" aria-label="{label}" aria-valuetext="{value:g}"></label>'
    )


def _select(name: str, label: str, options: dict[str, str], value: str) -> str:
    items = "".join(
        f'<option value="{key}"{" selected" * (key == value)}>{words}</option>'
        for key, words in options.items()
    )
    return f'<label>{label}<select name="{name}">{items}</select></label>'


def _form(channels: list[Channel], choice: Choice) -> str:
    described = {
        str(k): f"{k + 1}: {100 * each.between / each.total:.0f}% between"
        for k, each in enumerate(channels)
    }
    readings = {
        "batch_mean": "the batch\N{RIGHT SINGLE QUOTATION MARK}s mean",
        "running_mean": "the running mean",
    }
    return (
        '<form hidden autocomplete="off">'
        + _slider("batch", "Images a batch, B", SIZES, choice.batch)
        + _slider("momentum", "Momentum, r", MOMENTA, choice.momentum)
        + _select("around", "Variance around", readings, choice.around)
        + _select("channel", "Channel", described, str(choice.channel))
        + f'<button type="button" name="seed" value="{choice.seed}">Draw other images'
        f"</button></form>{SHOW_FORM}"
    )


def _data(channels: list[Channel]) -> str:
    """Return what the script reads: the record, and how it is drawn."""
    data: dict[str, Any] = {
        "steps": STEPS,
        "sizes": SIZES,
        "momenta": MOMENTA,
        "frame": (LEFT, TOP, WIDTH, HEIGHT),
        "channels": [
            {
                "mean": each.mean.tolist(),
                "square": each.square.tolist(),
                "axes": [
                    {"low": axis.low, "high": axis.low + axis.step * (TICKS - 1)}
                    | {"ticks": axis.ticks}
                    for axis in axes(each)
                ],
            }
            for each in channels
        ],
    }
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return f'<script type="application/json">{text}</script>'


def figure(path: Path, choice: Choice | None = None) -> str:
    """Return the figure of a record as HTML, drawn for a choice."""
    channels, choice = read_channels(path), choice or Choice()
    channel = channels[choice.channel]
    caption = _CAPTION.format(images=len(channel.mean))
    return (
        f'<figure class="lab scatter">{_form(channels, choice)}'
        f'<div class="panels">{_plots(channel, choice)}</div>'
        f"<figcaption>{caption}</figcaption>{_words(channel, choice)}"
        f"{_data(channels)}</figure>"
    )


def origin(path: Path) -> str:
    """Say in Markdown what made a record, and of what."""
    record = json.loads(path.read_text("utf-8"))
    training, network = record["training"], record["network"]
    images = len(record["channels"][0]["mean"])
    return (
        f"These are of the [first convolution of a small VGG]"
        f"(labml_bcn/experiment/vgg.py) with batch-channel norm, after "
        f"{training['images']:,} images of training, {training['batch_size']} a step "
        f"and $r = {network['momentum']}$. It sees {images} images of "
        f"{record['data']['source']}; its four channels are those whose "
        "images differ the least, the most, and in between. "
        f"`{record['command']}` made [the record](scatter/{path.name}) at commit "
        f"`{record['commit'][:12]}`, with torch {record['surroundings']['torch']}."
    )


def _record(root: Path) -> Path:
    return root / "docs" / "scatter" / "moments.json"


def kinds(root: Path) -> dict[str, Callable[..., str]]:
    """Return what the lab's page may ask for, as Markdown."""
    return {"scatter-record": lambda: origin(_record(root))}


def html_kinds(root: Path) -> dict[str, Callable[..., str]]:
    """Return what the lab's page may ask for, as HTML."""
    return {"scatter-lab": lambda: figure(_record(root))}
