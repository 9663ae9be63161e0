"""The scatter lab says of every batch what the layer says of it."""

import html
import json
import re
from dataclasses import astuple

import pytest
import torch
from helpers.browsing import Visit, show_alone
from helpers.paths import ROOT
from playwright.sync_api import Page

from labml_bcn import EstimatedBatchNorm
from labml_bcn.experiment import cifar10, moments
from website import scatter_lab
from website.scatter_lab import MOMENTA, SIZES, STEPS, Choice

RECORD = ROOT / "docs" / "scatter" / "moments.json"
CHOICES = [
    Choice(),
    Choice(1, 0.01, "batch_mean", 3),
    Choice(1, 0.1, "running_mean", 3),
    Choice(1, 1.0, "running_mean", 2),
    Choice(8, 0.3, "batch_mean", 1),
    Choice(32, 0.001, "running_mean", 0, seed=1),
    Choice(128, 0.03, "running_mean", 3, seed=2),
]


def notebook_batches(x, size, seed):
    """The batches of notebook 1, written as they are there."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        yield x[torch.randint(len(x), (size,), generator=generator)]


def torch_record(x, choice):
    """What the layer knows after each batch of one channel `x`, `[N, 1, ...]`."""
    norm = EstimatedBatchNorm(
        1, momentum=choice.momentum, variance_around=choice.around
    )
    mean, var = [], []
    for batch in notebook_batches(x, choice.batch, choice.seed):
        norm(batch)
        mean.append(float(norm.exp_mean))
        var.append(float(norm.exp_var))
    return mean, var


def largest_difference(ours, theirs):
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def channels():
    return scatter_lab.read_channels(RECORD)


# ---- What stands on the page without script --------------------------------


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_two_values_an_image_have_its_part_in_every_batch(channels, choice):
    # The record's own numbers, averaged over each batch.
    channel = channels[choice.channel]
    seen = scatter_lab.replay(channel, choice)
    running = 0.0
    batches = notebook_batches(torch.stack(channel, 1), choice.batch, choice.seed)
    for step, batch in enumerate(batches):
        m, square = batch.mean(0).tolist()
        around = running if choice.around == "running_mean" else m
        assert seen.batch_mean[step] == pytest.approx(m, abs=1e-9)
        variance = square - 2 * around * m + around**2
        assert seen.batch_var[step] == pytest.approx(variance, abs=1e-9)
        running = seen.mean[step]


@pytest.mark.parametrize("around", ["batch_mean", "running_mean"])
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_the_estimate_settles_on_average_where_the_formula_says(
    channels, monkeypatch, around, batch
):
    monkeypatch.setattr(scatter_lab, "STEPS", 5_000)
    choice = Choice(batch, 0.1, around, 3)
    seen = scatter_lab.replay(channels[3], choice)
    after = sum(seen.var[500:]) / len(seen.var[500:])
    settled = scatter_lab.settled_variance(channels[3], choice)
    assert after == pytest.approx(settled, rel=0.05)
    spread = torch.tensor(seen.mean[500:]).std()
    said = float(scatter_lab.numbers(channels[3], choice)["mean_std"])
    assert float(spread) == pytest.approx(said, rel=0.1)


def test_the_figure_says_in_words_what_it_shows():
    text = scatter_lab.figure(RECORD)
    labels = re.findall(r'role="img" aria-label="([^"]+)"', text)
    assert len(labels) == 2
    assert all(len(label.split()) > 20 for label in labels)
    words = html.unescape(re.sub("<[^>]+>", "", text.split('class="words"')[1]))
    assert "With B\N{NO-BREAK SPACE}= 2, the batch’s mean scatters by 0." in words
    assert "The running variance settles at 0." in words


def test_every_axis_holds_the_start_and_the_truth(channels):
    for channel in channels:
        mean, var = scatter_lab.axes(channel)
        for axis, values in (
            (mean, (0, float(channel.mean.mean()))),
            (var, (1, channel.total)),
        ):
            top = axis.low + axis.step * (scatter_lab.TICKS - 1)
            assert all(axis.low <= value <= top for value in values)


def test_a_range_that_no_axis_holds_is_an_error():
    with pytest.raises(ValueError, match="no axis holds 0 to 1000"):
        scatter_lab._axis(0, 1000)


def test_the_page_names_what_made_its_numbers():
    said = scatter_lab.origin(RECORD)
    record = json.loads(RECORD.read_text())
    for part in (record["command"], record["commit"][:12], record["data"]["source"]):
        assert part in said


# ---- What the script does --------------------------------------------------


@pytest.fixture
def lab(browser):
    """A page with the lab alone."""
    visit = Visit(browser)
    show_alone(visit.page, scatter_lab.figure(RECORD), "lab scatter")
    yield visit.page
    assert visit.errors == []
    visit.page.close()


def choose(page: Page, choice: Choice) -> None:
    page.locator("[name=batch]").fill(str(SIZES.index(choice.batch)))
    page.locator("[name=momentum]").fill(str(MOMENTA.index(choice.momentum)))
    page.locator("[name=around]").select_option(choice.around)
    page.locator("[name=channel]").select_option(str(choice.channel))
    seed = page.locator("[name=seed]")
    while int(seed.get_attribute("value")) < choice.seed:
        seed.click()


def seen_by(page: Page) -> dict[str, list[float]]:
    return page.evaluate("document.querySelector('.lab.scatter').seen")


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_the_estimate_is_that_of_the_layer_for_the_notebooks_batches(
    lab, channels, choice
):
    choose(lab, choice)
    seen = seen_by(lab)
    x = channels[choice.channel].images.float()
    mean, var = torch_record(x, choice)
    assert len(mean) == len(seen["mean"]) == STEPS
    assert largest_difference(seen["mean"], mean) < 1e-5
    assert largest_difference(seen["var"], var) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES[:4], ids=str)
def test_the_estimate_is_that_of_the_layer_for_the_images_themselves(
    lab, real_images, choice
):
    record, data = json.loads(RECORD.read_text()), cifar10.load(real_images)
    if data.digest != record["data"]["digest"]:
        pytest.skip("these are other images than those of the record")
    each = record["channels"][choice.channel]
    weight, bias = torch.tensor([each["weight"]]), torch.tensor([each["bias"]])
    choose(lab, choice)
    seen = seen_by(lab)
    mean, var = torch_record(moments.activations(data, weight, bias), choice)
    assert largest_difference(seen["mean"], mean) < 1e-5
    assert largest_difference(seen["var"], var) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_the_script_draws_and_says_what_is_built(lab, choice):
    choose(lab, choice)
    shown = "e => [...e.querySelectorAll('svg, .words')].map(part => part.outerHTML)"
    drawn = lab.locator(".lab.scatter").evaluate(shown)
    lab.evaluate(
        "figure => document.querySelector('main').innerHTML = figure",
        scatter_lab.figure(RECORD, choice),
    )
    assert lab.locator(".lab.scatter").evaluate(shown) == drawn


@pytest.mark.slow
def test_the_lab_is_worked_by_keyboard(lab):
    lab.keyboard.press("Tab")
    lab.keyboard.press("ArrowLeft")
    batch = lab.locator("[name=batch]")
    assert batch.get_attribute("aria-valuetext") == "1"
    live = lab.locator("[aria-live=polite]")
    assert "With B\N{NO-BREAK SPACE}= 1" in live.inner_text()
    before = seen_by(lab)["mean"]
    for _ in range(4):
        lab.keyboard.press("Tab")
    lab.keyboard.press("Enter")
    assert seen_by(lab)["mean"] != before
    lab.keyboard.press("Shift+Tab")
    lab.keyboard.press("Shift+Tab")
    lab.keyboard.press("ArrowDown")
    assert "Measured around the running mean" in live.inner_text()
    assert "around its own mean" not in live.inner_text()


@pytest.mark.slow
def test_the_lab_is_worked_by_touch(browser):
    context = browser.new_context(
        viewport={"width": 390, "height": 900}, has_touch=True, is_mobile=True
    )
    phone = context.new_page()
    show_alone(phone, scatter_lab.figure(RECORD), "lab scatter")
    box = phone.locator("[name=batch]").bounding_box()
    phone.touchscreen.tap(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    assert "With B\N{NO-BREAK SPACE}= 128" in phone.locator(".words").inner_text()
    context.close()


@pytest.mark.slow
def test_controls_have_names_and_paper_has_the_figure_alone(lab):
    for role, name in (
        ("slider", "Images a batch, B"),
        ("slider", "Momentum, r"),
        ("combobox", "Variance around"),
        ("combobox", "Channel"),
        ("button", "Draw other images"),
    ):
        assert lab.get_by_role(role, name=name).count() == 1
    lab.emulate_media(media="print")
    assert lab.locator("form").is_hidden()
    assert lab.locator("svg").first.is_visible()


def test_choices_differ_in_all_that_can_be_chosen():
    for values in zip(*map(astuple, CHOICES), strict=True):
        assert len(set(values)) > 1
