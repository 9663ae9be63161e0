"""The page of results: made of records, and no more."""

import re
from dataclasses import replace
from statistics import mean

import pytest
from helpers.paths import ROOT
from helpers.studies import LEVELS, results

from facing import fill
from labml_bcn.experiment.records import read_records
from labml_bcn.experiment.study import (
    AT_MICRO,
    METHODS,
    MICRO,
    STUDIES,
    plan,
)
from website import (
    results_page,
    results_plots,
    results_sentences,
    results_tables,
)
from website.study_results import (
    MICRO_SIZES,
    VARIANCES,
    Results,
    best_methods,
    falling,
    is_above,
    spread,
)

CPU = STUDIES["cpu"]
PAGE = (ROOT / "docs" / "results.md").read_text()
RELATIVES = (ROOT / "docs" / "relatives.md").read_text()


@pytest.fixture(scope="module")
def whole():
    return results()


def test_what_is_told_apart_has_every_seed_above_every_seed():
    assert is_above([3, 4, 5], [1, 2, 2.9])
    assert not is_above([3, 4, 5], [1, 2, 3])


def test_the_best_comes_with_what_is_not_told_apart():
    close = LEVELS | {"GN+WS": 0.5}
    assert best_methods(results(), 2) == ["BCN+WS"]
    assert set(best_methods(results(close), 2)) == {"BCN+WS", "GN+WS"}


def test_the_answer_follows_the_figures():
    said = results_sentences.answer(results())
    for size in (1, 2, 4):
        assert f"**Batch size {size}: BCN+WS**, " in said
    assert said.count("Every other method is below it, seed for seed.") == 3
    assert said.endswith("is BCN+WS alone.**")
    said = results_sentences.answer(results(LEVELS | {"GN": 0.7}))
    assert said.endswith(
        "**Among the best at 1, 2 and 4 alike is GN alone.** BCN+WS is among"
        " them at 0 of the three."
    )
    said = results_sentences.answer(results(LEVELS | {"GN": 0.5}))
    assert "alike are GN and BCN+WS.** Begin with GN, which has" in said


def test_the_papers_are_agreed_or_disagreed_with_by_the_figures():
    agrees = results_sentences.papers(results())
    assert agrees.count("**agrees**") == 1 + 4 + 1 + 3 + 2
    backwards = {name: 1 - level for name, level in LEVELS.items()}
    disagrees = results_sentences.papers(results(backwards))
    assert disagrees.count("**disagrees**") == 1 + 4 + 1 + 3 + 2
    level = results_sentences.papers(results(dict.fromkeys(LEVELS, 0.3)))
    assert "agrees" not in level


def test_the_table_has_means_and_ranges(whole):
    table = results_tables.table(whole)
    values = whole.main("GN", 16)
    cell = (
        f"{sum(values) / 3:.1f}<br><small>{min(values):.1f}&nbsp;to&nbsp;"
        f"{max(values):.1f}</small>"
    )
    row = next(line for line in table.splitlines() if "| GN |" in line)
    assert row.split(" | ")[4] == cell
    assert table.count("**") == 2 * 5
    assert table.count("\n") == 1 + 7


def test_a_study_says_how_much_of_it_is_recorded(whole):
    assert results_sentences.count(Results(CPU, {})) == "0 of 223 runs are recorded"
    assert results_sentences.count(whole) == "223 of 223 runs are recorded"
    assert results_sentences.state(whole) == "All 223 runs are recorded."


@pytest.mark.parametrize("kind", results_page.KINDS)
def test_everything_is_made_of_numbers(whole, kind):
    made = results_page.KINDS[kind](whole)
    assert "nan" not in made
    assert "None" not in made


def test_a_run_that_is_missing_is_named(whole):
    name = CPU.main("GN", 2, whole.records)[1].name
    records = {k: v for k, v in whole.records.items() if k != name}
    for make in (results_sentences.state, results_tables.table, results_plots.plot):
        with pytest.raises(ValueError, match=f"{name} is not recorded; `make results`"):
            make(Results(CPU, records))


def test_a_loss_that_became_nan_counts_as_guessing():
    found = results()
    name = CPU.main("GN", 2, found.records)[1].name
    found.records[name]["accuracy"] = None
    assert min(found.main("GN", 2)) == 10
    assert "| runs whose loss became NaN | 1 |" in results_tables.facts(found)


def test_the_ablation_takes_what_the_comparison_has(whole):
    usual = whole.main("BCN+WS", 2)
    assert whole.estimate("running_mean", 0.01) == usual
    assert len(whole.estimate("batch_mean", 0.01)) == 3
    table = results_tables.momentum(whole)
    assert spread(usual) in table
    assert table.count("%") == 2 * 5
    groups = results_tables.groups(whole)
    assert f"8, as above | 4, 8, 16 | {spread(usual)}" in groups
    slow = results_tables.slow(whole)
    assert spread(whole.main("BN", 2)) in slow
    assert slow.count("%") == 2 * 3


def test_a_rate_at_the_edge_has_a_star():
    table = results_tables.rates(results(noise=0))
    # Of equals the lowest is chosen, which is at the edge.
    low = min(CPU.rates[2])
    assert f"{low:g}*" in table
    assert table.count("*") == 2 * len(METHODS)
    assert table.endswith(results_tables.EDGE)


def test_where_no_rate_is_at_the_edge_nothing_is_said_of_stars():
    found = Results(CPU, read_records(results_page.FOLDER / "cpu"))
    assert "*" not in results_tables.rates(found)
    assert "star" not in results_tables.rates(found)


def test_each_known_point_has_its_command_and_leads_to_its_record(whole):
    made = results_tables.commands(whole)
    for trial in plan(CPU, whole.records):
        assert trial.command in made
        assert f'href="cpu/{trial.name}.json">{trial.name}<' in made


def test_the_plot_draws_each_method_in_its_colour_and_says_it(whole):
    made = results_plots.plot(whole)
    for variable in ("bn", "gn", "bcn-plain", "bcn"):
        assert f"var(--method-{variable}, " in made
    assert made.count("<svg") == 1
    label = re.search('aria-label="([^"]*)"', made)[1]
    for size in CPU.batch_sizes:
        assert f"At batch size {size}: BCN+WS 5" in label
    assert results_plots.plot(whole) == made


def test_the_pages_name_what_can_be_made():
    pages = PAGE + RELATIVES
    kinds = re.findall(r"<!-- (\w+): ([\w-]+) -->", pages)
    assert {kind for kind, _ in kinds} == {*results_page.KINDS, *results_page.ANSWERS}
    assert {name for _, name in kinds} == set(STUDIES)
    made = fill(pages, results_page.kinds(ROOT / "docs" / "results"))
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
        assert len(found.recorded) == len(records)
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
    assert results_sentences.state(found).startswith("All ")
    assert results_sentences.answer(found).count("BCN+WS") == 4


def test_the_advice_is_compared_with_the_best_of_the_ablation(whole):
    found = whole.estimate("running_mean", 0.01)
    assert "not told apart from the best" in results_sentences.advice(whole)
    changed = Results(CPU, {k: dict(v) for k, v in whole.records.items()})
    for name, record in changed.records.items():
        if "batch_mean-r0.1-" in name:
            record["accuracy"] += 0.1
    said = results_sentences.advice(changed)
    assert said.endswith("is below `batch_mean` with momentum 0.1.")
    for name, record in changed.records.items():
        if name.startswith("main-bcn-ws-b2"):
            record["accuracy"] += 0.2
    assert results_sentences.advice(changed).endswith("is the best of these.")
    assert spread(found) in results_tables.momentum(whole)


def test_the_advice_names_what_is_above_it_where_the_best_is_not(whole):
    changed = Results(CPU, {k: dict(v) for k, v in whole.records.items()})
    for name, record in changed.records.items():
        if "running_mean-r0.003-" in name:
            record["accuracy"] += 0.01
        if "batch_mean-r0.003-" in name:
            record["accuracy"] += -0.1 if name.endswith("s0") else 0.2
    said = results_sentences.advice(changed)
    assert "the best, `batch_mean` with momentum 0.003, but each" in said
    assert said.endswith("below every one of `running_mean` with 0.003.")


def test_the_readme_shows_the_plot():
    """And the file is the plot: `python -m website.results_page` makes it."""
    found = Results(CPU, read_records(results_page.FOLDER / "cpu"))
    assert "docs/assets/accuracy.svg" in (ROOT / "README.md").read_text()
    kept = results_page.README_PLOT.read_text("utf-8")
    assert kept == results_plots.for_readme(found)


def batch_norm_falls(settings):
    """Batch norm at batch size 1 learns as if it were the best of all."""
    return 0.6 if settings["norm"] == "bn" and settings["batch_size"] == 1 else None


def test_what_falls_in_evaluation_is_named_with_both_accuracies():
    found = results(learned=batch_norm_falls)
    said = results_sentences.gap_sentence(found)
    assert said == (
        "At one image a batch BN and BN+WS get 60.0 and 60.0% right in training mode,"
        " and 20.0 and 25.0% in evaluation, where guessing gets 10%. For GN, GN+WS,"
        " BCN, BCN plain+WS and BCN+WS the two are within 0.0 points."
    )
    table = results_tables.gap_table(found)
    assert "| BN | **60.0&nbsp;→&nbsp;20.0** | 20.0&nbsp;→&nbsp;20.0 |" in table
    assert table.count("**") == 2 * 2
    assert "no method is lower" in results_sentences.gap_sentence(results())


def test_at_which_batch_sizes_the_fall_ends_follows_the_figures():
    said = results_sentences.gap_closes(results(learned=batch_norm_falls))
    assert said.startswith("At batch size 2 BN has 20.0% in training mode and 20.0%")
    assert said.endswith(
        "From there on no method is lower in evaluation than in"
        " training mode, seed for seed."
    )
    always = results(learned=lambda settings: 0.9)
    said = results_sentences.gap_closes(always)
    assert "Lower in evaluation, seed for seed, are BN, GN, BN+WS, GN+WS, BCN" in said
    assert said.endswith("BCN+WS at 64.")


def test_the_figure_of_the_fall_says_its_numbers_and_has_the_deepest_on_top():
    made = results_plots.gap(results(learned=batch_norm_falls))
    label = re.search('aria-label="([^"]*)"', made)[1]
    assert "percent: BN 60.0 in training mode and 20.0 in evaluation; BN+WS 60" in label
    assert label.count(" in evaluation") == len(METHODS)
    assert "on the last 960 training images" in made
    for method in METHODS:
        assert f">{method}</text>" in made


def test_the_rivals_are_compared_size_by_size():
    said = results_sentences.versus(results())
    sizes = "At batch size 1, 2, 4, 16 and 64 "
    assert said == (
        f"- {sizes}every seed of BCN+WS is above every seed of GN+WS.\n"
        f"- {sizes}every seed of BCN is above every seed of GN."
    )
    level = results_sentences.versus(results(LEVELS | {"BCN+WS": 0.4, "BCN": 0.1}))
    assert "BCN+WS and GN+WS are not told apart" in level
    assert "every seed of GN is above every seed of BCN" in level


def test_relatives_says_of_the_rivals_what_was_recorded():
    found = Results(CPU, read_records(results_page.FOLDER / "cpu"))
    text = " ".join(RELATIVES.split())
    assert "begin with GN+WS" in text
    assert "in our study nothing is lost" in text
    assert "without WS, BCN is the better one here" in text
    for size in MICRO_SIZES:
        pair = found.main("BCN+WS", size), found.main("GN+WS", size)
        assert not is_above(*pair)
        assert not is_above(*reversed(pair))
        assert is_above(found.main("BCN", size), found.main("GN", size))


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
    made = results_plots.for_readme(whole)
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
    readme = " ".join((ROOT / "README.md").read_text().split())
    learned, tested = map(mean, found.gap("BN", 1))
    assert (
        f"batch norm learns and then fails: {learned:.1f}% right in training mode,"
        f" {tested:.1f}% in evaluation, where guessing gets 10%" in readme
    )
    assert "BN" in falling(found, 1)
    assert "classifies over half of the test images right" in readme
    assert "do not tell these two apart" in readme
    for size in MICRO_SIZES:
        pair = found.main("BCN+WS", size), found.main("GN+WS", size)
        assert min(map(min, pair)) > 50
        assert not is_above(*pair)
        assert not is_above(*reversed(pair))
    use = " ".join((ROOT / "docs" / "use.md").read_text().split())
    steps = CPU.images // CPU.ablated
    assert f"After its {steps:,} steps" in use
    assert "every seed with 0.01 or less was above" in use
    for around in VARIANCES:
        for small in (0.003, 0.01):
            assert is_above(found.estimate(around, small), found.estimate(around, 0.1))
    assert "with 0.003 was above every seed with 0.01" in use
    assert is_above(
        found.estimate("running_mean", 0.003),
        found.estimate("running_mean", 0.01),
    )
    assert "told apart at no momentum" in use
    for r in CPU.momenta:
        pair = [found.estimate(each, r) for each in VARIANCES]
        assert not is_above(*pair)
        assert not is_above(*reversed(pair))
