"""Figures: the page's colours, the same bytes, words for those who listen."""

import sys
from types import SimpleNamespace

import matplotlib as mpl
import pytest

mpl.use("agg")
from matplotlib import pyplot as plt

from labml_bcn.experiment import figure


@pytest.fixture(autouse=True)
def _style():
    with mpl.rc_context():
        figure.use_style()
        yield
    plt.close("all")


def curve():
    fig, ax = plt.subplots()
    figure.line(ax, [0, 1, 2], [0.1, 0.5, 0.4], "BCN+WS")
    ax.set(xlabel="images", ylabel="accuracy")
    return fig


def test_axes_and_words_take_the_pages_colour():
    text = figure.svg(curve())
    assert "currentColor" in text
    assert figure.TEXT not in text
    assert "var(--method-bcn, #7b3fb5)" in text
    assert "<style" not in text


def test_the_same_figure_is_the_same_bytes():
    first = figure.svg(curve())
    assert figure.svg(curve()) == first
    assert "<metadata" not in first
    assert "dc:date" not in first


def test_two_figures_share_no_id():
    other, ax = plt.subplots()
    ax.plot([1, 2], [3, 4], "o")
    texts = [figure.svg(curve()), figure.svg(other)]
    ids = [set(t.split('id="')[1:]) for t in texts]
    ids = [{i.split('"')[0] for i in each} for each in ids]
    assert ids[0]
    assert ids[0].isdisjoint(ids[1])


@pytest.mark.parametrize("name", ["BN", "GN", "LN", "BCN", "BCN plain"])
def test_weight_standardization_is_not_left_to_colour(name):
    without = figure.METHODS[name].style
    with_ws = figure.METHODS[name + "+WS"].style
    assert without["color"] == with_ws["color"]
    assert without["linestyle"] != with_ws["linestyle"]
    assert without["markerfacecolor"] == "none"


def test_a_figure_is_shown_with_its_sentence_and_its_words(monkeypatch):
    shown = []
    screen = SimpleNamespace(HTML=str, display=shown.append)
    monkeypatch.setattr(figure, "_notebook", lambda: screen)
    figure.show(curve(), "It rises & falls.", "A line.")
    assert 'role="img" aria-label="A line."' in shown[0]
    assert "<figcaption>It rises &amp; falls.</figcaption>" in shown[0]
    assert plt.get_fignums() == []


def test_in_a_script_the_sentence_is_printed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "IPython", None)
    figure.show(curve(), "It rises.")
    assert capsys.readouterr().out == "It rises.\n"
