r"""
---
title: Training with micro-batches
summary: >
  One training loop to read, for a VGG on CIFAR-10 with any of the
  normalizations, and its command line.
---

# Training with micro-batches

This is the experiment that the layers are made for: one or two images a
step. Everything about the run is the same for every method, and only the
block of the network changes, so that a difference between two curves is a
difference between two normalizations.

**The recipe** is a plain one. Stochastic gradient descent with Nesterov
momentum 0.9 and weight decay 0.0005; a learning rate that rises and falls
once; images flipped left to right at random. With two images a step the
gradient is noisy, so the rate is low: 0.005.

**Images, not epochs.** The length of a run is the number of images it has
seen. It is what a reader pays for, and it compares runs on sets of
different sizes.

**The same again.** A run depends on its seed and on nothing else: on a CPU
with the same number of threads, the same command ends with the same
weights, bit for bit. One run of each method does not tell two methods apart
that are a few percent from each other; several seeds do.

From a shell:

    python -m labml_bcn.experiment.train --norm bcn --ws --images 5000

From Python:

    data = cifar10.load()
    model = vgg.build("small", "bcn", ws=True)
    run = train(model, data, images=5_000)
    print(run.accuracy)
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bcn.experiment import cifar10, vgg
from labml_bcn.experiment.cifar10 import CIFAR10


class Point(NamedTuple):
    r"""
    ## What a run leaves behind

    A point of the training curve: the average over all images since the
    point before.

    - `images`: how many were seen up to here.
    - `loss`: cross-entropy, averaged.
    - `accuracy`: share of images classified right, in training mode.
    """

    images: int
    loss: float
    accuracy: float


class Score(NamedTuple):
    r"""
    A look at the test images, in evaluation mode.

    - `images`: how many were seen in training up to here.
    - `accuracy`: share of test images classified right.
    """

    images: int
    accuracy: float


@dataclass
class Run:
    r"""
    The whole run.

    - `points`: the training curve.
    - `tests`: test accuracies along the way; the last is the final one.
    - `seconds`: time spent in training, the tests not counted.
    """

    points: list[Point] = field(default_factory=list)
    tests: list[Score] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def images(self) -> int:
        """How many images were seen."""
        return self.points[-1].images

    @property
    def accuracy(self) -> float:
        """Share of test images classified right at the end."""
        return self.tests[-1].accuracy

    @property
    def images_per_second(self) -> float:
        """The speed of training, the tests not counted."""
        return self.images / self.seconds


def train(
    model: nn.Module,
    data: CIFAR10,
    *,
    batch_size: int = 2,
    images: int | None = None,
    lr: float = 0.005,
    seed: int = 0,
    device: torch.device | str = "cpu",
    points: int = 100,
    tests: int = 5,
    progress: bool | None = None,
) -> Run:
    r"""
    ## The loop

    Train `model` in place, and look at the test images along the way.

    **Arguments**

    - `model`: takes standardized images `[B, 3, 32, 32]` to logits
      `[B, 10]`. It is moved to `device` and stays there.
    - `data`: training and test images.
    - `batch_size`: images a step. Every step has exactly as many: what a
      pass over the images leaves over is dropped, and so is what `images`
      leaves over.
    - `images`: how many to see; `None` for each training image once.
    - `lr`: the highest learning rate.
    - `seed`: of the order of the images and of the flips. The first weights
      are the model's own matter.
    - `device`: where to train.
    - `points`: of the training curve, evenly spread.
    - `tests`: how often to look at the test images, evenly spread; the last
      time is the end.
    - `progress`: show a progress bar on the standard error stream; `None`
      does so where that is a terminal.

    **Returns** the training curve, the test accuracies and the time.

    **Raises** `ValueError`: a number is out of its range, or the device is
    not there.
    """
    check(data, batch_size, images, lr, seed, device)
    model, data = model.to(device).train(), data.to(device)
    steps = (images or len(data.train_images)) // batch_size
    report_at, test_at = evenly(points, steps), evenly(tests, steps)
    optimizer = torch.optim.SGD(
        model.parameters(), momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    run, meter = Run(), Meter(device)
    batches = islice(shuffled(data, batch_size, seed), steps)
    with cifar10.bar(steps * batch_size, progress=progress) as bar:
        for step, (x, y) in enumerate(batches, start=1):
            began = perf_counter()
            # One step: the rate for this moment, the loss of this batch,
            # its gradient, and a move against it.
            for group in optimizer.param_groups:
                group["lr"] = lr * one_cycle(step, steps)
            logits = model(data.standardize(x))
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            meter.add(loss, logits, y)
            # Reading a number waits until the device has computed it. So
            # the sums stay there, and are read at the curve's points only.
            if step in report_at:
                run.points.append(meter.read(step * batch_size))
                bar.set_postfix(
                    loss=f"{run.points[-1].loss:.3f}",
                    accuracy=f"{run.points[-1].accuracy:.1%}",
                    refresh=False,
                )
            run.seconds += perf_counter() - began
            bar.update(batch_size)
            if step in test_at:
                accuracy = evaluate(model, data)
                run.tests.append(Score(step * batch_size, accuracy))
    return run


def shuffled(
    data: CIFAR10, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    r"""
    ## Batches without end

    Pass after pass over the training images, each in a new order.

    The order and the flips come from a generator of their own. It lives on
    the CPU, so that every device sees the same batches.

    **Arguments**

    - `data`: training images, on any device.
    - `batch_size`: images a batch; what is left over of a pass is dropped.
    - `seed`: of the order and the flips.

    **Returns** batches of images, uint8 `[B, 3, 32, 32]`, and labels.
    """
    generator = torch.Generator().manual_seed(seed)
    device = data.train_images.device
    total = len(data.train_images)
    while True:
        order = torch.randperm(total, generator=generator)
        flips = torch.rand(total, generator=generator) < 0.5
        order, flips = order.to(device), flips.to(device)
        for start in range(0, total - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            flip = flips[start : start + batch_size, None, None, None]
            # Both versions of the batch are at hand, and each image takes
            # one of them: no loop over images.
            x = data.train_images[chosen]
            yield torch.where(flip, x.flip(3), x), data.train_labels[chosen]


def one_cycle(step: int, steps: int) -> float:
    r"""
    ## One cycle

    The learning rate's share of its highest value at step $k$ of $K$.

    It starts low, because the first gradients point anywhere. It rises for
    the first $\rho = 0.3$ of the run, then falls to zero, so that the noise
    of small batches has died down at the end. With $t = k / (K + 1)$, both
    ways along half a cosine wave:

    $$\eta(t) = \frac{1 - \cos(\pi s)}{2} \qquad
    s = \begin{cases}
    t / \rho & t \le \rho \\
    (1 - t) / (1 - \rho) & t > \rho
    \end{cases}$$ {#one-cycle}

    It is a function of the step and keeps nothing between steps.
    """
    rho = 0.3
    t = step / (steps + 1)
    s = t / rho if t <= rho else (1 - t) / (1 - rho)
    return (1 - math.cos(math.pi * s)) / 2


@torch.no_grad()
def evaluate(model: nn.Module, data: CIFAR10, chunk: int = 50) -> float:
    r"""
    ## The test

    The share of test images that the model classifies right.

    It runs in evaluation mode, where no image depends on another, so the
    images can go through in large chunks, the last one smaller. Afterwards
    every module is in the mode it was in before, even where modes were
    mixed on purpose.

    **Arguments**

    - `model`: on the device of `data`.
    - `data`: its test images are used, standardized with the mean and
      standard deviation of the training images.
    - `chunk`: images at a time. More are not faster on a CPU, because their
      activations leave its cache.

    **Returns** a number from 0 to 1.
    """
    modes = [(module, module.training) for module in model.modules()]
    right = 0
    try:
        model.eval()
        for start in range(0, len(data.test_images), chunk):
            x = data.test_images[start : start + chunk]
            y = data.test_labels[start : start + chunk]
            right += int((model(data.standardize(x)).argmax(1) == y).sum())
    finally:
        for module, mode in modes:
            module.training = mode
    return right / len(data.test_labels)


class Meter:
    r"""
    ### Sums on the device

    Loss and hits since the last reading.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.sums = torch.zeros(3, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        r"""
        Count one batch: its loss, its hits and its images.
        """
        hits = (logits.argmax(1) == labels).sum()
        self.sums[0] += loss * len(labels)
        self.sums[1] += hits
        self.sums[2] += len(labels)

    def read(self, images: int) -> Point:
        r"""
        Return the averages, and start anew.
        """
        loss, hits, count = self.sums.tolist()
        self.sums.zero_()
        return Point(images, loss / count, hits / count)


def evenly(count: int, steps: int) -> set[int]:
    r"""
    The steps at which `count` looks are taken, evenly spread, the last one
    at the end: every step where there are fewer steps than looks.
    """
    positive("points and tests", count)
    return {-(-steps * k // count) for k in range(1, count + 1)}


def positive(name: str, value: int) -> int:
    r"""
    Return `value` where it is at least one, else raise.
    """
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def check(
    data: CIFAR10,
    batch_size: int,
    images: int | None,
    lr: float,
    seed: int,
    device: torch.device | str,
) -> None:
    r"""
    ## What a run needs

    The rules for its numbers, checked before anything is computed.

    **Raises** `ValueError` with the rule, the value and the remedy.
    """
    positive("batch_size", batch_size)
    total = len(data.train_images)
    if batch_size > total:
        raise ValueError(
            f"batch_size must be at most the {total:,} training images, got"
            f" {batch_size:,}; choose a smaller one"
        )
    if images is not None and images < batch_size:
        raise ValueError(
            f"images must be at least batch_size, or there is no step to"
            f" take, got images={images:,} and batch_size={batch_size:,}"
        )
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}")
    vgg.valid_seed(seed)
    # Torch says in many ways that a device is not there: it has no such
    # name, no such hardware, or was built without it.
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device must be one that torch can use here, got {device!r}:"
            f" {str(error).splitlines()[0]}; use cpu"
        ) from error


DESCRIPTION = """\
Train a VGG on CIFAR-10, one or two images a step, with a normalization of
your choice, and print its test accuracy.

The images are looked for in --data, in the folder that the environment
variable LABML_BCN_DATA names, and in the user's cache folder, in this
order. What is named but wrong is an error, and never passed over.
Nothing is downloaded unless you ask for it with --download.
"""

EXAMPLES = """\
examples:
  Batch norm, and what two images a step do to it:
    python -m labml_bcn.experiment.train --norm bn --images 5000

  Batch-channel norm with weight standardization, statistics as the paper
  has them:
    python -m labml_bcn.experiment.train --norm bcn --ws \\
        --variance-around running_mean --momentum 0.01 --images 5000

  The full VGG on a GPU, images downloaded once:
    python -m labml_bcn.experiment.train --model vgg --norm bcn --ws \\
        --batch-size 64 --lr 0.05 --images 1000000 --device cuda --download

  No images at hand, only to see it run:
    python -m labml_bcn.experiment.train --stand-in --images 2000

The same options and seed end with the same weights, bit for bit, on a CPU
with the same number of threads.
"""


def parser() -> argparse.ArgumentParser:
    r"""
    ## The command line

    Each option is one argument of `vgg.build`, `cifar10.load` or `train`,
    and is explained where it is typed.
    """
    command = argparse.ArgumentParser(
        prog="python -m labml_bcn.experiment.train",
        usage="%(prog)s [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    network_options(command)
    run_options(command)
    data_options(command)
    return command


def network_options(command: argparse.ArgumentParser) -> None:
    r"""
    What is trained. Options that are not given stay `None`, so that one
    which the normalization does not have is noticed.
    """
    add = command.add_argument_group("the network").add_argument
    add(
        "--model",
        choices=tuple(vgg.BLOCKS),
        default="small",
        help="small: 6 convolutions, half a minute a run; vgg: the full"
        " network with 13 (default: small)",
    )
    add(
        "--norm",
        choices=tuple(vgg.OPTIONS),
        default="bcn",
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
        help="bcn normalizes with running statistics in training too;"
        " with --no-estimate, with those of the batch (default: estimate)",
    )
    add(
        "--variance-around",
        choices=("batch_mean", "running_mean"),
        help="the mean around which bcn measures its variance; running_mean"
        " is the paper's formula (default: batch_mean)",
    )


def run_options(command: argparse.ArgumentParser) -> None:
    r"""
    How it is trained.
    """
    add = command.add_argument_group("the run").add_argument
    add(
        "--batch-size",
        type=int,
        default=2,
        metavar="B",
        help="images a step; what is left over is dropped (default: 2)",
    )
    add(
        "--images",
        type=int,
        metavar="N",
        help="how many images to see (default: each training image once)",
    )
    add(
        "--lr",
        type=float,
        default=0.005,
        metavar="RATE",
        help="highest learning rate of the one cycle (default: 0.005)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="of the first weights, the order and the flips (default: 0)",
    )
    add("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    add(
        "--threads",
        type=int,
        metavar="T",
        help="of the CPU; 1 is best for small batches on a busy machine"
        " (default: torch's choice)",
    )
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show a progress bar (default: where a terminal is there)",
    )


def data_options(command: argparse.ArgumentParser) -> None:
    r"""
    On what it is trained: one source, or the usual search.
    """
    group = command.add_argument_group("the images")
    add = group.add_mutually_exclusive_group().add_argument
    add(
        "--data",
        metavar="FOLDER",
        help="a folder that holds cifar-10-batches-bin",
    )
    add(
        "--download",
        action="store_true",
        default=None,
        help="download CIFAR-10 (170 MB) where it is not found",
    )
    add(
        "--stand-in",
        action="store_true",
        help="train on generated stripes instead of photographs",
    )


def prepare(options: argparse.Namespace) -> tuple[CIFAR10, vgg.VGG]:
    r"""
    The images and the network that the options ask for.

    Without a norm behind them, standardized filters multiply the size of
    the activations in every layer, and the loss is not a number after a few
    steps. So that pair is refused here.
    """
    if options.ws and options.norm == "none":
        raise ValueError(
            "--ws needs a norm: standardized filters amplify, and only a"
            " norm takes that out again; choose --norm bn, gn or bcn"
        )
    cifar10.optional_package("tqdm")  # before the first step, not in it
    if options.threads is not None:
        torch.set_num_threads(positive("threads", options.threads))
    model = vgg.build(
        options.model,
        options.norm,
        ws=options.ws,
        groups=options.groups,
        momentum=options.momentum,
        estimate=options.estimate,
        variance_around=options.variance_around,
        seed=options.seed,
    )
    if options.stand_in:
        data = cifar10.stand_in()
    else:
        data = cifar10.load(
            options.data,
            download=options.download,
            progress=options.progress,
        )
    check(
        data,
        options.batch_size,
        options.images,
        options.lr,
        options.seed,
        options.device,
    )
    return data, model


def describe(options: argparse.Namespace) -> str:
    r"""
    The method in a few words, with the options that were given.
    """
    words = [options.model, options.norm, *(["ws"] if options.ws else [])]
    for name in ("groups", "momentum", "estimate", "variance_around"):
        value = getattr(options, name)
        if value is not None:
            words.append(f"{name}={value}")
    return " ".join(words)


def summary(run: Run) -> str:
    r"""
    The end of a run as a small table and a sentence.
    """
    lines = [f"{'images':>12}{'loss':>8}{'test':>8}"]
    before = 0
    for images, accuracy in run.tests:
        # The loss is the average over the images since the test before.
        since = [p.loss for p in run.points if before < p.images <= images]
        loss = sum(since) / len(since) if since else math.nan
        before = images
        lines.append(f"{images:>12,}{loss:>8.3f}{accuracy:>8.1%}")
    lines.append(
        f"test accuracy {run.accuracy:.1%} after {run.images:,} images in"
        f" {run.seconds:.1f} s ({run.images_per_second:.0f} images/s)"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    r"""
    ## The command

    Find the images, build the network, train it, and print a summary.

    **Arguments**

    - `arguments`: those of the command line, or `None` to take them from
      there.

    **Returns** 0. Options that do not fit end the program with a message
    and exit code 2, as argparse does.
    """
    command = parser()
    options = command.parse_args(arguments)
    # What can be wrong with a command is found before the first step, and
    # said in one line. Anything later is an error of the program, and keeps
    # its traceback.
    try:
        data, model = prepare(options)
    except FileNotFoundError as error:
        command.error(f"{error} Or try it out with --stand-in.")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        command.error(str(error))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{describe(options)}, {parameters:,} parameters")
    print(f"images: {data.source}", flush=True)
    run = train(
        model,
        data,
        batch_size=options.batch_size,
        images=options.images,
        lr=options.lr,
        seed=options.seed,
        device=options.device,
        progress=options.progress,
    )
    print(summary(run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
