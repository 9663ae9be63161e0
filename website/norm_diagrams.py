"""Figures of which values share a statistic: one drawing for every norm.

A batch is a box of values: two samples deep, six channels wide and four positions
high. Each norm takes a mean and a variance over some of them; those are filled.
Which ones is declared here once, as the rule `shares` of a `Statistic`, and
tests/site/test_norm_diagrams.py holds each rule to the layer itself: a value is
changed, and the outputs that change with it are those that are filled.

A page asks for a figure by name, `<!-- figure: norms -->`. The drawings take
their colours from the page's stylesheet.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Sizes:
    """The sizes of a batch, and the number of groups."""

    batch: int = 2
    channels: int = 6
    groups: int = 2
    positions: int = 4

    @property
    def channel(self) -> int:
        """The channel whose statistic is shown."""
        return min(2, self.channels - 1)

    def group(self, channel: int) -> int:
        """Return the group that a channel lies in."""
        return channel * self.groups // self.channels


SIZES = Sizes()
BATCH, CHANNELS, POSITIONS = SIZES.batch, SIZES.channels, SIZES.positions
SIDE, RIGHT, UP = 26, 15, 11
PAST = 3
LEFT, TOP = 18, UP * (BATCH + PAST) + 2
WIDTH = LEFT + CHANNELS * SIDE + RIGHT * (BATCH + PAST) + 4
HEIGHT = TOP + POSITIONS * SIDE + 18


# ---- What is declared ------------------------------------------------------


@dataclass(frozen=True)
class Statistic:
    """The values that rest on one mean and one variance.

    `shares` says whether the values of a sample and channel share their
    statistic with the first sample's chosen channel. If `past` is true, earlier
    batches have a part in it.
    """

    shares: Callable[[Sizes, int, int], bool]
    past: bool = False


def _same_channel(sizes: Sizes, sample: int, channel: int) -> bool:
    return channel == sizes.channel


def _same_group(sizes: Sizes, sample: int, channel: int) -> bool:
    return sample == 0 and sizes.group(channel) == sizes.group(sizes.channel)


def _no_value(sizes: Sizes, sample: int, channel: int) -> bool:
    return False


BATCH_STATISTIC = Statistic(_same_channel)
ESTIMATE = Statistic(_same_channel, past=True)
RUNNING = Statistic(_no_value, past=True)
GROUP = Statistic(_same_group)
FILTER = Statistic(_same_channel)


@dataclass(frozen=True)
class Panel:
    """One norm: its look, its name, what is said of it, and its steps.

    `alt` is the drawing in words.
    """

    look: str
    name: str
    text: str
    alt: str
    steps: tuple[Statistic, ...]
    axes: tuple[str, str, str] = ("channels", "positions", "batch")

    def to_html(self, labels: bool, top: int) -> str:
        """Return the panel as HTML; the drawing's uppermost `top` is left out."""
        parts = []
        for i, step in enumerate(self.steps):
            parts += [_ARROW] if i else []
            parts.append(_box(step, self.axes if labels and not i else None))
        x, moved = 0, []
        for part in parts:
            moved.append(f'<g transform="translate({x} 0)">{part}</g>')
            x += 40 if part is _ARROW else WIDTH
        look = self.look + " steps" * (len(self.steps) > 1)
        return (
            f'<div class="{look}"><svg viewBox="0 {top} {x} {HEIGHT - top}" '
            f'width="{x}" role="img" aria-label="{html.escape(self.alt)}">'
            f"{''.join(moved)}</svg>"
            f"<p><strong>{self.name}.</strong> {self.text}</p></div>"
        )


_BOX = "A box of values, two samples deep, six channels wide and four positions high."
BN = Panel(
    "bn",
    "Batch norm",
    "One channel, over the whole batch. With two samples in it, that is "
    "little to go by.",
    f"{_BOX} Filled is one channel in both samples.",
    (BATCH_STATISTIC,),
)
BN_EVAL = Panel(
    "bn",
    "In evaluation",
    "The running statistics of the training's batches. No value of this "
    "batch has a part in them.",
    f"{_BOX} None of them is filled. Behind it, fading, stands one channel "
    "of earlier batches.",
    (RUNNING,),
)
GN = Panel(
    "gn",
    "Group norm",
    "A group of channels, in one sample. The batch does not matter, but one "
    "channel can sink below the others and stay silent.",
    "The same box. Filled are three neighbouring channels in the first sample only.",
    (GROUP,),
)
BCN = Panel(
    "bcn",
    "Batch-channel norm",
    "First each channel, over this batch <em>and those before it</em>: a "
    "running estimate, so a batch of two is enough, and each channel is "
    "centred for itself. Then each group, in one sample.",
    "Two boxes, joined by an arrow. In the first, one channel is filled in "
    "both samples and, fading, in earlier batches behind them. In the "
    "second, three channels of the first sample are filled.",
    (ESTIMATE, GROUP),
)
WS = Panel(
    "ws",
    "A convolution's weight",
    "Each filter has its own mean and variance, over all its inputs and the "
    "whole kernel. No image has a part in it.",
    "A box of weights, two inputs deep, six filters wide and four kernel "
    "positions high. Filled is one filter, in both inputs.",
    (FILTER,),
    ("filters", "kernel", "inputs"),
)


def _compose(*panels: Panel) -> str:
    past = any(step.past for panel in panels for step in panel.steps)
    top = 0 if past else PAST * UP
    content = "\n".join(each.to_html(not i, top) for i, each in enumerate(panels))
    few = "" if len(panels) == 3 else " few"
    return f'<figure class="norms{few}">\n{content}\n</figure>'


FIGURES: dict[str, Callable[[], str]] = {
    "norms": lambda: _compose(BN, GN, BCN),
    "batch norm": lambda: _compose(BN, BN_EVAL),
    "batch-channel norm": lambda: _compose(BCN) + size_explorer(),
    "fused": lambda: _compose(BCN),
    "weight standardization": lambda: _compose(WS),
}


def figure(name: str) -> str:
    """Return a figure's HTML, or raise a LookupError that tells the names."""
    if name not in FIGURES:
        raise LookupError(f"there is no figure {name!r}, only {', '.join(FIGURES)}")
    return FIGURES[name]()


# ---- Sizes to choose -------------------------------------------------------

# Without the script that they need, the controls are not shown.
_CONTROLS = {
    "batch": ("Samples in the batch, B", 1, 8),
    "channels": ("Channels, C", 1, 12),
    "groups": ("Groups, G", 1, 12),
    "positions": ("Positions, L", 1, 12),
}
_CAPTION = (
    "Each grid is a sample, with its channels across and its positions down. "
    "Filled are values that share one statistic."
)
_FIRST_STEP = (
    "First, batch norm with estimates: each of the {C} channels has a "
    "statistic, which rests on B · L = {BL} values of this batch, and on "
    "those of the batches before it."
)
_SECOND_STEP = (
    "Then, channel norm: each of the B · G = {BG} groups has a statistic, "
    "which rests on D · L = {DL} values of one sample. A group is "
    "D = C / G = {D} of the channels."
)
# What the layer refuses, and the size that is then 1.
_REFUSED = {
    "BL": " One value has no spread: in training, the layer refuses this "
    "around the batch mean.",
    "DL": " Minus its own mean nothing is left of one value: the layer refuses this.",
}


# At once, so that nothing moves once the page is there.
SHOW_FORM = (
    "<script>document.currentScript.previousElementSibling.hidden = false</script>"
    "<noscript><p>Without script this figure stands still.</p></noscript>"
)


def size_explorer() -> str:
    """Return the figure whose sizes the reader chooses, at its default."""
    sizes = SIZES
    controls = "".join(
        f"<label>{label}: <b>{getattr(sizes, name)}</b><input "
        f'type="range" name="{name}" min="{low}" max="{high}" '
        # The name of a slider is not its number, which it has as its value.
        f'value="{getattr(sizes, name)}" aria-label="{label}"></label>'
        for name, (label, low, high) in _CONTROLS.items()
    )
    first = _count_sentence(sizes, _FIRST_STEP, "BL")
    second = _count_sentence(sizes, _SECOND_STEP, "DL")
    return (
        '<figure class="explorer"><form hidden autocomplete="off">'
        f"{controls}</form>{SHOW_FORM}"
        f"<figcaption>{_CAPTION}</figcaption>"
        '<div class="steps" aria-live="polite" aria-atomic="true">'
        f"<div>{_sample_grids(sizes, ESTIMATE)}{first}</div>"
        f"<div>{_sample_grids(sizes, GROUP)}{second}</div>"
        "</div></figure>"
    )


def counts(sizes: Sizes) -> dict[str, int]:
    """Return what the words under the figure count."""
    d = sizes.channels // sizes.groups
    return {
        "C": sizes.channels,
        "BL": sizes.batch * sizes.positions,
        "BG": sizes.batch * sizes.groups,
        "DL": d * sizes.positions,
        "D": d,
    }


def _count_sentence(sizes: Sizes, text: str, refused: str) -> str:
    shown = {name: f'<b data-n="{name}">{n}</b>' for name, n in counts(sizes).items()}
    return (
        f"<p>{text.format(**shown)}"
        f'<span data-one="{refused}" hidden>{_REFUSED[refused]}</span></p>'
    )


def _sample_grids(sizes: Sizes, statistic: Statistic) -> str:
    """Return each sample as a grid of channels and positions."""

    def row(sample: int) -> str:
        return "".join(
            '<i class="on"></i>' if statistic.shares(sizes, sample, c) else "<i></i>"
            for c in range(sizes.channels)
        )

    samples = "".join(
        f'<div style="--channels:{sizes.channels}">{row(b) * sizes.positions}</div>'
        for b in range(sizes.batch)
    )
    return f'<div class="samples" aria-hidden="true">{samples}</div>'


# ---- Drawing ---------------------------------------------------------------


Corners = tuple[tuple[float, float, float], ...]  # sample, channel, position


def faces(statistic: Statistic) -> list[tuple[Corners, bool]]:
    """Return the three faces of the box that can be seen, and what is filled."""
    is_shared = partial(statistic.shares, SIZES)
    return [
        *(
            (top_face(b, c), is_shared(b, c))
            for b in reversed(range(BATCH))
            for c in range(CHANNELS)
        ),
        *(
            (_side_face(b, p), is_shared(b, CHANNELS - 1))
            for b in reversed(range(BATCH))
            for p in range(POSITIONS)
        ),
        *(
            (_front_face(c, p), is_shared(0, c))
            for c in range(CHANNELS)
            for p in range(POSITIONS)
        ),
    ]


def past_samples(statistic: Statistic) -> range:
    """Return the earlier samples that have a part in a statistic."""
    return range(BATCH, BATCH + PAST * statistic.past)


def _box(statistic: Statistic, axes: tuple[str, str, str] | None) -> str:
    """Draw the box, and earlier samples behind it."""
    drawn = faces(statistic)
    return (
        "".join(_earlier_sample(b) for b in reversed(past_samples(statistic)))
        + _path("value", [corners for corners, filled in drawn if not filled])
        + _path("shared", [corners for corners, filled in drawn if filled])
        + (_labels(*axes) if axes else "")
    )


def _path(kind: str, cells: list[Corners], more: str = "") -> str:
    """Draw cells as one shape, each corner from the one before."""
    if not cells:
        return ""
    shape = ""
    for cell in cells:
        (x, y), *rest = (project(*corner) for corner in cell)
        shape += f"M{x:g} {y:g}"
        for x2, y2 in rest:
            shape += f"l{x2 - x:g} {y2 - y:g}"
            x, y = x2, y2
        shape += "z"
    return f'<path class="{kind}"{more} d="{shape}"/>'


def project(sample: float, channel: float, position: float) -> tuple[float, float]:
    """Return where a corner of the box is drawn."""
    x = LEFT + channel * SIDE + sample * RIGHT
    return x, TOP + position * SIDE - sample * UP


def _front_face(c: int, p: int) -> Corners:
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))
    return tuple((0, c + i, p + j) for i, j in corners)


def top_face(b: int, c: int) -> Corners:
    """Return the corners of a channel's top in a sample."""
    corners = ((0, 0), (0, 1), (1, 1), (1, 0))
    return tuple((b + i, c + j, 0) for i, j in corners)


def _side_face(b: int, p: int) -> Corners:
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))
    return tuple((b + i, CHANNELS, p + j) for i, j in corners)


def _earlier_sample(b: int) -> str:
    """Draw an earlier sample: an outline, with its channel fading."""
    outline = [
        project(b, 0, 0),
        project(b + 1, 0, 0),
        project(b + 1, CHANNELS, 0),
        project(b + 1, CHANNELS, POSITIONS),
        project(b, CHANNELS, POSITIONS),
    ]
    points = " ".join(f"{x:g},{y:g}" for x, y in outline)
    fade = f' opacity="{0.75 - 0.2 * (b - BATCH + 1):g}"'
    return f'<polyline class="past" points="{points}"/>' + _path(
        "shared", [top_face(b, SIZES.channel)], fade
    )


def _labels(across: str, down: str, deep: str) -> str:
    bottom = TOP + POSITIONS * SIDE
    middle = TOP + POSITIONS * SIDE / 2
    side = LEFT + CHANNELS * SIDE + BATCH * RIGHT / 2 + 6
    return (
        f'<text x="{LEFT}" y="{bottom + 14}">{across}</text>'
        f'<text transform="translate({LEFT - 6} {middle}) rotate(-90)" '
        f'text-anchor="middle">{down}</text>'
        f'<text x="{side}" y="{bottom - 2}">{deep}</text>'
    )


_ARROW = (
    f'<path class="arrow" d="M8 {TOP + POSITIONS * SIDE / 2:g}h34m-7 -5l7 5l-7 5"/>'
)
