"""The layers against their rivals on this machine: time, memory and ratios.

    python -m labml_bcn.experiment.bench.layers
    python -m labml_bcn.experiment.bench.layers --compile --json compiled.json
    python -m labml_bcn.experiment.bench.layers --weights

A step is forward and backward, in training. The yardstick is the *pair*, PyTorch's own
`nn.BatchNorm2d` followed by `nn.GroupNorm`. It does not compute the same (its batch
norm uses the batch's statistics, and its group norm has a scale for each channel), but
it is what people would write down, and it does the same work. `BatchChannelNorm` races
against it in each of its forms: with its *kernels*, in PyTorch's *operations* without
them, with its two norms *in turn*, and *naive*. Besides it there are batch norm and
group norm alone, and a *copy*, which writes one output and one gradient.

The *floor* is no rival. A layer that reads and writes whole activations no more often
than it must moves the input's bytes five times: it reads `x` and writes `y`, then reads
`x` and `dy` and writes `dx`. What that takes is measured in the same race, by adding
two tensors of the input's size.
"""

import argparse
import copy
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labml_bcn import BatchChannelNorm, native
from labml_bcn.experiment.bench.convolutions import (
    measure_convolution,
    resnet50_convolutions,
)
from labml_bcn.experiment.bench.memory import peak_allocation, saved_for_backward
from labml_bcn.experiment.bench.rivals import (
    InOperations,
    build_rivals,
    kernels_take,
)
from labml_bcn.experiment.bench.timing import capture, race, write_record

# What networks normalize at one and two images: a ResNet at 224 by 224, and a VGG at
# 32 by 32.
SMALL_INPUTS = (
    (1, 64, 28, 28),
    (1, 128, 28, 28),
    (1, 256, 14, 14),
    (1, 512, 7, 7),
    (2, 64, 16, 16),
    (2, 128, 8, 8),
)
# What is normalized in VGG and ResNet, from a tensor that fits into a cache to one that
# fits into none; the last ones have few positions a channel.
INPUTS = (
    (2, 64, 32, 32),
    (2, 256, 56, 56),
    (8, 64, 112, 112),
    (32, 64, 32, 32),
    (128, 256, 8, 8),
    (1, 512, 28, 28),
    (16, 2048, 7, 7),
)

Rivals = dict[str, Callable[[Tensor], Tensor]]

# How often a step moves the input's bytes if it does not so more often than it must:
# reads and writes, forward and backward, and in evaluation. Adding moves them thrice.
UNITS_OF_TRAINING, UNITS_OF_EVALUATION, UNITS_OF_ADDING = 5, 2, 3


class Floor(NamedTuple):
    """What no layer can be faster than, as long as it works in whole passes.

    `ms` are the milliseconds for moving the input's bytes `units` times, and
    `bandwidth` says how many gigabytes a second that makes.
    """

    ms: float
    units: int
    bandwidth: float


class Line(NamedTuple):
    """A line of the table.

    `ms` are the milliseconds of a step, the median, and `ratio` is that of the time to
    the pair's. `saved` is what is kept for the backward pass, and `peak` the most that
    a step allocates, both in multiples of the input's bytes.
    """

    ms: float
    ratio: float
    saved: float
    peak: float


def measure_rivals(
    layers: Rivals,
    x: Tensor,
    seconds: float,
    train: bool = True,
    graph: bool = False,
) -> tuple[dict[str, Line], Floor]:
    """Let layers race on one input for some seconds; return their lines, and the floor.

    Ratios are to the first. A step is forward and backward if `train`, else forward
    alone and without a gradient. If `graph`, a GPU repeats what the step gave it to do,
    and Python's part is left out.
    """
    g = torch.randn_like(x)
    x = x.detach().requires_grad_(train)

    def step(layer: Callable[[Tensor], Tensor]) -> None:
        with torch.set_grad_enabled(train):
            y = layer(x)
            if train:
                y.backward(g)
        x.grad = None

    memory = {}
    steps: dict[str, Callable[[], object]] = {
        name: partial(step, layer) for name, layer in layers.items()
    }
    for name, layer in layers.items():
        steps[name]()  # compiles, and allocates what stays
        memory[name] = saved_for_backward(layer, x), peak_allocation(steps[name], x)
    adding = partial(torch.add, x.detach(), g, out=torch.empty_like(g))
    steps["adding"] = adding
    if graph:
        steps = {name: capture(each) for name, each in steps.items()}
    times = race(steps, seconds, x.device)
    medians = {name: median(each) for name, each in times.items()}
    unit = medians.pop("adding") / UNITS_OF_ADDING
    units = UNITS_OF_TRAINING if train else UNITS_OF_EVALUATION
    first = next(iter(medians.values()))
    lines = {
        name: Line(time * 1e3, time / first, *memory[name])
        for name, time in medians.items()
    }
    return lines, Floor(unit * units * 1e3, units, x.nbytes / unit / 1e9)


def parse_shape(text: str) -> tuple[int, ...]:
    """Read an input's shape, such as `2,64,32,32`."""
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 4 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(
            f"an input is four positive sizes B,C,H,W, got {text!r}; for"
            " instance 2,64,32,32"
        )
    return sizes


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    command = argparse.ArgumentParser(
        prog="python -m labml_bcn.experiment.bench.layers",
        description="Measure the layers against their rivals, in turns.",
        epilog="Times are medians; ratios are to the pair.",
    )
    add = command.add_argument
    add(
        "--inputs",
        nargs="+",
        type=parse_shape,
        default=SMALL_INPUTS + INPUTS,
        metavar="B,C,H,W",
        help="what to normalize (default: six small ones, and seven of all sizes)",
    )
    add("--groups", type=int, default=32, help="default: 32")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add(
        "--dtype",
        choices=["float32", "bfloat16", "float16", "float64"],
        default="float32",
        help="of the input (default: float32)",
    )
    add("--compile", action="store_true", help="compile the rivals")
    add("--channels-last", action="store_true", help="inputs as [B, H, W, C]")
    add("--relu", action="store_true", help="followed by a ReLU")
    add("--rivals", nargs="+", metavar="NAME", help="these alone, and the pair")
    add("--eval", action="store_true", help="forward alone, in evaluation")
    add("--graph", action="store_true", help="replay CUDA graphs of the steps")
    add("--weights", action="store_true", help="weight standardization")
    add("--threads", type=int, metavar="T", help="default: torch's choice")
    add(
        "--seconds",
        type=float,
        default=1.3,
        metavar="S",
        help="for each input (default: 1.3)",
    )
    add("--json", type=Path, metavar="FILE", help="write the results there")
    return command


def prepare_rivals(options: argparse.Namespace, x: Tensor) -> Rivals:
    """Return the rivals for an input, as the options want them.

    What the others are divided by stays the pair in eager mode, so that one scale holds
    for all tables. Compiled, the pair is a rival as well.
    """
    layers = build_rivals(x.shape[1], options.groups, options.relu)
    for layer in layers.values():
        layer.to(options.device).train(not options.eval)
    kernels = layers["kernels"]
    assert isinstance(kernels, BatchChannelNorm)
    left_out = set() if kernels_take(kernels, x) else {"kernels"}
    if options.channels_last:
        left_out.add("naive")  # it makes a contiguous copy
    if options.rivals:
        left_out |= layers.keys() - {"pair", *options.rivals}
    layers = {name: each for name, each in layers.items() if name not in left_out}
    if not options.compile:
        return dict(layers)
    pair = layers.pop("pair")
    compiled = {"pair, compiled": copy.deepcopy(pair), **layers}
    return {"pair": pair} | {name: compiled_of(each) for name, each in compiled.items()}


def compiled_of(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a layer, compiled; what turns its kernels off stays outside."""
    if isinstance(layer, InOperations):
        return InOperations(torch.compile(layer.layer, fullgraph=True))
    return torch.compile(layer, fullgraph=True)


def measure_inputs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure and print one input after the other."""
    print(f"{'input':>18}{'':>16}{'ms':>10}{'ratio':>8}{'saved':>8}{'peak':>8}")
    for shape in options.inputs:
        torch.compiler.reset()
        dtype = getattr(torch, options.dtype)
        x = torch.randn(*shape, device=options.device, dtype=dtype)
        if options.channels_last:
            x = x.to(memory_format=torch.channels_last)
        rivals = prepare_rivals(options, x)
        table, floor = measure_rivals(
            rivals, x, options.seconds, not options.eval, options.graph
        )
        label = ",".join(map(str, shape))
        for name, (ms, *ratios) in table.items():
            shown = "".join(f"{ratio:8.2f}" for ratio in ratios)
            print(f"{label:>18}{name:>16}{ms:10.3f}{shown}")
            label = ""
        ratio = floor.ms / table["pair"].ms
        print(f"{'':>18}{'floor':>16}{floor.ms:10.3f}{ratio:8.2f}", flush=True)
        yield {
            "input": shape,
            "bytes": x.nbytes,
            "rivals": {name: line._asdict() for name, line in table.items()},
            "floor": floor._asdict(),
        }


def measure_weights(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure and print one convolution after the other."""
    for convolution in resnet50_convolutions():
        row = measure_convolution(convolution, options.seconds / 2)
        into, out, kernel, stride, size = convolution
        label = f"{into}->{out} {kernel}x{kernel}/{stride} at {size}"
        shown = "".join(f"  {name} {share:+.2f}" for name, share in row["adds"].items())
        print(f"{label:>24}{row['ms']:9.2f} ms {shown}", flush=True)
        yield row


def geometric_mean(values: Sequence[float]) -> float:
    """Return the mean for ratios: half and twice make one."""
    return math.exp(sum(map(math.log, values)) / len(values))


def options_without_effect(
    command: argparse.ArgumentParser, options: argparse.Namespace
) -> list[str]:
    """Return the options that were given and say nothing about weights."""
    of_inputs = ("inputs", "groups", "device", "dtype")
    of_layers = ("compile", "channels_last", "eval", "relu", "rivals", "graph")
    return [
        f"--{name.replace('_', '-')}"
        for name in (*of_inputs, *of_layers)
        if getattr(options, name) != command.get_default(name)
    ]


def require_measurable(
    command: argparse.ArgumentParser, options: argparse.Namespace
) -> None:
    """End the command with a message if the options cannot be measured."""
    for channels in {shape[1] for shape in options.inputs}:
        if options.groups < 1 or channels % options.groups:
            command.error(
                f"--groups must divide the channels of every input, got"
                f" {options.groups} for {channels} channels"
            )
    if options.weights and (given := options_without_effect(command, options)):
        command.error(
            f"--weights measures convolutions at batch size 1, in float32 on"
            f" the CPU: leave out {', '.join(given)}"
        )
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        command.error("--device cuda: there is no CUDA device here")
    names = build_rivals(options.groups, options.groups).keys()
    if unknown := set(options.rivals or ()) - names:
        command.error(
            f"--rivals must be of {', '.join(names)}, got {', '.join(sorted(unknown))}"
        )
    if options.graph and not options.device.startswith("cuda"):
        command.error("--graph is for --device cuda")
    if options.json and not options.json.resolve().parent.is_dir():
        command.error(f"--json: there is no folder {options.json.parent}")


def print_means(results: Sequence[dict[str, Any]]) -> None:
    """Print the geometric means of the ratios over all inputs."""
    for name in results[0]["rivals"]:
        races = [each["rivals"] for each in results]
        mean = geometric_mean([each[name]["ratio"] for each in races if name in each])
        print(f"{'geometric mean':>18}{name:>16}{'':>10}{mean:8.2f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was measured with what measured it.

    What cannot be measured ends the program with a message and exit status 2, before
    anything is.
    """
    command = build_parser()
    options = command.parse_args(arguments)
    require_measurable(command, options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    print(native.status())
    if options.weights:
        results = list(measure_weights(options))
    else:
        results = list(measure_inputs(options))
        print_means(results)
    if options.json:
        settings = {**vars(options), "json": None, "inputs": None}
        settings = {k: v for k, v in settings.items() if v is not None}
        write_record(options.json, settings=settings, results=results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
