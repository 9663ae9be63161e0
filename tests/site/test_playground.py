"""The toy that trains in the page is the one that PyTorch trains."""

import json
import re

import pytest
import torch
from helpers.browsing import Visit, show_alone
from helpers.paths import ROOT
from playwright.sync_api import Page
from torch import nn

from labml_bcn import weight_standardization
from website import playground
from website.playground import CHANNELS, CHOICES, LENGTH, RECIPE, Choice, percent

RECORD = ROOT / "docs" / "playground" / "runs.json"


@pytest.fixture(scope="module")
def runs():
    return json.loads(RECORD.read_text())["runs"]


@pytest.fixture
def page(browser):
    """A page with the playground alone."""
    visit = Visit(browser)
    show_alone(visit.page, playground.figure(RECORD), "lab playground")
    yield visit.page
    assert visit.errors == []
    visit.page.close()


# ---- The record ------------------------------------------------------------


def test_the_record_says_what_made_it_and_has_every_choice(runs):
    record = json.loads(RECORD.read_text())
    assert record["command"] == (
        f"python -m website.playground {RECORD.relative_to(ROOT)}"
    )
    assert re.fullmatch("[0-9a-f]{40}(-changed)?", record["commit"])
    assert {"time", "torch", "labml_bcn", "cpu"} <= set(record["surroundings"])
    assert record["recipe"] == RECIPE
    assert list(runs) == [choice.name for choice in CHOICES]


@pytest.mark.slow
def test_a_run_can_be_recorded_anew(runs):
    run = playground.train(Choice("bcn", True, 8))
    kept = runs["bcn-ws-b8"]
    assert run.points == kept["points"]
    assert run.zeros == pytest.approx(kept["zeros"], abs=1e-6)


def test_the_gap_opens_for_batch_norm_at_batch_size_1_and_for_no_other(runs):
    gaps = {
        name: run["points"][-1][0] - run["points"][-1][1] for name, run in runs.items()
    }
    assert gaps["bn-b1"] > 0.2
    for name in ("gn-b1", "gn-ws-b1", "bcn-b1", "bcn-ws-b1", "bn-ws-b1"):
        assert abs(gaps[name]) < 0.06, name


def test_the_table_has_every_recorded_run(runs):
    table = playground.table(RECORD)
    assert table.count("→") == len(runs)
    training, evaluation = runs["bn-b1"]["points"][-1]
    assert f"| BN | {percent(training)}% → {percent(evaluation)}% |" in table


# ---- The script ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.name)
def test_a_run_in_the_page_is_the_run_of_pytorch(page, runs, choice):
    settings = RECIPE | {
        "norm": choice.norm,
        "ws": choice.ws,
        "batch": choice.batch,
        "seed": choice.seed,
    }
    run = page.evaluate("settings => train(settings)", settings)
    kept = runs[choice.name]
    assert run["points"] == kept["points"]
    assert run["zeros"] == pytest.approx(kept["zeros"], abs=1e-6)


APPLY = """([kind, momentum, x, dy, scales, training]) => {
    const norm = makeNorm(kind, momentum);
    norm.parameters.forEach((p, i) => p.value.set(scales[i]));
    const step = norm.forward(Float64Array.from(x), training);
    const dx = step.back(Float64Array.from(dy));
    return [step.y, dx, norm.mean, norm.variance, ...norm.parameters.map(p => p.grad)]
        .map(values => [...values]);
}"""


def parameters_of(norm: nn.Module) -> list[nn.Parameter]:
    """Scale and shift, first of channels and then of groups."""
    return [p for p in norm.parameters() if p is not None]


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", playground.NORMS)
def test_a_norm_has_the_values_gradients_and_statistics_of_the_layer(
    page, kind, training
):
    norm = playground.make_norm(kind).double().train(training)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = (3 * torch.randn(2, CHANNELS, LENGTH).double() + 1).requires_grad_()
    dy = torch.randn_like(x)
    scales = [p.detach().tolist() for p in parameters_of(norm)]
    momentum = RECIPE["momentum"]
    words = [kind, momentum, x.flatten().tolist(), dy.flatten().tolist(), scales]
    y, dx, mean, variance, *gradients = page.evaluate(APPLY, [*words, training])
    out = norm(x)
    out.backward(dy)
    close = {"rtol": 1e-9, "atol": 1e-9}

    def same(ours, theirs):
        ours = torch.tensor(ours, dtype=torch.float64)
        torch.testing.assert_close(ours, theirs.detach().flatten().double(), **close)

    same(y, out)
    same(dx, x.grad)
    for ours, parameter in zip(gradients, parameters_of(norm), strict=True):
        same(ours, parameter.grad)
    batch_norm = getattr(norm, "batch_norm", norm)
    if kind != "gn":
        same(mean, batch_norm.exp_mean)
        same(variance, batch_norm.exp_var)


@pytest.mark.slow
def test_weight_standardization_has_the_layers_values_and_gradient(page):
    weight = torch.randn(CHANNELS, 9).double().requires_grad_()
    dy = torch.randn_like(weight)
    ours = page.evaluate(
        """([w, dy, filters]) => {
            const owner = w.map((_, i) => Math.floor(i / (w.length / filters)));
            const step = standardize(Float64Array.from(w), owner, filters);
            return [[...step.y], [...step.back(Float64Array.from(dy))]];
        }""",
        [weight.flatten().tolist(), dy.flatten().tolist(), CHANNELS],
    )
    out = weight_standardization(weight)
    out.backward(dy)
    for mine, theirs in zip(ours, (out.detach(), weight.grad), strict=True):
        mine = torch.tensor(mine, dtype=torch.float64).view_as(theirs)
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def wait_for_the_run(page: Page) -> None:
    """Wait until what was chosen has been trained and drawn."""
    page.wait_for_function("!document.querySelector('.playground[aria-busy]')")


@pytest.mark.slow
def test_the_script_draws_the_recorded_run_as_it_is_built(page):
    shown = "e => [...e.querySelectorAll('svg, .words')].map(part => part.outerHTML)"
    built = page.locator(".playground").evaluate(shown)
    page.locator("form").dispatch_event("change")
    wait_for_the_run(page)
    assert page.evaluate("!!document.querySelector('.playground').seen")
    assert page.locator(".playground").evaluate(shown) == built


@pytest.mark.slow
def test_the_playground_is_worked_by_keyboard_and_says_what_it_shows(page, runs):
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    wait_for_the_run(page)
    live = page.locator("[aria-live=polite]")
    accuracy = runs["gn-b1"]["points"][-1][1]
    assert "GN at batch size 1" in live.inner_text()
    assert f"in evaluation, {percent(accuracy)}% of 200 new ones" in live.inner_text()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    wait_for_the_run(page)
    assert "GN+WS at batch size 1" in live.inner_text()
    before = page.evaluate("document.querySelector('.playground').seen")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for_the_run(page)
    assert page.evaluate("document.querySelector('.playground').seen") != before


CLICKS = """lab => new Promise(done => {
    let drawn = 0;
    const line = lab.querySelector(".training");
    const another = lab.querySelector("[name=seed]");
    new MutationObserver(() => { drawn += 1; }).observe(line, {attributes: true});
    for (let k = 0; k < 5; k++) another.click();
    const busy = lab.getAttribute("aria-busy");
    const wait = () => lab.hasAttribute("aria-busy")
        ? setTimeout(wait, 20) : done([busy, drawn, another.value]);
    setTimeout(wait, 20);
})"""


@pytest.mark.slow
def test_of_several_choices_the_last_is_run_and_the_page_says_that_it_waits(page):
    first = int(page.locator("[name=seed]").get_attribute("value") or "")
    assert page.locator(".playground").evaluate(CLICKS) == ["true", 1, str(first + 15)]


@pytest.mark.slow
def test_its_controls_have_names(page):
    for role, name in (
        ("combobox", "Norm"),
        ("combobox", "Batch size"),
        ("checkbox", "Standardize weights"),
        ("button", "Draw another start"),
    ):
        assert page.get_by_role(role, name=name).count() == 1
