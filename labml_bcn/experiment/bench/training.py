"""Images per second in training, with our layers and with others.

A norm is a small part of a network's arithmetic and a large part of its time: it does
little with each number, and reads all of them. So what do the kernels save in a
training step? This command finds out on your machine:

    python -m labml_bcn.experiment.bench.training

It trains networks that start from the same weights on the same batches: with our layers
and their *kernels*, with the same layers in PyTorch's *operations*, with the *naive*
form of both, with PyTorch's own convolutions and *batch norm*, and *bare*, without any
norm or standardization. They take turns, step by step, and their times are medians over
the steps.

A batch is made by indexing a tensor that lies in memory, flipping half of it, and
standardizing it. The table says how large a part of the first network's step that
takes. With two images a step, the work between two synchronizations of the CPU's
threads is small: try `--threads 1` too.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bcn import native
from labml_bcn.experiment import cifar10, option_types
from labml_bcn.experiment.bench.networks import GROUPS, NETWORKS, build_network
from labml_bcn.experiment.bench.timing import race, write_record
from labml_bcn.experiment.cifar10 import CIFAR10
from labml_bcn.experiment.loop import shuffled_batches
from labml_bcn.experiment.machine import require_device, set_threads
from labml_bcn.experiment.measurement import EXIT_STATUS, end_quietly
from labml_bcn.experiment.output import say
from labml_bcn.experiment.settings import Rule

# Images a step, if none are asked for.
BATCH_SIZES = {"small": (1, 2, 64), "vgg": (2,), "resnet": (1,)}
# Height and width of an image.
PIXELS = {"small": 32, "vgg": 32, "resnet": 224}
BATCH_SIZE = Rule("from 1 to 50,000", lambda value: 1 <= value <= 50_000)


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


def images_for(model: str, batch_size: int) -> CIFAR10:
    """Return images to train on, of the size that a model is made for."""
    data = cifar10.stand_in(max(16, 8 * batch_size), 1)
    size = (PIXELS[model],) * 2
    if data.train_images.shape[2:] == size:
        return data
    larger = F.interpolate(data.train_images.float(), size=size)
    return replace(data, train_images=larger.to(torch.uint8))


def networks_to_race(device: str, compiled: bool) -> list[str]:
    """Return the names of the networks; without kernels, there is one less."""
    status = native.status()
    kernels = status.cuda if device.startswith("cuda") else status.cpu
    names = [name for name in NETWORKS if name != "kernels" or kernels.native]
    return [*names, f"{names[0]}, compiled"] if compiled else names


def measure_networks(
    model: str, batch_size: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure a model with each kind of layers, for some seconds in all."""
    data = images_for(model, batch_size).to(options.device)
    trainers = {}
    for name in networks_to_race(options.device, options.compile):
        kind, _, suffix = name.partition(", ")
        network = build_network(model, kind).to(options.device)
        if suffix:
            network.compile()
        trainers[name] = Trainer(network, data, batch_size)
    # The first steps find out which kernels to use, and get memory.
    steps = {name: trainer.step for name, trainer in trainers.items()}
    times = race(steps, options.seconds, options.device, warm_up=3)
    seconds = {name: median(each) for name, each in times.items()}
    first, count = next(iter(times)), len(next(iter(times.values())))
    return {
        "model": model,
        "batch_size": batch_size,
        "pixels": PIXELS[model],
        "steps": count,
        "data": median(trainers[first].batch_seconds[-count:]) / seconds[first],
        "networks": {
            name: {
                "ms": each * 1e3,
                "images_per_second": batch_size / each,
                "ratio": each / seconds[first],
            }
            for name, each in seconds.items()
        },
    }


def print_result(result: dict[str, Any]) -> None:
    """Print a line for each network."""
    label = f"{result['model']}, {result['batch_size']} a step"
    for name, line in result["networks"].items():
        say(
            f"{label:>20}{name:>20}{line['ms']:10.1f}{line['images_per_second']:10.1f}"
            f"{line['ratio']:8.2f}"
        )
        label = ""
    say(
        f"{'':>20}{'making the batch':>20}{result['data']:10.1%}"
        f"{result['steps']:10} steps"
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    command = argparse.ArgumentParser(
        prog="python -m labml_bcn.experiment.bench.training",
        description="Measure images per second in training, with our layers"
        " and with others, in turns.",
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = command.add_argument
    add(
        "--models",
        nargs="+",
        choices=tuple(GROUPS),
        default=tuple(GROUPS),
        help="which networks (default: all)",
    )
    add(
        "--batch-sizes",
        nargs="+",
        type=option_types.number(int, BATCH_SIZE),
        metavar="B",
        help="images a step (default: 1 2 64, 2 for vgg, 1 for resnet)",
    )
    add(
        "--seconds",
        type=option_types.seconds,
        metavar="S",
        default=10.0,
        help="how long to measure each, at least five steps (default: 10)",
    )
    add("--compile", action="store_true", help="compile the first network, too")
    add("--threads", type=option_types.count, metavar="T", help="of the CPU")
    add("--device", default="cpu", help="cpu, cuda (default: cpu)")
    add(
        "--json",
        type=option_types.new_file,
        metavar="FILE",
        help="write the results there",
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write the results if `--json` asks for it."""
    return end_quietly(partial(measure, arguments))


def measure(arguments: Sequence[str] | None) -> int:
    """Measure each model at each batch size."""
    command = build_parser()
    options = command.parse_args(arguments)
    try:
        require_device(options.device)
        set_threads(options.threads or torch.get_num_threads())
    except ValueError as error:
        command.error(str(error))
    say(str(native.status()))
    say(f"{'ms':>50}{'images/s':>10}{'ratio':>8}")
    results = []
    for model in options.models:
        for size in options.batch_sizes or BATCH_SIZES[model]:
            results.append(measure_networks(model, size, options))
            print_result(results[-1])
    if options.json:
        write_record(options.json, results=results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
