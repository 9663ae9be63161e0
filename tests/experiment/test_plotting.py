"""Figures: the page's colours, the same bytes, words for those who listen."""

import io
import re
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("agg")
from matplotlib import pyplot as plt

from labml_bcn.experiment import plotting


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


@pytest.mark.parametrize("name", ["BN", "GN", "LN", "BCN", "BCN plain"])
def test_weight_standardization_is_not_left_to_colour(name):
    without = plotting.METHODS[name].style
    with_ws = plotting.METHODS[name + "+WS"].style
    assert without["color"] == with_ws["color"]
    assert without["linestyle"] != with_ws["linestyle"]
    assert without["markerfacecolor"] == "none"


def test_a_figure_is_shown_with_its_sentence_and_its_words(monkeypatch):
    shown = []
    screen = SimpleNamespace(HTML=str, display=shown.append)
    monkeypatch.setattr(plotting, "_display", lambda: screen)
    plotting.show(curve(), "It rises & falls.", "A line.")
    assert 'role="img" aria-label="A line."' in shown[0]
    assert "<figcaption>It rises &amp; falls.</figcaption>" in shown[0]
    assert plt.get_fignums() == []


def test_in_a_script_the_sentence_is_printed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "IPython", None)
    plotting.show(curve(), "It rises.")
    assert capsys.readouterr().out == "It rises.\n"


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
