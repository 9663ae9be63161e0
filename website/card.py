"""The picture that a link to the site shows where it is shared, drawn at build."""

import io

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from website import norm_diagrams
from website.norm_diagrams import BCN, BN, GN, Corners, Panel, Statistic

PAPER, INK, FAINT, GRID = "#fffdf8", "#1d1b17", "#6b665c", "#a7a297"
COLOURS = {"bn": "#6b7280", "gn": "#e69f00", "bcn": "#7b3fb5"}
WIDTH, HEIGHT = 1200, 630
SCALE = 1.1
TITLE = "Batch-channel normalization"
SENTENCE = (
    "A layer for training with one or two images at a time,\n"
    "explained line by line beside the PyTorch code that runs."
)


def png() -> bytes:
    """Draw the card: a title, a sentence and the three norms."""
    with mpl.rc_context({"font.family": "DejaVu Sans"}):
        fig = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor=PAPER)
        ax = fig.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
        ax.axis("off")
        ax.text(
            70, 120, TITLE, size=40, family="DejaVu Serif", weight="bold", color=INK
        )
        ax.text(70, 155, SENTENCE, size=19, va="top", linespacing=1.5, color=FAINT)
        for x, panel in ((70, BN), (360, GN), (650, BCN)):
            _draw_panel(ax, panel, x)
        file = io.BytesIO()
        # No version of matplotlib in it: the same picture is the same file.
        fig.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_panel(ax: Axes, panel: Panel, x: float) -> None:
    for i, step in enumerate(panel.steps):
        _draw_box(ax, step, COLOURS[panel.look], x + 270 * i, 300)
        if i:
            ax.text(x + 232, 430, "\u2192", size=26, ha="center", color=FAINT)
    ax.text(x, 535, panel.name, size=17, weight="bold", color=INK)


def _draw_box(ax: Axes, statistic: Statistic, colour: str, x: float, y: float) -> None:
    def outline(corners: Corners) -> list[tuple[float, float]]:
        found = (norm_diagrams.project(*corner) for corner in corners)
        left = norm_diagrams.LEFT
        return [(x + SCALE * (px - left), y + SCALE * py) for px, py in found]

    # The earlier the sample, the fainter.
    for sample in reversed(norm_diagrams.past_samples(statistic)):
        top = norm_diagrams.top_face(sample, norm_diagrams.SIZES.channel)
        fade = 0.75 - 0.2 * (sample - norm_diagrams.BATCH + 1)
        ax.fill(*zip(*outline(top), strict=True), color=colour, alpha=fade, lw=0)
    faces = norm_diagrams.faces(statistic)
    ax.add_collection(
        PolyCollection(
            [outline(corners) for corners, _ in faces],
            facecolors=[colour if filled else PAPER for _, filled in faces],
            edgecolors=GRID,
            linewidths=1.2,
        )
    )
