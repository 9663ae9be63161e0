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
or by a power cut: it goes on from its last checkpoint, in the folder that
`labml_bcn/experiment/run_folder.py` keeps, and ends with the weights and the
metrics of one that was never stopped. One run of each method does not tell
two methods apart that are a few percent from each other; several seeds do.

<!-- kills -->

`python -m labml_bcn.experiment.kills` repeats this. A kill is the simplest
of what happens to runs that take days, so the tests try others, and this
table is made of them:

<!-- faults -->

From a shell (`--help` shows all options):

    python -m labml_bcn.experiment.train \
        --norm bcn --ws --images 5000

From Python:

    data = cifar10.load()
    model = vgg.build("small", "bcn", ws=True)
    run = train(model, data, images=5_000)
    print(run.accuracy)
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, islice
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bcn.experiment import ranks
from labml_bcn.experiment.cifar10 import CIFAR10
from labml_bcn.experiment.machine import compile_model, require_machine
from labml_bcn.experiment.outcome import Stopped
from labml_bcn.experiment.run_folder import RunFolder
from labml_bcn.experiment.run_log import Run, RunLog
from labml_bcn.experiment.settings import (
    AT_LEAST_ONE,
    Settings,
    StartOptions,
    require,
    require_rule,
)
from labml_bcn.experiment.signals import Interrupted, StopSignal
from labml_bcn.experiment.state import State, own_generator


def train(
    model: nn.Module,
    data: CIFAR10,
    *,
    batch_size: int = Settings.batch_size,
    accumulate: int = Settings.accumulate,
    images: int | None = Settings.images,
    optimizer: str = Settings.optimizer,
    lr: float = Settings.lr,
    schedule: str = Settings.schedule,
    warmup: float | None = Settings.warmup,
    seed: int = Settings.seed,
    device: torch.device | str = Settings.device,
    amp: bool = Settings.amp,
    compile: bool = Settings.compile,
    points: int = 100,
    tests: int = 5,
    progress: bool | None = StartOptions.progress,
    folder: RunFolder | None = None,
    checkpoint_every: int = StartOptions.checkpoint_every,
    tensorboard: bool = StartOptions.tensorboard,
) -> Run:
    r"""
    ## The loop

    Train `model` in place, and look at the test images along the way. The
    defaults are those of the command, from
    `labml_bcn/experiment/settings.py`.

    **Arguments**

    - `model`: takes standardized images `[B, 3, 32, 32]` to logits
      `[B, 10]`. It is moved to `device` and stays there.
    - `data`: training and test images.
    - `batch_size`: images a forward pass, in each process. All have exactly
      as many: what a pass over the images leaves over is dropped, and so is
      what `images` leaves over.
    - `accumulate`: batches a step, whose gradients are averaged. Statistics
      are still those of each batch.
    - `images`: how many to see; `None` for each training image once.
    - `optimizer`: `"sgd"` as above, or `"adam"` with torch's defaults and no
      weight decay, as labml has it.
    - `lr`: the highest learning rate.
    - `schedule`, `warmup`: how the rate changes; see [the rate](#rate).
    - `seed`: of the order of the images, of the flips, and of what layers
      draw: torch's global generator is the run's until it ends, and then
      what it was. The first weights are the model's own matter.
    - `device`: where to train.
    - `amp`: compute convolutions in half precision: bfloat16 on a CPU, and
      float16 with a scaled loss on a GPU.
    - `compile`: let `torch.compile` make the forward and backward pass.
    - `points`: of the training curve, evenly spread.
    - `tests`: how often to look at the test images, evenly spread; the last
      time is the end.
    - `progress`: show a progress bar on the standard error stream, or
      nothing. `None` shows the bar if that is a terminal, and else a line
      every half minute.
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
    require(optimizer=optimizer, lr=lr, schedule=schedule, warmup=warmup)
    require(seed=seed, checkpoint_every=checkpoint_every)
    steps = count_steps(data, batch_size, accumulate, images)
    require_machine(device, compile)
    per_step = batch_size * accumulate * ranks.size()
    report_at = evenly_spaced_steps(points, steps)
    test_at = evenly_spaced_steps(tests, steps)
    # A checkpoint holds what it was made with, and goes on with nothing else.
    if folder:
        folder.settings |= {
            "batch_size": batch_size,
            "accumulate": accumulate,
            "images": images or len(data.train_images),
            "optimizer": optimizer,
            "lr": lr,
            "schedule": schedule,
            "warmup": warmup,
            "seed": seed,
            "amp": amp,
            "processes": ranks.size(),
            "digest": data.digest,
        }
    model, data = model.to(device).train(), data.to(device)
    # What must not be lost is in one place. A run that goes on reads it from
    # the folder; the order of the images follows from the step.
    state = State(model, device, amp, optimizer)
    log = RunLog(folder, steps, per_step, tensorboard, progress)
    # What layers draw, dropout for instance, follows from the seed as well.
    drawn = own_generator(derive_seed(seed, -1 - ranks.rank()))
    with StopSignal(listen=folder is not None) as stop, log, drawn:
        step = log.resume(state)
        network = compile_model(model) if compile else model
        network = ranks.average_gradients(network)
        batches = shuffled_batches(data, batch_size, seed, step * accumulate)
        while True:
            # Between two steps the run is in a state that can be kept. The
            # test images are looked at here: a look that is broken off is
            # taken again by the run that goes on.
            seen = step * per_step
            if step in test_at and log.needs_test(seen):
                with suppress(Interrupted):
                    accuracy = evaluate(model, data, check=stop.check)
                    log.add_test(seen, accuracy)
            stopping = ranks.any_rank(bool(stop), device)
            if stopping or step == steps or step % checkpoint_every == 0:
                state.save(folder, step)
            if stopping:
                raise Stopped(step, stop.number)
            if step == steps:
                return log.finish(state.seconds)
            # The rate for this moment, and a step. If a loss is NaN or
            # infinite, that is the end of the run.
            began = perf_counter()
            step += 1
            state.set_rate(lr * rate(step, steps, schedule, warmup))
            if bad := take_step(state, network, data, batches, accumulate):
                raise state.divergence(step, *bad, folder)
            state.seconds += perf_counter() - began
            log.advance(step, state)
            if step in report_at:
                point = state.meter.read(step * per_step)
                log.add_point(point, state.measures(), state.seconds)


def take_step(
    state: State,
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

    **Returns** `None`; or, if a loss is not a finite number in one of the
    processes, the loss of this one and its images.
    """
    state.optimizer.zero_grad()
    for part, (x, y) in enumerate(islice(batches, accumulate), 1):
        x = data.standardize(x)
        state.before.remember()
        with ranks.defer_averaging(network, part < accumulate):
            with state.precision():
                logits = network(x)
                loss = F.cross_entropy(logits, y)
            # A loss that is NaN or infinite would spoil the weights. They
            # are still what they were, and so the batch can be run again, to
            # find out where it went wrong. All processes stop at the same
            # one.
            if ranks.any_rank(not loss.isfinite(), state.device):
                return loss, x
            state.scaler.scale(loss / accumulate).backward()
        state.meter.add(loss, logits, y)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return None


def shuffled_batches(
    data: CIFAR10,
    batch_size: int,
    seed: int,
    start: int = 0,
    rank: int | None = None,
    processes: int | None = None,
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
      `batch_size` images. By default this one is asked which it is.

    **Returns** batches of images, uint8 `[B, 3, 32, 32]`, and labels.
    """
    rank = ranks.rank() if rank is None else rank
    processes = ranks.size() if processes is None else processes
    device = data.train_images.device
    total = len(data.train_images)
    together = batch_size * processes
    first, k = divmod(start, total // together)
    for number in count(first):
        generator = torch.Generator().manual_seed(derive_seed(seed, number))
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


def derive_seed(seed: int, number: int) -> int:
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
    schedule: str = Settings.schedule,
    warmup: float | None = Settings.warmup,
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
    every module is in the mode it was in before, even if modes were mixed on
    purpose.

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


def evenly_spaced_steps(count: int, steps: int) -> set[int]:
    r"""
    ## What a run needs

    The steps at which `count` looks are taken, evenly spread, the last one
    at the end: every step if there are fewer steps than looks.
    """
    require_rule("points and tests", count, AT_LEAST_ONE)
    return {-(-steps * k // count) for k in range(1, count + 1)}


# A thousand a second would take four months.
MOST_STEPS = 10**10


def count_steps(
    data: CIFAR10, batch_size: int, accumulate: int, images: int | None
) -> int:
    r"""
    Count the steps of a run, what is left over dropped.

    **Raises** `ValueError` if there is none, or more than anybody could wait
    for, with the rule, the value and the remedy.
    """
    require(batch_size=batch_size, accumulate=accumulate)
    total, processes = len(data.train_images), ranks.size()
    if batch_size * processes > total:
        shares = f" in each of {processes} processes" if processes > 1 else ""
        raise ValueError(
            f"batch_size must be at most the {total:,} training images, got"
            f" {batch_size:,}{shares}; choose a smaller one"
        )
    per_step = batch_size * accumulate * processes
    steps = (total if images is None else images) // per_step
    if steps < 1:
        raise ValueError(
            "images must be at least those of one step, or there is no step"
            f" to take, got images={images or 0:,} and"
            f" batch_size={batch_size:,}, accumulate={accumulate:,},"
            f" processes={processes}: {per_step:,} a step"
        )
    if steps > MOST_STEPS:
        raise ValueError(
            f"images must be those of at most {MOST_STEPS:,} steps, got"
            f" {images:,}: {steps:,} steps; no run would come to their end"
        )
    return steps
