"""What standardizing its weight adds to a convolution, at batch size 1."""

from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from labml_bcn import WSConv2d, native
from labml_bcn.experiment.bench.naive import NaiveWSConv2d
from labml_bcn.experiment.bench.rivals import InOperations
from labml_bcn.experiment.bench.timing import race

# Channels in and out, kernel, stride, and height of the input.
Shape = tuple[int, int, int, int, int]

# The convolution alone comes first. "kernels" and "operations" are one layer.
RIVALS = {
    "plain": nn.Conv2d,
    "kernels": WSConv2d,
    "operations": WSConv2d,
    "naive": NaiveWSConv2d,
}


def resnet50_convolutions() -> Iterator[Shape]:
    """Yield the different convolutions of a ResNet-50 at 224 by 224."""
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


def build_convolutions(convolution: Shape) -> dict[str, nn.Conv2d]:
    """Return the rivals; without kernels, there is one less."""
    into, out, kernel, stride, _ = convolution
    layers = {
        name: kind(into, out, kernel, stride, kernel // 2, bias=False)
        for name, kind in RIVALS.items()
    }
    if not native.takes_filters(layers["kernels"].weight):
        del layers["kernels"]
    return layers


def measure_convolution(convolution: Shape, seconds: float) -> dict[str, Any]:
    """Measure what standardizing adds, in shares of the plain convolution.

    It is measured forward and backward, in training.
    """
    layers = build_convolutions(convolution)
    into, *_, size = convolution
    x = torch.randn(1, into, size, size, requires_grad=True)
    dy = torch.randn_like(layers["plain"](x))
    calls: dict[str, nn.Module] = {
        name: InOperations(layer) if name == "operations" else layer
        for name, layer in layers.items()
    }

    def train(name: str) -> None:
        torch.autograd.grad(calls[name](x), (x, layers[name].weight), dy)

    steps = {name: partial(train, name) for name in layers}
    training = {name: median(times) for name, times in race(steps, seconds).items()}
    plain = training.pop("plain")
    return {
        "convolution": convolution,
        "ms": plain * 1e3,
        "adds": {name: time / plain - 1 for name, time in training.items()},
    }
