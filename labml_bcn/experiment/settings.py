"""What a training run can be told: each option stands here once.

A field of `Settings` or `StartOptions` has a default, a help text and a rule. From
these come the parser and its help, the checks, the defaults of `train` and
`vgg.build`, and the `config.json` of a run.
"""

import argparse
import dataclasses
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self


class Rule(NamedTuple):
    """What a value must be, in words and as a test. `None` keeps every rule."""

    words: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def one_of(*choices: str) -> Rule:
    """Return the rule that a value is one of `choices`."""
    return Rule(f"one of {', '.join(choices)}", choices.__contains__, choices)


AT_LEAST_ONE = Rule("at least 1", lambda value: value >= 1)
# No comparison holds for NaN, and a step with a larger rate overflows float32.
RATE = Rule("positive and at most 1e30", lambda value: 0 < value <= 1e30)
POSITIVE = Rule("positive and at most 1,000,000", lambda value: 0 < value <= 1_000_000)
SHARE = Rule("a share of the run, from 0 to below 1", lambda value: 0 <= value < 1)
SEED = Rule("from 0 to 2**63 - 1", lambda value: 0 <= value < 2**63)

NETWORK, RUN, MACHINE = "the network", "the run", "the machine"
IMAGES, KEPT = "the images", "what is kept"
IMAGES_HELP = (
    "Looked for in --data, in the folder that LABML_BCN_DATA names, and in the\n"
    "user's cache folder, in this order. What is named but wrong is an error.\n"
    "Nothing is downloaded unless you ask for it."
)


def option(
    default: Any,
    group: str,
    help: str,
    *,
    rule: Rule | None = None,
    shown: str | None = None,
    excludes: str | None = None,
    **argparse_keywords: Any,
) -> Any:
    """Return a dataclass field that is an option of the training command.

    `shown` is what the help calls the default if the value itself does not say it.
    Of the options with the same `excludes`, only one may be typed.
    """
    if shown is None and default is not None and not isinstance(default, bool):
        shown = str(default)
    if rule and rule.choices:
        argparse_keywords["choices"] = rule.choices
    metadata = {
        "group": group,
        "help": help + (f" (default: {shown})" if shown else ""),
        "rule": rule,
        "excludes": excludes,
        "argparse": argparse_keywords,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """What decides the result of a run.

    They are written to `config.json` at the first start, and hold from then on.
    `None` leaves the choice to the layer, the schedule, the images or the machine.
    """

    model: str = option(
        "small",
        NETWORK,
        "small: 6 convolutions, half a minute a run; vgg: the full network with 13",
        rule=one_of("vgg", "small"),
    )
    norm: str = option(
        "bcn",
        NETWORK,
        "batch norm, group norm, batch-channel norm, its first half alone (estbn), or"
        " none, behind every convolution",
        rule=one_of("bn", "gn", "bcn", "estbn", "none"),
    )
    ws: bool = option(
        False, NETWORK, "standardize the weights of every convolution; needs a norm"
    )
    groups: int | None = option(
        None,
        NETWORK,
        "groups of gn and bcn; must divide the channels of every layer",
        shown="8 for small, 32 for vgg",
        metavar="G",
    )
    momentum: float | None = option(
        None,
        NETWORK,
        "weight of the new value in the running statistics, from 0 to 1",
        shown="0.1",
        metavar="R",
    )
    estimate: bool | None = option(
        None,
        NETWORK,
        "train bcn with running statistics, or with the batch's",
        shown="--estimate",
    )
    variance_around: str | None = option(
        None,
        NETWORK,
        "the mean that the variance of an estimate is taken around",
        shown="batch_mean",
        rule=one_of("batch_mean", "running_mean"),
    )
    warm_start: int | None = option(
        None,
        NETWORK,
        "begin with running statistics averaged over N batches, not with 0 and 1",
        shown="0 and 1",
        rule=AT_LEAST_ONE,
        metavar="N",
    )
    sync_statistics: bool = option(
        False,
        NETWORK,
        "under torchrun: measure each batch of bn and bcn over all processes",
        shown="each process its own",
    )
    batch_size: int = option(
        2,
        RUN,
        "images of a forward pass, in each process; what is left over is dropped",
        rule=AT_LEAST_ONE,
        metavar="B",
    )
    accumulate: int = option(
        1,
        RUN,
        "batches of one step, their gradients averaged; statistics are still those"
        " of each batch",
        rule=AT_LEAST_ONE,
        metavar="A",
    )
    images: int | None = option(
        None,
        RUN,
        "how many images to see",
        shown="each training image once",
        excludes="length",
        metavar="N",
    )
    optimizer: str = option(
        "sgd",
        RUN,
        "sgd has Nesterov momentum 0.9 and weight decay 0.0005; adam has torch's"
        " defaults",
        rule=one_of("sgd", "adam"),
    )
    lr: float = option(0.005, RUN, "highest learning rate", rule=RATE, metavar="RATE")
    schedule: str = option(
        "onecycle",
        RUN,
        "onecycle rises for 0.3 of the run and falls to zero; cosine falls from the"
        " start; constant does neither",
        rule=one_of("onecycle", "cosine", "constant"),
    )
    warmup: float | None = option(
        None,
        RUN,
        "share of the run in which the rate rises, in place of the schedule's own",
        rule=SHARE,
        metavar="SHARE",
    )
    seed: int = option(
        0, RUN, "of the first weights, the order and the flips", rule=SEED, metavar="S"
    )
    amp: bool = option(
        False,
        MACHINE,
        "half precision where it is safe: bfloat16 on a CPU, float16 with a scaled"
        " loss on a GPU",
    )
    compile: bool = option(
        False,
        MACHINE,
        "let torch.compile make the training step; needs a C++ compiler on a CPU,"
        " and a minute at the start",
    )
    device: str = option("cpu", MACHINE, "cpu, cuda, mps")
    threads: int | None = option(
        None,
        MACHINE,
        "of the CPU; 1 is best for small batches on a busy machine",
        shown="torch's choice",
        rule=AT_LEAST_ONE,
        metavar="T",
    )
    hold_out: int | None = option(
        None,
        IMAGES,
        "train without the last N training images and test on them, not on the test"
        " images: for choosing settings",
        metavar="N",
    )
    # These two are not typed: they follow from how the run was started, and on what.
    processes: int = 1
    digest: str = ""

    def __post_init__(self) -> None:
        require(**dataclasses.asdict(self))

    def arguments_of(self, *functions: Callable[..., object]) -> dict[str, Any]:
        """Return the settings that one of `functions` has a default for, by name."""
        taken = {
            name
            for function in functions
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not parameter.empty
        }
        return {k: v for k, v in dataclasses.asdict(self).items() if k in taken}

    def typed_over(self, typed: dict[str, Any]) -> Self:
        """Return these settings with those that were typed in their place."""
        own = {name: typed[name] for name in typed.keys() & names(type(self))}
        return dataclasses.replace(self, **own)


@dataclass(frozen=True)
class StartOptions:
    """What may differ from start to start of the same run."""

    epochs: float | None = option(
        None,
        RUN,
        "how many images to see, in passes over the training images",
        rule=POSITIVE,
        excludes="length",
        metavar="E",
    )
    data: str | None = option(
        None,
        IMAGES,
        "a folder that holds cifar-10-batches-bin",
        excludes="source",
        metavar="FOLDER",
    )
    download: bool | None = option(
        None,
        IMAGES,
        "download CIFAR-10 (170 MB) if it is not found",
        excludes="source",
        action="store_true",
    )
    stand_in: bool = option(
        False,
        IMAGES,
        "train on generated stripes instead of photographs",
        excludes="source",
        action="store_true",
    )
    out: str | None = option(
        None,
        KEPT,
        "the folder of the run",
        shown="runs/, and a name made of the method",
        metavar="FOLDER",
    )
    resume: str | None = option(
        None,
        KEPT,
        "go on with the run in FOLDER, or in that of --out; settings that are typed"
        " must be the run's, the others are taken from it",
        nargs="?",
        const="",
        metavar="FOLDER",
    )
    checkpoint_every: int = option(
        1000, KEPT, "steps between two checkpoints", rule=AT_LEAST_ONE, metavar="K"
    )
    tensorboard: bool = option(
        False, KEPT, "write the metrics for TensorBoard too", action="store_true"
    )
    progress: bool | None = option(
        None,
        KEPT,
        "show a progress bar, or nothing on the way",
        shown="a bar if there is a terminal, else a line every half minute",
    )
    timeout: float = option(
        600,
        MACHINE,
        "under torchrun: seconds to wait for a process that does not answer",
        rule=POSITIVE,
        metavar="SECONDS",
    )

    @classmethod
    def of(cls, typed: dict[str, Any]) -> Self:
        """Return what was typed of these options, and defaults for the others."""
        return cls(**{name: typed[name] for name in typed.keys() & names(cls)})

    def __post_init__(self) -> None:
        require(**dataclasses.asdict(self))


OPTIONS = {
    field.name: field
    for field in (*dataclasses.fields(Settings), *dataclasses.fields(StartOptions))
    if field.metadata
}


# What the type of an option admits: any kind of number will do for a number.
KINDS: dict[type, type] = {int: numbers.Integral, float: numbers.Real}


def names(options: type) -> set[str]:
    """Return the names of the options of a dataclass."""
    return {f.name for f in dataclasses.fields(options) if f.name in OPTIONS}


def require(**values: Any) -> None:
    """Require that each value is one for the option it names.

    Raises `TypeError` if it is of another kind, and `ValueError` if it breaks the rule.
    """
    for name, value in values.items():
        if name not in OPTIONS or value is None:
            continue
        kind, rule = _kind_of(OPTIONS[name].type), OPTIONS[name].metadata["rule"]
        is_switch = isinstance(value, bool)
        if is_switch != (kind is bool) or not isinstance(value, KINDS.get(kind, kind)):
            raise TypeError(f"{name} must be of type {kind.__name__}, got {value!r}")
        if rule:
            require_rule(name, value, rule)


def require_rule(name: str, value: Any, rule: Rule) -> None:
    """Raise `ValueError` unless `value` keeps the rule; the message calls it `name`."""
    if not rule.holds(value):
        raise ValueError(f"{name} must be {rule.words}, got {value!r}")


def name_differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Say of each setting here how it is another one there.

    A setting that came later has its default there.
    """
    return [
        f"{DESCRIPTIONS.get(name, name.replace('_', '-'))} is {old!r} there and"
        f" {value!r} here"
        for name, value in here.items()
        if (old := there.get(name, getattr(Settings, name, value))) != value
    ]


# What cannot be typed has no option's name.
DESCRIPTIONS = {
    "processes": "the number of processes",
    "digest": "the images' digest",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field, in its group.

    What is not typed is then absent from what the parser returns, so that it can be
    told from what is.
    """
    groups: dict[str, Any] = {
        title: parser.add_argument_group(
            title, IMAGES_HELP if title == IMAGES else None
        )
        for title in (NETWORK, RUN, MACHINE, IMAGES, KEPT)
    }
    for name, field in OPTIONS.items():
        about = field.metadata
        container = groups[about["group"]]
        if excludes := about["excludes"]:
            if excludes not in groups:
                groups[excludes] = container.add_mutually_exclusive_group()
            container = groups[excludes]
        container.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help=about["help"],
            **(_argparse_keywords(field.type) | about["argparse"]),
        )


def _argparse_keywords(annotation: Any) -> dict[str, Any]:
    # How a word becomes a value of this type. A switch has a --no- as well, so that a
    # run's own value can be typed either way.
    kind = _kind_of(annotation)
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    return {} if kind is str else {"type": kind}


def _kind_of(annotation: Any) -> type:
    # What an annotation admits beside `None`.
    kinds = typing.get_args(annotation) or (annotation,)
    (kind,) = (each for each in kinds if each is not types.NoneType)
    return typing.cast(type, kind)
