"""What a reader of the study asks next: answers from a small study of its own.

Each answer compares the questions' runs with those of the comparison that they differ
from in one setting.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import mean

from labml_bcn.experiment.cifar10 import CLASSES
from labml_bcn.experiment.records import GUESSING, Trial
from labml_bcn.experiment.study import AROUND_BATCH, AT_MICRO, HIGH, SLOW, WARM
from website.markdown_tables import row
from website.study_results import Results, is_above, spread

# How a trained network was looked at, and the heads of the columns.
WAYS = {
    "evaluation": "evaluation",
    "training": "training mode",
    "anew": "anew, batches as in training",
    "anew64": "anew, batches of 64",
}
RESCUED = (("BN", 1), ("BN+WS", 1), ("BN", 2))

Answer = Callable[[Results, Results], str]


def below_chance(asked: Results, study: Results) -> str:
    """Say what batch norm with standardized weights takes the test images for."""
    trials = asked.question("BN+WS", 1)
    again = asked.accuracies(trials)
    tables = [asked.record(trial)["looks"]["evaluation"] for trial in trials]
    few = [_share_of_three(table["confusion"]) for table in tables]
    unknown = " Why it is less often in each of these runs, we do not know."
    is_below = max(again + study.main("BN+WS", 1)) < 100 * GUESSING
    examples = [_worst_mistake(table["confusion"]) for table in tables]
    mistakes = "; in another seed, ".join(examples)
    return (
        f"BN+WS at batch size 1 has {spread(study.main('BN+WS', 1))} in evaluation;"
        f" the same commands, run again with the kernels, {spread(again)}. Guessing"
        f" would be {GUESSING:.0%}. But the network does not guess, and its weights are"
        " good: in training mode they get"
        f" {spread(asked.looks(trials, 'training'))} of the test images right. In"
        " evaluation the answers are few and consistent, and wrong. Three of the ten"
        f" classes get {min(few):.0f} to {max(few):.0f}% of all answers, by seed, and"
        f" classes go to a wrong one as a whole: {mistakes}. What is"
        " consistently wrong may be right less often than a guess, or more often."
    ) + unknown * is_below


def _share_of_three(confusion: list[list[int]]) -> float:
    """Return the share of the answers that the three most frequent ones have."""
    answers = sorted(map(sum, zip(*confusion, strict=True)))
    return 100 * sum(answers[-3:]) / sum(answers)


def _worst_mistake(confusion: list[list[int]]) -> str:
    """Name the class of which the most are taken for another one."""
    count, of, taken_for = max(
        (count, of, taken_for)
        for of, counts in enumerate(confusion)
        for taken_for, count in enumerate(counts)
        if of != taken_for
    )
    return (
        f"of {sum(confusion[of])} images of the class {CLASSES[of]}, {count} are taken"
        f" for {CLASSES[taken_for]} and {confusion[of][of]} for what they are"
    )


def rescue(asked: Results, _: Results) -> str:
    """Return what batch norm gets right with each kind of statistics."""
    lines = [row("statistics", *WAYS.values()), "| --- |" + " ---: |" * len(WAYS)]
    for method, size in RESCUED:
        trials = asked.question(method, size)
        cells = (spread(asked.looks(trials, way)) for way in WAYS)
        lines.append(row(f"{method}, batch size {size}", *cells))
    return "\n".join(lines)


def rescue_answer(asked: Results, _: Results) -> str:
    """Say whether statistics that are averaged anew bring back what was learned."""
    said = []
    for method, size in RESCUED:
        trials = asked.question(method, size)
        found = {way: asked.looks(trials, way) for way in WAYS}
        best = max(("anew", "anew64"), key=lambda way: mean(found[way]))
        words = {"anew": f"batches of {size}", "anew64": "batches of 64"}[best]
        verdict = _compare(found[best], found["evaluation"], "the running ones")
        short = mean(found["training"]) - mean(found[best])
        lacks = (
            f", {short:.0f} points short of what the weights can do in training mode"
            if is_above(found["training"], found[best])
            else ""
        )
        said.append(
            f"- **{method} at batch size {size}**: with statistics averaged anew over"
            f" {words}, {mean(found[best]):.1f}%, {verdict}{lacks}."
        )
    return "\n".join(said)


def _compare(one: Sequence[float], other: Sequence[float], name: str) -> str:
    if is_above(one, other):
        return f"better than with {name}"
    return f"worse than with {name}" if is_above(other, one) else f"as with {name}"


def alone(asked: Results, study: Results) -> str:
    """Return EstBN alone beside EstBN with a channel norm behind it."""
    head = row(
        "trained", "EstBN alone", "with the channel norm", "highest loss, of each"
    )
    lines = [head, "| --- | ---: | ---: | ---: |"]
    for name, halves, wholes in _pairs(asked, study):
        one, other = asked.accuracies(halves), wholes[0].accuracies(wholes[1])
        losses = f"{_peak(asked, halves):.1f} and {_peak(*wholes):.1f}"
        lines.append(row(name, spread(one), spread(other), losses))
    return "\n".join(lines)


def _pairs(
    asked: Results, study: Results
) -> list[tuple[str, list[Trial], tuple[Results, list[Trial]]]]:
    """Return what is compared: EstBN's runs, and those of BCN and who has them."""
    whole = study.study.main
    return [
        (
            f"BCN at batch size {size}",
            asked.question("EstBN", size),
            (study, whole("BCN", size, study.records)),
        )
        for size in (1, 2)
    ] + [
        (
            "BCN+WS at batch size 2",
            asked.question("EstBN+WS", 2),
            (study, whole("BCN+WS", 2, study.records)),
        ),
        (
            f"BCN at batch size 2, rate {HIGH:g}",
            asked.question("EstBN", 2, f"lr{HIGH:g}"),
            (asked, asked.question("BCN", 2, f"lr{HIGH:g}")),
        ),
    ]


def _peak(results: Results, trials: Sequence[Trial]) -> float:
    """Return the highest loss of a point of the curves."""
    curves = [results.record(trial)["curve"] for trial in trials]
    return max(float(loss) for curve in curves for _, loss, _ in curve)


def alone_answer(asked: Results, study: Results) -> str:
    """Say whether EstBN alone blows up, and what the channel norm adds."""
    pairs = _pairs(asked, study)
    lost = sum(
        asked.record(trial)["accuracy"] is None
        for _, halves, _ in pairs
        for trial in halves
    )
    said = (
        "No loss became NaN."
        if not lost
        else f"The loss of {lost} of EstBN's runs became NaN."
    )
    for name, halves, (results, wholes) in pairs:
        one, other = asked.accuracies(halves), results.accuracies(wholes)
        said += f" {name} is {_verdict(other, one)} EstBN alone."
    return said


def halves_answer(asked: Results, study: Results) -> str:
    """Say whether both halves of BCN are needed, once weights are standardized."""
    whole = study.main("BCN+WS", 2)
    halves = {
        "the first half alone (EstBN+WS)": asked.accuracies(
            asked.question("EstBN+WS", 2)
        ),
        "the second (GN+WS)": study.main("GN+WS", 2),
    }
    said = (
        f"{name} has {mean(one):.1f}%, {_verdict(one, whole)} it"
        for name, one in halves.items()
    )
    return (
        "Are both halves of BCN needed, once weights are standardized? At batch size 2"
        f" BCN+WS has {mean(whole):.1f}%; {'; '.join(said)}."
    )


def _starts(asked: Results, study: Results) -> dict[str, list[float]]:
    """Return the accuracies by momentum and by where the statistics start."""
    usual, small = AT_MICRO["momentum"], SLOW["momentum"]
    cold, warm = (
        asked.accuracies(asked.question("BCN+WS", 2, label))
        for label in (f"r{small:g}", f"r{small:g}-warm")
    )
    return {
        f"{usual:g}, from 0 and 1, as above": study.main("BCN+WS", 2),
        f"{small:g}, from 0 and 1": cold,
        f"{small:g}, from averages over {WARM['warm_start']} batches": warm,
    }


def starts(asked: Results, study: Results) -> str:
    """Return what a small momentum and a warm start give."""
    lines = [row("momentum and start", "accuracy"), "| --- | ---: |"]
    found = _starts(asked, study)
    return "\n".join(lines + [row(name, spread(found[name])) for name in found])


def starts_answer(asked: Results, study: Results) -> str:
    """Say what a warm start is worth, and how much of a cold one is left."""
    usual, cold, warm = _starts(asked, study).values()
    r, steps = SLOW["momentum"], asked.study.images // 2
    return (
        f"At momentum {r:g} a cold start still weighs {100 * (1 - r) ** steps:.1g}%"
        f" after the {steps:,} steps. The warm one is"
        f" {_verdict(warm, cold)} the cold one. Momentum {r:g} with a warm start is"
        f" {_verdict(warm, usual)} {AT_MICRO['momentum']:g} with a cold one."
    )


def around(asked: Results, study: Results) -> str:
    """Return what the mean that the variance is taken around makes of one image."""
    lines = [
        row("at batch size 1", "around the running mean", "around the batch's"),
        "| --- | ---: | ---: |",
    ]
    for name, running, own in _around(asked, study):
        lines.append(row(name, spread(running), spread(own)))
    return "\n".join(lines)


def around_answer(asked: Results, study: Results) -> str:
    """Say whether it matters which mean that is."""
    said = (
        f"{name} around the running mean is {_verdict(running, own)} {name} around the"
        " batch's."
        for name, running, own in _around(asked, study)
    )
    return " ".join(said)


def _around(
    asked: Results, study: Results
) -> Iterator[tuple[str, list[float], list[float]]]:
    label = AROUND_BATCH["variance_around"]
    for name in ("BCN", "BCN+WS"):
        own = asked.accuracies(asked.question(name, 1, label))
        yield name, study.main(name, 1), own


def _verdict(one: Sequence[float], other: Sequence[float]) -> str:
    points = mean(one) - mean(other)
    if is_above(one, other):
        return f"{points:.1f} points above"
    if is_above(other, one):
        return f"{-points:.1f} points below"
    return "not told apart from"
