"""The micro-batch playground: a toy network that is trained while the reader looks.

    python -m website.playground docs/playground/runs.json

This trains the network with the layers of this package, once for each choice of norm,
weight standardization and batch size, and records how it ends. The page shows the
record. With docs/assets/playground.js the page trains the network itself, with a
backward pass by hand: a test holds each of its runs to the record, and each norm to
the layer.

The toy has what the argument is about and nothing else: signals that differ in height
far more than within themselves, as photographs differ in brightness.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bcn import BatchChannelNorm, BatchNorm, WSConv1d
from labml_bcn.experiment.atomic_files import write_atomically
from labml_bcn.experiment.environment import surroundings
from labml_bcn.experiment.runner import current_commit
from website.norm_diagrams import SHOW_FORM

LENGTH, CLASSES, CHANNELS, GROUPS, NEW = 12, 4, 8, 2, 200
RECIPE = {"momentum": 0.03, "images": 1000, "every": 200, "lr": 0.02}
NORMS = {"bn": "BN", "gn": "GN", "bcn": "BCN"}
SIZES = (1, 2, 8)


@dataclass(frozen=True)
class Choice:
    """What a reader can choose."""

    norm: str = "bn"
    ws: bool = False
    batch: int = 1
    seed: int = 0

    @property
    def name(self) -> str:
        """Its name in the record."""
        return f"{self.norm}{'-ws' * self.ws}-b{self.batch}"


CHOICES = [Choice(*each) for each in product(NORMS, (False, True), SIZES)]


class Run(NamedTuple):
    """Accuracies in training mode and evaluation, and each channel's zeros."""

    points: list[list[float]]
    zeros: list[float]


# ---- The toy, with PyTorch -------------------------------------------------

Draw = Iterator[float]


def uniform(seed: int) -> Draw:
    """Yield numbers between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for value in torch.randint(65536, (4096,), generator=generator).tolist():
            yield (value + 0.5) / 65536


def make_norm(kind: str) -> nn.Module:
    """Return the layer for a norm."""
    if kind == "bn":
        return BatchNorm(CHANNELS, momentum=RECIPE["momentum"])
    if kind == "gn":
        return nn.GroupNorm(GROUPS, CHANNELS)
    return BatchChannelNorm(
        CHANNELS,
        GROUPS,
        momentum=RECIPE["momentum"],
        variance_around="running_mean",
    )


def make_network(choice: Choice) -> nn.Sequential:
    """Return the network in float64, its weights drawn from the seed."""
    convolution = WSConv1d if choice.ws else nn.Conv1d
    layers: list[nn.Module] = []
    for inputs in (1, CHANNELS):
        layers += [
            convolution(inputs, CHANNELS, 3, padding=1, bias=False),
            make_norm(choice.norm),
            nn.ReLU(),
        ]
    layers += [nn.Flatten(), nn.Linear(CHANNELS * LENGTH, CLASSES)]
    network, draw = nn.Sequential(*layers).double(), uniform(choice.seed)
    for layer in network:
        if isinstance(layer, nn.Conv1d | nn.Linear):
            _draw_weight(layer.weight, draw)
    nn.init.zeros_(network[-1].bias)  # type: ignore[arg-type]
    return network


@torch.no_grad()
def _draw_weight(weight: Tensor, draw: Draw) -> None:
    values = torch.tensor([2 * next(draw) - 1 for _ in range(weight.numel())])
    bound = math.sqrt(weight[0].numel())
    weight.copy_(values.double().view_as(weight) / bound)


def draw_signals(draw: Draw, count: int) -> tuple[Tensor, Tensor]:
    """Return signals `[count, 1, LENGTH]` and their classes.

    A signal of class k has its bump at place k, and a height and contrast of its own.
    """
    signals, labels = [], []
    for _ in range(count):
        label = int(next(draw) * CLASSES)
        height, contrast = 20 * (2 * next(draw) - 1), 0.5 + next(draw)
        signals.append(
            [
                height
                + contrast
                * (
                    math.cos(2 * math.pi * (place / LENGTH - label / CLASSES))
                    + 1.5 * (2 * next(draw) - 1)
                )
                for place in range(LENGTH)
            ]
        )
        labels.append(label)
    return torch.tensor(signals, dtype=torch.float64)[:, None], torch.tensor(labels)


def train(choice: Choice) -> Run:
    """Train the network, and look at it every so many signals."""
    network, stream = make_network(choice), uniform(choice.seed + 1)
    fresh, classes = draw_signals(uniform(choice.seed + 2), NEW)
    rate = RECIPE["lr"] * math.sqrt(choice.batch)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    points, right, every = [], 0, int(RECIPE["every"])
    for seen in range(choice.batch, int(RECIPE["images"]) + 1, choice.batch):
        x, labels = draw_signals(stream, choice.batch)
        logits = network.train()(x)
        right += int((logits.argmax(1) == labels).sum())
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        if seen % every == 0:
            with torch.no_grad():
                activations = network.eval()[:-2](fresh)
                evaluated = network[-2:](activations).argmax(1) == classes
            points.append([right / every, float(evaluated.double().mean())])
            right = 0
    zeros = (activations == 0).double().mean((0, 2)).tolist()
    return Run(points, zeros)


def main(path: Path) -> None:
    """Record every choice."""
    torch.set_num_threads(1)
    record = {
        "command": f"python -m website.playground {path}",
        "commit": current_commit(),
        "surroundings": {k: v for k, v in surroundings().items() if k != "command"},
        "recipe": RECIPE,
    }
    runs = {choice.name: train(choice)._asdict() for choice in CHOICES}
    lines = ",\n".join(f'  "{k}": {json.dumps(run)}' for k, run in runs.items())
    head = json.dumps(record, indent=1).removesuffix("\n}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f'{head},\n "runs": {{\n{lines}\n }}\n}}\n'.encode())


# ---- The figure ------------------------------------------------------------

LEFT, TOP, WIDTH, HEIGHT = 40, 10, 240, 150
SIZE = (362, 184)
_WORDS = (
    "{name} at batch size {batch}: in training mode, {training}% of the last 200 "
    "signals were classified right; in evaluation, {evaluation}% of 200 new ones. The "
    "channel that is silent most often gives 0 in {silent}% of all places."
)
_CAPTION = (
    "Dashed: accuracy in training mode, with the statistics that training uses. Solid: "
    "in evaluation, on new signals. Bars: how often each of the last layer's eight "
    "channels is 0 behind the ReLU."
)


def _up(share: float) -> str:
    return f"{TOP + HEIGHT * (1 - share):.4f}"


def percent(share: float) -> str:
    """Return a share as the script rounds it: a half goes up."""
    return f"{math.floor(100 * share + 0.5)}"


def _frame(label: str, across: tuple[str, str, str], content: str) -> str:
    bottom = TOP + HEIGHT
    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{bottom - share * HEIGHT + 4:g}" '
        f'text-anchor="end">{share:.0%}</text>'
        for share in (0, 0.5, 1)
    )
    places = zip(
        across,
        (LEFT, LEFT + WIDTH // 2, LEFT + WIDTH),
        ("start", "middle", "end"),
        strict=True,
    )
    words = "".join(
        f'<text x="{x}" y="{bottom + 16}" text-anchor="{anchor}">{text}</text>'
        for text, x, anchor in places
    )
    return (
        f'<svg viewBox="0 0 {SIZE[0]} {SIZE[1]}" role="img" aria-label="{label}">'
        f'<path class="frame" d="M{LEFT} {TOP}v{HEIGHT}h{WIDTH}"/>'
        f"{ticks}{words}{content}</svg>"
    )


def _plots(run: dict[str, Any]) -> str:
    points, zeros = run["points"], run["zeros"]
    lines, names = "", ""
    # The higher one has its name above it, the other below.
    above = points[-1][0] >= points[-1][1]
    for m, mode in enumerate(("training", "evaluation")):
        places = " ".join(
            f"{LEFT + (k + 1) * WIDTH / len(points):.1f},{_up(point[m])}"
            for k, point in enumerate(points)
        )
        lines += f'<polyline class="{mode}" points="{places}"/>'
        names += (
            f'<text class="name" x="{LEFT + WIDTH + 5}" y="{_up(points[-1][m])}" '
            f'dy="{11 if above == bool(m) else -3}">{mode}</text>'
        )
    width = WIDTH / len(zeros)
    bars = "".join(
        f"M{LEFT + c * width + 4:.1f} {TOP + HEIGHT}V{_up(share)}h{width - 8:.1f}"
        f"V{TOP + HEIGHT}z"
        for c, share in enumerate(zeros)
    )
    accuracy = _frame(
        "Accuracy over the signals seen. A dashed line is training mode, a solid one "
        "evaluation; the sentence below says where they end.",
        ("0", "signals seen", f"{RECIPE['images']:,}"),
        lines + names,
    )
    silent = _frame(
        "Eight bars, one a channel: the share of places in which it is 0. The sentence "
        "below says how high the highest is.",
        ("1", "channel", "8"),
        f'<path class="bars" d="{bars}"/>',
    )
    return (
        f'<div class="panel"><p>Right answers</p>{accuracy}</div>'
        f'<div class="panel"><p>Zeros</p>{silent}</div>'
    )


def words(choice: Choice, run: dict[str, Any]) -> str:
    """Say in HTML how a run has ended."""
    training, evaluation = run["points"][-1]
    shown = {
        "name": NORMS[choice.norm] + "+WS" * choice.ws,
        "batch": choice.batch,
        "training": percent(training),
        "evaluation": percent(evaluation),
        "silent": percent(max(run["zeros"])),
    }
    return _WORDS.format(
        **{name: f'<b data-n="{name}">{value}</b>' for name, value in shown.items()}
    )


def _form(choice: Choice) -> str:
    def options(shown: dict[Any, str], chosen: Any) -> str:
        return "".join(
            f'<option value="{key}"{" selected" * (key == chosen)}>{text}</option>'
            for key, text in shown.items()
        )

    sizes = {size: f"{size}" for size in SIZES}
    return (
        '<form hidden autocomplete="off">'
        f'<label>Norm<select name="norm">{options(NORMS, choice.norm)}</select></label>'
        '<label>Batch size<select name="batch">'
        f"{options(sizes, choice.batch)}</select></label>"
        '<label class="check"><input type="checkbox" name="ws"> Standardize weights'
        f'</label><button type="button" name="seed" value="{choice.seed}">'
        f"Draw another start</button></form>{SHOW_FORM}"
    )


def figure(path: Path) -> str:
    """Return the figure as HTML, with the first recorded run."""
    choice, record = Choice(), json.loads(path.read_text("utf-8"))
    run = record["runs"][choice.name]
    frame = (LEFT, TOP, WIDTH, HEIGHT)
    data = json.dumps({"recipe": RECIPE, "names": NORMS, "frame": frame})
    return (
        f'<figure class="lab playground" data-norm="{choice.norm}">{_form(choice)}'
        f'<div class="panels">{_plots(run)}</div><figcaption>{_CAPTION}</figcaption>'
        '<div class="words" aria-live="polite" aria-atomic="true">'
        f"<p>{words(choice, run)}</p></div>"
        f'<script type="application/json">{data}</script></figure>'
    )


def table(path: Path) -> str:
    """Return the recorded runs as a table in Markdown."""
    runs = json.loads(path.read_text("utf-8"))["runs"]
    sizes = " | ".join(f"batch size {size}" for size in SIZES)
    rows = [f"| norm | {sizes} |", "| --- |" + " --- |" * len(SIZES)]
    for norm, ws in product(NORMS, (False, True)):
        cells = []
        for size in SIZES:
            training, evaluation = runs[Choice(norm, ws, size).name]["points"][-1]
            cells.append(f"{percent(training)}% → {percent(evaluation)}%")
        rows.append(f"| {NORMS[norm]}{'+WS' * ws} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _record(root: Path) -> Path:
    return root / "docs" / "playground" / "runs.json"


def kinds(root: Path) -> dict[str, Callable[..., str]]:
    """Return what the playground's page may ask for, as Markdown."""
    return {"playground-runs": lambda: table(_record(root))}


def html_kinds(root: Path) -> dict[str, Callable[..., str]]:
    """Return what the playground's page may ask for, as HTML."""
    return {"playground": lambda: figure(_record(root))}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m website.playground RECORD, got another number")
    main(Path(sys.argv[1]))
