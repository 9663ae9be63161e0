"""What a reader of the study asks next: answers from a small study of its own.

Each answer compares the questions' runs with those of the comparison that they differ
from in one setting.
"""

from collections.abc import Callable, Sequence
from statistics import mean

from labml_bcn.experiment.cifar10 import CLASSES
from labml_bcn.experiment.records import Trial
from labml_bcn.experiment.study import AT_MICRO, HIGH
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


def rescue(asked: Results, _: Results) -> str:
    """Return what batch norm gets right on the test images, statistics for statistics."""
    lines = [row("", *WAYS.values()), "| --- |" + " ---: |" * len(WAYS)]
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
    head = row("", "EstBN alone", "with the channel norm", "highest loss, of each")
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
        verdict = "not told apart from EstBN alone"
        if is_above(other, one):
            verdict = f"{mean(other) - mean(one):.1f} points above EstBN alone"
        elif is_above(one, other):
            verdict = f"{mean(one) - mean(other):.1f} points below EstBN alone"
        said += f" {name} is {verdict}."
    return said


STARTS = (0.01, 0.001)


def _start(asked: Results, study: Results, r: float) -> tuple[list[float], list[float]]:
    """Return the accuracies with a momentum, from 0 and 1 and from averages."""
    usual = r == AT_MICRO["momentum"]
    label = "" if usual else f"r{r:g}"
    cold = (
        study.main("BCN+WS", 2)
        if usual
        else asked.accuracies(asked.question("BCN+WS", 2, label))
    )
    warm = asked.question("BCN+WS", 2, "-".join(filter(None, (label, "warm"))))
    return cold, asked.accuracies(warm)


def starts(asked: Results, study: Results) -> str:
    """Return the accuracies by momentum and by where the statistics start."""
    lines = [row("momentum", "from 0 and 1", "from averages over 100 batches")]
    lines.append("| --- | ---: | ---: |")
    for r in STARTS:
        lines.append(row(f"{r:g}", *map(spread, _start(asked, study, r))))
    return "\n".join(lines)


def starts_answer(asked: Results, study: Results) -> str:
    """Say what a warm start is worth, and how much of the start is left."""
    steps = asked.study.images // 2
    said = []
    for r in STARTS:
        cold, warm = _start(asked, study, r)
        gain = mean(warm) - mean(cold)
        verdict = f"not told apart ({gain:+.1f} points)"
        if is_above(warm, cold):
            verdict = f"better by {gain:.1f} points, seed for seed"
        elif is_above(cold, warm):
            verdict = f"worse by {-gain:.1f} points, seed for seed"
        left = (1 - r) ** steps
        said.append(
            f"At momentum {r:g} the warm start is {verdict}; after {steps:,} steps a"
            f" start weighs {100 * left:.1g}%."
        )
    return " ".join(said)
