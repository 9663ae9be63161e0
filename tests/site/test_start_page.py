"""The start page shows real lines and real numbers."""

import io
from pathlib import Path

import pytest
from helpers.paths import ROOT
from PIL import Image

from labml_bcn.experiment.records import read_records
from labml_bcn.experiment.study import STUDIES
from website import card, start_page
from website.study_results import Results

LAYER = '''\
"""# A layer"""


def run(x, mean):
    # **Centre it**, by [a law](#law).
    #
    # $$y = x - \\\\mu$$ {#law}
    y = x - mean
    # **Scale it.**
    #
    # $$z = y / 2$$ {#scale}
    z = y / 2
    return z
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "labml_bcn").mkdir()
    (tmp_path / "labml_bcn" / "layer.py").write_text(LAYER)
    return tmp_path


def test_a_step_is_its_sentence_its_formula_and_its_lines(root):
    text = start_page.step(root, "layer", "run", "law")
    assert "**Centre it**, by a law." in text
    assert "$$y = x - " in text
    assert "\ny = x - mean\n" in text
    assert "[Lines 8 to 8](labml_bcn/layer.py#L8)" in text


def test_a_step_may_go_on_with_the_lines_of_the_next(root):
    text = start_page.step(root, "layer", "run", "law", "scale")
    assert "\ny = x - mean\nz = y / 2\nreturn z\n" in text
    assert "Scale it" not in text
    assert "[Lines 8 to 13](labml_bcn/layer.py#L8)" in text


@pytest.mark.parametrize("words", [("layer", "gone", "law"), ("layer", "run", "gone")])
def test_a_step_that_is_gone_stops_the_build(root, words):
    with pytest.raises(LookupError, match="no step of"):
        start_page.step(root, *words)


def found(**accuracies: list[float]) -> str:
    results = Results(STUDIES["cpu"], read_records(ROOT / "docs" / "results" / "cpu"))
    real = results.main

    class Changed(Results):
        def main(self, method: str, batch_size: int) -> list[float]:
            name = method.replace("+", "_")
            return accuracies.get(name) or real(method, batch_size)

    return start_page.headline(Changed(results.study, results.records))


def test_the_headline_says_what_was_recorded():
    text = found(BN=[10.0, 11.0, 12.0])
    assert "**11.0%**" in text


def test_the_fall_is_between_training_mode_and_evaluation():
    results = Results(STUDIES["cpu"], read_records(ROOT / "docs" / "results" / "cpu"))
    training, tested = (sum(each) / len(each) for each in results.gap("BN", 1))
    text = start_page.fall(results)
    assert f"**{training:.1f}%** of its latest training images" in text
    assert f"**{tested:.1f}%** of the test images" in text
    assert training > 2 * tested
    two = [f"{sum(each) / len(each):.1f}%" for each in results.gap("BN", 2)]
    assert text.endswith(f"With two images it is {' and '.join(two)}.")


@pytest.mark.parametrize(
    ("gn_ws", "verdict"),
    [
        ([49.0, 50.0, 51.0], "is below it in every seed"),
        ([59.0, 60.0, 62.0], "does as well, as far as three seeds can tell"),
        ([71.0, 72.0, 73.0], "is above it in every seed"),
    ],
)
def test_the_headline_compares_seed_by_seed(gn_ws, verdict):
    assert verdict in found(BCN_WS=[60.0, 61.0, 62.0], GN_WS=gn_ws)


def test_the_card_is_a_picture_of_the_size_that_it_states():
    picture = Image.open(io.BytesIO(card.png()))
    assert picture.format == "PNG"
    assert picture.size == (card.WIDTH, card.HEIGHT)
    template = (ROOT / "docs" / "overrides" / "main.html").read_text()
    assert f'content="{card.WIDTH}"' in template
    assert f'content="{card.HEIGHT}"' in template
    assert card.png() == card.png()
