"""Images per second in training, with our layers and with their naive form.

A norm is a small part of a network's arithmetic and a large part of its time: it does
little with each number, and reads all of them. So what do one affine map and fast
weight standardization save in a training step? This command finds out on your machine:

    python -m labml_bcn.experiment.bench.training

It trains two networks that start from the same weights, one with our layers and one
with their naive form, on the same batches. The two take turns, step by step, and their
times are medians over the steps.

A batch is made by indexing a tensor that lies in memory, flipping half of it, and
standardizing it. The table says how large a part of our step that takes. With two
images a step, the work between two synchronizations of the CPU's threads is small: try
`--threads 1` too.
"""

import argparse
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
from labml_bcn.experiment.bench.naive import NaiveBatchChannelNorm, NaiveWSConv2d
from labml_bcn.experiment.bench.timing import race, write_record
from labml_bcn.experiment.cifar10 import CIFAR10
from labml_bcn.experiment.loop import shuffled_batches
from labml_bcn.experiment.machine import require_device
from labml_bcn.experiment.settings import AT_LEAST_ONE, require, require_rule

GROUPS = {"small": 8, "vgg": 32}


class Speed(NamedTuple):
    """A line of the table.

    `ours` and `naive` are images per second, `ratio` is that of the two, `data` the
    share of our step that went into making the batch, and `steps` says how many of each
    were measured.
    """

    model: str
    batch_size: int
    ours: float
    naive: float
    ratio: float
    data: float
    steps: int


class Trainer:
    """The step of the training loop, with a look at the clock after the batch."""

    def __init__(self, model: nn.Module, data: CIFAR10, batch_size: int) -> None:
        self.model, self.data = model, data
        self.device = data.train_images.device
        self.batches: Iterator[tuple[Tensor, Tensor]] = shuffled_batches(
            data, batch_size, seed=0
        )
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=1e-4, momentum=0.9, nesterov=True
        )
        self.batch_seconds: list[float] = []

    def step(self) -> None:
        """Take a step, and note the seconds that the batch took."""
        began = self.now()
        x, y = next(self.batches)
        x = self.data.standardize(x)
        self.batch_seconds.append(self.now() - began)
        loss = F.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def now(self) -> float:
        """Return the time, once all work on a GPU is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()


def naive_block(groups: int) -> vgg.Block:
    """Return a maker of blocks: a convolution, a norm and a ReLU in the naive form."""

    def make(in_channels: int, out_channels: int) -> nn.Module:
        return nn.Sequential(
            NaiveWSConv2d(in_channels, out_channels, 3, padding=1),
            NaiveBatchChannelNorm(out_channels, groups),
            nn.ReLU(),
        )

    return make


def build_pair(model: str) -> tuple[nn.Module, nn.Module]:
    """Return the network with our layers and with the naive ones, of equal weights."""
    ours = vgg.build(model, "bcn", ws=True, groups=GROUPS[model])
    theirs = vgg.VGG(vgg.BLOCKS[model], naive_block(GROUPS[model]))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def measure_speed(model: str, batch_size: int, data: CIFAR10, seconds: float) -> Speed:
    """Measure one network at one batch size, for some seconds."""
    device = data.train_images.device
    ours, naive = (
        Trainer(network.to(device), data, batch_size) for network in build_pair(model)
    )
    # The first steps find out which kernels to use, and get memory.
    steps = {"ours": ours.step, "naive": naive.step}
    times = race(steps, seconds, device, warm_up=3)
    count = len(times["ours"])
    fast, slow = median(times["ours"]), median(times["naive"])
    return Speed(
        model,
        batch_size,
        ours=batch_size / fast,
        naive=batch_size / slow,
        ratio=slow / fast,
        data=median(ours.batch_seconds[-count:]) / fast,
        steps=count,
    )


def format_row(*cells: object) -> str:
    """Return a line of the table."""
    widths = (6, 6, 10, 10, 8, 8, 7)
    pairs = zip(cells, widths, strict=True)
    return "".join(f"{cell!s:>{width}}" for cell, width in pairs)


def format_speed(speed: Speed) -> str:
    """Return a measurement as a line of the table."""
    return format_row(
        speed.model,
        speed.batch_size,
        f"{speed.ours:.1f}",
        f"{speed.naive:.1f}",
        f"{speed.ratio:.2f}x",
        f"{speed.data:.1%}",
        speed.steps,
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
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
    """Measure, print a table, and write the results if `--out` asks for it."""
    command = build_parser()
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
    print(format_row("model", "batch", "ours", "naive", "ratio", "data", "steps"))
    speeds = []
    for model in options.models:
        for size in options.batch_sizes:
            speeds.append(measure_speed(model, size, data, options.seconds))
            print(format_speed(speeds[-1]), flush=True)
    if options.out:
        write_record(Path(options.out), speeds=[speed._asdict() for speed in speeds])
    return 0


if __name__ == "__main__":
    sys.exit(main())
