"""What the recorded study says, in sentences that compare."""

from collections.abc import Sequence
from statistics import mean

from labml_bcn.experiment.records import GUESSING, accuracy
from labml_bcn.experiment.study import AT_MICRO
from website.study_results import (
    MICRO_SIZES,
    VARIANCES,
    Results,
    best_methods,
    falling,
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
            f"**Among the best at {sizes} alike are {_list(common)}.** Begin with"
            f" {common[0]}, which has the least to set."
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


def gap_sentence(results: Results) -> str:
    """Say which methods learn at batch size 1 and fail in evaluation."""
    low = falling(results, 1)
    if not low:
        return (
            "At one image a batch no method is lower in evaluation than in training"
            " mode, seed for seed."
        )
    pairs = [tuple(map(mean, results.gap(method, 1))) for method in low]
    learned, tested = (
        _list([f"{x:.1f}" for x in xs]) for xs in zip(*pairs, strict=True)
    )
    others = {
        method: mean(tested) - mean(training)
        for method in results.study.methods
        if method not in low
        for training, tested in [results.gap(method, 1)]
    }
    said = (
        f"At one image a batch {_list(low)} get {learned}% right in training mode, and"
        f" {tested}% in evaluation, where guessing gets {GUESSING:.0%}."
    )
    if others:
        most = max(map(abs, others.values()))
        said += f" For {_list([*others])} the two are within {most:.1f} points."
    return said


def gap_closes(results: Results) -> str:
    """Say at which larger batch sizes a method is lower in evaluation, too."""
    larger = [size for size in results.sizes if size > 1]
    still = [
        f"{_list(low)} at {size}" for size in larger if (low := falling(results, size))
    ]
    training, tested = map(mean, results.gap("BN", larger[0]))
    said = (
        f"At batch size {larger[0]} BN has {training:.1f}% in training mode and"
        f" {tested:.1f}% in evaluation."
    )
    if still:
        return f"{said} Lower in evaluation, seed for seed, are {'; '.join(still)}."
    return (
        f"{said} From there on no method is lower in evaluation than in training mode,"
        " seed for seed."
    )


def last_images(results: Results) -> str:
    """Return how many training images the accuracy in training mode is of."""
    return f"{results.last_images:,}"


def versus(results: Results) -> str:
    """Compare BCN with group norm at each batch size, with standardized weights first.

    One line a pair, with the batch sizes at which a method is above the other one.
    """
    lines = []
    for one, other in (("BCN+WS", "GN+WS"), ("BCN", "GN")):
        sizes: dict[str, list[int]] = {}
        for size in results.sizes:
            pair = results.main(one, size), results.main(other, size)
            verdict = f"{one} and {other} are not told apart"
            if is_above(*pair):
                verdict = f"every seed of {one} is above every seed of {other}"
            elif is_above(*reversed(pair)):
                verdict = f"every seed of {other} is above every seed of {one}"
            sizes.setdefault(verdict, []).append(size)
        said = "; ".join(
            f"at batch size {_list(list(map(str, at)))} {verdict}"
            for verdict, at in sizes.items()
        )
        lines.append(f"- {said[0].upper()}{said[1:]}.")
    return "\n".join(lines)


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
