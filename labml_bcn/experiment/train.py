r"""
---
title: Training with micro-batches
summary: >
  One training loop to read, for a VGG on CIFAR-10 with any of the
  normalizations. It can be stopped at any moment, and goes on as if nothing
  had been.
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

**The same again.** A run depends on its settings and on nothing else: on a
CPU with the same number of threads, the same command ends with the same
weights, bit for bit. That holds for a run that was stopped, too, by Ctrl-C
or by a power cut: it goes on from its last checkpoint, and
ends with the weights and the metrics of one that was never stopped. One run
of each method does not tell two methods apart that are a few percent from
each other; several seeds do.

From a shell (`--help` has all options):

    python -m labml_bcn.experiment.train \
        --norm bcn --ws --images 5000

From Python:

    data = cifar10.load()
    model = vgg.build("small", "bcn", ws=True)
    run = train(model, data, images=5_000)
    print(run.accuracy)
"""

import hashlib
import importlib
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bcn.experiment import cifar10, diagnose, ranks, vgg
from labml_bcn.experiment.cifar10 import CIFAR10
from labml_bcn.experiment.run_folder import Folder, RunError
from labml_bcn.experiment.signals import Interrupted, Stop


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


class Stopped(Exception):
    r"""
    A signal has stopped the run. What it had reached is kept.

    - `step`: how many steps were taken.
    - `signal`: the number of the signal, 0 where another process got it.
    """

    def __init__(self, step: int, signal: int) -> None:
        super().__init__(f"stopped after step {step:,}")
        self.step, self.signal = step, signal


def train(
    model: nn.Module,
    data: CIFAR10,
    *,
    batch_size: int = 2,
    accumulate: int = 1,
    images: int | None = None,
    optimizer: str = "sgd",
    lr: float = 0.005,
    schedule: str = "onecycle",
    warmup: float | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    amp: bool = False,
    compile: bool = False,
    points: int = 100,
    tests: int = 5,
    progress: bool | None = None,
    folder: Folder | None = None,
    checkpoint_every: int = 1000,
    tensorboard: bool = False,
) -> Run:
    r"""
    ## The loop

    Train `model` in place, and look at the test images along the way.

    **Arguments**

    - `model`: takes standardized images `[B, 3, 32, 32]` to logits
      `[B, 10]`. It is moved to `device` and stays there.
    - `data`: training and test images.
    - `batch_size`: images a forward pass, in each process. All have exactly
      as many: what a pass over the images leaves over is dropped, and so is
      what `images` leaves over.
    - `accumulate`: batches a step, whose gradients are averaged; `ranks.py`
      says what it means for statistics.
    - `images`: how many to see; `None` for each training image once.
    - `optimizer`: `"sgd"` as above, or `"adam"` with torch's defaults and no
      weight decay, as labml has it.
    - `lr`: the highest learning rate.
    - `schedule`, `warmup`: how the rate changes; see [the rate](#rate).
    - `seed`: of the order of the images and of the flips. The first weights
      are the model's own matter.
    - `device`: where to train.
    - `amp`: compute convolutions in half precision: bfloat16 on a CPU, and
      float16 with a scaled loss on a GPU.
    - `compile`: let `torch.compile` make the forward and backward pass.
    - `points`: of the training curve, evenly spread.
    - `tests`: how often to look at the test images, evenly spread; the last
      time is the end.
    - `progress`: show a progress bar on the standard error stream; `None`
      does so where that is a terminal.
    - `folder`: where to keep the run. If it holds a checkpoint, the run goes
      on from there. By default nothing is kept.
    - `checkpoint_every`: steps between two checkpoints.
    - `tensorboard`: write the metrics for TensorBoard too, into the folder.

    **Returns** the training curve, the test accuracies and the time.

    **Raises**

    - `ValueError`: a number is out of its range, or the device is not there.
    - `Stopped`: a signal came, and there is a folder; all is kept.
    - `RunError`: the loss is not a finite number, or the folder cannot be
      read or written.
    """
    numbers = batch_size, accumulate, images, optimizer, lr, schedule
    check(data, device, *numbers, warmup, seed, compile)
    positive("checkpoint_every", checkpoint_every)
    processes = ranks.size()
    per_step = batch_size * accumulate * processes
    steps = (images or len(data.train_images)) // per_step
    report_at, test_at = evenly(points, steps), evenly(tests, steps)
    model, data = model.to(device).train(), data.to(device)
    # What must not be lost is in one place. Where a run goes on, it is read
    # from the folder; the order of the images follows from the step.
    state = State(model, device, amp, optimizer)
    step = 0 if folder is None else resumed(folder, state)
    record = Record(folder, tensorboard, step * per_step)
    network = ranks.parallel(compiled(model) if compile else model)
    batches = shuffled(
        *(data, batch_size, seed, step * accumulate),
        *(ranks.rank(), processes),
    )
    shown = cifar10.bar(steps * per_step, step * per_step, progress=progress)
    with Stop(listen=folder is not None) as stop, record, shown as bar:
        while True:
            # Between two steps the run is in a state that can be kept. The
            # test images are looked at here: a look that is broken off is
            # taken again by the run that goes on.
            seen = step * per_step
            if step in test_at and not record.tested(seen):
                with suppress(Interrupted):
                    record.test(seen, evaluate(model, data, check=stop.check))
            stopping = ranks.anywhere(bool(stop), device)
            if stopping or step == steps or step % checkpoint_every == 0:
                keep(folder, step, state)
            if stopping:
                raise Stopped(step, stop.signal)
            if step == steps:
                record.run.seconds = state.seconds
                return record.run
            # The rate for this moment, and a step. Where a loss is no number,
            # that is the end of the run.
            began = perf_counter()
            step += 1
            state.set_rate(lr * rate(step, steps, schedule, warmup))
            if bad := learn(state, network, data, batches, accumulate):
                raise diverged(step, *bad, state, folder)
            state.seconds += perf_counter() - began
            bar.update(per_step)
            if step in report_at:
                point = state.meter.read(step * per_step)
                record.point(point, state.seconds)
                bar.set_postfix(
                    loss=f"{point.loss:.3f}",
                    accuracy=f"{point.accuracy:.1%}",
                    refresh=False,
                )


def learn(
    state: "State",
    network: nn.Module,
    data: CIFAR10,
    batches: Iterator[tuple[Tensor, Tensor]],
    accumulate: int,
) -> tuple[Tensor, Tensor] | None:
    r"""
    ## One step

    The loss of a batch, its gradient, and a move against it. Several batches
    a step have their gradients added up.

    **Arguments**

    - `state`: what the step changes.
    - `network`: the model, or what is wrapped around it.
    - `data`: standardizes images.
    - `batches`: where the next ones come from.
    - `accumulate`: how many to take.

    **Returns** `None`; or, where a loss is not a finite number in one of the
    processes, the loss of this one and its images.
    """
    state.optimizer.zero_grad()
    for part, (x, y) in enumerate(islice(batches, accumulate), 1):
        x = data.standardize(x)
        state.before.remember()
        with ranks.waiting(network, part < accumulate):
            with state.precision():
                logits = network(x)
                loss = F.cross_entropy(logits, y)
            # A loss that is no number would spoil the weights. They are
            # still what they were, and so the batch can be run again, to
            # find out where it went wrong. All processes stop at the same
            # one.
            if ranks.anywhere(not loss.isfinite(), state.device):
                return loss, x
            state.scaler.scale(loss / accumulate).backward()
        state.meter.add(loss, logits, y)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return None


class State:
    r"""
    ## What must not be lost

    Everything that decides how a run goes on, and that a checkpoint holds:
    weights, running statistics, the optimizer's momentum, the scale of a
    float16 loss, random states, and the sums for the next point of the
    curve. The order of the images and the learning rate are functions of
    the step, and need not be kept.

    **Arguments**

    - `model`: on its device.
    - `device`: that device.
    - `amp`: compute in half precision.
    - `optimizer`: `"sgd"` or `"adam"`.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str,
        amp: bool,
        optimizer: str,
    ) -> None:
        self.model, self.device = model, device
        make, options = OPTIMIZERS[optimizer]
        self.optimizer = make(model.parameters(), **options)
        self.kind, self.amp = torch.device(device).type, amp
        self.half = torch.bfloat16 if self.kind == "cpu" else torch.float16
        self.scaler = torch.amp.GradScaler(
            self.kind, enabled=amp and self.half is torch.float16
        )
        self.meter = Meter(device)
        self.before = diagnose.Before(model)
        self.seconds = 0.0

    def set_rate(self, lr: float) -> None:
        r"""
        Give the optimizer the learning rate of this step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def precision(self) -> torch.autocast:
        r"""
        Half precision where it was asked for.
        """
        return torch.autocast(self.kind, self.half, enabled=self.amp)

    def shared(self) -> dict[str, Any]:
        r"""
        Return what is the same in all processes.
        """
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "seconds": self.seconds,
        }

    def own(self) -> dict[str, Any]:
        r"""
        Return what each process has for itself.
        """
        return {
            "buffers": dict(self.model.named_buffers()),
            "random": diagnose.random_states(),
            "meter": self.meter.sums,
        }

    def load(self, kept: dict[str, Any]) -> None:
        r"""
        Take over what was kept.

        **Raises** `RunError`: it is another network's, or that of another
        number of processes.
        """
        processes = kept["processes"]
        if len(processes) != ranks.size():
            raise RunError(
                f"the run has {len(processes)} processes, but now there are"
                f" {ranks.size()}: go on with as many as before"
            )
        try:
            self.model.load_state_dict(kept["model"])
        except RuntimeError as error:
            what = textwrap.shorten(str(error), 250)
            raise RunError(
                f"the run has another network: {what} Another version of"
                " labml_bcn wrote it: go on with that one"
            ) from error
        self.optimizer.load_state_dict(kept["optimizer"])
        self.scaler.load_state_dict(kept["scaler"])
        self.seconds = kept["seconds"]
        own = processes[ranks.rank()]
        for name, buffer in self.model.named_buffers():
            buffer.copy_(own["buffers"][name])
        diagnose.set_random_states(own["random"])
        self.meter.sums.copy_(own["meter"])


# How a gradient becomes a step, by name.
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    ),
    "adam": (torch.optim.Adam, {}),
}

# A run that goes on from its checkpoint comes to the same point again.
ANOTHER = "Start another run, with a lower --lr for instance"


def compiled(model: nn.Module) -> nn.Module:
    r"""
    The model, as `torch.compile` makes it. Both share their weights.
    """
    made: nn.Module = torch.compile(model)  # type: ignore[assignment]
    return made


def compiler() -> None:
    r"""
    Raise `ValueError` where the C++ compiler is missing that `torch.compile`
    needs on a CPU.
    """
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    name = os.environ.get("CXX", usual)
    if shutil.which(name) is None:
        raise ValueError(
            f"compile needs a C++ compiler on a CPU, but {name} is not"
            " found; install it, name another in the environment variable"
            " CXX, or do without compile"
        )


def keep(folder: Folder | None, step: int, state: State) -> None:
    r"""
    Write a checkpoint. All processes take part, and the first one writes.

    **Raises** `RunError`: it could not be written, or there is a weight
    that is no number, which nobody could go on from.
    """
    if folder is None:
        return
    bad = diagnose.unfit(state.model)
    if ranks.anywhere(bool(bad), state.device):
        raise RunError(
            f"after step {step:,}, {bad or 'in another process, values'} are"
            f" not finite. {folder.last_good()} {ANOTHER}"
        )
    own = ranks.gathered(state.own())
    if ranks.rank() == 0:
        folder.save(step, state.shared() | {"processes": own})


def resumed(folder: Folder, state: State) -> int:
    r"""
    Read the folder's checkpoint into `state`, and return its step: 0 where
    there is none. Of several processes the first one will write.
    """
    if ranks.rank() == 0:
        folder.open()
    found = folder.load()
    if found is None:
        return 0
    step, kept = found
    state.load(kept)
    return step


def diverged(
    step: int, loss: Tensor, x: Tensor, state: State, folder: Folder | None
) -> RunError:
    r"""
    Make the error for a loss that is not a finite number: in which step,
    in which layer, and what to do.
    """
    state.before.restore()
    with state.precision():
        place = diagnose.arose(state.model, lambda: state.model(x))
    if loss.isfinite():
        what = "the loss of another process is not finite"
    else:
        what = f"the loss is {loss.item()}: {place}"
    last = "Nothing was kept." if folder is None else folder.last_good()
    return RunError(f"in step {step:,} {what}. {last} {ANOTHER}")


class Record:
    r"""
    ## Where the numbers go

    Every point and every score goes into the run that is returned; into the
    folder, where there is one; and to TensorBoard, where it is asked for.
    Of several processes the first one does this.

    **Arguments**

    - `folder`: that of the run; the metrics that it holds are read.
    - `tensorboard`: write for TensorBoard.
    - `images`: how many were seen before. TensorBoard then shows no more of
      what it has than up to there.
    """

    def __init__(
        self, folder: Folder | None, tensorboard: bool, images: int
    ) -> None:
        if tensorboard and folder is None:
            raise ValueError(
                "tensorboard needs a folder to write to: pass folder"
            )
        self.run, self.folder = Run(), folder
        self.first = ranks.rank() == 0
        self.metrics = folder.metrics if folder else None
        self.timings = folder.timings if folder else None
        for line in self.metrics or ():
            if "test_accuracy" in line:
                self.run.tests.append(Score(*line.values()))
            else:
                self.run.points.append(Point(*line.values()))
        self.seconds, self.board = 0.0, None
        for line in self.timings or ():
            self.seconds = line["seconds"]
        if tensorboard and folder and self.first:
            self.board = board(folder.path / "tensorboard", images)

    def point(self, point: Point, seconds: float) -> None:
        r"""
        Add a point of the training curve, and the speed since the last one.

        Times go into a file of their own: the metrics of two runs of one
        seed are the same, byte for byte, and their speeds never are.
        """
        last = self.run.points[-1].images if self.run.points else 0
        self.run.points.append(point)
        speed = (point.images - last) / (seconds - self.seconds)
        self.seconds = seconds
        if self.metrics and self.timings:
            self.metrics.add(**point._asdict())
            self.timings.add(
                images=point.images, seconds=seconds, images_per_second=speed
            )
        if self.board:
            self.board.add_scalar("train/loss", point.loss, point.images)
            self.board.add_scalar(
                "train/accuracy", point.accuracy, point.images
            )
            self.board.add_scalar("images per second", speed, point.images)

    def test(self, images: int, accuracy: float) -> None:
        r"""
        Add a look at the test images.
        """
        self.run.tests.append(Score(images, accuracy))
        if self.metrics:
            self.metrics.add(images=images, test_accuracy=accuracy)
        if self.board:
            self.board.add_scalar("test/accuracy", accuracy, images)

    def tested(self, images: int) -> bool:
        r"""
        Say whether there is nothing to test, because it was done, or because
        another process does it.
        """
        tests = self.run.tests
        return not self.first or bool(tests and tests[-1].images == images)

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self.folder, self.board):
            if each:
                each.close()


def board(path: Path, images: int) -> Any:
    r"""
    A writer for TensorBoard, which shows nothing from after `images`.

    **Raises** `RunError`: TensorBoard is not installed.
    """
    try:
        module = importlib.import_module("torch.utils.tensorboard")
    except ModuleNotFoundError as error:
        raise RunError(
            "--tensorboard needs the package tensorboard, which is not"
            " installed. Install it with: pip install"
            " 'labml-bcn[tensorboard]', or leave the option out"
        ) from error
    return module.SummaryWriter(str(path), purge_step=images + 1)


def shuffled(
    data: CIFAR10,
    batch_size: int,
    seed: int,
    start: int = 0,
    rank: int = 0,
    processes: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    r"""
    ## Batches without end

    Pass after pass over the training images, each in a new order.

    The order of a pass, and the flips, come from a generator of its own,
    whose seed is made of the run's seed and the number of the pass. So
    nothing has to be kept: a run that goes on in the middle of the
    seventeenth pass draws that pass, and starts in its middle. The generator
    lives on the CPU, so that every device sees the same batches.

    **Arguments**

    - `data`: training images, on any device.
    - `batch_size`: images a batch; what is left over of a pass is dropped.
    - `seed`: of the order and the flips.
    - `start`: the batch to start with, counted from 0 through all passes.
    - `rank`, `processes`: each process takes its part of `processes` times
      `batch_size` images.

    **Returns** batches of images, uint8 `[B, 3, 32, 32]`, and labels.
    """
    device = data.train_images.device
    total = len(data.train_images)
    together = batch_size * processes
    first, k = divmod(start, total // together)
    for number in count(first):
        generator = torch.Generator().manual_seed(mixed(seed, number))
        order = torch.randperm(total, generator=generator).to(device)
        flips = torch.rand(total, generator=generator).to(device) < 0.5
        for begin in range(k * together, total - together + 1, together):
            own = slice(
                begin + rank * batch_size, begin + (rank + 1) * batch_size
            )
            # Both versions of the batch are at hand, and each image takes
            # one of them: no loop over images.
            x = data.train_images[order[own]]
            flip = flips[own, None, None, None]
            yield (
                torch.where(flip, x.flip(3), x),
                data.train_labels[order[own]],
            )
        k = 0


def mixed(seed: int, number: int) -> int:
    r"""
    Make one seed of two numbers, so that no two pairs share a sequence.
    """
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


# The share of a run in which the rate rises, and whether it falls afterwards.
SCHEDULES = {
    "onecycle": (0.3, True),
    "cosine": (0.0, True),
    "constant": (0.0, False),
}


def rate(
    step: int,
    steps: int,
    schedule: str = "onecycle",
    warmup: float | None = None,
) -> float:
    r"""
    ## The rate

    The learning rate's share of its highest value at step $k$ of $K$.

    It starts low, because the first gradients point anywhere. It rises for
    the first part $\rho$ of the run, then falls to zero, so that the noise
    of small batches has died down at the end. With $t = k / (K + 1)$, both
    ways along half a cosine wave:

    $$\eta(t) = \frac{1 - \cos(\pi s)}{2} \qquad
    s = \begin{cases}
    t / \rho & t \le \rho \\
    (1 - t) / (1 - \rho) & t > \rho
    \end{cases}$$ {#schedule}

    That is one cycle, with $\rho = 0.3$. A cosine schedule is the same with
    $\rho = 0$. The constant one stays at the top instead of falling. Each
    is a function of the step and keeps nothing between steps.

    **Arguments**

    - `step`, `steps`: $k$, from 1, and $K$.
    - `schedule`: `"onecycle"`, `"cosine"` or `"constant"`.
    - `warmup`: $\rho$, in place of the schedule's own.

    **Returns** a number above 0 and up to 1.
    """
    own, falls = SCHEDULES[schedule]
    rho = own if warmup is None else warmup
    t = step / (steps + 1)
    fall = (1 - t) / (1 - rho) if falls else 1
    s = t / rho if t <= rho else fall
    return (1 - math.cos(math.pi * s)) / 2


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: CIFAR10,
    chunk: int = 50,
    check: Callable[[], None] = lambda: None,
) -> float:
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
    - `check`: called before each chunk; it may raise to break off.

    **Returns** a number from 0 to 1.
    """
    modes = [(module, module.training) for module in model.modules()]
    right = 0
    try:
        model.eval()
        for start in range(0, len(data.test_images), chunk):
            check()
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
        Return the averages over all processes, and start anew.
        """
        loss, hits, count = ranks.summed(self.sums).tolist()
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


def one_of(name: str, value: str, known: Collection[str]) -> str:
    r"""
    Return `value` where it is known, else raise.
    """
    if value not in known:
        raise ValueError(
            f"{name} must be one of {', '.join(known)}, got {value!r}"
        )
    return value


def check(
    data: CIFAR10,
    device: torch.device | str,
    batch_size: int,
    accumulate: int,
    images: int | None,
    optimizer: str,
    lr: float,
    schedule: str,
    warmup: float | None,
    seed: int,
    compile: bool,
) -> None:
    r"""
    ## What a run needs

    The rules for its numbers, checked before anything is computed.

    **Raises** `ValueError` with the rule, the value and the remedy.
    """
    positive("batch_size", batch_size)
    positive("accumulate", accumulate)
    total, processes = len(data.train_images), ranks.size()
    if batch_size * processes > total:
        shares = f" in each of {processes} processes" if processes > 1 else ""
        raise ValueError(
            f"batch_size must be at most the {total:,} training images, got"
            f" {batch_size:,}{shares}; choose a smaller one"
        )
    per_step = batch_size * accumulate * processes
    if (total if images is None else images) < per_step:
        raise ValueError(
            "images must be at least those of one step, or there is no step"
            f" to take, got images={images or 0:,} and"
            f" batch_size={batch_size:,}, accumulate={accumulate:,},"
            f" processes={processes}: {per_step:,} a step"
        )
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}")
    one_of("optimizer", optimizer, OPTIMIZERS)
    one_of("schedule", schedule, SCHEDULES)
    if warmup is not None and not 0 <= warmup < 1:
        raise ValueError(
            "warmup must be a share of the run, from 0 to below 1, got"
            f" {warmup}"
        )
    vgg.valid_seed(seed)
    ranks.usable(device)
    if compile and torch.device(device).type == "cpu":
        compiler()


if __name__ == "__main__":
    from labml_bcn.experiment.options import main

    sys.exit(main())
