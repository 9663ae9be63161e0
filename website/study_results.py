"""The recorded study, and which of its methods may be told apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import Any

from labml_bcn.experiment.records import Records, Trial, Values, accuracy, is_recorded
from labml_bcn.experiment.study import Study, plan

MICRO_SIZES = (1, 2, 4)
VARIANCES = ("running_mean", "batch_mean")
# Points of a training curve that count as the end of the run.
LAST = 12


@dataclass(frozen=True)
class Results:
    """A study and its records.

    What is made of a trial without a record ends with a `ValueError`. `name` is that of
    the study, and of the folder with the records.
    """

    study: Study
    records: Records
    name: str = "cpu"

    def record(self, trial: Trial) -> Values:
        """Return the record of a trial."""
        if not is_recorded(trial, self.records):
            raise ValueError(f"{trial.name} is not recorded; `make results` does it")
        return self.records[trial.name]

    def accuracies(self, trials: Sequence[Trial]) -> list[float]:
        """Return the accuracies of trials in percent."""
        return [100 * accuracy(self.record(trial)) for trial in trials]

    def main(self, method: str, batch_size: int) -> list[float]:
        """Return the accuracies of a method, one a seed."""
        return self.accuracies(self.study.main(method, batch_size, self.records))

    def in_training(self, trials: Sequence[Trial]) -> list[float]:
        """Return accuracies in training mode at the end of the runs, in percent.

        They are those of the last training images, each classified before the step
        that learns from it.
        """
        curves = [self.record(trial)["curve"][-LAST:] for trial in trials]
        return [100 * mean(right for _, _, right in curve) for curve in curves]

    def gap(self, method: str, batch_size: int) -> tuple[list[float], list[float]]:
        """Return the accuracies of a method in training mode and in evaluation."""
        trials = self.study.main(method, batch_size, self.records)
        return self.in_training(trials), self.accuracies(trials)

    def question(self, method: str, batch_size: int, label: str = "") -> list[Trial]:
        """Return the trials of a question, one a seed."""
        (found,) = (
            question
            for question in self.study.questions
            if question[:2] == (method, batch_size) and question.label == label
        )
        return self.study.ask(found)

    def looks(self, trials: Sequence[Trial], way: str) -> list[float]:
        """Return what trained networks get right in one of the ways, in percent."""
        return [
            100 * float(self.record(trial)["looks"][way]["accuracy"])
            for trial in trials
        ]

    @cached_property
    def last_images(self) -> int:
        """How many training images the accuracy in training mode is of."""
        curve = self.record(self.trials[0])["curve"]
        return int(curve[-1][0] - curve[-LAST - 1][0])

    def ablation(self, method: str, **settings: Any) -> list[float]:
        """Return accuracies at the ablation's batch size, by settings.

        Those of the comparison are found as well.
        """
        settings = {"groups": None, "batch_size": self.study.ablated, **settings}
        return self.accuracies(
            [
                trial
                for trial in self.trials
                if trial.part != "sweep"
                and trial.method == method
                and all(trial.settings.get(k) == v for k, v in settings.items())
            ]
        )

    def estimate(self, around: str, momentum: float) -> list[float]:
        """Return accuracies of BCN+WS with a kind of variance."""
        return self.ablation("BCN+WS", variance_around=around, momentum=momentum)

    @cached_property
    def sizes(self) -> list[int]:
        """The batch sizes, the smallest first."""
        return sorted(self.study.batch_sizes)

    @cached_property
    def trials(self) -> list[Trial]:
        """All trials of the study."""
        return plan(self.study, self.records)

    @cached_property
    def recorded(self) -> list[Values]:
        """The records that are trials of the study."""
        return [
            self.records[trial.name]
            for trial in self.trials
            if is_recorded(trial, self.records)
        ]


def is_above(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether each seed of one is above each seed of the other."""
    return min(one) > max(other)


def falling(results: Results, batch_size: int) -> list[str]:
    """Return the methods whose every seed is lower in evaluation than in training."""
    return [
        method
        for method in results.study.methods
        if is_above(*results.gap(method, batch_size))
    ]


def best_methods(results: Results, batch_size: int) -> list[str]:
    """Return the best method and those that are not told apart from it."""
    found = {m: results.main(m, batch_size) for m in results.study.methods}
    ranking = sorted(found, key=lambda method: -mean(found[method]))
    first = found[ranking[0]]
    return [method for method in ranking if not is_above(first, found[method])]


def spread(values: Sequence[float]) -> str:
    """Return a mean, and the lowest and the highest."""
    return f"{mean(values):.1f}% ({min(values):.1f} to {max(values):.1f})"
