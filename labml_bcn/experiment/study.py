r"""
---
title: The study
summary: >
  A grid of training runs as data: seven methods, five batch sizes, three
  seeds, and learning rates that are chosen on images held out.
---

# The study

What should stand behind a convolution where a batch is one, two or four
images? This is the experiment that looks for an answer, as data; [what came
of it](../../results.md) has a page of its own.

    make results
    python -m labml_bcn.experiment.study --list

**A trial is a command.** Nothing is trained here. A trial of the grid is a
training command, which `labml_bcn/experiment/runner.py` starts, and it
writes down what came out. Whoever doubts a trial can type its command, and
needs none of this.

**What is compared.** All methods see the same images in the same order, as
many at every batch size, from the same first weights. Each has a learning
rate of its own: other norms and standardized weights change what a rate
means.

**Where the rates come from.** Some rates are tried at two batch sizes, on
images held out of the training set, and the best is taken; the test images
have no part in it. A power law through both gives the rate at other sizes:

$$\eta(B) = \eta(b) \left(\frac{B}{b}\right)^p \qquad
p = \frac{\log \eta(c) - \log \eta(b)}{\log c - \log b}$$ {#power-law}

Here $b$ and $c$ are the two sizes, and $\eta(b)$ and $\eta(c)$ what did
best there.

**Estimates.** With up to four images a batch, estimated statistics have the
settings that [Use it](../../use.md#which-momentum) recommends for one or
two; above, their defaults.

**Questions.** What the comparison leaves open has a small study of its own,
`--study questions`. It also looks at each trained network in training mode,
and with statistics that were averaged anew.
"""

import fnmatch
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from labml_bcn.experiment import runner, study_options
from labml_bcn.experiment.cifar10 import CIFAR10
from labml_bcn.experiment.option_types import naming, require_new_folder
from labml_bcn.experiment.outcome import (
    USAGE_ERRORS,
    RunError,
    outcome_of,
)
from labml_bcn.experiment.output import finish_output, say, tell
from labml_bcn.experiment.records import (
    Records,
    Trial,
    Values,
    accuracy,
    is_recorded,
    read_records,
)
from labml_bcn.experiment.settings import StartOptions
from labml_bcn.experiment.train import load_images

# The methods, by the names that they have in every figure.
METHODS: dict[str, Values] = {
    "BN": {"norm": "bn"},
    "GN": {"norm": "gn"},
    "BN+WS": {"norm": "bn", "ws": True},
    "GN+WS": {"norm": "gn", "ws": True},
    "BCN": {"norm": "bcn"},
    "BCN plain+WS": {"norm": "bcn", "ws": True, "estimate": False},
    "BCN+WS": {"norm": "bcn", "ws": True},
}
# The first half of BCN alone, which one question is about.
HALVES: dict[str, Values] = {
    "EstBN": {"norm": "estbn"},
    "EstBN+WS": {"norm": "estbn", "ws": True},
}
ESTIMATED = ("BCN", "BCN+WS", *HALVES)
# What estimates are told if a batch has at most so many images.
MICRO = 4
AT_MICRO: Values = {"variance_around": "running_mean", "momentum": 0.01}


class Question(NamedTuple):
    r"""
    Runs of a method with a learning rate that is given, and with other
    settings than in the comparison: one run a seed. `label` is what their
    names say of it.
    """

    method: str
    batch_size: int
    lr: float
    label: str = ""
    settings: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Study:
    r"""
    ## The grid

    The numbers of a study; by default of the one on a CPU.

    **Attributes**

    - `common`: settings of every run.
    - `images`: how many each run sees; every batch size divides it.
    - `methods`, `batch_sizes`, `seeds`: of the comparison. Batch sizes and
      seeds stand in the order in which they are run.
    - `rates`: for two batch sizes, the learning rates to try. If there is
      only one, there is nothing to choose.
    - `hold_out`: training images to choose by.
    - `ablated`: the batch size of the ablation; `None` for none.
    - `momenta`, `groups`: what BCN+WS is given there, the momenta with both
      kinds of variance.
    - `slow`: a small momentum for methods that train with the statistics of
      the batch: they need one for evaluation only, and it may matter.
    - `questions`: what else to run, at rates that are given.
    - `looks`: test each network in several ways when it is trained; see
      `labml_bcn/experiment/looks.py`.
    """

    common: Values = field(default_factory=lambda: {"threads": 1})
    images: int = 8_000
    methods: Sequence[str] = tuple(METHODS)
    batch_sizes: Sequence[int] = (2, 1, 4, 16, 64)
    seeds: Sequence[int] = (0, 1, 2)
    rates: Mapping[int, Sequence[float]] = field(
        default_factory=lambda: {
            2: (0.0001, 0.0003, 0.001, 0.003, 0.01),
            64: (0.003, 0.01, 0.03, 0.1, 0.3),
        }
    )
    hold_out: int = 1_000
    ablated: int | None = 2
    momenta: Sequence[float] = (0.3, 0.1, 0.03, 0.01, 0.003)
    groups: Sequence[int] = (1, 4, 16, 32)
    slow: float = 0.01
    questions: Sequence[Question] = ()
    looks: bool = False

    def trial(
        self,
        part: str,
        method: str,
        batch_size: int,
        lr: float | None,
        seed: int,
        label: str = "",
        **more: Any,
    ) -> Trial:
        r"""
        Make a trial. `more` are settings in place of the method's own;
        `label` is what the name says of them.
        """
        settings = dict((METHODS | HALVES)[method])
        if method in ESTIMATED and batch_size <= MICRO:
            settings |= AT_MICRO
        settings |= more
        settings |= {"batch_size": batch_size, "images": self.images}
        settings |= {"lr": lr, "seed": seed, **self.common}
        slug = method.lower().replace("+", "-").replace(" ", "-")
        words = (part, slug, f"b{batch_size}", label, f"s{seed}")
        return Trial("-".join(filter(None, words)), part, method, settings)

    def sweep(self, method: str, batch_size: int) -> list[Trial]:
        r"""
        ### The sweep

        The runs that choose a learning rate, the lowest rate first.
        """
        rates = sorted(self.rates[batch_size])
        return [
            self.trial(
                "sweep",
                method,
                batch_size,
                lr,
                self.seeds[0],
                f"lr{lr}",
                hold_out=self.hold_out,
            )
            for lr in (rates if len(rates) > 1 else ())
        ]

    def main(
        self, method: str, batch_size: int, records: Records
    ) -> list[Trial]:
        r"""
        ### The comparison

        The runs of a method at a batch size, one a seed.
        """
        lr = learning_rate(self, method, batch_size, records)
        return [
            self.trial("main", method, batch_size, lr, seed)
            for seed in self.seeds
        ]

    def ablation(self, records: Records) -> list[Trial]:
        r"""
        ### The ablation

        The runs in which a method has other settings than in the comparison,
        at the learning rate that it has there.
        """
        size = self.ablated
        if size is None:
            return []
        return [
            self.trial("ablation", method, size, lr, seed, label, **more)
            for seed in self.seeds
            for method, label, more in self.changes()
            for lr in [learning_rate(self, method, size, records)]
        ]

    def answers(self) -> list[Trial]:
        r"""
        ### The questions

        The runs that answer what the comparison leaves open, one seed of all
        questions first.
        """
        asked = [self.ask(question) for question in self.questions]
        return [trials[k] for k in range(len(self.seeds)) for trials in asked]

    def ask(self, question: Question) -> list[Trial]:
        r"""
        The runs of one question, one a seed.
        """
        method, size, lr, label, more = question
        return [
            self.trial("question", method, size, lr, seed, label, **more)
            for seed in self.seeds
        ]

    def changes(self) -> list[tuple[str, str, Values]]:
        r"""
        What the ablation changes: the method, a label, and the settings.
        """
        made: list[tuple[str, str, Values]] = [
            (
                "BCN+WS",
                f"{around}-r{r}",
                {"variance_around": around, "momentum": r},
            )
            for around in ("running_mean", "batch_mean")
            for r in self.momenta
        ]
        made += [("BCN+WS", f"g{g}", {"groups": g}) for g in self.groups]
        made += [
            (method, f"r{self.slow}", {"momentum": self.slow})
            for method in ("BN", "BN+WS", "BCN plain+WS")
        ]
        # What the comparison has anyway is not run twice.
        return [
            change
            for change in made
            if change[0] in self.methods and change[2] != AT_MICRO
        ]


def learning_rate(
    study: Study, method: str, batch_size: int, records: Records
) -> float | None:
    r"""
    ## The learning rate

    That of a method at any batch size: chosen by the sweep, or from [the
    power law](#power-law) to two digits, so that it can be typed.

    **Returns** `None` as long as a run of the sweep is missing.
    """
    if batch_size in study.rates:
        return chosen_rate(study, method, batch_size, records)
    b, c = sorted(study.rates)
    low, high = (chosen_rate(study, method, size, records) for size in (b, c))
    if low is None or high is None:
        return None
    p = (math.log(high) - math.log(low)) / (math.log(c) - math.log(b))
    return float(f"{low * (batch_size / b) ** p:.2g}")


def chosen_rate(
    study: Study, method: str, batch_size: int, records: Records
) -> float | None:
    r"""
    ### What a sweep chooses

    The rate that classified the most held-out images right, the lowest of
    equals.
    """
    trials = study.sweep(method, batch_size)
    if not trials:
        return study.rates[batch_size][0]
    if not all(is_recorded(trial, records) for trial in trials):
        return None
    best = max(trials, key=lambda trial: accuracy(records[trial.name]))
    lr: float = best.settings["lr"]
    return lr


def plan(study: Study, records: Records) -> list[Trial]:
    r"""
    ## All trials, in order

    What is recorded first should say the most: one seed of all methods at
    the first batch size, with the sweep that it needs, then the other sizes,
    the other seeds, the ablation.
    """
    trials = []
    for k in range(len(study.seeds)):
        for batch_size in study.batch_sizes:
            own = batch_size in study.rates
            for size in (batch_size,) if own else sorted(study.rates):
                for method in study.methods:
                    trials += study.sweep(method, size)
            for method in study.methods:
                trials.append(study.main(method, batch_size, records)[k])
    trials += study.ablation(records) + study.answers()
    # Several sizes need the same sweep; it is taken with the first of them.
    return list({trial.name: trial for trial in trials}.values())


# What a reader of the comparison asks next. The rates are those that it has
# for the method, and for the first half of BCN those of the whole.
SLOW: Values = {"momentum": 0.001}
WARM: Values = {"warm_start": 100}
AROUND_BATCH: Values = {"variance_around": "batch_mean"}
HIGH = 0.01
QUESTIONS = (
    # Does batch norm fail for its statistics, and do others rescue it?
    Question("BN", 1, 0.00051),
    Question("BN+WS", 1, 0.00051),
    Question("BN", 2, 0.001),
    # Is the first half of BCN enough? And at a high rate?
    Question("EstBN", 1, 0.00015),
    Question("EstBN", 2, 0.0003),
    Question("EstBN+WS", 2, 0.001),
    Question("EstBN", 2, HIGH, f"lr{HIGH}"),
    Question("BCN", 2, HIGH, f"lr{HIGH}"),
    # What does it cost that an estimate starts at 0 and 1?
    Question("BCN+WS", 2, 0.001, "r0.001", SLOW),
    Question("BCN+WS", 2, 0.001, "r0.001-warm", SLOW | WARM),
    # One image knows nothing of how images differ. Does it matter?
    Question("BCN", 1, 0.00015, "batch_mean", AROUND_BATCH),
    Question("BCN+WS", 1, 0.00051, "batch_mean", AROUND_BATCH),
)

# The last two have never been run: they want a GPU, and all of CIFAR-10.
LONG: Values = {"model": "vgg", "device": "cuda", "threads": 1}
STUDIES = {
    "cpu": Study(),
    "questions": Study(
        methods=(), ablated=None, questions=QUESTIONS, looks=True
    ),
    "gpu": Study(common=LONG, images=256_000, hold_out=5_000),
    # labml's recipe: Adam, and one learning rate for all.
    "gpu-labml": Study(
        common={**LONG, "optimizer": "adam", "schedule": "constant"},
        images=256_000,
        rates={2: (2.5e-4,), 64: (2.5e-4,)},
        ablated=None,
    ),
}


# Where the records of each study are.
RESULTS = Path("docs", "results")


def main(arguments: Sequence[str] | None = None) -> int:
    r"""
    ## The command

    List the trials, run them or check them, and return the exit status.

    **Arguments**

    - `arguments`: those of the command line, or `None` to take them from
      there.
    """
    command = study_options.parser(STUDIES)
    try:
        typed = command.parse_args(arguments)
        study = STUDIES[typed.study]
        trials = partial(plan, study)
        folder = typed.results or RESULTS / typed.study
        # Who only looks must find something; who records makes a folder.
        if typed.results and (typed.list or typed.check):
            require_folder(folder)
        records = read_records(folder, verify=not typed.check)
        require_matches(trials(records), typed.only)
        if typed.list:
            say(runner.list_trials(trials, records, typed.only))
            now = runner.current_commit()
            for note in runner.note_other_commits(records, now):
                tell(note)
            return 0
        jobs = count_jobs(study, typed.jobs)
        if not typed.check:
            with naming("--results"):
                require_new_folder(folder)
        options = StartOptions(data=typed.data, stand_in=typed.stand_in)
        require_same_images(study, load_images(options), records)
        words = ["--data", typed.data] if typed.data else []
        words += ["--stand-in"] if typed.stand_in else []
        if typed.check:
            with tempfile.TemporaryDirectory() as runs:
                again = runner.Runner(Path(runs), words, study.looks)
                return runner.check(typed.check, folder, again)
        own = runner.Runner(typed.runs, words, study.looks)
        try:
            return runner.record_all(trials, folder, own, jobs, typed.only)
        except USAGE_ERRORS as error:
            # The command did fit: something has happened since.
            remedy = "All is kept: mend it, and the same command goes on"
            raise RunError(str(error), remedy) from error
    except RunError as error:
        tell(f"error: {error}")
        return 1
    except KeyboardInterrupt as error:
        tell("stopped; the same command goes on")
        return outcome_of(error).exit_status
    except USAGE_ERRORS as error:
        command.error(str(error))
    finally:
        finish_output()


def require_folder(folder: Path) -> None:
    r"""
    Raise `ValueError` if the folder of the records is not there.
    """
    if not folder.is_dir():
        raise ValueError(
            f"--results must name a folder with records, got {folder}, which"
            " is none"
        )


def require_matches(trials: Sequence[Trial], only: Sequence[str]) -> None:
    r"""
    Raise `ValueError` for a pattern that no trial's name matches.
    """
    names = [trial.name for trial in trials]
    for pattern in only:
        if not fnmatch.filter(names, pattern):
            raise ValueError(
                f"--only must match the name of a point, got {pattern!r},"
                " which matches none; --list shows all names"
            )


def count_jobs(study: Study, jobs: int | None) -> int:
    r"""
    Return how many runs to take at once: by default one a core, or one on a
    GPU.
    """
    own = 1 if "device" in study.common else os.cpu_count() or 1
    return jobs or own


def require_same_images(
    study: Study, data: CIFAR10, records: Records
) -> None:
    r"""
    Raise `ValueError` unless the records are of these images: a study has one
    set.
    """
    digests = {data.digest, data.hold_out(study.hold_out).digest}
    for name, record in records.items():
        if record.get("settings", {}).get("digest") not in digests:
            raise ValueError(
                f"{name} was recorded with other images"
                f" ({record.get('images')}) than those found here"
                f" ({data.source}); name another folder with --results"
            )


if __name__ == "__main__":
    sys.exit(main())
