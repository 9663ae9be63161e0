r"""
---
title: How fast a step is
summary: >
  Images per second in training, with our layers and with the naive form of
  the same layers, side by side in one run.
---

# How fast a step is

A norm is a small part of a network's arithmetic and a large part of its
time: it does little with each number, and reads all of them. So what do
[one affine map](../fused.py) and
[fast weight standardization](../weight_standardization.py) save in a
training step? This command finds out on your machine:

    python -m labml_bcn.experiment.bench.training

It trains two networks that start from the same weights, one with our layers
and one with [their naive form](../naive.py), on the same batches. The two
take turns, step by step: whatever else the machine does, it does to both.
Their times are medians over the steps.

**Where the data comes in.** A batch is made by indexing a tensor that lies
in memory, flipping half of it, and standardizing it. The table says how
large a part of our step that takes.

**Threads.** With two images a step, the work between two synchronizations of
the CPU's threads is small. Try `--threads 1` too.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bcn.experiment import cifar10, vgg
from labml_bcn.experiment.bench.naive import (
    NaiveBatchChannelNorm,
    NaiveWSConv2d,
)
from labml_bcn.experiment.cifar10 import CIFAR10
from labml_bcn.experiment.environment import surroundings
from labml_bcn.experiment.loop import shuffled_batches
from labml_bcn.experiment.machine import require_device
from labml_bcn.experiment.settings import AT_LEAST_ONE, require, require_rule

GROUPS = {"small": 8, "vgg": 32}


class Speed(NamedTuple):
    r"""
    ## A line of the table

    - `model`, `batch_size`: what was trained.
    - `ours`, `naive`: images per second.
    - `ratio`: of the two.
    - `data`: share of our step that went into making the batch.
    - `steps`: how many of each were measured.
    """

    model: str
    batch_size: int
    ours: float
    naive: float
    ratio: float
    data: float
    steps: int


class Trainer:
    r"""
    ## A step

    The step of [the loop](train.py), with a look at the clock after the
    batch is made and at the end.
    """

    def __init__(self, model: nn.Module, data: CIFAR10, batch_size: int) -> None:
        self.model, self.data = model, data
        self.device = data.train_images.device
        self.batches: Iterator[tuple[Tensor, Tensor]] = shuffled_batches(
            data, batch_size, seed=0
        )
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=1e-4, momentum=0.9, nesterov=True
        )

    def step(self) -> tuple[float, float]:
        r"""
        Take a step, and return its seconds: for the batch, and in all.
        """
        began = self.now()
        x, y = next(self.batches)
        x = self.data.standardize(x)
        made = self.now()
        loss = F.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return made - began, self.now() - began

    def now(self) -> float:
        r"""
        The time, once all work on a GPU is done.
        """
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()


def naive_block(groups: int) -> vgg.Block:
    r"""
    A convolution, a norm with `groups` and a ReLU in the naive form, for
    [the network](vgg.py).
    """

    def make(in_channels: int, out_channels: int) -> nn.Module:
        return nn.Sequential(
            NaiveWSConv2d(in_channels, out_channels, 3, padding=1),
            NaiveBatchChannelNorm(out_channels, groups),
            nn.ReLU(),
        )

    return make


def pair(model: str) -> tuple[nn.Module, nn.Module]:
    r"""
    The network with our layers and with the naive ones, of one set of first
    weights.
    """
    ours = vgg.build(model, "bcn", ws=True, groups=GROUPS[model])
    theirs = vgg.VGG(vgg.BLOCKS[model], naive_block(GROUPS[model]))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def measured(model: str, batch_size: int, data: CIFAR10, seconds: float) -> Speed:
    r"""
    ## Taking turns

    Measure one network at one batch size.

    **Arguments**

    - `model`: `"small"` or `"vgg"`.
    - `batch_size`: images a step.
    - `data`: to train on, on its device.
    - `seconds`: how long to measure; at least five steps of each.

    **Returns** medians.
    """
    device = data.train_images.device
    ours, theirs = (
        Trainer(network.to(device), data, batch_size) for network in pair(model)
    )
    # The first steps find out which kernels to use, and get memory.
    for _ in range(3):
        ours.step(), theirs.step()
    times: list[tuple[float, float, float]] = []
    end = perf_counter() + seconds
    while perf_counter() < end or len(times) < 5:
        making, whole = ours.step()
        times.append((making, whole, theirs.step()[1]))
    making, fast, slow = (median(column) for column in zip(*times, strict=True))
    return Speed(
        model,
        batch_size,
        batch_size / fast,
        batch_size / slow,
        slow / fast,
        making / fast,
        len(times),
    )


def row(*cells: object) -> str:
    r"""
    A line of the table.
    """
    widths = (6, 6, 10, 10, 8, 8, 7)
    pairs = zip(cells, widths, strict=True)
    return "".join(f"{cell!s:>{width}}" for cell, width in pairs)


def shown(speed: Speed) -> str:
    r"""
    A measurement as a line of the table.
    """
    return row(
        *(speed.model, speed.batch_size),
        *(f"{speed.ours:.1f}", f"{speed.naive:.1f}", f"{speed.ratio:.2f}x"),
        *(f"{speed.data:.1%}", speed.steps),
    )


def parser() -> argparse.ArgumentParser:
    r"""
    ## The command line
    """
    command = argparse.ArgumentParser(
        prog="python -m labml_bcn.experiment.bench.training",
        description="Measure images per second in training, with our layers"
        " and with the naive form of the same layers, in turns.",
        allow_abbrev=False,
    )
    add = command.add_argument
    add(
        "--models",
        nargs="+",
        choices=tuple(GROUPS),
        default=tuple(GROUPS),
        help="which networks (default: both)",
    )
    add(
        "--batch-sizes",
        nargs="+",
        type=int,
        metavar="B",
        default=(2, 64),
        help="images a step (default: 2 64)",
    )
    add(
        "--seconds",
        type=float,
        metavar="S",
        default=10.0,
        help="how long to measure each, at least five steps (default: 10)",
    )
    add("--threads", type=int, metavar="T", help="of the CPU")
    add("--device", default="cpu", help="cpu, cuda (default: cpu)")
    add("--out", metavar="FILE", help="write the results as JSON, too")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    r"""
    ## The command

    Measure, print a table, and write the results where `--out` asks for it.
    """
    command = parser()
    options = command.parse_args(arguments)
    try:
        for size in options.batch_sizes:
            require_rule("batch size", size, AT_LEAST_ONE)
        require_device(options.device)
        if options.threads is not None:
            require(threads=options.threads)
            torch.set_num_threads(options.threads)
    except ValueError as error:
        command.error(str(error))
    data = cifar10.stand_in(max(512, *options.batch_sizes), 1)
    data = data.to(options.device)
    print("images per second in training, forward and backward")
    print(row("model", "batch", "ours", "naive", "ratio", "data", "steps"))
    lines = []
    for model in options.models:
        for size in options.batch_sizes:
            lines.append(measured(model, size, data, options.seconds))
            print(shown(lines[-1]), flush=True)
    if options.out:
        results = {
            "surroundings": surroundings(),
            "threads": torch.get_num_threads(),
            "speeds": [speed._asdict() for speed in lines],
        }
        text = json.dumps(results, indent=2) + "\n"
        Path(options.out).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
