"""Figures: the page's colours, the same bytes, words for those who listen."""

import io
import re
import sys
from itertools import combinations
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("agg")
from helpers.paths import ROOT
from matplotlib import pyplot as plt

from labml_bcn.experiment import plotting

METHODS = ["BN", "GN", "LN", "IN", "BCN", "BCN plain"]


@pytest.fixture(autouse=True)
def _style():
    with mpl.rc_context():
        plotting.use_style()
        yield
    plt.close("all")


def curve():
    fig, ax = plt.subplots()
    plotting.line(ax, [0, 1, 2], [0.1, 0.5, 0.4], "BCN+WS")
    ax.set(xlabel="images", ylabel="accuracy")
    return fig


def test_axes_and_words_take_the_pages_colour():
    text = plotting.svg(curve())
    assert "currentColor" in text
    assert plotting.TEXT not in text
    assert "var(--method-bcn, #7b3fb5)" in text
    assert "<style" not in text


def test_the_same_figure_is_the_same_bytes():
    first = plotting.svg(curve())
    assert plotting.svg(curve()) == first
    assert "<metadata" not in first
    assert "dc:date" not in first


def test_two_figures_share_no_id():
    other, ax = plt.subplots()
    ax.plot([1, 2], [3, 4], "o")
    texts = [plotting.svg(curve()), plotting.svg(other)]
    ids = [set(t.split('id="')[1:]) for t in texts]
    ids = [{i.split('"')[0] for i in each} for each in ids]
    assert ids[0]
    assert ids[0].isdisjoint(ids[1])


@pytest.mark.parametrize("name", METHODS)
def test_weight_standardization_is_not_left_to_colour(name):
    without = plotting.METHODS[name].style
    with_ws = plotting.METHODS[name + "+WS"].style
    assert without["color"] == with_ws["color"]
    assert without["linestyle"] != with_ws["linestyle"]
    assert without["markerfacecolor"] == "none"


@pytest.mark.parametrize("name", METHODS)
def test_a_line_has_contrast_on_both_grounds(name):
    css = (ROOT / "facing/src/facing/assets/literate.css").read_text()
    [(paper, night)] = re.findall(r"--lit-paper: light-dark\((\S+), (\S+)\)", css)
    look = plotting.METHODS[name]
    assert contrast(look.colour, paper) >= 3
    assert contrast(look.dark, night) >= 3


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


# What eyes without one kind of cone make of linear red, green and blue (Machado,
# Oliveira and Fernandes, 2009).
EYES = {
    "all cones": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152, 1.053, -0.205],
        [0.115, 0.786, 0.099],
        [-0.004, -0.048, 1.052],
    ],
    "deuteranopia": [
        [0.367, 0.861, -0.228],
        [0.280, 0.673, 0.047],
        [-0.012, 0.043, 0.969],
    ],
    "tritanopia": [
        [1.256, -0.077, -0.179],
        [-0.078, 0.931, 0.148],
        [0.005, 0.691, 0.304],
    ],
}


@pytest.mark.parametrize("scheme", ["colour", "dark"])
@pytest.mark.parametrize("eye", EYES)
def test_methods_that_share_a_plot_are_told_apart_by_all_eyes(eye, scheme):
    compared = [plotting.METHODS[name] for name in ("BN", "GN", "BCN plain", "BCN")]
    seen = [
        lab(np.array(EYES[eye]) @ linear(getattr(look, scheme))) for look in compared
    ]
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(one - other) > 15


def lab(rgb: np.ndarray) -> np.ndarray:
    """A colour in CIELAB, where a distance of 2 can just be seen."""
    to_xyz = [[0.434, 0.376, 0.190], [0.213, 0.715, 0.072], [0.018, 0.109, 0.873]]
    x, y, z = np.cbrt(np.array(to_xyz) @ rgb.clip(0, 1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("name", METHODS)
def test_the_site_has_the_colours_of_the_plots(name):
    look = plotting.METHODS[name]
    css = (ROOT / "docs/assets/site.css").read_text()
    assert f"{look.variable}: light-dark({look.colour}, {look.dark});" in css


@pytest.mark.parametrize("width", [None, 1.4])
def test_a_legend_shows_gaps_of_a_dashed_line_beside_its_mark(width):
    _, ax = plt.subplots()
    look = plotting.METHODS["GN"].style | ({"linewidth": width} if width else {})
    ax.plot([0, 1], [0, 1], "o", label="GN", **look)
    legend = ax.legend()
    [handle] = legend.get_lines()
    assert handle.get_linestyle() == "--"
    assert handle.get_marker() == "o"
    length = np.ptp(handle.get_xdata())
    mark = handle.get_markersize() + handle.get_markeredgewidth()
    dash, gap = (each * handle.get_linewidth() for each in plotting.DASH)
    gaps = [(start, start + gap) for start in np.arange(dash, length, dash + gap)]
    beside = [(length - mark) / 2, (length + mark) / 2]
    assert any(end <= beside[0] for _, end in gaps)
    assert any(start >= beside[1] and end <= length for start, end in gaps)


def test_a_figure_is_shown_with_its_sentence_and_its_words(monkeypatch):
    shown = []
    screen = SimpleNamespace(HTML=str, display=shown.append)
    monkeypatch.setattr(plotting, "_display", lambda: screen)
    plotting.show(curve(), "It rises & falls.", "A line.")
    assert 'role="img" aria-label="A line."' in shown[0]
    assert "<figcaption>It rises &amp; falls.</figcaption>" in shown[0]
    assert plt.get_fignums() == []


def test_sentences_are_prose_of_a_notebook(monkeypatch):
    shown = []
    screen = SimpleNamespace(Markdown=str, display=shown.append)
    monkeypatch.setattr(plotting, "_display", lambda: screen)
    plotting.say("It rises.", "By **2**.")
    assert shown == ["It rises. By **2**."]


def test_in_a_script_sentences_are_printed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "IPython", None)
    plotting.show(curve(), "It rises.")
    plotting.say("By", "two.")
    assert capsys.readouterr().out == "It rises.\nBy two.\n"


def test_a_path_keeps_its_corners_and_a_tenth_of_a_point():
    path = (
        "M 0 0 \nL 1.234567 0.049 \nL 2.5 0 \nL 2.5 3.14159 \nL 2.5 9.96 "
        "\nL 0 9.96 \nz\n"
    )
    assert plotting._compact(f'<path d="{path}"/>') == (
        '<path d="M0 0l2.5 0l0 10l-2.5 0z"/>'
    )


def test_a_curve_that_turns_back_is_not_cut_short():
    path = "M 0 0 \nL 5 0 \nL 2 0 \nL 2 0 \nM 7.26 1 \nL 8 1"
    assert plotting._compact(f'<path d="{path}"/>') == (
        '<path d="M0 0l5 0l-3 0l0 0M7.3 1l0.7 0"/>'
    )


def test_a_marker_keeps_its_round_shape():
    path = "M 0 1.5 \nC 0.397805 1.5 0.77937 1.341951 1.06066 1.06066 \nz\n"
    assert plotting._compact(f'<path d="{path}"/>') == (
        '<path d="M 0 1.5 C 0.4 1.5 0.78 1.34 1.06 1.06 z"/>'
    )


def test_marks_that_look_alike_say_so_once():
    fig, ax = plt.subplots()
    ax.plot(range(50), "o", color="#123456")
    ax.set_axis_off()
    text = plotting.svg(fig)
    assert text.count("<use") == 50
    assert text.count("#123456") <= 4
    one, other = '<use x="1" style="fill: red"/>', '<use x="2" style="fill: blue"/>'
    assert plotting._share_styles(one + other) == one + other
    assert plotting._share_styles(one + one + other) == (
        '<g style="fill: red"><use x="1"/><use x="1"/></g>' + other
    )


def test_a_figure_drawn_small_looks_the_same():
    rng = np.random.default_rng(0)
    fig, ax = plt.subplots()
    ax.fill_between(range(300), rng.random(300), alpha=0.5)
    ax.plot(rng.random(200), rng.random(200), "o")
    file = io.StringIO()
    fig.savefig(file, format="svg", metadata={"Date": None})
    long = file.getvalue()
    short = plotting._compact(long)
    assert len(short) < 0.75 * len(long)
    for one, other in zip(corners(long), corners(short), strict=True):
        assert np.abs(np.array(one) - np.array(other)).max() <= 0.11


def corners(text: str) -> list[tuple[list[float], list[float]]]:
    """The box around each path, and the place of each marker."""
    found = []
    for path in re.findall(r' d="([^"]*)"', text):
        at = np.zeros(2)
        points = []
        for kind, numbers in re.findall(r"([MLlC])([^MLlCz]*)", path):
            pairs = np.array(numbers.split(), float).reshape(-1, 2)
            at = pairs[-1] + (at if kind == "l" else 0)
            points.append(at)
        box = np.array(points)
        found.append((box.min(0), box.max(0)))
    for x, y in re.findall(r'<use [^>]*x="([^"]*)" y="([^"]*)"', text):
        found.append(([float(x)], [float(y)]))
    return found
