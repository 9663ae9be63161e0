"""What the recorded study says, in sentences that compare."""

from collections.abc import Sequence
from statistics import mean

from labml_bcn.experiment.records import accuracy
from labml_bcn.experiment.study import AT_MICRO
from website.study_results import (
    MICRO_SIZES,
    VARIANCES,
    Results,
    best_methods,
    is_above,
    spread,
)

# By how much there is to choose: neither groups nor running statistics first.
SIMPLEST = ("BN", "GN", "BN+WS", "GN+WS", "BCN plain+WS", "BCN", "BCN+WS")


def state(results: Results) -> str:
    """Say that all is recorded, or raise the error that names what is not."""
    results.accuracies(results.trials)
    return f"All {len(results.trials)} runs are recorded."


def count(results: Results) -> str:
    """Say how many runs are recorded; it may be none."""
    done, total = len(results.recorded), len(results.trials)
    return f"{done} of {total} runs are recorded"


def answer(results: Results) -> str:
    """Return the recommendation that follows from the comparison."""
    lines, all_sizes = [], []
    for size in MICRO_SIZES:
        first, *others = names = best_methods(results, size)
        all_sizes.append(set(names))
        also = (
            f" Not told apart from it: {_list(others)}."
            if others
            else " Every other method is below it, seed for seed."
        )
        values = spread(results.main(first, size))
        lines.append(f"- **Batch size {size}: {first}**, {values}.{also}")
    return "\n".join(lines) + "\n\n" + _in_one_sentence(all_sizes)


def _in_one_sentence(best_at: list[set[str]]) -> str:
    common = [m for m in SIMPLEST if all(m in names for names in best_at)]
    sizes = _list(list(map(str, MICRO_SIZES)))
    if not common:
        said = f"No method is among the best at {sizes} alike."
    elif len(common) == 1:
        said = f"**Among the best at {sizes} alike is {common[0]} alone.**"
    else:
        said = (
            f"**Among the best at {sizes} alike are {_list(common)}.** The first of"
            " these has the least to set."
        )
    ours = sum("BCN+WS" in names for names in best_at)
    if "BCN+WS" not in common:
        said += f" BCN+WS is among them at {ours} of the three."
    return said


def _list(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


# What the papers and their authors' code report, with figures from stored sources; and
# what is compared here: the one that should be above, the other one, and the batch
# sizes.
CLAIMS: list[tuple[str, str, str, str, tuple[int, ...]]] = [
    (
        "Weight standardization helps batch norm at large batches",
        "ImageNet error, ResNet-50: 24.30 to 23.76",
        "BN+WS",
        "BN",
        (64,),
    ),
    (
        "Weight standardization helps group norm",
        "ImageNet error, ResNet-50: 24.81 to 23.72",
        "GN+WS",
        "GN",
        (1, 2, 4, 64),
    ),
    (
        "Batch norm fails at two images a batch",
        "ImageNet error, ResNet-50: 35.22 at 2 images a GPU, 23.41 at 32 (as the"
        " authors of MABN report)",
        "GN",
        "BN",
        (2,),
    ),
    (
        "BCN+WS is above GN+WS at micro-batch",
        "PASCAL VOC mIoU, ResNet-101: 78.10 and 77.20",
        "BCN+WS",
        "GN+WS",
        MICRO_SIZES,
    ),
    (
        "Micro-batches need estimated statistics",
        "Stated, without a figure that we know",
        "BCN+WS",
        "BCN plain+WS",
        (1, 2),
    ),
]


def papers(results: Results) -> str:
    """Return what the papers say beside what was found here."""
    lines = []
    for claim, figures, high, low, sizes in CLAIMS:
        found = "; ".join(
            f"{_verdict(results, high, low, size)} at batch size {size}"
            for size in sizes
        )
        lines.append(f"- **{claim}.** {figures}. Here, {high} and {low}: {found}.")
    return "\n".join(lines)


def _verdict(results: Results, high: str, low: str, size: int) -> str:
    one, other = results.main(high, size), results.main(low, size)
    verdict = "not told apart"
    if is_above(one, other):
        verdict = "**agrees**"
    elif is_above(other, one):
        verdict = "**disagrees**"
    return f"{mean(one):.1f} and {mean(other):.1f}, {verdict},"


def advice(results: Results) -> str:
    """Compare what "Use it" recommends with the best of the ablation."""
    found = {
        (around, r): results.estimate(around, r)
        for around in VARIANCES
        for r in results.study.momenta
    }
    ours = AT_MICRO["variance_around"], AT_MICRO["momentum"]
    best = max(found, key=lambda each: mean(found[each]))
    around, r = best
    if ours == best:
        said = "the best of these"
    elif is_above(found[best], found[ours]):
        said = f"below `{around}` with momentum {r:g}"
    else:
        said = f"not told apart from the best, `{around}` with momentum {r:g}"
        over = [each for each in found if is_above(found[each], found[ours])]
        if over:
            named = _list([f"`{name}` with {r:g}" for name, r in over])
            said += f", but each of its seeds is below every one of {named}"
    return (
        f"What Use it recommends for one or two images, `{ours[0]}` with momentum"
        f" {ours[1]:g}, is {said}."
    )


def error(results: Results) -> str:
    """Return the standard error of an accuracy, from the test images."""
    found = [r for r in results.recorded if r["settings"]["hold_out"] is None]
    p = mean(map(accuracy, found))
    return f"{100 * (p * (1 - p) / found[0]['counts']['test']) ** 0.5:.1f}"
