"""Plots for notebooks and pages, in colours that follow light and dark.

A plot on a page is read by people with a light or a dark screen, with and without
colour vision, and by people who do not see it at all. So every figure here

- takes its text and axes from the colour of the text around it;
- has one colour *and* one dash for each method, the same in every plot, and a legend
  long enough to show the dash;
- comes with a sentence that says what to see, and a text alternative.

A cell of a notebook reads

    plotting.use_style()
    fig, ax = plt.subplots()
    plotting.line(ax, steps, accuracy, "BCN+WS")
    plotting.show(fig, "Accuracy rises faster with BCN and WS.")

This module needs matplotlib, which comes with the extra `docs`.
"""

import hashlib
import html
import io
import re
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D


@dataclass(frozen=True)
class Method:
    """How a method looks, the same in every plot.

    `colour` names the method on a light ground, and `dark` is its lighter form for a
    dark one, which the page puts in its place through the CSS variable `variable`. Both
    differ from their ground by a contrast of 3 at least, as a line has to.
    Weight standardization is not left to colour: with it, lines are solid and markers
    filled; without it, lines are dashed and markers hollow.
    """

    colour: str
    dark: str
    variable: str
    standardized: bool = False

    @property
    def style(self) -> dict[str, Any]:
        """The keywords for `Axes.plot`."""
        return {
            "color": self.colour,
            "linestyle": "-" if self.standardized else (0, DASH),
            "markerfacecolor": self.colour if self.standardized else "none",
        }


# A dash and the gap behind it, in widths of the line.
DASH = (4, 2)
LINE = 1.8
SMALL = 9

# The hues are mostly Okabe and Ito's, which colour-blind readers can tell apart; on a
# light ground, their orange and their sky are too faint for a line, and are darker
# here. Black stands for the text's colour: see `TEXT` below.
TEXT = "#010203"
_COLOURS = {
    "none": (TEXT, TEXT, "text"),
    "BN": ("#6b7280", "#9aa3b2", "bn"),
    "GN": ("#c77800", "#e69f00", "gn"),
    "LN": ("#2b90cf", "#56b4e9", "ln"),
    "IN": ("#2b90cf", "#56b4e9", "ln"),
    "BCN plain": ("#009e73", "#1fb58a", "bcn-plain"),
    "BCN": ("#7b3fb5", "#b48ae6", "bcn"),
}
METHODS = {
    name + suffix: Method(light, dark, f"--method-{variable}", bool(suffix))
    for name, (light, dark, variable) in _COLOURS.items()
    for suffix in ("", "+WS")
}

# `TEXT` is a colour that no plot would choose. Matplotlib draws axes and
# words in it, and `svg` puts the page's text colour in its place.
STYLE: Any = {
    "figure.figsize": (5.6, 3.3),
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(
        color=[METHODS[name].colour for name in ("BCN", "GN", "BCN plain")]
    ),
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    # Three dashes with two gaps: a marker in the middle would hide a single gap, and
    # the line would look solid.
    "legend.handlelength": (3 * DASH[0] + 2 * DASH[1]) * LINE / SMALL,
    "lines.linewidth": LINE,
    "lines.markersize": 5,
    "image.cmap": "gray",
    "image.interpolation": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "labml_bcn",
    **dict.fromkeys(
        (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "xtick.color",
            "ytick.color",
            "grid.color",
        ),
        TEXT,
    ),
}
_SVG_STYLE = "max-width: 100%; height: auto; stroke-linejoin: round"


def use_style() -> None:
    """Draw all figures from here on in this style."""
    plt.rcParams.update(STYLE)


def line(ax: Axes, x: Any, y: Any, method: str, **kwargs: Any) -> Line2D:
    """Draw one method's curve, with its name at the end rather than in a legend.

    `kwargs` go to `Axes.plot`.
    """
    look: dict[str, Any] = {**METHODS[method].style, **kwargs}
    (curve,) = ax.plot(x, y, **look)
    ax.annotate(
        method,
        (curve.get_xdata()[-1], curve.get_ydata()[-1]),  # type: ignore[index]
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=SMALL,
        annotation_clip=False,
    )
    return curve


def show(fig: Figure, sentence: str, alt: str | None = None) -> None:
    """Put a figure into the notebook's output, and close it.

    `sentence` says what to see, and stands under the figure. `alt` is the text
    alternative, for those who do not see it; by default the sentence. In a plain
    script, where nothing shows SVG, the sentence is printed.
    """
    markup = page(fig, sentence, alt)
    screen = _display()
    if screen is None:
        print(sentence)
    else:
        screen.display(screen.HTML(markup))


def say(*sentences: str) -> None:
    """Put sentences that were made of numbers into the notebook's output, as prose.

    In a plain script they are printed.
    """
    screen = _display()
    if screen is None:
        print(*sentences)
    else:
        screen.display(screen.Markdown(" ".join(sentences)))


def page(fig: Figure, sentence: str, alt: str | None = None) -> str:
    """Return the HTML that `show` shows, for a page that is no notebook.

    It closes the figure.
    """
    markup = svg(fig)
    plt.close(fig)
    label = html.escape(alt or sentence)
    return (
        f'<figure><div role="img" aria-label="{label}">{markup}</div>'
        f"<figcaption>{html.escape(sentence)}</figcaption></figure>"
    )


def _display() -> Any:
    # The display of the notebook that is running, if one is.
    try:
        import IPython
        from IPython import display
    except ModuleNotFoundError:
        return None
    return display if IPython.get_ipython() is not None else None


def svg(fig: Figure) -> str:
    """Return a figure as SVG for a page: the same text for the same figure."""
    file = io.StringIO()
    # Without metadata there is no date, and with a fixed salt (in `STYLE`)
    # no random name.
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    fig.savefig(file, format="svg", bbox_inches="tight", metadata=unsaid)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # A stylesheet inside a figure would hold for the whole page. What this
    # one says is said on the figure itself, below.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text)
    # The size moves from points to CSS pixels, so that a page may shrink it.
    width = re.search(r'width="([\d.]+)pt"', text)
    assert width, "matplotlib states the width of its SVG in points"
    pixels = round(float(width[1]) * 4 / 3)
    text = re.sub(
        r'width="[\d.]+pt"',
        f'style="{_SVG_STYLE}" width="{pixels}"',
        text,
        count=1,
    )
    text = re.sub(r'\sheight="[\d.]+pt"', "", text, count=1)
    return _unique_ids(_page_fonts(_page_colours(_compact(text))))


# Matplotlib writes a millionth of a point. A tenth is less than anyone can
# see, and a page of plots weighs half. Curves are markers, drawn around zero:
# they get one digit more.
def _compact(text: str) -> str:
    text = re.sub(r'(\s[xy]=")(-?\d+\.\d+)"', _round_number, text)
    text = re.sub(r'( d=")([^"]*)"', _shorten_path, text)
    return _share_styles(re.sub(r">\s+<", "><", text))


def _share_styles(text: str) -> str:
    """Say once, around the marks of a curve, how all of them look."""
    alike = r'<use [^>]*? style="([^"]*)"/>(?:<use [^>]*? style="\1"/>)+'
    return re.sub(alike, _share_style, text)


def _share_style(marks: re.Match[str]) -> str:
    style = f' style="{marks[1]}"'
    return f"<g{style}>{marks[0].replace(style, '')}</g>"


def _round_number(match: re.Match[str]) -> str:
    return f'{match[1]}{float(match[2]):.1f}"'


def _shorten_path(match: re.Match[str]) -> str:
    if not set("CQ").isdisjoint(match[2]):
        path = re.sub(r"-?\d+\.\d+", lambda m: f"{round(float(m[0]), 2):g}", match[2])
    else:
        path = "".join(_relative_line(part) for part in re.findall(r"M[^M]*", match[2]))
    return f'{match[1]}{" ".join(path.split())}"'


def _relative_line(part: str) -> str:
    """Return straight lines, each point relative to the one before."""
    numbers = [round(10 * float(n)) for n in re.findall(r"-?[\d.]+", part)]
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    first, *rest = points
    text, (x, y) = f"M{first[0] / 10:g} {first[1] / 10:g}", first
    for i, point in enumerate(rest):
        after = rest[i + 1] if i + 1 < len(rest) else point
        if point != after and _is_straight_on((x, y), point, after):
            continue
        text += f"l{(point[0] - x) / 10:g} {(point[1] - y) / 10:g}"
        x, y = point
    return text + "z" * ("z" in part)


def _is_straight_on(
    before: tuple[int, int], point: tuple[int, int], after: tuple[int, int]
) -> bool:
    """Return whether a point lies on the straight way, and may be left out."""
    return any(
        before[i] == point[i] == after[i]
        and sorted((before[1 - i], point[1 - i], after[1 - i]))[1] == point[1 - i]
        for i in (0, 1)
    )


def _page_colours(text: str) -> str:
    text = text.replace(TEXT, "currentColor")
    for method in METHODS.values():
        through = f"var({method.variable}, {method.colour})"
        text = text.replace(f": {method.colour}", f": {through}")
    return text


def _page_fonts(text: str) -> str:
    # The page's own font, for readers lack most of those that are named.
    return re.sub(r"font-family: [^;\"]*; ?", "", text)


def _unique_ids(text: str) -> str:
    # Two figures share a page, and matplotlib numbers each from 1. Groups
    # need no name; what is referred to gets one of its own.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'\b(id="|href="#)', rf"\1{prefix}-", text)
    return text.replace("url(#", f"url(#{prefix}-")
