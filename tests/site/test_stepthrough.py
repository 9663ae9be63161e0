"""Stepping through batch-channel norm: the numbers are torch's, the line is theirs."""

import math
import re
from collections.abc import Iterator
from importlib.resources import files

import pytest
import torch
from helpers.browsing import Visit
from helpers.paths import ROOT
from playwright.sync_api import Browser, Page
from torch import Tensor

from labml_bcn.batch_channel_norm import batch_channel_norm_stepwise
from website import examples

pytestmark = pytest.mark.slow

PAGE = "batch_channel_norm.html"
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
(PRESETS,) = examples.STEPS.values()
NAMES = [preset.__name__.replace("_", " ") for preset in PRESETS]

# What is shown: the line that is lit, here and in the list, and the cells.
SHOWN = """e => ({
    lit: [...document.querySelectorAll(".stepped")].map(l => l.textContent.trim()),
    cells: [...e.querySelectorAll(".cells i")].map(i => i.textContent),
    outlined: e.querySelector(".cells .at").textContent,
    words: e.querySelector("[role=status]").textContent,
    said: e.querySelector("[type=range]").getAttribute("aria-valuetext"),
})"""


def open_stepper(visit: Visit, url: str, width: int = 1440) -> Page:
    page = visit.open(url + PAGE, width)
    page.locator(".stepper .live.ready").wait_for()
    return page


def choose(page: Page, preset: str) -> None:
    page.get_by_role("radio", name=preset).check()
    slider = page.get_by_role("slider", name="Step")
    slider.press("End")
    slider.press("Home")


def walk(page: Page) -> Iterator[dict[str, object]]:
    """Go through all steps by keyboard, and yield what is shown at each."""
    slider = page.get_by_role("slider", name="Step")
    for n in range(int(slider.get_attribute("max")) + 1):
        if n:
            slider.press("ArrowRight")
        yield page.locator(".stepper").evaluate(SHOWN)


def arguments_of(preset, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """What a preset calls the norm with."""
    given = []

    def norm(*args, momentum):
        given.append((*args, momentum))

    monkeypatch.setattr(examples, "batch_channel_norm_stepwise", norm)
    preset()
    (found,) = given
    return found


def steps(x, mean, var, weights, groups, r) -> Iterator[tuple[str, Tensor]]:
    """Each line that is lit, as it begins, with what it sets, from the formulas."""
    x, mean, var = x.double(), mean.double(), var.double()
    assert [w.unique().tolist() for w in weights] == [[1], [0], [1], [0]]
    yield from [("x: Tensor", x), ("mean: Tensor", mean), ("var: Tensor", var)]
    rows = x.transpose(0, 1).flatten(1)
    m, v = rows.mean(1), rows.var(1, correction=0)
    yield from [("m =", m), ("v =", v)]
    mean, var = mean + r * (m - mean), var + r * (v - var)
    yield from [("mean =", mean), ("var =", var)]
    z = torch.nn.functional.batch_norm(x, mean, var, eps=1e-5)
    yield from [("x_hat =", z), ("z =", z), ("grouped =", z)]
    grouped = z.reshape(len(z), groups, -1)
    yield "group_mean =", grouped.mean(2)
    yield "group_var =", grouped.var(2, correction=0)
    y = torch.nn.functional.group_norm(z, groups, eps=1e-5)
    yield from [("z_hat =", y), ("y =", y), ("return", y)]


def is_shown_as(text: str, value: float) -> bool:
    """Whether a cell's text is a value, to three digits."""
    decimals = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1
    return abs(float(text.replace("−", "-")) - value) <= 0.5001 * 10**-decimals


@pytest.mark.parametrize("preset", PRESETS, ids=NAMES)
def test_each_steps_line_and_cells_are_those_of_torch(
    visit, standalone_url, preset, monkeypatch
):
    page = open_stepper(visit, standalone_url)
    choose(page, preset.__name__.replace("_", " "))
    expected = list(steps(*arguments_of(preset, monkeypatch)))
    shown = list(walk(page))
    for (line, value), step in zip(expected, shown, strict=True):
        here, listed = step["lit"]
        assert re.sub(r"\s", "", here).startswith(re.sub(r"\s", "", line)), here
        assert re.sub(r"\s", "", listed).startswith(re.sub(r"\s", "", line)), listed
        numbers = value.flatten().tolist()
        pairs = zip(step["cells"], numbers, strict=True)
        assert all(is_shown_as(text, number) for text, number in pairs), step
    assert visit.errors == []


def test_the_presets_call_the_function_whose_page_it_is():
    assert list(examples.STEPS) == [batch_channel_norm_stepwise]


def work_out(formula: str) -> float:
    """What a formula gives, read as it stands on the page."""
    python = formula.translate(str.maketrans({"−": "-", "×": "*", "²": "**2"}))
    python = re.sub(r"√([\d.]+|\([^()]*\))", r"math.sqrt(\1)", python)
    mean = lambda *values: sum(values) / len(values)  # noqa: E731
    return float(eval(python, {"math": math, "mean": mean}))


def test_every_formula_gives_the_outlined_number(visit, standalone_url):
    page = open_stepper(visit, standalone_url)
    formulas = 0
    for name in NAMES:
        choose(page, name)
        for step in walk(page):
            _, _, worked = str(step["words"]).rpartition("The outlined number: ")
            formula, _, result = worked.rpartition(" = ")
            assert result == step["outlined"], step
            value = float(result.replace("−", "-"))
            # What it is made of was rounded to three digits.
            assert work_out(formula or result) == pytest.approx(value, 0.01, 0.01)
            formulas += bool(formula)
    assert formulas >= 10 * len(NAMES)


def test_the_line_that_is_lit_is_the_line_that_is_named(visit, standalone_url):
    source = (ROOT / "labml_bcn" / "batch_channel_norm.py").read_text().split("\n")
    page = open_stepper(visit, standalone_url)
    choose(page, NAMES[0])
    for n, step in enumerate(walk(page), 1):
        place, _, line = str(step["said"]).partition(", line ")
        assert place.startswith(f"{n} of ")
        assert f"Line {line}. " in step["words"]
        code = re.sub(r"\s", "", source[int(line) - 1])
        assert re.sub(r"\s", "", step["lit"][1]).startswith(code)


def test_it_works_by_keyboard_alone(visit, standalone_url):
    page = open_stepper(visit, standalone_url)
    page.get_by_role("radio", name=NAMES[0]).focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name=NAMES[1]).is_checked()
    slider = page.get_by_role("slider", name="Step")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    last = slider.get_attribute("max")
    assert slider.input_value() == last
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert slider.input_value() == str(int(last) - 1)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Space")
    assert slider.input_value() == last


@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_moves_when_it_comes_nor_when_it_steps(visit, standalone_url, width):
    height = "e => e.getBoundingClientRect().height"
    visit.page.route("**/stepthrough.js", lambda route: route.abort())
    page = visit.open(standalone_url + PAGE, width)
    before = page.locator(".stepper").evaluate(height)
    page.unroute("**/stepthrough.js")
    page = open_stepper(visit, standalone_url, width)
    heights = {page.locator(".stepper").evaluate(height)}
    for name in NAMES:
        choose(page, name)
        heights |= {page.locator(".stepper").evaluate(height) for _ in walk(page)}
    assert max(heights) - min(heights) < 1
    assert abs(before - min(heights)) < 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser, standalone_url, scheme):
    visit = Visit(browser, scheme)
    page = open_stepper(visit, standalone_url)
    page.locator(".stepper summary").click()
    page.evaluate(AXE)
    choose(page, NAMES[-1])
    page.get_by_role("slider", name="Step").press("End")
    answer = page.evaluate("axe.run(document.querySelector('.stepper'))")
    found = [(v["id"], v["nodes"][0]["html"]) for v in answer["violations"]]
    visit.page.close()
    assert found == []


def test_without_script_the_table_has_every_number(browser: Browser, standalone_url):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(standalone_url + PAGE)
    assert not page.locator(".stepper .live").is_visible()
    page.locator(".stepper summary").click()
    heads = page.locator(".stepper thead th")
    assert [text.split("\n")[0] for text in heads.all_inner_texts()] == NAMES
    cells = page.locator(".stepper td samp")
    assert cells.count() == len(NAMES) * page.locator(".stepper tbody").count()
    assert cells.first.is_visible()
    context.close()


# As wide as the text of an A4 page, upright and on its side.
@pytest.mark.parametrize("width", [718, 1031])
def test_print_shows_the_table(browser: Browser, standalone_url, width):
    page = browser.new_page(viewport={"width": width, "height": 1000})
    page.emulate_media(media="print")
    page.goto(standalone_url + PAGE)
    assert not page.locator(".stepper .live").is_visible()
    assert page.locator(".stepper td samp").first.is_visible()
    table = page.locator(".stepper table")
    assert table.evaluate("e => e.scrollWidth <= e.clientWidth")
    page.close()
