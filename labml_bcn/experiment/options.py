r"""
---
title: The command
summary: >
  The command line of the training loop: its options, the folder that a run
  is kept in, and what happens when it is started again.
---

# The command

    python -m labml_bcn.experiment.train \
        --norm bcn --ws --images 5000

A run is kept [in a folder](run_folder.py), and goes on from there with
`--resume`. What decides its result are its *settings*: they are written
down when it starts, and hold from then on. Which files to read, how often
to write a checkpoint, or whether to show a progress bar may differ from
start to start.

So there is one rule for starting again: what is typed must agree with the
run, and what is not typed is taken from it. Both of these go on with the
same run,

    python -m labml_bcn.experiment.train \
        --resume runs/small-bcn-ws
    python -m labml_bcn.experiment.train \
        --norm bcn --ws --images 5000 \
        --out runs/small-bcn-ws --resume

and the second one also starts it, where there is none yet. It is the one
for schedulers, which repeat a command word by word.
"""

import argparse
import json
import math
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from labml_bcn.experiment import cifar10, ranks, vgg
from labml_bcn.experiment.cifar10 import CIFAR10
from labml_bcn.experiment.environment import surroundings
from labml_bcn.experiment.run_folder import Folder, Lines, RunError, write
from labml_bcn.experiment.train import (
    OPTIMIZERS,
    SCHEDULES,
    Run,
    Stopped,
    check,
    positive,
    train,
)

Values = dict[str, Any]

# What decides the result of a run, and what it is where nothing is typed.
# `None` leaves the choice to the layer, the schedule or the machine.
SETTINGS: Values = {
    "model": "small",
    "norm": "bcn",
    "ws": False,
    "groups": None,
    "momentum": None,
    "estimate": None,
    "variance_around": None,
    "sync_statistics": False,
    "batch_size": 2,
    "accumulate": 1,
    "images": None,
    "optimizer": "sgd",
    "lr": 0.005,
    "schedule": "onecycle",
    "warmup": None,
    "seed": 0,
    "amp": False,
    "compile": False,
    "device": "cpu",
    "threads": None,
    "hold_out": None,
}
NETWORK = (
    *("model", "norm", "ws", "groups", "momentum", "estimate"),
    *("variance_around", "seed"),
)
LOOP = (
    *("batch_size", "accumulate", "images", "optimizer", "lr", "schedule"),
    *("warmup", "seed", "compile"),
)

DESCRIPTION = """\
Train a VGG on CIFAR-10, one or two images a step, with a normalization of
your choice, and print its test accuracy.

The run is kept in a folder. It can be stopped at any moment, with Ctrl-C, by
a scheduler or by a power cut, and goes on with --resume. On a CPU it then
ends with the same weights, bit for bit, as if it had never been stopped.
"""

EPILOG = """\
examples:
  Batch norm, and what two images a step do to it:
    python -m labml_bcn.experiment.train --norm bn --images 5000

  Batch-channel norm with weight standardization, statistics as the paper
  has them:
    python -m labml_bcn.experiment.train --norm bcn --ws \\
        --variance-around running_mean --momentum 0.01 --images 5000

  Stopped with Ctrl-C? Go on:
    python -m labml_bcn.experiment.train --resume runs/small-bcn-ws

  For a scheduler that may stop and repeat it: starts, or goes on:
    python -m labml_bcn.experiment.train --norm bcn --ws --epochs 10 \\
        --out runs/night --resume

  The full VGG on a GPU in half precision, images downloaded once:
    python -m labml_bcn.experiment.train --model vgg --norm bcn --ws \\
        --batch-size 64 --lr 0.05 --epochs 20 --device cuda --amp --download

  Two processes with one image each, one batch of two to the norm:
    torchrun --nproc-per-node 2 -m labml_bcn.experiment.train \\
        --batch-size 1 --sync-statistics --images 5000

  No images at hand, only to see it run:
    python -m labml_bcn.experiment.train --stand-in --images 2000

files, in the folder of the run:
  config.json    the settings, and the digest of the images
  metrics.jsonl  a line for each point of the curve and each test
  timings.jsonl  images per second; no two runs agree in these
  starts.jsonl   a line for each start: command, versions, hardware
  step-*.pt      the newest two checkpoints, for torch.load
  tensorboard/   with --tensorboard

exit status:
  0    the run has come to its end
  1    it cannot go on: the loss is not a number, the disk is full, a
       checkpoint is damaged
  2    the command does not fit; nothing was changed
  130  stopped by Ctrl-C, and kept; 143 by SIGTERM

A second Ctrl-C stops at once. What follows the last checkpoint is then
taken again.
"""


def parser() -> argparse.ArgumentParser:
    r"""
    ## The options

    What is not typed is absent from what the parser returns, so that it can
    be told from what is.
    """
    command = argparse.ArgumentParser(
        prog="python -m labml_bcn.experiment.train",
        usage="%(prog)s [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    network_options(command)
    run_options(command)
    machine_options(command)
    data_options(command)
    folder_options(command)
    return command


def network_options(command: argparse.ArgumentParser) -> None:
    r"""
    What is trained.
    """
    add = command.add_argument_group("the network").add_argument
    add(
        "--model",
        choices=tuple(vgg.BLOCKS),
        help="small: 6 convolutions, half a minute a run; vgg: the full"
        " network with 13 (default: small)",
    )
    add(
        "--norm",
        choices=tuple(vgg.OPTIONS),
        help="batch norm, group norm, batch-channel norm or none, behind"
        " every convolution (default: bcn)",
    )
    add(
        "--ws",
        action="store_true",
        help="standardize the weights of every convolution; needs a norm",
    )
    add(
        "--groups",
        type=int,
        metavar="G",
        help="groups of gn and bcn; must divide the channels of every layer"
        " (default: 8 for small, 32 for vgg)",
    )
    add(
        "--momentum",
        type=float,
        metavar="R",
        help="weight of the new value in the running statistics of bn and"
        " bcn, from 0 to 1 (default: 0.1)",
    )
    add(
        "--estimate",
        action=argparse.BooleanOptionalAction,
        help="train bcn with running statistics, or with the batch's"
        " (default: --estimate)",
    )
    add(
        "--variance-around",
        choices=("batch_mean", "running_mean"),
        help="the mean that the variance of bcn's estimate is taken around"
        " (default: batch_mean)",
    )
    add(
        "--sync-statistics",
        action=argparse.BooleanOptionalAction,
        help="under torchrun: measure each batch of bn and bcn over all"
        " processes (default: each process its own)",
    )


def run_options(command: argparse.ArgumentParser) -> None:
    r"""
    How it is trained.
    """
    group = command.add_argument_group("the run")
    add = group.add_argument
    add(
        "--batch-size",
        type=int,
        metavar="B",
        help="images of a forward pass, in each process; what is left over"
        " is dropped (default: 2)",
    )
    add(
        "--accumulate",
        type=int,
        metavar="A",
        help="batches of one step, their gradients averaged; statistics are"
        " still those of each batch (default: 1)",
    )
    length = group.add_mutually_exclusive_group().add_argument
    length(
        "--images",
        type=int,
        metavar="N",
        help="how many images to see (default: each training image once)",
    )
    length(
        "--epochs",
        type=float,
        metavar="E",
        help="the same, in passes over the training images",
    )
    add(
        "--optimizer",
        choices=tuple(OPTIMIZERS),
        help="sgd has Nesterov momentum 0.9 and weight decay 0.0005; adam has"
        " torch's defaults (default: sgd)",
    )
    add(
        "--lr",
        type=float,
        metavar="RATE",
        help="highest learning rate (default: 0.005)",
    )
    add(
        "--schedule",
        choices=tuple(SCHEDULES),
        help="onecycle rises for 0.3 of the run and falls to zero; cosine"
        " falls from the start; constant does neither (default: onecycle)",
    )
    add(
        "--warmup",
        type=float,
        metavar="SHARE",
        help="share of the run in which the rate rises, in place of the schedule's own",
    )
    add(
        "--seed",
        type=int,
        metavar="S",
        help="of the first weights, the order and the flips (default: 0)",
    )


def machine_options(command: argparse.ArgumentParser) -> None:
    r"""
    On what it is computed.
    """
    add = command.add_argument_group("the machine").add_argument
    add("--device", help="cpu, cuda, mps (default: cpu)")
    add(
        "--threads",
        type=int,
        metavar="T",
        help="of the CPU; 1 is best for small batches on a busy machine"
        " (default: torch's choice)",
    )
    add(
        "--amp",
        action="store_true",
        help="half precision where it is safe: bfloat16 on a CPU, float16"
        " with a scaled loss on a GPU",
    )
    add(
        "--compile",
        action="store_true",
        help="let torch.compile make the training step; needs a C++ compiler"
        " on a CPU, and a minute at the start",
    )


def data_options(command: argparse.ArgumentParser) -> None:
    r"""
    On what it is trained: one source, or the usual search.
    """
    group = command.add_argument_group(
        "the images",
        "Looked for in --data, in the folder that LABML_BCN_DATA names, and"
        " in the\nuser's cache folder, in this order. What is named but wrong"
        " is an error.\nNothing is downloaded unless you ask for it.",
    )
    group.add_argument(
        "--hold-out",
        type=int,
        metavar="N",
        help="train without the last N training images and test on them, not"
        " on the test images: for choosing settings",
    )
    add = group.add_mutually_exclusive_group().add_argument
    add(
        "--data",
        metavar="FOLDER",
        help="a folder that holds cifar-10-batches-bin",
    )
    add(
        "--download",
        action="store_true",
        help="download CIFAR-10 (170 MB) where it is not found",
    )
    add(
        "--stand-in",
        action="store_true",
        help="train on generated stripes instead of photographs",
    )


def folder_options(command: argparse.ArgumentParser) -> None:
    r"""
    What is kept.
    """
    add = command.add_argument_group("what is kept").add_argument
    add(
        "--out",
        metavar="FOLDER",
        help="the folder of the run (default: runs/, and a name made of the method)",
    )
    add(
        "--resume",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="go on with the run in FOLDER, or in that of --out; settings"
        " that are typed must be the run's, the others are taken from it",
    )
    add(
        "--checkpoint-every",
        type=int,
        metavar="K",
        help="steps between two checkpoints (default: 1000)",
    )
    add(
        "--tensorboard",
        action="store_true",
        help="write the metrics for TensorBoard too",
    )
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show a progress bar (default: where a terminal is there)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    r"""
    ## The command

    Find the images, build the network, train it, and print a summary.

    **Arguments**

    - `arguments`: those of the command line, or `None` to take them from
      there.

    **Returns** 0 at the end of the run, 1 where it had to stop, and 128
    plus the signal's number where a signal stopped it. Options that do not
    fit end the program with a message and exit code 2, as argparse does.
    """
    command = parser()
    typed = vars(command.parse_args(arguments))
    # What can be wrong with a command is found before the first step, and
    # said in one line. So is what a run can meet on its way. Anything else
    # is an error of the program, and keeps its traceback.
    try:
        path, config = find_run(typed)
        settings = SETTINGS | config.get("settings", {}) | typed
        with ranks.joined(settings["device"]) as device:
            return start(typed, path, config, device)
    except (ValueError, OSError, RunError, ModuleNotFoundError) as error:
        command.error(str(error))
    except KeyboardInterrupt:
        tell("stopped at once; --resume goes on from what was kept")
        return 128 + signal.SIGINT


def find_run(typed: Values) -> tuple[Path, Values]:
    r"""
    ## Which run

    Return the folder of the run, and the configuration that it holds: an
    empty one for a run that is to begin.

    **Raises** `ValueError`: the folder holds a run and `--resume` was not
    typed, or there is none to go on with.
    """
    out, resume = typed.get("out"), typed.get("resume")
    if resume and out and Path(resume) != Path(out):
        raise ValueError(
            f"--resume and --out must name one folder, got {resume} and"
            f" {out}; leave one of them out"
        )
    if resume == "" and not out:
        raise ValueError(
            "--resume needs the folder of a run: --resume FOLDER, or"
            " --out FOLDER --resume"
        )
    path = Path(resume or out or free_name(typed))
    file = path / "config.json"
    if not file.exists():
        if resume:
            raise ValueError(
                f"--resume must name the folder of a run, but {path} holds"
                " none; to start one, use --out"
            )
        return path, {}
    if resume is None:
        raise ValueError(
            f"{path} holds a run already; go on with it by --resume, or name"
            " another folder with --out"
        )
    try:
        config = json.loads(file.read_text("utf-8"))
        return path, config | {"settings": dict(config["settings"])}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} must hold the settings of a run, but does not: {error}."
            " Bring it back, or start anew in another folder"
        ) from error


def free_name(typed: Values) -> Path:
    r"""
    Return a folder for a new run, named after the method.
    """
    settings = SETTINGS | typed
    name = "-".join(describe(settings).split()).replace("=", "-")
    numbers = ("", *(f"-{number}" for number in range(2, 10_000)))
    paths = (Path("runs") / f"{name}{number}" for number in numbers)
    return next(path for path in paths if not path.exists())


def start(typed: Values, path: Path, config: Values, device: str) -> int:
    r"""
    ## Start

    Everything is read and built, and the settings are compared, before the
    folder is touched.

    **Arguments**

    - `typed`: what was typed.
    - `path`: the folder of the run.
    - `config`: its configuration, empty for a new run.
    - `device`: that of this process.

    **Returns** the exit status.
    """
    cifar10.optional_package("tqdm")  # before the first step, not in it
    data = images_for(typed, config)
    held_out = (SETTINGS | config.get("settings", {}) | typed)["hold_out"]
    if held_out is not None:
        data = data.hold_out(held_out)
    settings = settled(typed, config, data)
    agree(settings, config, path)
    torch.set_num_threads(positive("threads", settings["threads"]))
    model = network(settings)
    check(data, device, **{name: settings[name] for name in LOOP})
    every = positive("checkpoint_every", typed.get("checkpoint_every", 1000))
    folder, first = Folder(path), ranks.rank() == 0

    def run() -> Run:
        if first:
            begin(path, settings, config, data, typed)
            parameters = sum(p.numel() for p in model.parameters())
            print(f"{describe(settings)}, {parameters:,} parameters")
            print(f"images: {data.source}")
            print(f"kept in: {path}", flush=True)
        ranks.anywhere(False, device)  # the others wait for the folder
        return train(
            model,
            data,
            **{name: settings[name] for name in LOOP},
            device=device,
            amp=settings["amp"],
            progress=typed.get("progress") if first else False,
            folder=folder,
            checkpoint_every=every,
            tensorboard="tensorboard" in typed,
        )

    return carried_out(run, path)


def carried_out(run: Callable[[], Run], path: Path) -> int:
    r"""
    ## How it ends

    Carry out a run, and say how it has ended.

    **Arguments**

    - `run`: trains.
    - `path`: the folder of the run.

    **Returns** the exit status.
    """
    try:
        done = run()
    except Stopped as stopped:
        number = stopped.signal or signal.SIGTERM
        tell(
            f"stopped by {signal.Signals(number).name} after step"
            f" {stopped.step:,}, and kept. Go on with --resume {path}"
        )
        return 128 + number
    except RunError as error:
        tell(f"error: {error}")
        return 1
    except RuntimeError as error:
        if not ranks.left_alone(error):
            raise
        tell(
            "error: another process has ended, and says why. Go on from the"
            f" last checkpoint with --resume {path}"
        )
        return 1
    if ranks.rank() == 0:
        print(summary(done))
    return 0


def tell(message: str) -> None:
    r"""
    Write to the standard error stream; of several processes, say which.
    """
    who = f"process {ranks.rank()}: " if ranks.size() > 1 else ""
    print(f"{who}{message}", file=sys.stderr, flush=True)


def images_for(typed: Values, config: Values) -> CIFAR10:
    r"""
    Return the images that the command names, or else those that the run
    began with.
    """
    if not {"data", "download", "stand_in"} & typed.keys():
        typed = config.get("data", {}) | typed
    if typed.get("stand_in"):
        return cifar10.stand_in()
    try:
        return cifar10.load(
            typed.get("data"),
            download=typed.get("download"),
            progress=typed.get("progress"),
        )
    except FileNotFoundError as error:
        raise ValueError(f"{error} Or try it out with --stand-in.") from error


def settled(typed: Values, config: Values, data: CIFAR10) -> Values:
    r"""
    ## Settings

    Return all settings, with what was left to the machine filled in, and
    with what the images and the processes add.
    """
    kept = config.get("settings", {})
    settings: Values = SETTINGS | kept
    settings |= {name: typed[name] for name in SETTINGS if name in typed}
    total = len(data.train_images)
    if "epochs" in typed:
        settings["images"] = passes(typed["epochs"], total)
    if settings["images"] is None:
        settings["images"] = total
    if settings["threads"] is None:
        settings["threads"] = torch.get_num_threads()
    processes = ranks.size()
    if settings["sync_statistics"] and processes == 1:
        raise ValueError(
            "--sync-statistics needs more than one process: start it with"
            " torchrun, or leave the option out"
        )
    settings |= {"processes": processes, "digest": data.digest}
    return settings


def passes(epochs: float, total: int) -> int:
    r"""
    Return the number of images in `epochs` passes over `total` images.
    """
    if not 0 < epochs < math.inf:
        raise ValueError(f"epochs must be positive and finite, got {epochs}")
    return round(epochs * total)


def agree(settings: Values, config: Values, path: Path) -> None:
    r"""
    Compare the settings with those that the run began with.

    **Raises** `ValueError`: they differ; the message names each difference.
    """
    if "settings" not in config:
        return
    # A run from before there was an option has what is its default.
    kept = SETTINGS | config["settings"]
    differences = [
        f"{name.replace('_', '-')} is {kept.get(name)!r} there and {value!r} here"
        for name, value in settings.items()
        if kept.get(name) != value
    ]
    if differences:
        raise ValueError(
            f"the run in {path} has other settings: {'; '.join(differences)}."
            " Type its own or none to go on with it, or start another run"
            " with another --out. Nothing was changed"
        )


def network(settings: Values) -> nn.Module:
    r"""
    ## The network

    Build the network that the settings ask for.

    Without a norm behind them, standardized filters multiply the size of
    the activations in every layer, and the loss is not a number after a few
    steps. So that pair is refused here.
    """
    if settings["ws"] and settings["norm"] == "none":
        raise ValueError(
            "--ws needs a norm: standardized filters amplify, and only a"
            " norm takes that out again; choose --norm bn, gn or bcn"
        )
    return vgg.build(
        **{name: settings[name] for name in NETWORK},
        process_group=dist.group.WORLD if settings["sync_statistics"] else None,
    )


def begin(
    path: Path,
    settings: Values,
    config: Values,
    data: CIFAR10,
    typed: Values,
) -> None:
    r"""
    ## What a folder says about its run

    Write down the settings, where the run is new, and this start of it.

    Settings decide the result, together with the versions of what computes
    it. If those have changed since the last start, the run goes on, and the
    reader is told.

    **Raises** `RunError`: it cannot be written.
    """
    if not config:
        source = {"stand_in": data.is_stand_in, "data": typed.get("data")}
        counts = {
            "train": len(data.train_images),
            "test": len(data.test_images),
        }
        config = {
            "settings": settings,
            "images": data.source,
            "counts": counts,
            "data": source,
        }
        text = json.dumps(config, indent=2) + "\n"
        try:
            write(path / "config.json", text.encode())
        except OSError as error:
            raise RunError(
                f"{path / 'config.json'} could not be written:"
                f" {error.strerror}. Make room, and start again"
            ) from error
    now = surroundings()
    last = now | note_start(path / "starts.jsonl", now)
    for name in ("labml_bcn", "torch", "cpu"):
        if last[name] != now[name]:
            tell(
                f"note: until now the run had {name} {last[name]}, and goes"
                f" on with {now[name]}; its last digits may differ from those"
                " of a run that was never stopped"
            )


def note_start(file: Path, now: Values) -> Values:
    r"""
    Add a line for this start, and return the one before: empty where there
    is none.
    """
    starts = Lines(file)
    before = file.read_bytes()
    # A loss of power can leave the half of a line.
    starts.cut(before.rfind(b"\n") + 1)
    *_, last = {}, *starts
    starts.add(**now)
    starts.close()
    return last


def describe(settings: Values) -> str:
    r"""
    The method in a few words, with the options that were given.
    """
    words = [settings["model"], settings["norm"]]
    words += ["ws"] if settings["ws"] else []
    for name in ("groups", "momentum", "estimate", "variance_around"):
        value = settings[name]
        if value is not None:
            words.append(f"{name}={value}")
    return " ".join(words)


def summary(run: Run) -> str:
    r"""
    ## The end

    A run as a small table and a sentence. Loss and accuracy in training are
    averages over the images since the line before.
    """
    lines = [f"{'images':>12}{'loss':>8}{'train':>8}{'test':>8}"]
    before = 0
    for images, test in run.tests:
        since = [p for p in run.points if before < p.images <= images]
        loss = mean([point.loss for point in since])
        accuracy = mean([point.accuracy for point in since])
        before = images
        lines.append(f"{images:>12,}{loss:>8.3f}{accuracy:>8.1%}{test:>8.1%}")
    lines.append(
        f"test accuracy {run.accuracy:.1%} after {run.images:,} images in"
        f" {run.seconds:.1f} s ({run.images_per_second:.0f} images/s)"
    )
    return "\n".join(lines)


def mean(values: list[float]) -> float:
    r"""
    Return the mean, or NaN where there is nothing to take it of.
    """
    return sum(values) / len(values) if values else math.nan
