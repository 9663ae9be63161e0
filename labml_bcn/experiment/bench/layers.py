r"""
---
title: How fast the layers are
summary: >
  The layers against their rivals on this machine, in turns: time, memory
  and ratios, for CPU or CUDA, eager or compiled.
---

# How fast the layers are

Milliseconds mean little: they are those of one machine at one moment. What
lasts is a *ratio*, and only where both sides were measured alike. So this
command lets the rivals take turns, step by step, in one process: whatever
else the machine does, it does to all of them. Each time is the median of
its steps.

    python -m labml_bcn.experiment.bench.layers
    python -m labml_bcn.experiment.bench.layers --compile --json compiled.json
    python -m labml_bcn.experiment.bench.layers --weights

A step is forward and backward, in training. The yardstick is the *pair*,
PyTorch's own `nn.BatchNorm2d` followed by `nn.GroupNorm`. It does not
compute the same (its batch norm uses the batch's statistics, and its group
norm has a scale for each channel), but it is what people would write down,
and it does the same work. Besides it there are group norm alone, which the
[fused layer](fused.py) would like to cost no more than, and a *copy*, which
writes one output and one gradient: no layer can do less. The *passes* are
what the fused layer does to the activation, without the arithmetic between:
what it would cost if its small tables were free.
"""

import argparse
import copy
import gc
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

from labml_bcn import (
    BatchChannelNorm,
    FusedBatchChannelNorm,
    WSConv2d,
)
from labml_bcn._autograd import below_autograd
from labml_bcn.experiment.bench.naive import (
    NaiveBatchChannelNorm,
    NaiveWSConv2d,
)
from labml_bcn.experiment.environment import surroundings
from labml_bcn.fused import choose_passes

# What is normalized in VGG and ResNet, from a tensor that fits into a cache
# to one that fits into none; the last ones have few positions a channel.
INPUTS = (
    (2, 64, 32, 32),
    (2, 256, 56, 56),
    (8, 64, 112, 112),
    (32, 64, 32, 32),
    (128, 256, 8, 8),
    (1, 512, 28, 28),
    (16, 2048, 7, 7),
)

CONVOLUTIONS = {"plain": nn.Conv2d, "ours": WSConv2d, "naive": NaiveWSConv2d}

Rivals = dict[str, Callable[[Tensor], Tensor]]


class Copy(nn.Module):
    r"""
    The least that a layer can do: read the input, and write an output.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Copy `x`."""
        return x.clone()


class Passes(nn.Module):
    r"""
    The four passes of the fused layer over an activation, and no more.

    The result is of no use: each table stands in for another one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pass over `x` twice, and twice on the way back."""
        y: Tensor = FourPasses.apply(x)  # type: ignore[no-untyped-call]
        return y


class FourPasses(Function):
    r"""
    [The passes](fused.py#Strided), in both directions.
    """

    @staticmethod
    @below_autograd
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Measure and apply."""
        ctx.passes = choose_passes(x)
        mu, _, distance, unit = ctx.passes.measure(x)
        unit = unit.expand_as(mu)
        ctx.save_for_backward(x, mu, unit)
        result: Tensor = ctx.passes.apply(distance, unit, mu)
        return result

    @staticmethod
    @below_autograd
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        """Sum and combine."""
        x, mu, unit = ctx.saved_tensors
        s, t = ctx.passes.sums(x, mu, dy)
        dx: Tensor = ctx.passes.combine(x, mu, dy, unit, s, t)
        return dx


def rivals(channels: int, groups: int) -> dict[str, nn.Module]:
    r"""
    ## The rivals

    The layers, each with its default settings, for an input `[B, C, H, W]`.
    The pair comes first: it is what the others are divided by.
    """
    pair = nn.Sequential(nn.BatchNorm2d(channels), nn.GroupNorm(groups, channels))
    return {
        "pair": pair,
        "fused": FusedBatchChannelNorm(channels, groups),
        "composed": BatchChannelNorm(channels, groups),
        "naive": NaiveBatchChannelNorm(channels, groups),
        "batch norm": nn.BatchNorm2d(channels),
        "group norm": nn.GroupNorm(groups, channels),
        "passes": Passes(),
        "copy": Copy(),
    }


class Line(NamedTuple):
    r"""
    ## A line of the table

    - `ms`: milliseconds of a step, the median.
    - `ratio`: of the time to the pair's.
    - `saved`: bytes kept for the backward pass, in multiples of the input.
    - `peak`: the most bytes that a step allocates, likewise.
    """

    ms: float
    ratio: float
    saved: float
    peak: float


def measure(
    layers: Rivals, x: Tensor, seconds: float, train: bool = True
) -> dict[str, Line]:
    r"""
    ## One input

    Let the layers take turns on `x` for some seconds, and at least five
    times.

    **Arguments**

    - `layers`: by name; the first is what the others are divided by.
    - `x`: the input.
    - `seconds`: for all of them together.
    - `train`: forward and backward; else forward alone, without gradient.

    **Returns** a line for each.
    """
    g = torch.randn_like(x)
    x = x.detach().requires_grad_(train)

    def step(layer: Callable[[Tensor], Tensor]) -> None:
        with torch.set_grad_enabled(train):
            y = layer(x)
            if train:
                y.backward(g)
        x.grad = None

    kept = {}
    steps = {name: partial(step, layer) for name, layer in layers.items()}
    for name, layer in layers.items():
        steps[name]()  # compiles, and allocates what stays
        kept[name] = saved(layer, x), peak(steps[name], x)
    times = in_turns(steps, seconds, x.device)
    first = next(iter(times.values()))
    return {
        name: Line(time * 1e3, time / first, *kept[name])
        for name, time in times.items()
    }


def in_turns(
    steps: Mapping[str, Callable[[], None]],
    seconds: float,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    r"""
    Return the median time of each step in seconds, all taking turns.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    # As `timeit` does, without Python's search for cycles of garbage.
    gc.collect()
    gc.disable()
    end = perf_counter() + seconds
    while perf_counter() < end or len(times[next(iter(steps))]) < 5:
        for name, step in steps.items():
            times[name].append(timed(step, device))
    gc.enable()
    return {name: median(values) for name, values in times.items()}


def timed(step: Callable[[], None], device: torch.device | str) -> float:
    r"""
    Return the seconds of one step.

    A GPU works on its own time: its clock is asked, not ours.
    """
    if torch.device(device).type != "cuda":
        start = perf_counter()
        step()
        return perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in "be")
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1e3


def saved(layer: Callable[[Tensor], Tensor], x: Tensor) -> float:
    r"""
    ## Memory

    Return what a forward pass keeps for the backward pass, in multiples of
    the input. The input counts where it is kept.
    """
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    return sum(storages.values()) / x.nbytes


def peak(step: Callable[[], None], x: Tensor) -> float:
    r"""
    Return the most that a step has allocated at any time, beyond what was
    there before, in multiples of the input.
    """
    if x.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / x.nbytes
    with silence(), torch.profiler.profile(profile_memory=True) as profile:
        step()
    held = highest = 0
    kineto = profile.profiler.kineto_results
    events = [e for e in kineto.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest / x.nbytes


@contextmanager
def silence() -> Iterator[None]:
    r"""
    Keep what the profiler says of itself from the screen.
    """
    screen = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(nowhere)
        os.close(screen)


def convolutions() -> Iterator[tuple[int, int, int, int, int]]:
    r"""
    ## The weights of a ResNet-50

    Its different convolutions at an image of 224 by 224: channels in and
    out, kernel, stride, and height of the input.
    """
    seen = {(3, 64, 7, 2, 224)}
    yield from seen
    channels, size = 64, 56
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for first in (True, False):
            into, step = (channels, stride) if first else (width * 4, 1)
            after = size // step
            block = [
                (into, width, 1, 1, size),
                (width, width, 3, step, size),
                (width, width * 4, 1, 1, after),
            ]
            if first:
                block.append((into, width * 4, 1, step, size))
            for convolution in block:
                if convolution not in seen:
                    seen.add(convolution)
                    yield convolution
            size = after
        channels = width * 4


def weight_line(
    convolution: tuple[int, int, int, int, int], seconds: float
) -> dict[str, Any]:
    r"""
    Measure what standardizing its weight adds to a convolution at batch size
    1, in shares of the plain one: forward and backward in training, and in
    evaluation, where the result is kept.
    """
    into, out, kernel, stride, size = convolution
    layers = {
        name: kind(into, out, kernel, stride, kernel // 2, bias=False)
        for name, kind in CONVOLUTIONS.items()
    }
    x = torch.randn(1, into, size, size, requires_grad=True)
    dy = torch.randn_like(layers["plain"](x))

    def train(layer: nn.Conv2d) -> None:
        torch.autograd.grad(layer(x), (x, layer.weight), dy)

    @torch.no_grad()
    def evaluate(layer: nn.Conv2d) -> None:
        layer(x)

    def shares(step: Callable[[nn.Conv2d], None]) -> dict[str, float]:
        steps = {name: partial(step, layers[name]) for name in layers}
        times = in_turns(steps, seconds)
        return {
            name: time if name == "plain" else time / times["plain"] - 1
            for name, time in times.items()
        }

    training = shares(train)
    for layer in layers.values():
        layer.eval()
    return {
        "convolution": convolution,
        "ms": training["plain"] * 1e3,
        "ours": training["ours"],
        "naive": training["naive"],
        "evaluation": shares(evaluate)["ours"],
    }


def shape(text: str) -> tuple[int, ...]:
    r"""
    Read an input's shape, such as `2,64,32,32`.
    """
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


def parser() -> argparse.ArgumentParser:
    r"""
    ## The command

    Its options.
    """
    command = argparse.ArgumentParser(
        prog="python -m labml_bcn.experiment.bench.layers",
        description="Measure the layers against their rivals, in turns.",
        epilog="Times are medians; ratios are to the pair.",
    )
    add = command.add_argument
    add(
        "--inputs",
        nargs="+",
        type=shape,
        default=INPUTS,
        metavar="B,C,H,W",
        help="what to normalize (default: seven, from VGG and ResNet)",
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
    add("--eval", action="store_true", help="forward alone, in evaluation")
    add("--weights", action="store_true", help="weight standardization")
    add("--threads", type=int, metavar="T", help="default: torch's choice")
    add(
        "--seconds",
        type=float,
        default=3.0,
        metavar="S",
        help="for each input (default: 3)",
    )
    add("--json", type=Path, metavar="FILE", help="write the results there")
    return command


def prepared(options: argparse.Namespace, shape: Sequence[int]) -> Rivals:
    r"""
    Return the rivals for an input, as the options want them.

    What the others are divided by stays the pair in eager mode, so that one
    scale holds for all tables. Compiled, the pair is a rival as well.
    """
    layers = rivals(shape[1], options.groups)
    if options.channels_last:
        del layers["naive"]  # it wants contiguous inputs
    for layer in layers.values():
        layer.to(options.device).train(not options.eval)
    if not options.compile:
        return dict(layers)
    pair = layers.pop("pair")
    del layers["passes"]  # a compiler makes its own
    compiled = {"pair, compiled": copy.deepcopy(pair), **layers}
    return {"pair": pair} | {
        name: torch.compile(layer, fullgraph=True) for name, layer in compiled.items()
    }


def lines(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    r"""
    Measure and print one input after the other.
    """
    print(f"{'input':>18}{'':>16}{'ms':>10}{'ratio':>8}{'saved':>8}{'peak':>8}")
    for shape in options.inputs:
        torch.compiler.reset()
        x = torch.randn(
            *shape,
            device=options.device,
            dtype=getattr(torch, options.dtype),
        )
        if options.channels_last:
            x = x.to(memory_format=torch.channels_last)
        table = measure(prepared(options, shape), x, options.seconds, not options.eval)
        label = ",".join(map(str, shape))
        for name, (ms, *ratios) in table.items():
            shown = "".join(f"{ratio:8.2f}" for ratio in ratios)
            print(f"{label:>18}{name:>16}{ms:10.3f}{shown}", flush=True)
            label = ""
        yield {
            "input": shape,
            "bytes": x.nbytes,
            "rivals": {name: row._asdict() for name, row in table.items()},
        }


def weight_lines(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    r"""
    Measure and print one convolution after the other.
    """
    print(f"{'convolution':>24}{'ms':>9}{'ours':>8}{'naive':>8}{'eval':>8}")
    for convolution in convolutions():
        row = weight_line(convolution, options.seconds / 2)
        into, out, kernel, stride, size = convolution
        label = f"{into}->{out} {kernel}x{kernel}/{stride} at {size}"
        ratios = (row["ours"], row["naive"], row["evaluation"])
        shown = "".join(f"{ratio:8.2f}" for ratio in ratios)
        print(f"{label:>24}{row['ms']:9.2f}{shown}", flush=True)
        yield row


def geometric_mean(values: Sequence[float]) -> float:
    r"""
    Return the mean for ratios: half and twice make one.
    """
    return math.exp(sum(map(math.log, values)) / len(values))


def of_activations(
    command: argparse.ArgumentParser, options: argparse.Namespace
) -> list[str]:
    r"""
    Return the options that were given and say nothing about weights.
    """
    names = [
        *("inputs", "groups", "device", "dtype"),
        *("compile", "channels_last", "eval"),
    ]
    return [
        f"--{name.replace('_', '-')}"
        for name in names
        if getattr(options, name) != command.get_default(name)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    r"""
    Measure, print, and write what was measured with what measured it.

    **Returns** 0. What can't be measured ends the program with a message and
    exit code 2, before anything is.
    """
    command = parser()
    options = command.parse_args(arguments)
    for channels in {shape[1] for shape in options.inputs}:
        if options.groups < 1 or channels % options.groups:
            command.error(
                f"--groups must divide the channels of every input, got"
                f" {options.groups} for {channels} channels"
            )
    if options.weights and (given := of_activations(command, options)):
        command.error(
            f"--weights measures convolutions at batch size 1, in float32 on"
            f" the CPU: leave out {', '.join(given)}"
        )
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        command.error("--device cuda: there is no CUDA device here")
    if options.json and not options.json.resolve().parent.is_dir():
        command.error(f"--json: there is no folder {options.json.parent}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    results = list(weight_lines(options) if options.weights else lines(options))
    if not options.weights:
        for name in results[0]["rivals"]:
            ratios = [each["rivals"][name]["ratio"] for each in results]
            mean = geometric_mean(ratios)
            print(f"{'geometric mean':>18}{name:>16}{'':>10}{mean:8.2f}")
    if options.json:
        settings = {**vars(options), "json": None, "inputs": None}
        record = {
            "settings": {k: v for k, v in settings.items() if v is not None},
            "threads": torch.get_num_threads(),
            "surroundings": surroundings(),
            # How the C library keeps memory shows in the times.
            "environment": {
                name: value
                for name, value in os.environ.items()
                if name.startswith("MALLOC_")
            },
            "results": results,
        }
        text = json.dumps(record, indent=1)
        part = options.json.with_suffix(".part")
        part.write_text(text + "\n", "utf-8")
        part.replace(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
