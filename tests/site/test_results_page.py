"""The page of results: made of records, whole or in part, and no more."""

import re
from dataclasses import asdict, replace
from functools import partial

import pytest
from helpers.paths import ROOT

from labml_bcn.experiment.records import is_recorded, read_records
from labml_bcn.experiment.settings import Settings
from labml_bcn.experiment.study import (
    AT_MICRO,
    METHODS,
    MICRO,
    STUDIES,
    plan,
)
from website import results_page
from website.results_page import NOT_YET, Results

CPU = STUDIES["cpu"]
PAGE = (ROOT / "docs" / "results.md").read_text()
LEVELS = {
    "BN": 0.2,
    "GN": 0.3,
    "BN+WS": 0.25,
    "GN+WS": 0.4,
    "BCN": 0.35,
    "BCN plain+WS": 0.45,
    "BCN+WS": 0.5,
}


def record(point, accuracy):
    return {
        "name": point.name,
        "command": point.command,
        "commit": "c" * 40,
        "images": "a 7,728-image part of CIFAR-10",
        "counts": {"train": 7728, "test": 1000},
        "settings": asdict(Settings()) | point.settings | {"digest": "d" * 64},
        "accuracy": accuracy,
        "error": None,
        "weights": "e" * 64,
        "seconds": 36.0,
        "surroundings": {"torch": "2.0", "cpu": "A processor"},
        "tests": [],
        "curve": [],
    }


def results(levels=LEVELS, limit=10**9, noise=0.004, grid=CPU):
    """A study in which each method has its level, and a seed its noise."""
    records = {}
    while True:
        left = [p for p in plan(grid, records) if not is_recorded(p, records)]
        ready = [p for p in left if p.settings["lr"] is not None]
        if not ready or len(records) >= limit:
            return Results(grid, records)
        for point in ready[: limit - len(records)]:
            level = levels[point.method]
            level += noise * (point.settings["seed"] - 1)
            records[point.name] = record(point, level)


@pytest.fixture(scope="module")
def whole():
    return results()


@pytest.fixture(scope="module", params=[0, 1, 30, 120, 200])
def part(request):
    return results(limit=request.param)


def test_what_is_told_apart_has_every_seed_above_every_seed(whole):
    study = whole
    assert results_page.above(study, [3, 4, 5], [1, 2, 2.9])
    assert not results_page.above(study, [3, 4, 5], [1, 2, 3])
    assert not results_page.above(study, [4, 5], [1, 2, 3])
    assert not results_page.above(study, [4, 5, 6], [1, 2])


def test_the_best_comes_with_what_is_not_told_apart():
    close = LEVELS | {"GN+WS": 0.5}
    assert results_page.best(results(), 2) == ["BCN+WS"]
    assert set(results_page.best(results(close), 2)) == {"BCN+WS", "GN+WS"}


def test_the_answer_follows_the_figures():
    said = results_page.answer(results())
    for size in (1, 2, 4):
        assert f"**Batch size {size}: BCN+WS**, " in said
    assert said.count("Every other method is below it, seed for seed.") == 3
    assert said.endswith("is BCN+WS alone.**")
    said = results_page.answer(results(LEVELS | {"GN": 0.7}))
    assert said.endswith(
        "**Among the best at 1, 2 and 4 alike is GN alone.** BCN+WS is among"
        " them at 0 of the three."
    )
    said = results_page.answer(results(LEVELS | {"GN": 0.5}))
    assert "alike are GN and BCN+WS.** The first of these has" in said


def test_without_all_seeds_nothing_is_compared():
    said = results_page.answer(results(limit=100))
    assert said.count(NOT_YET) == 3
    assert "best" not in said
    assert "**" not in results_page.table(results(limit=100))
    said = results_page.papers(results(limit=100))
    assert "agrees" not in said
    assert "told apart" not in said


def test_the_papers_are_agreed_or_disagreed_with_by_the_figures():
    agrees = results_page.papers(results())
    assert agrees.count("**agrees**") == 1 + 4 + 1 + 3 + 2
    backwards = {name: 1 - level for name, level in LEVELS.items()}
    disagrees = results_page.papers(results(backwards))
    assert disagrees.count("**disagrees**") == 1 + 4 + 1 + 3 + 2
    level = results_page.papers(results(dict.fromkeys(LEVELS, 0.3)))
    assert "agrees" not in level


def test_the_table_has_means_and_ranges(whole):
    table = results_page.table(whole)
    values = whole.main("GN", 16)
    cell = (
        f"{sum(values) / 3:.1f}<br><small>{min(values):.1f}&nbsp;to&nbsp;"
        f"{max(values):.1f}</small>"
    )
    row = next(line for line in table.splitlines() if "| GN |" in line)
    assert row.split(" | ")[4] == cell
    assert table.count("**") == 2 * 5
    assert table.count("\n") == 1 + 7


def test_a_part_says_how_much_it_is(part):
    said = results_page.state(part)
    total = len(plan(CPU, {}))
    assert f"{len(part.records)} of {total} runs are:" in said
    assert "Not all of it is recorded yet" in said
    assert results_page.count(part).startswith(f"{len(part.records)} of ")


def test_a_whole_study_says_so(whole):
    assert results_page.state(whole) == "All 223 runs are recorded."


@pytest.mark.parametrize("kind", results_page.KINDS)
def test_everything_can_be_made_of_a_part(part, kind):
    made = results_page.KINDS[kind](part)
    assert "nan" not in made
    assert "None" not in made


def test_a_loss_that_was_no_number_counts_as_guessing():
    found = results()
    name = CPU.main("GN", 2, found.records)[1].name
    found.records[name]["accuracy"] = None
    assert min(found.main("GN", 2)) == 10
    assert "| runs whose loss became no number | 1 |" in results_page.facts(found)


def test_the_ablation_takes_what_the_comparison_has(whole):
    usual = whole.main("BCN+WS", 2)
    assert whole.estimate("running_mean", 0.01) == usual
    assert len(whole.estimate("batch_mean", 0.01)) == 3
    table = results_page.momentum(whole)
    assert results_page.spread(usual) in table
    assert table.count("%") == 2 * 5
    groups = results_page.groups(whole)
    assert f"8, as above | 4, 8, 16 | {results_page.spread(usual)}" in groups
    slow = results_page.slow(whole)
    assert results_page.spread(whole.main("BN", 2)) in slow
    assert slow.count("%") == 2 * 3


def test_a_rate_at_the_edge_has_a_star():
    table = results_page.rates(results(noise=0))
    # Of equals the lowest is chosen, which is at the edge.
    low = min(CPU.rates[2])
    assert f"{low:g}*" in table
    assert table.count("*") == 2 * len(METHODS)


def test_each_known_point_has_its_command_and_leads_to_its_record(whole):
    made = results_page.commands(whole)
    for point in plan(CPU, whole.records):
        assert point.command in made
        assert f'href="cpu/{point.name}.json">{point.name}<' in made


def test_a_point_that_is_not_recorded_leads_nowhere():
    made = results_page.commands(results(limit=0))
    assert "href" not in made
    assert made.count(NOT_YET) == 7 * (5 + 5)


def test_the_plot_draws_each_method_in_its_colour_and_says_it(whole):
    made = results_page.plot(whole)
    for variable in ("bn", "gn", "bcn-plain", "bcn"):
        assert f"var(--method-{variable}, " in made
    assert made.count("<svg") == 1
    label = re.search('aria-label="([^"]*)"', made)[1]
    for size in CPU.batch_sizes:
        assert f"At batch size {size}: BCN+WS 5" in label
    assert results_page.plot(whole) == made


def test_the_page_names_what_can_be_made():
    kinds = re.findall(r"<!-- (\w+): ([\w-]+) -->", PAGE)
    assert {kind for kind, _ in kinds} == set(results_page.KINDS)
    assert {name for _, name in kinds} == set(STUDIES)
    made = results_page.put(PAGE, ROOT / "docs" / "results")
    assert "<!--" not in made


def test_the_prose_says_what_the_grid_is():
    numbers = {3: "three", 5: "five", 7: "seven"}
    methods, sizes, seeds = (
        numbers[len(each)] for each in (CPU.methods, CPU.batch_sizes, CPU.seeds)
    )
    text = " ".join(PAGE.split())
    assert (
        f"{methods.capitalize()} ways to normalize, {sizes} batch sizes,"
        f" {seeds} seeds" in text
    )
    r = AT_MICRO["momentum"]
    assert AT_MICRO["variance_around"] == "running_mean"
    assert (
        f"Up to batch size {MICRO} the estimate has momentum {r:g} and its"
        " variance around the running mean" in text
    )
    b, c = sorted(CPU.rates)
    assert f"chosen at batch sizes {b} and {c} on training images" in text
    assert f"BCN+WS at batch size {CPU.ablated}" in text
    (labml,) = STUDIES["gpu-labml"].rates[2]
    assert f"Adam at a rate of {labml:f}".rstrip("0") in text


def test_all_that_is_recorded_here_is_a_point_and_from_one_set_of_images():
    folder = ROOT / "docs" / "results"
    for name in STUDIES:
        records = read_records(folder / name)
        found = Results(STUDIES[name], records)
        assert len(found.kept) == len(records)
        digests = {
            (r["settings"]["hold_out"], r["settings"]["digest"])
            for r in records.values()
        }
        assert len(digests) <= 2
        for record in records.values():
            assert re.fullmatch("[0-9a-f]{40}", record["commit"])
            assert "/" not in record["command"]


def test_another_grid_has_a_page_of_its_own():
    grid = replace(CPU, seeds=(0, 1), batch_sizes=(1, 2, 4), momenta=(0.1,))
    found = results(grid=grid)
    assert results_page.state(found).startswith("All ")
    assert results_page.answer(found).count("BCN+WS") == 4


def test_the_advice_is_compared_with_the_best_of_the_ablation(whole):
    found = whole.estimate("running_mean", 0.01)
    assert "not told apart from the best" in results_page.advice(whole)
    changed = Results(CPU, {k: dict(v) for k, v in whole.records.items()})
    for name, record in changed.records.items():
        if "batch_mean-r0.1-" in name:
            record["accuracy"] += 0.1
    said = results_page.advice(changed)
    assert said.endswith("is below `batch_mean` with momentum 0.1.")
    for name, record in changed.records.items():
        if name.startswith("main-bcn-ws-b2"):
            record["accuracy"] += 0.2
    assert results_page.advice(changed).endswith("is the best of these.")
    assert results_page.spread(found) in results_page.momentum(whole)
    assert NOT_YET in results_page.advice(results(limit=200))


def test_the_advice_names_what_is_above_it_where_the_best_is_not(whole):
    changed = Results(CPU, {k: dict(v) for k, v in whole.records.items()})
    for name, record in changed.records.items():
        if "running_mean-r0.003-" in name:
            record["accuracy"] += 0.01
        if "batch_mean-r0.003-" in name:
            record["accuracy"] += -0.1 if name.endswith("s0") else 0.2
    said = results_page.advice(changed)
    assert "the best, `batch_mean` with momentum 0.003, but each" in said
    assert said.endswith("below every one of `running_mean` with 0.003.")


def test_the_readme_shows_the_plot_once_the_study_is_whole():
    """And the file is the plot: `python website/results_page.py` makes it."""
    records = read_records(results_page.FOLDER / "cpu")
    found = Results(CPU, records)
    readme = (ROOT / "README.md").read_text()
    complete = len(found.kept) == len(found.points)
    assert ("docs/assets/accuracy.svg" in readme) == complete
    if complete:
        kept = results_page.README_PLOT.read_text("utf-8")
        assert kept == results_page.for_readme(found)


def contrast(one, other):
    """The contrast ratio of two colours, as WCAG defines it."""
    lights = sorted(map(luminance, (one, other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(colour):
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in parts
    ]
    red, green, blue = linear
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_readmes_plot_stands_alone(whole):
    made = results_page.for_readme(whole)
    assert made.startswith("<svg")
    assert "http://www.w3.org/2000/svg" in made
    assert "currentColor" not in made
    assert "font-family:sans-serif" in made
    # As much contrast as a line needs, on white and on GitHub's dark.
    [bcn] = re.findall("--method-bcn:(#[0-9a-f]{6})", made)
    for ground in ("#ffffff", "#0d1117"):
        assert contrast(bcn, ground) >= 3
    assert made.endswith("</svg>\n")


def test_what_the_readme_and_use_it_say_was_recorded():
    """Both say in words what came out; here is what they stand on."""
    found = Results(CPU, read_records(results_page.FOLDER / "cpu"))
    above = partial(results_page.above, found)
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert "batch norm is left with chance" in readme
    for method in ("BN", "BN+WS"):
        assert max(found.main(method, 1)) < 15
    assert "still classifies over half of the test images right" in readme
    assert "do not tell these two apart" in readme
    for size in results_page.MICRO_SIZES:
        pair = found.main("BCN+WS", size), found.main("GN+WS", size)
        assert min(map(min, pair)) > 50
        assert not above(*pair)
        assert not above(*reversed(pair))
    use = " ".join((ROOT / "docs" / "use.md").read_text().split())
    assert "every seed with 0.01 or less was above" in use
    for around in results_page.VARIANCES:
        for small in (0.003, 0.01):
            assert above(found.estimate(around, small), found.estimate(around, 0.1))
    assert "with 0.003 was above every seed with 0.01" in use
    assert above(
        found.estimate("running_mean", 0.003),
        found.estimate("running_mean", 0.01),
    )
    assert "told apart at no momentum" in use
    for r in CPU.momenta:
        pair = [found.estimate(each, r) for each in results_page.VARIANCES]
        assert not above(*pair)
        assert not above(*reversed(pair))
