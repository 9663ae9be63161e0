"""The start page's figure: which values share a statistic.

A batch is a box of values: two samples deep, six channels wide and four
positions high. Each norm takes a mean and a variance over some of them; those
are filled. The drawing takes its colours from the page's stylesheet.
"""

from collections.abc import Callable

BATCH, CHANNELS, POSITIONS = 2, 6, 4
CHANNEL, GROUP = 2, 3
SIDE, RIGHT, UP = 26, 15, 11
PAST = 3
LEFT, TOP = 18, UP * (BATCH + PAST) + 2
WIDTH = LEFT + CHANNELS * SIDE + RIGHT * (BATCH + PAST) + 4
HEIGHT = TOP + POSITIONS * SIDE + 18

Shared = Callable[[int, int], bool]


def norms() -> str:
    """Return the figure: batch norm, group norm, batch-channel norm."""
    return "\n".join(
        [
            '<figure class="norms">',
            _panel("bn", [_box(_channel, labels=True)], _ALT["bn"], _BN),
            _panel("gn", [_box(_group)], _ALT["gn"], _GN),
            _panel(
                "bcn steps",
                [_box(_channel, past=True), _arrow(), _box(_group)],
                _ALT["bcn"],
                _BCN,
            ),
            "</figure>",
        ]
    )


_BN = (
    "Batch norm",
    "One channel, over the whole batch. With two samples in it, that is "
    "little to go by.",
)
_GN = (
    "Group norm",
    "A group of channels, in one sample. The batch does not matter, but one "
    "channel can sink below the others and stay silent.",
)
_BCN = (
    "Batch-channel norm",
    "First each channel, over this batch <em>and those before it</em>: a "
    "running estimate, so a batch of two is enough, and each channel is "
    "centred for itself. Then each group, in one sample.",
)
_ALT = {
    "bn": "A box of values, two samples deep, six channels wide and four "
    "positions high. Filled is one channel in both samples.",
    "gn": "The same box. Filled are three neighbouring channels in the first "
    "sample only.",
    "bcn": "Two boxes, joined by an arrow. In the first, one channel is "
    "filled in both samples and, fading, in earlier batches behind them. In "
    "the second, three channels of the first sample are filled.",
}


def _channel(sample: int, channel: int) -> bool:
    return channel == CHANNEL


def _group(sample: int, channel: int) -> bool:
    return sample == 0 and channel < GROUP


def _panel(
    kind: str, parts: list[str], alt: str, words: tuple[str, str]
) -> str:
    x = 0
    placed = []
    for part in parts:
        width = 40 if "arrow" in part else WIDTH
        placed.append(f'<g transform="translate({x} 0)">{part}</g>')
        x += width
    name, text = words
    return (
        f'<div class="{kind}"><svg viewBox="0 0 {x} {HEIGHT}" width="{x}" '
        f'role="img" aria-label="{alt}">{"".join(placed)}</svg>'
        f"<p><strong>{name}.</strong> {text}</p></div>"
    )


def _box(shared: Shared, past: bool = False, labels: bool = False) -> str:
    """Draw the three faces of the box that can be seen."""
    cells = [
        *(_earlier(b) for b in reversed(range(BATCH, BATCH + PAST)) if past),
        *(
            _cell(_top(b, c), shared(b, c))
            for b in reversed(range(BATCH))
            for c in range(CHANNELS)
        ),
        *(
            _cell(_side(b, p), shared(b, CHANNELS - 1))
            for b in reversed(range(BATCH))
            for p in range(POSITIONS)
        ),
        *(
            _cell(_front(c, p), shared(0, c))
            for c in range(CHANNELS)
            for p in range(POSITIONS)
        ),
    ]
    return "".join(cells) + (_labels() if labels else "")


def _point(sample: float, channel: float, position: float) -> str:
    x = LEFT + channel * SIDE + sample * RIGHT
    y = TOP + position * SIDE - sample * UP
    return f"{x:g},{y:g}"


def _front(c: int, p: int) -> list[str]:
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))
    return [_point(0, c + i, p + j) for i, j in corners]


def _top(b: int, c: int) -> list[str]:
    corners = ((0, 0), (0, 1), (1, 1), (1, 0))
    return [_point(b + i, c + j, 0) for i, j in corners]


def _side(b: int, p: int) -> list[str]:
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))
    return [_point(b + i, CHANNELS, p + j) for i, j in corners]


def _cell(points: list[str], filled: bool, opacity: float = 1) -> str:
    kind = "shared" if filled else "value"
    fade = "" if opacity == 1 else f' opacity="{opacity:g}"'
    return f'<polygon class="{kind}" points="{" ".join(points)}"{fade}/>'


def _earlier(b: int) -> str:
    """Draw an earlier sample: an outline, with its channel fading."""
    outline = [
        _point(b, 0, 0),
        _point(b + 1, 0, 0),
        _point(b + 1, CHANNELS, 0),
        _point(b + 1, CHANNELS, POSITIONS),
        _point(b, CHANNELS, POSITIONS),
    ]
    age = b - BATCH + 1
    return f'<polyline class="past" points="{" ".join(outline)}"/>' + _cell(
        _top(b, CHANNEL), True, opacity=0.75 - 0.2 * age
    )


def _labels() -> str:
    bottom = TOP + POSITIONS * SIDE
    middle = TOP + POSITIONS * SIDE / 2
    side = LEFT + CHANNELS * SIDE + BATCH * RIGHT / 2 + 6
    return (
        f'<text x="{LEFT}" y="{bottom + 14}">channels</text>'
        f'<text transform="translate({LEFT - 6} {middle}) rotate(-90)" '
        'text-anchor="middle">positions</text>'
        f'<text x="{side}" y="{bottom - 2}">batch</text>'
    )


def _arrow() -> str:
    y = TOP + POSITIONS * SIDE / 2
    return f'<path class="arrow" d="M8 {y:g}h34m-7 -5l7 5l-7 5"/>'
