"""What the page of results answers: made of the questions' records, and no more."""

import math
import re
from statistics import mean

import pytest
from helpers.paths import ROOT
from helpers.studies import LEVELS, record, results

from labml_bcn.experiment.records import read_records
from labml_bcn.experiment.study import HIGH, STUDIES, learning_rate
from website import results_page, results_questions
from website.study_results import VARIANCES, Results, is_above, spread

ASKED = STUDIES["questions"]
PAGE = " ".join((ROOT / "docs" / "results.md").read_text().split())
USE = " ".join((ROOT / "docs" / "use.md").read_text().split())


def recorded():
    """The questions and the comparison, as they were recorded."""
    folder = results_page.FOLDER
    return (
        Results(ASKED, read_records(folder / "questions"), "questions"),
        Results(STUDIES["cpu"], read_records(folder / "cpu")),
    )


def looks(evaluation, training, anew, anew64):
    """What a network with ten images a class gets right in each of the ways.

    All that it takes for another class it takes for the first, or for the second.
    """

    def look(right):
        table = [[0] * 10 for _ in range(10)]
        for k in range(10):
            table[k][k] = right
            table[k][0 if k else 1] += 10 - right
        return {"accuracy": right / 10, "confusion": table}

    names = ("evaluation", "training", "anew", "anew64")
    values = (evaluation, training, anew, anew64)
    return dict(zip(names, map(look, values), strict=True))


def asked(levels=LEVELS, ways=(1, 5, 1, 1), warm=0.0):
    """Records of the questions: a level a method, and what a warm start adds."""
    levels = {"EstBN": 0.3, "EstBN+WS": 0.4, **levels}
    records = {}
    for trial in ASKED.answers():
        level = levels[trial.method] + 0.004 * (trial.settings["seed"] - 1)
        level += warm * ("warm_start" in trial.settings)
        records[trial.name] = record(trial, level) | {"looks": looks(*ways)}
    return Results(ASKED, records, "questions")


@pytest.fixture(scope="module")
def study():
    return results()


@pytest.mark.parametrize("kind", results_page.ANSWERS)
def test_every_answer_is_made_of_numbers(study, kind):
    made = results_page.ANSWERS[kind](asked(), study)
    assert "nan" not in made
    assert "None" not in made


def test_questions_have_the_rates_of_the_comparison():
    records = read_records(results_page.FOLDER / "cpu")
    for question in ASKED.questions:
        whole = question.method.replace("EstBN", "BCN")
        lr = learning_rate(STUDIES["cpu"], whole, question.batch_size, records)
        assert question.lr in (lr, HIGH)
        assert (question.lr == HIGH) == (f"lr{HIGH}" in question.label)


def test_statistics_that_do_not_rescue_are_said_not_to(study):
    said = results_questions.rescue_answer(asked(ways=(1, 5, 1, 1)), study)
    assert said.count("10.0%, as with the running ones, 40 points short") == 3
    said = results_questions.rescue_answer(asked(ways=(1, 5, 2, 5)), study)
    assert said.count("over batches of 64, 50.0%, better than with the running") == 3
    assert "short" not in said
    table = results_questions.rescue(asked(ways=(1, 5, 2, 4)), study)
    cells = " | ".join(spread([each] * 3) for each in (10, 50, 20, 40))
    assert f"| BN, batch size 1 | {cells} |" in table


def test_what_is_below_chance_is_told_by_its_answers(study):
    said = results_questions.below_chance(asked(ways=(0, 5, 1, 1)), study)
    assert "Three of the ten classes get 100 to 100% of all answers" in said
    wrong = "of 10 images of the class truck, 10 are taken for airplane and 0 for what"
    assert said.count(wrong) == 3
    assert spread([50] * 3) in said
    assert spread(study.main("BN+WS", 1)) in said
    assert "we do not know" not in said
    low = LEVELS | {"BN+WS": 0.05}
    said = results_questions.below_chance(asked(low), results(low))
    assert said.endswith("in each of these runs, we do not know.")


def test_the_first_half_alone_is_compared_with_the_whole(study):
    said = results_questions.alone_answer(asked(), study)
    assert said.startswith("No loss became NaN.")
    assert "BCN at batch size 1 is 5.0 points above EstBN alone." in said
    assert "BCN+WS at batch size 2 is 10.0 points above EstBN alone." in said
    table = results_questions.alone(asked(), study)
    assert f"| BCN at batch size 2, rate {HIGH:g} |" in table
    assert table.count("1.0 and 1.0") == 4


def test_each_half_is_compared_with_the_whole_seed_by_seed(study):
    said = results_questions.halves_answer(asked({**LEVELS, "EstBN+WS": 0.2}), study)
    assert "(EstBN+WS) has 20.0%, 30.0 points below it; the second" in said
    said = results_questions.halves_answer(asked({**LEVELS, "EstBN+WS": 0.9}), study)
    assert "(EstBN+WS) has 90.0%, 40.0 points above it; the second" in said


def test_a_first_half_that_blows_up_is_counted_as_guessing(study):
    found = asked()
    name = found.question("EstBN", 2, f"lr{HIGH}")[0].name
    found.records[name]["accuracy"] = None
    del found.records[name]["looks"]
    said = results_questions.alone_answer(found, study)
    assert said.startswith("The loss of 1 of EstBN's runs became NaN.")
    assert "(10.0 to" in results_questions.alone(found, study)


def test_a_warm_start_is_compared_with_a_cold_one(study):
    said = results_questions.starts_answer(asked(warm=0.1), study)
    assert f"still weighs {100 * 0.999**4000:.0f}% after the 4,000 steps" in said
    assert "The warm one is 10.0 points above the cold one." in said
    assert "Momentum 0.001 with a warm start is 10.0 points above 0.01 with" in said
    said = results_questions.starts_answer(asked(), study)
    assert said.count("not told apart from") == 2
    assert results_questions.starts(asked(), study).count("0.001, from") == 2


def test_the_two_means_are_compared_seed_by_seed(study):
    said = results_questions.around_answer(asked(), study)
    assert "BCN+WS around the running mean is not told apart from BCN+WS around" in said
    low = asked({**LEVELS, "BCN": LEVELS["BCN"] - 0.1, "BCN+WS": 0.9})
    said = results_questions.around_answer(low, study)
    assert "the running mean is 10.0 points above BCN around the batch's." in said
    assert "points below BCN+WS around the batch's." in said
    assert results_questions.around(asked(), study).count("| BCN") == 2


def test_use_it_says_how_long_a_start_is_remembered():
    rows = re.findall(r"\| (0\.\d+) \| ([\d,]+) \|", USE)
    assert len(rows) == 6
    for r, steps in rows:
        n = int(steps.replace(",", ""))
        assert (1 - float(r)) ** n < 0.01 <= (1 - float(r)) ** (n - 1)
    assert f"${-math.log(0.01):.1f}/r$" in USE
    assert "With 0.001 that is the first 5% of such a run" in USE
    assert "0.0001 nearly half" in USE


def test_what_the_pages_say_of_rescue_was_recorded():
    found, _ = recorded()
    assert "other statistics do not rescue it" in USE
    for method in ("BN", "BN+WS"):
        trials = found.question(method, 1)
        ways = {way: found.looks(trials, way) for way in results_questions.WAYS}
        assert not is_above(ways["anew"], ways["evaluation"])
        for way in ("evaluation", "anew", "anew64"):
            assert is_above(ways["training"], ways[way])
            assert mean(ways[way]) < 15


def test_what_the_pages_say_of_momentum_and_start_was_recorded():
    found, study = recorded()
    assert "with 0.001 and such a start was above every seed with 0.01" in USE
    assert "0.001 from 0 and 1 was not told apart from either" in USE
    cold, warm = (
        found.accuracies(found.question("BCN+WS", 2, label))
        for label in ("r0.001", "r0.001-warm")
    )
    usual = study.main("BCN+WS", 2)
    assert is_above(warm, usual)
    for other in (warm, usual):
        assert not is_above(cold, other)
        assert not is_above(other, cold)


def test_what_the_pages_say_of_the_two_means_was_recorded():
    found, study = recorded()
    assert "Nor were they at [batch size 1]" in USE
    assert "no difference that three seeds could show, at one image or at two" in USE
    for method in ("BCN", "BCN+WS"):
        own = found.accuracies(found.question(method, 1, "batch_mean"))
        running = study.main(method, 1)
        assert not is_above(own, running)
        assert not is_above(running, own)
    for momentum in STUDIES["cpu"].momenta:
        pair = [study.estimate(each, momentum) for each in VARIANCES]
        assert not is_above(*pair)
        assert not is_above(*reversed(pair))


def test_what_the_page_says_of_the_first_half_was_recorded():
    found, study = recorded()
    assert "So it does not blow up, in six layers and 8,000 images" in PAGE
    assert all(record["accuracy"] is not None for record in found.records.values())
    assert "without weight standardization it is a lot; with it, little" in PAGE
    lost = {}
    for method, size in (("EstBN", 1), ("EstBN", 2), ("EstBN+WS", 2)):
        half = found.accuracies(found.question(method, size))
        whole = study.main(method.replace("EstBN", "BCN"), size)
        lost[method, size] = mean(whole) - mean(half)
        assert method == "EstBN+WS" or is_above(whole, half)
    assert min(lost["EstBN", 1], lost["EstBN", 2]) > 10
    assert lost["EstBN+WS", 2] < 3
    half, whole = (
        found.accuracies(found.question(method, 2, f"lr{HIGH}"))
        for method in ("EstBN", "BCN")
    )
    assert "there EstBN hardly learns, while BCN does" in PAGE
    assert mean(half) < 20 < 30 < mean(whole)
    [usual] = [q.lr for q in ASKED.questions if q[:2] == ("EstBN", 2) and not q.label]
    assert f"a rate {HIGH / usual:.0f} times that of the comparison" in PAGE


def test_code_on_the_pages_has_the_momentum_that_they_advise():
    """The layer's own default is another one: 0.1."""
    for path in ("README.md", "docs/use.md"):
        text = (ROOT / path).read_text()
        code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
        for name in ("BatchChannelNorm", "batch_channel_norm"):
            for call in re.findall(rf"\b{name}\(([^()]*)\)", code):
                assert "momentum=0.01" in call, call
        assert "convert(model, example, momentum=0.01)" in code
